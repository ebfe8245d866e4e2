//! One peer's copy of the pinset, kept in step with the log.

use std::sync::Arc;

use ipfs_cluster::consensus::{OPERATIONS_MAX, StateEvent};
use ipfs_cluster::state::{State, StateChange, StateQuery, StateReader as _};
use ipfs_cluster::{Error, Result};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::sequencer::{Entry, KEPT_ENTRIES_MAX, Log, Mark, Shared};

/// The one writer of a copy.
pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) copy: Arc<dyn State>,
    /// How far the copy goes; on disk with it.
    pub(super) mark: Mark,
    pub(super) entries: broadcast::Receiver<Entry>,
    pub(super) asked_to_clean: mpsc::Receiver<oneshot::Sender<Result<()>>>,
    pub(super) events: broadcast::Sender<StateEvent>,
    pub(super) applied: watch::Sender<u64>,
}

impl Follower {
    /// Follows until it is stopped. An error is a copy that could not be written: going on would leave a hole in it.
    pub(super) async fn run(&mut self, stop: CancellationToken) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(reply) = self.asked_to_clean.recv() => {
                    let result = self.clean().await;
                    let _ = reply.send(result.clone());
                    result?;
                }
                entry = self.entries.recv() => match entry {
                    Ok(entry) => self.follow(entry).await?,
                    Err(RecvError::Lagged(_)) => self.catch_up().await?,
                    Err(RecvError::Closed) => {
                        return Err(Error::internal("the log ended before its peers").component(COMPONENT));
                    }
                },
            }
        }
        // Nobody waits for these, but with them the next start need not copy. Others may go on appending, so not for ever.
        for _ in 0..KEPT_ENTRIES_MAX {
            match self.entries.try_recv() {
                Ok(entry) => self.follow(entry).await?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Applies an entry, and with it those that wait, as one batch.
    async fn follow(&mut self, entry: Entry) -> Result<()> {
        let mut mark = self.mark;
        let mut operations = Vec::new();
        let mut next = Some(entry);
        while let Some(entry) = next {
            if entry.number != mark.number + 1 {
                return self.catch_up().await;
            }
            mark.number = entry.number;
            operations.extend(entry.operations.iter().cloned());
            if operations.len() >= OPERATIONS_MAX {
                break;
            }
            next = match self.entries.try_recv() {
                Ok(entry) => Some(entry),
                Err(TryRecvError::Empty | TryRecvError::Closed) => None,
                Err(TryRecvError::Lagged(_)) => return self.catch_up().await,
            };
        }
        let changes = self.copy.apply(operations, mark.of_copy()).await?;
        self.mark = mark;
        // Visible now: tell the world, then those who wait for their own entry.
        for change in changes {
            match change {
                StateChange::Pinned(pin) => self.tell(StateEvent::Pinned(pin)),
                StateChange::Unpinned(pin) => self.tell(StateEvent::Unpinned(pin)),
                StateChange::Replaced => self.tell(StateEvent::Resync),
                StateChange::Unchanged => {}
            }
        }
        self.applied.send_replace(mark.number);
        Ok(())
    }

    /// Too far behind to follow entry by entry.
    async fn catch_up(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let log = shared.log.lock().await;
        self.take_copy(&log).await
    }

    async fn clean(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut log = shared.log.lock().await;
        let alone = shared.members().joined().count() == 1;
        if alone {
            log.clear().await?;
        }
        self.take_copy(&log).await
    }

    /// Replaces the copy by the log's pinset, which stands still meanwhile: whoever has a log to hand in holds its lock.
    pub(super) async fn take_copy(&mut self, log: &Log) -> Result<()> {
        self.entries = log.entries.subscribe();
        self.copy.replace(log.state.list(StateQuery::default()), Arc::new(|_| {})).await?;
        // Not one batch with the copy itself: interrupted here, the next start copies once more.
        self.copy.apply(Vec::new(), log.mark.of_copy()).await?;
        self.mark = log.mark;
        self.tell(StateEvent::Resync);
        self.applied.send_replace(log.mark.number);
        Ok(())
    }

    fn tell(&self, event: StateEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }
}
