//! Disks that get full or fail to write, and work again.

use std::time::Duration;

use ipfs_cluster::cluster::ClusterConfig;
use ipfs_cluster::consensus::{Crdt, CrdtConfig};
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::ipfs_connector::IpfsConnector as _;
use ipfs_cluster::testing::cluster::DiskTrouble;
use ipfs_cluster::testing::{TestCluster, TestClusterConfig};
use ipfs_cluster::types::{Cid, PinMode, PinOptions};
use std::sync::Arc;

/// Seeds that each case is run with: whether the bytes of a failed write are there depends on it.
const SEEDS: u64 = 8;

async fn peers(seed: u64, count: usize, batching: (usize, Duration)) -> TestCluster {
    let config = TestClusterConfig {
        peers: count,
        seed,
        cluster: ClusterConfig {
            replication_factor_min: -1,
            replication_factor_max: -1,
            ..ClusterConfig::default()
        },
        assemble: Arc::new(move |_, builder| {
            let mut config = CrdtConfig::default();
            (config.batching.max_batch_size, config.batching.max_batch_age) = batching;
            builder.consensus_with(move |cx| Crdt::open(config, cx))
        }),
        ..TestClusterConfig::default()
    };
    TestCluster::with_config(config).await.unwrap()
}

async fn has(peers: &TestCluster, peer: usize, cid: &Cid) -> bool {
    peers.peer(peer).state().get(cid).await.unwrap().is_some()
}

async fn holds(peers: &TestCluster, peer: usize, cid: &Cid) -> bool {
    peers.daemon(peer).ipfs().is_pinned(cid, PinMode::Recursive).await.unwrap()
}

fn run(case: impl AsyncFn(u64, (usize, Duration))) {
    for seed in 0..SEEDS {
        for batching in [(0, Duration::ZERO), (100, Duration::from_secs(3))] {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(case(seed, batching));
        }
    }
}

#[test]
fn a_full_disk_is_an_error_to_the_caller_and_nothing_is_pinned_until_there_is_room() {
    run(async |seed, batching| {
        let peers = peers(seed, 2, batching).await;
        let (before, refused, elsewhere) =
            (peers.add(b"before"), peers.add(b"refused"), peers.add(b"elsewhere"));
        peers.peer(0).pin(before, PinOptions::default()).await.unwrap();
        peers.wait_pinned(&before).await.unwrap();
        peers.disk(0).set(DiskTrouble::Full);
        let error = peers.peer(0).pin(refused, PinOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(!has(&peers, 0, &refused).await);
        // What others say has to wait, and comes once there is room.
        peers.peer(1).pin(elsewhere, PinOptions::default()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!has(&peers, 0, &elsewhere).await);
        peers.disk(0).set(DiskTrouble::None);
        peers.wait_pinned(&elsewhere).await.unwrap();
        peers.wait_converged().await.unwrap();
        assert!(!has(&peers, 0, &refused).await && !has(&peers, 1, &refused).await);
        peers.peer(0).pin(refused, PinOptions::default()).await.unwrap();
        peers.wait_pinned(&refused).await.unwrap();
    });
}

#[test]
fn a_write_that_fails_leaves_pinset_counts_and_daemons_that_agree() {
    run(async |seed, batching| {
        let mut peers = peers(seed, 2, batching).await;
        let (kept, gone, new) = (peers.add(b"kept"), peers.add(b"gone"), peers.add(b"new"));
        for cid in [kept, gone] {
            peers.peer(0).pin(cid, PinOptions::default()).await.unwrap();
            peers.wait_pinned(&cid).await.unwrap();
        }
        // The caller is told that it failed; it may have happened, but then all of it.
        peers.disk(0).set(DiskTrouble::FailingWrites(1));
        assert_eq!(peers.peer(0).unpin(&gone).await.unwrap_err().kind(), ErrorKind::Io);
        peers.disk(0).set(DiskTrouble::FailingWrites(1));
        drop(peers.peer(0).pin(new, PinOptions::default()).await);
        // A change that another peer made meets a disk that fails too.
        peers.disk(1).set(DiskTrouble::FailingWrites(2));
        let settled = async |peers: &TestCluster| {
            for cid in [&kept, &gone, &new] {
                let is_there = has(peers, 0, cid).await;
                for peer in 0..2 {
                    if has(peers, peer, cid).await != is_there || holds(peers, peer, cid).await != is_there {
                        return false;
                    }
                }
            }
            peers.is_converged()
        };
        peers.wait_until("pinsets and daemons agree", settled).await.unwrap();
        assert!(has(&peers, 0, &kept).await, "seed {seed}");
        // Nothing of it goes with the power.
        let pins = peers.peer(0).state().counts();
        peers.crash(0);
        peers.restart(0).await.unwrap();
        peers
            .wait_until("all is there again", async |peers: &TestCluster| {
                peers.peer(0).state().counts() == pins && peers.is_converged()
            })
            .await
            .unwrap();
    });
}

#[test]
fn a_peer_that_finds_no_disk_does_not_start_and_starts_once_there_is_one() {
    run(async |seed, batching| {
        let mut peers = peers(seed, 2, batching).await;
        let cid = peers.add(b"content");
        peers.peer(0).pin(cid, PinOptions::default()).await.unwrap();
        peers.crash(0);
        peers.disk(0).set(DiskTrouble::Unreachable);
        assert_eq!(peers.restart(0).await.unwrap_err().kind(), ErrorKind::Io);
        peers.disk(0).set(DiskTrouble::None);
        peers.restart(0).await.unwrap();
        assert!(has(&peers, 0, &cid).await, "seed {seed}");
        peers.wait_pinned(&cid).await.unwrap();
    });
}
