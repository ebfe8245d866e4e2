//! A whole peer beside a real Kubo whose garbage is collected all the time while blocks of an add come.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use ipfs_cluster::cluster::presets;
use ipfs_cluster::ipfs_connector::{IpfsConnector, KuboConfig, KuboConnector, sample_file_with_chunks};
use ipfs_cluster::rpc::PeerClient;
use ipfs_cluster::testing::cluster::{TestCluster, TestClusterConfig};
use ipfs_cluster::testing::peer;
use ipfs_cluster::transport::PeerTransport as _;
use ipfs_cluster::types::{Multiaddr, PinMode, PinOptions};

use super::RealKubo;

const BYTES: u32 = 40_000_000;
const CHUNK_BYTES: usize = 250_000;
/// Time in which whatever should happen has happened.
const PATIENCE: Duration = Duration::from_secs(120);

async fn collect(ipfs: &dyn IpfsConnector) -> usize {
    let mut removed = ipfs.repo_gc();
    let mut count = 0;
    while let Some(block) = removed.next().await {
        assert_eq!(block.expect("a collection of a healthy daemon").error, "");
        count += 1;
    }
    count
}

#[tokio::test]
async fn kubo_loses_nothing_of_an_add_while_it_collects_garbage() {
    let Some(kubo) = RealKubo::find() else { return };
    let (_running, address) = kubo.start();
    let ipfs = KuboConnector::with_config(KuboConfig::at(address.parse().unwrap())).unwrap();
    ipfs.ready().await.unwrap();
    let own = ipfs.clone();
    let config = TestClusterConfig {
        peers: 1,
        // Whoever is in it may send blocks.
        assemble: Arc::new(move |_, builder| {
            builder.preset(presets::Collaborative::default()).ipfs(own.clone())
        }),
        ..TestClusterConfig::default()
    };
    let peers = TestCluster::with_config(config).await.unwrap();
    let cluster = peers.peer(0);
    let other = Arc::new(peers.network().join(peer(100)).unwrap());
    let peer_address = Multiaddr::empty().with(multiaddr::Protocol::Memory(1));
    assert_eq!(other.connect(&peer_address).await.unwrap(), peers.id(0));
    let client = PeerClient::new(other);

    let content: Vec<u8> = (0..BYTES).map(|at| (at / 251) as u8 ^ at as u8 ^ (at >> 20) as u8).collect();
    let (root, blocks) = sample_file_with_chunks(content, CHUNK_BYTES);
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let collector = tokio::spawn({
        let ipfs = ipfs.clone();
        async move {
            let mut collections = 0;
            while !*stopped.borrow_and_update() {
                collect(&ipfs).await;
                collections += 1;
            }
            collections
        }
    });
    let source = stream::iter(blocks.clone()).map(Ok).boxed();
    let stored = tokio::time::timeout(PATIENCE, client.put_blocks(&peers.id(0), source)).await;
    stored.expect("the blocks are stored in time").unwrap();
    assert!(!cluster.leases().is_empty());
    stop.send(true).unwrap();
    let collections = collector.await.unwrap();
    assert!(collections > 0);
    collect(&ipfs).await;

    cluster.pin(root, PinOptions::default()).await.unwrap();
    let released = tokio::time::timeout(PATIENCE, async {
        while !cluster.leases().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    released.await.expect("the leases are released in time");
    assert!(ipfs.is_pinned(&root, PinMode::Recursive).await.unwrap());
    assert!(collect(&ipfs).await > 0, "the leases themselves are garbage");
    for block in blocks {
        assert_eq!(ipfs.get_block(&block.cid).await.unwrap(), block);
    }
    let pins: Vec<_> = ipfs.list_pins(PinMode::Recursive).collect().await;
    let pins: Vec<_> = pins.into_iter().flat_map(Result::unwrap).map(|pin| pin.cid).collect();
    assert_eq!(pins, [root], "no lease is left");
}
