//! What a pinset may look like after a history of operations: pure, and knowing nothing of how peers agree.
//!
//! An operation is *acknowledged* when its caller was told so, *refused* when its caller was told that nothing happened,
//! and otherwise unknown: it may have happened at any time until its call ended. Every pin writes a value of its own (its
//! *tag*), so that one can tell whose value is there in the end.
//!
//! - What is there was written by somebody.
//! - A pin that was acknowledged is there, unless an unpin that had not ended when the pin began may have seen it, or its
//!   entry expired, or another pin of the CID is there.
//! - Of two pins of which one *followed* the other (on the same peer after its answer, or on another peer which had it),
//!   the earlier is not there in the end while the later one must be.
//! - What an unpin answered that it removed stays away, and what was acknowledged by its peer before.
//!
//! Peers write a value once more, under its tag, to give a pin other holders (a [`Rewrite`]). One that did not know of a
//! change may undo it, as any of two that happen at the same time may win; one that knew must not.

use std::collections::BTreeSet;

use crate::types::Timestamp;

/// The number of the pin that wrote a value: its place in the history.
pub type Tag = usize;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pin, pin again, or update.
    Pin,
    /// Unpin.
    Unpin,
    /// Read what everybody agreed on. Nothing is checked of it here.
    Read,
}

/// What the caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is pinned, until this time if it says so.
    Pinned {
        /// When the entry expires.
        expires: Option<Timestamp>,
    },
    /// It is unpinned, and this value was there before.
    Unpinned {
        /// Whose value it was; none when that is not known.
        removed: Option<Tag>,
    },
    /// It was there with this value, or was not there.
    Was {
        /// Whose value.
        value: Option<Tag>,
    },
    /// Nothing happened.
    Refused,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One call of a user. Its place in the history is its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which peer was asked.
    pub peer: usize,
    /// About which CID.
    pub cid: usize,
    /// What was asked for.
    pub kind: Kind,
    /// When it began. Times of a history are numbers that grow.
    pub began: u64,
    /// When the call ended, if it did.
    pub ended: Option<u64>,
    /// Whose value the peer showed for the CID when it began.
    pub saw: Option<Tag>,
    /// What came of it.
    pub answer: Answer,
}

impl Operation {
    fn may_have_happened(&self) -> bool {
        !matches!(self.answer, Answer::Refused | Answer::Was { .. })
    }

    fn is_acknowledged_pin(&self) -> bool {
        matches!(self.answer, Answer::Pinned { .. })
    }

    fn ended_before(&self, time: u64) -> bool {
        self.ended.is_some_and(|ended| ended < time)
    }
}

/// What else happened that changes what may be.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The time of day by the clock that is furthest ahead, in the end.
    pub latest_now: Timestamp,
    /// By the clock that is furthest behind, at a moment after which somebody looked for expired pins.
    pub expired_before: Timestamp,
    /// What peers wrote once more of this CID.
    pub rewrites: Vec<Rewrite>,
    /// Whether what is there was written by one of these.
    pub there_is_rewrite: bool,
}

/// A value that a peer wrote once more by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Whose value.
    pub tag: Tag,
    /// Whose values that peer had.
    pub knew: BTreeSet<Tag>,
}

/// What is wrong with one CID: `there` is the tag and the expiry of the entry that all peers have.
pub fn check(
    history: &[Operation],
    cid: usize,
    there: Option<(Tag, Option<Timestamp>)>,
    circumstances: &Circumstances,
) -> Vec<String> {
    let case = Case { history, cid, circumstances };
    match there {
        None => case.absent(),
        Some((tag, expires)) => case.present(tag, expires),
    }
}

struct Case<'a> {
    history: &'a [Operation],
    cid: usize,
    circumstances: &'a Circumstances,
}

impl Case<'_> {
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (Tag, &Operation)> {
        let all = self.history.iter().enumerate();
        all.filter(move |(_, operation)| {
            operation.cid == self.cid && operation.kind == kind && operation.may_have_happened()
        })
    }

    fn absent(&self) -> Vec<String> {
        self.of_kind(Kind::Pin)
            .filter(|(tag, pin)| pin.is_acknowledged_pin() && !self.may_be_gone(*tag, pin))
            .map(|(tag, _)| {
                format!("acknowledged pin {tag} is lost: nothing that may have seen it removed it")
            })
            .collect()
    }

    fn present(&self, tag: Tag, expires: Option<Timestamp>) -> Vec<String> {
        let mut wrong = Vec::new();
        let Some((_, pin)) = self.of_kind(Kind::Pin).find(|(known, _)| *known == tag) else {
            return vec![format!("the value of {tag} is there, but that wrote none")];
        };
        if expires.is_some_and(|expires| expires < self.circumstances.expired_before) {
            wrong.push(format!("pin {tag} expired and is still there"));
        }
        let rewrites = || self.circumstances.rewrites.iter().filter(|rewrite| rewrite.tag == tag);
        for (number, unpin) in self.of_kind(Kind::Unpin) {
            if self.circumstances.there_is_rewrite {
                // By somebody who did not know of the unpin: it would have been nothing to write once more.
                break;
            }
            let Answer::Unpinned { removed } = unpin.answer else { continue };
            let had_it = pin.peer == unpin.peer && pin.ended_before(unpin.began) && pin.is_acknowledged_pin();
            // What was there may have been what a peer wrote once more, and what it had been written of came later.
            if (removed == Some(tag) && rewrites().next().is_none()) || had_it {
                wrong.push(format!("pin {tag} is there though the acknowledged unpin {number} removed it"));
            }
        }
        for later in self.followers(tag) {
            let operation = &self.history[later];
            let may_be_undone = self.circumstances.there_is_rewrite
                && rewrites().any(|rewrite| !rewrite.knew.contains(&later));
            if operation.is_acknowledged_pin() && !may_be_undone && !self.may_be_gone(later, operation) {
                wrong.push(format!("pin {tag} is there though acknowledged pin {later} followed it"));
            }
        }
        wrong
    }

    /// Whether what a pin wrote may have been removed.
    fn may_be_gone(&self, tag: Tag, pin: &Operation) -> bool {
        let unpinned = self.of_kind(Kind::Unpin).any(|(_, unpin)| !unpin.ended_before(pin.began));
        unpinned || self.of_kind(Kind::Pin).any(|(other, _)| self.expiry_may_remove(other, tag))
    }

    /// Whether the expiry of one pin's entry may have taken another pin's value with it: it was no older, so a peer may
    /// have had both and shown the one that expired.
    fn expiry_may_remove(&self, expired: Tag, tag: Tag) -> bool {
        let may_expire = match self.history[expired].answer {
            Answer::Pinned { expires } => expires.is_some_and(|at| at <= self.circumstances.latest_now),
            Answer::Unknown => true,
            Answer::Unpinned { .. } | Answer::Was { .. } | Answer::Refused => false,
        };
        // Written once more by a peer that did not know better, what expires may be the last word after all.
        let mut rewrites = self.circumstances.rewrites.iter();
        may_expire
            && (expired == tag
                || !self.followers(expired).contains(&tag)
                || rewrites.any(|rewrite| rewrite.tag == expired && !rewrite.knew.contains(&tag)))
    }

    /// Pins that surely beat this one where both are.
    fn followers(&self, tag: Tag) -> BTreeSet<Tag> {
        let mut followers = BTreeSet::new();
        let mut open = vec![tag];
        while let Some(earlier) = open.pop() {
            for (later, _) in self.of_kind(Kind::Pin).filter(|(later, _)| self.follows(*later, earlier)) {
                if followers.insert(later) {
                    open.push(later);
                }
            }
        }
        followers
    }

    fn follows(&self, later: Tag, earlier: Tag) -> bool {
        let (after, before) = (&self.history[later], &self.history[earlier]);
        later != earlier
            && (after.saw == Some(earlier) || (after.peer == before.peer && before.ended_before(after.began)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    const PINNED: Answer = Answer::Pinned { expires: None };

    fn pin(peer: usize, began: u64, ended: u64, saw: Option<Tag>) -> Operation {
        Operation { peer, cid: 0, kind: Kind::Pin, began, ended: Some(ended), saw, answer: PINNED }
    }

    fn unpin(peer: usize, began: u64, ended: u64, removed: Tag) -> Operation {
        let answer = Answer::Unpinned { removed: Some(removed) };
        Operation { kind: Kind::Unpin, answer, ..pin(peer, began, ended, Some(removed)) }
    }

    fn unknown(operation: Operation) -> Operation {
        Operation { answer: Answer::Unknown, ended: None, ..operation }
    }

    fn expiring(operation: Operation, second: i64) -> Operation {
        Operation { answer: Answer::Pinned { expires: Some(at(second)) }, ..operation }
    }

    fn complaints_with(history: &[Operation], there: Option<Tag>, rewrites: &[Rewrite]) -> usize {
        let expires = |tag: Tag| match history[tag].answer {
            Answer::Pinned { expires } => expires,
            _ => None,
        };
        let circumstances = Circumstances {
            latest_now: at(1_000),
            expired_before: at(900),
            there_is_rewrite: there.is_some_and(|tag| rewrites.iter().any(|rewrite| rewrite.tag == tag)),
            rewrites: rewrites.to_vec(),
        };
        check(history, 0, there.map(|tag| (tag, expires(tag))), &circumstances).len()
    }

    fn complaints(history: &[Operation], there: Option<Tag>) -> usize {
        complaints_with(history, there, &[])
    }

    #[test]
    fn only_who_did_not_know_of_a_change_may_undo_it_by_writing_once_more() {
        let rewrite = |tag, knew: &[Tag]| Rewrite { tag, knew: knew.iter().copied().collect() };
        let history = [expiring(pin(0, 1, 2, None), 500), pin(1, 3, 4, Some(0))];
        for (rewrites, may_be_gone) in [
            (vec![], false),
            (vec![rewrite(0, &[0, 1])], false),
            (vec![rewrite(0, &[0])], true),
            (vec![rewrite(1, &[0, 1])], false),
        ] {
            assert_eq!(complaints_with(&history, None, &rewrites) == 0, may_be_gone, "{rewrites:?}");
        }
        let history = [pin(0, 1, 2, None), pin(1, 3, 4, Some(0))];
        assert_ne!(complaints_with(&history, Some(0), &[rewrite(0, &[0, 1])]), 0);
        assert_eq!(complaints_with(&history, Some(0), &[rewrite(0, &[0])]), 0);
        let history = [pin(0, 1, 2, None), unpin(1, 3, 4, 0)];
        assert_eq!(complaints_with(&history, Some(0), &[rewrite(0, &[0])]), 0);
        assert_ne!(complaints_with(&history, Some(0), &[]), 0);
    }

    #[test]
    fn a_history_allows_and_forbids_what_it_should() {
        let seen = |tag| Some(tag);
        // What, the history, what may be there, what must not.
        // What happened, and what the pinset may and may not look like then.
        type Case<'a> = (&'a str, Vec<Operation>, &'a [Option<Tag>], &'a [Option<Tag>]);
        let cases: &[Case<'_>] = &[
            ("nothing was asked", vec![], &[None], &[]),
            ("a pin", vec![pin(0, 1, 2, None)], &[Some(0)], &[None]),
            ("a pin without an answer", vec![unknown(pin(0, 1, 2, None))], &[Some(0), None], &[]),
            (
                "a refused pin",
                vec![Operation { answer: Answer::Refused, ..pin(0, 1, 2, None) }],
                &[None],
                &[Some(0)],
            ),
            ("unpinned afterwards", vec![pin(0, 1, 2, None), unpin(0, 3, 4, 0)], &[None], &[Some(0)]),
            ("unpinned elsewhere", vec![pin(0, 1, 2, None), unpin(1, 3, 4, 0)], &[None], &[Some(0)]),
            (
                "unpinned before",
                vec![pin(0, 1, 2, None), unpin(0, 3, 4, 0), pin(1, 5, 6, None)],
                &[Some(2)],
                &[None, Some(0)],
            ),
            (
                "unpinned meanwhile",
                vec![pin(0, 1, 2, None), unpin(0, 3, 6, 0), pin(1, 5, 7, None)],
                &[Some(2), None],
                &[Some(0)],
            ),
            (
                "an unpin without an answer",
                vec![pin(0, 1, 2, None), unknown(unpin(0, 3, 4, 0))],
                &[Some(0), None],
                &[],
            ),
            ("two at once", vec![pin(0, 1, 3, None), pin(1, 2, 4, None)], &[Some(0), Some(1)], &[None]),
            (
                "one after the other",
                vec![pin(0, 1, 2, None), pin(0, 3, 4, None)],
                &[Some(1)],
                &[Some(0), None],
            ),
            (
                "one that saw the other",
                vec![pin(0, 1, 2, None), pin(1, 3, 4, seen(0))],
                &[Some(1)],
                &[Some(0)],
            ),
            ("one that did not", vec![pin(0, 1, 2, None), pin(1, 3, 4, None)], &[Some(0), Some(1)], &[None]),
            (
                "over three peers",
                vec![pin(0, 1, 2, None), unknown(pin(1, 3, 4, seen(0))), pin(2, 5, 6, seen(1))],
                &[Some(2)],
                &[Some(0), Some(1), None],
            ),
            (
                "the later of two was removed",
                vec![pin(0, 1, 2, None), pin(1, 3, 4, seen(0)), unpin(2, 5, 6, 1)],
                &[None, Some(0)],
                &[Some(1)],
            ),
            ("an entry that expired", vec![expiring(pin(0, 1, 2, None), 500)], &[None], &[Some(0)]),
            ("an entry that will", vec![expiring(pin(0, 1, 2, None), 5_000)], &[Some(0)], &[None]),
            (
                "made to stay before it expired",
                vec![expiring(pin(0, 1, 2, None), 500), pin(0, 3, 4, None)],
                &[Some(1)],
                &[None, Some(0)],
            ),
            (
                "made to stay where the expiring one was not known",
                vec![expiring(pin(0, 1, 2, None), 500), pin(1, 3, 4, None)],
                &[Some(1), None],
                &[Some(0)],
            ),
        ];
        for (what, history, allowed, forbidden) in cases {
            for there in *allowed {
                assert_eq!(complaints(history, *there), 0, "{what}: {there:?} is allowed");
            }
            for there in *forbidden {
                assert_ne!(complaints(history, *there), 0, "{what}: {there:?} is forbidden");
            }
        }
    }

    #[test]
    fn other_cids_do_not_matter_and_invented_values_do() {
        let history = [Operation { cid: 1, ..pin(0, 1, 2, None) }];
        assert_eq!(complaints(&history, None), 0);
        assert_eq!(complaints(&history, Some(0)), 1);
    }
}
