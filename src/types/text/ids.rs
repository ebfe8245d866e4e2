//! CIDs and peer ids: base32 and base58 without allocation and without long division.

use super::plain;
use crate::types::{Cid, PeerId};

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Longest input of the fast base58; a CID of version 0 has 34 bytes, a peer id at most 39 as a rule.
const BASE58_BYTES_MAX: usize = 40;
/// Limbs of 32 bits in that input.
const LIMBS: usize = BASE58_BYTES_MAX / 4;
/// Characters that one digit stands for: 58^5 is the largest power that lets a digit times 2^32 fit into 64 bits.
const CHARACTERS: usize = 5;
const DIGIT: u64 = 58u64.pow(CHARACTERS as u32);
/// Digits needed for the largest input: 58^55 > 2^320.
const DIGITS: usize = 11;

/// Longest binary CID taken by the fast path: version, codec, and a hash with at most 64 bytes of digest.
const CID_BYTES_MAX: usize = 1 + 10 + 10 + 2 + 64;

/// A CID as a quoted string, in the base that belongs to its version.
pub(crate) fn cid(out: &mut Vec<u8>, cid: &Cid) {
    let mut buffer = [0; CID_BYTES_MAX];
    let Ok(length) = cid.write_bytes(&mut buffer[..]) else { return plain(out, cid) };
    let bytes = &buffer[..length];
    match cid.version() {
        ::cid::Version::V0 => {
            out.push(b'"');
            base58(out, bytes);
        }
        ::cid::Version::V1 => {
            out.extend_from_slice(b"\"b");
            base32(out, bytes);
        }
    }
    out.push(b'"');
}

/// A peer id as a quoted string.
pub(crate) fn peer(out: &mut Vec<u8>, peer: &PeerId) {
    let mut buffer = [0; BASE58_BYTES_MAX];
    let hash: &multihash_codetable::Multihash = peer.as_ref();
    match hash.write(&mut buffer[..]) {
        Ok(length) => {
            out.push(b'"');
            base58(out, &buffer[..length]);
            out.push(b'"');
        }
        // Longer than the buffer.
        Err(_) => plain(out, peer),
    }
}

/// RFC 4648 in lowercase without padding.
fn base32(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut groups = bytes.chunks_exact(5);
    for group in &mut groups {
        let bits = group.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        let mut characters = [0; 8];
        for (index, character) in characters.iter_mut().enumerate() {
            *character = BASE32[(bits >> (35 - 5 * index) & 31) as usize];
        }
        out.extend_from_slice(&characters);
    }
    let rest = groups.remainder();
    if !rest.is_empty() {
        let bits = rest.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        let bits = bits << (40 - 8 * rest.len());
        for index in 0..(8 * rest.len()).div_ceil(5) {
            out.push(BASE32[(bits >> (35 - 5 * index) & 31) as usize]);
        }
    }
}

/// Base58 with Bitcoin's alphabet, of at most [`BASE58_BYTES_MAX`] bytes.
fn base58(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() <= BASE58_BYTES_MAX);
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let mut padded = [0; BASE58_BYTES_MAX];
    padded[BASE58_BYTES_MAX - bytes.len()..].copy_from_slice(bytes);

    // The number in base 58^5, least digit first. Each limb shifts what is there by 32 bits and is added.
    let mut digits = [0u64; DIGITS];
    let mut used = 0;
    let first_limb = (BASE58_BYTES_MAX - bytes.len() + zeros) / 4;
    for limb in padded.as_chunks::<4>().0.iter().take(LIMBS).skip(first_limb) {
        let mut carry = u64::from(u32::from_be_bytes(*limb));
        for digit in &mut digits[..used] {
            let value = (*digit << 32) + carry;
            *digit = value % DIGIT;
            carry = value / DIGIT;
        }
        while carry > 0 {
            digits[used] = carry % DIGIT;
            carry /= DIGIT;
            used += 1;
        }
    }

    let mut characters = [0; DIGITS * CHARACTERS];
    for (place, digit) in
        characters.as_chunks_mut::<CHARACTERS>().0.iter_mut().zip(digits[..used].iter().rev())
    {
        let mut digit = *digit as u32;
        for character in place.iter_mut().rev() {
            *character = BASE58[(digit % 58) as usize];
            digit /= 58;
        }
    }
    let characters = &characters[..used * CHARACTERS];
    // The first digit may begin with zeros, which stand for nothing; those of the input stand for a byte each.
    let padding = characters.iter().take_while(|character| **character == BASE58[0]).count();
    out.extend(std::iter::repeat_n(BASE58[0], zeros));
    out.extend_from_slice(&characters[padding..]);
}

#[cfg(test)]
mod tests {
    use multihash_codetable::{Code, MultihashDigest};
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ids_are_written_as_their_types_write_them() {
        for text in [
            "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
            "bafkreibbqbepiwqn3xbatuazqgnb5qr7xookqfrknmqbunpcuj2nrcteeq",
            "bafyreihhs44z5poongx4foqmi5srjjprxr6t32skehybhlmpdu22ojd4cm",
        ] {
            assert_eq!(written(|out| cid(out, &text.parse().unwrap())), format!("\"{text}\""));
        }
        for text in [
            "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK",
            "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
        ] {
            assert_eq!(written(|out| peer(out, &text.parse().unwrap())), format!("\"{text}\""));
        }
    }

    #[test]
    fn a_number_of_zeros_or_of_ones_is_written_whole() {
        for bytes in
            [vec![], vec![0], vec![0; 40], vec![255; 40], vec![0, 0, 1], vec![58], vec![0, 255, 0, 0]]
        {
            let expected = multiaddr_base58(&bytes);
            assert_eq!(written(|out| base58(out, &bytes)), expected, "{bytes:?}");
        }
    }

    /// Schoolbook base58, for comparison.
    fn multiaddr_base58(bytes: &[u8]) -> String {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let mut digits: Vec<u32> = Vec::new();
        for &byte in bytes {
            let mut carry = u32::from(byte);
            for digit in &mut digits {
                carry += *digit << 8;
                *digit = carry % 58;
                carry /= 58;
            }
            while carry > 0 {
                digits.push(carry % 58);
                carry /= 58;
            }
        }
        let characters = digits.iter().rev().map(|digit| BASE58[*digit as usize] as char);
        std::iter::repeat_n('1', zeros).chain(characters).collect()
    }

    proptest! {
        #[test]
        fn base58_is_that_of_the_schoolbook(bytes in proptest::collection::vec(any::<u8>(), 0..=BASE58_BYTES_MAX)) {
            prop_assert_eq!(written(|out| base58(out, &bytes)), multiaddr_base58(&bytes));
        }

        #[test]
        fn a_cid_is_written_as_it_displays(data: Vec<u8>, codec: u64, code in 0usize..4) {
            let code = [Code::Sha2_256, Code::Sha2_512, Code::Blake2b256, Code::Blake2b512][code];
            let v1 = Cid::new_v1(codec, code.digest(&data));
            prop_assert_eq!(written(|out| cid(out, &v1)), format!("\"{v1}\""));
            let v0 = Cid::new_v0(Code::Sha2_256.digest(&data)).unwrap();
            prop_assert_eq!(written(|out| cid(out, &v0)), format!("\"{v0}\""));
        }

        #[test]
        fn a_cid_of_any_hash_is_written_as_it_displays(
            digest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0)], 0..=64), codec: u64, code: u64,
        ) {
            let any = Cid::new_v1(codec, multihash_codetable::Multihash::wrap(code, &digest).unwrap());
            prop_assert_eq!(written(|out| cid(out, &any)), format!("\"{any}\""));
        }

        #[test]
        fn a_peer_id_is_written_as_it_displays(digest in proptest::collection::vec(any::<u8>(), 0..=42)) {
            let hash = multihash_codetable::Multihash::wrap(0, &digest).unwrap();
            if let Ok(id) = PeerId::from_multihash(hash) {
                prop_assert_eq!(written(|out| peer(out, &id)), format!("\"{id}\""));
            }
        }
    }
}
