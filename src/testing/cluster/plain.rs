//! A transport that speaks no protocol of ours, as a peer of the reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::transport::{
    GossipMessage, MemoryTransport, MessageValidator, PeerStream, PeerTransport, Protocol, StreamHandler,
    Topic, TransportEvent,
};
use crate::types::{Bandwidth, Cid, Multiaddr, PeerId};

/// Of protocols that only our peers speak, and that have another way where they are not spoken.
const OURS: &str = "/ipfs-cluster-rs/catchup/";

/// Wraps a transport.
#[derive(Debug)]
pub(super) struct PlainTransport(pub(super) Arc<MemoryTransport>);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl PeerTransport for PlainTransport {
    fn local_peer(&self) -> PeerId {
        self.0.local_peer()
    }
    fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.0.listen_addresses()
    }
    fn announced_addresses(&self) -> Vec<Multiaddr> {
        self.0.announced_addresses()
    }
    async fn open(&self, to: &PeerId, protocol: &Protocol) -> Result<PeerStream> {
        if protocol.as_str().starts_with(OURS) {
            return Err(Error::new(ErrorKind::Unsupported, format!("this peer does not speak {protocol}")));
        }
        self.0.open(to, protocol).await
    }
    fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()> {
        if protocol.as_str().starts_with(OURS) { Ok(()) } else { self.0.accept(protocol, handler) }
    }
    async fn publish(&self, topic: &Topic, data: Bytes) -> Result<()> {
        self.0.publish(topic, data).await
    }
    fn subscribe(
        &self,
        topic: &Topic,
        validator: Arc<dyn MessageValidator>,
    ) -> BoxStream<'static, GossipMessage> {
        self.0.subscribe(topic, validator)
    }
    fn peers(&self) -> Vec<PeerId> {
        self.0.peers()
    }
    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.0.addresses(peer)
    }
    fn events(&self) -> BoxStream<'static, TransportEvent> {
        self.0.events()
    }
    async fn connect(&self, address: &Multiaddr) -> Result<PeerId> {
        self.0.connect(address).await
    }
    async fn disconnect(&self, peer: &PeerId) -> Result<()> {
        self.0.disconnect(peer).await
    }
    fn protect(&self, peer: &PeerId, protect: bool) {
        self.0.protect(peer, protect);
    }
    async fn provide(&self, cid: &Cid) -> Result<()> {
        self.0.provide(cid).await
    }
    async fn providers(&self, cid: &Cid) -> Result<Vec<PeerId>> {
        self.0.providers(cid).await
    }
    fn bandwidth(&self) -> BTreeMap<String, Bandwidth> {
        self.0.bandwidth()
    }
    async fn shutdown(&self) -> Result<()> {
        self.0.shutdown().await
    }
}
