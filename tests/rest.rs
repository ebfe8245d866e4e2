//! The REST API over real sockets, with a caller that sees every header and trailer.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

// In a folder, because files directly in `tests/` would be test programs of their own.
#[cfg(feature = "add")]
#[path = "rest/add.rs"]
mod add;
#[path = "rest/auth.rs"]
mod auth;
#[path = "rest/caller.rs"]
mod caller;
#[path = "rest/connections.rs"]
mod connections;
#[path = "rest/events.rs"]
mod events;
#[path = "rest/find.rs"]
mod find;
#[path = "rest/listeners.rs"]
mod listeners;
#[path = "rest/listings.rs"]
mod listings;
#[path = "rest/openapi.rs"]
mod openapi;
#[path = "rest/parts.rs"]
mod parts;
#[path = "rest/pins.rs"]
mod pins;
#[cfg(all(feature = "add", feature = "consensus-crdt"))]
#[path = "rest/resume.rs"]
mod resume;

use std::panic::Location;
use std::time::Duration;

use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::cluster::{Cluster, ClusterBuilder, presets};
use ipfs_cluster::ipfs_connector::MemoryIpfs;

use caller::Caller;

/// A peer in memory that serves its API on a loopback socket.
struct Peer {
    api: RestApi,
    cluster: Cluster,
    ipfs: MemoryIpfs,
}

impl Peer {
    async fn start() -> Self {
        Self::with(RestConfig::default(), |builder| builder).await
    }

    async fn with(config: RestConfig, choose: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        let ipfs = MemoryIpfs::new();
        let builder = Cluster::builder().preset(presets::InMemory).peername("peer").ipfs(ipfs.clone());
        let cluster = choose(builder).start().await.unwrap();
        let config = config.listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
        let api = RestApi::bind(config, cluster.clone()).await.unwrap();
        Self { api, cluster, ipfs }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.api.local_addresses()[0]
    }

    async fn caller(&self) -> Caller {
        Caller::connect(self.address()).await
    }
}

/// Longer than anything takes that works, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(90);

/// What has to happen, happens in the end; if not, the place that waits for it is said.
#[track_caller]
fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, what).await {
            Ok(happened) => happened,
            Err(_) => panic!("what is waited for at {place} did not happen within {PATIENCE:?}"),
        }
    }
}
