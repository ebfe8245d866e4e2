//! An embedded IPFS in memory: for tests, examples, and applications that keep small content themselves.
//!
//! It stores blocks, pins DAGs, lists and collects garbage as Kubo does, refusals included. Content it lacks is not an
//! error at once: like Kubo it waits for the blocks, from [`put_blocks`](IpfsConnector::put_blocks) or from the daemons
//! it is connected to, and gives up when nothing arrives for a while. It starts no task and no thread, and asks nobody
//! for time but tokio or for randomness, so that a test on paused time always runs the same.

mod daemon;
mod repo;
mod swarm;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use multiaddr::Protocol;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::daemon::Daemon;
pub use self::swarm::MemorySwarm;
use super::path::ContentPath;
use super::{Availability, IpfsConnector, IpfsPin, dag, sample, support};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{
    Block, Cid, IpfsId, MAX_DEPTH_RECURSIVE, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat,
};

const COMPONENT: &str = "memory-ipfs";

/// What a [`MemoryIpfs`] is made from.
#[derive(Clone, Debug)]
pub struct MemoryIpfsConfig {
    /// Tells daemons of one swarm apart; the daemon's peer id and address are made from it.
    pub number: u16,
    /// Bytes that [`repo_stat`](IpfsConnector::repo_stat) gives as the limit. As with Kubo nothing enforces it.
    pub storage_max: u64,
    /// A pin that gets no new block for so long fails with `Timeout`.
    pub pin_timeout: Duration,
    /// A read of a block that does not come for so long fails with `Timeout`.
    pub request_timeout: Duration,
    /// What [`pin_concurrency`](IpfsConnector::pin_concurrency) answers.
    pub pin_concurrency: Option<NonZeroUsize>,
    /// Whether [`unpin`](IpfsConnector::unpin) is refused.
    pub unpin_disable: bool,
    /// The network it is in.
    pub swarm: MemorySwarm,
}

impl Default for MemoryIpfsConfig {
    /// Kubo's 10 GB, the reference's two and five minutes, a network of its own.
    fn default() -> Self {
        Self {
            number: 0,
            storage_max: 10_000_000_000,
            pin_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(300),
            pin_concurrency: None,
            unpin_disable: false,
            swarm: MemorySwarm::default(),
        }
    }
}

/// One embedded IPFS daemon. Clones are the same daemon.
#[derive(Clone)]
pub struct MemoryIpfs {
    inner: Arc<Daemon>,
}

impl Default for MemoryIpfs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryIpfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repo = lock(&self.inner.repo);
        f.debug_struct("MemoryIpfs")
            .field("peer", &self.inner.peer)
            .field("blocks", &repo.blocks.len())
            .field("recursive", &repo.recursive.len())
            .field("direct", &repo.direct.len())
            .finish()
    }
}

/// Nothing here panics between two changes that belong together, so a poisoned lock still guards sound data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryIpfs {
    /// An empty daemon in a network of its own.
    pub fn new() -> Self {
        Self::with_config(MemoryIpfsConfig::default())
    }

    /// An empty daemon. One with the same number in the same swarm takes over the address of the earlier.
    pub fn with_config(config: MemoryIpfsConfig) -> Self {
        let peer = numbered_peer(config.number);
        let [high, low] = config.number.to_be_bytes();
        let mut address = Multiaddr::empty();
        address.push(Protocol::Ip4([127, 99, high, low].into()));
        address.push(Protocol::Tcp(4001));
        address.push(Protocol::P2p(peer));
        let inner = Arc::new(Daemon {
            config,
            peer,
            address,
            repo: Mutex::default(),
            availability: watch::Sender::new(Some(Availability::Up)),
            stopped: CancellationToken::new(),
        });
        inner.config.swarm.add(&inner);
        Self { inner }
    }

    /// Stores bytes as `ipfs add --cid-version=1 --pin=false` does (one raw block, or a tree of them above 256 KiB) and
    /// returns the root.
    pub fn add_sample(&self, data: impl Into<Bytes>) -> Cid {
        let (root, blocks) = sample::sample_file(data);
        for block in blocks {
            self.inner.store(block);
        }
        root
    }

    /// Stores one block, unpinned.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not those of the CID; `Unsupported` when its hash function is not known.
    pub fn put(&self, block: Block) -> Result<()> {
        self.inner.store(Block::verified(block.cid, block.data)?);
        Ok(())
    }

    /// Whether the block is in the daemon's own store.
    pub fn has_block(&self, cid: &Cid) -> bool {
        lock(&self.inner.repo).has_block(cid)
    }

    /// Takes a block out of the store, pinned or not, as a damaged disk would. Whether it was there.
    pub fn lose_block(&self, cid: &Cid) -> bool {
        lock(&self.inner.repo).remove_block(cid.hash())
    }

    /// Connects two daemons of one swarm, so that each pins and reads what the other stores.
    pub fn connect(&self, other: &Self) {
        self.inner.connect(&other.inner);
    }

    /// Where other daemons of the swarm find this one; what its [`id`](IpfsConnector::id) gives.
    pub fn address(&self) -> &Multiaddr {
        &self.inner.address
    }

    /// The peer id of the daemon.
    pub fn peer(&self) -> PeerId {
        self.inner.peer
    }
}

/// A peer id of the usual kind from a number.
fn numbered_peer(number: u16) -> PeerId {
    let mut secret = [0x1b; 32];
    secret[..2].copy_from_slice(&number.to_be_bytes());
    match libp2p_identity::Keypair::ed25519_from_bytes(secret) {
        Ok(keypair) => keypair.public().to_peer_id(),
        // Never so: any 32 bytes are a secret key.
        Err(_) => PeerId::random(),
    }
}

/// What Kubo would refuse, in its words.
fn remote(message: String) -> Error {
    Error::new(ErrorKind::Remote, message).component(COMPONENT)
}

#[async_trait]
impl IpfsConnector for MemoryIpfs {
    async fn ready(&self) -> Result<()> {
        self.inner.check_open()
    }

    async fn id(&self) -> Result<IpfsId> {
        self.inner.check_open()?;
        Ok(IpfsId {
            id: Some(self.inner.peer),
            addresses: Some(vec![self.inner.address.clone()]),
            error: String::new(),
        })
    }

    async fn pin(&self, pin: &Pin) -> Result<()> {
        self.inner.open(self.inner.pin(pin)).await
    }

    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.inner.check_open()?;
        if self.inner.config.unpin_disable {
            return Err(support::unpin_disabled().component(COMPONENT));
        }
        let mut repo = lock(&self.inner.repo);
        repo.recursive.remove(cid);
        repo.direct.remove(cid);
        Ok(())
    }

    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        self.inner.check_open()?;
        Ok(lock(&self.inner.repo).is_pinned(cid, mode))
    }

    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        enum Next {
            After(Option<Cid>),
            End,
        }
        stream::unfold((Arc::clone(&self.inner), Next::After(None)), move |(inner, next)| async move {
            let Next::After(after) = next else { return None };
            if let Err(error) = inner.check_open() {
                return Some((Err(error), (inner, Next::End)));
            }
            let page = lock(&inner.repo).list(mode, after);
            let last = page.last()?.cid;
            Some((Ok(page), (inner, Next::After(Some(last)))))
        })
        .boxed()
    }

    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        self.inner.config.pin_concurrency
    }

    async fn repo_stat(&self) -> Result<RepoStat> {
        self.inner.check_open()?;
        Ok(RepoStat {
            repo_size: lock(&self.inner.repo).block_bytes,
            storage_max: self.inner.config.storage_max,
        })
    }

    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        let inner = Arc::clone(&self.inner);
        stream::once(async move {
            let removed = inner.check_open().map(|()| {
                let mut repo = lock(&inner.repo);
                let garbage = repo.garbage();
                for key in &garbage {
                    repo.remove_block(key);
                }
                garbage
            });
            match removed {
                // Kubo too knows only the hash of what it removes.
                Ok(keys) => stream::iter(keys)
                    .map(|key| {
                        let cid = Cid::new_v1(dag::CODEC_RAW, key);
                        Ok(RepoGcKey { key: Some(cid), error: String::new() })
                    })
                    .boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn resolve(&self, path: &str) -> Result<Cid> {
        let path = ContentPath::parse(path)?;
        self.inner.open(self.inner.resolve(&path)).await
    }

    async fn put_blocks(&self, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        let put = async {
            while let Some(block) = blocks.next().await {
                self.put(block?)?;
            }
            Ok(())
        };
        self.inner.open(put).await
    }

    async fn hold(&self, lease: Block) -> Result<()> {
        self.inner.check_open()?;
        let cid = lease.cid;
        self.put(lease)?;
        lock(&self.inner.repo).recursive.insert(cid, MAX_DEPTH_RECURSIVE);
        Ok(())
    }

    async fn release(&self, leases: &[Cid]) -> Result<()> {
        self.inner.check_open()?;
        let mut repo = lock(&self.inner.repo);
        for lease in leases {
            repo.recursive.remove(lease);
        }
        Ok(())
    }

    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        let data = self.inner.open(self.inner.fetch_or_wait(cid)).await?;
        Ok(Block { cid: *cid, data })
    }

    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        self.inner.check_open()?;
        Ok(lock(&self.inner.repo).connected.iter().copied().collect())
    }

    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        self.inner.check_open()?;
        self.inner.dial(address)
    }

    fn availability(&self) -> BoxStream<'static, Availability> {
        let changes = self.inner.availability.subscribe();
        let stopped = self.inner.stopped.clone();
        support::availability_stream(changes, stopped)
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.stopped.cancel();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
