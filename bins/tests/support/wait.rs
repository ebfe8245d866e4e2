//! Waiting for facts.

use std::time::{Duration, Instant};

/// Longer than anything takes, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a fact.
#[track_caller]
pub(crate) fn wait_until(fact: &str, mut holds: impl FnMut() -> bool) {
    wait_until_seen(fact, || if holds() { Ok(()) } else { Err(()) });
}

/// Waits for a fact, and says what was seen last instead if it never comes.
#[track_caller]
pub(crate) fn wait_until_seen<T, E: std::fmt::Debug>(
    fact: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() >= PATIENCE => {
                panic!("waited {PATIENCE:?} in vain until {fact}; seen last: {seen:?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
