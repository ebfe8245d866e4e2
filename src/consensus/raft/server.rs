//! What other peers ask us. Who asks is known from the transport; what it may ask depends on the membership.
//!
//! Whoever leads may be a member that this peer has not heard of yet, so entries and snapshots are taken from everybody
//! who knows the id of the cluster, which only its members do. Everything else is only answered to members.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use openraft::{ServerState, Snapshot};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::command::Part;
use super::lineage::Unrecognized;
use super::message::{Answer, Appended, Head, Question};
use super::network::upto;
use super::node::{Core, Inner, starting};
use super::propose::Refusal;
use super::snapshot::{self, Receiver};
use super::types::{LogId, Node, Vote, is_voter};
use super::{COMPONENT, elections, frame};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{PeerStream, StreamHandler};
use crate::types::PeerId;

/// How long a stream may wait for the next question.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Frames up to this size are read at any time.
const SMALL_BYTES: usize = 64 * 1024;
/// What all larger frames that are read at a time may have together, in pages.
const PAGES: usize = 4096;
/// How often it is said that strangers ask.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of a page.
const PAGE_BYTES: usize = 64 * 1024;
/// Snapshots that are received at a time: one that goes on, and one that is about to fail.
const SNAPSHOTS_MAX: usize = 2;

/// Answers other peers, for as long as the component lives.
#[derive(Debug)]
pub(super) struct Server {
    inner: Weak<Inner>,
    stop: CancellationToken,
    pages: Semaphore,
    snapshots: Semaphore,
    /// When it was warned of a stranger last.
    warned: Mutex<Option<Instant>>,
}

impl Server {
    pub(super) fn new(inner: &Arc<Inner>, stop: CancellationToken) -> Self {
        let (pages, snapshots) = (Semaphore::new(PAGES), Semaphore::new(SNAPSHOTS_MAX));
        Self { inner: Arc::downgrade(inner), stop, pages, snapshots, warned: Mutex::default() }
    }

    fn is_time_to_warn(&self) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if is_time {
            *warned = Some(Instant::now());
        }
        is_time
    }

    async fn serve(&self, from: PeerId, mut stream: PeerStream) -> Result<()> {
        loop {
            let Ok(length) = timeout(IDLE_MAX, frame::read_length(&mut stream)).await else { return Ok(()) };
            let Some(length) = length? else { return Ok(()) };
            let _room = if length > SMALL_BYTES {
                let pages = u32::try_from(length.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
                self.pages.acquire_many(pages).await.ok()
            } else {
                None
            };
            let Some(inner) = self.inner.upgrade() else { return Ok(()) };
            let patience = inner.config.network_timeout;
            let (kind, body) =
                timeout(patience, frame::read_body(&mut stream, length)).await.map_err(|_| {
                    Error::new(ErrorKind::Timeout, "a message did not come to its end").component(COMPONENT)
                })??;
            let (head, question) = Question::decode(kind, body)?;
            let answer = match self.refusal(&inner, &from, head, &question).await {
                Some(refusal) => refusal,
                None => match question {
                    Question::Snapshot(vote, number, last) => {
                        self.snapshot(&inner, &from, &mut stream, vote, number, last).await?
                    }
                    question => inner.answer(&from, question).await,
                },
            };
            let (kind, body) = answer.encode(inner.own_start(&from));
            timeout(patience, frame::write(&mut stream, kind, &body)).await.map_err(|_| {
                Error::new(ErrorKind::Timeout, "an answer was not taken").component(COMPONENT)
            })??;
        }
    }

    /// The refusal, where this peer may not ask that.
    async fn refusal(&self, inner: &Inner, from: &PeerId, head: Head, question: &Question) -> Option<Answer> {
        let refused = |kind, text: &str| Some(Answer::Failed(kind, text.to_owned()));
        let Some(theirs) = head.cluster else {
            return refused(ErrorKind::Unauthorized, "who asks belongs to no raft cluster");
        };
        let is_leading = matches!(question, Question::Append(_) | Question::Snapshot(..));
        let ours = inner.cluster();
        match ours {
            Some(ours) if ours != theirs => {
                if self.is_time_to_warn() {
                    warn!(
                        peer = %from,
                        "a peer of another raft cluster with the same secret is refused: if it is to be a member of this \
                         one, stop it, and start it with --bootstrap after \"ipfs-cluster-service state cleanup\""
                    );
                }
                let text = "this peer belongs to another raft cluster; clean its state (\"ipfs-cluster-service state \
                            cleanup\") before it joins this one";
                return refused(ErrorKind::Conflict, text);
            }
            None if !is_leading => {
                return refused(ErrorKind::Unavailable, "this peer belongs to no raft cluster yet");
            }
            _ => {}
        }
        if matches!(question, Question::Members) {
            // Who asks this asks because it does not know whether it is right.
            return None;
        }
        match inner.recognize(from, head.start).await {
            Ok(()) => {}
            Err(Unrecognized::Disowned(_)) => return Some(Answer::Disowned(inner.starts.of(from))),
            Err(Unrecognized::Failed(error)) => return Some(error.into()),
        }
        if let Some(disowned) = inner.judge_own(from, head.cluster, head.known) {
            return Some(disowned.error().into());
        }
        if is_leading {
            inner.doubt().take();
        }
        if ours.is_none()
            && let Err(error) = inner.join(theirs).await
        {
            return Some(error.into());
        }
        // Who removed us may be no member that we know.
        let is_for_all = is_leading || matches!(question, Question::Removed(_));
        // Who is about to leave is a member until that is agreed on: until then its voice may be needed.
        let was_member = || inner.applied.borrow().members.membership().get_node(&Node::of(*from)).is_some();
        if is_for_all || inner.is_member(from) || was_member() {
            return None;
        }
        Some(Answer::NotMember)
    }

    async fn snapshot(
        &self,
        inner: &Inner,
        from: &PeerId,
        stream: &mut PeerStream,
        vote: Vote,
        number: u64,
        last: LogId,
    ) -> Result<Answer> {
        let Ok(_turn) = self.snapshots.try_acquire() else {
            return Ok(Answer::Failed(
                ErrorKind::QueueFull,
                "a snapshot is being received already".to_owned(),
            ));
        };
        let raft = match inner.raft() {
            Ok(raft) => raft,
            Err(error) => return Ok(error.into()),
        };
        let ours = raft.metrics().borrow().vote;
        if ours > vote || inner.applied.borrow().id >= Some(last) {
            // It leads no more, or there is nothing to be sent.
            return Ok(Answer::Installed(ours.max_of(vote)));
        }
        inner.heard();
        let receiver = Receiver {
            storage: &inner.storage,
            staging: &inner.staging,
            spool_folder: &inner.config.spool_folder,
            from: *from,
            number,
            heard: &|| inner.heard(),
        };
        let (meta, staged) = receiver.receive(stream).await?;
        let snapshot = Snapshot { meta, snapshot: Box::new(staged) };
        let installed = snapshot::while_installing(stream, raft.install_full_snapshot(vote, snapshot)).await;
        Ok(match installed {
            Ok(response) => Answer::Installed(response.vote),
            Err(fatal) => Answer::Failed(ErrorKind::Unavailable, fatal.to_string()),
        })
    }
}

trait MaxOf {
    fn max_of(self, other: Self) -> Self;
}

impl MaxOf for Vote {
    fn max_of(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

#[async_trait]
impl StreamHandler for Server {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            served = self.serve(from, stream) => if let Err(error) = served {
                debug!(peer = %from, %error, "a stream of raft was given up");
            },
        }
    }
}

impl Inner {
    async fn answer(&self, from: &PeerId, question: Question) -> Answer {
        match self.try_answer(from, question).await {
            Ok(answer) => answer,
            Err(error) => error.into(),
        }
    }

    async fn try_answer(&self, from: &PeerId, question: Question) -> Result<Answer> {
        self.check()?;
        let Core { raft, log, .. } = self.core().ok_or_else(starting)?;
        Ok(match question {
            Question::Append(request) => {
                let is_leading = {
                    let metrics = raft.metrics();
                    let metrics = metrics.borrow();
                    request.vote >= metrics.vote
                };
                if is_leading {
                    self.heard();
                } else {
                    self.alarms.heard_old_leader(request.vote.leader_id.term);
                }
                let upto = upto(&request);
                let response = raft.append_entries(request).await.map_err(|error| self.openraft(error))?;
                let appended = Appended::from(response);
                if appended == Appended::Success {
                    log.until_safe(upto).await?;
                }
                if !matches!(appended, Appended::HigherVote(_)) {
                    // Writing may have taken a while.
                    self.heard();
                }
                Answer::Append(appended)
            }
            Question::Vote(request, handed) => {
                if let Some(handed) = handed {
                    self.let_go_of(&raft, handed, request.vote).await?;
                }
                let response = raft.vote(request).await.map_err(|error| self.openraft(error))?;
                if response.vote_granted {
                    self.voted();
                }
                response.into()
            }
            Question::HandOver(vote, last) => {
                self.take_over(from, vote, last).await?;
                Answer::Done
            }
            Question::WouldVote(theirs) => Answer::WouldVote(elections::would_vote(self, from, theirs)),
            Question::Propose(bytes) => {
                let operations = self.check_part(from, &bytes)?;
                if !is_voter(&Node::of(*from), &self.membership()) {
                    // What it asks for would not be applied (see `machine`). It asks again until it is.
                    let text = "this peer is not a full member of the cluster yet";
                    return Err(Error::new(ErrorKind::Unavailable, text).component(COMPONENT));
                }
                match self.propose(bytes, operations).await {
                    Ok((id, outcome)) => Answer::Proposed(id, outcome),
                    Err(Refusal::NotLeader) => Answer::NotLeader(self.leader()),
                    Err(Refusal::Failed(error)) => error.into(),
                }
            }
            Question::Barrier => {
                if raft.metrics().borrow().state != ServerState::Leader {
                    return Ok(Answer::NotLeader(self.leader()));
                }
                Answer::Barrier(self.barrier_as_leader().await?)
            }
            Question::Add(peer) => self.as_leader(self.add_as_leader(&peer)).await?,
            Question::Remove(peer) => {
                self.make_way(&peer).await;
                self.as_leader(self.remove_as_leader(&peer)).await?
            }
            Question::Removed(since) => {
                if Some(since) > *self.known_members().newest.log_id() {
                    self.check_removed(Some(*from)).await;
                }
                Answer::Done
            }
            Question::Members => Answer::Members(self.known_members()),
            // It is dealt with where the stream is.
            Question::Snapshot(..) => {
                Answer::Failed(ErrorKind::Internal, "a snapshot out of place".to_owned())
            }
        })
    }

    async fn as_leader(&self, work: impl Future<Output = Result<()>>) -> Result<Answer> {
        if self.leader() != Some(self.peer) {
            return Ok(Answer::NotLeader(self.leader()));
        }
        work.await.map(|()| Answer::Done)
    }

    /// What gets into the log is applied by everybody, so it is looked at before.
    fn check_part(&self, from: &PeerId, bytes: &bytes::Bytes) -> Result<usize> {
        let part = Part::decode(bytes.clone())?;
        if part.key.origin != *from {
            let text = "a part in the name of another peer";
            return Err(Error::new(ErrorKind::Unauthorized, text).component(COMPONENT));
        }
        Ok(part.operations.len())
    }

    pub(super) fn openraft(&self, error: openraft::error::RaftError<super::types::Node>) -> Error {
        Error::new(ErrorKind::Unavailable, error.to_string()).component(COMPONENT)
    }
}
