//! Content identifiers, parsed strictly and written as text.

pub use ::cid::Cid;

use crate::error::{Error, Result};

/// Longest text of a CID, in bytes: the longest binary one that there can be has 92, which in base 2 is 737 characters.
/// The bases that are no power of two take time by the square of the length.
const TEXT_BYTES_MAX: usize = 1024;

/// Parses a CID of version 0 or 1.
///
/// # Errors
/// `InvalidInput` with a text that starts with `invalid cid: `, as the reference's.
pub fn parse_cid(text: &str) -> Result<Cid> {
    // The parser below also takes a path and reads what comes after its last `/ipfs/`.
    if text.contains('/') {
        return Err(Error::invalid_input("invalid cid: it contains a \"/\", which is a path and not a cid"));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::invalid_input(format!(
            "invalid cid: it has {} bytes, at most {TEXT_BYTES_MAX} are possible",
            text.len()
        )));
    }
    text.parse::<Cid>().map_err(|source| {
        let reason = reason(text).map_or_else(|| source.to_string(), str::to_owned);
        Error::invalid_input(format!("invalid cid: {reason}")).with_source(source)
    })
}

/// The reference's words for the two mistakes that people make; our parser has one text for all of them.
fn reason(text: &str) -> Option<&'static str> {
    let is_version_0 = text.len() == 46 && text.starts_with("Qm");
    if text.len() < 2 {
        Some("cid too short")
    } else if !is_version_0 && !text.starts_with(MULTIBASE_PREFIXES) {
        Some("selected encoding not supported")
    } else {
        None
    }
}

/// The first letters of texts of a known base.
const MULTIBASE_PREFIXES: [char; 24] = [
    '\0', '0', '7', '9', 'f', 'F', 'v', 'V', 't', 'T', 'b', 'B', 'c', 'C', 'h', 'k', 'K', 'z', 'Z', 'm', 'M',
    'u', 'U', '🚀',
];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cid_is_refused_in_the_references_words() {
        for (text, message) in [
            ("", "invalid cid: cid too short"),
            ("b", "invalid cid: cid too short"),
            ("notacid", "invalid cid: selected encoding not supported"),
            ("Qm", "invalid cid: selected encoding not supported"),
        ] {
            assert_eq!(parse_cid(text).unwrap_err().to_string(), message);
        }
        let long = parse_cid(&"z".repeat(1 << 20)).unwrap_err().to_string();
        assert_eq!(long, "invalid cid: it has 1048576 bytes, at most 1024 are possible");
        assert!(parse_cid("zzz").unwrap_err().to_string().starts_with("invalid cid: "));
        assert!(parse_cid("QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o").is_ok());
    }
}
