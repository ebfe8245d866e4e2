//! Presets: ways to assemble a peer, as values that can be read, replaced and composed.

use std::fmt;

use super::ClusterBuilder;

/// A set of choices for a peer.
pub trait Preset: fmt::Debug {
    /// Makes the choices; what is chosen later, on the builder, wins.
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder;
}

/// A cluster of one, whole in memory: storage, daemon, network. For tests, examples and a first look; nothing
/// survives the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct InMemory;

impl Preset for InMemory {
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder {
        use crate::ipfs_connector::MemoryIpfs;
        use crate::storage::MemoryStorage;
        Solo.apply(builder).storage(MemoryStorage::new()).ipfs(MemoryIpfs::default())
    }
}

/// A peer of a cluster that others may join, on the storage, daemon and transport you give: CRDT consensus that trusts
/// everybody who has the secret, metrics over gossip, and otherwise the choices of [`Solo`].
#[cfg(feature = "consensus-crdt")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Collaborative;

#[cfg(feature = "consensus-crdt")]
impl Preset for Collaborative {
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder {
        use crate::consensus::CrdtConfig;
        use crate::monitor::MonitorConfig;
        Solo.apply(builder).crdt(CrdtConfig::default()).pubsub_monitor(MonitorConfig::default())
    }
}

/// A cluster of one on the storage and daemon you give: solo consensus, the stateless tracker, the balanced allocator,
/// a local monitor and the usual informers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Preset for Solo {
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder {
        use crate::allocator::BalancedAllocator;
        use crate::consensus::SoloConfig;
        use crate::informer::{FreeSpace, FreeSpaceConfig, PinQueue, PinQueueConfig};
        use crate::monitor::MonitorConfig;
        use crate::tracker::StatelessConfig;
        builder
            .solo(SoloConfig::default())
            .stateless_tracker(StatelessConfig::default())
            .local_monitor(MonitorConfig::default())
            .allocator(BalancedAllocator::by(["freespace"]))
            .informer_with(|cx| FreeSpace::new(FreeSpaceConfig::default(), cx))
            .informer_with(|cx| PinQueue::new(PinQueueConfig::default(), cx))
    }
}
