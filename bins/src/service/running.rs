//! A peer that runs: put together from its configuration, and taken down in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt as _;
use ipfs_cluster::allocator::BalancedAllocator;
use ipfs_cluster::api::rest::{RestApi, RestConfig, Security};
use ipfs_cluster::cluster::{Cluster, ClusterBuilder, ClusterConfig, StopReason};
use ipfs_cluster::config::peerstore;
use ipfs_cluster::consensus::{CrdtConfig, RaftConfig, SoloConfig};
use ipfs_cluster::informer::{FreeSpace, NumPins, PinQueue, Tags};
use ipfs_cluster::ipfs_connector::KuboConnector;
use ipfs_cluster::rpc::Method;
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport, PeerTransport as _};
use ipfs_cluster::types::{Multiaddr, PeerId};
use ipfs_cluster::{Error, Result};
use multiaddr::Protocol;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::config::{ConsensusSection, PeerConfig};
use super::{Doing as _, Failure, etcd, ports, storage};

/// What is being done while a peer comes up, in the reference's words.
pub const STARTING: &str = "starting cluster";

/// How often a peer that has to be a member tries to become one.
const JOIN_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);

/// Times in a row that others say that this peer is a member, and nobody speaks to it as one, after which that is told.
const JOINS_IN_VAIN_MAX: u32 = 4;
/// How often it is said that this fails, if it fails in the same way.
const JOIN_FAILURE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);
/// Ways to fail that are told apart in that time.
const JOIN_FAILURES_MAX: usize = 64;

/// Where a process starts several peers, one at a time looks for ports.
static LISTENING: Mutex<()> = Mutex::const_new(());

/// What is added to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Peers to join.
    pub bootstrap: Vec<Multiaddr>,
    /// Leave the cluster at the end, whatever the configuration says.
    pub leave: bool,
    /// Collect statistics.
    pub stats: bool,
    /// Collect traces.
    pub tracing: bool,
    /// Do not trust the peers to join.
    pub no_trust: bool,
    /// Calls that no other peer may make.
    pub closed: Vec<Method>,
    /// Listen on free ports in the place of those that somebody else has.
    pub avoid_taken_ports: bool,
    /// Begin an empty pinset beside the one of a Go peer, where the others have it anyway.
    pub beside_reference_data: bool,
}

/// A peer with its network and its API. Dropping it ends neither: [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct Running {
    cluster: Cluster,
    api: Option<RestApi>,
    host: Option<Arc<Libp2pTransport>>,
    ready: watch::Receiver<bool>,
    tasks: [JoinHandle<()>; 2],
    peerstore: PathBuf,
    keeping: Keeping,
}

impl Running {
    /// Starts a peer, and returns when it runs; it may not be ready yet. Whoever calls holds the folder's lock. Not
    /// cancel-safe.
    ///
    /// # Errors
    /// With the reference's texts; then nothing of it runs any more.
    pub async fn start(config: PeerConfig, mut options: RunOptions) -> Result<Self, Failure> {
        check(&config).doing(STARTING)?;
        // Who had nobody else to join would wait for ever where members are added.
        options.bootstrap.retain(|address| {
            let is_other = peer_of(address) != Some(config.identity.id());
            if !is_other {
                info!("Not bootstrapping to {address}: that is this peer");
            }
            is_other
        });
        if !options.beside_reference_data {
            storage::refuse_reference_data(&config).doing("creating datastore")?;
        }
        for flag in unserved(&config, &options) {
            warn!("{flag} does nothing with this configuration in this version");
        }
        info!(peer = %config.identity.id(), name = config.cluster.peername, "starting a peer");
        let host = host(&config, &options).await.doing(STARTING)?;
        let started = match builder(&config, &options, host.clone()) {
            Ok(builder) => builder.start().await,
            Err(error) => Err(error),
        };
        let cluster = match started {
            Ok(cluster) => cluster,
            Err(error) => {
                stop_host(host).await;
                return Err(Failure::new(STARTING, error));
            }
        };
        let api = match serve(&config, &cluster).await {
            Ok(api) => api,
            Err(error) => {
                cluster.shutdown().await;
                return Err(Failure::new("creating REST API component", error));
            }
        };
        let (is_ready, ready) = watch::channel(false);
        let waiting = tokio::spawn(say_when_ready(cluster.clone(), is_ready));
        let joining = tokio::spawn(join(cluster.clone(), options.bootstrap));
        let peerstore = config.cluster.peerstore_path(config.folder.path());
        let keeping = Keeping::start(peerstore.clone(), host.clone());
        Ok(Self { cluster, api, host, ready, tasks: [waiting, joining], peerstore, keeping })
    }

    /// The peer.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether it is ready; closed when it never will be.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Waits until the peer stops by itself. Cancel-safe.
    pub async fn stopped(&self) -> StopReason {
        self.cluster.stopped().await
    }

    /// Stops everything, and writes the peerstore if the peer ever was ready. Returns once the peer has stopped.
    ///
    /// # Errors
    /// When the peerstore cannot be written.
    pub async fn stop(self) -> Result<(), Failure> {
        let was_ready = *self.ready.borrow();
        for task in &self.tasks {
            task.abort();
        }
        // What it is writing must not come after what is written here.
        self.keeping.stop().await;
        // Asked before the network stops, which forgets them.
        let known = self.host.as_ref().map(|host| host.known_addresses());
        if let Some(api) = self.api {
            api.shutdown().await;
        }
        self.cluster.shutdown().await;
        match known.filter(|_| was_ready) {
            Some(known) => peerstore::save(&self.peerstore, &known).doing("saving peers to peerstore"),
            None => Ok(()),
        }
    }
}

/// What a peer's end means for whoever ran it.
///
/// # Errors
/// With the reference's texts, when it was not asked for.
pub fn outcome(reason: StopReason) -> Result<(), Failure> {
    match reason {
        StopReason::Requested | StopReason::Removed => Ok(()),
        StopReason::NotReady(error) => Err(Failure::new(STARTING, error)),
        StopReason::Superseded(error) => Err(Failure::new("running cluster", error)),
        other => Err(Failure::new("running cluster", Error::internal(other.to_string()))),
    }
}

/// What no peer can run with, although each section is well.
///
/// # Errors
/// `InvalidInput` with the reference's text.
pub fn check(config: &PeerConfig) -> Result<()> {
    if config.disk.is_none()
        && config.pin_queue.is_none()
        && config.tags.is_none()
        && config.num_pin.is_none()
    {
        return Err(Error::invalid_input("no informers are passed"));
    }
    Ok(())
}

fn unserved(config: &PeerConfig, options: &RunOptions) -> Vec<&'static str> {
    let alone = matches!(config.consensus, ConsensusSection::Solo(_));
    let by_membership = matches!(config.consensus, ConsensusSection::Raft(_) | ConsensusSection::Etcd(_));
    [
        (alone && !options.bootstrap.is_empty(), "--bootstrap"),
        (alone && options.leave, "--leave"),
        (options.stats, "--stats"),
        (options.tracing, "--tracing"),
        ((alone || by_membership) && options.no_trust, "--no-trust"),
    ]
    .into_iter()
    .filter_map(|(given, flag)| given.then_some(flag))
    .collect()
}

/// The way to other peers; a cluster of one needs none.
async fn host(config: &PeerConfig, options: &RunOptions) -> Result<Option<Arc<Libp2pTransport>>> {
    if let ConsensusSection::Solo(_) = config.consensus {
        return Ok(None);
    }
    let mut settings = Libp2pConfig::from(&config.cluster);
    // Who is named on the command line may come later than this peer, and is not given up.
    settings.peer_addresses.extend(options.bootstrap.iter().cloned());
    settings.known_addresses = known_addresses(config);
    // Held from looking for a free port until it is taken.
    let _alone = LISTENING.lock().await;
    if options.avoid_taken_ports {
        let (listen, taken) = ports::avoid_taken(&settings.listen);
        for address in taken {
            warn!("the port of {address} is taken: listening on one that is free instead");
        }
        settings.listen = listen;
    }
    Ok(Some(Arc::new(Libp2pTransport::start(&config.identity, settings).await?)))
}

/// Saves the peerstore now and then, so that a peer that is killed finds the others again.
#[derive(Debug)]
struct Keeping {
    /// It goes on while this is there.
    go_on: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Keeping {
    fn start(path: PathBuf, host: Option<Arc<Libp2pTransport>>) -> Self {
        let (go_on, stop) = oneshot::channel();
        let task = tokio::spawn(async move {
            if let Some(host) = host {
                peerstore::keep(&path, || host.known_addresses(), stop.map(drop)).await;
            }
        });
        Self { go_on, task }
    }

    /// Returns once nothing is being written any more.
    async fn stop(self) {
        drop(self.go_on);
        // It can only panic, and then it writes nothing.
        let _ = self.task.await;
    }
}

/// What the peerstore says. A peer that cannot read it finds the others in another way, or waits to be found.
fn known_addresses(config: &PeerConfig) -> Vec<Multiaddr> {
    let path = config.cluster.peerstore_path(config.folder.path());
    match peerstore::load(&path) {
        Ok(known) => {
            for problem in known.problems {
                warn!("ignoring an address of the peerstore: {problem}");
            }
            known.addresses
        }
        Err(error) => {
            warn!("going on without the peerstore: {error}");
            Vec::new()
        }
    }
}

/// The peer that an address names.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    address.iter().find_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    })
}

async fn stop_host(host: Option<Arc<Libp2pTransport>>) {
    if let Some(host) = host
        && let Err(error) = host.shutdown().await
    {
        warn!(%error, "the network did not stop cleanly");
    }
}

/// Joins through the first of these peers that can be reached, as the reference does. Where members are added one tries
/// until this peer is one: without them it can do nothing.
async fn join(cluster: Cluster, addresses: Vec<Multiaddr>) {
    let is_made_member = cluster.consensus().capabilities().membership_changes;
    let mut failures = Failures::default();
    for address in &addresses {
        info!("Bootstrapping to {address}");
    }
    let mut in_vain = 0;
    loop {
        let joined = join_once(&cluster, &addresses, &mut failures).await;
        if !is_made_member || addresses.is_empty() {
            return;
        }
        match cluster.consensus().peers().await {
            Ok(members) if !members.contains(&cluster.peer_id()) => {}
            _ => return,
        }
        in_vain = if joined.is_some() { in_vain + 1 } else { 0 };
        if let Some(address) = joined.filter(|_| in_vain >= JOINS_IN_VAIN_MAX) {
            failures.tell(
                address,
                &format!(
                    "this peer is taken for a member already, and no member speaks to it: another peer may be running with \
                     the same identity.json, or this one has lost its store; then end its membership, at another peer \
                     (ipfs-cluster-ctl peers rm {})",
                    cluster.peer_id()
                ),
            );
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    }
}

/// Why addresses could not be joined through, and when that was said.
#[derive(Debug, Default)]
struct Failures(BTreeMap<(Multiaddr, String), Instant>);

impl Failures {
    /// Whether this is to be said: not if it was a while ago, with others between (attempts take turns in how they fail).
    fn is_news(&mut self, address: &Multiaddr, text: &str) -> bool {
        self.0.retain(|_, said_at| said_at.elapsed() < JOIN_FAILURE_INTERVAL);
        let failure = (address.clone(), text.to_owned());
        if self.0.len() >= JOIN_FAILURES_MAX || self.0.contains_key(&failure) {
            return false;
        }
        self.0.insert(failure, Instant::now());
        true
    }

    fn tell(&mut self, address: &Multiaddr, text: &str) {
        // Who reads it sees the address before it.
        let text = text.strip_prefix(&format!("joining through {address}: ")).unwrap_or(text);
        if self.is_news(address, text) {
            error!("bootstrap to {address} failed: {text}");
        }
    }
}

/// Gives the address through which it worked.
async fn join_once<'a>(
    cluster: &Cluster,
    addresses: &'a [Multiaddr],
    failures: &mut Failures,
) -> Option<&'a Multiaddr> {
    for address in addresses {
        match cluster.join(std::slice::from_ref(address)).await {
            Ok(_) => return Some(address),
            // Somebody is there who hangs up on what makes no sense to them.
            Err(error) if error.message().contains("reset by peer") => {
                failures.tell(address, &format!("{error}: it may have another cluster secret"));
            }
            Err(error) => failures.tell(address, &error.to_string()),
        }
    }
    None
}

/// The parts that the configuration asks for.
fn builder(
    config: &PeerConfig,
    options: &RunOptions,
    host: Option<Arc<Libp2pTransport>>,
) -> Result<ClusterBuilder> {
    let mut settings = ClusterConfig::from(&config.cluster);
    settings.connect_swarms_delay = config.ipfshttp.connect_swarms_delay;
    settings.leave_on_shutdown |= options.leave;
    let mut builder = Cluster::builder()
        .config(settings)
        .peer(config.identity.id())
        .ipfs(KuboConnector::with_config(config.ipfshttp.clone())?)
        .stateless_tracker(config.tracker.clone())
        .allocator(BalancedAllocator::new(config.allocator.clone())?)
        .refuse_calls(options.closed.iter().copied());
    let store = storage::open(config)?;
    builder = match &config.consensus {
        ConsensusSection::Solo(section) => {
            builder.solo(SoloConfig::from(section)).local_monitor(config.monitor.clone())
        }
        ConsensusSection::Crdt(section) => {
            let mut crdt = CrdtConfig::try_from(section)?;
            if !options.no_trust {
                crdt.trusted_peers.extend(options.bootstrap.iter().filter_map(peer_of));
            }
            builder.crdt(crdt).pubsub_monitor(config.monitor.clone())
        }
        ConsensusSection::Raft(section) => {
            for (key, instead) in section.without_effect() {
                tracing::warn!("consensus.raft.{key} is set and has no effect: {instead}");
            }
            let mut raft = RaftConfig::try_from(section)?;
            // Where something is stored already, that says who the members are.
            raft.join = !options.bootstrap.is_empty();
            if !raft.join && raft.init_peerset.is_empty() {
                storage::refuse_lost_raft(config, store.clone())?;
            }
            raft.spool_folder = config.folder.path().to_owned();
            builder.raft(raft).pubsub_monitor(config.monitor.clone())
        }
        ConsensusSection::Etcd(section) => {
            let mut settings = etcd::settings(config, section)?;
            // A peer that was removed asks those to be let in again.
            settings.join = !options.bootstrap.is_empty();
            builder.etcd(settings).pubsub_monitor(config.monitor.clone())
        }
    };
    builder = builder.storage(store);
    if let Some(host) = host {
        builder = builder.transport(host);
    }
    if let Some(disk) = config.disk.clone() {
        builder = builder.informer_with(|cx| FreeSpace::new(disk, cx));
    }
    if let Some(queue) = config.pin_queue.clone() {
        builder = builder.informer_with(|cx| PinQueue::new(queue, cx));
    }
    if let Some(tags) = config.tags.clone() {
        builder = builder.informer_with(|cx| Tags::new(tags, cx));
    }
    if let Some(pins) = config.num_pin.clone() {
        builder = builder.informer_with(|cx| NumPins::new(pins, cx));
    }
    Ok(builder)
}

/// Nothing where the configuration names no API.
async fn serve(config: &PeerConfig, cluster: &Cluster) -> Result<Option<RestApi>> {
    let Some(section) = &config.restapi else { return Ok(None) };
    let mut rest = RestConfig::try_from(section)?.in_folder(config.folder.path());
    if let Some(libp2p) = &mut rest.libp2p
        && rest.security == Security::Strict
    {
        // The reference leaves the secret out, and its clients have to as well.
        libp2p.secret = config.cluster.secret.clone();
    }
    let api = RestApi::bind(rest, cluster.clone()).await?;
    for address in api.local_multiaddresses() {
        let is_libp2p = address.iter().any(|part| matches!(part, Protocol::P2p(_)));
        info!("REST API ({}): {address}", if is_libp2p { "libp2p-http" } else { "HTTP" });
    }
    Ok(Some(api))
}

/// Ends without a word when the peer never becomes ready.
async fn say_when_ready(cluster: Cluster, is_ready: watch::Sender<bool>) {
    if cluster.ready().await.is_err() {
        return;
    }
    drop(cluster);
    is_ready.send_replace(true);
    // Whoever waits for more than this must be able to tell it from a peer that failed.
    is_ready.closed().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_fail_that_take_turns_are_told_once_each() {
        let [one, other]: [Multiaddr; 2] =
            ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1"].map(|text| text.parse().unwrap());
        let mut failures = Failures::default();
        for round in 0..9 {
            for (address, text) in [(&one, "late"), (&one, "refused"), (&other, "late")] {
                assert_eq!(failures.is_news(address, text), round == 0, "{address} {text}");
            }
        }
        let told = (0..1000).filter(|number| failures.is_news(&one, &number.to_string())).count();
        assert_eq!(told, JOIN_FAILURES_MAX - 3);
    }
}
