//! The connectors of this crate: their conformance suite, and Kubo's against daemons that fail, lie and hang.
#![cfg(all(feature = "testing", feature = "connector-kubo", feature = "api-rest"))]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "ipfs_connector/faults.rs"]
mod faults;
#[path = "ipfs_connector/garbage.rs"]
mod garbage;
#[cfg(feature = "consensus-crdt")]
#[path = "ipfs_connector/leases.rs"]
mod leases;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipfs_cluster::ipfs_connector::{IpfsConnector, KuboConfig, KuboConnector, MemoryIpfs, MemoryIpfsConfig};
use ipfs_cluster::testing::fake_kubo::{FakeKubo, FakeKuboConfig};
use ipfs_cluster::testing::faulty_ipfs::FaultyIpfs;
use ipfs_cluster::testing::ipfs_suite;

/// How long a pin may make no progress. A daemon reports twice a second, on a busy machine less often.
const PIN_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(120);

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

/// The daemon waits as long as an online Kubo would, so that the connector's own timeouts decide.
fn patient_memory() -> MemoryIpfs {
    let forever = Duration::from_secs(24 * 60 * 60);
    MemoryIpfs::with_config(MemoryIpfsConfig {
        pin_timeout: forever,
        request_timeout: forever,
        ..MemoryIpfsConfig::default()
    })
}

struct Fake;

#[async_trait]
impl ipfs_suite::Fixture for Fake {
    type Guard = FakeKubo;

    async fn connector(&self) -> (FakeKubo, Arc<dyn IpfsConnector>) {
        let kubo = FakeKubo::start(patient_memory(), FakeKuboConfig::default()).await.unwrap();
        let connector = KuboConnector::with_config(kubo_config(&kubo.multiaddress())).unwrap();
        (kubo, Arc::new(connector))
    }

    async fn wait_idle(&self, kubo: &FakeKubo) {
        kubo.wait_requests(|requests| requests.running == 0).await;
    }

    fn resolves_names(&self) -> bool {
        true
    }
}

ipfs_cluster::ipfs_conformance!(fake_kubo, Fake);

/// A real daemon, offline, with a repository of its own.
struct RealKubo(PathBuf);

struct RunningKubo {
    daemon: Child,
    _repository: tempfile::TempDir,
}

impl Drop for RunningKubo {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl RealKubo {
    fn find() -> Option<Self> {
        let found = std::env::var_os("IPFS_CLUSTER_TEST_KUBO").map(|path| Self(path.into()));
        if found.is_none() {
            println!("skipped: no Kubo (run `cargo xtask kubo`)");
        }
        found
    }

    fn start(&self) -> (RunningKubo, String) {
        let repository = tempfile::tempdir().unwrap();
        let ipfs = |arguments: &[&str]| {
            let mut command = Command::new(&self.0);
            command
                .args(arguments)
                .env("IPFS_PATH", repository.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        // The profile has no bootstrap peers and random ports on 127.0.0.1.
        assert!(ipfs(&["init", "--profile=test", "--empty-repo"]).status().unwrap().success());
        let daemon = ipfs(&["daemon", "--offline"]).spawn().unwrap();
        let mut running = RunningKubo { daemon, _repository: repository };
        let api = running._repository.path().join("api");
        let started = Instant::now();
        let address = loop {
            if let Ok(address) = std::fs::read_to_string(&api)
                && !address.is_empty()
            {
                break address;
            }
            assert!(running.daemon.try_wait().unwrap().is_none(), "the daemon ended");
            assert!(started.elapsed() < START_TIMEOUT, "the daemon does not start");
            std::thread::sleep(Duration::from_millis(20));
        };
        (running, address)
    }
}

fn kubo_config(address: &str) -> KuboConfig {
    KuboConfig {
        pin_timeout: PIN_TIMEOUT,
        ipfs_request_timeout: Duration::from_secs(10),
        ..KuboConfig::at(address.parse().unwrap())
    }
}

#[async_trait]
impl ipfs_suite::Fixture for RealKubo {
    type Guard = RunningKubo;

    async fn connector(&self) -> (RunningKubo, Arc<dyn IpfsConnector>) {
        let (guard, address) = self.start();
        let connector = KuboConnector::with_config(KuboConfig {
            ipfs_request_timeout: Duration::from_secs(60),
            ..kubo_config(&address)
        })
        .unwrap();
        connector.ready().await.unwrap();
        (guard, Arc::new(connector))
    }

    /// Offline it never waits for content.
    async fn wait_idle(&self, _: &RunningKubo) {}

    fn resolves_names(&self) -> bool {
        true
    }
}

ipfs_cluster::ipfs_conformance!(
    real_kubo,
    match RealKubo::find() {
        Some(kubo) => kubo,
        None => return,
    }
);
