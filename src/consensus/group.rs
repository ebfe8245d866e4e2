//! Calls that one task serves, many at a time: whoever writes takes what waits, so more callers make larger batches and
//! not more syncs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::OPERATIONS_MAX;
use crate::error::{Error, Result};
use crate::state::StateChange;
use crate::types::{Pin, PinOperation};

/// Refuses more operations than one call may have.
///
/// # Errors
/// `InvalidInput`.
pub(super) fn check_length(operations: &[PinOperation]) -> Result<()> {
    if operations.len() > OPERATIONS_MAX {
        return Err(Error::invalid_input(format!(
            "{} operations are more than the {OPERATIONS_MAX} that one batch holds; log them in parts",
            operations.len()
        )));
    }
    Ok(())
}

/// The pin that these changes took out of the pinset.
pub(super) fn unpinned(changes: Vec<StateChange>) -> Option<Arc<Pin>> {
    changes.into_iter().find_map(|change| match change {
        StateChange::Unpinned(pin) => Some(pin),
        StateChange::Pinned(_) | StateChange::Unchanged | StateChange::Replaced => None,
    })
}

/// A call that waits for its answer.
#[derive(Debug)]
pub(super) struct Call<W, A> {
    /// What is to be done.
    pub(super) work: W,
    /// Who waits for it.
    pub(super) reply: Reply<A>,
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) struct Reply<A>(oneshot::Sender<Result<A>>);

impl<A> Reply<A> {
    /// Whether nobody waits for the answer any more.
    #[cfg(feature = "consensus-raft")]
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }

    /// Answers.
    pub(super) fn send(self, answer: Result<A>) {
        // A caller that was dropped does not want to know.
        let _ = self.0.send(answer);
    }
}

/// Where callers come.
#[derive(Debug)]
pub(super) struct Desk<W, A> {
    component: &'static str,
    queue: mpsc::Sender<Call<W, A>>,
    stop: CancellationToken,
    /// What the server ended with, once it did.
    stopped: watch::Receiver<Option<Result<()>>>,
}

impl<W, A> Clone for Desk<W, A> {
    fn clone(&self) -> Self {
        Self {
            component: self.component,
            queue: self.queue.clone(),
            stop: self.stop.clone(),
            stopped: self.stopped.clone(),
        }
    }
}

/// The server's side of a [`Desk`].
#[derive(Debug)]
pub(super) struct Inbox<W, A> {
    calls: mpsc::Receiver<Call<W, A>>,
    stop: CancellationToken,
    ended: Option<watch::Sender<Option<Result<()>>>>,
    /// Taken from the queue, but did not fit.
    next: Option<Call<W, A>>,
}

/// Both sides; `waiting` calls wait in the queue, more wait in their callers.
pub(super) fn desk<W, A>(component: &'static str, waiting: usize) -> (Desk<W, A>, Inbox<W, A>) {
    let (queue, calls) = mpsc::channel(waiting);
    let (ended, stopped) = watch::channel(None);
    let stop = CancellationToken::new();
    let desk = Desk { component, queue, stop: stop.clone(), stopped };
    (desk, Inbox { calls, stop, ended: Some(ended), next: None })
}

impl<W, A> Desk<W, A> {
    /// # Errors
    /// `ShutDown` once it is being shut down.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.stop.is_cancelled() { Err(Error::shut_down(self.component)) } else { Ok(()) }
    }

    /// Waits for its turn and for the answer. Not cancel-safe: a dropped call may still be served.
    ///
    /// # Errors
    /// What the server answers; `ShutDown`.
    pub(super) async fn call(&self, work: W) -> Result<A> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        // What the server has not taken in when it stops was not accepted.
        let call = Call { work, reply: Reply(reply) };
        self.queue.send(call).await.map_err(|_| Error::shut_down(self.component))?;
        answer.await.unwrap_or_else(|source| {
            Err(Error::internal("the committer ended before it answered")
                .component(self.component)
                .with_source(source))
        })
    }

    /// A token that is cancelled when a shutdown begins; cancelling it begins one.
    #[cfg_attr(not(any(feature = "consensus-crdt", feature = "consensus-etcd")), allow(dead_code))]
    pub(super) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Takes no more calls, and returns when the server has finished those it took. Idempotent.
    ///
    /// # Errors
    /// What the server ended with.
    pub(super) async fn shutdown(&self) -> Result<()> {
        self.stop.cancel();
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(source) => Err(Error::internal("the committer ended before its time")
                .component(self.component)
                .with_source(source)),
        }
    }
}

impl<W, A> Inbox<W, A> {
    /// The next call; none when a shutdown began, or nobody can call any more. Cancel-safe.
    pub(super) async fn take(&mut self) -> Option<Call<W, A>> {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            call = async {
                match self.next.take() {
                    Some(call) => Some(call),
                    None => self.calls.recv().await,
                }
            } => call,
        }
    }

    /// The next call if one waits already.
    pub(super) fn take_now(&mut self) -> Option<Call<W, A>> {
        self.next.take().or_else(|| self.calls.try_recv().ok())
    }

    /// Gives back what was taken last.
    pub(super) fn put_back(&mut self, call: Call<W, A>) {
        self.next = Some(call);
    }

    /// Takes no more calls; those that wait can still be taken.
    pub(super) fn close(&mut self) {
        self.calls.close();
    }

    /// The next call after [`Inbox::close`]; none when all were taken.
    pub(super) async fn drain(&mut self) -> Option<Call<W, A>> {
        match self.next.take() {
            Some(call) => Some(call),
            None => self.calls.recv().await,
        }
    }

    /// What tells everybody who waits for the shutdown what it ended with.
    pub(super) fn on_end(&mut self) -> impl FnOnce(Result<()>) + use<W, A> {
        let ended = self.ended.take();
        move |result| {
            if let Some(ended) = ended {
                ended.send_replace(Some(result));
            }
        }
    }
}

/// When to try again what a failed write left open: soon, then ever later.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    /// How long after the first failure.
    const FIRST: Duration = Duration::from_secs(1);
    /// The same after many.
    const LONGEST: Duration = Duration::from_secs(30);

    /// It failed, perhaps once more.
    pub(super) fn failed(&mut self) {
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST);
        self.failures += 1;
        self.at = Some(Instant::now() + wait);
    }

    /// It worked.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// How long the next wait is from now.
    #[cfg_attr(not(feature = "consensus-raft"), allow(dead_code))]
    pub(super) fn wait(&self) -> Duration {
        self.at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
    }

    /// When it is time; none after it worked.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }
}

/// Waits until then; for ever without a time.
pub(super) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// How many operations, and about how many bytes they take in a batch.
pub(super) fn size<'a>(operations: impl IntoIterator<Item = &'a PinOperation>) -> (usize, usize) {
    /// What every operation takes: key, fixed fields and index entries.
    const OPERATION_BYTES: usize = 300;
    /// A peer, a CID or an address.
    const ITEM_BYTES: usize = 40;
    let bytes_of = |pin: &Pin| {
        let options = &pin.options;
        let metadata: usize =
            options.metadata.iter().map(|(key, value)| key.len() + value.len() + 2 * ITEM_BYTES).sum();
        let items = pin.allocations.len() + 2 * options.origins.len();
        2 * options.name.len() + metadata + items * ITEM_BYTES
    };
    operations.into_iter().fold((0, 0), |(count, bytes), operation| {
        let pin = match operation {
            PinOperation::Pin(pin) => Some(pin),
            PinOperation::Unpin(_) => None,
            PinOperation::Revise(revision) => revision.now(),
        };
        (count + 1, bytes + OPERATION_BYTES + pin.map_or(0, |pin| bytes_of(pin)))
    })
}
