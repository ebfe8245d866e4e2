//! Retrying what failed, and making what we report match the daemon.

use futures::stream::BoxStream;

use super::status::{Ask, AskAll};
use super::{Cluster, Scope};
use crate::error::Result;
use crate::types::{Cid, GlobalPinInfo};

impl Cluster {
    /// Retries one CID where it failed or got lost, and gives its status after queueing. Only the peers that must hold
    /// it are asked; one that cannot be asked is an entry with its error.
    ///
    /// # Errors
    /// `NotFound` with [`Scope::Local`] when the CID is not pinned and nothing of it failed here; `QueueFull`,
    /// `ShutDown`; when the pinset cannot be read.
    pub async fn recover(&self, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        self.one(Ask::Recover, cid, scope).await
    }

    /// Retries everything that failed or got lost, and gives the items that were queued again, in order of the binary
    /// CID.
    pub fn recover_all(&self, scope: Scope) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        self.inner.all(AskAll::Recover, scope)
    }

    /// Makes what is reported of one CID match the daemon, pinning and unpinning nothing, and gives its status. Peers
    /// of the reference cannot do that: they are entries with that error.
    ///
    /// # Errors
    /// As [`Cluster::recover`]; when the daemon cannot be asked.
    pub async fn sync(&self, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        self.one(Ask::Sync, cid, scope).await
    }

    /// Makes what is reported of everything match the daemon, pinning and unpinning nothing, and gives the items
    /// whose status changed, in order of the binary CID.
    pub fn sync_all(&self, scope: Scope) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        self.inner.all(AskAll::Sync, scope)
    }

    async fn one(&self, ask: Ask, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        use crate::types::TrackerStatus::Unpinned;
        let inner = &self.inner;
        inner.check_alive()?;
        if scope == Scope::Global {
            return inner.one(ask, cid).await;
        }
        let info = inner.own(ask, cid).await?;
        if info.status.status == Unpinned && inner.state.get(cid).await?.is_none() {
            return Err(super::pin::not_pinned());
        }
        Ok(info.into())
    }
}
