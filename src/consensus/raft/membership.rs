//! Members come and go.
//!
//! A peer that is added first only listens, until it has what the others have; then it votes. A peer that is removed is
//! told so, or finds out (`removal`). Both are changed in two steps of which each is agreed on (joint consensus), and a leader
//! that stops in between leaves the rest to the next one.
//!
//! A leader never removes itself, it makes way first. The second step is an entry that names the members without the one that
//! leaves. Had a leader only its own removal in its log when it stops, then it could not lead again, because openraft elects
//! nobody who is not in the newest list of its log; and no other could be elected that needs its vote, because its log is
//! longer. Of two peers neither would ever lead. Whoever has that entry without being about to leave can still be elected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ChangeMembershipError, CheckIsLeaderError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode, LogIdOptionExt as _, ServerState};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info};

use super::COMPONENT;
use super::elections::change_failed;
use super::message::{Answer, Question};
use super::node::{Inner, Standing};
use super::propose::no_quorum;
use super::types::{Membership, Node};
use super::wire::PEERS_MAX;
use super::writer;
use super::writer::no_leader;
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::types::PeerId;

/// How long a new member may take to get what the others have, as long as it gets on.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Whoever asks the leader to add a peer waits for that long.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(3600);
/// How often it is looked how far it is.
const POLL: Duration = Duration::from_millis(50);
/// Entries that a new member may be behind when it becomes a voter.
const BEHIND_MAX: u64 = 16;
/// How often a peer that was removed is told so.
const TELL_TRIES: usize = 3;

impl Inner {
    /// Makes a peer a member, through the leader.
    pub(super) async fn add(&self, peer: &PeerId) -> Result<()> {
        self.through_leader(&Question::Add(*peer), self.add_as_leader(peer)).await
    }

    /// Whether this peer could be a member of the cluster of another one.
    pub(super) async fn check_joinable(&self, peer: &PeerId) -> Result<()> {
        self.check_speaks_raft(peer).await?;
        if self.cluster().is_none() {
            return Ok(());
        }
        // A question without consequences: who is of another cluster does not answer any.
        match self.ask(peer, &Question::WouldVote(None), self.config.network_timeout).await {
            Ok(Answer::Failed(ErrorKind::Conflict, _)) => {
                let text = format!(
                    "this peer belongs to another raft cluster than {peer}: clean its state (\"ipfs-cluster-service state \
                     cleanup\") before it joins that one"
                );
                Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT))
            }
            answer => answer.map(drop),
        }
    }

    /// Whether a peer agrees by this protocol at all.
    pub(super) async fn check_speaks_raft(&self, peer: &PeerId) -> Result<()> {
        self.links.check(peer, self.config.network_timeout).await.map_err(|error| match error.kind() {
            ErrorKind::Unsupported => {
                // Who reads it may be the other one.
                let text = format!(
                    "{peer} and {} cannot be members of one raft cluster: {peer} agrees in another way, or is a Go peer, \
                     whose raft is another protocol",
                    self.peer
                );
                Error::new(ErrorKind::Conflict, text).component(COMPONENT)
            }
            _ => error,
        })
    }

    /// Ends a membership, through the leader.
    pub(super) async fn remove(&self, peer: &PeerId) -> Result<()> {
        self.make_way(peer).await;
        let removed = self.through_leader(&Question::Remove(*peer), self.remove_as_leader(peer)).await;
        if *peer != self.peer {
            return removed;
        }
        // It may see that it is gone, and stop, before anybody answers. Only what was agreed on counts: an entry that says so
        // and is in this peer's log alone may come to nothing, and whoever believed it would clean the store of a member.
        let is_gone = {
            let agreed = &self.applied.borrow().members;
            agreed.log_id().is_some() && agreed.membership().get_node(&self.node()).is_none()
        };
        if removed.is_err() && !is_gone && !matches!(*self.standing.borrow(), Standing::Removed) {
            return removed;
        }
        // What the others agreed on may not reach it any more.
        self.set_removed();
        Ok(())
    }

    /// Everything that was acknowledged before is shown here when this returns.
    pub(super) async fn barrier(&self) -> Result<()> {
        let deadline = Instant::now() + self.config.wait_for_leader_timeout;
        let mut last = no_quorum();
        let index = loop {
            self.check()?;
            match self.leader() {
                Some(leader) if leader == self.peer => {
                    match timeout_at(deadline, self.barrier_as_leader()).await {
                        Ok(Ok(index)) => break index,
                        Ok(Err(error)) => last = error,
                        Err(_) => {}
                    }
                }
                Some(leader) => {
                    let patience = self.config.network_timeout.min(deadline - Instant::now());
                    match self.ask(&leader, &Question::Barrier, patience).await {
                        Ok(Answer::Barrier(index)) => break index,
                        Ok(other) => last = other.unexpected(&leader),
                        Err(error) => last = error,
                    }
                }
                None => {}
            }
            if Instant::now() >= deadline {
                return Err(
                    writer::unavailable(last).context("this peer does not know whether it shows everything")
                );
            }
            sleep_until((Instant::now() + POLL).min(deadline)).await;
        };
        match timeout_at(deadline, self.applied.until(index)).await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(Error::new(ErrorKind::Unavailable, "this peer is too far behind").component(COMPONENT))
            }
        }
    }

    pub(super) async fn barrier_as_leader(&self) -> Result<u64> {
        let raft = self.raft()?;
        #[cfg(feature = "testing")]
        if is_planted(Planted::StaleLeaderAnswers) {
            return Ok(self.applied.borrow().next());
        }
        match timeout(self.config.network_timeout, raft.get_read_log_id()).await {
            Ok(Ok((read, _))) => Ok(read.next_index()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) | Err(_) => Err(no_quorum()),
            Ok(Err(error)) => Err(Error::new(ErrorKind::Unavailable, error.to_string()).component(COMPONENT)),
        }
    }

    async fn through_leader(
        &self,
        question: &Question,
        here: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let deadline = Instant::now() + self.config.wait_for_leader_timeout;
        let mut here = Some(here);
        loop {
            self.check()?;
            let error = match self.leader() {
                Some(leader) if leader == self.peer => match here.take() {
                    Some(here) => return here.await,
                    None => no_quorum(),
                },
                Some(leader) => match self.ask(&leader, question, CHANGE_TIMEOUT).await {
                    Ok(Answer::Done) => return Ok(()),
                    Ok(other @ Answer::Failed(..)) => return Err(other.unexpected(&leader)),
                    Ok(other) => other.unexpected(&leader),
                    Err(error) => error,
                },
                None => no_leader(self).context("the members were not changed"),
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            sleep_until((Instant::now() + POLL).min(deadline)).await;
        }
    }

    /// The members by what was agreed on last, once no change of them is under way. Only so this peer knows that it leads, and
    /// that nothing else will have happened when it says that there is nothing to do.
    async fn settled(&self) -> Result<Membership> {
        let deadline = Instant::now() + self.config.wait_for_leader_timeout;
        loop {
            let error = match timeout_at(deadline, self.barrier_as_leader()).await {
                Ok(Ok(index)) => {
                    let known =
                        timeout_at(deadline, self.applied.until(index)).await.map(|()| self.known_members());
                    match known {
                        Ok(members) if members.are_settled() => {
                            return Ok(members.newest.membership().clone());
                        }
                        _ => change_failed("another change of them has not ended"),
                    }
                }
                Ok(Err(error)) => error,
                Err(_) => no_quorum(),
            };
            if Instant::now() >= deadline || !self.is_leader() {
                return Err(error);
            }
            sleep_until((Instant::now() + POLL).min(deadline)).await;
        }
    }

    fn is_leader(&self) -> bool {
        self.metrics().is_some_and(|metrics| metrics.state == ServerState::Leader)
    }

    pub(super) async fn add_as_leader(&self, peer: &PeerId) -> Result<()> {
        let node = Node::of(*peer);
        self.settled().await?;
        if self.voters().contains(peer) {
            return match self.starts.disowned(peer) {
                Some(disowned) => Err(disowned.error().context(format_args!("{peer} is a member already"))),
                None => Ok(()),
            };
        }
        // It counts for the quorum from the moment that it is added. One that is not there yet may come.
        if let Err(error) = self.check_speaks_raft(peer).await
            && error.kind() == ErrorKind::Conflict
        {
            return Err(error);
        }
        if self.membership().nodes().count() >= PEERS_MAX {
            let text = format!("a raft cluster has at most {PEERS_MAX} members");
            return Err(Error::invalid_input(text).component(COMPONENT));
        }
        // Whoever belongs elsewhere says so at once.
        match self.ask(peer, &Question::WouldVote(None), self.config.lease()).await {
            Ok(other @ Answer::Failed(ErrorKind::Conflict, _)) => return Err(other.unexpected(peer)),
            Err(error) if error.kind() == ErrorKind::Conflict => return Err(error),
            _ => {}
        }
        if self.membership().get_node(&node).is_some() {
            // It was to be added before, and may have lost since what it got then: openraft would not notice.
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), true).await?;
        }
        let added = ChangeMembers::AddNodes(BTreeMap::from([(node, EmptyNode {})]));
        let added = self.change(added, true).await?;
        if let Err(error) = self.until_caught_up(node, added).await {
            // It must not stay half a member that nobody knows of.
            let undone = self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), true).await;
            if let Err(error) = undone {
                debug!(%peer, %error, "a peer that did not join stays in the list of those that may");
            }
            return Err(error);
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node])), true).await?;
        info!(%peer, "a peer became a member of the raft cluster");
        Ok(())
    }

    /// Waits until a peer has almost everything, and the entry by which it was added: it knows then that it is one of those that
    /// are there, and what it knows from before does not count (see `removal`).
    async fn until_caught_up(&self, node: Node, added: u64) -> Result<()> {
        let mut progress = None;
        let mut deadline = Instant::now() + CATCH_UP_TIMEOUT;
        loop {
            let metrics = self.metrics().ok_or_else(|| change_failed("raft is being started"))?;
            let replication =
                metrics.replication.ok_or_else(|| change_failed("this peer does not lead any more"))?;
            let matched = replication.get(&node).copied().flatten();
            let is_close = matched.next_index() + BEHIND_MAX > metrics.last_log_index.unwrap_or(0);
            if is_close && matched.index() >= Some(added) {
                return Ok(());
            }
            let now = (matched, node.0.and_then(|peer| self.transfers.progress(&peer)));
            if progress != Some(now) {
                (progress, deadline) = (Some(now), Instant::now() + CATCH_UP_TIMEOUT);
            }
            if Instant::now() >= deadline {
                let text = format!(
                    "{node} did not get on receiving the log within {CATCH_UP_TIMEOUT:?}: start it so that it joins \
                     (with --bootstrap), with a clean state, and see that the members can reach it"
                );
                return Err(Error::new(ErrorKind::Unavailable, text).component(COMPONENT));
            }
            sleep(POLL).await;
        }
    }

    pub(super) async fn remove_as_leader(&self, peer: &PeerId) -> Result<()> {
        let node = Node::of(*peer);
        if self.settled().await?.get_node(&node).is_none() {
            info!(%peer, "a peer that is no member of the raft cluster was to be removed: there is nothing to do");
            return Ok(());
        }
        let voters = self.voters();
        if voters.contains(peer) {
            if voters.len() == 1 {
                let text = "cannot remove ourselves from a 1-peer cluster";
                return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
            }
            if *peer == self.peer {
                return Err(change_failed(
                    "this peer leads, and no other could take over that has all entries",
                ));
            }
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node])), false).await?;
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), false).await?;
        }
        info!(%peer, "a peer is no member of the raft cluster any more");
        if *peer != self.peer {
            self.tell_removed(peer).await;
        }
        Ok(())
    }

    /// What is not heard now is heard when it asks for anything.
    async fn tell_removed(&self, peer: &PeerId) {
        let Some(since) = self.metrics().and_then(|metrics| *metrics.membership_config.log_id()) else {
            return;
        };
        for _ in 0..TELL_TRIES {
            match self.ask(peer, &Question::Removed(since), self.config.lease()).await {
                Ok(_) => return,
                Err(error) => debug!(%peer, %error, "a peer that was removed could not be told"),
            }
            sleep(POLL).await;
        }
    }

    /// One change, once nobody else's is under way. Gives the index of its entry.
    async fn change(&self, change: ChangeMembers<Node, EmptyNode>, retain: bool) -> Result<u64> {
        let deadline = Instant::now() + self.config.wait_for_leader_timeout;
        loop {
            let raft = self.raft()?;
            // The change that was waited for may have been that this leader leaves.
            if raft.metrics().borrow().state != ServerState::Leader {
                return Err(change_failed("this peer does not lead any more"));
            }
            // openraft would take the second step of a change that another leader began for this one, and keep who was to leave.
            let error = if self.known_members().are_settled() {
                let changed = timeout_at(deadline, raft.change_membership(change.clone(), retain));
                match changed.await {
                    Ok(Ok(changed)) => return Ok(changed.log_id.index),
                    Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                        error @ ChangeMembershipError::InProgress(_),
                    )))) => change_failed(error),
                    Ok(Err(error)) => return Err(change_failed(error)),
                    Err(_) => no_quorum(),
                }
            } else {
                change_failed("another change of them has not ended")
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            sleep_until((Instant::now() + POLL).min(deadline)).await;
        }
    }
}
