//! A network inside of one process: several peers without sockets, with faults on request.
//!
//! On a current-thread runtime with paused time it is deterministic: the same seed and the same calls give the same
//! messages, losses and times.

mod gossip;
mod network;
mod node;
mod pipe;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use multiaddr::Protocol as Part;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{sleep, timeout};

use self::network::Network;
use self::node::Node;
use self::pipe::MemoryStream;
use super::{
    GossipMessage, MessageValidator, PeerStream, PeerTransport, Protocol, StreamHandler, Topic,
    TransportEvent,
};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Multiaddr, PeerId};

/// Most streams of one peer that are served at a time; opening waits for one to end.
pub const STREAMS_PER_PEER_MAX: usize = 256;
/// How long opening waits for a stream of ours to end when too many are served.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest gossip message, in bytes (as in gossipsub).
pub const GOSSIP_BYTES_MAX: usize = 1024 * 1024;
/// Most peers that ever join one network.
pub const NETWORK_PEERS_MAX: usize = 10_000;
/// Gossip messages that wait for a slow reader of a subscription; the oldest are dropped.
const SUBSCRIPTION_MESSAGES_MAX: usize = 1024;

const COMPONENT: &str = "transport";

/// A network inside of one process, and the handle that breaks it. Cloning gives another handle.
///
/// Every peer can be dialled by id or by its address `/memory/<n>`; connections are made by
/// [`PeerTransport::connect`] and by opening streams, never by themselves. Gossip travels along connections, from
/// subscriber to subscriber.
#[derive(Clone)]
pub struct MemoryNetwork {
    network: Arc<Network>,
}

impl MemoryNetwork {
    /// A network without peers, delays or losses. The seed decides which messages get lost once some do.
    pub fn new(seed: u64) -> Self {
        Self { network: Arc::new(Network::new(seed)) }
    }

    /// Brings a peer in. It leaves by shutdown, crash or when the transport is dropped, and may then join again, under
    /// the same address.
    ///
    /// # Errors
    /// `Conflict` while a peer of this id is in; `QueueFull` after [`NETWORK_PEERS_MAX`]; `Internal` outside of a tokio
    /// runtime.
    pub fn join(&self, peer: PeerId) -> Result<MemoryTransport> {
        let node = self.network.join(peer)?;
        Ok(MemoryTransport { network: self.network.clone(), node })
    }

    /// How long a byte or message travels between any two peers that have no delay of their own.
    pub fn set_delay(&self, delay: Duration) {
        self.network.set_delay(delay);
    }

    /// How long a byte or message travels between two peers, also on what is connected and open.
    pub fn set_delay_between(&self, one: PeerId, other: PeerId, delay: Duration) {
        self.network.set_delay_between(one, other, delay);
    }

    /// Loses this share of gossip messages on each hop, between 0 and 1. Streams lose nothing.
    pub fn set_gossip_loss(&self, share: f64) {
        self.network.set_gossip_loss(share);
    }

    /// Cuts two peers off from each other: their connection breaks at once, and new ones fail until
    /// [`MemoryNetwork::heal`].
    pub fn partition(&self, one: PeerId, other: PeerId) {
        self.network.partition(one, other);
    }

    /// Cuts a peer off from everybody who is in now.
    pub fn isolate(&self, peer: PeerId) {
        for other in self.network.present() {
            self.network.partition(peer, other);
        }
    }

    /// Lets two peers reach each other again. Connecting is up to them.
    pub fn heal(&self, one: PeerId, other: PeerId) {
        self.network.heal(one, other);
    }

    /// Lets everybody reach everybody again.
    pub fn heal_all(&self) {
        self.network.heal_all();
    }

    /// Takes a peer out without a word, as when its process is killed: its connections break, what it serves is
    /// dropped, and its transport is shut down. A peer that is not in is fine.
    pub fn crash(&self, peer: PeerId) {
        if let Some(node) = self.network.node(&peer) {
            self.network.leave(&node);
        }
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").field("present", &self.network.present()).finish_non_exhaustive()
    }
}

/// One peer's transport in a [`MemoryNetwork`]. Dropping it takes the peer out as a crash does.
pub struct MemoryTransport {
    network: Arc<Network>,
    node: Arc<Node>,
}

impl MemoryTransport {
    fn ensure_in(&self) -> Result<()> {
        if self.node.has_left() { Err(Error::shut_down(COMPONENT)) } else { Ok(()) }
    }

    /// Waits as long as the peer is in.
    async fn while_in<T>(&self, waiting: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.node.left() => Err(Error::shut_down(COMPONENT)),
            result = waiting => result,
        }
    }

    async fn open_stream(&self, to: &PeerId, protocol: &Protocol) -> Result<PeerStream> {
        if *to == self.node.peer {
            return Err(unavailable(to, "that is this peer itself"));
        }
        let link = match self.network.link(&self.node.peer, to) {
            Some(link) => link,
            None => {
                // A connection and its handshake.
                sleep(2 * self.network.delay(&self.node.peer, to)).await;
                self.network.connect(&self.node, to)?
            }
        };
        // A stream and its negotiation.
        let negotiated = async {
            sleep(2 * link.delay.get()).await;
            let server = self.network.node(to).ok_or_else(|| unavailable(to, "it left"))?;
            let handler = server.handler(protocol).ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, format!("{to} does not speak {protocol}"))
                    .component(COMPONENT)
            })?;
            let slots = server.slots_for(&self.node.peer);
            let slot = timeout(OPEN_TIMEOUT, slots.acquire_owned()).await.ok().and_then(Result::ok);
            let slot = slot.ok_or_else(|| {
                let text =
                    format!("{to} serves {STREAMS_PER_PEER_MAX} streams of ours already: end one first");
                Error::new(ErrorKind::Timeout, text).component(COMPONENT)
            })?;
            Ok::<_, Error>((server, handler, slot))
        };
        let (server, handler, slot) = tokio::select! {
            biased;
            () = link.token.cancelled() => return Err(unavailable(to, "the connection broke")),
            negotiated = negotiated => negotiated?,
        };
        let (ours, theirs) = MemoryStream::pair(&link.delay, &link.token);
        let from = self.node.peer;
        server.spawn(async move {
            handler.handle(from, Box::new(theirs)).await;
            drop(slot);
        });
        Ok(Box::new(ours))
    }
}

fn unavailable(peer: &PeerId, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot reach {peer}: {why}")).component(COMPONENT)
}

fn address_of(number: u64) -> Multiaddr {
    Multiaddr::empty().with(Part::Memory(number))
}

/// What a bounded channel gives, with `missed` in place of what its reader was too slow for, until it is closed.
fn received<T: Clone + Send + 'static>(
    receiver: Option<broadcast::Receiver<T>>,
    missed: impl Fn() -> Option<T> + Clone + Send + Sync + 'static,
) -> BoxStream<'static, T> {
    let Some(receiver) = receiver else { return stream::empty().boxed() };
    let next = move |mut receiver: broadcast::Receiver<T>| {
        let missed = missed.clone();
        async move {
            loop {
                match receiver.recv().await {
                    Ok(item) => return Some((item, receiver)),
                    Err(RecvError::Lagged(_)) => {
                        if let Some(item) = missed() {
                            return Some((item, receiver));
                        }
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    };
    stream::unfold(receiver, next).boxed()
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("peer", &self.node.peer).finish_non_exhaustive()
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.network.leave(&self.node);
    }
}

#[async_trait]
impl PeerTransport for MemoryTransport {
    fn local_peer(&self) -> PeerId {
        self.node.peer
    }

    fn listen_addresses(&self) -> Vec<Multiaddr> {
        vec![address_of(self.node.number)]
    }

    async fn open(&self, to: &PeerId, protocol: &Protocol) -> Result<PeerStream> {
        self.while_in(self.open_stream(to, protocol)).await
    }

    fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()> {
        self.ensure_in()?;
        self.node.accept(protocol, handler)
    }

    async fn publish(&self, topic: &Topic, data: Bytes) -> Result<()> {
        self.ensure_in()?;
        if data.len() > GOSSIP_BYTES_MAX {
            let text = format!("a message of {} bytes, at most {GOSSIP_BYTES_MAX} are possible", data.len());
            return Err(Error::invalid_input(text).component(COMPONENT));
        }
        self.network.publish(&self.node, topic.clone(), data);
        Ok(())
    }

    fn subscribe(
        &self,
        topic: &Topic,
        validator: Arc<dyn MessageValidator>,
    ) -> BoxStream<'static, GossipMessage> {
        received(self.node.subscribe(topic, validator), || None)
    }

    fn peers(&self) -> Vec<PeerId> {
        self.network.neighbours(&self.node.peer)
    }

    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.network.number_of(peer).map(address_of).into_iter().collect()
    }

    fn events(&self) -> BoxStream<'static, TransportEvent> {
        received(self.node.events(), || Some(TransportEvent::Resync))
    }

    async fn connect(&self, address: &Multiaddr) -> Result<PeerId> {
        let parts: Vec<Part<'_>> = address.iter().collect();
        let (number, expected) = match parts.as_slice() {
            [Part::Memory(number)] => (*number, None),
            [Part::Memory(number), Part::P2p(peer)] => (*number, Some(*peer)),
            _ => {
                let text =
                    format!("{address} is no address of an in-memory network, expected /memory/<number>");
                return Err(Error::invalid_input(text).component(COMPONENT));
            }
        };
        self.while_in(async {
            let peer = self.network.peer_at(number).ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, format!("cannot reach {address}: nobody is there"))
                    .component(COMPONENT)
            })?;
            if peer == self.node.peer {
                return Err(
                    Error::invalid_input(format!("{address} is this peer itself")).component(COMPONENT)
                );
            }
            sleep(2 * self.network.delay(&self.node.peer, &peer)).await;
            if let Some(expected) = expected.filter(|expected| *expected != peer) {
                return Err(unavailable(&expected, &format!("{peer} is at {address}")));
            }
            self.network.connect(&self.node, &peer)?;
            Ok(peer)
        })
        .await
    }

    async fn disconnect(&self, peer: &PeerId) -> Result<()> {
        self.ensure_in()?;
        self.network.cut(&self.node.peer, peer);
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        self.network.leave(&self.node);
        self.node.stopped().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;
    use crate::transport::Verdict;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes(&[0, 1, number]).unwrap()
    }

    /// Transports of peers 1 to `count`, each connected to the next.
    async fn chain(network: &MemoryNetwork, count: u8) -> Vec<MemoryTransport> {
        let transports: Vec<_> = (1..=count).map(|number| network.join(peer(number)).unwrap()).collect();
        for pair in transports.windows(2) {
            pair[0].connect(&pair[1].listen_addresses()[0]).await.unwrap();
        }
        transports
    }

    #[derive(Debug)]
    struct Anything;

    impl MessageValidator for Anything {
        fn validate(&self, _: &PeerId, _: &[u8]) -> Verdict {
            Verdict::Accept
        }
    }

    fn topic() -> Topic {
        Topic::new("t")
    }

    /// Holds streams until they end, and echoes single bytes.
    #[derive(Debug)]
    struct Hold;

    #[async_trait]
    impl StreamHandler for Hold {
        async fn handle(&self, _: PeerId, mut stream: PeerStream) {
            while let Ok(byte) = stream.read_u8().await {
                if stream.write_u8(byte).await.is_err() {
                    return;
                }
            }
        }
    }

    fn hold() -> Protocol {
        Protocol::new("/hold/1")
    }

    #[tokio::test(start_paused = true)]
    async fn delays_are_round_trips_for_connecting_opening_and_asking() {
        let network = MemoryNetwork::new(0);
        network.set_delay(Duration::from_millis(50));
        network.set_delay_between(peer(1), peer(2), Duration::from_millis(10));
        let transports = [1, 2, 3].map(|number| network.join(peer(number)).unwrap());
        for (other, round_trip) in [(1, 20), (2, 100)] {
            let round_trip = Duration::from_millis(round_trip);
            transports[other].accept(hold(), Arc::new(Hold)).unwrap();
            let start = Instant::now();
            let mut stream = transports[0].open(&transports[other].local_peer(), &hold()).await.unwrap();
            assert_eq!(start.elapsed(), 2 * round_trip, "connecting, then opening");
            stream.write_u8(7).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 7);
            assert_eq!(start.elapsed(), 3 * round_trip);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_way_is_not_held_up_by_a_longer_one() {
        let network = MemoryNetwork::new(0);
        let transports = chain(&network, 3).await;
        network.set_delay_between(peer(1), peer(2), Duration::from_secs(10));
        network.set_delay_between(peer(3), peer(2), Duration::from_secs(1));
        let mut messages = transports[1].subscribe(&topic(), Arc::new(Anything));
        let start = Instant::now();
        transports[0].publish(&topic(), Bytes::from_static(b"slow")).await.unwrap();
        transports[2].publish(&topic(), Bytes::from_static(b"fast")).await.unwrap();
        assert_eq!(messages.next().await.unwrap().data, b"fast".as_slice());
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        assert_eq!(messages.next().await.unwrap().data, b"slow".as_slice());
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_by_two_ways_is_given_once() {
        let network = MemoryNetwork::new(0);
        let transports = chain(&network, 4).await;
        transports[3].connect(&transports[0].listen_addresses()[0]).await.unwrap();
        let mut subscriptions: Vec<_> =
            transports.iter().map(|transport| transport.subscribe(&topic(), Arc::new(Anything))).collect();
        transports[0].publish(&topic(), Bytes::from_static(b"once")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        for messages in &mut subscriptions {
            assert!(messages.next().now_or_never().is_some());
            assert!(messages.next().now_or_never().is_none());
        }
    }

    /// What of 200 messages came through a lossy chain of three, and when.
    async fn trace(seed: u64) -> Vec<(Bytes, Duration)> {
        let network = MemoryNetwork::new(seed);
        let transports = chain(&network, 3).await;
        network.set_gossip_loss(0.3);
        network.set_delay(Duration::from_millis(3));
        let _middle = transports[1].subscribe(&topic(), Arc::new(Anything));
        let mut last = transports[2].subscribe(&topic(), Arc::new(Anything));
        let start = Instant::now();
        for number in 0..200_u8 {
            transports[0].publish(&topic(), Bytes::copy_from_slice(&[number])).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut trace = Vec::new();
        while let Ok(message) = timeout(Duration::from_secs(1), last.next()).await {
            trace.push((message.unwrap().data, start.elapsed()));
        }
        trace
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_loses_the_same_messages() {
        let first = trace(1).await;
        assert_eq!(first, trace(1).await);
        assert_ne!(first, trace(2).await);
        // Two hops that each keep 70 %.
        assert!((70..130).contains(&first.len()), "{}", first.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_breaks_what_is_there_and_what_is_under_way_until_it_heals() {
        let network = MemoryNetwork::new(0);
        let transports = chain(&network, 2).await;
        let (one, other) = (&transports[0], &transports[1]);
        other.accept(hold(), Arc::new(Hold)).unwrap();
        let mut events = other.events();
        let mut messages = other.subscribe(&topic(), Arc::new(Anything));
        let mut stream = one.open(&peer(2), &hold()).await.unwrap();
        network.set_delay(Duration::from_secs(5));
        one.publish(&topic(), Bytes::from_static(b"under way")).await.unwrap();
        let address = other.listen_addresses()[0].clone();
        let mut dialling = one.connect(&address);
        assert!((&mut dialling).now_or_never().is_none());

        network.partition(peer(1), peer(2));
        assert!(stream.read_u8().await.is_err());
        assert_eq!(events.next().await, Some(TransportEvent::Disconnected(peer(1))));
        assert_eq!(dialling.await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(one.open(&peer(2), &hold()).await.err().unwrap().kind(), ErrorKind::Unavailable);
        assert!(timeout(Duration::from_secs(60), messages.next()).await.is_err());

        network.heal(peer(2), peer(1));
        let mut stream = one.open(&peer(2), &hold()).await.unwrap();
        stream.write_u8(7).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 7);
        assert_eq!(events.next().await, Some(TransportEvent::Connected(peer(1))));
        one.publish(&topic(), Bytes::from_static(b"after")).await.unwrap();
        assert_eq!(messages.next().await.unwrap().data, b"after".as_slice());
    }

    #[tokio::test(start_paused = true)]
    async fn an_isolated_peer_reaches_nobody_and_the_others_each_other() {
        let network = MemoryNetwork::new(0);
        let transports = chain(&network, 3).await;
        network.isolate(peer(2));
        assert!(transports.iter().all(|transport| transport.peers().is_empty()));
        transports[0].connect(&transports[2].listen_addresses()[0]).await.unwrap();
        assert!(transports[1].connect(&transports[2].listen_addresses()[0]).await.is_err());
        network.heal_all();
        transports[1].connect(&transports[2].listen_addresses()[0]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_crashed_is_gone_at_once_and_comes_back_under_its_address() {
        let network = MemoryNetwork::new(0);
        let mut transports = chain(&network, 2).await;
        let crashed = transports.pop().unwrap();
        let one = transports.pop().unwrap();
        crashed.accept(hold(), Arc::new(Hold)).unwrap();
        let (mut events, mut own_events) = (one.events(), crashed.events());
        let mut stream = one.open(&peer(2), &hold()).await.unwrap();
        assert_eq!(network.join(peer(2)).unwrap_err().kind(), ErrorKind::Conflict);

        network.crash(peer(2));
        network.crash(peer(2));
        assert!(stream.read_u8().await.is_err());
        assert_eq!(events.next().await, Some(TransportEvent::Disconnected(peer(2))));
        assert_eq!(own_events.next().await, None, "a dead peer sees nothing");
        assert_eq!(crashed.open(&peer(1), &hold()).await.err().unwrap().kind(), ErrorKind::ShutDown);

        let back = network.join(peer(2)).unwrap();
        assert_eq!(back.listen_addresses(), crashed.listen_addresses());
        drop(crashed);
        assert_eq!(one.connect(&back.listen_addresses()[0]).await.unwrap(), peer(2));
        assert_eq!(
            one.open(&peer(2), &hold()).await.err().unwrap().kind(),
            ErrorKind::Unsupported,
            "what it served died with it"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_transport_leaves_and_lets_go_of_its_handlers() {
        let network = MemoryNetwork::new(0);
        let mut transports = chain(&network, 2).await;
        let handler = Arc::new(Hold);
        transports[1].accept(hold(), handler.clone()).unwrap();
        let mut stream = transports[0].open(&peer(2), &hold()).await.unwrap();
        transports.pop();
        assert!(stream.read_u8().await.is_err());
        assert!(transports[0].peers().is_empty());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&handler), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_gets_a_bounded_number_of_streams_and_others_theirs() {
        let network = MemoryNetwork::new(0);
        let transports = chain(&network, 3).await;
        transports[1].accept(hold(), Arc::new(Hold)).unwrap();
        let mut streams = Vec::new();
        for _ in 0..STREAMS_PER_PEER_MAX {
            streams.push(transports[0].open(&peer(2), &hold()).await.unwrap());
        }
        let start = Instant::now();
        assert_eq!(transports[0].open(&peer(2), &hold()).await.err().unwrap().kind(), ErrorKind::Timeout);
        assert_eq!(start.elapsed(), OPEN_TIMEOUT);
        transports[2].open(&peer(2), &hold()).await.unwrap();

        let (to, protocol) = (peer(2), hold());
        let waiting = transports[0].open(&to, &protocol);
        let (opened, ()) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            streams.pop();
        });
        opened.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_at_an_address_must_be_who_it_names() {
        let network = MemoryNetwork::new(0);
        let transports = chain(&network, 3).await;
        for (address, kind) in [
            (format!("/memory/2/p2p/{}", peer(3)), ErrorKind::Unavailable),
            ("/memory/99".to_owned(), ErrorKind::Unavailable),
            ("/memory/1".to_owned(), ErrorKind::InvalidInput),
            ("/memory/2/tcp/1".to_owned(), ErrorKind::InvalidInput),
        ] {
            let error = transports[0].connect(&address.parse().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{address}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_may_shut_its_own_transport_down() {
        #[derive(Debug)]
        struct StopsItself(std::sync::Mutex<Option<Arc<MemoryTransport>>>);

        #[async_trait]
        impl StreamHandler for StopsItself {
            async fn handle(&self, _: PeerId, _: PeerStream) {
                let transport = self.0.lock().unwrap().take().unwrap();
                let _ = transport.shutdown().await;
            }
        }

        let network = MemoryNetwork::new(0);
        let one = network.join(peer(1)).unwrap();
        let other = Arc::new(network.join(peer(2)).unwrap());
        let handler = StopsItself(std::sync::Mutex::new(Some(other.clone())));
        other.accept(hold(), Arc::new(handler)).unwrap();
        let mut stream = one.open(&peer(2), &hold()).await.unwrap();
        assert!(stream.read_u8().await.is_err());
        other.shutdown().await.unwrap();
    }
}
