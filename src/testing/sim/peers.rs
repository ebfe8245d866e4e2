//! The peers of a plan.

use std::sync::Arc;
use std::time::Duration;

use super::plan::Plan;
use crate::cluster::{ClusterBuilder, ClusterConfig};
use crate::testing::cluster::{DaemonManners, TestClusterConfig};

/// Clocks are wrong by no more.
pub(super) const SKEW_MAX: Duration = Duration::from_secs(5);
/// Clocks that jump do so by no more.
pub(super) const JUMP_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// Often, so that runs are short.
const STATE_SYNC_INTERVAL: Duration = Duration::from_secs(20);
#[cfg(feature = "consensus-crdt")]
const REBROADCAST_INTERVAL: Duration = Duration::from_secs(20);
#[cfg(feature = "consensus-crdt")]
const REPAIR_INTERVAL: Duration = Duration::from_secs(120);
/// Rarely: what only this would repair should be seen.
const PIN_RECOVER_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn config(plan: &Plan) -> TestClusterConfig {
    let chosen = plan.clone();
    TestClusterConfig {
        peers: plan.peers,
        followers: plan.followers,
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
        absent: plan.late.into_iter().collect(),
        walkers: plan.walker.into_iter().collect(),
        assemble: Arc::new(move |_, builder| assemble(&chosen, builder)),
        #[cfg(feature = "consensus-raft")]
        raft: plan.raft.as_ref().map(raft),
        ..TestClusterConfig::default()
    }
}

#[cfg(feature = "consensus-raft")]
fn raft(choices: &super::plan::RaftChoices) -> crate::consensus::RaftConfig {
    crate::consensus::RaftConfig {
        wait_for_leader_timeout: choices.patience,
        heartbeat_timeout: choices.heartbeat,
        election_timeout: choices.heartbeat,
        trailing_logs: choices.trailing,
        snapshot_threshold: choices.threshold,
        max_append_entries: choices.entries,
        ..Default::default()
    }
}

#[cfg(feature = "consensus-crdt")]
fn assemble(plan: &Plan, builder: ClusterBuilder) -> ClusterBuilder {
    use crate::consensus::{Crdt, CrdtConfig};
    use crate::exchange::Bitswap;

    let mut config = CrdtConfig {
        trust_all: plan.trust_everybody,
        trusted_peers: (0..plan.peers - plan.followers)
            .map(|peer| crate::testing::peer(peer as u64 + 1))
            .collect(),
        repair_interval: REPAIR_INTERVAL,
        rebroadcast_interval: REBROADCAST_INTERVAL,
        ..CrdtConfig::default()
    };
    if let Some((operations, age)) = plan.batching {
        (config.batching.max_batch_size, config.batching.max_batch_age) = (operations, age);
    }
    let builder = builder.consensus_with(move |cx| Crdt::open(config, cx));
    if plan.bitswap { builder.exchange_with(Bitswap::new) } else { builder }
}

#[cfg(not(feature = "consensus-crdt"))]
fn assemble(_plan: &Plan, builder: ClusterBuilder) -> ClusterBuilder {
    builder
}
