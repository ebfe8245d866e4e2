//! Supervision and the end of a peer.
//!
//! One supervisor task owns every background task. Tasks hold the inside of the peer and a cancellation token, never
//! a [`Cluster`](super::Cluster), so no task can wait for the shutdown it is part of. A task that ends by itself stops
//! the peer with a reason instead of leaving it half alive.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, warn};

use super::Inner;
use crate::error::{Error, Result};

/// How long background tasks may finish what they are doing.
const TASK_GRACE: Duration = Duration::from_secs(8);
/// How long each component may take to stop.
const COMPONENT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a peer stopped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StopReason {
    /// Somebody called shutdown, or dropped the last handle.
    Requested,
    /// It never became ready.
    NotReady(Error),
    /// It can take part no more as it is, because another peer with its identity was started since.
    Superseded(Error),
    /// It is no longer a member of the cluster: somebody removed it, or it left when it was asked to stop.
    Removed,
    /// A background task ended or panicked.
    TaskFailed(&'static str),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requested => f.write_str("shutdown was requested"),
            Self::NotReady(error) => write!(f, "the peer did not become ready: {error}"),
            Self::Superseded(error) => write!(f, "the peer takes part no more: {error}"),
            Self::Removed => f.write_str("the peer was removed from the cluster"),
            Self::TaskFailed(name) => write!(f, "the background task {name} failed"),
        }
    }
}

/// How far a peer has come.
#[derive(Clone, Debug)]
pub(super) enum Readiness {
    Starting,
    /// Its consensus is ready.
    Agreeing,
    Ready,
}

/// What one background task is doing, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its name, as in the table of `cluster::tasks`.
    pub name: &'static str,
    /// How often it did its work since the start.
    pub runs: u64,
    /// The last thing that went wrong; none after a run that went well.
    pub last_error: Option<String>,
}

/// What every background task is doing.
#[derive(Debug, Default)]
pub(super) struct TaskBoard(Mutex<BTreeMap<&'static str, TaskInfo>>);

impl TaskBoard {
    pub(super) fn ran<T>(&self, name: &'static str, outcome: &Result<T>) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let info = board.entry(name).or_insert(TaskInfo { name, runs: 0, last_error: None });
        info.runs += 1;
        info.last_error = outcome.as_ref().err().map(ToString::to_string);
    }

    pub(super) fn list(&self) -> Vec<TaskInfo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The shared end of a peer's life.
#[derive(Debug)]
pub(super) struct Life {
    /// Cancelled when the peer must stop.
    pub(super) cancel: CancellationToken,
    /// The first reason somebody gave.
    reason: Mutex<Option<StopReason>>,
    /// Set once everything has stopped.
    stopped: watch::Sender<Option<StopReason>>,
    /// Set by the task that waits for the components.
    pub(super) readiness: watch::Sender<Readiness>,
    pub(super) board: TaskBoard,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            cancel: CancellationToken::new(),
            reason: Mutex::new(None),
            stopped: watch::Sender::new(None),
            readiness: watch::Sender::new(Readiness::Starting),
            board: TaskBoard::default(),
        }
    }

    /// Asks the peer to stop; the first reason stays.
    pub(super) fn stop(&self, reason: StopReason) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.cancel.cancel();
    }

    fn reason(&self) -> StopReason {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or(StopReason::Requested)
    }

    /// Returns when everything has stopped.
    pub(super) async fn stopped(&self) -> StopReason {
        let mut stopped = self.stopped.subscribe();
        // The sender lives in self, so waiting cannot fail.
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(StopReason::Requested),
            Err(_) => StopReason::Requested,
        }
    }

    /// Whether its consensus is ready.
    pub(super) fn is_agreeing(&self) -> bool {
        matches!(*self.readiness.borrow(), Readiness::Agreeing | Readiness::Ready)
    }

    /// Returns when the peer is ready.
    pub(super) async fn ready(&self) -> Result<()> {
        let mut readiness = self.readiness.subscribe();
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(match self.reason() {
                StopReason::NotReady(error) => error,
                reason => Error::shut_down("cluster").context(reason),
            }),
            changed = readiness.wait_for(|readiness| matches!(readiness, Readiness::Ready)) => {
                changed.map(|_| ()).map_err(|_| Error::shut_down("cluster"))
            }
        }
    }
}

/// A background task: its name, and the future that runs until it is cancelled.
pub(super) struct Task {
    pub(super) name: &'static str,
    pub(super) run: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Runs the tasks until the peer must stop, then stops everything in order.
pub(super) async fn supervise(inner: Arc<Inner>, tasks: Vec<Task>) {
    let life = Arc::clone(&inner.life);
    let mut running = JoinSet::new();
    let mut names = BTreeMap::new();
    for task in tasks {
        let span = tracing::debug_span!("task", name = task.name);
        let handle = running.spawn(task.run.instrument(span));
        names.insert(handle.id(), task.name);
    }
    loop {
        tokio::select! {
            biased;
            () = life.cancel.cancelled() => break,
            Some(ended) = running.join_next_with_id() => {
                let (id, panicked) = match &ended {
                    Ok((id, ())) => (*id, false),
                    Err(join_error) => (join_error.id(), join_error.is_panic()),
                };
                // A task may see the cancellation before we do.
                if !life.cancel.is_cancelled() {
                    let name = names.get(&id).copied().unwrap_or("unknown");
                    error!(task = name, panicked, "background task ended; stopping the peer");
                    life.stop(StopReason::TaskFailed(name));
                }
            }
        }
    }
    let mut reason = life.reason();
    info!(%reason, "stopping the peer");
    drain(&mut running, &names).await;
    if stop_components(&inner).await && matches!(reason, StopReason::Requested) {
        reason = StopReason::Removed;
    }
    info!("the peer has stopped");
    life.stopped.send_replace(Some(reason));
}

async fn drain(running: &mut JoinSet<()>, names: &BTreeMap<tokio::task::Id, &'static str>) {
    let deadline = tokio::time::Instant::now() + TASK_GRACE;
    while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, running.join_next_with_id()).await {
        if let Ok((id, ())) = ended {
            debug!(task = names.get(&id).copied().unwrap_or("unknown"), "task ended");
        }
    }
    if !running.is_empty() {
        warn!(tasks = running.len(), grace = ?TASK_GRACE, "tasks did not end in time and are aborted");
        running.shutdown().await;
    }
}

/// Stops every component, each within a deadline; one that fails is logged and the rest still stop. Says whether the peer
/// left its cluster.
async fn stop_components(inner: &Inner) -> bool {
    let mut has_left = false;
    if inner.config.leave_on_shutdown {
        step("membership", async { leave(inner).await.map(|left| has_left = left) }).await;
    }
    step("tracker", inner.tracker.shutdown()).await;
    step("consensus", inner.consensus.shutdown()).await;
    step("monitor", inner.monitor.shutdown()).await;
    step("connector", inner.ipfs.shutdown()).await;
    step("transport", inner.transport.shutdown()).await;
    step("storage", close(inner)).await;
    has_left
}

/// Ends the membership where that is done by a call. Elsewhere a peer is a member while it lives, and there is nothing to
/// do; the reference then wipes its data, which is no reason to do so here. Says whether it did anything.
async fn leave(inner: &Inner) -> Result<bool> {
    if !inner.consensus.capabilities().membership_changes {
        debug!("nothing to leave: peers are members while they live");
        return Ok(false);
    }
    inner.consensus.remove_peer(&inner.peer).await.map(|()| true)
}

async fn close(inner: &Inner) -> Result<()> {
    crate::storage::run(Arc::clone(&inner.storage), |storage| storage.close()).await
}

async fn step(component: &'static str, stop: impl Future<Output = Result<()>>) {
    match tokio::time::timeout(COMPONENT_STOP_TIMEOUT, stop).await {
        Ok(Ok(())) => debug!(component, "stopped"),
        Ok(Err(error)) => warn!(component, %error, "did not stop cleanly"),
        Err(_) => warn!(component, timeout = ?COMPONENT_STOP_TIMEOUT, "did not stop in time"),
    }
}
