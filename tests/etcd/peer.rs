//! A peer's consensus on a runtime of its own, so that it can be cut off like a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Etcd, EtcdConfig};
use ipfs_cluster::error::Result;
use ipfs_cluster::state::{StateCounts, StateReader as _, StoreState};
use ipfs_cluster::storage::{MemoryStorage, Storage};
use ipfs_cluster::testing::peer;
use ipfs_cluster::transport::MemoryNetwork;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

/// Nothing that a test waits for takes so long on a machine that works.
pub(crate) const FACT_TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const FACT_POLL: Duration = Duration::from_millis(20);
pub(crate) const EVENTS: usize = 64;

/// Below which nobody else is.
pub(crate) fn unique_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("/test/{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn config(url: &str, prefix: &str) -> EtcdConfig {
    let mut config = EtcdConfig::default();
    config.endpoints = vec![url.to_owned()];
    config.prefix = prefix.to_owned();
    config.max_buffered_events = EVENTS;
    // Long, because a machine under load must not be mistaken for an etcd that is down.
    config.request_timeout = FACT_TIMEOUT;
    config
}

pub(crate) struct Peer {
    pub(crate) etcd: Arc<Etcd>,
    pub(crate) storage: Arc<dyn Storage>,
    /// Dropped in [`Peer::cut_off`] and at the end.
    runtime: Option<Runtime>,
}

impl Peer {
    pub(crate) async fn open(number: u64, config: EtcdConfig) -> Self {
        Self::open_on(number, config, Arc::new(MemoryStorage::new())).await
    }

    pub(crate) async fn open_on(number: u64, config: EtcdConfig, storage: Arc<dyn Storage>) -> Self {
        Self::try_open_on(number, config, storage).await.unwrap()
    }

    pub(crate) async fn try_open_on(
        number: u64,
        config: EtcdConfig,
        storage: Arc<dyn Storage>,
    ) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = Arc::clone(&storage);
        let opened = runtime.spawn(async move {
            let transport = MemoryNetwork::new(0).join(peer(number)).unwrap();
            let state = Arc::new(StoreState::open(Arc::clone(&store)).await?);
            let clock = Arc::new(SystemClock);
            Etcd::open(config, ConsensusContext::new(peer(number), store, state, Arc::new(transport), clock))
                .await
        });
        match opened.await.unwrap() {
            Ok(etcd) => Ok(Self { etcd: Arc::new(etcd), storage, runtime: Some(runtime) }),
            Err(error) => {
                // Where a runtime cannot be waited for.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// One that is a member.
    pub(crate) async fn ready(number: u64, config: EtcdConfig) -> Self {
        let peer = Self::open(number, config).await;
        peer.etcd.ready().await.unwrap();
        peer
    }

    /// Nothing of it runs any more, whatever it was about to do.
    pub(crate) fn cut_off(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn counts(&self) -> StateCounts {
        self.etcd.state().counts()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.cut_off();
    }
}

/// Waits for something to be so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < FACT_TIMEOUT, "it never came true that {what}");
        sleep(FACT_POLL).await;
    }
}

/// Waits until two peers have the same pinset.
pub(crate) async fn until_same(one: &Peer, other: &Peer) {
    until("two peers have the same pinset", async || one.counts() == other.counts()).await;
}
