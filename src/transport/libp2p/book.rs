//! Addresses of peers, and which of them are dialled again when. Pure: the time is told.

use std::collections::BTreeMap;
use std::time::Duration;

use multiaddr::Protocol as Part;
use tokio::time::Instant;

use super::filters::{self, ADDRESSES_PER_PEER_MAX};
use crate::types::{Multiaddr, PeerId};

/// Peers whose addresses are kept; the operator's are not counted.
const PEERS_MAX: usize = 4_096;
/// After so many attempts in a row that failed, a peer that the operator did not name may be forgotten.
const FAILURES_MAX: u32 = 10;
/// How long none has succeeded by then: longer than a network, or a whole cluster, is away for a weekend. Two peers that
/// have forgotten each other may never meet again.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Longest time between two attempts: as long may a cluster take to meet again after its network was away.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5 * 60);

/// What is known of peers.
#[derive(Debug, Default)]
pub(super) struct Book {
    peers: BTreeMap<PeerId, Entry>,
    /// Ascending: who was added earlier is more important.
    next_rank: u64,
}

#[derive(Debug)]
struct Entry {
    addresses: Vec<Multiaddr>,
    rank: u64,
    /// Named by the operator: never forgotten.
    is_permanent: bool,
    failures: u32,
    /// When the first of these failures was.
    failing_since: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Book {
    /// Adds addresses, and says whether something is new. The most recent ones are kept where there are too many.
    pub(super) fn add(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) -> bool {
        let mut addresses = addresses.into_iter().peekable();
        if addresses.peek().is_none() {
            return false;
        }
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
            let least =
                self.peers.iter().filter(|(_, entry)| !entry.is_permanent).max_by_key(|(_, entry)| {
                    // Who does not answer goes first, then who came last.
                    (entry.failures, entry.rank)
                });
            let Some(least) = least.map(|(peer, _)| *peer) else { return false };
            self.peers.remove(&least);
        }
        let rank = self.next_rank;
        self.next_rank += 1;
        let entry = self.peers.entry(peer).or_insert_with(|| Entry {
            addresses: Vec::new(),
            rank,
            is_permanent: false,
            failures: 0,
            failing_since: None,
            retry_at: None,
        });
        let mut is_new = false;
        for address in addresses {
            if entry.addresses.contains(&address) {
                continue;
            }
            if entry.addresses.len() >= ADDRESSES_PER_PEER_MAX {
                if entry.is_permanent {
                    break;
                }
                entry.addresses.remove(0);
            }
            entry.addresses.push(address);
            is_new = true;
        }
        is_new
    }

    /// Adds a peer of the operator.
    pub(super) fn add_permanent(&mut self, peer: PeerId, address: Multiaddr) {
        self.add(peer, [address]);
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.is_permanent = true;
        }
    }

    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers.get(peer).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }

    pub(super) fn connected(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.failures = 0;
            entry.failing_since = None;
            entry.retry_at = None;
        }
    }

    /// An attempt failed: the next one waits longer each time. One that came before its time, because somebody wanted to
    /// speak to the peer at once, changes nothing.
    pub(super) fn failed(&mut self, peer: &PeerId, now: Instant, interval: Duration) {
        let Some(entry) = self.peers.get_mut(peer) else { return };
        // An attempt ends a moment after it was due, and the next is due by the clock of the attempts.
        if entry.retry_at.is_some_and(|at| now + interval / 4 < at) {
            return;
        }
        entry.failures = entry.failures.saturating_add(1);
        let since = *entry.failing_since.get_or_insert(now);
        let is_hopeless = entry.failures >= FAILURES_MAX && now.duration_since(since) >= FORGET_AFTER;
        if is_hopeless && !entry.is_permanent {
            self.peers.remove(peer);
            return;
        }
        let doublings = entry.failures.saturating_sub(1).min(5);
        let longest = if entry.is_permanent { interval } else { RETRY_AFTER_MAX };
        entry.retry_at = Some(now + interval.saturating_mul(1 << doublings).min(longest));
    }

    /// Whether a peer is known and has not failed to answer a moment ago.
    pub(super) fn is_due(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|entry| entry.retry_at.is_none_or(|at| at <= now))
    }

    /// Whom to dial now, most important first: the operator's, then who has been known for longest.
    pub(super) fn to_dial(
        &self,
        now: Instant,
        count: usize,
        is_taken: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerId> {
        let mut due: Vec<_> = self
            .peers
            .iter()
            .filter(|(peer, entry)| entry.retry_at.is_none_or(|at| at <= now) && !is_taken(peer))
            .map(|(peer, entry)| (!entry.is_permanent, entry.failures, entry.rank, *peer))
            .collect();
        due.sort_unstable();
        due.into_iter().take(count).map(|(_, _, _, peer)| peer).collect()
    }

    /// For the peerstore file, each with its `/p2p/`: those that are connected first. Of a peer that has names, only
    /// the names, because addresses behind them change.
    pub(super) fn known(&self, is_connected: impl Fn(&PeerId) -> bool) -> Vec<Multiaddr> {
        let mut peers: Vec<_> = self
            .peers
            .iter()
            .map(|(peer, entry)| (!entry.is_permanent, !is_connected(peer), entry.rank, *peer, entry))
            .collect();
        peers.sort_unstable_by_key(|(other, apart, rank, peer, _)| (*other, *apart, *rank, *peer));
        let mut known = Vec::new();
        for (_, _, _, peer, entry) in peers {
            let names: Vec<_> = entry.addresses.iter().filter(|address| filters::is_name(address)).collect();
            let kept = if names.is_empty() { entry.addresses.iter().collect() } else { names };
            known.extend(kept.into_iter().map(|address| address.clone().with(Part::P2p(peer))));
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes(&[0, 1, number]).unwrap()
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn peers_are_dialled_again_later_each_time_until_they_are_forgotten() {
        let mut book = Book::default();
        book.add(peer(2), [address(2)]);
        book.add_permanent(peer(1), address(1));
        book.add(peer(3), [address(3)]);
        let start = Instant::now();
        assert_eq!(book.to_dial(start, 9, |_| false), [peer(1), peer(2), peer(3)]);
        assert_eq!(book.to_dial(start, 1, |taken| *taken == peer(1)), [peer(2)]);

        book.failed(&peer(1), start, SECOND);
        book.failed(&peer(2), start, SECOND);
        assert_eq!(book.to_dial(start, 9, |_| false), [peer(3)]);
        assert_eq!(book.to_dial(start + SECOND, 9, |_| false), [peer(1), peer(3), peer(2)]);
        let start = start + SECOND;
        book.failed(&peer(1), start, SECOND);
        book.failed(&peer(2), start, SECOND);
        assert_eq!(book.to_dial(start + SECOND, 9, |_| false), [peer(1), peer(3)]);
        book.connected(&peer(2));
        assert_eq!(book.to_dial(start, 9, |_| false), [peer(2), peer(3)]);

        // However many speak to it meanwhile, and a network that is away for days, make nobody forgotten.
        for _ in 0..100 * FAILURES_MAX {
            book.failed(&peer(2), start, SECOND);
        }
        assert_eq!(book.to_dial(start + SECOND, 9, |taken| *taken == peer(1)), [peer(3), peer(2)]);
        let mut now = start;
        let last = start + FORGET_AFTER - RETRY_AFTER_MAX;
        while now < last {
            now += RETRY_AFTER_MAX;
            book.failed(&peer(1), now, SECOND);
            book.failed(&peer(2), now, SECOND);
            assert_eq!(book.addresses(&peer(2)), [address(2)]);
        }
        book.failed(&peer(1), now + RETRY_AFTER_MAX, SECOND);
        book.failed(&peer(2), now + RETRY_AFTER_MAX, SECOND);
        assert_eq!(book.addresses(&peer(2)), []);
        assert_eq!(book.addresses(&peer(1)), [address(1)]);
    }

    #[test]
    fn peers_and_addresses_are_bounded_and_the_operators_stay() {
        let mut book = Book::default();
        book.add_permanent(peer(1), address(1));
        for port in 1..100 {
            book.add(peer(2), [address(port)]);
        }
        assert_eq!(book.addresses(&peer(2)).len(), ADDRESSES_PER_PEER_MAX);
        assert!(book.addresses(&peer(2)).contains(&address(99)));
        for number in 0..2 * PEERS_MAX {
            let bytes = (number as u32).to_be_bytes();
            let peer = PeerId::from_bytes(&[&[0, 4], bytes.as_slice()].concat()).unwrap();
            book.add(peer, [address(1)]);
        }
        assert_eq!(book.peers.len(), PEERS_MAX);
        assert_eq!(book.addresses(&peer(1)), [address(1)]);
        assert_eq!(book.addresses(&peer(2)).len(), ADDRESSES_PER_PEER_MAX, "the newest go first");
    }

    #[test]
    fn the_peerstore_has_names_where_there_are_any_and_connected_peers_first() {
        let mut book = Book::default();
        let name: Multiaddr = "/dns4/peer.example/tcp/1".parse().unwrap();
        book.add(peer(1), [address(1)]);
        book.add(peer(2), [address(2), name.clone()]);
        let known = book.known(|connected| *connected == peer(2));
        assert_eq!(known, [name.with(Part::P2p(peer(2))), address(1).with(Part::P2p(peer(1)))]);
    }
}
