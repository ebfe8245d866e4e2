//! A peer of its own in an application, from the library without features: nothing of it touches disk or network.

use ipfs_cluster::Cluster;
use ipfs_cluster::cluster::{Until, presets};
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::types::PinOptions;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ipfs_cluster::Result<()> {
    let ipfs = MemoryIpfs::new();
    let cid = ipfs.add_sample("content of the application");
    let cluster = Cluster::builder().preset(presets::InMemory).ipfs(ipfs).start().await?;
    cluster.pin(cid, PinOptions::default()).await?;
    let info = cluster.wait(cid).until(Until::PinnedEverywhere).await?;
    println!("{cid} is {}", info.peer_map[&cluster.peer_id()].status);
    cluster.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_solo_peer_starts_pins_and_stops_without_any_feature() {
        super::main().unwrap();
    }
}
