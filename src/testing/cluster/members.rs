//! Peers that agree by Raft, and come and go as members.

use std::sync::{Arc, OnceLock};

use super::TestCluster;
use crate::cluster::ClusterBuilder;
use crate::consensus::{Consensus as _, Raft, RaftConfig};
use crate::testing::CrashStorage;

/// What consensus a peer made, once it did.
pub(super) type Made = Arc<OnceLock<Arc<Raft>>>;

impl TestCluster {
    /// A running peer's consensus, where the peers agree by Raft.
    pub fn raft(&self, index: usize) -> Option<Arc<Raft>> {
        self.seats[index].running.as_ref()?.raft.clone()
    }

    /// The peer that leads, as itself says and a quorum lets it. None while there is none, and where nobody leads.
    pub async fn leader(&self) -> Option<usize> {
        for (index, _) in self.running() {
            let Some(raft) = self.raft(index) else { continue };
            if raft.leader().await.is_ok_and(|leader| leader == Some(self.id(index))) {
                return Some(index);
            }
        }
        None
    }

    /// Gives a peer that is down an empty disk: with the next start it waits for a member to add it. A member that lost
    /// its disk has to be removed first, because it does not know any more what it promised.
    ///
    /// # Panics
    /// When it runs.
    pub fn wipe(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        assert!(seat.running.is_none(), "a peer that runs needs its disk");
        (seat.storage, seat.joins) = (Arc::new(CrashStorage::new()), true);
    }

    /// Makes a peer agree by Raft where the configuration says so.
    pub(super) fn agreeing_by_raft(&self, index: usize, builder: ClusterBuilder) -> (ClusterBuilder, Made) {
        let made = Made::default();
        let Some(config) = &self.config.raft else { return (builder, made) };
        let founders = (0..self.len()).filter(|other| !self.config.absent.contains(other));
        let config = RaftConfig {
            init_peerset: founders.map(|founder| self.id(founder)).collect(),
            join: self.seats[index].joins,
            ..config.clone()
        };
        let slot = Arc::clone(&made);
        let builder = builder.consensus_with(move |cx| async move {
            let raft = Arc::new(Raft::open(config, cx).await?);
            // It is made once.
            let _ = slot.set(Arc::clone(&raft));
            Ok(raft)
        });
        (builder, made)
    }
}

#[cfg(test)]
mod tests;
