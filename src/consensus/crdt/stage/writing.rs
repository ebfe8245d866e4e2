//! Putting what was decided into the batch, and cutting deltas.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::batching::{DELTA_BYTES, Waiting, encode_log};
use super::super::delta::{
    DELTA_ENTRIES_MAX, Delta, Element, HEIGHT_MAX, Tombstone, element_len, tombstone_len,
};
use super::super::key;
use super::super::ledger::Head;
use super::super::node::{LINKS_MAX, Node};
use super::super::records::{self, HEADS, IDS, LOG, META, NUMBERS, SET, VALUES};
use super::super::set::Number;
use super::{Stage, Touched, not_a_block};
use crate::error::Result;
use crate::types::Cid;

impl Stage<'_> {
    /// Makes nodes of all that waits, on top of the heads.
    pub(super) fn cut(&mut self) -> Result<Option<Head>> {
        let mut all: BTreeMap<Cid, Waiting> = self.memory.pending.pins.clone();
        all.append(&mut self.waiting);
        let heads = self.heads.take().unwrap_or_else(|| self.memory.heads.clone());
        let mut height = heads.values().copied().max().unwrap_or(0);
        for (pin, _) in all.iter().filter(|(_, waiting)| waiting.value.is_some()) {
            // Nodes of a walk that is under way are above the heads, and what they said was seen and replaced.
            height = height.max(self.touch_or_replace(pin)?.elements.top_priority());
        }
        for sequence in &self.memory.pending.log {
            self.batch.delete(LOG, Bytes::copy_from_slice(&sequence.to_be_bytes()));
        }
        let mut links: Vec<Cid> = heads.keys().take(LINKS_MAX).copied().collect();
        let mut after = heads.clone();
        let mut cut = None;
        for mut delta in deltas(&all) {
            height = (height + 1).min(HEIGHT_MAX);
            delta.priority = height;
            let node = Node::build(links, delta);
            let digest = key::block_digest(&node.cid).ok_or_else(|| not_a_block(&node.cid))?;
            self.merge(&node)?;
            let number = self.name(&digest)?.id.number;
            for element in &node.delta.elements {
                // The pinset has it since it was logged.
                let touched = self.touch(&element.pin)?;
                (touched.shown, touched.exact) = (Some(number), Some(number));
            }
            for link in &node.links {
                after.remove(link);
            }
            after.insert(node.cid, height);
            links = vec![node.cid];
            cut = Some(Head { cid: node.cid, height });
        }
        // Without a delta, all that waited were pins that went before anybody heard of them.
        self.heads = Some(after);
        // Nothing waits any more, so what the elements say is what is seen.
        self.waiting = all.into_keys().map(|pin| (pin, Waiting::default())).collect();
        self.show()?;
        Ok(cut)
    }

    pub(super) fn put_log(&mut self) -> Vec<u64> {
        let records = encode_log(&self.logged);
        let sequences = self.memory.next_log..self.memory.next_log + records.len() as u64;
        for (sequence, record) in sequences.clone().zip(records) {
            self.batch.put(LOG, Bytes::copy_from_slice(&sequence.to_be_bytes()), record);
        }
        sequences.collect()
    }

    pub(super) fn put_records(&mut self) -> Result<()> {
        self.put_strays()?;
        if self.is_caught_up && !self.memory.is_caught_up {
            self.batch.put(META, records::META_CAUGHT_UP, Bytes::new());
        }
        for (pin, touched) in self.pins.iter_mut().filter(|(_, touched)| touched.is_changed) {
            let exact = touched.exact;
            touched.elements.set_exact(exact.is_some() && exact == touched.elements.winner());
            if touched.elements.is_empty() {
                self.batch.delete(SET, pin.to_bytes());
            } else {
                self.batch.put(SET, pin.to_bytes(), touched.elements.encode());
            }
        }
        for (digest, named) in &self.names {
            let digest = Bytes::copy_from_slice(digest);
            if named.is_new {
                self.batch.put(NUMBERS, records::number_key(named.id.number)?, digest.clone());
            }
            if named.is_new || named.is_changed {
                self.batch.put(IDS, digest, named.id.encode());
            }
        }
        let Some(heads) = &self.heads else { return Ok(()) };
        let before = &self.memory.heads;
        for cid in before.keys().filter(|cid| !heads.contains_key(cid)) {
            let digest = key::block_digest(cid).ok_or_else(|| not_a_block(cid))?;
            self.batch.delete(HEADS, Bytes::copy_from_slice(&digest));
        }
        for (cid, height) in heads.iter().filter(|(cid, height)| before.get(cid) != Some(height)) {
            let digest = key::block_digest(cid).ok_or_else(|| not_a_block(cid))?;
            records::put_head(&mut self.batch, &digest, *height);
        }
        Ok(())
    }

    /// Keeps values that are in no block here and that the pinset will not have.
    pub(super) fn put_strays(&mut self) -> Result<()> {
        let is_stray = |touched: &Touched, number: &Number| {
            touched.exact != Some(*number)
                && touched.elements.live().iter().any(|live| live.number == *number)
        };
        let mut strays = Vec::new();
        for (pin, touched) in &self.pins {
            strays.extend(
                touched
                    .strays
                    .iter()
                    .filter(|number| is_stray(touched, number))
                    .map(|number| (*pin, *number)),
            );
        }
        for (pin, number) in strays {
            let digest = self.digest(number)?;
            if !self.name(&digest)?.id.is_here() {
                let value = self.value(&pin, number)?;
                self.batch.put(VALUES, records::value_key(&pin, number)?, value);
            }
        }
        Ok(())
    }
}

/// Deltas of all that waits, each of about [`DELTA_BYTES`] at most.
fn deltas(all: &BTreeMap<Cid, Waiting>) -> Vec<Delta> {
    let mut deltas = Vec::new();
    let (mut delta, mut bytes) = (Delta::default(), 0);
    let mut make_room = |delta: &mut Delta, more: usize| {
        if delta.len() > 0 && (bytes + more > DELTA_BYTES || delta.len() == DELTA_ENTRIES_MAX) {
            deltas.push(std::mem::take(delta));
            bytes = 0;
        }
        bytes += more;
    };
    for (pin, waiting) in all {
        for block in &waiting.tombstones {
            make_room(&mut delta, tombstone_len(pin));
            delta.tombstones.push(Tombstone { pin: *pin, block: *block });
        }
        if let Some(value) = &waiting.value {
            make_room(&mut delta, element_len(pin, value.len()));
            delta.elements.push(Element { pin: *pin, value: value.clone() });
        }
    }
    if delta.len() > 0 {
        deltas.push(delta);
    }
    deltas
}
