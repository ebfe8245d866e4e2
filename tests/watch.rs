//! Watching whole peers, on paused time.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::ErrorKind;
use ipfs_cluster::clock::TokioClock;
use ipfs_cluster::cluster::{Cluster, WatchQuery, presets};
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::monitor::{LocalMonitor, Monitor as _, MonitorConfig, MonitorContext};
use ipfs_cluster::transport::{MemoryNetwork, PeerTransport as _};
use ipfs_cluster::types::{
    Event, EventKind, EventKinds, Happening, Metric, PeerId, PinOptions, Timestamp, TrackerStatus,
};

async fn peer() -> (MemoryIpfs, Cluster) {
    let ipfs = MemoryIpfs::new();
    let clock = TokioClock::starting_at(Timestamp::from_unix_seconds(1_800_000_000));
    let builder = Cluster::builder().preset(presets::InMemory).peername("peer").clock(clock);
    let cluster = builder.ipfs(ipfs.clone()).start().await.unwrap();
    cluster.ready().await.unwrap();
    (ipfs, cluster)
}

/// An event in a word.
fn word(event: &Event) -> String {
    match &event.what {
        Happening::Status(info) => info.status.status.to_string(),
        what => what.as_str().to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_life_of_a_pin_is_told_in_order_and_can_be_resumed_anywhere() {
    let (ipfs, cluster) = peer().await;
    // The first comparison with the daemon is over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut watch = cluster.watch(WatchQuery::default()).unwrap();
    let cid = ipfs.add_sample("content");
    cluster.pin(cid, PinOptions { name: "first".into(), ..Default::default() }).await.unwrap();
    cluster.wait(cid).await.unwrap();
    cluster.unpin(&cid).await.unwrap();
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Event| !word(event).starts_with("unpinned") || events.len() < 7) {
        let event = watch.next().await.unwrap();
        assert_eq!((event.peer, event.what.cid()), (cluster.peer_id(), Some(&cid)), "{event:?}");
        events.push(event);
    }
    let words: Vec<_> = events.iter().map(word).collect();
    assert_eq!(
        words,
        ["pinned", "pin_queued", "pinning", "pinned", "unpinned", "unpin_queued", "unpinning", "unpinned"]
    );
    for (index, event) in events.iter().enumerate() {
        let query = WatchQuery { after: Some(event.cursor), ..WatchQuery::default() };
        let rest = cluster.watch(query).unwrap().take(events.len() - index - 1);
        assert_eq!(rest.collect::<Vec<_>>().await, events[index + 1..]);
    }

    let (other, kinds) = (ipfs.add_sample("other"), EventKinds::from(EventKind::Status));
    let mut of_other =
        cluster.watch(WatchQuery { kinds, cids: vec![other], ..WatchQuery::default() }).unwrap();
    for cid in [cid, other] {
        cluster.pin(cid, PinOptions::default()).await.unwrap();
    }
    let Happening::Status(info) = of_other.next().await.unwrap().what else {
        panic!("a status was asked for")
    };
    assert_eq!((info.cid, info.status.status), (other, TrackerStatus::PinQueued));
}

#[tokio::test(start_paused = true)]
async fn peers_that_appear_and_expire_are_told_with_their_alerts() {
    let clock = Arc::new(TokioClock::starting_at(Timestamp::from_unix_seconds(1_800_000_000)));
    let transport = Arc::new(MemoryNetwork::new(0).join(PeerId::random()).unwrap());
    let cx = MonitorContext::new(transport.local_peer(), transport, Arc::clone(&clock) as _);
    let monitor = Arc::new(LocalMonitor::new(MonitorConfig::default(), cx).unwrap());
    let builder = Cluster::builder().preset(presets::InMemory).clock(clock).ipfs(MemoryIpfs::new());
    let cluster = builder.monitor(Arc::clone(&monitor)).start().await.unwrap();
    let kinds = EventKinds::from(EventKind::Peer) | EventKind::Alert.into();
    let mut watch = cluster.watch(WatchQuery { kinds, ..WatchQuery::default() }).unwrap();
    let subject = PeerId::random();
    let expire = (cluster.clock().now() + Duration::from_secs(30)).unix_nanoseconds();
    let ping = Metric {
        name: "ping".into(),
        peer: subject,
        value: "{\"peer_name\":\"other\"}".into(),
        expire,
        valid: true,
        weight: 0,
        partitionable: false,
        received_at: 0,
    };
    monitor.record(ping).await.unwrap();
    let peer = |is_alive| Happening::Peer { subject, peername: "other".into(), is_alive };
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(watch.next().await.unwrap().what);
    }
    let alert = told.iter().position(|what| matches!(what, Happening::Alert(_))).unwrap();
    let Happening::Alert(alert) = told.remove(alert) else { unreachable!() };
    assert_eq!((alert.metric.peer, alert.metric.name.as_str()), (subject, "ping"));
    assert_eq!(told, [peer(true), peer(false)]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_peer_and_keeps_nothing_of_it_alive() {
    let (_ipfs, cluster) = peer().await;
    let mut watch = cluster.watch(WatchQuery::default()).unwrap();
    let mut idle =
        cluster.watch(WatchQuery { kinds: EventKind::Alert.into(), ..Default::default() }).unwrap();
    let waiting = tokio::spawn(async move { idle.next().await });
    cluster.shutdown().await;
    while watch.next().await.is_some() {}
    assert_eq!(waiting.await.unwrap(), None);
    assert_eq!(cluster.watch(WatchQuery::default()).err().unwrap().kind(), ErrorKind::ShutDown);

    let (_ipfs, cluster) = peer().await;
    let mut watch = cluster.watch(WatchQuery::default()).unwrap();
    drop(cluster);
    while watch.next().await.is_some() {}
}
