//! The callers' side of writing: what they ask for becomes parts, and each part gets to the leader, wherever that is.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::COMPONENT;
use super::command::{Key, Operations, PART_BYTES_MAX};
use super::message::{Answer, Question};
use super::node::{Inner, Standing};
use super::propose::{Refusal, no_quorum};
use super::types::{Answers, LogId, PartOutcome};
use crate::consensus::OPERATIONS_MAX;
use crate::consensus::group::{Call, Inbox, Reply};
use crate::error::{Error, ErrorKind, Result};
use crate::types::PeerId;

/// Calls that wait; more wait in their callers.
pub(super) const QUEUED_CALLS_MAX: usize = 4096;
/// Parts under way at a time: while one travels the next ones gather.
const PARTS_UNDER_WAY: usize = 4;
/// How long a part has to be under way before another one follows it: what gathers meanwhile costs one message together.
/// The leader sees to it that parts share entries.
const PART_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);
/// How often it is looked whether there is a leader.
const LEADER_POLL: std::time::Duration = std::time::Duration::from_millis(25);
/// How long what was accepted may still take once a shutdown has begun.
const SHUTDOWN_GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Work {
    /// These operations; whether it wants to know what is gone.
    Apply(Operations, bool),
    /// Forget everything.
    Clean,
}

/// One caller of a part.
#[derive(Debug)]
struct Waiter {
    tells: usize,
    reply: Reply<Answers>,
}

/// A part under way: its sequence, and the session that is in force where that is a later one.
type UnderWay = FuturesUnordered<BoxFuture<'static, (u64, Option<u64>, Result<()>)>>;

/// Makes parts of calls.
pub(super) struct Writer {
    inner: Arc<Inner>,
    inbox: Inbox<Work, Answers>,
    session: u64,
    next: u64,
    /// Sequences of parts that are under way.
    open: BTreeSet<u64>,
    under_way: UnderWay,
    /// When the last part went on its way.
    sent_at: Instant,
    /// Cancelled when a shutdown begins.
    stop: CancellationToken,
    /// The first error of what was accepted before the shutdown and failed after.
    result: Result<()>,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, inbox: Inbox<Work, Answers>, stop: CancellationToken) -> Self {
        let session = inner.session;
        Self {
            inner,
            inbox,
            session,
            next: 1,
            open: BTreeSet::new(),
            under_way: UnderWay::new(),
            sent_at: Instant::now(),
            stop,
            result: Ok(()),
        }
    }

    /// Works until it is stopped and everything accepted is done.
    pub(super) async fn run(mut self) -> Result<()> {
        loop {
            let not_before = (!self.under_way.is_empty()).then(|| self.sent_at + PART_PAUSE);
            let next = async {
                if let Some(not_before) = not_before {
                    sleep_until(not_before).await;
                }
                self.inbox.take().await
            };
            tokio::select! {
                biased;
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.done(done),
                call = next, if self.under_way.len() < PARTS_UNDER_WAY => match call {
                    Some(call) => self.serve(call).await,
                    None => break,
                },
            }
        }
        self.inbox.close();
        self.result = Ok(());
        while let Some(call) = self.inbox.drain().await {
            self.serve(call).await;
            while self.under_way.len() >= PARTS_UNDER_WAY
                && let Some(done) = self.under_way.next().await
            {
                self.done(done);
            }
        }
        self.finish().await;
        self.result
    }

    fn done(&mut self, (sequence, session, result): (u64, Option<u64>, Result<()>)) {
        self.open.remove(&sequence);
        if let Some(session) = session
            && session >= self.session
        {
            warn!("this peer's clock went back while it was away: it takes a new session");
            self.session = session + 1;
        }
        self.result = std::mem::replace(&mut self.result, Ok(())).and(result);
    }

    async fn finish(&mut self) {
        while let Some(done) = self.under_way.next().await {
            self.done(done);
        }
    }

    async fn serve(&mut self, call: Call<Work, Answers>) {
        if call.reply.is_abandoned() {
            // Its caller was told that it was not acknowledged, or does not want to know: what has not begun does not begin.
            return;
        }
        match call.work {
            Work::Apply(operations, tells) => {
                let (operations, waiters) = self.gather(operations, tells, call.reply);
                let sequence = self.next;
                self.next += 1;
                self.open.insert(sequence);
                let floor = self.open.first().copied().unwrap_or(sequence);
                let key = Key { origin: self.inner.peer, session: self.session, sequence, floor };
                let count = operations.count;
                let part = operations.into_part(key);
                let (inner, stop) = (self.inner.clone(), self.stop.clone());
                self.sent_at = Instant::now();
                self.under_way.push(Box::pin(async move {
                    let (session, result) = deliver(&inner, part, count, waiters, stop).await;
                    (sequence, session, result)
                }));
            }
            Work::Clean => {
                self.finish().await;
                let cleaned = self.inner.clean().await;
                call.reply.send(cleaned.clone().map(|()| Answers::new()));
                self.result = std::mem::replace(&mut self.result, Ok(())).and(cleaned);
            }
        }
    }

    /// The operations of a call and of those that wait and fit in.
    fn gather(&mut self, first: Operations, tells: bool, reply: Reply<Answers>) -> (Operations, Vec<Waiter>) {
        let told = |operations: &Operations, tells: bool| if tells { operations.count } else { 0 };
        let mut waiters = vec![Waiter { tells: told(&first, tells), reply }];
        let mut all = first;
        while let Some(call) = self.inbox.take_now() {
            if call.reply.is_abandoned() {
                continue;
            }
            let Work::Apply(more, _) = &call.work else {
                self.inbox.put_back(call);
                break;
            };
            let (count, bytes) = (all.count + more.count, all.bytes.len() + more.bytes.len());
            let config = &self.inner.config;
            if count > config.max_batch_operations.min(OPERATIONS_MAX)
                || bytes > config.max_batch_bytes.min(PART_BYTES_MAX)
            {
                self.inbox.put_back(call);
                break;
            }
            if let Call { work: Work::Apply(more, tells), reply } = call {
                waiters.push(Waiter { tells: told(&more, tells), reply });
                all.bytes.extend_from_slice(&more.bytes);
                all.count = count;
            }
        }
        (all, waiters)
    }
}

/// Gets a part written and applied here, and answers its callers. Gives the session in force if that is another one.
async fn deliver(
    inner: &Inner,
    part: Bytes,
    operations: usize,
    waiters: Vec<Waiter>,
    stop: CancellationToken,
) -> (Option<u64>, Result<()>) {
    let deadline = Instant::now() + inner.config.wait_for_leader_timeout;
    let cut_short = async {
        stop.cancelled().await;
        sleep(SHUTDOWN_GRACE).await;
    };
    let outcome = tokio::select! {
        biased;
        outcome = until_applied(inner, part, operations, deadline) => outcome,
        () = cut_short => Err(unknown(&no_leader(inner))),
    };
    match outcome {
        Ok(PartOutcome::Applied(answers)) => {
            let mut answers = answers.into_iter();
            for waiter in waiters {
                let own: Answers = answers.by_ref().take(waiter.tells).collect();
                waiter.reply.send(Ok(own));
            }
            (None, Ok(()))
        }
        Ok(PartOutcome::Stale(session)) => {
            let text = "this peer has been started again in the eyes of the others; try again";
            let error = Error::new(ErrorKind::Unavailable, text).component(COMPONENT);
            waiters.into_iter().for_each(|waiter| waiter.reply.send(Err(error.clone())));
            (Some(session), Err(error))
        }
        Ok(PartOutcome::Unreadable) => {
            let text =
                "the others cannot read what this peer writes; is the version of all of them the same?";
            let error = Error::new(ErrorKind::Corrupt, text).component(COMPONENT);
            waiters.into_iter().for_each(|waiter| waiter.reply.send(Err(error.clone())));
            (None, Err(error))
        }
        Ok(PartOutcome::NotMember) => {
            let error = unknown(&inner.removed());
            waiters.into_iter().for_each(|waiter| waiter.reply.send(Err(error.clone())));
            (None, Err(error))
        }
        Err(error) => {
            debug!(%error, callers = waiters.len(), "a part was not written");
            waiters.into_iter().for_each(|waiter| waiter.reply.send(Err(error.clone())));
            (None, Err(error))
        }
    }
}

async fn until_applied(
    inner: &Inner,
    part: Bytes,
    operations: usize,
    deadline: Instant,
) -> Result<PartOutcome> {
    let (id, outcome) = until_written(inner, part, operations, deadline).await?;
    let applied = async {
        inner.told_agreed(id).await;
        inner.applied.until(id.index + 1).await;
    };
    match timeout_at(deadline, applied).await {
        Ok(()) => Ok(outcome),
        Err(_) => {
            let text = "it is written for good, but this peer is too far behind to show it";
            inner.check().map_err(|error| error.context(text))?;
            Err(Error::new(ErrorKind::Unavailable, text).component(COMPONENT))
        }
    }
}

/// Tries until it is known what became of the part. The key of the part sees to it that it is applied once.
async fn until_written(
    inner: &Inner,
    part: Bytes,
    operations: usize,
    deadline: Instant,
) -> Result<(LogId, PartOutcome)> {
    let mut last = None;
    loop {
        match inner.leader() {
            Some(leader) => {
                let attempt = inner.send(&leader, part.clone(), operations);
                match timeout_at(deadline, attempt).await {
                    Ok(Ok(written)) => return Ok(written),
                    Ok(Err(error)) if is_final(&error) => return Err(error),
                    Ok(Err(error)) => last = Some(error),
                    Err(_) => last = last.or_else(|| Some(no_quorum())),
                }
                let pause = Instant::now() + inner.config.commit_retry_delay;
                inner.until_another_leads(&leader, pause.min(deadline)).await;
            }
            None => {
                if let Standing::Broken(error) = &*inner.standing.borrow() {
                    return Err(error.clone());
                }
                if matches!(*inner.standing.borrow(), Standing::Removed) {
                    return Err(inner.removed());
                }
                if let Some(disowned) = inner.disowned() {
                    return Err(disowned.error());
                }
                sleep_until((Instant::now() + LEADER_POLL).min(deadline)).await;
            }
        }
        if Instant::now() >= deadline {
            let error = match inner.check() {
                Err(error) => error,
                // What went wrong while there was one is of no use to anybody now.
                Ok(()) if inner.leader().is_none() => no_leader(inner),
                Ok(()) => last.unwrap_or_else(|| no_leader(inner)),
            };
            return Err(unknown(&error));
        }
    }
}

pub(super) fn no_leader(inner: &Inner) -> Error {
    let voters = inner.voters();
    let text = if voters.is_empty() {
        "this peer belongs to no raft cluster yet: start it with --bootstrap and the address of a member"
            .to_owned()
    } else {
        format!(
            "there is no leader: more than half of the {} members have to run and reach each other; if they never will \
             again, see \"ipfs-cluster-service state raft recover --help\"",
            voters.len()
        )
    };
    Error::new(ErrorKind::Unavailable, text).component(COMPONENT)
}

/// Why a call that waited behind others was not answered in time.
pub(super) fn not_served(inner: &Inner) -> Error {
    let error = match (inner.check(), inner.leader()) {
        (Err(error), _) => error,
        (Ok(()), None) => no_leader(inner),
        (Ok(()), Some(_)) => no_quorum(),
    };
    unknown(&error)
}

/// Says that nobody knows whether it will happen.
fn unknown(error: &Error) -> Error {
    unavailable(error.clone()).context("the write was not acknowledged in time")
}

/// What one attempt ended with, for who asked: that one peer was silent means that the cluster does not work. So does that it
/// knows nothing of this protocol: a member that starts is on the network before its disk gave it what it needs to speak it.
pub(super) fn unavailable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Timeout | ErrorKind::Unsupported => {
            Error::new(ErrorKind::Unavailable, error.to_string()).component(COMPONENT).with_source(error)
        }
        _ => error,
    }
}

/// Whether trying again cannot help.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::ShutDown | ErrorKind::Unauthorized)
}

impl Inner {
    /// The leader says that an entry is agreed on, in the answer to who asked for it: its next message to this peer may wait
    /// for the disk. Nothing happens where this peer follows another one by now, or has no such entry yet.
    async fn told_agreed(&self, id: LogId) {
        let Some(core) = self.core() else { return };
        let vote = core.raft.metrics().borrow().vote;
        let is_leaders = vote.committed && vote.leader_id.term == id.leader_id.term;
        if !is_leaders || self.applied.borrow().next() > id.index || core.log.last() < Some(id) {
            return;
        }
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: Some(id),
            leader_commit: Some(id),
            entries: Vec::new(),
        };
        if let Err(error) = core.raft.append_entries(request).await {
            debug!(%error, "raft was not told that an entry is agreed on");
        }
    }

    async fn send(&self, leader: &PeerId, part: Bytes, operations: usize) -> Result<(LogId, PartOutcome)> {
        let not_leader = || {
            Error::new(ErrorKind::Unavailable, format!("{leader} does not lead any more"))
                .component(COMPONENT)
        };
        if *leader == self.peer {
            let proposed =
                tokio::time::timeout(self.config.network_timeout, self.propose(part, operations)).await;
            return match proposed {
                Ok(Ok(written)) => Ok(written),
                Ok(Err(Refusal::NotLeader)) => Err(not_leader()),
                Ok(Err(Refusal::Failed(error))) => Err(error),
                Err(_) => Err(no_quorum()),
            };
        }
        match self.ask(leader, &Question::Propose(part), self.config.network_timeout).await? {
            Answer::Proposed(id, outcome) => Ok((id, outcome)),
            Answer::NotLeader(_) => Err(not_leader()),
            Answer::NotMember => {
                self.check_removed(Some(*leader)).await;
                Err(not_leader())
            }
            other => Err(other.unexpected(leader)),
        }
    }
}
