//! Tasks of a component, which end with it.

use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::{Error, Result};

/// Runs tasks, each of which is dropped when all of them are stopped.
///
/// A handle: clones have the same tasks.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    cancel: CancellationToken,
    running: TaskTracker,
}

impl Tasks {
    /// None yet.
    pub(crate) fn on(runtime: Handle) -> Self {
        Self { runtime, cancel: CancellationToken::new(), running: TaskTracker::new() }
    }

    /// None yet; they run where this is called.
    ///
    /// # Errors
    /// `Internal` outside of a tokio runtime, naming who needs it for what.
    pub(crate) fn here(needed: &str, component: &'static str) -> Result<Self> {
        let runtime = Handle::try_current()
            .map_err(|source| Error::internal(needed).component(component).with_source(source))?;
        Ok(Self::on(runtime))
    }

    /// Runs a task until it ends, or all are stopped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        let task = async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = task => {}
            }
        };
        self.running.spawn_on(task, &self.runtime);
    }

    /// Something that runs elsewhere counts as a task until this is dropped.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.running.token()
    }

    /// Stops all, without waiting for them.
    pub(crate) fn stop(&self) {
        self.cancel.cancel();
        self.running.close();
    }

    /// Stops all when it is dropped.
    pub(crate) fn drop_guard(&self) -> DropGuard {
        self.cancel.clone().drop_guard()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// # Errors
    /// `ShutDown` once they were stopped.
    pub(crate) fn ensure_running(&self, component: &'static str) -> Result<()> {
        if self.is_stopped() { Err(Error::shut_down(component)) } else { Ok(()) }
    }

    /// Returns once they were stopped.
    pub(crate) async fn stopped(&self) {
        self.cancel.cancelled().await;
    }

    /// Returns once they were stopped and have ended.
    pub(crate) async fn ended(&self) {
        self.stopped().await;
        self.running.close();
        self.running.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_drops_the_tasks_and_what_runs_elsewhere_is_waited_for() {
        let tasks = Tasks::here("a test needs a tokio runtime", "test").unwrap();
        let held = Arc::new(());
        let of_task = held.clone();
        tasks.spawn(async move {
            std::future::pending::<()>().await;
            drop(of_task);
        });
        let elsewhere = tasks.token();
        tokio::task::yield_now().await;
        assert!(tasks.ensure_running("test").is_ok() && Arc::strong_count(&held) == 2);
        drop(tasks.drop_guard());
        assert_eq!(tasks.ensure_running("test").unwrap_err().kind(), crate::ErrorKind::ShutDown);
        assert!(tokio::time::timeout(Duration::from_secs(60), tasks.ended()).await.is_err());
        assert_eq!(Arc::strong_count(&held), 1);
        drop(elsewhere);
        tasks.ended().await;
    }

    #[test]
    fn outside_of_a_runtime_it_says_who_needs_one() {
        let error = Tasks::here("an exchange needs a tokio runtime", "test").unwrap_err();
        assert!(error.to_string().contains("an exchange needs a tokio runtime"), "{error}");
    }
}
