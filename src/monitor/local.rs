//! A monitor that sends nothing: for a cluster of one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::failure::Failures;
use super::window::Windows;
use super::{Monitor, MonitorConfig, MonitorContext};
use crate::clock::WallClock;
use crate::config::ConfigSection as _;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Alert, Metric, PeerId};

/// Alerts that wait for a slow reader; the oldest are dropped.
pub const ALERTS_BUFFERED_MAX: usize = 256;

const COMPONENT: &str = "monitor";

/// Keeps metrics of this peer and of whoever else they are recorded for, and raises alerts.
///
/// Publishing only records: with more than one peer, metrics have to travel, which is the work of a monitor over
/// the context's transport.
///
/// When as many peers are known as can be, those whose metrics all expired and were alerted make room for new ones,
/// the longest gone first.
#[derive(Debug)]
pub struct LocalMonitor {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Inner {
    known: Mutex<Known>,
    clock: Arc<dyn WallClock>,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Known {
    windows: Windows,
    failures: Failures,
    /// Nobody is gone, as of the last look; looking again before the next check would find nobody either.
    nobody_gone: bool,
    /// None after the shutdown, which ends the streams.
    alerts: Option<broadcast::Sender<Alert>>,
}

impl LocalMonitor {
    /// A monitor. Its checks run as a task until it is shut down or dropped.
    ///
    /// # Errors
    /// `InvalidInput` naming the key; `Internal` outside of a tokio runtime.
    pub fn new(config: MonitorConfig, cx: MonitorContext) -> Result<Self> {
        config.validate()?;
        let runtime = Handle::try_current().map_err(|source| {
            Error::internal("a monitor needs a tokio runtime to run its checks")
                .component(COMPONENT)
                .with_source(source)
        })?;
        let inner = Arc::new(Inner {
            known: Mutex::new(Known {
                windows: Windows::default(),
                failures: Failures::default(),
                nobody_gone: false,
                alerts: Some(broadcast::channel(ALERTS_BUFFERED_MAX).0),
            }),
            clock: cx.clock,
            cancel: CancellationToken::new(),
        });
        let tasks = TaskTracker::new();
        tasks.spawn_on(check_until_cancelled(inner.clone(), config.check_interval), &runtime);
        tasks.close();
        Ok(Self { tasks, _stop: inner.cancel.clone().drop_guard(), inner })
    }

    /// What is kept of one peer under one name, latest first: at most
    /// [`WINDOW_METRICS_MAX`](super::WINDOW_METRICS_MAX).
    pub fn history(&self, name: &str, peer: &PeerId) -> Vec<Metric> {
        self.inner.known().windows.history(name, peer)
    }
}

async fn check_until_cancelled(inner: Arc<Inner>, every: Duration) {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = inner.cancel.cancelled() => return,
            _ = ticks.tick() => inner.check(),
        }
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics half way through a change of it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) {
        let now = self.clock.now();
        let mut known = self.known();
        let Known { windows, failures, alerts, nobody_gone } = &mut *known;
        *nobody_gone = false;
        for alert in failures.check(windows.all_latest(), now) {
            tracing::warn!(metric = alert.metric.name, peer = %alert.metric.peer, "metric expired");
            if let Some(alerts) = alerts {
                // Nobody listening is fine.
                let _ = alerts.send(alert);
            }
        }
    }

    fn record(&self, mut metric: Metric) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::shut_down(COMPONENT));
        }
        let now = self.clock.now();
        metric.received_at = now.unix_nanoseconds();
        let mut known = self.known();
        known.failures.received(&metric, now);
        loop {
            match known.windows.add(metric.clone()) {
                Err(error) if error.kind() == ErrorKind::QueueFull && known.forget_one_gone() => {}
                result => return result,
            }
        }
    }
}

impl Known {
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

#[async_trait]
impl Monitor for LocalMonitor {
    async fn publish(&self, metric: Metric) -> Result<()> {
        self.inner.record(metric)
    }

    async fn record(&self, metric: Metric) -> Result<()> {
        self.inner.record(metric)
    }

    fn latest(&self, name: &str) -> Vec<Metric> {
        self.inner.known().windows.usable(name, self.inner.clock.now())
    }

    fn latest_for(&self, name: &str, peer: &PeerId) -> Option<Metric> {
        self.inner.known().windows.latest_for(name, peer).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.inner.known().windows.names()
    }

    fn alerts(&self) -> BoxStream<'static, Alert> {
        let Some(receiver) = self.inner.known().alerts.as_ref().map(broadcast::Sender::subscribe) else {
            return stream::empty().boxed();
        };
        let next = |mut receiver: broadcast::Receiver<Alert>| async move {
            loop {
                match receiver.recv().await {
                    Ok(alert) => return Some((alert, receiver)),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "alerts dropped for a slow reader")
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        };
        stream::unfold(receiver, next).boxed()
    }

    fn forget(&self, peer: &PeerId) {
        self.inner.known().forget(peer);
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.cancel.cancel();
        self.inner.known().alerts = None;
        self.tasks.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::{metric, peer};
    use super::super::{PEERS_MAX, WINDOW_METRICS_MAX};
    use super::*;
    use crate::clock::TokioClock;
    use crate::transport::MemoryNetwork;
    use crate::types::Timestamp;

    const SECOND: i64 = 1_000_000_000;

    fn monitor() -> LocalMonitor {
        let transport = MemoryNetwork::new(0).join(peer(0)).unwrap();
        let clock = Arc::new(TokioClock::starting_at(Timestamp::UNIX_EPOCH));
        let cx = MonitorContext::new(peer(0), Arc::new(transport), clock);
        LocalMonitor::new(MonitorConfig::default(), cx).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_alert_comes_with_the_first_check_after_the_expiry() {
        let monitor = monitor();
        let mut alerts = monitor.alerts();
        monitor.record(metric("ping", 1, "", 15 * SECOND)).await.unwrap();
        let alert = alerts.next().await.unwrap();
        assert_eq!(alert.triggered_at, Timestamp::from_unix_seconds(30), "not expired at the check at 15 s");
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_keeps_the_last_25() {
        let monitor = monitor();
        for number in 0..50 {
            monitor.publish(metric("ping", 1, &number.to_string(), SECOND)).await.unwrap();
        }
        let history = monitor.history("ping", &peer(1));
        assert_eq!(history.len(), WINDOW_METRICS_MAX);
        assert_eq!(history[0].value, "49");
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_are_gone_make_room_after_their_alert_and_others_never() {
        let monitor = monitor();
        let mut alerts = monitor.alerts();
        monitor.record(metric("ping", 0, "stays", 1_000 * SECOND)).await.unwrap();
        for number in 1..PEERS_MAX as u32 {
            monitor.record(metric("ping", number, "", i64::from(number))).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let newcomer = |number| metric("ping", number, "new", 1_000 * SECOND);
        let error = monitor.record(newcomer(5_000)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueFull, "expired, but nobody was told yet");

        alerts.next().await.unwrap();
        for number in 5_000..5_000 + PEERS_MAX as u32 - 1 {
            monitor.record(newcomer(number)).await.unwrap();
        }
        assert_eq!(monitor.record(newcomer(9_000)).await.unwrap_err().kind(), ErrorKind::QueueFull);
        assert_eq!(monitor.latest("ping").len(), PEERS_MAX);
        assert_eq!(monitor.latest("ping")[0].value, "stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_is_dropped_ends_its_checks_and_streams() {
        let monitor = monitor();
        let (mut alerts, tasks) = (monitor.alerts(), monitor.tasks.clone());
        drop(monitor);
        tasks.wait().await;
        assert_eq!(alerts.next().await, None);
    }

    #[test]
    fn outside_of_a_runtime_it_says_what_it_needs() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cx = runtime.block_on(async {
            let transport = MemoryNetwork::new(0).join(peer(0)).unwrap();
            MonitorContext::new(peer(0), Arc::new(transport), Arc::new(crate::clock::SystemClock))
        });
        let error = LocalMonitor::new(MonitorConfig::default(), cx).unwrap_err();
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    }
}
