//! What the DAG says of a run: who had seen what when writing, and what all of it comes to.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::model::{Rewrite, Tag};
use crate::consensus::crdt_inspect;
use crate::error::Result;
use crate::state::decode_pin_protobuf;
use crate::storage::Storage;
use crate::types::{Cid, Pin};

pub use crdt_inspect::{BlockName, BlockView, KnownPin, blocks, heads, known, walked};

/// All blocks of one peer.
#[derive(Clone, Debug, Default)]
pub struct Dag(BTreeMap<BlockName, BlockView>);

/// A value that a block adds for a CID.
#[derive(Clone, Copy, Debug)]
struct Written<'a> {
    name: BlockName,
    height: u64,
    value: &'a Bytes,
    tag: Tag,
}

/// What the DAG says of one CID.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Values that were written once more.
    pub(super) rewrites: Vec<Rewrite>,
    /// Whether the value that counts in the end is one of them.
    pub(super) winner_is_rewrite: bool,
    /// What must not be.
    pub(super) wrong: Vec<String>,
}

impl Dag {
    /// What a store has.
    ///
    /// # Errors
    /// What the store says.
    pub fn of(storage: &dyn Storage) -> Result<Self> {
        blocks(storage).map(Self)
    }

    /// What a peer that merged every block of it knows.
    pub fn known(&self) -> BTreeMap<Cid, KnownPin> {
        walked(&self.0)
    }

    /// The pinset that it comes to: of each pin the live value with the greatest priority, of several the greatest.
    pub fn pins(&self) -> BTreeMap<Cid, Pin> {
        let pins = self.known().into_iter().filter_map(|(cid, known)| {
            let values = known
                .live
                .iter()
                .filter_map(|(name, height)| Some((*height, self.0.get(name)?.elements.get(&cid)?)));
            let (_, value) = values.max()?;
            Some((cid, decode_pin_protobuf(&cid, value).ok()?))
        });
        pins.collect()
    }

    /// The blocks below one, itself not among them.
    fn past(&self, name: &BlockName) -> BTreeSet<BlockName> {
        let mut past = BTreeSet::new();
        let mut open = vec![*name];
        while let Some(block) = open.pop().and_then(|name| self.0.get(&name)) {
            open.extend(block.links.iter().filter(|link| past.insert(**link)));
        }
        past
    }

    /// What it says of the values of one CID. A peer may write a value once more, to give the pin other holders, but only
    /// the one that counts among what it has seen.
    pub(super) fn findings(&self, cid: &Cid, tag_of: impl Fn(&Pin) -> Option<Tag>) -> Findings {
        let written: Vec<Written<'_>> = self
            .0
            .iter()
            .filter_map(|(name, block)| {
                let value = block.elements.get(cid)?;
                let tag = tag_of(&decode_pin_protobuf(cid, value).ok()?)?;
                Some(Written { name: *name, height: block.height, value, tag })
            })
            .collect();
        let all: BTreeSet<BlockName> = self.0.keys().copied().collect();
        let first = |tag: Tag| {
            let same = written.iter().filter(|one| one.tag == tag);
            same.min_by_key(|one| (one.height, one.name)).map(|one| one.name)
        };
        let winner_is_rewrite =
            self.winner(cid, &written, &all).is_some_and(|winner| first(winner.tag) != Some(winner.name));
        let mut findings = Findings { winner_is_rewrite, ..Findings::default() };
        for again in written.iter().filter(|one| first(one.tag) != Some(one.name)) {
            let past = self.past(&again.name);
            let knew = written.iter().filter(|one| past.contains(&one.name)).map(|one| one.tag).collect();
            findings.rewrites.push(Rewrite { tag: again.tag, knew });
            // What it removes itself was removed before.
            let removed = self.0.get(&again.name).map_or_else(BTreeSet::new, |block| block.removed(cid));
            let seen: Vec<_> =
                self.live(cid, &written, &past).filter(|one| !removed.contains(&one.name)).collect();
            let best = seen.iter().filter(|one| one.tag == again.tag).map(Written::rank).max();
            let above: Vec<_> = seen.iter().filter(|one| best.is_none_or(|best| one.rank() > best)).collect();
            if best.is_some() && above.is_empty() {
                continue;
            }
            // A walk that is under way shows what no head is above yet: another value of the tag, which what is written
            // once more is above, or that what would count more was removed, by blocks of any height.
            let is_aside = |name: &BlockName| {
                *name != again.name && !past.contains(name) && !self.past(name).contains(&again.name)
            };
            let other = written
                .iter()
                .any(|one| one.tag == again.tag && one.height < again.height && is_aside(&one.name));
            let is_removed = |one: &Written<'_>| {
                let removes = |block: &BlockView| block.removed(cid).contains(&one.name);
                self.0.iter().any(|(name, block)| removes(block) && is_aside(name))
            };
            if !other && (best.is_none() || !above.iter().all(|one| is_removed(one))) {
                let seen = seen.iter().max_by_key(|one| one.rank()).map(|seen| format!("of {}", seen.tag));
                findings.wrong.push(format!(
                    "the value of {} was written once more, at height {}, where the value {} was seen",
                    again.tag,
                    again.height,
                    seen.as_deref().unwrap_or("of nobody")
                ));
            }
        }
        findings
    }

    /// The value of a CID that counts among some blocks.
    fn winner<'a>(
        &self,
        cid: &Cid,
        written: &[Written<'a>],
        among: &BTreeSet<BlockName>,
    ) -> Option<Written<'a>> {
        self.live(cid, written, among).max_by_key(Written::rank)
    }

    /// The values of a CID that some blocks add and none of them removes.
    fn live<'w, 'a>(
        &self,
        cid: &Cid,
        written: &'w [Written<'a>],
        among: &'w BTreeSet<BlockName>,
    ) -> impl Iterator<Item = Written<'a>> + use<'w, 'a> {
        let blocks = among.iter().filter_map(|name| self.0.get(name));
        let gone: BTreeSet<BlockName> = blocks.flat_map(|block| block.removed(cid)).collect();
        let live = written.iter().filter(move |one| among.contains(&one.name) && !gone.contains(&one.name));
        live.copied()
    }
}

impl<'a> Written<'a> {
    /// The greatest counts.
    const fn rank(&self) -> (u64, &'a Bytes) {
        (self.height, self.value)
    }
}

impl BlockView {
    /// The elements of a CID that it removes.
    fn removed(&self, cid: &Cid) -> BTreeSet<BlockName> {
        self.tombstones.iter().filter(|(pin, _)| pin == cid).map(|(_, name)| *name).collect()
    }
}
