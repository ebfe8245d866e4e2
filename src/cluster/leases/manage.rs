//! What operators see of leases, and do with them.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Leases, State, records};
use crate::cluster::Cluster;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Storage};
use crate::types::{Cid, Lease, PeerId};

impl Cluster {
    /// The leases of this peer, oldest stream first; at most [`LEASES_MAX`](super::LEASES_MAX). On the daemon each is a recursive
    /// pin, which is in no listing of the cluster.
    pub fn leases(&self) -> Vec<Lease> {
        self.inner.leases.list(self.inner.peer)
    }

    /// Releases one of this peer's leases: its blocks are garbage, unless something that is pinned links to them. An
    /// upload that broke off and goes on later gets them from other peers then, if those have them.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease, `Conflict` while its blocks still come; what the daemon says.
    pub async fn release_lease(&self, cid: &Cid) -> Result<()> {
        let inner = &self.inner;
        inner.check_alive()?;
        let (stream, number) = match inner.leases.find(cid) {
            None => return Err(Error::not_found(format!("there is no lease {cid}")).component("cluster")),
            Some((_, _, State::Running)) => {
                let text = format!("lease {cid} is of an add that is running; it ends with that");
                return Err(Error::new(ErrorKind::Conflict, text).component("cluster"));
            }
            Some((stream, number, _)) => (stream, number),
        };
        inner.ipfs.release(&[*cid]).await?;
        let write = move |storage: &dyn Storage| records::remove_lease(storage, stream, number);
        storage::run(Arc::clone(&inner.leases.storage), write).await?;
        inner.leases.forget(cid);
        inner.wakes.leases.notify_one();
        Ok(())
    }
}

impl Leases {
    fn list(&self, peer: PeerId) -> Vec<Lease> {
        let streams = self.streams();
        let listed = streams.values().filter(|stream| !stream.released).flat_map(|stream| {
            let state = &stream.state;
            stream.leases.iter().map(move |lease| {
                Lease::new(peer, lease.cid, stream.since, lease.blocks, lease.bytes, state.clone())
            })
        });
        listed.collect()
    }

    fn find(&self, cid: &Cid) -> Option<(super::StreamKey, u32, State)> {
        let streams = self.streams();
        for (key, stream) in streams.iter().filter(|(_, stream)| !stream.released) {
            if let Some(lease) = stream.leases.iter().find(|lease| lease.cid == *cid) {
                return Some((*key, lease.number, stream.state.clone()));
            }
        }
        None
    }

    fn forget(&self, cid: &Cid) {
        for stream in self.streams().values_mut() {
            let before = stream.leases.len();
            stream.leases.retain(|lease| lease.cid != *cid);
            if stream.leases.is_empty() && before > 0 {
                // Nothing is left to wait for.
                stream.look = Instant::now();
            }
        }
    }
}
