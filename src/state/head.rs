//! Where a pinset is in a store, and what its head record says.
//!
//! | space | key | value |
//! |---|---|---|
//! | `pins` | binary CID | record, see `codec` |
//! | `pins-by-name`, `pins-by-meta`, `pins-by-created` | see `index` | nothing |
//! | `state-meta` | `head` | format version, generation of the four spaces above, number of pins, their sum |
//!
//! Every write goes with a new head, so number, sum and generation are always those of the records.

use bytes::Bytes;

use super::index::Index;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Batch, Snapshot, Space, Storage};

pub(super) const PINS: Space = Space::new("pins");
const BY_NAME: Space = Space::new("pins-by-name");
const BY_METADATA: Space = Space::new("pins-by-meta");
const BY_CREATED: Space = Space::new("pins-by-created");
pub(super) const META: Space = Space::new("state-meta");
const HEAD: &[u8] = b"head";

/// How records, indexes and head are laid out. A change that older programs cannot read raises it.
pub(super) const FORMAT: u8 = 2;
/// The format that knew no sum; it is brought up to date when it is opened.
pub(super) const WITHOUT_SUM: u8 = 1;

/// The spaces of one generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spaces {
    generation: u32,
}

impl Spaces {
    pub(super) fn of(generation: u32) -> Self {
        Self { generation }
    }

    pub(super) fn pins(self) -> Space {
        PINS.generation(self.generation)
    }

    pub(super) fn index(self, index: Index) -> Space {
        match index {
            Index::Name => BY_NAME,
            Index::Metadata => BY_METADATA,
            Index::Created => BY_CREATED,
        }
        .generation(self.generation)
    }

    pub(super) fn remove(self, storage: &dyn Storage) -> Result<()> {
        storage.remove_space(self.pins())?;
        Index::ALL.into_iter().try_for_each(|index| storage.remove_space(self.index(index)))
    }
}

/// What the store says about the pinset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) generation: u32,
    pub(super) pins: u64,
    pub(super) sum: u128,
}

/// What is read of a head record.
pub(super) enum Record {
    Absent,
    Current(Head),
    WithoutSum(Head),
}

impl Head {
    /// What the store says now.
    pub(super) fn of(storage: &dyn Storage) -> Result<Self> {
        Self::opened(Self::read(|key| storage.get(META, key))?)
    }

    /// The head of a store that was opened, which brought it to the current format.
    pub(super) fn opened(record: Record) -> Result<Self> {
        match record {
            Record::Current(head) => Ok(head),
            Record::WithoutSum(_) => Err(damaged("its head record went back to an older format")),
            Record::Absent => Err(damaged("its head record is missing")),
        }
    }

    pub(super) fn read(get: impl FnOnce(&[u8]) -> Result<Option<Bytes>>) -> Result<Record> {
        let Some(record) = get(HEAD)? else { return Ok(Record::Absent) };
        let number =
            |at: usize| -> Option<u64> { record.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes) };
        let head = || {
            let generation = u32::from_be_bytes(record.get(1..5)?.try_into().ok()?);
            Some(Self { generation, pins: number(5)?, sum: 0 })
        };
        let sum = || record.get(13..29)?.try_into().ok().map(u128::from_be_bytes);
        let read = match (record.first(), record.len()) {
            (Some(&WITHOUT_SUM), 13) => head().map(Record::WithoutSum),
            (Some(&FORMAT), 29) => head().zip(sum()).map(|(head, sum)| Record::Current(Self { sum, ..head })),
            (Some(&version), _) if version > FORMAT => return Err(newer(version)),
            _ => None,
        };
        read.ok_or_else(|| damaged("its head record is unreadable"))
    }

    pub(super) fn write(self, batch: &mut Batch) {
        let mut record = Vec::with_capacity(29);
        record.push(FORMAT);
        record.extend(self.generation.to_be_bytes());
        record.extend(self.pins.to_be_bytes());
        record.extend(self.sum.to_be_bytes());
        batch.put(META, HEAD, record);
    }
}

/// A head record as it is written now, and the version of the one that was read; none if it cannot be.
#[cfg(feature = "testing")]
pub(super) fn rewritten_head(record: &[u8]) -> Option<(Bytes, u8)> {
    let read = Head::read(|_| Ok(Some(Bytes::copy_from_slice(record)))).ok()?;
    let (head, version) = match read {
        Record::Current(head) => (head, FORMAT),
        Record::WithoutSum(head) => (head, WITHOUT_SUM),
        Record::Absent => return None,
    };
    let mut batch = Batch::new();
    head.write(&mut batch);
    Some((batch.into_operations().pop()?.value?, version))
}

/// The spaces that a frozen view shows.
pub(super) fn spaces_in(snapshot: &dyn Snapshot) -> Result<Spaces> {
    let head = Head::opened(Head::read(|key| snapshot.get(META, key))?)?;
    Ok(Spaces::of(head.generation))
}

fn newer(version: u8) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "the stored pinset has format {version}, this program reads up to {FORMAT}; run the newer one"
        ),
    )
    .component("state")
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the stored pinset is damaged: {what}; move the folder away and import the pinset from an export or another peer"
        ),
    )
    .component("state")
}
