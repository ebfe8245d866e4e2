//! What catching up costs: a peer that joins, and one that was away.
//!
//! `cargo bench --no-default-features --features testing,storage-fjall,consensus-crdt --bench catchup -- [pins]`;
//! without `--bench`, as tests run it, everything is tiny. Two peers of one process over the in-memory network, each
//! with its own fjall store on disk.

// A measurement prints what it found, and fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod shared;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Crdt, CrdtConfig};
use ipfs_cluster::exchange::{ExchangeMaker, StreamExchange};
use ipfs_cluster::state::{StateReader, StoreState};
use ipfs_cluster::storage::{FjallConfig, FjallStorage, Storage};
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::cid;
use ipfs_cluster::transport::{MemoryNetwork, MemoryTransport, PeerTransport};
use ipfs_cluster::types::PinOperation;

const BATCH: u64 = 500;

fn pin(number: u64, name: &str) -> PinOperation {
    PinOperation::Pin(Arc::new(shared::pin(number, name)))
}

struct Member {
    storage: Arc<dyn Storage>,
    transport: Arc<MemoryTransport>,
    crdt: Crdt,
}

async fn start(network: &MemoryNetwork, number: u64, folder: &Path, batch: u64) -> Member {
    let transport = Arc::new(network.join(peer(number)).unwrap());
    let folder = folder.join(number.to_string());
    let storage: Arc<dyn Storage> = Arc::new(FjallStorage::open(folder, FjallConfig::default()).unwrap());
    let state = Arc::new(StoreState::open(storage.clone()).await.unwrap());
    let mut cx =
        ConsensusContext::new(peer(number), storage.clone(), state, transport.clone(), Arc::new(SystemClock));
    let blocks = transport.clone();
    cx.exchange =
        ExchangeMaker::new(move |source| Ok(Arc::new(StreamExchange::new(blocks.clone(), source)?)));
    cx.seed = number;
    let mut config = CrdtConfig::default();
    if batch == BATCH {
        config.batching.max_batch_size = batch as usize;
        config.batching.max_batch_age = Duration::from_secs(1);
    }
    let crdt = Crdt::open(config, cx).await.unwrap();
    Member { storage, transport, crdt }
}

async fn log(member: &Member, operations: impl Iterator<Item = PinOperation>, batch: u64) {
    let operations: Vec<_> = operations.collect();
    for batch in operations.chunks(batch as usize) {
        member.crdt.log_many(batch.to_vec()).await.unwrap();
    }
}

async fn wait(what: &str, members: [&Member; 2], cids: &[ipfs_cluster::types::Cid]) -> Duration {
    let start = Instant::now();
    let (one, other) = (members[0].crdt.state(), members[1].crdt.state());
    loop {
        let mut is_equal = one.counts().pins == other.counts().pins;
        for cid in cids {
            is_equal = is_equal && one.get(cid).await.unwrap() == other.get(cid).await.unwrap();
        }
        if is_equal {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(600), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::new("ipfs_cluster=info")).init();
    let mut arguments = std::env::args().skip(1);
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let pins = arguments.find_map(|argument| argument.parse().ok()).unwrap_or(if is_bench {
        1_000_000
    } else {
        2_000
    });
    let folder = tempfile::tempdir().unwrap();
    let network = MemoryNetwork::new(1);
    let mut old = start(&network, 1, folder.path(), BATCH).await;
    let begun = Instant::now();
    log(&old, (0..pins).map(|number| pin(number, "item")), BATCH).await;
    println!("{pins} pins written in {:.1?}", begun.elapsed());

    let new = start(&network, 2, folder.path(), BATCH).await;
    new.transport.connect(&old.transport.listen_addresses()[0]).await.unwrap();
    let joined = wait("a new peer has all pins", [&old, &new], &[]).await;
    println!("a new peer has {pins} pins after {joined:.1?}: {:.0}/s", pins as f64 / joined.as_secs_f64());
    // Its blocks follow.
    tokio::time::sleep(Duration::from_secs(if is_bench { 20 } else { 1 })).await;
    println!(
        "on disk: {} and {} bytes",
        old.storage.approximate_bytes().unwrap(),
        new.storage.approximate_bytes().unwrap()
    );

    for (what, batch) in [("few blocks", BATCH), ("many blocks", 25)] {
        network.partition(peer(1), peer(2));
        if batch != BATCH {
            // Without batching, each call is a block.
            old.crdt.shutdown().await.unwrap();
            old.transport.shutdown().await.unwrap();
            old.storage.close().unwrap();
            old = start(&network, 1, folder.path(), batch).await;
        }
        let changed: Vec<u64> = (0..pins).filter(|number| number * 7919 % 100 == 0).collect();
        let (name, begun) = (format!("{batch}"), Instant::now());
        for part in changed.chunks(batch as usize) {
            log(&old, part.iter().map(|number| pin(*number, &name)), batch).await;
        }
        println!("{} pins changed in {:.1?}", changed.len(), begun.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let cids: Vec<_> = changed.iter().step_by(97).map(|number| cid(number * 4 + 2)).collect();
        network.heal_all();
        let begun = Instant::now();
        new.transport.connect(&old.transport.listen_addresses()[0]).await.unwrap();
        wait("a peer that was away has all changes", [&old, &new], &cids).await;
        println!("1 % behind in {what}: equal after {:.1?}", begun.elapsed());
    }
    new.crdt.shutdown().await.unwrap();
    old.crdt.shutdown().await.unwrap();
}
