//! The other sections of `service.json`. Here is their file form alone: the programs map it to the
//! configuration that each component takes.
//!
//! Whole numbers are `i64` where the reference refuses negative ones with a text of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::secret::Hidden;
use super::strings::{Addresses, address};
use super::{ConfigSection, check, duration};
use crate::error::Result;
use crate::types::Multiaddr;

/// Sections that this version reads. Others are kept in the file, and named once.
pub const SERVED_SECTIONS: &[&str] = &[
    "cluster",
    SoloSection::PATH,
    RestApiSection::PATH,
    IpfsHttpSection::PATH,
    StatelessSection::PATH,
    PubsubMonSection::PATH,
    BalancedSection::PATH,
    DiskSection::PATH,
    PinQueueSection::PATH,
    TagsSection::PATH,
    NumPinSection::PATH,
];

/// Which engine keeps the pinset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageEngine {
    /// A log-structured store.
    #[default]
    Fjall,
    /// A copy-on-write tree in one file.
    Redb,
}

impl StorageEngine {
    /// Its name, in the file, as a flag, and of its folder.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Redb => "redb",
        }
    }
}

/// `consensus.solo`: a cluster of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SoloSection {
    /// The engine.
    pub storage: StorageEngine,
    /// Its folder, relative to the configuration folder; empty = the engine's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Most operations that share one sync to disk; positive once validated.
    pub max_batch_operations: i64,
}

impl Default for SoloSection {
    fn default() -> Self {
        Self { storage: StorageEngine::default(), folder: String::new(), max_batch_operations: 4096 }
    }
}

impl SoloSection {
    /// The folder, relative to the configuration folder.
    pub fn folder(&self) -> &str {
        if self.folder.is_empty() { self.storage.as_str() } else { &self.folder }
    }
}

impl ConfigSection for SoloSection {
    const PATH: &'static str = "consensus.solo";
    const ENV_PREFIX: &'static str = "CLUSTER_SOLO_";

    fn validate(&self) -> Result<()> {
        check(self.max_batch_operations > 0, "solo.max_batch_operations is invalid")
    }
}

/// Least and default bytes of a request's headers.
const HEADER_BYTES_MIN: i64 = 4096;

/// `api.restapi`. A missing CORS key means nothing allowed, not the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestApiSection {
    /// Where it listens; none takes the default.
    #[serde(deserialize_with = "none_is_default_listen")]
    pub http_listen_multiaddress: Addresses,
    /// Certificate for TLS, relative to the configuration folder.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssl_cert_file: String,
    /// Its key, relative to the configuration folder.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssl_key_file: String,
    /// For reading a whole request; 0 = no limit.
    #[serde(with = "duration")]
    pub read_timeout: Duration,
    /// For reading a request's headers; 0 = no limit.
    #[serde(with = "duration")]
    pub read_header_timeout: Duration,
    /// For writing a whole answer; 0 = no limit.
    #[serde(with = "duration")]
    pub write_timeout: Duration,
    /// For the next request on a connection; 0 = no limit.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// At least 4096 once validated; 0 takes the default.
    #[serde(deserialize_with = "zero_is::<_, HEADER_BYTES_MIN>")]
    pub max_header_bytes: i64,
    /// Where it listens for HTTP over libp2p; with `id` and `private_key`, or none of the three.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub libp2p_listen_multiaddress: Addresses,
    /// Its own peer id there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Its own key there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Hidden<String>>,
    /// Passwords by user; none = no authentication.
    pub basic_auth_credentials: Option<Hidden<BTreeMap<String, String>>>,
    /// Where requests are logged, relative to the configuration folder; empty = with everything else.
    pub http_log_file: String,
    /// Headers added to every answer.
    #[serde(default)]
    pub headers: BTreeMap<String, Vec<String>>,
    /// Origins that browsers may call from.
    #[serde(default)]
    pub cors_allowed_origins: Vec<String>,
    /// Methods that they may use.
    #[serde(default)]
    pub cors_allowed_methods: Vec<String>,
    /// Headers that they may send.
    #[serde(default)]
    pub cors_allowed_headers: Vec<String>,
    /// Headers that they may read.
    #[serde(default)]
    pub cors_exposed_headers: Vec<String>,
    /// Whether they may send credentials.
    #[serde(default)]
    pub cors_allow_credentials: bool,
    /// How long they may remember all that; 0 = not said.
    #[serde(with = "duration")]
    pub cors_max_age: Duration,
}

impl Default for RestApiSection {
    fn default() -> Self {
        let texts = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        Self {
            http_listen_multiaddress: default_listen(),
            ssl_cert_file: String::new(),
            ssl_key_file: String::new(),
            read_timeout: Duration::ZERO,
            read_header_timeout: Duration::from_secs(5),
            write_timeout: Duration::ZERO,
            idle_timeout: Duration::from_secs(120),
            max_header_bytes: HEADER_BYTES_MIN,
            libp2p_listen_multiaddress: Addresses::default(),
            id: String::new(),
            private_key: None,
            basic_auth_credentials: None,
            http_log_file: String::new(),
            headers: BTreeMap::new(),
            cors_allowed_origins: texts(&["*"]),
            cors_allowed_methods: texts(&["GET"]),
            cors_allowed_headers: Vec::new(),
            cors_exposed_headers: texts(&[
                "Content-Type",
                "X-Stream-Output",
                "X-Chunked-Output",
                "X-Content-Length",
            ]),
            cors_allow_credentials: true,
            cors_max_age: Duration::ZERO,
        }
    }
}

impl ConfigSection for RestApiSection {
    const PATH: &'static str = "api.restapi";
    const ENV_PREFIX: &'static str = "CLUSTER_RESTAPI_";

    fn validate(&self) -> Result<()> {
        check(
            self.max_header_bytes >= HEADER_BYTES_MIN,
            "restapi.max_header_bytes must be not less then 4096",
        )?;
        check(
            self.basic_auth_credentials.as_ref().is_none_or(|users| !users.0.is_empty()),
            "restapi.basic_auth_creds should be null or have at least one entry",
        )?;
        check(
            self.ssl_cert_file.is_empty() == self.ssl_key_file.is_empty(),
            "restapi: missing TLS configuration",
        )?;
        let libp2p =
            [self.id.is_empty(), self.private_key.is_none(), self.libp2p_listen_multiaddress.is_empty()];
        check(
            libp2p.iter().all(|missing| *missing) || libp2p.iter().all(|missing| !missing),
            "all ID, private_key and libp2p_listen_multiaddress should be set",
        )
    }
}

fn default_listen() -> Addresses {
    "/ip4/127.0.0.1/tcp/9094".parse().into_iter().collect()
}

fn none_is_default_listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Addresses, D::Error> {
    let addresses = Addresses::deserialize(deserializer)?;
    Ok(if addresses.is_empty() { default_listen() } else { addresses })
}

/// `ipfs_connector.ipfshttp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpfsHttpSection {
    /// Where the IPFS daemon's RPC API is; there once validated.
    #[serde(default, with = "optional_address")]
    pub node_multiaddress: Option<Multiaddr>,
    /// After the start, when the daemon is told to connect to the daemons of other peers; 0 = never.
    #[serde(with = "duration")]
    pub connect_swarms_delay: Duration,
    /// For ordinary requests.
    #[serde(with = "duration")]
    pub ipfs_request_timeout: Duration,
    /// For a pin, without progress.
    #[serde(with = "duration")]
    pub pin_timeout: Duration,
    /// For an unpin.
    #[serde(with = "duration")]
    pub unpin_timeout: Duration,
    /// For garbage collection.
    #[serde(with = "duration")]
    pub repogc_timeout: Duration,
    /// Pins after which the metrics are sent at once; 0 = never.
    #[serde(default)]
    pub informer_trigger_interval: i64,
    /// Whether nothing is ever unpinned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpin_disable: bool,
}

impl Default for IpfsHttpSection {
    fn default() -> Self {
        Self {
            node_multiaddress: "/ip4/127.0.0.1/tcp/5001".parse().ok(),
            connect_swarms_delay: Duration::from_secs(30),
            ipfs_request_timeout: Duration::from_secs(5 * 60),
            pin_timeout: Duration::from_secs(2 * 60),
            unpin_timeout: Duration::from_secs(3 * 60 * 60),
            repogc_timeout: Duration::from_secs(24 * 60 * 60),
            informer_trigger_interval: 0,
            unpin_disable: false,
        }
    }
}

impl ConfigSection for IpfsHttpSection {
    const PATH: &'static str = "ipfs_connector.ipfshttp";
    const ENV_PREFIX: &'static str = "CLUSTER_IPFSHTTP_";

    fn validate(&self) -> Result<()> {
        check(self.node_multiaddress.is_some(), "ipfshttp.node_multiaddress not set")?;
        check(self.informer_trigger_interval >= 0, "ipfshttp.informer_trigger_interval is invalid")
    }
}

const PIN_QUEUE_SIZE: i64 = 1_000_000;
const CONCURRENT_PINS: i64 = 10;
const PRIORITY_RETRIES: i64 = 5;

/// `pin_tracker.stateless`. A number that is 0 takes its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatelessSection {
    /// Most operations that wait; positive once validated.
    #[serde(deserialize_with = "zero_is::<_, PIN_QUEUE_SIZE>", skip_serializing_if = "is::<PIN_QUEUE_SIZE>")]
    pub max_pin_queue_size: i64,
    /// Pins that run at the same time; positive once validated.
    #[serde(deserialize_with = "zero_is::<_, CONCURRENT_PINS>")]
    pub concurrent_pins: i64,
    /// How long a pin counts as new.
    #[serde(with = "duration")]
    pub priority_pin_max_age: Duration,
    /// How often a new pin is tried first; positive once validated.
    #[serde(deserialize_with = "zero_is::<_, PRIORITY_RETRIES>")]
    pub priority_pin_max_retries: i64,
}

impl Default for StatelessSection {
    fn default() -> Self {
        Self {
            max_pin_queue_size: PIN_QUEUE_SIZE,
            concurrent_pins: CONCURRENT_PINS,
            priority_pin_max_age: Duration::from_secs(24 * 60 * 60),
            priority_pin_max_retries: PRIORITY_RETRIES,
        }
    }
}

impl ConfigSection for StatelessSection {
    const PATH: &'static str = "pin_tracker.stateless";
    const ENV_PREFIX: &'static str = "CLUSTER_STATELESS_";

    fn validate(&self) -> Result<()> {
        check(self.max_pin_queue_size > 0, "statelesstracker.max_pin_queue_size too low")?;
        check(self.concurrent_pins > 0, "statelesstracker.concurrent_pins is too low")?;
        check(!self.priority_pin_max_age.is_zero(), "statelesstracker.priority_pin_max_age is too low")?;
        check(self.priority_pin_max_retries > 0, "statelesstracker.priority_pin_max_retries is too low")
    }
}

/// `monitor.pubsubmon`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PubsubMonSection {
    /// How often metrics are checked for expiry.
    #[serde(with = "duration")]
    pub check_interval: Duration,
}

impl Default for PubsubMonSection {
    fn default() -> Self {
        Self { check_interval: Duration::from_secs(15) }
    }
}

impl ConfigSection for PubsubMonSection {
    const PATH: &'static str = "monitor.pubsubmon";
    const ENV_PREFIX: &'static str = "CLUSTER_PUBSUBMON_";

    fn validate(&self) -> Result<()> {
        check(!self.check_interval.is_zero(), "pubsubmon.check_interval too low")
    }
}

/// `allocator.balanced`. Without the section the peer allocates by free space alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalancedSection {
    /// Metrics, most important first; none takes the default.
    #[serde(deserialize_with = "none_is_default_allocation")]
    pub allocate_by: Vec<String>,
}

impl Default for BalancedSection {
    fn default() -> Self {
        Self { allocate_by: vec!["tag:group".to_owned(), "freespace".to_owned()] }
    }
}

impl ConfigSection for BalancedSection {
    const PATH: &'static str = "allocator.balanced";
    const ENV_PREFIX: &'static str = "CLUSTER_BALANCED_";

    fn validate(&self) -> Result<()> {
        check(!self.allocate_by.is_empty(), "metricalloc.allocate_by is invalid")
    }
}

fn none_is_default_allocation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let metrics = Vec::deserialize(deserializer)?;
    Ok(if metrics.is_empty() { BalancedSection::default().allocate_by } else { metrics })
}

/// What the disk informer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskMetric {
    /// Bytes left in the daemon's repository.
    #[serde(rename = "freespace")]
    FreeSpace,
    /// Bytes used by the daemon's repository.
    #[serde(rename = "reposize")]
    RepoSize,
}

/// `informer.disk`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskSection {
    /// How long a metric is valid.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
    /// Which metric.
    #[serde(deserialize_with = "disk_metric")]
    pub metric_type: DiskMetric,
}

impl Default for DiskSection {
    fn default() -> Self {
        Self { metric_ttl: METRIC_TTL, metric_type: DiskMetric::FreeSpace }
    }
}

impl ConfigSection for DiskSection {
    const PATH: &'static str = "informer.disk";
    const ENV_PREFIX: &'static str = "CLUSTER_DISK_";

    fn validate(&self) -> Result<()> {
        check(!self.metric_ttl.is_zero(), "disk.metric_ttl is invalid")
    }
}

fn disk_metric<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DiskMetric, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "freespace" => Ok(DiskMetric::FreeSpace),
        "reposize" => Ok(DiskMetric::RepoSize),
        _ => Err(serde::de::Error::custom(format!(
            "disk.metric_type is invalid: {text:?}, expected freespace or reposize"
        ))),
    }
}

/// `informer.pinqueue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PinQueueSection {
    /// How long a metric is valid.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
    /// Queue lengths that count as equal; missing = 0 = every length counts, not the default.
    #[serde(default)]
    pub weight_bucket_size: i64,
}

impl Default for PinQueueSection {
    fn default() -> Self {
        Self { metric_ttl: METRIC_TTL, weight_bucket_size: 100_000 }
    }
}

impl ConfigSection for PinQueueSection {
    const PATH: &'static str = "informer.pinqueue";
    const ENV_PREFIX: &'static str = "CLUSTER_PINQUEUE_";

    fn validate(&self) -> Result<()> {
        check(!self.metric_ttl.is_zero(), "pinqueue.metric_ttl is invalid")?;
        check(self.weight_bucket_size >= 0, "pinqueue.WeightBucketSize is invalid")
    }
}

/// `informer.tags`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TagsSection {
    /// How long a metric is valid.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
    /// Values by tag; missing = none, not the default.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Default for TagsSection {
    fn default() -> Self {
        Self { metric_ttl: METRIC_TTL, tags: BTreeMap::from([("group".to_owned(), "default".to_owned())]) }
    }
}

impl ConfigSection for TagsSection {
    const PATH: &'static str = "informer.tags";
    const ENV_PREFIX: &'static str = "CLUSTER_TAGS_";

    fn validate(&self) -> Result<()> {
        check(!self.metric_ttl.is_zero(), "tags.metric_ttl is invalid")
    }
}

/// `informer.numpin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NumPinSection {
    /// How long a metric is valid.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
}

impl Default for NumPinSection {
    fn default() -> Self {
        Self { metric_ttl: Duration::from_secs(10) }
    }
}

impl ConfigSection for NumPinSection {
    const PATH: &'static str = "informer.numpin";
    const ENV_PREFIX: &'static str = "CLUSTER_NUMPIN_";

    fn validate(&self) -> Result<()> {
        // The reference's text names the disk informer here.
        check(!self.metric_ttl.is_zero(), "disk.metric_ttl is invalid")
    }
}

const METRIC_TTL: Duration = Duration::from_secs(30);

/// Zero, as a missing key is in the reference, takes the default.
fn zero_is<'de, D: Deserializer<'de>, const DEFAULT: i64>(deserializer: D) -> Result<i64, D::Error> {
    let number = i64::deserialize(deserializer)?;
    Ok(if number == 0 { DEFAULT } else { number })
}

// Serde hands references to this.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is<const DEFAULT: i64>(number: &i64) -> bool {
    *number == DEFAULT
}

mod optional_address {
    use serde::{Deserializer, Serializer};

    use super::{Multiaddr, address};

    pub(super) fn serialize<S: Serializer>(value: &Option<Multiaddr>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => address::serialize(value, to),
            None => to.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Multiaddr>, D::Error> {
        address::deserialize(from).map(Some)
    }
}
