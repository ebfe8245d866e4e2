//! Content in: files and folders become blocks on the IPFS daemons that are to keep them, and pins.
//!
//! `cargo run --example add --features add -- [PATH…]` adds them beside an IPFS in memory; with
//! `KUBO=/ip4/127.0.0.1/tcp/5001` in the environment, beside that daemon.

use std::sync::Arc;

use futures::StreamExt as _;
use ipfs_cluster::Result;
use ipfs_cluster::adder::AddEvent;
use ipfs_cluster::adder::content::{Files, InMemory};
use ipfs_cluster::cluster::{Cluster, Until, presets};
use ipfs_cluster::ipfs_connector::{IpfsConnector, KuboConnector, MemoryIpfs};
use ipfs_cluster::types::{AddOptions, PinOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let ipfs: Arc<dyn IpfsConnector> = match std::env::var("KUBO") {
        Ok(address) => Arc::new(KuboConnector::new(address.as_str())?),
        Err(_) => Arc::new(MemoryIpfs::new()),
    };
    let cluster = Cluster::builder().preset(presets::InMemory).ipfs(ipfs).start().await?;
    cluster.ready().await?;

    let pin = PinOptions { name: "added".into(), ..PinOptions::default() };
    let options = AddOptions { cid_version: 1, pin, ..AddOptions::default() };
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let mut events = if paths.is_empty() {
        cluster.add(InMemory::new().file("hello.txt", "hello, cluster\n"), options)
    } else {
        cluster.add(Files::new(paths), options)
    };
    while let Some(event) = events.next().await {
        match event? {
            AddEvent::Line(line) => {
                println!("{} {}", line.cid.map(|cid| cid.to_string()).unwrap_or_default(), line.name)
            }
            AddEvent::Pinned(pin) => {
                cluster.wait(pin.cid).until(Until::PinnedEverywhere).await?;
                println!("{} is pinned", pin.cid);
            }
            _ => {}
        }
    }
    cluster.shutdown().await;
    Ok(())
}
