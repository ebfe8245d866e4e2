//! What has to be written for some operations and nodes: reads the records they touch, decides, writes nothing.

mod memory;
mod reading;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use self::memory::After;
pub(super) use self::memory::Memory;
use super::absorb::{Adoption, PinRecord};
use super::batching::{Logged, Policy, Waiting};
use super::delta::{Element, Tombstone};
use super::key::{self, Digest};
use super::ledger::{Head, HeadChange};
use super::node::Node;
use super::records::{self, BLOCKS, BlockId, META};
use super::set::{Elements, Live, Number};
use super::wire::corrupt;
use crate::error::{Error, Result};
use crate::state::{State, decode_pin_protobuf, encode_pin_protobuf};
use crate::storage::{Batch, Snapshot, Storage};
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::types::{Cid, PinOperation, Revision};

/// Blocks whose values are kept while a batch is made, when two elements have to be compared.
const READ_BLOCKS_MAX: usize = 16;

/// A batch that was made and not written.
#[derive(Debug)]
pub(super) struct Staged {
    /// For the pinset, in order.
    pub(super) operations: Vec<PinOperation>,
    /// Beside it.
    pub(super) batch: Batch,
    /// For the committer's memory.
    pub(super) after: After,
    /// The head that was cut, if one was.
    pub(super) cut: Option<Head>,
    /// Blocks that are new here.
    pub(super) blocks: Vec<Cid>,
    /// Blocks that are merged now, here or not.
    pub(super) merged: Vec<Digest>,
    /// Values that count and cannot be read: how many, and one of them.
    pub(super) unreadable: Option<(usize, Cid, Error)>,
}

/// A pin's elements while a batch is made.
#[derive(Debug)]
struct Touched {
    elements: Elements,
    /// The element whose value the pinset has (or would have, did nothing wait for this pin).
    shown: Option<Number>,
    is_changed: bool,
    /// Values of elements that came with this batch.
    values: Vec<(Number, Bytes)>,
    /// The element whose value the pinset had, byte for byte, before this batch.
    stored: Option<Number>,
    /// The same after it.
    exact: Option<Number>,
    /// Elements whose value may be nowhere else when the pinset has it not.
    strays: Vec<Number>,
}

impl Touched {
    fn new(elements: Elements, is_caught_up: bool) -> Self {
        let (shown, stored) = (elements.winner(), elements.exact());
        let strays = stored.filter(|_| is_caught_up).into_iter().collect();
        Self { elements, shown, is_changed: false, values: Vec::new(), stored, exact: stored, strays }
    }
}

#[derive(Clone, Copy, Debug)]
struct Named {
    id: BlockId,
    is_new: bool,
    is_changed: bool,
}

/// A batch in the making.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    storage: &'a dyn Storage,
    state: &'a dyn State,
    /// The store before this batch, for the pinset.
    snapshot: Option<Arc<dyn Snapshot>>,
    memory: &'a Memory,
    batch: Batch,
    names: BTreeMap<Digest, Named>,
    pins: BTreeMap<Cid, Touched>,
    /// Pins whose elements changed since the pinset was last told.
    unshown: BTreeSet<Cid>,
    /// What waits, where it differs from memory.
    waiting: BTreeMap<Cid, Waiting>,
    logged: Vec<Logged>,
    heads: Option<BTreeMap<Cid, u64>>,
    next_number: Number,
    /// Numbers that are new.
    numbered: BTreeMap<Number, Digest>,
    is_caught_up: bool,
    /// Something that must not wait was logged.
    must_cut: bool,
    operations: Vec<PinOperation>,
    blocks: Vec<Cid>,
    merged: Vec<Digest>,
    read: BTreeMap<Number, BTreeMap<Cid, Bytes>>,
    unreadable: Option<(usize, Cid, Error)>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(storage: &'a dyn Storage, state: &'a dyn State, memory: &'a Memory) -> Self {
        Self {
            storage,
            state,
            snapshot: None,
            memory,
            batch: Batch::new(),
            names: BTreeMap::new(),
            pins: BTreeMap::new(),
            unshown: BTreeSet::new(),
            waiting: BTreeMap::new(),
            logged: Vec::new(),
            heads: None,
            next_number: memory.next_number,
            numbered: BTreeMap::new(),
            is_caught_up: false,
            must_cut: false,
            operations: Vec::new(),
            blocks: Vec::new(),
            merged: Vec::new(),
            read: BTreeMap::new(),
            unreadable: None,
        }
    }

    /// A local operation, with the bytes of its value. It is exactly one operation for the pinset.
    pub(super) fn log(&mut self, operation: &PinOperation, value: &Bytes) -> Result<()> {
        // What nodes did before is seen before.
        self.show()?;
        match operation {
            PinOperation::Revise(revision) => {
                if self.is_as_seen(revision)? {
                    // Waiting, it would be above what comes meanwhile.
                    self.must_cut |= revision.now().is_some() && is_careful();
                    return self.log(&revision.operation(), value);
                }
            }
            PinOperation::Pin(pin) => {
                let touched = self.touch_or_replace(&pin.cid)?;
                touched.is_changed |= touched.exact.take().is_some();
                self.waiting(&pin.cid).pin(value.clone());
                self.logged.push(Logged::Pin { pin: pin.cid, value: value.clone() });
            }
            PinOperation::Unpin(cid) => {
                let live = self.touch(cid)?.elements.live().to_vec();
                let digests = live.iter().map(|live| self.digest(live.number)).collect::<Result<Vec<_>>>()?;
                let touched = self.touch(cid)?;
                for live in &live {
                    touched.is_changed |= touched.elements.bury(live.number);
                }
                touched.shown = None;
                touched.exact = None;
                let waiting = self.waiting(cid);
                // Nobody has to be told that what nobody knows is gone.
                if waiting.value.is_some() || !digests.is_empty() {
                    waiting.unpin(&digests);
                    self.logged.push(Logged::Unpin { pin: *cid, elements: digests });
                }
            }
        }
        self.operations.push(operation.clone());
        Ok(())
    }

    /// Whether the pinset has the entry that somebody saw.
    fn is_as_seen(&mut self, revision: &Revision) -> Result<bool> {
        if !is_careful() {
            return Ok(true);
        }
        let cid = revision.seen().cid;
        if self.pins.contains_key(&cid) {
            let last = self.operations.iter().rev().find_map(|operation| match operation {
                PinOperation::Pin(pin) if pin.cid == cid => Some(Some(pin.clone())),
                PinOperation::Unpin(gone) if *gone == cid => Some(None),
                _ => None,
            });
            if let Some(last) = last {
                return Ok(
                    last.is_some_and(|pin| Arc::unwrap_or_clone(pin).into_stored() == *revision.seen())
                );
            }
        }
        let stored = self.stored_value(&cid)?;
        Ok(stored
            .is_some_and(|value| decode_pin_protobuf(&cid, &value).is_ok_and(|pin| pin == *revision.seen())))
    }

    /// A node whose block was checked. One that is processed changes nothing.
    pub(super) fn merge(&mut self, node: &Node) -> Result<()> {
        let digest = key::block_digest(&node.cid).ok_or_else(|| not_a_block(&node.cid))?;
        let named = self.name(&digest)?;
        if named.id.is_here() {
            return Ok(());
        }
        // What it says came before, without it.
        let is_merged = std::mem::replace(&mut named.id.is_processed, true);
        named.id.is_lacking = false;
        named.id.height = node.delta.priority;
        named.is_changed = true;
        let number = named.id.number;
        self.batch.put(BLOCKS, Bytes::copy_from_slice(&digest), node.block.clone());
        self.blocks.push(node.cid);
        if is_merged {
            return Ok(());
        }
        self.merged.push(digest);
        for Tombstone { pin, block } in &node.delta.tombstones {
            let buried = self.name(block)?.id.number;
            let touched = self.touch(pin)?;
            if touched.elements.bury(buried) {
                touched.is_changed = true;
                self.unshown.insert(*pin);
            }
        }
        for Element { pin, value } in &node.delta.elements {
            let touched = self.touch(pin)?;
            let is_new = touched.elements.add(Live { number, priority: node.delta.priority });
            match touched.values.last_mut() {
                // One block may say several things of a pin: the greatest counts.
                Some((last, before)) if *last == number => {
                    if value > before {
                        *before = value.clone();
                    }
                }
                _ => touched.values.push((number, value.clone())),
            }
            if is_new {
                touched.is_changed = true;
                self.unshown.insert(*pin);
            }
        }
        Ok(())
    }

    /// What another peer knows of a pin.
    pub(super) fn absorb(&mut self, record: &PinRecord) -> Result<()> {
        self.is_caught_up = true;
        let mut is_changed = false;
        for (block, priority, value) in &record.elements {
            let number = self.name(block)?.id.number;
            let touched = self.touch(&record.pin)?;
            if touched.elements.add(Live { number, priority: *priority }) {
                touched.values.push((number, value.clone()));
                touched.strays.push(number);
                is_changed = true;
            }
        }
        for block in &record.tombstones {
            let number = self.name(block)?.id.number;
            is_changed |= self.touch(&record.pin)?.elements.bury(number);
        }
        if is_changed {
            self.touch(&record.pin)?.is_changed = true;
            self.unshown.insert(record.pin);
        }
        Ok(())
    }

    /// Blocks whose elements and tombstones were absorbed, all of them, count as merged; heads become ours.
    pub(super) fn adopt(&mut self, adoption: &Adoption) -> Result<()> {
        self.is_caught_up = true;
        for (block, height) in &adoption.blocks {
            self.adopt_block(block, *height)?;
        }
        let mut heads = HeadChange { add: Vec::new(), remove: adoption.remove.clone() };
        for head in &adoption.heads {
            let block = key::block_digest(&head.cid).ok_or_else(|| not_a_block(&head.cid))?;
            // One that is merged was reached by a walk meanwhile, which knows what becomes of it.
            if self.adopt_block(&block, head.height)? {
                heads.add.push(*head);
            }
        }
        self.batch.put(META, records::META_LACKING, Bytes::new());
        if adoption.is_dirty {
            self.batch.put(META, records::META_DIRTY, Bytes::new());
        }
        self.change_heads(&heads)
    }

    fn adopt_block(&mut self, block: &Digest, height: u64) -> Result<bool> {
        let named = self.name(block)?;
        if named.id.is_processed {
            return Ok(false);
        }
        named.id = BlockId { height, is_processed: true, is_lacking: true, ..named.id };
        named.is_changed = true;
        self.merged.push(*block);
        Ok(true)
    }

    /// Heads appear and go.
    pub(super) fn change_heads(&mut self, change: &HeadChange) -> Result<()> {
        if change.is_empty() {
            return Ok(());
        }
        if let Some(head) = change.add.iter().find(|head| key::block_digest(&head.cid).is_none()) {
            return Err(not_a_block(&head.cid));
        }
        let heads = self.heads.get_or_insert_with(|| self.memory.heads.clone());
        for cid in &change.remove {
            heads.remove(cid);
        }
        heads.extend(change.add.iter().map(|head| (head.cid, head.height)));
        Ok(())
    }

    /// The operations for the pinset so far.
    pub(super) fn operations(&self) -> usize {
        self.operations.len()
    }

    /// The whole batch; with a delta of all that waits if that is due, or wanted.
    pub(super) fn finish(mut self, policy: Policy, now: Instant, cut_all: bool) -> Result<Staged> {
        self.show()?;
        let pending = &self.memory.pending;
        let operations = pending.operations + self.logged.len();
        let is_cut = operations > 0
            && (cut_all
                || self.must_cut
                || policy.is_due(operations, self.waiting_bytes(), pending.age(now)));
        let (cut, log) = if is_cut { (self.cut()?, Vec::new()) } else { (None, self.put_log()) };
        self.put_records()?;
        let after = After {
            heads: self.heads,
            next_number: self.next_number,
            is_caught_up: self.is_caught_up,
            is_cut,
            waiting: self.waiting,
            operations: self.logged.len(),
            log,
        };
        let Self { operations, batch, blocks, merged, unreadable, .. } = self;
        Ok(Staged { operations, batch, after, cut, blocks, merged, unreadable })
    }

    /// Brings the pinset up to what the elements say.
    pub(super) fn show(&mut self) -> Result<()> {
        for pin in std::mem::take(&mut self.unshown) {
            self.settle(&pin)?;
            let touched = self.touch(&pin)?;
            let winner = touched.elements.winner();
            if winner == touched.shown {
                continue;
            }
            touched.shown = winner;
            // What waits will be above everything that is there now.
            if self.current(&pin).is_some_and(|waiting| waiting.value.is_some()) {
                continue;
            }
            let mut exact = None;
            let operation = match winner {
                None => PinOperation::Unpin(pin),
                Some(number) => {
                    let value = self.value(&pin, number)?;
                    match decode_pin_protobuf(&pin, &value) {
                        Ok(pin) => {
                            exact = (encode_pin_protobuf(&pin) == value).then_some(number);
                            PinOperation::Pin(pin.into())
                        }
                        Err(error) => {
                            let (count, ..) = self.unreadable.get_or_insert((0, pin, error));
                            *count += 1;
                            PinOperation::Unpin(pin)
                        }
                    }
                }
            };
            self.touch(&pin)?.exact = exact;
            self.operations.push(operation);
        }
        Ok(())
    }

    fn settle(&mut self, pin: &Cid) -> Result<()> {
        // Taken out, because values are read meanwhile.
        let touched = self.touch(pin)?;
        let (mut elements, shown) = (std::mem::take(&mut touched.elements), touched.shown);
        let settled = elements.settle(shown, |number| self.value(pin, number));
        self.touch(pin)?.elements = elements;
        settled
    }

    /// What waits for a pin, to be changed.
    fn waiting(&mut self, pin: &Cid) -> &mut Waiting {
        let before = &self.memory.pending.pins;
        self.waiting.entry(*pin).or_insert_with(|| before.get(pin).cloned().unwrap_or_default())
    }

    fn current(&self, pin: &Cid) -> Option<&Waiting> {
        self.waiting.get(pin).or_else(|| self.memory.pending.pins.get(pin))
    }

    fn waiting_bytes(&self) -> usize {
        let pending = &self.memory.pending;
        let bytes =
            |pins: &BTreeMap<Cid, Waiting>, pin: &Cid| pins.get(pin).map_or(0, |waiting| waiting.bytes(pin));
        let more: usize = self.waiting.iter().map(|(pin, waiting)| waiting.bytes(pin)).sum();
        let less: usize = self.waiting.keys().map(|pin| bytes(&pending.pins, pin)).sum();
        (pending.bytes + more).saturating_sub(less)
    }
}

/// Whether what a peer does by itself yields to what users did meanwhile.
fn is_careful() -> bool {
    #[cfg(feature = "testing")]
    if is_planted(Planted::RevisionIsBlind) {
        return false;
    }
    true
}

fn not_a_block(cid: &Cid) -> Error {
    Error::invalid_input(format!("{cid} is no block of the dag")).component(super::COMPONENT)
}

fn missing(pin: &Cid) -> Error {
    corrupt(format!("the value of an element of {pin} is missing; clean the state and join again"))
}
