//! The default tracker: pinset and daemon are the truth, only what runs or failed is remembered.
//!
//! | task | wakes on | does |
//! |---|---|---|
//! | dispatcher | a request, a worker that ends | starts waiting operations, within the limits |
//! | workers | started by the dispatcher, bounded | one operation: read the pinset, ask the daemon |
//! | lister | start, `sync_all`, the daemon's return, the interval | lists what the daemon holds |
//!
//! Nothing an operation needs is remembered while it waits: a worker reads the entry of the pinset when it starts,
//! so what is pinned is what the pinset says by then, and looks once more when it is done, so that a change whose
//! event got lost is noticed.

mod ask;
mod config;
mod inner;
mod listing;
mod walk;
mod work;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::DropGuard;

pub use self::config::StatelessConfig;
use self::inner::Inner;
use super::{PinTracker, TrackerContext, TrackerCounts, TrackerEvent};
use crate::config::ConfigSection as _;
use crate::error::{Error, Result};
use crate::types::{Cid, Pin, PinInfo, StatusFilter};

/// How errors of this component name it.
const COMPONENT: &str = "tracker";

/// The default [`PinTracker`].
///
/// - Memory: about 250 bytes for each operation that waits, runs or failed; of pins that wait, no more than
///   [`queued_pins_remembered`](StatelessConfig::queued_pins_remembered) of each queue are remembered one by one; and 16 to 18 bytes for each pin of the
///   daemon, twice that while it is listed.
/// - While the daemon is down, or has not been listed yet, items that depend on what it holds are `cluster_error`
///   with the reason. A listing that breaks off changes nothing.
/// - At most a million failed pins are remembered; more show as `unexpectedly_unpinned`, and recover retries them
///   all the same.
/// - Pins that find no space on the daemon wait; one at a time is tried after 30 s, later every 10 min, and at once on
///   recover or when space was freed.
/// - Dropping it stops it, without waiting for that.
pub struct StatelessTracker {
    inner: Arc<Inner>,
    _alive: DropGuard,
}

impl StatelessTracker {
    /// Starts a tracker: it begins to list the daemon at once. Pinning starts with the first
    /// [`track`](PinTracker::track) or [`recover_all`](PinTracker::recover_all).
    ///
    /// # Errors
    /// `InvalidInput` as [`StatelessConfig::validate`], or outside of a tokio runtime.
    pub fn new(config: StatelessConfig, cx: TrackerContext) -> Result<Self> {
        config.validate()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|source| {
            Error::invalid_input("a tracker starts tasks and must be made inside a tokio runtime")
                .component(COMPONENT)
                .with_source(source)
        })?;
        let inner = Arc::new(Inner::new(config, cx));
        let availability = inner.ipfs.availability();
        inner.tasks.spawn_on(work::dispatch(Arc::clone(&inner)), &runtime);
        inner.tasks.spawn_on(listing::keep_listed(Arc::clone(&inner), availability), &runtime);
        let _alive = inner.cancel.clone().drop_guard();
        Ok(Self { inner, _alive })
    }
}

impl fmt::Debug for StatelessTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatelessTracker")
            .field("peer", &self.inner.peer)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl PinTracker for StatelessTracker {
    async fn track(&self, pin: Pin) -> Result<()> {
        self.inner.check_open()?;
        self.inner.track(&pin)
    }

    async fn untrack(&self, cid: &Cid) -> Result<()> {
        self.inner.check_open()?;
        self.inner.untrack(cid).await
    }

    async fn status(&self, cid: &Cid) -> Result<PinInfo> {
        self.inner.until_shut_down(self.inner.status(cid)).await
    }

    fn status_all(&self, filter: StatusFilter) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        walk::status_all(Arc::clone(&self.inner), filter)
    }

    async fn statuses(&self, pins: Vec<Pin>) -> Result<Vec<PinInfo>> {
        walk::statuses(&self.inner, pins)
    }

    async fn recover(&self, cid: &Cid) -> Result<PinInfo> {
        self.inner.until_shut_down(self.inner.recover(cid)).await
    }

    fn recover_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        walk::recover_all(Arc::clone(&self.inner))
    }

    async fn sync(&self, cid: &Cid) -> Result<PinInfo> {
        self.inner.until_shut_down(self.inner.sync(cid)).await
    }

    fn sync_all(&self) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        walk::sync_all(Arc::clone(&self.inner))
    }

    fn counts(&self) -> TrackerCounts {
        self.inner.counts()
    }

    fn space_freed(&self) {
        self.inner.space_freed();
    }

    fn events(&self) -> BoxStream<'static, TrackerEvent> {
        let mut events = self.inner.events.subscribe();
        let cancel = self.inner.cancel.clone();
        async_stream::stream! {
            loop {
                let event = tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    event = events.recv() => event,
                };
                match event {
                    Ok(event) => yield event,
                    Err(RecvError::Lagged(_)) => yield TrackerEvent::Resync,
                    Err(RecvError::Closed) => break,
                }
            }
        }
        .boxed()
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        Ok(())
    }
}
