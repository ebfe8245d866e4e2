//! Changes of the pinset on their way to the tracker, and writes that wait until theirs are there.
//!
//! A write is durable when consensus has acknowledged it, but whoever wrote looks at statuses next, and recovers: with
//! a tracker that has not heard of it yet the pin would be *unexpectedly unpinned*. As in the reference, the peer that
//! is asked tells its own tracker before it answers.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
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
pub(super) struct Turns {
    asked: mpsc::Receiver<Turn>,
    /// Who asked while events were there, and is told once there are none.
    next: Option<Turn>,
}

/// Both sides.
pub(super) fn channel() -> (HandOver, Turns) {
    let (ask, turns) = mpsc::channel(WAITING_MAX);
    (HandOver(ask), Turns { asked: turns, next: None })
}

impl Turns {
    /// The next event; none when they have ended. Whoever calls it again has handed over the one before, so those that
    /// wait are told as soon as there is none.
    pub(super) async fn next(&mut self, events: &mut BoxStream<'static, StateEvent>) -> Option<StateEvent> {
        loop {
            if let Some(turn) = self.next.take() {
                // What the turn is about may have come since events were looked for, on another thread.
                if let Some(event) = events.next().now_or_never() {
                    self.next = Some(turn);
                    return event;
                }
                // One that has stopped to wait does not mind.
                let _ = turn.send(());
            }
            tokio::select! {
                biased;
                event = events.next() => return event,
                Some(turn) = self.asked.recv() => self.next = Some(turn),
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

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_turn_comes_after_the_event_that_came_just_before_it() {
        let (HandOver(ask), mut turns) = channel();
        // As from another thread: not there when it is looked for, and there when the turn is seen.
        let mut polls = 0;
        let mut events = futures::stream::poll_fn(move |_| {
            polls += 1;
            if polls == 2 { Poll::Ready(Some(StateEvent::Resync)) } else { Poll::Pending }
        })
        .boxed();
        let (tell, mut told) = oneshot::channel();
        ask.send(tell).await.unwrap();
        assert_eq!(turns.next(&mut events).await, Some(StateEvent::Resync));
        told.try_recv().unwrap_err();
        // Coming back for more says that it was handed over.
        assert_eq!(turns.next(&mut events).now_or_never(), None);
        told.try_recv().unwrap();
    }
}
