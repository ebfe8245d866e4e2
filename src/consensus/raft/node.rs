//! What all parts of the component share, and the life of openraft inside it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest as _};
use openraft::ServerState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::elections::Alarms;
use super::frame::Links;
use super::handover::MakingWay;
use super::lineage::{Disowned, Doubt, Known, Start, Unrecognized};
use super::log::{Failure, LogStore};
use super::machine::{Applied, Machine, Progress, Surroundings};
use super::message::{Answer, Head, Question};
use super::network::Network;
use super::propose::Proposal;
use super::records::{self, CLEANING, CLUSTER, ClusterId, FORMAT, FORMAT_KEY, META};
use super::snapshot::{Staging, Transfers};
use super::trim::Trim;
use super::types::{Membership, Metrics, Node, Raft, is_voter};
use super::{COMPONENT, RaftConfig};
use crate::consensus::events::EventSender;
use crate::consensus::group::Retry;
use crate::consensus::{NoLongerMember, StateEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::state::State;
use crate::storage::{self, Batch, Durability, Storage};
use crate::types::PeerId;

/// How long the state machine may take to let go when openraft has stopped.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it takes at most until it is looked whether a store that failed works again.
const RECOVER_WAIT_MAX: Duration = Duration::from_secs(5);

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

    /// Starts openraft on what is stored, and founds a cluster where nothing is and none is to be joined.
    pub(super) async fn start(&self) -> Result<()> {
        let may_start = self.turn.lock().await;
        if !*may_start {
            return Err(Error::shut_down(COMPONENT));
        }
        self.start_now().await
    }

    /// Takes what is stored of starts, before anything is said.
    pub(super) async fn load_starts(&self) -> Result<()> {
        let starts = self.starts.clone();
        storage::run(self.storage.clone(), move |storage| starts.load(storage)).await
    }

    async fn start_now(&self) -> Result<()> {
        let (is_pristine, cluster) = storage::run(self.storage.clone(), |storage| {
            if storage.get(META, CLEANING)?.is_some() {
                records::forget(storage)?;
            }
            Ok((records::is_pristine(storage)?, records::cluster(storage)?))
        })
        .await?;
        if storage::run(self.storage.clone(), |storage| Ok(storage.get(META, CLEANING)?.is_some())).await? {
            self.finish_cleaning().await?;
        }
        self.load_starts().await?;
        *lock(&self.cluster) = cluster;
        // Of the time before.
        self.failure.take();
        let events = lock(&self.events).clone().ok_or_else(|| Error::shut_down(COMPONENT))?;
        let surroundings = Surroundings {
            node: self.node(),
            storage: self.storage.clone(),
            state: self.state.clone(),
            events,
            // With room for what comes at the same time.
            events_max: self.config.max_buffered_events / 2,
            applied: self.applied.clone(),
            transfers: self.transfers.clone(),
            failure: self.failure.clone(),
            starts: self.starts.clone(),
            trim: self.trim.clone(),
        };
        let gone = CancellationToken::new();
        let (storage, failure, trim) = (self.storage.clone(), self.failure.clone(), self.trim.clone());
        let log = LogStore::open(self.node(), storage, failure, trim).await?;
        let mut machine = Machine::open(surroundings, log.clone(), gone.clone().drop_guard()).await?;
        storage::run(self.storage.clone(), records::check).await?;
        let named = log.check().await?;
        machine.catch_up(named.as_ref()).await?;
        let network = Network(self.me.clone());
        let config = Arc::new(self.config.openraft()?);
        let raft = Raft::new(self.node(), config, network, log.clone(), machine)
            .await
            .map_err(|fatal| self.fatal(&fatal))?;
        *lock(&self.heard) = Heard { at: Instant::now(), is_leader: false };
        if is_pristine && !self.config.join {
            let mut members = self.config.init_peerset.clone();
            members.insert(self.peer);
            if cluster.is_none() {
                self.join(self.found(&members)).await?;
            }
            let nodes: BTreeSet<Node> = members.into_iter().map(Node::of).collect();
            let number = nodes.len();
            match raft.initialize(nodes).await {
                Ok(()) => info!(
                    members = number,
                    "nothing is stored here: founding a new raft cluster (a peer that is to join one is started with --bootstrap)"
                ),
                // Somebody else may have been faster.
                Err(error) => debug!(%error, "the cluster was not founded here"),
            }
        }
        *self.core.write().unwrap_or_else(PoisonError::into_inner) = Some(Core { raft, log, gone });
        Ok(())
    }

    /// The id of a new cluster: the same for all of its first members, and another for every peer that is alone.
    fn found(&self, members: &BTreeSet<PeerId>) -> ClusterId {
        let mut bytes = b"ipfs-cluster raft".to_vec();
        members.iter().for_each(|peer| bytes.extend(peer.to_bytes()));
        if members.len() == 1 {
            bytes.extend_from_slice(&self.salt);
        }
        let mut id = ClusterId::default();
        for (to, from) in id.iter_mut().zip(Code::Sha2_256.digest(&bytes).digest()) {
            *to = *from;
        }
        id
    }

    /// Our error for one of openraft's that it does not go on after.
    pub(super) fn fatal(&self, fatal: &openraft::error::Fatal<Node>) -> Error {
        match self.failure.take() {
            Some(error) => error,
            None => {
                Error::new(ErrorKind::Unavailable, format!("raft has stopped: {fatal}")).component(COMPONENT)
            }
        }
    }

    async fn stop_now(&self) {
        let core = self.core.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Core { raft, log, gone }) = core else { return };
        if let Err(error) = raft.shutdown().await {
            error!(%error, "raft did not stop as it should");
        }
        drop(raft);
        // Who opens the log next must not find it in the middle of a write.
        match timeout(LET_GO_TIMEOUT, log.until_all_written()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the end of the log was not written"),
            Err(_) => warn!("the end of the log was not written within {LET_GO_TIMEOUT:?}"),
        }
        if timeout(LET_GO_TIMEOUT, gone.cancelled()).await.is_err() {
            warn!("what applies entries has not let go of the pinset after {LET_GO_TIMEOUT:?}");
        }
    }

    /// Stops openraft, and leaves the rest: for a peer that must not take part any more.
    pub(super) async fn halt(&self) {
        let _turn = self.turn.lock().await;
        self.stop_now().await;
    }

    /// Stops for good. Idempotent.
    pub(super) async fn stop(&self) {
        let mut may_start = self.turn.lock().await;
        *may_start = false;
        self.stop_now().await;
        self.links.close();
        self.staging.clear();
        lock(&self.events).take();
    }

    /// Writes something, which fails as long as nothing can be written.
    async fn probe(&self) -> Result<()> {
        storage::run(self.storage.clone(), |storage| {
            let mut batch = Batch::new();
            batch.put(META, FORMAT_KEY, vec![FORMAT]);
            storage.write(batch, Durability::Synced)
        })
        .await
    }

    /// Starts again after openraft stopped by itself, until it works, it cannot ever, or everything is stopped.
    pub(super) async fn recover(&self, why: Error) {
        let mut retry = Retry::default();
        let mut why = why;
        loop {
            let may_start = self.turn.lock().await;
            if !*may_start {
                return;
            }
            self.stop_now().await;
            // Corrupt stays corrupt.
            if matches!(why.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::InvalidInput) {
                error!(error = %why, "raft cannot go on");
                self.standing.send_replace(Standing::Broken(why));
                return;
            }
            warn!(error = %why, "raft stopped and is started again");
            let what = match why.kind() {
                ErrorKind::StorageFull => "raft waits until there is space on this peer's disk",
                _ => "raft waits until this peer's store works",
            };
            self.standing.send_if_modified(|standing| standing.fail(why.context(what)));
            drop(may_start);
            retry.failed();
            sleep(retry.wait().min(RECOVER_WAIT_MAX)).await;
            let may_start = self.turn.lock().await;
            if !*may_start {
                return;
            }
            let started = match self.probe().await {
                Ok(()) => self.start_now().await,
                Err(error) => Err(error),
            };
            match started {
                Ok(()) => {
                    self.standing.send_if_modified(|standing| {
                        let was_failing = matches!(standing, Standing::Failing(_));
                        if was_failing {
                            *standing = Standing::Working;
                        }
                        was_failing
                    });
                    info!("raft works again");
                    return;
                }
                Err(error) => why = error,
            }
        }
    }

    /// Forgets everything, and begins anew as if nothing had ever been stored.
    pub(super) async fn clean(&self) -> Result<()> {
        let may_start = self.turn.lock().await;
        if !*may_start {
            return Err(Error::shut_down(COMPONENT));
        }
        let others = self.voters().into_iter().any(|peer| peer != self.peer);
        let is_removed = matches!(*self.standing.borrow(), Standing::Removed);
        if others && !is_removed && self.is_member(&self.peer) {
            let text =
                "a member of a cluster with others cannot forget what it promised them: remove it first";
            return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        }
        self.stop_now().await;
        let cleaned = async {
            storage::run(self.storage.clone(), |storage| {
                let mut batch = Batch::new();
                batch.put(META, CLEANING, Bytes::new());
                storage.write(batch, Durability::Synced)?;
                records::forget(storage)
            })
            .await?;
            self.finish_cleaning().await
        }
        .await;
        self.starts.clear();
        self.transfers.spoil();
        self.staging.clear();
        self.applied.set(Applied::default());
        *lock(&self.known) = None;
        if let Some(events) = &*lock(&self.events) {
            events.tell(StateEvent::Resync);
        }
        let started = self.start_now().await;
        cleaned.and(started)
    }

    /// The rest of a cleaning, when all of ours is forgotten.
    async fn finish_cleaning(&self) -> Result<()> {
        self.state.settle().await?;
        self.state.clear().await?;
        storage::run(self.storage.clone(), |storage| {
            let mut batch = Batch::new();
            batch.delete(META, CLEANING);
            storage.write(batch, Durability::Synced)
        })
        .await
    }
}
