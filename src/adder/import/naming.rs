//! What blocks are called: CID version and hash function.

use ::cid::multihash::Multihash;
use bytes::Bytes;

use crate::adder::DagBlock;
use crate::error::{Error, ErrorKind, Result};
use crate::types::hash::{self, DIGEST_BYTES_MAX};
use crate::types::{Block, Cid};

pub(super) const CODEC_RAW: u64 = 0x55;
pub(super) const CODEC_DAG_PB: u64 = 0x70;

const SHA2_256: u64 = 0x12;

/// Functions that Kubo adds with, besides `blake2b-N`. One of the reference's names is another one's alias.
const FUNCTIONS: [(&str, u64); 15] = [
    ("identity", hash::IDENTITY),
    ("sha1", 0x11),
    ("sha2-256", SHA2_256),
    ("sha2-512", 0x13),
    ("sha3", 0x14),
    ("sha3-224", 0x17),
    ("sha3-256", 0x16),
    ("sha3-384", 0x15),
    ("sha3-512", 0x14),
    ("shake-256", 0x19),
    ("keccak-256", 0x1b),
    ("keccak-512", 0x1d),
    ("dbl-sha2-256", 0x56),
    ("blake2s-256", 0xb260),
    ("blake3", 0x1e),
];

/// Names that the reference knows too, besides `blake2b-N` and `blake2s-N`. No daemon takes their blocks: they are not
/// safe, or the daemon cannot check them.
const OTHER_FUNCTIONS: [&str; 8] = [
    "murmur3-x64-64",
    "keccak-224",
    "keccak-384",
    "shake-128",
    "sha2-256-trunc254-padded",
    "x11",
    "md5",
    "poseidon-bls12_381-a2-fc1",
];

/// Shortest digest of BLAKE2b that daemons take, in bits.
const BLAKE2B_BITS_MIN: u32 = 160;

/// Gives blocks their CID.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming {
    is_v0: bool,
    /// Its multihash code.
    function: u64,
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
        if is_v0 && function != SHA2_256 {
            return Err(Error::invalid_input("CIDv0 only supports sha2-256: ask for cid-version 1"));
        }
        Ok(Self { is_v0, function })
    }

    /// A block of bytes and nothing else.
    pub(super) fn raw(self, data: Bytes) -> DagBlock {
        let cid = Cid::new_v1(CODEC_RAW, self.digest(&data));
        DagBlock { dag_bytes: data.len() as u64, block: Block { cid, data } }
    }

    /// A block of links and data, and how many bytes the blocks below it have.
    pub(super) fn dag_pb(self, data: Vec<u8>, bytes_below: u64) -> DagBlock {
        let data = Bytes::from(data);
        let digest = self.digest(&data);
        let v0 = self.is_v0.then(|| Cid::new_v0(digest).ok()).flatten();
        let cid = v0.unwrap_or_else(|| Cid::new_v1(CODEC_DAG_PB, digest));
        DagBlock { dag_bytes: bytes_below.saturating_add(data.len() as u64), block: Block { cid, data } }
    }

    /// What does not fit into a CID of the function `identity` is cut; [`check`] refuses such blocks.
    fn digest(self, data: &[u8]) -> Multihash<DIGEST_BYTES_MAX> {
        let fits = || hash::multihash(self.function, &data[..data.len().min(DIGEST_BYTES_MAX)]);
        hash::multihash(self.function, data).or_else(fits).unwrap_or_default()
    }
}

/// Refuses a block whose CID is not the whole of it although its function says so. Every block comes by here.
///
/// # Errors
/// `InvalidInput`
pub(super) fn check(block: &Block) -> Result<()> {
    let hash = block.cid.hash();
    if hash.code() != hash::IDENTITY || hash.digest().len() == block.data.len() {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "digest too large: with hash function identity a block has {DIGEST_BYTES_MAX} bytes at most, and one has {}; \
         use another function",
        block.data.len()
    )))
}

/// The multihash code of a function.
fn hash_function(name: &str) -> Result<u64> {
    let name = name.to_lowercase();
    if let Some((_, function)) = FUNCTIONS.iter().find(|(known, _)| *known == name) {
        return Ok(*function);
    }
    let bits = |prefix: &str, bits_max: u32| {
        let bits = name.strip_prefix(prefix).and_then(|bits| bits.parse::<u32>().ok());
        bits.filter(|bits| *bits > 0 && *bits <= bits_max && bits % 8 == 0)
    };
    let blake2b = bits("blake2b-", 512);
    if let Some(bits) = blake2b.filter(|bits| *bits >= BLAKE2B_BITS_MIN) {
        return Ok(0xb200 + u64::from(bits / 8));
    }
    if OTHER_FUNCTIONS.contains(&name.as_str()) || blake2b.or(bits("blake2s-", 256)).is_some() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "hash function {name} cannot be added with: IPFS daemons refuse its blocks; \
                 use sha2-256, sha2-512, sha3-256, blake2b-256 or blake3"
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
        assert!(message(1, "blake2b-152").starts_with("hash function blake2b-152 cannot be added with"));
        assert!(message(1, "blake2s-160").starts_with("hash function blake2s-160 cannot be added with"));
        assert!(message(0, "sha3").starts_with("CIDv0 only supports sha2-256"));
        assert!(Naming::new(1, "SHA3-256").is_ok());
    }

    #[test]
    fn every_function_that_is_offered_makes_blocks_that_can_be_checked() {
        let blake2b = (160..=512).step_by(8).map(|bits| format!("blake2b-{bits}"));
        for name in FUNCTIONS.iter().map(|(name, _)| (*name).to_owned()).chain(blake2b) {
            let made = Naming::new(1, &name).unwrap().raw(Bytes::from_static(b"some bytes")).block;
            assert_eq!(made.cid.hash().code(), hash_function(&name).unwrap(), "{name}");
            check(&made).unwrap();
            assert_eq!(Block::verified(made.cid, made.data.clone()).unwrap(), made, "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_into_its_own_cid_is_refused() {
        let identity = Naming::new(1, "identity").unwrap();
        let made = |bytes: usize| identity.raw(Bytes::from(vec![7; bytes])).block;
        check(&made(64)).unwrap();
        let message = check(&made(65)).unwrap_err().to_string();
        assert!(message.contains("64 bytes at most, and one has 65"), "{message}");
    }
}
