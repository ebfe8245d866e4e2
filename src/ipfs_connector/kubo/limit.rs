//! How many pins the daemon can usefully work on at a time.
//!
//! Additive increase, multiplicative decrease, as TCP does it. What is judged is the daemon's **API**: the time to the
//! answer of requests that need no network and hardly a disk, refusals to work (429, 503), and connections that fail.
//! How long a pin takes says nothing: fetching content may rightly take hours, and while it does the daemon can fetch
//! other content just as well.

use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;

/// Where a new connection starts.
const START: usize = 16;
/// A cheap request that takes longer shows that the daemon has enough to do: no more is added.
const LATENCY_GOOD: Duration = Duration::from_millis(500);
/// One that takes longer shows that it has too much to do.
const LATENCY_BAD: Duration = Duration::from_secs(2);
/// Bad answers within this time of a decrease are from before it and do not count again.
const DECREASE_PAUSE: Duration = Duration::from_secs(1);

/// The state machine; it knows no clock but what it is told.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    max: usize,
    limit: usize,
    /// Below this every good answer adds one, so that the limit doubles in each round; above, a whole round does.
    threshold: usize,
    /// Good answers since the last increase above the threshold.
    good: usize,
    decreased_at: Option<Instant>,
}

impl Limit {
    pub(super) fn new(max: NonZeroUsize) -> Self {
        let max = max.get();
        Self { max, limit: START.min(max), threshold: max, good: 0, decreased_at: None }
    }

    /// What the tracker may start.
    pub(super) fn current(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.limit).unwrap_or(NonZeroUsize::MIN)
    }

    /// A cheap request was answered. `running` is how many pins the daemon works on: a limit that is not used says
    /// nothing about the daemon, so it does not grow.
    pub(super) fn on_answer(&mut self, latency: Duration, running: usize, now: Instant) {
        if latency > LATENCY_BAD {
            self.on_overload(running, now);
        } else if latency <= LATENCY_GOOD && self.limit < self.max && running * 2 >= self.limit {
            self.good += 1;
            if self.limit < self.threshold || self.good >= self.limit {
                self.limit += 1;
                self.good = 0;
            }
        }
    }

    /// The daemon said that it has too much to do, or took too long for a cheap request.
    pub(super) fn on_overload(&mut self, running: usize, now: Instant) {
        if self.decreased_at.is_some_and(|at| now.saturating_duration_since(at) < DECREASE_PAUSE) {
            return;
        }
        // Half of what was too much, which is what ran, not what was allowed.
        let used = running.clamp(1, self.limit);
        self.limit = (used / 2).max(1);
        self.threshold = self.limit;
        self.good = 0;
        self.decreased_at = Some(now);
    }

    /// The daemon could not be reached. That is no sign of too much work, so the way back up is the quick one.
    pub(super) fn on_unreachable(&mut self) {
        self.limit = 1;
        self.good = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: usize) -> Limit {
        Limit::new(NonZeroUsize::new(max).unwrap())
    }

    const QUICK: Duration = Duration::from_millis(1);

    /// A round: every running pin asked one cheap question.
    fn round(limit: &mut Limit, latency: Duration, now: Instant) {
        let running = limit.current().get();
        for _ in 0..running {
            limit.on_answer(latency, running, now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_healthy_daemon_gets_the_maximum_within_a_few_rounds() {
        let now = Instant::now();
        for (max, rounds) in [(1, 0), (10, 0), (16, 0), (100, 3), (1_000, 6)] {
            let mut limit = limit(max);
            for _ in 0..rounds {
                round(&mut limit, QUICK, now);
            }
            assert_eq!(limit.current().get(), max, "max {max}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_halve_it_once_a_second_down_to_one() {
        let mut limit = limit(64);
        for _ in 0..3 {
            round(&mut limit, QUICK, Instant::now());
        }
        for expected in [32, 16, 8, 4, 2, 1, 1] {
            tokio::time::advance(DECREASE_PAUSE).await;
            for _ in 0..10 {
                limit.on_answer(LATENCY_BAD + QUICK, limit.current().get(), Instant::now());
            }
            assert_eq!(limit.current().get(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_overload_it_grows_by_one_a_round() {
        let mut limit = limit(64);
        limit.on_overload(16, Instant::now());
        assert_eq!(limit.current().get(), 8);
        for expected in 9..=64 {
            round(&mut limit, QUICK, Instant::now());
            assert_eq!(limit.current().get(), expected);
        }
        round(&mut limit, QUICK, Instant::now());
        assert_eq!(limit.current().get(), 64, "never above the maximum");
    }

    #[tokio::test(start_paused = true)]
    async fn neither_busy_answers_nor_an_unused_limit_change_it() {
        let now = Instant::now();
        let mut limit = limit(64);
        round(&mut limit, LATENCY_GOOD + QUICK, now);
        round(&mut limit, LATENCY_BAD, now);
        for _ in 0..100 {
            limit.on_answer(QUICK, 7, now);
        }
        assert_eq!(limit.current().get(), START);
    }

    #[tokio::test(start_paused = true)]
    async fn overload_halves_what_ran_not_what_was_allowed() {
        let mut limit = limit(1_000);
        for _ in 0..6 {
            round(&mut limit, QUICK, Instant::now());
        }
        limit.on_overload(10, Instant::now());
        assert_eq!(limit.current().get(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_comes_back_is_used_fully_again_soon() {
        let mut limit = limit(64);
        for _ in 0..3 {
            round(&mut limit, QUICK, Instant::now());
        }
        limit.on_unreachable();
        assert_eq!(limit.current().get(), 1);
        for _ in 0..6 {
            round(&mut limit, QUICK, Instant::now());
        }
        assert_eq!(limit.current().get(), 64);
    }
}
