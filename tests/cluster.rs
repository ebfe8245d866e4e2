//! Whole peers in one process, on paused time.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::clock::TokioClock;
use ipfs_cluster::cluster::{
    Cluster, ClusterBuilder, ClusterConfig, ClusterEvent, Scope, StopReason, Until, presets,
};
use ipfs_cluster::informer::Informer;
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, MemoryIpfs};
use ipfs_cluster::state::StateQuery;
use ipfs_cluster::storage::{MemoryStorage, Storage};
use ipfs_cluster::testing::faulty_ipfs::FaultyIpfs;
use ipfs_cluster::tracker::{PinTracker, StatelessConfig, StatelessTracker, TrackerCounts, TrackerEvent};
use ipfs_cluster::types::{
    Block, Cid, Metric, PeerId, Pin, PinInfo, PinMode, PinOptions, StatusFilter, Timestamp, TrackerStatus,
};
use ipfs_cluster::{Error, ErrorKind, Result};

/// Any day will do.
fn today() -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000)
}

fn builder(ipfs: &MemoryIpfs) -> ClusterBuilder {
    Cluster::builder()
        .preset(presets::InMemory)
        .peername("peer")
        .clock(TokioClock::starting_at(today()))
        .ipfs(ipfs.clone())
}

async fn peer() -> (MemoryIpfs, Cluster) {
    let ipfs = MemoryIpfs::new();
    let cluster = builder(&ipfs).start().await.unwrap();
    (ipfs, cluster)
}

async fn status_of(cluster: &Cluster, cid: &Cid) -> TrackerStatus {
    cluster.status(cid, Scope::Local).await.unwrap().peer_map[&cluster.peer_id()].status
}

async fn pinset(cluster: &Cluster) -> Vec<Pin> {
    cluster.pins(StateQuery::default()).map(|page| page.unwrap()).concat().await
}

#[tokio::test(start_paused = true)]
async fn a_pin_asked_for_right_after_the_start_reaches_the_daemon() {
    let (ipfs, cluster) = peer().await;
    let cid = ipfs.add_sample("content");
    let pin = cluster.pin(cid, PinOptions { name: "first".into(), ..Default::default() }).await.unwrap();
    assert!(pin.is_everywhere() && pin.timestamp == Some(today()));
    let info = cluster.wait(cid).until(Until::PinnedEverywhere).await.unwrap();
    assert_eq!((info.name.as_str(), info.peer_map.len()), ("first", 1));
    assert!(ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    assert_eq!(pinset(&cluster).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn start_names_what_is_missing() {
    let error = Cluster::builder().start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("a storage"), "{error}");
    let error =
        Cluster::builder().preset(presets::Solo).storage(MemoryStorage::new()).start().await.unwrap_err();
    assert!(error.to_string().contains("an IPFS connector"), "{error}");
    let config = ClusterConfig { state_sync_interval: Duration::ZERO, ..Default::default() };
    let error = builder(&MemoryIpfs::new()).config(config).start().await.unwrap_err();
    assert!(error.to_string().contains("cluster.state_sync_interval"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_component_that_fails_to_start_stops_those_that_had_started() {
    let storage = Arc::new(MemoryStorage::new());
    let started = builder(&MemoryIpfs::new())
        .storage(Arc::clone(&storage))
        .monitor_with(|_| async {
            Err::<ipfs_cluster::monitor::LocalMonitor, _>(Error::internal("no monitor today"))
        })
        .start()
        .await;
    assert_eq!(started.unwrap_err().to_string(), "no monitor today");
    assert_eq!(storage.approximate_bytes().unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test(start_paused = true)]
async fn every_caller_of_shutdown_waits_and_calls_after_it_are_refused() {
    let (ipfs, cluster) = peer().await;
    cluster.ready().await.unwrap();
    let (first, second) = tokio::join!(cluster.shutdown(), cluster.shutdown());
    assert!(matches!((first, second), (StopReason::Requested, StopReason::Requested)));
    let cid = ipfs.add_sample("late");
    assert_eq!(cluster.pin(cid, PinOptions::default()).await.unwrap_err().kind(), ErrorKind::ShutDown);
    assert_eq!(cluster.status(&cid, Scope::Global).await.unwrap_err().kind(), ErrorKind::ShutDown);
    assert_eq!(cluster.ready().await.unwrap_err().kind(), ErrorKind::ShutDown);
    assert_eq!(cluster.wait(cid).await.unwrap_err().kind(), ErrorKind::ShutDown);
    assert!(matches!(cluster.shutdown().await, StopReason::Requested));
}

#[tokio::test(start_paused = true)]
async fn a_peer_stops_when_its_last_handle_is_dropped() {
    let storage = Arc::new(MemoryStorage::new());
    let cluster = builder(&MemoryIpfs::new()).storage(Arc::clone(&storage)).start().await.unwrap();
    let clone = cluster.clone();
    let mut events = cluster.events();
    drop(cluster);
    tokio::task::yield_now().await;
    assert!(storage.approximate_bytes().is_ok(), "one handle is left");
    drop(clone);
    while events.next().await.is_some() {}
    // The stream ends first, the store last.
    while storage.approximate_bytes().is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Does what a test tells it to.
#[derive(Debug, Default)]
struct Puppet {
    panic: AtomicBool,
    fail: AtomicBool,
    measured: AtomicU64,
    stop: OnceLock<Cluster>,
    peer: OnceLock<PeerId>,
    clock: OnceLock<Arc<dyn ipfs_cluster::clock::WallClock>>,
}

#[async_trait]
impl Informer for Puppet {
    fn name(&self) -> &str {
        "puppet"
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn metrics(&self) -> Result<Vec<Metric>> {
        self.measured.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panic.load(Ordering::Relaxed), "the puppet was told to panic");
        if self.fail.load(Ordering::Relaxed) {
            return Err(Error::internal("told to fail"));
        }
        if let Some(cluster) = self.stop.get() {
            cluster.shutdown().await;
        }
        let (Some(peer), Some(clock)) = (self.peer.get(), self.clock.get()) else { return Ok(Vec::new()) };
        let now = clock.now();
        Ok(vec![Metric {
            name: "puppet".into(),
            peer: *peer,
            value: "1".into(),
            expire: (now + self.ttl()).unix_nanoseconds(),
            valid: true,
            weight: 1,
            partitionable: false,
            received_at: now.unix_nanoseconds(),
        }])
    }
}

async fn peer_with(puppet: &Arc<Puppet>) -> (MemoryIpfs, Cluster) {
    let ipfs = MemoryIpfs::new();
    let cluster = builder(&ipfs).informer(Arc::clone(puppet)).start().await.unwrap();
    puppet.peer.set(cluster.peer_id()).unwrap();
    puppet.clock.set(cluster.clock()).unwrap();
    (ipfs, cluster)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_stops_the_peer_with_a_reason() {
    let puppet = Arc::new(Puppet::default());
    let (_ipfs, cluster) = peer_with(&puppet).await;
    cluster.ready().await.unwrap();
    puppet.panic.store(true, Ordering::Relaxed);
    let reason = cluster.stopped().await;
    assert!(matches!(reason, StopReason::TaskFailed("informer")), "{reason:?}");
}

#[tokio::test(start_paused = true)]
async fn a_component_may_call_shutdown_from_its_own_callback() {
    let puppet = Arc::new(Puppet::default());
    let (_ipfs, cluster) = peer_with(&puppet).await;
    puppet.stop.set(cluster.clone()).unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(60), cluster.stopped()).await;
    assert!(matches!(stopped, Ok(StopReason::Requested)), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_metric_that_stops_coming_raises_one_alert() {
    let puppet = Arc::new(Puppet::default());
    let (_ipfs, cluster) = peer_with(&puppet).await;
    let mut events = cluster.events();
    while cluster.metrics("puppet").is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(cluster.metric_names().contains(&"ping".to_owned()));
    puppet.fail.store(true, Ordering::Relaxed);
    let alert = loop {
        if let ClusterEvent::Alert(alert) = events.next().await.unwrap() {
            break alert;
        }
    };
    assert_eq!((alert.metric.name.as_str(), alert.metric.peer), ("puppet", cluster.peer_id()));
    assert!(cluster.metrics("puppet").is_empty());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(cluster.alerts().len(), 1);
    let task = cluster.tasks().into_iter().find(|task| task.name == "informer").unwrap();
    assert!(task.runs > 0);
}

/// Takes a while for every change that it is told of.
#[derive(Debug)]
struct Sluggish(StatelessTracker, Duration);

#[async_trait]
impl PinTracker for Sluggish {
    async fn track(&self, pin: Pin) -> Result<()> {
        tokio::time::sleep(self.1).await;
        self.0.track(pin).await
    }

    async fn untrack(&self, cid: &Cid) -> Result<()> {
        tokio::time::sleep(self.1).await;
        self.0.untrack(cid).await
    }

    async fn status(&self, cid: &Cid) -> Result<PinInfo> {
        self.0.status(cid).await
    }

    fn status_all(&self, filter: StatusFilter) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        self.0.status_all(filter)
    }

    async fn statuses(&self, pins: Vec<Pin>) -> Result<Vec<PinInfo>> {
        self.0.statuses(pins).await
    }

    async fn recover(&self, cid: &Cid) -> Result<PinInfo> {
        self.0.recover(cid).await
    }

    fn recover_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        self.0.recover_all()
    }

    async fn sync(&self, cid: &Cid) -> Result<PinInfo> {
        self.0.sync(cid).await
    }

    fn sync_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        self.0.sync_all()
    }

    fn counts(&self) -> TrackerCounts {
        self.0.counts()
    }

    fn events(&self) -> BoxStream<'static, TrackerEvent> {
        self.0.events()
    }

    async fn shutdown(&self) -> Result<()> {
        self.0.shutdown().await
    }
}

async fn sluggish(ipfs: &MemoryIpfs, delay: Duration) -> Cluster {
    let make = move |cx| async move {
        StatelessTracker::new(StatelessConfig::default(), cx).map(|tracker| Sluggish(tracker, delay))
    };
    let cluster = builder(ipfs).tracker_with(make).start().await.unwrap();
    cluster.ready().await.unwrap();
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_write_does_not_wait_long_for_a_tracker_that_is_behind() {
    let cluster = sluggish(&MemoryIpfs::new(), Duration::from_secs(60)).await;
    let began = tokio::time::Instant::now();
    cluster.pin(Block::raw("anything").cid, PinOptions::default()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_known_to_the_tracker_when_its_call_returns() {
    let ipfs = MemoryIpfs::new();
    let cluster = sluggish(&ipfs, Duration::from_millis(100)).await;
    let missing = Block::raw("nobody has this").cid;
    cluster.pin(missing, PinOptions::default()).await.unwrap();
    assert_eq!(status_of(&cluster, &missing).await, TrackerStatus::Pinning);
    let recovered = cluster.recover_all(Scope::Local).map(|page| page.unwrap()).concat().await;
    assert_eq!(recovered, [], "there is nothing to recover");
    let there = ipfs.add_sample("there");
    cluster.pin(there, PinOptions::default()).await.unwrap();
    cluster.wait(there).into_future().await.unwrap();
    cluster.unpin(&there).await.unwrap();
    assert_ne!(status_of(&cluster, &missing).await, TrackerStatus::UnexpectedlyUnpinned);
    assert_ne!(cluster.tracker().status(&there).await.unwrap().status.status, TrackerStatus::Pinned);
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_pin_status_and_unpin_in_order() {
    let (ipfs, cluster) = peer().await;
    let cid = ipfs.add_sample("content");
    let mut events = cluster.events();
    cluster.pin(cid, PinOptions::default()).await.unwrap();
    cluster.wait(cid).await.unwrap();
    cluster.unpin(&cid).await.unwrap();
    cluster.wait(cid).until(Until::Gone).await.unwrap();
    let mut seen = Vec::new();
    loop {
        match events.next().await.unwrap() {
            ClusterEvent::Pinned(pin) => {
                assert_eq!(pin.cid, cid);
                seen.push("in the pinset".to_owned());
            }
            ClusterEvent::Unpinned(_) => seen.push("out of the pinset".to_owned()),
            ClusterEvent::StatusChanged(info) => {
                seen.push(info.status.status.to_string());
                if info.status.status == TrackerStatus::Unpinned {
                    break;
                }
            }
            ClusterEvent::Alert(_) | ClusterEvent::Resync => {}
            _ => {}
        }
    }
    let at = |what: &str| {
        seen.iter().position(|event| event == what).unwrap_or_else(|| panic!("no {what}: {seen:?}"))
    };
    assert!(at("in the pinset") < at("out of the pinset"), "{seen:?}");
    assert!(at("pinned") < at("unpinned"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_too_slow_is_told_to_compare() {
    let (ipfs, cluster) = peer().await;
    let mut events = cluster.events();
    let cid = ipfs.add_sample("again and again");
    for n in 0..20_000 {
        cluster.pin(cid, PinOptions { name: format!("{n}"), ..Default::default() }).await.unwrap();
    }
    while !matches!(events.next().await, Some(ClusterEvent::Resync)) {}
    // And it goes on from there.
    cluster.unpin(&cid).await.unwrap();
    while !matches!(events.next().await, Some(ClusterEvent::Unpinned(_))) {}
}

#[tokio::test(start_paused = true)]
async fn expired_pins_are_removed_by_themselves() {
    let (ipfs, cluster) = peer().await;
    let (short, long) = (ipfs.add_sample("short"), ipfs.add_sample("long"));
    let until = |seconds| PinOptions {
        expire_at: Some(today() + Duration::from_secs(seconds)),
        ..Default::default()
    };
    cluster.pin(short, until(60)).await.unwrap();
    cluster.pin(long, until(86_400)).await.unwrap();
    cluster.wait(short).await.unwrap();
    cluster.wait(short).until(Until::Gone).timeout(Duration::from_secs(600)).await.unwrap();
    assert!(!ipfs.is_pinned(&short, PinMode::Recursive).await.unwrap());
    assert_eq!(pinset(&cluster).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pins_that_fail_while_the_daemon_is_down_are_pinned_when_it_is_back() {
    let ipfs = MemoryIpfs::new();
    let faulty = FaultyIpfs::new(ipfs.clone());
    let cluster = builder(&ipfs).ipfs(faulty.clone()).start().await.unwrap();
    cluster.ready().await.unwrap();
    let cid = ipfs.add_sample("content");
    faulty.down("taken down by the test");
    cluster.pin(cid, PinOptions::default()).await.unwrap();
    let error = cluster.wait(cid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
    assert!(cluster.id().await.ipfs.error.contains("down"), "{:?}", cluster.id().await.ipfs);
    faulty.up();
    // Long before the next regular recover.
    cluster.wait(cid).past_errors().timeout(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn content_that_nobody_has_becomes_an_error_and_recover_tries_again() {
    let (ipfs, cluster) = peer().await;
    let block = Block::raw("elsewhere");
    cluster.pin(block.cid, PinOptions::default()).await.unwrap();
    cluster.wait(block.cid).until(Until::Status(TrackerStatus::Pinning)).await.unwrap();
    let timeout = cluster.wait(block.cid).timeout(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(timeout.kind(), ErrorKind::Timeout, "{timeout}");
    cluster.wait(block.cid).until(Until::Status(TrackerStatus::PinError)).await.unwrap();
    let failed: Vec<_> =
        cluster.status_all(StatusFilter::ERROR, Scope::Global).map(|page| page.unwrap()).concat().await;
    assert_eq!(failed.len(), 1);
    ipfs.put(block.clone()).unwrap();
    cluster.recover(&block.cid, Scope::Global).await.unwrap();
    cluster.wait(block.cid).past_errors().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_unpinned_behind_our_back_is_synced_then_recovered() {
    let (ipfs, cluster) = peer().await;
    let (lost, kept) = (ipfs.add_sample("lost"), ipfs.add_sample("kept"));
    for cid in [lost, kept] {
        cluster.pin(cid, PinOptions::default()).await.unwrap();
        cluster.wait(cid).await.unwrap();
    }
    ipfs.unpin(&lost).await.unwrap();
    assert_eq!(status_of(&cluster, &lost).await, TrackerStatus::UnexpectedlyUnpinned);
    let changed: Vec<_> = cluster.sync_all(Scope::Local).map(|page| page.unwrap()).concat().await;
    assert_eq!(changed.iter().map(|info| info.cid).collect::<Vec<_>>(), [lost]);
    assert!(!ipfs.is_pinned(&lost, PinMode::Recursive).await.unwrap(), "sync pins nothing");
    let queued: Vec<_> = cluster.recover_all(Scope::Local).map(|page| page.unwrap()).concat().await;
    assert_eq!(queued.iter().map(|info| info.cid).collect::<Vec<_>>(), [lost]);
    cluster.wait(lost).past_errors().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_follower_reads_but_does_not_write() {
    let ipfs = MemoryIpfs::new();
    let config = ClusterConfig { follower_mode: true, peername: "follower".into(), ..Default::default() };
    let cluster = builder(&ipfs).config(config).start().await.unwrap();
    let cid = ipfs.add_sample("content");
    for error in [
        cluster.pin(cid, PinOptions::default()).await.unwrap_err(),
        cluster.unpin(&cid).await.unwrap_err(),
        cluster.pin_path(&cid.into(), PinOptions::default()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        assert!(error.to_string().contains("follower mode"), "{error}");
    }
    assert_eq!(status_of(&cluster, &cid).await, TrackerStatus::Unpinned);
}

#[tokio::test(start_paused = true)]
async fn more_replicas_than_peers_is_an_error_with_the_numbers() {
    let (ipfs, cluster) = peer().await;
    while cluster.metrics("freespace").is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let cid = ipfs.add_sample("content");
    let options = |min, max| PinOptions {
        replication_factor_min: min,
        replication_factor_max: max,
        ..Default::default()
    };
    let error = cluster.pin(cid, options(2, 3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotEnoughPeers);
    let detail = error.downcast_source::<ipfs_cluster::allocator::NotEnoughPeers>().unwrap();
    assert_eq!((detail.needed, detail.wanted, detail.available), (2, 3, 1));
    let pin = cluster.pin(cid, options(1, 1)).await.unwrap();
    assert_eq!(pin.allocations, [cluster.peer_id()]);
}

#[tokio::test(start_paused = true)]
async fn an_update_continues_a_pin_and_needs_it_to_be_there() {
    let (ipfs, cluster) = peer().await;
    let (old, new) = (ipfs.add_sample("old"), ipfs.add_sample("new"));
    let update = PinOptions { pin_update: Some(old), ..Default::default() };
    assert_eq!(
        cluster.pin(new, update.clone()).await.unwrap_err().to_string(),
        "pin is not part of the pinset"
    );
    cluster.pin(old, PinOptions { name: "thing".into(), ..Default::default() }).await.unwrap();
    let pin = cluster.pin(new, update).await.unwrap();
    assert_eq!((pin.options.name.as_str(), pin.options.pin_update), ("thing", Some(old)));
    cluster.wait(new).await.unwrap();
    cluster.wait(old).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_consensus_never_gets_ready_says_why() {
    use ipfs_cluster::consensus::{Solo, SoloConfig};
    let cluster = builder(&MemoryIpfs::new())
        .consensus_with(|cx| async move {
            let solo = Solo::open(SoloConfig::default(), cx).await?;
            ipfs_cluster::consensus::Consensus::shutdown(&solo).await?;
            Ok(solo)
        })
        .start()
        .await
        .unwrap();
    let (error, reason) = tokio::join!(cluster.ready(), cluster.stopped());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::ShutDown);
    assert!(matches!(reason, StopReason::NotReady(_) | StopReason::TaskFailed("state_events")), "{reason:?}");
}
