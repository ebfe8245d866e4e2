//! Whether a peer is the one that the others know.
//!
//! A member that forgets what it voted for, or what it said it has, breaks the promises of all. That is what happens when a
//! store is deleted, restored from an older copy, or when two peers run with one identity. So each start of a peer has a
//! number that is greater than all before it in its store, and every message says the number of its sender's start and the
//! one before it. Others remember the last number that they heard of a member: whoever has never seen that number is on
//! another store, and whoever has a smaller one has been replaced by another start. A peer that was removed and has joined
//! again may well be on another store: what is known of it from before counts for nothing, which a member that was away
//! meanwhile sees from the entry by which the peer joined. Only those who vote promise anything, so a peer that is still
//! getting what the others have may lose it and begin again.
//!
//! A copy that was taken since the last start has the right numbers. A leader that has told it entries before notices that it
//! lacks some, and counts that as a start that the copy does not know of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::COMPONENT;
use super::node::{Inner, Standing};
use super::records::{self, JOINED, MEMBERS, META};
use super::types::{Membership, Node, is_voter};
use super::wire::{Reader, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Durability, Storage};
use crate::types::PeerId;

/// How often it is said that a member is not the one that it was.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// A start of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// Its number.
    pub(super) session: u64,
    /// The number of the one before it on the same store; 0 for the first one.
    pub(super) previous: u64,
    /// The index of the entry by which the peer became one that votes; 0 for one that it does not know.
    pub(super) joined: u64,
}

/// What is known of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// The number of its last start; 0 where nothing is known.
    pub(super) session: u64,
    /// The index of the newest entry up to which it was the same member.
    pub(super) at: u64,
}

/// Why a peer is not the one that the others know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disowned {
    /// Its store is not the one it had, or an older copy.
    Older,
    /// Another one with the same identity was started since.
    Superseded,
}

impl Disowned {
    fn text(self) -> &'static str {
        match self {
            Self::Older => {
                "the members know this peer with a newer state, which was deleted, or replaced by a copy: remove the peer \
                 from the cluster, clean its state, and let it join again"
            }
            Self::Superseded => {
                "another peer with the identity of this one was started after it: stop one of them, and give every peer an \
                 identity and a state of its own"
            }
        }
    }

    pub(super) fn error(self) -> Error {
        Error::new(ErrorKind::Conflict, self.text()).component(COMPONENT)
    }
}

/// Whether a start comes after what is known; whether it is another one.
fn judge(known: Last, start: Start) -> Result<bool, Disowned> {
    if start.joined > known.at {
        Ok(true)
    } else if start.session < known.session {
        Err(Disowned::Superseded)
    } else if start.session > known.session && start.previous < known.session {
        Err(Disowned::Older)
    } else {
        Ok(start.session > known.session)
    }
}

impl Writer {
    pub(super) fn start(&mut self, start: Start) {
        self.long(start.session);
        self.long(start.previous);
        self.long(start.joined);
    }

    pub(super) fn last_start(&mut self, last: Last) {
        self.long(last.session);
        self.long(last.at);
    }
}

impl Reader {
    pub(super) fn start(&mut self) -> Result<Start> {
        Ok(Start { session: self.long()?, previous: self.long()?, joined: self.long()? })
    }

    pub(super) fn last_start(&mut self) -> Result<Last> {
        Ok(Last { session: self.long()?, at: self.long()? })
    }
}

/// What is known of all members.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    peers: BTreeMap<PeerId, One>,
    /// Of others nothing is remembered: one that was removed may come back on another store.
    members: BTreeSet<PeerId>,
    /// The index of the entry that names the members.
    at: u64,
    /// Since which entry this peer is one of them.
    joined: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct One {
    last: Last,
    /// What was wrong with the one that spoke last.
    disowned: Option<Disowned>,
    /// When that was said last.
    told: Option<Instant>,
}

impl One {
    const fn new(last: Last) -> Self {
        Self { last, disowned: None, told: None }
    }

    /// Two that speak in turns are not said with every word.
    fn tell(&mut self, peer: &PeerId, disowned: Disowned) {
        self.disowned = Some(disowned);
        if self.told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            self.told = Some(Instant::now());
            warn!(%peer, "a member is not the one that it was: {}", disowned.text());
        }
    }
}

impl Known {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is stored.
    ///
    /// # Errors
    /// As [`Storage::get`].
    pub(super) fn load(&self, storage: &dyn Storage) -> Result<()> {
        let stored = records::all_known(storage)?;
        let members = records::get(storage, MEMBERS, Reader::stored_membership)?.unwrap_or_default();
        let joined = records::get(storage, JOINED, Reader::long)?;
        let mut all = self.all();
        all.at = members.log_id().map_or(0, |id| id.index);
        all.members = peers(members.membership());
        all.joined = joined;
        for (peer, last) in stored {
            all.peers.entry(peer).or_insert(One::new(last));
        }
        Ok(())
    }

    /// Since which entry this peer votes.
    pub(super) fn joined(&self) -> u64 {
        self.all().joined.unwrap_or(0)
    }

    /// Whether this peer votes, as far as it knows.
    pub(super) fn is_voter(&self) -> bool {
        self.all().joined.is_some()
    }

    /// What is known of a peer.
    pub(super) fn of(&self, peer: &PeerId) -> Last {
        self.all().peers.get(peer).map_or_else(Last::default, |one| one.last)
    }

    /// What was wrong with a peer when it spoke last.
    pub(super) fn disowned(&self, peer: &PeerId) -> Option<Disowned> {
        self.all().peers.get(peer).and_then(|one| one.disowned)
    }

    /// Looks at a peer that speaks; what is known of it now, if that is something else.
    fn hear(&self, peer: &PeerId, start: Start) -> Result<Option<Last>, Disowned> {
        let mut all = self.all();
        let now = Last { session: start.session, at: all.at.max(start.joined) };
        let is_member = all.members.contains(peer);
        let Some(one) = all.peers.get_mut(peer) else {
            if is_member {
                all.peers.insert(*peer, One::new(now));
            }
            return Ok(is_member.then_some(now));
        };
        match judge(one.last, start) {
            Ok(is_new) => {
                one.disowned = None;
                if is_new {
                    one.last = now;
                }
                Ok(is_new.then_some(now))
            }
            Err(disowned) => {
                one.tell(peer, disowned);
                Err(disowned)
            }
        }
    }

    /// A member does not have what it said that it has: its store is an older copy of the one that it had, taken since its
    /// last start, or its disk lost what was synced. It counts as one that was started once more since. What is known of it
    /// now, if that is something else.
    fn reverted(&self, peer: &PeerId) -> Option<Last> {
        let mut all = self.all();
        let at = all.at;
        let one = all.peers.get_mut(peer).filter(|one| one.disowned.is_none())?;
        // Between its start before and this one, if there is a number.
        one.last = Last { session: one.last.session.saturating_sub(1), at: one.last.at.max(at) };
        one.tell(peer, Disowned::Older);
        Some(one.last)
    }

    /// There are other members from now on, by the entry of that index.
    pub(super) fn members_changed(&self, me: &Node, members: &Membership, at: u64, batch: &mut Batch) {
        let mut all = self.all();
        all.peers.retain(|peer, one| {
            let stays = is_voter(&Node::of(*peer), members);
            if stays {
                one.last.at = one.last.at.max(at);
                records::put_known(batch, peer, one.last);
            } else {
                records::delete_known(batch, peer);
            }
            stays
        });
        all.now(me, members, at, batch);
    }

    /// The same, from a snapshot: what happened before is not known, so all members are learned anew.
    pub(super) fn members_replaced(&self, me: &Node, members: &Membership, at: u64, batch: &mut Batch) {
        let mut all = self.all();
        std::mem::take(&mut all.peers).keys().for_each(|peer| records::delete_known(batch, peer));
        all.now(me, members, at, batch);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.all() = All::default();
    }
}

fn peers(members: &Membership) -> BTreeSet<PeerId> {
    members.voter_ids().filter_map(|node| node.0).collect()
}

impl All {
    fn now(&mut self, me: &Node, members: &Membership, at: u64, batch: &mut Batch) {
        self.at = at;
        self.members = peers(members);
        self.joined = is_voter(me, members).then(|| self.joined.unwrap_or(at));
        match self.joined {
            Some(joined) => records::put(batch, JOINED, &joined.to_be_bytes()),
            None => batch.delete(META, JOINED),
        }
    }
}

impl Inner {
    /// Looks at the start of a peer that speaks, and remembers it.
    ///
    /// # Errors
    /// When it is not the peer that is known.
    pub(super) async fn recognize(&self, peer: &PeerId, start: Start) -> Result<(), Disowned> {
        let Some(last) = self.starts.hear(peer, start)? else { return Ok(()) };
        self.note(peer, last).await;
        Ok(())
    }

    async fn note(&self, peer: &PeerId, last: Last) {
        let mut batch = Batch::new();
        records::put_known(&mut batch, peer, last);
        let written =
            storage::run(self.storage.clone(), |storage| storage.write(batch, Durability::Buffered));
        if let Err(error) = written.await {
            debug!(%peer, %error, "the start of a peer was not noted");
        }
    }

    /// A member lost what it had said that it has.
    pub(super) async fn disown(&self, peer: &PeerId) {
        if let Some(last) = self.starts.reverted(peer) {
            self.note(peer, last).await;
        }
    }

    /// This start of this peer.
    pub(super) fn own_start(&self) -> Start {
        Start { joined: self.starts.joined(), ..self.start }
    }

    /// What is wrong with this peer in the eyes of one that knows this start of it.
    pub(super) fn judge_own(&self, known: Last) -> Option<Disowned> {
        let disowned = judge(known, self.own_start()).err()?;
        *self.disowned() = Some(disowned);
        if disowned == Disowned::Older && !self.starts.is_voter() {
            // Who asks may not know yet that this peer is joining again.
            return Some(disowned);
        }
        self.standing.send_if_modified(|standing| {
            let is_news = !matches!(standing, Standing::Broken(_) | Standing::Removed);
            if is_news {
                warn!("this peer stops taking part: {}", disowned.text());
                *standing = Standing::Broken(disowned.error());
            }
            is_news
        });
        Some(disowned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_one_of_those_after_the_known_one_or_disowned() {
        for (known, session, previous, joined, expected) in [
            (0, 5, 0, 3, Ok(true)),
            (0, 5, 4, 3, Ok(true)),
            (5, 5, 0, 3, Ok(false)),
            (5, 9, 5, 3, Ok(true)),
            // Some were never heard of.
            (5, 9, 8, 3, Ok(true)),
            (5, 9, 0, 3, Err(Disowned::Older)),
            (5, 9, 4, 0, Err(Disowned::Older)),
            (5, 4, 3, 3, Err(Disowned::Superseded)),
            // It has joined again since.
            (5, 9, 0, 8, Ok(true)),
            (5, 4, 0, 8, Ok(true)),
        ] {
            let (known, start) = (Last { session: known, at: 7 }, Start { session, previous, joined });
            assert_eq!(judge(known, start), expected, "{known:?} {start:?}");
        }
    }

    #[test]
    fn of_two_with_one_identity_the_one_that_was_started_later_stays() {
        let (known, peer) = (Known::default(), PeerId::random());
        let members = Membership::new(vec![BTreeSet::from([Node::of(peer)])], ());
        known.members_changed(&Node::default(), &members, 0, &mut Batch::new());
        let hear = |session, previous| {
            known.hear(&peer, Start { session, previous, joined: 0 }).map(|last| last.is_some())
        };
        assert_eq!(hear(10, 3), Ok(true));
        // A copy of its store is started elsewhere.
        assert_eq!(hear(20, 10), Ok(true));
        assert_eq!(hear(10, 3), Err(Disowned::Superseded));
        assert_eq!(known.disowned(&peer), Some(Disowned::Superseded));
        // Starting it again does not help.
        assert_eq!(hear(30, 10), Err(Disowned::Older));
        assert_eq!(hear(20, 10), Ok(false));
        assert_eq!((known.disowned(&peer), known.of(&peer).session), (None, 20));
    }

    #[test]
    fn who_lost_what_it_said_it_has_counts_as_older_until_it_joins_again() {
        let (known, peer) = (Known::default(), PeerId::random());
        assert_eq!(known.reverted(&peer), None, "who does not vote promises nothing");
        let members = Membership::new(vec![BTreeSet::from([Node::of(peer)])], ());
        known.members_changed(&Node::default(), &members, 7, &mut Batch::new());
        let start = Start { session: 20, previous: 10, joined: 3 };
        known.hear(&peer, start).unwrap();
        let last = known.reverted(&peer).unwrap();
        assert_eq!(judge(last, start), Err(Disowned::Older), "it is told so");
        assert_eq!(known.hear(&peer, start), Err(Disowned::Older));
        assert_eq!(known.reverted(&peer), None, "once");
        // What it lacks is noticed again after another start, as long as this peer leads.
        assert_eq!(
            known.hear(&peer, Start { session: 30, previous: 20, joined: 3 }),
            Ok(Some(Last { session: 30, at: 7 }))
        );
        assert!(known.hear(&peer, Start { session: 40, previous: 0, joined: 9 }).is_ok());
    }

    #[test]
    fn who_left_and_joined_again_is_another_one_also_for_who_was_away() {
        let (known, me, peer) = (Known::default(), Node::of(PeerId::random()), PeerId::random());
        let members = |nodes: &[Node]| Membership::new(vec![nodes.iter().copied().collect()], ());
        let mut batch = Batch::new();
        known.members_changed(&me, &members(&[me, Node::of(peer)]), 4, &mut batch);
        assert_eq!(known.joined(), 4);
        let old = Start { session: 10, previous: 0, joined: 4 };
        let new = Start { session: 20, previous: 0, joined: 9 };
        assert!(known.hear(&peer, old).unwrap().is_some());
        assert_eq!(known.hear(&peer, Start { joined: 4, ..new }), Err(Disowned::Older));
        assert!(known.hear(&peer, new).unwrap().is_some());
        assert_eq!(known.hear(&peer, old), Err(Disowned::Superseded));
        // Who applies it all forgets, and is a member since it was added itself.
        known.members_changed(&me, &members(&[me]), 8, &mut batch);
        assert_eq!((known.of(&peer), known.joined()), (Last::default(), 4));
        known.members_changed(&me, &members(&[Node::of(peer)]), 10, &mut batch);
        known.members_replaced(&me, &members(&[me]), 12, &mut batch);
        assert_eq!(known.joined(), 12);
    }
}
