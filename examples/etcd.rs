//! Three peers that agree through an etcd that runs already: in this process here, in three with the same few lines.
//!
//! ```text
//! etcd --data-dir /tmp/etcd
//! cargo run --example etcd --features consensus-etcd -- http://127.0.0.1:2379
//! ```
//!
//! The pinset is below `/ipfs-cluster/example` in etcd, and is there the next time: `etcdctl get --prefix --keys-only
//! /ipfs-cluster/example/pins/`. Several etcd members are given as several arguments.

use std::time::Duration;

use ipfs_cluster::Result;
use ipfs_cluster::cluster::{Cluster, ClusterConfig, Until, presets};
use ipfs_cluster::config::{Identity, Secret};
use ipfs_cluster::consensus::EtcdConfig;
use ipfs_cluster::ipfs_connector::{MemoryIpfs, MemoryIpfsConfig, MemorySwarm};
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport};
use ipfs_cluster::types::PinOptions;

const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Peers find each other through etcd and agree there; all else goes between them as in any cluster.
async fn peer(
    number: u16,
    etcd: &EtcdConfig,
    secret: &Secret,
    swarm: &MemorySwarm,
) -> Result<(Cluster, MemoryIpfs)> {
    let network =
        Libp2pTransport::start(&Identity::generate(), Libp2pConfig::loopback(secret.clone())).await?;
    let ipfs = MemoryIpfs::with_config(MemoryIpfsConfig {
        number,
        swarm: swarm.clone(),
        ..MemoryIpfsConfig::default()
    });
    let cluster = Cluster::builder()
        .preset(presets::Solo)
        .etcd(etcd.clone())
        .pubsub_monitor(MonitorConfig::default())
        .config(ClusterConfig {
            peername: format!("peer-{number}"),
            monitor_ping_interval: PING_INTERVAL,
            ..ClusterConfig::default()
        })
        .transport(network)
        .storage(MemoryStorage::new())
        .ipfs(ipfs.clone())
        .start()
        .await?;
    // It waits for etcd as long as it takes.
    if tokio::time::timeout(Duration::from_secs(5), cluster.ready()).await.is_err() {
        println!("waiting for the etcd at {}", etcd.endpoints.join(", "));
    }
    cluster.ready().await?;
    Ok((cluster, ipfs))
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut etcd = EtcdConfig::default();
    etcd.prefix = "/ipfs-cluster/example".to_owned();
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    if !endpoints.is_empty() {
        etcd.endpoints = endpoints;
    }
    let (secret, swarm) = (Secret::generate(), MemorySwarm::default());
    let (first, first_ipfs) = peer(1, &etcd, &secret, &swarm).await?;
    let (second, second_ipfs) = peer(2, &etcd, &secret, &swarm).await?;
    let (third, third_ipfs) = peer(3, &etcd, &secret, &swarm).await?;
    first_ipfs.connect(&second_ipfs);
    first_ipfs.connect(&third_ipfs);
    while first.metrics("freespace").len() < 3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for info in first.peers().await? {
        println!("{} is {}", info.id, info.peername);
    }

    let cid = first_ipfs.add_sample("content that everybody holds");
    first.pin(cid, PinOptions::default()).await?;
    for status in third.wait(cid).until(Until::PinnedEverywhere).await?.peer_map.values() {
        println!("{}: {} {}", status.peername, status.status, cid);
    }
    println!("{} pins in etcd", second.state().counts().pins);

    for peer in [third, second, first] {
        peer.shutdown().await;
    }
    Ok(())
}
