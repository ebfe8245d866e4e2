//! Blocks: bytes and the CID that names them.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest};

use super::Cid;
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
        let code = Code::try_from(cid.hash().code()).map_err(|_| {
            Error::new(
                ErrorKind::Unsupported,
                format!("cannot verify {cid}: unknown hash function {:#x}", cid.hash().code()),
            )
        })?;
        if code.digest(&data).digest() != cid.hash().digest() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("these {} bytes are not the block {cid}", data.len()),
            ));
        }
        Ok(Self { cid, data })
    }

    /// A raw block (CIDv1, codec raw, SHA-256).
    pub fn raw(data: impl Into<Bytes>) -> Self {
        const CODEC_RAW: u64 = 0x55;
        let data = data.into();
        Self { cid: Cid::new_v1(CODEC_RAW, Code::Sha2_256.digest(&data)), data }
    }
}
