//! The `cluster` section: the peer itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secret::Secret;
use super::strings::{Addresses, address_list};
use super::{ConfigSection, check, duration, number};
use crate::error::Result;
use crate::types::{Multiaddr, ReplicationFactor};

/// Where known addresses are kept unless `peerstore_file` says otherwise.
const PEERSTORE_FILE: &str = "peerstore";
/// Left out of the file, which then is as the reference writes it.
const DEFAULT_IPFS_SYNC_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// The `cluster` section of `service.json`, key by key as in the reference. It says much that is no business of
/// [`Cluster`](crate::Cluster) itself, whose [`ClusterConfig`](crate::cluster::ClusterConfig) is made from it.
///
/// `Default` has no secret: [`Secret::generate`] makes one where a file is written. A missing boolean is false
/// even where the default is true, and `listen_multiaddress` has to be there, because the reference reads its
/// own files so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterSection {
    /// A name for people; the name of the machine by default.
    pub peername: String,
    /// The key of the private network between peers.
    pub secret: Secret,
    /// Whether the peer leaves the cluster when it stops.
    #[serde(default)]
    pub leave_on_shutdown: bool,
    /// Where it listens for other peers.
    #[serde(default)]
    pub listen_multiaddress: Addresses,
    /// What it tells others instead of what it found out.
    pub announce_multiaddress: Addresses,
    /// What it never tells others.
    pub no_announce_multiaddress: Addresses,
    /// Whether it relays connections of peers that others cannot reach.
    #[serde(default)]
    pub enable_relay_hop: bool,
    /// How many connections it keeps.
    pub connection_manager: ConnectionManagerConfig,
    /// How much the network layer may use.
    pub resource_manager: ResourceManagerConfig,
    /// Gossip between peers.
    pub pubsub: PubSubConfig,
    /// How long one attempt to connect may take.
    #[serde(with = "duration")]
    pub dial_peer_timeout: Duration,
    /// How often the pinset is compared with what is tracked.
    #[serde(with = "duration")]
    pub state_sync_interval: Duration,
    /// How often pins in error are tried again.
    #[serde(with = "duration")]
    pub pin_recover_interval: Duration,
    /// How often the whole list of the IPFS daemon is compared with what is known of it; 0 = never. A key of
    /// ours; the reference had it once and ignores it now.
    #[serde(with = "duration", skip_serializing_if = "is_default_ipfs_sync")]
    pub ipfs_sync_interval: Duration,
    /// Fewest peers for a pin that does not say; -1 = every peer, 0 takes the default.
    #[serde(deserialize_with = "zero_is_everywhere")]
    pub replication_factor_min: i32,
    /// Most peers for a pin that does not say; -1 = every peer, 0 takes the default.
    #[serde(deserialize_with = "zero_is_everywhere")]
    pub replication_factor_max: i32,
    /// How often the peer says that it is alive.
    #[serde(with = "duration")]
    pub monitor_ping_interval: Duration,
    /// How often it looks whether it is still a member.
    #[serde(with = "duration")]
    pub peer_watch_interval: Duration,
    /// Discovery on the local network; 0 = off.
    #[serde(with = "duration")]
    pub mdns_interval: Duration,
    /// Allocate to trusted peers alone.
    #[serde(default)]
    pub pin_only_on_trusted_peers: bool,
    /// Allocate to peers that are not trusted alone.
    #[serde(default)]
    pub pin_only_on_untrusted_peers: bool,
    /// Leave pins where they are when a peer goes away.
    #[serde(default)]
    pub disable_repinning: bool,
    /// A peer that never writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follower_mode: bool,
    /// File of known addresses, relative to the configuration folder; empty = `peerstore`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peerstore_file: String,
    /// Addresses to connect to first.
    #[serde(with = "address_list")]
    pub peer_addresses: Vec<Multiaddr>,
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            peername: host_name(),
            secret: Secret::NONE,
            leave_on_shutdown: false,
            listen_multiaddress: ["/ip4/0.0.0.0/tcp/9096", "/ip4/0.0.0.0/udp/9096/quic"]
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            announce_multiaddress: Addresses::default(),
            no_announce_multiaddress: Addresses::default(),
            enable_relay_hop: true,
            connection_manager: ConnectionManagerConfig::default(),
            resource_manager: ResourceManagerConfig::default(),
            pubsub: PubSubConfig::default(),
            dial_peer_timeout: Duration::from_secs(3),
            state_sync_interval: Duration::from_secs(5 * 60),
            pin_recover_interval: Duration::from_secs(12 * 60),
            ipfs_sync_interval: DEFAULT_IPFS_SYNC_INTERVAL,
            replication_factor_min: -1,
            replication_factor_max: -1,
            monitor_ping_interval: Duration::from_secs(15),
            peer_watch_interval: Duration::from_secs(5),
            mdns_interval: Duration::from_secs(10),
            pin_only_on_trusted_peers: false,
            pin_only_on_untrusted_peers: false,
            disable_repinning: true,
            follower_mode: false,
            peerstore_file: String::new(),
            peer_addresses: Vec::new(),
        }
    }
}

impl ClusterSection {
    /// Where the peerstore is, for a configuration folder.
    pub fn peerstore_path(&self, folder: &Path) -> PathBuf {
        let file = if self.peerstore_file.is_empty() { PEERSTORE_FILE } else { &self.peerstore_file };
        folder.join(file)
    }

    /// Both replication factors as one value.
    ///
    /// # Errors
    /// `InvalidInput` with the reference's texts.
    pub fn replication_factor(&self) -> Result<ReplicationFactor> {
        ReplicationFactor::new(self.replication_factor_min, self.replication_factor_max)
    }
}

impl ConfigSection for ClusterSection {
    const PATH: &'static str = "cluster";
    const ENV_PREFIX: &'static str = "CLUSTER_";
    const ACCEPTED_KEYS: &'static [&'static str] = &["replication_factor", "bootstrap", "id", "private_key"];

    // The reference's checks, texts and order, its slips included.
    fn validate(&self) -> Result<()> {
        let connections = &self.connection_manager;
        let pubsub = &self.pubsub;
        check(!self.listen_multiaddress.is_empty(), "cluster.listen_multiaddress is empty")?;
        check(connections.low_water > 0, "cluster.connection_manager.low_water is invalid")?;
        check(connections.high_water > 0, "cluster.connection_manager.high_water is invalid")?;
        check(
            connections.low_water <= connections.high_water,
            "cluster.connection_manager.low_water is greater than high_water",
        )?;
        check(!connections.grace_period.is_zero(), "cluster.connection_manager.grace_period is invalid")?;
        check(!pubsub.seen_messages_ttl.is_zero(), "cluster.pubsub.seen_message_ttl is invalid")?;
        check(!pubsub.heartbeat_interval.is_zero(), "cluster.pubsub.heartbeat_interval is invalid")?;
        check(pubsub.d_factor > 0, "cluster.pubsub.d_factor is invalid")?;
        check(pubsub.history_gossip > 0, "cluster.pubsub.history_gossip is invalid")?;
        check(pubsub.history_length > 0, "cluster.pubsub.history_length is invalid")?;
        check(!self.dial_peer_timeout.is_zero(), "cluster.dial_peer_timeout is invalid")?;
        check(!self.state_sync_interval.is_zero(), "cluster.state_sync_interval is invalid")?;
        check(!self.pin_recover_interval.is_zero(), "cluster.pin_recover_interval is invalid")?;
        check(!self.monitor_ping_interval.is_zero(), "cluster.monitoring_interval is invalid")?;
        check(!self.peer_watch_interval.is_zero(), "cluster.peer_watch_interval is invalid")?;
        check(
            !(self.pin_only_on_trusted_peers && self.pin_only_on_untrusted_peers),
            "cluster.pin_only_on_trusted_peers and pin_only_on_untrusted_peers cannot both be true",
        )?;
        self.replication_factor().map(drop)
    }
}

/// `cluster.connection_manager`. If the object is there, all its keys have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionManagerConfig {
    /// Connections above which some are closed; positive once validated.
    #[serde(default, deserialize_with = "number::positive")]
    pub high_water: usize,
    /// Connections that are kept then; positive once validated.
    #[serde(default, deserialize_with = "number::positive")]
    pub low_water: usize,
    /// How long a new connection is left alone.
    #[serde(with = "duration", default)]
    pub grace_period: Duration,
}

impl Default for ConnectionManagerConfig {
    fn default() -> Self {
        Self { high_water: 400, low_water: 100, grace_period: Duration::from_secs(120) }
    }
}

/// `cluster.resource_manager`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceManagerConfig {
    /// Whether there are limits at all.
    #[serde(default)]
    pub enabled: bool,
    /// Bytes; 0 = a share of the machine's memory.
    #[serde(default)]
    pub memory_limit_bytes: u64,
    /// File descriptors; 0 = a share of the process's limit.
    #[serde(default)]
    pub file_descriptors_limit: u64,
}

impl Default for ResourceManagerConfig {
    fn default() -> Self {
        Self { enabled: true, memory_limit_bytes: 0, file_descriptors_limit: 0 }
    }
}

/// `cluster.pubsub`: gossip. If the object is there, its numbers have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PubSubConfig {
    /// How long a message is remembered, so that it is not passed on twice.
    #[serde(with = "duration")]
    pub seen_messages_ttl: Duration,
    /// How often a peer gossips.
    #[serde(with = "duration")]
    pub heartbeat_interval: Duration,
    /// Peers in the mesh; positive once validated.
    #[serde(default, deserialize_with = "number::positive")]
    pub d_factor: usize,
    /// Heartbeats of messages that are gossiped about; positive once validated.
    #[serde(default, deserialize_with = "number::positive")]
    pub history_gossip: usize,
    /// Heartbeats of messages that are kept; positive once validated.
    #[serde(default, deserialize_with = "number::positive")]
    pub history_length: usize,
    /// Whether own messages go to every peer.
    #[serde(default)]
    pub flood_publish: bool,
}

impl Default for PubSubConfig {
    fn default() -> Self {
        Self {
            seen_messages_ttl: Duration::from_secs(30 * 60),
            heartbeat_interval: Duration::from_secs(10),
            d_factor: 4,
            history_gossip: 2,
            history_length: 6,
            flood_publish: false,
        }
    }
}

fn is_default_ipfs_sync(interval: &Duration) -> bool {
    *interval == DEFAULT_IPFS_SYNC_INTERVAL
}

fn zero_is_everywhere<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let factor = i32::deserialize(deserializer)?;
    Ok(if factor == 0 { -1 } else { factor })
}

/// The machine's name, or nothing where it cannot be had without a system call of our own.
fn host_name() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_environment = || ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| std::env::var(name).ok());
    let name = from_kernel.or_else(from_environment).unwrap_or_default();
    name.trim().to_owned()
}
