//! A peer whose connector is our own: wrapped around any other, it refuses new pins when the daemon's disk is nearly full.
//!
//! `cargo run --example custom_connector`. One from scratch, with its conformance tests: `examples/outside/parts`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use ipfs_cluster::cluster::{Cluster, Scope, Until, presets};
use ipfs_cluster::ipfs_connector::{
    Availability, IpfsConnector, IpfsPin, MemoryIpfs, MemoryIpfsConfig, PinProgress, Reference, sample_file,
};
use ipfs_cluster::types::{
    Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, PinOptions, RepoGcKey, RepoStat,
};
use ipfs_cluster::{Error, ErrorKind, Result};

/// Keeps some bytes of the daemon's disk free of pins.
#[derive(Debug)]
struct Reserve<C> {
    inner: C,
    bytes: u64,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: IpfsConnector> IpfsConnector for Reserve<C> {
    async fn pin(&self, pin: &Pin) -> Result<()> {
        let free = self.inner.repo_stat().await?.free_bytes();
        if free < self.bytes && !self.inner.is_pinned(&pin.cid, pin.mode()).await? {
            let text = format!("{free} bytes are free, and {} are kept free; unpin something", self.bytes);
            return Err(Error::new(ErrorKind::StorageFull, text).component("reserve"));
        }
        self.inner.pin(pin).await
    }

    // What a wrapper does not change, it hands on: all of it, so that nothing is answered differently by accident.
    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }
    async fn id(&self) -> Result<IpfsId> {
        self.inner.id().await
    }
    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.inner.unpin(cid).await
    }
    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        self.inner.is_pinned(cid, mode).await
    }
    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        self.inner.list_pins(mode)
    }
    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        self.inner.pin_concurrency()
    }
    fn pins_in_progress(&self) -> Vec<PinProgress> {
        self.inner.pins_in_progress()
    }
    async fn reference_root(&self) -> Result<Option<PathBuf>> {
        self.inner.reference_root().await
    }
    async fn put_reference(&self, file: &Reference, bytes: BoxStream<'static, Result<Bytes>>) -> Result<()> {
        self.inner.put_reference(file, bytes).await
    }
    async fn repo_stat(&self) -> Result<RepoStat> {
        self.inner.repo_stat().await
    }
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        self.inner.repo_gc()
    }
    async fn resolve(&self, path: &str) -> Result<Cid> {
        self.inner.resolve(path).await
    }
    async fn put_blocks(&self, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.inner.put_blocks(blocks).await
    }
    async fn hold(&self, lease: Block) -> Result<()> {
        self.inner.hold(lease).await
    }
    async fn release(&self, leases: &[Cid]) -> Result<()> {
        self.inner.release(leases).await
    }
    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        self.inner.get_block(cid).await
    }
    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        self.inner.swarm_peers().await
    }
    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        self.inner.swarm_connect(address).await
    }
    fn availability(&self) -> BoxStream<'static, Availability> {
        self.inner.availability()
    }
    async fn shutdown(&self) -> Result<()> {
        self.inner.shutdown().await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let small = MemoryIpfsConfig { storage_max: 100_000, ..MemoryIpfsConfig::default() };
    let daemon = MemoryIpfs::with_config(small);
    let ipfs = Reserve { inner: daemon.clone(), bytes: 50_000 };
    let cluster = Cluster::builder().preset(presets::InMemory).ipfs(ipfs).start().await?;
    for size in [40_000, 30_000] {
        let (cid, blocks) = sample_file(vec![7; size]);
        blocks.into_iter().try_for_each(|block| daemon.put(block))?;
        cluster.pin(cid, PinOptions::default()).await?;
        // What found no room waits until there is some, so this may take for ever.
        let wait = cluster.wait(cid).until(Until::PinnedEverywhere).into_future();
        match tokio::time::timeout(Duration::from_secs(2), wait).await {
            Ok(_) => println!("{size} bytes: pinned"),
            Err(_) => {
                for info in cluster.status(&cid, Scope::Global).await?.peer_map.values() {
                    println!("{size} bytes: {}: {}", info.status, info.error);
                }
            }
        }
    }
    cluster.shutdown().await;
    Ok(())
}
