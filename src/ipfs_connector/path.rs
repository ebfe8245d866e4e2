//! Content paths: `/ipfs/<cid>/a/b`, `/ipld/<cid>`, `/ipns/<name>`.

use crate::error::{Error, Result};
use crate::types::{Cid, parse_cid};

/// A well-formed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentPath {
    /// The cleaned text, without a slash at its end.
    pub(crate) text: String,
    /// Where it starts; none when a name has to be looked up.
    pub(crate) root: Option<Cid>,
    /// The names to follow from there.
    pub(crate) names: Vec<String>,
}

impl ContentPath {
    /// Parses a path. A CID with or without names behind it counts as one under `/ipfs/`.
    ///
    /// # Errors
    /// `InvalidInput` with the reference's text `invalid path "…": …`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::parse_absolute(text).or_else(|error| {
            if text.starts_with('/') { Err(error) } else { Self::parse_absolute(&format!("/ipfs/{text}")) }
        })
    }

    fn parse_absolute(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::invalid_input(format!("invalid path {text:?}: {why}"));
        let mut segments: Vec<&str> = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                _ => segments.push(segment),
            }
        }
        let [namespace, root, names @ ..] = segments.as_slice() else {
            return Err(invalid("path does not have enough components"));
        };
        if !text.starts_with('/') {
            return Err(invalid("path does not have enough components"));
        }
        let root = match *namespace {
            "ipfs" | "ipld" => Some(parse_cid(root).map_err(|error| invalid(error.message()))?),
            "ipns" => None,
            other => return Err(invalid(&format!("unknown namespace: {other:?}"))),
        };
        Ok(Self {
            text: format!("/{}", segments.join("/")),
            root,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    /// The CID, when nothing has to be looked up.
    #[cfg(any(test, feature = "connector-kubo"))]
    pub(crate) fn as_cid(&self) -> Option<Cid> {
        self.root.filter(|_| self.names.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

    #[test]
    fn paths_are_cleaned_and_told_apart() {
        for (text, cleaned, names) in [
            (format!("/ipfs/{CID}"), format!("/ipfs/{CID}"), 0),
            (format!("//ipfs//{CID}/"), format!("/ipfs/{CID}"), 0),
            (CID.to_owned(), format!("/ipfs/{CID}"), 0),
            (format!("{CID}/a/./b/../c"), format!("/ipfs/{CID}/a/c"), 2),
            (format!("/ipld/{CID}"), format!("/ipld/{CID}"), 0),
        ] {
            let path = ContentPath::parse(&text).unwrap();
            assert_eq!((path.text, path.names.len()), (cleaned, names), "{text}");
            assert_eq!(path.root.unwrap().to_string(), CID);
        }
        assert_eq!(ContentPath::parse("/ipns/example.org/a").unwrap().root, None);
        assert_eq!(ContentPath::parse("/ipns/example.org").unwrap().as_cid(), None);
    }

    #[test]
    fn a_path_that_is_none_says_why() {
        for (text, why) in [
            ("", "invalid path \"/ipfs/\": path does not have enough components"),
            ("/ipfs/", "invalid path \"/ipfs/\": path does not have enough components"),
            ("/ipfs/badcid/a", "invalid path \"/ipfs/badcid/a\": invalid cid: "),
            ("/what/ever", "invalid path \"/what/ever\": unknown namespace: \"what\""),
            ("/ipfs/../..", "invalid path \"/ipfs/../..\": path does not have enough components"),
        ] {
            let error = ContentPath::parse(text).unwrap_err();
            assert!(error.message().starts_with(why), "{text}: {error}");
        }
    }
}
