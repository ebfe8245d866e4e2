//! Sharing metrics between peers, and noticing those that stop coming.

mod config;
mod failure;
mod local;
mod pubsub;
mod watch;
mod window;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::clock::WallClock;
use crate::error::Result;
use crate::transport::PeerTransport;
use crate::types::{Alert, Metric, PeerId};

pub use config::MonitorConfig;
pub use local::LocalMonitor;
pub use pubsub::{METRICS_TOPIC, PubSubMonitor};
pub use watch::ALERTS_BUFFERED_MAX;
pub use window::{
    METRIC_NAME_BYTES_MAX, METRIC_VALUE_BYTES_MAX, NAMES_MAX, PEERS_MAX, SERIES_MAX, WINDOW_BYTES_MAX,
    WINDOW_METRICS_MAX,
};

/// What a monitor may need of its peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MonitorContext {
    /// This peer.
    pub peer: PeerId,
    /// How it reaches the others.
    pub transport: Arc<dyn PeerTransport>,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
}

impl MonitorContext {
    /// A context.
    pub fn new(peer: PeerId, transport: Arc<dyn PeerTransport>, clock: Arc<dyn WallClock>) -> Self {
        Self { peer, transport, clock }
    }
}

/// What a monitor tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorEvent {
    /// A metric of a peer stopped coming.
    Alert(Alert),
    /// Alerts were dropped, because the reader was too slow: look at [`Monitor::latest`] for who is still there.
    Resync,
}

/// Metrics of all peers.
#[async_trait]
pub trait Monitor: fmt::Debug + Send + Sync + 'static {
    /// Sends a metric of ours to everybody, this peer included. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidInput` for a metric without a name or over the size limits, `QueueFull` when as many peers or names
    /// are known as can be, `ShutDown`.
    async fn publish(&self, metric: Metric) -> Result<()>;

    /// Takes a metric in without sending it, and notes when it came. The last one taken in is the latest, whatever its
    /// expiry says.
    ///
    /// # Errors
    /// As [`Monitor::publish`].
    async fn record(&self, metric: Metric) -> Result<()>;

    /// The latest metric of each peer under a name, only those that are valid and not expired, in order of peers.
    /// An unknown name is an empty list.
    fn latest(&self, name: &str) -> Vec<Metric>;

    /// The latest metric of one peer, valid or not, expired or not.
    fn latest_for(&self, name: &str, peer: &PeerId) -> Option<Metric>;

    /// Names of all metrics seen, in order.
    fn names(&self) -> Vec<String>;

    /// Alerts from now on: one for each peer and name when its latest metric expires, and none again until a
    /// valid one came. Bounded; the oldest are dropped for a slow reader, who gets [`MonitorEvent::Resync`] in their
    /// place.
    fn events(&self) -> BoxStream<'static, MonitorEvent>;

    /// Forgets a peer, which then raises no alert.
    fn forget(&self, peer: &PeerId);

    /// Stops. Idempotent; publish and record after it are `ShutDown`, and streams of events end.
    async fn shutdown(&self) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Monitor + ?Sized> Monitor for Arc<T> {
    async fn publish(&self, metric: Metric) -> Result<()> {
        (**self).publish(metric).await
    }
    async fn record(&self, metric: Metric) -> Result<()> {
        (**self).record(metric).await
    }
    fn latest(&self, name: &str) -> Vec<Metric> {
        (**self).latest(name)
    }
    fn latest_for(&self, name: &str, peer: &PeerId) -> Option<Metric> {
        (**self).latest_for(name, peer)
    }
    fn names(&self) -> Vec<String> {
        (**self).names()
    }
    fn events(&self) -> BoxStream<'static, MonitorEvent> {
        (**self).events()
    }
    fn forget(&self, peer: &PeerId) {
        (**self).forget(peer);
    }
    async fn shutdown(&self) -> Result<()> {
        (**self).shutdown().await
    }
}
