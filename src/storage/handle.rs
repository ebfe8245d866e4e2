//! The open engine behind a store: many use it, one closes it, and closing means that the files are let go of.

use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// How long [`Handle::close`] waits for calls that are still running.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(60);

/// An engine until it is closed.
#[derive(Debug)]
pub(super) struct Handle<T> {
    component: &'static str,
    /// None once closed.
    engine: RwLock<Option<Arc<Held<T>>>>,
    released: Arc<Released>,
}

/// An engine that somebody uses. It is let go of when the last user is done.
#[derive(Debug)]
pub(super) struct Held<T> {
    // Dropped in this order: when the signal goes, the engine is gone.
    engine: T,
    _signal: Signal,
}

impl<T> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.engine
    }
}

#[derive(Debug, Default)]
struct Released {
    done: Mutex<bool>,
    changed: Condvar,
}

#[derive(Debug)]
struct Signal(Arc<Released>);

impl Drop for Signal {
    fn drop(&mut self) {
        *self.0.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

impl<T> Handle<T> {
    pub(super) fn new(engine: T, component: &'static str) -> Self {
        let released = Arc::<Released>::default();
        let held = Held { engine, _signal: Signal(released.clone()) };
        Self { component, engine: RwLock::new(Some(Arc::new(held))), released }
    }

    /// The engine, kept from being let go of for as long as the caller has it.
    ///
    /// # Errors
    /// `ShutDown` after close.
    pub(super) fn get(&self) -> Result<Arc<Held<T>>> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        engine.clone().ok_or_else(|| Error::shut_down(self.component))
    }

    /// Refuses new callers, runs `last`, and returns when running calls are done and the files let go of.
    ///
    /// # Errors
    /// What `last` returns; the files are let go of all the same. `Timeout` when a call ran on for a minute.
    pub(super) fn close(&self, last: impl FnOnce(&T) -> Result<()>) -> Result<()> {
        let taken = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        let result = taken.map_or(Ok(()), |held| last(&held));
        let done = self.released.done.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, _) = self
            .released
            .changed
            .wait_timeout_while(done, CLOSE_WAIT_MAX, |done| !*done)
            .unwrap_or_else(PoisonError::into_inner);
        result?;
        if *done {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Timeout,
            format!("a call is still running {} s after the store was closed", CLOSE_WAIT_MAX.as_secs()),
        )
        .component(self.component))
    }
}

/// What a write is refused with after one that failed, of which only the first says why.
#[cfg(any(feature = "storage-fjall", feature = "storage-redb"))]
pub(super) fn refusal_after(first: &Error) -> Error {
    first.clone().context("nothing more is written until a restart, because an earlier write failed")
}

/// The engine if it has not been let go of.
#[cfg(feature = "storage-fjall")] // The other engine's snapshots need no engine.
pub(super) fn upgrade<T>(held: &std::sync::Weak<Held<T>>, component: &'static str) -> Result<Arc<Held<T>>> {
    held.upgrade().ok_or_else(|| Error::shut_down(component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_waits_for_calls_that_are_running() {
        let handle = Handle::new((), "test");
        let running = handle.get().unwrap();
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| handle.close(|()| Ok(())));
            while handle.get().is_ok() {
                std::thread::yield_now();
            }
            assert!(!closing.is_finished());
            drop(running);
            closing.join().unwrap().unwrap();
        });
        handle.close(|()| panic!("closed twice")).unwrap();
        assert_eq!(handle.get().unwrap_err().kind(), ErrorKind::ShutDown);
    }

    #[test]
    fn a_close_that_fails_lets_go_all_the_same() {
        let handle = Handle::new((), "test");
        let error = handle.close(|()| Err(Error::new(ErrorKind::StorageFull, "full"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        handle.close(|()| Ok(())).unwrap();
    }
}
