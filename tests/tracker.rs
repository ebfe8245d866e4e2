//! The stateless tracker: its conformance suite, its limits, and what happens at the same time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use ipfs_cluster::clock::{TokioClock, WallClock as _};
use ipfs_cluster::config::ConfigSection as _;
use ipfs_cluster::error::{Error, ErrorKind, Result};
use ipfs_cluster::ipfs_connector::{Availability, IpfsConnector, IpfsPin, MemoryIpfs};
use ipfs_cluster::state::{StateCounts, StatePage, StateQuery, StateReader, StoreState};
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::testing::faulty_ipfs::{FaultyIpfs, IpfsCall};
use ipfs_cluster::testing::tracker_suite::{self, PEERNAME, Stage, collect, here, missing_content};
use ipfs_cluster::tracker::{PinTracker, StatelessConfig, StatelessTracker, TrackerContext, TrackerEvent};
use ipfs_cluster::types::{
    Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinInfo, PinMode, RepoGcKey, RepoStat, StatusFilter,
    Timestamp, TrackerStatus,
};
use tokio::sync::watch;
use tokio::time::Instant;

const QUEUE_FULL: &str = "pin/unpin operation queue is full. Try increasing max_pin_queue_size";

struct Stateless(StatelessConfig);

#[async_trait]
impl tracker_suite::Fixture for Stateless {
    type Guard = ();

    async fn tracker(&self, cx: TrackerContext) -> ((), Arc<dyn PinTracker>) {
        ((), Arc::new(StatelessTracker::new(self.0.clone(), cx).unwrap()))
    }
}

fn stateless() -> Stateless {
    Stateless(StatelessConfig::default())
}

ipfs_cluster::tracker_conformance!(stateless_tracker, stateless());

fn forgetful() -> Stateless {
    Stateless(StatelessConfig { queued_pins_remembered: 100, ..StatelessConfig::default() })
}

ipfs_cluster::tracker_conformance!(stateless_tracker_that_remembers_few, forgetful());

async fn stage(config: StatelessConfig) -> Stage<()> {
    Stage::new(&Stateless(config)).await
}

async fn default_stage() -> Stage<()> {
    stage(StatelessConfig::default()).await
}

fn refusal() -> Error {
    Error::new(ErrorKind::Remote, "the daemon says no")
}

/// What the suite cannot make: panics, and answers that are outdated when they arrive.
#[derive(Clone, Debug)]
struct Hooked {
    ipfs: FaultyIpfs,
    panic_on: Arc<std::sync::Mutex<Option<Cid>>>,
    panic_on_capacity: Arc<AtomicBool>,
    /// While closed, answers about pins are made at once and given when it opens.
    gate: watch::Sender<bool>,
}

impl Hooked {
    fn new(ipfs: FaultyIpfs) -> Self {
        Self {
            ipfs,
            panic_on: Arc::default(),
            panic_on_capacity: Arc::default(),
            gate: watch::Sender::new(true),
        }
    }

    async fn pass(mut gate: watch::Receiver<bool>) {
        let _ = gate.wait_for(|open| *open).await;
    }
}

#[async_trait]
impl IpfsConnector for Hooked {
    async fn ready(&self) -> Result<()> {
        self.ipfs.ready().await
    }
    async fn id(&self) -> Result<IpfsId> {
        self.ipfs.id().await
    }
    async fn pin(&self, pin: &Pin) -> Result<()> {
        assert!(*self.panic_on.lock().unwrap() != Some(pin.cid), "told to panic");
        self.ipfs.pin(pin).await
    }
    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.ipfs.unpin(cid).await
    }
    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        let answer = self.ipfs.is_pinned(cid, mode).await;
        Self::pass(self.gate.subscribe()).await;
        answer
    }
    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        let (pages, gate) = (self.ipfs.list_pins(mode), self.gate.subscribe());
        stream::once(async move {
            let pages: Vec<_> = pages.collect().await;
            Self::pass(gate).await;
            stream::iter(pages)
        })
        .flatten()
        .boxed()
    }
    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        assert!(!self.panic_on_capacity.load(Ordering::Relaxed), "told to panic");
        self.ipfs.pin_concurrency()
    }
    async fn repo_stat(&self) -> Result<RepoStat> {
        self.ipfs.repo_stat().await
    }
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        self.ipfs.repo_gc()
    }
    async fn resolve(&self, path: &str) -> Result<Cid> {
        self.ipfs.resolve(path).await
    }
    async fn put_blocks(&self, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.ipfs.put_blocks(blocks).await
    }
    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        self.ipfs.get_block(cid).await
    }
    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        self.ipfs.swarm_peers().await
    }
    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        self.ipfs.swarm_connect(address).await
    }
    fn availability(&self) -> BoxStream<'static, Availability> {
        self.ipfs.availability()
    }
    async fn shutdown(&self) -> Result<()> {
        self.ipfs.shutdown().await
    }
}

/// A pinset that counts what is read of it and fails when told to.
#[derive(Clone, Debug)]
struct Watched {
    state: Arc<StoreState>,
    pages: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
}

#[async_trait]
impl StateReader for Watched {
    async fn get(&self, cid: &Cid) -> Result<Option<Pin>> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Io, "the disk is gone"));
        }
        self.state.get(cid).await
    }
    fn list(&self, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>> {
        let pages = Arc::clone(&self.pages);
        let count = move |_: &Result<Vec<Pin>>| {
            pages.fetch_add(1, Ordering::Relaxed);
        };
        self.state.list(query).inspect(count).boxed()
    }
    async fn page(&self, query: StateQuery, limit: usize) -> Result<StatePage> {
        self.state.page(query, limit).await
    }
    fn counts(&self) -> StateCounts {
        self.state.counts()
    }
}

/// A stage whose tracker sees daemon and pinset through hooks.
async fn hooked_stage() -> (Stage<()>, Hooked, Watched) {
    struct Through(std::sync::Mutex<Option<(Hooked, Watched)>>, Arc<StoreState>, FaultyIpfs);
    #[async_trait]
    impl tracker_suite::Fixture for Through {
        type Guard = ();
        async fn tracker(&self, cx: TrackerContext) -> ((), Arc<dyn PinTracker>) {
            let hooked = Hooked::new(self.2.clone());
            let watched = Watched { state: self.1.clone(), pages: Arc::default(), fails: Arc::default() };
            *self.0.lock().unwrap() = Some((hooked.clone(), watched.clone()));
            let cx = TrackerContext::new(
                cx.peer,
                cx.peername.clone(),
                Arc::new(hooked),
                Arc::new(watched),
                cx.clock.clone(),
            );
            ((), Arc::new(StatelessTracker::new(StatelessConfig::default(), cx).unwrap()))
        }
    }
    let daemon = MemoryIpfs::new();
    let state = Arc::new(StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap());
    let faulty = FaultyIpfs::new(daemon.clone());
    let through = Through(std::sync::Mutex::default(), state.clone(), faulty.clone());
    let stage = Stage::over_faulty(&through, faulty, daemon, state).await;
    let (hooked, watched) = through.0.lock().unwrap().take().unwrap();
    (stage, hooked, watched)
}

fn recursive(stage: &Stage<()>, seed: u32) -> Pin {
    stage.pin_of(stage.content(seed), PinMode::Recursive)
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_work_names_its_key() {
    type Spoil = fn(&mut StatelessConfig);
    StatelessConfig::default().validate().unwrap();
    let cases: [(&str, Spoil); 6] = [
        ("queued_pins_remembered", |config| config.queued_pins_remembered = 0),
        ("max_pin_queue_size", |config| config.max_pin_queue_size = 0),
        ("concurrent_pins", |config| config.concurrent_pins = 0),
        ("concurrent_unpins", |config| config.concurrent_unpins = 0),
        ("priority_pin_max_age", |config| config.priority_pin_max_age = Duration::ZERO),
        ("priority_pin_max_retries", |config| config.priority_pin_max_retries = 0),
    ];
    for (key, spoil) in cases {
        let mut config = StatelessConfig::default();
        spoil(&mut config);
        let error = config.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn a_tracker_outside_of_a_runtime_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cx = runtime.block_on(async {
        let state = StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap();
        let clock = TokioClock::starting_at(Timestamp::UNIX_EPOCH);
        TrackerContext::new(here(), PEERNAME, Arc::new(MemoryIpfs::new()), Arc::new(state), Arc::new(clock))
    });
    let error = StatelessTracker::new(StatelessConfig::default(), cx).unwrap_err();
    assert!(error.to_string().contains("runtime"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_told_and_leaves_the_item_in_error() {
    let stage =
        stage(StatelessConfig { max_pin_queue_size: 2, concurrent_pins: 1, ..StatelessConfig::default() })
            .await;
    stage.ipfs.stall(IpfsCall::Pin);
    let running = recursive(&stage, 0);
    stage.add(&running).await;
    stage.wait(&running.cid, TrackerStatus::Pinning).await;
    for seed in 1..3 {
        stage.add(&recursive(&stage, seed)).await;
    }
    let refused = recursive(&stage, 3);
    stage.write(&refused).await;
    let error = stage.tracker.track(refused.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::QueueFull, QUEUE_FULL));
    let info = stage.tracker.status(&refused.cid).await.unwrap();
    assert_eq!((info.status.status, info.status.error.as_str()), (TrackerStatus::PinError, QUEUE_FULL));
    assert_eq!(stage.tracker.recover(&refused.cid).await.unwrap_err().kind(), ErrorKind::QueueFull);
    // Old pins wait elsewhere.
    let old = Pin { timestamp: None, ..recursive(&stage, 4) };
    stage.add(&old).await;
    stage.ipfs.unstall(IpfsCall::Pin);
    stage.wait_idle().await;
    stage.tracker.recover(&refused.cid).await.unwrap();
    stage.wait(&refused.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn pins_that_wait_for_space_are_tried_one_at_a_time_at_growing_intervals_and_what_fits_is_found() {
    let stage = stage(StatelessConfig { concurrent_pins: 3, ..StatelessConfig::default() }).await;
    let full = Error::new(ErrorKind::StorageFull, "no space left on device");
    stage.ipfs.fail_next(IpfsCall::Pin, 1_000, full.clone());
    let pins: Vec<_> = (0..10).map(|seed| recursive(&stage, seed)).collect();
    for pin in &pins {
        stage.add(pin).await;
    }
    stage.wait_counts(|counts| counts.waiting_for_space == 10).await;
    let mut tried = stage.ipfs.count(IpfsCall::Pin).begun;
    assert!(tried <= 3, "only what ran when it was found out: {tried}");
    let mut last = tokio::time::Instant::now();
    for seconds in [30, 60, 120, 240, 480, 600, 600] {
        stage.ipfs.wait_count(IpfsCall::Pin, |count| count.begun > tried).await;
        assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, tried + 1);
        assert_eq!(last.elapsed().as_secs_f64().round(), f64::from(seconds));
        (tried, last) = (tried + 1, tokio::time::Instant::now());
    }
    // Each in its turn, so that one that is too large does not keep away those that fit.
    let mut events = stage.tracker.events();
    let turns = stage.tracker.clone();
    let order = pinning_order(&mut events, 10);
    let ask = async move {
        for _ in 0..10 {
            turns.recover(&pins[0].cid).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        pins
    };
    let (order, pins) = futures::join!(order, ask);
    let distinct: std::collections::BTreeSet<_> = order.iter().collect();
    assert_eq!(distinct.len(), pins.len());
    stage.ipfs.stop_failing(IpfsCall::Pin);
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn pins_beyond_what_is_remembered_wait_like_the_others_and_are_all_pinned() {
    let config =
        StatelessConfig { queued_pins_remembered: 20, concurrent_pins: 5, ..StatelessConfig::default() };
    let stage = stage(config).await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    let pins: Vec<_> = (0..3_000).map(|seed| recursive(&stage, seed)).collect();
    stage.write_all(pins.clone()).await;
    let queued = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(queued.len(), pins.len());
    assert!(queued.iter().all(|info| info.status.status == TrackerStatus::PinQueued));
    let counts = stage.tracker.counts();
    assert_eq!(counts.pin_queued + counts.pinning, 3_000);
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), [], "all of them wait already");
    let all = stage.list(StatusFilter::ALL).await;
    let waiting = stage.list(TrackerStatus::PinQueued.into()).await;
    assert_eq!((all.len(), waiting.len()), (3_000, 2_995));
    assert_eq!(stage.list(TrackerStatus::UnexpectedlyUnpinned.into()).await, []);
    for info in waiting.iter().step_by(100) {
        assert_eq!(stage.status(&info.cid).await, TrackerStatus::PinQueued);
    }
    // What leaves the pinset is not pinned, what comes is.
    let gone = waiting.last().unwrap().cid;
    stage.remove(&gone).await;
    let late = recursive(&stage, 5_000);
    stage.add(&late).await;
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 3_000);
    assert_eq!(stage.status(&late.cid).await, TrackerStatus::Pinned);
    assert!(!stage.is_held(&gone, PinMode::Recursive).await);
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 3_000, "each once");
    assert_eq!(stage.tracker.counts(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn pins_that_are_not_remembered_wait_for_space_and_for_a_daemon_that_comes_back() {
    let config =
        StatelessConfig { queued_pins_remembered: 4, concurrent_pins: 2, ..StatelessConfig::default() };
    let stage = stage(config).await;
    stage.ipfs.fail_next(IpfsCall::Pin, 1_000, Error::new(ErrorKind::StorageFull, "no space left"));
    for seed in 0..100 {
        stage.add(&recursive(&stage, seed)).await;
    }
    stage.wait_counts(|counts| counts.waiting_for_space == 100).await;
    let waiting = stage.list(TrackerStatus::PinQueued.into()).await;
    assert_eq!(waiting.len(), 100);
    assert!(waiting.iter().all(|info| info.status.error.contains("no space left")));
    stage.ipfs.down("pulled the plug");
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    stage.ipfs.stop_failing(IpfsCall::Pin);
    stage.ipfs.up();
    stage.wait_listed().await;
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn freed_space_and_unpins_bring_the_next_try() {
    let stage = stage(StatelessConfig::default()).await;
    let held = stage.add_pinned(100).await;
    let (first, second) = (recursive(&stage, 1), recursive(&stage, 2));
    for (pin, unpins) in [(&first, false), (&second, true)] {
        stage.ipfs.fail_next(IpfsCall::Pin, 1_000, Error::new(ErrorKind::StorageFull, "no space left"));
        stage.add(pin).await;
        stage.wait_counts(|counts| counts.waiting_for_space == 1).await;
        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        stage.ipfs.stop_failing(IpfsCall::Pin);
        let started = tokio::time::Instant::now();
        if unpins {
            stage.remove(&held).await;
        } else {
            stage.tracker.space_freed();
        }
        stage.wait(&pin.cid, TrackerStatus::Pinned).await;
        assert!(started.elapsed() <= Duration::from_secs(31), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn pins_wait_while_less_is_left_than_the_configuration_wants() {
    let config = StatelessConfig { free_space_min: 1 << 60, ..StatelessConfig::default() };
    let stage = stage(config).await;
    let pin = recursive(&stage, 1);
    stage.add(&pin).await;
    stage.wait_counts(|counts| counts.waiting_for_space == 1).await;
    let info = stage.tracker.status(&pin.cid).await.unwrap();
    assert!(info.status.error.contains("free_space_min"), "{info:?}");
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 0);
    // A daemon that does not say how much is left is no reason to wait.
    stage.ipfs.fail_next(IpfsCall::RepoStat, 1_000, Error::new(ErrorKind::Remote, "no"));
    stage.tracker.recover(&pin.cid).await.unwrap();
    stage.wait(&pin.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_finds_no_content_lets_the_others_go_on() {
    let stage = stage(StatelessConfig { concurrent_pins: 1, ..StatelessConfig::default() }).await;
    stage.ipfs.fail_next(IpfsCall::Pin, 1, Error::new(ErrorKind::StorageFull, "no space left"));
    let nobody_has =
        stage.pin_of(ipfs_cluster::testing::tracker_suite::missing_content(1), PinMode::Recursive);
    stage.add(&nobody_has).await;
    stage.wait_counts(|counts| counts.waiting_for_space == 1).await;
    let there = recursive(&stage, 1);
    stage.add(&there).await;
    stage.wait(&there.cid, TrackerStatus::Pinned).await;
    stage.wait(&nobody_has.cid, TrackerStatus::PinError).await;
}

#[tokio::test(start_paused = true)]
async fn recover_all_goes_on_after_a_full_queue() {
    let stage =
        stage(StatelessConfig { max_pin_queue_size: 3, concurrent_pins: 1, ..StatelessConfig::default() })
            .await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    stage.write_all((0..20).map(|seed| recursive(&stage, seed)).collect()).await;
    let recovered = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(recovered.len(), 20);
    let queued = recovered.iter().filter(|info| info.status.status == TrackerStatus::PinQueued).count();
    assert!((3..=4).contains(&queued), "{queued}");
    let refused =
        |info: &&PinInfo| info.status.status == TrackerStatus::PinError && info.status.error == QUEUE_FULL;
    assert_eq!(recovered.iter().filter(refused).count(), 20 - queued);
    for _ in 0..10 {
        stage.wait_idle().await;
        collect(stage.tracker.recover_all()).await.unwrap();
    }
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn unpins_that_found_no_room_are_not_forgotten() {
    let stage =
        stage(StatelessConfig { max_pin_queue_size: 3, concurrent_unpins: 1, ..StatelessConfig::default() })
            .await;
    let mut cids = Vec::new();
    for seed in 0..10 {
        cids.push(stage.add_pinned(seed).await);
    }
    stage.ipfs.stall(IpfsCall::Unpin);
    let mut refused = 0;
    for cid in &cids {
        stage.erase(cid).await;
        refused += usize::from(stage.tracker.untrack(cid).await.is_err());
    }
    assert!(refused >= 6, "{refused}");
    assert_eq!(stage.list(TrackerStatus::UnpinError.into()).await.len(), refused);
    stage.ipfs.unstall(IpfsCall::Unpin);
    for _ in 0..5 {
        stage.wait_idle().await;
        collect(stage.tracker.recover_all()).await.unwrap();
    }
    stage.wait_idle().await;
    for cid in &cids {
        assert!(!stage.is_held(cid, PinMode::Recursive).await);
    }
    assert_eq!(stage.list(StatusFilter::ALL).await, []);
}

/// The CIDs that start to be pinned, in order.
async fn pinning_order(events: &mut BoxStream<'static, TrackerEvent>, count: usize) -> Vec<Cid> {
    let mut order = Vec::new();
    while order.len() < count {
        match events.next().await {
            Some(TrackerEvent::StatusChanged(info)) if info.status.status == TrackerStatus::Pinning => {
                order.push(info.cid);
            }
            Some(_) => {}
            None => panic!("no more events"),
        }
    }
    order
}

#[tokio::test(start_paused = true)]
async fn young_pins_that_did_not_fail_too_often_go_first() {
    let config = StatelessConfig {
        concurrent_pins: 1,
        priority_pin_max_age: Duration::from_secs(24 * 60 * 60),
        priority_pin_max_retries: 2,
        ..StatelessConfig::default()
    };
    let stage = stage(config).await;
    let troubled = recursive(&stage, 1);
    stage.write(&troubled).await;
    for attempt in 1..=3 {
        stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
        stage.tracker.recover(&troubled.cid).await.unwrap();
        stage.wait_idle().await;
        let status = stage.tracker.status(&troubled.cid).await.unwrap().status;
        assert_eq!((status.attempt_count, status.priority_pin), (attempt, true));
    }
    stage.ipfs.stall(IpfsCall::Pin);
    let running = recursive(&stage, 2);
    stage.add(&running).await;
    stage.wait(&running.cid, TrackerStatus::Pinning).await;
    let mut events = stage.tracker.events();
    let recovered = stage.tracker.recover(&troubled.cid).await.unwrap();
    assert!(!recovered.status.priority_pin, "tried too often");
    let day = Duration::from_secs(24 * 60 * 60);
    let old = Pin { timestamp: Some(stage.clock.now() - day * 2), ..recursive(&stage, 3) };
    let young = [recursive(&stage, 4), recursive(&stage, 5)];
    stage.add(&old).await;
    for pin in &young {
        stage.add(pin).await;
    }
    stage.ipfs.unstall(IpfsCall::Pin);
    let order = pinning_order(&mut events, 4).await;
    assert_eq!(order, [young[0].cid, young[1].cid, troubled.cid, old.cid]);
}

#[tokio::test(start_paused = true)]
async fn no_more_operations_run_than_configured() {
    let stage =
        stage(StatelessConfig { concurrent_pins: 3, concurrent_unpins: 2, ..StatelessConfig::default() })
            .await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    stage.ipfs.slow(IpfsCall::Unpin, Duration::from_secs(1));
    let pins: Vec<_> = (0..12).map(|seed| recursive(&stage, seed)).collect();
    for pin in &pins {
        stage.add(pin).await;
    }
    stage.wait_idle().await;
    for pin in &pins {
        stage.remove(&pin.cid).await;
    }
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running_max, 3);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).running_max, 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_leaves_an_error_and_the_others_go_on() {
    let (stage, hooked, _) = hooked_stage().await;
    hooked.panic_on_capacity.store(true, Ordering::Relaxed);
    let (bad, good) = (recursive(&stage, 1), recursive(&stage, 2));
    *hooked.panic_on.lock().unwrap() = Some(bad.cid);
    for _ in 0..20 {
        stage.add(&bad).await;
        let failed = stage.wait(&bad.cid, TrackerStatus::PinError).await;
        assert!(failed.status.error.contains("panicked: told to panic"), "{failed:?}");
    }
    stage.add(&good).await;
    stage.wait(&good.cid, TrackerStatus::Pinned).await;
    *hooked.panic_on.lock().unwrap() = None;
    stage.tracker.recover(&bad.cid).await.unwrap();
    stage.wait(&bad.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn a_pinset_that_cannot_be_read_fails_the_operation_and_the_question() {
    let (stage, _, watched) = hooked_stage().await;
    let pin = recursive(&stage, 1);
    stage.write(&pin).await;
    watched.fails.store(true, Ordering::Relaxed);
    stage.tracker.track(pin.clone()).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.tracker.counts().pin_error, 1);
    assert_eq!(stage.tracker.status(&pin.cid).await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(stage.tracker.untrack(&pin.cid).await.unwrap_err().kind(), ErrorKind::Io);
    watched.fails.store(false, Ordering::Relaxed);
    let info = stage.tracker.status(&pin.cid).await.unwrap();
    assert!(info.status.error.contains("the disk is gone"), "{info:?}");
    stage.tracker.recover(&pin.cid).await.unwrap();
    stage.wait(&pin.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn operations_that_finish_while_the_daemon_is_listed_win_over_the_listing() {
    let (stage, hooked, _) = hooked_stage().await;
    let removed = stage.add_pinned(1).await;
    let kept = stage.add_pinned(2).await;
    stage.wait_listed().await;
    hooked.gate.send_replace(false);
    let listings = stage.ipfs.count(IpfsCall::ListPins).answered;
    let syncing = tokio::spawn(collect(stage.tracker.sync_all()));
    stage.ipfs.wait_count(IpfsCall::ListPins, |count| count.answered > listings).await;
    // The listing has seen what comes now as it was.
    let added = recursive(&stage, 3);
    stage.add(&added).await;
    stage.remove(&removed).await;
    stage.wait_idle().await;
    assert!(stage.is_held(&added.cid, PinMode::Recursive).await);
    hooked.gate.send_replace(true);
    assert_eq!(syncing.await.unwrap().unwrap(), []);
    assert_eq!(stage.listed_status(&added.cid).await, Some(TrackerStatus::Pinned));
    assert_eq!(stage.listed_status(&kept).await, Some(TrackerStatus::Pinned));
    // Had the listing won, this would be found lost.
    stage.write(&stage.pin_of(removed, PinMode::Recursive)).await;
    assert_eq!(stage.listed_status(&removed).await, Some(TrackerStatus::UnexpectedlyUnpinned));
}

#[tokio::test(start_paused = true)]
async fn an_answer_older_than_the_operation_that_just_ended_is_not_used() {
    let (stage, hooked, _) = hooked_stage().await;
    stage.wait_listed().await;
    let pins = [recursive(&stage, 1), recursive(&stage, 2)];
    for pin in &pins {
        stage.write(pin).await;
    }
    hooked.gate.send_replace(false);
    let status = tokio::spawn({
        let (tracker, cid) = (stage.tracker.clone(), pins[0].cid);
        async move { tracker.status(&cid).await }
    });
    let sync = tokio::spawn({
        let (tracker, cid) = (stage.tracker.clone(), pins[1].cid);
        async move { tracker.sync(&cid).await }
    });
    stage.ipfs.wait_count(IpfsCall::IsPinned, |count| count.answered == 2).await;
    for pin in &pins {
        stage.tracker.track(pin.clone()).await.unwrap();
    }
    stage.wait_idle().await;
    hooked.gate.send_replace(true);
    assert_eq!(status.await.unwrap().unwrap().status.status, TrackerStatus::Pinned);
    assert_eq!(sync.await.unwrap().unwrap().status.status, TrackerStatus::Pinned);
    assert_eq!(stage.listed_status(&pins[1].cid).await, Some(TrackerStatus::Pinned));
}

#[tokio::test(start_paused = true)]
async fn a_failure_during_a_listing_is_not_forgiven_by_it() {
    let (stage, hooked, _) = hooked_stage().await;
    stage.wait_listed().await;
    let pin = recursive(&stage, 1);
    stage.daemon.pin(&pin).await.unwrap();
    hooked.gate.send_replace(false);
    let listings = stage.ipfs.count(IpfsCall::ListPins).answered;
    let syncing = tokio::spawn(collect(stage.tracker.sync_all()));
    stage.ipfs.wait_count(IpfsCall::ListPins, |count| count.answered > listings).await;
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&pin).await;
    stage.wait(&pin.cid, TrackerStatus::PinError).await;
    hooked.gate.send_replace(true);
    syncing.await.unwrap().unwrap();
    assert_eq!(stage.status(&pin.cid).await, TrackerStatus::PinError);
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(changed.len(), 1);
    assert_eq!(stage.status(&pin.cid).await, TrackerStatus::Pinned);
}

/// Listings of both modes that began so far.
fn listings(stage: &Stage<()>) -> u64 {
    stage.ipfs.count(IpfsCall::ListPins).begun / 2
}

#[tokio::test(start_paused = true)]
async fn the_daemon_is_listed_at_the_interval_and_rests_ten_times_as_long() {
    let interval = Duration::from_secs(60);
    let stage = stage(StatelessConfig { ipfs_sync_interval: interval, ..StatelessConfig::default() }).await;
    stage.wait_listed().await;
    assert_eq!(listings(&stage), 1);
    tokio::time::sleep(interval * 10 + Duration::from_secs(1)).await;
    assert_eq!(listings(&stage), 11);
    // Both modes together take 40 s: ten times that is more than the interval.
    stage.ipfs.slow(IpfsCall::ListPins, Duration::from_secs(20));
    collect(stage.tracker.sync_all()).await.unwrap();
    let before = listings(&stage);
    tokio::time::sleep(Duration::from_secs(399)).await;
    assert_eq!(listings(&stage), before);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(listings(&stage), before + 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_interval_the_daemon_is_listed_only_when_there_is_a_reason() {
    let config = StatelessConfig { ipfs_sync_interval: Duration::ZERO, ..StatelessConfig::default() };
    let stage = stage(config).await;
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    assert_eq!(listings(&stage), 1);
    // Callers share a listing.
    let (first, second) =
        futures::join!(collect(stage.tracker.sync_all()), collect(stage.tracker.sync_all()));
    assert_eq!((first.unwrap(), second.unwrap()), (vec![], vec![]));
    assert_eq!(listings(&stage), 2);
    stage.ipfs.down("for a while");
    tokio::time::sleep(Duration::from_secs(60)).await;
    stage.ipfs.up();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(listings(&stage), 3);
}

#[tokio::test(start_paused = true)]
async fn recover_all_does_not_believe_what_was_known_of_a_daemon_that_went_away() {
    let stage = default_stage().await;
    let (kept, lost) = (stage.add_pinned(1).await, stage.add_pinned(2).await);
    stage.wait_listed().await;
    for notice in [Duration::ZERO, Duration::from_secs(1)] {
        stage.ipfs.down("being replaced");
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.daemon.unpin(&lost).await.unwrap();
        stage.ipfs.slow(IpfsCall::ListPins, Duration::from_secs(5));
        stage.ipfs.up();
        tokio::time::sleep(notice).await;
        let recovered = collect(stage.tracker.recover_all()).await.unwrap();
        assert_eq!(recovered.iter().map(|info| info.cid).collect::<Vec<_>>(), [lost]);
        stage.wait(&lost, TrackerStatus::Pinned).await;
        assert_eq!(stage.status(&kept).await, TrackerStatus::Pinned);
    }
}

#[tokio::test(start_paused = true)]
async fn until_the_daemon_was_listed_items_say_why_they_are_unknown() {
    let daemon = MemoryIpfs::new();
    let state = Arc::new(StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap());
    let faulty = FaultyIpfs::new(daemon.clone());
    faulty.fail_next(IpfsCall::ListPins, 2, refusal());
    let stage = Stage::over_faulty(&stateless(), faulty, daemon, state).await;
    let unknown = recursive(&stage, 1);
    stage.daemon.pin(&unknown).await.unwrap();
    stage.write(&unknown).await;
    let early = stage.list(StatusFilter::ALL).await;
    assert_eq!(early[0].status.status, TrackerStatus::ClusterError);
    assert!(early[0].status.error.contains("the first listing has not ended yet"), "{early:?}");
    // Recovering waits for a listing, and says that it knows no better.
    let failing = recursive(&stage, 2);
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&failing).await;
    let mut recovering = stage.tracker.recover_all();
    let recovered = recovering.next().await.unwrap().unwrap();
    assert_eq!(recovered[0].cid, failing.cid);
    let error = recovering.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("the daemon says no"), "{error}");
    stage.wait(&failing.cid, TrackerStatus::Pinned).await;
    // What we pinned ourselves is known to be held.
    let pinned = stage.list(TrackerStatus::Pinned.into()).await;
    assert_eq!(pinned.len(), 1);
    let errors = stage.list(StatusFilter::ERROR).await;
    assert!(errors[0].status.error.contains("the daemon says no"), "{errors:?}");
    // And it is tried again on its own.
    stage.wait_listed().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_says_nothing_is_given_up_and_tried_again() {
    let stage = default_stage().await;
    let cid = stage.add_pinned(1).await;
    stage.wait_listed().await;
    stage.ipfs.stall(IpfsCall::ListPins);
    let error = collect(stage.tracker.sync_all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Pinned));
    stage.daemon.unpin(&cid).await.unwrap();
    stage.ipfs.unstall(IpfsCall::ListPins);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::UnexpectedlyUnpinned));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_here_is_not_asked_about() {
    let stage = default_stage().await;
    stage.wait_listed().await;
    for seed in 0..100 {
        stage.add(&stage.remote_pin_of(missing_content(seed))).await;
    }
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
    assert_eq!(stage.ipfs.count(IpfsCall::IsPinned).begun, 0);
}

#[tokio::test(start_paused = true)]
async fn a_remote_pin_that_could_not_be_unpinned_is_retried() {
    let stage = default_stage().await;
    let cid = stage.add_pinned(1).await;
    stage.ipfs.fail_next(IpfsCall::Unpin, 1, refusal());
    stage.add(&stage.remote_pin_of(cid)).await;
    stage.wait_idle().await;
    let info = stage.tracker.status(&cid).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::Remote);
    assert!(info.status.error.contains("the daemon says no"), "{info:?}");
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
}

#[tokio::test(start_paused = true)]
async fn an_unpin_that_is_overtaken_may_finish_before_the_pin_starts() {
    let stage = default_stage().await;
    let cid = stage.add_pinned(1).await;
    for latency in [3, 30] {
        stage.ipfs.slow(IpfsCall::Unpin, Duration::from_secs(latency));
        stage.remove(&cid).await;
        stage.wait(&cid, TrackerStatus::Unpinning).await;
        stage.ipfs.wait_count(IpfsCall::Unpin, |count| count.running == 1).await;
        let started = Instant::now();
        let begun = stage.ipfs.count(IpfsCall::Pin).begun;
        stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
        assert_eq!(stage.status(&cid).await, TrackerStatus::PinQueued);
        stage.ipfs.wait_count(IpfsCall::Pin, |count| count.begun > begun).await;
        assert_eq!(started.elapsed().as_secs_f64().round() as u64, latency.min(10));
        stage.wait(&cid, TrackerStatus::Pinned).await;
        assert!(stage.is_held(&cid, PinMode::Recursive).await);
    }
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pin_whose_removal_got_lost_is_let_go_of_when_it_is_done() {
    let stage = default_stage().await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    let (removed, moved) = (recursive(&stage, 1), recursive(&stage, 2));
    for pin in [&removed, &moved] {
        stage.add(pin).await;
        stage.wait(&pin.cid, TrackerStatus::Pinning).await;
    }
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 2).await;
    stage.erase(&removed.cid).await;
    stage.write(&stage.remote_pin_of(moved.cid)).await;
    stage.wait_idle().await;
    for pin in [&removed, &moved] {
        assert!(!stage.is_held(&pin.cid, PinMode::Recursive).await);
    }
}

#[tokio::test(start_paused = true)]
async fn recover_all_gives_up_pins_whose_removal_got_lost() {
    let stage = default_stage().await;
    let pin = stage.pin_of(missing_content(1), PinMode::Recursive);
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    stage.erase(&pin.cid).await;
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1).await;
    stage.wait(&pin.cid, TrackerStatus::Unpinned).await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_with_new_origins_starts_again_with_them() {
    let stage = default_stage().await;
    let mut pin = stage.pin_of(missing_content(1), PinMode::Recursive);
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    stage.add(&pin).await;
    stage.wait(&pin.cid, TrackerStatus::Pinning).await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 1, "nothing new");
    pin.options.origins = vec![stage.daemon.address().clone()];
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1 && count.begun == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_is_dropped_stops() {
    let stage = default_stage().await;
    let pin = stage.pin_of(missing_content(1), PinMode::Recursive);
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    let listing = stage.tracker.status_all(StatusFilter::ALL);
    let ipfs = stage.ipfs.clone();
    drop(stage);
    ipfs.wait_count(IpfsCall::Pin, |count| count.running == 0).await;
    assert_eq!(collect(listing).await.unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test(start_paused = true)]
async fn the_daemon_going_and_coming_tells_to_compare() {
    let stage = default_stage().await;
    stage.wait_listed().await;
    let mut events = stage.tracker.events();
    stage.ipfs.down("for a while");
    assert!(matches!(events.next().await, Some(TrackerEvent::Resync)));
    stage.ipfs.up();
    assert!(matches!(events.next().await, Some(TrackerEvent::Resync)));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_items_are_listed_as_they_are_pulled() {
    const ITEMS: u32 = 100_000;
    let (stage, _, watched) = hooked_stage().await;
    let mut pins = Vec::new();
    for seed in 0..ITEMS {
        let cid = Block::raw(seed.to_be_bytes().to_vec()).cid;
        pins.push(if seed % 2 == 0 {
            stage.remote_pin_of(cid)
        } else {
            stage.pin_of(cid, PinMode::Recursive)
        });
    }
    stage.write_all(pins).await;
    stage.wait_listed().await;
    let pages_of = |watched: &Watched| watched.pages.swap(0, Ordering::Relaxed);
    pages_of(&watched);
    let mut listing = stage.tracker.status_all(StatusFilter::ALL);
    listing.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pages_of(&watched) <= 2, "pages are read before they are wanted");
    drop(listing);
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(all.len() as u32, ITEMS);
    let lost = all.iter().filter(|info| info.status.status == TrackerStatus::UnexpectedlyUnpinned);
    assert_eq!(lost.count() as u32, ITEMS / 2);
    pages_of(&watched);
    // What only operations show does not need the pinset.
    assert_eq!(stage.list(StatusFilter::ERROR | StatusFilter::QUEUED).await, []);
    assert_eq!(pages_of(&watched), 0);
    // Nobody pulls: nothing is queued but what was pulled.
    let mut recovering = stage.tracker.recover_all();
    stage.ipfs.stall(IpfsCall::Pin);
    let first = recovering.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counts = stage.tracker.counts();
    assert_eq!(counts.pin_queued + counts.pinning, first.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn operations_beside_a_small_pinset_are_listed_to_the_last() {
    let stage = default_stage().await;
    stage.wait_listed().await;
    let mut expected = Vec::new();
    for seed in 0..5 {
        expected.push(stage.add_pinned(seed).await);
    }
    stage.ipfs.stall(IpfsCall::Unpin);
    for seed in 0..3000 {
        let cid = missing_content(seed);
        stage.tracker.untrack(&cid).await.unwrap();
        expected.push(cid);
    }
    expected.sort_by_key(Cid::to_bytes);
    for filter in [StatusFilter::ALL, "pinned,unpin_queued,unpinning".parse().unwrap()] {
        let listed: Vec<_> = stage.list(filter).await.iter().map(|info| info.cid).collect();
        assert_eq!(listed, expected);
    }
    let unpins = stage.list("unpin_queued,unpinning".parse().unwrap()).await;
    assert_eq!(unpins.len(), 3000);
    // The end of a page of operations may be the end of the page of pins, or of everything.
    for left in [2048, 1025, 1024, 1023] {
        let cids: Vec<_> = stage.list(TrackerStatus::UnpinQueued.into()).await;
        for info in cids.iter().skip(left - 4) {
            stage.write(&stage.remote_pin_of(info.cid)).await;
            stage.tracker.track(stage.remote_pin_of(info.cid)).await.unwrap();
        }
        let all = stage.list(StatusFilter::ALL).await;
        assert_eq!(all.len(), expected.len());
        let unpins = stage.list("unpin_queued,unpinning".parse().unwrap()).await;
        assert_eq!(unpins.len(), left);
    }
}

/// Everything a run shows, for comparison with another run.
async fn trace(seed: u64) -> Vec<String> {
    let stage = default_stage().await;
    let mut events = stage.tracker.events();
    let mut random = seed;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_millis(7));
    for _ in 0..300 {
        let pin = recursive(&stage, next(20) as u32);
        match next(10) {
            0..4 => stage.add(&pin).await,
            4..6 => stage.remove(&pin.cid).await,
            6 => stage.add(&stage.remote_pin_of(pin.cid)).await,
            7 => stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal()),
            8 => drop(collect(stage.tracker.recover_all()).await),
            _ => tokio::time::sleep(Duration::from_millis(next(30))).await,
        }
    }
    stage.ipfs.stop_failing(IpfsCall::Pin);
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    for info in stage.list(StatusFilter::ALL).await {
        let expected =
            if info.allocations.is_empty() { TrackerStatus::Pinned } else { TrackerStatus::Remote };
        assert_eq!(info.status.status, expected, "seed {seed}: {info:?}");
        let held = stage.is_held(&info.cid, PinMode::Recursive).await;
        assert_eq!(held, expected == TrackerStatus::Pinned, "seed {seed}: {info:?}");
    }
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), [], "seed {seed}");
    stage.tracker.shutdown().await.unwrap();
    let mut lines = Vec::new();
    while let Some(event) = events.next().await {
        lines.push(format!("{event:?}"));
    }
    lines
}

#[test]
fn any_order_of_events_ends_as_the_pinset_says_and_a_seed_always_runs_the_same() {
    let run = |seed| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(trace(seed))
    };
    for seed in 0..24 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_end_as_the_pinset_says() {
    let stage = Arc::new(default_stage().await);
    let pins: Vec<_> = (0..40).map(|seed| recursive(&stage, seed)).collect();
    // Writing the pinset is one writer's business, telling of it is not.
    let mut expected = BTreeMap::new();
    for round in 0..30 {
        let mut calls = Vec::new();
        for (number, pin) in pins.iter().enumerate() {
            let wanted = (number + round) % 3 != 0;
            expected.insert(number, wanted);
            if wanted {
                stage.write(pin).await;
            } else {
                stage.erase(&pin.cid).await;
            }
            let (tracker, pin) = (Arc::clone(&stage.tracker), pin.clone());
            calls.push(tokio::spawn(async move {
                if wanted { tracker.track(pin).await } else { tracker.untrack(&pin.cid).await }
            }));
        }
        let (listed, synced) = futures::join!(
            collect(stage.tracker.status_all(StatusFilter::ALL)),
            collect(stage.tracker.sync_all())
        );
        listed.unwrap();
        synced.unwrap();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    stage.wait_idle().await;
    for (number, wanted) in expected {
        assert_eq!(stage.is_held(&pins[number].cid, PinMode::Recursive).await, wanted, "pin {number}");
    }
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
    stage.tracker.shutdown().await.unwrap();
}
