//! The stateless tracker: its conformance suite, its limits, and what happens at the same time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod listing;
mod many;
mod operations;
mod queue;
mod space;

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
    async fn hold(&self, lease: Block) -> Result<()> {
        self.ipfs.hold(lease).await
    }
    async fn release(&self, leases: &[Cid]) -> Result<()> {
        self.ipfs.release(leases).await
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
