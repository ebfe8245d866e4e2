//! Agreeing through an etcd that runs already.
//!
//! The pinset is below a prefix of etcd's keys (`keys` says where and how); every peer has a copy of its own, which it
//! reads, and which a watch keeps in step. Etcd decides what comes first, and an operation is answered when etcd has it
//! *and* the copy of the peer that was asked shows it.
//!
//! ```text
//! log_pin ─┐          ┌ lane ┐                                 ┌→ events
//! log_pin ─┼→ writer ─┼ lane ┼→ etcd ── watch ──→ follower ────┼→ the copy of this peer
//! log_pin ─┘          └ lane ┘    ↑                            └→ answers of the writer
//!                      session ───┘ lease, signs of life
//! ```
//!
//! - `gateway` talks JSON over HTTP to etcd's own gateway: its gRPC would need a compiler for protobuf in the build.
//! - `plan` decides what goes into a transaction, `lane` makes it happen once although answers get lost, `batch` makes
//!   many transactions one.
//! - `follower` applies what the watch says (`pending` decides how much at a time), or copies everything where etcd's
//!   history does not reach back.
//! - `session` keeps this peer a member: peers are those whose lease lives. `meet` connects to them.
//!
//! When etcd has no quorum, operations fail with `Unavailable` at their deadline, the copy goes on being read, and it all
//! goes on by itself when etcd does.

mod batch;
mod config;
mod follower;
mod gateway;
mod keys;
mod lane;
mod mark;
mod meet;
mod pending;
mod plan;
mod session;
mod shared;
mod wire;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::events::{self, EventSource};
use super::group::{self, Desk, Retry};
use super::{Consensus, ConsensusCapabilities, ConsensusContext, StateEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{State, StateReader};
use crate::storage::Storage;
use crate::types::{Cid, PeerId, Pin, PinOperation};

use follower::{Follower, Reload};
use gateway::Gateway;
use keys::{Keys, fingerprint};
use mark::Mark;
use plan::Write;
use shared::{Applied, Roster, Shared, Standing, removed};
use wire::{Compare, Op};
use writer::{Answer, What, Work};

pub use config::{EtcdConfig, EtcdSection, EtcdTls, EtcdTlsSection};

const COMPONENT: &str = "etcd consensus";

/// Calls that wait for the writer; more wait in their callers.
const QUEUED_CALLS_MAX: usize = 4096;
/// What a caller waits longer than the call may take, so that the writer gets to say why.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Operations of a call for which it may take a [`EtcdConfig::request_timeout`] more.
const TIMEOUT_OPERATIONS: usize = 2048;
/// How often it is tried to remove a peer while others come and go.
const REMOVE_ATTEMPTS: usize = 5;
/// Between two of these attempts.
const REMOVE_PAUSE: Duration = Duration::from_millis(200);

/// Consensus through an etcd that runs already.
///
/// - **Pinset**: [`Consensus::log_many`] is all or nothing for every peer, also where it is more than one transaction of
///   etcd holds: it then takes as long as a hundred operations at a time take, and nobody else writes meanwhile. One of more
///   than about 90 MiB (half of [`EtcdConfig::max_request_bytes`] times [`EtcdConfig::max_txn_operations`]) is refused, with
///   `InvalidInput` and nothing written: to be logged in smaller ones.
///   [`PinOperation::Revise`] compares with what etcd has, in the transaction itself.
/// - **Members** are those whose lease in etcd lives, and this peer. A peer that is started joins; one that stops or does
///   not answer for [`EtcdConfig::lease_ttl`] is gone until it is back. [`Consensus::remove_peer`] keeps a peer out until
///   [`Consensus::add_peer`] lets it in again; a peer that removes itself only leaves.
/// - **The way to each other**: a sign of life says where a peer can be reached, and those that live connect to each other
///   ([`EtcdConfig::find_peers`]). They need the same secret; etcd has a hash of it, so that two clusters that were given the
///   same prefix by mistake do not become one ([`EtcdConfig::secret`]).
/// - **Trust**: every peer that has joined and was not removed. Whoever may write to etcd decides.
/// - **[`Consensus::clean`]** empties the pinset in etcd where no other peer has ever joined (and was not removed), and
///   makes the copy of this peer anew where others have: the pinset is theirs, too.
///
/// Values below the prefix that cannot be read are passed over, with a line in the log.
///
/// Every peer writes a sign of life three times in the time of a lease. Etcd keeps what was before until it is told to
/// forget it (`--auto-compaction-retention`); a peer that was away for longer than etcd remembers copies the pinset anew,
/// and so does every peer when etcd was brought back to what it was before, from a backup.
/// Tested with etcd 3.6.
///
/// Dropping it without [`Consensus::shutdown`] finishes what was accepted and then stops its tasks.
#[derive(Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
    state: Arc<dyn State>,
    desk: Desk<Work, Answer>,
    events: EventSource,
    reloads: mpsc::Sender<Reload>,
}

impl Etcd {
    /// Starts following and joining; [`Consensus::ready`] says when that is done. Needs no etcd that answers.
    ///
    /// # Errors
    /// `InvalidInput` for the configuration; `Conflict` for a store with a pinset that no etcd was followed in;
    /// `Unsupported` for one of a later version; what the store says.
    pub async fn open(config: EtcdConfig, cx: ConsensusContext) -> Result<Self> {
        config.validate()?;
        let gateway = Gateway::new(&config)?;
        let keys = Keys::below(&config.prefix);
        let mark = Mark::load(cx.storage.clone(), &keys).await?;
        if mark.is_none() && cx.state.counts().pins > 0 {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the store holds a pinset of another consensus, which etcd's would replace; export it, start on an empty \
                 folder and import it",
            )
            .component(COMPONENT));
        }
        let mark = mark.unwrap_or_default();
        let shared = Arc::new(Shared {
            peer: cx.peer,
            transport: config.find_peers.then(|| Arc::clone(&cx.transport)),
            cluster: fingerprint(&config.secret),
            waits_to_be_added: config.join,
            gateway,
            keys,
            limits: config.limits(),
            request_timeout: config.request_timeout,
            lease_ttl: config.lease_ttl,
            applied: watch::Sender::new(Applied { revision: mark.revision, error: None }),
            roster: watch::Sender::new(None),
            lease: watch::Sender::new(None),
            standing: watch::Sender::new(Standing::Starting),
            stalled: Notify::new(),
            lapsed: Notify::new(),
            is_leaving: AtomicBool::new(false),
            left: AtomicBool::new(false),
        });
        let (desk, mut inbox) = group::desk(COMPONENT, QUEUED_CALLS_MAX);
        let (sender, events) = events::channel(config.max_buffered_events);
        let (reloads, reloads_asked) = mpsc::channel(1);
        let ended = inbox.on_end();
        let [stop_session, stop_follower, stop_meeting] = [(); 3].map(|()| CancellationToken::new());
        let follower = Follower {
            shared: shared.clone(),
            state: cx.state.clone(),
            events: sender,
            mark,
            reloads: reloads_asked,
            retry: Retry::default(),
            saved: Instant::now(),
            stop: stop_follower.clone(),
        };
        let of_tasks = shared.clone();
        tokio::spawn(async move {
            let writing = async {
                let result = writer::run(&of_tasks, inbox).await;
                stop_session.cancel();
                stop_meeting.cancel();
                result
            };
            let living = async {
                session::run(&of_tasks, stop_session.clone()).await;
                // The last: the writer's calls wait for what it shows.
                stop_follower.cancel();
            };
            let meeting = async {
                if let Some(transport) = &of_tasks.transport {
                    meet::run(&of_tasks, &**transport, &stop_meeting).await;
                }
            };
            let (result, (), (), ()) = tokio::join!(writing, living, follower.run(), meeting);
            ended(result);
        });
        Ok(Self { shared, state: cx.state, desk, events, reloads })
    }

    /// Up to which revision of etcd a store that nobody uses has a copy of the pinset below the prefix; none where it has
    /// none, or one that is not complete.
    ///
    /// # Errors
    /// Of the storage; `Corrupt`, `Unsupported` for what a later version wrote.
    pub async fn copied(config: &EtcdConfig, storage: Arc<dyn Storage>) -> Result<Option<i64>> {
        let mark = Mark::load(storage, &Keys::below(&config.prefix)).await?;
        Ok(mark.map(|mark| mark.revision).filter(|revision| *revision > 0))
    }

    async fn call(&self, what: What) -> Result<Answer> {
        self.check_member()?;
        self.send(what).await
    }

    async fn send(&self, what: What) -> Result<Answer> {
        let operations = match &what {
            What::Write(writes) => writes.len(),
            What::Other { .. } => 0,
        };
        let times = u32::try_from(1 + operations / TIMEOUT_OPERATIONS).unwrap_or(u32::MAX);
        let deadline = Instant::now() + self.shared.request_timeout.saturating_mul(times);
        match timeout_at(deadline + LATE_MAX, self.desk.call(Work { what, deadline })).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                "etcd did not take the operation in time; whether it happened is unknown, log it again",
            )
            .component(COMPONENT)),
        }
    }

    async fn write(&self, operations: &[PinOperation]) -> Result<Answer> {
        let writes: Vec<Write> = operations.iter().map(Write::of).collect();
        for write in &writes {
            plan::check_size(write, self.shared.limits).map_err(|error| error.component(COMPONENT))?;
        }
        self.call(What::Write(writes)).await
    }

    fn check_member(&self) -> Result<()> {
        self.desk.check_open()?;
        if self.shared.has_left() {
            let text = "this peer has left the cluster; start it again to come back";
            return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        }
        if let Standing::Refused(error) = &*self.shared.standing.borrow() {
            return Err(error.clone());
        }
        let roster = self.shared.roster.borrow();
        match roster.as_ref().is_some_and(|roster| roster.removed.contains(&self.shared.peer)) {
            true => Err(removed(&self.shared.peer)),
            false => Ok(()),
        }
    }

    /// Who is there, once that is known: a peer that has just started waits for etcd to say so.
    async fn roster(&self) -> Result<Roster> {
        self.desk.check_open()?;
        let stop = self.desk.stop_token();
        let mut roster = self.shared.roster.subscribe();
        let known = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::shut_down(COMPONENT)),
            known = timeout_at(self.shared.deadline(), roster.wait_for(Option::is_some)) => known,
        };
        let known = known.ok().and_then(|known| known.ok().and_then(|known| known.clone()));
        known.ok_or_else(|| {
            let text = "etcd does not answer, or has no quorum, so this peer does not know who the members are; its log says why";
            Error::new(ErrorKind::Unavailable, text).component(COMPONENT)
        })
    }

    fn unsupported(&self, what: &str) -> Error {
        let text = format!("a cluster on etcd {what}");
        self.desk
            .check_open()
            .err()
            .unwrap_or_else(|| Error::new(ErrorKind::Unsupported, text).component(COMPONENT))
    }

    /// Ends a membership if this peer stays behind; whether one did.
    async fn try_remove(&self, peer: &PeerId) -> Result<bool> {
        let (own, keys) = (&self.shared.peer, &self.shared.keys);
        let behind = if peer == own {
            self.roster().await?.peers.into_keys().find(|other| other != own)
        } else {
            Some(*own)
        };
        let Some(behind) = behind else {
            let text = "the last member cannot be removed; stop the peer instead";
            return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        };
        let compare = vec![Compare::present(keys.peer(&behind))];
        let mut ops = vec![Op::delete(keys.member(peer)), Op::delete(keys.peer(peer))];
        if peer != own {
            ops.push(Op::put(keys.removed(peer), Vec::new()));
        }
        Ok(self.send(What::Other { compare, ops }).await?.is_met)
    }

    async fn remove(&self, peer: &PeerId) -> Result<()> {
        for _ in 0..REMOVE_ATTEMPTS {
            if self.try_remove(peer).await? {
                return Ok(());
            }
            // Who was to stay behind is gone: the watch says so soon.
            debug!(component = COMPONENT, %peer, "others come and go; trying again to remove it");
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        let text = "members come and go while one is to be removed; try again";
        Err(Error::new(ErrorKind::Unavailable, text).component(COMPONENT))
    }

    /// Asks for a new copy.
    async fn reload(&self) -> Result<()> {
        let (reload, reloaded) = oneshot::channel();
        let gone = |_| Error::shut_down(COMPONENT);
        self.reloads.send(reload).await.map_err(|_| Error::shut_down(COMPONENT))?;
        reloaded.await.map_err(gone)?
    }
}

#[async_trait]
impl Consensus for Etcd {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities { membership_changes: true, ..ConsensusCapabilities::default() }
    }

    /// Returns when this peer has joined and its copy was up to date: not before etcd answers.
    async fn ready(&self) -> Result<()> {
        let stop = self.desk.stop_token();
        let mut standing = self.shared.standing.subscribe();
        let known = standing.wait_for(|standing| !matches!(standing, Standing::Starting));
        let known = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Error::shut_down(COMPONENT)),
            known = known => known.map(|standing| (*standing).clone()),
        };
        match known {
            Ok(Standing::Refused(error)) => Err(error),
            Ok(_) => self.check_member(),
            Err(_) => Err(Error::shut_down(COMPONENT)),
        }
    }

    async fn log_pin(&self, pin: Pin) -> Result<()> {
        self.write(&[PinOperation::Pin(Arc::new(pin))]).await.map(drop)
    }

    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        Ok(self.write(&[PinOperation::Unpin(*cid)]).await?.before)
    }

    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        group::check_length(&operations).map_err(|error| error.component(COMPONENT))?;
        self.write(&operations).await.map(drop)
    }

    fn state(&self) -> Arc<dyn StateReader> {
        self.state.clone()
    }

    /// Returns when the copy shows a write of this peer's own that changes no pin. Its revision comes after everything that
    /// was acknowledged, and the watch is sure to show it, also where others than this cluster write to etcd. Calls share it
    /// with each other and with writes.
    ///
    /// # Errors
    /// As a write: `Unavailable` when etcd does not answer within [`EtcdConfig::request_timeout`], or has no quorum;
    /// `Conflict` when this peer was removed; why the copy fails; `ShutDown`.
    async fn synchronize(&self) -> Result<()> {
        // Reading would not do: an unpin leaves no key whose revision could be waited for.
        let written = self.call(What::Write(Vec::new())).await;
        written.map(drop).map_err(|error| match error.kind() {
            ErrorKind::Unavailable => error.context("this peer does not know whether it shows everything"),
            _ => error,
        })
    }

    fn events(&self) -> BoxStream<'static, StateEvent> {
        self.events.stream()
    }

    /// Who lived when etcd was last heard, and this peer unless it was removed.
    async fn peers(&self) -> Result<Vec<PeerId>> {
        let mut roster = self.roster().await?;
        let own = self.shared.peer;
        if roster.removed.contains(&own) || self.shared.has_left() {
            roster.peers.remove(&own);
        } else {
            // A lease that ran out while etcd was away ends no membership.
            roster.peers.entry(own).or_default();
        }
        Ok(roster.peers.into_keys().collect())
    }

    /// Lets a peer that was removed in again, and trusts it from now on. It is a member while it runs.
    async fn add_peer(&self, peer: &PeerId) -> Result<()> {
        let keys = &self.shared.keys;
        if *peer == self.shared.peer {
            return self.check_member();
        }
        let ops = vec![Op::delete(keys.removed(peer)), Op::put(keys.member(peer), Vec::new())];
        self.call(What::Other { compare: Vec::new(), ops }).await.map(drop)
    }

    /// Keeps a peer out until it is added; a peer that runs notices and stops. Removing this peer itself only ends its
    /// membership: it is back when it is started again.
    async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        self.check_member()?;
        let is_own = *peer == self.shared.peer;
        if is_own {
            // Before it is done: a sign of life after it would undo it.
            self.shared.is_leaving.store(true, Ordering::Release);
        }
        let removed = self.remove(peer).await;
        if is_own {
            self.shared.left.store(removed.is_ok(), Ordering::Release);
            self.shared.is_leaving.store(removed.is_ok(), Ordering::Release);
        }
        removed
    }

    async fn leader(&self) -> Result<Option<PeerId>> {
        Err(self.unsupported("has no leader among its peers"))
    }

    fn is_trusted(&self, peer: &PeerId) -> bool {
        *peer == self.shared.peer
            || self.shared.roster.borrow().as_ref().is_some_and(|roster| roster.members.contains(peer))
    }

    async fn trust(&self, _peer: &PeerId) -> Result<()> {
        Err(self.unsupported("trusts those that have joined it"))
    }

    async fn distrust(&self, _peer: &PeerId) -> Result<()> {
        Err(self.unsupported("trusts those that have joined it; remove the peer"))
    }

    async fn clean(&self) -> Result<()> {
        self.check_member()?;
        let roster = self.roster().await?;
        let is_alone = roster.members.iter().chain(roster.peers.keys()).all(|peer| *peer == self.shared.peer);
        if !is_alone {
            return self.reload().await;
        }
        let ops = vec![Op::delete_range(self.shared.keys.pins())];
        self.call(What::Other { compare: Vec::new(), ops }).await.map(drop)
    }

    async fn shutdown(&self) -> Result<()> {
        self.desk.shutdown().await
    }
}
