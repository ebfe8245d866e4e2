//! The leader's side of writing: parts that wait, of whatever peer, become one entry together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use openraft::error::ClientWriteError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::COMPONENT;
use super::command::{self, PARTS_MAX};
use super::node::Inner;
use super::types::{Command, Node, PartOutcome};
use crate::error::{Error, ErrorKind, Result};

/// Parts that wait for their entry; more wait in their callers.
pub(super) const WAITING_PARTS_MAX: usize = 1024;
/// Entries under way at a time: while one is being replicated the next one is written, and more gather for the one after.
const ENTRIES_UNDER_WAY: usize = 4;
/// How long an entry has to be under way before another one follows it, so that parts of several peers gather.
const ENTRY_PAUSE: Duration = Duration::from_millis(2);
/// How long an entry keeps its place among those: for longer only when there is no quorum.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(30);

/// A part, and who waits for it.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) part: Bytes,
    pub(super) operations: usize,
    pub(super) reply: oneshot::Sender<Proposed>,
}

/// The index of the entry and what became of the part.
pub(super) type Proposed = Result<(u64, PartOutcome), Refusal>;

/// Why a part was not written, or may not have been.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// This peer does not lead.
    NotLeader,
    /// Something else.
    Failed(Error),
}

impl Inner {
    /// Writes a part as the leader.
    pub(super) async fn propose(&self, part: Bytes, operations: usize) -> Proposed {
        let (reply, answer) = oneshot::channel();
        let proposal = Proposal { part, operations, reply };
        self.proposals.send(proposal).await.map_err(|_| Refusal::Failed(Error::shut_down(COMPONENT)))?;
        answer.await.unwrap_or_else(|_| {
            let text = "the leader stopped before it knew what became of a write";
            Err(Refusal::Failed(Error::new(ErrorKind::Unavailable, text).component(COMPONENT)))
        })
    }
}

/// Takes parts for as long as somebody can send some.
pub(super) async fn serve(inner: Arc<Inner>, mut waiting: mpsc::Receiver<Proposal>) {
    let mut under_way = FuturesUnordered::<BoxFuture<'static, ()>>::new();
    let mut next = None;
    let mut written_at = Instant::now();
    loop {
        let not_before = (!under_way.is_empty()).then(|| written_at + ENTRY_PAUSE);
        tokio::select! {
            biased;
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            first = async {
                if let Some(not_before) = not_before {
                    sleep_until(not_before).await;
                }
                match next.take() {
                    Some(proposal) => Some(proposal),
                    None => waiting.recv().await,
                }
            }, if under_way.len() < ENTRIES_UNDER_WAY => {
                let Some(first) = first else { break };
                let proposals = gather(&inner, first, &mut waiting, &mut next);
                written_at = Instant::now();
                under_way.push(Box::pin(write(inner.clone(), proposals)));
            }
        }
    }
    while under_way.next().await.is_some() {}
}

fn gather(
    inner: &Inner,
    first: Proposal,
    waiting: &mut mpsc::Receiver<Proposal>,
    next: &mut Option<Proposal>,
) -> Vec<Proposal> {
    let (mut operations, mut bytes) = (first.operations, first.part.len());
    let mut proposals = vec![first];
    while proposals.len() < PARTS_MAX
        && let Ok(proposal) = waiting.try_recv()
    {
        operations += proposal.operations;
        bytes += proposal.part.len();
        if operations > inner.config.max_batch_operations || bytes > inner.config.max_batch_bytes {
            *next = Some(proposal);
            break;
        }
        proposals.push(proposal);
    }
    proposals
}

async fn write(inner: Arc<Inner>, proposals: Vec<Proposal>) {
    let parts: Vec<Bytes> = proposals.iter().map(|proposal| proposal.part.clone()).collect();
    let written = timeout(ENTRY_TIMEOUT, write_entry(&inner, &parts)).await.unwrap_or_else(|_| {
        let text = format!("an entry was not acknowledged by a quorum within {ENTRY_TIMEOUT:?}");
        Err(Refusal::Failed(Error::new(ErrorKind::Unavailable, text).component(COMPONENT)))
    });
    match written {
        Ok((index, outcomes)) => {
            let mut outcomes = outcomes.into_iter();
            for proposal in proposals {
                let outcome = outcomes.next().unwrap_or(PartOutcome::Unreadable);
                // Whoever does not wait any more asks again, or does not want to know.
                let _ = proposal.reply.send(Ok((index, outcome)));
            }
        }
        Err(refusal) => {
            for proposal in proposals {
                let _ = proposal.reply.send(Err(refusal.clone()));
            }
        }
    }
}

async fn write_entry(inner: &Inner, parts: &[Bytes]) -> Result<(u64, Vec<PartOutcome>), Refusal> {
    let raft = inner.raft().map_err(Refusal::Failed)?;
    {
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader
            || metrics.current_leader != Some(inner.node())
            || inner.is_handing_over()
        {
            return Err(Refusal::NotLeader);
        }
        // Nothing gathers in the log while nobody can agree to it.
        if !inner.has_quorum(&metrics) {
            return Err(Refusal::Failed(no_quorum()));
        }
    }
    let answer = raft
        .client_write_ff(Command(command::join(parts)))
        .await
        .map_err(|fatal| Refusal::Failed(stopped(&fatal)))?;
    match answer.await {
        Ok(Ok(written)) => Ok((written.log_id.index, written.data.0)),
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(Refusal::NotLeader),
        Ok(Err(ClientWriteError::ChangeMembershipError(error))) => {
            Err(Refusal::Failed(Error::internal(error.to_string()).component(COMPONENT)))
        }
        Err(_) => Err(Refusal::Failed(
            Error::new(ErrorKind::Unavailable, "raft stopped before an entry was applied")
                .component(COMPONENT),
        )),
    }
}

pub(super) fn no_quorum() -> Error {
    let text = "no quorum: this leader does not hear from most members; start them, or if they are lost for good see \
                \"ipfs-cluster-service state raft recover --help\"";
    Error::new(ErrorKind::Unavailable, text).component(COMPONENT)
}

fn stopped(fatal: &openraft::error::Fatal<Node>) -> Error {
    Error::new(ErrorKind::Unavailable, format!("raft has stopped: {fatal}")).component(COMPONENT)
}
