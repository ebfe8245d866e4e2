//! Keys of the secondary indexes.
//!
//! An index entry is a key without a value that ends with the binary CID. Keys have a bounded length whatever is
//! indexed, and may point to too much: whoever finds an entry compares it with the record it points to. So a cut
//! or a hash in a key, or an entry left behind by a damaged record, costs a look-up and never gives a wrong answer.
//!
//! | index | key |
//! |---|---|
//! | name | escaped name, `0`, CID; beyond [`NAME_BYTES_MAX`]: that many bytes, `0xff`, 8 bytes of hash, CID |
//! | metadata | 8 bytes of hash over key and value, CID |
//! | created | second, 5 bytes, CID |
//!
//! Escaping keeps the order of names and frees byte 0 for the end: `0` becomes `1 1`, `1` becomes `1 2`.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest};

use super::{NAME_ORDER_BYTES_MAX as NAME_BYTES_MAX, Selection, StateOrder};
use crate::storage::KeyRange;
use crate::types::{Cid, Pin, Timestamp};

const END: u8 = 0;
const ESCAPE: u8 = 1;
/// Follows a cut name; no escaped name has it there, because what is not cut ends with [`END`].
const CUT: u8 = 0xff;
const HASH_BYTES: usize = 8;
/// Enough for the years -9999 to 9999.
const SECOND_BYTES: usize = 5;
const SECOND_OFFSET: i64 = 1 << 39;

/// Which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Index {
    Name,
    Metadata,
    Created,
}

impl Index {
    pub(super) const ALL: [Self; 3] = [Self::Name, Self::Metadata, Self::Created];
}

/// What a pin is found by.
pub(super) fn entries(pin: &Pin) -> Vec<(Index, Bytes)> {
    let cid = pin.cid.to_bytes();
    let metadata = &pin.options.metadata;
    let mut entries = Vec::with_capacity(2 + metadata.len());
    entries.push((Index::Name, joined(name_bytes(&pin.options.name), &cid)));
    for (key, value) in metadata {
        entries.push((Index::Metadata, joined(metadata_bytes(key, value), &cid)));
    }
    if let Some(time) = pin.timestamp {
        entries.push((Index::Created, joined(second_bytes(time).to_vec(), &cid)));
    }
    entries
}

/// Where the entries of a selection stand; none for what is read from the records themselves.
pub(super) fn range(selection: &Selection) -> Option<(Index, KeyRange)> {
    match selection {
        Selection::All => None,
        Selection::Name(name) => Some((Index::Name, KeyRange::prefix(name_bytes(name)))),
        Selection::NamePrefix(prefix) => {
            let mut bytes = escaped(prefix);
            if bytes.len() > NAME_BYTES_MAX {
                bytes.truncate(NAME_BYTES_MAX);
                bytes.push(CUT);
            }
            // An empty prefix is the range of every key.
            Some((Index::Name, KeyRange::prefix(bytes)))
        }
        Selection::Metadata { key, value } => {
            Some((Index::Metadata, KeyRange::prefix(metadata_bytes(key, value))))
        }
        Selection::Created { from, to } => {
            let mut range = KeyRange::all();
            if let Some(from) = from {
                range.start = std::ops::Bound::Included(second_bytes(ceiling(*from)).to_vec().into());
            }
            if let Some(to) = to {
                range = range.before(second_bytes(ceiling(*to)).to_vec());
            }
            Some((Index::Created, range))
        }
    }
}

/// What is read to find entries, and how what is found is put in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Driver {
    /// None for the records themselves.
    pub(super) index: Option<Index>,
    /// What every key in the range begins with and that takes no part in the order asked for.
    pub(super) prefix: Vec<u8>,
    pub(super) range: KeyRange,
}

/// What stands in the order asked for, restricted by the first condition that has its keys in that order; that
/// condition's number is given too.
pub(super) fn ordered_driver(order: StateOrder, conditions: &[&Selection]) -> (Driver, Option<usize>) {
    let choices: [fn(&Selection) -> bool; 2] = match order {
        StateOrder::Cid => [|s| matches!(s, Selection::Name(_)), |s| matches!(s, Selection::Metadata { .. })],
        StateOrder::Name => [|s| matches!(s, Selection::Name(_)), |s| matches!(s, Selection::NamePrefix(_))],
        StateOrder::Created => [|s| matches!(s, Selection::Created { .. }), |_| false],
    };
    let chosen = choices.iter().find_map(|wanted| conditions.iter().position(|condition| wanted(condition)));
    let found = chosen.and_then(|number| Some((number, range(conditions[number])?)));
    let Some((number, (index, range))) = found else {
        let index = match order {
            StateOrder::Cid => None,
            StateOrder::Name => Some(Index::Name),
            StateOrder::Created => Some(Index::Created),
        };
        return (Driver { index, prefix: Vec::new(), range: KeyRange::all() }, None);
    };
    let prefix = match (order, conditions[number]) {
        (StateOrder::Cid, Selection::Name(name)) => name_bytes(name),
        (StateOrder::Cid, Selection::Metadata { key, value }) => metadata_bytes(key, value),
        _ => Vec::new(),
    };
    (Driver { index: Some(index), prefix, range }, Some(number))
}

/// Where a record stands in an order; none for one that does not, because it does not say when it was pinned.
pub(super) fn position(order: StateOrder, pin: &Pin) -> Option<Bytes> {
    let cid = pin.cid.to_bytes();
    match order {
        StateOrder::Cid => Some(cid.into()),
        StateOrder::Name => Some(joined(name_bytes(&pin.options.name), &cid)),
        StateOrder::Created => pin.timestamp.map(|time| joined(second_bytes(time).to_vec(), &cid)),
    }
}

/// The CID that a key of an index ends with; none when the key is no such key.
pub(super) fn cid_of(index: Index, key: &[u8]) -> Option<Cid> {
    let start = match index {
        Index::Name => match key.iter().take(NAME_BYTES_MAX + 1).position(|byte| *byte == END) {
            Some(end) => end + 1,
            None => NAME_BYTES_MAX + 1 + HASH_BYTES,
        },
        Index::Metadata => HASH_BYTES,
        Index::Created => SECOND_BYTES,
    };
    Cid::try_from(key.get(start..)?).ok()
}

fn joined(mut front: Vec<u8>, cid: &[u8]) -> Bytes {
    front.extend_from_slice(cid);
    front.into()
}

fn escaped(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 48);
    for byte in name.bytes() {
        match byte {
            END | ESCAPE => bytes.extend([ESCAPE, byte + 1]),
            _ => bytes.push(byte),
        }
    }
    bytes
}

/// Everything before the CID in a key of the name index.
fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = escaped(name);
    if bytes.len() <= NAME_BYTES_MAX {
        bytes.push(END);
    } else {
        bytes.truncate(NAME_BYTES_MAX);
        bytes.push(CUT);
        bytes.extend(hash(&[name.as_bytes()]));
    }
    bytes
}

fn metadata_bytes(key: &str, value: &str) -> Vec<u8> {
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hash(&[&(key.len() as u64).to_be_bytes(), key.as_bytes(), value.as_bytes()])
}

fn hash(parts: &[&[u8]]) -> Vec<u8> {
    Code::Sha2_256.digest(&parts.concat()).digest()[..HASH_BYTES].to_vec()
}

fn second_bytes(time: Timestamp) -> [u8; SECOND_BYTES] {
    let second = (time.unix_seconds() + SECOND_OFFSET) as u64;
    let [_, _, _, rest @ ..] = second.to_be_bytes();
    rest
}

/// The first whole second that is not before `time`: what is stored has whole seconds.
fn ceiling(time: Timestamp) -> Timestamp {
    let floor = time.truncated_to_seconds();
    if floor == time { time } else { Timestamp::from_unix_seconds(floor.unix_seconds() + 1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::KEY_BYTES_MAX;
    use crate::types::PinOptions;

    fn cid(seed: u8) -> Cid {
        Cid::new_v1(0x55, Code::Sha2_256.digest(&[seed]))
    }

    fn pin(seed: u8, name: &str) -> Pin {
        Pin::new(cid(seed), PinOptions { name: name.to_owned(), ..PinOptions::default() })
    }

    #[test]
    fn keys_stay_short_whatever_is_indexed() {
        let mut long = pin(1, &"\0".repeat(100_000));
        long.timestamp = Some(Timestamp::from_unix_seconds(i64::MAX));
        long.options.metadata.insert("k".repeat(50_000), "v".repeat(50_000));
        let found = entries(&long);
        assert_eq!(found.len(), 3);
        for (index, key) in found {
            assert!(key.len() <= KEY_BYTES_MAX / 2, "{index:?}: {}", key.len());
            assert_eq!(cid_of(index, &key), Some(long.cid));
        }
    }

    #[test]
    fn times_sort_as_numbers_from_the_first_to_the_last() {
        let seconds = [i64::MIN, -62_135_596_800, -1, 0, 1, 1_700_000_000, i64::MAX];
        let keys: Vec<_> =
            seconds.iter().map(|second| second_bytes(Timestamp::from_unix_seconds(*second))).collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
    }

    #[test]
    fn a_damaged_key_has_no_cid() {
        for index in Index::ALL {
            for length in 0..60 {
                assert_eq!(cid_of(index, &vec![0x7f; length]), None);
                assert_eq!(cid_of(index, &vec![0; length]), None);
            }
        }
    }

    fn contains(range: &KeyRange, key: &Bytes) -> bool {
        use std::ops::RangeBounds;
        (range.start.clone(), range.end.clone()).contains(key)
    }

    proptest! {
        #[test]
        fn names_keep_their_order_and_are_found_by_every_prefix(
            left in "[\u{0}-\u{3}a]{0,8}", right in "[\u{0}-\u{3}a]{0,8}",
            padding in prop_oneof![Just(0), Just(NAME_BYTES_MAX - 4), Just(NAME_BYTES_MAX)],
            cut in 0usize..8,
        ) {
            let padding = "a".repeat(padding);
            let names = [padding.clone() + &left, padding + &right];
            let keys = [0, 1].map(|index| entries(&pin(7, &names[index])).swap_remove(0).1);
            let whole = names.iter().all(|name| escaped(name).len() <= NAME_BYTES_MAX);
            if whole {
                prop_assert_eq!(names[0].cmp(&names[1]), keys[0].cmp(&keys[1]));
            }
            prop_assert_eq!(names[0] == names[1], keys[0] == keys[1]);
            for (name, key) in names.iter().zip(&keys) {
                prop_assert_eq!(cid_of(Index::Name, key), Some(cid(7)));
                let (_, exact) = range(&Selection::Name(name.clone())).unwrap();
                prop_assert!(contains(&exact, key));
                let prefix = name[..name.len() - cut.min(name.len())].to_owned();
                let (_, range) = range(&Selection::NamePrefix(prefix)).unwrap();
                prop_assert!(contains(&range, key));
            }
            if names[0] != names[1] {
                let (_, exact) = range(&Selection::Name(names[0].clone())).unwrap();
                prop_assert!(!contains(&exact, &keys[1]));
            }
        }
    }

    #[test]
    fn a_range_of_times_holds_its_start_and_not_its_end() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let selection = Selection::Created {
            from: Some(at("2026-01-01T00:00:00.5Z")),
            to: Some(at("2026-01-01T00:00:03Z")),
        };
        let (_, range) = range(&selection).unwrap();
        for (second, inside) in [(0, false), (1, true), (2, true), (3, false)] {
            let mut pin = pin(1, "");
            pin.timestamp = Some(at("2026-01-01T00:00:00Z") + std::time::Duration::from_secs(second));
            assert_eq!(selection.matches(&pin), inside, "second {second}");
            assert_eq!(
                contains(&range, &position(StateOrder::Created, &pin).unwrap()),
                inside,
                "second {second}"
            );
        }
    }
}
