//! What openraft says to other peers, and what we say besides.

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot};
use tracing::{debug, info, warn};

use super::message::{Answer, Appended, Question};
use super::node::Inner;
use super::snapshot::Sender;
use super::types::{LogId, Node, Types, Vote};
use super::{COMPONENT, frame};
use crate::error::{Error, ErrorKind, Result};
use crate::types::PeerId;

/// Makes what openraft speaks to a peer through.
#[derive(Clone, Debug)]
pub(super) struct Network(pub(super) Weak<Inner>);

/// One peer.
#[derive(Debug)]
pub(super) struct Target {
    inner: Weak<Inner>,
    to: Node,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: Node, _node: &EmptyNode) -> Target {
        Target { inner: self.0.clone(), to: target }
    }
}

type Failed = RPCError<Node, EmptyNode, RaftError<Node>>;

fn failed(error: &Error) -> Failed {
    match error.kind() {
        ErrorKind::Timeout => RPCError::Network(NetworkError::new(error)),
        // Trying again at once would not help, and there may be no end to it.
        _ => RPCError::Unreachable(Unreachable::new(error)),
    }
}

impl Target {
    fn inner(&self) -> Result<(Arc<Inner>, PeerId)> {
        let inner = self.inner.upgrade().ok_or_else(|| Error::shut_down(COMPONENT))?;
        let to = self.to.0.ok_or_else(|| Error::internal("nobody cannot be asked").component(COMPONENT))?;
        Ok((inner, to))
    }

    async fn ask(&self, question: Question, patience: Duration) -> Result<Answer> {
        let (inner, to) = self.inner()?;
        inner.ask(&to, &question, patience).await
    }

    /// Up to where this peer's log is known to be the other one's, too.
    fn matched(&self) -> Option<LogId> {
        self.inner.upgrade()?.metrics()?.replication?.get(&self.to).copied().flatten()
    }

    fn unexpected(&self, answer: Answer) -> Error {
        match self.to.0 {
            Some(to) => answer.unexpected(&to),
            None => Error::internal("nobody answered").component(COMPONENT),
        }
    }

    async fn snapshot(&self, vote: Vote, snapshot: Snapshot<Types>) -> Result<Vote> {
        let (inner, to) = self.inner()?;
        let Some(last) = snapshot.meta.last_log_id else { return Ok(vote) };
        info!(peer = %to, upto = last.index, "sending the whole pinset to a peer that is far behind");
        let sender = Sender {
            storage: &inner.storage,
            state: &inner.state,
            transfers: &inner.transfers,
            to,
            number: inner.next_transfer(),
        };
        let ask = |number| {
            let (kind, body) = Question::Snapshot(vote, number, last).encode(&inner.head(&to));
            let (inner, patience) = (inner.clone(), inner.config.network_timeout);
            async move {
                let opened = async {
                    let mut stream = inner.links.open(&to).await?;
                    frame::write(&mut stream, kind, &body).await?;
                    Ok(stream)
                };
                tokio::time::timeout(patience, opened).await.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Timeout, format!("{to} cannot be reached"))
                        .component(COMPONENT))
                })
            }
        };
        let (start, answer) = sender.send(ask).await?;
        match inner.heard_answer(&to, start, answer).await? {
            Answer::Installed(vote) => Ok(vote),
            other => Err(self.unexpected(other)),
        }
    }
}

impl RaftNetwork<Types> for Target {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Node>, Failed> {
        let (vote, before) = (rpc.vote, rpc.prev_log_id);
        match self.ask(Question::Append(rpc), option.hard_ttl()).await {
            // openraft takes it for granted that nobody loses what it has acknowledged.
            Ok(Answer::Append(Appended::Conflict)) if before.is_some() && before <= self.matched() => {
                let text = format!(
                    "{} lost entries that it had acknowledged: remove it, clean its state, and let it join again",
                    self.to
                );
                warn!("{text}");
                Err(failed(&Error::new(ErrorKind::Corrupt, text).component(COMPONENT)))
            }
            Ok(Answer::Append(Appended::HigherVote(theirs))) if theirs <= vote => {
                let text = "a peer refused entries for a vote that is none";
                Err(failed(&Error::new(ErrorKind::Corrupt, text).component(COMPONENT)))
            }
            Ok(Answer::Append(appended)) => Ok(appended.into()),
            Ok(other) => Err(failed(&self.unexpected(other))),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Node>,
        option: RPCOption,
    ) -> Result<VoteResponse<Node>, Failed> {
        let handed = self.inner.upgrade().and_then(|inner| inner.handed_for(&rpc.vote));
        match self.ask(Question::Vote(rpc, handed), option.hard_ttl()).await {
            Ok(Answer::Vote(vote, is_granted, last)) => Ok(VoteResponse::new(vote, last, is_granted)),
            Ok(other) => {
                if let (Answer::NotMember(since), Some(inner)) = (&other, self.inner.upgrade()) {
                    inner.told_not_member(since.as_ref());
                }
                Err(failed(&self.unexpected(other)))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Node>, StreamingError<Types, Fatal<Node>>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.snapshot(vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    debug!(peer = %self.to, %error, "a snapshot was not taken");
                    Err(StreamingError::Unreachable(Unreachable::new(&error)))
                }
            },
        }
    }

    fn backoff(&self) -> Backoff {
        let interval = self
            .inner
            .upgrade()
            .map_or(Duration::from_millis(500), |inner| inner.config.heartbeat_interval());
        Backoff::new(std::iter::repeat(interval))
    }
}
