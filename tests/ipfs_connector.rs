//! The connectors of this crate: their conformance suite.
#![cfg(feature = "testing")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipfs_cluster::ipfs_connector::{IpfsConnector, MemoryIpfs, MemoryIpfsConfig};
use ipfs_cluster::testing::faulty_ipfs::FaultyIpfs;
use ipfs_cluster::testing::ipfs_suite;

fn memory() -> MemoryIpfs {
    MemoryIpfs::with_config(MemoryIpfsConfig {
        pin_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(300),
        ..MemoryIpfsConfig::default()
    })
}

struct Memory;

#[async_trait]
impl ipfs_suite::Fixture for Memory {
    type Guard = ();

    async fn connector(&self) -> ((), Arc<dyn IpfsConnector>) {
        ((), Arc::new(memory()))
    }

    async fn wait_idle(&self, (): &()) {}

    fn resolves_names(&self) -> bool {
        true
    }
}

ipfs_cluster::ipfs_conformance!(memory_ipfs, Memory);

struct Faulty;

#[async_trait]
impl ipfs_suite::Fixture for Faulty {
    type Guard = ();

    async fn connector(&self) -> ((), Arc<dyn IpfsConnector>) {
        ((), Arc::new(FaultyIpfs::new(memory())))
    }

    async fn wait_idle(&self, (): &()) {}

    fn resolves_names(&self) -> bool {
        true
    }
}

ipfs_cluster::ipfs_conformance!(faulty_ipfs, Faulty);
