//! What merging blocks of other peers costs a block, without the network that brings them.
//!
//! `cargo bench --no-default-features --features testing,storage-fjall,consensus-crdt --bench merge -- [blocks]`;
//! without `--bench`, as tests run it, everything is tiny. Blocks of one pin each, ten at each height, into a new store on
//! disk, in merges of several sizes. Times are those of the processor, so they depend little on what else is running;
//! only the last column is by the clock. Then the same as a new peer gets them when it walks, from the first one that is
//! merged: from an exchange that has all at once, and from another peer of the process by bitswap.

// A measurement prints what it found, and fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod shared;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Crdt, CrdtConfig};
use ipfs_cluster::error::Result;
use ipfs_cluster::exchange::{Bitswap, BlockExchange, BlockSource as _, ExchangeMaker, StreamExchange};
use ipfs_cluster::state::StoreState;
use ipfs_cluster::storage::{Batch, Durability, FjallConfig, FjallStorage, Snapshot, Space, Storage};
use ipfs_cluster::testing::{ForeignBlocks, peer};
use ipfs_cluster::transport::{MemoryNetwork, MemoryTransport, PeerTransport as _};
use ipfs_cluster::types::{Block, Cid, PeerId, Pin};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

// That of the programs, because a tenth of the time goes there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WIDTH: usize = 10;
/// Names of the threads of who merges, and of who has the blocks.
const PEER: &str = "peer";
const SOURCE: &str = "source";
const MERGES: [usize; 3] = [64, 256, 1_024];

fn pin(number: u64) -> Pin {
    shared::pin(number, "item")
}

fn clock(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[derive(Debug, Default)]
struct Time(AtomicU64);

impl Time {
    fn add(&self, from: Duration) {
        let spent = clock(ClockId::ThreadCPUTime).saturating_sub(from);
        self.0.fetch_add(spent.as_nanos() as u64, Ordering::Relaxed);
    }

    fn micros_for(&self, blocks: u64) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 / 1_000.0 / blocks as f64
    }
}

#[derive(Debug, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    bytes: u64,
}

/// A store that says what was asked of it.
#[derive(Debug)]
struct Watched {
    inner: FjallStorage,
    is_on: bool,
    reads: Time,
    state: Time,
    write: Time,
    synced: AtomicU64,
    spaces: Mutex<BTreeMap<&'static str, Counts>>,
}

thread_local! {
    /// When the pinset was asked what it is, which is where applying begins.
    static APPLYING: Cell<Option<Duration>> = const { Cell::new(None) };
}

impl Watched {
    fn count(&self, space: Space, count: impl FnOnce(&mut Counts)) {
        count(self.spaces.lock().unwrap().entry(space.name()).or_default());
    }
}

impl Storage for Watched {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        if !self.is_on {
            return self.inner.get(space, key);
        }
        let begun = clock(ClockId::ThreadCPUTime);
        if space.name() == "state-meta" {
            APPLYING.set(Some(begun));
        }
        let got = self.inner.get(space, key);
        self.reads.add(begun);
        self.count(space, |counts| counts.reads += 1);
        got
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        if !self.is_on {
            return self.inner.write(batch, durability);
        }
        if let Some(applying) = APPLYING.take() {
            self.state.add(applying);
        }
        for operation in batch.operations() {
            self.count(operation.space, |counts| {
                counts.writes += 1;
                counts.bytes += (operation.key.len() + operation.value.as_ref().map_or(0, Bytes::len)) as u64;
            });
        }
        self.synced.fetch_add(u64::from(durability == Durability::Synced), Ordering::Relaxed);
        let begun = clock(ClockId::ThreadCPUTime);
        let written = self.inner.write(batch, durability);
        self.write.add(begun);
        written
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        self.inner.snapshot()
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.inner.bulk_load(space, entries)
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        self.inner.remove_space(space)
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.inner.approximate_bytes()
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

/// What threads with such names took so far.
fn threads(named: &str) -> Duration {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").starts_with(named) {
            let spent = read("schedstat");
            nanos += spent.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanos)
}

async fn measure(blocks: &ForeignBlocks, pins: u64, at_a_time: usize, is_on: bool) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(Watched {
        inner: FjallStorage::open(folder.path().join("store"), FjallConfig::default()).unwrap(),
        is_on,
        reads: Time::default(),
        state: Time::default(),
        write: Time::default(),
        synced: AtomicU64::default(),
        spaces: Mutex::default(),
    });
    let network = MemoryNetwork::new(1);
    let transport = Arc::new(network.join(peer(1)).unwrap());
    let exchange = transport.clone();
    let exchange =
        ExchangeMaker::new(move |source| Ok(Arc::new(StreamExchange::new(exchange.clone(), source)?)));
    let crdt = open(storage.clone(), transport, exchange).await;

    let begun = clock(ClockId::ThreadCPUTime);
    let read = blocks.read().unwrap();
    let reading = clock(ClockId::ThreadCPUTime) - begun;
    let (begun, process, ours) = (Instant::now(), clock(ClockId::ProcessCPUTime), threads(PEER));
    read.merge(&crdt, at_a_time).await.unwrap();
    let elapsed = begun.elapsed();
    let (process, ours) = (clock(ClockId::ProcessCPUTime) - process, threads(PEER).saturating_sub(ours));
    assert_eq!(crdt.state().counts().pins, pins);

    let each = |time: Duration| time.as_secs_f64() * 1e6 / pins as f64;
    if is_on {
        let (reads, state, write) =
            (storage.reads.micros_for(pins), storage.state.micros_for(pins), storage.write.micros_for(pins));
        println!(
            "merges of {at_a_time}: {:.1} parsing | {:.1} committing: {state:.1} state, {write:.1} write, {:.1} rest; \
             {reads:.1} of them point reads; {} synced writes",
            each(reading),
            each(ours),
            each(ours) - state - write,
            storage.synced.load(Ordering::Relaxed),
        );
        for (space, counts) in &*storage.spaces.lock().unwrap() {
            let each = |count: u64| count as f64 / pins as f64;
            println!(
                "    {space}: {:.2} reads, {:.2} writes, {:.0} bytes",
                each(counts.reads),
                each(counts.writes),
                each(counts.bytes)
            );
        }
    } else {
        println!(
            "merges of {at_a_time}: {:.1} parsing | {:.1} committing | {:.1} the engine's threads | {:.1} by the clock",
            each(reading),
            each(ours),
            each(process.saturating_sub(ours)),
            each(elapsed)
        );
    }
    crdt.shutdown().await.unwrap();
}

async fn open(storage: Arc<dyn Storage>, transport: Arc<MemoryTransport>, exchange: ExchangeMaker) -> Crdt {
    let state = Arc::new(StoreState::open(storage.clone()).await.unwrap());
    let mut cx = ConsensusContext::new(peer(1), storage, state, transport, Arc::new(SystemClock));
    cx.exchange = exchange;
    let mut config = CrdtConfig::default();
    config.trust_all = true;
    let crdt = Crdt::open(config, cx).await.unwrap();
    let mut events = crdt.events();
    tokio::spawn(async move { while events.next().await.is_some() {} });
    crdt
}

/// Blocks that are here at once.
#[derive(Debug)]
struct AtOnce(Arc<ForeignBlocks>);

#[async_trait]
impl BlockExchange for AtOnce {
    async fn get(&self, cid: &Cid, _hint: Option<PeerId>) -> Result<Block> {
        match self.0.get(cid)? {
            Some(data) => Ok(Block { cid: *cid, data: Bytes::copy_from_slice(&data) }),
            None => std::future::pending().await,
        }
    }

    async fn fetch(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        self.get(cid, hint).await
    }

    fn get_many(&self, _cids: Vec<Cid>, _hint: Option<PeerId>) -> BoxStream<'static, Result<Block>> {
        futures::stream::pending().boxed()
    }

    async fn announce(&self, _cids: &[Cid]) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

/// A new peer hears of the heads, and walks.
fn walk(blocks: &Arc<ForeignBlocks>, pins: u64, is_bitswap: bool) {
    let (ours, others) = (runtime(PEER), runtime(SOURCE));
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> =
        Arc::new(FjallStorage::open(folder.path().join("store"), FjallConfig::default()).unwrap());
    let network = MemoryNetwork::new(1);
    let source = Arc::new({
        let _guard = others.enter();
        network.join(peer(2)).unwrap()
    });
    let serving = is_bitswap.then(|| {
        let _guard = others.enter();
        Bitswap::new(source.clone(), blocks.clone()).unwrap()
    });
    let all = blocks.clone();
    let crdt = ours.block_on(async {
        let transport = Arc::new(network.join(peer(1)).unwrap());
        let exchange = transport.clone();
        let exchange = ExchangeMaker::new(move |source| {
            Ok(if is_bitswap {
                Arc::new(Bitswap::new(exchange.clone(), source)?)
            } else {
                Arc::new(AtOnce(all.clone()))
            })
        });
        let crdt = open(storage.clone(), transport.clone(), exchange).await;
        transport.connect(&source.listen_addresses()[0]).await.unwrap();
        crdt
    });
    let (topic, message) = blocks.announcement(&CrdtConfig::default().cluster_name);
    let spent = || (threads(PEER), threads(SOURCE), threads("fjall"));
    let (mut begun, mut before, mut told) = (Instant::now(), spent(), Instant::now());
    let mut has_begun = false;
    others.block_on(async { source.publish(&topic, message.clone()).await.unwrap() });
    loop {
        let merged = crdt.state().counts().pins;
        if merged == pins {
            break;
        }
        if merged > 0 && !has_begun {
            (begun, before, has_begun) = (Instant::now(), spent(), true);
        }
        if merged == 0 && told.elapsed() > Duration::from_millis(500) {
            others.block_on(async { source.publish(&topic, message.clone()).await.unwrap() });
            told = Instant::now();
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "it never has all");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (elapsed, after) = (begun.elapsed(), spent());
    let each = |time: Duration| time.as_secs_f64() * 1e6 / pins as f64;
    println!(
        "a walk, {}: {:.1} by the clock | {:.1} the peer, {:.1} the engine's threads, {:.1} the other peer",
        if is_bitswap { "blocks by bitswap" } else { "blocks at once" },
        each(elapsed),
        each(after.0.saturating_sub(before.0)),
        each(after.2.saturating_sub(before.2)),
        each(after.1.saturating_sub(before.1)),
    );
    ours.block_on(crdt.shutdown()).unwrap();
    drop(serving);
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build().unwrap()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let pins =
        arguments.find_map(|argument| argument.parse().ok()).unwrap_or(if is_bench { 40_000 } else { 1_000 });
    let all: Vec<Pin> = (0..pins).map(pin).collect();
    let blocks = Arc::new(ForeignBlocks::new(&all, WIDTH));
    println!("{pins} blocks of one pin each; microseconds a block");
    let runtime = runtime(PEER);
    for at_a_time in MERGES {
        runtime.block_on(measure(&blocks, pins, at_a_time, false));
        runtime.block_on(measure(&blocks, pins, at_a_time, true));
    }
    walk(&blocks, pins, false);
    walk(&blocks, pins, true);
}
