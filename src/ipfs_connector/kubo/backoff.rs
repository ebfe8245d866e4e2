//! Sparing a daemon that is down: after many failed connections in a row, one request a second until one succeeds.

use std::time::Duration;

use tokio::time::Instant;

/// Failed connections in a row that are still nothing special.
const FAILURES_FREE: u32 = 10;
/// Time between requests while the daemon is down.
const PAUSE: Duration = Duration::from_secs(1);
/// Who would have to wait longer for its turn is told at once that the daemon is down.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// When a request may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    /// Then, or as soon as a request succeeds.
    At(Instant),
    /// Too many wait already.
    Refused,
}

/// The state machine; it knows no clock but what it is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    next: Option<Instant>,
}

impl Backoff {
    /// Takes a turn.
    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        if !self.is_limiting() {
            return Turn::Now;
        }
        let at = self.next.map_or(now, |next| next.max(now));
        if at.saturating_duration_since(now) > WAIT_MAX {
            return Turn::Refused;
        }
        self.next = Some(at + PAUSE);
        if at == now { Turn::Now } else { Turn::At(at) }
    }

    pub(super) fn on_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn on_success(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_limiting(&self) -> bool {
        self.failures > FAILURES_FREE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_limited_after_the_eleventh_failure_until_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..FAILURES_FREE {
            backoff.on_failure();
            assert_eq!(backoff.turn(now), Turn::Now);
        }
        backoff.on_failure();
        assert_eq!(backoff.turn(now), Turn::Now);
        for second in 1..=10 {
            assert_eq!(backoff.turn(now), Turn::At(now + second * PAUSE));
        }
        assert_eq!(backoff.turn(now), Turn::Refused);
        assert_eq!(backoff.turn(now + PAUSE), Turn::At(now + 11 * PAUSE));
        assert_eq!(backoff.turn(now + 20 * PAUSE), Turn::Now);
        backoff.on_success();
        for _ in 0..5 {
            assert_eq!(backoff.turn(now), Turn::Now);
        }
    }
}
