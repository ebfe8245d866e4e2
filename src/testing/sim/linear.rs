//! Whether what callers saw of a pin is what they could have seen of one pin in one place: each call looks as if it had
//! happened at one moment between its beginning and its end. Pure.

use std::collections::{BTreeSet, HashSet};

/// Combinations of calls that are looked at before it is left undecided.
const COMBINATIONS_MAX: usize = 1 << 20;

/// The name that a pin has; none when it is not there.
pub type Value = Option<u64>;

/// What was asked for, and seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The pin has this name from now on; what that gives says nothing.
    Pin(u64),
    /// It is gone. What it was, if that is known.
    Unpin(Option<Value>),
    /// It was this.
    Read(Value),
    /// It is gone if it was this.
    Expire(u64),
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// What.
    pub call: Call,
    /// When it began. Times of a history are numbers that grow.
    pub began: u64,
    /// When it ended. None where nobody knows whether it happened: then it may at any time, or never.
    pub ended: Option<u64>,
}

/// What a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order in which it could have happened.
    Linearizable,
    /// There is none.
    Impossible,
    /// There are too many to look at.
    Undecided,
}

/// What a call makes of a value, if it could have happened then.
fn step(call: Call, value: Value) -> Option<Value> {
    match call {
        Call::Pin(name) => Some(Some(name)),
        Call::Unpin(Some(was)) if was != value => None,
        Call::Unpin(_) => Some(None),
        Call::Read(was) => (was == value).then_some(value),
        Call::Expire(name) => (value == Some(name)).then_some(None),
    }
}

impl Call {
    /// Whether it goes otherwise where the pin is something else than this.
    fn tells_of(self, value: Value) -> bool {
        match self {
            Self::Pin(_) | Self::Unpin(None) => false,
            Self::Unpin(Some(was)) | Self::Read(was) => was == value,
            Self::Expire(name) => value == Some(name),
        }
    }
}

/// Calls that happened, of a history.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    fn with(&self, index: usize) -> Self {
        let mut set = self.clone();
        set.0[index / 64] |= 1 << (index % 64);
        set
    }
}

/// Wing and Gong's search, with what was seen left out. In the beginning the pin is not there.
pub fn check(history: &[Happened]) -> Verdict {
    let seen: BTreeSet<u64> = history
        .iter()
        .filter_map(|happened| match happened.call {
            Call::Read(value) | Call::Unpin(Some(value)) => value,
            _ => None,
        })
        .collect();
    // A write that may have happened and that nobody saw can as well not have happened; and where it expires, as well have
    // been a removal.
    let unseen: BTreeSet<u64> = history
        .iter()
        .filter_map(|happened| match (happened.call, happened.ended) {
            (Call::Pin(name), None) if !seen.contains(&name) => Some(name),
            _ => None,
        })
        .collect();
    let told = history.iter().filter_map(|happened| match happened.call {
        Call::Pin(name) if unseen.contains(&name) => None,
        Call::Expire(name) if unseen.contains(&name) => {
            Some(Happened { call: Call::Unpin(None), ..*happened })
        }
        _ => Some(*happened),
    });
    let mut calls: Vec<Happened> = told.collect();
    // The last one is looked at first: of those that are certain, the one that ended first.
    calls.sort_by_key(|happened| std::cmp::Reverse(happened.ended.unwrap_or(u64::MAX)));
    let certain = calls.iter().filter(|happened| happened.ended.is_some()).count();
    let mut looked = HashSet::new();
    let mut open = vec![(Set(vec![0; calls.len().div_ceil(64)]), None, 0)];
    while let Some((done, value, ended)) = open.pop() {
        if ended == certain {
            return Verdict::Linearizable;
        }
        if looked.len() == COMBINATIONS_MAX {
            return Verdict::Undecided;
        }
        if !looked.insert((done.clone(), value)) {
            continue;
        }
        let left = || calls.iter().enumerate().filter(|(index, _)| !done.has(*index));
        // Whatever is next began before everything else that is left had ended.
        let first_end = left().filter_map(|(_, happened)| happened.ended).min().unwrap_or(u64::MAX);
        let next: Vec<_> = left().filter(|(_, happened)| happened.began < first_end).collect();
        for (index, happened) in &next {
            // One that may not have happened has happened only where what follows at once tells.
            let tells = |result| next.iter().any(|(_, other)| other.call.tells_of(result));
            if happened.ended.is_none()
                && step(happened.call, value).is_none_or(|result| result == value || !tells(result))
            {
                continue;
            }
            if let Some(value) = step(happened.call, value) {
                open.push((done.with(*index), value, ended + usize::from(happened.ended.is_some())));
            }
        }
    }
    Verdict::Impossible
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(call: Call, began: u64, ended: impl Into<Option<u64>>) -> Happened {
        Happened { call, began, ended: ended.into() }
    }

    #[test]
    fn what_could_have_happened_is_found() {
        let good = [
            happened(Call::Pin(1), 1, 4),
            happened(Call::Read(None), 2, 3),
            happened(Call::Read(Some(1)), 5, 6),
            happened(Call::Pin(2), 7, None),
            happened(Call::Read(Some(1)), 8, 9),
            happened(Call::Unpin(Some(Some(2))), 10, 11),
            happened(Call::Read(None), 12, 13),
        ];
        assert_eq!(check(&good), Verdict::Linearizable);
        assert_eq!(check(&[]), Verdict::Linearizable);
        let expired = [
            happened(Call::Pin(1), 1, 2),
            happened(Call::Expire(1), 1, None),
            happened(Call::Read(None), 3, 4),
        ];
        assert_eq!(check(&expired), Verdict::Linearizable);
        let instead = [
            happened(Call::Pin(1), 1, 2),
            happened(Call::Pin(2), 3, None),
            happened(Call::Expire(2), 3, None),
            happened(Call::Read(None), 4, 5),
        ];
        assert_eq!(check(&instead), Verdict::Linearizable);
    }

    #[test]
    fn what_could_not_have_happened_is_found() {
        let stale = [happened(Call::Pin(1), 1, 2), happened(Call::Read(None), 3, 4)];
        let lost =
            [happened(Call::Pin(1), 1, 2), happened(Call::Pin(2), 3, 4), happened(Call::Read(Some(1)), 5, 6)];
        let twice = [
            happened(Call::Pin(1), 1, 2),
            happened(Call::Unpin(Some(Some(1))), 3, 4),
            happened(Call::Read(Some(1)), 5, 6),
        ];
        let backwards = [
            happened(Call::Pin(1), 1, None),
            happened(Call::Read(Some(1)), 2, 3),
            happened(Call::Read(None), 4, 5),
        ];
        let another_expired = [
            happened(Call::Pin(1), 1, 2),
            happened(Call::Expire(1), 1, None),
            happened(Call::Pin(2), 3, 4),
            happened(Call::Read(None), 5, 6),
        ];
        for bad in [&stale[..], &lost, &twice, &backwards, &another_expired] {
            assert_eq!(check(bad), Verdict::Impossible, "{bad:?}");
        }
    }

    #[test]
    fn many_writes_that_nobody_knows_of_are_no_trouble() {
        let unknown = (0..200).map(|name| happened(Call::Pin(name), name, None));
        let unpins = (0..12).map(|number| happened(Call::Unpin(None), number, None));
        let mut history: Vec<_> = unknown.chain(unpins).collect();
        for name in 0..60 {
            let began = 1_000 + 10 * name;
            history.push(happened(Call::Read(Some(name)), began, began + 1));
        }
        assert_eq!(check(&history), Verdict::Linearizable);
    }
}
