//! The real host: peers over TCP and WebSocket in a private network, as the reference has it (wire protocol §1 and §3).
//!
//! One task owns libp2p's swarm. Methods send it commands over a bounded channel, or change what both see and wake it.
//! Streams of others are served in tasks of their own, a bounded number for each peer.

mod behaviour;
mod book;
mod config;
#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod dials;
mod directory;
mod filters;
mod gossip;
mod mdns;
mod reach;
mod routing;
#[cfg(feature = "tls")]
mod security;
mod shared;
mod stack;
mod streams;
mod swarm;
mod trim;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::shared::Shared;
use self::swarm::{Command, Task};
use super::received::received;
use super::{
    GOSSIP_BYTES_MAX, GossipMessage, MessageValidator, OPEN_TIMEOUT, PeerStream, PeerTransport, Protocol,
    StreamHandler, Topic, TransportEvent,
};
use crate::config::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, Multiaddr, PeerId};

pub use config::Libp2pConfig;

const COMPONENT: &str = "transport";
/// Commands that wait for the swarm; callers wait when there are more.
const COMMANDS_MAX: usize = 1_024;
/// How long opening a stream may take, with finding out where the peer is and connecting to it.
const OPEN_WITH_ROUTING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long asking or telling the directory may take.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a command that needs no other peer may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// This peer in the network, over libp2p.
///
/// Dropping it breaks all connections; [`PeerTransport::shutdown`] says good-bye first.
pub struct Libp2pTransport {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    dial_timeout: Duration,
}

impl Libp2pTransport {
    /// Starts listening, and looking for peers as far as the settings say. Returns once it listens. Must be called in
    /// a tokio runtime, on which everything runs.
    ///
    /// An address that cannot be listened on is one line in the log as long as another one can.
    ///
    /// # Errors
    /// `InvalidInput` for settings that cannot work, and for an address that is none of ours; `Io` when nothing can be
    /// listened on, naming the addresses.
    pub async fn start(identity: &Identity, config: Libp2pConfig) -> Result<Self> {
        config.validate()?;
        let shared = Shared::new(identity.id());
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (dial_timeout, mdns) = (config.dial_timeout, config.mdns);
        let mut task = Task::new(identity.keypair(), config, shared.clone(), receiver)?;
        task.listen().await?;
        shared.tasks.spawn(task.run());
        if mdns {
            shared.tasks.spawn(mdns::run(shared.clone(), commands.clone()));
        }
        Ok(Self { shared, commands, dial_timeout })
    }

    /// Addresses of all known peers with their ids, most important first: what is to be in the peerstore file.
    pub fn known_addresses(&self) -> Vec<Multiaddr> {
        let state = self.shared.state();
        state.book.known(|peer| state.connected.contains(peer))
    }

    fn ensure_in(&self) -> Result<()> {
        if self.shared.has_stopped() { Err(Error::shut_down(COMPONENT)) } else { Ok(()) }
    }

    /// Sends a command and waits for its answer.
    async fn ask<T>(
        &self,
        doing: impl fmt::Display + Send,
        limit: Duration,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command + Send,
    ) -> Result<T> {
        self.ensure_in()?;
        let (reply, answer) = oneshot::channel();
        let asked = async {
            if self.commands.send(command(reply)).await.is_err() {
                return Err(Error::shut_down(COMPONENT));
            }
            answer.await.unwrap_or_else(|_| {
                let text = format!("{doing} failed: the connection broke");
                Err(Error::new(ErrorKind::Unavailable, text).component(COMPONENT))
            })
        };
        tokio::select! {
            biased;
            () = self.shared.cancel.cancelled() => Err(Error::shut_down(COMPONENT)),
            result = timeout(limit, asked) => result.unwrap_or_else(|_| {
                let text = format!("{doing} took more than {limit:?}");
                Err(Error::new(ErrorKind::Timeout, text).component(COMPONENT))
            }),
        }
    }
}

fn unavailable(peer: &PeerId, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot reach {peer}: {why}")).component(COMPONENT)
}

impl fmt::Debug for Libp2pTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libp2pTransport").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}

impl Drop for Libp2pTransport {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

#[async_trait]
impl PeerTransport for Libp2pTransport {
    fn local_peer(&self) -> PeerId {
        self.shared.peer
    }

    fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.state().listen.iter().cloned().collect()
    }

    fn announced_addresses(&self) -> Vec<Multiaddr> {
        self.shared.state().announced.clone()
    }

    async fn open(&self, to: &PeerId, protocol: &Protocol) -> Result<PeerStream> {
        self.ensure_in()?;
        if *to == self.shared.peer {
            return Err(unavailable(to, "that is this peer itself"));
        }
        let name = streams::stream_protocol(protocol)?;
        let (peer, is_connected) = (*to, self.shared.state().connected.contains(to));
        let limit = if is_connected { OPEN_TIMEOUT } else { OPEN_WITH_ROUTING_TIMEOUT };
        let doing = format!("opening {protocol} to {to}");
        self.ask(doing, limit, |reply| Command::Open {
            peer,
            open: streams::Open { protocol: name, reply: streams::Reply(reply) },
        })
        .await
    }

    fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()> {
        self.shared.registry.accept(protocol, handler)
    }

    async fn publish(&self, topic: &Topic, data: Bytes) -> Result<()> {
        self.ensure_in()?;
        if data.len() > GOSSIP_BYTES_MAX {
            let text = format!("a message of {} bytes, at most {GOSSIP_BYTES_MAX} are possible", data.len());
            return Err(Error::invalid_input(text).component(COMPONENT));
        }
        let topic = topic.clone();
        self.ask("publishing", COMMAND_TIMEOUT, |reply| Command::Publish { topic, data, reply }).await
    }

    fn subscribe(
        &self,
        topic: &Topic,
        validator: Arc<dyn MessageValidator>,
    ) -> BoxStream<'static, GossipMessage> {
        let receiver = {
            let mut state = self.shared.state();
            // Under the lock, so that a shutdown comes before this or ends it.
            (!self.shared.has_stopped()).then(|| state.subscriptions.add(topic, validator))
        };
        self.shared.changed.notify_one();
        received(receiver, || None)
    }

    fn peers(&self) -> Vec<PeerId> {
        self.shared.state().connected.iter().copied().collect()
    }

    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.shared.state().book.addresses(peer)
    }

    fn events(&self) -> BoxStream<'static, TransportEvent> {
        let receiver = self.shared.state().events.as_ref().map(tokio::sync::broadcast::Sender::subscribe);
        received(receiver, || Some(TransportEvent::Resync))
    }

    async fn connect(&self, address: &Multiaddr) -> Result<PeerId> {
        let address = address.clone();
        let doing = format!("connecting to {address}");
        let asked = self.ask(doing, self.dial_timeout, |reply| Command::Connect { address, reply });
        asked.await.map_err(|error| match error.kind() {
            // With another secret neither side understands a word, so both wait.
            ErrorKind::Timeout => {
                let text =
                    format!("{}: nobody answers there, or with another cluster secret", error.message());
                Error::new(ErrorKind::Timeout, text).component(COMPONENT)
            }
            _ => error,
        })
    }

    async fn disconnect(&self, peer: &PeerId) -> Result<()> {
        let peer = *peer;
        let doing = format!("disconnecting from {peer}");
        self.ask(doing, COMMAND_TIMEOUT, |reply| Command::Disconnect { peer, reply }).await
    }

    fn protect(&self, peer: &PeerId, protect: bool) {
        {
            let mut state = self.shared.state();
            let is_news = if protect { state.protected.insert(*peer) } else { state.protected.remove(peer) };
            if is_news {
                state.protections.insert(*peer, protect);
            }
        }
        self.shared.changed.notify_one();
    }

    async fn provide(&self, cid: &Cid) -> Result<()> {
        let key = cid.hash().to_bytes();
        let doing = format!("telling who looks for {cid}");
        self.ask(doing, DIRECTORY_TIMEOUT, |reply| Command::Provide { key, reply }).await
    }

    async fn providers(&self, cid: &Cid) -> Result<Vec<PeerId>> {
        let key = cid.hash().to_bytes();
        let doing = format!("looking for who has {cid}");
        self.ask(doing, DIRECTORY_TIMEOUT, |reply| Command::Providers { key, reply }).await
    }

    async fn shutdown(&self) -> Result<()> {
        self.shared.stop();
        self.shared.tasks.wait().await;
        Ok(())
    }
}
