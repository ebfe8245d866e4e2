//! A cluster of one: nobody to agree with, so an operation is agreed once it is on disk.
//!
//! One committer task takes what callers queue, writes as much of it as fits in one batch, and wakes every caller with
//! its own result. While a batch is being synced the next one gathers, so more callers make larger batches, not
//! more syncs.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tracing::{error, warn};

use super::events::{self, EventSender, EventSource};
use super::group::{self, Call, Desk, Inbox, Reply, Retry};
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
    desk: Desk<Work, Vec<StateChange>>,
    events: EventSource,
}

impl Solo {
    /// Starts the committer over the context's pinset.
    ///
    /// # Errors
    /// `InvalidInput` for the configuration.
    pub async fn open(config: SoloConfig, cx: ConsensusContext) -> Result<Self> {
        config.validate()?;
        let state = cx.state;
        let (desk, mut inbox) = group::desk(COMPONENT, QUEUED_CALLS_MAX);
        let (events, source) = events::channel(config.max_buffered_events);
        let ended = inbox.on_end();
        let (state_of_committer, retry) = (state.clone(), Retry::default());
        let committer = Committer { config, state: state_of_committer, inbox, events, retry };
        tokio::spawn(async move { ended(committer.run().await) });
        Ok(Self { peer: cx.peer, state, desk, events: source })
    }

    fn check_open(&self) -> Result<()> {
        self.desk.check_open()
    }

    async fn call(&self, work: Work) -> Result<Vec<StateChange>> {
        self.desk.call(work).await
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
        Ok(group::unpinned(changes))
    }

    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        group::check_length(&operations).map_err(|error| error.component(COMPONENT))?;
        self.call(Work::Apply(operations)).await.map(drop)
    }

    fn state(&self) -> Arc<dyn StateReader> {
        self.state.clone()
    }

    async fn synchronize(&self) -> Result<()> {
        // There is nobody else.
        self.check_open()
    }

    fn events(&self) -> BoxStream<'static, StateEvent> {
        self.events.stream()
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
        self.desk.shutdown().await
    }
}

#[derive(Debug)]
enum Work {
    Apply(Vec<PinOperation>),
    Clean,
}

/// A call that becomes part of a batch.
struct Part {
    operations: Vec<PinOperation>,
    reply: Reply<Vec<StateChange>>,
}

struct Committer {
    config: SoloConfig,
    state: Arc<dyn State>,
    inbox: Inbox<Work, Vec<StateChange>>,
    events: EventSender,
    /// After a write failed it has to be looked what became of it.
    retry: Retry,
}

impl Committer {
    /// Works until it is stopped and everything accepted is done. An error is what kept some of that from being done.
    async fn run(mut self) -> Result<()> {
        loop {
            let call = tokio::select! {
                biased;
                call = self.inbox.take() => call,
                () = group::until(self.retry.at()) => {
                    if let Err(error) = self.settle().await {
                        warn!(%error, "the store still does not work");
                    }
                    continue;
                }
            };
            match call {
                // Its own caller is told.
                Some(call) => drop(self.serve(call).await),
                None => break,
            }
        }
        self.inbox.close();
        let mut result = Ok(());
        while let Some(call) = self.inbox.drain().await {
            result = result.and(self.serve(call).await);
        }
        result
    }

    /// Serves a call, and with it those that wait and fit into its batch.
    async fn serve(&mut self, call: Call<Work, Vec<StateChange>>) -> Result<()> {
        let Call { work, reply } = call;
        match work {
            Work::Apply(operations) => {
                let parts = self.gather(Part { operations, reply });
                self.commit(parts).await
            }
            Work::Clean => {
                let result = self.state.clear().await;
                match &result {
                    Ok(()) => self.events.tell(StateEvent::Resync),
                    // It may be gone all the same.
                    Err(_) => self.retry.failed(),
                }
                reply.send(result.clone().map(|()| Vec::new()));
                result
            }
        }
    }

    fn gather(&mut self, first: Part) -> Vec<Part> {
        let (mut operations, mut bytes) = group::size(&first.operations);
        let mut parts = vec![first];
        while let Some(call) = self.inbox.take_now() {
            let Work::Apply(more) = &call.work else {
                self.inbox.put_back(call);
                break;
            };
            let (more_operations, more_bytes) = group::size(more);
            operations += more_operations;
            bytes += more_bytes;
            if operations > self.config.max_batch_operations || bytes > self.config.max_batch_bytes {
                self.inbox.put_back(call);
                break;
            }
            if let Call { work: Work::Apply(operations), reply } = call {
                parts.push(Part { operations, reply });
            }
        }
        parts
    }

    /// Tells of what a write did that failed.
    async fn settle(&mut self) -> Result<()> {
        if self.retry.at().is_none() {
            return Ok(());
        }
        match self.state.settle().await {
            Ok(changes) => {
                self.retry.worked();
                self.events.tell_changes(&changes);
                Ok(())
            }
            Err(error) => {
                self.retry.failed();
                Err(error)
            }
        }
    }

    async fn apply(&mut self, operations: Vec<PinOperation>) -> Result<Vec<StateChange>> {
        self.settle().await?;
        let applied = self.state.apply(operations, Batch::new()).await;
        if applied.is_err() {
            self.retry.failed();
        }
        applied
    }

    async fn commit(&mut self, parts: Vec<Part>) -> Result<()> {
        let operations = parts.iter().flat_map(|part| part.operations.iter().cloned()).collect();
        match self.apply(operations).await {
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
                    let applied = self.apply(part.operations.clone()).await;
                    result = result.and(applied.as_ref().map(drop).map_err(Error::clone));
                    match applied {
                        Ok(changes) => self.done(vec![part], changes),
                        Err(error) => part.reply.send(Err(error)),
                    }
                }
                result
            }
            Err(error) => {
                error!(%error, calls = parts.len(), "a batch of operations was not written");
                for part in parts {
                    part.reply.send(Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Everything is on disk and visible: tell the world, then those who asked for it.
    fn done(&self, parts: Vec<Part>, changes: Vec<StateChange>) {
        self.events.tell_changes(&changes);
        let mut changes = changes.into_iter();
        for part in parts {
            part.reply.send(Ok(changes.by_ref().take(part.operations.len()).collect()));
        }
    }
}
