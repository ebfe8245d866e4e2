//! Texts of JSON that are printed as they came: borrowed, and looked at only as far as tells that they are what they
//! must be. What is not in its usual form is read and written anew.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use ipfs_cluster::types::{Timestamp, parse_cid, parse_peer};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// What the reference writes where a time is not set.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
/// First and last CID of version 0, and first and last peer id of a key of Ed25519. The letters of base 58 are in the
/// order of their values, so that texts of one length compare as what they stand for.
const CIDS_V0: [&str; 2] =
    ["QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51", "QmfZy5bvk7a3DQAjCbGNtmrPXWkyVvPrdnZMyBZ5q5ieKG"];
const PEERS: [&str; 2] = [
    "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw",
    "12D3KooWT3gYEvLJyx1FyyHqrmvdy1tMjpgxmu9aSeKMEuafQtyC",
];
/// CIDs of version 1 in base 32 with 32 bytes of SHA-256: dag-pb and raw. The first letter behind has two bits of the
/// prefix, which are 0, and the last one two that stand for nothing.
const CIDS_V1: [&str; 2] = ["bafybei", "bafkrei"];
const CID_V1_BYTES: usize = 59;

/// Any text.
#[derive(Clone, Debug, Default)]
pub(super) struct Text<'a>(Cow<'a, str>);

/// A CID in its usual form.
#[derive(Debug)]
pub(super) struct CidText<'a>(Cow<'a, str>);

/// A peer id in its usual form.
#[derive(Debug)]
pub(super) struct PeerText<'a>(Cow<'a, str>);

/// A time in its usual form, if it is set.
#[derive(Debug, Default)]
pub(super) struct TimeText<'a>(Option<Cow<'a, str>>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Deref for CidText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Deref for PeerText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl TimeText<'_> {
    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

// Unlike the `Cow` of serde, which borrows nothing.
impl<'a, 'de: 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrows;
        impl<'de> Visitor<'de> for Borrows {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrows)
    }
}

impl<'a, 'de: 'a> Deserialize<'de> for CidText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        if is_usual_cid(&text) {
            return Ok(Self(text));
        }
        parse_cid(&text).map(|cid| Self(Cow::Owned(cid.to_string()))).map_err(D::Error::custom)
    }
}

impl<'a, 'de: 'a> Deserialize<'de> for PeerText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        if is_between(&text, PEERS) {
            return Ok(Self(text));
        }
        parse_peer(&text).map(|peer| Self(Cow::Owned(peer.to_string()))).map_err(D::Error::custom)
    }
}

impl<'a, 'de: 'a> Deserialize<'de> for TimeText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(Text(text)) = Option::deserialize(deserializer)? else { return Ok(Self(None)) };
        if text.is_empty() || text == ZERO_TIME {
            return Ok(Self(None));
        }
        if is_usual_time(text.as_bytes()) {
            return Ok(Self(Some(text)));
        }
        let time = text.parse::<Timestamp>().map_err(D::Error::custom)?;
        Ok(Self(Some(Cow::Owned(time.to_string()))))
    }
}

fn is_usual_cid(text: &str) -> bool {
    if text.len() != CID_V1_BYTES {
        return is_between(text, CIDS_V0);
    }
    let digest = CIDS_V1.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or_default().as_bytes();
    matches!(digest, [b'a'..=b'h', middle @ .., last]
        if middle.iter().all(|letter| matches!(letter, b'a'..=b'z' | b'2'..=b'7'))
            && matches!(last, b'a' | b'e' | b'i' | b'm' | b'q' | b'u' | b'y' | b'4'))
}

/// Whether this is a text of base 58 from the first to the last, which have its length.
fn is_between(text: &str, [first, last]: [&str; 2]) -> bool {
    text.len() == first.len()
        && (first..=last).contains(&text)
        && text.bytes().all(|letter| matches!(letter, b'1'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'))
        && !text.bytes().any(|letter| matches!(letter, b'I' | b'O' | b'l'))
}

/// Whether this is how a time is written: a time that there is, in UTC, its fraction not ended by a 0. The last days of
/// months and the last year, which need a second look, are not said to be.
fn is_usual_time(text: &[u8]) -> bool {
    let Some((seconds, fraction)) = text.split_at_checked(19) else { return false };
    let pattern = b"0000-00-00T00:00:00";
    let has_form = seconds.iter().zip(pattern).all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        form => byte == form,
    });
    let is_fraction = match fraction {
        [b'Z'] => true,
        [b'.', digits @ .., b'1'..=b'9', b'Z'] => digits.len() < 9 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let two = |at: usize| &seconds[at..at + 2];
    let (year, month, day) = (&seconds[..4], two(5), two(8));
    has_form
        && is_fraction
        && (&b"0001"[..]..b"9999").contains(&year)
        && (&b"01"[..]..=b"12").contains(&month)
        && (&b"01"[..]..=b"28").contains(&day)
        && *two(11) <= b"23"[..]
        && *two(14) <= b"59"[..]
        && *two(17) <= b"59"[..]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipfs_cluster::types::{Cid, PeerId};

    use super::*;

    fn json<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// `text`, and texts that differ from it by one letter, and by length.
    fn neighbours(text: &str) -> BTreeSet<String> {
        let mut texts: BTreeSet<String> =
            BTreeSet::from([text.to_owned(), format!("{text}1"), text[1..].to_owned()]);
        for at in 0..text.len() {
            for letter in "019AHIJNOPQRZabeghijlmnopyz234567_-:.Tt ü".chars() {
                texts.insert(format!("{}{letter}{}", &text[..at], &text[at + 1..]));
            }
        }
        texts
    }

    #[test]
    fn what_is_taken_as_it_came_is_what_reading_and_writing_would_give() {
        let cids = [
            CIDS_V0[0],
            CIDS_V0[1],
            "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
            "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
            "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
        ];
        let mut usual = 0;
        for text in cids.iter().flat_map(|cid| neighbours(cid)) {
            if is_usual_cid(&text) {
                usual += 1;
                assert_eq!(text.parse::<Cid>().unwrap().to_string(), text);
            }
        }
        let peers = PEERS.into_iter().chain(["12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK"]);
        for text in peers.flat_map(neighbours) {
            if is_between(&text, PEERS) {
                usual += 1;
                assert_eq!(text.parse::<PeerId>().unwrap().to_string(), text);
            }
        }
        let times = ["2026-11-20T23:16:36Z", "2026-02-28T00:00:59.123456789Z", "2026-11-20T23:16:36.5Z"];
        for text in times.into_iter().flat_map(neighbours) {
            if is_usual_time(text.as_bytes()) {
                usual += 1;
                assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), text);
            }
        }
        assert!(
            cids.iter().all(|cid| is_usual_cid(cid))
                && times.iter().all(|time| is_usual_time(time.as_bytes()))
        );
        assert!(PEERS.iter().all(|peer| is_between(peer, PEERS)));
        assert!(usual > 3_000, "{usual}");
    }

    #[test]
    fn the_last_and_the_first_of_base_58_are_those_of_no_and_of_all_bits() {
        for (bits, at) in [(0x00, 0), (0xff, 1)] {
            let mut hash = vec![0x12, 0x20];
            hash.extend([bits; 32]);
            assert_eq!(Cid::try_from(hash.as_slice()).unwrap().to_string(), CIDS_V0[at]);
            let mut key = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
            key.extend([bits; 32]);
            assert_eq!(PeerId::from_bytes(&key).unwrap().to_string(), PEERS[at]);
        }
    }

    #[test]
    fn what_is_written_in_another_way_is_shown_in_the_usual_one() {
        let upper = "\"BAFYBEIGDYRZT5SFP7UDM7HU76UH7Y26NF3EFUYLQABF3OCLGTQY55FBZDI\"";
        let cid: CidText<'_> = json(upper).unwrap();
        assert_eq!(&*cid, "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi");
        let escaped = "\"Qm\\u0056QxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o\"";
        assert_eq!(&*json::<CidText<'_>>(escaped).unwrap(), "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o");
        for (text, shown) in [
            ("\"2026-11-20T23:16:36.500Z\"", Some("2026-11-20T23:16:36.5Z")),
            ("\"2026-11-21T01:16:36+02:00\"", Some("2026-11-20T23:16:36Z")),
            ("\"2024-02-29T00:00:00Z\"", Some("2024-02-29T00:00:00Z")),
            ("\"0001-01-01T00:00:00Z\"", None),
            ("\"\"", None),
            ("null", None),
        ] {
            assert_eq!(json::<TimeText<'_>>(text).unwrap().get(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_cid_no_peer_and_no_time_is_refused() {
        assert!(json::<CidText<'_>>("\"nonsense\"").unwrap_err().starts_with("invalid cid: "));
        assert!(json::<CidText<'_>>("null").is_err());
        assert!(json::<PeerText<'_>>("\"12D3KooW\"").unwrap_err().starts_with("invalid peer id "));
        for time in ["\"yesterday\"", "\"2026-02-30T00:00:00Z\"", "\"2026-11-20T24:00:00Z\"", "7"] {
            assert!(json::<TimeText<'_>>(time).is_err(), "{time}");
        }
    }
}
