//! A transport with a directory of providers.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::transport::{
    GossipMessage, MemoryTransport, MessageValidator, PeerStream, PeerTransport, Protocol, StreamHandler,
    Topic, TransportEvent,
};
use crate::types::{Bandwidth, Cid, Multiaddr, PeerId};

/// A network in which everybody knows that one peer has everything.
#[derive(Debug)]
pub(super) struct WithDirectory(pub(super) Arc<MemoryTransport>, pub(super) PeerId);

#[async_trait]
impl PeerTransport for WithDirectory {
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
        self.0.open(to, protocol).await
    }
    fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()> {
        self.0.accept(protocol, handler)
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
    async fn providers(&self, _: &Cid) -> Result<Vec<PeerId>> {
        Ok(vec![self.local_peer(), self.1])
    }
    fn bandwidth(&self) -> BTreeMap<String, Bandwidth> {
        self.0.bandwidth()
    }
    async fn shutdown(&self) -> Result<()> {
        self.0.shutdown().await
    }
}
