//! Whole peers that agree by Raft: one that is removed stops, and says why.

use std::time::Duration;

use ipfs_cluster::cluster::{Cluster, ClusterConfig, StopReason, presets};
use ipfs_cluster::consensus::RaftConfig;
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::testing::{CrashStorage, peer};
use ipfs_cluster::transport::MemoryNetwork;

use crate::world::{FACT_TIMEOUT, fact};

async fn start(network: &MemoryNetwork, number: u64, peers: u64) -> Cluster {
    let mut raft = RaftConfig::default();
    raft.init_peerset = (1..=peers).map(peer).collect();
    let config = ClusterConfig { peer_watch_interval: Duration::from_secs(2), ..ClusterConfig::default() };
    Cluster::builder()
        .preset(presets::InMemory)
        .raft(raft)
        .config(config)
        .transport(network.join(peer(number)).unwrap())
        .storage(CrashStorage::new())
        .ipfs(MemoryIpfs::new())
        .start()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_removed_stops_and_says_so_whether_it_led_or_not() {
    let network = MemoryNetwork::new(1);
    network.set_delay(Duration::from_millis(1));
    let mut clusters = Vec::new();
    for number in 1..=3 {
        clusters.push((number, start(&network, number, 3).await));
    }
    for (_, cluster) in &clusters {
        cluster.ready().await.unwrap();
    }
    for is_leader in [true, false] {
        let leader = fact("a leader", async || clusters[0].1.consensus().leader().await.unwrap()).await;
        let index = clusters.iter().position(|(number, _)| (peer(*number) == leader) == is_leader).unwrap();
        let (victim, removed) = clusters.remove(index);
        clusters[0].1.remove_peer(&peer(victim)).await.unwrap();
        let reason = tokio::time::timeout(FACT_TIMEOUT, removed.stopped()).await.unwrap();
        assert!(matches!(reason, StopReason::Removed), "{reason}");
        assert_eq!(clusters[0].1.consensus().peers().await.unwrap().len(), clusters.len());
    }
    // Who is left goes on.
    let ipfs = MemoryIpfs::new();
    let cid = ipfs.add_sample("x");
    clusters[0].1.pin(cid, Default::default()).await.unwrap();
}
