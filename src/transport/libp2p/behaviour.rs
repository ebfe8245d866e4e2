//! The protocols of the host, put together.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::{StreamProtocol, autonat, dcutr, gossipsub, identify, memory_connection_limits, ping, relay};
use libp2p_identity::Keypair;

use super::directory::{self, Directory};
use super::streams::{self, Registry};
use super::{Libp2pConfig, gossip, stack};
use crate::error::Result;

/// What the reference calls itself; nobody decides anything by it.
const AGENT: &str = "github.com/ipfs-cluster/ipfs-cluster@";
/// Connections in the making, each way.
const PENDING_CONNECTIONS_MAX: u32 = 256;
/// Connections to one peer; dials from both sides at once make two.
const CONNECTIONS_PER_PEER_MAX: u32 = 8;
/// Connections there may be at most, for each that is wanted at most: above the latter some are closed after a while.
const CONNECTIONS_PER_HIGH_WATER: u32 = 4;
/// Fewest connections that are possible at most.
const CONNECTIONS_MAX_MIN: u32 = 256;
/// Share of the machine's memory above which no connections are taken. It is the whole process that is measured, so it
/// is more than the quarter that the reference gives its network layer.
const MEMORY_SHARE_MAX: f64 = 0.75;
/// What the rest of the process may take when the operator says how much the network may.
const MEMORY_BESIDE_BYTES: u64 = 2 << 30;
/// Peers keep their connections, so they do not end for being idle. Not longer, because instants overflow.
const IDLE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams of others that are negotiated over one connection at a time; more are reset.
const STREAMS_NEGOTIATING_MAX: usize = 256;

/// Everything the host speaks. No protocol is in two of them: the first would take its streams.
#[derive(NetworkBehaviour)]
pub(super) struct Host {
    limits: connection_limits::Behaviour,
    memory: Toggle<memory_connection_limits::Behaviour>,
    pub(super) streams: streams::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) gossip: gossipsub::Behaviour,
    pub(super) lan: Toggle<Directory>,
    pub(super) wan: Toggle<Directory>,
    relay_client: Toggle<relay::client::Behaviour>,
    pub(super) relay_hop: Toggle<relay::Behaviour>,
    hole_punching: Toggle<dcutr::Behaviour>,
    pub(super) autonat: Toggle<autonat::v1::Behaviour>,
    #[cfg(feature = "nat")]
    port_mapping: Toggle<libp2p::upnp::tokio::Behaviour>,
}

impl Host {
    /// Connections of this peer are taken even when there are as many as possible.
    pub(super) fn bypass_limits(&mut self, peer: &libp2p::PeerId, bypass: bool) {
        if bypass {
            self.limits.bypass_peer_id(peer);
        } else {
            self.limits.remove_peer_id(peer);
        }
    }
}

fn limits(config: &Libp2pConfig) -> ConnectionLimits {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_CONNECTIONS_MAX))
        .with_max_pending_outgoing(Some(PENDING_CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    if !config.resources.enabled {
        return limits;
    }
    let wanted = u32::try_from(config.connections.high_water).unwrap_or(u32::MAX);
    let most = wanted.saturating_mul(CONNECTIONS_PER_HIGH_WATER).max(CONNECTIONS_MAX_MIN);
    let files = u32::try_from(config.resources.file_descriptors_limit).unwrap_or(u32::MAX);
    limits.with_max_established(Some(if files == 0 { most } else { most.min(files) }))
}

fn memory(config: &Libp2pConfig) -> Option<memory_connection_limits::Behaviour> {
    config.resources.enabled.then(|| match config.resources.memory_limit_bytes {
        0 => memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE_MAX),
        bytes => {
            let bytes = bytes.saturating_add(MEMORY_BESIDE_BYTES);
            memory_connection_limits::Behaviour::with_max_bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
        }
    })
}

/// Must be called inside of a tokio runtime, on which connections then run.
pub(super) fn swarm(
    keypair: &Keypair,
    config: &Libp2pConfig,
    registry: Arc<Registry>,
) -> Result<Swarm<Host>> {
    let peer = keypair.public().to_peer_id();
    let (relay_transport, relay_client) = if config.relay_client {
        let (transport, behaviour) = relay::client::new(peer);
        (Some(transport), Some(behaviour))
    } else {
        (None, None)
    };
    let directory = |on: bool, name: StreamProtocol| on.then(|| directory::behaviour(peer, name));
    let mut relay_hop = config.relay_hop.then(|| relay::Behaviour::new(peer, relay::Config::default()));
    if let Some(hop) = &mut relay_hop {
        hop.set_status(Some(relay::Status::Disable));
    }
    let identify = identify::Config::new_with_signed_peer_record(String::new(), keypair)
        .with_agent_version(AGENT.to_owned())
        .with_push_listen_addr_updates(true)
        // We hold what we tell as confirmed addresses, and nothing else is told.
        .with_hide_listen_addrs(true);
    let host = Host {
        limits: connection_limits::Behaviour::new(limits(config)),
        memory: memory(config).into(),
        streams: streams::Behaviour::new(registry),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT),
        ),
        gossip: gossip::behaviour(keypair, config)?,
        lan: directory(config.dht_lan, directory::LAN).into(),
        wan: directory(config.dht_wan, directory::WAN).into(),
        relay_client: relay_client.into(),
        relay_hop: relay_hop.into(),
        hole_punching: (config.hole_punching && config.relay_client)
            .then(|| dcutr::Behaviour::new(peer))
            .into(),
        autonat: config
            .autonat
            .then(|| autonat::v1::Behaviour::new(peer, autonat::v1::Config::default()))
            .into(),
        #[cfg(feature = "nat")]
        port_mapping: config.port_mapping.then(libp2p::upnp::tokio::Behaviour::default).into(),
    };
    let settings = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_max_negotiating_inbound_streams(STREAMS_NEGOTIATING_MAX)
        .with_notify_handler_buffer_size(NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN))
        .with_per_connection_event_buffer_size(64);
    let connections = stack::build(keypair, &config.secret, relay_transport)?;
    Ok(Swarm::new(connections, host, peer, settings))
}
