//! The section `consensus.etcd` of `service.json`, and what the component makes of it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::COMPONENT;
use super::plan::Limits;
use crate::config::{ConfigSection, Hidden, Secret, StorageEngine, check, duration, number};
use crate::error::{Error, Result};

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";
const DEFAULT_PREFIX: &str = "/ipfs-cluster";
const DEFAULT_CLUSTER_NAME: &str = "ipfs-cluster";
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(30);
/// What etcd takes unless told otherwise (`--max-txn-ops`).
const DEFAULT_TXN_OPERATIONS: usize = 128;
/// What etcd takes unless told otherwise (`--max-request-bytes`).
const DEFAULT_REQUEST_BYTES: usize = 1_572_864;

/// Most endpoints of one etcd.
const ENDPOINTS_MAX: usize = 64;
/// Longest prefix with the cluster's name, in bytes.
const PREFIX_BYTES_MAX: usize = 1024;
/// Fewest operations that a transaction must take: those that go with every one, and some of ours.
const TXN_OPERATIONS_MIN: usize = 32;
const REQUEST_BYTES_MIN: usize = 64 << 10;
/// A value of more is refused by the store of a peer.
const REQUEST_BYTES_MAX: usize = 12 << 20;
/// What of a request is not ours, in bytes.
const REQUEST_OVERHEAD_BYTES: usize = 16 << 10;
/// Etcd does not keep shorter leases.
const LEASE_TTL_MIN: Duration = Duration::from_secs(2);
const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest file with a password, certificate or key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `consensus.etcd`: the pinset is in an etcd that runs already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EtcdSection {
    /// Where etcd's members answer clients: `http://host:2379` or `https://…`. One that does not answer is passed over.
    pub endpoints: Vec<String>,
    /// What the keys of all clusters in this etcd begin with.
    pub prefix: String,
    /// What tells this cluster from others below the prefix.
    pub cluster_name: String,
    /// Who asks, where etcd wants to know; empty = nobody in particular.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The user's password. One in a file of its own is not shown with the configuration.
    #[serde(skip_serializing_if = "is_no_password")]
    pub password: Hidden<String>,
    /// The file that the password is in instead, relative to the configuration folder.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password_file: String,
    /// Certificates for `https` endpoints.
    pub tls: EtcdTlsSection,
    /// How long an operation may take until etcd has it and this peer shows it.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// How long a peer that does not answer stays a member: whole seconds.
    #[serde(with = "duration")]
    pub lease_ttl: Duration,
    /// What etcd's `--max-txn-ops` says.
    #[serde(skip_serializing_if = "is_default_txn_operations", deserialize_with = "number::positive")]
    pub max_txn_operations: usize,
    /// What etcd's `--max-request-bytes` says.
    #[serde(skip_serializing_if = "is_default_request_bytes", deserialize_with = "number::positive")]
    pub max_request_bytes: usize,
    /// The engine of the peer's own copy.
    #[serde(skip_serializing_if = "is_default_engine")]
    pub storage: StorageEngine,
    /// Its folder, relative to the configuration folder; empty = the engine's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub folder: String,
}

/// `consensus.etcd.tls`: files in PEM, relative to the configuration folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EtcdTlsSection {
    /// Who vouches for etcd; empty = who the system believes.
    pub ca_file: String,
    /// Our own certificate, where etcd wants to see one; and its key.
    pub cert_file: String,
    /// The key of our certificate.
    pub key_file: String,
}

impl Default for EtcdSection {
    fn default() -> Self {
        Self {
            endpoints: vec![DEFAULT_ENDPOINT.to_owned()],
            prefix: DEFAULT_PREFIX.to_owned(),
            cluster_name: DEFAULT_CLUSTER_NAME.to_owned(),
            username: String::new(),
            password: Hidden(String::new()),
            password_file: String::new(),
            tls: EtcdTlsSection::default(),
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            lease_ttl: DEFAULT_LEASE_TTL,
            max_txn_operations: DEFAULT_TXN_OPERATIONS,
            max_request_bytes: DEFAULT_REQUEST_BYTES,
            storage: StorageEngine::default(),
            folder: String::new(),
        }
    }
}

fn is_no_password(password: &Hidden<String>) -> bool {
    password.0.is_empty()
}

fn is_default_txn_operations(operations: &usize) -> bool {
    *operations == DEFAULT_TXN_OPERATIONS
}

fn is_default_request_bytes(bytes: &usize) -> bool {
    *bytes == DEFAULT_REQUEST_BYTES
}

fn is_default_engine(engine: &StorageEngine) -> bool {
    *engine == StorageEngine::default()
}

impl EtcdSection {
    /// The folder of the peer's own copy, relative to the configuration folder.
    pub fn folder(&self) -> &str {
        if self.folder.is_empty() { self.storage.as_str() } else { &self.folder }
    }

    /// What the section says, with the files that it names, relative to this folder. Engine and folder are the business
    /// of whoever opens the storage. Blocks the calling thread while it reads them.
    ///
    /// # Errors
    /// `InvalidInput` for the section, and for a file that is too long or no text; `Io` for one that cannot be read.
    pub fn config(&self, folder: &Path) -> Result<EtcdConfig> {
        self.validate()?;
        let file = |name: &str| (!name.is_empty()).then(|| read(&folder.join(name))).transpose();
        let password = match file(&self.password_file)? {
            // Editors and echo put an end of line there, which is part of no password.
            Some(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
            None => self.password.0.clone(),
        };
        let tls = EtcdTls {
            authorities: file(&self.tls.ca_file)?.unwrap_or_default(),
            certificate: file(&self.tls.cert_file)?.unwrap_or_default(),
            key: Hidden(file(&self.tls.key_file)?.unwrap_or_default()),
        };
        let config = EtcdConfig {
            endpoints: self.endpoints.clone(),
            prefix: format!("{}/{}", self.prefix.trim_end_matches('/'), self.cluster_name),
            username: self.username.clone(),
            password: Hidden(password),
            tls,
            request_timeout: self.request_timeout,
            lease_ttl: self.lease_ttl,
            max_txn_operations: self.max_txn_operations,
            max_request_bytes: self.max_request_bytes,
            ..EtcdConfig::default()
        };
        config.validate()?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let length = read.map_err(|source| Error::io(format!("reading {}", path.display()), source))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(Error::invalid_input(format!(
            "{} is longer than {FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(text)
}

impl ConfigSection for EtcdSection {
    const PATH: &'static str = "consensus.etcd";
    const ENV_PREFIX: &'static str = "CLUSTER_ETCD_";

    fn validate(&self) -> Result<()> {
        check_endpoints(&self.endpoints)?;
        check(self.prefix.starts_with('/'), "etcd.prefix has to begin with a slash")?;
        check(!self.cluster_name.is_empty(), "etcd.cluster_name cannot be empty")?;
        check(!self.cluster_name.contains('/'), "etcd.cluster_name cannot have a slash in it")?;
        check(
            self.prefix.len() + self.cluster_name.len() < PREFIX_BYTES_MAX,
            "etcd.prefix and etcd.cluster_name are too long",
        )?;
        check(
            self.password.0.is_empty() || self.password_file.is_empty(),
            "etcd.password and etcd.password_file cannot both be given",
        )?;
        let has_password = !self.password.0.is_empty() || !self.password_file.is_empty();
        check(!has_password || !self.username.is_empty(), "etcd.password needs an etcd.username")?;
        check(
            self.tls.cert_file.is_empty() == self.tls.key_file.is_empty(),
            "etcd.tls.cert_file and etcd.tls.key_file belong together",
        )?;
        check_numbers(self.request_timeout, self.lease_ttl, self.max_txn_operations, self.max_request_bytes)
    }
}

fn check_endpoints(endpoints: &[String]) -> Result<()> {
    check(!endpoints.is_empty(), "etcd.endpoints names none")?;
    check(endpoints.len() <= ENDPOINTS_MAX, "etcd.endpoints names too many")?;
    for endpoint in endpoints {
        let url = reqwest::Url::parse(endpoint).ok();
        let is_usable = url.is_some_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
                // It would be shown in errors and logs.
                && url.username().is_empty()
                && url.password().is_none()
        });
        if !is_usable {
            return Err(Error::invalid_input(
                "etcd.endpoints has one that is not of the form http://host:port or https://host:port (a user is given in \
                 etcd.username)",
            ));
        }
    }
    Ok(())
}

fn check_numbers(timeout: Duration, ttl: Duration, operations: usize, bytes: usize) -> Result<()> {
    check(!timeout.is_zero(), "etcd.request_timeout is invalid")?;
    check((LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl), "etcd.lease_ttl has to be between 2s and 24h")?;
    check(
        (TXN_OPERATIONS_MIN..=100_000).contains(&operations),
        "etcd.max_txn_operations has to be 32 or more",
    )?;
    check(
        (REQUEST_BYTES_MIN..=REQUEST_BYTES_MAX).contains(&bytes),
        "etcd.max_request_bytes has to be between 64 KiB and 12 MiB",
    )
}

/// How an [`Etcd`](super::Etcd) works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// Where etcd's members answer clients: `http://host:2379` or `https://…`. One that does not answer is passed over.
    pub endpoints: Vec<String>,
    /// What the keys of this cluster begin with, up to a slash that need not be given.
    pub prefix: String,
    /// Who asks; empty = nobody in particular.
    pub username: String,
    /// The user's password.
    pub password: Hidden<String>,
    /// Certificates for `https` endpoints.
    pub tls: EtcdTls,
    /// How long an operation may take until etcd has it and this peer shows it.
    pub request_timeout: Duration,
    /// How long a peer that does not answer stays a member: whole seconds.
    pub lease_ttl: Duration,
    /// What etcd's `--max-txn-ops` says.
    pub max_txn_operations: usize,
    /// What etcd's `--max-request-bytes` says.
    pub max_request_bytes: usize,
    /// The secret of the cluster, where it has one. Etcd gets a hash of it, and a peer with another one is refused: it is of
    /// another cluster that was given the same prefix.
    pub secret: Secret,
    /// Whether a peer that was removed waits to be added. Without it [`Consensus::ready`](crate::consensus::Consensus::ready)
    /// says at once that it was removed.
    pub join: bool,
    /// Whether etcd says where this peer can be reached, and this peer connects to those that it finds there.
    pub find_peers: bool,
    /// Events kept for a reader that is slow; one that is slower is told to compare.
    pub max_buffered_events: usize,
}

/// Certificates in PEM; empty = none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who vouches for etcd; none = who the system believes.
    pub authorities: String,
    /// Our own certificate, with those between it and an authority.
    pub certificate: String,
    /// The key of our certificate.
    pub key: Hidden<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![DEFAULT_ENDPOINT.to_owned()],
            prefix: format!("{DEFAULT_PREFIX}/{DEFAULT_CLUSTER_NAME}"),
            username: String::new(),
            password: Hidden(String::new()),
            tls: EtcdTls::default(),
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            lease_ttl: DEFAULT_LEASE_TTL,
            max_txn_operations: DEFAULT_TXN_OPERATIONS,
            max_request_bytes: DEFAULT_REQUEST_BYTES,
            secret: Secret::NONE,
            join: false,
            find_peers: true,
            max_buffered_events: 16 * 1024,
        }
    }
}

impl EtcdConfig {
    /// Checks values that cannot work.
    ///
    /// # Errors
    /// `InvalidInput` naming the field.
    pub fn validate(&self) -> Result<()> {
        let checked = check_endpoints(&self.endpoints)
            .and_then(|()| check(self.prefix.starts_with('/'), "etcd.prefix has to begin with a slash"))
            .and_then(|()| check(self.prefix.len() <= PREFIX_BYTES_MAX, "etcd.prefix is too long"))
            .and_then(|()| {
                check(
                    self.tls.certificate.is_empty() == self.tls.key.0.is_empty(),
                    "etcd.tls.certificate and etcd.tls.key belong together",
                )
            })
            .and_then(|()| {
                check_numbers(
                    self.request_timeout,
                    self.lease_ttl,
                    self.max_txn_operations,
                    self.max_request_bytes,
                )
            })
            .and_then(|()| {
                check(
                    (1..=1 << 20).contains(&self.max_buffered_events),
                    "etcd.max_buffered_events is invalid",
                )
            });
        checked.map_err(|error| error.component(COMPONENT))
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            operations: self.max_txn_operations,
            bytes: self.max_request_bytes.saturating_sub(REQUEST_OVERHEAD_BYTES),
        }
    }

    /// Longest line of a stream: a piece of an answer is as large as a request may be and half a MiB, and its JSON up to
    /// four times that.
    pub(super) fn line_bytes_max(&self) -> usize {
        4 * (self.max_request_bytes + (512 << 10))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::testing::{assert_default_reads_back, changed, refusal, section, with};

    #[test]
    fn configuration_reads_back_as_it_was_written() {
        let written = json!({
            "endpoints": ["http://127.0.0.1:2379"],
            "prefix": "/ipfs-cluster",
            "cluster_name": "ipfs-cluster",
            "tls": {"ca_file": "", "cert_file": "", "key_file": ""},
            "request_timeout": "10s",
            "lease_ttl": "30s",
        });
        assert_eq!(serde_json::to_value(EtcdSection::default()).unwrap(), written);
        assert_default_reads_back::<EtcdSection>();
        assert_eq!(EtcdSection::default().config(Path::new("/")).unwrap(), EtcdConfig::default());
    }

    #[test]
    fn variables_lie_over_the_file() {
        let variables = [
            ("CLUSTER_ETCD_ENDPOINTS", "https://a:1,https://b:2"),
            ("CLUSTER_ETCD_USERNAME", "me"),
            ("CLUSTER_ETCD_PASSWORD", "secret"),
            ("CLUSTER_ETCD_TLS_CAFILE", "ca.pem"),
            ("CLUSTER_ETCD_LEASETTL", "5s"),
        ];
        let read: EtcdSection = with(json!({}), &variables).unwrap().section;
        assert_eq!(read.endpoints, ["https://a:1", "https://b:2"]);
        assert_eq!((read.username.as_str(), read.tls.ca_file.as_str()), ("me", "ca.pem"));
        assert_eq!(read.lease_ttl, Duration::from_secs(5));
        assert!(!format!("{read:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (key, value, words) in [
            ("endpoints", json!(["127.0.0.1:2379"]), "etcd.endpoints"),
            ("endpoints", json!(["http://me:secret@a:1"]), "etcd.endpoints"),
            ("endpoints", json!(["http://a:1/path"]), "etcd.endpoints"),
            ("prefix", json!("x"), "etcd.prefix"),
            ("cluster_name", json!("a/b"), "etcd.cluster_name"),
            ("request_timeout", json!("0s"), "etcd.request_timeout"),
            ("lease_ttl", json!("1s"), "etcd.lease_ttl"),
            ("max_txn_operations", json!(3), "etcd.max_txn_operations"),
            ("max_request_bytes", json!(3), "etcd.max_request_bytes"),
            ("password", json!("secret"), "etcd.username"),
            ("tls", json!({"cert_file": "x"}), "etcd.tls.key_file"),
        ] {
            let mut file: Value = changed::<EtcdSection>("/prefix", json!("/a"));
            file[key] = value;
            let text = refusal::<EtcdSection>(file);
            assert!(text.contains(words) && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn files_are_read_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "secret\n").unwrap();
        std::fs::write(folder.path().join("ca.pem"), "authorities").unwrap();
        let read = section::<EtcdSection>(json!({
            "prefix": "/a/",
            "cluster_name": "b",
            "username": "me",
            "password_file": "password",
            "tls": {"ca_file": "ca.pem"},
        }));
        let config = read.config(folder.path()).unwrap();
        assert_eq!((config.prefix.as_str(), config.password.0.as_str()), ("/a/b", "secret"));
        assert_eq!(config.tls.authorities, "authorities");
        let error = read.config(Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/password"), "{error}");
    }
}
