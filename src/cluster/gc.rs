//! Garbage collection on the daemons.

use futures::StreamExt as _;

use super::{Cluster, Inner, Scope};
use crate::error::{ErrorKind, Result};
use crate::rpc::fan_out;
use crate::types::{GlobalRepoGc, RepoGc, RepoGcKey};

/// Removed blocks listed in one answer; more are removed all the same, and the answer says so.
const GC_KEYS_MAX: usize = 1_000_000;

impl Cluster {
    /// Collects garbage on the daemons. A daemon that fails is an entry with its error, but with [`Scope::Local`] an
    /// error.
    ///
    /// # Errors
    /// With [`Scope::Local`] what the daemon said; `ShutDown`; when the members are not known.
    pub async fn repo_gc(&self, scope: Scope) -> Result<GlobalRepoGc> {
        let inner = &self.inner;
        inner.check_alive()?;
        let mut global = GlobalRepoGc::default();
        if scope == Scope::Local {
            global.peer_map.insert(inner.peer, inner.repo_gc_local(scope).await?);
            return Ok(global);
        }
        let members = inner.consensus.peers().await?;
        let others = members.into_iter().filter(|peer| *peer != inner.peer);
        let asked = fan_out(others, |peer| async move { inner.client.repo_gc(&peer).await });
        let (own, answers) = tokio::join!(inner.repo_gc_local(scope), asked.collect::<Vec<_>>());
        global.peer_map.insert(inner.peer, own?);
        for (peer, answer) in answers {
            let gc = match answer {
                Ok(gc) => RepoGc { peer, ..gc },
                Err(error) if error.kind() == ErrorKind::Unauthorized => continue,
                Err(error) => RepoGc {
                    peer,
                    peername: inner.ping_of(&peer).peername,
                    keys: Vec::new(),
                    error: error.to_string(),
                },
            };
            global.peer_map.insert(peer, gc);
        }
        Ok(global)
    }
}

impl Inner {
    /// Collects garbage on this peer's daemon; with [`Scope::Global`] its failure is part of the answer.
    pub(super) async fn repo_gc_local(&self, scope: Scope) -> Result<RepoGc> {
        let mut gc = RepoGc {
            peer: self.peer,
            peername: self.config.peername.clone(),
            keys: Vec::new(),
            error: String::new(),
        };
        let mut removed = self.ipfs.repo_gc();
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
        self.tracker.space_freed();
        Ok(gc)
    }
}
