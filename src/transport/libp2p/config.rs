//! What the host may be told.

use std::time::Duration;

use crate::config::{ClusterSection, ConnectionManagerConfig, PubSubConfig, ResourceManagerConfig, Secret};
use crate::error::{Error, Result};
use crate::types::Multiaddr;

use super::COMPONENT;

/// Settings of a [`Libp2pTransport`](super::Libp2pTransport). `Default` is what the reference's `init` writes, but for
/// the secret: everything that finds peers is on, and it listens on all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libp2pConfig {
    /// The key of the private network; none lets anybody connect.
    pub secret: Secret,
    /// Where to listen. QUIC is left out, because no peer of a cluster speaks it; port 0 takes any free one.
    pub listen: Vec<Multiaddr>,
    /// Whether to do without listening anywhere.
    pub dial_only: bool,
    /// What others are told instead of what was found out.
    pub announce: Vec<Multiaddr>,
    /// What others are never told: addresses, or ranges such as `/ip4/10.0.0.0/ipcidr/8`.
    pub no_announce: Vec<Multiaddr>,
    /// Peers to connect to first and for ever, with their ids.
    pub peer_addresses: Vec<Multiaddr>,
    /// Peers that were known when the peer last stopped, with their ids, most important first.
    pub known_addresses: Vec<Multiaddr>,
    /// How long one attempt to connect may take.
    pub dial_timeout: Duration,
    /// How often known peers are dialled while there are fewer connections than the low water; 0 = never.
    pub redial_interval: Duration,
    /// How many connections are kept.
    pub connections: ConnectionManagerConfig,
    /// How much the network may use.
    pub resources: ResourceManagerConfig,
    /// Gossip.
    pub gossip: PubSubConfig,
    /// Whether peers that leave our gossip mesh are told about others; followers do not.
    pub peer_exchange: bool,
    /// Whether others find us, and we them, on the local network.
    pub mdns: bool,
    /// The directory among peers with private addresses.
    pub dht_lan: bool,
    /// The directory among peers with public addresses.
    pub dht_wan: bool,
    /// Whether we can be reached, and reach others, through relays.
    pub relay_client: bool,
    /// Whether we relay for others once we can be reached ourselves.
    pub relay_hop: bool,
    /// Whether relayed connections are made direct where both sides manage to.
    pub hole_punching: bool,
    /// Whether peers find out for each other who can be reached.
    pub autonat: bool,
    /// Whether routers are asked for a port (UPnP); needs the feature `nat`.
    pub port_mapping: bool,
}

impl Default for Libp2pConfig {
    fn default() -> Self {
        Self::from(&ClusterSection::default())
    }
}

impl From<&ClusterSection> for Libp2pConfig {
    fn from(section: &ClusterSection) -> Self {
        Self {
            secret: section.secret.clone(),
            listen: section.listen_multiaddress.to_vec(),
            dial_only: false,
            announce: section.announce_multiaddress.to_vec(),
            no_announce: section.no_announce_multiaddress.to_vec(),
            peer_addresses: section.peer_addresses.clone(),
            known_addresses: Vec::new(),
            dial_timeout: section.dial_peer_timeout,
            redial_interval: Duration::from_secs(30),
            connections: section.connection_manager,
            resources: section.resource_manager,
            gossip: section.pubsub,
            peer_exchange: !section.follower_mode,
            mdns: !section.mdns_interval.is_zero(),
            dht_lan: true,
            dht_wan: true,
            relay_client: true,
            relay_hop: section.enable_relay_hop,
            hole_punching: true,
            autonat: true,
            port_mapping: true,
        }
    }
}

impl Libp2pConfig {
    /// Listens on a free port of this machine alone and looks for nobody: for tests and for peers of one machine.
    pub fn loopback(secret: Secret) -> Self {
        Self {
            secret,
            listen: "/ip4/127.0.0.1/tcp/0".parse().into_iter().collect(),
            mdns: false,
            dht_lan: false,
            dht_wan: false,
            relay_client: false,
            relay_hop: false,
            hole_punching: false,
            autonat: false,
            port_mapping: false,
            redial_interval: Duration::ZERO,
            ..Self::default()
        }
    }

    /// Listens nowhere and looks for nobody: for those that only connect to peers that they are told of.
    pub fn dialing(secret: Secret) -> Self {
        Self { listen: Vec::new(), dial_only: true, ..Self::loopback(secret) }
    }

    /// What others are told of a peer that can be met at these addresses: what the operator announces instead, without
    /// what the operator never tells, and without what leads nowhere.
    pub fn announced(&self, found: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
        super::filters::announced(found, &self.announce, &self.no_announce)
    }

    /// Checks values that cannot work.
    ///
    /// # Errors
    /// `InvalidInput` naming the key of the `cluster` section.
    pub fn validate(&self) -> Result<()> {
        let connections = &self.connections;
        let gossip = &self.gossip;
        for (holds, text) in [
            (self.dial_only || !self.listen.is_empty(), "cluster.listen_multiaddress is empty"),
            (connections.low_water > 0, "cluster.connection_manager.low_water is invalid"),
            (connections.high_water > 0, "cluster.connection_manager.high_water is invalid"),
            (
                connections.low_water <= connections.high_water,
                "cluster.connection_manager.low_water is greater than high_water",
            ),
            (!connections.grace_period.is_zero(), "cluster.connection_manager.grace_period is invalid"),
            (!gossip.seen_messages_ttl.is_zero(), "cluster.pubsub.seen_message_ttl is invalid"),
            (!gossip.heartbeat_interval.is_zero(), "cluster.pubsub.heartbeat_interval is invalid"),
            (gossip.d_factor > 0, "cluster.pubsub.d_factor is invalid"),
            (gossip.history_gossip > 0, "cluster.pubsub.history_gossip is invalid"),
            (gossip.history_length > 0, "cluster.pubsub.history_length is invalid"),
            (
                gossip.history_gossip <= gossip.history_length,
                "cluster.pubsub.history_gossip is greater than history_length",
            ),
            (!self.dial_timeout.is_zero(), "cluster.dial_peer_timeout is invalid"),
        ] {
            if !holds {
                return Err(Error::invalid_input(text).component(COMPONENT));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_values_that_cannot_work_are_named() {
        Libp2pConfig::default().validate().unwrap();
        Libp2pConfig::loopback(Secret::NONE).validate().unwrap();
        type Breaks = fn(&mut Libp2pConfig);
        let broken: [(Breaks, &str); 4] = [
            (|config| config.listen.clear(), "listen_multiaddress"),
            (|config| config.connections.low_water = 500, "greater than high_water"),
            (|config| config.gossip.history_gossip = 7, "history_gossip"),
            (|config| config.dial_timeout = Duration::ZERO, "dial_peer_timeout"),
        ];
        for (break_it, name) in broken {
            let mut config = Libp2pConfig::default();
            break_it(&mut config);
            assert!(config.validate().unwrap_err().to_string().contains(name), "{name}");
        }
    }

    #[test]
    fn the_section_decides_about_mdns_relay_and_peer_exchange() {
        let section = ClusterSection {
            mdns_interval: Duration::ZERO,
            enable_relay_hop: false,
            follower_mode: true,
            ..ClusterSection::default()
        };
        let config = Libp2pConfig::from(&section);
        assert!(!config.mdns && !config.relay_hop && !config.peer_exchange);
        let config = Libp2pConfig::default();
        assert!(config.mdns && config.relay_hop && config.peer_exchange && config.dht_lan && config.dht_wan);
    }
}
