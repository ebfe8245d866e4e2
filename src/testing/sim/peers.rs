//! The peers of a plan.

use std::sync::Arc;
use std::time::Duration;

use super::plan::Plan;
use crate::cluster::{ClusterBuilder, ClusterConfig};
use crate::testing::cluster::{DaemonManners, TestClusterConfig};

/// Clocks are wrong by no more.
pub(super) const SKEW_MAX: Duration = Duration::from_secs(5);
/// Often, so that runs are short.
const STATE_SYNC_INTERVAL: Duration = Duration::from_secs(20);
/// Rarely: what only this would repair should be seen.
const PIN_RECOVER_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn config(plan: &Plan) -> TestClusterConfig {
    let chosen = plan.clone();
    TestClusterConfig {
        peers: plan.peers,
        seed: plan.seed,
        cluster: ClusterConfig {
            replication_factor_min: plan.factors.0,
            replication_factor_max: plan.factors.1,
            state_sync_interval: STATE_SYNC_INTERVAL,
            pin_recover_interval: PIN_RECOVER_INTERVAL,
            disable_repinning: !plan.repinning,
            ..ClusterConfig::default()
        },
        daemons: DaemonManners {
            latency_max: plan.daemon_latency,
            failures_percent: plan.daemon_failures_percent,
        },
        assemble: Arc::new(move |peer, builder| assemble(&chosen, peer, builder)),
        ..TestClusterConfig::default()
    }
}

fn assemble(_plan: &Plan, _peer: usize, builder: ClusterBuilder) -> ClusterBuilder {
    builder
}
