//! The network of daemons in one process: who is there, and what wakes those who wait for blocks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::watch;

use super::daemon::Daemon;
use super::lock;
use crate::types::PeerId;

/// A network of [`MemoryIpfs`](super::MemoryIpfs) daemons that can find each other by address. Clones are the same network.
#[derive(Clone)]
pub struct MemorySwarm(Arc<Swarm>);

struct Swarm {
    daemons: Mutex<BTreeMap<PeerId, Weak<Daemon>>>,
    /// Grows with every block that is stored and every new connection anywhere in the network; wakes who waits for blocks.
    changes: watch::Sender<u64>,
}

impl Default for MemorySwarm {
    fn default() -> Self {
        Self(Arc::new(Swarm { daemons: Mutex::default(), changes: watch::Sender::new(0) }))
    }
}

impl fmt::Debug for MemorySwarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySwarm").field("daemons", &lock(&self.0.daemons).len()).finish()
    }
}

impl MemorySwarm {
    pub(super) fn announce_change(&self) {
        self.0.changes.send_modify(|version| *version = version.wrapping_add(1));
    }

    pub(super) fn find(&self, peer: &PeerId) -> Option<Arc<Daemon>> {
        lock(&self.0.daemons).get(peer).and_then(Weak::upgrade)
    }

    /// From now on a daemon is found; one that had its id is not any more.
    pub(super) fn add(&self, daemon: &Arc<Daemon>) {
        lock(&self.0.daemons).insert(daemon.peer, Arc::downgrade(daemon));
    }

    /// Tells of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}
