//! Conformance of the parts around the state: allocators, informers, monitors, transports, exchanges.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // A fixture fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipfs_cluster::Result;
use ipfs_cluster::allocator::{BalancedAllocator, PinAllocator};
use ipfs_cluster::clock::WallClock;
use ipfs_cluster::exchange::{Bitswap, BlockExchange, BlockSource, StreamExchange};
use ipfs_cluster::informer::{
    DiskMetric, FreeSpace, FreeSpaceConfig, Gauge, Informer, InformerContext, NumPins, NumPinsConfig,
    PinQueue, PinQueueConfig, Tags, TagsConfig,
};
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::monitor::{LocalMonitor, Monitor, MonitorConfig, MonitorContext};
use ipfs_cluster::testing::{
    allocator_suite, exchange_suite, informer_suite, monitor_suite, peer, transport_suite,
};
use ipfs_cluster::transport::{MemoryNetwork, MemoryTransport, PeerTransport};
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

struct Local;

#[async_trait]
impl monitor_suite::Fixture for Local {
    type Guard = ();

    async fn monitor(&self, clock: Arc<dyn WallClock>) -> ((), Arc<dyn Monitor>) {
        let transport = MemoryNetwork::new(0).join(peer(0)).unwrap();
        let cx = MonitorContext::new(peer(0), Arc::new(transport), clock);
        ((), Arc::new(LocalMonitor::new(MonitorConfig::default(), cx).unwrap()))
    }
}

ipfs_cluster::monitor_conformance!(local_monitor, Local);

struct InMemory {
    delay: Duration,
}

#[async_trait]
impl transport_suite::Fixture for InMemory {
    type Guard = ();

    async fn transports(&self, count: usize) -> ((), Vec<Arc<dyn PeerTransport>>) {
        let network = MemoryNetwork::new(0);
        network.set_delay(self.delay);
        let join = |number| Arc::new(network.join(peer(number)).unwrap()) as Arc<dyn PeerTransport>;
        ((), (0..count as u64).map(join).collect())
    }
}

ipfs_cluster::transport_conformance!(memory_transport, InMemory { delay: Duration::ZERO });
ipfs_cluster::transport_conformance!(slow_memory_transport, InMemory { delay: Duration::from_millis(1) });

/// Makes an exchange of a transport and what it serves.
type MakeExchange = fn(Arc<MemoryTransport>, Arc<dyn BlockSource>) -> Arc<dyn BlockExchange>;

struct InOneNetwork {
    delay: Duration,
    make: MakeExchange,
}

#[async_trait]
impl exchange_suite::Fixture for InOneNetwork {
    type Guard = ();

    async fn exchanges(
        &self,
        sources: Vec<Arc<dyn BlockSource>>,
    ) -> ((), Vec<(PeerId, Arc<dyn BlockExchange>)>) {
        let network = MemoryNetwork::new(0);
        network.set_delay(self.delay);
        let join = |number| Arc::new(network.join(peer(number)).unwrap());
        let transports: Vec<_> = (0..sources.len() as u64).map(join).collect();
        for (number, one) in transports.iter().enumerate() {
            for other in &transports[..number] {
                one.connect(&other.listen_addresses()[0]).await.unwrap();
            }
        }
        let exchange = |(transport, source): (Arc<MemoryTransport>, _)| {
            (transport.local_peer(), (self.make)(transport, source))
        };
        ((), transports.into_iter().zip(sources).map(exchange).collect())
    }
}

const OVER_STREAMS: MakeExchange =
    |transport, source| Arc::new(StreamExchange::new(transport, source).unwrap());
const BITSWAP: MakeExchange = |transport, source| Arc::new(Bitswap::new(transport, source).unwrap());
const FAST: Duration = Duration::ZERO;
const SLOW: Duration = Duration::from_millis(2);

ipfs_cluster::exchange_conformance!(stream_exchange, InOneNetwork { delay: FAST, make: OVER_STREAMS });
ipfs_cluster::exchange_conformance!(slow_stream_exchange, InOneNetwork { delay: SLOW, make: OVER_STREAMS });
ipfs_cluster::exchange_conformance!(bitswap, InOneNetwork { delay: FAST, make: BITSWAP });
ipfs_cluster::exchange_conformance!(slow_bitswap, InOneNetwork { delay: SLOW, make: BITSWAP });
