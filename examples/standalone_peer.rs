//! A peer as a process of its own: run it three times, in three terminals.
//!
//! `cargo run --example standalone_peer -- FOLDER [--listen ADDRESS] [--bootstrap ADDRESS]… [--kubo ADDRESS] [--pin WORDS]`
//!
//! The first prints how to start the next ones. Each tells who is there and what is pinned, whenever that changes, until
//! Ctrl-C. Started again on its folder it is the same peer and has the same pins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use ipfs_cluster::cluster::{Cluster, ClusterConfig, ClusterEvent, presets};
use ipfs_cluster::config::{Identity, Secret};
use ipfs_cluster::ipfs_connector::{IpfsConnector, KuboConnector, MemoryIpfs, sample_file};
use ipfs_cluster::storage::{FjallConfig, FjallStorage};
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport};
use ipfs_cluster::types::{Multiaddr, PeerInfo, PinOptions, parse_multiaddr};
use ipfs_cluster::{Error, Result};

const USAGE: &str =
    "usage: standalone_peer FOLDER [--listen ADDRESS] [--bootstrap ADDRESS]… [--kubo ADDRESS] [--pin WORDS]
  FOLDER       where the peer keeps who it is (identity.json) and its pinset; its name is the peer's
  --listen     where others reach it, /ip4/127.0.0.1/tcp/0 takes a free port (default)
  --bootstrap  a peer to join, as that peer prints it
  --kubo       its IPFS daemon, for example /ip4/127.0.0.1/tcp/5001; without it one in memory
  --pin        words that are pinned on this peer
  CLUSTER_SECRET, 64 hex digits, keeps strangers out; without it everybody on this machine may join";

/// How often it is looked who is there.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

struct Arguments {
    folder: PathBuf,
    listen: Multiaddr,
    bootstrap: Vec<Multiaddr>,
    ipfs: Arc<dyn IpfsConnector>,
    words: Option<String>,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let (mut folder, mut words_to_pin) = (None, None);
    let mut listen = parse_multiaddr("/ip4/127.0.0.1/tcp/0")?;
    let mut bootstrap = Vec::new();
    let mut ipfs: Arc<dyn IpfsConnector> = Arc::new(MemoryIpfs::new());
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::invalid_input(format!("{word} needs a value")));
        match word.as_str() {
            "--listen" => listen = parse_multiaddr(&value()?)?,
            "--bootstrap" => bootstrap.push(parse_multiaddr(&value()?)?),
            "--kubo" => ipfs = Arc::new(KuboConnector::new(value()?.as_str())?),
            "--pin" => words_to_pin = Some(value()?),
            _ if word.starts_with('-') => {
                return Err(Error::invalid_input(format!("unknown argument {word}")));
            }
            _ => folder = Some(PathBuf::from(word)),
        }
    }
    let folder = folder.ok_or_else(|| Error::invalid_input("no folder is given"))?;
    Ok(Arguments { folder, listen, bootstrap, ipfs, words: words_to_pin })
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = arguments(std::env::args().skip(1)).inspect_err(|_| eprintln!("{USAGE}"))?;
    let Arguments { folder, listen, bootstrap, ipfs, words } = arguments;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let secret: Secret = match std::env::var("CLUSTER_SECRET") {
        Ok(text) => text.parse()?,
        Err(_) => Secret::NONE,
    };
    let storage = FjallStorage::open(folder.join("fjall"), FjallConfig::default())?;
    let identity = identity(&folder.join("identity.json"))?;
    // Peers ask each other who is where. `Libp2pConfig::default()` also finds them by mDNS and the public DHT.
    let network = Libp2pConfig { listen: vec![listen], dht_lan: true, ..Libp2pConfig::loopback(secret) };
    let network = Libp2pTransport::start(&identity, network).await?;
    let config = ClusterConfig {
        peername: name.clone(),
        monitor_ping_interval: LOOK_INTERVAL,
        ..ClusterConfig::default()
    };
    let cluster = Cluster::builder()
        .preset(presets::Collaborative::default())
        .config(config)
        .transport(network)
        .storage(storage)
        .ipfs(ipfs)
        .start()
        .await?;
    cluster.ready().await?;
    println!("{name} is {}, with {} pins", cluster.peer_id(), cluster.state().counts().pins);
    for address in cluster.id().await.addresses.unwrap_or_default() {
        println!("to join it, in another terminal, with a folder of its own:");
        println!("  cargo run --example standalone_peer -- OTHER_FOLDER --bootstrap {address}");
    }
    let joining = async {
        join(&cluster, &bootstrap).await;
        if let Some(words) = &words
            && let Err(error) = pin(&cluster, words).await
        {
            println!("pinning failed: {error}");
        }
    };
    let talking = async { tokio::join!(tell_events(&cluster), joining, tell_members(&cluster)) };
    tokio::select! {
        _ = talking => {}
        reason = cluster.stopped() => println!("{reason}"),
        _ = tokio::signal::ctrl_c() => {}
    }
    cluster.shutdown().await;
    Ok(())
}

/// The same peer at every start.
fn identity(path: &Path) -> Result<Identity> {
    if path.exists() {
        return Identity::load(path);
    }
    let identity = Identity::generate();
    identity.save(path)?;
    Ok(identity)
}

/// Joins through these peers, also when they are started later.
async fn join(cluster: &Cluster, bootstrap: &[Multiaddr]) {
    while let Err(error) = cluster.join(bootstrap).await {
        println!("{error}; trying again");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Gives words to this peer's daemon and pins them there: daemons in memory cannot get them from each other.
async fn pin(cluster: &Cluster, words: &str) -> Result<()> {
    let (cid, blocks) = sample_file(words.to_owned());
    cluster.ipfs().put_blocks(stream::iter(blocks).map(Ok).boxed()).await?;
    while cluster.metrics("freespace").is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let options = PinOptions {
        name: words.to_owned(),
        replication_factor_min: 1,
        replication_factor_max: 1,
        user_allocations: vec![cluster.peer_id()],
        ..PinOptions::default()
    };
    cluster.pin(cid, options).await?;
    let info = cluster.wait(cid).await?;
    println!("{cid} is {} here", info.peer_map[&cluster.peer_id()].status);
    Ok(())
}

/// Tells who is there and who has the same pins, whenever that changes.
async fn tell_members(cluster: &Cluster) {
    let mut before = String::new();
    loop {
        let members = match cluster.peers().await {
            Ok(peers) => peers.iter().map(|info| member(cluster, info)).collect::<Vec<_>>().join(", "),
            Err(error) => error.to_string(),
        };
        if members != before {
            println!("members: {members}");
            before = members;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn member(cluster: &Cluster, info: &PeerInfo) -> String {
    if !info.error.is_empty() {
        format!("{} (does not answer)", info.id)
    } else if info.id == cluster.peer_id() {
        format!("{} (here)", info.peername)
    } else {
        format!("{} ({})", info.peername, info.pinset)
    }
}

/// Tells what is pinned and unpinned, by whomever.
async fn tell_events(cluster: &Cluster) {
    let mut events = cluster.events();
    while let Some(event) = events.next().await {
        match event {
            ClusterEvent::Pinned(pin) => println!("pinset + {} {:?}", pin.cid, pin.options.name),
            ClusterEvent::Unpinned(pin) => println!("pinset - {}", pin.cid),
            ClusterEvent::Alert(alert) => {
                println!("no {} from {}", alert.metric.name, alert.metric.peer);
            }
            _ => {}
        }
    }
}
