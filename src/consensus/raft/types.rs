//! What openraft works with, as we have it: none of it leaves this folder.

use std::fmt;

use bytes::Bytes;
use openraft::{EmptyNode, TokioRuntime};

use super::snapshot::Staged;
use crate::types::PeerId;

openraft::declare_raft_types!(
    /// The types of our Raft.
    pub(super) Types:
        D = Command,
        R = Outcome,
        NodeId = Node,
        Node = EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Staged,
        AsyncRuntime = TokioRuntime,
);

pub(super) type LogId = openraft::LogId<Node>;
pub(super) type Vote = openraft::Vote<Node>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type Membership = openraft::Membership<Node, EmptyNode>;
pub(super) type StoredMembership = openraft::StoredMembership<Node, EmptyNode>;
pub(super) type Metrics = openraft::RaftMetrics<Node, EmptyNode>;
pub(super) type StorageError = openraft::StorageError<Node>;
pub(super) type Raft = openraft::Raft<Types>;

/// A peer. Nobody only stands in the very first entry and the vote of a peer that never voted.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node(pub(super) Option<PeerId>);

impl Node {
    pub(super) const fn of(peer: PeerId) -> Self {
        Self(Some(peer))
    }
}

/// Whether a peer is one whose voice counts.
pub(super) fn is_voter(node: &Node, members: &Membership) -> bool {
    members.voter_ids().any(|voter| voter == *node)
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(peer) => peer.fmt(f),
            None => f.write_str("nobody"),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One entry of the log: parts of one or several peers, encoded (see `command`).
#[derive(Clone)]
pub(super) struct Command(pub(super) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

/// What became of the parts of an entry, in order. Empty for entries that are no commands.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome(pub(super) Vec<PartOutcome>);

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PartOutcome {
    /// It was applied, now or before. For each unpin whose caller asked: the value of the entry that is gone.
    Applied(Answers),
    /// It was not applied: its peer has been started again since. The session that is in force.
    Stale(u64),
    /// It was not applied: it does not decode.
    Unreadable,
    /// It was not applied now: its peer is no member any more, so that nobody remembers whether it was before.
    NotMember,
}

/// For each unpin whose caller asked: the value of the entry as it was.
pub(super) type Answers = Vec<Option<Bytes>>;
