//! The pinset in every store through the conformance suite, and what is particular to [`StoreState`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use async_trait::async_trait;
use ipfs_cluster::state::{State, StoreState};
use ipfs_cluster::storage::{MemoryStorage, Storage};
use ipfs_cluster::testing::CrashStorage;
use ipfs_cluster::testing::state_suite::Fixture;

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
