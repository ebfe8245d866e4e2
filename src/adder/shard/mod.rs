//! Content larger than one daemon: its blocks in shards, each with destinations of its own, listed by a small DAG.
//!
//! ```text
//! meta pin (the content's root) ─▶ cluster DAG pin: {"0": shard, "1": shard, …}     everywhere, direct
//! shard pin: {"0": block, "1": block, …} + those blocks                              on the peers allocated to it
//! ```
//!
//! Format, names, references and depths are the reference's, but for one: a shard whose list is two levels deep is pinned
//! two levels deep, so that its blocks are.

mod dag;

use std::collections::BTreeSet;
use std::fmt;
use std::mem;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _};
use tracing::{debug, warn};

pub use self::dag::NODE_LINKS_MAX;
use super::destinations::{Destinations, Placement};
use super::{BlockSink, DagBlock, Lines};
use crate::consensus::OPERATIONS_MAX;
use crate::error::{Error, Result};
use crate::types::{
    Added, Cid, MAX_DEPTH_DIRECT, PeerId, Pin, PinMode, PinOperation, PinOptions, PinType, Revision,
};

/// Most blocks of one shard; the next one begins there, however much room is left.
pub const SHARD_BLOCKS_MAX: usize = 262_144;
/// Most shards of one DAG: they are unpinned in one batch, with the cluster DAG and the root.
pub const SHARDS_MAX: usize = OPERATIONS_MAX - 2;
/// Blocks that are remembered at least, so that they are not put into a shard again.
const REMEMBERED_BLOCKS: usize = 65_536;

const COMPONENT: &str = "adder";

/// What shards need of the peer that adds.
#[async_trait]
pub trait ShardHost: fmt::Debug + Send + Sync + 'static {
    /// This peer, whose daemon gets the cluster DAG.
    fn local_peer(&self) -> PeerId;

    /// Checks a pin that has its allocations, and says how it is to be stored and what is there now.
    ///
    /// # Errors
    /// As `Cluster::pin`.
    async fn prepare(&self, pin: Pin) -> Result<Pinned>;

    /// Logs these as one batch.
    ///
    /// # Errors
    /// As `Consensus::log_many`. A dropped call may still be logged.
    async fn log(&self, operations: Vec<PinOperation>) -> Result<()>;
}

/// An entry that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// As it is to be.
    pub now: Pin,
    /// What it replaces.
    pub before: Option<Pin>,
}

impl Pinned {
    /// Puts back what was there, if nobody changed the entry meanwhile.
    fn undo(self) -> PinOperation {
        PinOperation::Revise(match self.before {
            Some(before) => Revision::replace(self.now, before),
            None => Revision::remove(self.now),
        })
    }
}

/// A sink that fills one shard after the other. Dropped before [`Self::finish`] returned Ok, it unpins what it pinned.
#[derive(Debug)]
pub struct ShardSink {
    host: Arc<dyn ShardHost>,
    placement: Arc<dyn Placement>,
    options: PinOptions,
    lines: Lines,
    current: Option<Shard>,
    shards: Vec<Cid>,
    /// Bytes of the blocks in all shards.
    bytes: u64,
    seen: Remembered,
    pinned: Vec<Pinned>,
}

#[derive(Debug)]
struct Shard {
    sink: Destinations,
    links: Vec<Cid>,
    bytes: u64,
}

impl ShardSink {
    /// A sink for shards of `options.shard_size` bytes, for each of which `placement` chooses anew. Lines about finished
    /// shards go to `lines`.
    pub fn new(
        host: Arc<dyn ShardHost>,
        placement: Arc<dyn Placement>,
        mut options: PinOptions,
        lines: Lines,
    ) -> Self {
        options.mode = PinMode::Recursive;
        options.pin_update = None;
        Self {
            host,
            placement,
            options,
            lines,
            current: None,
            shards: Vec::new(),
            bytes: 0,
            seen: Remembered::default(),
            pinned: Vec::new(),
        }
    }

    /// Finishes the last shard, stores and pins the cluster DAG, and pins the root. Gives the pin of the root. Not
    /// cancel-safe.
    ///
    /// # Errors
    /// As [`BlockSink::put`]; whatever keeps a pin from being made. [`Self::give_up`] is to follow.
    pub async fn finish(&mut self, root: &Cid) -> Result<Pin> {
        self.flush().await?;
        if self.shards.is_empty() {
            return Err(Error::invalid_input("there are no blocks to be sharded").component(COMPONENT));
        }
        let nodes = dag::nodes(&self.shards);
        let Some(cluster_dag) = nodes.first().map(|node| node.cid) else {
            return Err(Error::internal("a cluster DAG without a root").component(COMPONENT));
        };
        let local = self.host.local_peer();
        let blocks = stream::iter(nodes).map(Ok).boxed();
        self.placement.put_blocks(&local, blocks).await.map_err(|error| {
            let text = format!("putting the cluster DAG on the daemon of this peer: {error}");
            Error::new(error.kind(), text).component(COMPONENT).with_source(error)
        })?;
        let name = format!("{}-clusterDAG", self.options.name);
        let size = self.bytes;
        self.lines.tell(Added { name: name.clone(), cid: Some(cluster_dag), size, ..Added::default() }).await;

        let mut pin = self.pin_of(cluster_dag, PinType::ClusterDag, MAX_DEPTH_DIRECT, Some(*root));
        pin.options.name = name;
        pin.options.replication_factor_min = -1;
        pin.options.replication_factor_max = -1;
        self.pin(pin).await?;
        let meta = self.pin_of(*root, PinType::Meta, MAX_DEPTH_DIRECT, Some(cluster_dag));
        let meta = self.pin(meta).await?;
        debug!(%root, %cluster_dag, shards = self.shards.len(), bytes = self.bytes, "sharded");
        self.pinned.clear();
        Ok(meta)
    }

    /// Unpins what was pinned, and restores what that replaced.
    pub async fn give_up(&mut self) {
        self.current = None;
        undo(Arc::clone(&self.host), mem::take(&mut self.pinned)).await;
    }

    fn pin_of(&self, cid: Cid, pin_type: PinType, max_depth: i32, reference: Option<Cid>) -> Pin {
        Pin { pin_type, max_depth, reference, ..Pin::new(cid, self.options.clone()) }
    }

    async fn pin(&mut self, pin: Pin) -> Result<Pin> {
        let pinned = self.host.prepare(pin).await?;
        let now = pinned.now.clone();
        // Noted first: who goes away while it is logged does not know whether it was.
        self.pinned.push(pinned);
        self.host.log(vec![PinOperation::Pin(Arc::new(now.clone()))]).await?;
        Ok(now)
    }

    /// Ends the shard that is being filled, and pins it.
    async fn flush(&mut self) -> Result<()> {
        let Some(Shard { mut sink, links, bytes }) = self.current.take() else { return Ok(()) };
        let number = self.shards.len();
        if number == SHARDS_MAX {
            return Err(Error::invalid_input(format!(
                "content of more than {SHARDS_MAX} shards: choose a larger shard size"
            ))
            .component(COMPONENT));
        }
        let nodes = dag::nodes(&links);
        let root = nodes.first().map(|node| node.cid);
        let mut below = bytes;
        for node in nodes.into_iter().rev() {
            below += node.data.len() as u64;
            sink.put(DagBlock { block: node, dag_bytes: below }).await?;
        }
        let allocations = sink.finish().await?;
        let Some(root) = root else { return Ok(()) };
        let depth = if dag::is_indirect(links.len()) { 2 } else { 1 };
        let mut pin = self.pin_of(root, PinType::Shard, depth, self.shards.last().copied());
        pin.options.name = format!("{}-shard-{number}", self.options.name);
        pin.options.shard_size = bytes;
        pin.allocations = allocations.clone();
        self.pin(pin).await?;
        self.shards.push(root);
        self.bytes += bytes;
        let name = format!("shard-{number}");
        self.lines.tell(Added { name, cid: Some(root), size: bytes, allocations, ..Added::default() }).await;
        Ok(())
    }
}

#[async_trait]
impl BlockSink for ShardSink {
    async fn put(&mut self, block: DagBlock) -> Result<()> {
        if self.seen.contains(&block.block.cid) {
            return Ok(());
        }
        let size = block.block.data.len() as u64;
        let full = |shard: &Shard| {
            shard.bytes + size >= self.options.shard_size || shard.links.len() >= SHARD_BLOCKS_MAX
        };
        // The reference's rule: a shard has less than its size, so that a block of that size fits nowhere.
        if size >= self.options.shard_size {
            return Err(Error::invalid_input("block doesn't fit in empty shard: shard size too small?")
                .component(COMPONENT));
        }
        if self.current.as_ref().is_some_and(full) {
            self.flush().await?;
        }
        let shard = match &mut self.current {
            Some(shard) => shard,
            none => none.insert(Shard {
                sink: Destinations::new(Arc::clone(&self.placement)),
                links: Vec::new(),
                bytes: 0,
            }),
        };
        let cid = block.block.cid;
        shard.sink.put(block).await?;
        shard.links.push(cid);
        shard.bytes += size;
        self.seen.insert(cid);
        Ok(())
    }

    fn allocations(&self) -> Vec<PeerId> {
        self.current.as_ref().map(|shard| shard.sink.allocations()).unwrap_or_default()
    }
}

impl Drop for ShardSink {
    fn drop(&mut self) {
        let pinned = mem::take(&mut self.pinned);
        if let (false, Ok(runtime)) = (pinned.is_empty(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(undo(Arc::clone(&self.host), pinned));
        }
    }
}

async fn undo(host: Arc<dyn ShardHost>, pinned: Vec<Pinned>) {
    if pinned.is_empty() {
        return;
    }
    let count = pinned.len();
    let operations = pinned.into_iter().rev().map(Pinned::undo).collect();
    if let Err(error) = host.log(operations).await {
        warn!(%error, count, "shards of an add that failed stay pinned");
    }
}

/// The CIDs of the last blocks: many, and a bounded number.
#[derive(Debug, Default)]
struct Remembered {
    young: BTreeSet<Cid>,
    old: BTreeSet<Cid>,
}

impl Remembered {
    fn contains(&self, cid: &Cid) -> bool {
        self.young.contains(cid) || self.old.contains(cid)
    }

    fn insert(&mut self, cid: Cid) {
        if self.young.len() == REMEMBERED_BLOCKS {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(cid);
    }
}

#[cfg(test)]
mod tests;
