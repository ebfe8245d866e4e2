//! The run of one peer as the whole of a process.

use std::time::Duration;

use ipfs_cluster::cluster::StopReason;
use tokio::sync::watch;
use tracing::info;

use super::config::{ConsensusSection, PeerConfig};
use super::running::{RunOptions, Running, STARTING, outcome};
use super::signals::Signals;
use super::{Doing as _, Failure, state};

/// Shortest time between two signs of life.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Runs a peer until a signal ends it or it cannot go on. Whoever calls holds the folder's lock.
///
/// # Errors
/// With the reference's texts: `starting cluster` when it does not come up, `running cluster` when it cannot go on.
pub async fn run(config: PeerConfig, options: RunOptions) -> Result<(), Failure> {
    let mut signals = Signals::subscribe().doing(STARTING)?;
    let left_behind = config.clone();
    let peer = signals.count_during(Running::start(config, options)).await?;
    let announce = tokio::spawn(tell_service_manager(peer.ready()));
    let cluster = peer.cluster().clone();
    let reason = tokio::select! {
        reason = peer.stopped() => outcome(reason),
        () = signals.first() => Ok(()),
    };
    tell_of_the_end();
    let stopped = signals.count_during(peer.stop()).await;
    announce.abort();
    let is_removed = matches!(cluster.stopped().await, StopReason::Removed);
    drop(cluster);
    // Who is a member is in etcd, and so is the pinset: the copy does no harm.
    let is_in_etcd = matches!(left_behind.consensus, ConsensusSection::Etcd(_));
    let put_aside = if is_removed && !is_in_etcd { forget(&left_behind).await } else { Ok(()) };
    stopped.and(reason).and(put_aside)
}

/// As in the reference, a peer that was removed keeps nothing that would have it believe that it is a member still.
async fn forget(config: &PeerConfig) -> Result<(), Failure> {
    let folder = state::cleanup(config).await.doing("cleaning state")?;
    info!(
        folder = folder.map(|folder| folder.display().to_string()),
        "the state of this peer was put aside, because it is no member of the cluster any more"
    );
    Ok(())
}

/// Tells a service manager when a peer is ready, and that it still runs as often as that wants to hear it. One that is
/// not there is no failure.
pub async fn tell_service_manager(mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((patience / 2).max(WATCHDOG_INTERVAL_MIN));
    loop {
        ticks.tick().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Tells a service manager that the process is about to end.
pub fn tell_of_the_end() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}
