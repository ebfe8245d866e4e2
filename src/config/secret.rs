//! What must never show in a log: the cluster secret, keys and passwords.

use std::fmt;
use std::str::FromStr;

use libp2p_identity::ed25519;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// Length of a cluster secret.
pub const SECRET_BYTES: usize = 32;

/// What `Debug` shows in place of something hidden, as in the reference's dumps.
const HIDDEN: &str = "XXX_hidden_XXX";

/// The name under which the [overlay](super::overlay) knows a secret: an empty variable means none.
pub(super) const SECRET: &str = "ipfs_cluster::Secret";

/// The key of the private network between peers, or none: then anybody may connect.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Option<[u8; SECRET_BYTES]>);

impl Secret {
    /// No private network.
    pub const NONE: Self = Self(None);

    /// A new random secret.
    pub fn generate() -> Self {
        // The seed of a signing key is 32 bytes of the system's randomness, which is what a secret is too.
        let seed = ed25519::SecretKey::generate();
        let mut bytes = [0; SECRET_BYTES];
        bytes.copy_from_slice(seed.as_ref());
        Self(Some(bytes))
    }

    /// A secret from its bytes.
    pub const fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Some(bytes))
    }

    /// The bytes, unless there is no private network.
    pub const fn as_bytes(&self) -> Option<&[u8; SECRET_BYTES]> {
        self.0.as_ref()
    }

    /// Whether there is a private network.
    pub const fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// 64 hex digits, or nothing when there is no private network. Not for logs.
    pub fn to_hex(&self) -> String {
        self.0.map(hex::encode).unwrap_or_default()
    }
}

impl FromStr for Secret {
    type Err = Error;

    /// 64 hex digits, or nothing for no private network.
    fn from_str(text: &str) -> Result<Self> {
        let bytes = decode_hex(text).map_err(Error::invalid_input)?;
        if bytes.is_empty() {
            return Ok(Self::NONE);
        }
        <[u8; SECRET_BYTES]>::try_from(bytes.as_slice()).map(Self::from_bytes).map_err(|_| {
            Error::invalid_input(format!(
                "input secret is {} bytes, cluster secret should be {SECRET_BYTES}",
                bytes.len()
            ))
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&if self.is_set() { HIDDEN } else { "none" }).finish()
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl<'de> Visitor<'de> for Hex {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} hex digits", 2 * SECRET_BYTES)
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Secret, D::Error> {
                inner.deserialize_str(self)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_newtype_struct(SECRET, Hex)
    }
}

/// Anything that reads and writes as itself but does not show in `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Hex with the reference's error texts, which name the character and not the text around it.
fn decode_hex(text: &str) -> Result<Vec<u8>, String> {
    if let Some(&wrong) = text.as_bytes().iter().find(|byte| !byte.is_ascii_hexdigit()) {
        let shown = if wrong.is_ascii_graphic() || wrong == b' ' {
            format!(" '{}'", char::from(wrong))
        } else {
            String::new()
        };
        return Err(format!("encoding/hex: invalid byte: U+{wrong:04X}{shown}"));
    }
    hex::decode(text).map_err(|_| "encoding/hex: odd length hex string".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_what_it_wrote() {
        let secret = Secret::generate();
        assert_eq!(secret.to_hex().len(), 64);
        assert_eq!(secret.to_hex().parse::<Secret>().unwrap(), secret);
        assert_ne!(secret, Secret::generate());
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!(serde_json::from_str::<Secret>(&json).unwrap(), secret);
    }

    #[test]
    fn nothing_is_no_private_network() {
        let none: Secret = "".parse().unwrap();
        assert!(!none.is_set());
        assert_eq!(serde_json::to_string(&none).unwrap(), r#""""#);
        assert_eq!(format!("{none:?}"), r#"Secret("none")"#);
    }

    #[test]
    fn a_secret_does_not_show() {
        let secret = Secret::generate();
        let hidden = Hidden(secret.to_hex());
        assert!(!format!("{secret:?} {hidden:?}").contains(&secret.to_hex()));
        assert_eq!(serde_json::to_string(&hidden).unwrap(), format!("{:?}", secret.to_hex()));
    }

    #[test]
    fn wrong_secrets_get_the_texts_of_the_reference() {
        for (text, error) in [
            ("zz", "encoding/hex: invalid byte: U+007A 'z'"),
            ("a\nb", "encoding/hex: invalid byte: U+000A"),
            ("abc", "encoding/hex: odd length hex string"),
            ("abcd", "input secret is 2 bytes, cluster secret should be 32"),
        ] {
            assert_eq!(text.parse::<Secret>().unwrap_err().to_string(), error);
        }
    }
}
