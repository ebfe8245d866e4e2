//! The leader's side of writing: parts that wait, of whatever peer, become one entry together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use openraft::error::ClientWriteError;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::COMPONENT;
use super::command::{self, PARTS_MAX};
use super::node::Inner;
use super::types::{Command, LogId, Node, PartOutcome};
use crate::error::{Error, ErrorKind, Result};

/// Parts that wait for their entry; more wait in their callers.
pub(super) const WAITING_PARTS_MAX: usize = 1024;
/// Entries under way at a time: while one is being replicated the next one is written, and more gather for the one after.
const ENTRIES_UNDER_WAY: usize = 4;
/// How long an entry has to be under way before another one follows it, so that parts of several peers gather.
const ENTRY_PAUSE: Duration = Duration::from_millis(1);
/// From this on entries are slow.
const SLOW_ENTRY: Duration = Duration::from_millis(5);
/// The pause for those: longer than slow disks take, shorter than distant lines do.
const SLOW_ENTRY_PAUSE: Duration = Duration::from_millis(30);
/// How long it is waited at most for those who were answered.
const GATHER_MAX: Duration = Duration::from_millis(4);
/// How long an entry keeps its place among those: for longer only when there is no quorum.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(30);

/// A part, and who waits for it.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) part: Bytes,
    pub(super) operations: usize,
    pub(super) reply: oneshot::Sender<Proposed>,
}

/// The entry and what became of the part.
pub(super) type Proposed = Result<(LogId, PartOutcome), Refusal>;

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
    let mut under_way = FuturesUnordered::<BoxFuture<'static, (Instant, usize)>>::new();
    let (mut held, mut pace, mut is_open) = (Held::default(), Pace::new(), true);
    loop {
        while is_open && !held.is_enough(&inner) {
            match waiting.try_recv() {
                Ok(proposal) => held.push(proposal),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => is_open = false,
            }
        }
        let may_begin = !held.proposals.is_empty() && under_way.len() < ENTRIES_UNDER_WAY;
        let not_before = pace.not_before(!under_way.is_empty(), held.operations);
        tokio::select! {
            biased;
            Some((began, operations)) = under_way.next(), if !under_way.is_empty() => {
                pace.ended(began, operations, held.operations);
            }
            () = until(not_before), if may_begin => {
                let proposals = held.take(&inner);
                pace.began();
                under_way.push(Box::pin(write(inner.clone(), proposals)));
            }
            proposal = waiting.recv(), if is_open && !held.is_enough(&inner) => match proposal {
                Some(proposal) => held.push(proposal),
                None => is_open = false,
            },
            else => break,
        }
    }
}

/// Waits until then, which may be over.
async fn until(time: Instant) {
    if time > Instant::now() {
        sleep_until(time).await;
    }
}

/// Parts that wait for the next entry.
#[derive(Debug, Default)]
struct Held {
    proposals: VecDeque<Proposal>,
    operations: usize,
    bytes: usize,
}

impl Held {
    /// Whether there is enough for an entry.
    fn is_enough(&self, inner: &Inner) -> bool {
        self.proposals.len() >= PARTS_MAX
            || self.operations >= inner.config.max_batch_operations
            || self.bytes >= inner.config.max_batch_bytes
    }

    fn push(&mut self, proposal: Proposal) {
        self.operations += proposal.operations;
        self.bytes += proposal.part.len();
        self.proposals.push_back(proposal);
    }

    /// As many as fit into one entry, and one at least.
    fn take(&mut self, inner: &Inner) -> Vec<Proposal> {
        let (mut operations, mut bytes, mut taken) = (0, 0, Vec::new());
        while let Some(proposal) = self.proposals.pop_front() {
            operations += proposal.operations;
            bytes += proposal.part.len();
            let is_too_much =
                operations > inner.config.max_batch_operations || bytes > inner.config.max_batch_bytes;
            if is_too_much && !taken.is_empty() {
                self.proposals.push_front(proposal);
                break;
            }
            self.operations -= proposal.operations;
            self.bytes -= proposal.part.len();
            taken.push(proposal);
        }
        taken
    }
}

/// When the next entry begins.
///
/// Where entries are quick, the next one is written while the last one is applied. Where they take long, because disks do,
/// it is better to have everybody in each of them: who was answered asks again in a moment, and would wait for the end of an
/// entry that was begun without it. So one begins when the last one is answered and as many wait as were answered and waited
/// before, or after a fraction of the time that an entry takes. Over distant lines it is not waited for answers.
#[derive(Debug)]
struct Pace {
    /// About how long entries take.
    usual: Duration,
    began: Instant,
    ended: Instant,
    /// Operations of the last entry, and those that waited when it was answered.
    expected: usize,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { usual: Duration::ZERO, began: now, ended: now, expected: 0 }
    }

    fn began(&mut self) {
        self.began = Instant::now();
    }

    fn ended(&mut self, began: Instant, operations: usize, waiting: usize) {
        self.ended = Instant::now();
        self.usual = (self.usual * 3 + self.ended.duration_since(began)) / 4;
        self.expected = operations + waiting;
    }

    fn not_before(&self, is_one_under_way: bool, waiting: usize) -> Instant {
        let is_slow = self.usual >= SLOW_ENTRY;
        match (is_one_under_way, is_slow) {
            (true, false) => self.began + ENTRY_PAUSE,
            (true, true) => self.began + SLOW_ENTRY_PAUSE,
            (false, true) if waiting < self.expected => self.ended + (self.usual / 4).min(GATHER_MAX),
            (false, _) => self.ended,
        }
    }
}

/// Writes an entry and answers. Gives when it began, and how many operations it had.
async fn write(inner: Arc<Inner>, proposals: Vec<Proposal>) -> (Instant, usize) {
    let began = Instant::now();
    let operations = proposals.iter().map(|proposal| proposal.operations).sum();
    let parts: Vec<Bytes> = proposals.iter().map(|proposal| proposal.part.clone()).collect();
    let written = timeout(ENTRY_TIMEOUT, write_entry(&inner, &parts)).await.unwrap_or_else(|_| {
        let text = format!("an entry was not acknowledged by a quorum within {ENTRY_TIMEOUT:?}");
        Err(Refusal::Failed(Error::new(ErrorKind::Unavailable, text).component(COMPONENT)))
    });
    match written {
        Ok((id, outcomes)) => {
            let mut outcomes = outcomes.into_iter();
            for proposal in proposals {
                let outcome = outcomes.next().unwrap_or(PartOutcome::Unreadable);
                // Whoever does not wait any more asks again, or does not want to know.
                let _ = proposal.reply.send(Ok((id, outcome)));
            }
        }
        Err(refusal) => {
            for proposal in proposals {
                let _ = proposal.reply.send(Err(refusal.clone()));
            }
        }
    }
    (began, operations)
}

async fn write_entry(inner: &Inner, parts: &[Bytes]) -> Result<(LogId, Vec<PartOutcome>), Refusal> {
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
        Ok(Ok(written)) => Ok((written.log_id, written.data.0)),
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn slow_entries_wait_for_those_who_were_answered_and_quick_ones_for_nobody() {
        let began = Instant::now();
        let pace = |usual: u32, ended: u32| Pace {
            usual: MS * usual,
            began,
            ended: began + MS * ended,
            expected: 64,
        };
        for (usual, is_one_under_way, waiting, expected) in [
            // How long after the last one began, or was answered.
            (2, true, 1, ENTRY_PAUSE),
            (2, true, 64, ENTRY_PAUSE),
            (2, false, 1, MS * 10),
            (8, true, 64, SLOW_ENTRY_PAUSE),
            (8, false, 63, MS * 12),
            (8, false, 64, MS * 10),
            (100, true, 64, SLOW_ENTRY_PAUSE),
            (100, false, 1, MS * 10 + GATHER_MAX),
        ] {
            let not_before = pace(usual, 10).not_before(is_one_under_way, waiting);
            assert_eq!(not_before - began, expected, "{usual} ms, {is_one_under_way}, {waiting} wait");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_waits_for_nobody_however_slow_the_disk_is() {
        let mut pace = Pace::new();
        for _ in 0..10 {
            pace.began();
            let began = Instant::now();
            sleep_until(began + MS * 20).await;
            pace.ended(began, 1, 0);
        }
        assert!(pace.usual > SLOW_ENTRY);
        assert!(pace.not_before(false, 1) <= Instant::now());
    }
}
