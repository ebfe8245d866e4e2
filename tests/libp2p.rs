//! The real host, on this machine alone: conformance, private networks, limits, directories.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::config::{ConnectionManagerConfig, Identity, Secret};
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::testing::transport_suite;
use ipfs_cluster::transport::{
    GossipMessage, Libp2pConfig, Libp2pTransport, MessageValidator, PeerStream, PeerTransport, Protocol,
    StreamHandler, Topic, TransportEvent, Verdict,
};
use ipfs_cluster::types::{Cid, Multiaddr, PeerId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const SECRET: Secret = Secret::from_bytes([7; 32]);
const OTHER_SECRET: Secret = Secret::from_bytes([8; 32]);
/// Longer than anything takes that works.
const WAIT: Duration = Duration::from_secs(30);

fn tcp() -> Libp2pConfig {
    let mut config = Libp2pConfig::loopback(SECRET);
    config.gossip.heartbeat_interval = Duration::from_millis(200);
    config
}

fn web_socket() -> Libp2pConfig {
    Libp2pConfig { listen: vec!["/ip4/127.0.0.1/tcp/0/ws".parse().unwrap()], ..tcp() }
}

fn open_network() -> Libp2pConfig {
    Libp2pConfig { secret: Secret::NONE, ..tcp() }
}

async fn start(config: Libp2pConfig) -> Libp2pTransport {
    Libp2pTransport::start(&Identity::generate(), config).await.unwrap()
}

struct Started(fn() -> Libp2pConfig);

#[async_trait]
impl transport_suite::Fixture for Started {
    type Guard = ();

    async fn transports(&self, count: usize) -> ((), Vec<Arc<dyn PeerTransport>>) {
        let mut transports = Vec::new();
        for _ in 0..count {
            transports.push(Arc::new(start((self.0)()).await) as _);
        }
        ((), transports)
    }
}

ipfs_cluster::transport_conformance!(private_tcp, Started(tcp));
ipfs_cluster::transport_conformance!(private_web_socket, Started(web_socket));
ipfs_cluster::transport_conformance!(open_tcp, Started(open_network));

async fn within<T>(waiting: impl Future<Output = T>) -> T {
    timeout(WAIT, waiting).await.expect("this to happen")
}

async fn until(mut fact: impl FnMut() -> bool) {
    within(async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
