//! What we want, whom we asked, and whom to ask next. Pure: told what happened and what time it is, it fills the
//! outboxes of peers.
//!
//! A want belongs to the sessions (calls) that wait for it. A session knows peers that had its blocks, first of all its
//! hint; a new want is asked for as a block of the one with the least to do. Without such a peer, or when it has the
//! block not or is silent, everybody connected is asked who has it.

mod asking;
mod outbox;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use self::outbox::{Ask, Outbox};
use super::message::Entry;
use crate::types::{Block, Cid, PeerId};

/// How long a peer that is asked for blocks may send none before everybody is asked, and who provides is looked up.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may send none before another that has the block is asked for it.
const BLOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How long a block may take when its peer sends others meanwhile.
const FETCH_MAX: Duration = Duration::from_secs(30);
/// When everybody is asked again, in case somebody forgot or a message was lost; doubles from the first to the last.
const ASK_AGAIN_FIRST: Duration = Duration::from_secs(10);
const ASK_AGAIN_LAST: Duration = Duration::from_secs(60);
/// Most peers that are asked at once who has a block (as in Go).
pub(super) const BROADCAST_PEERS_MAX: usize = 64;
/// Wants of a session about which everybody is asked before anybody is known to have its blocks. The others wait for
/// that, for a small block is sent at once by everybody who has it.
const BROADCAST_WANTS: usize = 16;
/// Most peers that a session asks directly.
const SESSION_PEERS_MAX: usize = 32;
/// After so many wants a large session asks everybody about one more block.
const PROBE_WANTS: u32 = 255;
/// How often in a row a peer may have nothing for a session before it is not asked directly any more (as in Go).
const MISSES_MAX: u32 = 16;
/// Blocks nobody asked for that a peer may send between good ones.
const STRIKES_MAX: u32 = 8;
/// How long a peer that sent more is not asked.
const DISTRUST: Duration = Duration::from_secs(600);
/// How long a peer that does not speak bitswap is not asked.
const DEAF: Duration = Duration::from_secs(60);
/// Most peers that are remembered for either.
const AVOIDED_PEERS_MAX: usize = 1_024;
/// Blocks that were wanted lately: late is not wrong.
const RECENT_MAX: usize = 4_096;

pub(super) type SessionId = u64;
/// One call that waits for a block.
pub(super) type WaiterId = u64;

#[derive(Debug, Default)]
pub(super) struct Wants {
    wants: BTreeMap<Cid, Want>,
    sessions: BTreeMap<SessionId, Session>,
    peers: BTreeMap<PeerId, Peer>,
    connected: BTreeSet<PeerId>,
    /// Peers whose outbox got something since it was last asked.
    stirred: BTreeSet<PeerId>,
    recent: Recent,
    /// What sessions ask everybody about.
    probed: BTreeSet<(Cid, SessionId)>,
    next_id: u64,
}

#[derive(Debug)]
struct Want {
    waiters: BTreeMap<WaiterId, Waiter>,
    asked: BTreeMap<PeerId, Asked>,
    /// Who was asked for the block itself, and when.
    fetching: Option<(PeerId, Instant)>,
    since: Instant,
    /// Whether everybody was asked.
    everybody: bool,
    /// When they are asked again if no block came, and how long after that once more.
    again: (Instant, Duration),
    /// When to look up who provides it.
    search: Instant,
}

#[derive(Debug)]
struct Waiter {
    session: SessionId,
    sender: oneshot::Sender<Block>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Unanswered,
    Has,
    HasNot,
    /// The stream or the connection is gone, and all that was remembered there.
    Lost,
}

#[derive(Debug, Default)]
struct Session {
    /// Peers that had blocks of it, and how often in a row they had not since.
    peers: BTreeMap<PeerId, u32>,
    /// Asked of everybody, and not here yet.
    broadcasts: BTreeSet<Cid>,
    /// Asked of nobody yet.
    held: BTreeSet<Cid>,
    /// After how many more wants everybody is asked about one block, to learn who else can be asked for the others.
    probe_in: Option<u32>,
    /// That block: who says that it has it does so perhaps after it came.
    probed: Option<Cid>,
}

impl Session {
    fn add_peer(&mut self, peer: PeerId) {
        if self.peers.len() < SESSION_PEERS_MAX || self.peers.contains_key(&peer) {
            self.peers.insert(peer, 0);
        }
    }
}

#[derive(Debug, Default)]
struct Peer {
    outbox: Outbox,
    /// Blocks being fetched from it.
    in_flight: usize,
    /// When it last sent a block.
    progress: Option<Instant>,
    strikes: u32,
    avoided_until: Option<Instant>,
}

impl Peer {
    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| until > now)
    }
}

#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<Cid>,
    cids: BTreeSet<Cid>,
}

impl Recent {
    fn add(&mut self, cid: Cid) {
        if self.cids.insert(cid) {
            self.order.push_back(cid);
        }
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.cids.remove(&oldest);
        }
    }
}

/// What a block turns out to be.
#[derive(Debug)]
pub(super) enum Arrived {
    /// These wait for it.
    Wanted(Vec<oneshot::Sender<Block>>),
    /// It was wanted, and is not any more.
    Late,
    /// Nobody asked for it.
    Unasked,
    /// Neither for this one, and its sender is not asked for a while.
    Distrusted,
}

impl Wants {
    /// A session that asks this peer first; `many` when it will want more than a few blocks.
    pub(super) fn begin(&mut self, hint: Option<PeerId>, many: bool) -> SessionId {
        self.next_id += 1;
        let peers = hint.into_iter().map(|hint| (hint, 0)).collect();
        self.sessions
            .insert(self.next_id, Session { peers, probe_in: many.then_some(0), ..Session::default() });
        self.next_id
    }

    pub(super) fn end(&mut self, session: SessionId) {
        let ended = self.sessions.remove(&session);
        if let Some(probed) = ended.and_then(|session| session.probed) {
            self.probed.remove(&(probed, session));
        }
    }

    /// Wants a block.
    pub(super) fn want(
        &mut self,
        session: SessionId,
        cid: Cid,
        now: Instant,
    ) -> (WaiterId, oneshot::Receiver<Block>) {
        let (sender, receiver) = oneshot::channel();
        self.next_id += 1;
        let id = self.next_id;
        let is_new = !self.wants.contains_key(&cid);
        let want = self.wants.entry(cid).or_insert_with(|| Want {
            waiters: BTreeMap::new(),
            asked: BTreeMap::new(),
            fetching: None,
            since: now,
            everybody: false,
            again: (now + ASK_AGAIN_FIRST, ASK_AGAIN_FIRST),
            search: now + PATIENCE,
        });
        want.waiters.insert(id, Waiter { session, sender });
        if is_new {
            self.start(session, cid, now);
        } else if let Some(peer) = self.best_peer(session, &cid, now) {
            // Somebody waits for it already, and this session may know better.
            self.ask(cid, peer, Ask::Have { send_dont_have: true });
        }
        (id, receiver)
    }

    /// A call is not waiting any more; the last one takes the want back.
    pub(super) fn drop_waiter(&mut self, cid: &Cid, waiter: WaiterId) {
        if let Some(want) = self.wants.get_mut(cid) {
            want.waiters.remove(&waiter);
            if want.waiters.is_empty() {
                self.take_back(cid, None);
            }
        }
    }

    pub(super) fn is_wanted(&self, cid: &Cid) -> bool {
        self.wants.contains_key(cid)
    }

    /// Whether blocks of this peer are worth hashing.
    pub(super) fn listens_to(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|peer| !peer.is_avoided(now))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.wants.is_empty()
    }

    /// A peer said whether it has a block.
    pub(super) fn answered(&mut self, peer: PeerId, cid: Cid, has: bool, now: Instant) {
        let distrusted = !self.listens_to(&peer, now);
        if !self.wants.contains_key(&cid) && has && !distrusted {
            self.has_what_was_probed(&cid, peer);
        }
        let Some(want) = self.wants.get_mut(&cid) else { return };
        let Some(asked) = want.asked.get_mut(&peer) else { return };
        if distrusted {
            return;
        }
        if has {
            *asked = Asked::Has;
            self.is_good(&cid, peer, now);
        } else {
            *asked = Asked::HasNot;
            self.misses(&cid, &peer);
            self.stop_fetching_from(&cid, &peer);
        }
        self.go_on(cid, now);
    }

    /// A peer said elsewhere that it has the block.
    pub(super) fn provides(&mut self, peer: PeerId, cid: Cid, now: Instant) {
        let Some(want) = self.wants.get(&cid) else { return };
        if matches!(want.asked.get(&peer), None | Some(Asked::Lost)) && !self.is_avoided(&peer, now) {
            match want.fetching {
                None => self.fetch(cid, peer, now),
                Some(_) => self.ask(cid, peer, Ask::Have { send_dont_have: true }),
            }
        }
    }

    /// A block whose bytes are those of the CID is here.
    pub(super) fn arrived(&mut self, cid: &Cid, from: PeerId, now: Instant) -> Arrived {
        if self.wants.contains_key(cid) {
            self.is_good(cid, from, now);
            let peer = self.peers.entry(from).or_default();
            peer.progress = Some(now);
            peer.strikes = 0;
            return Arrived::Wanted(self.take_back(cid, Some(from)));
        }
        if self.recent.cids.contains(cid) {
            self.has_what_was_probed(cid, from);
            return Arrived::Late;
        }
        let peer = self.peers.entry(from).or_default();
        peer.strikes += 1;
        if peer.strikes < STRIKES_MAX {
            return Arrived::Unasked;
        }
        peer.strikes = 0;
        peer.avoided_until = Some(now + DISTRUST);
        self.avoid_at_most_so_many();
        self.lost(from, now);
        Arrived::Distrusted
    }

    /// The block came to us by another way: these wait for it.
    pub(super) fn is_ours(&mut self, cid: &Cid) -> Vec<oneshot::Sender<Block>> {
        self.take_back(cid, None)
    }

    /// What was asked of a peer is not known there any more: its stream or connection broke, or was never there.
    pub(super) fn lost(&mut self, peer: PeerId, now: Instant) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.outbox.clear();
            known.progress = None;
        }
        self.stirred.remove(&peer);
        let asked = |(cid, want): (&Cid, &Want)| want.asked.contains_key(&peer).then_some(*cid);
        let cids: Vec<Cid> = self.wants.iter().filter_map(asked).collect();
        for session in self.sessions.values_mut() {
            session.peers.remove(&peer);
        }
        for cid in cids {
            if let Some(asked) = self.wants.get_mut(&cid).and_then(|want| want.asked.get_mut(&peer)) {
                *asked = Asked::Lost;
            }
            self.stop_fetching_from(&cid, &peer);
            self.go_on(cid, now);
        }
    }

    /// The peer does not speak bitswap: it is not asked for a while.
    pub(super) fn does_not_speak(&mut self, peer: PeerId, now: Instant) {
        self.peers.entry(peer).or_default().avoided_until = Some(now + DEAF);
        self.avoid_at_most_so_many();
        self.lost(peer, now);
    }

    pub(super) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        self.connected.remove(&peer);
        self.lost(peer, now);
    }

    /// A peer connected: it is asked for everything that everybody is asked for, and what it was asked before.
    pub(super) fn connected(&mut self, peer: PeerId, now: Instant) {
        self.connected.insert(peer);
        if self.is_avoided(&peer, now) {
            return;
        }
        let to_ask = |want: &Want| match want.asked.get(&peer) {
            None => want.everybody,
            Some(Asked::HasNot | Asked::Lost) => true,
            Some(Asked::Unanswered | Asked::Has) => false,
        };
        let cids: Vec<Cid> =
            self.wants.iter().filter(|(_, want)| to_ask(want)).map(|(cid, _)| *cid).collect();
        for cid in cids {
            self.ask(cid, peer, Ask::Have { send_dont_have: false });
        }
    }

    /// These are connected, whatever was said before.
    pub(super) fn all_connected(&mut self, peers: &[PeerId], now: Instant) {
        let peers: BTreeSet<PeerId> = peers.iter().copied().collect();
        for gone in self.connected.difference(&peers).copied().collect::<Vec<_>>() {
            self.disconnected(gone, now);
        }
        for new in peers.difference(&self.connected).copied().collect::<Vec<_>>() {
            self.connected(new, now);
        }
    }

    /// Time passed: gives up on slow peers, asks everybody and asks again. Says who should be looked for: blocks of
    /// which somebody may say that they provide them, one for each session.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Cid> {
        let (mut searches, mut searching) = (Vec::new(), BTreeSet::new());
        for cid in self.wants.keys().copied().collect::<Vec<_>>() {
            let Some(want) = self.wants.get(&cid) else { continue };
            let waited = now.saturating_duration_since(want.since) >= PATIENCE;
            let slow = want.fetching.filter(|fetching| self.is_slow(*fetching, PATIENCE, now));
            let stuck = match want.fetching {
                Some(_) => slow.is_some(),
                None => waited,
            };
            if stuck && want.search <= now {
                let sessions: Vec<SessionId> = want.waiters.values().map(|waiter| waiter.session).collect();
                if sessions.iter().any(|session| !searching.contains(session)) {
                    searching.extend(sessions);
                    searches.push(cid);
                    if let Some(want) = self.wants.get_mut(&cid) {
                        want.search = now + want.again.1;
                    }
                }
            }
            self.tick_one(cid, slow, stuck, now);
        }
        let wanted = |peer: &PeerId, known: &Peer| {
            self.connected.contains(peer)
                || known.in_flight > 0
                || !known.outbox.is_empty()
                || known.is_avoided(now)
        };
        self.peers.retain(|peer, known| wanted(peer, known));
        searches
    }

    fn tick_one(&mut self, cid: Cid, slow: Option<(PeerId, Instant)>, stuck: bool, now: Instant) {
        if let Some((peer, since)) = slow {
            // New wants go to others, until it sends something.
            self.is_silent(&cid, &peer);
            let too_long = now.saturating_duration_since(since) >= FETCH_MAX;
            if too_long || self.is_slow((peer, since), BLOCK_PATIENCE, now) {
                self.stop_fetching_from(&cid, &peer);
                if let Some(asked) = self.wants.get_mut(&cid).and_then(|want| want.asked.get_mut(&peer)) {
                    // Whatever it said, somebody else is asked before it.
                    *asked = Asked::Unanswered;
                }
                self.go_on(cid, now);
            }
        }
        let Some(want) = self.wants.get_mut(&cid) else { return };
        if stuck && !want.everybody {
            self.ask_everybody(cid, now);
        } else if stuck && want.again.0 <= now {
            let interval = (want.again.1 * 2).min(ASK_AGAIN_LAST);
            want.again = (now + interval, interval);
            self.ask_again(cid, now);
        }
    }

    /// Peers whose outbox got something since the last call.
    pub(super) fn stirred(&mut self) -> BTreeSet<PeerId> {
        std::mem::take(&mut self.stirred)
    }

    /// Takes up to `max` entries out of a peer's outbox.
    pub(super) fn outbox(&mut self, peer: &PeerId, max: usize) -> Vec<Entry> {
        self.peers.get_mut(peer).map(|peer| peer.outbox.take(max)).unwrap_or_default()
    }

    /// Whether something is to be sent to this peer.
    pub(super) fn has_mail(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| !peer.outbox.is_empty())
    }

    /// Ends every want: the waiters see their senders dropped.
    pub(super) fn clear(&mut self) {
        *self = Self { next_id: self.next_id, ..Self::default() };
    }

    fn is_avoided(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.is_avoided(now))
    }

    fn is_slow(&self, (peer, since): (PeerId, Instant), patience: Duration, now: Instant) -> bool {
        let progress = self.peers.get(&peer).and_then(|peer| peer.progress);
        let last = progress.map_or(since, |progress| since.max(progress));
        now.saturating_duration_since(last) >= patience || now.saturating_duration_since(since) >= FETCH_MAX
    }

    fn in_flight(&self, peer: &PeerId) -> usize {
        self.peers.get(peer).map_or(0, |peer| peer.in_flight)
    }

    /// The peer has this block, and so may have others of the sessions that want it.
    fn is_good(&mut self, cid: &Cid, peer: PeerId, now: Instant) {
        let Some(want) = self.wants.get(cid) else { return };
        let sessions: Vec<SessionId> = want.waiters.values().map(|waiter| waiter.session).collect();
        for id in sessions {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.add_peer(peer);
            for held in std::mem::take(&mut session.held) {
                if held != *cid && self.wants.get(&held).is_some_and(|want| want.fetching.is_none()) {
                    self.start(id, held, now);
                }
            }
        }
    }

    /// The peer has a block that came from elsewhere meanwhile.
    fn has_what_was_probed(&mut self, cid: &Cid, peer: PeerId) {
        let sessions = self.probed.range((*cid, SessionId::MIN)..=(*cid, SessionId::MAX));
        for (_, session) in sessions {
            if let Some(session) = self.sessions.get_mut(session) {
                session.add_peer(peer);
            }
        }
    }

    /// The peer has not this block, and so may have no others of the sessions that want it.
    fn misses(&mut self, cid: &Cid, peer: &PeerId) {
        self.each_session(cid, |session| {
            if let Some(misses) = session.peers.get_mut(peer) {
                *misses += 1;
                if *misses >= MISSES_MAX {
                    session.peers.remove(peer);
                }
            }
        });
    }

    fn is_silent(&mut self, cid: &Cid, peer: &PeerId) {
        self.each_session(cid, |session| {
            session.peers.remove(peer);
        });
    }

    fn each_session(&mut self, cid: &Cid, mut change: impl FnMut(&mut Session)) {
        for waiter in self.wants.get(cid).into_iter().flat_map(|want| want.waiters.values()) {
            if let Some(session) = self.sessions.get_mut(&waiter.session) {
                change(session);
            }
        }
    }

    fn avoid_at_most_so_many(&mut self) {
        let avoided = self.peers.values_mut().filter(|peer| peer.avoided_until.is_some());
        let mut avoided: Vec<&mut Peer> = avoided.collect();
        if avoided.len() > AVOIDED_PEERS_MAX
            && let Some(oldest) = avoided.iter_mut().min_by_key(|peer| peer.avoided_until)
        {
            oldest.avoided_until = None;
        }
    }

    fn take_back(&mut self, cid: &Cid, from: Option<PeerId>) -> Vec<oneshot::Sender<Block>> {
        self.each_session(cid, |session| {
            session.held.remove(cid);
            session.broadcasts.remove(cid);
        });
        let Some(want) = self.wants.remove(cid) else { return Vec::new() };
        self.recent.add(*cid);
        self.is_not_fetched(want.fetching);
        for (peer, asked) in &want.asked {
            // Who sent the block forgets the want by itself, and so does who is gone.
            if Some(*peer) != from && *asked != Asked::Lost {
                self.post(*peer, *cid, Ask::Cancel);
            }
        }
        want.waiters.into_values().map(|waiter| waiter.sender).collect()
    }
}

#[cfg(test)]
mod tests;
