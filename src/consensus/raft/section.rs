//! The section `consensus.raft` of `service.json`.
//!
//! Its keys are those of the reference, whose Raft is another program, so some say less here:
//!
//! | key | here |
//! |---|---|
//! | `init_peerset`, `network_timeout`, `commit_retry_delay`, `snapshot_threshold`, `max_append_entries` | as there |
//! | `trailing_logs` | as there, but no more than about 256 MiB of entries are kept |
//! | `wait_for_leader_timeout` | how long a write may take, attempts that fail included |
//! | `heartbeat_timeout` | four times as long as the leader is silent |
//! | `election_timeout` | between half of it and all of it without a leader, then an election |
//! | `backups_rotate` | how many old stores `state cleanup` keeps |
//! | `commit_retries` | nothing: a write is tried again until its time is over, which is harmless, because it is applied once |
//! | `commit_timeout` | nothing: what is agreed on is told at once, not after a while without entries |
//! | `snapshot_interval` | nothing: a snapshot is the pinset itself, so there is nothing to look for now and then |
//! | `leader_lease_timeout` | nothing: a read that has to be fresh asks a quorum, and a leader without one takes no writes after twice `election_timeout` |
//! | `data_folder`, `datastore_namespace` | nothing: where the reference keeps its data |
//! | `storage`, `folder` | only here: the engine of our store, and its folder |

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::RaftConfig;
use crate::config::{ConfigSection, StorageEngine, check, duration, number};
use crate::error::{Error, Result};
use crate::types::{PeerId, parse_peer};

const DEFAULT_NAMESPACE: &str = "/r";
const DEFAULT_BACKUPS: usize = 6;
const DEFAULT_ENTRIES: usize = 64;
const DEFAULT_TRAILING: usize = 10_240;
const DEFAULT_THRESHOLD: usize = 8192;

/// `consensus.raft`: peers that agree on one order, with a leader. What each key does is said above [`RaftConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RaftSection {
    /// Where the reference keeps its log. Nothing of ours is there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data_folder: String,
    /// The first members, as text; only looked at when nothing is stored.
    pub init_peerset: Vec<String>,
    /// How long a write may take.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 15_000>")]
    pub wait_for_leader_timeout: Duration,
    /// How long another peer may take to answer.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 10_000>")]
    pub network_timeout: Duration,
    /// Kept for the reference, see [`RaftSection::without_effect`]. As there, a section without it has 0.
    #[serde(default, deserialize_with = "number::natural")]
    pub commit_retries: u64,
    /// How long after a failed attempt a write is tried again.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 200>")]
    pub commit_retry_delay: Duration,
    /// How many stores that were cleaned away are kept.
    #[serde(deserialize_with = "number::zero_is::<_, DEFAULT_BACKUPS>")]
    pub backups_rotate: usize,
    /// A prefix of the reference's keys on disk. Kept for it.
    #[serde(skip_serializing_if = "is_default_namespace", deserialize_with = "namespace_or_default")]
    pub datastore_namespace: String,
    /// The leader speaks four times within this time.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 1000>")]
    pub heartbeat_timeout: Duration,
    /// Without a leader for between half of this time and all of it, another one is elected.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 1000>")]
    pub election_timeout: Duration,
    /// Kept for the reference, see [`RaftSection::without_effect`].
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 50>")]
    pub commit_timeout: Duration,
    /// Most entries of the log in one message.
    #[serde(deserialize_with = "number::zero_is::<_, DEFAULT_ENTRIES>")]
    pub max_append_entries: usize,
    /// Entries kept of those that are not needed any more, for members that are a little behind; no more of them than
    /// [`RaftConfig::max_log_bytes`].
    #[serde(deserialize_with = "number::zero_is::<_, DEFAULT_TRAILING>")]
    pub trailing_logs: usize,
    /// Kept for the reference, see [`RaftSection::without_effect`].
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 120_000>")]
    pub snapshot_interval: Duration,
    /// Entries after which older ones are removed.
    #[serde(deserialize_with = "number::zero_is::<_, DEFAULT_THRESHOLD>")]
    pub snapshot_threshold: usize,
    /// Kept for the reference, see [`RaftSection::without_effect`].
    #[serde(serialize_with = "duration::serialize", deserialize_with = "or::<_, 500>")]
    pub leader_lease_timeout: Duration,
    /// The engine of our store.
    #[serde(skip_serializing_if = "is_default_engine")]
    pub storage: StorageEngine,
    /// Its folder, relative to the configuration folder; empty = the engine's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub folder: String,
}

impl Default for RaftSection {
    fn default() -> Self {
        let config = RaftConfig::default();
        Self {
            data_folder: String::new(),
            init_peerset: Vec::new(),
            wait_for_leader_timeout: config.wait_for_leader_timeout,
            network_timeout: config.network_timeout,
            commit_retries: 1,
            commit_retry_delay: config.commit_retry_delay,
            backups_rotate: DEFAULT_BACKUPS,
            datastore_namespace: DEFAULT_NAMESPACE.to_owned(),
            heartbeat_timeout: config.heartbeat_timeout,
            election_timeout: config.election_timeout,
            commit_timeout: Duration::from_millis(50),
            max_append_entries: DEFAULT_ENTRIES,
            trailing_logs: DEFAULT_TRAILING,
            snapshot_interval: Duration::from_secs(120),
            snapshot_threshold: DEFAULT_THRESHOLD,
            leader_lease_timeout: Duration::from_millis(500),
            storage: StorageEngine::default(),
            folder: String::new(),
        }
    }
}

/// As in the reference, no time is as good as none.
fn or<'de, D: Deserializer<'de>, const MILLIS: u64>(deserializer: D) -> Result<Duration, D::Error> {
    let time = duration::deserialize(deserializer)?;
    Ok(if time.is_zero() { Duration::from_millis(MILLIS) } else { time })
}

fn namespace_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(if text.is_empty() { DEFAULT_NAMESPACE.to_owned() } else { text })
}

fn is_default_namespace(namespace: &String) -> bool {
    namespace == DEFAULT_NAMESPACE
}

fn is_default_engine(engine: &StorageEngine) -> bool {
    *engine == StorageEngine::default()
}

impl RaftSection {
    /// The folder of the store, relative to the configuration folder.
    pub fn folder(&self) -> &str {
        if self.folder.is_empty() { self.storage.as_str() } else { &self.folder }
    }

    /// Keys that somebody has set, but that mean nothing here, and what there is instead.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let default = Self::default();
        [
            (
                self.commit_retries > default.commit_retries,
                "commit_retries",
                "a write is tried again for wait_for_leader_timeout, and applied once",
            ),
            (
                self.commit_timeout != default.commit_timeout,
                "commit_timeout",
                "what is agreed on is told at once",
            ),
            (
                self.snapshot_interval != default.snapshot_interval,
                "snapshot_interval",
                "a snapshot costs nothing; snapshot_threshold and trailing_logs bound the log",
            ),
            (
                self.leader_lease_timeout != default.leader_lease_timeout,
                "leader_lease_timeout",
                "a leader without a quorum takes no writes after twice election_timeout",
            ),
        ]
        .into_iter()
        .filter_map(|(is_set, key, instead)| is_set.then_some((key, instead)))
        .collect()
    }

    fn peers(&self) -> Result<BTreeSet<PeerId>> {
        let parse = |text: &String| {
            parse_peer(text).map_err(|error| error.context("error parsing raft.init_peerset"))
        };
        self.init_peerset.iter().map(parse).collect()
    }
}

impl ConfigSection for RaftSection {
    const PATH: &'static str = "consensus.raft";
    const ENV_PREFIX: &'static str = "CLUSTER_RAFT_";

    fn validate(&self) -> Result<()> {
        check(number::is_natural(self.commit_retries), "commit_retries is invalid")?;
        check(self.backups_rotate > 0, "backups_rotate should be larger than 0")?;
        // Nothing is the default, so this was less than nothing.
        check(self.trailing_logs > 0, "raft.trailing_logs is invalid: it must not be negative")?;
        // They mean nothing here, but the reference would not start with the same file.
        for (name, time, min) in [
            ("commit_timeout", self.commit_timeout, 1),
            ("snapshot_interval", self.snapshot_interval, 5),
            ("leader_lease_timeout", self.leader_lease_timeout, 5),
        ] {
            if time < Duration::from_millis(min) {
                check(false, &format!("{name} is too low: give it at least {min}ms"))?;
            }
        }
        RaftConfig::try_from(self)?.validate()
    }
}

/// What the section says beside engine and folder, which are the business of whoever opens the storage.
///
/// # Errors
/// `InvalidInput` for a text among the first members that is no peer.
impl TryFrom<&RaftSection> for RaftConfig {
    type Error = Error;

    fn try_from(section: &RaftSection) -> Result<Self> {
        let long = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(Self {
            init_peerset: section.peers()?,
            wait_for_leader_timeout: section.wait_for_leader_timeout,
            network_timeout: section.network_timeout,
            commit_retry_delay: section.commit_retry_delay,
            heartbeat_timeout: section.heartbeat_timeout,
            election_timeout: section.election_timeout,
            max_append_entries: long(section.max_append_entries),
            trailing_logs: long(section.trailing_logs),
            snapshot_threshold: long(section.snapshot_threshold),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::testing::{assert_default_reads_back, changed, refusal, section, with};

    #[test]
    fn the_section_reads_and_writes_as_the_references() {
        let written = json!({
            "init_peerset": [],
            "wait_for_leader_timeout": "15s",
            "network_timeout": "10s",
            "commit_retries": 1,
            "commit_retry_delay": "200ms",
            "backups_rotate": 6,
            "heartbeat_timeout": "1s",
            "election_timeout": "1s",
            "commit_timeout": "50ms",
            "max_append_entries": 64,
            "trailing_logs": 10240,
            "snapshot_interval": "2m0s",
            "snapshot_threshold": 8192,
            "leader_lease_timeout": "500ms",
        });
        assert_eq!(serde_json::to_value(RaftSection::default()).unwrap(), written);
        assert_eq!(section::<RaftSection>(written), RaftSection::default());
        assert_default_reads_back::<RaftSection>();
        let own = RaftSection { storage: StorageEngine::Redb, folder: "x".into(), ..Default::default() };
        assert_eq!(section::<RaftSection>(serde_json::to_value(&own).unwrap()), own);
        assert_eq!((RaftSection::default().folder(), own.folder()), ("fjall", "x"));
    }

    #[test]
    fn what_is_missing_or_nothing_is_the_default_but_for_retries() {
        let expected = RaftSection { commit_retries: 0, ..Default::default() };
        assert_eq!(section::<RaftSection>(json!({})), expected);
        let nothing = json!({"network_timeout": "0s", "trailing_logs": 0, "heartbeat_timeout": "0s", "backups_rotate": 0});
        assert_eq!(section::<RaftSection>(nothing), expected);
        assert_eq!(RaftConfig::try_from(&RaftSection::default()).unwrap(), RaftConfig::default());
    }

    #[test]
    fn times_are_mapped_and_what_cannot_work_is_refused_by_name() {
        let read: RaftSection = with(
            json!({"heartbeat_timeout": "400ms", "election_timeout": "2s"}),
            &[("CLUSTER_RAFT_NETWORKTIMEOUT", "3s")],
        )
        .unwrap()
        .section;
        let config = RaftConfig::try_from(&read).unwrap();
        assert_eq!(config.heartbeat_interval(), Duration::from_millis(100));
        assert_eq!(config.lease(), Duration::from_secs(1));
        assert_eq!(config.network_timeout, Duration::from_secs(3));
        for (pointer, value, words) in [
            ("/init_peerset", json!(["x"]), "raft.init_peerset"),
            ("/commit_retries", json!(-1), "commit_retries is invalid"),
            ("/backups_rotate", json!(-1), "backups_rotate should be larger than 0"),
            ("/heartbeat_timeout", json!("1ms"), "raft.heartbeat_timeout"),
            ("/election_timeout", json!("500ms"), "raft.election_timeout"),
            ("/commit_timeout", json!("10us"), "commit_timeout is too low"),
            ("/snapshot_interval", json!("1ms"), "snapshot_interval is too low"),
            ("/leader_lease_timeout", json!("1ms"), "leader_lease_timeout is too low"),
            ("/max_append_entries", json!(-1), "raft.max_append_entries"),
            ("/snapshot_threshold", json!(-1), "raft.snapshot_threshold"),
            ("/trailing_logs", json!(-1), "raft.trailing_logs is invalid"),
            ("/election_timeout", json!("100h"), "raft.election_timeout is too long"),
            ("/network_timeout", json!("-5s"), "it is negative"),
        ] {
            let text = refusal::<RaftSection>(changed::<RaftSection>(pointer, value));
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn keys_that_are_set_and_mean_nothing_are_named() {
        assert_eq!(RaftSection::default().without_effect(), []);
        assert_eq!(section::<RaftSection>(json!({})).without_effect(), []);
        let set = json!({
            "commit_retries": 5, "commit_timeout": "1s", "snapshot_interval": "1m", "leader_lease_timeout": "1s",
            "trailing_logs": 5,
        });
        let keys: Vec<_> =
            section::<RaftSection>(set).without_effect().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["commit_retries", "commit_timeout", "snapshot_interval", "leader_lease_timeout"]);
    }
}
