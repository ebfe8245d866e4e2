//! What the tasks of one peer have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::COMPONENT;
use super::gateway::Gateway;
use super::keys::Keys;
use super::plan::Limits;
use crate::consensus::NoLongerMember;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::PeerTransport;
use crate::types::{Multiaddr, PeerId};

/// Most peers in each list that is followed; more are passed over.
pub(super) const ROSTER_PEERS_MAX: usize = 4096;
/// A watch that does not show what was written for so long is made anew, on another endpoint.
const STALL_MAX: Duration = Duration::from_secs(5);

/// What the tasks of one peer have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) peer: PeerId,
    /// How the peers reach each other; none where this one is not to be found.
    pub(super) transport: Option<Arc<dyn PeerTransport>>,
    /// What tells this cluster from others, for `cluster`; none where nobody says.
    pub(super) cluster: Option<String>,
    /// A peer that was removed waits to be added.
    pub(super) waits_to_be_added: bool,
    pub(super) gateway: Gateway,
    pub(super) keys: Keys,
    pub(super) limits: Limits,
    pub(super) request_timeout: Duration,
    pub(super) lease_ttl: Duration,
    pub(super) applied: watch::Sender<Applied>,
    pub(super) roster: watch::Sender<Option<Roster>>,
    /// The lease that this peer lives by.
    pub(super) lease: watch::Sender<Option<i64>>,
    pub(super) standing: watch::Sender<Standing>,
    /// The watch is behind.
    pub(super) stalled: Notify,
    /// The lease is gone.
    pub(super) lapsed: Notify,
    /// This peer is about to end its membership itself: it gives no sign of life.
    pub(super) is_leaving: AtomicBool,
    /// And has ended it.
    pub(super) left: AtomicBool,
}

/// How far the copy is.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    /// Everything up to this revision of etcd is in it.
    pub(super) revision: i64,
    /// Why it does not get further.
    pub(super) error: Option<Error>,
}

/// Who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roster {
    /// The revision that it was read at; changes after it are followed.
    pub(super) revision: i64,
    /// Those who live, and where they say they can be reached.
    pub(super) peers: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Those who have joined.
    pub(super) members: BTreeSet<PeerId>,
    /// Those who may not come back until they are added.
    pub(super) removed: BTreeSet<PeerId>,
}

/// Whether this peer is in the cluster.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Not yet.
    Starting,
    /// It has joined, and its copy was up to date then.
    Joined,
    /// It cannot.
    Refused(Error),
}

impl Shared {
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Returns when the copy shows what this revision did, and its events were told.
    ///
    /// # Errors
    /// Why the copy does not get there; `Unavailable` at the deadline.
    pub(super) async fn wait_applied(&self, revision: i64, deadline: Instant) -> Result<()> {
        let mut applied = self.applied.subscribe();
        loop {
            let shown = applied.wait_for(|applied| applied.revision >= revision || applied.error.is_some());
            match timeout_at(deadline.min(Instant::now() + STALL_MAX), shown).await {
                Ok(Ok(applied)) if applied.revision >= revision => return Ok(()),
                Ok(Ok(applied)) => {
                    return applied.error.clone().map_or(Ok(()), |error| {
                        Err(error.context("etcd has it, but this peer's copy fails"))
                    });
                }
                Ok(Err(source)) => {
                    return Err(Error::internal("the copy is no longer followed")
                        .component(COMPONENT)
                        .with_source(source));
                }
                Err(_) if Instant::now() >= deadline => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "etcd has it, but does not show it to this peer in time; it will come",
                    )
                    .component(COMPONENT));
                }
                Err(_) => self.stalled.notify_one(),
            }
        }
    }
}

/// What a peer that was removed is told.
pub(super) fn removed(peer: &PeerId) -> Error {
    let text = format!(
        "this peer was removed from the cluster; to let it in again start it with --bootstrap and the address of another \
         peer, or add {peer} on that one (POST /peers)"
    );
    Error::new(ErrorKind::Conflict, text).component(COMPONENT).with_source(NoLongerMember)
}
