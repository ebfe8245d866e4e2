//! The real host, on this machine alone: conformance, private networks, limits, directories.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::config::{ConnectionManagerConfig, Identity, Secret};
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::testing::transport_suite;
use ipfs_cluster::transport::{
    GossipMessage, Libp2pConfig, Libp2pTransport, MessageValidator, PeerStream, PeerTransport, Protocol,
    StreamHandler, Topic, TransportEvent, Verdict,
};
use ipfs_cluster::types::{Cid, Multiaddr, PeerId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const SECRET: Secret = Secret::from_bytes([7; 32]);
const OTHER_SECRET: Secret = Secret::from_bytes([8; 32]);
/// Longer than anything takes that works.
const WAIT: Duration = Duration::from_secs(90);
/// After which a handshake that does not come to its end is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

fn tcp() -> Libp2pConfig {
    let mut config = Libp2pConfig::loopback(SECRET);
    config.gossip.heartbeat_interval = Duration::from_millis(200);
    config
}

fn web_socket() -> Libp2pConfig {
    Libp2pConfig { listen: vec!["/ip4/127.0.0.1/tcp/0/ws".parse().unwrap()], ..tcp() }
}

fn open_network() -> Libp2pConfig {
    Libp2pConfig { secret: Secret::NONE, ..tcp() }
}

async fn start(config: Libp2pConfig) -> Libp2pTransport {
    Libp2pTransport::start(&Identity::generate(), config).await.unwrap()
}

struct Started(fn() -> Libp2pConfig);

#[async_trait]
impl transport_suite::Fixture for Started {
    type Guard = ();

    async fn transports(&self, count: usize) -> ((), Vec<Arc<dyn PeerTransport>>) {
        let mut transports = Vec::new();
        for _ in 0..count {
            transports.push(Arc::new(start((self.0)()).await) as _);
        }
        ((), transports)
    }
}

ipfs_cluster::transport_conformance!(private_tcp, Started(tcp));
ipfs_cluster::transport_conformance!(private_web_socket, Started(web_socket));

#[track_caller]
fn within<T>(waiting: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = Location::caller();
    async move {
        match timeout(WAIT, waiting).await {
            Ok(happened) => happened,
            Err(_) => panic!("what is waited for at {place} did not happen within {WAIT:?}"),
        }
    }
}

#[track_caller]
fn until(mut fact: impl FnMut() -> bool) -> impl Future<Output = ()> {
    within(async move {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Waits until something happens, however long ago and however short it was.
#[track_caller]
fn happens(
    events: &mut BoxStream<'static, TransportEvent>,
    expected: TransportEvent,
) -> impl Future<Output = ()> {
    within(async move { while events.next().await.expect("the events ended") != expected {} })
}

/// A port whose connections get their own bytes back, as one gets that a dial of a port of this machine makes with
/// itself when the system gives it that very port to dial from.
async fn mirror() -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    (port, count)
}

#[tokio::test]
async fn a_dial_that_reaches_itself_ends_at_once_and_is_not_repeated_in_a_hurry() {
    for config in [tcp, web_socket, open_network] {
        let (port, dials) = mirror().await;
        let id = Identity::generate().id();
        let kind = if config().listen[0].to_string().ends_with("/ws") { "/ws" } else { "" };
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}{kind}").parse().unwrap();
        let named = address.clone().with_p2p(id).unwrap();
        let mut config = config();
        config.peer_addresses = vec![named.clone()];
        config.redial_interval = Duration::from_secs(1);
        let transport = start(config).await;
        let begun = Instant::now();
        for address in [named, address] {
            let error = within(transport.connect(&address)).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::InvalidInput), "{error}");
        }
        // Not by the timeouts of dialling and shaking hands.
        assert!(begun.elapsed() < HANDSHAKE_TIMEOUT, "{:?}", begun.elapsed());
        assert!(transport.peers().is_empty());
        tokio::time::sleep(Duration::from_secs(3)).await;
        let count = dials.load(Ordering::Relaxed);
        // Ours, one at the start, and one a second.
        let most = 5 + usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!((2..=most).contains(&count), "{count} dials");
        transport.shutdown().await.unwrap();
    }
}

#[derive(Debug)]
struct Everything;

impl MessageValidator for Everything {
    fn validate(&self, _: &PeerId, _: &[u8]) -> Verdict {
        Verdict::Accept
    }
}

/// Sends everything back.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl StreamHandler for Echo {
    async fn handle(&self, _: PeerId, stream: PeerStream) {
        let (mut read, mut write) = tokio::io::split(stream);
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    }
}

fn echo() -> Protocol {
    Protocol::new("/echo/1")
}

async fn echo_works(from: &Libp2pTransport, to: &PeerId) {
    let mut stream = within(from.open(to, &echo())).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"hello");
}

async fn gossip(from: &Libp2pTransport, to: &mut BoxStream<'static, GossipMessage>) {
    within(async {
        loop {
            from.publish(&Topic::new("t"), Bytes::from_static(b"news")).await.unwrap();
            if let Ok(message) = timeout(Duration::from_millis(200), to.next()).await {
                assert_eq!(message.unwrap().signer, from.local_peer());
                return;
            }
        }
    })
    .await;
}

async fn connect(from: &Libp2pTransport, to: &Libp2pTransport) {
    within(from.connect(&to.listen_addresses()[0])).await.unwrap();
    until(|| to.peers().contains(&from.local_peer())).await;
}

#[tokio::test]
async fn peers_of_a_network_connect_and_those_with_another_secret_or_none_do_not() {
    let (one, other) = (start(tcp()).await, start(tcp()).await);
    other.accept(echo(), Arc::new(Echo)).unwrap();
    let mut messages = other.subscribe(&Topic::new("t"), Arc::new(Everything));
    connect(&one, &other).await;
    let stranger = start(Libp2pConfig { secret: OTHER_SECRET, ..tcp() }).await;
    let open = start(open_network()).await;
    for outsider in [&stranger, &open] {
        for (from, to) in [(outsider, &other), (&other, outsider)] {
            let error = within(from.connect(&to.listen_addresses()[0])).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
        }
        assert!(outsider.peers().is_empty());
    }
    // Nobody else is harmed.
    assert_eq!(other.peers(), [one.local_peer()]);
    echo_works(&one, &other.local_peer()).await;
    gossip(&one, &mut messages).await;
}

#[tokio::test]
async fn half_open_connections_and_garbage_harm_nobody() {
    let (one, other) = (start(tcp()).await, start(tcp()).await);
    other.accept(echo(), Arc::new(Echo)).unwrap();
    let port = match other.listen_addresses()[0].iter().nth(1) {
        Some(multiaddr::Protocol::Tcp(port)) => port,
        part => panic!("{part:?}"),
    };
    let mut silent = Vec::new();
    for number in 0..400_u32 {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if number % 2 == 0 {
            // It may be cut off before this is written.
            let _ = socket.write_all(&[number as u8; 1024]).await;
        }
        silent.push(socket);
    }
    drop(silent);
    connect(&one, &other).await;
    echo_works(&one, &other.local_peer()).await;
}

#[tokio::test]
async fn a_network_without_secret_and_one_over_web_sockets_work() {
    for config in [open_network, web_socket] {
        let (one, other) = (start(config()).await, start(config()).await);
        other.accept(echo(), Arc::new(Echo)).unwrap();
        let mut messages = other.subscribe(&Topic::new("t"), Arc::new(Everything));
        connect(&one, &other).await;
        echo_works(&one, &other.local_peer()).await;
        gossip(&one, &mut messages).await;
    }
    let both =
        Libp2pConfig { listen: vec![tcp().listen[0].clone(), web_socket().listen[0].clone()], ..tcp() };
    let both = start(both).await;
    assert_eq!(both.listen_addresses().len(), 2);
    let web =
        both.listen_addresses().into_iter().find(|address| address.to_string().ends_with("/ws")).unwrap();
    assert_eq!(within(start(tcp()).await.connect(&web)).await.unwrap(), both.local_peer());
}

#[tokio::test]
async fn addresses_that_cannot_be_listened_on_are_passed_over_unless_there_is_no_other() {
    let quic: Multiaddr = "/ip4/127.0.0.1/udp/0/quic".parse().unwrap();
    let holder = start(tcp()).await;
    let taken = holder.listen_addresses()[0].clone();
    let listen = vec![quic.clone(), taken.clone(), tcp().listen[0].clone()];
    let started = start(Libp2pConfig { listen, ..tcp() }).await;
    assert_eq!(started.listen_addresses().len(), 1);
    let listen = vec![quic, taken.clone()];
    let error =
        Libp2pTransport::start(&Identity::generate(), Libp2pConfig { listen, ..tcp() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("quic") && error.to_string().contains(&taken.to_string()), "{error}");
}

#[tokio::test]
async fn above_the_high_water_newcomers_go_and_protected_peers_stay() {
    let connections =
        ConnectionManagerConfig { high_water: 2, low_water: 2, grace_period: Duration::from_millis(1) };
    let host = start(Libp2pConfig { connections, ..tcp() }).await;
    let mut events = host.events();
    let mut guests = Vec::new();
    for number in 0..5 {
        let guest = start(tcp()).await;
        if number == 4 {
            host.protect(&guest.local_peer(), true);
        }
        within(guest.connect(&host.listen_addresses()[0])).await.unwrap();
        guests.push(guest);
    }
    within(async { while !matches!(events.next().await, Some(TransportEvent::Disconnected(_))) {} }).await;
    // Who dials is connected a little earlier than who is dialled.
    let protected = guests[4].local_peer();
    until(|| host.peers().len() == 2 && host.peers().contains(&protected)).await;
}

#[tokio::test]
async fn others_are_told_what_the_settings_say() {
    let told: Multiaddr = "/dns4/me.example/tcp/9096".parse().unwrap();
    let host = start(Libp2pConfig { announce: vec![told.clone()], ..tcp() }).await;
    assert_eq!(host.announced_addresses(), std::slice::from_ref(&told));
    let guest = start(tcp()).await;
    connect(&host, &guest).await;
    until(|| guest.addresses(&host.local_peer()) == std::slice::from_ref(&told)).await;

    let no_announce = vec!["/ip4/127.0.0.0/ipcidr/8".parse().unwrap()];
    let host = start(Libp2pConfig { no_announce, ..tcp() }).await;
    assert!(host.announced_addresses().is_empty());
    assert_eq!(host.listen_addresses().len(), 1);
}

#[tokio::test]
async fn known_peers_are_dialled_again_and_remembered_for_the_peerstore() {
    let host = start(tcp()).await;
    let full: Multiaddr =
        format!("{}/p2p/{}", host.listen_addresses()[0], host.local_peer()).parse().unwrap();
    let redial_interval = Duration::from_millis(100);
    let config = Libp2pConfig { peer_addresses: vec![full.clone()], redial_interval, ..tcp() };
    let guest = start(config).await;
    until(|| guest.peers() == [host.local_peer()] && host.peers() == [guest.local_peer()]).await;
    assert_eq!(guest.known_addresses(), std::slice::from_ref(&full));
    // Events, because it does not stay away for long.
    let mut events = guest.events();
    host.disconnect(&guest.local_peer()).await.unwrap();
    happens(&mut events, TransportEvent::Disconnected(host.local_peer())).await;
    happens(&mut events, TransportEvent::Connected(host.local_peer())).await;

    let later =
        start(Libp2pConfig { known_addresses: guest.known_addresses(), redial_interval, ..tcp() }).await;
    until(|| later.peers() == [host.local_peer()]).await;
}

#[tokio::test]
async fn a_peer_that_was_called_in_vain_again_and_again_is_not_forgotten() {
    let (host, guest) = (start(tcp()).await, start(tcp()).await);
    host.accept(echo(), Arc::new(Echo)).unwrap();
    connect(&guest, &host).await;
    let (peer, known) = (host.local_peer(), guest.known_addresses());
    assert!(!known.is_empty());
    let mut events = guest.events();
    within(host.shutdown()).await.unwrap();
    happens(&mut events, TransportEvent::Disconnected(peer)).await;
    // As a member of a Raft cluster does, several times a second.
    for _ in 0..30 {
        assert!(within(guest.open(&peer, &echo())).await.is_err());
    }
    assert_eq!(guest.known_addresses(), known, "as it is written to the peerstore");
    assert!(!guest.addresses(&peer).is_empty());
}

fn with_directory() -> Libp2pConfig {
    Libp2pConfig { dht_lan: true, ..tcp() }
}

#[tokio::test]
async fn a_peer_is_found_through_others_and_so_is_content() {
    let (one, middle, other) =
        (start(with_directory()).await, start(with_directory()).await, start(with_directory()).await);
    other.accept(echo(), Arc::new(Echo)).unwrap();
    connect(&one, &middle).await;
    connect(&other, &middle).await;
    until(|| !middle.addresses(&other.local_peer()).is_empty()).await;
    within(async {
        while one.open(&other.local_peer(), &echo()).await.is_err() {
            // Until the middle has heard that the other keeps the directory too.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    echo_works(&one, &other.local_peer()).await;

    let cid: Cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap();
    assert!(within(one.providers(&cid)).await.unwrap().is_empty());
    within(other.provide(&cid)).await.unwrap();
    within(async { while one.providers(&cid).await.unwrap() != [other.local_peer()] {} }).await;
}

#[tokio::test]
async fn without_directories_nobody_can_be_asked() {
    let cid: Cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap();
    let off = start(tcp()).await;
    assert_eq!(off.provide(&cid).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(off.providers(&cid).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let alone = start(with_directory()).await;
    assert_eq!(within(alone.provide(&cid)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(within(alone.providers(&cid)).await.unwrap().is_empty());
}

#[tokio::test]
async fn everything_that_looks_for_peers_can_be_on_at_once() {
    let everything = || Libp2pConfig {
        dht_lan: true,
        dht_wan: true,
        relay_client: true,
        relay_hop: true,
        hole_punching: true,
        autonat: true,
        ..tcp()
    };
    let (one, other) = (start(everything()).await, start(everything()).await);
    other.accept(echo(), Arc::new(Echo)).unwrap();
    connect(&one, &other).await;
    echo_works(&one, &other.local_peer()).await;
}

#[derive(Debug)]
struct Hold;

#[async_trait]
impl StreamHandler for Hold {
    async fn handle(&self, _: PeerId, mut stream: PeerStream) {
        let _ = stream.read_u8().await;
    }
}

#[tokio::test]
async fn streams_of_one_peer_are_bounded_and_others_get_theirs() {
    let (one, host, other) = (start(tcp()).await, start(tcp()).await, start(tcp()).await);
    host.accept(Protocol::new("/hold/1"), Arc::new(Hold)).unwrap();
    host.accept(echo(), Arc::new(Echo)).unwrap();
    connect(&one, &host).await;
    connect(&other, &host).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let opens = (0..200).map(|_| one.open_hold(&host));
        streams.extend(within(futures::future::join_all(opens)).await.into_iter().flatten());
    }
    assert!(streams.len() > 256, "{}", streams.len());
    // All places are taken, but not those of others.
    let mut stuck = within(one.open(&host.local_peer(), &echo())).await.unwrap();
    stuck.write_all(b"x").await.unwrap();
    stuck.flush().await.unwrap();
    assert!(timeout(Duration::from_millis(500), stuck.read_u8()).await.is_err());
    echo_works(&other, &host.local_peer()).await;
    drop(streams);
    assert_eq!(within(stuck.read_u8()).await.unwrap(), b'x');
}

trait OpenHold {
    async fn open_hold(&self, to: &Libp2pTransport) -> Option<PeerStream>;
}

impl OpenHold for Libp2pTransport {
    async fn open_hold(&self, to: &Libp2pTransport) -> Option<PeerStream> {
        self.open(&to.local_peer(), &Protocol::new("/hold/1")).await.ok()
    }
}
