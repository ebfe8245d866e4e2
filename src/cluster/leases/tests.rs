#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::collections::BTreeSet;

use super::*;
use crate::clock::WallClock as _;
use crate::ipfs_connector::{IpfsConnector as _, sample_file_with_chunks};
use crate::testing::cluster::TestCluster;
use crate::types::{PinOptions, StatusFilter};

const CHUNK_BYTES: usize = 250_000;

/// A file of some segments; its blocks, the root last.
fn content(seed: u8) -> (Cid, Vec<Block>) {
    let bytes: Vec<u8> = (0..20_000_000u32).map(|at| (at / 251) as u8 ^ at as u8 ^ seed).collect();
    sample_file_with_chunks(bytes, CHUNK_BYTES)
}

async fn store(peers: &TestCluster, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
    Arc::clone(&peers.peer(0).inner).store_blocks(blocks).await
}

fn all(blocks: &[Block]) -> BoxStream<'static, Result<Block>> {
    stream::iter(blocks.to_vec()).map(Ok).boxed()
}

async fn collect_garbage(peers: &TestCluster) {
    let removed: Vec<_> = peers.daemon(0).ipfs().repo_gc().collect().await;
    assert!(removed.iter().all(Result::is_ok));
}

async fn pinned(peers: &TestCluster) -> BTreeSet<Cid> {
    let pages = peers.daemon(0).ipfs().list_pins(PinMode::Recursive);
    pages.flat_map(|page| stream::iter(page.unwrap())).map(|pin| pin.cid).collect().await
}

fn has_all(peers: &TestCluster, blocks: &[Block]) -> bool {
    blocks.iter().all(|block| peers.daemon(0).ipfs().has_block(&block.cid))
}

async fn until_released(peers: &TestCluster) {
    let released = async |peers: &TestCluster| peers.peer(0).leases().is_empty();
    peers.wait_until("all leases are released", released).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn garbage_collected_during_an_add_takes_none_of_it() {
    let peers = TestCluster::start(1).await.unwrap();
    let (root, blocks) = content(0);
    let daemon = peers.daemon(0).ipfs().clone();
    let source = stream::iter(blocks.clone()).then(move |block| {
        let daemon = daemon.clone();
        async move {
            let _: Vec<_> = daemon.repo_gc().collect().await;
            // The source of a real add takes its time.
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(block)
        }
    });
    store(&peers, source.boxed()).await.unwrap();
    collect_garbage(&peers).await;
    assert!(has_all(&peers, &blocks));

    let leases = peers.peer(0).leases();
    assert_eq!(leases.len(), 3, "20 MB in segments of 8 MiB");
    assert_eq!(leases.iter().map(|lease| lease.blocks).sum::<u64>(), blocks.len() as u64);
    assert!(leases.iter().all(|lease| lease.state == State::Waiting { roots: [root].into() }));
    assert_eq!(pinned(&peers).await, leases.iter().map(|lease| lease.cid).collect());
    let statuses = peers.peer(0).tracker().status_all(StatusFilter::ALL).collect::<Vec<_>>().await;
    assert!(statuses.is_empty(), "leases are in no listing: {statuses:?}");

    peers.peer(0).pin(root, PinOptions::default()).await.unwrap();
    peers.wait_pinned(&root).await.unwrap();
    until_released(&peers).await;
    assert_eq!(pinned(&peers).await, [root].into());
    collect_garbage(&peers).await;
    assert!(has_all(&peers, &blocks));
    assert!(leases.iter().all(|lease| !peers.daemon(0).ipfs().has_block(&lease.cid)));
}

#[tokio::test(start_paused = true)]
async fn an_add_that_breaks_off_is_released() {
    let peers = TestCluster::start(1).await.unwrap();
    let (_, blocks) = content(0);
    let failure = || stream::iter([Err(Error::new(ErrorKind::Io, "the source broke"))]);
    let error = store(&peers, all(&blocks).chain(failure()).boxed()).await.unwrap_err();
    assert_eq!(error.message(), "the source broke");
    until_released(&peers).await;
    assert!(pinned(&peers).await.is_empty());

    // The caller went away, or the whole call was dropped.
    let endless = all(&blocks).chain(stream::pending()).boxed();
    let call = tokio::time::timeout(Duration::from_secs(1), store(&peers, endless)).await;
    assert!(call.is_err());
    assert!(!peers.peer(0).leases().is_empty());
    until_released(&peers).await;
    assert!(pinned(&peers).await.is_empty());
    collect_garbage(&peers).await;
    assert!(!blocks.iter().any(|block| peers.daemon(0).ipfs().has_block(&block.cid)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_comes_after_its_release_is_released_too() {
    let peers = TestCluster::start(1).await.unwrap();
    let (_, blocks) = content(0);
    let endless = all(&blocks).chain(stream::pending()).boxed();
    let _ = tokio::time::timeout(Duration::from_secs(1), store(&peers, endless)).await;
    let lease = peers.peer(0).leases()[0].cid;
    until_released(&peers).await;
    // As a daemon does that was busy when the call was dropped.
    let daemon = peers.daemon(0).ipfs();
    daemon.hold(daemon.get_block(&lease).await.unwrap()).await.unwrap();
    assert_eq!(pinned(&peers).await, [lease].into());
    let gone = async |peers: &TestCluster| pinned(peers).await.is_empty();
    peers.wait_until("the late lease is gone", gone).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_killed_releases_what_it_left_behind() {
    let mut peers = TestCluster::start(1).await.unwrap();
    let (root, waiting) = content(0);
    let (_, broken) = content(1);
    store(&peers, all(&waiting)).await.unwrap();
    let endless = all(&broken).chain(stream::pending()).boxed();
    let inner = Arc::clone(&peers.peer(0).inner);
    let add = tokio::spawn(async move { inner.store_blocks(endless).await });
    let both = async |peers: &TestCluster| peers.peer(0).leases().len() >= 5;
    peers.wait_until("both are held", both).await.unwrap();
    peers.crash(0);
    add.abort();
    let held = pinned(&peers).await.len();
    assert!(held >= 5, "{held} leases");
    peers.restart(0).await.unwrap();
    let only_waiting = async |peers: &TestCluster| {
        let leases = peers.peer(0).leases();
        leases.len() == 3 && leases.iter().all(|lease| matches!(lease.state, State::Waiting { .. }))
    };
    peers.wait_until("the broken one is released", only_waiting).await.unwrap();
    assert_eq!(pinned(&peers).await.len(), 3);
    collect_garbage(&peers).await;
    assert!(has_all(&peers, &waiting));
    assert!(!has_all(&peers, &broken));
    peers.peer(0).pin(root, PinOptions::default()).await.unwrap();
    until_released(&peers).await;
    assert_eq!(pinned(&peers).await, [root].into());
    // Nothing is left to be found by the next run.
    peers.stop(0).await.unwrap();
    peers.restart(0).await.unwrap();
    assert!(peers.peer(0).leases().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_pins_is_released_after_a_day() {
    let mut peers = TestCluster::start(1).await.unwrap();
    let (_, blocks) = content(0);
    store(&peers, all(&blocks)).await.unwrap();
    tokio::time::sleep(LEASE_TTL / 2).await;
    peers.stop(0).await.unwrap();
    peers.restart(0).await.unwrap();
    tokio::time::sleep(LEASE_TTL / 2 - LOOK_WAIT_MAX).await;
    assert_eq!(peers.peer(0).leases().len(), 3);
    tokio::time::sleep(2 * LOOK_WAIT_MAX).await;
    assert!(peers.peer(0).leases().is_empty());
    assert!(pinned(&peers).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_same_blocks_twice_are_held_twice() {
    let peers = TestCluster::start(1).await.unwrap();
    let (_, blocks) = content(0);
    store(&peers, all(&blocks)).await.unwrap();
    let failure = stream::iter([Err(Error::new(ErrorKind::Io, "the source broke"))]);
    store(&peers, all(&blocks).chain(failure).boxed()).await.unwrap_err();
    let one_left = async |peers: &TestCluster| peers.peer(0).leases().len() == 3;
    peers.wait_until("the one that failed is released", one_left).await.unwrap();
    tokio::time::sleep(2 * SETTLE_WAIT).await;
    collect_garbage(&peers).await;
    assert!(has_all(&peers, &blocks));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_down_is_told_when_it_is_back() {
    let peers = TestCluster::start(1).await.unwrap();
    let (_, blocks) = content(0);
    let endless = all(&blocks).chain(stream::pending()).boxed();
    let _ = tokio::time::timeout(Duration::from_secs(1), store(&peers, endless)).await;
    peers.daemon(0).down();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!peers.peer(0).leases().is_empty());
    peers.daemon(0).up();
    until_released(&peers).await;
    assert!(pinned(&peers).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_not_asked_again_after_its_end() {
    let peers = TestCluster::start(1).await.unwrap();
    let source = stream::unfold(0u8, |number| async move {
        (number < 3).then(|| (Ok(Block::raw(vec![number])), number + 1))
    });
    store(&peers, source.boxed()).await.unwrap();
    assert_eq!(peers.peer(0).leases()[0].blocks, 3);
    // Nothing came, nothing is held.
    store(&peers, stream::empty().boxed()).await.unwrap();
    assert_eq!(peers.peer(0).leases().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_streams_gather_less_each() {
    let peers = TestCluster::start(1).await.unwrap();
    let leases = &peers.peer(0).inner.leases;
    let now = peers.clock(0).now();
    assert_eq!(leases.segment_bytes(), SEGMENT_BYTES_MAX);
    let keys: BTreeSet<StreamKey> = (0..100).map(|_| leases.begin(now)).collect();
    assert_eq!(keys.len(), 100);
    assert_eq!(leases.segment_bytes(), SEGMENT_BYTES_MIN);
}
