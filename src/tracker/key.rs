//! A CID as the tracker keeps it: its bytes, ordered as the pinset is, in 40 bytes instead of the parsed form's 96.

use std::cmp::Ordering;
use std::fmt;

use crate::error::{Error, Result};
use crate::types::Cid;

/// Longest CID kept without an allocation; those of 256-bit hashes have 34 to 38 bytes.
const INLINE_BYTES_MAX: usize = 38;

/// The binary form of a CID.
#[derive(Clone)]
pub(crate) struct CidKey(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Heap(Box<[u8]>),
}

impl CidKey {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Heap(bytes) => bytes,
        }
    }

    /// The parsed form.
    ///
    /// # Errors
    /// None that can happen: the bytes came from a CID.
    pub(crate) fn cid(&self) -> Result<Cid> {
        Cid::read_bytes(self.as_bytes()).map_err(|source| {
            Error::internal(format!("the tracker keeps bytes that are no cid: {source}")).component("tracker")
        })
    }
}

impl From<&Cid> for CidKey {
    fn from(cid: &Cid) -> Self {
        let len = cid.encoded_len();
        let mut bytes = [0; INLINE_BYTES_MAX];
        if len <= INLINE_BYTES_MAX && cid.write_bytes(&mut bytes[..]).is_ok() {
            Self(Repr::Inline { len: len as u8, bytes })
        } else {
            Self(Repr::Heap(cid.to_bytes().into_boxed_slice()))
        }
    }
}

impl PartialEq for CidKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for CidKey {}

impl PartialOrd for CidKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CidKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for CidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cid() {
            Ok(cid) => fmt::Display::fmt(&cid, f),
            Err(_) => write!(f, "{:?}", self.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::parse_cid;

    const V0: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";

    #[test]
    fn a_key_is_small_and_gives_its_cid_back() {
        assert_eq!(size_of::<CidKey>(), 40);
        let v0 = parse_cid(V0).unwrap();
        let v1 = Cid::new_v1(v0.codec(), *v0.hash());
        let long = Cid::new_v1(
            0x55,
            multihash_codetable::MultihashDigest::digest(&multihash_codetable::Code::Sha2_512, b"long"),
        );
        for cid in [v0, v1, long] {
            let key = CidKey::from(&cid);
            assert_eq!(key.cid().unwrap(), cid);
            assert_eq!(key.as_bytes(), cid.to_bytes());
        }
    }

    #[test]
    fn keys_order_as_the_binary_cid_does() {
        let v0 = parse_cid(V0).unwrap();
        let v1 = Cid::new_v1(v0.codec(), *v0.hash());
        // 0x01 of version 1 sorts before 0x12 of a bare sha2-256 multihash.
        assert!(CidKey::from(&v1) < CidKey::from(&v0));
    }
}
