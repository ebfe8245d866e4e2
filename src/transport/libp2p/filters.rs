//! Which addresses are dialled, told to others and kept in which directory. Pure.

use std::net::IpAddr;

use multiaddr::Protocol as Part;

use crate::types::{Multiaddr, PeerId};

/// Most addresses that are believed of one message about a peer.
pub(super) const ADDRESSES_PER_PEER_MAX: usize = 16;
/// Longest address that is believed, in bytes; a relayed address with two RSA ids is below 200.
const ADDRESS_BYTES_MAX: usize = 256;

/// Who can reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// This machine.
    Loopback,
    /// A network of its own.
    Private,
    /// Everybody; names count as such.
    Public,
    /// Nobody.
    Nowhere,
}

pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Part::Ip4(ip) => Some(ip.into()),
        Part::Ip6(ip) => Some(ip.to_ipv4_mapped().map_or(ip.into(), IpAddr::from)),
        _ => None,
    }
}

pub(super) fn is_name(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Part::Dns(_) | Part::Dns4(_) | Part::Dns6(_) | Part::Dnsaddr(_)))
}

pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Part::P2pCircuit))
}

pub(super) fn scope(address: &Multiaddr) -> Scope {
    match ip_of(address) {
        None if is_name(address) => Scope::Public,
        None => Scope::Nowhere,
        Some(ip) if ip.is_unspecified() || ip.is_multicast() => Scope::Nowhere,
        Some(ip) if ip.is_loopback() => Scope::Loopback,
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, _] = ip.octets();
            // Shared by providers (RFC 6598), for benchmarks (2544) and for protocols (6890). Those of documentation
            // get used in laboratories.
            let special =
                (a == 100 && b & 0xc0 == 64) || (a == 198 && b & 0xfe == 18) || [a, b, c] == [192, 0, 0];
            if a == 0 || a >= 240 {
                Scope::Nowhere
            } else if ip.is_private() || ip.is_link_local() || ip.is_documentation() || special {
                Scope::Private
            } else {
                Scope::Public
            }
        }
        Some(IpAddr::V6(ip)) => {
            let first = ip.segments()[0];
            // 2000::/3 is what is given out.
            if first & 0xe000 == 0x2000 { Scope::Public } else { Scope::Private }
        }
    }
}

/// Whether our transports can dial it: TCP or WebSocket, directly or through a relay.
pub(super) fn is_dialable(address: &Multiaddr) -> bool {
    if address.len() > ADDRESS_BYTES_MAX {
        return false;
    }
    let is_host = ip_of(address).is_some() || is_name(address);
    let mut has_tcp = matches!(address.iter().next(), Some(Part::Dnsaddr(_)));
    for part in address.iter().skip(1) {
        match part {
            Part::Tcp(port) => {
                if port == 0 {
                    return false;
                }
                has_tcp = true;
            }
            Part::Ws(_) | Part::Wss(_) | Part::Tls | Part::Sni(_) | Part::P2p(_) | Part::P2pCircuit => {}
            _ => return false,
        }
    }
    is_host && has_tcp
}

/// Whether it is one of the addresses that the reference lists but cannot listen on.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Part::Quic | Part::QuicV1))
}

/// The address without its last `/p2p/`, and whose it is.
pub(super) fn split_peer(address: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut rest = address.clone();
    match rest.pop() {
        Some(Part::P2p(peer)) => (rest, Some(peer)),
        _ => (address.clone(), None),
    }
}

/// What we believe of the addresses that a peer says it has, being connected to it through `via`. An address of this
/// machine only counts when the peer is on it.
pub(super) fn believed(said: &[Multiaddr], peer: &PeerId, via: &Multiaddr) -> Vec<Multiaddr> {
    let is_neighbour = scope(via) == Scope::Loopback;
    let mut believed = Vec::new();
    for address in said {
        let (address, named) = split_peer(address);
        let fits = match scope(&address) {
            Scope::Loopback => is_neighbour,
            Scope::Private | Scope::Public => true,
            Scope::Nowhere => false,
        };
        let is_its_own = named.is_none_or(|named| named == *peer);
        if fits && is_its_own && is_dialable(&address) && !believed.contains(&address) {
            believed.push(address);
            if believed.len() == ADDRESSES_PER_PEER_MAX {
                break;
            }
        }
    }
    believed
}

/// Whether an address belongs into the directory of peers with private addresses. Addresses of this machine have passed
/// [`believed`], so whoever has them is a neighbour.
pub(super) fn belongs_to_lan(address: &Multiaddr) -> bool {
    matches!(scope(address), Scope::Private | Scope::Loopback) && !is_relayed(address)
}

/// Whether an address belongs into the directory of peers with public addresses.
pub(super) fn belongs_to_wan(address: &Multiaddr) -> bool {
    scope(address) == Scope::Public && !is_relayed(address)
}

/// Whether an address leads to a peer through a relay that everybody can reach.
pub(super) fn is_reached_by_relay(address: &Multiaddr) -> bool {
    scope(address) == Scope::Public && is_relayed(address)
}

/// What others are told: what the operator says, else what was found, without what the operator does not want.
pub(super) fn announced(
    found: impl IntoIterator<Item = Multiaddr>,
    announce: &[Multiaddr],
    no_announce: &[Multiaddr],
) -> Vec<Multiaddr> {
    let candidates: Vec<Multiaddr> =
        if announce.is_empty() { found.into_iter().collect() } else { announce.to_vec() };
    let mut told = Vec::new();
    for address in candidates {
        let (address, _) = split_peer(&address);
        if scope(&address) != Scope::Nowhere
            && !no_announce.iter().any(|rule| covers(rule, &address))
            && !told.contains(&address)
        {
            told.push(address);
        }
    }
    told
}

/// Whether a rule names an address exactly, or its network.
fn covers(rule: &Multiaddr, address: &Multiaddr) -> bool {
    let mut parts = rule.iter();
    let (network, bits) = match (parts.next(), parts.next(), parts.next()) {
        (Some(Part::Ip4(network)), Some(Part::Ipcidr(bits)), None) => (IpAddr::V4(network), bits),
        (Some(Part::Ip6(network)), Some(Part::Ipcidr(bits)), None) => (IpAddr::V6(network), bits),
        _ => return rule == address,
    };
    match (network, ip_of(address)) {
        (IpAddr::V4(network), Some(IpAddr::V4(ip))) => {
            shares_prefix(u32::from(network).into(), u32::from(ip).into(), bits, 32)
        }
        (IpAddr::V6(network), Some(IpAddr::V6(ip))) => {
            shares_prefix(u128::from(network), u128::from(ip), bits, 128)
        }
        _ => false,
    }
}

fn shares_prefix(one: u128, other: u128, bits: u8, width: u8) -> bool {
    let ignored = u32::from(width.saturating_sub(bits));
    one.checked_shr(ignored).unwrap_or(0) == other.checked_shr(ignored).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| address(text)).collect()
    }

    const PEER: &str = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
    const OTHER: &str = "12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq";

    #[test]
    fn every_address_has_the_scope_of_its_host() {
        for (text, expected) in [
            ("/ip4/127.0.0.1/tcp/1", Scope::Loopback),
            ("/ip6/::1/tcp/1", Scope::Loopback),
            ("/ip6/::ffff:127.0.0.1/tcp/1", Scope::Loopback),
            ("/ip4/10.1.2.3/tcp/1", Scope::Private),
            ("/ip4/172.31.0.1/tcp/1", Scope::Private),
            ("/ip4/192.168.0.1/tcp/1", Scope::Private),
            ("/ip4/169.254.0.1/tcp/1", Scope::Private),
            ("/ip4/100.64.0.1/tcp/1", Scope::Private),
            ("/ip6/fd00::1/tcp/1", Scope::Private),
            ("/ip6/fe80::1/tcp/1", Scope::Private),
            ("/ip4/172.32.0.1/tcp/1", Scope::Public),
            ("/ip4/100.128.0.1/tcp/1", Scope::Public),
            ("/ip4/1.1.1.1/tcp/1", Scope::Public),
            ("/ip6/2606:4700::1111/tcp/1", Scope::Public),
            ("/dns4/peer.example/tcp/1", Scope::Public),
            ("/ip4/0.0.0.0/tcp/1", Scope::Nowhere),
            ("/ip4/224.0.0.251/tcp/1", Scope::Nowhere),
            ("/ip4/203.0.113.7/tcp/1", Scope::Private),
            ("/ip6/::/tcp/1", Scope::Nowhere),
            ("/memory/1", Scope::Nowhere),
        ] {
            assert_eq!(scope(&address(text)), expected, "{text}");
        }
    }

    #[test]
    fn only_tcp_and_web_sockets_are_dialled() {
        for (text, expected) in [
            ("/ip4/1.1.1.1/tcp/9096", true),
            ("/ip4/1.1.1.1/tcp/9096/ws", true),
            ("/dns4/peer.example/tcp/443/wss", true),
            ("/dnsaddr/peer.example", true),
            ("/ip4/1.1.1.1/tcp/0", false),
            ("/ip4/1.1.1.1/udp/9096/quic", false),
            ("/ip4/1.1.1.1/udp/9096/quic-v1", false),
            ("/ip4/1.1.1.1/udp/9096", false),
            ("/unix/%2Ftmp", false),
            ("/memory/1", false),
        ] {
            assert_eq!(is_dialable(&address(text)), expected, "{text}");
        }
        assert!(is_dialable(&address(&format!("/ip4/1.1.1.1/tcp/1/p2p/{OTHER}/p2p-circuit"))));
        let name = "x".repeat(300);
        assert!(!is_dialable(&address(&format!("/dns4/{name}/tcp/1"))));
        assert!(is_quic(&address("/ip4/0.0.0.0/udp/9096/quic")));
        assert!(!is_quic(&address("/ip4/0.0.0.0/tcp/9096")));
    }

    #[test]
    fn what_a_peer_says_of_itself_is_believed_where_it_can_be_true() {
        let peer: PeerId = PEER.parse().unwrap();
        let own = format!("/ip4/1.1.1.1/tcp/2/p2p/{PEER}");
        let foreign = format!("/ip4/1.1.1.1/tcp/3/p2p/{OTHER}");
        let said = addresses(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/1.1.1.1/udp/1/quic-v1",
            &own,
            &foreign,
        ]);
        let far = believed(&said, &peer, &address("/ip4/10.0.0.1/tcp/555"));
        assert_eq!(far, addresses(&["/ip4/10.0.0.1/tcp/1", "/ip4/1.1.1.1/tcp/2"]));
        let near = believed(&said, &peer, &address("/ip4/127.0.0.1/tcp/555"));
        assert_eq!(near[0], address("/ip4/127.0.0.1/tcp/1"));
        let many: Vec<_> = (1..1000).map(|port| address(&format!("/ip4/10.0.0.1/tcp/{port}"))).collect();
        assert_eq!(believed(&many, &peer, &said[0]).len(), ADDRESSES_PER_PEER_MAX);
    }

    #[test]
    fn each_directory_takes_its_kind_of_address() {
        for (text, lan, wan) in [
            ("/ip4/127.0.0.1/tcp/1", true, false),
            ("/ip4/10.0.0.1/tcp/1", true, false),
            ("/ip4/1.1.1.1/tcp/1", false, true),
            ("/dns4/peer.example/tcp/1", false, true),
        ] {
            let address = address(text);
            assert_eq!((belongs_to_lan(&address), belongs_to_wan(&address)), (lan, wan), "{text}");
        }
        let relayed = address(&format!("/ip4/1.1.1.1/tcp/1/p2p/{OTHER}/p2p-circuit"));
        assert!(!belongs_to_wan(&relayed) && is_reached_by_relay(&relayed));
        let next_door = address(&format!("/ip4/10.0.0.1/tcp/1/p2p/{OTHER}/p2p-circuit"));
        assert!(!is_reached_by_relay(&next_door) && !is_reached_by_relay(&address("/ip4/1.1.1.1/tcp/1")));
    }

    #[test]
    fn others_are_told_what_the_operator_wants() {
        let found = addresses(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.9.8.7/tcp/1", "/ip4/0.0.0.0/tcp/1"]);
        let cases: [(&[&str], &[&str], &[&str]); 6] = [
            (&[], &[], &["/ip4/127.0.0.1/tcp/1", "/ip4/10.9.8.7/tcp/1"]),
            (&["/dns4/me.example/tcp/9096"], &[], &["/dns4/me.example/tcp/9096"]),
            (&[], &["/ip4/127.0.0.1/tcp/1"], &["/ip4/10.9.8.7/tcp/1"]),
            (&[], &["/ip4/127.0.0.1/tcp/2"], &["/ip4/127.0.0.1/tcp/1", "/ip4/10.9.8.7/tcp/1"]),
            (&[], &["/ip4/10.0.0.0/ipcidr/8"], &["/ip4/127.0.0.1/tcp/1"]),
            (&[], &["/ip4/0.0.0.0/ipcidr/0"], &[]),
        ];
        for (announce, no_announce, expected) in cases {
            let told = announced(found.clone(), &addresses(announce), &addresses(no_announce));
            assert_eq!(told, addresses(expected), "{announce:?} {no_announce:?}");
        }
        let six = announced(
            addresses(&["/ip6/fd00::1/tcp/1", "/ip6/2001:db8:1::1/tcp/1", "/ip6/2606::1/tcp/1"]),
            &[],
            &addresses(&["/ip6/fc00::/ipcidr/7"]),
        );
        assert_eq!(six, addresses(&["/ip6/2001:db8:1::1/tcp/1", "/ip6/2606::1/tcp/1"]));
    }
}
