//! What becomes of walks when blocks are merged, and the records of those that go on.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::super::key::{Digest, block_cid};
use super::super::ledger::{Branch, Head};
use super::{Frontier, Open, Outcome, State, Walk, WalkId};

impl Frontier {
    /// What becomes of everything when these blocks, which are here, are merged. Marks them as being merged.
    pub(in super::super) fn merging(&mut self, group: &[Digest]) -> Outcome {
        let mut merging: BTreeMap<WalkId, usize> = BTreeMap::new();
        let mut begun = BTreeSet::new();
        for block in group {
            let Some(open) = self.blocks.get(block) else { continue };
            let State::Arrived { fold } = open.state else { continue };
            for owner in &open.owners {
                *merging.entry(owner.walk).or_default() += usize::from(!fold);
                begun.insert(owner.walk);
            }
            self.merged = self.merged.max(open.arrival);
            self.set_state(block, State::Merging { fold });
        }
        let mut outcome = Outcome::default();
        for (id, walk) in &self.walks {
            if walk.open == merging.get(id).copied().unwrap_or_default() {
                outcome.done.push(*id);
                outcome.covered.extend(&walk.met);
            }
        }
        for (id, walk) in &self.walks {
            let head = Head { cid: block_cid(&walk.tip), height: walk.height };
            // A walk whose tip was known all along changes nothing.
            let is_known = !walk.begun && !begun.contains(id);
            let is_done = outcome.done.contains(id);
            let at_once = walk.at_once && !walk.begun && begun.contains(id);
            let makes_head = if is_done { !is_known } else { at_once };
            if makes_head && !walk.covered && !outcome.covered.contains(&walk.tip) {
                outcome.heads.add.push(head);
            }
        }
        outcome.heads.remove = outcome.covered.iter().map(block_cid).collect();
        let done: BTreeSet<WalkId> = outcome.done.iter().copied().collect();
        outcome.unfinished = self.records(&done, &begun, &outcome.covered);
        outcome
    }

    /// The records of walks of which some is merged, or will be. A block of several is in the first one's only, and one
    /// that a walk meets again below another is in none: thousands may be here and wait to be merged, and all this is
    /// written with each merge.
    fn records(
        &self,
        without: &BTreeSet<WalkId>,
        begun: &BTreeSet<WalkId>,
        covered: &BTreeSet<Digest>,
    ) -> Vec<Branch> {
        let is_recorded =
            |id: &WalkId, walk: &Walk| (walk.begun || begun.contains(id)) && !without.contains(id);
        let mut branches: BTreeMap<WalkId, Branch> = BTreeMap::new();
        for (id, walk) in self.walks.iter().filter(|(id, walk)| is_recorded(id, walk)) {
            let mut met: Vec<_> = walk.met.iter().map(block_cid).collect();
            // The record has no other place for it: who meets itself is covered.
            if walk.covered || walk.at_once || covered.contains(&walk.tip) {
                met.push(block_cid(&walk.tip));
            }
            let tip = Head { cid: block_cid(&walk.tip), height: walk.height };
            branches.insert(*id, Branch { tip, open: Vec::new(), met });
        }
        if branches.is_empty() {
            return Vec::new();
        }
        for (block, open) in self.blocks.iter().filter(|(_, open)| self.is_recorded(open)) {
            let first = open.owners.iter().map(|owner| owner.walk).find(|walk| branches.contains_key(walk));
            if let Some(branch) = first.and_then(|walk| branches.get_mut(&walk)) {
                branch.open.push(block_cid(block));
            }
        }
        let mut branches: Vec<Branch> = branches.into_values().collect();
        branches.sort_by_key(|branch| branch.tip);
        branches
    }

    /// Whether a walk that goes on after a restart has to be told of a block. What is to come, or is here and not merged,
    /// need not be when all that link to it, of what came, are not merged either: they are got again first. The first of
    /// them tells, because blocks are merged in the order in which they come.
    fn is_recorded(&self, open: &Open) -> bool {
        match open.state {
            State::Merging { fold } => fold,
            State::Folded | State::Unfolding => true,
            State::Checking { .. } | State::Waiting { .. } | State::Asked { .. } | State::Arrived { .. } => {
                open.listed_by <= self.merged
            }
        }
    }

    /// The record of one walk, on its own.
    pub(in super::super) fn record(&self, id: WalkId) -> Option<Branch> {
        let walk = self.walks.get(&id)?;
        let mut met: Vec<_> = walk.met.iter().map(block_cid).collect();
        if walk.covered {
            met.push(block_cid(&walk.tip));
        }
        let is_its = |open: &&Open| open.owners.iter().any(|owner| owner.walk == id);
        let open = self.blocks.iter().filter(|(_, open)| is_its(open)).map(|(block, _)| block_cid(block));
        Some(Branch {
            tip: Head { cid: block_cid(&walk.tip), height: walk.height },
            open: open.collect(),
            met,
        })
    }

    /// The merge is on disk. Gives the walks that are done.
    pub(in super::super) fn merged(
        &mut self,
        group: &[Digest],
        outcome: &Outcome,
        now: Instant,
    ) -> Vec<(WalkId, Walk)> {
        for block in group {
            let Some(open) = self.blocks.get(block) else { continue };
            for owner in &open.owners {
                if let Some(walk) = self.walks.get_mut(&owner.walk) {
                    walk.begun = true;
                    // Once it was a head, others may be put upon it: it does not become one again.
                    walk.covered |= walk.at_once;
                    walk.merged += 1;
                    walk.progress = now;
                }
            }
            match open.state {
                State::Merging { fold: true } => self.set_state(block, State::Folded),
                State::Merging { fold: false } => drop(self.remove(block)),
                _ => {}
            }
        }
        let done: Vec<(WalkId, Walk)> =
            outcome.done.iter().filter_map(|id| Some((*id, self.walks.remove(id)?))).collect();
        for walk in self.walks.values_mut() {
            // Some may have begun while the others' last blocks were being merged.
            walk.covered |= outcome.covered.contains(&walk.tip);
            walk.covered |= done.iter().any(|(_, done)| done.met.contains(&walk.tip));
        }
        done
    }

    /// Nothing was merged: the blocks have to come again.
    pub(in super::super) fn not_merged(&mut self, group: &[Digest]) {
        for block in group {
            if self.blocks.get(block).is_some_and(|open| matches!(open.state, State::Merging { .. })) {
                self.ask_again(block);
            }
        }
    }
}
