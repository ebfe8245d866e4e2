//! The suite that every consensus has to pass.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipfs_cluster::consensus::Consensus;
use ipfs_cluster::storage::{MemoryStorage, Storage};
use ipfs_cluster::testing::consensus_suite::Fixture;
use ipfs_cluster::testing::{CrashStorage, peer};
use ipfs_cluster::types::PeerId;
use tokio::time::sleep;

use crate::peer::{EVENTS, Peer, config, unique_prefix};
use crate::server::Server;
use crate::server_or_skip;

/// What a component lives in.
struct Place<S> {
    server: Arc<Server>,
    prefix: String,
    storage: Arc<S>,
    /// All that were opened here; the last one runs.
    peers: Vec<Peer>,
}

impl<S: Storage> Place<S> {
    async fn open(&mut self) -> Arc<dyn Consensus> {
        let storage: Arc<dyn Storage> = self.storage.clone();
        let peer = Peer::open_on(1, config(&self.server.url(), &self.prefix), storage).await;
        peer.etcd.ready().await.unwrap();
        let consensus = peer.etcd.clone();
        self.peers.push(peer);
        consensus
    }
}

struct InMemory(Arc<Server>);

#[async_trait]
impl Fixture for InMemory {
    type Guard = Place<MemoryStorage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let mut place = Place {
            server: self.0.clone(),
            prefix: unique_prefix(),
            storage: Arc::new(MemoryStorage::new()),
            peers: Vec::new(),
        };
        let consensus = place.open().await;
        (place, consensus)
    }

    async fn reopen(&self, place: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        Some(place.open().await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

/// On a store that loses what was not synced.
struct PowerCut(Arc<Server>);

#[async_trait]
impl Fixture for PowerCut {
    type Guard = Place<CrashStorage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let mut place = Place {
            server: self.0.clone(),
            prefix: unique_prefix(),
            storage: Arc::new(CrashStorage::new()),
            peers: Vec::new(),
        };
        let consensus = place.open().await;
        (place, consensus)
    }

    async fn reopen(&self, place: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        place.storage.close().unwrap();
        place.storage = Arc::new(place.storage.crash());
        Some(place.open().await)
    }

    async fn crash(&self, place: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        place.storage = Arc::new(place.storage.crash());
        place.peers.last_mut()?.cut_off();
        // What it had sent may still come true; the suite wants to see it before it looks.
        let mut revision = 0;
        while revision != self.0.revision().await {
            revision = self.0.revision().await;
            sleep(Duration::from_millis(300)).await;
        }
        Some(place.open().await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(etcd, InMemory(server_or_skip!()));
ipfs_cluster::consensus_conformance!(etcd_power_cut, PowerCut(server_or_skip!()));
