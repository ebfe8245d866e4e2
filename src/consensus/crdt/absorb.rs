//! What a peer takes over from another without its history: see `catchup`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::key::Digest;
use super::ledger::{Branch, Head};
use crate::types::Cid;

/// Blocks that are remembered as merged lately.
const RECENT_BLOCKS_MAX: usize = 65_536;

/// What a peer knows of a pin, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PinRecord {
    pub(super) pin: Cid,
    /// Live elements: block, priority, value.
    pub(super) elements: Vec<(Digest, u64, Bytes)>,
    /// Blocks whose elements are gone.
    pub(super) tombstones: Vec<Digest>,
}

impl PinRecord {
    /// About how many bytes it takes, in memory or on its way.
    pub(super) fn bytes(&self) -> usize {
        let elements: usize = self.elements.iter().map(|(_, _, value)| 48 + value.len()).sum();
        self.pin.encoded_len() + elements + self.tombstones.len() * 32 + 8
    }
}

/// Blocks that count as merged because all they say was absorbed, and what becomes of the heads.
#[derive(Clone, Debug, Default)]
pub(super) struct Adoption {
    /// With their heights.
    pub(super) blocks: Vec<(Digest, u64)>,
    /// These count as merged too, and those that did not before are heads.
    pub(super) heads: Vec<Head>,
    /// Heads no longer.
    pub(super) remove: Vec<Cid>,
    /// Walks that are to be finished here too.
    pub(super) walks: Vec<Branch>,
    /// Some of the DAG may be missing below those heads.
    pub(super) is_dirty: bool,
}

/// What was merged lately, in order.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    blocks: VecDeque<Digest>,
    /// Blocks that were remembered before the first of them.
    dropped: u64,
    /// As many are on disk, or never will be.
    settled: u64,
}

impl Ring {
    fn end(&self) -> u64 {
        self.dropped + self.blocks.len() as u64
    }

    fn since(&self, mark: u64) -> Option<BTreeSet<Digest>> {
        let skip = usize::try_from(mark.checked_sub(self.dropped)?).ok()?;
        Some(self.blocks.iter().skip(skip).copied().collect())
    }
}

impl Recent {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are about to be written.
    pub(super) fn merging(&self, blocks: &[Digest]) {
        let mut ring = self.ring();
        ring.blocks.extend(blocks);
        while ring.blocks.len() > RECENT_BLOCKS_MAX {
            ring.blocks.pop_front();
            ring.dropped += 1;
        }
    }

    /// Everything up to now is on disk.
    pub(super) fn merged(&self) {
        let mut ring = self.ring();
        ring.settled = ring.end();
    }

    /// A place before everything of which a view of the store that is taken later may not show the end.
    pub(super) fn settled(&self) -> u64 {
        self.ring().settled
    }

    /// A place after everything that a view of the store may show that was taken before.
    pub(super) fn end(&self) -> u64 {
        self.ring().end()
    }

    /// What came after a place; none when that was too much to be remembered.
    pub(super) fn since(&self, mark: u64) -> Option<BTreeSet<Digest>> {
        self.ring().since(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&(number as u64).to_be_bytes());
        digest
    }

    #[test]
    fn what_was_merged_after_a_place_is_told_until_it_is_too_much() {
        let recent = Recent::default();
        recent.merging(&[block(1), block(2)]);
        assert_eq!((recent.settled(), recent.end()), (0, 2));
        recent.merged();
        let mark = recent.settled();
        assert_eq!(recent.since(mark).unwrap(), BTreeSet::new());
        recent.merging(&[block(3)]);
        assert_eq!(recent.since(mark).unwrap(), [block(3)].into());
        recent.merging(&(4..RECENT_BLOCKS_MAX + 3).map(block).collect::<Vec<_>>());
        assert_eq!(recent.since(mark).unwrap().len(), RECENT_BLOCKS_MAX);
        recent.merging(&[block(0)]);
        assert_eq!(recent.since(mark), None);
    }
}
