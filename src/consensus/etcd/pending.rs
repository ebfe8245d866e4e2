//! What a watch has said and is not applied yet. Decides, and talks to nobody.
//!
//! What one revision did is applied whole, and so is a batch, unless that is too much to hold. Pieces of a long answer end
//! anywhere, so the last revision of a piece is complete only when the answer is.

use std::sync::Arc;

use super::follower::{read_pin, unreadable};
use super::keys::{Key, Keys};
use super::mark::Witness;
use super::wire::{EventKind, KeyValue, WatchAnswer};
use crate::consensus::OPERATIONS_MAX;
use crate::consensus::group;
use crate::error::Error;
use crate::types::PinOperation;

/// Most bytes of pins that are held back, about.
const HELD_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Pending {
    /// In order, with the revision that each came with.
    operations: Vec<(i64, PinOperation)>,
    bytes: usize,
    /// Everything up to this revision was said.
    complete: i64,
    /// What was applied last.
    applied: i64,
    /// A batch is being written.
    is_batch: bool,
    /// The last write of a lane.
    lane: Option<Witness>,
    /// The last one that was complete.
    witness: Option<Witness>,
}

impl Pending {
    /// After everything up to this revision was applied.
    pub(super) fn after(revision: i64) -> Self {
        Self {
            operations: Vec::new(),
            bytes: 0,
            complete: revision,
            applied: revision,
            is_batch: false,
            lane: None,
            witness: None,
        }
    }

    /// With what was seen before.
    pub(super) fn seen(self, witness: Option<Witness>) -> Self {
        Self { witness, ..self }
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    /// Takes what a watch said, and tells of every change that is none of the pinset: the value, or that it is gone.
    /// Returns how many things could not be read, and the first error.
    pub(super) fn take(
        &mut self,
        keys: &Keys,
        answer: WatchAnswer,
        mut other: impl FnMut(&Key, Option<&[u8]>, i64),
    ) -> Option<(usize, Error)> {
        let mut skipped: Option<(usize, Error)> = None;
        let mut last = None;
        for event in answer.events {
            let revision = event.kv.mod_revision.0;
            last = Some(revision);
            let is_there = event.kind == EventKind::Put;
            if keys.is_lane(&event.kv.key.0) {
                self.see_lane(is_there, &event.kv);
            }
            let read = match keys.parse(&event.kv.key.0) {
                Key::Pin(cid) if !is_there => Ok(Some(PinOperation::Unpin(cid))),
                Key::Pin(_) => read_pin(keys, &event.kv).map(|pin| Some(PinOperation::Pin(Arc::new(pin)))),
                Key::Batch => {
                    self.is_batch = is_there;
                    Ok(None)
                }
                Key::Internal => Ok(None),
                // What is gone does not matter.
                Key::Unknown if !is_there => Ok(None),
                Key::Unknown => Err(unreadable(&event.kv.key.0)),
                key @ (Key::Member(_) | Key::Peer(_) | Key::Removed(_)) => {
                    other(&key, is_there.then_some(&event.kv.value.0[..]), revision);
                    Ok(None)
                }
            };
            match read {
                Ok(Some(operation)) => {
                    self.bytes += group::size([&operation]).1;
                    self.operations.push((revision, operation));
                }
                Ok(None) => {}
                Err(error) => {
                    skipped = Some(skipped.take().map_or((1, error), |(count, first)| (count + 1, first)));
                }
            }
        }
        let complete = match last {
            Some(last) if answer.fragment => last - 1,
            Some(last) => last,
            // Nothing happened up to here.
            None if !answer.fragment && self.complete_is_all() => answer.header.revision.0,
            None => self.complete,
        };
        self.complete = self.complete.max(complete);
        if let Some(lane) = &self.lane
            && lane.revision <= self.complete
        {
            self.witness = self.lane.take();
        }
        skipped
    }

    fn see_lane(&mut self, is_there: bool, lane: &KeyValue) {
        if is_there {
            self.lane = Witness::of(lane);
            return;
        }
        // What is gone cannot be looked at again.
        let is_other = |witness: &Witness| witness.key != lane.key.0;
        self.lane = self.lane.take().filter(is_other);
        self.witness = self.witness.take().filter(is_other);
    }

    /// What to look for when this is gone on with; none where nothing was seen that serves.
    pub(super) fn witness(&self) -> Option<Witness> {
        self.witness.clone()
    }

    /// Whether nothing is there of a revision that is not complete.
    fn complete_is_all(&self) -> bool {
        self.operations.last().is_none_or(|(revision, _)| *revision <= self.complete)
    }

    /// Whether there is more of what has to be applied at once than can be held.
    pub(super) fn is_too_much(&self) -> bool {
        let is_complete = self.operations.first().is_some_and(|(revision, _)| *revision <= self.complete);
        !is_complete && self.is_much()
    }

    fn is_much(&self) -> bool {
        self.operations.len() > OPERATIONS_MAX || self.bytes > HELD_BYTES_MAX
    }

    /// What can be applied now, and the revision that it leads to; none if nothing can.
    pub(super) fn complete(&mut self) -> Option<(Vec<PinOperation>, i64)> {
        if self.complete <= self.applied || (self.is_batch && !self.is_much()) {
            return None;
        }
        let count = self.operations.partition_point(|(revision, _)| *revision <= self.complete);
        let rest = self.operations.split_off(count);
        let operations = std::mem::replace(&mut self.operations, rest);
        let operations: Vec<PinOperation> = operations.into_iter().map(|(_, operation)| operation).collect();
        self.bytes = self.bytes.saturating_sub(group::size(&operations).1);
        self.applied = self.complete;
        Some((operations, self.complete))
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::encode_pin;
    use super::super::wire::{Event, Header, Int};
    use super::*;
    use crate::types::{Cid, PeerId, Pin, PinOptions, parse_cid};

    fn cid() -> Cid {
        parse_cid("QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n").unwrap()
    }

    fn event(kind: EventKind, key: Vec<u8>, value: Vec<u8>, revision: i64) -> Event {
        Event { kind, kv: KeyValue { key: key.into(), value: value.into(), mod_revision: Int(revision) } }
    }

    fn put(keys: &Keys, revision: i64) -> Event {
        let pin = Pin::new(cid(), PinOptions::default());
        event(EventKind::Put, keys.pin(&cid()), encode_pin(&pin), revision)
    }

    fn answer(events: Vec<Event>, fragment: bool) -> WatchAnswer {
        WatchAnswer { events, fragment, ..WatchAnswer::default() }
    }

    fn take(pending: &mut Pending, keys: &Keys, answer: WatchAnswer) -> usize {
        pending.take(keys, answer, |_, _, _| {}).map_or(0, |(count, _)| count)
    }

    fn applied(pending: &mut Pending) -> Option<(usize, i64)> {
        pending.complete().map(|(operations, revision)| (operations.len(), revision))
    }

    #[test]
    fn a_piece_of_an_answer_does_not_complete_its_last_revision() {
        let keys = Keys::below("/c");
        let mut pending = Pending::after(3);
        take(&mut pending, &keys, answer(vec![put(&keys, 4), put(&keys, 5)], true));
        assert_eq!(applied(&mut pending), Some((1, 4)));
        assert_eq!(applied(&mut pending), None);
        take(&mut pending, &keys, answer(vec![put(&keys, 5), put(&keys, 6)], false));
        assert_eq!(applied(&mut pending), Some((3, 6)));
    }

    #[test]
    fn a_batch_is_applied_whole() {
        let keys = Keys::below("/c");
        let mut pending = Pending::after(3);
        let batch = |kind, revision| event(kind, keys.batch(), Vec::new(), revision);
        take(&mut pending, &keys, answer(vec![batch(EventKind::Put, 4)], false));
        take(&mut pending, &keys, answer(vec![put(&keys, 5), batch(EventKind::Put, 5)], false));
        assert_eq!(applied(&mut pending), None);
        take(&mut pending, &keys, answer(vec![put(&keys, 6), batch(EventKind::Delete, 6)], false));
        assert_eq!(applied(&mut pending), Some((2, 6)));
    }

    #[test]
    fn a_batch_that_is_too_large_to_hold_is_applied_as_it_comes() {
        let keys = Keys::below("/c");
        let mut pending = Pending::after(3);
        let many = (0..=OPERATIONS_MAX).map(|_| put(&keys, 5));
        let events = [event(EventKind::Put, keys.batch(), Vec::new(), 4)].into_iter().chain(many).collect();
        take(&mut pending, &keys, answer(events, false));
        assert!(!pending.is_too_much());
        assert_eq!(applied(&mut pending), Some((OPERATIONS_MAX + 1, 5)));
    }

    #[test]
    fn one_revision_that_is_too_large_to_hold_is_too_much() {
        let keys = Keys::below("/c");
        let mut pending = Pending::after(3);
        take(&mut pending, &keys, answer((0..=OPERATIONS_MAX).map(|_| put(&keys, 5)).collect(), true));
        assert!(pending.is_too_much());
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_the_rest_goes_on() {
        let keys = Keys::below("/c");
        let mut pending = Pending::after(3);
        let wrong = [
            event(EventKind::Put, keys.pin(&cid()), b"\xff\xff".to_vec(), 4),
            event(EventKind::Put, b"/c/pins/x".to_vec(), Vec::new(), 4),
            event(EventKind::Put, b"elsewhere".to_vec(), Vec::new(), 4),
            event(EventKind::Delete, b"/c/pins/x".to_vec(), Vec::new(), 4),
        ];
        let events = wrong.into_iter().chain([put(&keys, 5)]).collect();
        assert_eq!(take(&mut pending, &keys, answer(events, false)), 3);
        assert_eq!(applied(&mut pending), Some((1, 5)));
    }

    #[test]
    fn the_last_write_of_a_lane_is_kept_once_it_is_complete_and_forgotten_when_it_is_gone() {
        let keys = Keys::below("/c");
        let lane = |kind, number, revision| event(kind, keys.lane(7, number), b"3".to_vec(), revision);
        let mut pending = Pending::after(3);
        let at = |pending: &Pending| pending.witness().map(|witness| witness.revision);
        take(&mut pending, &keys, answer(vec![lane(EventKind::Put, 1, 4), put(&keys, 5)], true));
        assert_eq!(at(&pending), Some(4));
        take(&mut pending, &keys, answer(vec![lane(EventKind::Put, 1, 5)], true));
        assert_eq!(at(&pending), Some(4));
        take(&mut pending, &keys, answer(vec![lane(EventKind::Put, 2, 6)], false));
        assert_eq!(at(&pending), Some(6));
        take(&mut pending, &keys, answer(vec![lane(EventKind::Delete, 1, 7)], false));
        assert_eq!(at(&pending), Some(6));
        let seen = pending.witness();
        take(&mut pending, &keys, answer(vec![lane(EventKind::Delete, 2, 8)], false));
        assert_eq!(at(&pending), None);
        assert_eq!(at(&Pending::after(6).seen(seen)), Some(6));
    }

    #[test]
    fn others_are_told_of_and_an_answer_without_events_moves_on() {
        let keys = Keys::below("/c");
        let mut pending = Pending::after(3);
        let peer = PeerId::random();
        let mut told = Vec::new();
        let gone = event(EventKind::Delete, keys.peer(&peer), Vec::new(), 4);
        let events = vec![event(EventKind::Put, keys.peer(&peer), b"x".to_vec(), 4), gone];
        pending.take(&keys, answer(events, false), |key, value, at| {
            told.push((key.clone(), value.map(<[u8]>::to_vec), at))
        });
        let key = Key::Peer(peer);
        assert_eq!(told, [(key.clone(), Some(b"x".to_vec()), 4), (key, None, 4)]);
        assert_eq!(applied(&mut pending), Some((0, 4)));
        let header = Header { revision: Int(9), ..Header::default() };
        take(&mut pending, &keys, WatchAnswer { header, ..WatchAnswer::default() });
        assert_eq!(applied(&mut pending), Some((0, 9)));
    }
}
