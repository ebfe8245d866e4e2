//! The section `consensus.crdt` of `service.json`, and what the component makes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::batching::Policy;
use super::trust::TRUSTED_PEERS_MAX;
use crate::config::{ConfigSection, StorageEngine, check, duration, number};
use crate::error::{Error, Result};
use crate::types::{PeerId, parse_peer};

/// Go's word for everybody, in `trusted_peers`.
const EVERYBODY: &str = "*";
const DEFAULT_QUEUE_SIZE: usize = 50_000;
const DEFAULT_REBROADCAST: Duration = Duration::from_secs(60);
const DEFAULT_CLUSTER_NAME: &str = "ipfs-cluster";
const DEFAULT_METRIC: &str = "ping";
const DEFAULT_NAMESPACE: &str = "/c";
/// Longest name of a cluster, in bytes.
const CLUSTER_NAME_BYTES_MAX: usize = 64 * 1024;

/// `consensus.crdt`: many peers, none of them special.
///
/// As in the reference, a section without `trusted_peers` trusts nobody but the peer itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CrdtSection {
    /// What tells this cluster from others.
    #[serde(deserialize_with = "name_or_default")]
    pub cluster_name: String,
    /// Peers whose changes are taken, as text; `*` among them is everybody.
    #[serde(default)]
    pub trusted_peers: Vec<String>,
    /// When changes are put together.
    pub batching: BatchingConfig,
    /// How often missing parts of the DAG are looked for, where some are known to miss; 0 = at the start only.
    #[serde(with = "duration")]
    pub repair_interval: Duration,
    /// How often heads are told again that nobody mentioned.
    #[serde(with = "duration", skip_serializing_if = "is_default_rebroadcast")]
    pub rebroadcast_interval: Duration,
    /// Peers with a valid metric of this name are the members.
    #[serde(skip_serializing_if = "is_default_metric", deserialize_with = "metric_or_default")]
    pub peerset_metric: String,
    /// A prefix that the reference's keys have on disk. Kept for it; ours have none.
    #[serde(skip_serializing_if = "is_default_namespace", deserialize_with = "namespace_or_default")]
    pub datastore_namespace: String,
    /// The engine of our store.
    #[serde(skip_serializing_if = "is_default_engine")]
    pub storage: StorageEngine,
    /// Its folder, relative to the configuration folder; empty = the engine's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub folder: String,
}

/// `consensus.crdt.batching`: off unless size and age are both given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchingConfig {
    /// Operations after which a delta is cut.
    #[serde(deserialize_with = "number::positive")]
    pub max_batch_size: usize,
    /// How long an operation waits for others, at most.
    #[serde(with = "duration")]
    pub max_batch_age: Duration,
    /// Calls that wait; more wait in their callers. Nobody is refused.
    #[serde(
        skip_serializing_if = "is_default_queue_size",
        deserialize_with = "number::zero_is::<_, DEFAULT_QUEUE_SIZE>"
    )]
    pub max_queue_size: usize,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        Self { max_batch_size: 0, max_batch_age: Duration::ZERO, max_queue_size: DEFAULT_QUEUE_SIZE }
    }
}

impl Default for CrdtSection {
    fn default() -> Self {
        Self {
            cluster_name: DEFAULT_CLUSTER_NAME.to_owned(),
            trusted_peers: vec![EVERYBODY.to_owned()],
            batching: BatchingConfig::default(),
            repair_interval: Duration::from_secs(3600),
            rebroadcast_interval: DEFAULT_REBROADCAST,
            peerset_metric: DEFAULT_METRIC.to_owned(),
            datastore_namespace: DEFAULT_NAMESPACE.to_owned(),
            storage: StorageEngine::default(),
            folder: String::new(),
        }
    }
}

// As in the reference, an empty text is as good as none.
fn text_or<'de, D: serde::Deserializer<'de>>(deserializer: D, default: &str) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(if text.is_empty() { default.to_owned() } else { text })
}

fn name_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text_or(deserializer, DEFAULT_CLUSTER_NAME)
}

fn metric_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text_or(deserializer, DEFAULT_METRIC)
}

fn namespace_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text_or(deserializer, DEFAULT_NAMESPACE)
}

fn is_default_rebroadcast(interval: &Duration) -> bool {
    *interval == DEFAULT_REBROADCAST
}

fn is_default_metric(name: &String) -> bool {
    name == DEFAULT_METRIC
}

fn is_default_namespace(namespace: &String) -> bool {
    namespace == DEFAULT_NAMESPACE
}

fn is_default_engine(engine: &StorageEngine) -> bool {
    *engine == StorageEngine::default()
}

fn is_default_queue_size(size: &usize) -> bool {
    *size == DEFAULT_QUEUE_SIZE
}

impl CrdtSection {
    /// The folder of the store, relative to the configuration folder.
    pub fn folder(&self) -> &str {
        if self.folder.is_empty() { self.storage.as_str() } else { &self.folder }
    }
}

impl ConfigSection for CrdtSection {
    const PATH: &'static str = "consensus.crdt";
    const ENV_PREFIX: &'static str = "CLUSTER_CRDT_";

    fn validate(&self) -> Result<()> {
        let name = self.cluster_name.len();
        check(name > 0, "crdt.cluster_name cannot be empty")?;
        check(name <= CLUSTER_NAME_BYTES_MAX, "crdt.cluster_name is too long")?;
        check(!self.peerset_metric.is_empty(), "crdt.peerset_metric needs a name")?;
        check(!self.rebroadcast_interval.is_zero(), "crdt.rebroadcast_interval is invalid")?;
        check(self.batching.max_queue_size > 0, "crdt.batching.max_queue_size is invalid")?;
        trusted(&self.trusted_peers).map(drop)
    }
}

/// Whether everybody is trusted, and who else by name.
fn trusted(texts: &[String]) -> Result<(bool, BTreeSet<PeerId>)> {
    if texts.len() > TRUSTED_PEERS_MAX {
        return Err(Error::invalid_input(format!(
            "crdt.trusted_peers names {} peers, but at most {TRUSTED_PEERS_MAX} can be named",
            texts.len()
        )));
    }
    // As in the reference, what comes before is still looked at.
    let mut peers = BTreeSet::new();
    for text in texts {
        if text == EVERYBODY {
            return Ok((true, BTreeSet::new()));
        }
        peers.insert(parse_peer(text).map_err(|error| error.context("error parsing trusted peers"))?);
    }
    Ok((false, peers))
}

/// How a [`Crdt`](super::Crdt) works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrdtConfig {
    /// What tells this cluster from others.
    pub cluster_name: String,
    /// Whether everybody's changes are taken.
    pub trust_all: bool,
    /// Peers whose changes are taken in any case. This peer need not be among them.
    pub trusted_peers: BTreeSet<PeerId>,
    /// When changes are put together.
    pub batching: BatchingConfig,
    /// How often missing parts of the DAG are looked for, where some are known to miss; 0 = at the start only.
    pub repair_interval: Duration,
    /// How often heads are told again that nobody mentioned, give or take 30 %.
    pub rebroadcast_interval: Duration,
    /// Events kept for a reader that is slow; one that is slower is told to compare.
    pub max_buffered_events: usize,
}

impl Default for CrdtConfig {
    fn default() -> Self {
        Self {
            cluster_name: DEFAULT_CLUSTER_NAME.to_owned(),
            trust_all: true,
            trusted_peers: BTreeSet::new(),
            batching: BatchingConfig::default(),
            repair_interval: Duration::from_secs(3600),
            rebroadcast_interval: DEFAULT_REBROADCAST,
            max_buffered_events: 16 * 1024,
        }
    }
}

/// What the section says beside engine and folder, which are the business of whoever opens the storage, and the metric,
/// which is that of whoever says who lives.
///
/// # Errors
/// `InvalidInput` for a text among the trusted peers that is no peer.
impl TryFrom<&CrdtSection> for CrdtConfig {
    type Error = Error;

    fn try_from(section: &CrdtSection) -> Result<Self> {
        let (trust_all, trusted_peers) = trusted(&section.trusted_peers)?;
        Ok(Self {
            cluster_name: section.cluster_name.clone(),
            trust_all,
            trusted_peers,
            batching: section.batching,
            repair_interval: section.repair_interval,
            rebroadcast_interval: section.rebroadcast_interval,
            ..Self::default()
        })
    }
}

impl CrdtConfig {
    /// Checks values that cannot work.
    ///
    /// # Errors
    /// `InvalidInput` naming the field.
    pub fn validate(&self) -> Result<()> {
        for (name, value, max) in [
            ("cluster_name", self.cluster_name.len(), CLUSTER_NAME_BYTES_MAX),
            ("batching.max_queue_size", self.batching.max_queue_size, usize::MAX),
            ("max_buffered_events", self.max_buffered_events, 1 << 20),
        ] {
            if !(1..=max).contains(&value) {
                return Err(Error::invalid_input(format!(
                    "crdt.{name} has {value}, but must have between 1 and {max}"
                ))
                .component(super::COMPONENT));
            }
        }
        if self.rebroadcast_interval.is_zero() {
            return Err(
                Error::invalid_input("crdt.rebroadcast_interval is invalid").component(super::COMPONENT)
            );
        }
        if self.trusted_peers.len() > TRUSTED_PEERS_MAX {
            return Err(Error::invalid_input("crdt.trusted_peers names too many").component(super::COMPONENT));
        }
        Ok(())
    }

    pub(super) fn policy(&self) -> Policy {
        let BatchingConfig { max_batch_size, max_batch_age, .. } = self.batching;
        if max_batch_size > 0 && !max_batch_age.is_zero() {
            Policy::Batched { operations: max_batch_size, age: max_batch_age }
        } else {
            Policy::AtOnce
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::testing::{assert_default_reads_back, changed, refusal, section, with};

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        let written = json!({
            "cluster_name": "ipfs-cluster",
            "trusted_peers": ["*"],
            "batching": {"max_batch_size": 0, "max_batch_age": "0s"},
            "repair_interval": "1h0m0s",
        });
        assert_eq!(serde_json::to_value(CrdtSection::default()).unwrap(), written);
        assert_default_reads_back::<CrdtSection>();
        let own = CrdtSection { storage: StorageEngine::Redb, folder: "x".into(), ..Default::default() };
        let text = serde_json::to_value(&own).unwrap();
        assert_eq!(section::<CrdtSection>(text), own);
        assert_eq!((CrdtSection::default().folder(), own.folder()), ("fjall", "x"));
    }

    #[test]
    fn a_section_that_names_nobody_trusts_nobody() {
        let read = section::<CrdtSection>(json!({}));
        assert_eq!(read.trusted_peers, [""; 0]);
        let config = CrdtConfig::try_from(&read).unwrap();
        assert!(!config.trust_all && config.trusted_peers.is_empty());
        assert!(CrdtConfig::try_from(&CrdtSection::default()).unwrap().trust_all);
    }

    #[test]
    fn everybody_is_a_star_anywhere_in_the_list() {
        let peer = crate::testing::peer(2);
        let config = |list: Value| {
            CrdtConfig::try_from(&section::<CrdtSection>(json!({"trusted_peers": list}))).unwrap()
        };
        let named = config(json!([peer.to_string()]));
        assert!(!named.trust_all && named.trusted_peers.contains(&peer));
        let all = config(json!([peer.to_string(), "*", "x"]));
        assert!(all.trust_all && all.trusted_peers.is_empty());
    }

    #[test]
    fn what_cannot_work_is_refused_in_the_references_words() {
        for (pointer, value, words) in [
            ("/trusted_peers", json!(["x", "*"]), "error parsing trusted peers"),
            ("/rebroadcast_interval", json!("0s"), "crdt.rebroadcast_interval is invalid"),
            ("/batching/max_queue_size", json!(-1), "crdt.batching.max_queue_size is invalid"),
        ] {
            let mut file = changed::<CrdtSection>("/cluster_name", json!("a"));
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            file.pointer_mut(parent).unwrap()[key] = value;
            let text = refusal::<CrdtSection>(file);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn variables_lie_over_the_file() {
        let variables = [
            ("CLUSTER_CRDT_CLUSTERNAME", "mine"),
            ("CLUSTER_CRDT_TRUSTEDPEERS", "*"),
            ("CLUSTER_CRDT_BATCHING_MAXBATCHSIZE", "500"),
            ("CLUSTER_CRDT_BATCHING_MAXBATCHAGE", "1s"),
        ];
        let read: CrdtSection = with(json!({}), &variables).unwrap().section;
        assert_eq!(read.cluster_name, "mine");
        assert_eq!(read.trusted_peers, ["*"]);
        let config = CrdtConfig::try_from(&read).unwrap();
        assert_eq!(config.policy(), Policy::Batched { operations: 500, age: Duration::from_secs(1) });
    }

    #[test]
    fn batching_needs_a_size_and_an_age() {
        for (size, age, is_on) in [(0, 0, false), (1, 0, false), (0, 1, false), (1, 1, true)] {
            let mut config = CrdtConfig::default();
            config.batching.max_batch_size = size;
            config.batching.max_batch_age = Duration::from_secs(age);
            assert_eq!(config.policy() != Policy::AtOnce, is_on);
        }
    }
}
