//! CIDs, peer ids and times as text, written straight into a buffer: their `Display` goes through allocations that an
//! export of millions of lines would feel.

use std::io::Write;

use crate::types::{Cid, PeerId, Timestamp};

/// Longer than any binary CID or peer id: two varints, a multihash header and a digest of 64 bytes.
const BINARY_BYTES_MAX: usize = 128;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// The largest power of 58 below 2^32, and its exponent.
const BASE58_CHUNK: u64 = 58 * 58 * 58 * 58 * 58;
const BASE58_CHUNK_DIGITS: usize = 5;
/// Digits of the longest binary form: 1.37 for each byte.
const BASE58_DIGITS_MAX: usize = BINARY_BYTES_MAX * 138 / 100 + BASE58_CHUNK_DIGITS;

pub(super) fn write_cid(cid: &Cid, out: &mut Vec<u8>) {
    let mut buffer = [0; BINARY_BYTES_MAX];
    match cid.write_bytes(&mut buffer[..]) {
        Ok(length) if cid.version() == cid::Version::V0 => write_base58(&buffer[..length], out),
        Ok(length) => {
            out.push(b'b');
            write_base32(&buffer[..length], out);
        }
        Err(_) => write_display(cid, out),
    }
}

pub(super) fn write_peer(peer: &PeerId, out: &mut Vec<u8>) {
    let mut buffer = [0; BINARY_BYTES_MAX];
    match peer.as_ref().write(&mut buffer[..]) {
        Ok(length) => write_base58(&buffer[..length], out),
        Err(_) => write_display(peer, out),
    }
}

pub(super) fn write_time(time: Timestamp, out: &mut Vec<u8>) {
    let second = time.unix_seconds();
    let days = second.div_euclid(86_400);
    let Some((year, month, day)) = (time.truncated_to_seconds() == time).then(|| date(days)).flatten() else {
        return write_display(&time, out);
    };
    let second = second.rem_euclid(86_400) as u32;
    let mut text = *b"0000-00-00T00:00:00Z";
    let two = |text: &mut [u8; 20], at: usize, number: u32| {
        text[at] = b'0' + (number / 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    };
    two(&mut text, 0, year / 100);
    two(&mut text, 2, year % 100);
    two(&mut text, 5, month);
    two(&mut text, 8, day);
    two(&mut text, 11, second / 3600);
    two(&mut text, 14, second / 60 % 60);
    two(&mut text, 17, second % 60);
    out.extend_from_slice(&text);
}

/// Year, month and day of a number of days since 1970; none outside the years 1970 to 9999.
fn date(days: i64) -> Option<(u32, u32, u32)> {
    /// Days from 0000-03-01, where leap days come last in their year, to 1970-01-01.
    const EPOCH: u32 = 719_468;
    const ERA: u32 = 146_097; // 400 years
    let days = u32::try_from(days).ok().filter(|days| *days < 2_932_897)? + EPOCH;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // from March
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year;
    Some(if month < 10 { (year, month + 3, day_of_month) } else { (year + 1, month - 9, day_of_month) })
}

pub(super) fn write_display(value: &impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

fn write_base32(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(5) {
        let mut block = [0; 8];
        block[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(block);
        let text: [u8; 8] = std::array::from_fn(|index| BASE32[(bits >> (35 - 5 * index) & 31) as usize]);
        out.extend_from_slice(&text[..(chunk.len() * 8).div_ceil(5)]);
    }
}

/// At most [`BINARY_BYTES_MAX`] bytes: the number they make is divided by 58^5 over and over, in words of 32 bits.
fn write_base58(bytes: &[u8], out: &mut Vec<u8>) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    out.extend(std::iter::repeat_n(BASE58[0], zeros));
    let number = &bytes[zeros..];
    let mut words = [0u32; BINARY_BYTES_MAX / 4];
    let count = number.len().div_ceil(4);
    for (word, chunk) in words[..count].iter_mut().rev().zip(number.rchunks(4)) {
        *word = chunk.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    let mut words = &mut words[..count];
    // Filled from the end.
    let mut digits = [0u8; BASE58_DIGITS_MAX];
    let mut start = digits.len();
    while let [first, ..] = words {
        if *first == 0 {
            words = &mut words[1..];
            continue;
        }
        let mut rest = 0u64;
        for word in words.iter_mut() {
            let value = rest << 32 | u64::from(*word);
            *word = (value / BASE58_CHUNK) as u32;
            rest = value % BASE58_CHUNK;
        }
        for _ in 0..BASE58_CHUNK_DIGITS {
            start -= 1;
            digits[start] = BASE58[(rest % 58) as usize];
            rest /= 58;
        }
    }
    // The last chunk is filled up with zeros in front.
    let digits = &digits[start..];
    let padding = digits.iter().take_while(|digit| **digit == BASE58[0]).count();
    out.extend_from_slice(&digits[padding..]);
}

#[cfg(test)]
mod tests {
    use multihash_codetable::{Code, MultihashDigest};
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn identity(code: u64, digest: &[u8]) -> cid::multihash::Multihash<64> {
        cid::multihash::Multihash::wrap(code, digest).unwrap()
    }

    proptest! {
        #[test]
        fn cids_and_peers_are_written_as_their_display_does(
            digest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0)], 0..=64),
            codec in any::<u64>(), code in any::<u64>(),
        ) {
            let cid = Cid::new_v1(codec, identity(code, &digest));
            prop_assert_eq!(text(|out| write_cid(&cid, out)), cid.to_string());
            let cid = Cid::new_v0(Code::Sha2_256.digest(&digest)).unwrap();
            prop_assert_eq!(text(|out| write_cid(&cid, out)), cid.to_string());
            if digest.len() <= 42 {
                let peer = PeerId::from_multihash(identity(0, &digest)).unwrap();
                prop_assert_eq!(text(|out| write_peer(&peer, out)), peer.to_string());
            }
        }

        #[test]
        fn times_are_written_as_their_display_does(second in -400_000_000_000i64..300_000_000_000) {
            let time = Timestamp::from_unix_seconds(second);
            prop_assert_eq!(text(|out| write_time(time, out)), time.to_string());
        }
    }

    #[test]
    fn every_day_of_ten_thousand_years_is_right() {
        for day in -1..=2_932_897i64 {
            if day % 97 > 3 && day % 365 > 2 {
                continue;
            }
            let time = Timestamp::from_unix_seconds(day * 86_400 + day % 86_400);
            assert_eq!(text(|out| write_time(time, out)), time.to_string(), "day {day}");
        }
        let fraction = Timestamp::from_unix_nanoseconds(1_700_000_000_123_000_000);
        assert_eq!(text(|out| write_time(fraction, out)), "2023-11-14T22:13:20.123Z");
    }
}
