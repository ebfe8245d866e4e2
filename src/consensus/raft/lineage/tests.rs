use super::super::types::Node;
use super::*;
use crate::storage::MemoryStorage;

fn members(peers: &[PeerId]) -> Membership {
    Membership::new(vec![peers.iter().copied().map(Node::of).collect()], ())
}

impl Known {
    /// What [`Inner::recognize`] does.
    fn take(&self, peer: &PeerId, start: Start) -> Result<bool, Disowned> {
        let last = self.hear(peer, start)?;
        if let Some(last) = last {
            self.note(peer, last);
        }
        Ok(last.is_some())
    }
}

#[test]
fn a_start_is_one_of_those_after_the_known_one_or_disowned() {
    for (known, session, heir, joined, expected) in [
        (0, 5, 0, 3, Ok(true)),
        (0, 5, 4, 3, Ok(true)),
        (5, 5, 0, 3, Ok(false)),
        (5, 9, 5, 3, Ok(true)),
        (5, 9, 0, 3, Err(Disowned::Older)),
        (5, 9, 4, 0, Err(Disowned::Older)),
        // One that was started from a copy, too, is not the one that is known.
        (5, 9, 8, 3, Err(Disowned::Older)),
        (5, 4, 3, 3, Err(Disowned::Superseded)),
        // It has joined again since.
        (5, 9, 0, 8, Ok(true)),
        (5, 4, 0, 8, Ok(true)),
    ] {
        let (known, start) = (Last { session: known, at: 7 }, Start { session, heir, joined });
        assert_eq!(judge(known, start), expected, "{known:?} {start:?}");
    }
}

/// A store with its starts, as its peer sees it.
struct Store {
    peer: PeerId,
    starts: Vec<u64>,
    now: Known,
}

impl Store {
    fn new(peer: PeerId) -> Self {
        Self { peer, starts: Vec::new(), now: Known::default() }
    }

    fn copy(&self) -> Self {
        Self { starts: self.starts.clone(), ..Self::new(self.peer) }
    }

    fn start(&mut self, session: u64) {
        self.now = Known::default();
        self.now.all().ancestors = self.starts.iter().copied().collect();
        self.now.all().session = session;
        self.starts.push(session);
    }

    /// Says something to another peer, and once more if it was refused and may be right.
    fn say(&self, to: &Known, id: &PeerId) -> Result<bool, Disowned> {
        let start = || self.now.shown_to(id, &self.peer);
        to.take(&self.peer, start()).or_else(|_| {
            self.now.judge_own(id, to.of(&self.peer), start())?;
            to.take(&self.peer, start())
        })
    }
}

#[test]
fn a_copy_is_refused_however_often_it_is_started() {
    let (peer, away, there) = (PeerId::random(), PeerId::random(), PeerId::random());
    let known: Vec<Known> = [0; 2].map(|_| Known::default()).into();
    for one in &known {
        one.members_changed(&members(&[peer, away, there]), 0, &mut Batch::new());
    }
    let [to_away, to_there] = &known[..] else { unreachable!() };
    let mut store = Store::new(peer);
    store.start(10);
    assert_eq!((store.say(to_away, &away), store.say(to_there, &there)), (Ok(true), Ok(true)));
    let mut copy = store.copy();
    // Several starts that one of them does not hear of.
    for session in [20, 30, 40] {
        store.start(session);
        assert_eq!(store.say(to_there, &there), Ok(true), "{session}");
    }
    assert_eq!((store.say(to_away, &away), to_away.of(&peer).session), (Ok(true), 40));
    for session in [50, 60, 70] {
        copy.start(session);
        assert_eq!(copy.say(to_away, &away), Err(Disowned::Older), "{session}");
        assert_eq!(to_away.disowned(&peer), Some(Disowned::Older));
    }
    store.start(45);
    assert_eq!((store.say(to_away, &away), store.say(to_there, &there)), (Ok(true), Ok(true)));
    assert_eq!(to_away.disowned(&peer), None);
    // A message of an earlier start comes late.
    let late = Start { session: 40, heir: 30, joined: 0 };
    assert_eq!(to_there.take(&peer, late), Err(Disowned::Superseded));
}

#[test]
fn who_left_and_joined_again_is_another_one_also_for_who_was_away() {
    let (known, me, peer) = (Known::default(), PeerId::random(), PeerId::random());
    let mut batch = Batch::new();
    known.members_changed(&members(&[me, peer]), 4, &mut batch);
    assert_eq!(known.joined(&me), Some(4));
    let old = Start { session: 10, heir: 0, joined: 4 };
    let new = Start { session: 5, heir: 0, joined: 9 };
    assert_eq!(known.take(&peer, old), Ok(true));
    // Its clock went back.
    assert_eq!(known.take(&peer, Start { joined: 0, ..new }), Err(Disowned::Superseded));
    assert_eq!(known.take(&peer, Start { joined: 0, session: 20, ..new }), Err(Disowned::Older));
    assert_eq!(known.take(&peer, new), Ok(true));
    assert_eq!(known.take(&peer, Start { session: 3, ..old }), Err(Disowned::Superseded));
    // Who applies it all forgets.
    known.members_changed(&members(&[me]), 12, &mut batch);
    assert_eq!((known.of(&peer), known.joined(&me), known.joined(&peer)), (Last::default(), Some(4), None));
    known.members_changed(&members(&[me, peer]), 14, &mut batch);
    // A message from before, and one of who does not know yet that it votes, do not stand in the way.
    assert_eq!(known.take(&peer, old), Ok(false));
    assert_eq!(known.take(&peer, Start { session: 30, heir: 0, joined: 0 }), Ok(false));
    assert_eq!(known.take(&peer, Start { session: 30, heir: 0, joined: 14 }), Ok(true));
    assert_eq!(known.take(&peer, old), Err(Disowned::Superseded));
}

#[test]
fn a_snapshot_keeps_what_is_known_of_those_who_stayed() {
    let (known, me, stays, left) = (Known::default(), PeerId::random(), PeerId::random(), PeerId::random());
    let mut batch = Batch::new();
    known.members_changed(&members(&[me, stays, left]), 4, &mut batch);
    let start = Start { session: 10, heir: 0, joined: 4 };
    for peer in [&stays, &left] {
        assert_eq!(known.take(peer, start), Ok(true));
    }
    let eras = Eras::from([(me, 4), (stays, 4), (left, 8)]);
    known.members_replaced(&members(&[me, stays, left]), &eras, 9, &mut batch);
    let again = Start { session: 20, ..start };
    assert_eq!(known.take(&stays, again), Err(Disowned::Older));
    assert_eq!(known.take(&left, Start { joined: 8, ..again }), Ok(true));
    assert_eq!((known.joined(&me), known.joined(&left)), (Some(4), Some(8)));
    // What is stored says the same.
    let storage = MemoryStorage::new();
    storage.write(batch, Durability::Synced).unwrap();
    let stored = Known::default();
    stored.load(&storage).unwrap();
    assert_eq!(stored.all().eras, eras);
}

#[test]
fn a_store_that_is_cleaned_is_another_one() {
    let (storage, mut batch) = (MemoryStorage::new(), Batch::new());
    records::put(&mut batch, SESSION, &written(|writer| writer.long(5)));
    records::put(&mut batch, ANCESTORS, &written(|writer| writer.ancestors(&[3, 4])));
    storage.write(batch, Durability::Synced).unwrap();
    let starts = || {
        let known = Known::default();
        known.load(&storage).unwrap();
        let all = known.all();
        (all.session, all.ancestors.len())
    };
    assert_eq!(starts(), (5, 2));
    records::forget(&storage).unwrap();
    assert_eq!(starts(), (6, 0));
}

#[test]
fn starts_have_numbers_of_their_own_whatever_the_clock_says() {
    let (mut starts, mut last) = (Vec::new(), 0);
    for (now, chance) in [(1_000, 7), (5_000, 7), (10, 3), (10, 3), (0, 0)] {
        let (session, before) = next_start(starts.clone(), now, chance);
        assert!(session > last && session > now, "{session} after {last}");
        // A copy that is started at the same wrong time.
        assert_ne!(next_start(starts.clone(), now, chance + 1).0, session);
        (starts, last) = ([before, vec![session]].concat(), session);
    }
    assert_eq!(starts.len(), 5);
    let (_, before) = next_start(vec![3; STARTS_MAX + 9], 0, 0);
    assert_eq!(before.len(), STARTS_MAX);
}

#[test]
fn who_lost_what_it_said_it_has_counts_as_older_until_it_joins_again() {
    let (known, peer) = (Known::default(), PeerId::random());
    assert_eq!(known.reverted(&peer), None, "who does not vote promises nothing");
    known.members_changed(&members(&[peer]), 7, &mut Batch::new());
    let start = Start { session: 20, heir: 10, joined: 7 };
    assert_eq!(known.take(&peer, start), Ok(true));
    let last = known.reverted(&peer).unwrap();
    assert_eq!(judge(last, start), Err(Disowned::Older), "it is told so");
    assert_eq!(known.take(&peer, start), Err(Disowned::Older));
    assert_eq!(known.reverted(&peer), None, "once");
    // However often it is started again.
    assert_eq!(known.take(&peer, Start { session: 30, heir: 20, joined: 7 }), Err(Disowned::Older));
    assert_eq!(known.take(&peer, Start { session: 40, heir: 0, joined: 9 }), Ok(true));
}
