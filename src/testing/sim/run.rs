//! Carries out a plan with whole peers, and looks at what comes out.

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
use crate::error::{ErrorKind, Result};
use crate::ipfs_connector::IpfsConnector as _;
use crate::state::{StateQuery, StateReader as _, StoreState};
use crate::storage::{Direction, KeyRange, Space, Storage as _};
use crate::testing::cluster::{DaemonManners, DiskTrouble, TestCluster};
use crate::types::{Cid, Pin, PinMode, PinOptions, TrackerStatus};

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
    };
    run.set_up();
    for step in &plan.steps {
        run.step(step).await;
    }
    run.heal().await;
    if run.wait_quiet("after healing").await {
        #[cfg(feature = "consensus-crdt")]
        run.check_knowledge().await;
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
                    expire_at: expires_in.map(|time| self.peers.clock(peer).now() + time),
                    ..PinOptions::default()
                };
                self.call(peer, cid, Kind::Pin, options);
            }
            What::Burst { peer, cid, pins } => {
                for number in 0..pins {
                    self.call(peer, (cid + number) % self.plan.cids, Kind::Pin, PinOptions::default());
                }
            }
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
            What::Crash { peer, keep_some: true } => self.peers.crash_keeping_some(peer),
            What::Crash { peer, keep_some: false } => self.peers.crash(peer),
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
            What::Skew { peer, milliseconds } => self.peers.clock(peer).set_skew(milliseconds),
        }
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
        if reason != "shutdown was requested" {
            self.violations.push(format!("peer {peer} stopped by itself: {reason}"));
        }
    }

    async fn start(&mut self, peer: usize) {
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
        let (history, binary) = (Arc::clone(&self.history), self.cids[cid]);
        self.calls.spawn(async move {
            let saw = cluster.state().get(&binary).await.ok().flatten().and_then(|pin| tag_of(&pin));
            let tag = {
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
                history.operations.len() - 1
            };
            let answer = match kind {
                Kind::Pin => {
                    let options = PinOptions { name: format!("{NAME_PREFIX}{tag}"), ..options };
                    cluster.pin(binary, options).await
                }
                Kind::Unpin => cluster.unpin(&binary).await,
            };
            let mut history = lock(&history);
            let told = match &answer {
                Ok(pin) => format!("ok, {} on {}", pin.options.name, pin.allocations.len()),
                Err(error) => error.to_string(),
            };
            history.note(&format!("    op-{tag} ({kind:?} c{cid} at peer {peer}, saw {saw:?}): {told}"));
            let ended = history.tick();
            let operation = &mut history.operations[tag];
            operation.ended = Some(ended);
            operation.answer = match &answer {
                Ok(pin) if kind == Kind::Pin => Answer::Pinned { expires: pin.options.expire_at },
                Ok(pin) => Answer::Unpinned { removed: tag_of(pin) },
                Err(error) if is_refusal(error.kind()) => Answer::Refused,
                Err(_) => Answer::Unknown,
            };
            if let (Ok(pin), Kind::Pin) = (answer, kind) {
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
            self.peers.daemon(peer).up();
            self.peers
                .daemon(peer)
                .set_manners(DaemonManners { latency_max: self.plan.daemon_latency, failures_percent: 0 });
            self.start(peer).await;
        }
        self.finish_calls().await;
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

    async fn noise(&self) -> Option<String> {
        for (index, cluster) in self.peers.running() {
            let counts = cluster.tracker().counts();
            if counts.queued() + counts.pinning + counts.unpinning > 0 {
                return Some(format!("the tracker of peer {index} works: {counts:?}"));
            }
        }
        if !self.peers.is_converged() {
            let mut text = "pinsets differ:".to_owned();
            for (index, cluster) in self.peers.running() {
                let pins = pinset(cluster).await.unwrap_or_default();
                let pins: Vec<String> = pins.iter().map(|pin| self.shown(pin)).collect();
                text.push_str(&format!(" peer {index} has [{}]", pins.join(", ")));
            }
            return Some(text);
        }
        if let Some(text) = self.different_dags() {
            return Some(text);
        }
        let waits = |index: &usize| {
            let page = self
                .peers
                .storage(*index)
                .snapshot()
                .and_then(|disk| disk.scan(CRDT_LOG, KeyRange::all(), Direction::Forward, 1));
            page.is_ok_and(|page| !page.entries.is_empty())
        };
        if let Some(index) = (0..self.peers.len()).find(waits) {
            return Some(format!("operations of peer {index} wait for their batch"));
        }
        let (_, first) = self.peers.running().next()?;
        let pins = pinset(first).await.unwrap_or_default();
        let expiring = pins.iter().find(|pin| pin.options.expire_at.is_some())?;
        Some(format!("{} has not been removed since it expired", self.shown(expiring)))
    }

    /// How the peers' DAGs differ. Those who have the same pinset may still be fetching what changes nothing.
    fn different_dags(&self) -> Option<String> {
        let keys = |index: usize, space: Space| -> BTreeSet<Bytes> {
            let snapshot = self.peers.storage(index).snapshot();
            let page =
                snapshot.and_then(|disk| disk.scan(space, KeyRange::all(), Direction::Forward, usize::MAX));
            page.map(|page| page.entries.into_iter().map(|(key, _)| key).collect()).unwrap_or_default()
        };
        for (what, space) in [("heads", CRDT_HEADS), ("blocks", CRDT_BLOCKS)] {
            let of_first = keys(0, space);
            for index in 1..self.peers.len() {
                let others = keys(index, space);
                if others != of_first {
                    let shown = |keys: BTreeSet<&Bytes>| {
                        keys.iter().map(|key| hex::encode(&key[..key.len().min(4)])).collect::<Vec<_>>()
                    };
                    let missing = shown(of_first.difference(&others).collect());
                    let more = shown(others.difference(&of_first).collect());
                    return Some(format!(
                        "peer {index} lacks the {what} {missing:?} of peer 0 and has {more:?} that it has not"
                    ));
                }
            }
        }
        None
    }

    fn shown(&self, pin: &Pin) -> String {
        let cid = self
            .cids
            .iter()
            .position(|cid| *cid == pin.cid)
            .map_or_else(|| pin.cid.to_string(), |c| format!("c{c}"));
        format!("{cid}: {}", pin.options.name)
    }

    /// Whether every peer knows of every pin what a walk over all blocks gives, and shows what that comes to.
    #[cfg(feature = "consensus-crdt")]
    async fn check_knowledge(&mut self) {
        let mut wrong = Vec::new();
        for (index, cluster) in self.peers.running() {
            let storage = self.peers.storage(index);
            let (known, dag) = match (dag::known(&*storage), dag::Dag::of(&*storage)) {
                (Ok(known), Ok(dag)) => (known, dag),
                (Err(error), _) | (_, Err(error)) => {
                    wrong.push(format!("what peer {index} knows cannot be read: {error}"));
                    continue;
                }
            };
            if known != dag.known() {
                wrong.push(format!(
                    "peer {index} knows\n    {known:?}\n  and a walk gives\n    {:?}",
                    dag.known()
                ));
            }
            let shown = pinset(cluster).await.unwrap_or_default();
            let shown: BTreeMap<Cid, Pin> = shown.into_iter().map(|pin| (pin.cid, pin)).collect();
            if shown != dag.pins() {
                wrong.push(format!(
                    "peer {index} shows\n    {shown:?}\n  and a walk gives\n    {:?}",
                    dag.pins()
                ));
            }
        }
        self.violations.extend(wrong);
    }

    async fn check_pinset(&mut self) {
        let Some((_, first)) = self.peers.running().next() else { return };
        let pins = match pinset(first).await {
            Ok(pins) => pins,
            Err(error) => return self.violations.push(format!("the pinset cannot be read: {error}")),
        };
        let mut found: BTreeMap<usize, &Pin> = BTreeMap::new();
        for pin in &pins {
            match self.cids.iter().position(|cid| *cid == pin.cid) {
                Some(cid) => drop(found.insert(cid, pin)),
                None => self.violations.push(format!("nobody pinned {}", pin.cid)),
            }
        }
        let now = (0..self.peers.len()).map(|peer| self.peers.clock(peer).now());
        let all = Circumstances {
            latest_now: now.clone().max().unwrap_or(crate::types::Timestamp::UNIX_EPOCH) + peers::SKEW_MAX,
            expired_before: now.min().unwrap_or(crate::types::Timestamp::UNIX_EPOCH),
            rewrites: Vec::new(),
            there_is_rewrite: false,
        };
        #[cfg(feature = "consensus-crdt")]
        let dag = dag::Dag::of(&*self.peers.storage(0)).unwrap_or_default();
        let history = lock(&self.history);
        for cid in 0..self.cids.len() {
            let pin = found.get(&cid);
            let there = match pin.map(|pin| tag_of(pin)) {
                Some(None) => {
                    self.violations.push(format!("the entry of c{cid} has lost its name"));
                    continue;
                }
                Some(Some(tag)) => Some((tag, pin.and_then(|pin| pin.options.expire_at))),
                None => None,
            };
            #[allow(unused_mut)] // Without the CRDT nobody writes anything once more.
            let mut circumstances = all.clone();
            #[cfg(feature = "consensus-crdt")]
            {
                let findings = dag.findings(&self.cids[cid], tag_of);
                circumstances.rewrites = findings.rewrites;
                circumstances.there_is_rewrite = findings.winner_is_rewrite;
                self.violations.extend(findings.wrong.into_iter().map(|what| format!("c{cid}: {what}")));
            }
            let wrong = model::check(&history.operations, cid, there, &circumstances);
            self.violations.extend(wrong.into_iter().map(|what| format!("c{cid}: {what}")));
            if let (Some(pin), Some((tag, _))) = (pin, there)
                && let Some(told) = history.answers.get(&tag)
                && !self.is_as_told(pin, told)
            {
                self.violations
                    .push(format!("c{cid}: op-{tag} was told\n    {told:?}\n  but there is\n    {pin:?}"));
            }
        }
    }

    /// Whether the entry is what the caller was told, but for what is never stored and for what repinning changes.
    fn is_as_told(&self, pin: &Pin, told: &Pin) -> bool {
        let mut told = told.clone();
        told.options.user_allocations.clear();
        told.timestamp = told.timestamp.map(|time| time.truncated_to_seconds());
        told.options.expire_at = told.options.expire_at.map(|time| time.truncated_to_seconds());
        if self.plan.repinning {
            told.allocations.clone_from(&pin.allocations);
            told.timestamp = pin.timestamp;
        }
        *pin == told
    }

    /// Whether each daemon holds the peer's share and nothing else, or its tracker says what went wrong. Once `all` was
    /// recovered nothing may have gone wrong.
    async fn check_daemons(&mut self, all: bool) {
        let mut wrong = Vec::new();
        for (index, cluster) in self.peers.running() {
            for (number, cid) in self.cids.iter().enumerate() {
                let pin = cluster.state().get(cid).await.ok().flatten();
                let wanted = pin.as_ref().filter(|pin| !pin.is_remote_for(&cluster.peer_id())).map(Pin::mode);
                let mut held = Vec::new();
                for mode in PinMode::ALL {
                    if self.peers.daemon(index).ipfs().is_pinned(cid, mode).await.unwrap_or(false) {
                        held.push(mode);
                    }
                }
                if held.as_slice() == wanted.as_slice() {
                    continue;
                }
                let status = cluster.tracker().status(cid).await.map(|info| info.status.status);
                // What failed to be unpinned because others hold it is shown as `remote`, as in the reference.
                let admitted = match status {
                    Ok(TrackerStatus::PinError) => !all || is_refused_downgrade(wanted, &held),
                    Ok(TrackerStatus::UnpinError | TrackerStatus::Remote) => !all,
                    Ok(_) | Err(_) => false,
                };
                // Nobody remembers over a restart that the daemon was still to let go of something: the tracker stores
                // nothing, and what else the daemon holds may be its user's own.
                let is_left_over = wanted.is_none() && self.restarted.contains(&index);
                if !admitted && !is_left_over {
                    wrong.push(format!(
                        "c{number} should be {wanted:?} on the daemon of peer {index}, is {held:?}, and its status is {status:?}{}",
                        if all { " after recovering" } else { "" }
                    ));
                }
            }
        }
        self.violations.extend(wrong);
        self.check_allocations().await;
    }

    async fn check_allocations(&mut self) {
        let Some((_, first)) = self.peers.running().next() else { return };
        for pin in pinset(first).await.unwrap_or_default() {
            // More than the most there should be are possible, as in the reference: a pin with a lower factor keeps
            // its allocations when so many of their peers were dead that the living ones were few enough.
            let min = pin.options.replication_factor_min;
            let copies = i32::try_from(pin.allocations.len()).unwrap_or(i32::MAX);
            let fits = if min == -1 { copies == 0 } else { copies >= min };
            let known = pin
                .allocations
                .iter()
                .all(|peer| (0..self.peers.len()).any(|index| self.peers.id(index) == *peer));
            if !fits || !known {
                self.violations.push(format!("{} is allocated to {:?}", self.shown(&pin), pin.allocations));
            }
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
        let figures = Figures {
            operations: history.operations.len() as u64,
            acknowledged: history
                .operations
                .iter()
                .filter(|operation| {
                    matches!(operation.answer, Answer::Pinned { .. } | Answer::Unpinned { .. })
                })
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
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidInput
            | ErrorKind::Conflict
            | ErrorKind::NotFound
            | ErrorKind::ReadOnly
            | ErrorKind::NotEnoughPeers
    )
}

/// FNV-1a of lines.
fn hash(lines: &[String]) -> u64 {
    let bytes = lines.iter().flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
