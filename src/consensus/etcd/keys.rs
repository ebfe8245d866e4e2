//! Where things are in etcd, and how a pin is written there.
//!
//! | key below the prefix | value |
//! |---|---|
//! | `pins/<cid>` | a byte of version, then [`encode_pin_protobuf`] |
//! | `members/<peer>` | nothing; a peer that has joined and was not removed |
//! | `peers/<peer>` | where it can be reached, see `meet`; bound to the peer's lease: it lives |
//! | `removed/<peer>` | nothing; a peer that may not come back until it is added |
//! | `cluster` | what tells the cluster from others with the same prefix, see [`fingerprint`] |
//! | `lanes/<lease>/<number>` | which write went this way last, see `lane` |
//! | `batch` | a batch that is being written, see `batch` |
//! | `parts/<batch>/<number>` | its operations |

use std::ops::Range;

use multihash_codetable::{Code, MultihashDigest as _};

use crate::config::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::state::{decode_pin_protobuf, encode_pin_protobuf};
use crate::types::{Cid, PeerId, Pin, parse_cid, parse_peer};

/// Version of the values that are written now.
const VALUE_VERSION: u8 = 1;
const FINGERPRINT_BYTES: usize = 16;

/// The keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// Ends with `/`.
    prefix: String,
}

/// What a key that somebody follows stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Pin(Cid),
    Member(PeerId),
    Peer(PeerId),
    Removed(PeerId),
    Batch,
    /// Ours, but nobody follows it.
    Internal,
    /// Not ours.
    Unknown,
}

impl Keys {
    /// `prefix` without a slash at its end.
    pub(super) fn below(prefix: &str) -> Self {
        Self { prefix: format!("{}/", prefix.trim_end_matches('/')) }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn pin(&self, cid: &Cid) -> Vec<u8> {
        format!("{}pins/{cid}", self.prefix).into_bytes()
    }

    pub(super) fn member(&self, peer: &PeerId) -> Vec<u8> {
        format!("{}members/{peer}", self.prefix).into_bytes()
    }

    pub(super) fn peer(&self, peer: &PeerId) -> Vec<u8> {
        format!("{}peers/{peer}", self.prefix).into_bytes()
    }

    pub(super) fn removed(&self, peer: &PeerId) -> Vec<u8> {
        format!("{}removed/{peer}", self.prefix).into_bytes()
    }

    pub(super) fn cluster(&self) -> Vec<u8> {
        format!("{}cluster", self.prefix).into_bytes()
    }

    pub(super) fn lane(&self, lease: i64, number: usize) -> Vec<u8> {
        format!("{}lanes/{lease:x}/{number}", self.prefix).into_bytes()
    }

    pub(super) fn is_lane(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| rest.starts_with(b"lanes/"))
    }

    pub(super) fn batch(&self) -> Vec<u8> {
        format!("{}batch", self.prefix).into_bytes()
    }

    pub(super) fn part(&self, batch: &str, number: usize) -> Vec<u8> {
        format!("{}parts/{batch}/{number:04}", self.prefix).into_bytes()
    }

    pub(super) fn parts(&self, batch: &str) -> Range<Vec<u8>> {
        self.folder(&format!("parts/{batch}/"))
    }

    pub(super) fn all(&self) -> Range<Vec<u8>> {
        self.folder("")
    }

    pub(super) fn pins(&self) -> Range<Vec<u8>> {
        self.folder("pins/")
    }

    pub(super) fn members(&self) -> Range<Vec<u8>> {
        self.folder("members/")
    }

    pub(super) fn peers(&self) -> Range<Vec<u8>> {
        self.folder("peers/")
    }

    pub(super) fn removals(&self) -> Range<Vec<u8>> {
        self.folder("removed/")
    }

    /// Everything below a name that ends with a slash: `0` is the byte after `/`.
    fn folder(&self, name: &str) -> Range<Vec<u8>> {
        let start = format!("{}{name}", self.prefix).into_bytes();
        let mut end = start.clone();
        end.pop();
        end.push(b'/' + 1);
        start..end
    }

    /// What a key stands for. A name that is not written as we write it is unknown: there would be two keys for one
    /// thing.
    pub(super) fn parse(&self, key: &[u8]) -> Key {
        let text = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(self.prefix.as_str()));
        let Some(text) = text else { return Key::Unknown };
        if text == "batch" {
            return Key::Batch;
        }
        if text == "cluster" {
            return Key::Internal;
        }
        let Some((folder, name)) = text.split_once('/') else { return Key::Unknown };
        let peer = || parse_peer(name).ok().filter(|peer| peer.to_string() == name);
        let found = match folder {
            "pins" => parse_cid(name).ok().filter(|cid| cid.to_string() == name).map(Key::Pin),
            "members" => peer().map(Key::Member),
            "peers" => peer().map(Key::Peer),
            "removed" => peer().map(Key::Removed),
            "lanes" | "parts" => Some(Key::Internal),
            _ => None,
        };
        found.unwrap_or(Key::Unknown)
    }
}

/// What etcd is told of the secret of a cluster: enough to tell two apart, and nothing to find one out with. None
/// without a secret.
pub(super) fn fingerprint(secret: &Secret) -> Option<String> {
    const PURPOSE: &[u8] = b"ipfs-cluster etcd cluster 1\n";
    let hash = Code::Sha2_256.digest(&[PURPOSE, secret.as_bytes()?].concat());
    Some(hex::encode(&hash.digest()[..FINGERPRINT_BYTES]))
}

/// The value of a pin.
pub(super) fn encode_pin(pin: &Pin) -> Vec<u8> {
    let mut value = vec![VALUE_VERSION];
    value.extend(encode_pin_protobuf(pin));
    value
}

/// The pin of a value.
///
/// # Errors
/// `Corrupt`; `Unsupported` for a later version.
pub(super) fn decode_pin(cid: &Cid, value: &[u8]) -> Result<Pin> {
    match value.split_first() {
        Some((&VALUE_VERSION, pin)) => decode_pin_protobuf(cid, pin),
        Some((&version, _)) if version > VALUE_VERSION => Err(Error::new(
            ErrorKind::Unsupported,
            format!("it has version {version}, this program reads {VALUE_VERSION}; run the newer one"),
        )),
        _ => Err(Error::new(ErrorKind::Corrupt, "it does not begin with a version")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PinOptions;

    const V1: &str = "bafkreiabltrd5zm73pvi7plq25pef3hm7jxhbi3kv4hapegrkfpkqtkbme";
    const V0: &str = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n";

    #[test]
    fn every_key_is_read_as_what_it_was_written_for() {
        let keys = Keys::below("/ipfs-cluster/mine");
        assert_eq!(keys, Keys::below("/ipfs-cluster/mine/"));
        let peer = PeerId::random();
        for text in [V0, V1] {
            let cid = parse_cid(text).unwrap();
            assert_eq!(keys.pin(&cid), format!("/ipfs-cluster/mine/pins/{text}").into_bytes());
            assert_eq!(keys.parse(&keys.pin(&cid)), Key::Pin(cid));
            assert!(keys.pins().contains(&keys.pin(&cid)) && keys.all().contains(&keys.pin(&cid)));
        }
        for (key, folder, expected) in [
            (keys.member(&peer), keys.members(), Key::Member(peer)),
            (keys.peer(&peer), keys.peers(), Key::Peer(peer)),
            (keys.removed(&peer), keys.removals(), Key::Removed(peer)),
            (keys.part("x", 3), keys.parts("x"), Key::Internal),
            (keys.batch(), keys.all(), Key::Batch),
            (keys.lane(-1, 2), keys.all(), Key::Internal),
            (keys.cluster(), keys.all(), Key::Internal),
        ] {
            assert!(folder.contains(&key));
            assert_eq!(keys.parse(&key), expected);
        }
        assert!(keys.is_lane(&keys.lane(1, 1)) && !keys.is_lane(&keys.batch()));
        assert!(!keys.parts("x").contains(&keys.part("y", 0)));
    }

    #[test]
    fn what_is_not_written_as_ours_is_unknown() {
        let keys = Keys::below("/c");
        let other_base = format!("/c/pins/{}", V1.to_uppercase());
        let dag = format!("/c/pins/{V0}/x");
        for key in ["", "/c", "/c/", "/d/batch", "/c/pins/", "/c/pins/x", "/c/peers/x", "/c/other/x"]
            .into_iter()
            .chain([other_base.as_str(), dag.as_str()])
        {
            assert_eq!(keys.parse(key.as_bytes()), Key::Unknown, "{key}");
        }
        assert_eq!(keys.parse(b"/c/pins/\xff"), Key::Unknown);
    }

    #[test]
    fn secrets_are_told_apart_and_not_told() {
        let [one, other] = [1, 2].map(|byte| fingerprint(&Secret::from_bytes([byte; 32])).unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 2 * FINGERPRINT_BYTES);
        assert!(!one.contains("0101"));
        assert_eq!(fingerprint(&Secret::NONE), None);
    }

    #[test]
    fn a_value_reads_back_and_others_are_told_apart() {
        let cid = parse_cid(V1).unwrap();
        let pin = Pin::new(cid, PinOptions::default()).into_stored();
        let mut value = encode_pin(&pin);
        assert_eq!(decode_pin(&cid, &value).unwrap(), pin);
        value[0] = 2;
        assert_eq!(decode_pin(&cid, &value).unwrap_err().kind(), ErrorKind::Unsupported);
        for wrong in [&b""[..], &[0, 1], &[1, 0xff, 0xff]] {
            assert_eq!(decode_pin(&cid, wrong).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
