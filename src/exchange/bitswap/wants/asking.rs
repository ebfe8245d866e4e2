//! Whom to ask for a block, and asking.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::outbox::Ask;
use super::{Asked, BROADCAST_PEERS_MAX, BROADCAST_WANTS, PATIENCE, PROBE_WANTS, SessionId, Wants};
use crate::types::{Cid, PeerId};

impl Wants {
    /// A peer of the session that was not asked for the block yet, with the least to do.
    pub(super) fn best_peer(&self, session: SessionId, cid: &Cid, now: Instant) -> Option<PeerId> {
        let asked = self.wants.get(cid).map(|want| &want.asked);
        let peers = self.sessions.get(&session)?.peers.keys();
        let possible = peers.filter(|peer| {
            asked.is_none_or(|asked| !asked.contains_key(peer)) && !self.is_avoided(peer, now)
        });
        possible.min_by_key(|peer| self.in_flight(peer)).copied()
    }

    /// A peer that has the block, with the least to do.
    pub(super) fn who_has(&self, cid: &Cid, but: Option<&PeerId>, now: Instant) -> Option<PeerId> {
        let asked = self.wants.get(cid)?.asked.iter();
        let have = asked.filter(|(peer, asked)| {
            **asked == Asked::Has && Some(*peer) != but && !self.is_avoided(peer, now)
        });
        have.map(|(peer, _)| peer).min_by_key(|peer| self.in_flight(peer)).copied()
    }

    pub(super) fn start(&mut self, session: SessionId, cid: Cid, now: Instant) {
        let best = self.best_peer(session, &cid, now);
        if let Some(peer) = best {
            self.fetch(cid, peer, now);
        }
        let Some(known) = self.sessions.get_mut(&session) else { return };
        if best.is_some() {
            match known.probe_in {
                None => {}
                Some(0) => {
                    known.probe_in = Some(PROBE_WANTS);
                    if let Some(before) = known.probed.replace(cid) {
                        self.probed.remove(&(before, session));
                    }
                    self.probed.insert((cid, session));
                    self.ask_everybody(cid, now);
                }
                Some(wants) => known.probe_in = Some(wants - 1),
            }
        } else if known.broadcasts.len() < BROADCAST_WANTS {
            known.broadcasts.insert(cid);
            self.ask_everybody(cid, now);
        } else {
            known.held.insert(cid);
        }
    }

    pub(super) fn post(&mut self, peer: PeerId, cid: Cid, ask: Ask) {
        self.next_id += 1;
        if self.peers.entry(peer).or_default().outbox.put(self.next_id, cid, ask) {
            self.stirred.insert(peer);
        }
    }

    /// Asks a peer whether it has the block.
    pub(super) fn ask(&mut self, cid: Cid, peer: PeerId, ask: Ask) {
        if let Some(want) = self.wants.get_mut(&cid) {
            want.asked.insert(peer, Asked::Unanswered);
            self.post(peer, cid, ask);
        }
    }

    /// Asks a peer for the block itself.
    pub(super) fn fetch(&mut self, cid: Cid, peer: PeerId, now: Instant) {
        let Some(want) = self.wants.get_mut(&cid) else { return };
        if want.asked.get(&peer) != Some(&Asked::Has) {
            want.asked.insert(peer, Asked::Unanswered);
        }
        let before = want.fetching.replace((peer, now));
        self.peers.entry(peer).or_default().in_flight += 1;
        self.is_not_fetched(before);
        self.post(peer, cid, Ask::Block);
    }

    pub(super) fn stop_fetching_from(&mut self, cid: &Cid, peer: &PeerId) {
        if let Some(want) = self.wants.get_mut(cid)
            && want.fetching.is_some_and(|(from, _)| from == *peer)
        {
            let before = want.fetching.take();
            self.is_not_fetched(before);
        }
    }

    pub(super) fn is_not_fetched(&mut self, fetching: Option<(PeerId, Instant)>) {
        if let Some(peer) = fetching.and_then(|(peer, _)| self.peers.get_mut(&peer)) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
    }

    /// Sees to it that somebody is asked for the block.
    pub(super) fn go_on(&mut self, cid: Cid, now: Instant) {
        let Some(want) = self.wants.get(&cid) else { return };
        if want.fetching.is_some_and(|fetching| !self.is_slow(fetching, PATIENCE, now)) {
            return;
        }
        let slow = want.fetching.map(|(peer, _)| peer);
        if let Some(peer) = self.who_has(&cid, slow.as_ref(), now) {
            self.fetch(cid, peer, now);
        } else if slow.is_none() {
            let sessions: Vec<SessionId> = want.waiters.values().map(|waiter| waiter.session).collect();
            let everybody = want.everybody;
            let best = sessions.into_iter().find_map(|session| self.best_peer(session, &cid, now));
            match best {
                Some(peer) => self.fetch(cid, peer, now),
                None if !everybody => self.ask_everybody(cid, now),
                None => {}
            }
        }
    }

    /// Asks everybody who was not asked yet who has the block; first who sent blocks before.
    pub(super) fn ask_everybody(&mut self, cid: Cid, now: Instant) {
        let Some(want) = self.wants.get_mut(&cid) else { return };
        want.everybody = true;
        let nobody_else = want.fetching.is_none() && want.asked.is_empty();
        let peers = self.unasked(&cid, BROADCAST_PEERS_MAX, now);
        match peers.as_slice() {
            // The only one there is need not be asked twice.
            [only] if nobody_else => self.fetch(cid, *only, now),
            peers => {
                peers.iter().for_each(|peer| self.ask(cid, *peer, Ask::Have { send_dont_have: false }));
            }
        }
    }

    pub(super) fn unasked(&self, cid: &Cid, max: usize, now: Instant) -> Vec<PeerId> {
        let asked = self.wants.get(cid).map(|want| &want.asked);
        let possible = |peer: &&PeerId| {
            let lost = |asked: &BTreeMap<PeerId, Asked>| matches!(asked.get(*peer), None | Some(Asked::Lost));
            asked.is_none_or(lost) && !self.is_avoided(peer, now)
        };
        let sent_blocks = |peer: &&PeerId| self.peers.get(*peer).is_some_and(|peer| peer.progress.is_some());
        let (first, then): (Vec<PeerId>, Vec<PeerId>) =
            self.connected.iter().filter(possible).copied().partition(|peer| sent_blocks(&peer));
        first.into_iter().chain(then).take(max).collect()
    }

    /// Says once more what was asked before, and asks some more peers.
    pub(super) fn ask_again(&mut self, cid: Cid, now: Instant) {
        let Some(want) = self.wants.get(&cid) else { return };
        let fetching = want.fetching.map(|(peer, _)| peer);
        let to_tell = |(peer, asked): &(&PeerId, &Asked)| **asked != Asked::Has || Some(**peer) == fetching;
        let before = want.asked.iter().filter(to_tell);
        let before: Vec<PeerId> = before.map(|(peer, _)| *peer).collect();
        for peer in before.into_iter().filter(|peer| !self.is_avoided(peer, now)).collect::<Vec<_>>() {
            if Some(peer) == fetching {
                self.post(peer, cid, Ask::Block);
            } else {
                self.ask(cid, peer, Ask::Have { send_dont_have: false });
            }
        }
        for peer in self.unasked(&cid, BROADCAST_PEERS_MAX, now) {
            self.ask(cid, peer, Ask::Have { send_dont_have: false });
        }
    }
}
