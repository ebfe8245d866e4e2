//! Whole peers that agree through etcd.

use ipfs_cluster::cluster::{Cluster, ClusterConfig, StopReason, Until, presets};
use ipfs_cluster::consensus::{Etcd, EtcdConfig};
use ipfs_cluster::ipfs_connector::{MemoryIpfs, MemoryIpfsConfig, MemorySwarm};
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::testing::peer;
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::PinOptions;
use std::time::Duration;

use crate::peer::{config, unique_prefix, until};
use crate::server_or_skip;

async fn start(
    number: u16,
    network: &MemoryNetwork,
    swarm: &MemorySwarm,
    config: EtcdConfig,
) -> (Cluster, MemoryIpfs) {
    let ipfs = MemoryIpfs::with_config(MemoryIpfsConfig {
        number,
        swarm: swarm.clone(),
        ..MemoryIpfsConfig::default()
    });
    let short = Duration::from_millis(500);
    let cluster = Cluster::builder()
        .preset(presets::Solo)
        .config(ClusterConfig {
            peername: format!("peer-{number}"),
            peer_watch_interval: short,
            monitor_ping_interval: short,
            ..ClusterConfig::default()
        })
        .consensus_with(move |cx| Etcd::open(config, cx))
        .pubsub_monitor(MonitorConfig::default())
        .transport(network.join(peer(number.into())).unwrap())
        .storage(MemoryStorage::new())
        .ipfs(ipfs.clone())
        .start()
        .await
        .unwrap();
    cluster.ready().await.unwrap();
    (cluster, ipfs)
}

#[tokio::test]
async fn three_peers_pin_and_one_that_is_removed_stops() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let (network, swarm) = (MemoryNetwork::new(0), MemorySwarm::default());
    let mut peers = Vec::new();
    for number in 1..=3 {
        peers.push(start(number, &network, &swarm, config.clone()).await);
    }
    for (_, ipfs) in &peers[1..] {
        peers[0].1.connect(ipfs);
    }
    let clusters: Vec<&Cluster> = peers.iter().map(|(cluster, _)| cluster).collect();
    let cid = peers[0].1.add_sample("something to keep");
    let options =
        PinOptions { replication_factor_min: -1, replication_factor_max: -1, ..PinOptions::default() };
    clusters[1].pin(cid, options).await.unwrap();
    let info = clusters[2].wait(cid).until(Until::PinnedEverywhere).await.unwrap();
    assert_eq!(info.peer_map.len(), 3);

    clusters[0].remove_peer(&clusters[2].peer_id()).await.unwrap();
    let reason = clusters[2].stopped().await;
    assert!(matches!(reason, StopReason::Removed), "{reason}");
    until("two are left", async || clusters[0].peers().await.is_ok_and(|peers| peers.len() == 2)).await;
    clusters[0].unpin(&cid).await.unwrap();
    until("it is gone for the other one", async || clusters[1].pin_get(&cid).await.is_err()).await;
    for cluster in clusters {
        cluster.shutdown().await;
    }
}
