//! Metrics over gossip, as the reference sends them.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use tracing::{debug, trace};

use super::watch::{COMPONENT, Known, Watch};
use super::{
    METRIC_NAME_BYTES_MAX, METRIC_VALUE_BYTES_MAX, Monitor, MonitorConfig, MonitorContext, MonitorEvent,
};
use crate::error::{Error, Result};
use crate::rpc::{decode_metric, encode_metric};
use crate::transport::{GossipMessage, MessageValidator, PeerTransport, Topic, Verdict};
use crate::types::{Metric, PeerId};

/// The topic that metrics travel on.
pub const METRICS_TOPIC: &str = "monitor.metrics";
/// Longest message that is looked at, in bytes: a name, a value, and room for the rest.
const MESSAGE_BYTES_MAX: usize = METRIC_NAME_BYTES_MAX + METRIC_VALUE_BYTES_MAX + 1024;

/// Tells this peer's metrics to everybody on [`METRICS_TOPIC`], keeps those of all peers, and raises alerts.
///
/// A metric counts only when its peer signed it. A metric that is invalid or expired is recorded here and not sent.
/// What is kept is bounded as in a [`LocalMonitor`](super::LocalMonitor).
#[derive(Debug)]
pub struct PubSubMonitor {
    watch: Watch,
    peer: PeerId,
    transport: Arc<dyn PeerTransport>,
    topic: Topic,
}

/// Lets through what is a metric of its signer.
#[derive(Debug)]
struct OwnMetrics;

impl MessageValidator for OwnMetrics {
    fn validate(&self, signer: &PeerId, data: &[u8]) -> Verdict {
        match metric_of(signer, data) {
            Ok(_) => Verdict::Accept,
            Err(error) => {
                debug!(peer = %signer, %error, "rejected what should be a metric");
                Verdict::Reject
            }
        }
    }
}

/// The metric in a message, where it is one of its signer and within the limits.
fn metric_of(signer: &PeerId, data: &[u8]) -> Result<Metric> {
    let wrong = |text: String| Err(Error::invalid_input(text).component(COMPONENT));
    if data.len() > MESSAGE_BYTES_MAX {
        return wrong(format!("a message of {} bytes, at most {MESSAGE_BYTES_MAX} are possible", data.len()));
    }
    let metric = decode_metric(data)?;
    if metric.peer != *signer {
        return wrong(format!("a metric {:?} of {} signed by {signer}", metric.name, metric.peer));
    }
    super::window::validate(&metric)?;
    Ok(metric)
}

impl PubSubMonitor {
    /// A monitor, which listens from now on. Its tasks run until it is shut down or dropped.
    ///
    /// # Errors
    /// `InvalidInput` naming the key; `Internal` outside of a tokio runtime.
    pub fn new(config: MonitorConfig, cx: MonitorContext) -> Result<Self> {
        let watch = Watch::new(&config, cx.clock)?;
        let topic = Topic::new(METRICS_TOPIC);
        let messages = cx.transport.subscribe(&topic, Arc::new(OwnMetrics));
        watch.spawn(receive(Arc::clone(&watch.known), cx.peer, messages));
        Ok(Self { watch, peer: cx.peer, transport: cx.transport, topic })
    }

    /// What is kept of one peer under one name, latest first: at most
    /// [`WINDOW_METRICS_MAX`](super::WINDOW_METRICS_MAX).
    pub fn history(&self, name: &str, peer: &PeerId) -> Vec<Metric> {
        self.watch.known.history(name, peer)
    }
}

async fn receive(known: Arc<Known>, own: PeerId, mut messages: BoxStream<'static, GossipMessage>) {
    while let Some(GossipMessage { signer, data, .. }) = messages.next().await {
        // Ours were recorded when they were published; some transports give them back and some do not.
        if signer == own {
            continue;
        }
        let recorded = metric_of(&signer, &data).and_then(|metric| known.record(metric));
        if let Err(error) = recorded {
            debug!(peer = %signer, %error, "a metric was not taken in");
        }
    }
    // The transport was shut down; what is known expires by itself.
}

#[async_trait]
impl Monitor for PubSubMonitor {
    /// As the contract says; a metric of another peer is `InvalidInput`, because nobody would believe it.
    async fn publish(&self, metric: Metric) -> Result<()> {
        if metric.peer != self.peer {
            return Err(Error::invalid_input(format!(
                "a metric {:?} of {} cannot be published by {}: record it",
                metric.name, metric.peer, self.peer
            ))
            .component(COMPONENT));
        }
        let known = &self.watch.known;
        // Others decide by this peer's clock whether it expired, within the differences of clocks.
        let message = known.is_usable(&metric).then(|| encode_metric(&metric));
        trace!(metric = metric.name, sent = message.is_some(), "publishing");
        known.record(metric)?;
        match message {
            Some(message) => self.transport.publish(&self.topic, message).await,
            None => Ok(()),
        }
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
    use std::time::Duration;

    use super::super::window::tests::{metric, peer};
    use super::*;
    use crate::clock::TokioClock;
    use crate::transport::{MemoryNetwork, MemoryTransport};
    use crate::types::Timestamp;

    const SECOND: i64 = 1_000_000_000;

    fn monitor(transport: &Arc<MemoryTransport>, clock: &TokioClock) -> PubSubMonitor {
        let peer = transport.local_peer();
        let cx = MonitorContext::new(peer, Arc::clone(transport) as _, Arc::new(*clock));
        PubSubMonitor::new(MonitorConfig::default(), cx).unwrap()
    }

    /// Peers in a row: each is connected to the one before it.
    async fn row(count: u32) -> (MemoryNetwork, Vec<Arc<MemoryTransport>>, Vec<PubSubMonitor>) {
        let network = MemoryNetwork::new(0);
        network.set_delay(Duration::from_millis(10));
        let clock = TokioClock::starting_at(Timestamp::UNIX_EPOCH);
        let transports: Vec<_> =
            (0..count).map(|number| Arc::new(network.join(peer(number)).unwrap())).collect();
        for pair in transports.windows(2) {
            pair[1].connect(&pair[0].listen_addresses()[0]).await.unwrap();
        }
        let monitors = transports.iter().map(|transport| monitor(transport, &clock)).collect();
        (network, transports, monitors)
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_metric_reaches_everybody_and_its_silence_is_alerted_everywhere_again_and_again() {
        let (_network, _transports, monitors) = row(4).await;
        let mut events: Vec<_> = monitors.iter().map(PubSubMonitor::events).collect();
        for _ in 0..2 {
            let now = monitors[0].watch.known.clock_now();
            let ping = metric("ping", 0, "here", now.unix_nanoseconds() + 30 * SECOND);
            monitors[0].publish(ping.clone()).await.unwrap();
            settle().await;
            for monitor in &monitors {
                let known = monitor.latest("ping");
                assert_eq!(known.len(), 1);
                assert_eq!(Metric { received_at: 0, ..known[0].clone() }, ping);
            }
            for events in &mut events {
                let Some(MonitorEvent::Alert(alert)) = events.next().await else { panic!("no alert") };
                assert_eq!((alert.metric.name.as_str(), alert.metric.peer), ("ping", peer(0)));
            }
            assert!(monitors.iter().all(|monitor| monitor.latest("ping").is_empty()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_invalid_or_expired_stays_here() {
        let (_network, _transports, monitors) = row(2).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let invalid = Metric { valid: false, ..metric("invalid", 0, "", 99 * SECOND) };
        for metric in [invalid, metric("expired", 0, "", 5 * SECOND), metric("good", 0, "", 99 * SECOND)] {
            monitors[0].publish(metric).await.unwrap();
        }
        settle().await;
        assert_eq!(monitors[0].names(), ["expired", "good", "invalid"]);
        assert_eq!(monitors[1].names(), ["good"]);
        let foreign = monitors[0].publish(metric("x", 1, "", 99 * SECOND)).await.unwrap_err();
        assert!(foreign.to_string().contains("record it"), "{foreign}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_metric_of_its_signer_goes_no_further() {
        let (_network, transports, monitors) = row(3).await;
        let topic = Topic::new(METRICS_TOPIC);
        let long = "x".repeat(METRIC_VALUE_BYTES_MAX + 1);
        for message in [
            encode_metric(&metric("ping", 7, "", 99 * SECOND)),
            encode_metric(&metric("", 0, "", 99 * SECOND)),
            encode_metric(&metric("long", 0, &long, 99 * SECOND)),
            vec![0xff; 100].into(),
            vec![0; MESSAGE_BYTES_MAX + 1].into(),
            Vec::new().into(),
        ] {
            transports[0].publish(&topic, message).await.unwrap();
        }
        transports[0].publish(&topic, encode_metric(&metric("real", 0, "", 99 * SECOND))).await.unwrap();
        settle().await;
        for monitor in &monitors[1..] {
            assert_eq!(monitor.names(), ["real"]);
            assert_eq!(monitor.latest_for("ping", &peer(7)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_is_dropped_ends_its_tasks() {
        let (_network, _transports, mut monitors) = row(1).await;
        let tasks = monitors[0].watch.tasks.clone();
        monitors.clear();
        tasks.wait().await;
    }
}
