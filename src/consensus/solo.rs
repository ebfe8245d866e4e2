//! A cluster of one: nobody to agree with, so an operation is agreed once it is on disk.
//!
//! One committer task takes what callers queue, writes as much of it as fits in one batch, and wakes every caller with
//! its own result. While a batch is being synced the next one gathers, so more callers make larger batches, not
//! more syncs.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Consensus, ConsensusCapabilities, ConsensusContext, OPERATIONS_MAX, StateEvent};
use crate::config::SoloSection;
use crate::error::{Error, ErrorKind, Result};
use crate::state::{State, StateChange, StateReader};
use crate::storage::Batch;
use crate::types::{Cid, PeerId, Pin, PinOperation};

const COMPONENT: &str = "solo consensus";

/// Calls that wait for the committer; more wait in their callers.
const QUEUED_CALLS_MAX: usize = 4096;

/// How a [`Solo`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SoloConfig {
    /// Most operations of several callers that share one sync to disk. A single call may have more.
    pub max_batch_operations: usize,
    /// About how many bytes of pins share one sync to disk. A single call may have more.
    pub max_batch_bytes: usize,
    /// Events kept for a reader that is slow; one that is slower is told to compare.
    pub max_buffered_events: usize,
}

impl Default for SoloConfig {
    fn default() -> Self {
        Self { max_batch_operations: 4096, max_batch_bytes: 4 << 20, max_buffered_events: 16 * 1024 }
    }
}

impl SoloConfig {
    /// Checks values that cannot work.
    ///
    /// # Errors
    /// `InvalidInput` naming the field.
    pub fn validate(&self) -> Result<()> {
        for (name, value, max) in [
            ("max_batch_operations", self.max_batch_operations, OPERATIONS_MAX),
            ("max_batch_bytes", self.max_batch_bytes, 256 << 20),
            ("max_buffered_events", self.max_buffered_events, 1 << 20),
        ] {
            if !(1..=max).contains(&value) {
                return Err(Error::invalid_input(format!(
                    "solo.{name} is {value}, but must be between 1 and {max}"
                ))
                .component(COMPONENT));
            }
        }
        Ok(())
    }
}

/// What the section says beside engine and folder, which are the business of whoever opens the storage.
impl From<&SoloSection> for SoloConfig {
    fn from(section: &SoloSection) -> Self {
        Self { max_batch_operations: section.max_batch_operations, ..Self::default() }
    }
}

/// Consensus of one peer with itself.
///
/// Dropping it without [`Consensus::shutdown`] finishes what was accepted and then stops the task.
#[derive(Debug)]
pub struct Solo {
    peer: PeerId,
    state: Arc<dyn State>,
    queue: mpsc::Sender<Call>,
    events: broadcast::WeakSender<StateEvent>,
    stop: CancellationToken,
    /// What the committer ended with, once it did.
    stopped: watch::Receiver<Option<Result<()>>>,
}

impl Solo {
    /// Starts the committer over the context's pinset.
    ///
    /// # Errors
    /// `InvalidInput` for the configuration.
    pub async fn open(config: SoloConfig, cx: ConsensusContext) -> Result<Self> {
        config.validate()?;
        let state = cx.state;
        let (queue, calls) = mpsc::channel(QUEUED_CALLS_MAX);
        let (events, _) = broadcast::channel(config.max_buffered_events);
        let (ended, stopped) = watch::channel(None);
        let stop = CancellationToken::new();
        let weak_events = events.downgrade();
        let committer =
            Committer { config, state: state.clone(), calls, events, stop: stop.clone(), next: None };
        tokio::spawn(async move {
            let result = committer.run().await;
            ended.send_replace(Some(result));
        });
        Ok(Self { peer: cx.peer, state, queue, events: weak_events, stop, stopped })
    }

    fn check_open(&self) -> Result<()> {
        if self.stop.is_cancelled() { Err(Error::shut_down(COMPONENT)) } else { Ok(()) }
    }

    async fn call(&self, work: Work) -> Result<Vec<StateChange>> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        // What the committer has not taken in when it stops was not accepted.
        self.queue.send(Call { work, reply }).await.map_err(|_| Error::shut_down(COMPONENT))?;
        answer.await.unwrap_or_else(|source| {
            Err(Error::internal("the committer ended before it answered")
                .component(COMPONENT)
                .with_source(source))
        })
    }

    fn unsupported(what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("a cluster of one {what}")).component(COMPONENT)
    }
}

#[async_trait]
impl Consensus for Solo {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities::default()
    }

    async fn ready(&self) -> Result<()> {
        self.check_open()
    }

    async fn log_pin(&self, pin: Pin) -> Result<()> {
        self.call(Work::Apply(vec![PinOperation::Pin(Arc::new(pin))])).await.map(drop)
    }

    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        let changes = self.call(Work::Apply(vec![PinOperation::Unpin(*cid)])).await?;
        Ok(changes.into_iter().find_map(|change| match change {
            StateChange::Unpinned(pin) => Some(pin),
            StateChange::Pinned(_) | StateChange::Unchanged => None,
        }))
    }

    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        if operations.len() > OPERATIONS_MAX {
            return Err(Error::invalid_input(format!(
                "{} operations are more than the {OPERATIONS_MAX} that one batch holds; log them in parts",
                operations.len()
            ))
            .component(COMPONENT));
        }
        self.call(Work::Apply(operations)).await.map(drop)
    }

    fn state(&self) -> Arc<dyn StateReader> {
        self.state.clone()
    }

    fn events(&self) -> BoxStream<'static, StateEvent> {
        // The committer has the sender, so that streams end with it.
        let Some(events) = self.events.upgrade() else { return stream::empty().boxed() };
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
        self.check_open()?;
        Ok(vec![self.peer])
    }

    async fn add_peer(&self, _peer: &PeerId) -> Result<()> {
        self.check_open()?;
        Err(Self::unsupported("takes no other peers"))
    }

    async fn remove_peer(&self, _peer: &PeerId) -> Result<()> {
        self.check_open()?;
        Err(Self::unsupported("has no other peers"))
    }

    async fn leader(&self) -> Result<Option<PeerId>> {
        self.check_open()?;
        Err(Self::unsupported("has no leader"))
    }

    fn is_trusted(&self, peer: &PeerId) -> bool {
        *peer == self.peer
    }

    async fn trust(&self, _peer: &PeerId) -> Result<()> {
        self.check_open()?;
        Err(Self::unsupported("trusts nobody else"))
    }

    async fn distrust(&self, _peer: &PeerId) -> Result<()> {
        self.check_open()?;
        Err(Self::unsupported("trusts nobody else"))
    }

    async fn clean(&self) -> Result<()> {
        self.call(Work::Clean).await.map(drop)
    }

    async fn shutdown(&self) -> Result<()> {
        self.stop.cancel();
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(source) => Err(Error::internal("the committer ended before its time")
                .component(COMPONENT)
                .with_source(source)),
        }
    }
}

#[derive(Debug)]
enum Work {
    Apply(Vec<PinOperation>),
    Clean,
}

#[derive(Debug)]
struct Call {
    work: Work,
    reply: oneshot::Sender<Result<Vec<StateChange>>>,
}

/// A call that becomes part of a batch.
struct Part {
    operations: Vec<PinOperation>,
    reply: oneshot::Sender<Result<Vec<StateChange>>>,
}

struct Committer {
    config: SoloConfig,
    state: Arc<dyn State>,
    calls: mpsc::Receiver<Call>,
    events: broadcast::Sender<StateEvent>,
    stop: CancellationToken,
    /// Taken from the queue, but did not fit into the batch.
    next: Option<Call>,
}

impl Committer {
    /// Works until it is stopped and everything accepted is done. An error is what kept some of that from being done.
    async fn run(mut self) -> Result<()> {
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                call = self.take() => match call {
                    // Its own caller is told.
                    Some(call) => drop(self.serve(call).await),
                    None => return Ok(()),
                },
            }
        }
        self.calls.close();
        let mut result = Ok(());
        while let Some(call) = self.take().await {
            result = result.and(self.serve(call).await);
        }
        result
    }

    /// Cancel-safe.
    async fn take(&mut self) -> Option<Call> {
        match self.next.take() {
            Some(call) => Some(call),
            None => self.calls.recv().await,
        }
    }

    /// Serves a call, and with it those that wait and fit into its batch.
    async fn serve(&mut self, call: Call) -> Result<()> {
        let Call { work, reply } = call;
        match work {
            Work::Apply(operations) => {
                let parts = self.gather(Part { operations, reply });
                self.commit(parts).await
            }
            Work::Clean => {
                let result = self.state.clear().await;
                if result.is_ok() {
                    self.tell(StateEvent::Resync);
                }
                answer(reply, result.clone().map(|()| Vec::new()));
                result
            }
        }
    }

    fn gather(&mut self, first: Part) -> Vec<Part> {
        let (mut operations, mut bytes) = size(&first.operations);
        let mut parts = vec![first];
        while let Ok(call) = self.calls.try_recv() {
            let Work::Apply(more) = &call.work else {
                self.next = Some(call);
                break;
            };
            let (more_operations, more_bytes) = size(more);
            operations += more_operations;
            bytes += more_bytes;
            if operations > self.config.max_batch_operations || bytes > self.config.max_batch_bytes {
                self.next = Some(call);
                break;
            }
            if let Call { work: Work::Apply(operations), reply } = call {
                parts.push(Part { operations, reply });
            }
        }
        parts
    }

    async fn commit(&self, parts: Vec<Part>) -> Result<()> {
        let operations = parts.iter().flat_map(|part| part.operations.iter().cloned()).collect();
        match self.state.apply(operations, Batch::new()).await {
            Ok(changes) => {
                self.done(parts, changes);
                Ok(())
            }
            // One caller's pin is impossible, or what it replaces is unreadable: that is not the others' fault.
            Err(error)
                if parts.len() > 1
                    && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Corrupt) =>
            {
                warn!(%error, "applying a batch call by call");
                let mut result = Ok(());
                for part in parts {
                    let applied = self.state.apply(part.operations.clone(), Batch::new()).await;
                    result = result.and(applied.as_ref().map(drop).map_err(Error::clone));
                    match applied {
                        Ok(changes) => self.done(vec![part], changes),
                        Err(error) => answer(part.reply, Err(error)),
                    }
                }
                result
            }
            Err(error) => {
                error!(%error, calls = parts.len(), "a batch of operations was not written");
                for part in parts {
                    answer(part.reply, Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Everything is on disk and visible: tell the world, then those who asked for it.
    fn done(&self, parts: Vec<Part>, changes: Vec<StateChange>) {
        for change in &changes {
            match change {
                StateChange::Pinned(pin) => self.tell(StateEvent::Pinned(pin.clone())),
                StateChange::Unpinned(pin) => self.tell(StateEvent::Unpinned(pin.clone())),
                StateChange::Unchanged => {}
            }
        }
        let mut changes = changes.into_iter();
        for part in parts {
            answer(part.reply, Ok(changes.by_ref().take(part.operations.len()).collect()));
        }
    }

    fn tell(&self, event: StateEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }
}

fn answer(reply: oneshot::Sender<Result<Vec<StateChange>>>, result: Result<Vec<StateChange>>) {
    // A caller that was dropped does not want to know.
    let _ = reply.send(result);
}

/// How many operations, and about how many bytes they take in a batch.
fn size(operations: &[PinOperation]) -> (usize, usize) {
    /// What every operation takes: key, fixed fields and index entries.
    const OPERATION_BYTES: usize = 300;
    /// A peer, a CID or an address.
    const ITEM_BYTES: usize = 40;
    let bytes = operations.iter().map(|operation| match operation {
        PinOperation::Unpin(_) => OPERATION_BYTES,
        PinOperation::Pin(pin) => {
            let options = &pin.options;
            let metadata: usize =
                options.metadata.iter().map(|(key, value)| key.len() + value.len() + 2 * ITEM_BYTES).sum();
            let items = pin.allocations.len() + 2 * options.origins.len();
            OPERATION_BYTES + 2 * options.name.len() + metadata + items * ITEM_BYTES
        }
    });
    (operations.len(), bytes.sum())
}
