//! Garbage collection on the daemons.

use futures::StreamExt as _;

use super::{Cluster, Scope};
use crate::error::Result;
use crate::types::{GlobalRepoGc, RepoGc, RepoGcKey};

/// Removed blocks listed in one answer; more are removed all the same, and the answer says so.
const GC_KEYS_MAX: usize = 1_000_000;

impl Cluster {
    /// Collects garbage on the daemons. A daemon that fails is an entry with its error, but with [`Scope::Local`] an
    /// error.
    ///
    /// # Errors
    /// With [`Scope::Local`] what the daemon said; `ShutDown`.
    pub async fn repo_gc(&self, scope: Scope) -> Result<GlobalRepoGc> {
        self.inner.check_alive()?;
        let mut gc = RepoGc {
            peer: self.inner.peer,
            peername: self.inner.config.peername.clone(),
            keys: Vec::new(),
            error: String::new(),
        };
        let mut removed = self.inner.ipfs.repo_gc();
        while let Some(item) = removed.next().await {
            match item {
                Ok(key) if gc.keys.len() < GC_KEYS_MAX => gc.keys.push(key),
                Ok(RepoGcKey { .. }) => {
                    gc.error = format!("more than {GC_KEYS_MAX} blocks were removed; the rest is not listed")
                }
                Err(error) if scope == Scope::Local => return Err(error),
                Err(error) => {
                    gc.error = error.to_string();
                    break;
                }
            }
        }
        let mut global = GlobalRepoGc::default();
        global.peer_map.insert(gc.peer, gc);
        Ok(global)
    }
}
