//! What peers ask each other, and what they answer.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use super::lineage::{Last, Start};
use super::records::ClusterId;
use super::removal::Members;
use super::types::{Answers, Entry, LogId, Node, PartOutcome, Types, Vote};
use super::wire::{Reader, Writer, corrupt, read, written};
use super::{COMPONENT, command};
use crate::error::{Error, ErrorKind, Result};
use crate::types::PeerId;

/// Entries in one message.
const ENTRIES_MAX: usize = 4096;
/// Longest text of an error that is taken from another peer, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// What every question begins with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    /// Which cluster it is about.
    pub(super) cluster: Option<ClusterId>,
    /// Of who asks.
    pub(super) start: Start,
    /// What who asks knows of who is asked.
    pub(super) known: Last,
}

/// A question.
#[derive(Debug)]
pub(super) enum Question {
    /// Of the leader: take these entries, and know that it leads.
    Append(AppendEntriesRequest<Types>),
    /// Of a candidate; and the vote of the leader that made way for it, if one did.
    Vote(VoteRequest<Node>, Option<Vote>),
    /// Of a peer that hears from no leader: whether there would be a vote for it.
    WouldVote(Option<LogId>),
    /// Of any member to the leader: write this part.
    Propose(Bytes),
    /// Of any member to the leader: up to where one has to have applied to know everything that was acknowledged.
    Barrier,
    /// Of any member to the leader: make this peer a member.
    Add(PeerId),
    /// The same: end its membership.
    Remove(PeerId),
    /// To a peer that is no member any more, since that entry. It may come late, so it is a reason to ask.
    Removed(LogId),
    /// Who the members are, as far as who is asked knows.
    Members,
    /// Of the leader: what follows on this stream is a snapshot. Vote, number of the transfer, and what the receiver will
    /// have at least.
    Snapshot(Vote, u64, LogId),
    /// Of the leader, whose vote and last entry these are: be the next one.
    HandOver(Vote, LogId),
}

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const WOULD_VOTE: u8 = 3;
const PROPOSE: u8 = 4;
const BARRIER: u8 = 5;
const ADD: u8 = 6;
const REMOVE: u8 = 7;
const REMOVED: u8 = 8;
const SNAPSHOT: u8 = 9;
const HAND_OVER: u8 = 10;
const MEMBERS: u8 = 11;

impl Question {
    /// The frame of a question. Who does not belong to a cluster yet says that it belongs to cluster 0.
    pub(super) fn encode(&self, head: &Head) -> (u8, Bytes) {
        let mut writer = Writer::default();
        writer.raw(&head.cluster.unwrap_or_default());
        writer.start(head.start);
        writer.last_start(head.known);
        let kind = match self {
            Self::Append(request) => {
                writer.vote(&request.vote);
                writer.option(request.prev_log_id.as_ref(), Writer::log_id);
                writer.option(request.leader_commit.as_ref(), Writer::log_id);
                writer.count(request.entries.len());
                request.entries.iter().for_each(|entry| writer.entry(entry));
                APPEND
            }
            Self::Vote(request, handed) => {
                writer.vote(&request.vote);
                writer.option(request.last_log_id.as_ref(), Writer::log_id);
                writer.option(handed.as_ref(), Writer::vote);
                VOTE
            }
            Self::WouldVote(last) => {
                writer.option(last.as_ref(), Writer::log_id);
                WOULD_VOTE
            }
            Self::Propose(part) => {
                writer.raw(part);
                PROPOSE
            }
            Self::Barrier => BARRIER,
            Self::Add(peer) => {
                writer.peer(peer);
                ADD
            }
            Self::Remove(peer) => {
                writer.peer(peer);
                REMOVE
            }
            Self::Removed(since) => {
                writer.log_id(since);
                REMOVED
            }
            Self::Members => MEMBERS,
            Self::Snapshot(vote, transfer, last) => {
                writer.vote(vote);
                writer.long(*transfer);
                writer.log_id(last);
                SNAPSHOT
            }
            Self::HandOver(vote, last) => {
                writer.vote(vote);
                writer.log_id(last);
                HAND_OVER
            }
        };
        (kind, writer.0.into())
    }

    /// A question, and what it begins with.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn decode(kind: u8, body: Bytes) -> Result<(Head, Self)> {
        read(body, |reader| {
            let mut cluster = ClusterId::default();
            cluster.copy_from_slice(&reader.take(size_of::<ClusterId>())?);
            let cluster = (cluster != ClusterId::default()).then_some(cluster);
            let head = Head { cluster, start: reader.start()?, known: reader.last_start()? };
            let question = match kind {
                APPEND => Self::Append(AppendEntriesRequest {
                    vote: reader.vote()?,
                    prev_log_id: reader.option(Reader::log_id)?,
                    leader_commit: reader.option(Reader::log_id)?,
                    entries: entries(reader)?,
                }),
                VOTE => Self::Vote(
                    VoteRequest { vote: reader.vote()?, last_log_id: reader.option(Reader::log_id)? },
                    reader.option(Reader::vote)?,
                ),
                WOULD_VOTE => Self::WouldVote(reader.option(Reader::log_id)?),
                PROPOSE => Self::Propose(reader.everything()),
                BARRIER => Self::Barrier,
                ADD => Self::Add(reader.peer()?),
                REMOVE => Self::Remove(reader.peer()?),
                REMOVED => Self::Removed(reader.log_id()?),
                MEMBERS => Self::Members,
                SNAPSHOT => Self::Snapshot(reader.vote()?, reader.long()?, reader.log_id()?),
                HAND_OVER => Self::HandOver(reader.vote()?, reader.log_id()?),
                kind => return Err(corrupt(format!("a question of the unknown kind {kind}"))),
            };
            Ok((head, question))
        })
    }
}

/// The entries of a message: one after the other, as they have to be in a log.
fn entries(reader: &mut Reader) -> Result<Vec<Entry>> {
    let entries: Vec<Entry> =
        (0..reader.count(ENTRIES_MAX)?).map(|_| reader.entry()).collect::<Result<_>>()?;
    let is_in_order = entries.windows(2).all(|pair| {
        let [one, next] = pair else { return true };
        one.log_id.index.checked_add(1) == Some(next.log_id.index)
            && one.log_id.leader_id <= next.log_id.leader_id
    });
    if is_in_order { Ok(entries) } else { Err(corrupt("entries are out of order")) }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// To what cannot say more.
    Done,
    /// To entries.
    Append(Appended),
    /// To a candidate.
    Vote(Vote, bool, Option<LogId>),
    /// Whether there would be a vote.
    WouldVote(bool),
    /// The part is in this entry, which is agreed on.
    Proposed(LogId, PartOutcome),
    /// Everything before this index has to be applied.
    Barrier(u64),
    /// The receiver has this vote.
    Installed(Vote),
    /// This peer does not lead; another one may.
    NotLeader(Option<PeerId>),
    /// Who asks is no member, as far as this peer knows.
    NotMember,
    /// Who the members are, as far as this peer knows.
    Members(Members),
    /// Who asks is not the peer that this one knows.
    Disowned(Last),
    /// It did not work.
    Failed(ErrorKind, String),
}

/// What became of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    Success,
    Conflict,
    HigherVote(Vote),
}

impl From<AppendEntriesResponse<Node>> for Appended {
    fn from(response: AppendEntriesResponse<Node>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote),
            // It is only given for parts of what was sent, which nobody sends.
            AppendEntriesResponse::Conflict | AppendEntriesResponse::PartialSuccess(_) => Self::Conflict,
        }
    }
}

impl From<Appended> for AppendEntriesResponse<Node> {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::Success => Self::Success,
            Appended::Conflict => Self::Conflict,
            Appended::HigherVote(vote) => Self::HigherVote(vote),
        }
    }
}

impl From<VoteResponse<Node>> for Answer {
    fn from(response: VoteResponse<Node>) -> Self {
        Self::Vote(response.vote, response.vote_granted, response.last_log_id)
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::Failed(error.kind(), error.to_string())
    }
}

const DONE: u8 = 0;
const APPEND_SUCCESS: u8 = 1;
const APPEND_CONFLICT: u8 = 2;
const HIGHER_VOTE: u8 = 3;
const VOTED: u8 = 4;
const WOULD: u8 = 5;
const PROPOSED: u8 = 6;
const UP_TO: u8 = 7;
const INSTALLED: u8 = 8;
const NOT_LEADER: u8 = 9;
const NOT_MEMBER: u8 = 10;
const FAILED: u8 = 11;
const DISOWNED: u8 = 12;
const KNOWN_MEMBERS: u8 = 13;

/// Kinds of errors that others are told of; the rest is `Remote`.
const KINDS: &[ErrorKind] = &[
    ErrorKind::InvalidInput,
    ErrorKind::NotFound,
    ErrorKind::Conflict,
    ErrorKind::Unsupported,
    ErrorKind::Unavailable,
    ErrorKind::Timeout,
    ErrorKind::QueueFull,
    ErrorKind::StorageFull,
    ErrorKind::Corrupt,
    ErrorKind::Unauthorized,
];

impl Answer {
    /// The frame of an answer of a peer in this start of it.
    pub(super) fn encode(&self, start: Start) -> (u8, Bytes) {
        let mut kind = DONE;
        let body = written(|writer| {
            writer.start(start);
            kind = match self {
                Self::Done => DONE,
                Self::Append(Appended::Success) => APPEND_SUCCESS,
                Self::Append(Appended::Conflict) => APPEND_CONFLICT,
                Self::Append(Appended::HigherVote(vote)) => {
                    writer.vote(vote);
                    HIGHER_VOTE
                }
                Self::Vote(vote, is_granted, last) => {
                    writer.vote(vote);
                    writer.flag(*is_granted);
                    writer.option(last.as_ref(), Writer::log_id);
                    VOTED
                }
                Self::WouldVote(would) => {
                    writer.flag(*would);
                    WOULD
                }
                Self::Proposed(id, outcome) => {
                    writer.log_id(id);
                    put_outcome(writer, outcome);
                    PROPOSED
                }
                Self::Barrier(index) => {
                    writer.long(*index);
                    UP_TO
                }
                Self::Installed(vote) => {
                    writer.vote(vote);
                    INSTALLED
                }
                Self::NotLeader(leader) => {
                    writer.option(leader.as_ref(), Writer::peer);
                    NOT_LEADER
                }
                Self::NotMember => NOT_MEMBER,
                Self::Members(members) => {
                    writer.stored_membership(&members.newest);
                    writer.option(members.agreed.as_ref(), Writer::log_id);
                    KNOWN_MEMBERS
                }
                Self::Disowned(known) => {
                    writer.last_start(*known);
                    DISOWNED
                }
                Self::Failed(error, text) => {
                    let code = KINDS.iter().position(|kind| kind == error).unwrap_or(KINDS.len());
                    writer.byte(u8::try_from(code).unwrap_or(u8::MAX));
                    writer.raw(&text.as_bytes()[..text.floor_char_boundary(TEXT_BYTES_MAX)]);
                    FAILED
                }
            };
        });
        (kind, body)
    }

    /// An answer, and the start of who gives it.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn decode(kind: u8, body: Bytes) -> Result<(Start, Self)> {
        read(body, |reader| {
            let start = reader.start()?;
            let answer = match kind {
                DONE => Self::Done,
                APPEND_SUCCESS => Self::Append(Appended::Success),
                APPEND_CONFLICT => Self::Append(Appended::Conflict),
                HIGHER_VOTE => Self::Append(Appended::HigherVote(reader.vote()?)),
                VOTED => Self::Vote(reader.vote()?, reader.flag()?, reader.option(Reader::log_id)?),
                WOULD => Self::WouldVote(reader.flag()?),
                PROPOSED => Self::Proposed(reader.log_id()?, outcome(reader)?),
                UP_TO => Self::Barrier(reader.long()?),
                INSTALLED => Self::Installed(reader.vote()?),
                NOT_LEADER => Self::NotLeader(reader.option(Reader::peer)?),
                NOT_MEMBER => Self::NotMember,
                KNOWN_MEMBERS => {
                    let newest = reader.stored_membership()?;
                    Self::Members(Members { newest, agreed: reader.option(Reader::log_id)? })
                }
                FAILED => {
                    let code = reader.byte()?;
                    let kind = KINDS.get(usize::from(code)).copied().unwrap_or(ErrorKind::Remote);
                    let text = reader.everything();
                    let text = text.get(..TEXT_BYTES_MAX).unwrap_or(&text);
                    Self::Failed(kind, String::from_utf8_lossy(text).into_owned())
                }
                DISOWNED => Self::Disowned(reader.last_start()?),
                kind => return Err(corrupt(format!("an answer of the unknown kind {kind}"))),
            };
            Ok((start, answer))
        })
    }

    /// The error of an answer that is none to what was asked.
    pub(super) fn unexpected(self, from: &PeerId) -> Error {
        let (kind, text) = match self {
            Self::Failed(kind, text) => (kind, format!("{from} says: {text}")),
            Self::NotLeader(_) => (ErrorKind::Unavailable, format!("{from} does not lead")),
            Self::NotMember => {
                (ErrorKind::Unauthorized, format!("for {from} this peer is no member of its cluster"))
            }
            _ => (ErrorKind::Corrupt, format!("{from} answered something else than was asked")),
        };
        Error::new(kind, text).component(COMPONENT)
    }
}

fn put_outcome(writer: &mut Writer, outcome: &PartOutcome) {
    match outcome {
        PartOutcome::Applied(answers) => {
            writer.byte(0);
            writer.raw(&command::encode_answers(answers));
        }
        PartOutcome::Stale(session) => {
            writer.byte(1);
            writer.long(*session);
        }
        PartOutcome::Unreadable => writer.byte(2),
        PartOutcome::NotMember => writer.byte(3),
    }
}

fn outcome(reader: &mut Reader) -> Result<PartOutcome> {
    Ok(match reader.byte()? {
        0 => PartOutcome::Applied(command::decode_answers(reader)? as Answers),
        1 => PartOutcome::Stale(reader.long()?),
        2 => PartOutcome::Unreadable,
        3 => PartOutcome::NotMember,
        _ => return Err(corrupt("an outcome of an unknown kind")),
    })
}
