//! Whether the daemon has room for pins, and when one of them is tried to find out. Pure; the owner says the time.
//!
//! | what is known | pins that start |
//! |---|---|
//! | nothing, or there is room | as many as may |
//! | there is no room | one at a time, at growing intervals: if that one fits, all go on |

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Between two tries: first, and at most, doubling in between.
pub(crate) const PROBE_FIRST: Duration = Duration::from_secs(30);
pub(crate) const PROBE_MAX: Duration = Duration::from_secs(10 * 60);
/// Room that lasts so long was room: then the intervals begin anew. Less was a small pin that still found a gap.
const LASTING: Duration = PROBE_MAX;

/// What the end of a pin says of the daemon's room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is none, and how the daemon says so.
    Full(Arc<str>),
    /// It is not what was missing.
    Room,
    /// It ended for another reason.
    Nothing,
}

/// What may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permit {
    All,
    /// One, of which [`Space::probe_starts`] is told.
    Probe,
    None,
}

/// What changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Began,
    /// It lasted so long.
    Over(Duration),
}

#[derive(Debug)]
struct Full {
    reason: Arc<str>,
    since: Instant,
    /// When the last try began, or the pin ended that found out.
    tried: Instant,
    probe: Probe,
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    Due(Instant),
    /// The operation of this ticket.
    Runs(u64),
}

#[derive(Debug)]
pub(crate) struct Space {
    full: Option<Full>,
    /// How long until the next try when one fails.
    wait: Duration,
    /// When there was room again.
    room_since: Option<Instant>,
}

impl Space {
    pub(crate) const fn new() -> Self {
        Self { full: None, wait: PROBE_FIRST, room_since: None }
    }

    /// How the daemon said that it has no room, while it has none.
    pub(crate) fn reason(&self) -> Option<&Arc<str>> {
        self.full.as_ref().map(|full| &full.reason)
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.full.is_some()
    }

    pub(crate) fn permit(&self, now: Instant) -> Permit {
        match self.full.as_ref().map(|full| full.probe) {
            None => Permit::All,
            Some(Probe::Due(at)) if at <= now => Permit::Probe,
            Some(Probe::Due(_) | Probe::Runs(_)) => Permit::None,
        }
    }

    /// When a pin may start that may not now; none when that depends on a try that runs.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        match self.full.as_ref()?.probe {
            Probe::Due(at) => Some(at),
            Probe::Runs(_) => None,
        }
    }

    pub(crate) fn probe_starts(&mut self, ticket: u64, now: Instant) {
        if let Some(full) = &mut self.full {
            full.probe = Probe::Runs(ticket);
            full.tried = now;
        }
    }

    /// A pin ended, or was stopped.
    pub(crate) fn pin_ended(&mut self, ticket: u64, verdict: Verdict, now: Instant) -> Change {
        let Some(full) = &mut self.full else {
            let Verdict::Full(reason) = verdict else { return Change::None };
            let lasted = self.room_since.is_none_or(|since| now.saturating_duration_since(since) >= LASTING);
            self.wait = if lasted { PROBE_FIRST } else { (self.wait * 2).min(PROBE_MAX) };
            let probe = Probe::Due(now + self.wait);
            self.full = Some(Full { reason, since: now, tried: now, probe });
            return Change::Began;
        };
        // Others began while there was room. What became of those says less than a try made since: the first that found
        // no gap in a full disk and the small one that just did end in any order.
        if !matches!(full.probe, Probe::Runs(probe) if probe == ticket) {
            return Change::None;
        }
        match verdict {
            Verdict::Full(reason) => {
                self.wait = (self.wait * 2).min(PROBE_MAX);
                full.reason = reason;
                full.probe = Probe::Due(now + self.wait);
                Change::None
            }
            Verdict::Nothing => {
                full.probe = Probe::Due(now);
                Change::None
            }
            Verdict::Room => {
                let lasted = now.saturating_duration_since(full.since);
                self.full = None;
                self.room_since = Some(now);
                Change::Over(lasted)
            }
        }
    }

    /// Somebody wants to know at once. Whether anything waits for that.
    pub(crate) fn probe_now(&mut self, now: Instant) -> bool {
        self.probe_at(now)
    }

    /// Something was removed: a try is worth it, though not after each of many removals.
    pub(crate) fn freed(&mut self, now: Instant) -> bool {
        let earliest = self.full.as_ref().map_or(now, |full| full.tried + PROBE_FIRST);
        self.probe_at(earliest.max(now))
    }

    fn probe_at(&mut self, at: Instant) -> bool {
        let Some(Full { probe: Probe::Due(due), .. }) = &mut self.full else { return false };
        *due = at.min(*due);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Verdict {
        Verdict::Full("no space left on device".into())
    }

    async fn pass(time: Duration) -> Instant {
        tokio::time::advance(time).await;
        Instant::now()
    }

    /// Starts the try that must be due.
    fn probe(space: &mut Space, ticket: u64) {
        assert_eq!(space.permit(Instant::now()), Permit::Probe);
        space.probe_starts(ticket, Instant::now());
        assert_eq!((space.permit(Instant::now()), space.next_probe()), (Permit::None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn while_there_is_no_room_one_pin_is_tried_at_growing_intervals() {
        let mut space = Space::new();
        assert_eq!(space.permit(Instant::now()), Permit::All);
        assert_eq!(space.pin_ended(1, Verdict::Room, Instant::now()), Change::None);
        assert_eq!(space.pin_ended(2, full(), Instant::now()), Change::Began);
        for (ticket, wait) in [30u64, 60, 120, 240, 480, 600, 600].into_iter().enumerate() {
            let (ticket, wait) = (ticket as u64 + 10, Duration::from_secs(wait));
            assert_eq!(space.next_probe(), Some(Instant::now() + wait));
            assert_eq!(space.permit(pass(wait - Duration::from_secs(1)).await), Permit::None);
            pass(Duration::from_secs(1)).await;
            probe(&mut space, ticket);
            assert_eq!(space.pin_ended(ticket, full(), Instant::now()), Change::None);
        }
        pass(PROBE_MAX).await;
        probe(&mut space, 99);
        let lasted = Duration::from_secs(30 + 60 + 120 + 240 + 480 + 600 + 600 + 600);
        assert_eq!(space.pin_ended(99, Verdict::Room, Instant::now()), Change::Over(lasted));
        assert_eq!((space.permit(Instant::now()), space.reason()), (Permit::All, None));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_try_decides_while_there_is_no_room() {
        let mut space = Space::new();
        space.pin_ended(1, full(), Instant::now());
        // They began before.
        for verdict in [Verdict::Room, full(), Verdict::Nothing] {
            assert_eq!(space.pin_ended(2, verdict, Instant::now()), Change::None);
        }
        assert_eq!(space.next_probe(), Some(Instant::now() + PROBE_FIRST));
        pass(PROBE_FIRST).await;
        probe(&mut space, 3);
        assert_eq!(space.pin_ended(4, Verdict::Room, Instant::now()), Change::None);
        // One that says nothing is followed by another.
        assert_eq!(space.pin_ended(3, Verdict::Nothing, Instant::now()), Change::None);
        probe(&mut space, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_does_not_last_does_not_shorten_the_intervals() {
        let mut space = Space::new();
        space.pin_ended(1, full(), Instant::now());
        for (since_room, expected) in [(1, 60), (599, 120), (600, 30), (0, 60)] {
            space.probe_now(Instant::now());
            probe(&mut space, 2);
            space.pin_ended(2, Verdict::Room, Instant::now());
            pass(Duration::from_secs(since_room)).await;
            assert_eq!(space.pin_ended(3, full(), Instant::now()), Change::Began);
            assert_eq!(space.next_probe(), Some(Instant::now() + Duration::from_secs(expected)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_gets_a_try_at_once_and_many_removals_get_one() {
        let mut space = Space::new();
        assert!(!space.probe_now(Instant::now()) && !space.freed(Instant::now()), "nothing waits");
        space.pin_ended(1, full(), Instant::now());
        let found_out = Instant::now();
        for second in 0..5 {
            assert!(space.freed(pass(Duration::from_secs(1)).await));
            assert_eq!(space.next_probe(), Some(found_out + PROBE_FIRST), "{second}");
        }
        assert!(space.probe_now(Instant::now()));
        probe(&mut space, 2);
        assert!(!space.freed(Instant::now()) && !space.probe_now(Instant::now()), "one runs");
        space.pin_ended(2, full(), Instant::now());
        let later = pass(PROBE_FIRST).await;
        assert!(space.freed(later));
        assert_eq!(space.permit(later), Permit::Probe, "the last try is long enough ago");
    }
}
