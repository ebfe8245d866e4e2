//! Conformance of the parts around the state: allocators, informers, monitors, transports, exchanges.
#![cfg(feature = "testing")]

use std::sync::Arc;

use async_trait::async_trait;
use ipfs_cluster::allocator::{BalancedAllocator, PinAllocator};
use ipfs_cluster::testing::allocator_suite;

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
