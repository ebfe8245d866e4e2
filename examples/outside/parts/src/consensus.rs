//! A consensus: several peers of one process agree through one log.
//!
//! For an application that runs several peers in one process, each beside its own IPFS daemon (one for each disk, say).
//! They need no network and no votes to agree: all of them append to one [`Sequencer`], which puts every change in one
//! order and on disk, and each follows that order in a pinset of its own.
//!
//! ```text
//! log_pin ─┐                        ┌→ follower → the copy of peer 1 → events, answer
//! log_pin ─┼→ sequencer → its disk ─┼→ follower → the copy of peer 2 → events
//! log_pin ─┘  one sync for many     └→ follower → the copy of peer 3 → events
//! ```
//!
//! What the contract asks, and where the answer is:
//!
//! - *Ok survives a crash.* A call returns after its entry is synced in the log and in the copy of the peer that was called.
//!   A copy and its place in the log are one atomic batch ([`State::apply`] takes records of ours along), so after a crash
//!   a copy is old, never wrong.
//! - *Many callers share one sync.* The sequencer takes what has gathered while it wrote; a follower does the same.
//! - *Ok is visible.* A call waits until its entry is in the copy of its own peer. Other copies may be behind;
//!   `synchronize` waits until ours has what is at the end of the log.
//! - *Events come after the state shows it*, never hold anybody up, and end with the peer: they are sent by the follower,
//!   through a channel that forgets what a slow reader has not taken (`Resync`).
//! - *Shutdown finishes what was accepted*: calls hold a gate open that shutdown has to close.
//! - *Capabilities are what is true.* There is no leader and no trust to give: who has joined is a member and trusted.
//!   Members join and leave by being started and stopped, and by call: one that is removed is no member any more, which its
//!   cluster notices and stops, and may not join until it is added.

mod follower;
mod members;
mod sequencer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use ipfs_cluster::consensus::{Consensus, ConsensusCapabilities, OPERATIONS_MAX, StateEvent};
use ipfs_cluster::state::{State, StateChange, StateReader};
use ipfs_cluster::types::{Cid, PeerId, Pin, PinOperation};
use ipfs_cluster::{Error, ErrorKind, Result};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{RwLock, RwLockReadGuard, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use follower::Follower;
use members::Membership;
pub use sequencer::Sequencer;

const COMPONENT: &str = "shared log";

/// Events kept for a reader that is slow; one that is slower is told to compare.
pub const BUFFERED_EVENTS_MAX: usize = 1024;

/// One peer's part in a shared log; made by [`Sequencer::join`].
///
/// Dropping it without [`Consensus::shutdown`] ends its membership soon after.
#[derive(Debug)]
pub struct SharedLog {
    peer: PeerId,
    log: Sequencer,
    copy: Arc<dyn State>,
    /// Whether calls are taken. Each call holds it for reading until it is answered, so whoever gets it for writing knows
    /// that none is left.
    open: RwLock<bool>,
    cleans: mpsc::Sender<oneshot::Sender<Result<()>>>,
    /// The follower has the sender, so that event streams end with it.
    events: broadcast::WeakSender<StateEvent>,
    /// The number of the last entry in our copy.
    applied: watch::Receiver<u64>,
    /// What the follower ended with, once it did.
    ended: watch::Receiver<Option<Result<()>>>,
    stop: CancellationToken,
    membership: Arc<Membership>,
    _stop_on_drop: DropGuard,
}

impl SharedLog {
    /// A peer whose follower is in step with the log; starts it.
    fn start(peer: PeerId, log: Sequencer, copy: Arc<dyn State>, follower: FollowerParts) -> Self {
        let FollowerParts { follower, membership, cleans, events, applied, stop } = follower;
        let (end, ended) = watch::channel(None);
        let token = stop.clone();
        let membership = Arc::new(membership);
        let joined = Arc::clone(&membership);
        tokio::spawn(async move {
            let mut follower = follower;
            let result = follower.run(token).await;
            // Whoever waits for the end may want to join again at once.
            joined.end();
            drop(joined);
            end.send_replace(Some(result));
        });
        let _stop_on_drop = stop.clone().drop_guard();
        Self {
            peer,
            log,
            copy,
            open: RwLock::new(true),
            cleans,
            events,
            applied,
            ended,
            stop,
            membership,
            _stop_on_drop,
        }
    }

    /// Lets a call in, for as long as it holds what this returns.
    async fn enter(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let open = self.open.read().await;
        if !*open {
            return Err(Error::shut_down(COMPONENT));
        }
        // Without a follower nothing that we append becomes visible here.
        if self.ended.borrow().is_some() { Err(self.follower_gone()) } else { Ok(open) }
    }

    async fn append(&self, operations: Vec<PinOperation>) -> Result<Vec<StateChange>> {
        let _inside = self.enter().await?;
        self.membership.check()?;
        let appended = self.log.append(operations).await?;
        self.shown(appended.number).await?;
        Ok(appended.changes)
    }

    /// Returns when our copy has this entry.
    async fn shown(&self, number: u64) -> Result<()> {
        let mut applied = self.applied.clone();
        match applied.wait_for(|applied| *applied >= number).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.follower_gone()),
        }
    }

    /// Why nobody follows the log any more.
    fn follower_gone(&self) -> Error {
        match &*self.ended.borrow() {
            Some(Err(error)) => error
                .clone()
                .context("this peer no longer follows the log, start it again once this is cured"),
            _ => Error::internal("the follower ended before its time").component(COMPONENT),
        }
    }

    async fn unsupported<T>(&self, why: &str) -> Result<T> {
        self.enter().await.map(drop)?;
        Err(Error::new(ErrorKind::Unsupported, format!("a shared log {why}")).component(COMPONENT))
    }
}

/// What [`SharedLog::start`] puts together.
struct FollowerParts {
    follower: Follower,
    membership: Membership,
    cleans: mpsc::Sender<oneshot::Sender<Result<()>>>,
    events: broadcast::WeakSender<StateEvent>,
    applied: watch::Receiver<u64>,
    stop: CancellationToken,
}

#[async_trait]
impl Consensus for SharedLog {
    fn capabilities(&self) -> ConsensusCapabilities {
        // It may get more fields, so nobody else can write it whole.
        let mut can = ConsensusCapabilities::default();
        can.membership_changes = true;
        can
    }

    async fn ready(&self) -> Result<()> {
        // Joining has brought our copy up to date already.
        self.enter().await.map(drop)?;
        self.membership.check()
    }

    async fn log_pin(&self, pin: Pin) -> Result<()> {
        self.append(vec![PinOperation::Pin(Arc::new(pin))]).await.map(drop)
    }

    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        let changes = self.append(vec![PinOperation::Unpin(*cid)]).await?;
        Ok(changes.into_iter().find_map(|change| match change {
            StateChange::Unpinned(pin) => Some(pin),
            StateChange::Pinned(_) | StateChange::Unchanged | StateChange::Replaced => None,
        }))
    }

    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        if operations.len() > OPERATIONS_MAX {
            return Err(Error::invalid_input(format!(
                "{} operations are more than the {OPERATIONS_MAX} that one entry holds; log them in parts",
                operations.len()
            ))
            .component(COMPONENT));
        }
        self.append(operations).await.map(drop)
    }

    fn state(&self) -> Arc<dyn StateReader> {
        self.copy.clone()
    }

    /// All that was acknowledged is in the log, so the end of the log is what our copy has to reach.
    async fn synchronize(&self) -> Result<()> {
        let _inside = self.enter().await?;
        self.membership.check()?;
        self.shown(self.log.end().await).await
    }

    fn events(&self) -> BoxStream<'static, StateEvent> {
        let Some(events) = self.events.upgrade() else { return stream::empty().boxed() };
        // Subscribed here and not at the first look, so that nothing in between is missed.
        stream::unfold(events.subscribe(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(RecvError::Lagged(_)) => Some((StateEvent::Resync, events)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    async fn peers(&self) -> Result<Vec<PeerId>> {
        self.enter().await.map(drop)?;
        Ok(self.log.peers())
    }

    /// Lets a peer that was removed in again; it is a member when it joins.
    async fn add_peer(&self, peer: &PeerId) -> Result<()> {
        let _inside = self.enter().await?;
        self.membership.check()?;
        self.log.keep_out(peer, false).await
    }

    /// Keeps a peer out until it is added.
    async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        let _inside = self.enter().await?;
        self.membership.check()?;
        self.log.keep_out(peer, true).await
    }

    async fn leader(&self) -> Result<Option<PeerId>> {
        self.unsupported("has no leader among its peers").await
    }

    fn is_trusted(&self, peer: &PeerId) -> bool {
        *peer == self.peer || self.log.has_peer(peer)
    }

    async fn trust(&self, _peer: &PeerId) -> Result<()> {
        self.unsupported("trusts exactly the peers that have joined it").await
    }

    async fn distrust(&self, _peer: &PeerId) -> Result<()> {
        self.unsupported("trusts exactly the peers that have joined it").await
    }

    /// Alone, a peer empties the log too. Beside others it throws its copy away and takes a new one: the pinset is theirs
    /// as well.
    async fn clean(&self) -> Result<()> {
        let _inside = self.enter().await?;
        self.membership.check()?;
        let (reply, answer) = oneshot::channel();
        // The copy has one writer, the follower. When it is gone, so is the other end of both channels.
        match self.cleans.send(reply).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.follower_gone())),
            Err(_) => Err(self.follower_gone()),
        }
    }

    async fn shutdown(&self) -> Result<()> {
        *self.open.write().await = false;
        self.stop.cancel();
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(self.follower_gone()),
        }
    }
}
