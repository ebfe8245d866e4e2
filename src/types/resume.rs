//! Uploads that can go on where they broke off.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{CarDigest, Cid, PeerId, Timestamp, cid};
use crate::error::{Error, Result};

/// Most letters of a [`ResumeKey`].
pub const RESUME_KEY_LETTERS_MAX: usize = 64;

/// The name of an upload that may go on later, which whoever uploads chooses: 1 to [`RESUME_KEY_LETTERS_MAX`] of the letters
/// `A-Z`, `a-z`, `0-9`, `_` and `-`. Whoever knows it can go on with the upload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResumeKey(String);

impl ResumeKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResumeKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if text.is_empty() || text.len() > RESUME_KEY_LETTERS_MAX || !text.bytes().all(is_letter) {
            return Err(Error::invalid_input(format!(
                "invalid resume key: it must have 1 to {RESUME_KEY_LETTERS_MAX} of the letters A-Z, a-z, 0-9, _ and -"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ResumeKey {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ResumeKey> for String {
    fn from(key: ResumeKey) -> Self {
        key.0
    }
}

impl fmt::Display for ResumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Has an add go on later where it breaks off, or go on now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// What the upload is called.
    pub key: ResumeKey,
    /// Where in the CAR the content that is given begins, in bytes: 0, or [`InterruptedAdd::offset`].
    pub offset: u64,
}

/// An upload that broke off and can go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptedAdd {
    /// What it is called.
    pub key: ResumeKey,
    /// The root that the CAR's header names.
    #[serde(with = "cid::text")]
    pub root: Cid,
    /// Where it goes on, in bytes from the beginning of the CAR. It is the end of a block; all blocks before it are stored.
    pub offset: u64,
    /// How many blocks came.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What stands in the CAR before the offset. A file with another one is not the file whose upload broke off.
    pub digest: CarDigest,
    /// When it broke off for the first time.
    pub since: Timestamp,
    /// When it is forgotten.
    pub expires: Timestamp,
    /// The peers that the blocks went to.
    pub allocations: Vec<PeerId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_few_letters() {
        for good in ["a", "A-z_09", &"k".repeat(RESUME_KEY_LETTERS_MAX)] {
            let key: ResumeKey = good.parse().unwrap();
            assert_eq!((key.as_str(), key.to_string().as_str()), (good, good));
            assert_eq!(
                serde_json::from_str::<ResumeKey>(&serde_json::to_string(&key).unwrap()).unwrap(),
                key
            );
        }
        for bad in ["", "a b", "a/b", "..", "ü", &"k".repeat(RESUME_KEY_LETTERS_MAX + 1)] {
            let error = bad.parse::<ResumeKey>().unwrap_err();
            assert!(error.message().starts_with("invalid resume key: "), "{bad}");
            assert!(serde_json::from_value::<ResumeKey>(bad.into()).is_err(), "{bad}");
        }
    }
}
