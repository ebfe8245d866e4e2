//! An IPFS daemon in this process, without which no peer is ready.

use ipfs_cluster::ipfs_connector::IpfsConnector;
use ipfs_cluster::testing::fake_kubo::{FakeKubo, FakeKuboConfig};
use ipfs_cluster::types::{Cid, PinMode};
use tokio::runtime::{Builder, Runtime};

/// A daemon, and what holds its pins.
pub(crate) struct Ipfs<D> {
    pub(crate) address: String,
    pub(crate) daemon: D,
    pub(crate) runtime: Runtime,
    _kubo: FakeKubo,
}

impl<D: IpfsConnector + Clone + Default> Ipfs<D> {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let daemon = D::default();
        let kubo = runtime.block_on(FakeKubo::start(daemon.clone(), FakeKuboConfig::default())).unwrap();
        Self { address: kubo.multiaddress(), daemon, runtime, _kubo: kubo }
    }

    pub(crate) fn is_pinned(&self, cid: &Cid) -> bool {
        self.runtime.block_on(self.daemon.is_pinned(cid, PinMode::Recursive)).unwrap()
    }
}
