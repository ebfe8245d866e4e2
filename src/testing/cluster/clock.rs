//! A wall clock that follows tokio's time and can be wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::WallClock;
use crate::types::Timestamp;

/// One peer's clock. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct TestClock {
    started: Instant,
    epoch: Timestamp,
    skew_milliseconds: Arc<AtomicI64>,
}

impl TestClock {
    /// A clock that is right, and showed `epoch` at the instant `started`.
    pub fn new(started: Instant, epoch: Timestamp) -> Self {
        Self { started, epoch, skew_milliseconds: Arc::default() }
    }

    /// How far ahead of the right time it is from now on, in milliseconds; behind when negative.
    pub fn set_skew(&self, milliseconds: i64) {
        self.skew_milliseconds.store(milliseconds, Ordering::Relaxed);
    }
}

impl TestClock {
    /// What it would show if it were right.
    pub fn right(&self) -> Timestamp {
        self.epoch + self.started.elapsed()
    }
}

impl WallClock for TestClock {
    fn now(&self) -> Timestamp {
        let right = self.right();
        let skew = self.skew_milliseconds.load(Ordering::Relaxed);
        let distance = Duration::from_millis(skew.unsigned_abs());
        if skew < 0 { right - distance } else { right + distance }
    }
}
