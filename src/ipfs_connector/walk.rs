//! Walking a DAG of which blocks may still be missing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::dag;
use crate::error::Result;
use crate::types::Cid;

/// Levels below a block that still belong to the walk.
type Depth = u32;
const DEPTH_ALL: Depth = Depth::MAX;

/// A walk that can stop at missing blocks and go on from there when they have come.
#[derive(Debug)]
pub(crate) struct Walk {
    todo: Vec<(Cid, Depth)>,
    missing: Vec<(Cid, Depth)>,
    /// With the deepest level asked so far: with a depth limit, a block met again nearer to the root counts again.
    visited: BTreeMap<Cid, Depth>,
}

impl Walk {
    /// Starts at a root; a negative depth means everything below it, 0 the root alone.
    pub(crate) fn new(root: Cid, max_depth: i32) -> Self {
        let depth = Depth::try_from(max_depth).unwrap_or(DEPTH_ALL);
        Self { todo: vec![(root, depth)], missing: Vec::new(), visited: BTreeMap::new() }
    }

    /// Visits at most so many blocks. Whether more are left to try now.
    ///
    /// # Errors
    /// A block's, when its links cannot be read. The walk can go on without them.
    pub(crate) fn step(
        &mut self,
        blocks_max: usize,
        block: &mut dyn FnMut(&Cid) -> Option<Bytes>,
    ) -> Result<bool> {
        for _ in 0..blocks_max {
            let Some((cid, depth)) = self.todo.pop() else { return Ok(false) };
            if self.visited.get(&cid).is_some_and(|&asked| asked >= depth) {
                continue;
            }
            let Some(data) = block(&cid) else {
                self.missing.push((cid, depth));
                continue;
            };
            self.visited.insert(cid, depth);
            let below = match depth {
                0 => continue,
                DEPTH_ALL => DEPTH_ALL,
                limited => limited - 1,
            };
            // In reverse, so that the first link is visited next.
            let links = dag::links(&cid, &data)?;
            self.todo.extend(links.into_iter().rev().map(|link| (link.cid, below)));
        }
        Ok(!self.todo.is_empty())
    }

    /// Puts the missing blocks back on the list.
    pub(crate) fn retry_missing(&mut self) {
        self.todo.append(&mut self.missing);
    }

    /// Whether every block was there.
    pub(crate) fn is_complete(&self) -> bool {
        self.todo.is_empty() && self.missing.is_empty()
    }

    /// One block that was not there.
    pub(crate) fn first_missing(&self) -> Option<&Cid> {
        self.missing.first().map(|(cid, _)| cid)
    }

    /// The blocks that were there.
    pub(crate) fn visited(&self) -> impl Iterator<Item = &Cid> {
        self.visited.keys()
    }

    /// How many blocks were there.
    pub(crate) fn visited_len(&self) -> usize {
        self.visited.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ipfs_connector::sample::{sample_directory, sample_file_with_chunks};

    #[test]
    fn a_walk_visits_as_deep_as_it_was_told() {
        let (file, mut blocks) = sample_file_with_chunks("abcdef", 2);
        let inner = sample_directory([("file", file)]);
        let root = sample_directory([("inner", inner.cid), ("also", file)]);
        let root_cid = root.cid;
        blocks.extend([inner, root]);
        let store: BTreeMap<_, _> = blocks.iter().map(|block| (block.cid, block.data.clone())).collect();
        for (depth, expected) in [(-1, 6), (0, 1), (1, 3), (2, 6), (3, 6)] {
            let mut walk = Walk::new(root_cid, depth);
            while walk.step(2, &mut |cid| store.get(cid).cloned()).unwrap() {}
            assert!(walk.is_complete());
            assert_eq!(walk.visited_len(), expected, "depth {depth}");
        }
    }

    #[test]
    fn a_walk_goes_on_where_blocks_were_missing() {
        let (root, blocks) = sample_file_with_chunks("abcdef", 2);
        let mut store: BTreeMap<_, _> = BTreeMap::new();
        let mut walk = Walk::new(root, -1);
        for block in blocks.iter().rev() {
            assert!(!walk.step(100, &mut |cid| store.get(cid).cloned()).unwrap());
            assert!(!walk.is_complete() && walk.first_missing().is_some());
            store.insert(block.cid, block.data.clone());
            walk.retry_missing();
        }
        assert!(!walk.step(100, &mut |cid| store.get(cid).cloned()).unwrap());
        assert!(walk.is_complete());
        assert_eq!(walk.visited_len(), 4);
    }
}
