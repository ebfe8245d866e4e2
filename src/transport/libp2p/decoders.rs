//! What is read of the local network, for `testing::decoders`: says whether the bytes meant something, and panics when
//! what was read does not hold.

use super::filters::ADDRESSES_PER_PEER_MAX;
use super::mdns::{Heard, PEERS_PER_PACKET_MAX, answer, heard, is_of_use, question};
use crate::types::{Multiaddr, PeerId};

/// Packets of multicast DNS.
pub(crate) fn mdns_packets(bytes: &[u8]) -> bool {
    let peers = match heard(bytes) {
        Heard::Nothing => return false,
        Heard::Question => return true,
        Heard::Peers(peers) => peers,
    };
    assert!((1..=PEERS_PER_PACKET_MAX).contains(&peers.len()));
    for (peer, addresses) in peers {
        assert!((1..=ADDRESSES_PER_PEER_MAX).contains(&addresses.len()));
        // We say less than we take: what can be said is heard as it was said.
        let said: Vec<Multiaddr> = addresses.into_iter().filter(is_of_use).collect();
        if let Ok(Some(packet)) = answer("instance", &peer, &said) {
            let Heard::Peers(again) = heard(&packet) else { panic!("an answer of ours says nothing") };
            assert!(again.len() == 1 && again[&peer].iter().all(|address| said.contains(address)));
        }
    }
    true
}

/// A question, and an answer.
pub(crate) fn mdns_samples() -> Vec<Vec<u8>> {
    let peer = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5".parse::<PeerId>();
    let addresses = ["/ip4/10.0.0.1/tcp/9096", "/ip6/fd00::1/tcp/9096"].map(str::parse::<Multiaddr>);
    let addresses: Vec<Multiaddr> = addresses.into_iter().flatten().collect();
    let answer = peer.ok().and_then(|peer| answer("instance", &peer, &addresses).ok().flatten());
    question().ok().into_iter().chain(answer).collect()
}
