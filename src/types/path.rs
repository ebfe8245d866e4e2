//! What can be pinned: a CID, or a path that leads to one.

use std::fmt;
use std::str::FromStr;

use super::{Cid, parse_cid};
use crate::error::{Error, Result};

/// Names that a path may start with.
const NAMESPACES: [&str; 3] = ["ipfs", "ipns", "ipld"];

/// A path of content: `/ipfs/<cid>/…`, `/ipld/<cid>/…` or `/ipns/<name>/…`.
///
/// Parses also from a CID, and from a path that lacks its `/ipfs/`. `.`, `..` and doubled slashes are
/// resolved. The cluster asks its IPFS daemon for the CID behind a path, unless the path is only a CID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpfsPath {
    /// The namespace, the root and what follows; at least two.
    segments: Vec<String>,
}

impl IpfsPath {
    /// The namespace, the root and what follows: at least two, none empty.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// The CID, where the path is `/ipfs/<cid>` and nothing more.
    pub fn plain_cid(&self) -> Option<Cid> {
        match self.segments.as_slice() {
            [namespace, root] if namespace == "ipfs" => parse_cid(root).ok(),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let invalid = |reason: String| Error::invalid_input(format!("invalid path {text:?}: {reason}"));
        let mut segments: Vec<String> = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(segment.to_owned()),
            }
        }
        let [namespace, root, ..] = segments.as_slice() else {
            return Err(invalid("path does not have enough components".to_owned()));
        };
        match namespace.as_str() {
            "ipfs" | "ipld" => {
                parse_cid(root).map_err(|error| invalid(error.to_string()))?;
            }
            "ipns" => {}
            _ => {
                return Err(invalid(format!(
                    "unknown namespace: {namespace:?}, expected {}",
                    NAMESPACES.join(", ")
                )));
            }
        }
        Ok(Self { segments })
    }
}

impl From<Cid> for IpfsPath {
    fn from(cid: Cid) -> Self {
        Self { segments: vec!["ipfs".to_owned(), cid.to_string()] }
    }
}

impl From<&Cid> for IpfsPath {
    fn from(cid: &Cid) -> Self {
        Self::from(*cid)
    }
}

impl FromStr for IpfsPath {
    type Err = Error;

    /// # Errors
    /// `InvalidInput` with the reference's text `invalid path "…": …`.
    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with('/') { Self::parse(text) } else { Self::parse(&format!("/ipfs/{text}")) }
    }
}

impl fmt::Display for IpfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";

    #[test]
    fn cids_and_paths_are_cleaned_and_completed() {
        for (text, path) in [
            (CID.to_owned(), format!("/ipfs/{CID}")),
            (format!("/ipfs/{CID}"), format!("/ipfs/{CID}")),
            (format!("{CID}/sub//./x/../f.txt/"), format!("/ipfs/{CID}/sub/f.txt")),
            (format!("/ipld/{CID}/a b?c"), format!("/ipld/{CID}/a b?c")),
            ("/ipns/example.com/x".to_owned(), "/ipns/example.com/x".to_owned()),
        ] {
            assert_eq!(text.parse::<IpfsPath>().unwrap().to_string(), path, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_in_the_references_words() {
        for (text, message) in [
            ("notacid", "invalid path \"/ipfs/notacid\": invalid cid: selected encoding not supported"),
            ("", "invalid path \"/ipfs/\": path does not have enough components"),
            ("/ipfs", "invalid path \"/ipfs\": path does not have enough components"),
            ("/foo/bar", "invalid path \"/foo/bar\": unknown namespace: \"foo\", expected ipfs, ipns, ipld"),
            ("/ipfs/../ipfs/..", "invalid path \"/ipfs/../ipfs/..\": path does not have enough components"),
        ] {
            assert_eq!(text.parse::<IpfsPath>().unwrap_err().to_string(), message);
        }
    }
}
