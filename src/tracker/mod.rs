//! Making the IPFS daemon hold what the pinset says this peer holds.

mod held;
pub(crate) mod key;
mod operation;
mod queue;
mod space;
mod stateless;
mod table;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::clock::WallClock;
use crate::error::Result;
use crate::ipfs_connector::IpfsConnector;
use crate::state::StateReader;
use crate::types::{Cid, PeerId, Pin, PinInfo, StatusFilter};

pub use stateless::{StatelessConfig, StatelessTracker};

/// What a tracker may need of its peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrackerContext {
    /// This peer.
    pub peer: PeerId,
    /// Its name, shown in every answer.
    pub peername: String,
    /// Its daemon.
    pub ipfs: Arc<dyn IpfsConnector>,
    /// The pinset.
    pub state: Arc<dyn StateReader>,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
}

impl TrackerContext {
    /// A context.
    pub fn new(
        peer: PeerId,
        peername: impl Into<String>,
        ipfs: Arc<dyn IpfsConnector>,
        state: Arc<dyn StateReader>,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        Self { peer, peername: peername.into(), ipfs, state, clock }
    }
}

/// Operations in hand, kept with every change instead of counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrackerCounts {
    /// Waiting to be pinned.
    pub pin_queued: u64,
    /// Those of them that wait because the daemon has no space left: all while it has none, otherwise none.
    pub waiting_for_space: u64,
    /// Being pinned.
    pub pinning: u64,
    /// Failed to be pinned.
    pub pin_error: u64,
    /// Waiting to be unpinned.
    pub unpin_queued: u64,
    /// Being unpinned.
    pub unpinning: u64,
    /// Failed to be unpinned.
    pub unpin_error: u64,
}

impl TrackerCounts {
    /// Waiting, for either.
    pub const fn queued(&self) -> u64 {
        self.pin_queued + self.unpin_queued
    }
}

/// What changed. A hint; who misses one asks for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerEvent {
    /// An item has another status on this peer now.
    StatusChanged(Arc<PinInfo>),
    /// Any item may have another status: the reader was too slow for the events, or so much changed at once (the first
    /// comparison with the daemon, a daemon that went or came back) that it was not told one by one.
    Resync,
}

/// Tracks the pins of one peer.
///
/// The pinset and the daemon are the truth; only what runs or failed is remembered. The tracker repairs nothing
/// behind the pinset's back: it pins what the state says, unpins what the state no longer says.
///
/// A daemon without space left ([`StorageFull`](crate::error::ErrorKind::StorageFull)) is no failure of a pin: the pin
/// stays `pin_queued`, with an error text that says what it waits for, and its attempt does not count. Until there is
/// space again one pin is tried now and then, at most every 30 s by itself.
#[async_trait]
pub trait PinTracker: fmt::Debug + Send + Sync + 'static {
    /// Takes an entry of the pinset over. Returns once it is queued, not when the daemon has it. What this peer
    /// need not hold is unpinned instead. Cancel-safe.
    ///
    /// # Errors
    /// `QueueFull` (the item is then in `pin_error` and recover retries it), `ShutDown`.
    async fn track(&self, pin: Pin) -> Result<()>;

    /// Lets go of a CID that left the pinset; one that is in it (again) is not untracked. Returns once queued.
    ///
    /// # Errors
    /// `QueueFull` (the item is then in `unpin_error`), `ShutDown`.
    async fn untrack(&self, cid: &Cid) -> Result<()>;

    /// Where one CID stands: a running or failed operation, else pinset against daemon, which is asked. A daemon
    /// that cannot be asked makes the answer `cluster_error`, not an error.
    ///
    /// # Errors
    /// When the pinset cannot be read; `ShutDown`.
    async fn status(&self, cid: &Cid) -> Result<PinInfo>;

    /// Where everything stands, in pages of 1 to 1,024, in order of the binary CID, followed by operations on CIDs
    /// that left the pinset (in their place in the order). Does not ask the daemon item by item. Memory does not
    /// depend on the number of pins.
    fn status_all(&self, filter: StatusFilter) -> BoxStream<'static, Result<Vec<PinInfo>>>;

    /// Where these entries of the pinset stand, in their order, as [`PinTracker::status_all`] says it: the daemon is not
    /// asked item by item. Whoever asks bounds how many.
    ///
    /// # Errors
    /// `ShutDown`.
    async fn statuses(&self, pins: Vec<Pin>) -> Result<Vec<PinInfo>>;

    /// Retries what failed (`pin_error`, `unpin_error`) or got lost (`unexpectedly_unpinned`) and gives the status
    /// after queueing; everything else only gives its status. While pins wait for space, one is tried now.
    ///
    /// # Errors
    /// `QueueFull`, `ShutDown`; when the pinset cannot be read.
    async fn recover(&self, cid: &Cid) -> Result<PinInfo>;

    /// Retries everything that failed or got lost and gives the items that were queued again. The stream goes on
    /// after an item that could not be queued; that one comes with its error status. While pins wait for space, one is
    /// tried now.
    fn recover_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>>;

    /// Makes what we report match the daemon without pinning or unpinning: a failed operation that the daemon
    /// satisfies meanwhile is forgotten. Gives the status.
    ///
    /// # Errors
    /// When the daemon cannot be asked or the pinset cannot be read; `ShutDown`.
    async fn sync(&self, cid: &Cid) -> Result<PinInfo>;

    /// The same for everything, from one listing of the daemon. Gives the items whose status changed.
    fn sync_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>>;

    /// The maintained numbers, without I/O.
    fn counts(&self) -> TrackerCounts;

    /// The daemon may have space again: if pins wait for that, one is tried, now or at most 30 s after the last. Does
    /// nothing unless it is implemented.
    fn space_freed(&self) {}

    /// Changes from now on; bounded, with [`TrackerEvent::Resync`] where changes were not told one by one.
    fn events(&self) -> BoxStream<'static, TrackerEvent>;

    /// Stops; what runs is cancelled and starts again after the next start. Idempotent, and every caller returns
    /// only when it has stopped; calls after it are `ShutDown`.
    async fn shutdown(&self) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: PinTracker + ?Sized> PinTracker for Arc<T> {
    async fn track(&self, pin: Pin) -> Result<()> {
        (**self).track(pin).await
    }
    async fn untrack(&self, cid: &Cid) -> Result<()> {
        (**self).untrack(cid).await
    }
    async fn status(&self, cid: &Cid) -> Result<PinInfo> {
        (**self).status(cid).await
    }
    fn status_all(&self, filter: StatusFilter) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        (**self).status_all(filter)
    }
    async fn statuses(&self, pins: Vec<Pin>) -> Result<Vec<PinInfo>> {
        (**self).statuses(pins).await
    }
    async fn recover(&self, cid: &Cid) -> Result<PinInfo> {
        (**self).recover(cid).await
    }
    fn recover_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        (**self).recover_all()
    }
    async fn sync(&self, cid: &Cid) -> Result<PinInfo> {
        (**self).sync(cid).await
    }
    fn sync_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        (**self).sync_all()
    }
    fn counts(&self) -> TrackerCounts {
        (**self).counts()
    }
    fn space_freed(&self) {
        (**self).space_freed();
    }
    fn events(&self) -> BoxStream<'static, TrackerEvent> {
        (**self).events()
    }
    async fn shutdown(&self) -> Result<()> {
        (**self).shutdown().await
    }
}
