//! Finding peers on the local network by multicast DNS, under the cluster's own name (wire protocol §1.4). What is said
//! there is nobody's word: it only makes us dial, and who is there has to prove it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use multiaddr::Protocol as Part;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::filters::{self, Scope};
use super::shared::Shared;
use super::swarm::Command;
use crate::config::Secret;
use crate::types::{Multiaddr, PeerId};

const SERVICE: &str = "_ipfs-cluster-discovery._udp.local.";
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
/// A port has to be said, but only the text counts.
const DUMMY_PORT: u16 = 4001;
const TTL_SECONDS: u32 = 120;
/// How often others are asked for.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// How often others are answered at most.
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);
/// Longest packet, as the standard has it.
const PACKET_BYTES_MAX: usize = 9_000;
/// Packets that are looked at in a second; more are dropped.
const PACKETS_PER_SECOND_MAX: u32 = 200;
/// Peers that one packet may name.
pub(super) const PEERS_PER_PACKET_MAX: usize = 16;
/// Characters of the instance's name.
const INSTANCE_CHARACTERS: usize = 40;
const TEXT_PREFIX: &str = "dnsaddr=";
/// Longest text of one entry in DNS.
pub(super) const TEXT_BYTES_MAX: usize = 255;

/// What a packet was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Question,
    Peers(BTreeMap<PeerId, Vec<Multiaddr>>),
    Nothing,
}

fn service() -> Result<Name, ProtoError> {
    Name::from_ascii(SERVICE)
}

/// Who is there?
pub(super) fn question() -> Result<Vec<u8>, ProtoError> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(service()?, RecordType::PTR));
    message.to_vec()
}

/// We are, under these addresses. None if there is none that is of use on the local network.
pub(super) fn answer(
    instance: &str,
    peer: &PeerId,
    addresses: &[Multiaddr],
) -> Result<Option<Vec<u8>>, ProtoError> {
    let usable = addresses.iter().filter(|address| is_of_use(address));
    let texts: Vec<String> = usable
        .clone()
        .map(|address| format!("{TEXT_PREFIX}{}", address.clone().with(Part::P2p(*peer))))
        .filter(|text| text.len() <= TEXT_BYTES_MAX)
        .take(filters::ADDRESSES_PER_PEER_MAX)
        .collect();
    if texts.is_empty() {
        return Ok(None);
    }
    let service = service()?;
    let full = service.prepend_label(instance)?;
    let host = Name::from_ascii(format!("{instance}.local."))?;
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    message.add_answer(Record::from_rdata(service, TTL_SECONDS, RData::PTR(PTR(full.clone()))));
    let server = SRV::new(0, 0, DUMMY_PORT, host.clone());
    message.add_additional(Record::from_rdata(full.clone(), TTL_SECONDS, RData::SRV(server)));
    message.add_additional(Record::from_rdata(full, TTL_SECONDS, RData::TXT(TXT::new(texts))));
    // Readers want an address of the host too, though they do not use it.
    if let Some(ip) = usable.filter_map(filters::ip_of).next() {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        message.add_additional(Record::from_rdata(host, TTL_SECONDS, data));
    }
    message.to_vec().map(Some)
}

/// Direct TCP to an IP address: everything else is for other ways of finding peers.
pub(super) fn is_of_use(address: &Multiaddr) -> bool {
    let is_plain = address.iter().skip(1).all(|part| matches!(part, Part::Tcp(_)));
    filters::ip_of(address).is_some() && is_plain && filters::is_dialable(address)
}

/// Whether what the head of a packet announces can follow it: the parser takes memory for all of it beforehand.
fn has_room_for_its_counts(packet: &[u8]) -> bool {
    /// Id and flags come before the four counts.
    const COUNTS: std::ops::Range<usize> = 4..12;
    /// The shortest question, and the shortest record: a name of one byte and what has a fixed length.
    const QUESTION_BYTES: usize = 1 + 4;
    const RECORD_BYTES: usize = 1 + 10;
    let Some(counts) = packet.get(COUNTS) else { return false };
    let counts = counts.chunks_exact(2).map(|count| usize::from(count[0]) << 8 | usize::from(count[1]));
    let sizes = [QUESTION_BYTES, RECORD_BYTES, RECORD_BYTES, RECORD_BYTES];
    let needed: usize = counts.zip(sizes).map(|(count, size)| count * size).sum();
    needed <= packet.len() - COUNTS.end
}

/// What a packet says, and nothing of what is broken.
pub(super) fn heard(packet: &[u8]) -> Heard {
    if !has_room_for_its_counts(packet) {
        return Heard::Nothing;
    }
    let (Ok(message), Ok(service)) = (Message::from_vec(packet), service()) else { return Heard::Nothing };
    if message.metadata.message_type == MessageType::Query {
        let is_for_us = |query: &Query| {
            matches!(query.query_type(), RecordType::PTR | RecordType::ANY) && *query.name() == service
        };
        return if message.queries.iter().any(is_for_us) { Heard::Question } else { Heard::Nothing };
    }
    let mut peers: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
    for record in message.answers.iter().chain(&message.additionals) {
        let RData::TXT(text) = &record.data else { continue };
        if !service.zone_of(&record.name) {
            continue;
        }
        for text in &text.txt_data {
            let text = std::str::from_utf8(text).ok().and_then(|text| text.strip_prefix(TEXT_PREFIX));
            let Some(Ok(address)) = text.map(str::parse::<Multiaddr>) else { continue };
            let (address, Some(peer)) = filters::split_peer(&address) else { continue };
            if !filters::is_dialable(&address) || filters::scope(&address) == Scope::Nowhere {
                continue;
            }
            if !peers.contains_key(&peer) && peers.len() >= PEERS_PER_PACKET_MAX {
                continue;
            }
            let addresses = peers.entry(peer).or_default();
            if addresses.len() < filters::ADDRESSES_PER_PEER_MAX && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    if peers.is_empty() { Heard::Nothing } else { Heard::Peers(peers) }
}

fn listen() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    // Other programs of this machine listen there as well.
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

/// The multicast group on every interface that we listen on.
struct Group {
    socket: UdpSocket,
    joined: BTreeSet<Ipv4Addr>,
}

impl Group {
    /// Says something on every interface; those where it cannot be said are passed over.
    async fn say(&mut self, packet: &[u8], listen: &[Multiaddr]) {
        let interfaces: BTreeSet<_> = listen
            .iter()
            .filter_map(filters::ip_of)
            .filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None })
            .collect();
        self.joined.retain(|ip| interfaces.contains(ip));
        for ip in interfaces {
            if !self.joined.contains(&ip) {
                match self.socket.join_multicast_v4(GROUP, ip) {
                    Ok(()) => drop(self.joined.insert(ip)),
                    // Two addresses of one interface are one membership.
                    Err(error) => debug!(%ip, %error, "mDNS is not possible on this interface"),
                }
            }
            if SockRef::from(&self.socket).set_multicast_if_v4(&ip).is_ok()
                && let Err(error) = self.socket.send_to(packet, (GROUP, PORT)).await
            {
                debug!(%ip, %error, "mDNS cannot be sent on this interface");
            }
        }
    }
}

/// Asks, answers and reports until the transport stops.
pub(super) async fn run(shared: Arc<Shared>, commands: mpsc::Sender<Command>) {
    let cancel = shared.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = find(shared, commands) => {}
    }
}

async fn find(shared: Arc<Shared>, commands: mpsc::Sender<Command>) {
    let (socket, question) = match (listen(), question()) {
        (Ok(socket), Ok(question)) => (socket, question),
        (Err(error), _) => {
            warn!(%error, "peers of the local network are not found: cannot listen on UDP port {PORT}");
            return;
        }
        (_, Err(error)) => {
            warn!(%error, "peers of the local network are not found");
            return;
        }
    };
    let mut group = Group { socket, joined: BTreeSet::new() };
    // Random, so that a peer is not recognised by it.
    let instance: String = Secret::generate().to_hex().chars().take(INSTANCE_CHARACTERS).collect();
    let mut asking = interval(ASK_INTERVAL);
    asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut packets = 0;
    let mut answered: Option<Instant> = None;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let length = tokio::select! {
            _ = asking.tick() => {
                let listen = interfaces(&shared);
                group.say(&question, &listen).await;
                continue;
            }
            _ = second.tick() => {
                packets = 0;
                continue;
            }
            received = group.socket.recv_from(&mut buffer) => match received {
                Ok((length, _)) => length,
                Err(error) => {
                    debug!(%error, "mDNS failed for a moment");
                    tokio::time::sleep(ANSWER_INTERVAL).await;
                    continue;
                }
            },
        };
        packets += 1;
        if packets > PACKETS_PER_SECOND_MAX {
            continue;
        }
        match heard(&buffer[..length]) {
            Heard::Question if answered.is_none_or(|at| at.elapsed() >= ANSWER_INTERVAL) => {
                answered = Some(Instant::now());
                let addresses = shared.state().announced.clone();
                match answer(&instance, &shared.peer, &addresses) {
                    Ok(Some(packet)) => {
                        let listen = interfaces(&shared);
                        group.say(&packet, &listen).await;
                    }
                    Ok(None) => {}
                    Err(error) => debug!(%error, "mDNS question not answered"),
                }
            }
            Heard::Peers(peers) => {
                for (peer, addresses) in peers {
                    // Too much to do is no reason to wait here: it is said again.
                    let _ = commands.try_send(Command::Found { peer, addresses });
                }
            }
            Heard::Question | Heard::Nothing => {}
        }
    }
}

fn interfaces(shared: &Shared) -> Vec<Multiaddr> {
    shared.state().listen.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_said_is_understood() {
        assert_eq!(heard(&question().unwrap()), Heard::Question);
        let peer: PeerId = PEER.parse().unwrap();
        let said = addresses(&[
            "/ip4/10.0.0.1/tcp/9096",
            "/ip6/fd00::1/tcp/9096",
            "/ip4/10.0.0.1/tcp/9097/ws",
            "/dns4/peer.example/tcp/1",
        ]);
        let packet = answer("instance", &peer, &said).unwrap().unwrap();
        let expected = BTreeMap::from([(peer, said[..2].to_vec())]);
        assert_eq!(heard(&packet), Heard::Peers(expected));
        assert_eq!(answer("instance", &peer, &said[2..]).unwrap(), None);
    }

    #[test]
    fn questions_for_others_and_texts_of_others_are_nothing() {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("_p2p._udp.local.").unwrap(), RecordType::PTR));
        assert_eq!(heard(&message.to_vec().unwrap()), Heard::Nothing);
        let text = format!("{TEXT_PREFIX}/ip4/10.0.0.1/tcp/1/p2p/{PEER}");
        let mut message = Message::response(0, OpCode::Query);
        let name = Name::from_ascii("x._p2p._udp.local.").unwrap();
        message.add_answer(Record::from_rdata(name, 1, RData::TXT(TXT::new(vec![text]))));
        assert_eq!(heard(&message.to_vec().unwrap()), Heard::Nothing);
    }

    #[test]
    fn a_packet_names_a_bounded_number_of_peers() {
        let mut message = Message::response(0, OpCode::Query);
        let name = service().unwrap().prepend_label("x").unwrap();
        for number in 0..100 {
            let peer = PeerId::from_bytes(&[0, 1, number]).unwrap();
            let text = format!("{TEXT_PREFIX}/ip4/10.0.0.1/tcp/1/p2p/{peer}");
            message.add_answer(Record::from_rdata(name.clone(), 1, RData::TXT(TXT::new(vec![text]))));
        }
        let Heard::Peers(peers) = heard(&message.to_vec().unwrap()) else { panic!("peers") };
        assert_eq!(peers.len(), PEERS_PER_PACKET_MAX);
    }
}
