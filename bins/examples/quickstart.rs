//! A cluster in one process, and both stages of pinning on screen.
//!
//! `cargo run --release --example quickstart` starts three peers on embedded defaults (libp2p on this machine alone,
//! stores on disk in a temporary folder, IPFS daemons in memory), loads sample content and walks through pinning as an
//! operator meets it: replicas, content that is missing, a peer that dies and comes back. With `-- --serve` the peers
//! stay up, with the REST API of the first on 127.0.0.1:9094 (or `--serve ADDRESS`), for `ipfs-cluster-ctl`. With
//! `-- --consensus solo` there is one peer, a cluster of its own; with `-- --consensus raft` the three agree by Raft, and
//! with `-- --consensus etcd` through an etcd: the one at `--etcd http://host:2379`, or one that is started for it when the
//! program is on PATH or named by `IPFS_CLUSTER_TEST_ETCD`.

#[path = "quickstart/arguments.rs"]
mod arguments;
#[path = "quickstart/etcd.rs"]
mod etcd;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use arguments::{Arguments, Name, SERVE_DEFAULT};
use etcd::Etcd;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::allocator::BalancedAllocator;
use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::cluster::{Cluster, ClusterConfig, Scope, Until, presets};
use ipfs_cluster::config::{Identity, Secret};
use ipfs_cluster::consensus::{CrdtConfig, RaftConfig};
use ipfs_cluster::informer::{FreeSpace, FreeSpaceConfig};
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, MemoryIpfs, MemoryIpfsConfig, MemorySwarm};
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::state::StateQuery;
use ipfs_cluster::storage::{FjallConfig, FjallStorage};
use ipfs_cluster::tracker::StatelessConfig;
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport};
use ipfs_cluster::types::{
    Alert, Block, Cid, GlobalPinInfo, PeerId, Pin, PinOptions, PinsetStanding, StatusFilter,
};

/// How many peers a cluster of several has here.
const PEERS: u16 = 3;
/// How long the daemon waits for missing blocks; two minutes in earnest, too long to watch.
const PIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a peer says that it lives; after twice as long without a word it is dead. 15 s in earnest.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is looked who is dead; 15 s in earnest.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How often peers repeat the end of their history to those who missed it; a minute in earnest.
const REBROADCAST_INTERVAL: Duration = Duration::from_secs(1);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let shown = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => show(arguments).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn show(Arguments { consensus, etcd, serve }: Arguments) -> Result<()> {
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let kind = match consensus {
        Name::Etcd => Kind::Etcd(Etcd::at_or_start(etcd, folder.path())?),
        Name::Raft => Kind::Raft,
        Name::Crdt | Name::Solo => Kind::Crdt,
    };
    let agree = match &kind {
        Kind::Crdt => "by CRDT, as the reference's do".to_owned(),
        Kind::Raft => "by Raft".to_owned(),
        Kind::Etcd(etcd) => format!("through the etcd at {}", etcd.url()),
    };
    let size = if consensus == Name::Solo { 1 } else { PEERS };
    if size > 1 {
        println!("{size} peers are being started, which agree {agree} …");
    }
    let mut peers = Peers::start(size, kind, folder.path().to_owned()).await?;
    if size > 1 {
        println!("{size} peers are up, over libp2p on this machine, each beside an IPFS daemon in memory:\n");
        peers.show("peers ls").await?;
        peers.show_leader().await?;
    } else {
        let id = peers.first().cluster.peer_id();
        println!("A peer is up: {id} (quickstart), a cluster of one, beside an IPFS daemon in memory.");
    }
    let [photos, notes] = both_stages(&peers, consensus).await?;
    let missing = missing_content(&peers).await?;
    behind_our_back(&peers, photos).await?;
    if size > 1 {
        peers_die_and_come_back(&mut peers).await?;
    }
    let Peer { cluster, .. } = peers.first();
    title("Unpinning.");
    show_pin("pin rm", &cluster.unpin(&notes).await?);
    show_status("status", &cluster.wait(notes).until(Until::Gone).await?);

    println!("\nCIDs used: photos  {photos}\n           notes   {notes}\n           missing {missing}");
    match serve {
        Some(address) => serve_until_interrupted(peers, &address, photos).await,
        None => {
            peers.stop().await;
            show_what_is_next(consensus);
            Ok(())
        }
    }
}

fn show_what_is_next(consensus: Name) {
    let (flag, service) = (consensus.flag(), "cargo run --release --bin ipfs-cluster-service --");
    println!("\nNext: the same with a REST API for ipfs-cluster-ctl:");
    println!("  cargo run --release --example quickstart -- --serve{flag}");
    println!("Or a peer beside your own Kubo daemon:");
    println!("  {service} init{flag}");
    println!("  {service} daemon");
    match consensus {
        Name::Crdt | Name::Raft => {
            println!(
                "One that joins it, elsewhere, with the same secret (cluster.secret in the first one's service.json):"
            );
            println!("  CLUSTER_SECRET=THE_SECRET {service} init{flag}");
            println!("  {service} daemon --bootstrap ADDRESS_OF_THE_FIRST");
        }
        Name::Etcd => println!("and the same elsewhere, with the same secret (CLUSTER_SECRET)."),
        Name::Solo => {}
    }
}

async fn both_stages(peers: &Peers, consensus: Name) -> Result<[Cid; 2]> {
    let Peer { cluster, ipfs, .. } = peers.first();
    let done = consensus.done();
    title(&format!("Stage one: the pinset. `pin add` is done when {done}. A power cut does not undo it."));
    let photos = ipfs.add_sample("a sample of photos");
    let notes = ipfs.add_sample("a sample of notes");
    for (cid, name) in [(photos, "photos"), (notes, "notes")] {
        let options = PinOptions { name: name.to_owned(), ..PinOptions::default() };
        show_pin("pin add --no-status", &cluster.pin(cid, options).await?);
    }
    let mut pages = cluster.pins(StateQuery::default());
    while let Some(page) = pages.next().await {
        for pin in page? {
            show_pin("pin ls", &pin);
        }
    }

    title(
        "Stage two: the daemons. `status` asks them whether they have it; `pin add --wait` waits until they do.",
    );
    for cid in [photos, notes] {
        show_status("pin add --wait", &cluster.wait(cid).until(Until::PinnedEverywhere).await?);
    }
    Ok([photos, notes])
}

async fn missing_content(peers: &Peers) -> Result<Cid> {
    let Peer { cluster, ipfs, .. } = peers.first();
    title("A failure: content that nobody has.");
    let block = Block::raw("a block that is still elsewhere");
    let missing = block.cid;
    cluster.pin(missing, PinOptions { name: "missing".to_owned(), ..PinOptions::default() }).await?;
    peers.meet().await?;
    show_status("status", &cluster.status(&missing, Scope::Global).await?);
    println!("  … the daemon gives up after {PIN_TIMEOUT:?} without progress …");
    match cluster.wait(missing).until(Until::PinnedEverywhere).await {
        Ok(_) => bail!("nobody has this block, and yet it was pinned"),
        Err(error) => println!("  pin add --wait fails: {error}"),
    }
    show_all("status --filter error", cluster.status_all(StatusFilter::ERROR, Scope::Global)).await?;
    ipfs.put(block)?;
    println!("  The block arrives. `recover` retries (a peer does so by itself every 12 minutes).");
    show_status("recover", &cluster.recover(&missing, Scope::Global).await?);
    show_status("status", &cluster.wait(missing).past_errors().await?);
    Ok(missing)
}

async fn behind_our_back(peers: &Peers, photos: Cid) -> Result<()> {
    let Peer { cluster, ipfs, .. } = peers.first();
    title("Behind our back: somebody unpins directly on the IPFS daemon.");
    ipfs.unpin(&photos).await?;
    show_status("status", &cluster.status(&photos, Scope::Global).await?);
    println!("  `sync` makes what is reported match the daemon, and lists what changed:");
    show_all("sync", cluster.sync_all(Scope::Global)).await?;
    println!("  `recover` pins it again:");
    show_all("recover", cluster.recover_all(Scope::Global)).await?;
    show_status("status", &cluster.wait(photos).past_errors().await?);
    Ok(())
}

async fn peers_die_and_come_back(peers: &mut Peers) -> Result<()> {
    let Peer { cluster, ipfs, .. } = peers.first();
    let (cluster, ipfs) = (cluster.clone(), ipfs.clone());
    title("Replicas: two of three peers hold each, those with the most free space.");
    let mut albums = Vec::new();
    for number in 1..=3 {
        let cid = ipfs.add_sample(format!("a sample of album {number}"));
        let options = PinOptions {
            name: format!("album {number}"),
            replication_factor_min: 2,
            replication_factor_max: 2,
            ..PinOptions::default()
        };
        peers.show_holders("pin add --replication 2", &cluster.pin(cid, options).await?);
        cluster.wait(cid).until(Until::PinnedEverywhere).await?;
        albums.push(cid);
    }
    show_status("status", &cluster.status(&albums[0], Scope::Global).await?);

    title("A peer dies: the others pin elsewhere what it held (with `disable_repinning` off).");
    let last = peers.peers.len() - 1;
    let dead = peers.kill(last).await;
    println!("  {} is gone, and its IPFS daemon too.", peers.name(&dead));
    peers.show_leader().await?;
    println!("  … it is dead when no ping came for {:?}, half a minute in earnest …", PING_INTERVAL * 2);
    until("the pins of the dead peer are pinned elsewhere", async || {
        if cluster.alerts().is_empty() {
            return Ok(false);
        }
        for cid in &albums {
            if cluster.pin_get(cid).await?.allocations.contains(&dead) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await?;
    for Alert { metric, .. } in cluster.alerts() {
        println!("  {:<24} no {} from {}", "health alerts", metric.name, peers.name(&metric.peer));
    }
    for cid in &albums {
        peers.show_holders("pin ls", &cluster.pin_get(cid).await?);
        cluster.wait(*cid).until(Until::PinnedEverywhere).await?;
    }
    show_status("status", &cluster.status(&albums[0], Scope::Global).await?);
    let meanwhile = ipfs.add_sample("a sample of news");
    let options = PinOptions { name: "news".to_owned(), ..PinOptions::default() };
    show_pin("pin add", &cluster.pin(meanwhile, options).await?);

    title("It comes back, with an empty daemon, and is told what it missed.");
    peers.revive(last).await?;
    peers.show("peers ls").await?;
    show_status("status", &cluster.wait(meanwhile).until(Until::PinnedEverywhere).await?);
    Ok(())
}

async fn serve_until_interrupted(peers: Peers, address: &str, cid: Cid) -> Result<()> {
    let cluster = peers.first().cluster.clone();
    let config = RestConfig::default().listen([address.parse()?]);
    let api = RestApi::bind(config, cluster).await?;
    let ctl = "cargo run --release --bin ipfs-cluster-ctl --";
    let host = if address == SERVE_DEFAULT { String::new() } else { format!(" --host {address}") };
    println!("\nServing the REST API on {address}. In another terminal:");
    let (add, remove) = (format!("pin add --wait {cid}"), format!("pin rm {cid}"));
    for command in ["id", "peers ls", "pin ls", "status", &remove, &add] {
        println!("  {ctl}{host} {command}");
    }
    println!("Ctrl-C ends it; everything is gone then.");
    tokio::signal::ctrl_c().await?;
    api.shutdown().await;
    peers.stop().await;
    Ok(())
}

/// How several peers agree.
enum Kind {
    Crdt,
    Raft,
    Etcd(Etcd),
}

/// A peer with its daemon.
struct Peer {
    number: u16,
    name: String,
    folder: PathBuf,
    identity: Identity,
    cluster: Cluster,
    ipfs: MemoryIpfs,
    is_up: bool,
}

/// Peers with a secret in common, whose daemons are in one network. A peer without others is a cluster of its own.
struct Peers {
    secret: Secret,
    swarm: MemorySwarm,
    kind: Kind,
    peers: Vec<Peer>,
}

impl Peers {
    async fn start(size: u16, kind: Kind, folder: PathBuf) -> Result<Self> {
        let mut all =
            Self { secret: Secret::generate(), swarm: MemorySwarm::default(), kind, peers: Vec::new() };
        for number in 1..=size {
            let name = if size == 1 { "quickstart".to_owned() } else { format!("peer-{number}") };
            let (folder, identity) = (folder.join(&name), Identity::generate());
            let ipfs = all.daemon(number);
            let cluster = if size == 1 {
                alone(&name, &folder, &ipfs).await?
            } else {
                all.one_of_many(&name, &folder, &identity, &ipfs).await?
            };
            all.peers.push(Peer { number, name, folder, identity, cluster, ipfs, is_up: true });
        }
        all.meet().await?;
        Ok(all)
    }

    fn first(&self) -> &Peer {
        &self.peers[0]
    }

    fn up(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.is_up)
    }

    fn name(&self, peer: &PeerId) -> &str {
        let found = self.peers.iter().find(|known| known.identity.id() == *peer);
        found.map_or("a stranger", |peer| &peer.name)
    }

    /// An IPFS daemon in memory, connected to those of the peers that are up.
    fn daemon(&self, number: u16) -> MemoryIpfs {
        let ipfs = MemoryIpfs::with_config(MemoryIpfsConfig {
            number,
            pin_timeout: PIN_TIMEOUT,
            swarm: self.swarm.clone(),
            ..Default::default()
        });
        self.up().for_each(|other| ipfs.connect(&other.ipfs));
        ipfs
    }

    /// Starts a peer on what its folder has, and joins it to those that are up.
    async fn one_of_many(
        &self,
        name: &str,
        folder: &Path,
        identity: &Identity,
        ipfs: &MemoryIpfs,
    ) -> Result<Cluster> {
        // The network first: it listens on a free port, and says who the peer is.
        let transport = Libp2pTransport::start(identity, Libp2pConfig::loopback(self.secret.clone())).await?;
        let config = ClusterConfig {
            peername: name.to_owned(),
            monitor_ping_interval: PING_INTERVAL,
            disable_repinning: false,
            ..ClusterConfig::default()
        };
        let builder = Cluster::builder().config(config);
        let builder = match &self.kind {
            Kind::Raft => {
                let mut raft = RaftConfig::default();
                // The first founds the cluster, the others are added; later the store says who the members are.
                raft.join = self.up().next().is_some();
                builder.raft(raft)
            }
            Kind::Crdt => {
                let mut crdt = CrdtConfig::default();
                crdt.rebroadcast_interval = REBROADCAST_INTERVAL;
                builder.crdt(crdt)
            }
            Kind::Etcd(etcd) => {
                let first = self.peers.first().map_or(identity.id(), |peer| peer.identity.id());
                let mut config = etcd.config(&first);
                config.secret = self.secret.clone();
                builder.etcd(config)
            }
        };
        let cluster = builder
            .pubsub_monitor(MonitorConfig { check_interval: CHECK_INTERVAL })
            // The rest is what `presets::Collaborative` chooses, for those who are less in a hurry.
            .stateless_tracker(StatelessConfig::default())
            .allocator(BalancedAllocator::by(["freespace"]))
            .informer_with(|cx| {
                FreeSpace::new(FreeSpaceConfig { metric_ttl: 2 * PING_INTERVAL, ..Default::default() }, cx)
            })
            .transport(transport)
            .storage(FjallStorage::open(folder.join("fjall"), FjallConfig::default())?)
            .ipfs(ipfs.clone())
            .start()
            .await?;
        for other in self.up() {
            cluster.join(&other.cluster.id().await.addresses.unwrap_or_default()).await?;
        }
        match tokio::time::timeout(PATIENCE, cluster.ready()).await {
            Ok(ready) => ready?,
            Err(_) => match &self.kind {
                Kind::Etcd(etcd) => bail!("{name} waits for etcd: does it answer at {}?", etcd.url()),
                Kind::Crdt | Kind::Raft => bail!("{name} was not ready within {PATIENCE:?}"),
            },
        }
        Ok(cluster)
    }

    /// Waits until all peers that are up know each other and how much space each has, and have the same pins.
    async fn meet(&self) -> Result<()> {
        let size = self.up().count();
        until("all peers know each other", async || {
            for Peer { cluster, .. } in self.up() {
                let standings = cluster.pinset_standings().await?;
                let is_in_sync = standings.values().all(|standing| *standing == PinsetStanding::InSync);
                let metrics = ["ping", "freespace"].map(|name| cluster.metrics(name).len());
                if !is_in_sync || metrics != [size; 2] {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// Ends a peer and its daemon. It says nothing to the others.
    async fn kill(&mut self, index: usize) -> PeerId {
        let peer = &mut self.peers[index];
        peer.is_up = false;
        peer.cluster.shutdown().await;
        peer.identity.id()
    }

    /// Starts it again.
    async fn revive(&mut self, index: usize) -> Result<()> {
        let Peer { number, name, folder, identity, .. } = &self.peers[index];
        let ipfs = self.daemon(*number);
        let cluster = self.one_of_many(name, folder, identity, &ipfs).await?;
        let peer = &mut self.peers[index];
        (peer.cluster, peer.ipfs, peer.is_up) = (cluster, ipfs, true);
        self.meet().await
    }

    async fn stop(self) {
        for peer in self.peers.into_iter().filter(|peer| peer.is_up) {
            peer.cluster.shutdown().await;
        }
    }

    async fn show(&self, command: &str) -> Result<()> {
        for info in self.first().cluster.peers().await? {
            let others = info.cluster_peers.map_or(0, |peers| peers.len().saturating_sub(1));
            let pinset = if info.pinset.is_unknown() { String::new() } else { format!(" | {}", info.pinset) };
            println!("  {command:<24} {} | {} | sees {others} others{pinset}", info.id, info.peername);
        }
        Ok(())
    }

    /// Where there is one.
    async fn show_leader(&self) -> Result<()> {
        let consensus = self.first().cluster.consensus();
        if !consensus.capabilities().leader {
            return Ok(());
        }
        let mut leader = None;
        until("there is a leader", async || {
            leader = consensus.leader().await?;
            Ok(leader.is_some())
        })
        .await?;
        if let Some(leader) = leader {
            println!("  {} leads: what is written at another peer goes through it", self.name(&leader));
        }
        Ok(())
    }

    fn show_holders(&self, command: &str, pin: &Pin) {
        let mut holders: Vec<_> = pin.allocations.iter().map(|peer| self.name(peer)).collect();
        holders.sort_unstable();
        println!("  {command:<24} {} | {} | on {}", pin.cid, pin.options.name, holders.join(" and "));
    }
}

/// A peer that nobody can join.
async fn alone(name: &str, folder: &Path, ipfs: &MemoryIpfs) -> Result<Cluster> {
    // Where it keeps the pinset, which IPFS daemon it sits beside, and sensible choices for the rest.
    let cluster = Cluster::builder()
        .preset(presets::Solo)
        .peername(name)
        .storage(FjallStorage::open(folder.join("fjall"), FjallConfig::default())?)
        .ipfs(ipfs.clone())
        .start()
        .await?;
    cluster.ready().await?;
    Ok(cluster)
}

async fn until(what: &str, mut fact: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let looking = async {
        while !fact().await? {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    let in_vain = || format!("waited {PATIENCE:?} until {what}, in vain");
    tokio::time::timeout(PATIENCE, looking).await.with_context(in_vain)?
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn show_pin(command: &str, pin: &Pin) {
    println!("  {command:<24} {} | {}", pin.cid, pin.options.name);
}

fn show_status(command: &str, info: &GlobalPinInfo) {
    let mut peers: Vec<_> = info.peer_map.values().collect();
    peers.sort_by_key(|status| &status.peername);
    for status in peers {
        let error = if status.error.is_empty() { String::new() } else { format!(": {}", status.error) };
        let what = status.status.as_str().to_uppercase();
        println!("  {command:<24} {} | {} > {what}{error}", info.cid, status.peername);
    }
}

async fn show_all(
    command: &str,
    mut pages: BoxStream<'static, ipfs_cluster::Result<Vec<GlobalPinInfo>>>,
) -> Result<()> {
    while let Some(page) = pages.next().await {
        for info in page? {
            show_status(command, &info);
        }
    }
    Ok(())
}
