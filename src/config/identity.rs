//! Who the peer is: `identity.json`.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libp2p_identity::{Keypair, ed25519};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::file::{self, MODE_PRIVATE};
use super::overlay::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{PeerId, parse_peer};

/// Largest identity file that is read; an RSA key of 8,192 bits takes less than 8 KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A peer's key pair. `Debug` shows the peer id alone.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
}

/// The file. Empty means missing.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct File {
    id: String,
    private_key: String,
}

/// libp2p's `PrivateKey` message.
#[derive(Clone, PartialEq, prost::Message)]
struct KeyMessage {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
}

impl Identity {
    /// A new random Ed25519 identity.
    pub fn generate() -> Self {
        Self { keypair: Keypair::generate_ed25519() }
    }

    /// An identity from a key pair.
    pub fn from_keypair(keypair: Keypair) -> Self {
        Self { keypair }
    }

    /// The peer id.
    pub fn id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// The key pair.
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// Parses the file's text, or the `cluster` section of a file from before identities had their own.
    ///
    /// # Errors
    /// `InvalidInput` with the reference's texts; `Unsupported` for keys that are not Ed25519.
    pub fn from_json(text: &str) -> Result<Self> {
        File::parse(text)?.check()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `NotFound` `open <path>: no such file or directory`; else as [`Identity::from_json`], with the path.
    pub fn load(path: &Path) -> Result<Self> {
        let text = file::read_text(path, FILE_BYTES_MAX)?;
        Self::from_json(&text)
            .map_err(|error| error.context(format!("error loading identity from {}", path.display())))
    }

    /// Reads the file, or makes an identity and the file where there is none: the same peer at every start.
    ///
    /// # Errors
    /// As [`Identity::load`] but for `NotFound`, and as [`Identity::save`]; a file that cannot be read is never replaced.
    pub fn load_or_generate(path: &Path) -> Result<Self> {
        match Self::load(path) {
            Err(missing) if missing.kind() == ErrorKind::NotFound => {
                if let Some(folder) = path.parent() {
                    super::create_folder(folder)?;
                }
                let identity = Self::generate();
                identity.save(path)?;
                Ok(identity)
            }
            other => other,
        }
    }

    /// The same with `CLUSTER_ID` and `CLUSTER_PRIVATEKEY` laid over it. An empty variable counts as not set.
    ///
    /// # Errors
    /// As [`Identity::from_json`]; one variable alone rarely fits the other half.
    pub fn with_environment(self, environment: Environment<'_>) -> Result<Self> {
        let set = |variable| environment(variable).filter(|value| !value.is_empty());
        let (id, private_key) = (set("CLUSTER_ID"), set("CLUSTER_PRIVATEKEY"));
        if id.is_none() && private_key.is_none() {
            return Ok(self);
        }
        let own = self.to_file()?;
        File { id: id.unwrap_or(own.id), private_key: private_key.unwrap_or(own.private_key) }.check()
    }

    /// The file's text: 4 spaces for each level, no newline at the end. Holds the private key.
    ///
    /// # Errors
    /// `Internal` if the key cannot be encoded.
    pub fn to_json(&self) -> Result<String> {
        let internal = |source: serde_json::Error| Error::internal("identity").with_source(source);
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        self.to_file()?
            .serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))
            .map_err(internal)?;
        String::from_utf8(text).map_err(|source| Error::internal("identity").with_source(source))
    }

    /// Replaces the file, readable by its owner alone. Returns once it is on disk.
    ///
    /// # Errors
    /// `Io` or `StorageFull` naming the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        file::write_atomically(path, self.to_json()?.as_bytes(), MODE_PRIVATE)
    }

    fn to_file(&self) -> Result<File> {
        let key = self
            .keypair
            .to_protobuf_encoding()
            .map_err(|source| Error::internal("the private key cannot be encoded").with_source(source))?;
        Ok(File { id: self.id().to_string(), private_key: STANDARD.encode(key) })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl File {
    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|source| wrong(format!("not valid JSON: {source}")))
    }

    fn check(&self) -> Result<Identity> {
        if self.id.is_empty() {
            return Err(wrong("identity ID not set"));
        }
        if self.private_key.is_empty() {
            return Err(wrong("no identity private_key set"));
        }
        let id = parse_peer(&self.id).map_err(|error| error.context("error decoding cluster ID"))?;
        let text: String = self.private_key.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let message =
            STANDARD.decode(text).map_err(|source| wrong(format!("error decoding private_key: {source}")))?;
        let keypair = decode_key(&message).map_err(|error| error.context("error parsing private_key ID"))?;
        let identity = Identity { keypair };
        if identity.id() != id {
            return Err(wrong("identity ID does not match the private_key"));
        }
        Ok(identity)
    }
}

fn decode_key(message: &[u8]) -> Result<Keypair> {
    let key = KeyMessage::decode(message).map_err(|source| wrong(format!("not a libp2p key: {source}")))?;
    let unsupported = |name: &str| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "{name} keys are not supported, only Ed25519: move this identity.json away and run \
                 \"ipfs-cluster-service init\" for a new one, with a new peer id"
            ),
        )
        .component("config")
    };
    match key.kind {
        Some(0) => return Err(unsupported("RSA")),
        Some(1) => {}
        Some(2) => return Err(unsupported("Secp256k1")),
        Some(3) => return Err(unsupported("ECDSA")),
        Some(kind) => return Err(wrong(format!("unknown key type {kind}"))),
        None => return Err(wrong("not a libp2p key: it has no type")),
    }
    let mut data = key.data.unwrap_or_default();
    // Old keys carry the public half twice.
    if data.len() == 96 && data[32..64] == data[64..96] {
        data.truncate(64);
    }
    let pair = ed25519::Keypair::try_from_bytes(&mut data)
        .map_err(|source| wrong(format!("not an Ed25519 key: {source}")))?;
    Ok(pair.into())
}

fn wrong(text: impl Into<String>) -> Error {
    Error::invalid_input(text).component("config")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Go ipfs-cluster 1.1.6.
    const GO_FILE: &str = "{\n    \"id\": \"12D3KooWJWoURnhkr7HyDGBQYnX62GMqCy1ZzUC1BP4jSssNAUsT\",\n    \"private_key\": \"CAESQH4GI8UYrwhbROvHeZfB4k4Ve9DM7acbwDOZJCT28GjEgTlXETouK48MHdmJnAq5zInwv/wz85g9TPH9b6EHpDI=\"\n}";
    const GO_ID: &str = "12D3KooWJWoURnhkr7HyDGBQYnX62GMqCy1ZzUC1BP4jSssNAUsT";
    const GO_KEY: &str =
        "CAESQH4GI8UYrwhbROvHeZfB4k4Ve9DM7acbwDOZJCT28GjEgTlXETouK48MHdmJnAq5zInwv/wz85g9TPH9b6EHpDI=";

    #[test]
    fn a_go_identity_loads_and_is_written_byte_for_byte() {
        let identity = Identity::from_json(GO_FILE).unwrap();
        assert_eq!(identity.id().to_string(), GO_ID);
        assert_eq!(identity.to_json().unwrap(), GO_FILE);
        assert!(!format!("{identity:?}").contains("CAES"));
    }

    #[test]
    fn an_identity_is_made_once_and_never_in_place_of_one_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer/identity.json");
        let made = Identity::load_or_generate(&path).unwrap();
        assert_eq!(Identity::load_or_generate(&path).unwrap().id(), made.id());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Identity::load_or_generate(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{");
    }

    #[test]
    fn a_new_identity_is_saved_private_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.json");
        let identity = Identity::generate();
        identity.save(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap().id(), identity.id());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 183);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn wrong_identities_get_the_texts_of_the_reference() {
        let other = Identity::generate().id();
        let json = |id: &str, key: &str| format!(r#"{{"id":"{id}","private_key":"{key}"}}"#);
        let rsa = STANDARD.encode([8, 0, 0x12, 2, 1, 2]);
        for (text, error) in [
            (json("", GO_KEY), "identity ID not set"),
            ("{}".to_owned(), "identity ID not set"),
            (json(GO_ID, ""), "no identity private_key set"),
            (json(&other.to_string(), GO_KEY), "identity ID does not match the private_key"),
            (json("zz", GO_KEY), "error decoding cluster ID: "),
            (json(GO_ID, "!!"), "error decoding private_key: "),
            (json(GO_ID, "AAAA"), "error parsing private_key ID: "),
            (json(GO_ID, &rsa), "error parsing private_key ID: RSA keys are not supported"),
            ("x".to_owned(), "not valid JSON: "),
        ] {
            let found = Identity::from_json(&text).unwrap_err().to_string();
            assert!(found.starts_with(error), "{text}: {found}");
            assert!(!found.contains(GO_KEY));
        }
    }

    #[test]
    fn an_old_key_with_two_public_halves_loads() {
        let mut data = STANDARD.decode(GO_KEY).unwrap().split_off(4);
        data.extend_from_within(32..64);
        let key = KeyMessage { kind: Some(1), data: Some(data) }.encode_to_vec();
        let text = format!(r#"{{"id":"{GO_ID}","private_key":"{}"}}"#, STANDARD.encode(key));
        assert_eq!(Identity::from_json(&text).unwrap().id().to_string(), GO_ID);
    }

    #[test]
    fn the_environment_replaces_the_identity_and_has_to_fit() {
        let own = Identity::generate();
        let both = |name: &str| match name {
            "CLUSTER_ID" => Some(GO_ID.to_owned()),
            "CLUSTER_PRIVATEKEY" => Some(GO_KEY.to_owned()),
            _ => None,
        };
        assert_eq!(own.clone().with_environment(&both).unwrap().id().to_string(), GO_ID);
        let one = |name: &str| (name == "CLUSTER_ID").then(|| GO_ID.to_owned());
        assert_eq!(
            own.clone().with_environment(&one).unwrap_err().to_string(),
            "identity ID does not match the private_key"
        );
        let empty = |_: &str| Some(String::new());
        assert_eq!(own.clone().with_environment(&empty).unwrap().id(), own.id());
    }

    #[test]
    fn a_file_that_is_wrong_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.json");
        assert_eq!(
            Identity::load(&path).unwrap_err().to_string(),
            format!("open {}: no such file or directory", path.display())
        );
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(
            Identity::load(&path).unwrap_err().to_string(),
            format!("error loading identity from {}: identity ID not set", path.display())
        );
    }
}
