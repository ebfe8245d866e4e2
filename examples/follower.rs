//! Follows somebody else's cluster from within an application: it pins what they pin, and changes nothing.
//!
//! `cargo run --example follower -- follow.json [--memory]`, with what `ipfs-cluster-service follow-config` prints
//! for the cluster. It pins on the Kubo daemon on 127.0.0.1:5001 (`CLUSTER_IPFSHTTP_NODEMULTIADDRESS` names another), or with
//! `--memory` on an IPFS in memory, which has no content and keeps waiting for it. Its data is in
//! `follower-data/`. It prints what becomes of each pin.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use ipfs_cluster::cluster::{Cluster, ClusterConfig, ClusterEvent, presets};
use ipfs_cluster::config::{ClusterSection, Identity, ServiceJson, process_environment as variables};
use ipfs_cluster::consensus::CrdtSection;
use ipfs_cluster::ipfs_connector::{IpfsConnector, KuboConfig, KuboConnector, MemoryIpfs};
use ipfs_cluster::storage::{FjallConfig, FjallStorage};
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport};

#[tokio::main]
async fn main() -> ipfs_cluster::Result<()> {
    let published = ServiceJson::load(Path::new(&std::env::args().nth(1).unwrap_or("follow.json".into())))?;
    let section = published.read::<ClusterSection>(&variables)?.section;
    let kubo = KuboConnector::with_config(published.read::<KuboConfig>(&variables)?.section)?;
    let in_memory = std::env::args().any(|word| word == "--memory");
    let ipfs: Arc<dyn IpfsConnector> = if in_memory { Arc::new(MemoryIpfs::new()) } else { Arc::new(kubo) };
    let identity = Identity::load_or_generate(Path::new("follower-data/identity.json"))?;
    let cluster = Cluster::builder()
        .preset(presets::Follower::try_from(&published.read::<CrdtSection>(&variables)?.section)?)
        .config(ClusterConfig::from(&section))
        .transport(Libp2pTransport::start(&identity, Libp2pConfig::from(&section)).await?)
        .storage(FjallStorage::open("follower-data/fjall", FjallConfig::default())?)
        .ipfs(ipfs)
        .start()
        .await?;
    println!("{} follows, with {} pins so far", cluster.peer_id(), cluster.state().counts().pins);
    let mut events = cluster.events();
    while let Some(event) = events.next().await {
        if let ClusterEvent::StatusChanged(info) = event {
            println!("{} {} {}", info.cid, info.name, info.status.status);
        }
    }
    Ok(())
}
