//! What is known of the daemon's health, and what follows from it: when requests may go out, how many pins it can take,
//! whether it is up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::{Backoff, Turn};
use super::limit::Limit;
use crate::error::{Error, Result};
use crate::ipfs_connector::{Availability, PinProgress};
use crate::types::Cid;

#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
    /// None until the first request ended.
    availability: watch::Sender<Option<Availability>>,
    /// Whether requests have to wait for their turn; who waits goes on when it becomes false.
    limiting: watch::Sender<bool>,
    pins_running: AtomicUsize,
    /// The same pins, by number; as many as the tracker starts.
    progress: Mutex<BTreeMap<u64, PinProgress>>,
    pins_begun: AtomicU64,
    probing: AtomicBool,
}

#[derive(Debug)]
struct State {
    backoff: Backoff,
    limit: Limit,
    last_failure: Option<Error>,
}

impl Health {
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            state: Mutex::new(State { backoff: Backoff::default(), limit, last_failure: None }),
            availability: watch::Sender::new(None),
            limiting: watch::Sender::new(false),
            pins_running: AtomicUsize::new(0),
            progress: Mutex::default(),
            pins_begun: AtomicU64::new(0),
            probing: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment, so a poisoned lock guards sound data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a request may go out.
    ///
    /// # Errors
    /// The last connection failure, when too many wait for a daemon that is down.
    pub(super) async fn turn(&self) -> Result<()> {
        if !*self.limiting.borrow() {
            return Ok(());
        }
        let mut limiting = self.limiting.subscribe();
        let at = {
            let mut state = self.state();
            match (state.backoff.turn(Instant::now()), &state.last_failure) {
                (Turn::At(at), _) => at,
                (Turn::Refused, Some(failure)) => return Err(failure.clone()),
                (Turn::Now, _) | (Turn::Refused, None) => return Ok(()),
            }
        };
        tokio::select! {
            biased;
            // The sender lives in `self`.
            _ = limiting.wait_for(|limiting| !limiting) => {}
            () = tokio::time::sleep_until(at) => {}
        }
        Ok(())
    }

    /// The daemon answered; `latency` where the request says something about its load.
    pub(super) fn on_answer(&self, latency: Option<Duration>) {
        let running = self.pins_running.load(Ordering::Relaxed);
        {
            let mut state = self.state();
            if state.last_failure.take().is_some() {
                state.backoff.on_success();
            }
            if let Some(latency) = latency {
                state.limit.on_answer(latency, running, Instant::now());
            }
        }
        self.limiting.send_if_modified(|limiting| std::mem::replace(limiting, false));
        self.availability.send_if_modified(|now| {
            let changes = !matches!(now, Some(Availability::Up));
            *now = Some(Availability::Up);
            changes
        });
    }

    /// The daemon said that it has too much to do.
    pub(super) fn on_overload(&self) {
        let running = self.pins_running.load(Ordering::Relaxed);
        self.state().limit.on_overload(running, Instant::now());
    }

    /// The daemon could not be reached.
    pub(super) fn on_unreachable(&self, error: &Error) {
        let limits = {
            let mut state = self.state();
            state.backoff.on_failure();
            state.limit.on_unreachable();
            state.last_failure = Some(error.clone());
            state.backoff.is_limiting()
        };
        if limits {
            self.limiting.send_if_modified(|limiting| !std::mem::replace(limiting, true));
        }
        self.availability.send_if_modified(|now| {
            let changes = !matches!(now, Some(Availability::Down(_)));
            if changes {
                *now = Some(Availability::Down(error.clone()));
            }
            changes
        });
    }

    pub(super) fn pin_concurrency(&self) -> std::num::NonZeroUsize {
        self.state().limit.current()
    }

    /// Counts a pin for as long as the guard lives.
    pub(super) fn begin_pin(&self, cid: Cid) -> RunningPin<'_> {
        self.pins_running.fetch_add(1, Ordering::Relaxed);
        let number = self.pins_begun.fetch_add(1, Ordering::Relaxed);
        self.progress().insert(number, PinProgress { cid, blocks: 0 });
        RunningPin { health: self, number }
    }

    pub(super) fn pins_in_progress(&self) -> Vec<PinProgress> {
        self.progress().values().copied().collect()
    }

    fn progress(&self) -> MutexGuard<'_, BTreeMap<u64, PinProgress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn availability(&self) -> watch::Receiver<Option<Availability>> {
        self.availability.subscribe()
    }

    pub(super) fn is_known(&self) -> bool {
        self.availability.borrow().is_some()
    }

    /// Whether the caller is the one who may probe; until [`Health::end_probe`] nobody else is.
    pub(super) fn begin_probe(&self) -> bool {
        !self.probing.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_probe(&self) {
        self.probing.store(false, Ordering::Release);
    }
}

pub(super) struct RunningPin<'a> {
    health: &'a Health,
    number: u64,
}

impl RunningPin<'_> {
    /// Notes how many blocks the daemon has.
    pub(super) fn has(&self, blocks: u64) {
        if let Some(pin) = self.health.progress().get_mut(&self.number) {
            pin.blocks = blocks;
        }
    }
}

impl Drop for RunningPin<'_> {
    fn drop(&mut self) {
        self.health.progress().remove(&self.number);
        self.health.pins_running.fetch_sub(1, Ordering::Relaxed);
    }
}
