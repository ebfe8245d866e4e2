//! What is to be said to one peer about our wants.

use std::collections::BTreeMap;

use crate::exchange::bitswap::message::{Entry, EntryKind};
use crate::types::Cid;

/// Entries that wait for one peer before wants are no longer taken back, which is only a courtesy.
pub(super) const ENTRIES_MAX: usize = 8_192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Have { send_dont_have: bool },
    Block,
    Cancel,
}

/// The last word about each block, in the order in which blocks were first spoken of.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    asks: BTreeMap<Cid, (u64, Ask)>,
    order: BTreeMap<u64, Cid>,
}

impl Outbox {
    /// False when nothing is to be sent for it.
    pub(super) fn put(&mut self, number: u64, cid: Cid, ask: Ask) -> bool {
        if let Some((_, before)) = self.asks.get_mut(&cid) {
            *before = ask;
            return true;
        }
        if ask == Ask::Cancel && self.asks.len() >= ENTRIES_MAX {
            return false;
        }
        self.asks.insert(cid, (number, ask));
        self.order.insert(number, cid);
        true
    }

    pub(super) fn take(&mut self, max: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        while entries.len() < max {
            let Some((number, cid)) = self.order.pop_first() else { break };
            let Some((_, ask)) = self.asks.remove(&cid) else { continue };
            // What was wanted first is the most urgent; the numbers go round after two thousand million wants.
            let urgency = i32::MAX - (number % (i32::MAX as u64)) as i32;
            let (priority, kind) = match ask {
                Ask::Have { send_dont_have } => (urgency, EntryKind::Have { send_dont_have }),
                Ask::Block => (urgency, EntryKind::Block { send_dont_have: true }),
                Ask::Cancel => (0, EntryKind::Cancel),
            };
            entries.push(Entry { cid, priority, kind });
        }
        entries
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asks.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
