//! Content identifiers, parsed strictly and written as text.

pub use ::cid::Cid;

use crate::error::{Error, Result};

/// Parses a CID of version 0 or 1.
///
/// # Errors
/// `InvalidInput` with a text that starts with `invalid cid: `, as the reference's.
pub fn parse_cid(text: &str) -> Result<Cid> {
    text.parse::<Cid>()
        .map_err(|source| Error::invalid_input(format!("invalid cid: {source}")).with_source(source))
}

/// Serde form of `Cid` as its text (the type's own form is binary).
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::Cid;

    /// Writes the text in the base that belongs to the version.
    pub fn serialize<S: Serializer>(cid: &Cid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cid)
    }

    /// Reads the text, strictly.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cid, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        super::parse_cid(&text).map_err(D::Error::custom)
    }
}

/// Serde form of `Option<Cid>`: text or `null`. An empty string also reads as none.
pub mod option_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::Cid;

    /// Writes the text or `null`.
    pub fn serialize<S: Serializer>(cid: &Option<Cid>, serializer: S) -> Result<S::Ok, S::Error> {
        match cid {
            Some(cid) => serializer.collect_str(cid),
            None => serializer.serialize_none(),
        }
    }

    /// Reads text, an empty string or `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cid>, D::Error> {
        match Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)? {
            None => Ok(None),
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => super::parse_cid(&text).map(Some).map_err(D::Error::custom),
        }
    }
}
