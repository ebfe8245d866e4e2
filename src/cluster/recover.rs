//! Retrying what failed, and making what we report match the daemon.

use futures::stream::BoxStream;

use super::{Cluster, Scope};
use crate::error::Result;
use crate::types::{Cid, GlobalPinInfo};

impl Cluster {
    /// Retries one CID where it failed or got lost, and gives its status after queueing.
    ///
    /// # Errors
    /// `NotFound` with [`Scope::Local`] when the CID is not pinned and nothing of it failed here; `QueueFull`,
    /// `ShutDown`; when the pinset cannot be read.
    pub async fn recover(&self, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        self.inner.check_alive()?;
        let info = self.inner.tracker.recover(cid).await?;
        self.answer(cid, info, scope).await
    }

    /// Retries everything that failed or got lost, and gives the items that were queued again.
    pub fn recover_all(&self, scope: Scope) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        self.inner.globalize(self.inner.tracker.recover_all(), scope)
    }

    /// Makes what is reported of one CID match the daemon, pinning and unpinning nothing, and gives its status.
    ///
    /// # Errors
    /// As [`Cluster::recover`]; when the daemon cannot be asked.
    pub async fn sync(&self, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        self.inner.check_alive()?;
        let info = self.inner.tracker.sync(cid).await?;
        self.answer(cid, info, scope).await
    }

    /// Makes what is reported of everything match the daemon, pinning and unpinning nothing, and gives the items
    /// whose status changed.
    pub fn sync_all(&self, scope: Scope) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        self.inner.globalize(self.inner.tracker.sync_all(), scope)
    }

    async fn answer(&self, cid: &Cid, info: crate::types::PinInfo, scope: Scope) -> Result<GlobalPinInfo> {
        use crate::types::TrackerStatus::Unpinned;
        match scope {
            Scope::Global => self.inner.global(cid, info).await,
            Scope::Local if info.status.status == Unpinned && self.inner.state.get(cid).await?.is_none() => {
                Err(super::pin::not_pinned())
            }
            Scope::Local => Ok(info.into()),
        }
    }
}
