//! The last events of a peer, numbered. Pure: no clock, no tasks.

use std::collections::{BTreeSet, VecDeque};

use crate::types::{Cid, EventKinds, Happening, Multiaddr, PeerId, Pin, PinInfo, Timestamp};

/// What is kept at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) events: usize,
    /// Of all events together, roughly.
    pub(super) bytes: usize,
}

/// What a reader wants to see.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) kinds: EventKinds,
    /// Of events about a CID those about one of these; all when there are none.
    pub(super) cids: BTreeSet<Cid>,
}

impl Filter {
    fn wants(&self, noted: &Noted) -> bool {
        let is_of_cids = || match noted.what.cid() {
            Some(cid) if !self.cids.is_empty() => self.cids.contains(cid),
            _ => true,
        };
        self.kinds.meets(noted.kinds) && is_of_cids()
    }
}

/// An event, without what all of them have in common.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) time: Timestamp,
    /// Who of those who want only some kinds must see it.
    pub(super) kinds: EventKinds,
    pub(super) what: Happening,
}

/// What a reader finds.
#[derive(Debug)]
pub(super) enum Found {
    /// These, with their numbers, and how far it has seen everything now.
    Events(Vec<(u64, Noted)>, u64),
    /// What it wanted to see first is gone.
    Missed,
}

/// The last events. Numbers begin with 1 and are never used twice.
#[derive(Debug)]
pub(super) struct Ring {
    limits: Limits,
    events: VecDeque<(usize, Noted)>,
    /// The number of the first event in here, or of the next one when there is none.
    first: u64,
    bytes: usize,
}

impl Ring {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, events: VecDeque::new(), first: 1, bytes: 0 }
    }

    /// The number of the last event; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.first + self.events.len() as u64 - 1
    }

    /// Notes an event. The oldest make room for it.
    pub(super) fn push(&mut self, noted: Noted) {
        let bytes = bytes(&noted);
        self.bytes += bytes;
        self.events.push_back((bytes, noted));
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some((bytes, _)) = self.events.pop_front() else { break };
            self.bytes -= bytes;
            self.first += 1;
        }
    }

    /// Forgets everything, and leaves a number out: whoever saw the last event has missed some when they come again.
    pub(super) fn interrupt(&mut self) {
        self.first = self.last() + 2;
        self.events = VecDeque::new();
        self.bytes = 0;
    }

    /// The wanted ones of the `most` events behind `after`.
    pub(super) fn read(&self, after: u64, filter: &Filter, most: usize) -> Found {
        let Some(skip) = (after + 1).checked_sub(self.first) else { return Found::Missed };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.events.len());
        let end = self.events.len().min(skip.saturating_add(most));
        let numbered = (after + 1..).zip(self.events.range(skip..end));
        let wanted = numbered
            .filter(|(_, (_, noted))| filter.wants(noted))
            .map(|(number, (_, noted))| (number, noted.clone()))
            .collect();
        Found::Events(wanted, after + (end - skip) as u64)
    }
}

/// About how much memory an event takes.
fn bytes(noted: &Noted) -> usize {
    /// Of an entry of a map, beside its texts.
    const PAIR: usize = 64;
    let pairs = |pairs: &std::collections::BTreeMap<String, String>| {
        pairs.iter().map(|(key, value)| PAIR + key.len() + value.len()).sum::<usize>()
    };
    let peers = |peers: &[PeerId]| std::mem::size_of_val(peers);
    let addresses =
        |addresses: &[Multiaddr]| addresses.iter().map(|address| PAIR + address.len()).sum::<usize>();
    std::mem::size_of::<(usize, Noted)>()
        + match &noted.what {
            Happening::Pinned(pin) | Happening::Unpinned(pin) => {
                let options = &pin.options;
                std::mem::size_of::<Pin>()
                    + options.name.len()
                    + pairs(&options.metadata)
                    + peers(&pin.allocations)
                    + peers(&options.user_allocations)
                    + addresses(&options.origins)
            }
            Happening::Status(info) => {
                std::mem::size_of::<PinInfo>()
                    + info.name.len()
                    + pairs(&info.metadata)
                    + peers(&info.allocations)
                    + addresses(&info.origins)
                    + addresses(&info.status.ipfs_peer_addresses)
                    + info.status.peername.len()
                    + info.status.error.len()
            }
            Happening::Alert(alert) => {
                std::mem::size_of_val(&**alert) + alert.metric.name.len() + alert.metric.value.len()
            }
            Happening::Peer { peername: text, .. } | Happening::Other(text) => text.len(),
            Happening::Resync(reason) => reason.len(),
            Happening::Heartbeat => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::{Block, EventKind, PinOptions};

    fn filter(kinds: EventKinds) -> Filter {
        Filter { kinds, cids: BTreeSet::new() }
    }

    fn pinned(name: &str) -> Noted {
        let options = PinOptions { name: name.to_owned(), ..PinOptions::default() };
        let pin = Pin::new(Block::raw(name.to_owned()).cid, options);
        let what = Happening::Pinned(Arc::new(pin));
        Noted { time: Timestamp::UNIX_EPOCH, kinds: EventKind::Pinned.into(), what }
    }

    fn read(ring: &Ring, after: u64, most: usize) -> Option<(Vec<u64>, u64)> {
        match ring.read(after, &filter(EventKinds::ALL), most) {
            Found::Events(events, seen) => Some((events.iter().map(|(number, _)| *number).collect(), seen)),
            Found::Missed => None,
        }
    }

    #[test]
    fn every_event_is_read_once_or_missed_and_never_passed_over() {
        let mut ring = Ring::new(Limits { events: 3, bytes: usize::MAX });
        assert_eq!((ring.last(), read(&ring, 0, 9)), (0, Some((vec![], 0))));
        for _ in 0..3 {
            ring.push(pinned("a"));
        }
        assert_eq!(read(&ring, 0, 9), Some((vec![1, 2, 3], 3)));
        assert_eq!(read(&ring, 0, 2), Some((vec![1, 2], 2)));
        assert_eq!(read(&ring, 2, 2), Some((vec![3], 3)));
        assert_eq!(read(&ring, 3, 2), Some((vec![], 3)));
        ring.push(pinned("a"));
        assert_eq!((read(&ring, 0, 9), read(&ring, 1, 9)), (None, Some((vec![2, 3, 4], 4))));
        ring.interrupt();
        assert_eq!((read(&ring, 4, 9), ring.last()), (None, 5));
        assert_eq!(read(&ring, 5, 9), Some((vec![], 5)));
        ring.push(pinned("a"));
        assert_eq!((read(&ring, 4, 9), read(&ring, 5, 9)), (None, Some((vec![6], 6))));
    }

    #[test]
    fn large_events_make_more_room_than_small_ones() {
        let mut ring = Ring::new(Limits { events: 1000, bytes: 64 * 1024 });
        for _ in 0..10 {
            ring.push(pinned("a"));
        }
        ring.push(pinned(&"x".repeat(60 * 1024)));
        assert!(ring.bytes <= 64 * 1024 && ring.events.len() > 1);
        ring.push(pinned(&"x".repeat(65 * 1024)));
        assert_eq!((ring.events.len(), ring.bytes, ring.last()), (0, 0, 12));
        assert_eq!((read(&ring, 11, 9), read(&ring, 12, 9)), (None, Some((vec![], 12))));
    }

    #[test]
    fn what_is_not_wanted_is_passed_and_counts_as_seen() {
        let mut ring = Ring::new(Limits { events: 100, bytes: usize::MAX });
        for name in ["a", "b", "a"] {
            ring.push(pinned(name));
        }
        let Found::Events(none, 3) = ring.read(0, &filter(EventKind::Alert.into()), 9) else {
            panic!("everything was seen")
        };
        assert!(none.is_empty());
        let of_a = Filter { cids: [Block::raw("a").cid].into(), ..filter(EventKinds::ALL) };
        let Found::Events(two, 3) = ring.read(0, &of_a, 9) else { panic!("everything was seen") };
        assert_eq!(two.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
    }
}
