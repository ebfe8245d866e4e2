//! A cluster peer: the orchestrator, and the only module that knows every contract.
//!
//! [`Cluster::builder`] assembles components into a running peer; the [`Cluster`] it gives is a cheap handle that
//! applications clone and drive. When the last handle is dropped the peer stops.

#[cfg(feature = "add")]
mod add;
mod builder;
mod closest;
mod config;
mod events;
mod find;
mod gc;
mod hand_over;
mod handler;
mod leases;
mod lifecycle;
mod merge;
mod peers;
mod pin;
pub mod presets;
mod recover;
mod repin;
mod rules;
mod spool;
mod standing;
mod status;
mod summary;
mod tasks;
mod wait;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio_util::sync::DropGuard;

#[cfg(all(feature = "add", feature = "api-rest"))]
pub(crate) use add::reference_options;
#[cfg(feature = "add")]
pub use add::{ADDS_MAX, INTERRUPTED_ADD_TTL, INTERRUPTED_ADDS_MAX};
pub use builder::ClusterBuilder;
pub use config::ClusterConfig;
pub use events::ClusterEvent;
pub use find::StatusPage;
pub use leases::{LEASE_TTL, LEASES_MAX};
pub use lifecycle::{StopReason, TaskInfo};
pub use summary::{PinInProgress, PinsHere, RepoSummary, SUMMARY_PINS_MAX, Summary};
pub use wait::{Until, Wait};
pub use watch::{WATCH_CIDS_MAX, WATCH_EVENTS_MAX, WATCHERS_MAX, WatchQuery};

use crate::allocator::PinAllocator;
use crate::clock::WallClock;
use crate::consensus::Consensus;
use crate::error::{Error, ErrorKind, Result};
use crate::informer::Informer;
use crate::ipfs_connector::IpfsConnector;
use crate::monitor::Monitor;
use crate::rpc::PeerClient;
use crate::state::StateReader;
use crate::storage::Storage;
use crate::tracker::PinTracker;
use crate::transport::PeerTransport;
use crate::types::{IpfsId, PeerId};
pub use crate::types::{Lease, LeaseState};

/// Which peers an answer is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every peer of the cluster.
    #[default]
    Global,
    /// This peer alone.
    Local,
}

/// A handle to a running peer. Cloning is cheap; the peer stops when the last handle is dropped.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
    _alive: Arc<DropGuard>,
}

/// What the handles and the background tasks share. Tasks hold this and never a handle, so that dropping the last
/// handle ends them.
struct Inner {
    peer: PeerId,
    config: ClusterConfig,
    clock: Arc<dyn WallClock>,
    storage: Arc<dyn Storage>,
    transport: Arc<dyn PeerTransport>,
    /// Whether others can reach this peer: nobody can on the network that the builder makes when none is given.
    reachable: bool,
    consensus: Arc<dyn Consensus>,
    hand_over: hand_over::HandOver,
    state: Arc<dyn StateReader>,
    tracker: Arc<dyn PinTracker>,
    allocator: Arc<dyn PinAllocator>,
    monitor: Arc<dyn Monitor>,
    ipfs: Arc<dyn IpfsConnector>,
    /// For the calls of others.
    client: PeerClient,
    informers: Vec<Arc<dyn Informer>>,
    spools: spool::SpoolRoom,
    leases: leases::Leases,
    alerts: peers::AlertLog,
    /// The daemon, as it last was.
    last_ipfs: Mutex<Option<Arc<IpfsId>>>,
    witnesses: repin::Witnesses,
    watch: Arc<watch::Hub>,
    looked: summary::Looked,
    wakes: tasks::Wakes,
    #[cfg(feature = "add")]
    adds: add::Adds,
    life: Arc<lifecycle::Life>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("peer", &self.peer)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("peer", &self.inner.peer)
            .field("peername", &self.inner.config.peername)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Begins to assemble a peer.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// This peer's id.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer
    }

    /// What this peer was told about itself.
    pub fn config(&self) -> &ClusterConfig {
        &self.inner.config
    }

    /// The pinset, for reading.
    pub fn state(&self) -> Arc<dyn StateReader> {
        Arc::clone(&self.inner.state)
    }

    /// The consensus component.
    pub fn consensus(&self) -> Arc<dyn Consensus> {
        Arc::clone(&self.inner.consensus)
    }

    /// The tracker.
    pub fn tracker(&self) -> Arc<dyn PinTracker> {
        Arc::clone(&self.inner.tracker)
    }

    /// The connector to the IPFS daemon.
    pub fn ipfs(&self) -> Arc<dyn IpfsConnector> {
        Arc::clone(&self.inner.ipfs)
    }

    /// The time of day as this peer sees it.
    pub fn clock(&self) -> Arc<dyn WallClock> {
        Arc::clone(&self.inner.clock)
    }

    /// Returns when the peer is ready: its consensus is, and its IPFS daemon answered once.
    ///
    /// # Errors
    /// Why it will never be; `ShutDown`.
    pub async fn ready(&self) -> Result<()> {
        self.inner.life.ready().await
    }

    /// Returns when reads of the pinset on this peer see everything that any peer acknowledged before this was called, where
    /// consensus has an order that tells: Raft and etcd ask a quorum. A cluster of one sees everything anyway; with the CRDT,
    /// which promises nothing of the kind, it returns at once ([`Consensus::synchronize`]). Where a pin stands
    /// ([`Cluster::status`]) is another question. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` without a quorum, in time; as [`Consensus::synchronize`].
    pub async fn synchronize(&self) -> Result<()> {
        self.inner.check_alive()?;
        self.inner.consensus.synchronize().await
    }

    /// Stops the peer and returns when it has stopped. Every caller waits, also the second one; a component that
    /// calls this from inside its own callback is cut off by a deadline instead of freezing the peer.
    pub async fn shutdown(&self) -> StopReason {
        self.inner.life.stop(StopReason::Requested);
        self.stopped().await
    }

    /// Returns when the peer has stopped, and says why. Cancel-safe.
    pub async fn stopped(&self) -> StopReason {
        self.inner.life.stopped().await
    }

    /// What the background tasks are doing.
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.inner.life.board.list()
    }
}

impl Inner {
    /// Refuses when the peer is stopping.
    fn check_alive(&self) -> Result<()> {
        if self.life.cancel.is_cancelled() { Err(Error::shut_down("cluster")) } else { Ok(()) }
    }

    /// Refuses when this peer may not write.
    fn check_writable(&self) -> Result<()> {
        self.check_alive()?;
        if self.config.follower_mode {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "this peer is configured to be in follower mode. Write operations are disabled",
            )
            .component("cluster"));
        }
        Ok(())
    }
}
