//! How fast bytes are taken.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Time that was not used is lost but for so much.
const CREDIT: Duration = Duration::from_millis(10);
/// Waits that are shorter add up first: timers are not finer.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// So many bytes a second, of all that share it.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When all that was taken so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    /// 0 is no limit.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, paid: Mutex::default() }
    }

    /// Returns when so many more may be taken.
    pub(super) async fn keep(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let now = Instant::now();
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let from = paid.map_or(now, |paid| if paid + CREDIT < now { now - CREDIT } else { paid });
            let until = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            *paid = Some(until);
            until
        };
        if until > now + WAIT_MIN {
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_bytes_a_second_are_taken_and_pauses_are_not_made_up_for() {
        let pace = Pace::new(1_000_000);
        for _ in 0..2 {
            let start = Instant::now();
            for _ in 0..1_000 {
                pace.keep(1_000).await;
            }
            let taken = start.elapsed();
            assert!(taken > Duration::from_millis(985) && taken < Duration::from_millis(1_005), "{taken:?}");
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        let start = Instant::now();
        Pace::new(0).keep(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
