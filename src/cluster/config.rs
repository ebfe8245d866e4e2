//! What a peer may be told about itself.

use std::time::Duration;

use crate::config::ClusterSection;
use crate::error::{Error, Result};
use crate::types::ReplicationFactor;

/// Settings of a peer. `Default` is what the reference's `init` writes, but for the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The name shown to people; need not be unique.
    pub peername: String,
    /// Fewest peers for pins that do not say; `-1` is everywhere.
    pub replication_factor_min: i32,
    /// Most peers for pins that do not say; `-1` is everywhere.
    pub replication_factor_max: i32,
    /// How often expired pins are looked for.
    pub state_sync_interval: Duration,
    /// How often pins in error are retried.
    pub pin_recover_interval: Duration,
    /// How often this peer says that it lives; its ping is true for twice as long.
    pub monitor_ping_interval: Duration,
    /// How often this peer looks whether it still is a member, where members are added and removed.
    pub peer_watch_interval: Duration,
    /// How long after the start the daemons of all peers are connected with each other.
    pub connect_swarms_delay: Duration,
    /// End the membership when this peer stops, where members are added and removed. Its data stays.
    pub leave_on_shutdown: bool,
    /// Refuse writes, and answer about this peer only.
    pub follower_mode: bool,
    /// Leave a pin's allocations alone when one of its peers dies.
    pub disable_repinning: bool,
    /// Allocate only to peers we trust.
    pub pin_only_on_trusted_peers: bool,
    /// Allocate only to peers we do not trust.
    pub pin_only_on_untrusted_peers: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            peername: String::new(),
            replication_factor_min: -1,
            replication_factor_max: -1,
            state_sync_interval: Duration::from_secs(5 * 60),
            pin_recover_interval: Duration::from_secs(12 * 60),
            monitor_ping_interval: Duration::from_secs(15),
            peer_watch_interval: Duration::from_secs(5),
            connect_swarms_delay: Duration::from_secs(30),
            leave_on_shutdown: false,
            follower_mode: false,
            disable_repinning: true,
            pin_only_on_trusted_peers: false,
            pin_only_on_untrusted_peers: false,
        }
    }
}

impl ClusterConfig {
    /// Checks values that cannot work, with the reference's texts.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    pub fn validate(&self) -> Result<()> {
        ReplicationFactor::new(self.replication_factor_min, self.replication_factor_max)?;
        for (interval, text) in [
            (self.state_sync_interval, "cluster.state_sync_interval is invalid"),
            (self.pin_recover_interval, "cluster.pin_recover_interval is invalid"),
            (self.monitor_ping_interval, "cluster.monitoring_interval is invalid"),
            (self.peer_watch_interval, "cluster.peer_watch_interval is invalid"),
        ] {
            if interval.is_zero() {
                return Err(
                    Error::invalid_input(format!("{text}: it must be longer than 0s")).component("cluster")
                );
            }
        }
        if self.pin_only_on_trusted_peers && self.pin_only_on_untrusted_peers {
            return Err(Error::invalid_input(
                "cluster.pin_only_on_trusted_peers and pin_only_on_untrusted_peers cannot both be true",
            )
            .component("cluster"));
        }
        Ok(())
    }
}

/// What the section says that is the peer's own business; the rest of it is its host's.
impl From<&ClusterSection> for ClusterConfig {
    fn from(section: &ClusterSection) -> Self {
        Self {
            peername: section.peername.clone(),
            replication_factor_min: section.replication_factor_min,
            replication_factor_max: section.replication_factor_max,
            state_sync_interval: section.state_sync_interval,
            pin_recover_interval: section.pin_recover_interval,
            monitor_ping_interval: section.monitor_ping_interval,
            peer_watch_interval: section.peer_watch_interval,
            // A key of the connector's section in the reference; the host of the peer takes it from there.
            connect_swarms_delay: Self::default().connect_swarms_delay,
            leave_on_shutdown: section.leave_on_shutdown,
            follower_mode: section.follower_mode,
            disable_repinning: section.disable_repinning,
            pin_only_on_trusted_peers: section.pin_only_on_trusted_peers,
            pin_only_on_untrusted_peers: section.pin_only_on_untrusted_peers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_peer_and_section_are_the_same_but_for_the_name() {
        let section = ClusterSection { peername: String::new(), ..Default::default() };
        assert_eq!(ClusterConfig::from(&section), ClusterConfig::default());
    }
}
