//! The names of pins and blocks inside deltas, as the reference's datastore writes them.
//!
//! A pin is `/` and the base32 (upper case, no padding) of its binary CID, so the two versions of a CID are two pins. A
//! block is `/` and the base32 of its multihash. Both are kept in their binary form here; whatever is not spelt in
//! exactly one way is no name.

use data_encoding::BASE32_NOPAD;
use multihash_codetable::{Code, MultihashDigest as _};

use crate::types::Cid;

/// SHA-256 of a block, which is all that tells one block from another.
pub(super) type Digest = [u8; 32];

const CODEC_DAG_PB: u64 = 0x70;
const HASH_SHA2_256: u64 = 0x12;
/// What the multihash of a block begins with: the function and the length of the digest.
const MULTIHASH_PREFIX: [u8; 2] = [0x12, 0x20];
/// Longest binary CID: version, codec and function as varints, length, and 64 bytes of digest.
const CID_BYTES_MAX: usize = 9 + 9 + 9 + 1 + 64;

/// The key of a pin.
pub(super) fn of_pin(cid: &Cid) -> String {
    spell(&cid.to_bytes())
}

/// The pin that a key names; none when the key is no CID, or not spelt as [`of_pin`] would.
pub(super) fn to_pin(key: &str) -> Option<Cid> {
    pin_of_bytes(&read(key, CID_BYTES_MAX)?)
}

/// The pin of a binary CID in its one form.
pub(super) fn pin_of_bytes(bytes: &[u8]) -> Option<Cid> {
    let cid = Cid::try_from(bytes).ok()?;
    // The parser takes longer varints than needed, and ignores what follows.
    (cid.to_bytes() == bytes).then_some(cid)
}

/// The id of a block's elements.
pub(super) fn of_block(digest: &Digest) -> String {
    spell(&[&MULTIHASH_PREFIX[..], digest].concat())
}

/// The block that an id names; none for other hash functions than SHA-256.
pub(super) fn to_block(id: &str) -> Option<Digest> {
    let multihash = read(id, MULTIHASH_PREFIX.len() + size_of::<Digest>())?;
    multihash.strip_prefix(&MULTIHASH_PREFIX)?.try_into().ok()
}

/// The CID of a block of the DAG.
pub(super) fn block_cid(digest: &Digest) -> Cid {
    // A digest of 32 bytes always fits, so the other arm is never reached.
    match cid::multihash::Multihash::wrap(HASH_SHA2_256, digest) {
        Ok(multihash) => Cid::new_v1(CODEC_DAG_PB, multihash),
        Err(_) => Cid::default(),
    }
}

/// The block of a binary CID: version 1, dag-pb, SHA-256, in its one form.
pub(super) fn block_of_bytes(bytes: &[u8]) -> Option<Cid> {
    const PREFIX: [u8; 4] = [1, CODEC_DAG_PB as u8, MULTIHASH_PREFIX[0], MULTIHASH_PREFIX[1]];
    bytes.strip_prefix(&PREFIX)?.try_into().ok().map(block_cid)
}

/// The digest in the CID of a block of the DAG: version 1, dag-pb, SHA-256. None for every other CID.
pub(super) fn block_digest(cid: &Cid) -> Option<Digest> {
    let is_ours = cid.version() == cid::Version::V1
        && cid.codec() == CODEC_DAG_PB
        && cid.hash().code() == HASH_SHA2_256;
    if is_ours { cid.hash().digest().try_into().ok() } else { None }
}

/// The CID of these bytes as a block of the DAG.
pub(super) fn cid_of(block: &[u8]) -> Cid {
    Cid::new_v1(CODEC_DAG_PB, Code::Sha2_256.digest(block))
}

fn spell(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(1 + BASE32_NOPAD.encode_len(bytes.len()));
    text.push('/');
    BASE32_NOPAD.encode_append(bytes, &mut text);
    text
}

fn read(text: &str, bytes_max: usize) -> Option<Vec<u8>> {
    let text = text.strip_prefix('/')?;
    if text.len() > BASE32_NOPAD.encode_len(bytes_max) {
        return None;
    }
    BASE32_NOPAD.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use crate::types::cid::parse_cid;

    #[test]
    fn keys_of_pins_are_the_references() {
        let vectors = vectors::group("dskey/");
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let cid = parse_cid(vector.decoded["cid"].as_str().unwrap()).unwrap();
            let key = vector.decoded["key"].as_str().unwrap();
            assert_eq!(key.as_bytes(), vector.bytes(), "{}", vector.name);
            assert_eq!(of_pin(&cid), key, "{}", vector.name);
            assert_eq!(to_pin(key), Some(cid), "{}", vector.name);
        }
    }

    #[test]
    fn the_two_versions_of_a_cid_are_two_pins() {
        let old = parse_cid("QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR").unwrap();
        let new = Cid::new_v1(CODEC_DAG_PB, *old.hash());
        assert_ne!(of_pin(&old), of_pin(&new));
        assert_eq!(to_pin(&of_pin(&old)), Some(old));
        assert_eq!(to_pin(&of_pin(&new)), Some(new));
    }

    #[test]
    fn what_is_spelt_otherwise_is_no_key() {
        let good = "/AFYBEIGDYRZT5SFP7UDM7HU76UH7Y26NF3EFUYLQABF3OCLGTQY55FBZDI";
        assert!(to_pin(good).is_some());
        let longer = format!("{good}AA");
        let lower = good.to_lowercase();
        let nested = format!("/pins{good}");
        // The last character carries bits that belong to no byte.
        let other_bits = format!("{}J", &good[..good.len() - 1]);
        let endless = format!("/{}", "A".repeat(1 << 20));
        for bad in ["", "/", "A", &good[1..], &longer, &lower, &nested, &other_bits, &endless, "/0189", "/é"]
        {
            assert_eq!(to_pin(bad), None, "{bad}");
        }
        // A varint of two bytes where one does.
        let [version, rest @ ..] = &*BASE32_NOPAD.decode(&good.as_bytes()[1..]).unwrap() else { panic!() };
        let long_varint = [&[version | 0x80, 0], rest].concat();
        assert_eq!(to_pin(&spell(&long_varint)), None);
    }

    #[test]
    fn ids_of_blocks_are_those_of_their_multihash() {
        for vector in vectors::group("crdt/").iter().filter(|vector| vector.name.ends_with("/block")) {
            let cid = parse_cid(vector.decoded["cid"].as_str().unwrap()).unwrap();
            let id = vector.decoded["block_id"].as_str().unwrap();
            let digest = block_digest(&cid).unwrap();
            assert_eq!(cid_of(&vector.bytes()), cid, "{}", vector.name);
            assert_eq!(of_block(&digest), id, "{}", vector.name);
            assert_eq!(to_block(id), Some(digest), "{}", vector.name);
            assert_eq!(block_cid(&digest), cid, "{}", vector.name);
        }
    }

    #[test]
    fn other_hashes_and_codecs_are_no_blocks() {
        let sha = Code::Sha2_256.digest(b"x");
        for cid in [
            Cid::new_v1(0x55, sha),
            Cid::new_v0(sha).unwrap(),
            Cid::new_v1(CODEC_DAG_PB, Code::Sha2_512.digest(b"x")),
            Cid::new_v1(CODEC_DAG_PB, Code::Blake2b256.digest(b"x")),
        ] {
            assert_eq!(block_digest(&cid), None, "{cid}");
        }
        let blake = spell(&Code::Blake2b256.digest(b"x").to_bytes());
        assert_eq!(to_block(&blake), None);
        assert_eq!(to_block("/CIQ"), None);
    }
}
