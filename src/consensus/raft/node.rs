//! What all parts of the component share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::ServerState;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::elections::Alarms;
use super::frame::Links;
use super::handover::MakingWay;
use super::lineage::{Disowned, Doubt, Known, Start, Unrecognized};
use super::log::{Failure, LogStore};
use super::machine::Progress;
use super::message::{Answer, Head, Question};
use super::propose::Proposal;
use super::records::{self, CLUSTER, ClusterId};
use super::snapshot::{Staging, Transfers};
use super::trim::Trim;
use super::types::{Membership, Metrics, Node, Raft, is_voter};
use super::{COMPONENT, RaftConfig};
use crate::consensus::NoLongerMember;
use crate::consensus::events::EventSender;
use crate::error::{Error, ErrorKind, Result};
use crate::state::State;
use crate::storage::{self, Batch, Durability, Storage};
use crate::types::PeerId;

mod life;

/// How the component is.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// It works, or will.
    Working,
    /// The store fails; it is tried again.
    Failing(Error),
    /// Nothing will help but a hand.
    Broken(Error),
    /// This peer is no member any more.
    Removed,
}

impl Standing {
    /// The store fails. Who was removed stays removed, whatever its store does.
    fn fail(&mut self, error: Error) -> bool {
        let may_recover = matches!(self, Self::Working | Self::Failing(_));
        if may_recover {
            *self = Self::Failing(error);
        }
        may_recover
    }
}

/// A running openraft, and the log it writes.
#[derive(Clone)]
pub(super) struct Core {
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    /// Cancelled when the machine is gone.
    gone: CancellationToken,
}

/// What all parts share.
pub(super) struct Inner {
    pub(super) peer: PeerId,
    pub(super) config: RaftConfig,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) state: Arc<dyn State>,
    pub(super) links: Links,
    pub(super) transfers: Arc<Transfers>,
    pub(super) staging: Staging,
    pub(super) applied: Arc<Progress>,
    pub(super) trim: Arc<Trim>,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) proposals: mpsc::Sender<Proposal>,
    /// The number of this start of this peer.
    pub(super) session: u64,
    pub(super) starts: Arc<Known>,
    doubt: Mutex<Option<Doubt>>,
    me: Weak<Inner>,
    core: RwLock<Option<Core>>,
    /// None once it was shut down, so that readers come to an end.
    events: Mutex<Option<Arc<EventSender>>>,
    failure: Failure,
    cluster: Mutex<Option<ClusterId>>,
    /// The members as openraft named them last: while it is started again it does not.
    known: Mutex<Option<Membership>>,
    heard: Mutex<Heard>,
    pub(super) making_way: MakingWay,
    pub(super) alarms: Alarms,
    transfer: AtomicU64,
    /// What a new cluster's id is made of.
    salt: Bytes,
    /// Held while openraft is started or stopped.
    turn: tokio::sync::Mutex<bool>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("peer", &self.peer)
            .field("standing", &*self.standing.borrow())
            .finish_non_exhaustive()
    }
}

/// When a leader spoke to this peer.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// Last, or when raft was started, or when this peer voted for one.
    at: Instant,
    /// Whether one did since then.
    is_leader: bool,
}

/// What [`Inner::new`] is made of.
pub(super) struct Parts {
    pub(super) peer: PeerId,
    pub(super) config: RaftConfig,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) state: Arc<dyn State>,
    pub(super) links: Links,
    pub(super) events: EventSender,
    pub(super) proposals: mpsc::Sender<Proposal>,
    pub(super) session: u64,
    pub(super) salt: Bytes,
}

/// Why there is no openraft where nothing is wrong.
pub(super) fn starting() -> Error {
    Error::new(ErrorKind::Unavailable, "raft is being started").component(COMPONENT)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { peer, config, storage, state, links, events, proposals, session, salt } = parts;
        let trim = Arc::new(Trim::new(config.max_log_bytes));
        Arc::new_cyclic(|me| Self {
            peer,
            config,
            storage,
            state,
            links,
            transfers: Arc::default(),
            staging: Staging::default(),
            applied: Arc::default(),
            trim,
            standing: watch::Sender::new(Standing::Working),
            proposals,
            session,
            starts: Arc::default(),
            doubt: Mutex::new(None),
            me: me.clone(),
            core: RwLock::new(None),
            events: Mutex::new(Some(Arc::new(events))),
            failure: Failure::default(),
            cluster: Mutex::new(None),
            known: Mutex::new(None),
            heard: Mutex::new(Heard { at: Instant::now(), is_leader: false }),
            making_way: MakingWay::default(),
            alarms: Alarms::default(),
            transfer: AtomicU64::new(session.wrapping_mul(1000)),
            salt,
            turn: tokio::sync::Mutex::new(true),
        })
    }

    pub(super) fn node(&self) -> Node {
        Node::of(self.peer)
    }

    pub(super) fn core(&self) -> Option<Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What openraft says of itself.
    pub(super) fn metrics(&self) -> Option<Metrics> {
        self.core().map(|core| core.raft.metrics().borrow().clone())
    }

    /// A running openraft.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn raft(&self) -> Result<Raft> {
        self.check()?;
        self.core().map(|core| core.raft).ok_or_else(starting)
    }

    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.standing.borrow() {
            Standing::Working => Ok(()),
            Standing::Failing(error) | Standing::Broken(error) => Err(error.clone()),
            Standing::Removed => Err(self.removed()),
        }
    }

    pub(super) fn removed(&self) -> Error {
        let text = "this peer was removed from its cluster; clean its state before it joins one again";
        Error::new(ErrorKind::Conflict, text).component(COMPONENT).with_source(NoLongerMember)
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        *lock(&self.cluster)
    }

    /// The members as this peer knows them, learners included. Empty while it belongs to no cluster.
    pub(super) fn membership(&self) -> Membership {
        match self.metrics() {
            // At the start it says nothing yet.
            Some(metrics) if metrics.membership_config.log_id().is_some() => {
                let members = metrics.membership_config.membership().clone();
                *lock(&self.known) = Some(members.clone());
                members
            }
            _ => {
                let known = lock(&self.known).clone();
                known.unwrap_or_else(|| self.applied.borrow().members.membership().clone())
            }
        }
    }

    /// Those who vote, or will once members have changed.
    pub(super) fn voters(&self) -> BTreeSet<PeerId> {
        let membership = self.membership();
        membership.get_joint_config().last().into_iter().flatten().filter_map(|node| node.0).collect()
    }

    /// Those who vote now. Who is about to leave is one of them until more than half of all agreed, and this peer until it
    /// knows that they did: they may need it for that.
    pub(super) fn current_voters(&self) -> BTreeSet<PeerId> {
        let mut voters: BTreeSet<PeerId> = self.membership().voter_ids().filter_map(|node| node.0).collect();
        if is_voter(&self.node(), self.applied.borrow().members.membership()) {
            voters.insert(self.peer);
        }
        voters
    }

    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        self.membership().get_node(&Node::of(*peer)).is_some()
    }

    /// The leader, as far as this peer knows: one that spoke to it a while ago, or itself where a quorum listens.
    pub(super) fn leader(&self) -> Option<PeerId> {
        let metrics = self.metrics()?;
        metrics.running_state.as_ref().ok()?;
        let leader = metrics.current_leader?.0?;
        let leads = if leader == self.peer {
            metrics.state == ServerState::Leader && self.has_quorum(&metrics)
        } else {
            self.hears(self.config.election_timeout * 2)
        };
        leads.then_some(leader)
    }

    /// Whether a leader has heard from a quorum within the time that nobody else is elected in, and as much again.
    pub(super) fn has_quorum(&self, metrics: &Metrics) -> bool {
        if metrics.membership_config.membership().voter_ids().count() <= 1 {
            return true;
        }
        let max = self.config.election_timeout * 2;
        // Not yet acknowledged: it was elected a moment ago.
        metrics.millis_since_quorum_ack.is_none_or(|millis| Duration::from_millis(millis) < max)
    }

    /// A leader spoke to us.
    pub(super) fn heard(&self) {
        *lock(&self.heard) = Heard { at: Instant::now(), is_leader: true };
    }

    /// This peer voted for another one, which has to be given time.
    pub(super) fn voted(&self) {
        lock(&self.heard).at = Instant::now();
    }

    /// When a leader spoke to us last, or when this peer began to listen.
    pub(super) fn heard_at(&self) -> Instant {
        lock(&self.heard).at
    }

    /// Whether a leader has spoken to us within this time.
    pub(super) fn hears(&self, within: Duration) -> bool {
        let heard = *lock(&self.heard);
        heard.is_leader && heard.at.elapsed() < within
    }

    pub(super) fn next_transfer(&self) -> u64 {
        self.transfer.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks a peer.
    ///
    /// # Errors
    /// As [`Links::ask`].
    pub(super) async fn ask(&self, peer: &PeerId, question: &Question, patience: Duration) -> Result<Answer> {
        self.ask_within(self.cluster(), peer, question, patience).await
    }

    /// The same as a peer of this cluster.
    pub(super) async fn ask_within(
        &self,
        cluster: Option<ClusterId>,
        peer: &PeerId,
        question: &Question,
        patience: Duration,
    ) -> Result<Answer> {
        let mut is_again = false;
        loop {
            let (kind, body) = question.encode(&Head { cluster, ..self.head(peer) });
            let (kind, body) = self.links.ask(peer, kind, body, patience).await?;
            let (start, answer) = Answer::decode(kind, body)?;
            // Who knows an earlier start of this peer is told that this one comes after it.
            if let Answer::Disowned(known) = answer
                && !std::mem::replace(&mut is_again, true)
                && self.judge_own(peer, cluster, known).is_none()
            {
                continue;
            }
            return self.heard_answer(peer, start, answer).await;
        }
    }

    /// What every question to a peer begins with.
    pub(super) fn head(&self, to: &PeerId) -> Head {
        Head { cluster: self.cluster(), start: self.own_start(to), known: self.starts.of(to) }
    }

    /// An answer, of the peer that is known.
    ///
    /// # Errors
    /// `Conflict` when it is not, or this one is not the one that the other knows.
    pub(super) async fn heard_answer(&self, from: &PeerId, start: Start, answer: Answer) -> Result<Answer> {
        if let Answer::Disowned(known) = answer {
            let disowned = self.judge_own(from, self.cluster(), known);
            return Err(disowned.map_or_else(
                || {
                    let text = format!("{from} has not heard yet which of its starts this peer comes after");
                    Error::new(ErrorKind::Unavailable, text).component(COMPONENT)
                },
                Disowned::error,
            ));
        }
        match self.recognize(from, start).await {
            Ok(()) => Ok(answer),
            Err(Unrecognized::Disowned(disowned)) => Err(disowned.error().context(from)),
            Err(Unrecognized::Failed(error)) => Err(error.context("the start of a peer was not noted")),
        }
    }

    /// What somebody said of this peer while it did not vote.
    pub(super) fn doubt(&self) -> MutexGuard<'_, Option<Doubt>> {
        lock(&self.doubt)
    }

    pub(super) fn set_removed(&self) {
        let is_news = self.standing.send_if_modified(|standing| {
            let is_news = !matches!(standing, Standing::Removed | Standing::Broken(_));
            if is_news {
                *standing = Standing::Removed;
            }
            is_news
        });
        if is_news {
            info!("this peer was removed from its raft cluster");
        }
    }

    /// Writes down which cluster this peer belongs to.
    pub(super) async fn join(&self, id: ClusterId) -> Result<()> {
        storage::run(self.storage.clone(), move |storage| {
            let mut batch = Batch::new();
            records::put(&mut batch, CLUSTER, &id);
            storage.write(batch, Durability::Synced)
        })
        .await?;
        *lock(&self.cluster) = Some(id);
        Ok(())
    }
}
