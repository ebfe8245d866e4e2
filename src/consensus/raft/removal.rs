//! How a peer finds out whether it is a member.
//!
//! Nobody can be relied on to tell a peer that it was removed: it may be away, and who removed it may be gone when it comes
//! back. So it asks, when somebody says that it is no member, and when no leader has spoken to it for a while. No single
//! answer is enough. Who answers may know less than this peer, which was perhaps removed and added again, and replays the
//! log of that now; or more than was ever agreed on, because an entry in its log may still come to nothing. What is asked is
//! therefore for the newest list of members in the log of each, and for the newest that was agreed on.
//!
//! A peer is no member when it is not in the newest list of all that it heard of, somebody knows that this list was agreed on,
//! and more than half of those in it have no list that this peer is in. Had it been added after that list, then another list
//! would have been agreed on after it, first by more than half of those in it, and one of them would have said so. If that
//! happens while they are asked, it was no member when the first of them answered. Who is added votes only when it has the
//! entry by which it was to be added, so either it sees that in its own log, or whoever adds it sees that it has stopped.
//!
//! In the same way it is a member when it is in the newest list, and more than half of those in it, without its own voice,
//! have lists that it is in: those who remove one peer are more than half of those who stay, and two such groups have
//! somebody in common. A peer with an empty store learns so whether it was right to lose the old one.
//!
//! Those in a newer list that this peer hears of are asked in turn, and at last all that it is connected to. So it finds out
//! also when all that it knew as members were replaced meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::elections::is_quorum;
use super::message::{Answer, Question};
use super::node::Inner;
use super::records::ClusterId;
use super::types::{LogId, Node, StoredMembership, is_voter};
use super::wire::PEERS_MAX;
use crate::types::PeerId;

/// How many newer lists in a row are followed. Each has to name somebody who was not asked yet.
const ROUNDS_MAX: usize = 8;

/// What a peer knows of who the members are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// By the newest entry of its log that says so, agreed on or not.
    pub(super) newest: StoredMembership,
    /// The newest entry that says so and was agreed on.
    pub(super) agreed: Option<LogId>,
}

impl Members {
    /// Whether no change of them is under way. One that was agreed on to be made (joint consensus) still has to be ended.
    pub(super) fn are_settled(&self) -> bool {
        self.agreed == *self.newest.log_id() && self.newest.membership().get_joint_config().len() <= 1
    }
}

/// The newest list that anybody knows.
fn newest<'a>(own: &'a Members, answers: &'a BTreeMap<Node, Members>) -> &'a StoredMembership {
    let all = std::iter::once(own).chain(answers.values()).map(|members| &members.newest);
    all.max_by_key(|list| *list.log_id()).unwrap_or(&own.newest)
}

/// Whether a peer is a member that votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Member,
    NotMember,
    /// Too few answered, or not everybody knows the same.
    Unknown,
}

/// Whether a peer is a member, by what it knows itself and what others answered.
fn decide(me: &Node, own: &Members, answers: &BTreeMap<Node, Members>) -> Verdict {
    let newest = newest(own, answers);
    let votes = |list: &StoredMembership| is_voter(me, list.membership());
    // Who is about to join is neither.
    let is_out = |list: &StoredMembership| list.membership().get_node(me).is_none();
    let agreed = answers.values().map(|answer| answer.agreed).max().max(Some(own.agreed)).flatten();
    // Its own voice does not count, whatever it remembers.
    let is_said = |so: &dyn Fn(&StoredMembership) -> bool| {
        let say_so = answers.iter().filter(|(_, answer)| so(&answer.newest)).map(|(node, _)| *node);
        so(newest) && is_quorum(newest.membership(), &say_so.collect())
    };
    if newest.log_id().is_none() {
        Verdict::Unknown
    } else if is_said(&votes) {
        Verdict::Member
    } else if is_said(&is_out) && agreed >= *newest.log_id() {
        Verdict::NotMember
    } else {
        Verdict::Unknown
    }
}

impl Inner {
    /// What this peer knows of who the members are.
    pub(super) fn known_members(&self) -> Members {
        let newest = self.metrics().map(|metrics| (*metrics.membership_config).clone());
        let agreed = *self.applied.borrow().members.log_id();
        Members { newest: newest.unwrap_or_default(), agreed }
    }

    /// Asks the members, and `hint`, whether this peer was removed; stops taking part if so. One that never was a member
    /// that votes is yet to become one.
    pub(super) async fn check_removed(&self, hint: Option<PeerId>) {
        let before = self.known_members().newest;
        if !self.applied.borrow().has_voted && !is_voter(&self.node(), before.membership()) {
            return;
        }
        let verdict = self.ask_members(hint, self.cluster()).await;
        // Meanwhile it may have been added.
        if verdict == Verdict::NotMember && self.known_members().newest == before {
            self.set_removed();
        }
    }

    /// Asks the members of a cluster, as far as they are known, and `hint`, whether this peer is one.
    pub(super) async fn ask_members(&self, hint: Option<PeerId>, cluster: Option<ClusterId>) -> Verdict {
        let (me, own) = (self.node(), self.known_members());
        let mut asked = BTreeSet::from([me]);
        let mut answers = BTreeMap::new();
        let mut strangers = self.links.peers().into_iter().map(Node::of).take(PEERS_MAX);
        for _ in 0..ROUNDS_MAX {
            let mut known: BTreeSet<Node> =
                newest(&own, &answers).membership().voter_ids().chain(hint.map(Node::of)).collect();
            if known.is_subset(&asked) {
                known.extend(strangers.by_ref());
            }
            let mut waiting: FuturesUnordered<_> = known
                .difference(&asked)
                .filter_map(|node| node.0)
                .map(|peer| async move {
                    let patience = self.config.lease();
                    (peer, self.ask_within(cluster, &peer, &Question::Members, patience).await)
                })
                .collect();
            if waiting.is_empty() {
                break;
            }
            asked.extend(known);
            while let Some((peer, answer)) = waiting.next().await {
                if let Ok(Answer::Members(members)) = answer {
                    answers.insert(Node::of(peer), members);
                }
                let verdict = decide(&me, &own, &answers);
                if verdict != Verdict::Unknown {
                    return verdict;
                }
            }
        }
        Verdict::Unknown
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::super::types::Membership;
    use super::*;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, Node::default()), index)
    }

    #[test]
    fn a_peer_was_removed_when_a_quorum_of_the_newest_list_knows_none_that_it_is_in() {
        let nodes: Vec<Node> = (0..4).map(|_| Node::of(PeerId::random())).collect();
        let members = |index: u64, numbers: &[usize], agreed: u64| {
            let list = Membership::new(vec![numbers.iter().map(|number| nodes[*number]).collect()], ());
            Members { newest: StoredMembership::new(Some(id(index)), list), agreed: Some(id(agreed)) }
        };
        let all = members(1, &[0, 1, 2], 1);
        let without = |agreed| members(5, &[1, 2], agreed);
        use Verdict::{Member, NotMember, Unknown};
        let learns = {
            let list =
                Membership::new(vec![BTreeSet::from([nodes[1]])], BTreeSet::from([nodes[0], nodes[1]]));
            Members { newest: StoredMembership::new(Some(id(7)), list), agreed: Some(id(7)) }
        };
        for (own, answers, expected, why) in [
            (
                &all,
                vec![(1, without(5)), (2, without(1))],
                NotMember,
                "one of them knows that it was agreed on",
            ),
            (&all, vec![(1, without(5)), (2, all.clone())], Unknown, "the other one may not have it"),
            (&all, vec![(1, without(1)), (2, without(1))], Unknown, "it may come to nothing"),
            (&all, vec![(1, without(5))], Unknown, "one of two is no quorum"),
            (&members(9, &[0, 1, 2], 1), vec![(1, without(5)), (2, without(5))], Unknown, "added since"),
            (
                &all,
                vec![(1, without(5)), (2, members(9, &[0, 1, 2], 5))],
                Unknown,
                "one knows that it was added",
            ),
            (&without(5), vec![(1, without(5)), (2, without(5))], NotMember, "it knows that itself"),
            (&without(5), vec![(1, members(7, &[1], 7))], NotMember, "the other one was removed, too"),
            (&all, vec![(1, members(7, &[3], 7)), (3, members(7, &[3], 7))], NotMember, "all were replaced"),
            (&all, vec![(1, members(7, &[3], 7))], Unknown, "nobody of those that are left was heard"),
            (&all, vec![], Unknown, "nobody answered"),
            (&all, vec![(1, learns.clone())], Unknown, "it is about to join"),
            (&Members::default(), vec![], Unknown, "nobody is a member"),
            (&Members::default(), vec![(1, all.clone()), (2, all.clone())], Member, "it lost its store"),
            (&all, vec![(1, all.clone())], Unknown, "what it says itself is no evidence"),
            (&Members::default(), vec![(1, all.clone()), (2, without(5))], Unknown, "one was away"),
        ] {
            let answers = answers.into_iter().map(|(number, answer)| (nodes[number], answer)).collect();
            assert_eq!(decide(&nodes[0], own, &answers), expected, "{why}");
        }
    }

    #[test]
    fn a_change_of_two_steps_of_which_one_was_agreed_on_is_under_way() {
        let nodes: Vec<Node> = (0..2).map(|_| Node::of(PeerId::random())).collect();
        let (both, one) = (nodes.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([nodes[0]]));
        for (lists, agreed, expected) in [
            (vec![both.clone()], 5, true),
            (vec![both.clone()], 4, false),
            (vec![both, one.clone()], 5, false),
            (vec![one], 5, true),
        ] {
            let newest = StoredMembership::new(Some(id(5)), Membership::new(lists, ()));
            assert_eq!(Members { newest, agreed: Some(id(agreed)) }.are_settled(), expected);
        }
    }
}
