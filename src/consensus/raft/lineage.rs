//! Whether a peer is the one that the others know.
//!
//! A member that forgets what it voted for, or what it said it has, breaks the promises of all. That is what happens when a
//! store is deleted, restored from an older copy, or when two peers run with one identity. What must hold:
//!
//! > Who counts the voice of a member has that member on a store that remembers everything it ever promised to whoever counts.
//!
//! Each start of a peer has a number, greater than all before it in its store, which is on disk, with the numbers of the
//! starts before it, before anything is said in that start. Whoever hears a member remembers the number of its last start,
//! on disk before the voice counts. A later start has to prove that it comes after that one: it says which start it takes
//! the other one to know, and that has to be the one, which is only said of starts that the own store lists. What the other
//! one knows is learned from its questions, and from its refusal: who was started several times while another one was away
//! is refused once, and has it right then. So the start that is known is always one of those in the store that speaks, and
//! as everything is in one store, so are the promises of it.
//!
//! A peer that was removed may lose its store and be added again. Entries before its removal were agreed on without its
//! voice, so nothing of what it promised before counts any more. The entry by which a member became one that votes, its
//! era, follows from the log, so all agree on it, and it is part of snapshots. A start that has applied that entry says so. It
//! is judged by what is known only when that is of the same era or later.
//!
//! What happens then:
//!
//! - A crash after a start was counted, and before that was on disk: nothing was said yet. The number may be used again.
//!   A crash of who heard it: either it is on disk there, or it did not count, and is heard anew.
//! - Clocks that go back: the number is greater than those in the store, whatever the clock says. It contains chance, so two
//!   starts of copies of one store have different numbers also when the clock is behind both.
//! - A copy of a store, or an older one: it does not list the starts that came after, so whoever knows one of them refuses it,
//!   however often it is started again. Of two that are started from one store, the one whose start is heard first stays.
//! - Removed and added again with another store: its era is later than what is known, so it is taken for another one. Until
//!   it has applied the entry of its era it does not know of that, like everybody who does not vote yet, so nothing is
//!   remembered of a start that says an earlier era: it may have joined with its old store, or be one that spoke before it
//!   was removed. It promises little until then: it has votes and acknowledgements to lose only of that moment.
//! - A store that is cleaned is another one: it gets a number that was never said, and lists no starts.
//! - Removed and added again with the store that it had: the starts before are in it, so it is right in any case.
//! - Whoever was away while another one was removed and added again knows it from before, and an era that is later, which
//!   only entries can say that were agreed on. Before that other one knows of its era it is refused, which does no harm: it
//!   does not vote yet in its own eyes, so it takes no offence (but asks all, see `removal`, unless its log names it already),
//!   and the leader knows it.
//! - A snapshot that replaces what is known says the eras of all members: what is known of one stays if its era is not later.
//! - A message of an earlier start that comes late: it has a smaller number than the start that is known, and is refused.
//!   One from before its sender was removed says an earlier era; it is not remembered, so it cannot stand in the way of the
//!   one that joined since.
//! - A copy of a store that was taken since its last start lists the right starts. A leader that has been told by it of entries
//!   before notices that it lacks some, and counts that as a start that the copy does not list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::COMPONENT;
use super::node::{Inner, Standing};
use super::records::{self, ANCESTORS, ClusterId, JOINED, MEMBERS, SESSION};
use super::removal::Verdict;
use super::types::Membership;
use super::wire::{PEERS_MAX, Reader, Writer, written};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Durability, Storage};
use crate::types::PeerId;

/// How often it is said that a member is not the one that it was.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Starts of a store that are remembered. Who knows an earlier one of a peer refuses it.
const STARTS_MAX: usize = 4096;
/// What chance adds to the number of a start, at most.
const CHANCE_MICROS: u64 = 1_000_000;

/// A start of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// Its number.
    pub(super) session: u64,
    /// The start on the same store that it takes who hears this to know; 0 for the first one.
    pub(super) heir: u64,
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
    if start.joined > known.at || known.session == 0 {
        Ok(true)
    } else if start.session < known.session {
        Err(Disowned::Superseded)
    } else if start.session > known.session && start.heir != known.session {
        Err(Disowned::Older)
    } else {
        Ok(start.session > known.session)
    }
}

impl Writer {
    pub(super) fn start(&mut self, start: Start) {
        self.long(start.session);
        self.long(start.heir);
        self.long(start.joined);
    }

    pub(super) fn last_start(&mut self, last: Last) {
        self.long(last.session);
        self.long(last.at);
    }

    pub(super) fn eras(&mut self, eras: &Eras) {
        self.count(eras.len());
        for (peer, since) in eras {
            self.peer(peer);
            self.long(*since);
        }
    }

    pub(super) fn ancestors(&mut self, starts: &[u64]) {
        self.count(starts.len());
        starts.iter().for_each(|start| self.long(*start));
    }
}

impl Reader {
    pub(super) fn start(&mut self) -> Result<Start> {
        Ok(Start { session: self.long()?, heir: self.long()?, joined: self.long()? })
    }

    pub(super) fn last_start(&mut self) -> Result<Last> {
        Ok(Last { session: self.long()?, at: self.long()? })
    }

    pub(super) fn eras(&mut self) -> Result<Eras> {
        // Those before and after a change.
        (0..self.count(2 * PEERS_MAX)?).map(|_| Ok((self.peer()?, self.long()?))).collect()
    }

    pub(super) fn ancestors(&mut self) -> Result<Vec<u64>> {
        (0..self.count(STARTS_MAX)?).map(|_| self.long()).collect()
    }
}

/// The number of the next start on a store where these were before, at a time in microseconds, by chance; and of all before it.
pub(super) fn next_start(mut before: Vec<u64>, now: u64, chance: u64) -> (u64, Vec<u64>) {
    let last = before.last().copied().unwrap_or(0);
    before.drain(..before.len().saturating_sub(STARTS_MAX));
    (now.max(last).saturating_add(1 + chance % CHANCE_MICROS), before)
}

/// What is known of all members.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    peers: BTreeMap<PeerId, One>,
    /// Those who vote, and since which entry. Of others nothing is remembered.
    eras: Eras,
    /// The index of the entry that names them.
    at: u64,
    /// This start of this peer.
    session: u64,
    /// Those before it on the same store.
    ancestors: BTreeSet<u64>,
    /// Those of them, or this one, that others know.
    proven: BTreeMap<PeerId, u64>,
}

/// Since which entry each member votes.
pub(super) type Eras = BTreeMap<PeerId, u64>;

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
        let eras = records::get(storage, JOINED, Reader::eras)?.unwrap_or_default();
        let ancestors = records::get(storage, ANCESTORS, Reader::ancestors)?.unwrap_or_default();
        let session = records::get(storage, SESSION, Reader::long)?.unwrap_or_default();
        let mut all = self.all();
        all.session = session;
        all.at = members.log_id().map_or(0, |id| id.index);
        all.eras = eras;
        all.ancestors = ancestors.into_iter().collect();
        for (peer, last) in stored {
            all.peers.entry(peer).or_insert(One::new(last));
        }
        Ok(())
    }

    /// Since which entry a peer votes, by what was agreed on.
    pub(super) fn joined(&self, peer: &PeerId) -> Option<u64> {
        self.all().eras.get(peer).copied()
    }

    /// What another one is told of a start of this peer.
    fn shown_to(&self, to: &PeerId, me: &PeerId) -> Start {
        let all = self.all();
        let heir = all.proven.get(to).or(all.ancestors.last()).copied().unwrap_or(0);
        Start { session: all.session, heir, joined: all.eras.get(me).copied().unwrap_or(0) }
    }

    /// What is wrong with a start of this peer in the eyes of another one. Where nothing is, that one will be told what it wants
    /// to hear.
    fn judge_own(&self, by: &PeerId, known: Last, start: Start) -> Result<(), Disowned> {
        let mut all = self.all();
        let heir = if all.ancestors.contains(&known.session) { known.session } else { start.heir };
        judge(known, Start { heir, ..start })?;
        if heir == known.session && heir != 0 {
            all.proven.insert(*by, heir);
        }
        Ok(())
    }

    /// What is known of a peer.
    pub(super) fn of(&self, peer: &PeerId) -> Last {
        self.all().peers.get(peer).map_or_else(Last::default, |one| one.last)
    }

    /// What was wrong with a peer when it spoke last.
    pub(super) fn disowned(&self, peer: &PeerId) -> Option<Disowned> {
        self.all().peers.get(peer).and_then(|one| one.disowned)
    }

    /// Looks at a peer that speaks; what is to be remembered of it, if that is something else.
    fn hear(&self, peer: &PeerId, start: Start) -> Result<Option<Last>, Disowned> {
        let mut all = self.all();
        let now = Last { session: start.session, at: all.at.max(start.joined) };
        let Some(era) = all.eras.get(peer).copied() else { return Ok(None) };
        let Some(one) = all.peers.get_mut(peer) else {
            return Ok((start.joined >= era).then_some(now));
        };
        match judge(one.last, start) {
            Ok(is_new) => {
                one.disowned = None;
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

    /// Remembers what is on disk now.
    fn note(&self, peer: &PeerId, last: Last) {
        let mut all = self.all();
        if all.eras.contains_key(peer) {
            all.peers.entry(*peer).or_insert(One::new(last)).last = last;
        }
    }

    /// There are other members from now on, by the entry of that index.
    pub(super) fn members_changed(&self, members: &Membership, at: u64, batch: &mut Batch) {
        let mut all = self.all();
        let eras = peers(members).map(|peer| (peer, all.eras.get(&peer).copied().unwrap_or(at))).collect();
        all.now(eras, at, batch);
    }

    /// The same, from a snapshot, which says since when each of them votes.
    pub(super) fn members_replaced(&self, members: &Membership, eras: &Eras, at: u64, batch: &mut Batch) {
        let eras = peers(members).map(|peer| (peer, eras.get(&peer).copied().unwrap_or(at))).collect();
        self.all().now(eras, at, batch);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.all() = All::default();
    }
}

fn peers(members: &Membership) -> impl Iterator<Item = PeerId> {
    members.voter_ids().filter_map(|node| node.0)
}

impl All {
    /// What is known of a member counts as long as it is the same one.
    fn now(&mut self, eras: Eras, at: u64, batch: &mut Batch) {
        self.peers.retain(|peer, one| {
            let stays = eras.get(peer).is_some_and(|era| *era <= one.last.at);
            if stays {
                one.last.at = one.last.at.max(at);
                records::put_known(batch, peer, one.last);
            } else {
                records::delete_known(batch, peer);
            }
            stays
        });
        records::put(batch, JOINED, &written(|writer| writer.eras(&eras)));
        (self.eras, self.at) = (eras, at);
    }
}

/// Why the voice of a peer does not count.
#[derive(Debug)]
pub(super) enum Unrecognized {
    /// It is not the one that is known.
    Disowned(Disowned),
    /// Its start could not be noted.
    Failed(Error),
}

/// Somebody said of this peer, which does not vote, that it did so on another store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    by: PeerId,
    cluster: Option<ClusterId>,
    /// Whether the members agree that it is one of them.
    is_confirmed: bool,
}

impl Inner {
    /// Whether this peer may be one that voted on another store: it does not vote, and the newest list in its log does not
    /// have it. Whoever joins again has the entry by which it was let in, to learn at first, before it has applied it.
    fn may_be_wrong(&self) -> bool {
        let is_named = self.metrics().is_some_and(|metrics| {
            let newest = &metrics.membership_config;
            newest.log_id().is_some_and(|id| id.index > 0)
                && newest.membership().get_node(&self.node()).is_some()
        });
        !self.votes() && !is_named
    }

    /// What is wrong with this peer, which does not vote, as far as it knows already.
    pub(super) fn disowned(&self) -> Option<Disowned> {
        let is_wrong = self.may_be_wrong() && self.doubt().is_some_and(|doubt| doubt.is_confirmed);
        is_wrong.then_some(Disowned::Older)
    }

    /// The same when the members have been asked. Whoever was removed, cleaned its store and waits to be added is right to do
    /// so, whatever one says that was away meanwhile.
    pub(super) async fn check_disowned(&self) -> Option<Disowned> {
        let doubt = (*self.doubt())?;
        if !doubt.is_confirmed && self.may_be_wrong() {
            let is_member = self.ask_members(Some(doubt.by), doubt.cluster).await == Verdict::Member;
            *self.doubt() = is_member.then_some(Doubt { is_confirmed: true, ..doubt });
        }
        self.disowned()
    }

    /// Looks at the start of a peer that speaks, and remembers it.
    ///
    /// # Errors
    /// When it is not the peer that is known, or cannot be remembered.
    pub(super) async fn recognize(&self, peer: &PeerId, start: Start) -> Result<(), Unrecognized> {
        let Some(last) = self.starts.hear(peer, start).map_err(Unrecognized::Disowned)? else {
            return Ok(());
        };
        // What a peer promises counts from now on, so it must not be forgotten whose promise it was.
        self.write_known(peer, last).await.map_err(Unrecognized::Failed)?;
        self.starts.note(peer, last);
        Ok(())
    }

    async fn write_known(&self, peer: &PeerId, last: Last) -> Result<()> {
        let mut batch = Batch::new();
        records::put_known(&mut batch, peer, last);
        storage::run(self.storage.clone(), |storage| storage.write(batch, Durability::Synced)).await
    }

    /// A member lost what it had said that it has.
    pub(super) async fn disown(&self, peer: &PeerId) {
        if let Some(last) = self.starts.reverted(peer)
            && let Err(error) = self.write_known(peer, last).await
        {
            debug!(%peer, %error, "what a peer lost was not noted");
        }
    }

    /// This start of this peer, as another one is told of it.
    pub(super) fn own_start(&self, to: &PeerId) -> Start {
        self.starts.shown_to(to, &self.peer)
    }

    /// Whether this peer votes, by what it knows was agreed on.
    pub(super) fn votes(&self) -> bool {
        self.starts.joined(&self.peer).is_some()
    }

    /// What is wrong with this peer in the eyes of another one, which knows this start of it and is of that cluster.
    pub(super) fn judge_own(&self, by: &PeerId, cluster: Option<ClusterId>, known: Last) -> Option<Disowned> {
        let disowned = self.starts.judge_own(by, known, self.own_start(by)).err()?;
        if !self.votes() {
            // That one may not know yet that this peer was removed, and is joining again.
            let mut doubt = self.doubt();
            if doubt.is_none() {
                *doubt = Some(Doubt { by: *by, cluster, is_confirmed: false });
            }
            return Some(Disowned::Older);
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
mod tests;
