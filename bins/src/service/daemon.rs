//! The run of a peer.

use ipfs_cluster::types::Multiaddr;
use ipfs_cluster::{Error, ErrorKind};

use super::Failure;
use super::config::PeerConfig;

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
/// With the reference's texts: `starting cluster` when it does not come up.
pub async fn run(config: PeerConfig, _options: DaemonOptions) -> Result<(), Failure> {
    let starting = |error| Failure::new("starting cluster", error);
    let informers =
        [config.disk.is_some(), config.pin_queue.is_some(), config.tags.is_some(), config.num_pin.is_some()];
    if !informers.contains(&true) {
        return Err(starting(Error::invalid_input("no informers are passed")));
    }
    Err(starting(Error::new(ErrorKind::Unsupported, "running a peer is not available in this version")))
}
