//! Whether what callers saw of a pin is what they could have seen of one pin in one place: each call looks as if it had
//! happened at one moment between its beginning and its end. Pure.
//!
//! In general that takes a search through all orders. Here every pin has a name of its own, which makes it short: whoever
//! saw a name saw it between the one call that gave it and the next that changed anything. So a pin, all who read its name,
//! and the removal that gave it back belong together, as one `Unit`, and nothing else happened among them. All that is
//! left to tell apart after a unit is whether there is a pin, for those who saw that there is none.

use std::collections::BTreeMap;

/// The name that a pin has; none when it is not there.
pub type Value = Option<u64>;

/// What was asked for, and seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The pin has this name from now on, which no other call gives it; what that gives says nothing.
    Pin(u64),
    /// The same, and it may be gone at any moment at which it still has the name.
    PinThatExpires(u64),
    /// It is gone. What it was, if that is known.
    Unpin(Option<Value>),
    /// It was this.
    Read(Value),
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// What.
    pub call: Call,
    /// When it began. Times of a history are numbers that grow.
    pub began: u64,
    /// When it ended. None where nobody knows whether it happened: then it may at any time, or never, and saw nothing.
    pub ended: Option<u64>,
}

/// What a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order in which it could have happened.
    Linearizable,
    /// There is none.
    Impossible,
}

/// Calls that happened one after the other with nothing in between.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// When the last of them began: nothing that is left may have ended before, when they are next.
    began: u64,
    /// When the first of them ended.
    ended: u64,
    kind: Kind,
}

/// What a unit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Saw that there is no pin.
    Absence,
    /// There is one afterwards, whatever was before.
    Pin,
    /// There is none afterwards, whatever was before.
    Removal,
}

/// Calls about a name.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    /// When it was given.
    pin: Option<Span>,
    expires: bool,
    /// When it was seen.
    seen: Option<Span>,
    /// When it was given back.
    removed: Option<Span>,
}

/// When the last of some calls began, and the first ended.
#[derive(Clone, Copy, Debug)]
struct Span {
    began: u64,
    ended: u64,
}

impl Span {
    fn with(self, other: Self) -> Self {
        Self { began: self.began.max(other.began), ended: self.ended.min(other.ended) }
    }
}

impl Named {
    /// None where they cannot have happened one after the other.
    fn unit(&self) -> Option<Unit> {
        let mut all = self.pin?;
        let mut before = all;
        for next in [self.seen, self.removed].into_iter().flatten() {
            if before.began > next.ended {
                return None;
            }
            (all, before) = (all.with(next), before.with(next));
        }
        // One that expires can always be gone at the end, and more can follow that than the pin.
        let is_gone = self.removed.is_some() || self.expires;
        let kind = if is_gone { Kind::Removal } else { Kind::Pin };
        Some(Unit { began: all.began, ended: all.ended, kind })
    }
}

/// What a history says: units, and the beginnings of removals that may have happened.
struct Told {
    units: Vec<Unit>,
    perhaps: Vec<u64>,
}

/// None where it contradicts itself.
fn told(history: &[Happened]) -> Option<Told> {
    let mut names = BTreeMap::<u64, Named>::new();
    let (mut units, mut perhaps) = (Vec::new(), Vec::new());
    for happened in history {
        let Happened { call, began, ended } = *happened;
        let span = Span { began, ended: ended.unwrap_or(u64::MAX) };
        match (call, ended) {
            (Call::Pin(name) | Call::PinThatExpires(name), _) => {
                let named = names.entry(name).or_default();
                (named.pin, named.expires) = (Some(span), matches!(call, Call::PinThatExpires(_)));
            }
            (Call::Read(_), None) => {}
            (Call::Unpin(_), None) => perhaps.push(began),
            (Call::Read(Some(name)), Some(_)) => {
                let named = names.entry(name).or_default();
                named.seen = Some(named.seen.map_or(span, |seen| seen.with(span)));
            }
            (Call::Unpin(Some(Some(name))), Some(_)) => {
                if names.entry(name).or_default().removed.replace(span).is_some() {
                    return None;
                }
            }
            (Call::Read(None) | Call::Unpin(Some(None)), Some(ended)) => {
                units.push(Unit { began, ended, kind: Kind::Absence });
            }
            (Call::Unpin(None), Some(ended)) => units.push(Unit { began, ended, kind: Kind::Removal }),
        }
    }
    for named in names.into_values() {
        let is_seen = named.seen.is_some() || named.removed.is_some();
        match named.pin {
            // It may as well not have happened; or, where it expires, have been a removal.
            Some(pin) if pin.ended == u64::MAX && !is_seen => {
                perhaps.extend(named.expires.then_some(pin.began));
            }
            _ => units.push(named.unit()?),
        }
    }
    perhaps.sort_unstable();
    Some(Told { units, perhaps })
}

/// Whether a history is linearizable. In the beginning the pin is not there.
///
/// It takes one unit after the other, of those that can be next, and never has to take one back:
///
/// 1. One that saw that there is no pin, where there is none. It changes nothing.
/// 2. One that leaves a pin. Where there is one already, it makes no difference to what follows, since nobody sees its name
///    any more. Where there is none, and later ones saw that, a removal has to come before those; if one can be next, it
///    comes after this pin as well as before it, and if none can, there is nothing else to do.
/// 3. A removal: of several the one that ended first, as any other can take its place later.
/// 4. A removal that may not have happened, where there is a pin.
pub fn check(history: &[Happened]) -> Verdict {
    let Some(Told { units: mut left, perhaps }) = told(history) else { return Verdict::Impossible };
    let mut perhaps = perhaps.into_iter().peekable();
    // Of those that end at the same time, in this order: the one that is next is the first that fits.
    left.sort_by_key(|unit| (unit.kind, unit.ended));
    let mut there = false;
    while !left.is_empty() {
        let mut ends: Vec<u64> = left.iter().map(|unit| unit.ended).collect();
        ends.sort_unstable();
        let can_be_next = |unit: &Unit| {
            let others = if ends[0] == unit.ended { ends.get(1) } else { ends.first() };
            others.is_none_or(|ended| unit.began < *ended)
        };
        let next = left.iter().position(|unit| (unit.kind != Kind::Absence || !there) && can_be_next(unit));
        if let Some(next) = next {
            match left.remove(next).kind {
                Kind::Absence => {}
                Kind::Pin => there = true,
                Kind::Removal => there = false,
            }
        } else if there && perhaps.peek().is_some_and(|began| *began < ends[0]) {
            perhaps.next();
            there = false;
        } else {
            return Verdict::Impossible;
        }
    }
    Verdict::Linearizable
}

#[cfg(test)]
mod tests;
