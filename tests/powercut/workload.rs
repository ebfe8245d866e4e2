//! What the writer writes and the test looks for: both know it from the seed alone.

// Each of the two uses its own half.
#![allow(dead_code)]

use std::collections::BTreeMap;

use bytes::Bytes;
use ipfs_cluster::storage::{Batch, Space};
use ipfs_cluster::testing::random::Random;

/// Keys of the batches.
pub(crate) const PINS: Space = Space::new("pins");
/// For each batch, that it was written.
pub(crate) const DONE: Space = Space::new("done");
/// Filled by bulk loads, one generation after the other.
pub(crate) const BULK: Space = Space::new("bulk");
/// Which generation of [`BULK`] is in use.
pub(crate) const CURRENT: Space = Space::new("current");
/// The only key of [`CURRENT`].
pub(crate) const CURRENT_KEY: &[u8] = b"generation";

/// A batch in this many removes what an earlier one wrote.
const REMOVE_EVERY: u32 = 5;
/// Which one: so many before it.
const REMOVE_BACK: u32 = 3;

/// The numbers of a batch: writer, and count within the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BatchId {
    pub(crate) writer: u32,
    pub(crate) number: u32,
}

impl BatchId {
    /// Key of the batch in [`DONE`].
    pub(crate) fn key(self) -> Bytes {
        let mut key = self.writer.to_be_bytes().to_vec();
        key.extend(self.number.to_be_bytes());
        key.into()
    }

    /// The batch of a key in [`DONE`].
    pub(crate) fn parse(key: &[u8]) -> Option<Self> {
        let (writer, number) = key.split_at_checked(4)?;
        Some(Self {
            writer: u32::from_be_bytes(writer.try_into().ok()?),
            number: u32::from_be_bytes(number.try_into().ok()?),
        })
    }

    fn numbers(self) -> Random {
        Random::new(u64::from(self.writer) << 32 | u64::from(self.number))
    }

    /// Keys and values that it writes to [`PINS`]: scattered keys of the size of a CID; mostly small values, now and
    /// then one of several disk blocks.
    fn puts(self) -> Vec<(Bytes, Bytes)> {
        let mut numbers = self.numbers();
        let count = 1 + numbers.number() % 40;
        (0..count)
            .map(|index| {
                let mut key = Vec::new();
                for _ in 0..3 {
                    key.extend(numbers.number().to_be_bytes());
                }
                key.extend(self.key());
                key.extend((index as u16).to_be_bytes());
                let length = match numbers.number() % 50 {
                    0 => numbers.number() % 40_000,
                    _ => 50 + numbers.number() % 300,
                };
                let value: Vec<u8> =
                    (0..length / 8 + 1).flat_map(|_| numbers.number().to_be_bytes()).collect();
                (key.into(), value.into())
            })
            .collect()
    }

    /// The batch whose keys it removes.
    fn removes(self) -> Option<Self> {
        let number = (self.number % REMOVE_EVERY == REMOVE_EVERY - 1).then(|| self.number - REMOVE_BACK)?;
        Some(Self { number, ..self })
    }

    /// All that happens at once.
    pub(crate) fn batch(self) -> Batch {
        let mut batch = Batch::new();
        for (key, value) in self.puts() {
            batch.put(PINS, key, value);
        }
        for (key, _) in self.removes().into_iter().flat_map(Self::puts) {
            batch.delete(PINS, key);
        }
        batch.put(DONE, self.key(), Bytes::new());
        batch
    }
}

/// All of [`PINS`] after the first `written` batches of a writer.
pub(crate) fn expected_pins(writer: u32, written: u32) -> BTreeMap<Bytes, Bytes> {
    let ids = (0..written).map(|number| BatchId { writer, number });
    let mut pins: BTreeMap<_, _> = ids.clone().flat_map(BatchId::puts).collect();
    for (key, _) in ids.filter_map(BatchId::removes).flat_map(BatchId::puts) {
        pins.remove(&key);
    }
    pins
}

/// Number of entries in a generation of [`BULK`].
pub(crate) fn bulk_entries(generation: u32) -> u32 {
    500 + generation * 37 % 3_000
}

/// Entry `index` of a generation of [`BULK`].
pub(crate) fn bulk_entry(generation: u32, index: u32) -> (Bytes, Bytes) {
    let mut numbers = Random::new(u64::from(generation) << 32 | u64::from(index));
    let value: Vec<u8> = (0..20).flat_map(|_| numbers.number().to_be_bytes()).collect();
    (Bytes::copy_from_slice(&index.to_be_bytes()), value.into())
}
