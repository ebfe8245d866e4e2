use super::*;
use crate::clock::WallClock as _;
use crate::ipfs_connector::IpfsConnector as _;
use crate::types::{PinMode, PinOptions};

#[tokio::test(start_paused = true)]
async fn a_pin_survives_a_crash_and_a_stop() {
    let mut peers = TestCluster::start(1).await.unwrap();
    let cid = peers.add(b"content");
    peers.peer(0).pin(cid, PinOptions::default()).await.unwrap();
    peers.wait_pinned(&cid).await.unwrap();
    assert!(peers.daemon(0).ipfs().is_pinned(&cid, PinMode::Recursive).await.unwrap());
    let old = peers.peer(0).clone();
    peers.crash(0);
    assert!(peers.get(0).is_none());
    assert_eq!(old.pin(cid, PinOptions::default()).await.unwrap_err().kind(), ErrorKind::ShutDown);
    peers.restart(0).await.unwrap();
    assert_eq!(peers.peer(0).state().counts().pins, 1);
    assert!(matches!(peers.stop(0).await, Some(StopReason::Requested)));
    peers.restart(0).await.unwrap();
    assert_eq!(peers.peer(0).state().counts().pins, 1);
    peers.wait_pinned(&cid).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_finds_nothing_of_what_a_slow_disk_is_busy_with() {
    let latency = Duration::from_secs(1);
    let mut peers = TestCluster::start(1).await.unwrap();
    let cid = peers.add(b"content");
    peers.disk(0).slow(latency);
    let cluster = peers.peer(0).clone();
    let pin = tokio::spawn(async move { cluster.pin(cid, PinOptions::default()).await });
    // Each piece of work takes half of it at least.
    tokio::time::sleep(latency / 4).await;
    peers.crash(0);
    peers.restart(0).await.unwrap();
    assert_eq!(peers.peer(0).state().counts().pins, 0);
    assert!(pin.await.unwrap().is_err());
    let before = tokio::time::Instant::now();
    peers.peer(0).pin(cid, PinOptions::default()).await.unwrap();
    assert!(before.elapsed() >= latency / 2, "the disk took {:?}", before.elapsed());
    peers.crash(0);
    peers.restart(0).await.unwrap();
    assert_eq!(peers.peer(0).state().counts().pins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_peer_asks_its_daemon_for_nothing_more() {
    let manners = DaemonManners { latency_max: Duration::from_secs(10), failures_percent: 0 };
    let config = TestClusterConfig { daemons: manners, ..TestClusterConfig::default() };
    let mut peers = TestCluster::with_config(config).await.unwrap();
    let cid = peers.add(b"content");
    peers.peer(0).pin(cid, PinOptions::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    peers.crash(0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!peers.daemon(0).ipfs().is_pinned(&cid, PinMode::Recursive).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn peers_dial_each_other_again_after_partitions_and_crashes() {
    let mut peers = TestCluster::start(3).await.unwrap();
    let connected = async |peers: &TestCluster| (0..3).all(|index| peers.neighbours(index).len() == 2);
    peers.wait_until("all are connected", connected).await.unwrap();
    peers.partition(0, 1);
    assert_eq!(peers.neighbours(0), [peers.id(2)]);
    peers.crash(2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(peers.neighbours(0), []);
    peers.heal();
    peers.restart(2).await.unwrap();
    peers.wait_until("all are connected", connected).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clock_follows_paused_time_and_can_be_wrong() {
    let peers = TestCluster::start(1).await.unwrap();
    let before = peers.clock(0).now();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(peers.clock(0).now(), before + Duration::from_secs(100));
    peers.clock(0).set_skew(-1_500);
    assert_eq!(peers.peer(0).clock().now(), before + Duration::from_millis(98_500));
}

#[cfg(feature = "consensus-crdt")]
#[tokio::test(start_paused = true)]
async fn a_pin_reaches_the_peer_that_was_cut_off_and_the_one_that_crashed() {
    let mut peers = TestCluster::start(3).await.unwrap();
    peers.partition(0, 1);
    peers.partition(0, 2);
    peers.crash(2);
    let cid = peers.add(b"content");
    peers.peer(0).pin(cid, PinOptions::default()).await.unwrap();
    assert!(!peers.is_converged());
    peers.heal();
    peers.restart(2).await.unwrap();
    peers.wait_converged().await.unwrap();
    peers.wait_pinned(&cid).await.unwrap();
    assert_eq!(peers.peer(2).state().counts().pins, 1);
}
