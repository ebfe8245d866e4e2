//! What a daemon holds: blocks and pins. No waiting and no other daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use super::remote;
use crate::error::Result;
use crate::ipfs_connector::IpfsPin;
use crate::ipfs_connector::dag::HASH_IDENTITY;
use crate::ipfs_connector::walk::Walk;
use crate::types::{Cid, PeerId, PinMode};

/// Pins of one page of a listing.
const LIST_PAGE_PINS: usize = 1_024;

/// The digest and its function: what a block is stored under, whatever the codec of the CID that asks.
pub(super) type BlockKey = ::cid::multihash::Multihash<64>;

#[derive(Default)]
pub(super) struct Repo {
    pub(super) blocks: BTreeMap<BlockKey, Bytes>,
    pub(super) block_bytes: u64,
    /// With the depth, `-1` for all of it. Kubo calls them all recursive.
    pub(super) recursive: BTreeMap<Cid, i32>,
    pub(super) direct: BTreeSet<Cid>,
    pub(super) connected: BTreeSet<PeerId>,
}

impl Repo {
    pub(super) fn remove_block(&mut self, key: &BlockKey) -> bool {
        let removed = self.blocks.remove(key);
        self.block_bytes -= removed.as_ref().map_or(0, |data| data.len() as u64);
        removed.is_some()
    }

    pub(super) fn is_pinned(&self, cid: &Cid, mode: PinMode) -> bool {
        match mode {
            PinMode::Recursive => self.recursive.contains_key(cid),
            PinMode::Direct => self.direct.contains(cid),
        }
    }

    /// Whether a pin of this depth changes nothing.
    pub(super) fn holds(&self, cid: &Cid, max_depth: i32) -> bool {
        match (PinMode::from_max_depth(max_depth), self.recursive.get(cid)) {
            (PinMode::Direct, _) => self.direct.contains(cid),
            (PinMode::Recursive, None) => false,
            (PinMode::Recursive, Some(&held)) => held < 0 || (max_depth >= 0 && held >= max_depth),
        }
    }

    /// Kubo keeps one pin for each CID: a recursive one replaces a direct one, and the other way is refused.
    pub(super) fn check_conflict(&self, cid: &Cid, max_depth: i32) -> Result<()> {
        if PinMode::from_max_depth(max_depth) == PinMode::Direct && self.recursive.contains_key(cid) {
            return Err(remote(format!("pin: {cid} already pinned recursively")));
        }
        Ok(())
    }

    pub(super) fn list(&self, mode: PinMode, after: Option<Cid>) -> Vec<IpfsPin> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let page = |cids: &mut dyn Iterator<Item = &Cid>| {
            cids.take(LIST_PAGE_PINS).map(|cid| IpfsPin { cid: *cid, mode }).collect()
        };
        match mode {
            PinMode::Recursive => page(&mut self.recursive.range(range).map(|(cid, _)| cid)),
            PinMode::Direct => page(&mut self.direct.range(range)),
        }
    }

    /// Blocks that no pin reaches. A pinned DAG that lacks blocks keeps what it has.
    pub(super) fn garbage(&self) -> Vec<BlockKey> {
        let mut kept: BTreeSet<BlockKey> = self.direct.iter().map(|cid| *cid.hash()).collect();
        for (cid, depth) in &self.recursive {
            let mut walk = Walk::new(*cid, *depth);
            // A block that cannot be read has no links that could keep anything.
            while walk.step(usize::MAX, &mut |cid| self.block(cid)).is_err() {}
            kept.extend(walk.visited().map(|cid| *cid.hash()));
        }
        self.blocks.keys().filter(|key| !kept.contains(key)).copied().collect()
    }

    pub(super) fn has_block(&self, cid: &Cid) -> bool {
        cid.hash().code() == HASH_IDENTITY || self.blocks.contains_key(cid.hash())
    }

    pub(super) fn block(&self, cid: &Cid) -> Option<Bytes> {
        if cid.hash().code() == HASH_IDENTITY {
            return Some(Bytes::copy_from_slice(cid.hash().digest()));
        }
        self.blocks.get(cid.hash()).cloned()
    }
}
