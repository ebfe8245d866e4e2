//! What is kept beside the pinset.
//!
//! | space | key | value |
//! |---|---|---|
//! | `crdt-blocks` | SHA-256 of the block | the block |
//! | `crdt-ids` | SHA-256 of the block | flags, number, height: see [`BlockId`] |
//! | `crdt-nums` | number, 5 bytes, big-endian | SHA-256 of the block |
//! | `crdt-set` | binary CID of the pin | its elements and tombstones, see `set` |
//! | `crdt-values` | binary CID and number | the value of an element whose block is not here |
//! | `crdt-heads` | SHA-256 of the block | height |
//! | `crdt-log` | sequence, 8 bytes, big-endian | operations that no delta has yet, see `batching` |
//! | `crdt-meta` | name | format, dirty, cleaning, progress of walks, caught-up, lacking |
//!
//! A number stands for a block wherever a pin's record names one: it takes two or three bytes where the digest takes 32.
//! A block has one as soon as anything names it.

use bytes::Bytes;

use super::key::{self, Digest};
use super::ledger::{Branch, Head};
use super::set::Number;
use super::wire::{corrupt, put_varint, read_varint};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Batch, Direction, KeyRange, Snapshot, Space, Storage};
use crate::types::Cid;

pub(super) const BLOCKS: Space = Space::new("crdt-blocks");
pub(super) const IDS: Space = Space::new("crdt-ids");
pub(super) const NUMBERS: Space = Space::new("crdt-nums");
pub(super) const SET: Space = Space::new("crdt-set");
pub(super) const VALUES: Space = Space::new("crdt-values");
pub(super) const HEADS: Space = Space::new("crdt-heads");
pub(super) const LOG: Space = Space::new("crdt-log");
pub(super) const META: Space = Space::new("crdt-meta");
/// All of them but `crdt-meta`, which says that the others are being removed.
pub(super) const CONTENT: [Space; 7] = [BLOCKS, IDS, NUMBERS, SET, VALUES, HEADS, LOG];

pub(super) const META_FORMAT: &[u8] = b"format";
pub(super) const META_DIRTY: &[u8] = b"dirty";
pub(super) const META_CLEANING: &[u8] = b"cleaning";
pub(super) const META_PROGRESS: &[u8] = b"progress";
/// There may be elements whose block is not here.
pub(super) const META_CAUGHT_UP: &[u8] = b"caught-up";
/// There are blocks that are merged and not here.
pub(super) const META_LACKING: &[u8] = b"lacking";

/// How everything is laid out. A change that older programs cannot read raises it.
pub(super) const FORMAT: u8 = 1;

/// Numbers are below this.
const NUMBERS_MAX: Number = 1 << 40;
/// Entries that are read from the store at once.
const PAGE_ENTRIES: usize = 1024;
/// Most bytes of the record of unfinished walks.
const PROGRESS_BYTES_MAX: usize = 15 << 20;

/// What stands for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockId {
    /// The block in the records of pins.
    pub(super) number: Number,
    /// Its height; 0 while it is only named by tombstones.
    pub(super) height: u64,
    /// Whether it was merged.
    pub(super) is_processed: bool,
    /// Whether the block itself has yet to come, because what it says came without it.
    pub(super) is_lacking: bool,
}

impl BlockId {
    const PROCESSED: u8 = 1;
    const LACKING: u8 = 2;

    pub(super) fn decode(record: &[u8]) -> Result<Self> {
        Self::read(record).ok_or_else(|| corrupt("the record of a block is unreadable"))
    }

    fn read(record: &[u8]) -> Option<Self> {
        let (&flags, rest) = record.split_first()?;
        let (number, rest) = read_varint(rest)?;
        let (height, rest) = read_varint(rest)?;
        let is_known =
            flags & !(Self::PROCESSED | Self::LACKING) == 0 && number < NUMBERS_MAX && rest.is_empty();
        is_known.then_some(Self {
            number,
            height,
            is_processed: flags & Self::PROCESSED != 0,
            is_lacking: flags & Self::LACKING != 0,
        })
    }

    /// Whether the block itself is here.
    pub(super) fn is_here(&self) -> bool {
        self.is_processed && !self.is_lacking
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(self.is_processed, Self::PROCESSED) | flag(self.is_lacking, Self::LACKING);
        let mut record = vec![flags];
        put_varint(&mut record, self.number);
        put_varint(&mut record, self.height);
        record
    }
}

/// The key of a number.
///
/// # Errors
/// `StorageFull` when there are no numbers left.
pub(super) fn number_key(number: Number) -> Result<Bytes> {
    if number >= NUMBERS_MAX {
        let message = "there are no numbers left for blocks: clean the state and join again";
        return Err(Error::new(ErrorKind::StorageFull, message).component(super::COMPONENT));
    }
    Ok(Bytes::copy_from_slice(&number.to_be_bytes()[3..]))
}

/// The number of a key.
pub(super) fn number_of(key: &[u8]) -> Option<Number> {
    let &[a, b, c, d, e] = key else { return None };
    Some(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
}

/// The key of an element's value.
pub(super) fn value_key(pin: &Cid, number: Number) -> Result<Bytes> {
    Ok([&pin.to_bytes()[..], &number_key(number)?].concat().into())
}

/// The digest that a record holds.
pub(super) fn digest_of(bytes: &[u8]) -> Result<Digest> {
    bytes.try_into().map_err(|_| corrupt("the name of a block has the wrong length"))
}

/// The record of a block, if anything named it.
pub(super) fn block_id(storage: &dyn Storage, digest: &Digest) -> Result<Option<BlockId>> {
    storage.get(IDS, digest)?.map(|record| BlockId::decode(&record)).transpose()
}

/// The next number that no block has.
pub(super) fn next_number(snapshot: &dyn Snapshot) -> Result<Number> {
    let page = snapshot.scan(NUMBERS, KeyRange::all(), Direction::Backward, 1)?;
    match page.entries.first() {
        None => Ok(0),
        Some((key, _)) => number_of(key)
            .map(|number| number + 1)
            .ok_or_else(|| corrupt("a number of a block is unreadable")),
    }
}

/// The heads.
pub(super) fn heads(snapshot: &dyn Snapshot) -> Result<Vec<Head>> {
    let mut heads = Vec::new();
    for_each(snapshot, HEADS, |key, value| {
        let cid = key::block_cid(&digest_of(key)?);
        let height = match read_varint(value) {
            Some((height, [])) => height,
            _ => return Err(corrupt("the height of a head is unreadable")),
        };
        heads.push(Head { cid, height });
        Ok(())
    })?;
    Ok(heads)
}

/// Writes a head.
pub(super) fn put_head(batch: &mut Batch, digest: &Digest, height: u64) {
    let mut value = Vec::with_capacity(3);
    put_varint(&mut value, height);
    batch.put(HEADS, Bytes::copy_from_slice(digest), value);
}

/// Every entry of a space, in order.
pub(super) fn for_each(
    snapshot: &dyn Snapshot,
    space: Space,
    mut look: impl FnMut(&Bytes, &Bytes) -> Result<()>,
) -> Result<()> {
    let mut range = KeyRange::all();
    loop {
        let page = snapshot.scan(space, range.clone(), Direction::Forward, PAGE_ENTRIES)?;
        for (key, value) in &page.entries {
            look(key, value)?;
        }
        match page.entries.last() {
            Some((key, _)) if page.more => range = range.after(key.clone()),
            _ => return Ok(()),
        }
    }
}

/// The record of unfinished walks.
///
/// # Errors
/// `InvalidInput` when a name is of another kind, or there is too much for one record.
pub(super) fn encode_progress(branches: &[Branch]) -> Result<Vec<u8>> {
    let mut record = vec![FORMAT];
    for branch in branches {
        put_name(&mut record, &branch.tip.cid)?;
        put_varint(&mut record, branch.tip.height);
        for list in [&branch.open, &branch.met] {
            put_varint(&mut record, list.len() as u64);
            for cid in list {
                put_name(&mut record, cid)?;
            }
        }
    }
    if record.len() > PROGRESS_BYTES_MAX {
        return Err(Error::invalid_input(format!(
            "unfinished walks take {} bytes, but at most {PROGRESS_BYTES_MAX} are kept",
            record.len()
        ))
        .component(super::COMPONENT));
    }
    Ok(record)
}

fn put_name(record: &mut Vec<u8>, cid: &Cid) -> Result<()> {
    let digest = key::block_digest(cid).ok_or_else(|| {
        Error::invalid_input(format!("{cid} is no block of the dag")).component(super::COMPONENT)
    })?;
    record.extend_from_slice(&digest);
    Ok(())
}

/// Remembers these walks instead of those before.
///
/// # Errors
/// As [`encode_progress`].
pub(super) fn put_progress(batch: &mut Batch, mut branches: Vec<Branch>) -> Result<()> {
    branches.sort_unstable_by_key(|branch| branch.tip);
    if branches.is_empty() {
        batch.delete(META, META_PROGRESS);
    } else {
        batch.put(META, META_PROGRESS, encode_progress(&branches)?);
    }
    Ok(())
}

/// The walks of a record.
pub(super) fn decode_progress(record: &[u8]) -> Result<Vec<Branch>> {
    read_progress(record).ok_or_else(|| corrupt("the record of unfinished walks is unreadable"))
}

fn read_progress(record: &[u8]) -> Option<Vec<Branch>> {
    let mut rest = record.strip_prefix(&[FORMAT])?;
    let mut branches = Vec::new();
    while !rest.is_empty() {
        let cid = take_name(&mut rest)?;
        let height = take_varint(&mut rest)?;
        let mut list = || {
            let count = take_varint(&mut rest)?;
            // 32 bytes each; the record bounds what is reserved.
            if count > rest.len() as u64 / 32 {
                return None;
            }
            (0..count).map(|_| take_name(&mut rest)).collect::<Option<Vec<Cid>>>()
        };
        let (open, met) = (list()?, list()?);
        branches.push(Branch { tip: Head { cid, height }, open, met });
    }
    Some(branches)
}

fn take_name(rest: &mut &[u8]) -> Option<Cid> {
    let (digest, after) = rest.split_first_chunk::<32>()?;
    *rest = after;
    Some(key::block_cid(digest))
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let (value, after) = read_varint(rest)?;
    *rest = after;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;

    fn block(number: u8) -> Cid {
        key::block_cid(&[number; 32])
    }

    fn branches() -> Vec<Branch> {
        let tip = |number| Head { cid: block(number), height: u64::from(number) * 100 };
        vec![
            Branch { tip: tip(1), open: vec![block(2), block(3)], met: vec![block(4)] },
            Branch { tip: tip(5), open: Vec::new(), met: Vec::new() },
        ]
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        for (number, height, is_processed) in [(0, 0, false), (300, 1 << 40, true)] {
            let id = BlockId { number, height, is_processed, is_lacking: is_processed };
            assert_eq!(BlockId::decode(&id.encode()).unwrap(), id);
        }
        for number in [0, 1, 255, 256, NUMBERS_MAX - 1] {
            assert_eq!(number_of(&number_key(number).unwrap()), Some(number));
        }
        assert!(number_key(255).unwrap() < number_key(256).unwrap());
        assert_eq!(number_key(NUMBERS_MAX).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(decode_progress(&encode_progress(&branches()).unwrap()).unwrap(), branches());
        assert_eq!(decode_progress(&encode_progress(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn walks_that_no_record_holds_are_refused() {
        let mut branch = branches().swap_remove(0);
        branch.open = vec![block(1); 500_000];
        assert_eq!(encode_progress(&[branch.clone()]).unwrap_err().kind(), ErrorKind::InvalidInput);
        branch.open = vec![Cid::new_v1(0x55, *block(1).hash())];
        assert_eq!(encode_progress(&[branch]).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn mutated_records_are_read_or_refused() {
        let id = BlockId { number: 70_000, height: 70_000, is_processed: true, is_lacking: false };
        vectors::mutate_bytes(vec![id.encode()], |bytes| drop(BlockId::decode(&bytes)));
        vectors::mutate_bytes(vec![encode_progress(&branches()).unwrap()], |bytes| {
            drop(decode_progress(&bytes));
        });
    }
}
