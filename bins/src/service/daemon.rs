//! The run of a peer.

use std::num::NonZeroUsize;

use ipfs_cluster::allocator::{BalancedAllocator, BalancedConfig};
use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::cluster::{Cluster, ClusterBuilder, ClusterConfig, StopReason};
use ipfs_cluster::config::sections::RestApiSection;
use ipfs_cluster::consensus::SoloConfig;
use ipfs_cluster::informer::{
    DiskMetric, FreeSpace, FreeSpaceConfig, NumPins, NumPinsConfig, PinQueue, PinQueueConfig, Tags,
    TagsConfig,
};
use ipfs_cluster::ipfs_connector::{KuboConfig, KuboConnector};
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::tracker::StatelessConfig;
use ipfs_cluster::types::Multiaddr;
use ipfs_cluster::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::config::PeerConfig;
use super::{Doing as _, Failure, storage};

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
    let informers =
        [config.disk.is_some(), config.pin_queue.is_some(), config.tags.is_some(), config.num_pin.is_some()];
    if !informers.contains(&true) {
        return Err(Failure::new(STARTING, Error::invalid_input("no informers are passed")));
    }
    for flag in unserved(&options) {
        warn!("{flag} does nothing with consensus.solo, a cluster of one peer, in this version");
    }
    let mut signals = Signals::subscribe().doing(STARTING)?;
    let cluster = builder(&config).doing(STARTING)?.start().await.doing(STARTING)?;
    let api = match &config.restapi {
        None => None,
        Some(section) => match serve(section, &cluster).await {
            Ok(api) => Some(api),
            Err(error) => {
                cluster.shutdown().await;
                return Err(Failure::new("creating REST API component", error));
            }
        },
    };

    let announce = tokio::spawn(announce_ready(cluster.clone()));
    let reason = tokio::select! {
        reason = cluster.stopped() => reason,
        () = signals.first() => StopReason::Requested,
    };
    announce.abort();
    // A service manager that is not there is no failure.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let stopping = async {
        if let Some(api) = api {
            api.shutdown().await;
        }
        cluster.shutdown().await
    };
    tokio::select! {
        _ = stopping => {}
        () = signals.insist() => {
            return Err(Failure::new("stopping cluster", Error::internal("ended by a third signal before it had stopped")));
        }
    }
    match reason {
        StopReason::Requested | StopReason::Removed => Ok(()),
        StopReason::NotReady(error) => Err(Failure::new(STARTING, error)),
        other => Err(Failure::new("running cluster", Error::internal(other.to_string()))),
    }
}

fn unserved(options: &DaemonOptions) -> Vec<&'static str> {
    [
        (!options.bootstrap.is_empty(), "--bootstrap"),
        (options.leave, "--leave"),
        (options.stats, "--stats"),
        (options.tracing, "--tracing"),
        (options.no_trust, "--no-trust"),
    ]
    .into_iter()
    .filter_map(|(given, flag)| given.then_some(flag))
    .collect()
}

/// The parts that the configuration asks for.
fn builder(config: &PeerConfig) -> Result<ClusterBuilder> {
    let section = &config.cluster;
    let cluster = ClusterConfig {
        peername: section.peername.clone(),
        replication_factor_min: section.replication_factor_min,
        replication_factor_max: section.replication_factor_max,
        state_sync_interval: section.state_sync_interval,
        pin_recover_interval: section.pin_recover_interval,
        monitor_ping_interval: section.monitor_ping_interval,
        follower_mode: section.follower_mode,
        disable_repinning: section.disable_repinning,
        pin_only_on_trusted_peers: section.pin_only_on_trusted_peers,
        pin_only_on_untrusted_peers: section.pin_only_on_untrusted_peers,
    };
    let count = |value: i64| usize::try_from(value).unwrap_or(usize::MAX);
    let tracker = StatelessConfig {
        max_pin_queue_size: count(config.tracker.max_pin_queue_size),
        concurrent_pins: count(config.tracker.concurrent_pins),
        priority_pin_max_age: config.tracker.priority_pin_max_age,
        priority_pin_max_retries: u32::try_from(config.tracker.priority_pin_max_retries).unwrap_or(u32::MAX),
        ipfs_sync_interval: section.ipfs_sync_interval,
        ..StatelessConfig::default()
    };
    let mut solo = SoloConfig::default();
    solo.max_batch_operations = count(config.solo.max_batch_operations);
    let mut builder = Cluster::builder()
        .config(cluster)
        .peer(config.identity.id())
        .storage(storage::open(config)?)
        .ipfs(kubo(config)?)
        .solo(solo)
        .stateless_tracker(tracker)
        .local_monitor(MonitorConfig { check_interval: config.monitor.check_interval })
        .allocator(BalancedAllocator::new(BalancedConfig {
            allocate_by: config.allocator.allocate_by.clone(),
        })?);
    if let Some(disk) = config.disk.clone() {
        let metric_type = match disk.metric_type {
            ipfs_cluster::config::sections::DiskMetric::FreeSpace => DiskMetric::FreeSpace,
            ipfs_cluster::config::sections::DiskMetric::RepoSize => DiskMetric::RepoSize,
        };
        let config = FreeSpaceConfig { metric_ttl: disk.metric_ttl, metric_type };
        builder = builder.informer_with(move |cx| FreeSpace::new(config, cx));
    }
    if let Some(queue) = config.pin_queue.clone() {
        let config = PinQueueConfig {
            metric_ttl: queue.metric_ttl,
            weight_bucket_size: u64::try_from(queue.weight_bucket_size).unwrap_or(1),
        };
        builder = builder.informer_with(move |cx| PinQueue::new(config, cx));
    }
    if let Some(tags) = config.tags.clone() {
        let config = TagsConfig { metric_ttl: tags.metric_ttl, tags: tags.tags };
        builder = builder.informer_with(move |cx| Tags::new(config, cx));
    }
    if let Some(pins) = config.num_pin.clone() {
        let config = NumPinsConfig { metric_ttl: pins.metric_ttl };
        builder = builder.informer_with(move |cx| NumPins::new(config, cx));
    }
    Ok(builder)
}

fn kubo(config: &PeerConfig) -> Result<KuboConnector> {
    let section = &config.ipfshttp;
    let address = section
        .node_multiaddress
        .clone()
        .ok_or_else(|| Error::invalid_input("ipfshttp.node_multiaddress not set"))?;
    KuboConnector::with_config(KuboConfig {
        connect_swarms_delay: section.connect_swarms_delay,
        ipfs_request_timeout: section.ipfs_request_timeout,
        pin_timeout: section.pin_timeout,
        unpin_timeout: section.unpin_timeout,
        repogc_timeout: section.repogc_timeout,
        informer_trigger_interval: u64::try_from(section.informer_trigger_interval).unwrap_or(0),
        unpin_disable: section.unpin_disable,
        concurrent_pins_max: usize::try_from(config.tracker.concurrent_pins)
            .ok()
            .and_then(NonZeroUsize::new)
            .unwrap_or(NonZeroUsize::MIN),
        ..KuboConfig::at(address.try_into()?)
    })
}

async fn serve(section: &RestApiSection, cluster: &Cluster) -> Result<RestApi> {
    let api = RestApi::bind(RestConfig::try_from(section)?, cluster.clone()).await?;
    for address in api.local_addresses() {
        info!("REST API (HTTP): {address}");
    }
    Ok(api)
}

/// Tells a service manager when the peer is ready.
async fn announce_ready(cluster: Cluster) {
    if cluster.ready().await.is_ok() {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }
}

/// The signals that end a peer: the first asks, the second is told to wait, the third insists.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn subscribe() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|source| Error::io("listening for signals", source));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    async fn first(&mut self) {
        self.next().await;
        info!("shutting down...");
    }

    async fn insist(&mut self) {
        self.next().await;
        warn!("shutting down; a third signal ends the peer at once, and operations under way are lost");
        self.next().await;
    }
}
