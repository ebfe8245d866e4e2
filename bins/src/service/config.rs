//! Everything that a peer's folder says, read and checked before anything starts.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipfs_cluster::allocator::BalancedConfig;
use ipfs_cluster::api::rest::{RestApiSection, Security, hash_password, is_password_hash};
use ipfs_cluster::config::{
    ClusterSection, ConfigSection, Environment, Identity, SERVED_SECTIONS, ServiceJson, SoloSection,
    StorageEngine, kept::kept_sections,
};
use ipfs_cluster::consensus::{CrdtSection, EtcdSection, RaftSection};
use ipfs_cluster::informer::{FreeSpaceConfig, NumPinsConfig, PinQueueConfig, TagsConfig};
use ipfs_cluster::ipfs_connector::KuboConfig;
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::tracker::StatelessConfig;
use ipfs_cluster::{Error, ErrorKind, Result};

use super::folder::Folder;
use super::reference_data::{self, ReferenceData};
use super::{Doing as _, Failure, source};

/// A peer's configuration: sections with `CLUSTER_*` variables laid over them. Those that are optional run only if
/// the file names them.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Where it came from, and what relative paths in it are relative to.
    pub folder: Folder,
    /// Who the peer is.
    pub identity: Identity,
    /// The peer itself.
    pub cluster: ClusterSection,
    /// How the peers agree.
    pub consensus: ConsensusSection,
    /// The REST API.
    pub restapi: Option<RestApiSection>,
    /// The IPFS daemon; it is given as many pins at a time as the tracker's section says.
    pub ipfshttp: KuboConfig,
    /// The tracker, with the `ipfs_sync_interval` of the peer.
    pub tracker: StatelessConfig,
    /// The monitor.
    pub monitor: MonitorConfig,
    /// The allocator.
    pub allocator: BalancedConfig,
    /// Free space or size of the repository.
    pub disk: Option<FreeSpaceConfig>,
    /// Length of the pin queue.
    pub pin_queue: Option<PinQueueConfig>,
    /// Tags.
    pub tags: Option<TagsConfig>,
    /// Number of pins.
    pub num_pin: Option<NumPinsConfig>,
    /// The pinset of a Go peer, if there is one in the folder.
    pub reference_data: Option<ReferenceData>,
}

/// The consensus component that the file names, with what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsensusSection {
    /// A cluster of one.
    Solo(SoloSection),
    /// Peers that agree by a Merkle-CRDT.
    Crdt(CrdtSection),
    /// Peers that agree on one order, with a leader.
    Raft(RaftSection),
    /// Peers that agree through an etcd that runs already.
    Etcd(EtcdSection),
}

impl ConsensusSection {
    /// The engine that keeps the pinset.
    pub fn storage(&self) -> StorageEngine {
        match self {
            Self::Solo(section) => section.storage,
            Self::Crdt(section) => section.storage,
            Self::Raft(section) => section.storage,
            Self::Etcd(section) => section.storage,
        }
    }

    /// The folder of the engine, relative to the configuration folder.
    pub fn folder(&self) -> &str {
        match self {
            Self::Solo(section) => section.folder(),
            Self::Crdt(section) => section.folder(),
            Self::Raft(section) => section.folder(),
            Self::Etcd(section) => section.folder(),
        }
    }
}

/// What the configuration says that its writer may not have meant. For the log, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Keys and sections that nobody has; their full paths.
    UnknownKeys(Vec<String>),
    /// A section of a component that this version does not have.
    UnservedSection {
        /// Its path.
        path: &'static str,
        /// What somebody would look for in vain.
        missing: String,
    },
    /// There is no cluster secret.
    NoSecret,
    /// The identity was taken from `service.json`, where versions before 0.11 kept it.
    IdentityMoved {
        /// From where.
        from: PathBuf,
        /// To where.
        to: PathBuf,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKeys(paths) => {
                let named = &paths[..paths.len().min(UNKNOWN_KEYS_NAMED_MAX)];
                write!(
                    f,
                    "unknown configuration keys are ignored, are they spelled right? {}",
                    named.join(", ")
                )?;
                match paths.len() - named.len() {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::UnservedSection { path, missing } => {
                write!(f, "configuration section {path} is kept but not served by this version: {missing}")
            }
            Self::NoSecret => {
                f.write_str("cluster.secret is empty: the peer starts on a network that anybody can join")
            }
            Self::IdentityMoved { from, to } => {
                write!(f, "NOTICE: the identity in {} was saved as {}", from.display(), to.display())
            }
        }
    }
}

const LOADING: &str = "loading configurations";

/// Most unknown keys that one line names.
const UNKNOWN_KEYS_NAMED_MAX: usize = 50;

/// Reads `service.json`, and what it points to if it is somewhere else.
///
/// # Errors
/// See [`ServiceJson::load`], [`source::fetch`] and [`ServiceJson::with_fetched`].
pub fn load_service_json(folder: &Folder) -> Result<ServiceJson> {
    let file = ServiceJson::load(&folder.service_json())?;
    match file.source() {
        None => Ok(file),
        Some(url) => file.with_fetched(&source::fetch(&url)?),
    }
}

impl PeerConfig {
    /// Reads and checks `service.json` and `identity.json`. Writes nothing but an identity that is found in
    /// `service.json`.
    ///
    /// # Errors
    /// With the reference's texts: `loading configurations` for a file that is missing or wrong, `creating state
    /// manager` for a consensus component that is missing or that this version does not have.
    pub fn load(folder: Folder, environment: Environment<'_>) -> Result<(Self, Vec<Warning>), Failure> {
        let file = load_service_json(&folder).doing(LOADING)?;
        Self::read(&file, folder, environment)
    }

    /// Checks a configuration that was read already, and reads `identity.json`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read(
        file: &ServiceJson,
        folder: Folder,
        environment: Environment<'_>,
    ) -> Result<(Self, Vec<Warning>), Failure> {
        const MANAGING: &str = "creating state manager";
        let mut warnings = Vec::new();
        let mut reader = Reader { file, environment, unknown_keys: Vec::new() };
        let cluster: ClusterSection = reader.section().doing(LOADING)?;
        let mut restapi: Option<RestApiSection> = reader.optional().doing(LOADING)?;
        if environment(CREDENTIALS_VARIABLE).is_some() {
            restapi.as_mut().map_or(Ok(()), hash_passwords).doing(LOADING)?;
        }
        let mut ipfshttp: KuboConfig = reader.section().doing(LOADING)?;
        let mut tracker: StatelessConfig = reader.section().doing(LOADING)?;
        let monitor = reader.section().doing(LOADING)?;
        // Without the section the reference allocates by free space alone, not by the section's default.
        let by_free_space = BalancedConfig { allocate_by: vec!["freespace".to_owned()] };
        let allocator = reader.optional().doing(LOADING)?.unwrap_or(by_free_space);
        let disk = reader.optional().doing(LOADING)?;
        let pin_queue = reader.optional().doing(LOADING)?;
        let tags = reader.optional().doing(LOADING)?;
        let num_pin = reader.optional().doing(LOADING)?;
        // What a component takes from the section of another.
        tracker.ipfs_sync_interval = cluster.ipfs_sync_interval;
        ipfshttp.concurrent_pins_max =
            NonZeroUsize::new(tracker.concurrent_pins).unwrap_or(NonZeroUsize::MIN);
        let consensus = match file.consensus().doing(MANAGING)? {
            "solo" => ConsensusSection::Solo(reader.section().doing(LOADING)?),
            "crdt" => ConsensusSection::Crdt(reader.section().doing(LOADING)?),
            "etcd" => ConsensusSection::Etcd(reader.section().doing(LOADING)?),
            _ => ConsensusSection::Raft(reader.section().doing(LOADING)?),
        };
        let mut unknown_keys = reader.unknown_keys;
        let kept = kept_sections(file, environment).doing(LOADING)?;
        let is_known = |path: &String| kept.iter().any(|section| section.path == path);
        unknown_keys.extend(file.unserved(SERVED_SECTIONS).into_iter().filter(|path| !is_known(path)));
        for section in kept {
            unknown_keys.extend(section.unknown_keys);
            warnings.extend(
                section.missing.map(|missing| Warning::UnservedSection { path: section.path, missing }),
            );
        }
        if !unknown_keys.is_empty() {
            warnings.insert(0, Warning::UnknownKeys(unknown_keys));
        }
        let identity = load_identity(&folder, file, environment, &mut warnings).doing(LOADING)?;
        if !cluster.secret.is_set() {
            warnings.push(Warning::NoSecret);
        }
        let config = Self {
            reference_data: reference_data::find(&folder, file),
            folder,
            identity,
            cluster,
            consensus,
            restapi,
            ipfshttp,
            tracker,
            monitor,
            allocator,
            disk,
            pin_queue,
            tags,
            num_pin,
        };
        Ok((config, warnings))
    }
}

/// The variable that has users and their passwords.
pub const CREDENTIALS_VARIABLE: &str = "CLUSTER_RESTAPI_BASICAUTHCREDENTIALS";

/// Replaces passwords by hashes where security is strict, which takes nothing else from a file. A variable cannot have
/// hashes, because they have commas, and is in no file.
///
/// # Errors
/// `InvalidInput` for a password that cannot be hashed.
pub fn hash_passwords(section: &mut RestApiSection) -> Result<()> {
    if section.security != Security::Strict {
        return Ok(());
    }
    let users = section.basic_auth_credentials.iter_mut().flat_map(|users| users.0.values_mut());
    for password in users.filter(|password| !is_password_hash(password)) {
        *password = hash_password(password)?;
    }
    Ok(())
}

struct Reader<'a> {
    file: &'a ServiceJson,
    environment: Environment<'a>,
    unknown_keys: Vec<String>,
}

impl Reader<'_> {
    fn section<T: ConfigSection>(&mut self) -> Result<T> {
        let loaded = self.file.read::<T>(self.environment)?;
        self.unknown_keys.extend(loaded.unknown_keys);
        Ok(loaded.section)
    }

    fn optional<T: ConfigSection>(&mut self) -> Result<Option<T>> {
        if self.file.contains(T::PATH) { self.section().map(Some) } else { Ok(None) }
    }
}

fn load_identity(
    folder: &Folder,
    file: &ServiceJson,
    environment: Environment<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Identity> {
    let path = folder.identity_json();
    let stored = match Identity::load(&path) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => {
            let cluster = file.section("cluster")?.unwrap_or_default();
            if cluster.get("private_key").is_none() {
                return Err(Error::not_found(format!(
                    "error loading identity: {missing}: \"{} init\" makes one",
                    folder.program()
                )));
            }
            let identity = Identity::from_json(&cluster.to_string())
                .map_err(|error| error.context("error loading identity"))?;
            identity.save(&path).map_err(|error| error.context("error saving identity"))?;
            warnings.push(Warning::IdentityMoved { from: folder.service_json(), to: path });
            identity
        }
        other => other?,
    };
    stored
        .with_environment(environment)
        .map_err(|error| error.context("error applying environment variables to the identity"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    /// A folder with a file like that of `init`, changed.
    fn folder_with(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, Folder) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(temporary.path())).unwrap();
        let mut file = json!({
            "cluster": ClusterSection { secret: "1".repeat(64).parse().unwrap(), ..Default::default() },
            "consensus": {"solo": {}},
            "api": {"restapi": {}},
            "ipfs_connector": {"ipfshttp": KuboConfig::default()},
            "informer": {"disk": {}, "tags": {}},
        });
        change(&mut file);
        std::fs::write(folder.service_json(), file.to_string()).unwrap();
        Identity::generate().save(&folder.identity_json()).unwrap();
        (temporary, folder)
    }

    fn failure(change: impl FnOnce(&mut Value)) -> String {
        let (_temporary, folder) = folder_with(change);
        PeerConfig::load(folder, &none).unwrap_err().to_string()
    }

    #[test]
    fn components_run_only_if_the_file_names_them() {
        let (_temporary, folder) = folder_with(|_| {});
        let (config, warnings) = PeerConfig::load(folder, &none).unwrap();
        assert!(config.restapi.is_some() && config.disk.is_some() && config.tags.is_some());
        assert!(config.pin_queue.is_none() && config.num_pin.is_none());
        assert_eq!(config.allocator.allocate_by, ["freespace"]);
        assert_eq!(warnings, []);
    }

    #[test]
    fn what_one_section_says_reaches_the_components_of_others() {
        let (_temporary, folder) = folder_with(|file| {
            file["cluster"]["ipfs_sync_interval"] = json!("7m");
            file["pin_tracker"] = json!({"stateless": {"concurrent_pins": 3}});
        });
        let (config, warnings) = PeerConfig::load(folder, &none).unwrap();
        assert_eq!(config.tracker.ipfs_sync_interval.as_secs(), 7 * 60);
        assert_eq!(config.ipfshttp.concurrent_pins_max.get(), 3);
        assert_eq!(warnings, []);
    }

    #[test]
    fn unknown_keys_unserved_sections_and_a_missing_secret_are_listed_once() {
        let (_temporary, folder) = folder_with(|file| {
            file["cluster"]["peer_name"] = json!("x");
            file["cluster"]["secret"] = json!("");
            file["datastore"] = json!({"pebble": {"x": 1}});
            file["api"]["ipfsproxy"] = json!({});
            file["own"] = json!(1);
        });
        let (_, warnings) = PeerConfig::load(folder, &none).unwrap();
        assert_eq!(
            warnings,
            [
                Warning::UnknownKeys(vec![
                    "cluster.peer_name".to_owned(),
                    "own".to_owned(),
                    "datastore.pebble.x".to_owned()
                ]),
                Warning::UnservedSection {
                    path: "api.ipfsproxy",
                    missing: "nothing listens on /ip4/127.0.0.1/tcp/9095".to_owned()
                },
                Warning::NoSecret,
            ]
        );
    }

    #[test]
    fn failures_have_the_texts_of_the_reference() {
        assert_eq!(
            failure(|file| file["consensus"] = json!({})),
            "error creating state manager: could not determine the consensus component"
        );
        assert_eq!(
            failure(|file| file["consensus"] = json!({"raft": {"backups_rotate": -1}})),
            "error loading configurations: backups_rotate should be larger than 0"
        );
        assert_eq!(
            failure(|file| file["cluster"]["dial_peer_timeout"] = json!("0s")),
            "error loading configurations: cluster.dial_peer_timeout is invalid"
        );
    }

    #[test]
    fn an_identity_in_the_service_file_is_moved_out_once() {
        let old = Identity::generate();
        let text: Value = serde_json::from_str(&old.to_json().unwrap()).unwrap();
        let (_temporary, folder) = folder_with(|file| {
            file["cluster"]["id"] = text["id"].clone();
            file["cluster"]["private_key"] = text["private_key"].clone();
        });
        std::fs::remove_file(folder.identity_json()).unwrap();
        let (config, warnings) = PeerConfig::load(folder.clone(), &none).unwrap();
        assert_eq!(config.identity.id(), old.id());
        assert!(matches!(warnings[..], [Warning::IdentityMoved { .. }]), "{warnings:?}");
        let (config, warnings) = PeerConfig::load(folder, &none).unwrap();
        assert_eq!(config.identity.id(), old.id());
        assert_eq!(warnings, []);
    }

    #[test]
    fn an_identity_that_is_nowhere_is_an_error_with_the_way_out() {
        let (_temporary, folder) = folder_with(|_| {});
        std::fs::remove_file(folder.identity_json()).unwrap();
        let error = PeerConfig::load(folder, &none).unwrap_err().to_string();
        assert!(error.starts_with("error loading configurations: error loading identity: open "), "{error}");
        assert!(error.contains("ipfs-cluster-service init"), "{error}");
    }

    #[test]
    fn variables_reach_sections_and_identity() {
        let (_temporary, folder) = folder_with(|_| {});
        let other = Identity::generate();
        let key: Value = serde_json::from_str(&other.to_json().unwrap()).unwrap();
        let environment = |name: &str| match name {
            "CLUSTER_PEERNAME" => Some("envname".to_owned()),
            "CLUSTER_ID" => Some(other.id().to_string()),
            "CLUSTER_PRIVATEKEY" => Some(key["private_key"].as_str().unwrap().to_owned()),
            "CLUSTER_TAGS_TAGS" => Some("group:g1".to_owned()),
            _ => None,
        };
        let (config, _) = PeerConfig::load(folder.clone(), &environment).unwrap();
        assert_eq!(config.cluster.peername, "envname");
        assert_eq!(config.identity.id(), other.id());
        assert_eq!(config.tags.unwrap().tags["group"], "g1");
        assert_ne!(Identity::load(&folder.identity_json()).unwrap().id(), other.id(), "not written back");
    }
}
