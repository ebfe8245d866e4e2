//! Carries out a plan with whole peers, and looks at what comes out.

mod checks;
#[cfg(feature = "consensus-raft")]
mod raft;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[cfg(feature = "consensus-crdt")]
use super::dag;
use super::model::{self, Answer, Circumstances, Kind, Operation, Tag};
use super::plan::{Plan, Step, What};
use super::{Figures, peers};
use crate::clock::WallClock as _;
use crate::cluster::{Cluster, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::IpfsConnector as _;
use crate::state::{StateQuery, StateReader as _, StoreState};
use crate::storage::{Direction, KeyRange, Space, Storage as _};
use crate::testing::cluster::{DaemonManners, DiskTrouble, TestCluster};
use crate::types::{Cid, Pin, PinMode, PinOptions, Timestamp, TrackerStatus};

/// How long an operation may take after everything was healed.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long the peers may take to become quiet.
const QUIET_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How often it is looked whether they are.
const QUIET_POLL: Duration = Duration::from_secs(1);
/// How many times in a row they must be.
const QUIET_POLLS: u32 = 3;
/// Where the CRDT has its heads and blocks; empty elsewhere.
const CRDT_HEADS: Space = Space::new("crdt-heads");
const CRDT_BLOCKS: Space = Space::new("crdt-blocks");
/// Where it has what was acknowledged and is in no block yet.
const CRDT_LOG: Space = Space::new("crdt-log");
/// Where it says that it caught up without the history.
const CRDT_META: Space = Space::new("crdt-meta");
const CAUGHT_UP: &[u8] = b"caught-up";
/// Names of pins are this and the tag.
const NAME_PREFIX: &str = "op-";

/// What came out.
pub(super) struct Outcome {
    pub(super) trace: u64,
    pub(super) violations: Vec<String>,
    pub(super) log: Vec<String>,
    pub(super) figures: Figures,
}

/// Calls that began, with what is known of them, and a log of all that happened.
struct History {
    started: Instant,
    time: u64,
    operations: Vec<Operation>,
    /// What the caller was told it pinned.
    answers: BTreeMap<Tag, Pin>,
    log: Vec<String>,
    /// What is wrong with what callers were told.
    wrong: Vec<String>,
    #[cfg(feature = "consensus-raft")]
    members: raft::Members,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    fn note(&mut self, what: &str) {
        let time = self.started.elapsed().as_secs_f64();
        self.log.push(format!("{time:10.3} s  {what}"));
    }
}

type Shared = Arc<Mutex<History>>;

fn lock(history: &Shared) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries out a plan. On a current-thread runtime with paused time it always comes to the same.
pub(super) async fn carry_out(plan: &Plan) -> Outcome {
    let started = Instant::now();
    let history = Arc::new(Mutex::new(History {
        started,
        time: 0,
        operations: Vec::new(),
        answers: BTreeMap::new(),
        log: Vec::new(),
        wrong: Vec::new(),
        #[cfg(feature = "consensus-raft")]
        members: raft::Members::founded_by((0..plan.peers).filter(|peer| plan.late != Some(*peer))),
    }));
    let peers = match TestCluster::with_config(peers::config(plan)).await {
        Ok(peers) => peers,
        Err(error) => {
            let violations = vec![format!("the peers did not start: {error}")];
            return Outcome { trace: 0, violations, log: Vec::new(), figures: Figures::default() };
        }
    };
    let mut run = Run {
        plan,
        peers,
        history,
        calls: JoinSet::new(),
        cids: Vec::new(),
        violations: Vec::new(),
        restarted: BTreeSet::new(),
        #[cfg(feature = "consensus-raft")]
        is_by_raft: plan.raft.is_some(),
        #[cfg(not(feature = "consensus-raft"))]
        is_by_raft: false,
    };
    run.set_up();
    for step in &plan.steps {
        run.step(step).await;
    }
    run.heal().await;
    if run.wait_quiet("after healing").await {
        #[cfg(feature = "consensus-crdt")]
        if !run.is_by_raft {
            run.check_knowledge().await;
        }
        #[cfg(feature = "consensus-raft")]
        if run.is_by_raft {
            run.check_agreement().await;
        }
        run.check_pinset().await;
        run.check_daemons(false).await;
        run.recover().await;
        if run.wait_quiet("after recovering").await {
            run.check_daemons(true).await;
        }
    }
    run.end(started).await
}

struct Run<'a> {
    plan: &'a Plan,
    peers: TestCluster,
    history: Shared,
    calls: JoinSet<()>,
    cids: Vec<Cid>,
    violations: Vec<String>,
    /// Peers that went down and came back.
    restarted: BTreeSet<usize>,
    /// Whether they agree by Raft.
    is_by_raft: bool,
}

impl Run<'_> {
    fn set_up(&mut self) {
        self.cids = (0..self.plan.cids)
            .map(|number| self.peers.add(format!("content {number}").as_bytes()))
            .collect();
        let network = self.peers.network();
        for (one, other, delay) in &self.plan.delays {
            network.set_delay_between(self.peers.id(*one), self.peers.id(*other), *delay);
        }
        network.set_gossip_loss(share(self.plan.loss_percent));
    }

    async fn step(&mut self, step: &Step) {
        tokio::time::sleep(step.after).await;
        lock(&self.history).note(&step.what.to_string());
        match step.what {
            What::Pin { peer, cid, factors: (min, max), direct, expires_in } => {
                let options = PinOptions {
                    replication_factor_min: min,
                    replication_factor_max: max,
                    mode: if direct { PinMode::Direct } else { PinMode::Recursive },
                    expire_at: expires_in.map(|time| self.time_of(peer) + time),
                    ..PinOptions::default()
                };
                self.call(peer, cid, Kind::Pin, options);
            }
            What::Burst { peer, cid, pins } => {
                for number in 0..pins {
                    self.call(peer, (cid + number) % self.plan.cids, Kind::Pin, PinOptions::default());
                }
            }
            What::Read { peer, cid } => self.call(peer, cid, Kind::Read, PinOptions::default()),
            What::Unpin { peer, cid } => self.call(peer, cid, Kind::Unpin, PinOptions::default()),
            What::Update { peer, from, to } => {
                let options = PinOptions { pin_update: Some(self.cids[from]), ..PinOptions::default() };
                self.call(peer, to, Kind::Pin, options);
            }
            What::Recover { peer } => {
                if let Some(cluster) = self.peers.get(peer).cloned() {
                    self.calls.spawn(async move { recover(&cluster).await });
                }
            }
            What::Partition { one, other } => self.peers.partition(one, other),
            What::Heal => {
                self.note_late();
                self.peers.heal();
            }
            What::Crash { peer, keep_some } => self.crash(peer, keep_some),
            What::Stop { peer } => {
                if let Some(reason) = self.peers.stop(peer).await {
                    let reason = reason.to_string();
                    self.check_reason(peer, &reason);
                }
            }
            What::Start { peer } => self.start(peer).await,
            What::DaemonDown { peer } => self.peers.daemon(peer).down(),
            What::DaemonUp { peer } => self.peers.daemon(peer).up(),
            What::Loss { percent } => self.peers.network().set_gossip_loss(share(percent)),
            What::Disk { peer, trouble } => self.peers.disk(peer).set(trouble),
            What::SlowDisk { peer, latency } => self.peers.disk(peer).slow(latency),
            What::Skew { peer, milliseconds } => self.peers.clock(peer).set_skew(milliseconds),
            What::Isolate { peer } => self.isolate(peer),
            What::CrashAll { keep_some } => {
                (0..self.peers.len()).for_each(|peer| self.crash(peer, keep_some));
            }
            #[cfg(feature = "consensus-raft")]
            What::IsolateLeader => {
                if let Some(leader) = self.peers.leader().await {
                    self.isolate(leader);
                }
            }
            #[cfg(feature = "consensus-raft")]
            What::CrashLeader { keep_some } => {
                if let Some(leader) = self.peers.leader().await {
                    self.crash(leader, keep_some);
                }
            }
            #[cfg(feature = "consensus-raft")]
            What::SlowLeader { latency } => {
                if let Some(leader) = self.peers.leader().await {
                    self.peers.disk(leader).slow(latency);
                }
            }
            #[cfg(feature = "consensus-raft")]
            What::CrashVoter { after, keep_some } => self.crash_voter(after, keep_some).await,
            #[cfg(feature = "consensus-raft")]
            What::Join { peer, through } => self.join(peer, through).await,
            #[cfg(feature = "consensus-raft")]
            What::Remove { peer, through } => self.remove(peer, through),
            #[cfg(not(feature = "consensus-raft"))]
            What::IsolateLeader
            | What::CrashLeader { .. }
            | What::SlowLeader { .. }
            | What::CrashVoter { .. }
            | What::Join { .. }
            | What::Remove { .. } => {}
        }
    }

    /// By the clock of who asks a peer: where clocks are hours away from each other, the right time.
    fn time_of(&self, peer: usize) -> Timestamp {
        let clock = self.peers.clock(peer);
        if self.is_by_raft { clock.right() } else { clock.now() }
    }

    fn crash(&mut self, peer: usize, keep_some: bool) {
        if keep_some { self.peers.crash_keeping_some(peer) } else { self.peers.crash(peer) }
    }

    fn isolate(&self, peer: usize) {
        (0..self.peers.len())
            .filter(|other| *other != peer)
            .for_each(|other| self.peers.partition(peer, other));
    }

    /// Notes what the peer that joined later has when those that were cut off turn up.
    fn note_late(&self) {
        let Some(late) = self.plan.late else { return };
        if let Some(cluster) = self.peers.get(late) {
            let took_over =
                self.peers.storage(late).get(CRDT_META, CAUGHT_UP).is_ok_and(|mark| mark.is_some());
            let pins = cluster.state().counts().pins;
            let how = if took_over { super::TOOK_OVER } else { "has what it walked to" };
            lock(&self.history).note(&format!("    peer {late} {how}, {pins} pins"));
        }
    }

    fn check_reason(&mut self, peer: usize, reason: &str) {
        lock(&self.history).note(&format!("peer {peer} stopped: {reason}"));
        #[cfg(feature = "consensus-raft")]
        if reason.contains(raft::REMOVED) && lock(&self.history).members.may_be_gone(peer) {
            return;
        }
        if reason != "shutdown was requested" {
            self.violations.push(format!("peer {peer} stopped by itself: {reason}"));
        }
    }

    async fn start(&mut self, peer: usize) {
        #[cfg(feature = "consensus-raft")]
        self.reap(peer).await;
        if self.peers.get(peer).is_none() {
            self.restarted.insert(peer);
        }
        let works = self.peers.disk(peer).trouble() == DiskTrouble::None;
        if let Err(error) = self.peers.restart(peer).await {
            if !works {
                return lock(&self.history).note(&format!("peer {peer} did not start: {error}"));
            }
            self.violations.push(format!("peer {peer} did not start again: {error}"));
        }
    }

    fn call(&mut self, peer: usize, cid: usize, kind: Kind, options: PinOptions) {
        let Some(cluster) = self.peers.get(peer).cloned() else { return };
        #[cfg(feature = "consensus-raft")]
        let (raft, patience) =
            (self.peers.raft(peer), self.plan.raft.map(|raft| raft.patience + self.plan.disk_time()));
        let (history, binary) = (Arc::clone(&self.history), self.cids[cid]);
        self.calls.spawn(async move {
            let saw = cluster.state().get(&binary).await.ok().flatten().and_then(|pin| tag_of(&pin));
            let (tag, asked) = {
                let mut history = lock(&history);
                let began = history.tick();
                history.operations.push(Operation {
                    peer,
                    cid,
                    kind,
                    began,
                    ended: None,
                    saw,
                    answer: Answer::Unknown,
                });
                (history.operations.len() - 1, Instant::now())
            };
            // What is to be removed or continued and is not here is looked for in the order before.
            #[cfg(feature = "consensus-raft")]
            let asks_first = options.pin_update.is_some() || (kind == Kind::Unpin && saw.is_none());
            let answer = match kind {
                Kind::Pin => {
                    let options = PinOptions { name: format!("{NAME_PREFIX}{tag}"), ..options };
                    cluster.pin(binary, options).await.map(Some)
                }
                Kind::Unpin => cluster.unpin(&binary).await.map(Some),
                Kind::Read => {
                    #[cfg(feature = "consensus-raft")]
                    if let Some(raft) = &raft {
                        raft::read(&cluster, raft, &binary).await
                    } else {
                        cluster.state().get(&binary).await
                    }
                    #[cfg(not(feature = "consensus-raft"))]
                    cluster.state().get(&binary).await
                }
            };
            let mut history = lock(&history);
            let told = match &answer {
                Ok(Some(pin)) => format!("ok, {} on {}", pin.options.name, pin.allocations.len()),
                Ok(None) => "ok, nothing".to_owned(),
                Err(error) => error.to_string(),
            };
            history.note(&format!("    op-{tag} ({kind:?} c{cid} at peer {peer}, saw {saw:?}): {told}"));
            let ended = history.tick();
            #[cfg(feature = "consensus-raft")]
            if let Some(patience) = patience {
                let patience = if asks_first { patience * 2 } else { patience };
                let wrong = raft::wrong_answer(answer.as_ref().err(), asked.elapsed(), patience);
                history.wrong.extend(wrong.map(|wrong| format!("op-{tag} {wrong}")));
            }
            #[cfg(not(feature = "consensus-raft"))]
            let _ = asked;
            let operation = &mut history.operations[tag];
            operation.ended = Some(ended);
            operation.answer = match &answer {
                Ok(pin) => {
                    let value = pin.as_ref().and_then(tag_of);
                    match kind {
                        Kind::Pin => {
                            Answer::Pinned { expires: pin.as_ref().and_then(|pin| pin.options.expire_at) }
                        }
                        Kind::Unpin => Answer::Unpinned { removed: value },
                        Kind::Read => Answer::Was { value },
                    }
                }
                // Where there is an order, it was asked.
                #[cfg(feature = "consensus-raft")]
                Err(error)
                    if raft.is_some() && kind == Kind::Unpin && error.kind() == ErrorKind::NotFound =>
                {
                    Answer::Was { value: None }
                }
                Err(error) if is_refusal(error) => Answer::Refused,
                Err(_) => Answer::Unknown,
            };
            if let (Ok(Some(pin)), Kind::Pin) = (answer, kind) {
                history.answers.insert(tag, pin);
            }
        });
    }

    /// Everything works and runs again.
    async fn heal(&mut self) {
        lock(&self.history).note("heal everything");
        self.note_late();
        self.peers.heal();
        self.peers.network().set_gossip_loss(0.0);
        for peer in 0..self.peers.len() {
            self.peers.disk(peer).set(DiskTrouble::None);
            self.peers.disk(peer).slow(Duration::ZERO);
            self.peers.daemon(peer).up();
            self.peers
                .daemon(peer)
                .set_manners(DaemonManners { latency_max: self.plan.daemon_latency, failures_percent: 0 });
            if self.is_by_raft {
                self.peers.clock(peer).set_skew(0);
            }
            self.start(peer).await;
        }
        self.finish_calls().await;
        #[cfg(feature = "consensus-raft")]
        if self.is_by_raft {
            self.gather_members().await;
        }
    }

    async fn finish_calls(&mut self) {
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.calls.join_next()).await {
            if ended.is_err() {
                self.violations.push("an operation panicked".to_owned());
            }
        }
        if !self.calls.is_empty() {
            self.violations
                .push(format!("{} operations did not end within {OPERATION_TIMEOUT:?}", self.calls.len()));
            self.calls.abort_all();
        }
    }

    /// Waits until all have the same pinset, nothing in it is about to expire, and no tracker works.
    async fn wait_quiet(&mut self, when: &str) -> bool {
        let deadline = Instant::now() + QUIET_TIMEOUT;
        let mut polls = 0;
        loop {
            let noise = self.noise().await;
            polls = if noise.is_none() { polls + 1 } else { 0 };
            if polls == QUIET_POLLS {
                lock(&self.history).note(&format!("quiet {when}"));
                return true;
            }
            if Instant::now() >= deadline {
                let noise = noise.unwrap_or_default();
                self.violations.push(format!("not quiet {when} within {QUIET_TIMEOUT:?}: {noise}"));
                return false;
            }
            tokio::time::sleep(QUIET_POLL).await;
        }
    }

    async fn recover(&mut self) {
        lock(&self.history).note("recover everywhere");
        let running: Vec<Cluster> = self.peers.running().map(|(_, cluster)| cluster.clone()).collect();
        for cluster in running {
            recover(&cluster).await;
        }
    }

    async fn end(mut self, started: Instant) -> Outcome {
        let simulated = started.elapsed();
        for peer in 0..self.peers.len() {
            let Some(cluster) = self.peers.get(peer).cloned() else { continue };
            if let Some(reason) = cluster.stopped().now_or_never() {
                self.check_reason(peer, &reason.to_string());
            }
            let before = cluster.state().counts();
            lock(&self.history).note(&format!("peer {peer} has {} pins, sum {:x}", before.pins, before.sum));
        }
        let trace_of_network = self.peers.network().trace();
        for peer in 0..self.peers.len() {
            let before = self.peers.get(peer).map(|cluster| cluster.state().counts());
            if let Some(reason) = self.peers.stop(peer).await {
                self.check_reason(peer, &reason.to_string());
            }
            let after = StoreState::open(self.peers.storage(peer)).await.map(|state| state.counts());
            if before
                .is_some_and(|before| after.as_ref().is_ok_and(|after| *after != before) || after.is_err())
            {
                self.violations.push(format!("peer {peer} stopped with {before:?}, its disk has {after:?}"));
            }
        }
        let mut history = lock(&self.history);
        history.note(&format!("network {trace_of_network:x}"));
        let log = std::mem::take(&mut history.log);
        self.violations.append(&mut history.wrong);
        let figures = Figures {
            operations: history.operations.len() as u64,
            acknowledged: history
                .operations
                .iter()
                .filter(|operation| !matches!(operation.answer, Answer::Refused | Answer::Unknown))
                .count() as u64,
            simulated,
        };
        drop(history);
        Outcome { trace: hash(&log), violations: self.violations, log, figures }
    }
}

fn share(percent: usize) -> f64 {
    percent as f64 / 100.0
}

async fn recover(cluster: &Cluster) {
    let mut pages = cluster.recover_all(Scope::Local);
    while pages.next().await.is_some() {}
}

async fn pinset(cluster: &Cluster) -> Result<Vec<Pin>> {
    let mut pages = cluster.pins(StateQuery::default());
    let mut pins = Vec::new();
    while let Some(page) = pages.next().await {
        pins.extend(page?);
    }
    Ok(pins)
}

fn tag_of(pin: &Pin) -> Option<Tag> {
    pin.options.name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

/// A daemon keeps a recursive pin in preference to a direct one, and says so.
fn is_refused_downgrade(wanted: Option<PinMode>, held: &[PinMode]) -> bool {
    wanted == Some(PinMode::Direct) && held == [PinMode::Recursive]
}

/// Kinds by which a caller knows that nothing happened.
fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::ReadOnly | ErrorKind::NotEnoughPeers => {
            true
        }
        // A peer that finds out that it was removed may have asked for something before.
        ErrorKind::Conflict => error.component_name() != Some("raft consensus"),
        _ => false,
    }
}

/// FNV-1a of lines.
fn hash(lines: &[String]) -> u64 {
    let bytes = lines.iter().flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
