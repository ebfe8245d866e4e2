//! Talking to the one IPFS daemon beside a peer.

pub(crate) mod dag;
#[cfg(feature = "connector-kubo")]
mod kubo;
mod lease;
mod memory;
mod path;
mod sample;
mod support;
mod walk;

#[cfg(feature = "connector-kubo")]
pub use kubo::{KuboAddress, KuboConfig, KuboConnector};
pub use lease::lease_block;
pub use memory::{MemoryIpfs, MemoryIpfsConfig, MemorySwarm};
pub use sample::{sample_directory, sample_file, sample_file_with_chunks};

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{AddLayout, Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat};

/// A pin as the daemon lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpfsPin {
    /// What.
    pub cid: Cid,
    /// How.
    pub mode: PinMode,
}

/// A pin that the daemon works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinProgress {
    /// What.
    pub cid: Cid,
    /// Blocks it has of it by now, as far as it said.
    pub blocks: u64,
}

/// A file that a daemon is to refer to instead of copying it ([`IpfsConnector::put_reference`]), with raw leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it lies on the daemon's machine: an absolute path.
    pub origin: String,
    /// What it is.
    pub cid: Cid,
    /// How it was made, as in [`AddOptions`](crate::types::AddOptions).
    pub layout: AddLayout,
    /// How it was cut.
    pub chunker: String,
    /// Version of the CIDs of its nodes.
    pub cid_version: i64,
    /// Its hash function.
    pub hash: String,
}

fn no_references() -> Error {
    Error::new(ErrorKind::Unsupported, "this IPFS daemon keeps copies of files only, no references to them")
}

/// Whether the daemon answers.
#[derive(Clone, Debug)]
pub enum Availability {
    /// It answered last time.
    Up,
    /// It did not, and this is why.
    Down(Error),
}

/// One IPFS daemon.
///
/// Calls to a daemon that is down fail with `Unavailable`, one that hangs with `Timeout`, one that refuses with
/// `Remote` and its own text. Dropping a call drops the request to the daemon.
#[async_trait]
pub trait IpfsConnector: fmt::Debug + Send + Sync + 'static {
    /// Returns when the daemon answers; waits as long as it does not, retrying about once a second.
    ///
    /// # Errors
    /// `ShutDown`; what can never be cured (an address that is not a daemon's).
    async fn ready(&self) -> Result<()>;

    /// Who the daemon is.
    async fn id(&self) -> Result<IpfsId>;

    /// Pins in the pin's mode and depth; Ok when the daemon holds it, also when it did already. Uses
    /// `options.pin_update` and `options.origins` where that helps. Runs as long as the daemon makes progress.
    ///
    /// # Errors
    /// `Timeout` when progress stalls, `StorageFull` when the daemon has no space left, `Remote` with the daemon's text.
    async fn pin(&self, pin: &Pin) -> Result<()>;

    /// Unpins; Ok when it was not pinned.
    ///
    /// # Errors
    /// `Unsupported` when unpinning is switched off.
    async fn unpin(&self, cid: &Cid) -> Result<()>;

    /// Whether the daemon holds a pin of this mode (an indirect pin is not one).
    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool>;

    /// Every pin of one mode, streamed as the daemon lists it, in pages of 1 to 1,024. Ends after its first error: a
    /// listing that breaks off is an error, never a shorter list.
    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>>;

    /// How many pins the daemon can usefully work on at a time just now, from its latency and errors. The
    /// tracker asks before each start and starts no more. None is no opinion.
    fn pin_concurrency(&self) -> Option<NonZeroUsize>;

    /// The calls of [`IpfsConnector::pin`] that run now, in any order. Without I/O. Gives nothing unless it is
    /// implemented.
    fn pins_in_progress(&self) -> Vec<PinProgress> {
        Vec::new()
    }

    /// Disk use.
    async fn repo_stat(&self) -> Result<RepoStat>;

    /// Collects garbage and gives each block removed; a block that could not be removed is an item with an error.
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>>;

    /// Resolves a path (`/ipfs/…`, `/ipns/…`) to a CID.
    async fn resolve(&self, path: &str) -> Result<Cid>;

    /// Stores blocks as they come, unpinned. Ok when the daemon has all of them.
    async fn put_blocks(&self, blocks: BoxStream<'static, Result<Block>>) -> Result<()>;

    /// The folder in which files must lie that the daemon refers to instead of copying them; none where the daemon does
    /// not say, and knows when it gets one.
    ///
    /// # Errors
    /// `Unsupported` when it always copies; that is what a connector does that says nothing else.
    async fn reference_root(&self) -> Result<Option<PathBuf>> {
        Err(no_references())
    }

    /// Has the daemon refer to a file: it notes where the raw leaves are, and stores the nodes above them, unpinned. `bytes`
    /// are those of the file, from its beginning. Ok when the daemon has found the end of it where it lies. Where that
    /// is, it is by the daemon's word: it does not look at what it did not have to read.
    ///
    /// # Errors
    /// As `bytes`; `Unsupported` as [`reference_root`](Self::reference_root); `Remote` when the daemon makes something else of
    /// it, or cannot read it.
    async fn put_reference(&self, file: &Reference, bytes: BoxStream<'static, Result<Bytes>>) -> Result<()> {
        let _ = (file, bytes);
        Err(no_references())
    }

    /// Stores a lease ([`lease_block`]) and pins it, without looking for the blocks that it links to. From when this returns
    /// until the lease is released, garbage collection spares those blocks, whether the daemon has them already or
    /// gets them later. Waits while garbage is collected. The lease is listed as a recursive pin.
    async fn hold(&self, lease: Block) -> Result<()>;

    /// Unpins leases; Ok for those that are not held. What nothing else holds of their blocks, and the leases themselves,
    /// are garbage then. Works also where unpinning is switched off. After an error any of them may be released.
    async fn release(&self, leases: &[Cid]) -> Result<()>;

    /// One block, from the daemon's store or its network.
    async fn get_block(&self, cid: &Cid) -> Result<Block>;

    /// Daemons it is connected to.
    async fn swarm_peers(&self) -> Result<Vec<PeerId>>;

    /// Connects it to another daemon.
    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()>;

    /// Whether the daemon answers: what is known now first, then every change. Slow readers may miss
    /// intermediate changes, never the last.
    fn availability(&self) -> BoxStream<'static, Availability>;

    /// Ends every call. Idempotent; calls after it are `ShutDown`.
    async fn shutdown(&self) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: IpfsConnector + ?Sized> IpfsConnector for Arc<T> {
    async fn ready(&self) -> Result<()> {
        (**self).ready().await
    }
    async fn id(&self) -> Result<IpfsId> {
        (**self).id().await
    }
    async fn pin(&self, pin: &Pin) -> Result<()> {
        (**self).pin(pin).await
    }
    async fn unpin(&self, cid: &Cid) -> Result<()> {
        (**self).unpin(cid).await
    }
    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        (**self).is_pinned(cid, mode).await
    }
    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        (**self).list_pins(mode)
    }
    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        (**self).pin_concurrency()
    }
    fn pins_in_progress(&self) -> Vec<PinProgress> {
        (**self).pins_in_progress()
    }
    async fn repo_stat(&self) -> Result<RepoStat> {
        (**self).repo_stat().await
    }
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        (**self).repo_gc()
    }
    async fn resolve(&self, path: &str) -> Result<Cid> {
        (**self).resolve(path).await
    }
    async fn put_blocks(&self, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        (**self).put_blocks(blocks).await
    }
    async fn reference_root(&self) -> Result<Option<PathBuf>> {
        (**self).reference_root().await
    }
    async fn put_reference(&self, file: &Reference, bytes: BoxStream<'static, Result<Bytes>>) -> Result<()> {
        (**self).put_reference(file, bytes).await
    }
    async fn hold(&self, lease: Block) -> Result<()> {
        (**self).hold(lease).await
    }
    async fn release(&self, leases: &[Cid]) -> Result<()> {
        (**self).release(leases).await
    }
    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        (**self).get_block(cid).await
    }
    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        (**self).swarm_peers().await
    }
    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        (**self).swarm_connect(address).await
    }
    fn availability(&self) -> BoxStream<'static, Availability> {
        (**self).availability()
    }
    async fn shutdown(&self) -> Result<()> {
        (**self).shutdown().await
    }
}
