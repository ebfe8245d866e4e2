//! Hash functions that blocks are named by. One place for all who make or check blocks.

use ::cid::multihash::Multihash;
use multihash_codetable::{Code, MultihashDigest as _};

/// What [`Cid`](super::Cid) has room for, in bytes.
pub(crate) const DIGEST_BYTES_MAX: usize = 64;

/// Multihash code of data that is its own hash.
pub(crate) const IDENTITY: u64 = 0x00;
const DBL_SHA2_256: u64 = 0x56;
#[cfg(feature = "add")]
const SHA1: u64 = 0x11;
#[cfg(feature = "add")]
const SHAKE_256: u64 = 0x19;
/// BLAKE2b with 20 bytes; the others follow, a byte more each. Shorter ones are refused everywhere: they are guessed.
const BLAKE2B_160: u64 = 0xb214;
const BLAKE2B_512: u64 = 0xb240;

/// The multihash of bytes. None for a function that is not known here, and for more bytes than fit into an
/// [`IDENTITY`].
///
/// Known are, besides SHA-2 and BLAKE2b of every safe length, those that Kubo makes blocks with: the rest of them with the
/// feature `add`.
pub(crate) fn multihash(code: u64, data: &[u8]) -> Option<Multihash<DIGEST_BYTES_MAX>> {
    if let Ok(code) = Code::try_from(code) {
        return Some(code.digest(data));
    }
    match code {
        IDENTITY => Multihash::wrap(code, data).ok(),
        DBL_SHA2_256 => {
            Multihash::wrap(code, Code::Sha2_256.digest(Code::Sha2_256.digest(data).digest()).digest()).ok()
        }
        BLAKE2B_160..=BLAKE2B_512 => {
            let bytes = usize::try_from(code - BLAKE2B_160 + 20).ok()?;
            let digest = blake2b_simd::Params::new().hash_length(bytes).hash(data);
            Multihash::wrap(code, digest.as_bytes()).ok()
        }
        #[cfg(feature = "add")]
        SHA1 => {
            use sha1::Digest as _;
            Multihash::wrap(code, &sha1::Sha1::digest(data)).ok()
        }
        #[cfg(feature = "add")]
        SHAKE_256 => {
            use shake::{ExtendableOutput as _, Update as _, XofReader as _};
            let mut digest = [0; DIGEST_BYTES_MAX];
            let mut shake = shake::Shake256::default();
            shake.update(data);
            shake.finalize_xof().read(&mut digest);
            Multihash::wrap(code, &digest).ok()
        }
        _ => None,
    }
}

/// Whether [`multihash`] knows the function.
pub(crate) fn is_known(code: u64) -> bool {
    multihash(code, &[]).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(code: u64, data: &[u8]) -> String {
        hex::encode(multihash(code, data).unwrap().digest())
    }

    #[test]
    fn functions_without_a_table_of_ours_give_what_is_published_of_them() {
        assert_eq!(hex(IDENTITY, b"abc"), "616263");
        assert_eq!(multihash(IDENTITY, &[1; 64]).unwrap().size(), 64);
        assert!(multihash(IDENTITY, &[1; 65]).is_none());
        assert_eq!(
            hex(DBL_SHA2_256, b"hello"),
            "9595c9df90075148eb06860365df33584b75bff782a510c6cd4883a419833d50"
        );
        assert_eq!(hex(BLAKE2B_160, b"abc"), "384264f676f39536840523f284921cdc68b6846b");
        assert_eq!(hex(BLAKE2B_512, b"abc"), hex::encode(Code::Blake2b512.digest(b"abc").digest()));
        for unknown in [0x01, 0x18, 0x22, 0xd5, 0xb213, 0xb261, u64::MAX] {
            assert!(!is_known(unknown), "{unknown:#x}");
        }
    }

    #[cfg(feature = "add")]
    #[test]
    fn functions_of_adds_give_what_is_published_of_them() {
        assert_eq!(hex(SHA1, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(
            hex(SHAKE_256, b""),
            "46b9dd2b0ba88d13233b3feb743eeb243fcd52ea62b81b82b50c27646ed5762f\
             d75dc4ddd8c0f200cb05019d67b592f6fc821c49479ab48640292eacb3b7c4be"
        );
        for known in [0x14, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0xb260] {
            assert!(is_known(known), "{known:#x}");
        }
    }
}
