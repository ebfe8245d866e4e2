//! Entries of the log as records of a store.
//!
//! An entry is one or several records, because a record of a store is bounded: key = index and number of the piece, value
//! = version, number of pieces, a hash of key and piece, the piece.

use std::ops::{Bound, Range};

use bytes::Bytes;
use openraft::EntryPayload;

use super::size;
use crate::consensus::raft::COMPONENT;
use crate::consensus::raft::records::{self, LOG};
use crate::consensus::raft::types::{Entry, StoredMembership};
use crate::consensus::raft::wire::{Reader, Writer, read, written};
use crate::error::{Error, Result};
use crate::storage::{Batch, Direction, Durability, KeyRange, Storage};

/// What is in front of a piece.
const VERSION: u8 = 1;
/// Bytes of an entry in one record.
pub(super) const PIECE_BYTES_MAX: usize = 4 << 20;
/// Pieces of one entry.
const PIECES_MAX: u16 = 4096;
/// Entries removed in one batch.
const REMOVED_MAX: u64 = 1024;

/// The error for a log that is not what was written.
pub(super) fn damaged(what: impl std::fmt::Display) -> Error {
    records::damaged(format!("of the log, {what}"))
}

/// The key of a piece.
pub(super) fn key(index: u64, piece: u16) -> Bytes {
    written(|writer| {
        writer.long(index);
        writer.short(piece);
    })
}

/// The index of the entry that a record is of.
pub(super) fn index_of(key: &Bytes) -> Result<u64> {
    read(key.clone(), |reader| {
        let index = reader.long()?;
        reader.short()?;
        Ok(index)
    })
    .map_err(|_| damaged("a key is unreadable"))
}

/// Adds the records of an entry.
pub(in super::super) fn put(batch: &mut Batch, entry: &Entry) -> Result<()> {
    let mut writer = Writer::with_capacity(size(entry));
    writer.entry(entry);
    let bytes = Bytes::from(writer.0);
    let pieces = u16::try_from(bytes.len().div_ceil(PIECE_BYTES_MAX)).unwrap_or(u16::MAX);
    if pieces > PIECES_MAX {
        return Err(Error::invalid_input("an entry of the log is too large").component(COMPONENT));
    }
    for (number, piece) in (0..pieces).zip(bytes.chunks(PIECE_BYTES_MAX)) {
        let key = key(entry.log_id.index, number);
        let mut writer = Writer::with_capacity(piece.len() + 16);
        writer.byte(VERSION);
        writer.short(pieces);
        writer.long(records::hash(&key, piece));
        writer.raw(piece);
        batch.put(LOG, key, writer.0);
    }
    Ok(())
}

/// Reads an entry.
///
/// # Errors
/// `Corrupt` when it is damaged or missing; `Io`.
pub(super) fn get(storage: &dyn Storage, index: u64) -> Result<Entry> {
    let mut pieces = Vec::new();
    let mut count = 1;
    for number in 0..PIECES_MAX {
        if number >= count {
            break;
        }
        let key = key(index, number);
        let record = storage.get(LOG, &key)?.ok_or_else(|| damaged(format!("entry {index} is missing")))?;
        let mut reader = Reader::of(record);
        let (version, all, sum) = (reader.byte()?, reader.short()?, reader.long()?);
        if version != VERSION {
            return Err(damaged(format!("entry {index} has the unknown version {version}")));
        }
        let piece = reader.everything();
        if records::hash(&key, &piece) != sum {
            return Err(damaged(format!("entry {index} is not what was written")));
        }
        count = all;
        pieces.push(piece);
    }
    let bytes = match pieces.as_slice() {
        [piece] => piece.clone(),
        pieces => pieces.concat().into(),
    };
    let entry = read(bytes, Reader::entry).map_err(|error| damaged(format!("entry {index}: {error}")))?;
    if entry.log_id.index == index {
        Ok(entry)
    } else {
        Err(damaged(format!("entry {index} is another one")))
    }
}

/// Reads these entries, shows each of them, and gives the newest members that one of them names.
///
/// # Errors
/// `Corrupt` when an entry is damaged or missing; `Io`; what `look` says.
pub(super) fn newest_membership(
    storage: &dyn Storage,
    indices: Range<u64>,
    mut look: impl FnMut(&Entry) -> Result<()>,
) -> Result<Option<StoredMembership>> {
    let mut newest = None;
    for index in indices {
        let entry = get(storage, index)?;
        look(&entry)?;
        if let EntryPayload::Membership(members) = entry.payload {
            newest = Some(StoredMembership::new(Some(entry.log_id), members));
        }
    }
    Ok(newest)
}

/// Deletes the records of entries from one index on, up to and including another; at most as many as there are in a
/// batch. Gives how many.
pub(super) fn delete(storage: &dyn Storage, batch: &mut Batch, from: u64, to: u64) -> Result<usize> {
    let snapshot = storage.snapshot()?;
    let mut range =
        KeyRange { start: Bound::Included(key(from, 0)), end: Bound::Included(key(to, u16::MAX)) };
    let mut deleted = 0;
    loop {
        let page = snapshot.scan(LOG, range.clone(), Direction::Forward, REMOVED_MAX as usize)?;
        let last = page.entries.last().map(|(key, _)| key.clone());
        deleted += page.entries.len();
        page.entries.into_iter().for_each(|(key, _)| batch.delete(LOG, key));
        match last {
            Some(last) if page.more => range = range.after(last),
            _ => return Ok(deleted),
        }
    }
}

/// Removes entries from one index on, up to and including another, in several batches; the first ones go first.
pub(super) fn remove_below(storage: &dyn Storage, from: u64, upto: u64) -> Result<()> {
    let mut from = from;
    while from <= upto {
        let to = upto.min(from.saturating_add(REMOVED_MAX));
        let mut batch = Batch::new();
        if delete(storage, &mut batch, from, to)? > 0 {
            storage.write(batch, Durability::Buffered)?;
        } else {
            // Nothing there: perhaps nothing up to the end.
            let range =
                KeyRange { start: Bound::Included(key(to, 0)), end: Bound::Included(key(upto, u16::MAX)) };
            if storage.snapshot()?.scan(LOG, range, Direction::Forward, 1)?.entries.is_empty() {
                return Ok(());
            }
        }
        from = to + 1;
    }
    Ok(())
}
