//! A peer whose consensus is our own: wrapped around any other, it writes down who changed what once it is acknowledged.
//!
//! `cargo run --example custom_consensus`. One from scratch, with its conformance tests: `examples/outside/parts`.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use ipfs_cluster::Result;
use ipfs_cluster::cluster::{Cluster, presets};
use ipfs_cluster::consensus::{Consensus, ConsensusCapabilities, Solo, SoloConfig, StateEvent};
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::state::StateReader;
use ipfs_cluster::types::{Cid, PeerId, Pin, PinOperation, PinOptions};

/// Writes a line for each change asked of this peer.
#[derive(Debug)]
struct Audited<C, W> {
    inner: C,
    journal: Mutex<W>,
}

impl<C, W: std::io::Write> Audited<C, W> {
    fn note(&self, what: &str, cid: &Cid) {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        // The change is acknowledged: a journal that is full must not make it look failed.
        if let Err(error) = writeln!(journal, "{what} {cid}") {
            eprintln!("the journal cannot be written: {error}");
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: Consensus, W: std::io::Write + std::fmt::Debug + Send + 'static> Consensus for Audited<C, W> {
    async fn log_pin(&self, pin: Pin) -> Result<()> {
        let cid = pin.cid;
        self.inner.log_pin(pin).await.inspect(|()| self.note("pin", &cid))
    }
    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        self.inner.log_unpin(cid).await.inspect(|_| self.note("unpin", cid))
    }
    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        self.inner.log_many(operations.clone()).await?;
        for operation in &operations {
            let what = match operation {
                PinOperation::Pin(_) => "pin",
                PinOperation::Unpin(_) => "unpin",
                PinOperation::Revise(_) => "revise",
            };
            self.note(what, operation.cid());
        }
        Ok(())
    }

    // What a wrapper does not change, it hands on: all of it, so that nothing is answered differently by accident.
    fn capabilities(&self) -> ConsensusCapabilities {
        self.inner.capabilities()
    }
    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }
    fn state(&self) -> Arc<dyn StateReader> {
        self.inner.state()
    }
    async fn synchronize(&self) -> Result<()> {
        self.inner.synchronize().await
    }
    fn events(&self) -> BoxStream<'static, StateEvent> {
        self.inner.events()
    }
    fn heads(&self) -> Vec<(Cid, u64)> {
        self.inner.heads()
    }
    async fn peers(&self) -> Result<Vec<PeerId>> {
        self.inner.peers().await
    }
    async fn check_joinable(&self, peer: &PeerId) -> Result<()> {
        self.inner.check_joinable(peer).await
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

#[tokio::main]
async fn main() -> Result<()> {
    let ipfs = MemoryIpfs::new();
    let cid = ipfs.add_sample("content");
    let cluster = Cluster::builder()
        .preset(presets::InMemory)
        .ipfs(ipfs)
        // Made by the cluster, because it needs the peer's storage.
        .consensus_with(|cx| async move {
            let inner = Solo::open(SoloConfig::default(), cx).await?;
            Ok(Audited { inner, journal: Mutex::new(std::io::stdout()) })
        })
        .start()
        .await?;
    cluster.pin(cid, PinOptions::default()).await?;
    cluster.unpin(&cid).await?;
    cluster.shutdown().await;
    Ok(())
}
