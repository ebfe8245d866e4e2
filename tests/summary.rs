//! How a peer says that it is, on paused time.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::clock::TokioClock;
use ipfs_cluster::cluster::{Cluster, ClusterConfig, PinsHere, RepoSummary, Summary, presets};
use ipfs_cluster::consensus::Consensus as _;
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, MemoryIpfs};
use ipfs_cluster::testing::cluster::{TestCluster, TestClusterConfig};
use ipfs_cluster::testing::faulty_ipfs::{FaultyIpfs, IpfsCall};
use ipfs_cluster::tracker::StatelessConfig;
use ipfs_cluster::types::{Block, Pin, PinOperation, PinOptions, Timestamp};
use ipfs_cluster::{Error, ErrorKind};

async fn peer() -> (MemoryIpfs, FaultyIpfs, Cluster) {
    let daemon = MemoryIpfs::new();
    let ipfs = FaultyIpfs::new(daemon.clone());
    let cluster = Cluster::builder()
        .preset(presets::InMemory)
        .clock(TokioClock::starting_at(Timestamp::from_unix_seconds(1_800_000_000)))
        .ipfs(ipfs.clone())
        .start()
        .await
        .unwrap();
    cluster.ready().await.unwrap();
    (daemon, ipfs, cluster)
}

/// Asks every second, as a screen does, until the answer is right.
async fn asked_until(cluster: &Cluster, is_right: impl Fn(&Summary) -> bool) -> Summary {
    let started = tokio::time::Instant::now();
    loop {
        let summary = cluster.summary().await.unwrap();
        if is_right(&summary) {
            return summary;
        }
        assert!(started.elapsed() < Duration::from_secs(60 * 60), "{summary:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn here(summary: &Summary) -> PinsHere {
    summary.here.unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_summary_says_how_many_pins_are_held_wait_and_failed() {
    let (daemon, ipfs, cluster) = peer().await;
    // Asked for the first time it knows only what is counted all the time.
    let first = cluster.summary().await.unwrap();
    assert_eq!((first.peers, first.pins, first.here, first.repo), (1, 0, None, None));
    for content in ["a", "b", "c"] {
        cluster.pin(daemon.add_sample(content), PinOptions::default()).await.unwrap();
    }
    let all = asked_until(&cluster, |summary| here(summary).pinned == 3).await;
    assert_eq!((all.pins, here(&all).allocated, here(&all).remote, all.error.as_str()), (3, 3, 0, ""));
    let repo = all.repo.expect("the disk was asked for");
    assert_eq!(repo.stat.storage_max, daemon.repo_stat().await.unwrap().storage_max);
    assert!(repo.asked_ago <= Duration::from_secs(11) && here(&all).counted_ago <= Duration::from_secs(5));
    // One fails, one runs.
    ipfs.fail_next(IpfsCall::Pin, 1, Error::new(ErrorKind::Remote, "no"));
    cluster.pin(daemon.add_sample("d"), PinOptions::default()).await.unwrap();
    asked_until(&cluster, |summary| summary.operations.pin_error == 1).await;
    ipfs.stall(IpfsCall::Pin);
    cluster.pin(daemon.add_sample("e"), PinOptions::default()).await.unwrap();
    let busy = asked_until(&cluster, |summary| summary.operations.pinning == 1).await;
    // The counters say at once what no walk has seen yet.
    assert_eq!((busy.pins, here(&busy).allocated, here(&busy).pinned), (5, 5, 3));
    // What the daemon loses is seen once it was listed and the pins are counted again.
    let lost = daemon.add_sample("a");
    daemon.unpin(&lost).await.unwrap();
    asked_until(&cluster, |summary| {
        here(summary).unexpectedly_unpinned == 1
            || summary.operations.pin_queued + summary.operations.pinning == 2
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pins_of_others_and_what_stands_for_shards_need_not_be_held() {
    let config = TestClusterConfig { peers: 2, ..TestClusterConfig::default() };
    let peers = TestCluster::with_config(config).await.unwrap();
    let content = |seed: u32| Block::raw(format!("content {seed}")).cid;
    let mut operations = Vec::new();
    for seed in 0..30 {
        let mut pin = Pin::new(content(seed), PinOptions::default());
        (pin.options.replication_factor_min, pin.options.replication_factor_max) = (1, 1);
        pin.allocations = vec![peers.id(usize::from(seed >= 10))];
        operations.push(PinOperation::Pin(Arc::new(pin)));
    }
    let meta =
        Pin { pin_type: ipfs_cluster::types::PinType::Meta, ..Pin::new(content(99), PinOptions::default()) };
    operations.push(PinOperation::Pin(Arc::new(meta)));
    peers.peer(0).consensus().log_many(operations).await.unwrap();
    for (index, allocated) in [(0, 10), (1, 20)] {
        let summary = asked_until(peers.peer(index), |summary| {
            summary.peers == 2 && summary.pins == 31 && here(summary).remote > 0 && here(summary).sharded > 0
        })
        .await;
        let here = here(&summary);
        assert_eq!((here.allocated, here.remote, here.sharded), (allocated, 30 - allocated, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_down_leaves_what_was_known_and_says_why_it_is_old() {
    let (daemon, ipfs, cluster) = peer().await;
    cluster.pin(daemon.add_sample("a"), PinOptions::default()).await.unwrap();
    asked_until(&cluster, |summary| here(summary).pinned == 1 && summary.repo.is_some()).await;
    ipfs.down("pulled the plug");
    let told = asked_until(&cluster, |summary| !summary.error.is_empty()).await;
    assert!(told.error.contains("pulled the plug"), "{told:?}");
    assert_eq!(here(&told).pinned, 1);
    assert!(told.repo.is_some_and(|RepoSummary { asked_ago, .. }| asked_ago >= Duration::from_secs(10)));
    ipfs.up();
    asked_until(&cluster, |summary| summary.error.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn asking_every_second_neither_walks_nor_asks_the_daemon_each_time() {
    let (daemon, ipfs, cluster) = peer().await;
    cluster.pin(daemon.add_sample("a"), PinOptions::default()).await.unwrap();
    asked_until(&cluster, |summary| here(summary).pinned == 1).await;
    let before = ipfs.count(IpfsCall::RepoStat).begun;
    let looks = |cluster: &Cluster| {
        cluster.tasks().iter().find(|task| task.name == "summary").map_or(0, |task| task.runs)
    };
    let (runs, mut oldest) = (looks(&cluster), Duration::ZERO);
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        oldest = oldest.max(here(&cluster.summary().await.unwrap()).counted_ago);
    }
    // Informers ask as well.
    let asked = ipfs.count(IpfsCall::RepoStat).begun - before;
    assert!((60..=120).contains(&asked), "{asked} questions in ten minutes");
    assert!(looks(&cluster) - runs <= 70);
    assert!(oldest >= Duration::from_secs(290), "nothing changed, and it was counted after {oldest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_follower_without_space_waits_goes_on_and_never_asks_for_more_pins_at_a_time_than_configured() {
    let ipfs: Arc<std::sync::Mutex<Option<FaultyIpfs>>> = Arc::default();
    let concurrent_pins = 4;
    let seen = Arc::clone(&ipfs);
    let config = TestClusterConfig {
        peers: 2,
        followers: 1,
        cluster: ClusterConfig { pin_recover_interval: Duration::from_secs(3600), ..Default::default() },
        assemble: Arc::new(move |index, builder| {
            let builder = (TestClusterConfig::default().assemble)(index, builder);
            if index == 0 {
                return builder;
            }
            let daemon = MemoryIpfs::new();
            for seed in 0..200 {
                daemon.add_sample(format!("content {seed}"));
            }
            let faulty = FaultyIpfs::new(daemon);
            faulty.slow(IpfsCall::Pin, Duration::from_secs(1));
            *seen.lock().unwrap() = Some(faulty.clone());
            let tracker = StatelessConfig { concurrent_pins, ..StatelessConfig::default() };
            builder.ipfs(faulty).stateless_tracker(tracker)
        }),
        ..TestClusterConfig::default()
    };
    let peers = TestCluster::with_config(config).await.unwrap();
    let ipfs = ipfs.lock().unwrap().clone().unwrap();
    let follower = peers.peer(1);
    let source = MemoryIpfs::new();
    let pin = |seed: u32| {
        let pin = Pin::new(
            source.add_sample(format!("content {seed}")),
            PinOptions { replication_factor_min: -1, replication_factor_max: -1, ..PinOptions::default() },
        );
        PinOperation::Pin(Arc::new(pin))
    };
    peers.peer(0).consensus().log_many((0..100).map(pin).collect()).await.unwrap();
    asked_until(follower, |summary| summary.pins == 100 && here(summary).pinned == 100).await;
    ipfs.fail_next(IpfsCall::Pin, 10_000, Error::new(ErrorKind::StorageFull, "no space left on device"));
    peers.peer(0).consensus().log_many((100..200).map(pin).collect()).await.unwrap();
    let full = asked_until(follower, |summary| summary.operations.waiting_for_space == 100).await;
    assert_eq!((here(&full).pinned, full.operations.pin_error), (100, 0));
    ipfs.stop_failing(IpfsCall::Pin);
    asked_until(follower, |summary| here(summary).pinned == 200).await;
    // Neither the first time nor after the pause.
    let count = ipfs.count(IpfsCall::Pin);
    assert_eq!(count.running_max, concurrent_pins as u64, "{count:?}");
}
