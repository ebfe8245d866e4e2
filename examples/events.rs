//! Prints what happens in a peer while pins come and go.
//!
//! `cargo run --example events`

use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::Result;
use ipfs_cluster::cluster::{Cluster, ClusterEvent, Until, presets};
use ipfs_cluster::ipfs_connector::{MemoryIpfs, MemoryIpfsConfig};
use ipfs_cluster::types::{Block, PinOptions};

#[tokio::main]
async fn main() -> Result<()> {
    // Gives up soon on content that nobody has.
    let impatient = MemoryIpfsConfig { pin_timeout: Duration::from_secs(1), ..MemoryIpfsConfig::default() };
    let ipfs = MemoryIpfs::with_config(impatient);
    let cluster = Cluster::builder().preset(presets::InMemory).ipfs(ipfs.clone()).start().await?;

    // Subscribe before anything happens: events are of the time since the call.
    let mut events = cluster.events();
    let printing = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                ClusterEvent::Pinned(pin) => println!("pinset + {} {:?}", pin.cid, pin.options.name),
                ClusterEvent::Unpinned(pin) => println!("pinset - {}", pin.cid),
                ClusterEvent::StatusChanged(info) => {
                    println!("status   {} {} {}", info.cid, info.status.status, info.status.error);
                }
                ClusterEvent::Alert(alert) => {
                    println!("alert    no {} from {}", alert.metric.name, alert.metric.peer)
                }
                // Some events were left out: what matters has to be asked for, with `status_all` for instance.
                ClusterEvent::Resync => println!("look again: more may have changed than was told"),
                _ => {}
            }
        }
    });

    let named = |name: &str| PinOptions { name: name.into(), ..PinOptions::default() };
    let here = ipfs.add_sample("content");
    cluster.pin(here, named("here")).await?;
    cluster.wait(here).until(Until::PinnedEverywhere).await?;

    let missing = Block::raw("stored by nobody yet");
    cluster.pin(missing.cid, named("missing")).await?;
    if let Err(error) = cluster.wait(missing.cid).await {
        println!("{error}");
    }
    ipfs.put(missing.clone())?;
    cluster.recover(&missing.cid, Default::default()).await?;
    cluster.wait(missing.cid).await?;

    cluster.unpin(&here).await?;
    cluster.wait(here).until(Until::Gone).await?;
    // The stream ends with the peer.
    cluster.shutdown().await;
    let _ = printing.await;
    Ok(())
}
