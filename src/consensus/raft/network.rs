//! What openraft says to other peers, and what we say besides.

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::frame::Asked;
use super::message::{Answer, Appended, Question};
use super::node::Inner;
use super::snapshot::Sender;
use super::types::{LogId, Node, Types, Vote};
use super::wire::corrupt;
use super::{COMPONENT, frame};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::types::PeerId;

/// How long nothing is tried again where nobody says how long.
const PAUSE: Duration = Duration::from_millis(500);

/// Makes what openraft speaks to a peer through.
#[derive(Clone, Debug)]
pub(super) struct Network(pub(super) Weak<Inner>);

/// One peer.
#[derive(Debug)]
pub(super) struct Target {
    inner: Weak<Inner>,
    to: Node,
    under_way: Option<UnderWay>,
    /// Whether it was said that the peer breaks a promise, or belongs elsewhere, so that it is not said with every try.
    is_warned_of: bool,
}

/// Entries that were sent and not answered yet. openraft gives up after a quarter of the time after which a leader is missed,
/// which a distant peer, or many entries on a slow line, take easily; it then asks for the same again.
#[derive(Debug)]
struct UnderWay {
    vote: Vote,
    from: Option<LogId>,
    upto: Option<LogId>,
    /// Whether the peer had said before that it has the entry before these.
    is_promised: bool,
    answer: Asked,
}

impl UnderWay {
    /// Whether its answer says something about these, too.
    fn covers(&self, rpc: &AppendEntriesRequest<Types>) -> bool {
        // What was sent from the beginning on and had no entries yet is no answer to entries: openraft takes none for progress.
        let says_something = self.upto.is_some() || rpc.entries.is_empty();
        says_something && (self.vote, self.from) == (rpc.vote, rpc.prev_log_id) && self.upto <= upto(rpc)
    }
}

/// The last entry that there is when these are.
pub(super) fn upto(rpc: &AppendEntriesRequest<Types>) -> Option<LogId> {
    rpc.entries.last().map_or(rpc.prev_log_id, |entry| Some(entry.log_id))
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: Node, _node: &EmptyNode) -> Target {
        Target { inner: self.0.clone(), to: target, under_way: None, is_warned_of: false }
    }
}

type Failed = RPCError<Node, EmptyNode, RaftError<Node>>;

/// What openraft is told, which then tries again at once.
fn failed(error: &Error) -> Failed {
    RPCError::Network(NetworkError::new(error))
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

    /// What openraft is told of entries that it wants the other one to have.
    async fn append(&mut self, rpc: AppendEntriesRequest<Types>) -> Result<AppendEntriesResponse<Node>> {
        let (vote, before, all) = (rpc.vote, rpc.prev_log_id, upto(&rpc));
        let (answer, upto, is_promised) = self.exchange(rpc).await?;
        match (answer, upto) {
            // openraft takes it for granted that nobody loses what it has acknowledged.
            (Answer::Append(Appended::Conflict), _) if before.is_some() && before <= self.matched() => {
                if is_promised {
                    let (inner, to) = self.inner()?;
                    inner.disown(&to).await;
                }
                Err(corrupt(format!(
                    "{} lost entries that it had acknowledged: remove it, clean its state, and let it join again",
                    self.to
                )))
            }
            (Answer::Append(Appended::HigherVote(theirs)), _) if theirs <= vote => {
                Err(corrupt(format!("{} refused entries for a vote that is none", self.to)))
            }
            (Answer::Append(Appended::Success), upto) if upto < all => {
                Ok(AppendEntriesResponse::PartialSuccess(upto))
            }
            (Answer::Append(appended), _) => Ok(appended.into()),
            (other, _) => Err(self.unexpected(other)),
        }
    }

    /// Sends entries, or waits for the answer to those that were sent before. Gives it, up to where it goes, and whether the
    /// peer had said before they were sent that it has the entry before them.
    async fn exchange(
        &mut self,
        mut rpc: AppendEntriesRequest<Types>,
    ) -> Result<(Answer, Option<LogId>, bool)> {
        let (inner, to) = self.inner()?;
        let core = inner.core();
        #[cfg(feature = "testing")]
        let core = core.filter(|_| !is_planted(Planted::LeaderCountsUnwritten));
        if let Some(core) = core {
            // This leader is one of those who agreed, which counts from when its own disk has it.
            if rpc.entries.is_empty()
                && let Some(commit) = rpc.leader_commit
            {
                core.log.until_written(commit.index).await?;
            }
            rpc.leader_commit = rpc.leader_commit.min(core.log.written());
        }
        if self.under_way.as_ref().is_none_or(|before| !before.covers(&rpc)) {
            let (vote, from, upto) = (rpc.vote, rpc.prev_log_id, upto(&rpc));
            let is_promised = from.is_some() && from <= self.matched();
            let (kind, body) = Question::Append(rpc).encode(&inner.head(&to));
            let answer = inner.links.start(&to, kind, body, inner.config.network_timeout);
            self.under_way = Some(UnderWay { vote, from, upto, is_promised, answer });
        }
        let Some(under_way) = &mut self.under_way else { return Err(Error::shut_down(COMPONENT)) };
        // Whoever waits may give up; the next one finds it here.
        drop(inner);
        let arrived = (&mut under_way.answer).await;
        let (upto, is_promised) = (under_way.upto, under_way.is_promised);
        self.under_way = None;
        let (inner, to) = self.inner()?;
        let (kind, body) = arrived.map_err(|_| Error::shut_down(COMPONENT))??;
        let (start, answer) = Answer::decode(kind, body)?;
        Ok((inner.heard_answer(&to, start, answer).await?, upto, is_promised))
    }

    /// Waits before it is tried again: at once would not help, and there may be no end to it. openraft's own way of waiting
    /// chooses at random when something else happens at the same moment, so that runs of one seed would differ.
    async fn pause(&self) {
        let interval = self.inner.upgrade().map(|inner| inner.config.heartbeat_interval());
        sleep(interval.unwrap_or(PAUSE)).await;
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
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Node>, Failed> {
        let error = match self.append(rpc).await {
            Ok(appended) => {
                self.is_warned_of = false;
                return Ok(appended);
            }
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Conflict) && !self.is_warned_of {
            self.is_warned_of = true;
            warn!("{error}");
        } else {
            debug!(peer = %self.to, %error, "entries were not taken");
        }
        self.pause().await;
        Err(failed(&error))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Node>,
        option: RPCOption,
    ) -> Result<VoteResponse<Node>, Failed> {
        let handed = self.inner.upgrade().and_then(|inner| inner.handed_for(&rpc.vote));
        match self.ask(Question::Vote(rpc, handed), option.hard_ttl()).await {
            Ok(Answer::Vote(vote, is_granted, last)) => Ok(VoteResponse::new(vote, last, is_granted)),
            Ok(other) => Err(failed(&self.unexpected(other))),
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
                    self.pause().await;
                    Err(StreamingError::Network(NetworkError::new(&error)))
                }
            },
        }
    }
}
