//! What blocks are called: CID version and hash function.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest};

use crate::adder::DagBlock;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Block, Cid};

pub(super) const CODEC_RAW: u64 = 0x55;
pub(super) const CODEC_DAG_PB: u64 = 0x70;

/// Functions that everybody's IPFS daemon can check. One of the reference's names is another one's alias.
const FUNCTIONS: [(&str, Code); 13] = [
    ("sha2-256", Code::Sha2_256),
    ("sha2-512", Code::Sha2_512),
    ("sha3", Code::Sha3_512),
    ("sha3-224", Code::Sha3_224),
    ("sha3-256", Code::Sha3_256),
    ("sha3-384", Code::Sha3_384),
    ("sha3-512", Code::Sha3_512),
    ("keccak-256", Code::Keccak256),
    ("keccak-512", Code::Keccak512),
    ("blake2b-256", Code::Blake2b256),
    ("blake2b-512", Code::Blake2b512),
    ("blake2s-256", Code::Blake2s256),
    ("blake3", Code::Blake3_256),
];

/// Names that the reference knows too, besides `blake2b-N` and `blake2s-N`. Daemons refuse most of them.
const OTHER_FUNCTIONS: [&str; 12] = [
    "identity",
    "sha1",
    "dbl-sha2-256",
    "murmur3-x64-64",
    "keccak-224",
    "keccak-384",
    "shake-128",
    "shake-256",
    "sha2-256-trunc254-padded",
    "x11",
    "md5",
    "poseidon-bls12_381-a2-fc1",
];

/// Gives blocks their CID.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming {
    is_v0: bool,
    function: Code,
}

impl Naming {
    /// # Errors
    /// `InvalidInput` for a version or function that does not exist, or that do not go together; `Unsupported` for
    /// functions of the reference that we do not have.
    pub(super) fn new(cid_version: i64, function: &str) -> Result<Self> {
        if !(0..=1).contains(&cid_version) {
            return Err(Error::invalid_input(format!("bad CID Version: unknown CID version: {cid_version}")));
        }
        let function = hash_function(function)?;
        let is_v0 = cid_version == 0;
        if is_v0 && function != Code::Sha2_256 {
            return Err(Error::invalid_input("CIDv0 only supports sha2-256: ask for cid-version 1"));
        }
        Ok(Self { is_v0, function })
    }

    /// A block of bytes and nothing else.
    pub(super) fn raw(self, data: Bytes) -> DagBlock {
        let cid = Cid::new_v1(CODEC_RAW, self.function.digest(&data));
        DagBlock { dag_bytes: data.len() as u64, block: Block { cid, data } }
    }

    /// A block of links and data, and how many bytes the blocks below it have.
    pub(super) fn dag_pb(self, data: Vec<u8>, bytes_below: u64) -> DagBlock {
        let data = Bytes::from(data);
        let digest = self.function.digest(&data);
        let v0 = self.is_v0.then(|| Cid::new_v0(digest).ok()).flatten();
        let cid = v0.unwrap_or_else(|| Cid::new_v1(CODEC_DAG_PB, digest));
        DagBlock { dag_bytes: bytes_below.saturating_add(data.len() as u64), block: Block { cid, data } }
    }
}

fn hash_function(name: &str) -> Result<Code> {
    let name = name.to_lowercase();
    if let Some((_, function)) = FUNCTIONS.iter().find(|(known, _)| *known == name) {
        return Ok(*function);
    }
    let is_blake2 = |prefix: &str, bits_max: u32| {
        let bits = name.strip_prefix(prefix).and_then(|bits| bits.parse::<u32>().ok());
        bits.is_some_and(|bits| bits > 0 && bits <= bits_max && bits % 8 == 0)
    };
    if OTHER_FUNCTIONS.contains(&name.as_str()) || is_blake2("blake2b-", 512) || is_blake2("blake2s-", 256) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "hash function {name} cannot be added with, use sha2-256, sha2-512, sha3-256, blake2b-256 or blake3"
            ),
        ));
    }
    Err(Error::invalid_input("hash function name not known"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_functions_that_do_not_exist_or_fit_are_refused() {
        let message = |version, function| Naming::new(version, function).unwrap_err().to_string();
        assert_eq!(message(3, "sha2-256"), "bad CID Version: unknown CID version: 3");
        assert_eq!(message(-1, "nope"), "bad CID Version: unknown CID version: -1");
        assert_eq!(message(0, "nope"), "hash function name not known");
        assert_eq!(message(1, "blake2b-7"), "hash function name not known");
        assert!(message(1, "md5").starts_with("hash function md5 cannot be added with"));
        assert!(message(1, "blake2b-160").starts_with("hash function blake2b-160 cannot be added with"));
        assert!(message(0, "sha3").starts_with("CIDv0 only supports sha2-256"));
        assert!(Naming::new(1, "SHA3-256").is_ok());
    }
}
