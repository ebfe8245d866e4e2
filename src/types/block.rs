//! Blocks: bytes and the CID that names them.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest};

use super::{Cid, hash};
use crate::error::{Error, ErrorKind, Result};

/// Bytes under their CID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The name.
    pub cid: Cid,
    /// The bytes.
    pub data: Bytes,
}

impl Block {
    /// Checks that the bytes belong to the CID.
    ///
    /// # Errors
    /// `Corrupt` when they do not; `Unsupported` when the hash function is not known here.
    pub fn verified(cid: Cid, data: Bytes) -> Result<Self> {
        let code = cid.hash().code();
        match hash::multihash(code, &data) {
            Some(hash) if hash == *cid.hash() => Ok(Self { cid, data }),
            None if !hash::is_known(code) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("cannot verify {cid}: unknown hash function {code:#x}"),
            )),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                format!("these {} bytes are not the block {cid}", data.len()),
            )),
        }
    }

    /// A raw block (CIDv1, codec raw, SHA-256).
    pub fn raw(data: impl Into<Bytes>) -> Self {
        const CODEC_RAW: u64 = 0x55;
        let data = data.into();
        Self { cid: Cid::new_v1(CODEC_RAW, Code::Sha2_256.digest(&data)), data }
    }
}
