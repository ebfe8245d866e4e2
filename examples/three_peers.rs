//! Three peers of one cluster in one process, over libp2p on this machine: one dies, and what it held moves.
//!
//! `cargo run --example three_peers`. A peer as a process of its own: `standalone_peer`.

use std::time::Duration;

use ipfs_cluster::Result;
use ipfs_cluster::cluster::{Cluster, ClusterConfig, Until, presets};
use ipfs_cluster::config::{Identity, Secret};
use ipfs_cluster::ipfs_connector::{MemoryIpfs, MemoryIpfsConfig, MemorySwarm};
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport};
use ipfs_cluster::types::{GlobalPinInfo, PinOptions};

/// After two of them without a word a peer is dead. Fifteen seconds would be usual.
const PING_INTERVAL: Duration = Duration::from_secs(2);

async fn peer(number: u16, secret: &Secret, swarm: &MemorySwarm) -> Result<(Cluster, MemoryIpfs)> {
    // The network says who the peer is; this one listens on 127.0.0.1, on a free port.
    let network =
        Libp2pTransport::start(&Identity::generate(), Libp2pConfig::loopback(secret.clone())).await?;
    let config = ClusterConfig {
        peername: format!("peer-{number}"),
        monitor_ping_interval: PING_INTERVAL,
        // Without this, pins stay where they are until somebody pins them again.
        disable_repinning: false,
        ..ClusterConfig::default()
    };
    // Of three the last has the least room, so that the pin goes to the others.
    let storage_max = (10 - u64::from(number)) * 1_000_000_000;
    let ipfs = MemoryIpfs::with_config(MemoryIpfsConfig {
        number,
        storage_max,
        swarm: swarm.clone(),
        ..MemoryIpfsConfig::default()
    });
    let cluster = Cluster::builder()
        .preset(presets::Collaborative::default())
        .config(config)
        .pubsub_monitor(MonitorConfig { check_interval: Duration::from_millis(500) })
        .transport(network)
        .storage(MemoryStorage::new())
        .ipfs(ipfs.clone())
        .start()
        .await?;
    cluster.ready().await?;
    Ok((cluster, ipfs))
}

fn show(info: &GlobalPinInfo) {
    for status in info.peer_map.values() {
        println!("  {}: {}", status.peername, status.status);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (secret, swarm) = (Secret::generate(), MemorySwarm::default());
    let (first, first_ipfs) = peer(1, &secret, &swarm).await?;
    let (second, second_ipfs) = peer(2, &secret, &swarm).await?;
    let (third, third_ipfs) = peer(3, &secret, &swarm).await?;
    for ipfs in [&second_ipfs, &third_ipfs] {
        first_ipfs.connect(ipfs);
    }
    second_ipfs.connect(&third_ipfs);
    for (peer, others) in [(&second, vec![&first]), (&third, vec![&first, &second])] {
        for other in others {
            peer.join(&other.id().await.addresses.unwrap_or_default()).await?;
        }
    }
    // A peer is a candidate for pins once its measurements have come.
    for peer in [&first, &third] {
        while peer.metrics("freespace").len() < 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for info in first.peers().await? {
        println!("{} is {}", info.id, info.peername);
    }

    let cid = first_ipfs.add_sample("content that two peers hold");
    let options =
        PinOptions { replication_factor_min: 2, replication_factor_max: 2, ..PinOptions::default() };
    first.pin(cid, options).await?;
    println!("{cid}:");
    show(&first.wait(cid).until(Until::PinnedEverywhere).await?);

    println!("peer-2 stops; after {:?} without its ping the others act:", PING_INTERVAL * 2);
    second.shutdown().await;
    while third.pin_get(&cid).await?.allocations.contains(&second.peer_id()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    show(&third.wait(cid).until(Until::PinnedEverywhere).await?);

    third.shutdown().await;
    first.shutdown().await;
    Ok(())
}
