//! A network inside of one process: several peers without sockets, with faults on request.
//!
//! On a current-thread runtime with paused time it is deterministic: the same seed and the same calls give the same
//! messages, losses and times.

mod gossip;
mod network;
mod node;
mod pipe;
mod trace;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use multiaddr::Protocol as Part;
use tokio::time::{sleep, timeout};

use self::network::Network;
use self::node::Node;
use self::pipe::MemoryStream;
use self::trace::Noted;
use super::received::received;
use super::{
    GOSSIP_BYTES_MAX, GossipMessage, MessageValidator, OPEN_TIMEOUT, PeerStream, PeerTransport, Protocol,
    STREAMS_PER_PEER_MAX, StreamHandler, Topic, TransportEvent,
};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, Multiaddr, PeerId};

/// Most peers that ever join one network.
pub const NETWORK_PEERS_MAX: usize = 10_000;

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

    /// A fingerprint of all that travelled until now: who connected when to whom, every stream and what it carried, every
    /// gossip message. Two runs that did the same have the same.
    pub fn trace(&self) -> u64 {
        self.network.trace.hash()
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
            Ok((server, handler, slot))
        };
        let (server, handler, slot) = tokio::select! {
            biased;
            () = link.token.cancelled() => return Err(unavailable(to, "the connection broke")),
            negotiated = negotiated => negotiated?,
        };
        self.network.trace.note(
            Noted::STREAM,
            &[self.node.number, server.number],
            protocol.as_str().as_bytes(),
        );
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

    fn announced_addresses(&self) -> Vec<Multiaddr> {
        self.listen_addresses()
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

    fn protect(&self, _peer: &PeerId, _protect: bool) {
        // There are never too many connections here: nobody is cut off for that.
    }

    async fn provide(&self, _cid: &Cid) -> Result<()> {
        Err(no_routing())
    }

    async fn providers(&self, _cid: &Cid) -> Result<Vec<PeerId>> {
        Err(no_routing())
    }

    async fn shutdown(&self) -> Result<()> {
        self.network.leave(&self.node);
        self.node.stopped().await;
        Ok(())
    }
}

fn no_routing() -> Error {
    Error::new(ErrorKind::Unsupported, "an in-memory network has no directory of content")
        .component(COMPONENT)
}

#[cfg(test)]
mod tests;
