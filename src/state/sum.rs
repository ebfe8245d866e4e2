//! A sum that is the same on every peer that has the same pinset, in whatever order it came.

use multihash_codetable::{Code, MultihashDigest as _};

use super::codec;
use crate::types::Pin;

/// What one entry adds to the sum: the first 128 bits of the SHA-256 of its CID and its value, as a big-endian number.
///
/// The value is the reference's protobuf and not the stored record, so that peers with other versions of the record agree.
pub(super) fn of_pin(pin: &Pin) -> u128 {
    of_value(&pin.cid.to_bytes(), &codec::encode_pin_protobuf(pin))
}

/// The same of an entry's binary CID and value.
pub(super) fn of_value(cid: &[u8], value: &[u8]) -> u128 {
    let digest = Code::Sha2_256.digest(&[cid, value].concat());
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(digest.digest()) {
        *to = *from;
    }
    u128::from_be_bytes(first)
}
