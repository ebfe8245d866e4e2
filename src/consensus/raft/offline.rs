//! The log of a peer that does not run: what an operator asks of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use multihash_codetable::{Code, MultihashDigest as _};
use openraft::{CommittedLeaderId, EntryPayload};

use super::COMPONENT;
use super::log::{self, LogStore};
use super::records::{self, APPLIED, CLUSTER, ClusterId, LAST, MEMBERS, PURGED, VOTE};
use super::types::{Entry, LogId, Membership, Node, StoredMembership, Vote};
use super::wire::{Reader, written};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Batch, Durability, Storage};
use crate::types::PeerId;

/// What is on disk of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RaftInfo {
    /// The members, by the newest entry that says so, in ascending order. Empty where the peer never belonged to a cluster.
    pub members: Vec<PeerId>,
    /// The term of the last vote.
    pub term: u64,
    /// The index of the last entry.
    pub last_index: Option<u64>,
    /// The term of the last entry, which may be less than that of the last vote.
    pub last_term: Option<u64>,
    /// The index of the last entry that the pinset is the result of.
    pub applied_index: Option<u64>,
}

/// The log in a store that nobody else has open. All calls block.
#[derive(Debug)]
pub struct RaftStore(Arc<dyn Storage>);

impl RaftStore {
    /// Takes a store, which may be empty.
    ///
    /// # Errors
    /// `Unsupported` when a newer program wrote it; `Corrupt`, `Io`.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        records::is_ours(&*storage)?;
        Ok(Self(storage))
    }

    /// How far it is, and of whom.
    ///
    /// # Errors
    /// `Corrupt` when the log is damaged; `Io`.
    pub fn info(&self) -> Result<RaftInfo> {
        let storage = &*self.0;
        let members = self.members()?;
        let last = records::get(storage, LAST, Reader::log_id)?;
        let last = last.max(records::get(storage, PURGED, Reader::log_id)?);
        Ok(RaftInfo {
            members: voters(members.membership()).into_iter().collect(),
            term: records::get(storage, VOTE, Reader::vote)?.map_or(0, |vote| vote.leader_id.term),
            last_index: last.map(|id| id.index),
            last_term: last.map(|id| id.leader_id.term),
            applied_index: records::get(storage, APPLIED, Reader::log_id)?.map(|id| id.index),
        })
    }

    /// Makes `keep`, the peer of this store, the only member: for a cluster that has lost more than half of its members for
    /// good. On disk when it returns.
    ///
    /// Everything in this peer's log counts as agreed on, so nothing is lost that any quorum with this peer acknowledged;
    /// what only lost members had is gone. Do it on one peer only, of those that are left the one with the greatest
    /// [`RaftInfo::last_term`], and among those with the same the one with the greatest [`RaftInfo::last_index`]: it has
    /// everything that a quorum ever had. What it voted last says nothing of that. All others, also those that come back
    /// later, clean their state and join anew: this peer does not know them any more.
    ///
    /// # Errors
    /// `NotFound` when the store belongs to no cluster; `Conflict` when `keep` is no member; `Corrupt`, `Io`,
    /// `StorageFull`.
    pub fn reset_membership(&self, keep: &PeerId) -> Result<()> {
        let storage = &*self.0;
        let members = self.members()?;
        if members.log_id().is_none() {
            let text = "this peer never belonged to a raft cluster: there is nothing to recover";
            return Err(Error::not_found(text).component(COMPONENT));
        }
        let node = Node::of(*keep);
        if members.membership().get_node(&node).is_none() {
            let text =
                format!("{keep} is no member by what is stored here: is it the identity of this peer?");
            return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        }
        let vote = records::get(storage, VOTE, Reader::vote)?.unwrap_or_default();
        let last = records::get(storage, LAST, Reader::log_id)?;
        let purged = records::get(storage, PURGED, Reader::log_id)?;
        let last = last.max(purged);
        // Above everything that any of the lost members may have voted for.
        let term = vote.leader_id.term.max(last.map_or(0, |last| last.leader_id.term)) + 1;
        let index = last.map_or(0, |last| last.index + 1);
        let log_id = LogId::new(CommittedLeaderId::new(term, node), index);
        let membership = Membership::new(vec![BTreeSet::from([node])], ());
        let entry = Entry { log_id, payload: EntryPayload::Membership(membership) };
        let mut batch = Batch::new();
        log::put(&mut batch, &entry)?;
        records::put(&mut batch, LAST, &written(|writer| writer.log_id(&log_id)));
        records::put(&mut batch, VOTE, &written(|writer| writer.vote(&Vote::new(term, node))));
        // Another cluster from now on: those that are lost must not come back into this one.
        records::put(&mut batch, CLUSTER, &self.new_cluster(&log_id)?);
        storage.write(batch, Durability::Synced)
    }

    fn new_cluster(&self, log_id: &LogId) -> Result<ClusterId> {
        let mut bytes = b"ipfs-cluster raft, recovered".to_vec();
        bytes.extend(records::cluster(&*self.0)?.unwrap_or_default());
        bytes.extend_from_slice(&written(|writer| writer.log_id(log_id)));
        let mut id = ClusterId::default();
        for (to, from) in id.iter_mut().zip(Code::Sha2_256.digest(&bytes).digest()) {
            *to = *from;
        }
        Ok(id)
    }

    /// Who the members are by the newest entry, applied or not.
    fn members(&self) -> Result<StoredMembership> {
        let applied = records::get(&*self.0, MEMBERS, Reader::stored_membership)?.unwrap_or_default();
        let from = records::get(&*self.0, APPLIED, Reader::log_id)?.map_or(0, |id| id.index + 1);
        let newest = LogStore::newest_membership(&*self.0, from)?;
        Ok(newest.unwrap_or(applied))
    }
}

/// Those who vote, or will once a change of members has ended.
fn voters(membership: &Membership) -> BTreeSet<PeerId> {
    membership.get_joint_config().last().into_iter().flatten().filter_map(|node| node.0).collect()
}
