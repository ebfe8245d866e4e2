//! What the walks down the DAG still need. Pure: told what arrived and what is merged, it says what to ask for and which
//! walks are done.
//!
//! A block that several walks need is asked for once and belongs to all of them, so a walk that has to be given up takes
//! nothing from the others. A walk is done when everything it met is merged, or was before it came by.

mod merges;

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::key::{Digest, block_cid, block_digest};
use super::ledger::{Branch, HeadChange};
use super::node::Node;
use crate::types::PeerId;

/// Walks at a time.
pub(super) const WALKS_MAX: usize = 32;
/// Blocks that are asked for at a time, of all walks.
pub(super) const WINDOW_BLOCKS: usize = 256;
/// What each walk may ask for however many there are, and beyond that window when others have filled it.
pub(super) const WINDOW_BLOCKS_MIN: usize = WINDOW_BLOCKS / WALKS_MAX;
/// Blocks that walks know of and need. With more, merged blocks stand for those they link to: read again later, they
/// say the same.
const OPEN_FOLD: usize = 65_536;
/// Even so there are too many beyond this, and the widest walk is given up.
const OPEN_MAX: usize = 2 * OPEN_FOLD;

/// One walk.
pub(super) type WalkId = u64;

/// A walk from a tip down to what is known.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) tip: Digest,
    /// The tip's height, once it is here.
    pub(super) height: u64,
    /// Who announced the tip, so who is asked first.
    pub(super) announcer: Option<PeerId>,
    /// The tip becomes a head before the walk is done.
    pub(super) at_once: bool,
    /// Another head covers the tip, so it does not become one.
    pub(super) covered: bool,
    /// Heads and tips that were met, which the tip covers.
    pub(super) met: BTreeSet<Digest>,
    /// Some of it is merged.
    pub(super) begun: bool,
    /// Blocks merged since it began here.
    pub(super) merged: u64,
    /// When it last came nearer to its end.
    pub(super) progress: Instant,
    /// Its blocks in [`Frontier::blocks`].
    open: usize,
    /// Those of them that only have to be merged.
    arrived: usize,
    /// Those that were asked for on its account.
    asked: usize,
    /// Those to ask for, newest first. May hold some that are not to be asked for any more.
    queue: BTreeSet<(Reverse<u64>, Digest)>,
}

#[derive(Debug)]
struct Open {
    owners: Vec<Owner>,
    state: State,
    /// Its height, once it is here.
    height: u64,
    /// Which block that came was the first to link to it, see [`Frontier::arrivals`]; 0 when it is open on other grounds.
    listed_by: u64,
    /// Which it is itself, once it is here.
    arrival: u64,
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    walk: WalkId,
    /// Its height must be less than this.
    below: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody looks whether it is merged already. What was open before a restart and is merged is unfolded.
    Checking { resumed: bool },
    /// To be asked for.
    Waiting { checked: bool },
    /// Asked for on account of this walk.
    Asked { of: WalkId, checked: bool },
    /// Here, to be merged; `fold` means that what it links to is not listed yet.
    Arrived { fold: bool },
    /// Being merged.
    Merging { fold: bool },
    /// Merged; what it links to is not listed yet.
    Folded,
    /// Somebody reads it to list that.
    Unfolding,
}

/// A block to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) block: Digest,
    /// It is known not to be merged.
    pub(super) checked: bool,
    pub(super) hint: Option<PeerId>,
}

/// What follows from a block that came.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// It is to be merged.
    pub(super) wanted: bool,
    /// Look whether these are merged, and say so with [`Frontier::checked`].
    pub(super) check: Vec<Digest>,
    /// Walks that cannot go on, and why.
    pub(super) failed: Vec<(WalkId, String)>,
}

/// What one merge does beside merging.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) heads: HeadChange,
    /// Walks that are done with it.
    pub(super) done: Vec<WalkId>,
    /// Heads and tips that are covered by it.
    pub(super) covered: BTreeSet<Digest>,
    /// Walks that are not done then.
    pub(super) unfinished: Vec<Branch>,
}

#[derive(Debug, Default)]
pub(super) struct Frontier {
    blocks: BTreeMap<Digest, Open>,
    walks: BTreeMap<WalkId, Walk>,
    folded: BTreeSet<Digest>,
    next_walk: WalkId,
    /// Whose turn it was last.
    served: WalkId,
    /// Blocks that nobody needs any more.
    dropped: Vec<Digest>,
    /// Blocks that came so far, of all walks. They are merged in this order.
    arrivals: u64,
    /// The last of them that is merged or being merged; what came before it is as well, or is to come again.
    merged: u64,
}

impl Frontier {
    pub(super) fn walks(&self) -> impl Iterator<Item = (WalkId, &Walk)> {
        self.walks.iter().map(|(id, walk)| (*id, walk))
    }

    pub(super) fn len(&self) -> usize {
        self.walks.len()
    }

    /// Blocks asked for.
    pub(super) fn asked(&self) -> usize {
        self.walks.values().map(|walk| walk.asked).sum()
    }

    /// Blocks that walks know of and need.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.blocks.len()
    }

    /// Whether some walk came from this tip.
    pub(super) fn walks_from(&self, tip: &Digest) -> Option<WalkId> {
        self.walks.iter().find(|(_, walk)| walk.tip == *tip).map(|(id, _)| *id)
    }

    /// Blocks that nobody needs any more since the last call.
    pub(super) fn dropped(&mut self) -> Vec<Digest> {
        std::mem::take(&mut self.dropped)
    }

    fn add_walk(&mut self, tip: Digest, announcer: Option<PeerId>, now: Instant) -> WalkId {
        self.next_walk += 1;
        let walk = Walk {
            tip,
            height: 0,
            announcer,
            at_once: false,
            covered: false,
            met: BTreeSet::new(),
            begun: false,
            merged: 0,
            progress: now,
            open: 0,
            arrived: 0,
            asked: 0,
            queue: BTreeSet::new(),
        };
        self.walks.insert(self.next_walk, walk);
        self.next_walk
    }

    /// Begins a walk from an announced head.
    pub(super) fn begin(
        &mut self,
        tip: Digest,
        announcer: Option<PeerId>,
        at_once: bool,
        covered: bool,
        now: Instant,
    ) -> WalkId {
        let height = self.meet(tip);
        let id = self.add_walk(tip, announcer, now);
        if let Some(walk) = self.walks.get_mut(&id) {
            walk.height = height;
            walk.at_once = at_once;
            walk.covered = covered;
        }
        self.need(tip, &[id], u64::MAX, State::Waiting { checked: false }, 0);
        id
    }

    /// Walks that have come by this tip cover it. Gives its height, if it is known.
    pub(super) fn meet(&mut self, tip: Digest) -> u64 {
        let Some(open) = self.blocks.get(&tip) else { return 0 };
        for owner in &open.owners {
            if let Some(walk) = self.walks.get_mut(&owner.walk) {
                walk.met.insert(tip);
            }
        }
        open.height
    }

    /// Goes on with a walk from its record. Gives what is to be looked up, and said with [`Frontier::checked`].
    pub(super) fn resume(
        &mut self,
        branch: &Branch,
        announcer: Option<PeerId>,
        now: Instant,
    ) -> Option<(WalkId, Vec<Digest>)> {
        let tip = block_digest(&branch.tip.cid)?;
        self.meet(tip);
        let id = self.add_walk(tip, announcer, now);
        if let Some(walk) = self.walks.get_mut(&id) {
            walk.height = branch.tip.height;
            walk.met = branch.met.iter().filter_map(block_digest).collect();
            walk.covered = walk.met.remove(&tip);
            walk.begun = true;
        }
        let mut check = Vec::new();
        for block in branch.open.iter().filter_map(block_digest) {
            // The tip itself is not below the tip.
            let below = branch.tip.height.saturating_add(u64::from(block == tip));
            if self.need(block, &[id], below, State::Checking { resumed: true }, 0) {
                check.push(block);
            }
        }
        Some((id, check))
    }

    /// Makes a block that of some walks, all of which there are. Whether it is new.
    fn need(&mut self, block: Digest, walks: &[WalkId], below: u64, state: State, listed_by: u64) -> bool {
        if walks.is_empty() {
            return false;
        }
        let (open, is_new) = match self.blocks.entry(block) {
            Entry::Vacant(entry) => {
                let owners = Vec::with_capacity(walks.len());
                (entry.insert(Open { owners, state, height: 0, listed_by, arrival: 0 }), true)
            }
            Entry::Occupied(entry) => (entry.into_mut(), false),
        };
        open.listed_by = open.listed_by.min(listed_by);
        for id in walks {
            if let Some(known) = open.owners.iter_mut().find(|known| known.walk == *id) {
                known.below = known.below.min(below);
                continue;
            }
            let Some(walk) = self.walks.get_mut(id) else { continue };
            open.owners.push(Owner { walk: *id, below });
            walk.open += 1;
            match open.state {
                State::Waiting { .. } => {
                    walk.queue.insert((Reverse(below), block));
                }
                State::Arrived { fold: false } => walk.arrived += 1,
                _ => {}
            }
        }
        is_new
    }

    fn set_state(&mut self, block: &Digest, state: State) {
        let Some(open) = self.blocks.get_mut(block) else { return };
        let before = std::mem::replace(&mut open.state, state);
        for owner in &open.owners {
            let Some(walk) = self.walks.get_mut(&owner.walk) else { continue };
            walk.arrived += usize::from(state == State::Arrived { fold: false });
            walk.arrived -= usize::from(before == State::Arrived { fold: false });
            if matches!(before, State::Asked { of, .. } if of == owner.walk) {
                walk.asked -= 1;
            }
            match state {
                State::Asked { of, .. } if of == owner.walk => walk.asked += 1,
                State::Waiting { .. } => {
                    walk.queue.insert((Reverse(owner.below), *block));
                }
                _ => {}
            }
        }
        if before == State::Folded {
            self.folded.remove(block);
        }
        if state == State::Folded {
            self.folded.insert(*block);
        }
    }

    /// Takes a block out.
    fn remove(&mut self, block: &Digest) -> Option<Open> {
        // Counters first.
        self.set_state(block, State::Unfolding);
        let open = self.blocks.remove(block)?;
        for owner in &open.owners {
            if let Some(walk) = self.walks.get_mut(&owner.walk) {
                walk.open -= 1;
            }
        }
        Some(open)
    }

    /// The next blocks to ask for: each walk's least first, whatever others are waiting for, then at most `room` of all
    /// walks in turn, each within its share.
    pub(super) fn asks(&mut self, room: usize, least: usize) -> Vec<Ask> {
        let mut asks = self.ask_in_turn(usize::MAX, least);
        let share = (WINDOW_BLOCKS / self.walks.len().max(1)).max(least);
        let more = self.ask_in_turn(room.saturating_sub(asks.len()), share);
        asks.extend(more);
        asks
    }

    fn ask_in_turn(&mut self, mut room: usize, share: usize) -> Vec<Ask> {
        let mut asks = Vec::new();
        let mut idle = 0;
        while room > 0 && idle < self.walks.len() {
            let next = self.walks.range(self.served + 1..).next().or_else(|| self.walks.first_key_value());
            let Some((&id, _)) = next else { break };
            self.served = id;
            let Some(ask) = self.next_ask(id, share) else {
                idle += 1;
                continue;
            };
            idle = 0;
            room -= 1;
            asks.push(ask);
        }
        asks
    }

    fn next_ask(&mut self, id: WalkId, share: usize) -> Option<Ask> {
        loop {
            let walk = self.walks.get_mut(&id).filter(|walk| walk.asked < share)?;
            let (_, block) = walk.queue.pop_first()?;
            let hint = walk.announcer;
            let state = self.blocks.get(&block).map(|open| open.state);
            // It may have been asked for on another's account.
            let Some(State::Waiting { checked }) = state else { continue };
            self.set_state(&block, State::Asked { of: id, checked });
            return Some(Ask { block, checked, hint });
        }
    }

    /// Whether a block is merged already; `is_head` when it is a head too.
    pub(super) fn checked(&mut self, block: &Digest, processed: bool, is_head: bool) {
        match self.blocks.get(block).map(|open| open.state) {
            Some(State::Checking { resumed }) => match (processed, resumed) {
                (false, _) => self.set_state(block, State::Waiting { checked: true }),
                (true, true) => self.set_state(block, State::Folded),
                (true, false) => self.known(block, is_head),
            },
            Some(State::Asked { .. }) if processed => self.known(block, is_head),
            _ => {}
        }
    }

    /// A block became a head, which walks that still have it will cover.
    pub(super) fn became_head(&mut self, block: &Digest) {
        let Some(open) = self.blocks.get(block) else { return };
        for owner in &open.owners {
            if let Some(walk) = self.walks.get_mut(&owner.walk)
                && walk.tip != *block
            {
                walk.met.insert(*block);
            }
        }
    }

    /// A block is merged already, and its walks need not go below it.
    fn known(&mut self, block: &Digest, is_head: bool) {
        let Some(open) = self.remove(block) else { return };
        for owner in open.owners {
            if let Some(walk) = self.walks.get_mut(&owner.walk)
                && is_head
                && walk.tip != *block
            {
                walk.met.insert(*block);
            }
        }
    }

    /// A block came. Those it links to are listed, newest walks' first.
    pub(super) fn arrived(
        &mut self,
        block: &Digest,
        node: &Node,
        is_tip: impl Fn(&Digest) -> bool,
        now: Instant,
    ) -> Arrival {
        let mut arrival = Arrival::default();
        let Some(open) = self.blocks.get(block) else { return arrival };
        if !matches!(open.state, State::Asked { .. } | State::Waiting { .. } | State::Checking { .. }) {
            return arrival;
        }
        let height = node.delta.priority;
        for owner in open.owners.clone() {
            if height >= owner.below {
                let cid = block_cid(block);
                let below = owner.below;
                let why =
                    format!("block {cid} has height {height}, but what links to it has {below} or less");
                arrival.failed.push((owner.walk, why));
            } else if let Some(walk) = self.walks.get_mut(&owner.walk) {
                walk.progress = now;
                if walk.tip == *block {
                    walk.height = height;
                }
            }
        }
        let failed: Vec<WalkId> = arrival.failed.iter().map(|(walk, _)| *walk).collect();
        let owners: Vec<WalkId> = self.blocks.get(block).map_or_else(Vec::new, |open| {
            open.owners.iter().map(|owner| owner.walk).filter(|walk| !failed.contains(walk)).collect()
        });
        if owners.is_empty() {
            return arrival;
        }
        arrival.wanted = true;
        let fold = self.blocks.len() + node.links.len() > OPEN_FOLD;
        self.set_state(block, State::Arrived { fold });
        self.arrivals += 1;
        if let Some(open) = self.blocks.get_mut(block) {
            open.height = height;
            open.arrival = self.arrivals;
        }
        if !fold {
            arrival.check = self.list_links(&owners, node, self.arrivals, is_tip);
        } else if self.blocks.len() > OPEN_MAX {
            arrival.failed.extend(self.widest());
        }
        arrival
    }

    fn widest(&self) -> Option<(WalkId, String)> {
        let (id, walk) = self.walks.iter().max_by_key(|(_, walk)| walk.open)?;
        Some((*id, format!("it is too wide: {} blocks are open at once", walk.open)))
    }

    /// What it links to, and is new, has to be looked up. `arrival` is 0 for a block that is merged.
    fn list_links(
        &mut self,
        owners: &[WalkId],
        node: &Node,
        arrival: u64,
        is_tip: impl Fn(&Digest) -> bool,
    ) -> Vec<Digest> {
        let mut check = Vec::new();
        for link in node.links.iter().filter_map(block_digest) {
            if is_tip(&link) || self.walks_from(&link).is_some() {
                for walk in owners {
                    if let Some(walk) = self.walks.get_mut(walk) {
                        walk.met.insert(link);
                    }
                }
            }
            // Most links of a broad DAG are to what others that came with it link to as well.
            let state = State::Checking { resumed: false };
            if self.need(link, owners, node.delta.priority, state, arrival) {
                check.push(link);
            }
        }
        check
    }

    /// A block did not come: it is asked for again.
    pub(super) fn ask_again(&mut self, block: &Digest) {
        self.set_state(block, State::Waiting { checked: false });
    }

    /// The walks that need a block.
    pub(super) fn owners(&self, block: &Digest) -> Vec<WalkId> {
        let owners = self.blocks.get(block).map(|open| open.owners.iter().map(|owner| owner.walk));
        owners.into_iter().flatten().collect()
    }

    /// Whether a merge of everything that is here would end a walk or make a head.
    pub(super) fn is_urgent(&self) -> bool {
        self.walks
            .values()
            .any(|walk| walk.open == walk.arrived || (walk.at_once && !walk.begun && walk.height > 0))
    }

    /// Whether a block that came is still to be merged.
    pub(super) fn is_to_merge(&self, block: &Digest) -> bool {
        self.blocks.get(block).is_some_and(|open| matches!(open.state, State::Arrived { .. }))
    }

    /// Blocks to be read again for what they link to, when there is room for that.
    pub(super) fn unfold(&mut self) -> Vec<Digest> {
        /// Blocks that are read at a time.
        const UNFOLD: usize = 8;
        if self.folded.is_empty() || self.blocks.len() - self.folded.len() > OPEN_FOLD / 2 {
            return Vec::new();
        }
        let blocks: Vec<Digest> = self.folded.iter().take(UNFOLD).copied().collect();
        for block in &blocks {
            self.set_state(block, State::Unfolding);
        }
        blocks
    }

    /// A folded block was read. Gives what is to be looked up.
    pub(super) fn unfolded(&mut self, node: &Node, is_tip: impl Fn(&Digest) -> bool) -> Vec<Digest> {
        let Some(block) = block_digest(&node.cid) else { return Vec::new() };
        let owners = self.owners(&block);
        let check = self.list_links(&owners, node, 0, is_tip);
        self.remove(&block);
        check
    }

    /// Ends a walk. What only it needs is dropped.
    pub(super) fn end(&mut self, id: WalkId) -> Option<Walk> {
        let theirs: Vec<Digest> = self
            .blocks
            .iter()
            .filter(|(_, open)| open.owners.iter().any(|owner| owner.walk == id))
            .map(|(block, _)| *block)
            .collect();
        for block in theirs {
            let Some(open) = self.blocks.get_mut(&block) else { continue };
            open.owners.retain(|owner| owner.walk != id);
            match open.owners.first() {
                None => {
                    self.blocks.remove(&block);
                    self.folded.remove(&block);
                    self.dropped.push(block);
                }
                // Somebody else answers for the question now.
                Some(Owner { walk: next, .. }) => {
                    if let State::Asked { of, checked } = open.state
                        && of == id
                    {
                        let next = *next;
                        open.state = State::Asked { of: next, checked };
                        if let Some(walk) = self.walks.get_mut(&next) {
                            walk.asked += 1;
                        }
                    }
                }
            }
        }
        self.walks.remove(&id)
    }

    /// Walks that only wait for these blocks, or others that are here, to be merged are coming nearer to their ends.
    pub(super) fn touch(&mut self, merging: &[Digest], now: Instant) {
        let owners: BTreeSet<WalkId> = merging.iter().flat_map(|block| self.owners(block)).collect();
        for (id, walk) in &mut self.walks {
            if walk.arrived > 0 || owners.contains(id) {
                walk.progress = now;
            }
        }
    }
}
