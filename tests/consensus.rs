//! Consensus components through the conformance suite, and what is particular to each.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Solo, SoloConfig};
use ipfs_cluster::storage::{FjallConfig, FjallStorage, MemoryStorage, RedbConfig, RedbStorage, Storage};
use ipfs_cluster::testing::consensus_suite::Fixture;
use ipfs_cluster::testing::{CrashStorage, peer};
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::PeerId;
use tempfile::TempDir;

const EVENTS: usize = 64;

fn context(storage: Arc<dyn Storage>) -> ConsensusContext {
    let transport = MemoryNetwork::new(0).join(peer(1)).unwrap();
    ConsensusContext::new(peer(1), storage, Arc::new(transport), Arc::new(SystemClock))
}

async fn solo(storage: Arc<dyn Storage>) -> Arc<dyn Consensus> {
    let mut config = SoloConfig::default();
    config.max_buffered_events = EVENTS;
    Arc::new(Solo::open(config, context(storage)).await.unwrap())
}

/// On a store that loses what was not synced.
struct PowerCut;

#[async_trait]
impl Fixture for PowerCut {
    type Guard = Arc<CrashStorage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let storage = Arc::new(CrashStorage::new());
        (storage.clone(), solo(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        storage.close().unwrap();
        *storage = Arc::new(storage.crash());
        Some(solo(storage.clone()).await)
    }

    async fn crash(&self, storage: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        *storage = Arc::new(storage.crash());
        Some(solo(storage.clone()).await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(solo_power_cut, PowerCut);

struct InMemory;

#[async_trait]
impl Fixture for InMemory {
    type Guard = Arc<dyn Storage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        (storage.clone(), solo(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        Some(solo(storage.clone()).await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(solo_memory, InMemory);

/// On an engine that keeps its store in a folder.
struct OnDisk(fn(&Path) -> Arc<dyn Storage>);

impl OnDisk {
    const FJALL: Self = Self(|path| Arc::new(FjallStorage::open(path, FjallConfig::default()).unwrap()));
    const REDB: Self = Self(|path| Arc::new(RedbStorage::open(path, RedbConfig::default()).unwrap()));
}

#[async_trait]
impl Fixture for OnDisk {
    type Guard = (Arc<dyn Storage>, TempDir);

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let folder = TempDir::new().unwrap();
        let storage = (self.0)(&folder.path().join("store"));
        ((storage.clone(), folder), solo(storage).await)
    }

    async fn reopen(
        &self,
        (storage, folder): &mut Self::Guard,
        _: Arc<dyn Consensus>,
    ) -> Option<Arc<dyn Consensus>> {
        storage.close().unwrap();
        *storage = (self.0)(&folder.path().join("store"));
        Some(solo(storage.clone()).await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(solo_fjall, OnDisk::FJALL);
ipfs_cluster::consensus_conformance!(solo_redb, OnDisk::REDB);
