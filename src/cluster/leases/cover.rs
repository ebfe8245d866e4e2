//! Which streams belong together, and which of them need not be held any more. Pure.
//!
//! An upload that broke off and went on is several streams, and what no block of one links to may be linked to by one of
//! another. A stream is *covered* when each of its roots is pinned, or is missing in a stream that is covered: then a block
//! there links to it. Links have no circles, so that this ends at roots that are pinned.

use std::collections::{BTreeMap, BTreeSet};

use super::cids::{Key, key};
use super::{State, Stream, StreamKey};
use crate::types::Cid;

/// Streams that have to do with each other.
#[derive(Debug, Default)]
pub(super) struct Together(BTreeMap<StreamKey, Member>);

#[derive(Debug)]
struct Member {
    roots: Vec<(Key, Cid)>,
    missing: BTreeSet<Key>,
}

/// What is known now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It depends on whether this is pinned.
    Ask(Cid),
    /// These need not be held any more.
    Covered(BTreeSet<StreamKey>),
}

impl Together {
    /// A stream that waits, and those that may cover it or that it may cover.
    pub(super) fn of(streams: &BTreeMap<StreamKey, Stream>, one: StreamKey) -> Self {
        let member = |key: &StreamKey| {
            let stream = streams.get(key)?;
            let State::Waiting { roots } = &stream.state else { return None };
            Some((roots, &stream.missing))
        };
        let linking: Vec<StreamKey> = streams
            .iter()
            .filter(|(_, stream)| !stream.missing.is_empty() && matches!(stream.state, State::Waiting { .. }))
            .map(|(key, _)| *key)
            .collect();
        let (mut together, mut next) = (Self::default(), vec![one]);
        while let Some(stream) = next.pop() {
            let Some((roots, missing)) = member(&stream) else { continue };
            if together.0.contains_key(&stream) {
                continue;
            }
            let roots: Vec<_> = roots.iter().map(|root| (key(root), *root)).collect();
            let missing: BTreeSet<Key> = missing.iter().copied().collect();
            let covers = |other: &&StreamKey| {
                member(other).is_some_and(|(_, missing)| {
                    roots.iter().any(|(root, _)| missing.binary_search(root).is_ok())
                })
            };
            next.extend(linking.iter().filter(covers));
            if !missing.is_empty() {
                let is_covered = |other: &&StreamKey| {
                    member(other)
                        .is_some_and(|(roots, _)| roots.iter().any(|root| missing.contains(&key(root))))
                };
                next.extend(streams.keys().filter(is_covered));
            }
            together.0.insert(stream, Member { roots, missing });
        }
        together
    }

    /// What follows from what is known to be pinned.
    pub(super) fn step(&self, pinned: &BTreeMap<Cid, bool>) -> Step {
        let mut covered: BTreeSet<StreamKey> = self.0.keys().copied().collect();
        loop {
            let before = covered.len();
            for (stream, member) in &self.0 {
                if !covered.contains(stream) {
                    continue;
                }
                for (root, cid) in &member.roots {
                    let linked = self
                        .0
                        .iter()
                        .any(|(other, member)| covered.contains(other) && member.missing.contains(root));
                    match pinned.get(cid) {
                        _ if linked => {}
                        Some(true) => {}
                        None => return Step::Ask(*cid),
                        Some(false) => {
                            covered.remove(stream);
                            break;
                        }
                    }
                }
            }
            if covered.len() == before {
                return Step::Covered(covered);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Block, Timestamp};

    fn cid(name: &str) -> Cid {
        Block::raw(name.to_owned()).cid
    }

    fn cids(names: &str) -> Vec<Cid> {
        names.split(' ').filter(|name| !name.is_empty()).map(cid).collect()
    }

    fn stream_key(number: u64) -> StreamKey {
        StreamKey::new(Timestamp::UNIX_EPOCH, number)
    }

    /// Streams by number: the names of roots, and of what is missing.
    fn streams(all: &[(&str, &str)]) -> BTreeMap<StreamKey, Stream> {
        let stream = |(roots, missing): &(&str, &str)| {
            let mut stream = Stream::new(Timestamp::UNIX_EPOCH, State::Waiting { roots: cids(roots).into() });
            let mut keys: Vec<Key> = cids(missing).iter().map(key).collect();
            keys.sort_unstable();
            stream.missing = keys.into();
            stream
        };
        all.iter().enumerate().map(|(number, one)| (stream_key(number as u64), stream(one))).collect()
    }

    /// Which are covered, looked at from one of them, and what was asked.
    fn covered(all: &[(&str, &str)], one: u64, pinned: &str) -> (Vec<u64>, usize) {
        let together = Together::of(&streams(all), stream_key(one));
        let (pinned, mut known) = (cids(pinned), BTreeMap::new());
        loop {
            match together.step(&known) {
                Step::Ask(cid) => assert!(known.insert(cid, pinned.contains(&cid)).is_none()),
                Step::Covered(streams) => {
                    let numbers =
                        (0..all.len() as u64).filter(|number| streams.contains(&stream_key(*number)));
                    return (numbers.collect(), known.len());
                }
            }
        }
    }

    #[test]
    fn one_alone_needs_its_roots() {
        assert_eq!(covered(&[("a b", "")], 0, "a b"), (vec![0], 2));
        assert_eq!(covered(&[("a b", "")], 0, "b"), (vec![], 1));
        assert_eq!(covered(&[("a", ""), ("b", "")], 1, "b"), (vec![1], 1), "the other is nothing to it");
        assert_eq!(covered(&[("", "")], 0, ""), (vec![0], 0));
    }

    #[test]
    fn parts_of_one_upload_go_together() {
        // The root came first, and links to what came later; or it came last.
        for parts in [[("r", "x y"), ("x y", "")], [("x y", ""), ("r", "x y")]] {
            for one in [0, 1] {
                assert_eq!(covered(&parts, one, "r"), (vec![0, 1], 1));
                assert!(covered(&parts, one, "").0.is_empty());
            }
        }
        // a links to b, b to c, r to a; a and c came first.
        let parts = [("a c", "b"), ("r b", "a c")];
        assert_eq!(covered(&parts, 0, "r"), (vec![0, 1], 1));
        // Three parts.
        let parts = [("r", "x y"), ("x", "z"), ("y z", "")];
        for one in [0, 1, 2] {
            assert_eq!(covered(&parts, one, "r"), (vec![0, 1, 2], 1));
        }
        // The second part never came: the first is covered by its root alone.
        assert_eq!(covered(&[("r", "x")], 0, "r"), (vec![0], 1));
    }

    #[test]
    fn what_has_to_do_with_others_by_chance_is_released_by_its_own_root() {
        // x is a file of its own, and part of r.
        let both = [("r", "x"), ("x", ""), ("x z", "")];
        assert_eq!(covered(&both, 1, "x").0, [1]);
        assert_eq!(covered(&both, 0, "r").0, [0, 1]);
        assert_eq!(covered(&both, 2, "x r").0, [0, 1]);
        assert_eq!(covered(&both, 2, "z r").0, [0, 1, 2]);
    }
}
