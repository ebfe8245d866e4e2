//! Streams: many are opened at once over one connection, and those of others are served in tasks of their own.
//!
//! Not libp2p's own `libp2p-stream`: that opens one stream after the other, a round trip each, and drops streams of
//! others that come faster than one task takes them.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, SubstreamProtocol,
};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamProtocol, StreamUpgradeError, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{COMPONENT, filters, unavailable};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::traffic::{Counted, Traffic};
use crate::transport::{OPEN_TIMEOUT, PeerStream, Protocol, STREAMS_PER_PEER_MAX, StreamHandler};
use crate::types::{Multiaddr, PeerId};

/// Streams of one peer that wait until some of theirs end; more are reset.
const STREAMS_WAITING_PER_PEER_MAX: usize = 256;
/// Streams that are negotiated over one connection at a time; more wait.
const OPENS_NEGOTIATING_MAX: usize = 128;
/// Streams that wait for their negotiation over one connection; more are refused.
const OPENS_WAITING_MAX: usize = 4_096;

/// Where the answer to an open goes.
pub(super) type OpenReply = oneshot::Sender<Result<PeerStream>>;

/// A stream to be opened.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) protocol: StreamProtocol,
    pub(super) reply: Reply,
}

/// An [`OpenReply`] that shows nothing.
pub(super) struct Reply(pub(super) OpenReply);

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

impl Open {
    pub(super) fn fail(self, error: Error) {
        // Whoever asked may have gone.
        let _ = self.reply.0.send(Err(error));
    }
}

/// What we serve, and to whom how much.
#[derive(Debug)]
pub(super) struct Registry {
    served: Mutex<Served>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    pub(super) traffic: Traffic,
}

#[derive(Debug)]
struct Served {
    handlers: BTreeMap<Protocol, Arc<dyn StreamHandler>>,
    /// The names of the handlers, as every negotiation asks for them.
    offered: Arc<[StreamProtocol]>,
    slots: BTreeMap<PeerId, Slots>,
}

#[derive(Clone, Debug)]
struct Slots {
    /// Served and waiting.
    all: Arc<Semaphore>,
    served: Arc<Semaphore>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(STREAMS_PER_PEER_MAX + STREAMS_WAITING_PER_PEER_MAX)),
            served: Arc::new(Semaphore::new(STREAMS_PER_PEER_MAX)),
        }
    }
}

impl Registry {
    pub(super) fn new(tasks: TaskTracker, cancel: CancellationToken) -> Self {
        let served = Served { handlers: BTreeMap::new(), offered: Arc::new([]), slots: BTreeMap::new() };
        Self { served: Mutex::new(served), tasks, cancel, traffic: Traffic::default() }
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()> {
        let name = stream_protocol(&protocol)?;
        let mut served = self.served();
        if self.cancel.is_cancelled() {
            return Err(Error::shut_down(COMPONENT));
        }
        if served.handlers.contains_key(&protocol) {
            let text = format!("{protocol} has a handler already, and a protocol has one");
            return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        }
        served.handlers.insert(protocol, handler);
        served.offered = served.offered.iter().cloned().chain([name]).collect();
        Ok(())
    }

    /// Lets go of the handlers.
    pub(super) fn clear(&self) {
        let handlers = {
            let mut served = self.served();
            served.offered = Arc::new([]);
            served.slots.clear();
            std::mem::take(&mut served.handlers)
        };
        // Handlers may do anything when they are dropped, also ask this transport.
        drop(handlers);
    }

    fn offered(&self) -> Arc<[StreamProtocol]> {
        self.served().offered.clone()
    }

    /// Forgets a peer that is not connected, unless streams of it are still served.
    fn forget(&self, peer: &PeerId) {
        let mut served = self.served();
        if served.slots.get(peer).is_some_and(|slots| Arc::strong_count(&slots.all) == 1) {
            served.slots.remove(peer);
        }
    }

    fn counted(&self, protocol: &StreamProtocol, stream: Stream) -> PeerStream {
        Box::new(Counted::new(stream.compat(), self.traffic.of(protocol.as_ref())))
    }

    fn serve(&self, from: PeerId, protocol: &StreamProtocol, stream: Stream) {
        let (handler, slots) = {
            let mut served = self.served();
            let Some(handler) = served.handlers.get(&Protocol::new(protocol.as_ref())).cloned() else {
                return;
            };
            (handler, served.slots.entry(from).or_default().clone())
        };
        let Ok(place) = slots.all.clone().try_acquire_owned() else {
            debug!(peer = %from, %protocol, "peer has too many streams open, reset one");
            return;
        };
        let stream = self.counted(protocol, stream);
        let task = async move {
            let slot = timeout(OPEN_TIMEOUT, slots.served.clone().acquire_owned()).await;
            if let Ok(Ok(slot)) = slot {
                handler.handle(from, stream).await;
                drop(slot);
            }
            drop(place);
        };
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// The name as libp2p wants it.
pub(super) fn stream_protocol(protocol: &Protocol) -> Result<StreamProtocol> {
    StreamProtocol::try_from_owned(protocol.as_str().to_owned()).map_err(|source| {
        Error::invalid_input(format!("{protocol:?} is no name of a protocol: it must begin with /"))
            .component(COMPONENT)
            .with_source(source)
    })
}

/// The part of the swarm that opens and takes streams.
#[derive(Debug)]
pub(super) struct Behaviour {
    registry: Arc<Registry>,
    connections: BTreeMap<PeerId, Vec<Link>>,
    actions: VecDeque<ToSwarm<Infallible, Open>>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    id: ConnectionId,
    is_relayed: bool,
}

impl Behaviour {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, connections: BTreeMap::new(), actions: VecDeque::new() }
    }

    /// Opens a stream over the best connection: a direct one rather than a relayed one, and an old one rather than a
    /// new one.
    pub(super) fn open(&mut self, peer: PeerId, open: Open) {
        let best =
            self.connections.get(&peer).and_then(|links| links.iter().min_by_key(|link| link.is_relayed));
        match best {
            Some(link) => self.actions.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(link.id),
                event: open,
            }),
            None => open.fail(unavailable(&peer, "it is not connected")),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.registry.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.registry.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                let is_relayed = filters::is_relayed(event.endpoint.get_remote_address());
                let link = Link { id: event.connection_id, is_relayed };
                self.connections.entry(event.peer_id).or_default().push(link);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(links) = self.connections.get_mut(&peer_id) {
                    links.retain(|link| link.id != connection_id);
                    if links.is_empty() {
                        self.connections.remove(&peer_id);
                        self.registry.forget(&peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // `open` is called by the task that polls, which polls again afterwards.
        self.actions.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's streams.
#[derive(Debug)]
pub(super) struct Handler {
    peer: PeerId,
    registry: Arc<Registry>,
    waiting: VecDeque<Open>,
    negotiating: usize,
}

impl Handler {
    fn new(peer: PeerId, registry: Arc<Registry>) -> Self {
        Self { peer, registry, waiting: VecDeque::new(), negotiating: 0 }
    }

    fn failed(&self, protocol: &StreamProtocol, error: StreamUpgradeError<Infallible>) -> Error {
        match error {
            StreamUpgradeError::NegotiationFailed => {
                let text = format!("{} does not speak {protocol}", self.peer);
                Error::new(ErrorKind::Unsupported, text).component(COMPONENT)
            }
            StreamUpgradeError::Timeout => {
                let text = format!("{} did not answer for {protocol} within {OPEN_TIMEOUT:?}", self.peer);
                Error::new(ErrorKind::Timeout, text).component(COMPONENT)
            }
            StreamUpgradeError::Io(source) => {
                unavailable(&self.peer, &format!("opening {protocol} failed: {source}")).with_source(source)
            }
            StreamUpgradeError::Apply(never) => match never {},
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.registry.offered()), ()).with_timeout(OPEN_TIMEOUT)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, Open, Infallible>> {
        while self.negotiating < OPENS_NEGOTIATING_MAX {
            let Some(open) = self.waiting.pop_front() else { break };
            if open.reply.0.is_closed() {
                continue;
            }
            self.negotiating += 1;
            let offer = Offer(Arc::new([open.protocol.clone()]));
            let protocol = SubstreamProtocol::new(offer, open).with_timeout(OPEN_TIMEOUT);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        // Whatever changes that is an event, after which this is polled again.
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.waiting.len() >= OPENS_WAITING_MAX {
            let text = format!("{OPENS_WAITING_MAX} streams to {} wait to be opened, try later", self.peer);
            open.fail(Error::new(ErrorKind::QueueFull, text).component(COMPONENT));
        } else {
            self.waiting.push_back(open);
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.registry.serve(self.peer, &protocol, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: open,
            }) => {
                self.negotiating = self.negotiating.saturating_sub(1);
                // Nobody waiting any more drops the stream, which resets it.
                let stream = self.registry.counted(&open.protocol, stream);
                let _ = open.reply.0.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: open, error }) => {
                self.negotiating = self.negotiating.saturating_sub(1);
                let error = self.failed(&open.protocol, error);
                open.fail(error);
            }
            _ => {}
        }
    }
}

/// Names of protocols; the stream itself is what comes out.
#[derive(Clone, Debug)]
pub(super) struct Offer(Arc<[StreamProtocol]>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.to_vec()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
