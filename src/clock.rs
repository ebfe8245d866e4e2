//! The wall clock, so that time of day comes in through a contract like everything else outside.
//!
//! Durations and timers use tokio's clock, which tests pause. What is *stored or shown* (pin timestamps,
//! expiry, metric times) comes from a [`WallClock`].

use std::fmt;
use std::sync::Arc;

use crate::types::Timestamp;

/// Tells the time of day.
pub trait WallClock: fmt::Debug + Send + Sync + 'static {
    /// Now. May jump, also backwards, as clocks of machines do.
    fn now(&self) -> Timestamp;
}

impl<T: WallClock + ?Sized> WallClock for Arc<T> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    // The one place that asks the system for the time of day.
    fn now(&self) -> Timestamp {
        Timestamp::from_jiff(jiff::Timestamp::now())
    }
}

/// A clock that starts at a given time and moves with tokio's, so that a paused test also pauses the date.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    started: tokio::time::Instant,
    epoch: Timestamp,
}

impl TokioClock {
    /// A clock that shows `epoch` now.
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self { started: tokio::time::Instant::now(), epoch }
    }
}

impl WallClock for TokioClock {
    fn now(&self) -> Timestamp {
        self.epoch + self.started.elapsed()
    }
}
