//! Bytes between peers, and who sent them. What they mean is decided above: calls, blocks and gossip all sit on
//! [`PeerTransport::open`], [`PeerTransport::accept`] and topics, on libp2p and on the in-memory network alike.

#[cfg(feature = "transport-libp2p")]
mod libp2p;
mod memory;
mod received;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;
use crate::types::{Cid, Multiaddr, PeerId};

#[cfg(all(feature = "transport-libp2p", feature = "testing"))]
pub(crate) use libp2p::decoders as libp2p_decoders;
#[cfg(feature = "transport-libp2p")]
pub use libp2p::{Libp2pConfig, Libp2pTransport};
pub use memory::{MemoryNetwork, MemoryTransport, NETWORK_PEERS_MAX};

/// Most streams of one peer that are served at a time; opening waits for one to end.
pub const STREAMS_PER_PEER_MAX: usize = 256;
/// How long opening waits for a stream of ours to end when too many are served.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest gossip message, in bytes (as in gossipsub).
pub const GOSSIP_BYTES_MAX: usize = 1024 * 1024;
/// Most peers in one answer of [`PeerTransport::providers`].
pub const PROVIDERS_MAX: usize = 20;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A name.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// What a stream is opened for, for example `/ipfscluster/1.0/rpc`.
    Protocol
}
name_type! {
    /// What a message is published under.
    Topic
}

/// A two-way byte stream to another peer. Dropping it resets it; `shutdown` (of [`AsyncWrite`]) ends our half.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A boxed [`ByteStream`].
pub type PeerStream = Box<dyn ByteStream>;

/// Serves the streams that others open to us under one protocol.
#[async_trait]
pub trait StreamHandler: fmt::Debug + Send + Sync + 'static {
    /// Serves one stream to its end. Runs in its own task; at most a bounded number run at a time for each peer.
    async fn handle(&self, from: PeerId, stream: PeerStream);
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to us and pass it on.
    Accept,
    /// Neither; say nothing against who sent it.
    Ignore,
    /// Neither, and think less of who sent it.
    Reject,
}

/// Looks at a message before it is passed on.
pub trait MessageValidator: fmt::Debug + Send + Sync + 'static {
    /// Decides at once, without waiting for anything.
    fn validate(&self, signer: &PeerId, data: &[u8]) -> Verdict;
}

/// A message that passed its validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipMessage {
    /// Who made and signed it.
    pub signer: PeerId,
    /// Who passed it to us.
    pub from: PeerId,
    /// What it says.
    pub data: Bytes,
}

/// What happened to our connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportEvent {
    /// First connection to a peer.
    Connected(PeerId),
    /// Last connection to a peer is gone.
    Disconnected(PeerId),
    /// Addresses of a peer changed.
    AddressesChanged(PeerId),
    /// Some events were missed: ask for [`PeerTransport::peers`].
    Resync,
}

/// Moves bytes between peers.
#[async_trait]
pub trait PeerTransport: fmt::Debug + Send + Sync + 'static {
    /// Who we are.
    fn local_peer(&self) -> PeerId;

    /// Addresses we listen on, without `/p2p/`.
    fn listen_addresses(&self) -> Vec<Multiaddr>;

    /// Where others are told that we can be reached, without `/p2p/`: what the operator says, else addresses we listen
    /// on and those that were found out, a relay's among them.
    fn announced_addresses(&self) -> Vec<Multiaddr>;

    /// Opens a stream, connecting first where needed. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` when the peer cannot be reached, `Unsupported` when it does not speak the protocol,
    /// `Timeout`, `ShutDown`.
    async fn open(&self, to: &PeerId, protocol: &Protocol) -> Result<PeerStream>;

    /// Serves a protocol from now on.
    ///
    /// # Errors
    /// `Conflict` when the protocol is served already; `ShutDown`.
    fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()>;

    /// Sends a message to everybody who subscribes, also to ourselves where we do. Nobody subscribed is Ok.
    ///
    /// # Errors
    /// `InvalidInput` for a message over the transport's limit, `ShutDown`.
    async fn publish(&self, topic: &Topic, data: Bytes) -> Result<()>;

    /// Messages from now on. The buffer is bounded and drops the oldest: gossip is a hint.
    fn subscribe(
        &self,
        topic: &Topic,
        validator: Arc<dyn MessageValidator>,
    ) -> BoxStream<'static, GossipMessage>;

    /// Peers we are connected to.
    fn peers(&self) -> Vec<PeerId>;

    /// Addresses we know of a peer.
    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr>;

    /// Connections from now on; bounded, with [`TransportEvent::Resync`] after an overflow.
    fn events(&self) -> BoxStream<'static, TransportEvent>;

    /// Connects to an address and says who is there.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `InvalidInput`, `ShutDown`.
    async fn connect(&self, address: &Multiaddr) -> Result<PeerId>;

    /// Closes every connection to a peer; none is Ok.
    async fn disconnect(&self, peer: &PeerId) -> Result<()>;

    /// Whether connections to this peer stay when there are too many. Nobody is protected at first.
    fn protect(&self, peer: &PeerId, protect: bool);

    /// Says to everybody who looks for it that we have this content. The word is forgotten in time, in a day or so:
    /// whoever keeps content says so again.
    ///
    /// # Errors
    /// `Unsupported` where nobody can be asked for content, `Unavailable`, `Timeout`, `ShutDown`.
    async fn provide(&self, cid: &Cid) -> Result<()>;

    /// Peers that said they have this content, at most [`PROVIDERS_MAX`], in any order, without us. Cancel-safe.
    ///
    /// # Errors
    /// As [`PeerTransport::provide`].
    async fn providers(&self, cid: &Cid) -> Result<Vec<PeerId>>;

    /// Closes everything. Idempotent; calls after it are `ShutDown`.
    async fn shutdown(&self) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: PeerTransport + ?Sized> PeerTransport for Arc<T> {
    fn local_peer(&self) -> PeerId {
        (**self).local_peer()
    }
    fn listen_addresses(&self) -> Vec<Multiaddr> {
        (**self).listen_addresses()
    }
    fn announced_addresses(&self) -> Vec<Multiaddr> {
        (**self).announced_addresses()
    }
    async fn open(&self, to: &PeerId, protocol: &Protocol) -> Result<PeerStream> {
        (**self).open(to, protocol).await
    }
    fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()> {
        (**self).accept(protocol, handler)
    }
    async fn publish(&self, topic: &Topic, data: Bytes) -> Result<()> {
        (**self).publish(topic, data).await
    }
    fn subscribe(
        &self,
        topic: &Topic,
        validator: Arc<dyn MessageValidator>,
    ) -> BoxStream<'static, GossipMessage> {
        (**self).subscribe(topic, validator)
    }
    fn peers(&self) -> Vec<PeerId> {
        (**self).peers()
    }
    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        (**self).addresses(peer)
    }
    fn events(&self) -> BoxStream<'static, TransportEvent> {
        (**self).events()
    }
    async fn connect(&self, address: &Multiaddr) -> Result<PeerId> {
        (**self).connect(address).await
    }
    async fn disconnect(&self, peer: &PeerId) -> Result<()> {
        (**self).disconnect(peer).await
    }
    fn protect(&self, peer: &PeerId, protect: bool) {
        (**self).protect(peer, protect);
    }
    async fn provide(&self, cid: &Cid) -> Result<()> {
        (**self).provide(cid).await
    }
    async fn providers(&self, cid: &Cid) -> Result<Vec<PeerId>> {
        (**self).providers(cid).await
    }
    async fn shutdown(&self) -> Result<()> {
        (**self).shutdown().await
    }
}
