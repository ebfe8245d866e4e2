//! Consensus components through the conformance suite, and what is particular to each.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use ipfs_cluster::clock::SystemClock;
#[cfg(feature = "consensus-crdt")]
use ipfs_cluster::consensus::Alive;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Solo, SoloConfig, StateEvent};
#[cfg(feature = "consensus-crdt")]
use ipfs_cluster::consensus::{Crdt, CrdtConfig};
use ipfs_cluster::error::{Error, ErrorKind, Result};
#[cfg(feature = "consensus-crdt")]
use ipfs_cluster::exchange::{ExchangeMaker, StreamExchange};
use ipfs_cluster::state::StoreState;
use ipfs_cluster::storage::{
    FjallConfig, FjallStorage, MemoryStorage, RedbConfig, RedbStorage, Storage, VALUE_BYTES_MAX,
};
use ipfs_cluster::testing::consensus_suite::Fixture;
use ipfs_cluster::testing::state_suite::{Model, assert_same, cid, pin};
use ipfs_cluster::testing::{CrashStorage, FaultyStorage, StorageCall, peer};
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::{PeerId, PinOperation};
use tempfile::TempDir;

const EVENTS: usize = 64;

/// Opens the component under test in a store.
type Open = fn(Arc<dyn Storage>) -> BoxFuture<'static, Arc<dyn Consensus>>;

const SOLO: Open = |storage| solo(storage).boxed();

async fn context(storage: Arc<dyn Storage>) -> ConsensusContext {
    let transport = MemoryNetwork::new(0).join(peer(1)).unwrap();
    let state = Arc::new(StoreState::open(Arc::clone(&storage)).await.unwrap());
    ConsensusContext::new(peer(1), storage, state, Arc::new(transport), Arc::new(SystemClock))
}

async fn solo(storage: Arc<dyn Storage>) -> Arc<dyn Consensus> {
    let mut config = SoloConfig::default();
    config.max_buffered_events = EVENTS;
    Arc::new(Solo::open(config, context(storage).await).await.unwrap())
}

#[cfg(feature = "consensus-crdt")]
mod crdt {
    use super::*;

    pub(super) async fn context(storage: Arc<dyn Storage>) -> ConsensusContext {
        let mut cx = super::context(storage).await;
        let transport = cx.transport.clone();
        cx.exchange =
            ExchangeMaker::new(move |source| Ok(Arc::new(StreamExchange::new(transport.clone(), source)?)));
        cx
    }

    async fn open(storage: Arc<dyn Storage>, operations: usize, age: Duration) -> Arc<dyn Consensus> {
        let mut config = CrdtConfig::default();
        config.max_buffered_events = EVENTS;
        config.batching.max_batch_size = operations;
        config.batching.max_batch_age = age;
        Arc::new(Crdt::open(config, context(storage).await).await.unwrap())
    }

    /// As the reference by default.
    pub(super) const AT_ONCE: Open = |storage| open(storage, 0, Duration::ZERO).boxed();
    /// So large that nothing is cut by age in a test, and some by size.
    pub(super) const BATCHED: Open = |storage| open(storage, 70, Duration::from_secs(600)).boxed();
    /// Something is cut by age all the time.
    pub(super) const HASTY: Open = |storage| open(storage, 1_000_000, Duration::from_millis(2)).boxed();

    ipfs_cluster::consensus_conformance!(crdt_power_cut, PowerCut(crdt::AT_ONCE));
    ipfs_cluster::consensus_conformance!(crdt_power_cut_batched, PowerCut(crdt::BATCHED));
    ipfs_cluster::consensus_conformance!(crdt_power_cut_hasty, PowerCut(crdt::HASTY));
    ipfs_cluster::consensus_conformance!(crdt_memory, InMemory(crdt::AT_ONCE));
    ipfs_cluster::consensus_conformance!(crdt_memory_batched, InMemory(crdt::BATCHED));
    ipfs_cluster::consensus_conformance!(crdt_fjall, OnDisk::fjall(crdt::AT_ONCE));
    ipfs_cluster::consensus_conformance!(crdt_fjall_batched, OnDisk::fjall(crdt::BATCHED));
    ipfs_cluster::consensus_conformance!(crdt_redb, OnDisk::redb(crdt::AT_ONCE));
    ipfs_cluster::consensus_conformance!(crdt_redb_batched, OnDisk::redb(crdt::BATCHED));

    #[tokio::test]
    async fn without_a_block_exchange_it_does_not_open() {
        let cx = super::context(Arc::new(MemoryStorage::new())).await;
        let error = Crdt::open(CrdtConfig::default(), cx).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("block exchange"), "{error}");
    }

    #[tokio::test]
    async fn a_pinset_of_somebody_else_is_not_taken_over() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let solo = solo(storage.clone()).await;
        solo.log_pin(pin(1)).await.unwrap();
        solo.shutdown().await.unwrap();
        let error = Crdt::open(CrdtConfig::default(), context(storage).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }

    #[tokio::test]
    async fn members_are_those_who_live() {
        let mut cx = context(Arc::new(MemoryStorage::new())).await;
        cx.alive = Alive::new(|| vec![peer(3), peer(1), peer(2), peer(3)]);
        let crdt = Crdt::open(CrdtConfig::default(), cx).await.unwrap();
        let mut members = vec![peer(1), peer(2), peer(3)];
        members.sort();
        assert_eq!(crdt.peers().await.unwrap(), members);
    }
}

/// On a store that loses what was not synced.
struct PowerCut(Open);

#[async_trait]
impl Fixture for PowerCut {
    type Guard = Arc<CrashStorage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let storage = Arc::new(CrashStorage::new());
        (storage.clone(), (self.0)(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        storage.close().unwrap();
        *storage = Arc::new(storage.crash());
        Some((self.0)(storage.clone()).await)
    }

    async fn crash(&self, storage: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        *storage = Arc::new(storage.crash());
        Some((self.0)(storage.clone()).await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(solo_power_cut, PowerCut(SOLO));

struct InMemory(Open);

#[async_trait]
impl Fixture for InMemory {
    type Guard = Arc<dyn Storage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        (storage.clone(), (self.0)(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        Some((self.0)(storage.clone()).await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(solo_memory, InMemory(SOLO));

/// On an engine that keeps its store in a folder.
struct OnDisk {
    engine: fn(&Path) -> Arc<dyn Storage>,
    open: Open,
}

impl OnDisk {
    fn fjall(open: Open) -> Self {
        let engine = |path: &Path| -> Arc<dyn Storage> {
            Arc::new(FjallStorage::open(path, FjallConfig::default()).unwrap())
        };
        Self { engine, open }
    }

    fn redb(open: Open) -> Self {
        let engine = |path: &Path| -> Arc<dyn Storage> {
            Arc::new(RedbStorage::open(path, RedbConfig::default()).unwrap())
        };
        Self { engine, open }
    }
}

#[async_trait]
impl Fixture for OnDisk {
    type Guard = (Arc<dyn Storage>, TempDir);

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let folder = TempDir::new().unwrap();
        let storage = (self.engine)(&folder.path().join("store"));
        ((storage.clone(), folder), (self.open)(storage).await)
    }

    async fn reopen(
        &self,
        (storage, folder): &mut Self::Guard,
        _: Arc<dyn Consensus>,
    ) -> Option<Arc<dyn Consensus>> {
        storage.close().unwrap();
        *storage = (self.engine)(&folder.path().join("store"));
        Some((self.open)(storage.clone()).await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(solo_fjall, OnDisk::fjall(SOLO));
ipfs_cluster::consensus_conformance!(solo_redb, OnDisk::redb(SOLO));

async fn solo_on(storage: Arc<dyn Storage>) -> Arc<Solo> {
    Arc::new(Solo::open(SoloConfig::default(), context(storage).await).await.unwrap())
}

async fn log_all(solo: &Arc<Solo>, numbers: std::ops::Range<u64>) -> Vec<Result<()>> {
    let callers = numbers.map(|number| {
        let solo = solo.clone();
        tokio::spawn(async move { solo.log_pin(pin(number)).await })
    });
    join_all(callers).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn callers_share_writes() {
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let solo = solo_on(storage.clone()).await;
    let before = storage.calls(StorageCall::Write);
    for result in log_all(&solo, 0..1_000).await {
        result.unwrap();
    }
    let writes = storage.calls(StorageCall::Write) - before;
    assert!(writes <= 3, "{writes} writes for 1,000 calls that came at once");
}

#[tokio::test]
async fn a_batch_keeps_to_its_bounds_but_takes_a_large_call_whole() {
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let mut config = SoloConfig::default();
    config.max_batch_operations = 10;
    let solo = Arc::new(Solo::open(config, context(storage.clone()).await).await.unwrap());
    let before = storage.calls(StorageCall::Write);
    for result in log_all(&solo, 0..100).await {
        result.unwrap();
    }
    let writes = storage.calls(StorageCall::Write) - before;
    assert!((10..=12).contains(&writes), "{writes} writes");
    let operations = (100..200).map(|number| PinOperation::Pin(Arc::new(pin(number)))).collect();
    solo.log_many(operations).await.unwrap();
    assert_eq!(storage.calls(StorageCall::Write) - before, writes + 1);
}

#[tokio::test]
async fn a_full_disk_is_told_to_every_caller_and_survived() {
    let disk = Arc::new(CrashStorage::new());
    let storage = Arc::new(FaultyStorage::new(disk.clone()));
    let solo = solo_on(storage.clone()).await;
    solo.log_pin(pin(1_000)).await.unwrap();
    let mut events = solo.events();
    storage.fail(StorageCall::Write, 0, Error::new(ErrorKind::StorageFull, "no space left"));
    for result in log_all(&solo, 0..50).await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
    }
    assert_eq!(solo.log_unpin(&cid(1_000)).await.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_same(&*solo.state(), &Model::of([pin(1_000)])).await;
    storage.heal();
    for result in log_all(&solo, 0..50).await {
        result.unwrap();
    }
    assert_eq!(events.next().await, Some(StateEvent::Pinned(Arc::new(pin(0)))), "no event of what failed");
    solo.shutdown().await.unwrap();
    let again = solo_on(Arc::new(disk.crash())).await;
    assert_same(&*again.state(), &Model::of((0..50).chain([1_000]).map(pin))).await;
}

#[tokio::test]
async fn one_impossible_pin_does_not_fail_the_others() {
    // In one batch with them.
    let mut config = SoloConfig::default();
    config.max_batch_bytes = 4 * VALUE_BYTES_MAX;
    let solo = Arc::new(Solo::open(config, context(Arc::new(MemoryStorage::new())).await).await.unwrap());
    // The committer waits for calls once this is done, and then finds all of those below.
    solo.log_pin(pin(0)).await.unwrap();
    let mut impossible = pin(1_000);
    impossible.options.name = "x".repeat(VALUE_BYTES_MAX);
    let (results, refused) = tokio::join!(log_all(&solo, 0..50), solo.log_pin(impossible));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    for result in results {
        result.unwrap();
    }
    assert_same(&*solo.state(), &Model::of((0..50).map(pin))).await;
}

#[tokio::test]
async fn a_shutdown_tells_what_was_accepted_and_not_done() {
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let solo = solo_on(storage.clone()).await;
    storage.fail(StorageCall::Write, 0, Error::new(ErrorKind::StorageFull, "no space left"));
    let (logged, stopped, again) =
        tokio::join!(biased; solo.log_pin(pin(1)), solo.shutdown(), solo.shutdown());
    assert_eq!(logged.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(solo.log_pin(pin(1)).await.unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test]
async fn cleaning_tells_readers_to_compare() {
    let solo = solo_on(Arc::new(MemoryStorage::new())).await;
    solo.log_pin(pin(1)).await.unwrap();
    let mut events = solo.events();
    solo.clean().await.unwrap();
    assert_eq!(events.next().await, Some(StateEvent::Resync));
}

#[tokio::test(start_paused = true)]
async fn a_cleaning_that_failed_but_happened_is_told_once_the_disk_works() {
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let solo = solo_on(storage.clone()).await;
    solo.log_pin(pin(1)).await.unwrap();
    let mut events = solo.events();
    storage.fail_afterwards(StorageCall::Write, 0, Error::new(ErrorKind::Io, "the cable is out"));
    assert_eq!(solo.clean().await.unwrap_err().kind(), ErrorKind::Io);
    storage.heal();
    let told = tokio::time::timeout(Duration::from_secs(600), events.next()).await;
    assert_eq!(told.expect("it is told"), Some(StateEvent::Resync));
    assert_same(&*solo.state(), &Model::default()).await;
}

#[tokio::test]
async fn a_component_that_is_dropped_stops() {
    let solo = solo_on(Arc::new(MemoryStorage::new())).await;
    let mut events = solo.events();
    let state = solo.state();
    solo.log_pin(pin(1)).await.unwrap();
    drop(solo);
    assert_eq!(events.next().await, Some(StateEvent::Pinned(Arc::new(pin(1)))));
    assert_eq!(events.next().await, None);
    assert_same(&*state, &Model::of([pin(1)])).await;
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_by_name() {
    type Change = fn(&mut SoloConfig);
    let cases: [(&str, Change); 3] = [
        ("max_batch_operations", |config| config.max_batch_operations = 0),
        ("max_batch_bytes", |config| config.max_batch_bytes = 0),
        ("max_buffered_events", |config| config.max_buffered_events = usize::MAX),
    ];
    for (name, change) in cases {
        let mut config = SoloConfig::default();
        change(&mut config);
        let error = Solo::open(config, context(Arc::new(MemoryStorage::new())).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Runs some callers on paused time and gives everything that could be seen.
fn trace() -> Vec<String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
        let solo = solo_on(storage.clone()).await;
        let events = solo.events();
        let callers = (0..200u64).map(|number| {
            let solo = solo.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(number * 7_919 % 1_000)).await;
                solo.log_pin(pin(number % 50)).await.unwrap();
                format!("{:?}", solo.log_unpin(&cid(number % 30)).await.unwrap().map(|pin| pin.cid))
            })
        });
        let mut seen: Vec<String> = join_all(callers).await.into_iter().map(Result::unwrap).collect();
        solo.shutdown().await.unwrap();
        seen.extend(events.map(|event| format!("{event:?}")).collect::<Vec<_>>().await);
        seen.push(format!("{} writes", storage.calls(StorageCall::Write)));
        seen
    })
}

#[test]
fn a_simulation_repeats_itself() {
    assert_eq!(trace(), trace());
}
