//! Choices that a seed makes, the same on every machine.

use std::time::Duration;

/// Steele, Lea and Flood's generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Choices of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other choices, for another purpose of the same run, so that more choices here change none there.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
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
