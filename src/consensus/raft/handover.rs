//! A leader that stops makes way for another one, so that nobody has to find out that it is gone.
//!
//! openraft 0.9 does not know of this. The leader takes no more writes, waits until all it has is agreed on and a voter that
//! answers has all of it, and tells that one to stand for election at once. Its log is as long as anybody's. What is in its
//! way is that voters refuse everybody for a while after they heard from a leader; so the candidate shows them the vote of
//! the leader that made way. Whoever still follows that very leader leaves it then, by taking note of the new term, which
//! promises nothing, and votes by openraft's own rules.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::{LogIdOptionExt as _, ServerState, Snapshot, SnapshotMeta};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info};

use super::COMPONENT;
use super::message::{Answer, Question};
use super::node::{Core, Inner};
use super::snapshot::Staged;
use super::types::{LogId, Metrics, Node, Raft, Vote};
use crate::error::{Error, ErrorKind, Result};
use crate::types::PeerId;

/// How often it is looked whether another one leads.
const POLL: Duration = Duration::from_millis(5);

/// What is known of leaders that make way.
#[derive(Debug, Default)]
pub(super) struct MakingWay {
    /// Whether this peer is making way for another one.
    is_leaving: AtomicBool,
    /// The vote of the leader that made way for this peer.
    handed: Mutex<Option<Vote>>,
}

/// Takes writes again when it is dropped.
struct Leaving<'a>(&'a AtomicBool);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn stopped(fatal: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("raft has stopped: {fatal}")).component(COMPONENT)
}

impl Inner {
    /// Whether this peer takes no writes because another one is about to lead.
    pub(super) fn is_handing_over(&self) -> bool {
        self.making_way.is_leaving.load(Ordering::SeqCst)
    }

    /// Where this peer leads others, has one of them lead instead; whether one does. It takes at most
    /// [`election_timeout`](super::RaftConfig::election_timeout).
    pub(super) async fn hand_over(&self) -> bool {
        if self.making_way.is_leaving.swap(true, Ordering::SeqCst) {
            return false;
        }
        let _leaving = Leaving(&self.making_way.is_leaving);
        let Some(core) = self.core() else { return false };
        if !self.leads_others(&core.raft.metrics().borrow()) {
            return false;
        }
        let deadline = Instant::now() + self.config.election_timeout;
        let has_led = timeout_at(deadline, self.try_hand_over(&core)).await.unwrap_or(false);
        if !has_led {
            debug!("nobody could take over: the others elect a leader when they miss this one");
        }
        has_led
    }

    /// Has another peer lead before this one is removed.
    pub(super) async fn make_way(&self, removed: &PeerId) {
        if *removed == self.peer {
            self.hand_over().await;
        }
    }

    fn leads_others(&self, metrics: &Metrics) -> bool {
        metrics.state == ServerState::Leader
            && metrics.membership_config.membership().voter_ids().any(|voter| voter != self.node())
            && self.has_quorum(metrics)
    }

    async fn try_hand_over(&self, core: &Core) -> bool {
        let mut metrics = core.raft.metrics();
        let mut asked = BTreeSet::new();
        loop {
            let is_ready = |metrics: &Metrics| {
                metrics.state != ServerState::Leader || self.heirs(metrics).any(|heir| !asked.contains(&heir))
            };
            let Ok(now) = metrics.wait_for(is_ready).await.map(|now| now.clone()) else { return false };
            if now.state != ServerState::Leader {
                return now.current_leader.is_some();
            }
            let heirs: Vec<PeerId> = self.heirs(&now).filter(|heir| !asked.contains(heir)).collect();
            asked.extend(heirs.iter().copied());
            // Whoever answers first is there.
            let mut there: FuturesUnordered<_> = heirs
                .into_iter()
                .map(|heir| async move {
                    let answer = self.ask(&heir, &Question::WouldVote(None), self.config.lease()).await;
                    answer.is_ok().then_some(heir)
                })
                .collect();
            while let Some(heir) = there.next().await {
                let (Some(heir), Some(last)) = (heir, core.log.last()) else { continue };
                match self.ask(&heir, &Question::HandOver(now.vote, last), self.config.lease()).await {
                    Ok(Answer::Done) => {
                        let is_led =
                            |now: &Metrics| now.current_leader.is_some_and(|leader| leader != self.node());
                        let until = Instant::now() + self.config.lease();
                        if let Ok(Ok(_)) = timeout_at(until, metrics.wait_for(is_led)).await {
                            info!(peer = %heir, "made way for another leader");
                            return true;
                        }
                    }
                    Ok(other) => debug!(peer = %heir, ?other, "a peer does not take over"),
                    Err(error) => debug!(peer = %heir, %error, "a peer does not take over"),
                }
            }
        }
    }

    /// Voters that have everything, once everything is agreed on and applied here. Nobody who is about to leave.
    fn heirs<'a>(&'a self, metrics: &'a Metrics) -> impl Iterator<Item = PeerId> + 'a {
        let last = metrics.last_log_index;
        let is_applied = metrics.last_applied.index() == last;
        let stay = metrics.membership_config.membership().get_joint_config().last();
        metrics
            .replication
            .iter()
            .flatten()
            .filter(move |(node, matched)| {
                is_applied
                    && **node != self.node()
                    && matched.index() == last
                    && stay.is_some_and(|stay| stay.contains(node))
            })
            .filter_map(|(node, _)| node.0)
    }

    /// Stands for election, because the leader said so.
    pub(super) async fn take_over(&self, from: &PeerId, theirs: Vote, last: LogId) -> Result<()> {
        let refused = |text: &str| Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        let Some(core) = self.core() else { return refused("raft is being started") };
        let ours = core.raft.metrics().borrow().vote;
        if ours != theirs || !theirs.committed || theirs.leader_id.node_id != Node::of(*from) {
            return refused("who hands over is not the leader that this peer follows");
        }
        if core.log.last() < Some(last) {
            return refused("this peer has not all entries yet");
        }
        debug!(peer = %from, "the leader makes way for this peer");
        *self.making_way.handed.lock().unwrap_or_else(PoisonError::into_inner) = Some(theirs);
        core.raft.trigger().elect().await.map_err(stopped)
    }

    /// The vote of the leader that made way for this candidacy of this peer.
    pub(super) fn handed_for(&self, vote: &Vote) -> Option<Vote> {
        let handed = *self.making_way.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.filter(|handed| handed.leader_id.term.checked_add(1) == Some(vote.leader_id.term))
    }

    /// Leaves a leader that made way, so that its lease does not keep this peer from voting.
    pub(super) async fn let_go_of(&self, raft: &Raft, handed: Vote, next: Vote) -> Result<()> {
        let ours = raft.metrics().borrow().vote;
        if ours != handed || !handed.committed || next.leader_id.term <= handed.leader_id.term {
            return Ok(());
        }
        // A snapshot of nothing changes nothing but the term.
        let nothing = Snapshot { meta: SnapshotMeta::default(), snapshot: Box::<Staged>::default() };
        raft.install_full_snapshot(Vote { committed: false, ..next }, nothing)
            .await
            .map(drop)
            .map_err(stopped)
    }

    /// Waits until somebody else than this peer is known to lead, or for that long.
    pub(super) async fn until_another_leads(&self, leader: &PeerId, deadline: Instant) {
        while Instant::now() < deadline && self.leader().is_none_or(|now| now == *leader) {
            sleep_until((Instant::now() + POLL).min(deadline)).await;
        }
    }
}
