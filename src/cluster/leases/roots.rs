//! Which of the blocks of a stream are its roots: those that no other block of it links to.

use std::collections::HashSet;

use super::cids::{Cids, Key, key};
use crate::ipfs_connector::dag;
use crate::types::{Block, Cid};

/// Blocks and links of one stream that are remembered: the leaves of a flat directory of a hundred thousand files.
const REMEMBERED_MAX: usize = 131_072;
/// Roots of one stream that are known. The others are pinned about when these are.
pub(super) const ROOTS_MAX: usize = 1_024;

/// What one stream links to and does not have, as far as it is remembered: what a file of many terabytes that broke off has.
/// Where there is more, the streams of an upload that went on are released after a day.
const MISSING_MAX: usize = 4_096;

/// Finds the roots among blocks that come in any order, children first as a rule. Looked up for each block and each link,
/// and put in order only at the end.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// Came, and nothing links to them so far.
    unlinked: Cids,
    /// Are linked to and did not come so far.
    expected: HashSet<Key>,
    last: Option<Cid>,
    /// There was too much to remember.
    gave_up: bool,
}

impl Roots {
    pub(super) fn see(&mut self, block: &Block) {
        self.last = Some(block.cid);
        if self.gave_up {
            return;
        }
        if !self.expected.remove(&key(&block.cid)) {
            self.unlinked.insert(&block.cid);
        }
        // What cannot be read has no links that are known, and is a root unless something links to it.
        for link in dag::links(&block.cid, &block.data).unwrap_or_default() {
            let key = key(&link.cid);
            if !self.unlinked.remove(key) {
                self.expected.insert(key);
            }
        }
        if self.unlinked.len() + self.expected.len() > REMEMBERED_MAX {
            *self = Self { last: self.last, gave_up: true, ..Self::default() };
        }
    }

    /// The roots; only the last block where there was too much to remember.
    pub(super) fn found(&self) -> Found {
        if self.unlinked.is_empty() {
            return Found { roots: self.last.into_iter().collect(), missing: Vec::new() };
        }
        let is_few = self.expected.len() <= MISSING_MAX;
        let mut missing: Vec<_> = if is_few { self.expected.iter().copied().collect() } else { Vec::new() };
        missing.sort_unstable();
        Found { roots: self.unlinked.first(ROOTS_MAX), missing }
    }
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) roots: Vec<Cid>,
    /// What is linked to and did not come, sorted. Empty where that is too much to be remembered.
    pub(super) missing: Vec<Key>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ipfs_connector::{sample_directory, sample_file_with_chunks};

    fn found<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> BTreeSet<Cid> {
        let mut roots = Roots::default();
        blocks.into_iter().for_each(|block| roots.see(block));
        roots.found().roots.into_iter().collect()
    }

    #[test]
    fn roots_are_found_in_any_order() {
        // Of four different blocks.
        let (first, mut blocks) =
            sample_file_with_chunks([[1; 1_000], [2; 1_000], [3; 1_000]].concat(), 1_000);
        let (second, more) = sample_file_with_chunks((0..=255).collect::<Vec<u8>>(), 100);
        blocks.extend(more);
        assert_eq!(found(&blocks), [first, second].into());
        assert_eq!(found(blocks.iter().rev()), [first, second].into());
        // Again, as an importer sends what occurs twice.
        assert_eq!(found(blocks.iter().chain(&blocks)), [first, second].into());
        let directory = sample_directory([("a", first), ("b", second)]);
        blocks.push(directory.clone());
        assert_eq!(found(&blocks), [directory.cid].into());
        let old = Block { cid: Cid::new_v0(*directory.cid.hash()).unwrap(), data: directory.data };
        blocks.pop();
        blocks.insert(0, old.clone());
        assert_eq!(found(&blocks), [old.cid].into());
    }

    #[test]
    fn what_is_linked_to_and_did_not_come_is_missing() {
        let (root, blocks) = sample_file_with_chunks([[1; 1_000], [2; 1_000], [3; 1_000]].concat(), 1_000);
        let leaves: BTreeSet<Key> = blocks[..3].iter().map(|leaf| key(&leaf.cid)).collect();
        let mut roots = Roots::default();
        roots.see(&blocks[3]);
        let found = roots.found();
        assert_eq!((found.roots, found.missing.iter().copied().collect()), (vec![root], leaves));
        assert!(found.missing.is_sorted());
        blocks[..3].iter().for_each(|leaf| roots.see(leaf));
        assert_eq!(roots.found(), Found { roots: vec![root], missing: vec![] });
    }

    #[test]
    fn a_leaf_alone_is_a_root_and_nothing_has_none() {
        let leaf = Block::raw("leaf");
        assert_eq!(found([&leaf]), [leaf.cid].into());
        assert_eq!(found([]), BTreeSet::new());
    }

    #[test]
    fn with_too_much_to_remember_the_last_block_counts() {
        let mut roots = Roots::default();
        let leaves = (0..=REMEMBERED_MAX as u32).map(|number| Block::raw(number.to_be_bytes().to_vec()));
        leaves.for_each(|block| roots.see(&block));
        let last = Block::raw("last");
        roots.see(&last);
        assert_eq!(roots.found(), Found { roots: vec![last.cid], missing: vec![] });
        assert!(roots.unlinked.is_empty() && roots.expected.is_empty());
    }
}
