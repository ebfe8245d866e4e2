//! What is stored of leases, so that a peer that was killed finds and releases them.
//!
//! | key | value |
//! |---|---|
//! | stream, number of the lease | format, number of blocks, bytes of blocks, binary CID of the lease |
//! | stream, `0xffffffff` | format, end of the stream (nanoseconds), then each root: length, binary CID; 0, then what is missing, 16 bytes each. Only there once it ended well |
//!
//! A stream is its beginning (nanoseconds) and a number that tells it from others. Numbers are big-endian.

use std::collections::BTreeMap;

use bytes::Bytes;
use tracing::warn;

use super::cids::Key;
use super::roots::Found;
use super::{Held, LEASES_MAX, State, Stream, StreamKey};
use crate::error::Result;
use crate::storage::{Batch, Direction, Durability, KeyRange, Space, Storage};
use crate::types::{Cid, Timestamp};

const LEASES: Space = Space::new("leases");
const FORMAT: u8 = 1;
/// In place of the number of a lease.
const END: u32 = u32::MAX;
const PAGE_RECORDS: usize = 1_024;

fn key(stream: StreamKey, number: u32) -> Bytes {
    Bytes::from([&stream.0[..], &number.to_be_bytes()].concat())
}

/// Notes leases before they are made.
pub(super) fn put_leases(storage: &dyn Storage, leases: &[(StreamKey, Held)]) -> Result<()> {
    let mut batch = Batch::new();
    for (stream, lease) in leases {
        let mut value = vec![FORMAT];
        value.extend(lease.blocks.to_be_bytes());
        value.extend(lease.bytes.to_be_bytes());
        value.extend(lease.cid.to_bytes());
        batch.put(LEASES, key(*stream, lease.number), value);
    }
    storage.write(batch, Durability::Synced)
}

/// Forgets one lease of a stream.
pub(super) fn remove_lease(storage: &dyn Storage, stream: StreamKey, number: u32) -> Result<()> {
    let mut batch = Batch::new();
    batch.delete(LEASES, key(stream, number));
    storage.write(batch, Durability::Buffered)
}

/// Notes that a stream ended well, and what its roots are.
pub(super) fn put_end(
    storage: &dyn Storage,
    stream: StreamKey,
    ended: Timestamp,
    found: &Found,
) -> Result<()> {
    let mut value = vec![FORMAT];
    value.extend(ended.unix_nanoseconds().to_be_bytes());
    for root in &found.roots {
        let cid = root.to_bytes();
        // CIDs here have at most 64 bytes of digest.
        value.push(cid.len() as u8);
        value.extend(cid);
    }
    if !found.missing.is_empty() {
        value.push(0);
        found.missing.iter().for_each(|key| value.extend(key.to_be_bytes()));
    }
    let mut batch = Batch::new();
    batch.put(LEASES, key(stream, END), value);
    storage.write(batch, Durability::Synced)
}

/// Forgets a stream. One that comes back after a power cut is released once more.
pub(super) fn remove(storage: &dyn Storage, stream: StreamKey, leases: u32) -> Result<()> {
    let mut batch = Batch::new();
    for number in (0..leases).chain([END]) {
        batch.delete(LEASES, key(stream, number));
    }
    storage.write(batch, Durability::Buffered)
}

/// Every stream that was noted. One without an end did not end well.
pub(super) fn load(storage: &dyn Storage) -> Result<BTreeMap<StreamKey, Stream>> {
    let snapshot = storage.snapshot()?;
    let mut streams: BTreeMap<StreamKey, Stream> = BTreeMap::new();
    let (mut range, mut count) = (KeyRange::all(), 0);
    loop {
        let page = snapshot.scan(LEASES, range.clone(), Direction::Forward, PAGE_RECORDS)?;
        for (key, value) in &page.entries {
            if read(&mut streams, key, value).is_none() {
                warn!(key = hex::encode(key), "cannot read a record of a lease; leaving it alone");
            }
        }
        count += page.entries.len();
        let Some((last, _)) = page.entries.last().filter(|_| page.more && count <= 2 * LEASES_MAX) else {
            return Ok(streams);
        };
        range = range.after(last.clone());
    }
}

fn read(streams: &mut BTreeMap<StreamKey, Stream>, key: &[u8], value: &[u8]) -> Option<()> {
    let (stream, number) = key.split_first_chunk::<16>()?;
    let number = u32::from_be_bytes(number.try_into().ok()?);
    let (&FORMAT, value) = value.split_first()? else { return None };
    let stream = StreamKey(*stream);
    if number == END {
        let (ended, roots) = value.split_first_chunk::<8>()?;
        let Found { roots, missing } = read_found(roots)?;
        let entry = streams.entry(stream).or_insert_with(|| Stream::new(stream.since(), State::Failed));
        entry.ended = Timestamp::from_unix_nanoseconds(i64::from_be_bytes(*ended));
        entry.state = State::Waiting { roots: roots.into() };
        entry.missing = missing.into();
    } else {
        let (blocks, rest) = value.split_first_chunk::<8>()?;
        let (bytes, cid) = rest.split_first_chunk::<8>()?;
        let lease = Held {
            number,
            cid: Cid::try_from(cid).ok()?,
            blocks: u64::from_be_bytes(*blocks),
            bytes: u64::from_be_bytes(*bytes),
        };
        let entry = streams.entry(stream).or_insert_with(|| Stream::new(stream.since(), State::Failed));
        entry.numbers = entry.numbers.max(number.checked_add(1)?);
        entry.leases.push(lease);
    }
    Some(())
}

fn read_found(mut value: &[u8]) -> Option<Found> {
    let mut roots = Vec::new();
    while let Some((length, rest)) = value.split_first() {
        if *length == 0 {
            let (keys, rest) = rest.as_chunks::<16>();
            let missing: Vec<Key> = keys.iter().map(|key| Key::from_be_bytes(*key)).collect();
            return (rest.is_empty() && missing.is_sorted()).then_some(Found { roots, missing });
        }
        let (cid, rest) = rest.split_at_checked(usize::from(*length))?;
        roots.push(Cid::try_from(cid).ok()?);
        value = rest;
    }
    Some(Found { roots, missing: Vec::new() })
}

impl StreamKey {
    pub(super) fn new(since: Timestamp, number: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&since.unix_nanoseconds().to_be_bytes());
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    fn since(self) -> Timestamp {
        let mut nanoseconds = [0; 8];
        nanoseconds.copy_from_slice(&self.0[..8]);
        Timestamp::from_unix_nanoseconds(i64::from_be_bytes(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;
    use crate::types::Block;

    fn held(number: u32, text: &'static str) -> Held {
        Held { number, cid: Block::raw(text).cid, blocks: 7, bytes: 1 << 40 }
    }

    #[test]
    fn what_was_noted_is_read_again() {
        let storage = MemoryStorage::new();
        let streams =
            [1, 2].map(|number| StreamKey::new(Timestamp::from_unix_seconds(1_700_000_000), number));
        let roots = [Block::raw("a").cid, Cid::new_v0(*Block::raw("b").cid.hash()).unwrap()];
        let ended = Timestamp::from_unix_seconds(1_700_000_100);
        let leases =
            [(streams[0], held(0, "first")), (streams[0], held(2, "third")), (streams[1], held(0, "other"))];
        put_leases(&storage, &leases).unwrap();
        for missing in [vec![], vec![1, 7 << 100]] {
            put_end(&storage, streams[0], ended, &Found { roots: roots.to_vec(), missing: missing.clone() })
                .unwrap();
            assert_eq!(*load(&storage).unwrap()[&streams[0]].missing, missing);
        }
        let loaded = load(&storage).unwrap();
        assert_eq!(loaded.keys().copied().collect::<Vec<_>>(), streams);
        let first = &loaded[&streams[0]];
        assert_eq!(first.leases, [held(0, "first"), held(2, "third")]);
        assert_eq!(first.ended, ended);
        assert_eq!((first.numbers, first.since), (3, Timestamp::from_unix_seconds(1_700_000_000)));
        assert!(matches!(&first.state, State::Waiting { roots: found } if **found == roots));
        assert!(matches!(loaded[&streams[1]].state, State::Failed));
        remove_lease(&storage, streams[0], 0).unwrap();
        assert_eq!(load(&storage).unwrap()[&streams[0]].leases, [held(2, "third")]);
        remove(&storage, streams[0], first.numbers).unwrap();
        assert_eq!(load(&storage).unwrap().keys().copied().collect::<Vec<_>>(), streams[1..]);
    }

    #[test]
    fn records_that_cannot_be_read_are_passed_over() {
        let storage = MemoryStorage::new();
        let stream = StreamKey::new(Timestamp::from_unix_seconds(1), 1);
        let mut batch = Batch::new();
        for (number, value) in [
            (1, &[][..]),
            (2, &[9, 9]),
            (3, &[1, 0]),
            (4, &[1; 10]),
            (END, &[1, 200, 1]),
            (END, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
        ] {
            batch.put(LEASES, key(stream, number), value.to_vec());
        }
        batch.put(LEASES, &b"short"[..], &b"x"[..]);
        storage.write(batch, Durability::Synced).unwrap();
        put_leases(&storage, &[(stream, held(5, "good"))]).unwrap();
        let loaded = load(&storage).unwrap();
        assert_eq!(loaded[&stream].leases, [held(5, "good")]);
        assert!(matches!(loaded[&stream].state, State::Failed));
    }
}
