//! A daemon at work: blocks from itself and from others, and waiting for them.

use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use multiaddr::Protocol;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::repo::Repo;
use super::{COMPONENT, MemoryIpfsConfig, lock, remote};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::Availability;
use crate::ipfs_connector::dag::{self, HASH_IDENTITY};
use crate::ipfs_connector::path::ContentPath;
use crate::ipfs_connector::walk::Walk;
use crate::types::{Block, Cid, MAX_DEPTH_RECURSIVE, Multiaddr, PeerId, Pin, PinMode};

/// Addresses of [`PinOptions::origins`](crate::types::PinOptions) that are tried, as with Kubo.
const ORIGINS_MAX: usize = 10;
/// Blocks that a pin looks at before it lets other tasks run.
const WALK_STEP_BLOCKS: usize = 1_024;

/// What the clones of a [`MemoryIpfs`](super::MemoryIpfs) share.
pub(super) struct Daemon {
    pub(super) config: MemoryIpfsConfig,
    pub(super) peer: PeerId,
    pub(super) address: Multiaddr,
    pub(super) repo: Mutex<Repo>,
    pub(super) availability: watch::Sender<Option<Availability>>,
    pub(super) stopped: CancellationToken,
}

impl Daemon {
    pub(super) fn store(&self, block: Block) {
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

    pub(super) fn block(&self, cid: &Cid) -> Option<Bytes> {
        lock(&self.repo).block(cid)
    }

    /// The block from here, else from a connected daemon, and then it is kept here too.
    pub(super) fn fetch(&self, cid: &Cid) -> Option<Bytes> {
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

    pub(super) fn connect(self: &Arc<Self>, other: &Arc<Self>) {
        if Arc::ptr_eq(self, other) {
            return;
        }
        lock(&self.repo).connected.insert(other.peer);
        lock(&other.repo).connected.insert(self.peer);
        self.config.swarm.announce_change();
    }

    pub(super) fn dial(self: &Arc<Self>, address: &Multiaddr) -> Result<()> {
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

    pub(super) fn check_open(&self) -> Result<()> {
        if self.stopped.is_cancelled() { Err(Error::shut_down(COMPONENT)) } else { Ok(()) }
    }

    /// Runs a call until it ends or the daemon stops.
    pub(super) async fn open<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(Error::shut_down(COMPONENT)),
            answer = call => answer,
        }
    }

    pub(super) async fn fetch_or_wait(&self, cid: &Cid) -> Result<Bytes> {
        let mut changes = self.config.swarm.changes();
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
    pub(super) async fn complete(&self, walk: &mut Walk, root: &Cid) -> Result<()> {
        let mut changes = self.config.swarm.changes();
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

    pub(super) async fn pin(self: &Arc<Self>, pin: &Pin) -> Result<()> {
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

    pub(super) async fn resolve(&self, path: &ContentPath) -> Result<Cid> {
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
