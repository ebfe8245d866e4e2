//! The IPFS daemon beside a peer of a [`TestCluster`](super::TestCluster): it outlives the peer, is slow, fails now and
//! then, and goes down.

use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::{
    Availability, IpfsConnector, IpfsPin, MemoryIpfs, MemoryIpfsConfig, MemorySwarm, PinProgress, Reference,
};
use crate::testing::random::Random;
use crate::types::{Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat};

const COMPONENT: &str = "test daemon";

/// How a daemon behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonManners {
    /// Longest time that pinning and unpinning take; each call takes any time up to it.
    pub latency_max: Duration,
    /// How many of a hundred pins and unpins fail.
    pub failures_percent: usize,
}

/// A daemon. Clones are the same daemon.
#[derive(Clone, Debug)]
pub struct TestDaemon {
    ipfs: MemoryIpfs,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    up: watch::Sender<bool>,
    behaviour: Mutex<(DaemonManners, Random)>,
}

impl TestDaemon {
    pub(super) fn new(number: u16, swarm: MemorySwarm, manners: DaemonManners, random: Random) -> Self {
        let ipfs = MemoryIpfs::with_config(MemoryIpfsConfig { number, swarm, ..MemoryIpfsConfig::default() });
        let shared = Shared { up: watch::Sender::new(true), behaviour: Mutex::new((manners, random)) };
        Self { ipfs, shared: Arc::new(shared) }
    }

    /// What it holds, to be looked at and filled.
    pub fn ipfs(&self) -> &MemoryIpfs {
        &self.ipfs
    }

    /// The daemon stops answering; calls that run fail.
    pub fn down(&self) {
        self.shared.up.send_replace(false);
    }

    /// The daemon answers again, and holds what it held.
    pub fn up(&self) {
        self.shared.up.send_replace(true);
    }

    /// Behaves otherwise from now on.
    pub fn set_manners(&self, manners: DaemonManners) {
        self.behaviour().0 = manners;
    }

    fn behaviour(&self) -> MutexGuard<'_, (DaemonManners, Random)> {
        self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How one process talks to it.
    pub(super) fn link(&self) -> DaemonLink {
        DaemonLink { daemon: self.clone(), cut: CancellationToken::new() }
    }
}

/// The connection of one process to its daemon. Clones are the same connection.
#[derive(Clone, Debug)]
pub(super) struct DaemonLink {
    daemon: TestDaemon,
    cut: CancellationToken,
}

impl DaemonLink {
    /// The process is no more: nothing it asked for happens from now on.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    async fn call<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let mut up = self.daemon.shared.up.subscribe();
        if self.cut.is_cancelled() {
            return Err(Error::shut_down(COMPONENT));
        }
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Error::shut_down(COMPONENT)),
            _ = up.wait_for(|up| !up) => Err(down()),
            answer = answer => answer,
        }
    }

    /// A call that changes what is pinned: slow, and fails now and then, half of the times after it was done.
    async fn change(&self, change: impl Future<Output = Result<()>>) -> Result<()> {
        let (wait, fails, late) = {
            let (manners, random) = &mut *self.daemon.behaviour();
            let wait = random.time(Duration::ZERO, manners.latency_max);
            (wait, random.percent(manners.failures_percent), random.percent(50))
        };
        let failure =
            || Err(Error::new(ErrorKind::Remote, "the daemon is in a bad mood").component(COMPONENT));
        self.call(async {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            if fails && !late {
                return failure();
            }
            change.await?;
            if fails { failure() } else { Ok(()) }
        })
        .await
    }

    fn stream<T: Send + 'static>(
        &self,
        items: impl FnOnce(&MemoryIpfs) -> BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let refusal = if self.cut.is_cancelled() {
            Some(Error::shut_down(COMPONENT))
        } else if *self.daemon.shared.up.borrow() {
            None
        } else {
            Some(down())
        };
        match refusal {
            Some(error) => stream::iter([Err(error)]).boxed(),
            None => items(&self.daemon.ipfs),
        }
    }
}

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "the daemon is down").component(COMPONENT)
}

#[async_trait]
impl IpfsConnector for DaemonLink {
    async fn ready(&self) -> Result<()> {
        let mut up = self.daemon.shared.up.subscribe();
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Error::shut_down(COMPONENT)),
            _ = up.wait_for(|up| *up) => Ok(()),
        }
    }
    async fn id(&self) -> Result<IpfsId> {
        self.call(self.daemon.ipfs.id()).await
    }
    async fn pin(&self, pin: &Pin) -> Result<()> {
        self.change(self.daemon.ipfs.pin(pin)).await
    }
    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.change(self.daemon.ipfs.unpin(cid)).await
    }
    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        self.call(self.daemon.ipfs.is_pinned(cid, mode)).await
    }
    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        self.stream(|ipfs| ipfs.list_pins(mode))
    }
    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        None
    }
    fn pins_in_progress(&self) -> Vec<PinProgress> {
        self.daemon.ipfs.pins_in_progress()
    }
    async fn repo_stat(&self) -> Result<RepoStat> {
        self.call(self.daemon.ipfs.repo_stat()).await
    }
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        self.stream(IpfsConnector::repo_gc)
    }
    async fn resolve(&self, path: &str) -> Result<Cid> {
        self.call(self.daemon.ipfs.resolve(path)).await
    }
    async fn put_blocks(&self, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.call(self.daemon.ipfs.put_blocks(blocks)).await
    }
    async fn reference_root(&self) -> Result<Option<PathBuf>> {
        self.call(self.daemon.ipfs.reference_root()).await
    }
    async fn put_reference(&self, file: &Reference, bytes: BoxStream<'static, Result<Bytes>>) -> Result<()> {
        self.call(self.daemon.ipfs.put_reference(file, bytes)).await
    }
    async fn hold(&self, lease: Block) -> Result<()> {
        self.change(self.daemon.ipfs.hold(lease)).await
    }
    async fn release(&self, leases: &[Cid]) -> Result<()> {
        self.change(self.daemon.ipfs.release(leases)).await
    }
    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        self.call(self.daemon.ipfs.get_block(cid)).await
    }
    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        self.call(self.daemon.ipfs.swarm_peers()).await
    }
    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        self.call(self.daemon.ipfs.swarm_connect(address)).await
    }
    fn availability(&self) -> BoxStream<'static, Availability> {
        let up = self.daemon.shared.up.subscribe();
        let start = (up, self.cut.clone(), true);
        stream::unfold(start, |(mut up, cut, first)| async move {
            if !first {
                tokio::select! {
                    biased;
                    () = cut.cancelled() => return None,
                    changed = up.changed() => changed.ok()?,
                }
            }
            let now = if *up.borrow_and_update() { Availability::Up } else { Availability::Down(down()) };
            Some((now, (up, cut, false)))
        })
        .boxed()
    }
    async fn shutdown(&self) -> Result<()> {
        self.cut();
        Ok(())
    }
}
