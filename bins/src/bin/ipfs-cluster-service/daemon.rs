//! `daemon`.

use ipfs_cluster::config::process_environment;
use ipfs_cluster::types::{Multiaddr, parse_multiaddr};
use ipfs_cluster_bins::service::config::PeerConfig;
use ipfs_cluster_bins::service::daemon;
use ipfs_cluster_bins::service::folder::Folder;
use ipfs_cluster_bins::service::running::RunOptions;
use ipfs_cluster_bins::service::{Doing as _, Failure, open_files};

use crate::cli::Daemon;
use crate::{block_on, state};

pub(crate) fn run(folder: Folder, options: &Daemon) -> Result<(), Failure> {
    tracing::info!("Initializing. For verbose output run with \"-l debug\". Please wait...");
    let options = RunOptions {
        bootstrap: bootstrap(&options.bootstrap)?,
        leave: options.leave,
        stats: options.stats,
        tracing: options.tracing,
        no_trust: options.no_trust,
        ..RunOptions::default()
    };
    // Before anything is read, and until everything is written.
    let _lock = folder.lock().doing("obtaining execution lock")?;
    open_files::raise_limit();
    let (config, warnings) = PeerConfig::load(folder, &process_environment)?;
    state::report(&warnings);
    block_on("starting cluster", daemon::run(config, options))?
}

fn bootstrap(list: &str) -> Result<Vec<Multiaddr>, Failure> {
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| parse_multiaddr(item).doing(&format!("parsing bootstrap multiaddress ({item})")))
        .collect()
}
