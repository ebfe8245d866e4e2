//! The run of a peer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipfs_cluster::allocator::BalancedAllocator;
use ipfs_cluster::api::rest::{RestApi, RestConfig, Security};
use ipfs_cluster::cluster::{Cluster, ClusterBuilder, ClusterConfig, StopReason};
use ipfs_cluster::config::peerstore;
use ipfs_cluster::consensus::{CrdtConfig, SoloConfig};
use ipfs_cluster::informer::{FreeSpace, NumPins, PinQueue, Tags};
use ipfs_cluster::ipfs_connector::KuboConnector;
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport, PeerTransport as _};
use ipfs_cluster::types::{Multiaddr, PeerId};
use ipfs_cluster::{Error, Result};
use multiaddr::Protocol;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::config::{ConsensusSection, PeerConfig};
use super::{Doing as _, Failure, storage};

/// Shortest time between two signs of life.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Exit code when signals insist, as in the reference.
const EXIT_THIRD_SIGNAL: i32 = 1;
/// What the reference prints.
const SECOND_SIGNAL: &str = "


!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
Shutdown is taking too long! Press Ctrl-c again to manually kill cluster.
Note that this may corrupt the local cluster state.
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!


";

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonOptions {
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
}

/// Runs a peer until a signal ends it or it cannot go on. Whoever calls holds the folder's lock.
///
/// # Errors
/// With the reference's texts: `starting cluster` when it does not come up, `running cluster` when it cannot go on.
pub async fn run(config: PeerConfig, options: DaemonOptions) -> Result<(), Failure> {
    const STARTING: &str = "starting cluster";
    if config.disk.is_none()
        && config.pin_queue.is_none()
        && config.tags.is_none()
        && config.num_pin.is_none()
    {
        return Err(Failure::new(STARTING, Error::invalid_input("no informers are passed")));
    }
    storage::refuse_reference_data(&config).doing("creating datastore")?;
    for flag in unserved(&config, &options) {
        warn!("{flag} does nothing with this configuration in this version");
    }
    info!(peer = %config.identity.id(), name = config.cluster.peername, "starting a peer");
    let mut signals = Signals::subscribe().doing(STARTING)?;
    let host = host(&config, &options).await.doing(STARTING)?;
    let starting = async {
        match builder(&config, &options, host.clone()) {
            Ok(builder) => builder.start().await,
            Err(error) => Err(error),
        }
    };
    let cluster = signals.count_during(starting).await;
    let cluster = match cluster {
        Ok(cluster) => cluster,
        Err(error) => {
            stop_host(host).await;
            return Err(Failure::new(STARTING, error));
        }
    };
    let api = match serve(&config, &cluster).await {
        Ok(api) => api,
        Err(error) => {
            stop(None, &cluster, &mut signals).await;
            return Err(Failure::new("creating REST API component", error));
        }
    };

    let is_ready = Arc::new(AtomicBool::new(false));
    let announce = tokio::spawn(tell_service_manager(cluster.clone(), is_ready.clone()));
    let joining = tokio::spawn(join(cluster.clone(), options.bootstrap));
    let reason = tokio::select! {
        reason = cluster.stopped() => reason,
        () = signals.first() => StopReason::Requested,
    };
    let was_ready = is_ready.load(Ordering::Relaxed);
    joining.abort();
    // Asked before the network stops, which forgets them.
    let known = host.as_ref().map(|host| host.known_addresses());
    stop(api, &cluster, &mut signals).await;
    announce.abort();
    if let Some(known) = known.filter(|_| was_ready) {
        let path = config.cluster.peerstore_path(config.folder.path());
        peerstore::save(&path, &known).doing("saving peers to peerstore")?;
    }
    match reason {
        StopReason::Requested | StopReason::Removed => Ok(()),
        StopReason::NotReady(error) => Err(Failure::new(STARTING, error)),
        other => Err(Failure::new("running cluster", Error::internal(other.to_string()))),
    }
}

fn unserved(config: &PeerConfig, options: &DaemonOptions) -> Vec<&'static str> {
    let alone = matches!(config.consensus, ConsensusSection::Solo(_));
    [
        (alone && !options.bootstrap.is_empty(), "--bootstrap"),
        (alone && options.leave, "--leave"),
        (options.stats, "--stats"),
        (options.tracing, "--tracing"),
        (alone && options.no_trust, "--no-trust"),
    ]
    .into_iter()
    .filter_map(|(given, flag)| given.then_some(flag))
    .collect()
}

/// The way to other peers; a cluster of one needs none.
async fn host(config: &PeerConfig, options: &DaemonOptions) -> Result<Option<Arc<Libp2pTransport>>> {
    if let ConsensusSection::Solo(_) = config.consensus {
        return Ok(None);
    }
    let mut settings = Libp2pConfig::from(&config.cluster);
    // Who is named on the command line may come later than this peer, and is not given up.
    settings.peer_addresses.extend(options.bootstrap.iter().cloned());
    settings.known_addresses = known_addresses(config);
    Ok(Some(Arc::new(Libp2pTransport::start(&config.identity, settings).await?)))
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
fn peer_of(address: &Multiaddr) -> Option<PeerId> {
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

/// Joins through the first of these peers that can be reached, as the reference does.
async fn join(cluster: Cluster, addresses: Vec<Multiaddr>) {
    for address in addresses {
        info!("Bootstrapping to {address}");
        match cluster.join(std::slice::from_ref(&address)).await {
            Ok(_) => return,
            // Somebody is there who hangs up on what makes no sense to them.
            Err(error) if error.message().contains("reset by peer") => {
                error!("bootstrap to {address} failed: {error}: it may have another cluster secret");
            }
            Err(error) => error!("bootstrap to {address} failed: {error}"),
        }
    }
}

/// The parts that the configuration asks for.
fn builder(
    config: &PeerConfig,
    options: &DaemonOptions,
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
        .storage(storage::open(config)?);
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
    };
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

/// Returns once the peer has stopped.
async fn stop(api: Option<RestApi>, cluster: &Cluster, signals: &mut Signals) {
    // A service manager that is not there is no failure.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    signals
        .count_during(async {
            if let Some(api) = api {
                api.shutdown().await;
            }
            cluster.shutdown().await;
        })
        .await;
}

/// Tells a service manager when the peer is ready, and that it still runs as often as that wants to hear it.
async fn tell_service_manager(cluster: Cluster, is_ready: Arc<AtomicBool>) {
    if cluster.ready().await.is_err() {
        return;
    }
    is_ready.store(true, Ordering::Relaxed);
    drop(cluster);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((patience / 2).max(WATCHDOG_INTERVAL_MIN));
    loop {
        ticks.tick().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// The signals that end a peer: the first asks, the second is told to wait, the third ends the process.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    seen: u32,
}

impl Signals {
    fn subscribe() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|source| Error::io("listening for signals", source));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
            seen: 0,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
        self.seen += 1;
        match self.seen {
            1 => info!("shutting down..."),
            2 => eprint!("{SECOND_SIGNAL}"),
            _ => {
                eprint!("exiting cluster NOW");
                // Nothing of the process is waited for: it is what does not end.
                std::process::exit(EXIT_THIRD_SIGNAL);
            }
        }
    }

    /// Waits for the first signal, which may have come already.
    async fn first(&mut self) {
        if self.seen == 0 {
            self.next().await;
        }
    }

    /// Does something to its end while signals are counted.
    async fn count_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.next() => {}
            }
        }
    }
}
