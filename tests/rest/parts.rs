//! A consensus whose listings a test decides.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use ipfs_cluster::Result;

use ipfs_cluster::consensus::{
    Consensus, ConsensusCapabilities, ConsensusContext, Solo, SoloConfig, StateEvent,
};
use ipfs_cluster::state::{StateCounts, StatePage, StateQuery, StateReader};
use ipfs_cluster::types::{Block, Cid, PeerId, Pin, PinOperation, PinOptions, PinTypeFilter};

type List = dyn Fn() -> BoxStream<'static, Result<Vec<Pin>>> + Send + Sync;

/// [`Solo`], but its pinset lists what it is told to when it is asked for some types of pins.
pub(crate) struct Scripted {
    inner: Solo,
    list: Arc<List>,
}

impl Scripted {
    pub(crate) async fn open(
        cx: ConsensusContext,
        list: impl Fn() -> BoxStream<'static, Result<Vec<Pin>>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self { inner: Solo::open(SoloConfig::default(), cx).await?, list: Arc::new(list) })
    }
}

/// The pins with these numbers.
pub(crate) fn page(numbers: std::ops::Range<u32>) -> Vec<Pin> {
    numbers
        .map(|number| {
            let options = PinOptions { name: number.to_string(), ..PinOptions::default() };
            Pin::new(Block::raw(number.to_be_bytes().to_vec()).cid, options)
        })
        .collect()
}

struct ScriptedState(Arc<dyn StateReader>, Arc<List>);

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl fmt::Debug for ScriptedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedState")
    }
}

#[async_trait]
impl StateReader for ScriptedState {
    async fn get(&self, cid: &Cid) -> Result<Option<Pin>> {
        self.0.get(cid).await
    }
    fn list(&self, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>> {
        // The peer's own tasks list everything.
        if query.types == PinTypeFilter::ALL { self.0.list(query) } else { (self.1)() }
    }
    async fn page(&self, query: StateQuery, limit: usize) -> Result<StatePage> {
        self.0.page(query, limit).await
    }
    fn counts(&self) -> StateCounts {
        self.0.counts()
    }
}

#[async_trait]
impl Consensus for Scripted {
    fn capabilities(&self) -> ConsensusCapabilities {
        self.inner.capabilities()
    }
    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }
    async fn log_pin(&self, pin: Pin) -> Result<()> {
        assert_ne!(pin.options.name, "panic", "a bug, for the test");
        self.inner.log_pin(pin).await
    }
    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        self.inner.log_unpin(cid).await
    }
    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        self.inner.log_many(operations).await
    }
    fn state(&self) -> Arc<dyn StateReader> {
        Arc::new(ScriptedState(self.inner.state(), Arc::clone(&self.list)))
    }
    async fn synchronize(&self) -> Result<()> {
        self.inner.synchronize().await
    }
    fn events(&self) -> BoxStream<'static, StateEvent> {
        self.inner.events()
    }
    async fn peers(&self) -> Result<Vec<PeerId>> {
        self.inner.peers().await
    }
    async fn add_peer(&self, peer: &PeerId) -> Result<()> {
        self.inner.add_peer(peer).await
    }
    async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        self.inner.remove_peer(peer).await
    }
    async fn leader(&self) -> Result<Option<PeerId>> {
        self.inner.leader().await
    }
    fn is_trusted(&self, peer: &PeerId) -> bool {
        self.inner.is_trusted(peer)
    }
    async fn trust(&self, peer: &PeerId) -> Result<()> {
        self.inner.trust(peer).await
    }
    async fn distrust(&self, peer: &PeerId) -> Result<()> {
        self.inner.distrust(peer).await
    }
    async fn clean(&self) -> Result<()> {
        self.inner.clean().await
    }
    async fn shutdown(&self) -> Result<()> {
        self.inner.shutdown().await
    }
}
