//! What monitors have in common: the metrics that are known, and a task that looks for those that stopped coming.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::failure::Failures;
use super::window::Windows;
use super::{MonitorConfig, MonitorEvent};
use crate::clock::WallClock;
use crate::config::ConfigSection as _;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Alert, Metric, PeerId};

/// Alerts that wait for a slow reader; the oldest are dropped.
pub const ALERTS_BUFFERED_MAX: usize = 256;

pub(super) const COMPONENT: &str = "monitor";

/// Metrics of all peers, with alerts when they expire. Its tasks end when it is shut down or dropped.
///
/// When as many peers are known as can be, those whose metrics all expired and were alerted make room for new ones,
/// the longest gone first.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) known: Arc<Known>,
    runtime: Handle,
    pub(super) tasks: TaskTracker,
    _stop: DropGuard,
}

/// What the handle and the tasks of a [`Watch`] share.
#[derive(Debug)]
pub(super) struct Known {
    metrics: Mutex<Metrics>,
    clock: Arc<dyn WallClock>,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Metrics {
    windows: Windows,
    failures: Failures,
    /// Nobody is gone, as of the last look; looking again before the next check would find nobody either.
    nobody_gone: bool,
    /// None after the shutdown, which ends the streams.
    alerts: Option<broadcast::Sender<Alert>>,
}

impl Watch {
    /// Begins to look for expired metrics.
    ///
    /// # Errors
    /// `InvalidInput` naming the key; `Internal` outside of a tokio runtime.
    pub(super) fn new(config: &MonitorConfig, clock: Arc<dyn WallClock>) -> Result<Self> {
        config.validate()?;
        let runtime = Handle::try_current().map_err(|source| {
            Error::internal("a monitor needs a tokio runtime to run its checks")
                .component(COMPONENT)
                .with_source(source)
        })?;
        let known = Arc::new(Known {
            metrics: Mutex::new(Metrics {
                windows: Windows::default(),
                failures: Failures::default(),
                nobody_gone: false,
                alerts: Some(broadcast::channel(ALERTS_BUFFERED_MAX).0),
            }),
            clock,
            cancel: CancellationToken::new(),
        });
        let watch = Self {
            runtime,
            tasks: TaskTracker::new(),
            _stop: known.cancel.clone().drop_guard(),
            known: Arc::clone(&known),
        };
        watch.tasks.close();
        watch.spawn(check_forever(known, config.check_interval));
        Ok(watch)
    }

    /// Runs until it ends by itself, or until the shutdown.
    pub(super) fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.known.cancel.clone();
        let run = async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = run => {}
            }
        };
        self.tasks.spawn_on(run, &self.runtime);
    }

    /// What happens from now on; nothing once it is shut down.
    pub(super) fn events(&self) -> BoxStream<'static, MonitorEvent> {
        let Some(receiver) = self.known.metrics().alerts.as_ref().map(broadcast::Sender::subscribe) else {
            return stream::empty().boxed();
        };
        let next = |mut receiver: broadcast::Receiver<Alert>| async move {
            match receiver.recv().await {
                Ok(alert) => Some((MonitorEvent::Alert(alert), receiver)),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "alerts dropped for a slow reader");
                    Some((MonitorEvent::Resync, receiver))
                }
                Err(RecvError::Closed) => None,
            }
        };
        stream::unfold(receiver, next).boxed()
    }

    /// Ends the tasks and the streams of alerts, and returns when they have ended.
    pub(super) async fn shutdown(&self) {
        self.known.cancel.cancel();
        self.known.metrics().alerts = None;
        self.tasks.wait().await;
    }
}

async fn check_forever(known: Arc<Known>, every: Duration) {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        known.check();
    }
}

impl Known {
    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        // Nothing panics half way through a change of it.
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) {
        let now = self.clock.now();
        let mut metrics = self.metrics();
        let Metrics { windows, failures, alerts, nobody_gone } = &mut *metrics;
        *nobody_gone = false;
        for alert in failures.check(windows.all_latest(), now) {
            tracing::debug!(metric = alert.metric.name, peer = %alert.metric.peer, "metric expired");
            if let Some(alerts) = alerts {
                // Nobody listening is fine.
                let _ = alerts.send(alert);
            }
        }
    }

    /// Refuses after the shutdown.
    pub(super) fn ensure_running(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::shut_down(COMPONENT)) } else { Ok(()) }
    }

    /// Takes a metric in, and notes when it came.
    pub(super) fn record(&self, mut metric: Metric) -> Result<()> {
        self.ensure_running()?;
        let now = self.clock.now();
        metric.received_at = now.unix_nanoseconds();
        let mut metrics = self.metrics();
        metrics.failures.received(&metric, now);
        loop {
            match metrics.windows.add(metric.clone()) {
                Err(error) if error.kind() == ErrorKind::QueueFull && metrics.forget_one_gone() => {}
                result => return result,
            }
        }
    }

    /// Whether a metric is valid and not expired now.
    pub(super) fn is_usable(&self, metric: &Metric) -> bool {
        metric.is_usable(self.clock.now())
    }

    #[cfg(test)]
    pub(super) fn clock_now(&self) -> crate::types::Timestamp {
        self.clock.now()
    }

    pub(super) fn latest(&self, name: &str) -> Vec<Metric> {
        self.metrics().windows.usable(name, self.clock.now())
    }

    pub(super) fn latest_for(&self, name: &str, peer: &PeerId) -> Option<Metric> {
        self.metrics().windows.latest_for(name, peer).cloned()
    }

    pub(super) fn history(&self, name: &str, peer: &PeerId) -> Vec<Metric> {
        self.metrics().windows.history(name, peer)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metrics().windows.names()
    }

    pub(super) fn forget(&self, peer: &PeerId) {
        self.metrics().forget(peer);
    }
}

impl Metrics {
    /// Makes room, if there is somebody who was alerted for everything.
    fn forget_one_gone(&mut self) -> bool {
        if self.nobody_gone {
            return false;
        }
        let gone = self.windows.longest_gone(|metric| self.failures.has_alerted(metric));
        match gone {
            Some(peer) => self.forget(&peer),
            None => self.nobody_gone = true,
        }
        gone.is_some()
    }

    fn forget(&mut self, peer: &PeerId) {
        self.windows.forget(peer);
        self.failures.forget(peer);
    }
}
