//! What others want of us: to be answered now, and what we had not, to be answered when it comes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{Entry, EntryKind};
use crate::types::{Cid, PeerId};

/// Most wants of one peer that are remembered; for each further one the oldest is forgotten.
pub(super) const WANTS_PER_PEER_MAX: usize = 4_096;

/// What is wanted of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The block itself, and not only to be told that it is there.
    pub(super) block: bool,
    /// To be told also when it is not there.
    pub(super) send_dont_have: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledgers {
    peers: BTreeMap<PeerId, Ledger>,
    /// Who wants a block.
    wanted: BTreeMap<Cid, BTreeSet<PeerId>>,
    next_age: u64,
}

#[derive(Debug, Default)]
struct Ledger {
    wants: BTreeMap<Cid, (u64, Wanted)>,
    by_age: BTreeMap<u64, Cid>,
    /// To be looked up and answered, in the order in which they were asked for.
    due: BTreeMap<u64, Cid>,
}

impl Ledgers {
    /// A peer says what it wants. True when something is due to be answered.
    pub(super) fn receive(&mut self, peer: PeerId, full: bool, entries: &[Entry]) -> bool {
        if full {
            self.forget_peer(&peer);
        }
        for entry in entries {
            match entry.kind {
                EntryKind::Cancel => self.forget(&peer, &entry.cid),
                EntryKind::Have { send_dont_have } => {
                    self.remember(peer, entry.cid, Wanted { block: false, send_dont_have });
                }
                EntryKind::Block { send_dont_have } => {
                    self.remember(peer, entry.cid, Wanted { block: true, send_dont_have });
                }
            }
        }
        self.has_due(&peer)
    }

    fn remember(&mut self, peer: PeerId, cid: Cid, mut wanted: Wanted) {
        let ledger = self.peers.entry(peer).or_default();
        if let Some((age, before)) = ledger.wants.get(&cid) {
            // As Go: who wants the block itself still wants it when it asks for less.
            wanted.block |= before.block;
            ledger.by_age.remove(age);
            ledger.due.remove(age);
        } else if ledger.wants.len() >= WANTS_PER_PEER_MAX
            && let Some(oldest) = ledger.by_age.values().next().copied()
        {
            self.forget(&peer, &oldest);
        }
        self.next_age += 1;
        let ledger = self.peers.entry(peer).or_default();
        ledger.wants.insert(cid, (self.next_age, wanted));
        ledger.by_age.insert(self.next_age, cid);
        ledger.due.insert(self.next_age, cid);
        self.wanted.entry(cid).or_default().insert(peer);
    }

    /// The next want that is to be looked up, oldest first. It stays remembered.
    pub(super) fn next_due(&mut self, peer: &PeerId) -> Option<(Cid, Wanted)> {
        let ledger = self.peers.get_mut(peer)?;
        let (_, cid) = ledger.due.pop_first()?;
        Some((cid, ledger.wants.get(&cid)?.1))
    }

    pub(super) fn has_due(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|ledger| !ledger.due.is_empty())
    }

    /// A want is answered, or taken back.
    pub(super) fn forget(&mut self, peer: &PeerId, cid: &Cid) {
        let Some(ledger) = self.peers.get_mut(peer) else { return };
        let Some((age, _)) = ledger.wants.remove(cid) else { return };
        ledger.by_age.remove(&age);
        ledger.due.remove(&age);
        if ledger.wants.is_empty() {
            self.peers.remove(peer);
        }
        self.is_wanted_no_more(cid, peer);
    }

    pub(super) fn forget_peer(&mut self, peer: &PeerId) {
        for cid in self.peers.remove(peer).into_iter().flat_map(|ledger| ledger.wants.into_keys()) {
            self.is_wanted_no_more(&cid, peer);
        }
    }

    /// The block is here now: whoever wants it is to be answered.
    pub(super) fn announce(&mut self, cid: &Cid) -> Vec<PeerId> {
        let peers: Vec<PeerId> = self.wanted.get(cid).into_iter().flatten().copied().collect();
        for peer in &peers {
            if let Some(ledger) = self.peers.get_mut(peer)
                && let Some((age, _)) = ledger.wants.get(cid)
            {
                ledger.due.insert(*age, *cid);
            }
        }
        peers
    }

    /// Peers that want something.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    #[cfg(test)]
    pub(super) fn wants(&self, peer: &PeerId) -> usize {
        self.peers.get(peer).map_or(0, |ledger| ledger.wants.len())
    }

    fn is_wanted_no_more(&mut self, cid: &Cid, peer: &PeerId) {
        if let Some(peers) = self.wanted.get_mut(cid) {
            peers.remove(peer);
            if peers.is_empty() {
                self.wanted.remove(cid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes(&[0, 1, number]).unwrap()
    }

    fn cid(number: u32) -> Cid {
        Block::raw(number.to_be_bytes().to_vec()).cid
    }

    fn entry(number: u32, kind: EntryKind) -> Entry {
        Entry { cid: cid(number), priority: 1, kind }
    }

    const HAVE: EntryKind = EntryKind::Have { send_dont_have: false };
    const BLOCK: EntryKind = EntryKind::Block { send_dont_have: true };
    const WANTS_HAVE: Wanted = Wanted { block: false, send_dont_have: false };
    const WANTS_BLOCK: Wanted = Wanted { block: true, send_dont_have: true };

    fn due(ledgers: &mut Ledgers, number: u8) -> Vec<(Cid, Wanted)> {
        std::iter::from_fn(|| ledgers.next_due(&peer(number))).collect()
    }

    #[test]
    fn what_was_not_there_is_due_again_when_it_comes_until_it_is_answered() {
        let mut ledgers = Ledgers::default();
        assert!(ledgers.receive(peer(1), false, &[entry(2, HAVE), entry(1, BLOCK)]));
        assert_eq!(due(&mut ledgers, 1), [(cid(2), WANTS_HAVE), (cid(1), WANTS_BLOCK)], "in the order asked");
        assert!(!ledgers.has_due(&peer(1)));
        assert_eq!(ledgers.announce(&cid(1)), [peer(1)]);
        assert_eq!(ledgers.announce(&cid(9)), []);
        assert_eq!(due(&mut ledgers, 1), [(cid(1), WANTS_BLOCK)]);
        ledgers.forget(&peer(1), &cid(1));
        assert_eq!(ledgers.announce(&cid(1)), []);
    }

    #[test]
    fn asking_again_is_answered_again_and_never_asks_for_less() {
        let mut ledgers = Ledgers::default();
        ledgers.receive(peer(1), false, &[entry(1, BLOCK)]);
        assert_eq!(due(&mut ledgers, 1).len(), 1);
        assert!(ledgers.receive(peer(1), false, &[entry(1, HAVE)]));
        assert_eq!(due(&mut ledgers, 1), [(cid(1), Wanted { block: true, send_dont_have: false })]);
    }

    #[test]
    fn a_cancel_a_full_list_and_an_end_leave_nothing() {
        let mut ledgers = Ledgers::default();
        ledgers.receive(peer(1), false, &[entry(1, HAVE), entry(2, HAVE), entry(3, HAVE)]);
        ledgers.receive(peer(1), false, &[entry(1, EntryKind::Cancel), entry(9, EntryKind::Cancel)]);
        assert_eq!(ledgers.wants(&peer(1)), 2);
        ledgers.receive(peer(1), true, &[entry(4, HAVE)]);
        assert_eq!(due(&mut ledgers, 1), [(cid(4), WANTS_HAVE)]);
        ledgers.receive(peer(2), false, &[entry(4, HAVE)]);
        ledgers.forget_peer(&peer(1));
        ledgers.receive(peer(2), true, &[]);
        assert!(ledgers.peers.is_empty() && ledgers.wanted.is_empty(), "{ledgers:?}");
    }

    #[test]
    fn the_oldest_want_makes_room_for_the_newest() {
        let mut ledgers = Ledgers::default();
        let many = WANTS_PER_PEER_MAX as u32 + 10;
        let entries: Vec<Entry> = (0..many).map(|number| entry(number, HAVE)).collect();
        ledgers.receive(peer(1), false, &entries);
        let ledger = &ledgers.peers[&peer(1)];
        assert_eq!([ledger.wants.len(), ledger.by_age.len(), ledger.due.len()], [WANTS_PER_PEER_MAX; 3]);
        assert_eq!(ledgers.wanted.len(), WANTS_PER_PEER_MAX);
        assert_eq!(due(&mut ledgers, 1)[0], (cid(10), WANTS_HAVE));
    }
}
