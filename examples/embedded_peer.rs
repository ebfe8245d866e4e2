//! A peer inside an application: its pinset in a folder, beside the Kubo daemon at an address, or an IPFS in memory.
//!
//! `cargo run --example embedded_peer -- [FOLDER [/ip4/127.0.0.1/tcp/5001]]`; run it twice to find the pin again.

use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use ipfs_cluster::Result;
use ipfs_cluster::cluster::{Cluster, Until, presets};
use ipfs_cluster::config::Identity;
use ipfs_cluster::ipfs_connector::{IpfsConnector, KuboConnector, MemoryIpfs, sample_file};
use ipfs_cluster::storage::{FjallConfig, FjallStorage};
use ipfs_cluster::types::PinOptions;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("embedded-peer"), PathBuf::from);
    let ipfs: Arc<dyn IpfsConnector> = match arguments.next() {
        Some(address) => Arc::new(KuboConnector::new(address.as_str())?),
        None => Arc::new(MemoryIpfs::new()),
    };

    let storage = FjallStorage::open(folder.join("fjall"), FjallConfig::default())?;
    let cluster = Cluster::builder()
        .preset(presets::Solo)
        .peer(identity(&folder.join("identity.json"))?.id())
        .storage(storage)
        .ipfs(ipfs)
        .start()
        .await?;
    cluster.ready().await?;
    println!("{} has {} pins in {}", cluster.peer_id(), cluster.state().counts().pins, folder.display());

    let (cid, blocks) = sample_file("content of the application\n");
    cluster.ipfs().put_blocks(stream::iter(blocks).map(Ok).boxed()).await?;
    cluster.pin(cid, PinOptions { name: "sample".into(), ..PinOptions::default() }).await?;
    let info = cluster.wait(cid).until(Until::PinnedEverywhere).await?;
    println!("{cid} is {}", info.peer_map[&cluster.peer_id()].status);
    cluster.shutdown().await;
    Ok(())
}

/// The same peer at every start: allocations name it.
fn identity(path: &std::path::Path) -> Result<Identity> {
    if path.exists() {
        return Identity::load(path);
    }
    let identity = Identity::generate();
    identity.save(path)?;
    Ok(identity)
}
