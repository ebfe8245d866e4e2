//! When this peer wants to lead, and looking after openraft.
//!
//! openraft elects at once when its timer runs out, so a peer that comes back from a partition would make the leader step
//! down. Here a peer asks first whether it would be elected: nobody says yes who hears from a leader, or who has entries
//! that the asking peer has not. Only with a quorum of yes it makes openraft elect. The times between are drawn from the
//! seed of the context.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use openraft::{LogIdOptionExt as _, ServerState};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::message::{Answer, Question};
use super::node::{Inner, Standing};
use super::types::{LogId, Membership, Metrics, Node, is_voter};
use crate::error::{Error, ErrorKind, Result};
use crate::random::SplitMix64;
use crate::types::PeerId;

/// How long it counts that a leader was taken for dead.
const ALARMS_WINDOW: Duration = Duration::from_secs(60);
/// How many times elections that came to nothing double the time until the next one.
const TRIES_MAX: u32 = 3;
/// How many times that counts.
const ALARMS_MAX: usize = 4;

/// Draws how long to wait for a leader: between half of the time and all of it.
#[derive(Debug)]
struct Patience {
    random: SplitMix64,
    max: Duration,
    /// Elections in a row that this peer began and that led to no leader.
    tries: u32,
}

impl Patience {
    /// After false alarms, or elections that came to nothing, more.
    fn draw(&mut self, alarms: &Alarms) -> Duration {
        let tries = 1 << self.tries.saturating_sub(1).min(TRIES_MAX);
        let half = self.max * alarms.factor().max(tries) / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(self.random.next() % micros)
    }
}

/// Leaders that were still there when another one was elected, because they, or their disks, are slow. With a few of them
/// in a short time everybody waits longer, up to eight times as long, so that a leader is let do its work.
#[derive(Debug, Default)]
pub(super) struct Alarms(Mutex<VecDeque<(u64, Instant)>>);

impl Alarms {
    fn recent(&self) -> MutexGuard<'_, VecDeque<(u64, Instant)>> {
        let mut alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.retain(|(_, at)| at.elapsed() < ALARMS_WINDOW);
        alarms
    }

    /// The leader of an old term speaks.
    pub(super) fn heard_old_leader(&self, term: u64) {
        let mut recent = self.recent();
        if recent.iter().all(|(known, _)| *known != term) {
            recent.push_back((term, Instant::now()));
            recent.truncate(ALARMS_MAX);
        }
    }

    /// How many times as long as usual to wait. One that was cut off for a while is no reason.
    fn factor(&self) -> u32 {
        1 << self.recent().len().saturating_sub(1)
    }
}

/// Looks after everything until it is dropped.
pub(super) async fn drive(inner: Arc<Inner>, seed: u64) {
    let own =
        inner.peer.to_bytes().iter().fold(seed, |seed, byte| SplitMix64::new(seed ^ u64::from(*byte)).next());
    let mut patience =
        Patience { random: SplitMix64::new(own), max: inner.config.election_timeout, tries: 0 };
    let mut wait = patience.draw(&inner.alarms);
    let mut last_try = Instant::now();
    let mut last_asked = last_try;
    let mut joint_since = None;
    let mut strangers = BTreeSet::new();
    loop {
        let due = inner.heard_at().max(last_try) + wait;
        let poll = Instant::now() + inner.config.heartbeat_interval();
        sleep_until(due.max(Instant::now() + Duration::from_millis(1)).min(poll)).await;
        if matches!(*inner.standing.borrow(), Standing::Broken(_)) {
            // There is nothing left to look after.
            inner.halt().await;
            return std::future::pending().await;
        }
        inner.staging.expire();
        let Some(metrics) = inner.metrics() else {
            last_try = Instant::now();
            continue;
        };
        let why = match &metrics.running_state {
            Err(fatal) => Some(inner.fatal(fatal)),
            // openraft does not know yet.
            Ok(()) => inner.core().and_then(|core| core.log.failed()),
        };
        if let Some(why) = why {
            inner.recover(why).await;
            (wait, last_try) = (patience.draw(&inner.alarms), Instant::now());
            continue;
        }
        if matches!(*inner.standing.borrow(), Standing::Removed) {
            last_try = Instant::now();
            continue;
        }
        if metrics.state == ServerState::Leader {
            finish_change(&inner, &metrics, &mut joint_since).await;
            patience.tries = 0;
            last_try = Instant::now();
            continue;
        }
        joint_since = None;
        if inner.hears(inner.config.lease()) {
            patience.tries = 0;
        }
        let membership = metrics.membership_config.membership().clone();
        if !is_voter(&inner.node(), &membership) {
            if is_time_to_ask(&inner, last_asked) {
                inner.check_removed(None).await;
                last_asked = Instant::now();
            }
            last_try = Instant::now();
            continue;
        }
        let is_alone = membership.voter_ids().count() == 1;
        if !is_alone && Instant::now() < inner.heard_at().max(last_try) + wait {
            continue;
        }
        let said = if is_alone {
            Poll::Elected
        } else {
            would_be_elected(&inner, &membership, &mut strangers).await
        };
        if said == Poll::NotMember {
            inner.check_removed(None).await;
        }
        if said == Poll::Elected {
            // Somebody may have been elected while the others were asked.
            if !is_alone
                && inner.heard_at() > last_try.max(due - wait)
                && inner.heard_at().elapsed() < inner.config.lease()
            {
                (wait, last_try) = (patience.draw(&inner.alarms), Instant::now());
                continue;
            }
            debug!("asking for votes");
            patience.tries += 1;
            if let Some(core) = inner.core()
                && let Err(fatal) = core.raft.trigger().elect().await
            {
                debug!(%fatal, "could not ask for votes");
            }
        }
        (wait, last_try) = (patience.draw(&inner.alarms), Instant::now());
    }
}

/// Whether a peer that does not vote has not heard from a leader for so long that it may have been removed.
fn is_time_to_ask(inner: &Inner, last: Instant) -> bool {
    let silence = inner.config.election_timeout * 2;
    inner.heard_at().max(last).elapsed() >= silence
}

/// Asks every other voter whether it would vote for this peer. Gives answers as they come.
fn ask_voters<'a>(
    inner: &'a Arc<Inner>,
    membership: &Membership,
    question: &'a Question,
) -> impl Stream<Item = (PeerId, Result<Answer>)> + Unpin + use<'a> {
    membership
        .voter_ids()
        .filter(|voter| *voter != inner.node())
        .filter_map(|voter| voter.0)
        .map(|voter| async move { (voter, inner.ask(&voter, question, inner.config.lease()).await) })
        .collect::<FuturesUnordered<_>>()
}

/// What voters say of a peer that would stand for election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    /// Enough of them would vote for it.
    Elected,
    /// They would not, or do not answer.
    NotElected,
    /// They would not, and for one of them it is no member.
    NotMember,
}

/// Asks every voter, until enough of them say yes or no more will. Of each that turns out to be of another cluster an operator
/// is told once: it runs, and would be looked for where it does not.
async fn would_be_elected(
    inner: &Arc<Inner>,
    membership: &Membership,
    strangers: &mut BTreeSet<PeerId>,
) -> Poll {
    let Some(last) = inner.core().map(|core| core.log.last()) else { return Poll::NotElected };
    let mut yes = BTreeSet::from([inner.node()]);
    let mut poll = Poll::NotElected;
    let question = Question::WouldVote(last);
    let mut asked = ask_voters(inner, membership, &question);
    while let Some((voter, answer)) = asked.next().await {
        match answer {
            Ok(Answer::WouldVote(true)) => {
                yes.insert(Node::of(voter));
            }
            Ok(Answer::NotMember) => poll = Poll::NotMember,
            Ok(Answer::Failed(ErrorKind::Conflict, why)) if strangers.insert(voter) => warn!(
                peer = %voter, why,
                "a member is of another raft cluster than this peer: one of them was cleaned, recovered or imported into, \
                 or began with another init_peerset"
            ),
            Ok(_) => {}
            Err(error) => debug!(peer = %voter, %error, "a voter could not be asked"),
        }
        if is_quorum(membership, &yes) {
            return Poll::Elected;
        }
    }
    poll
}

/// Whether these are more than half of the voters, before and after a change of members.
pub(super) fn is_quorum(membership: &Membership, yes: &BTreeSet<Node>) -> bool {
    membership.get_joint_config().iter().all(|voters| voters.intersection(yes).count() > voters.len() / 2)
}

/// Whether this peer would vote for another one.
pub(super) fn would_vote(inner: &Inner, candidate: &PeerId, theirs: Option<LogId>) -> bool {
    let (Some(metrics), Some(core)) = (inner.metrics(), inner.core()) else { return false };
    let leads = metrics.state == ServerState::Leader && inner.has_quorum(&metrics);
    let hears = inner.hears(inner.config.lease());
    let would = decide(leads, hears, theirs, core.log.last());
    debug!(peer = %candidate, would, "somebody asks whether it would be elected");
    would
}

fn decide(leads: bool, hears: bool, theirs: Option<LogId>, ours: Option<LogId>) -> bool {
    !leads && !hears && theirs >= ours
}

/// A leader that was elected in the middle of a change of members brings it to its end. One that leaves with it has another
/// one do that (see `membership`).
async fn finish_change(inner: &Arc<Inner>, metrics: &Metrics, since: &mut Option<Instant>) {
    let membership = metrics.membership_config.membership();
    let [_, .., goal] = membership.get_joint_config().as_slice() else {
        *since = None;
        return;
    };
    // Whoever began it may be about to end it.
    if since.get_or_insert_with(Instant::now).elapsed() < inner.config.election_timeout * 2 {
        return;
    }
    if metrics.last_applied.index() < metrics.membership_config.log_id().index() {
        return;
    }
    if !goal.contains(&inner.node()) {
        inner.hand_over().await;
        *since = None;
        return;
    }
    info!("ending a change of members that another leader began");
    if let Ok(raft) = inner.raft() {
        let changed = raft.change_membership(goal.clone(), false);
        match tokio::time::timeout(inner.config.network_timeout, changed).await {
            Ok(Ok(_)) => *since = None,
            Ok(Err(error)) => debug!(%error, "a change of members was not ended"),
            Err(_) => debug!("a change of members was not ended in time"),
        }
    }
}

/// Something that openraft answers to a change of members.
pub(super) fn change_failed(error: impl std::fmt::Display) -> Error {
    Error::new(crate::ErrorKind::Unavailable, format!("the members were not changed: {error}"))
        .component(super::COMPONENT)
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term, Node::default()), index))
    }

    #[test]
    fn only_who_hears_no_leader_and_has_no_more_entries_would_vote() {
        for (leads, hears, theirs, ours, expected) in [
            (false, false, None, None, true),
            (false, false, id(1, 1), id(1, 1), true),
            (false, false, id(2, 1), id(1, 9), true),
            (false, false, id(1, 8), id(1, 9), false),
            (false, false, None, id(0, 0), false),
            (true, false, id(9, 9), id(1, 1), false),
            (false, true, id(9, 9), id(1, 1), false),
        ] {
            assert_eq!(decide(leads, hears, theirs, ours), expected, "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn a_quorum_is_one_of_every_configuration() {
        let nodes: Vec<Node> = (0..4).map(|_| Node::of(PeerId::random())).collect();
        let set = |numbers: &[usize]| numbers.iter().map(|number| nodes[*number]).collect::<BTreeSet<_>>();
        let one = Membership::new(vec![set(&[0, 1, 2])], ());
        assert!(!is_quorum(&one, &set(&[0])) && is_quorum(&one, &set(&[0, 2])));
        let two = Membership::new(vec![set(&[0, 1, 2]), set(&[3])], ());
        assert!(!is_quorum(&two, &set(&[0, 1])) && is_quorum(&two, &set(&[0, 1, 3])));
        let four = Membership::new(vec![set(&[0, 1, 2, 3])], ());
        assert!(!is_quorum(&four, &set(&[0, 1])) && is_quorum(&four, &set(&[0, 1, 2])));
    }

    #[test]
    fn patience_is_between_half_and_all_of_the_time() {
        let mut patience = Patience { random: SplitMix64::new(7), max: Duration::from_secs(1), tries: 0 };
        let drawn: BTreeSet<Duration> = (0..100).map(|_| patience.draw(&Alarms::default())).collect();
        assert!(drawn.len() > 90, "{drawn:?}");
        assert!(drawn.iter().all(|wait| (Duration::from_millis(500)..Duration::from_secs(1)).contains(wait)));
    }

    #[tokio::test(start_paused = true)]
    async fn leaders_that_were_only_slow_make_everybody_wait_longer_for_a_minute() {
        let alarms = Alarms::default();
        for (term, factor) in [(1, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 8)] {
            alarms.heard_old_leader(term);
            assert_eq!(alarms.factor(), factor, "term {term}");
        }
        tokio::time::advance(ALARMS_WINDOW).await;
        assert_eq!(alarms.factor(), 1);
    }
}
