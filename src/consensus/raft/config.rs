//! How the component works.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::trim::PIECE_BYTES;
use super::{COMPONENT, OPERATIONS_MAX};
use crate::error::{Error, Result};
use crate::types::PeerId;

/// Most peers that may be named to begin with.
const INIT_PEERS_MAX: usize = 128;
/// Bytes of entries that are kept: half a million pins or a million, and read within a second or so at the next start.
const LOG_BYTES: u64 = 256 << 20;
/// Shortest times that a machine under load keeps.
const HEARTBEAT_TIMEOUT_MIN: Duration = Duration::from_millis(20);
/// Nothing can be written for as long as that when a leader dies.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// How a [`Raft`](super::Raft) works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RaftConfig {
    /// The first members, this peer among them whether it is named or not; each of them is started with the same. Empty:
    /// this peer alone. Only looked at where nothing is stored.
    pub init_peerset: BTreeSet<PeerId>,
    /// Where nothing is stored, this peer founds no cluster but waits for a member to add it.
    pub join: bool,
    /// How long a write may take until it fails, whether there was a leader or not.
    pub wait_for_leader_timeout: Duration,
    /// How long another peer may take to answer.
    pub network_timeout: Duration,
    /// How long after a failed attempt a write is tried again. Trying again is harmless: nothing is applied twice.
    pub commit_retry_delay: Duration,
    /// A leader speaks to everybody four times within this time.
    pub heartbeat_timeout: Duration,
    /// A peer that has heard from no leader for between half of this time and all of it asks whether it would be elected.
    pub election_timeout: Duration,
    /// Most entries of the log in one message.
    pub max_append_entries: u64,
    /// Entries that are kept of those that a new peer would get as part of the whole pinset; fewer when they would have
    /// more than [`max_log_bytes`](Self::max_log_bytes).
    pub trailing_logs: u64,
    /// Entries after which older ones are removed from the log.
    pub snapshot_threshold: u64,
    /// About how many bytes of entries are kept at most of those that are in the pinset. A peer that was away while more was
    /// written gets the whole pinset.
    pub max_log_bytes: u64,
    /// Most operations of several callers that share one entry of the log. A single call may have more.
    pub max_batch_operations: usize,
    /// About how many bytes of pins share one entry. A single call may have more.
    pub max_batch_bytes: usize,
    /// Events kept for a reader that is slow; one that is slower is told to compare.
    pub max_buffered_events: usize,
    /// Where a pinset that comes from another peer is put together.
    pub spool_folder: PathBuf,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            init_peerset: BTreeSet::new(),
            join: false,
            wait_for_leader_timeout: Duration::from_secs(15),
            network_timeout: Duration::from_secs(10),
            commit_retry_delay: Duration::from_millis(200),
            heartbeat_timeout: Duration::from_secs(1),
            election_timeout: Duration::from_secs(1),
            max_append_entries: 64,
            trailing_logs: 10_240,
            snapshot_threshold: 8192,
            max_log_bytes: LOG_BYTES,
            max_batch_operations: 4096,
            max_batch_bytes: 4 << 20,
            max_buffered_events: 16 * 1024,
            spool_folder: std::env::temp_dir(),
        }
    }
}

impl RaftConfig {
    /// Checks values that cannot work.
    ///
    /// # Errors
    /// `InvalidInput` naming the field.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::invalid_input(text).component(COMPONENT));
        for (name, value, max) in [
            ("max_batch_operations", self.max_batch_operations, OPERATIONS_MAX),
            ("max_batch_bytes", self.max_batch_bytes, 8 << 20),
            ("max_buffered_events", self.max_buffered_events, 1 << 20),
            ("max_append_entries", usize::try_from(self.max_append_entries).unwrap_or(usize::MAX), 1024),
            (
                "snapshot_threshold",
                usize::try_from(self.snapshot_threshold).unwrap_or(usize::MAX),
                usize::MAX,
            ),
        ] {
            if !(1..=max).contains(&value) {
                return wrong(format!("raft.{name} is {value}, but must be between 1 and {max}"));
            }
        }
        if self.max_log_bytes < PIECE_BYTES {
            return wrong(format!(
                "raft.max_log_bytes is {}, but must be at least {PIECE_BYTES}",
                self.max_log_bytes
            ));
        }
        for (name, value) in [
            ("wait_for_leader_timeout", self.wait_for_leader_timeout),
            ("network_timeout", self.network_timeout),
            ("commit_retry_delay", self.commit_retry_delay),
        ] {
            if value.is_zero() {
                return wrong(format!("raft.{name} is invalid: it must be longer than nothing"));
            }
        }
        if self.heartbeat_timeout < HEARTBEAT_TIMEOUT_MIN {
            return wrong(format!(
                "raft.heartbeat_timeout is too short: give it at least {HEARTBEAT_TIMEOUT_MIN:?}"
            ));
        }
        if self.election_timeout < self.heartbeat_timeout {
            return wrong("raft.election_timeout is shorter than raft.heartbeat_timeout".to_owned());
        }
        if self.election_timeout > ELECTION_TIMEOUT_MAX {
            return wrong(format!(
                "raft.election_timeout is too long: give it at most {ELECTION_TIMEOUT_MAX:?}, as nothing can be written for \
                 that time when a leader dies"
            ));
        }
        if self.init_peerset.len() > INIT_PEERS_MAX {
            return wrong(format!("raft.init_peerset names more than {INIT_PEERS_MAX} peers"));
        }
        Ok(())
    }

    pub(super) fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_timeout / 4
    }

    /// The least time without a leader before somebody else is elected; nobody votes for another before it is over.
    pub(super) fn lease(&self) -> Duration {
        self.election_timeout / 2
    }

    pub(super) fn openraft(&self) -> Result<Config> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4).max(1);
        let config = Config {
            cluster_name: "ipfs-cluster".to_owned(),
            heartbeat_interval: millis(self.heartbeat_interval()),
            // Elections are ours (see `elections`); what openraft makes of these is how long a vote binds.
            election_timeout_min: millis(self.lease()) - 1,
            election_timeout_max: millis(self.lease()),
            enable_elect: false,
            max_payload_entries: self.max_append_entries,
            replication_lag_threshold: self.trailing_logs.saturating_add(self.snapshot_threshold),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_threshold),
            // What is kept is ours to say (see `trim`).
            max_in_snapshot_log_to_keep: u64::MAX,
            ..Config::default()
        };
        config.validate().map_err(|source| {
            Error::invalid_input(format!("raft's times do not fit together: {source}"))
                .component(COMPONENT)
                .with_source(source)
        })
    }
}
