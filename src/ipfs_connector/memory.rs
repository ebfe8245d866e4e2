//! An embedded IPFS in memory: for tests, examples, and applications that keep small content themselves.
//!
//! It stores blocks, pins DAGs, lists and collects garbage as Kubo does, refusals included. Content it lacks is not an
//! error at once: like Kubo it waits for the blocks, from [`put_blocks`](IpfsConnector::put_blocks) or from the daemons
//! it is connected to, and gives up when nothing arrives for a while. It starts no task and no thread, and asks nobody
//! for time but tokio or for randomness, so that a test on paused time always runs the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use multiaddr::Protocol;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::dag::{self, HASH_IDENTITY};
use super::path::ContentPath;
use super::sample;
use super::walk::Walk;
use super::{Availability, IpfsConnector, IpfsPin, support};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{
    Block, Cid, IpfsId, MAX_DEPTH_RECURSIVE, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat,
};

/// Pins of one page of a listing.
const LIST_PAGE_PINS: usize = 1_024;
/// Blocks that a pin looks at before it lets other tasks run.
const WALK_STEP_BLOCKS: usize = 1_024;
/// Addresses of [`PinOptions::origins`](crate::types::PinOptions) that are tried, as with Kubo.
const ORIGINS_MAX: usize = 10;
const COMPONENT: &str = "memory-ipfs";

/// The digest and its function: what a block is stored under, whatever the codec of the CID that asks.
type BlockKey = ::cid::multihash::Multihash<64>;

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

/// A network of [`MemoryIpfs`] daemons that can find each other by address. Clones are the same network.
#[derive(Clone)]
pub struct MemorySwarm(Arc<Swarm>);

struct Swarm {
    daemons: Mutex<BTreeMap<PeerId, Weak<Inner>>>,
    /// Grows with every block that is stored and every new connection anywhere in the network; wakes who waits for blocks.
    changes: watch::Sender<u64>,
}

impl Default for MemorySwarm {
    fn default() -> Self {
        Self(Arc::new(Swarm { daemons: Mutex::default(), changes: watch::Sender::new(0) }))
    }
}

impl fmt::Debug for MemorySwarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySwarm").field("daemons", &lock(&self.0.daemons).len()).finish()
    }
}

impl MemorySwarm {
    fn announce_change(&self) {
        self.0.changes.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn find(&self, peer: &PeerId) -> Option<Arc<Inner>> {
        lock(&self.0.daemons).get(peer).and_then(Weak::upgrade)
    }
}

/// One embedded IPFS daemon. Clones are the same daemon.
#[derive(Clone)]
pub struct MemoryIpfs {
    inner: Arc<Inner>,
}

struct Inner {
    config: MemoryIpfsConfig,
    peer: PeerId,
    address: Multiaddr,
    repo: Mutex<Repo>,
    availability: watch::Sender<Option<Availability>>,
    stopped: CancellationToken,
}

#[derive(Default)]
struct Repo {
    blocks: BTreeMap<BlockKey, Bytes>,
    block_bytes: u64,
    /// With the depth, `-1` for all of it. Kubo calls them all recursive.
    recursive: BTreeMap<Cid, i32>,
    direct: BTreeSet<Cid>,
    connected: BTreeSet<PeerId>,
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
        let inner = Arc::new(Inner {
            config,
            peer,
            address,
            repo: Mutex::default(),
            availability: watch::Sender::new(Some(Availability::Up)),
            stopped: CancellationToken::new(),
        });
        lock(&inner.config.swarm.0.daemons).insert(peer, Arc::downgrade(&inner));
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

impl Repo {
    fn remove_block(&mut self, key: &BlockKey) -> bool {
        let removed = self.blocks.remove(key);
        self.block_bytes -= removed.as_ref().map_or(0, |data| data.len() as u64);
        removed.is_some()
    }

    fn is_pinned(&self, cid: &Cid, mode: PinMode) -> bool {
        match mode {
            PinMode::Recursive => self.recursive.contains_key(cid),
            PinMode::Direct => self.direct.contains(cid),
        }
    }

    /// Whether a pin of this depth changes nothing.
    fn holds(&self, cid: &Cid, max_depth: i32) -> bool {
        match (PinMode::from_max_depth(max_depth), self.recursive.get(cid)) {
            (PinMode::Direct, _) => self.direct.contains(cid),
            (PinMode::Recursive, None) => false,
            (PinMode::Recursive, Some(&held)) => held < 0 || (max_depth >= 0 && held >= max_depth),
        }
    }

    /// Kubo keeps one pin for each CID: a recursive one replaces a direct one, and the other way is refused.
    fn check_conflict(&self, cid: &Cid, max_depth: i32) -> Result<()> {
        if PinMode::from_max_depth(max_depth) == PinMode::Direct && self.recursive.contains_key(cid) {
            return Err(remote(format!("pin: {cid} already pinned recursively")));
        }
        Ok(())
    }

    fn list(&self, mode: PinMode, after: Option<Cid>) -> Vec<IpfsPin> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let page = |cids: &mut dyn Iterator<Item = &Cid>| {
            cids.take(LIST_PAGE_PINS).map(|cid| IpfsPin { cid: *cid, mode }).collect()
        };
        match mode {
            PinMode::Recursive => page(&mut self.recursive.range(range).map(|(cid, _)| cid)),
            PinMode::Direct => page(&mut self.direct.range(range)),
        }
    }

    /// Blocks that no pin reaches. A pinned DAG that lacks blocks keeps what it has.
    fn garbage(&self) -> Vec<BlockKey> {
        let mut kept: BTreeSet<BlockKey> = self.direct.iter().map(|cid| *cid.hash()).collect();
        for (cid, depth) in &self.recursive {
            let mut walk = Walk::new(*cid, *depth);
            // A block that cannot be read has no links that could keep anything.
            while walk.step(usize::MAX, &mut |cid| self.block(cid)).is_err() {}
            kept.extend(walk.visited().map(|cid| *cid.hash()));
        }
        self.blocks.keys().filter(|key| !kept.contains(key)).copied().collect()
    }

    fn has_block(&self, cid: &Cid) -> bool {
        cid.hash().code() == HASH_IDENTITY || self.blocks.contains_key(cid.hash())
    }

    fn block(&self, cid: &Cid) -> Option<Bytes> {
        if cid.hash().code() == HASH_IDENTITY {
            return Some(Bytes::copy_from_slice(cid.hash().digest()));
        }
        self.blocks.get(cid.hash()).cloned()
    }
}

impl Inner {
    fn store(&self, block: Block) {
        if block.cid.hash().code() == HASH_IDENTITY {
            return;
        }
        {
            let mut repo = lock(&self.repo);
            let bytes = block.data.len() as u64;
            if repo.blocks.insert(*block.cid.hash(), block.data).is_none() {
                repo.block_bytes += bytes;
            }
        }
        self.config.swarm.announce_change();
    }

    fn block(&self, cid: &Cid) -> Option<Bytes> {
        lock(&self.repo).block(cid)
    }

    /// The block from here, else from a connected daemon, and then it is kept here too.
    fn fetch(&self, cid: &Cid) -> Option<Bytes> {
        if let Some(data) = self.block(cid) {
            return Some(data);
        }
        // Copied, so that never two daemons are locked at once.
        let connected: Vec<PeerId> = lock(&self.repo).connected.iter().copied().collect();
        let data = connected.iter().filter_map(|peer| self.config.swarm.find(peer)).find_map(|daemon| {
            let answers = !daemon.stopped.is_cancelled();
            if answers { daemon.block(cid) } else { None }
        })?;
        self.store(Block { cid: *cid, data: data.clone() });
        Some(data)
    }

    fn connect(self: &Arc<Self>, other: &Arc<Self>) {
        if Arc::ptr_eq(self, other) {
            return;
        }
        lock(&self.repo).connected.insert(other.peer);
        lock(&other.repo).connected.insert(self.peer);
        self.config.swarm.announce_change();
    }

    fn dial(self: &Arc<Self>, address: &Multiaddr) -> Result<()> {
        let peer = address.iter().find_map(|part| match part {
            Protocol::P2p(peer) => Some(peer),
            _ => None,
        });
        let Some(peer) = peer else {
            return Err(remote(format!("invalid peer address: {address} has no /p2p/ part")));
        };
        match self.config.swarm.find(&peer).filter(|daemon| !daemon.stopped.is_cancelled()) {
            Some(daemon) => {
                self.connect(&daemon);
                Ok(())
            }
            None => {
                Err(remote(format!("connect {peer} failure: failed to dial: no such daemon in the swarm")))
            }
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.stopped.is_cancelled() { Err(Error::shut_down(COMPONENT)) } else { Ok(()) }
    }

    /// Runs a call until it ends or the daemon stops.
    async fn open<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(Error::shut_down(COMPONENT)),
            answer = call => answer,
        }
    }

    async fn fetch_or_wait(&self, cid: &Cid) -> Result<Bytes> {
        let mut changes = self.config.swarm.0.changes.subscribe();
        let wait = async {
            loop {
                changes.mark_unchanged();
                if let Some(data) = self.fetch(cid) {
                    return data;
                }
                // The sender is in our own configuration.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(self.config.request_timeout, wait).await.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                format!("block {cid} was not found within {:?}", self.config.request_timeout),
            )
            .component(COMPONENT)
        })
    }

    /// Gets the whole DAG, for as long as blocks keep coming.
    async fn complete(&self, walk: &mut Walk, root: &Cid) -> Result<()> {
        let mut changes = self.config.swarm.0.changes.subscribe();
        let mut found = 0;
        let mut deadline = tokio::time::Instant::now() + self.config.pin_timeout;
        loop {
            changes.mark_unchanged();
            while walk
                .step(WALK_STEP_BLOCKS, &mut |cid| self.fetch(cid))
                .map_err(|error| remote(format!("pin: {}", error.message())))?
            {
                tokio::task::yield_now().await;
            }
            if walk.is_complete() {
                return Ok(());
            }
            if walk.visited_len() > found {
                found = walk.visited_len();
                deadline = tokio::time::Instant::now() + self.config.pin_timeout;
            }
            tokio::select! {
                biased;
                _ = changes.changed() => walk.retry_missing(),
                () = tokio::time::sleep_until(deadline) => {
                    let missing = walk.first_missing().unwrap_or(root);
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!(
                            "pinning {root} made no progress for {:?}: nobody has block {missing}",
                            self.config.pin_timeout
                        ),
                    )
                    .component(COMPONENT));
                }
            }
        }
    }

    async fn pin(self: &Arc<Self>, pin: &Pin) -> Result<()> {
        let (cid, depth) = (pin.cid, pin.max_depth);
        {
            let repo = lock(&self.repo);
            if repo.holds(&cid, depth) {
                return Ok(());
            }
            repo.check_conflict(&cid, depth)?;
        }
        for origin in pin.options.origins.iter().take(ORIGINS_MAX) {
            // Best effort, as with Kubo: the content may come from elsewhere.
            let _ = self.dial(origin);
        }
        loop {
            let mut walk = Walk::new(cid, depth);
            self.complete(&mut walk, &cid).await?;
            let mut repo = lock(&self.repo);
            // Garbage may have been collected since the walk began.
            if !walk.visited().all(|cid| repo.has_block(cid)) {
                continue;
            }
            repo.check_conflict(&cid, depth)?;
            match PinMode::from_max_depth(depth) {
                PinMode::Direct => {
                    repo.direct.insert(cid);
                }
                PinMode::Recursive => {
                    if !repo.holds(&cid, depth) {
                        repo.recursive.insert(cid, depth.max(MAX_DEPTH_RECURSIVE));
                    }
                    repo.direct.remove(&cid);
                }
            }
            return Ok(());
        }
    }

    async fn resolve(&self, path: &ContentPath) -> Result<Cid> {
        let Some(mut cid) = path.root else {
            return Err(remote(format!("could not resolve name: {} (no name system in memory)", path.text)));
        };
        for name in &path.names {
            let data = self.fetch_or_wait(&cid).await?;
            let links = dag::links(&cid, &data).map_err(|error| remote(error.message().to_owned()))?;
            cid = links
                .into_iter()
                .find(|link| link.name == *name)
                .map(|link| link.cid)
                .ok_or_else(|| remote(format!("no link named {name:?} under {cid}")))?;
        }
        Ok(cid)
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
