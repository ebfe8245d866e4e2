//! The pinset in every store through the conformance suite, and what is particular to [`StoreState`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipfs_cluster::state::{State, StoreState};
use ipfs_cluster::storage::{FjallConfig, FjallStorage, MemoryStorage, RedbConfig, RedbStorage, Storage};
use ipfs_cluster::testing::CrashStorage;
use ipfs_cluster::testing::state_suite::Fixture;
use tempfile::TempDir;

async fn opened(storage: Arc<dyn Storage>) -> Arc<dyn State> {
    Arc::new(StoreState::open(storage).await.unwrap())
}

struct Memory;

#[async_trait]
impl Fixture for Memory {
    type Guard = Arc<dyn Storage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn State>) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        (storage.clone(), opened(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, _state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        Some(opened(storage.clone()).await)
    }
}

ipfs_cluster::state_conformance!(memory, Memory);

struct PowerCut;

#[async_trait]
impl Fixture for PowerCut {
    type Guard = Arc<CrashStorage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn State>) {
        let storage = Arc::new(CrashStorage::new());
        (storage.clone(), opened(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        storage.close().unwrap();
        self.crash(storage, state).await
    }

    async fn crash(&self, storage: &mut Self::Guard, _state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        *storage = Arc::new(storage.crash());
        Some(opened(storage.clone()).await)
    }
}

ipfs_cluster::state_conformance!(power_cut, PowerCut);

/// An engine that keeps its store in a folder.
#[derive(Clone, Copy)]
enum Engine {
    Fjall,
    Redb,
}

impl Engine {
    fn open(self, folder: &Path) -> Arc<dyn Storage> {
        match self {
            Self::Fjall => Arc::new(FjallStorage::open(folder, FjallConfig::default()).unwrap()),
            Self::Redb => Arc::new(RedbStorage::open(folder, RedbConfig::default()).unwrap()),
        }
    }
}

struct OnDisk(Engine);

impl OnDisk {
    async fn open(&self, folder: &TempDir) -> (Arc<dyn Storage>, Arc<dyn State>) {
        let storage = self.0.open(&folder.path().join("store"));
        let state = StoreState::open_with_spool_folder(storage.clone(), folder.path()).await.unwrap();
        (storage, Arc::new(state))
    }
}

#[async_trait]
impl Fixture for OnDisk {
    type Guard = (Arc<dyn Storage>, TempDir);

    async fn create(&self) -> (Self::Guard, Arc<dyn State>) {
        let folder = TempDir::new().unwrap();
        let (storage, state) = self.open(&folder).await;
        ((storage, folder), state)
    }

    async fn reopen(
        &self,
        (storage, folder): &mut Self::Guard,
        _state: Arc<dyn State>,
    ) -> Option<Arc<dyn State>> {
        storage.close().unwrap();
        let (again, state) = self.open(folder).await;
        *storage = again;
        Some(state)
    }
}

ipfs_cluster::state_conformance!(fjall, OnDisk(Engine::Fjall));
ipfs_cluster::state_conformance!(redb, OnDisk(Engine::Redb));
