//! Changes of the pinset on their way to the tracker, and writes that wait until theirs are there.
//!
//! A write is durable when consensus has acknowledged it, but whoever wrote looks at statuses next, and recovers: with
//! a tracker that has not heard of it yet the pin would be *unexpectedly unpinned*. As in the reference, the peer that
//! is asked tells its own tracker before it answers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::Inner;
use crate::consensus::StateEvent;
use crate::error::Result;
use crate::types::{Cid, Pin, PinOperation};

/// Writes that wait to be told.
const WAITING_MAX: usize = 1_024;
/// How long an acknowledged write waits for the tracker. Only the first answers about it depend on that.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// Who is told once all that consensus told before is with the tracker.
type Turn = oneshot::Sender<()>;

/// The side of those that write.
#[derive(Debug)]
pub(super) struct HandOver(mpsc::Sender<Turn>);

/// The side of the task that hands over.
#[derive(Debug)]
pub(super) struct Turns(mpsc::Receiver<Turn>);

/// Both sides.
pub(super) fn channel() -> (HandOver, Turns) {
    let (ask, turns) = mpsc::channel(WAITING_MAX);
    (HandOver(ask), Turns(turns))
}

impl Turns {
    /// The next event; none when they have ended. Whoever calls it again has handed over the one before, so those that
    /// wait are told as soon as there is none.
    pub(super) async fn next(&mut self, events: &mut BoxStream<'static, StateEvent>) -> Option<StateEvent> {
        loop {
            tokio::select! {
                biased;
                event = events.next() => return event,
                // One that has stopped to wait does not mind.
                Some(turn) = self.0.recv() => drop(turn.send(())),
            }
        }
    }
}

impl HandOver {
    /// Returns when what consensus has told so far is with the tracker, at the latest after [`HAND_OVER_MAX`].
    async fn done(&self) {
        let handed_over = async {
            let (tell, told) = oneshot::channel();
            if self.0.send(tell).await.is_ok() {
                // An error says that nothing is handed over any more: the peer stops.
                let _ = told.await;
            }
        };
        if tokio::time::timeout(HAND_OVER_MAX, handed_over).await.is_err() {
            debug!("the tracker is behind; a write is acknowledged before it knows of it");
        }
    }
}

impl Inner {
    /// [`Consensus::log_pin`](crate::consensus::Consensus::log_pin), and then the tracker knows.
    pub(super) async fn log_pin(&self, pin: Pin) -> Result<()> {
        self.consensus.log_pin(pin).await?;
        self.hand_over.done().await;
        Ok(())
    }

    /// [`Consensus::log_unpin`](crate::consensus::Consensus::log_unpin), and then the tracker knows.
    pub(super) async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        let removed = self.consensus.log_unpin(cid).await?;
        self.hand_over.done().await;
        Ok(removed)
    }

    /// [`Consensus::log_many`](crate::consensus::Consensus::log_many), and then the tracker knows.
    pub(super) async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        self.consensus.log_many(operations).await?;
        self.hand_over.done().await;
        Ok(())
    }
}
