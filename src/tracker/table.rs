//! The operations in hand: one for each CID, the queues they wait in, and their numbers. No I/O and no clock of its
//! own; the owner holds it under one lock.
//!
//! A long queue of pins is not remembered as a whole: beyond a bound, pins that were never tried are only counted, the
//! backlog. They are what the pinset wants, the daemon lacks and no operation works on, so whoever owns the table finds
//! them again when the queue gets short.
//!
//! Two operations never work on one CID at a time: one that replaces a running one waits outside the queues until
//! that one has stopped.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::TrackerCounts;
use super::key::CidKey;
use super::operation::{Decision, Kind, Phase, decide, status};
use super::queue::{PriorityRule, QUEUE_FULL, Queue};
use crate::types::{Pin, Timestamp, TrackerStatus};

/// Failed pins remembered. One that fails beyond this is forgotten at once: the daemon lacks it, so it shows as
/// `unexpectedly_unpinned` and recover retries it all the same. Failed unpins are always remembered, because nothing
/// else knows of them.
pub(crate) const FAILED_PINS_MAX: u64 = 1_000_000;

/// One operation, in 40 bytes.
#[derive(Clone, Debug)]
struct Operation {
    /// Names this operation among all; grows with every new or failed one.
    ticket: u64,
    since_unix_nanoseconds: i64,
    failure: Option<Arc<str>>,
    attempts: u16,
    kind: Kind,
    phase: Phase,
    priority: bool,
    /// It replaced an unpin, so what the daemon still holds in another mode may go.
    unpin_first: bool,
}

/// An operation that somebody works on, or that was told to stop.
#[derive(Debug)]
struct Running {
    ticket: u64,
    cancel: CancellationToken,
    /// What is being pinned, once it was read.
    pin: Option<Arc<Pin>>,
}

/// What an operation shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) ticket: u64,
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    pub(crate) since: Timestamp,
    pub(crate) failure: Option<Arc<str>>,
    pub(crate) attempts: u32,
    pub(crate) priority: bool,
}

impl View {
    pub(crate) fn status(&self) -> TrackerStatus {
        status(self.kind, self.phase)
    }
}

impl From<&Operation> for View {
    fn from(operation: &Operation) -> Self {
        Self {
            ticket: operation.ticket,
            kind: operation.kind,
            phase: operation.phase,
            since: Timestamp::from_unix_nanoseconds(operation.since_unix_nanoseconds),
            failure: operation.failure.clone(),
            attempts: u32::from(operation.attempts),
            priority: operation.priority,
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requested {
    /// There is a new operation, or the old one has another name.
    Changed,
    /// What was there will do.
    Kept,
    /// So many wait that it is only counted.
    Backlog,
    /// No room: the operation is in error.
    Full,
}

/// An operation whose turn came.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) key: CidKey,
    pub(crate) ticket: u64,
    pub(crate) kind: Kind,
    pub(crate) unpin_first: bool,
    pub(crate) cancel: CancellationToken,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is done, was stopped, or has nothing left to do.
    Done,
    /// It is in error.
    Failed(Arc<str>),
    /// It could not be tried: it waits again.
    Waits,
}

/// Which workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Pin,
    Unpin,
}

#[derive(Debug)]
pub(crate) struct Table {
    by_cid: BTreeMap<CidKey, Operation>,
    running: BTreeMap<CidKey, Running>,
    priority: Queue,
    normal: Queue,
    unpin: Queue,
    rule: PriorityRule,
    /// Pins that either queue remembers before more become part of the backlog.
    remembered_max: usize,
    /// About how many pins wait that no operation is remembered for.
    backlog: u64,
    counts: TrackerCounts,
    last_ticket: u64,
    /// One text for all, because there may be millions.
    queue_full: Arc<str>,
}

impl Table {
    pub(crate) fn new(queue_items_max: usize, remembered_max: usize, rule: PriorityRule) -> Self {
        Self {
            by_cid: BTreeMap::new(),
            running: BTreeMap::new(),
            priority: Queue::new(queue_items_max),
            normal: Queue::new(queue_items_max),
            unpin: Queue::new(queue_items_max),
            rule,
            remembered_max,
            backlog: 0,
            counts: TrackerCounts::default(),
            last_ticket: 0,
            queue_full: QUEUE_FULL.into(),
        }
    }

    pub(crate) const fn counts(&self) -> TrackerCounts {
        let counts = self.counts;
        TrackerCounts { pin_queued: counts.pin_queued + self.backlog, ..counts }
    }

    pub(crate) const fn has_backlog(&self) -> bool {
        self.backlog > 0
    }

    /// Whether the backlog should be looked for: the queues are getting short. Not while failed pins are being forgotten,
    /// which look the same: they would be tried without end.
    pub(crate) fn wants_refill(&self) -> bool {
        self.backlog > 0
            && self.priority.len() + self.normal.len() <= self.remembered_max / 2
            && self.counts.pin_error < FAILED_PINS_MAX
    }

    /// Takes a pin of the backlog into its queue, if there is room. Whoever calls has seen that no operation works on it.
    pub(crate) fn refill(&mut self, key: &CidKey, pin: Option<&Pin>, now: Timestamp) -> bool {
        let priority = self.rule.applies(pin.and_then(|pin| pin.timestamp), 0, now);
        let has_room = self.queue_of(Kind::Pin, priority).len() < self.remembered_max;
        has_room && self.request(key, Kind::Pin, pin, now) == Requested::Changed
    }

    /// How many pins of the backlog are left.
    pub(crate) fn set_backlog(&mut self, pins: u64) {
        self.backlog = pins;
    }

    pub(crate) const fn backlog(&self) -> u64 {
        self.backlog
    }

    /// The newest ticket: what failed by now has this one or an older one.
    pub(crate) const fn last_ticket(&self) -> u64 {
        self.last_ticket
    }

    pub(crate) fn get(&self, key: &CidKey) -> Option<View> {
        self.by_cid.get(key).map(View::from)
    }

    /// Whether anybody works on this CID, or still has to stop.
    pub(crate) fn is_running(&self, key: &CidKey) -> bool {
        self.running.contains_key(key)
    }

    /// Up to `limit` operations in CID order: after one key, up to and including another.
    pub(crate) fn range(
        &self,
        after: Option<&CidKey>,
        upto: Option<&CidKey>,
        limit: usize,
    ) -> Vec<(CidKey, View)> {
        if let (Some(after), Some(upto)) = (after, upto)
            && after >= upto
        {
            return Vec::new();
        }
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let upper = upto.map_or(Bound::Unbounded, Bound::Included);
        let range = self.by_cid.range::<CidKey, _>((lower, upper));
        range.take(limit).map(|(key, operation)| (key.clone(), operation.into())).collect()
    }

    /// Asks for an operation. `pin` is the entry as it is now, for a pin.
    pub(crate) fn request(
        &mut self,
        key: &CidKey,
        wanted: Kind,
        pin: Option<&Pin>,
        now: Timestamp,
    ) -> Requested {
        let existing = self.by_cid.get(key);
        let outdated = existing.is_some_and(|operation| self.is_outdated(key, operation.ticket, pin));
        let (carry_attempts, cancel) =
            match decide(existing.map(|operation| (operation.kind, operation.phase)), wanted, outdated) {
                Decision::Keep => return Requested::Kept,
                Decision::Convert => {
                    // Both kinds wait in one queue and count as one.
                    if let Some(operation) = self.by_cid.get_mut(key) {
                        operation.kind = wanted;
                    }
                    return Requested::Changed;
                }
                Decision::Replace { carry_attempts, cancel } => (carry_attempts, cancel),
            };
        if existing.is_none() && wanted == Kind::Pin && !self.running.contains_key(key) {
            let priority = self.rule.applies(pin.and_then(|pin| pin.timestamp), 0, now);
            let queue = self.queue_of(wanted, priority);
            let (queued, items_max) = (queue.len(), queue.items_max());
            if queued >= self.remembered_max && (queued as u64 + self.backlog) < items_max as u64 {
                self.backlog += 1;
                return Requested::Backlog;
            }
        }
        if cancel && let Some(running) = self.running.get(key) {
            running.cancel.cancel();
        }
        let old = self.forget(key);
        let is_known = old.is_some();
        let attempts = old.as_ref().filter(|_| carry_attempts).map_or(0, |old| old.attempts);
        let unpin_first = wanted == Kind::Pin && old.is_some_and(|old| old.kind.unpins() || old.unpin_first);
        let priority = wanted == Kind::Pin
            && self.rule.applies(pin.and_then(|pin| pin.timestamp), u32::from(attempts), now);
        self.last_ticket += 1;
        let operation = Operation {
            ticket: self.last_ticket,
            since_unix_nanoseconds: now.unix_nanoseconds(),
            failure: None,
            attempts,
            kind: wanted,
            phase: Phase::Queued,
            priority,
            unpin_first,
        };
        let is_too_long = self.queue_of(wanted, priority).len() >= self.remembered_max && !is_known;
        if self.queue_of(wanted, priority).is_full() || (wanted == Kind::Pin && is_too_long) {
            let failure = Arc::clone(&self.queue_full);
            self.fail(key.clone(), operation, failure, now);
            return Requested::Full;
        }
        if !self.running.contains_key(key) {
            self.queue_of(wanted, priority).push(operation.ticket, key.clone());
        }
        self.remember(key.clone(), operation);
        Requested::Changed
    }

    /// Gives the next operation to a worker: priority pins first, then the others, each in order of request.
    pub(crate) fn start_next(
        &mut self,
        lane: Lane,
        now: Timestamp,
        parent: &CancellationToken,
    ) -> Option<Started> {
        let (ticket, key) = match lane {
            Lane::Pin => self.priority.pop().or_else(|| self.normal.pop())?,
            Lane::Unpin => self.unpin.pop()?,
        };
        // What is queued is remembered, and with this ticket: both change together.
        let mut operation = self.forget(&key)?;
        operation.phase = Phase::InProgress;
        operation.attempts = operation.attempts.saturating_add(1);
        operation.since_unix_nanoseconds = now.unix_nanoseconds();
        let cancel = parent.child_token();
        let (kind, unpin_first) = (operation.kind, operation.unpin_first);
        self.running.insert(key.clone(), Running { ticket, cancel: cancel.clone(), pin: None });
        self.remember(key.clone(), operation);
        Some(Started { key, ticket, kind, unpin_first, cancel })
    }

    /// Whether anything waits for a worker.
    pub(crate) fn has_waiting(&self, lane: Lane) -> bool {
        match lane {
            Lane::Pin => !self.priority.is_empty() || !self.normal.is_empty(),
            Lane::Unpin => !self.unpin.is_empty(),
        }
    }

    /// Notes what a running operation pins, so that a request for something else can restart it.
    pub(crate) fn set_running_pin(&mut self, key: &CidKey, ticket: u64, pin: Arc<Pin>) {
        if let Some(running) = self.running.get_mut(key).filter(|running| running.ticket == ticket) {
            running.pin = Some(pin);
        }
    }

    /// A worker is through with an operation, or stopped. Whether nothing replaced it meanwhile; what did may start
    /// now.
    pub(crate) fn finish(&mut self, key: &CidKey, ticket: u64, ending: Ending, now: Timestamp) -> bool {
        self.running.remove(key);
        let Some(operation) = self.by_cid.get(key) else { return false };
        if operation.ticket != ticket {
            if operation.phase == Phase::Queued {
                // It took its place in the bound when it was requested; so few stand aside that one more fits.
                let (kind, priority, ticket) = (operation.kind, operation.priority, operation.ticket);
                self.queue_of(kind, priority).push(ticket, key.clone());
            }
            return false;
        }
        match (self.forget(key), ending) {
            (Some(operation), Ending::Failed(failure)) => self.fail(key.clone(), operation, failure, now),
            (Some(operation), Ending::Waits) => self.wait_again(key.clone(), operation, now),
            (_, Ending::Done) | (None, _) => {}
        }
        true
    }

    /// Puts an operation that could not be tried behind all others, and behind those that go first: what does not fit
    /// must not keep away what does. As what replaces a running one, it finds room beyond the bound.
    fn wait_again(&mut self, key: CidKey, mut operation: Operation, now: Timestamp) {
        self.last_ticket += 1;
        operation.ticket = self.last_ticket;
        operation.phase = Phase::Queued;
        operation.priority = false;
        operation.attempts = operation.attempts.saturating_sub(1);
        operation.since_unix_nanoseconds = now.unix_nanoseconds();
        self.queue_of(operation.kind, false).push(operation.ticket, key.clone());
        self.remember(key, operation);
    }

    /// Forgets a failed operation, if it is still this one.
    pub(crate) fn drop_failed(&mut self, key: &CidKey, ticket: u64) -> bool {
        let is_this = |operation: &Operation| operation.ticket == ticket && operation.phase == Phase::Failed;
        self.by_cid.get(key).is_some_and(is_this) && self.forget(key).is_some()
    }

    fn is_outdated(&self, key: &CidKey, ticket: u64, pin: Option<&Pin>) -> bool {
        let running = self.running.get(key).filter(|running| running.ticket == ticket);
        match (running.and_then(|running| running.pin.as_ref()), pin) {
            (Some(running), Some(wanted)) => {
                running.max_depth != wanted.max_depth || running.options.origins != wanted.options.origins
            }
            _ => false,
        }
    }

    fn fail(&mut self, key: CidKey, mut operation: Operation, failure: Arc<str>, now: Timestamp) {
        if operation.kind == Kind::Pin && self.counts.pin_error >= FAILED_PINS_MAX {
            return;
        }
        self.last_ticket += 1;
        operation.ticket = self.last_ticket;
        operation.phase = Phase::Failed;
        operation.failure = Some(failure);
        operation.since_unix_nanoseconds = now.unix_nanoseconds();
        self.remember(key, operation);
    }

    fn remember(&mut self, key: CidKey, operation: Operation) {
        *self.count_of(operation.kind, operation.phase) += 1;
        self.by_cid.insert(key, operation);
    }

    fn forget(&mut self, key: &CidKey) -> Option<Operation> {
        let operation = self.by_cid.remove(key)?;
        *self.count_of(operation.kind, operation.phase) -= 1;
        if operation.phase == Phase::Queued {
            self.queue_of(operation.kind, operation.priority).remove(operation.ticket);
        }
        Some(operation)
    }

    fn queue_of(&mut self, kind: Kind, priority: bool) -> &mut Queue {
        match (kind, priority) {
            (Kind::Pin, true) => &mut self.priority,
            (Kind::Pin, false) => &mut self.normal,
            (Kind::Unpin | Kind::Remote, _) => &mut self.unpin,
        }
    }

    fn count_of(&mut self, kind: Kind, phase: Phase) -> &mut u64 {
        match (kind.unpins(), phase) {
            (false, Phase::Queued) => &mut self.counts.pin_queued,
            (false, Phase::InProgress) => &mut self.counts.pinning,
            (false, Phase::Failed) => &mut self.counts.pin_error,
            (true, Phase::Queued) => &mut self.counts.unpin_queued,
            (true, Phase::InProgress) => &mut self.counts.unpinning,
            (true, Phase::Failed) => &mut self.counts.unpin_error,
        }
    }
}

#[cfg(test)]
mod tests;
