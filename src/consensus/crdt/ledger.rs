//! What the network side asks of the store.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use super::node::Node;
use crate::error::Result;
use crate::types::Cid;

/// A block that no other block here links to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    /// Its name: version 1, dag-pb, SHA-256, so that the order is that of the bytes.
    pub(super) cid: Cid,
    /// Its height, the priority of its delta.
    pub(super) height: u64,
}

/// Heads that appear and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeadChange {
    /// New heads; one that is already keeps its place.
    pub(super) add: Vec<Head>,
    /// Heads no longer; absent is fine. What is also in `add` stays.
    pub(super) remove: Vec<Cid>,
}

impl HeadChange {
    /// Nothing changes.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// A walk down from a head that was announced and is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    /// Where it began.
    pub(super) tip: Head,
    /// Blocks that are to be fetched.
    pub(super) open: Vec<Cid>,
    /// Heads that it has met on its way, which the tip replaces when the walk is done.
    pub(super) met: Vec<Cid>,
}

/// The DAG as it is on disk. One committer stands behind it; calls may come from many tasks.
///
/// Every call is `ShutDown` once the component has stopped, and `Io`, `Corrupt` or `StorageFull` as the store is.
#[async_trait]
pub(super) trait Ledger: Debug + Send + Sync + 'static {
    /// The heads, in ascending order. They are in memory: no I/O.
    fn heads(&self) -> Vec<Head>;

    /// Which of these blocks are merged and on disk. Names of other kinds never are.
    async fn is_processed(&self, ids: &[Cid]) -> Result<Vec<bool>>;

    /// A block of ours.
    async fn block(&self, cid: &Cid) -> Result<Option<Bytes>>;

    /// Merges nodes whose blocks were checked against their CIDs, and changes heads, in one durable batch, in the order
    /// of calls. Idempotent: a node that is processed already only changes heads. Given walks replace those remembered, as
    /// [`Ledger::set_progress`] does, in the same batch. On disk and visible when it returns.
    ///
    /// Not cancel-safe: a dropped call may still be done.
    async fn merge(&self, nodes: Vec<Node>, heads: HeadChange, walks: Option<Vec<Branch>>) -> Result<()>;

    /// Whether some of the DAG may be missing below the heads.
    async fn dirty(&self) -> Result<bool>;

    /// Says so, or that it is whole again. On disk when it returns.
    async fn set_dirty(&self, dirty: bool) -> Result<()>;

    /// Walks that are unfinished, in ascending order of their tips.
    async fn progress(&self) -> Result<Vec<Branch>>;

    /// Remembers these walks instead of those before. On disk when it returns.
    ///
    /// # Errors
    /// `InvalidInput` when it is more than a record can hold (about 400,000 open blocks).
    async fn set_progress(&self, branches: Vec<Branch>) -> Result<()>;
}
