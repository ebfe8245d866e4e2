//! A monitor that sends nothing: for a cluster of one.

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::watch::Watch;
use super::{Monitor, MonitorConfig, MonitorContext, MonitorEvent};
use crate::error::Result;
use crate::types::{Metric, PeerId};

/// Keeps metrics of this peer and of whoever else they are recorded for, and raises alerts.
///
/// Publishing only records: with more than one peer metrics have to travel, which is the work of a
/// [`PubSubMonitor`](super::PubSubMonitor).
///
/// When as many peers are known as can be, those whose metrics all expired and were alerted make room for new ones,
/// the longest gone first.
#[derive(Debug)]
pub struct LocalMonitor {
    watch: Watch,
}

impl LocalMonitor {
    /// A monitor. Its checks run as a task until it is shut down or dropped.
    ///
    /// # Errors
    /// `InvalidInput` naming the key; `Internal` outside of a tokio runtime.
    pub fn new(config: MonitorConfig, cx: MonitorContext) -> Result<Self> {
        Ok(Self { watch: Watch::new(&config, cx.clock)? })
    }

    /// What is kept of one peer under one name, latest first: at most
    /// [`WINDOW_METRICS_MAX`](super::WINDOW_METRICS_MAX).
    pub fn history(&self, name: &str, peer: &PeerId) -> Vec<Metric> {
        self.watch.known.history(name, peer)
    }
}

#[async_trait]
impl Monitor for LocalMonitor {
    async fn publish(&self, metric: Metric) -> Result<()> {
        self.watch.known.record(metric)
    }

    async fn record(&self, metric: Metric) -> Result<()> {
        self.watch.known.record(metric)
    }

    fn latest(&self, name: &str) -> Vec<Metric> {
        self.watch.known.latest(name)
    }

    fn latest_for(&self, name: &str, peer: &PeerId) -> Option<Metric> {
        self.watch.known.latest_for(name, peer)
    }

    fn names(&self) -> Vec<String> {
        self.watch.known.names()
    }

    fn events(&self) -> BoxStream<'static, MonitorEvent> {
        self.watch.events()
    }

    fn forget(&self, peer: &PeerId) {
        self.watch.known.forget(peer);
    }

    async fn shutdown(&self) -> Result<()> {
        self.watch.shutdown().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::{metric, peer};
    use std::sync::Arc;
    use std::time::Duration;

    use futures::StreamExt as _;

    use super::super::{PEERS_MAX, WINDOW_METRICS_MAX};
    use super::*;
    use crate::clock::TokioClock;
    use crate::error::ErrorKind;
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
        let mut events = monitor.events();
        monitor.record(metric("ping", 1, "", 15 * SECOND)).await.unwrap();
        let Some(MonitorEvent::Alert(alert)) = events.next().await else { panic!("no alert") };
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
        let mut events = monitor.events();
        monitor.record(metric("ping", 0, "stays", 1_000 * SECOND)).await.unwrap();
        for number in 1..PEERS_MAX as u32 {
            monitor.record(metric("ping", number, "", i64::from(number))).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let newcomer = |number| metric("ping", number, "new", 1_000 * SECOND);
        let error = monitor.record(newcomer(5_000)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueFull, "expired, but nobody was told yet");

        events.next().await.unwrap();
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
        let (mut events, tasks) = (monitor.events(), monitor.watch.tasks.clone());
        drop(monitor);
        tasks.wait().await;
        assert_eq!(events.next().await, None);
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
