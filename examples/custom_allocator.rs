//! A peer whose allocator is our own: only peers that are not busy get new pins, the least busy first.
//!
//! `cargo run --example custom_allocator`. A whole crate with its conformance tests: `examples/outside/parts`.

use async_trait::async_trait;
use ipfs_cluster::Result;
use ipfs_cluster::allocator::{Candidates, PinAllocator};
use ipfs_cluster::cluster::{Cluster, presets};
use ipfs_cluster::types::{Block, Cid, PeerId, PinOptions};

/// Leaves out peers with more pins in their queues than that.
#[derive(Debug)]
struct NotBusy {
    queue_max: u64,
    metrics: Vec<String>,
}

#[async_trait]
impl PinAllocator for NotBusy {
    fn metrics(&self) -> &[String] {
        &self.metrics
    }

    async fn allocate(&self, cid: &Cid, candidates: Candidates) -> Result<Vec<PeerId>> {
        let mut order = Vec::new();
        for class in [&candidates.priority, &candidates.candidates] {
            let queue = |metrics: &ipfs_cluster::allocator::PeerMetrics| metrics["pinqueue"].value.parse();
            let mut peers: Vec<(u64, PeerId)> = class
                .iter()
                .filter_map(|(peer, metrics)| Some((queue(metrics).ok()?, *peer)))
                .filter(|(queued, _)| *queued <= self.queue_max)
                .collect();
            peers.sort_unstable();
            order.extend(peers.into_iter().map(|(_, peer)| peer));
        }
        println!("for {cid}: {} of {} peers", order.len(), candidates.candidates.len());
        Ok(order)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let allocator = NotBusy { queue_max: 1_000, metrics: vec!["pinqueue".into()] };
    // The preset brings the informer that measures `pinqueue`.
    let cluster = Cluster::builder().preset(presets::InMemory).allocator(allocator).start().await?;
    // A peer is a candidate once its informer has measured it for the first time.
    while cluster.metrics("pinqueue").is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // Pins that are everywhere need no allocator; this one wants exactly one peer.
    let options =
        PinOptions { replication_factor_min: 1, replication_factor_max: 1, ..PinOptions::default() };
    let pin = cluster.pin(Block::raw("content").cid, options).await?;
    println!("allocated to {:?}", pin.allocations);
    cluster.shutdown().await;
    Ok(())
}
