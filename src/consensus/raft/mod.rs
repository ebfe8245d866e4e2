//! A strict order: a leader, a log that more than half of the members agree on, and a pinset that is its result.
//!
//! Raft itself is [openraft](https://docs.rs/openraft)'s; none of it shows outside of this folder. What is here is all
//! around it:
//!
//! - in the peer's store (`records`): the log (`log`), how much of it is kept (`trim`), and the pinset (`machine`); what
//!   can be done with it while no peer runs (`offline`),
//! - over the peer's transport: messages (`frame`, `message`, `network`, `server`), and the whole pinset for peers that
//!   are far behind (`snapshot`),
//! - who leads: elections that do not disturb a leader (`elections`), and a leader that makes way (`handover`),
//! - who is a member: changes (`membership`), peers that were removed while they were away (`removal`), and peers that are
//!   not the ones that the others know (`lineage`),
//! - writing: calls become parts (`writer`, `command`), parts get to the leader, and there they become entries (`propose`);
//! - all of it together (`node`), and what an operator is told of it (`notices`).
//!
//! The reference's Raft speaks another protocol, so none of its peers can be a member.

mod command;
mod config;
#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod difference;
mod elections;
mod frame;
mod handover;
mod lineage;
mod log;
mod machine;
mod membership;
mod message;
mod network;
mod node;
mod notices;
mod offline;
mod propose;
mod records;
mod removal;
mod section;
mod server;
mod snapshot;
mod trim;
mod types;
mod wire;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::command::Operations;
use self::frame::Links;
use self::node::{Inner, Parts, Standing};
use self::records::{ANCESTORS, FORMAT, FORMAT_KEY, META, SESSION};
use self::server::Server;
use self::types::{Answers, is_voter};
use self::wire::{Reader, written};
use self::writer::{Work, Writer};
use super::events::{self, EventSource};
use super::group::{self, Desk};
use super::{Consensus, ConsensusCapabilities, ConsensusContext, OPERATIONS_MAX, StateEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::random::SplitMix64;
use crate::state::{State, StateReader, decode_pin_protobuf};
use crate::storage::{self, Batch, Durability, Storage};
use crate::tasks::Tasks;
use crate::types::{Cid, PeerId, Pin, PinOperation};

pub use config::RaftConfig;
pub use offline::{RaftInfo, RaftStore};
pub use section::RaftSection;

const COMPONENT: &str = "raft consensus";

/// How much longer than others a call may take that waited behind them.
const QUEUE_GRACE: std::time::Duration = std::time::Duration::from_millis(250);
/// How often it is looked whether this peer is ready.
const READY_POLL: std::time::Duration = std::time::Duration::from_millis(25);

/// Consensus by Raft: what is acknowledged is in the log of more than half of the members, on disk, and no two peers ever
/// disagree on the order of changes.
///
/// A write returns when it is on disk on a quorum and visible here, on whichever member it was called. [`Consensus::state`]
/// is this peer's pinset, which follows the leader's. After a crash it shows, from the start, everything that this peer alone
/// can tell was agreed on: all of it at the only member of a cluster. At one of several the last writes may be missing until
/// it hears a leader, and are there when it is [ready](Consensus::ready). [`Consensus::synchronize`] makes a read that
/// comes after it see everything that was acknowledged before. Without a quorum writes fail with `Unavailable` after
/// [`RaftConfig::wait_for_leader_timeout`].
///
/// Dropping it without [`Consensus::shutdown`] finishes what was accepted and then stops.
#[derive(Debug)]
pub struct Raft {
    inner: Arc<Inner>,
    desk: Desk<Work, Answers>,
    events: EventSource,
    _stop: DropGuard,
}

impl Raft {
    /// Opens the log and pinset of the context's store and begins to speak to the other members. Where nothing is stored,
    /// it founds a cluster of [`RaftConfig::init_peerset`], or waits to be added to one ([`RaftConfig::join`]).
    ///
    /// # Errors
    /// `InvalidInput` for the configuration; `Conflict` when the store has a pinset that is not of this component, or the
    /// transport serves one already; `Unsupported` when a newer program wrote it; `Corrupt` when log or pinset are
    /// damaged; `Io`, `StorageFull`, `ShutDown`.
    pub async fn open(config: RaftConfig, cx: ConsensusContext) -> Result<Self> {
        config.validate()?;
        let tasks = Tasks::here("raft needs a tokio runtime", COMPONENT)?;
        let ConsensusContext { peer, storage, state, transport, clock, seed, .. } = cx;
        let now = u64::try_from(clock.now().unix_seconds()).unwrap_or(0).saturating_mul(1_000_000);
        let session = prepare(&storage, &state, now, SplitMix64::new(seed).next()).await?;
        let (desk, mut inbox) = group::desk(COMPONENT, writer::QUEUED_CALLS_MAX);
        let (sender, events) = events::channel(config.max_buffered_events);
        let (proposals, waiting) = mpsc::channel(propose::WAITING_PARTS_MAX);
        let salt = written(|writer| {
            writer.long(seed);
            writer.long(session);
        });
        let inner = Inner::new(Parts {
            peer,
            config,
            storage,
            state,
            links: Links::new(transport.clone()),
            events: sender,
            proposals,
            session,
            salt,
        });
        inner.take_stored().await?;
        let silent = CancellationToken::new();
        transport.accept(frame::protocol(), Arc::new(Server::new(&inner, silent.clone())))?;
        if let Err(error) = inner.start().await {
            silent.cancel();
            inner.stop().await;
            return Err(error);
        }
        tasks.spawn(propose::serve(inner.clone(), waiting));
        tasks.spawn(elections::drive(inner.clone(), seed));
        tasks.spawn(notices::tell(inner.clone()));
        tasks.spawn(trim::drive(inner.clone()));
        let stop = desk.stop_token();
        let ended = inbox.on_end();
        let writer = Writer::new(inner.clone(), inbox, stop.clone());
        let all = inner.clone();
        tokio::spawn(async move {
            let result = writer.run().await;
            all.hand_over().await;
            silent.cancel();
            tasks.stop();
            tasks.ended().await;
            all.stop().await;
            ended(result);
        });
        Ok(Self { inner, desk, events, _stop: stop.drop_guard() })
    }

    /// Why this peer does not get to know how far the others are, where more can be said than that it failed.
    fn why_behind(&self, error: Error) -> Error {
        let known = self.desk.check_open().and_then(|()| self.inner.check());
        if let Err(known) = known {
            return known;
        }
        if let Some(disowned) = self.inner.disowned() {
            return disowned.error();
        }
        match self.inner.leader() {
            Some(_) => error,
            None => {
                writer::no_leader(&self.inner).context("this peer does not know whether it shows everything")
            }
        }
    }

    async fn apply(&self, operations: &[PinOperation], tells: bool) -> Result<Answers> {
        self.desk.check_open()?;
        let operations = Operations::encode(operations, tells)?;
        // Those that are served have their own limit; this is for who waits behind them.
        let patience = self.inner.config.wait_for_leader_timeout + QUEUE_GRACE;
        let applied = tokio::time::timeout(patience, self.desk.call(Work::Apply(operations, tells)));
        applied.await.unwrap_or_else(|_| Err(writer::not_served(&self.inner)))
    }
}

/// Makes the store one of ours, and begins a session, with a number that is greater than all before it whatever the clock says.
async fn prepare(storage: &Arc<dyn Storage>, state: &Arc<dyn State>, now: u64, chance: u64) -> Result<u64> {
    let is_empty = state.counts().pins == 0;
    storage::run(storage.clone(), move |storage| {
        if !records::is_ours(storage)? && !is_empty {
            let message =
                "this store has a pinset that no raft peer wrote: take it along by \"state export -f pins.json\" and \"state import \
                 pins.json\"";
            return Err(Error::new(ErrorKind::Conflict, message).component(COMPONENT));
        }
        let last = records::get(storage, SESSION, Reader::long)?;
        if last.is_none() && storage.get(META, FORMAT_KEY)?.is_some() {
            return Err(records::damaged("the number of the last start is missing"));
        }
        let mut before = records::get(storage, ANCESTORS, Reader::ancestors)?.unwrap_or_default();
        before.extend(last);
        let (session, before) = lineage::next_start(before, now, chance);
        let mut batch = Batch::new();
        records::put(&mut batch, ANCESTORS, &written(|writer| writer.ancestors(&before)));
        batch.put(META, FORMAT_KEY, vec![FORMAT]);
        records::put(&mut batch, SESSION, &written(|writer| writer.long(session)));
        storage.write(batch, Durability::Synced)?;
        Ok(session)
    })
    .await
}

#[async_trait]
impl Consensus for Raft {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities { leader: true, membership_changes: true, ..Default::default() }
    }

    async fn ready(&self) -> Result<()> {
        loop {
            self.desk.check_open()?;
            match &*self.inner.standing.borrow() {
                Standing::Broken(error) => return Err(error.clone()),
                Standing::Removed => return Err(self.inner.removed()),
                Standing::Working | Standing::Failing(_) => {}
            }
            if let Some(disowned) = self.inner.check_disowned().await {
                return Err(disowned.error());
            }
            // Whoever reads now sees what the others saw before. A peer that joins again gets to know on the way that it was a
            // member before, and was removed.
            if self.inner.leader().is_some()
                && self.inner.current_voters().contains(&self.inner.peer)
                && self.inner.barrier().await.is_ok()
                && is_voter(&self.inner.node(), self.inner.applied.borrow().members.membership())
            {
                return Ok(());
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    async fn log_pin(&self, pin: Pin) -> Result<()> {
        self.apply(&[PinOperation::Pin(Arc::new(pin))], false).await.map(drop)
    }

    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        let answers = self.apply(&[PinOperation::Unpin(*cid)], true).await?;
        let Some(value) = answers.into_iter().next().flatten() else { return Ok(None) };
        decode_pin_protobuf(cid, &value).map(|pin| Some(Arc::new(pin)))
    }

    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        group::check_length(&operations).map_err(|error| error.component(COMPONENT))?;
        self.apply(&operations, false).await.map(drop)
    }

    fn state(&self) -> Arc<dyn StateReader> {
        self.inner.state.clone()
    }

    /// Returns when the leader has asked a quorum whether it still leads, and this peer has applied what was agreed on then.
    ///
    /// # Errors
    /// `Unavailable` when there is no quorum within [`RaftConfig::wait_for_leader_timeout`], or this peer does not catch up
    /// in that time; `Conflict` when it was removed; what is wrong with it when it is broken, or its disk is full; `ShutDown`.
    async fn synchronize(&self) -> Result<()> {
        self.desk.check_open()?;
        let stop = self.desk.stop_token();
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::shut_down(COMPONENT)),
            reached = self.inner.barrier() => reached.map_err(|error| self.why_behind(error)),
        }
    }

    fn events(&self) -> BoxStream<'static, StateEvent> {
        self.events.stream()
    }

    async fn peers(&self) -> Result<Vec<PeerId>> {
        self.desk.check_open()?;
        if let Standing::Broken(error) = &*self.inner.standing.borrow()
            && error.kind() == ErrorKind::Conflict
        {
            return Err(error.clone());
        }
        let mut members = self.inner.current_voters();
        if matches!(*self.inner.standing.borrow(), Standing::Removed) {
            members.remove(&self.inner.peer);
        }
        Ok(members.into_iter().collect())
    }

    async fn check_joinable(&self, peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        self.inner.check_joinable(peer).await
    }

    async fn add_peer(&self, peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        self.inner.add(peer).await
    }

    async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        self.inner.remove(peer).await
    }

    async fn leader(&self) -> Result<Option<PeerId>> {
        self.desk.check_open()?;
        Ok(self.inner.leader())
    }

    fn is_trusted(&self, peer: &PeerId) -> bool {
        *peer == self.inner.peer || self.inner.is_member(peer)
    }

    async fn trust(&self, _peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        Err(unsupported())
    }

    async fn distrust(&self, _peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        Err(unsupported())
    }

    async fn clean(&self) -> Result<()> {
        self.desk.call(Work::Clean).await.map(drop)
    }

    async fn shutdown(&self) -> Result<()> {
        self.desk.shutdown().await
    }
}

fn unsupported() -> Error {
    let text = "a raft cluster trusts its members: add or remove a peer instead";
    Error::new(ErrorKind::Unsupported, text).component(COMPONENT)
}
