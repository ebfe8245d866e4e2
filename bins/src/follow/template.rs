//! The configuration of a follower: fetched at every start, checked, and kept for starts while it is out of reach.

use std::path::{Component, Path};

use ipfs_cluster::config::{Environment, Identity, ServiceJson};
use ipfs_cluster::consensus::CrdtSection;
use ipfs_cluster::ipfs_connector::KuboConfig;
use ipfs_cluster::{Error, ErrorKind, Result};
use serde_json::Value;
use tracing::warn;

use super::folder::FollowerFolder;
use super::source;
use crate::service::config::{ConsensusSection, PeerConfig, Warning};

/// Overrides what the configuration says of trust.
const TRUSTED_VARIABLE: &str = "CLUSTER_CRDT_TRUSTEDPEERS";
/// Keys of the copy.
const COPY_FROM: &str = "from";
const COPY_CONFIGURATION: &str = "configuration";

/// A configuration that can be followed.
#[derive(Clone, Debug)]
pub struct Template {
    /// As it is written.
    pub file: ServiceJson,
    /// As it is meant, with the environment.
    pub config: PeerConfig,
    /// What its writer may not have meant.
    pub warnings: Vec<Warning>,
    /// Why it is the copy, if it is.
    pub stale: Option<Error>,
}

/// `service.json` of a follower, which most often only says where the configuration is.
///
/// # Errors
/// As [`ServiceJson::load`].
pub fn local(follower: &FollowerFolder) -> Result<ServiceJson> {
    ServiceJson::load(&follower.folder().service_json())
}

/// What is known of the configuration without fetching it: the file itself where it has one, else the copy of what was
/// fetched from the same source. None if nothing was, or the copy cannot be read.
pub fn known(follower: &FollowerFolder, local: &ServiceJson) -> Option<ServiceJson> {
    let Some(source) = local.source() else { return Some(local.clone()) };
    let path = follower.cached_json();
    let copy = match ServiceJson::load(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            warn!("going on without the copy of the configuration: {error}");
            return None;
        }
        Ok(copy) => copy,
    };
    let text = |key: &str| copy.section(key).ok().flatten();
    // Another source is another cluster.
    if text(COPY_FROM)?.as_str() != Some(&source) {
        return None;
    }
    local.with_fetched(&text(COPY_CONFIGURATION)?.to_string()).ok()
}

/// Fetches and checks the configuration. One that is good becomes the copy; in the place of one that is out of reach or
/// bad, the copy is given, if there is one. Returns within the time that fetching may take. Cancel-safe.
///
/// # Errors
/// Of fetching and of [`check`], when there is no good copy.
pub async fn load(
    follower: &FollowerFolder,
    local: &ServiceJson,
    gateway: &str,
    ipfs: &KuboConfig,
    environment: Environment<'_>,
) -> Result<Template> {
    let Some(source) = local.source() else { return check(local.clone(), follower, environment) };
    let fetched = match source::fetch(&source, gateway, ipfs).await {
        Ok(text) => local
            .with_fetched(&text)
            .and_then(|file| check(file, follower, environment).map(|good| (text, good))),
        Err(error) => Err(error),
    };
    let known = known(follower, local);
    match (fetched, known) {
        (Ok((text, template)), known) => {
            if let Some(known) = &known {
                for change in changes(known, &template.file) {
                    warn!("the configuration at {} has changed: {change}", source::shown(&source));
                }
            }
            if let Err(error) = keep(follower, &source, &text) {
                warn!("the configuration is not kept for starts without its source: {error}");
            }
            Ok(template)
        }
        (Err(error), Some(known)) => match check(known, follower, environment) {
            Ok(template) => Ok(Template { stale: Some(error), ..template }),
            Err(_) => Err(error),
        },
        (Err(error), None) => Err(error),
    }
}

/// Writes the copy, unless it is there already.
fn keep(follower: &FollowerFolder, source: &str, text: &str) -> Result<()> {
    let configuration: Value = serde_json::from_str(text)
        .map_err(|source| Error::invalid_input("not valid JSON").with_source(source))?;
    let path = follower.cached_json();
    let mut copy = ServiceJson::new();
    copy.set(COPY_FROM, &source)?;
    copy.set(COPY_CONFIGURATION, &configuration)?;
    if std::fs::read_to_string(&path).is_ok_and(|there| copy.to_text().is_ok_and(|text| text == there)) {
        return Ok(());
    }
    copy.save(&path)
}

/// Whether a configuration can be followed, and what it says.
///
/// # Errors
/// `InvalidInput` naming the section or key; `NotFound` when the identity is missing.
pub fn check(file: ServiceJson, follower: &FollowerFolder, environment: Environment<'_>) -> Result<Template> {
    let refuse =
        |why: &str| Err(Error::invalid_input(format!("this configuration cannot be followed: {why}")));
    // Before it is looked for in what was fetched, where older versions had it.
    let identity_json = follower.folder().identity_json();
    Identity::load(&identity_json)?;
    if !file.contains("cluster") {
        return refuse("it has no section cluster");
    }
    if !file.contains("consensus.crdt") {
        return refuse(match () {
            () if file.contains("consensus.raft") => {
                "its peers agree by consensus.raft, which has no followers"
            }
            () if file.contains("consensus.etcd") => {
                "its peers agree by consensus.etcd, which has no followers"
            }
            () if file.contains("consensus.solo") => "it is of a cluster of one peer (consensus.solo)",
            () => "it has no section consensus.crdt",
        });
    }
    for (section, key) in [("cluster", "peerstore_file"), ("consensus.crdt", "folder")] {
        let named = file.section(section)?.and_then(|section| section.get(key).cloned());
        if named.is_some_and(|named| named.as_str().is_none_or(|name| !name.is_empty() && !is_harmless(name)))
        {
            return refuse(&format!("{section}.{key} must be the name of a file of its own"));
        }
    }
    let says_trust = file
        .section("consensus.crdt")?
        .is_some_and(|section| section.get("trusted_peers").is_some_and(|peers| !peers.is_null()));
    let (config, warnings) = PeerConfig::read(&file, follower.folder().clone(), environment)
        .map_err(|failure| failure.error().clone())?;
    let trusted = match &config.consensus {
        ConsensusSection::Crdt(section) => &section.trusted_peers,
        ConsensusSection::Solo(_) => return refuse("it is of a cluster of one peer (consensus.solo)"),
        ConsensusSection::Raft(_) => {
            return refuse("its peers agree by consensus.raft, which has no followers");
        }
        ConsensusSection::Etcd(_) => {
            return refuse("its peers agree by consensus.etcd, which has no followers");
        }
    };
    if trusted.is_empty() || !(says_trust || environment(TRUSTED_VARIABLE).is_some()) {
        return refuse(&format!(
            "consensus.crdt.trusted_peers names nobody, so nobody could tell this peer what to pin; whoever publishes \
             it has to name the peers that write, or you do in {TRUSTED_VARIABLE}"
        ));
    }
    Ok(Template { file, config, warnings, stale: None })
}

/// Whether a name from outside is one component of a path, and no file of ours.
fn is_harmless(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let is_one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    is_one
        && !name.starts_with('.')
        && !name.chars().any(char::is_control)
        && !FollowerFolder::is_own_file(name)
}

/// Whether everybody who has the secret may change the pinset.
pub fn trusts_everybody(config: &PeerConfig) -> bool {
    matches!(&config.consensus, ConsensusSection::Crdt(section) if section.trusted_peers.iter().any(|peer| peer == "*"))
}

/// What changed that a follower should know of. Secrets are not shown.
fn changes(old: &ServiceJson, new: &ServiceJson) -> Vec<String> {
    let mut changes = Vec::new();
    let secret = |file: &ServiceJson| file.section("cluster").ok().flatten()?.get("secret").cloned();
    if secret(old) != secret(new) {
        changes.push("another secret, so another private network".to_owned());
    }
    let crdt = |file: &ServiceJson| file.read::<CrdtSection>(&|_| None).map(|loaded| loaded.section);
    if let (Ok(old), Ok(new)) = (crdt(old), crdt(new)) {
        if old.cluster_name != new.cluster_name {
            changes.push(format!("the cluster is {:?}, it was {:?}", new.cluster_name, old.cluster_name));
        }
        let named = |these: &CrdtSection, those: &CrdtSection| {
            let only: Vec<&str> = these
                .trusted_peers
                .iter()
                .filter(|peer| !those.trusted_peers.contains(peer))
                .map(String::as_str)
                .collect();
            only.join(", ")
        };
        for (verb, peers) in [("trusts", named(&new, &old)), ("no longer trusts", named(&old, &new))] {
            if !peers.is_empty() {
                changes.push(format!("it {verb} {peers}"));
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::follow::folder::Base;

    const PEER: &str = "12D3KooWRN8KRjpyg9rsW2w7StbBRGper65psTZm68cjud9KAkaW";

    fn none(_: &str) -> Option<String> {
        None
    }

    fn follower() -> (tempfile::TempDir, FollowerFolder) {
        let temporary = tempfile::tempdir().unwrap();
        let follower = Base::locate(Some(temporary.path())).unwrap().follower("mycl".parse().unwrap());
        std::fs::create_dir_all(follower.path()).unwrap();
        Identity::generate().save(&follower.folder().identity_json()).unwrap();
        (temporary, follower)
    }

    fn good() -> Value {
        json!({
            "cluster": {"secret": "1".repeat(64), "listen_multiaddress": "/ip4/127.0.0.1/tcp/0"},
            "consensus": {"crdt": {"cluster_name": "x", "trusted_peers": [PEER]}},
            "informer": {"disk": {}},
        })
    }

    fn judged(change: impl FnOnce(&mut Value)) -> Result<Template> {
        judged_with(change, &none)
    }

    fn judged_with(change: impl FnOnce(&mut Value), environment: Environment<'_>) -> Result<Template> {
        let (_temporary, follower) = follower();
        let mut file = good();
        change(&mut file);
        check(ServiceJson::parse(&file.to_string()).unwrap(), &follower, environment)
    }

    #[test]
    fn bad_configurations_are_refused_with_what_is_wrong() {
        type Change = fn(&mut Value);
        let table: [(Change, &str); 14] = [
            (|file| file["cluster"] = Value::Null, "it has no section cluster"),
            (|file| file["consensus"] = json!({}), "it has no section consensus.crdt"),
            (|file| file["consensus"] = json!({"raft": {}}), "consensus.raft, which has no followers"),
            (|file| file["consensus"] = json!({"etcd": {}}), "consensus.etcd, which has no followers"),
            (|file| file["consensus"] = json!({"solo": {}}), "a cluster of one peer"),
            (|file| file["consensus"]["crdt"]["trusted_peers"] = json!([]), "trusted_peers names nobody"),
            (|file| file["consensus"]["crdt"] = json!({}), "trusted_peers names nobody"),
            (|file| file["consensus"]["crdt"]["trusted_peers"] = Value::Null, "trusted_peers names nobody"),
            (|file| file["consensus"]["crdt"]["trusted_peers"] = json!(["x"]), "x"),
            (
                |file| file["cluster"]["dial_peer_timeout"] = json!("0s"),
                "cluster.dial_peer_timeout is invalid",
            ),
            (|file| file["cluster"]["secret"] = json!("12"), "cluster secret"),
            (|file| file["cluster"]["peerstore_file"] = json!("../../x"), "cluster.peerstore_file must be"),
            (
                |file| file["cluster"]["peerstore_file"] = json!("identity.json"),
                "cluster.peerstore_file must be",
            ),
            (|file| file["consensus"]["crdt"]["folder"] = json!("/tmp/x"), "consensus.crdt.folder must be"),
        ];
        for (change, expected) in table {
            let error = judged(change).unwrap_err();
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
        judged(|_| {}).unwrap();
        let trusting = judged(|file| file["consensus"]["crdt"]["trusted_peers"] = json!(["*"])).unwrap();
        assert!(trusts_everybody(&trusting.config));
        let named = |name: &str| (name == TRUSTED_VARIABLE).then(|| PEER.to_owned());
        judged_with(|file| file["consensus"]["crdt"] = json!({}), &named).unwrap();
    }

    #[test]
    fn an_identity_is_never_taken_from_what_was_fetched() {
        let (_temporary, follower) = follower();
        std::fs::remove_file(follower.folder().identity_json()).unwrap();
        let other: Value = serde_json::from_str(&Identity::generate().to_json().unwrap()).unwrap();
        let mut file = good();
        file["cluster"]["id"] = other["id"].clone();
        file["cluster"]["private_key"] = other["private_key"].clone();
        let file = ServiceJson::parse(&file.to_string()).unwrap();
        assert_eq!(check(file, &follower, &none).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!follower.folder().identity_json().exists());
    }

    #[test]
    fn what_matters_of_a_change_is_named_and_secrets_are_not() {
        let parse = |file: &Value| ServiceJson::parse(&file.to_string()).unwrap();
        let mut new = good();
        new["cluster"]["secret"] = json!("2".repeat(64));
        new["consensus"]["crdt"]["cluster_name"] = json!("y");
        new["consensus"]["crdt"]["trusted_peers"] = json!(["*"]);
        assert_eq!(changes(&parse(&good()), &parse(&good())), Vec::<String>::new());
        assert_eq!(
            changes(&parse(&good()), &parse(&new)),
            [
                "another secret, so another private network".to_owned(),
                "the cluster is \"y\", it was \"x\"".to_owned(),
                "it trusts *".to_owned(),
                format!("it no longer trusts {PEER}"),
            ]
        );
    }

    #[test]
    fn the_copy_is_private_and_of_one_source() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_temporary, follower) = follower();
        let local = ServiceJson::from_source("http://a/").unwrap();
        assert!(known(&follower, &local).is_none());
        keep(&follower, "http://a/", &good().to_string()).unwrap();
        let mode = std::fs::metadata(follower.cached_json()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let copy = known(&follower, &local).unwrap();
        assert_eq!(copy.section("cluster").unwrap(), Some(good()["cluster"].clone()));
        assert!(known(&follower, &ServiceJson::from_source("http://b/").unwrap()).is_none());
        std::fs::write(follower.cached_json(), "{").unwrap();
        assert!(known(&follower, &local).is_none());
    }
}
