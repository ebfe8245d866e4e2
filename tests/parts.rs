//! Conformance of the parts around the state: allocators, informers, monitors, transports, exchanges.
#![cfg(feature = "testing")]

use std::sync::Arc;

use async_trait::async_trait;
use ipfs_cluster::Result;
use ipfs_cluster::allocator::{BalancedAllocator, PinAllocator};
use ipfs_cluster::clock::WallClock;
use ipfs_cluster::informer::{
    DiskMetric, FreeSpace, FreeSpaceConfig, Gauge, Informer, InformerContext, NumPins, NumPinsConfig,
    PinQueue, PinQueueConfig, Tags, TagsConfig,
};
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::testing::{allocator_suite, informer_suite};
use ipfs_cluster::types::PeerId;

struct Balanced(&'static [&'static str]);

#[async_trait]
impl allocator_suite::Fixture for Balanced {
    type Guard = ();

    async fn allocator(&self) -> ((), Arc<dyn PinAllocator>) {
        ((), Arc::new(BalancedAllocator::by(self.0.iter().copied())))
    }
}

ipfs_cluster::allocator_conformance!(balanced_by_group_and_space, Balanced(&["tag:group", "freespace"]));
ipfs_cluster::allocator_conformance!(balanced_by_nothing, Balanced(&[]));

struct Measuring<I: Informer>(fn(InformerContext) -> Result<I>);

#[async_trait]
impl<I: Informer> informer_suite::Fixture for Measuring<I> {
    type Guard = ();

    async fn informer(&self, peer: PeerId, clock: Arc<dyn WallClock>) -> ((), Arc<dyn Informer>) {
        let mut cx = InformerContext::new(peer, Arc::new(MemoryIpfs::new()), clock);
        cx.queue_length = Gauge::new(|| 42);
        cx.pin_count = Gauge::new(|| 4_242);
        ((), Arc::new((self.0)(cx).unwrap()))
    }
}

fn repo_size() -> FreeSpaceConfig {
    FreeSpaceConfig { metric_type: DiskMetric::RepoSize, ..FreeSpaceConfig::default() }
}

ipfs_cluster::informer_conformance!(
    free_space,
    Measuring(|cx| FreeSpace::new(FreeSpaceConfig::default(), cx))
);
ipfs_cluster::informer_conformance!(repo_size, Measuring(|cx| FreeSpace::new(repo_size(), cx)));
ipfs_cluster::informer_conformance!(pin_queue, Measuring(|cx| PinQueue::new(PinQueueConfig::default(), cx)));
ipfs_cluster::informer_conformance!(num_pins, Measuring(|cx| NumPins::new(NumPinsConfig::default(), cx)));
ipfs_cluster::informer_conformance!(tags, Measuring(|cx| Tags::new(TagsConfig::default(), cx)));
