//! Choices that a seed makes, the same on every machine.

use std::time::Duration;

use crate::random::SplitMix64;

/// Numbers of SplitMix64, and what tests choose by them.
#[derive(Clone, Debug)]
pub struct Random(SplitMix64);

impl Random {
    /// Choices of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    /// Other choices, for another purpose of the same run, so that more choices here change none there.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next()
    }

    /// A number below a bound; 0 below 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The highest numbers are a little rarer, which no test can tell.
        (self.number() % (bound.max(1) as u64)) as usize
    }

    /// A number between two, both included.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True so often in a hundred times.
    pub fn percent(&mut self, times: usize) -> bool {
        self.below(100) < times
    }

    /// A time between two, in whole milliseconds.
    pub fn time(&mut self, least: Duration, most: Duration) -> Duration {
        let milliseconds = |time: Duration| usize::try_from(time.as_millis()).unwrap_or(usize::MAX);
        Duration::from_millis(self.between(milliseconds(least), milliseconds(most)) as u64)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }
}
