//! A peer whose copy is behind: what was acknowledged elsewhere is neither denied nor forgotten there.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::cluster::{Cluster, presets};
use ipfs_cluster::consensus::{Consensus as _, Etcd, EtcdConfig};
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::{cid, pin};
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::PinOptions;
use tokio::time::{Instant, sleep, timeout};

use crate::peer::{FACT_TIMEOUT, Peer, config, unique_prefix};
use crate::proxy::Proxy;
use crate::server_or_skip;

/// Long enough for a call to have come as far as it gets.
const HELD: Duration = Duration::from_secs(1);

async fn start(number: u64, config: EtcdConfig) -> Cluster {
    let cluster = Cluster::builder()
        .preset(presets::Solo)
        .consensus_with(move |cx| Etcd::open(config, cx))
        .transport(MemoryNetwork::new(0).join(peer(number)).unwrap())
        .storage(MemoryStorage::new())
        .ipfs(MemoryIpfs::new())
        .start()
        .await
        .unwrap();
    cluster.ready().await.unwrap();
    cluster
}

#[tokio::test]
async fn what_another_peer_acknowledged_is_unpinned_by_one_that_does_not_have_it_yet() {
    let server = server_or_skip!();
    let prefix = unique_prefix();
    let proxy = Proxy::start(server.port()).await;
    let one = start(1, config(&server.url(), &prefix)).await;
    let behind = start(2, config(&proxy.url(), &prefix)).await;
    let [kept, old, new] = [1, 2, 3].map(cid);
    proxy.cut(true);
    one.pin(kept, PinOptions::default()).await.unwrap();
    let named = PinOptions { name: "site".to_owned(), ..PinOptions::default() };
    one.pin(old, named).await.unwrap();
    for missing in [kept, old] {
        assert_eq!(behind.pin_get(&missing).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    let late = async {
        sleep(HELD).await;
        proxy.cut(false);
    };
    let continued = PinOptions { pin_update: Some(old), ..PinOptions::default() };
    let (unpinned, pinned, ()) = tokio::join!(behind.unpin(&kept), behind.pin(new, continued), late);
    assert_eq!(unpinned.unwrap().cid, kept);
    assert_eq!(pinned.unwrap().options.name, "site");
    // And it is gone for good, also for who had it.
    for cluster in [&one, &behind] {
        cluster.synchronize().await.unwrap();
        assert_eq!(cluster.pin_get(&kept).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(cluster.pin_get(&new).await.unwrap().options.name, "site");
        // What is pinned nowhere is not pinned.
        let error = cluster.unpin(&cid(4)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    for cluster in [one, behind] {
        cluster.shutdown().await;
    }
}

#[tokio::test]
async fn without_etcd_nobody_is_told_that_something_is_not_pinned() {
    let server = server_or_skip!();
    let proxy = Proxy::start(server.port()).await;
    let mut config = config(&proxy.url(), &unique_prefix());
    config.request_timeout = Duration::from_secs(2);
    let cluster = start(1, config).await;
    cluster.pin(cid(1), PinOptions::default()).await.unwrap();
    proxy.cut(true);
    for unpinned in [2, 1].map(cid) {
        let before = Instant::now();
        let error = cluster.unpin(&unpinned).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    }
    // Reading goes on.
    assert_eq!(cluster.pin_get(&cid(1)).await.unwrap().cid, cid(1));
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_read_after_synchronizing_sees_what_others_acknowledged_whoever_else_writes_to_etcd() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let reader = Peer::ready(1, config.clone()).await;
    let mut writers = vec![Arc::new(Peer::ready(2, config.clone()).await)];
    let elsewhere = unique_prefix();
    for number in 0..30u64 {
        writers[0].etcd.log_pin(pin(number)).await.unwrap();
        // Etcd goes on, and no watch of ours shows that.
        server.put(&elsewhere, "x").await;
        timeout(FACT_TIMEOUT, reader.etcd.synchronize()).await.unwrap().unwrap();
        assert!(reader.etcd.state().get(&cid(number)).await.unwrap().is_some(), "{number}");
        if number % 3 == 0 {
            writers[0].etcd.log_unpin(&cid(number)).await.unwrap();
            if number % 2 == 0 {
                // With it goes the last key that says when that was.
                writers.remove(0).etcd.shutdown().await.unwrap();
                writers.push(Arc::new(Peer::ready(3 + number, config.clone()).await));
            }
            timeout(FACT_TIMEOUT, reader.etcd.synchronize()).await.unwrap().unwrap();
            assert!(reader.etcd.state().get(&cid(number)).await.unwrap().is_none(), "{number}");
        }
    }
}

#[tokio::test]
async fn a_peer_that_was_removed_is_told_so_when_it_synchronizes() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let (one, other) = (Peer::ready(1, config.clone()).await, Peer::ready(2, config).await);
    one.etcd.remove_peer(&peer(2)).await.unwrap();
    // It may not have heard of it: etcd says so.
    let error = other.etcd.synchronize().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.downcast_source::<ipfs_cluster::consensus::NoLongerMember>().is_some(), "{error}");
}
