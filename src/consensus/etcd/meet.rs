//! Peers of one prefix find each other: a sign of life says where a peer can be reached, and the others connect to it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::COMPONENT;
use super::shared::{Roster, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::PeerTransport;
use crate::types::{Multiaddr, PeerId, parse_multiaddr};

/// Most addresses of one peer.
const ADDRESSES_MAX: usize = 16;
/// Longest list of them, in bytes.
const ADDRESSES_BYTES_MAX: usize = 2048;
/// Peers that are connected to because etcd names them; others come by themselves, and gossip reaches all.
const CONNECTIONS_MAX: usize = 256;
/// Peers that are dialled at a time.
const DIALS_MAX: usize = 8;
/// How long one address may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked who is not connected, beside when somebody comes.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Of two peers the one with the smaller id dials, and the other one only after so long.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between the first two attempts; it doubles.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// After so many attempts in vain somebody should know.
const ATTEMPTS_QUIET: u32 = 3;

/// What a sign of life says.
pub(super) fn encode(addresses: &[Multiaddr]) -> Vec<u8> {
    let mut texts: Vec<String> = Vec::new();
    let mut bytes = 2;
    for text in addresses.iter().map(ToString::to_string).take(ADDRESSES_MAX) {
        // With its quotes and comma.
        bytes += text.len() + 3;
        if bytes > ADDRESSES_BYTES_MAX {
            break;
        }
        texts.push(text);
    }
    serde_json::to_vec(&texts).unwrap_or_default()
}

/// What one said. Whatever cannot be read is not there.
pub(super) fn decode(value: &[u8]) -> Vec<Multiaddr> {
    if value.len() > ADDRESSES_BYTES_MAX {
        return Vec::new();
    }
    let texts: Vec<String> = serde_json::from_slice(value).unwrap_or_default();
    texts.iter().take(ADDRESSES_MAX).filter_map(|text| parse_multiaddr(text).ok()).collect()
}

/// What became of the attempts to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempts {
    failed: u32,
    next: Instant,
}

impl Attempts {
    fn first(own: &PeerId, peer: &PeerId, now: Instant) -> Self {
        Self { failed: 0, next: if own < peer { now } else { now + PATIENCE } }
    }

    fn fail(&mut self, now: Instant) {
        let pause = RETRY_PAUSE.saturating_mul(1 << self.failed.min(10));
        self.failed = self.failed.saturating_add(1);
        self.next = now + pause.min(RETRY_PAUSE_MAX);
    }
}

/// Whom to dial now; remembers who is waited for.
fn due(
    roster: &Roster,
    own: &PeerId,
    connected: &[PeerId],
    attempts: &mut BTreeMap<PeerId, Attempts>,
    now: Instant,
) -> Vec<(PeerId, Vec<Multiaddr>)> {
    let is_missing = |peer: &PeerId, addresses: &[Multiaddr]| {
        peer != own && !addresses.is_empty() && !connected.contains(peer) && !roster.removed.contains(peer)
    };
    let missing: BTreeMap<&PeerId, &Vec<Multiaddr>> =
        roster.peers.iter().filter(|(peer, addresses)| is_missing(peer, addresses)).collect();
    attempts.retain(|peer, _| missing.contains_key(peer));
    let room = CONNECTIONS_MAX.saturating_sub(connected.len());
    missing
        .into_iter()
        .filter(|(peer, _)| {
            attempts.entry(**peer).or_insert_with(|| Attempts::first(own, peer, now)).next <= now
        })
        .take(room)
        .map(|(peer, addresses)| (*peer, addresses.clone()))
        .collect()
}

/// Connects to the peers that live until it is stopped.
pub(super) async fn run(shared: &Shared, transport: &dyn PeerTransport, stop: &CancellationToken) {
    let mut rosters = shared.roster.subscribe();
    let mut attempts = BTreeMap::new();
    let looking = async {
        loop {
            let now = Instant::now();
            let roster = rosters.borrow_and_update().clone().unwrap_or_default();
            let due = due(&roster, &shared.peer, &transport.peers(), &mut attempts, now);
            let mut dials: BoxStream<'_, _> = stream::iter(due)
                .map(|(peer, addresses)| async move { (peer, dial(transport, peer, addresses).await) })
                .buffer_unordered(DIALS_MAX)
                .boxed();
            while let Some((peer, dialled)) = dials.next().await {
                note(&mut attempts, peer, dialled);
            }
            drop(dials);
            let next = attempts.values().map(|attempts| attempts.next).min();
            let look = Instant::now() + LOOK_INTERVAL;
            tokio::select! {
                biased;
                // It ends with the peer.
                changed = rosters.changed() => if changed.is_err() { return },
                () = sleep_until(next.map_or(look, |next| next.clamp(Instant::now(), look))) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = looking => {}
    }
}

fn note(attempts: &mut BTreeMap<PeerId, Attempts>, peer: PeerId, dialled: Result<()>) {
    let Err(error) = dialled else {
        attempts.remove(&peer);
        info!(component = COMPONENT, %peer, "found a peer through etcd");
        return;
    };
    let Some(tried) = attempts.get_mut(&peer) else { return };
    tried.fail(Instant::now());
    if tried.failed == ATTEMPTS_QUIET {
        warn!(
            component = COMPONENT,
            %peer,
            %error,
            "a peer that etcd names cannot be reached; trying again. Do both have the same cluster.secret, and does it \
             listen where this one can reach it (cluster.listen_multiaddress, cluster.announce_multiaddress)?"
        );
    } else {
        debug!(component = COMPONENT, %peer, %error, "a peer that etcd names cannot be reached");
    }
}

/// Connects to a peer at the first of these addresses that works.
async fn dial(transport: &dyn PeerTransport, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<()> {
    let mut failed = Error::new(ErrorKind::Unavailable, "it says no address");
    for address in addresses {
        let Ok(address) = address.with_p2p(peer) else {
            failed = Error::new(ErrorKind::InvalidInput, "an address of it names another peer");
            continue;
        };
        match timeout(DIAL_TIMEOUT, transport.connect(&address)).await {
            Ok(Ok(found)) if found == peer => return Ok(()),
            Ok(Ok(found)) => {
                let text = format!("at {address} there is {found}");
                failed = Error::new(ErrorKind::Unavailable, text);
            }
            Ok(Err(error)) => failed = error,
            Err(_) => failed = Error::new(ErrorKind::Timeout, format!("no answer from {address}")),
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::parse_multiaddr;

    fn address(port: u16) -> Multiaddr {
        parse_multiaddr(&format!("/ip4/127.0.0.1/tcp/{port}")).unwrap()
    }

    #[test]
    fn addresses_read_back_and_what_is_none_is_passed_over() {
        let some = [address(1), address(2)];
        assert_eq!(decode(&encode(&some)), some);
        assert_eq!(decode(br#"["/ip4/127.0.0.1/tcp/1","x",""]"#), [address(1)]);
        for wrong in [&b""[..], b"x", b"{}", b"[1]", b"\xff"] {
            assert_eq!(decode(wrong), []);
        }
        let many: Vec<Multiaddr> = (1..100).map(address).collect();
        assert_eq!(decode(&encode(&many)), many[..ADDRESSES_MAX]);
        let long: Multiaddr = format!("/dns4/{}/tcp/1", "x".repeat(ADDRESSES_BYTES_MAX / 2)).parse().unwrap();
        let written = encode(&[long.clone(), long.clone(), long.clone()]);
        assert!(written.len() <= ADDRESSES_BYTES_MAX);
        assert_eq!(decode(&written), [long]);
        let endless = format!("[{}]", "\"/ip4/127.0.0.1/tcp/1\",".repeat(1000));
        assert_eq!(decode(endless.as_bytes()), []);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_peers_the_smaller_one_dials_at_once_and_the_other_one_later() {
        let now = Instant::now();
        let mut ids = [PeerId::random(), PeerId::random()];
        ids.sort();
        let [small, great] = ids;
        let roster = Roster {
            peers: [(small, vec![address(1)]), (great, vec![address(2)])].into(),
            ..Roster::default()
        };
        let mut attempts = BTreeMap::new();
        assert_eq!(due(&roster, &small, &[], &mut attempts, now), [(great, vec![address(2)])]);
        attempts.clear();
        assert_eq!(due(&roster, &great, &[], &mut attempts, now), []);
        assert_eq!(due(&roster, &great, &[], &mut attempts, now + PATIENCE), [(small, vec![address(1)])]);
        // Who is there need not be looked for, and what was before does not count when it is gone again.
        assert_eq!(due(&roster, &great, &[small], &mut attempts, now + PATIENCE), []);
        assert!(attempts.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_cannot_be_reached_is_tried_less_and_less_often() {
        let now = Instant::now();
        let mut attempts = Attempts { failed: 0, next: now };
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            attempts.fail(now);
            let pause = attempts.next - now;
            assert!(pause >= last && pause <= RETRY_PAUSE_MAX);
            last = pause;
        }
        assert_eq!(last, RETRY_PAUSE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_were_removed_or_say_no_address_are_not_dialled() {
        let now = Instant::now() + 2 * PATIENCE;
        let [own, removed, silent] = [(); 3].map(|()| PeerId::random());
        let roster = Roster {
            peers: [(own, vec![address(1)]), (removed, vec![address(2)]), (silent, Vec::new())].into(),
            removed: [removed].into(),
            ..Roster::default()
        };
        assert_eq!(due(&roster, &own, &[], &mut BTreeMap::new(), now), []);
    }
}
