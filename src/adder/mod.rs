//! Content in: from bytes to blocks, and from there to the peers that will pin them.
//!
//! [`Content`] is what is uploaded, entry by entry. The importer makes blocks of it and hands them to a [`BlockSink`],
//! which takes them to daemons. Neither knows of the other's insides: how bytes become a DAG is decided by
//! [`AddOptions`](crate::types::AddOptions) alone, and where blocks go by the sink alone.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::types::{Added, Block, Cid, PeerId, Pin};

mod car;
pub mod content;
#[cfg(feature = "testing")]
pub(crate) mod decoders;
pub mod destinations;
mod import;
mod lines;
pub mod multipart;
pub mod shard;

pub(crate) use car::{Car, CarPlace, import_rest_of_car};
pub use import::import;
pub use lines::Lines;

/// What is uploaded: entries in the order of a walk that names each directory before what is in it.
#[async_trait]
pub trait Content: Send {
    /// The next entry, None at the end. What was not read of the entry before is skipped. Not cancel-safe.
    ///
    /// # Errors
    /// `InvalidInput` when what came is no content; whatever keeps it from being read. After an error nothing more comes.
    async fn next(&mut self) -> Result<Option<Entry>>;

    /// More bytes of the file that [`Self::next`] gave last, never empty; None at its end, and for what is no file.
    /// Not cancel-safe.
    ///
    /// # Errors
    /// As [`Self::next`].
    async fn read(&mut self) -> Result<Option<Bytes>>;

    /// Goes back to before the first entry, also after an error. False, and nothing is changed, where that cannot be: what
    /// was read is gone. An add that lost all who had the beginning starts over where it can.
    fn rewind(&mut self) -> bool {
        false
    }
}

/// One file, directory or symbolic link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The path below what is uploaded, without a slash in front: `dir/sub/file`. Never has empty parts, `.` or `..`;
    /// whoever makes entries of what others sent checks that.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, to be kept in the DAG.
    pub mode: Option<u32>,
    /// When it was changed last, to be kept in the DAG: seconds since 1970, nanoseconds.
    pub modified: Option<(i64, u32)>,
    /// Where the daemon finds it: a path or a URL. Needed with `no_copy`.
    pub origin: Option<String>,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// Bytes, by [`Content::read`].
    #[default]
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads.
    Symlink(String),
}

/// A block of a DAG that grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DagBlock {
    /// The block.
    pub block: Block,
    /// Bytes of it and of all blocks below it, each as often as it is linked.
    pub dag_bytes: u64,
}

/// Where blocks go. Children come before those that link to them.
#[async_trait]
pub trait BlockSink: Send {
    /// Takes a block. Returns when there is room for the next one, which may be before it is stored. Not cancel-safe.
    ///
    /// # Errors
    /// Whatever keeps the content from being stored; then nothing more is taken.
    async fn put(&mut self, block: DagBlock) -> Result<()>;

    /// Peers that have the blocks so far; empty before the first.
    fn allocations(&self) -> Vec<PeerId>;
}

/// What one top-level entry became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its name; empty for a wrapping directory.
    pub name: String,
    /// Its root.
    pub cid: Cid,
    /// Bytes of all its blocks.
    pub dag_bytes: u64,
}

/// What happens while content is added.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AddEvent {
    /// A line, as the REST API tells it.
    Line(Added),
    /// A root is in the pinset, for good. The daemons pin it afterwards.
    Pinned(Box<Pin>),
}

impl fmt::Debug for dyn Content + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}
