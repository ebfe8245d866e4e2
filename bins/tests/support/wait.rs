//! Waiting for facts.

use std::time::{Duration, Instant};

/// Longer than anything takes, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for a fact.
#[track_caller]
pub(crate) fn wait_until(fact: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {fact}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
