//! Waiting lines: first in, first out, bounded, and an item that is no longer wanted leaves at once.
//!
//! A queued item is its CID alone. The pin is read from the pinset when its turn comes, so a million waiting pins
//! take some 100 MB instead of a gigabyte, and a pin that changed or left meanwhile is never pinned as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use super::key::CidKey;
use crate::types::Timestamp;

/// Why an item could not be queued; the reference's text.
pub(crate) const QUEUE_FULL: &str = "pin/unpin operation queue is full. Try increasing max_pin_queue_size";

/// One waiting line.
#[derive(Debug)]
pub(crate) struct Queue {
    /// By ticket; tickets only grow, so the first is the oldest.
    waiting: BTreeMap<u64, CidKey>,
    items_max: usize,
}

impl Queue {
    pub(crate) fn new(items_max: usize) -> Self {
        Self { waiting: BTreeMap::new(), items_max }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= self.items_max
    }

    pub(crate) const fn items_max(&self) -> usize {
        self.items_max
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds an item. The caller has asked [`Queue::is_full`].
    pub(crate) fn push(&mut self, ticket: u64, key: CidKey) {
        self.waiting.insert(ticket, key);
    }

    /// The oldest.
    pub(crate) fn pop(&mut self) -> Option<(u64, CidKey)> {
        self.waiting.pop_first()
    }

    /// Takes an item out; absent is fine.
    pub(crate) fn remove(&mut self, ticket: u64) {
        self.waiting.remove(&ticket);
    }
}

/// Which pins go first: young ones that did not fail too often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PriorityRule {
    pub(crate) age_max: Duration,
    pub(crate) attempts_max: u32,
}

impl PriorityRule {
    /// Whether a pin of this time, tried so often, goes first. A pin without a time is not young; one from the
    /// future is, because clocks differ.
    pub(crate) fn applies(&self, pinned_at: Option<Timestamp>, attempts: u32, now: Timestamp) -> bool {
        pinned_at.is_some_and(|at| now.saturating_duration_since(at) < self.age_max)
            && attempts <= self.attempts_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::parse_cid;

    #[test]
    fn a_queue_gives_the_oldest_first_and_counts_only_what_waits() {
        let key = CidKey::from(&parse_cid("QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o").unwrap());
        let mut queue = Queue::new(2);
        queue.push(1, key.clone());
        queue.push(2, key.clone());
        assert!(queue.is_full());
        queue.remove(1);
        queue.remove(1);
        assert!(!queue.is_full());
        queue.push(3, key);
        assert_eq!(queue.pop().map(|(ticket, _)| ticket), Some(2));
        assert_eq!(queue.pop().map(|(ticket, _)| ticket), Some(3));
        assert!(queue.pop().is_none() && queue.is_empty());
    }

    #[test]
    fn young_pins_that_did_not_fail_too_often_go_first() {
        let rule = PriorityRule { age_max: Duration::from_secs(100), attempts_max: 5 };
        let now = Timestamp::from_unix_seconds(1_000_000);
        for (pinned_at, attempts, expected) in [
            (Some(now), 0, true),
            (Some(now), 5, true),
            (Some(now), 6, false),
            (Some(now - Duration::from_secs(99)), 0, true),
            (Some(now - Duration::from_secs(100)), 0, false),
            (Some(now + Duration::from_secs(3600)), 0, true),
            (None, 0, false),
        ] {
            assert_eq!(rule.applies(pinned_at, attempts, now), expected, "{pinned_at:?} after {attempts}");
        }
    }
}
