//! Informers measure something about a peer; the cluster publishes it as metrics.

mod free_space;
mod num_pins;
mod pin_queue;
mod tags;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::WallClock;
use crate::config::check;
use crate::error::Result;
use crate::ipfs_connector::IpfsConnector;
use crate::types::{Metric, PeerId};

pub use free_space::{DiskMetric, FreeSpace, FreeSpaceConfig};
pub use num_pins::{NumPins, NumPinsConfig};
pub use pin_queue::{PinQueue, PinQueueConfig};
pub use tags::{TAGS_MAX, Tags, TagsConfig};

/// What an informer may need of its peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InformerContext {
    /// The peer that measures.
    pub peer: PeerId,
    /// Its daemon.
    pub ipfs: Arc<dyn IpfsConnector>,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// Operations waiting in the tracker's queues.
    pub queue_length: Gauge,
    /// Entries of the pinset.
    pub pin_count: Gauge,
}

impl InformerContext {
    /// A context; gauges read 0 until they are given.
    pub fn new(peer: PeerId, ipfs: Arc<dyn IpfsConnector>, clock: Arc<dyn WallClock>) -> Self {
        Self { peer, ipfs, clock, queue_length: Gauge::default(), pin_count: Gauge::default() }
    }

    /// A valid metric of this peer, measured now and true for `ttl`. More weight is better. Not partitionable.
    pub fn metric(
        &self,
        name: impl Into<String>,
        value: impl fmt::Display,
        weight: i64,
        ttl: Duration,
    ) -> Metric {
        Metric {
            name: name.into(),
            peer: self.peer,
            value: value.to_string(),
            expire: (self.clock.now() + ttl).unix_nanoseconds(),
            valid: true,
            weight,
            partitionable: false,
            received_at: 0,
        }
    }
}

/// A number that can be read at any time, so that an informer need not know the component it measures.
#[derive(Clone)]
pub struct Gauge(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Gauge {
    /// A gauge over a function that answers at once.
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The value now.
    pub fn read(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Gauge {
    fn default() -> Self {
        Self::new(|| 0)
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gauge({})", self.read())
    }
}

/// How long most metrics are true unless configured otherwise.
const METRIC_TTL: Duration = Duration::from_secs(30);

/// Refuses a time to live that no metric could be used in. `section` is the reference's name of it.
fn validate_ttl(section: &str, ttl: Duration) -> Result<()> {
    check(!ttl.is_zero(), &format!("{section}.metric_ttl is invalid"))
        .map_err(|error| error.component("informer"))
}

/// A number of things as a weight.
fn weight_of(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Measures something, again and again.
#[async_trait]
pub trait Informer: fmt::Debug + Send + Sync + 'static {
    /// What it measures, for logs and task names (`freespace`, `tags`).
    fn name(&self) -> &str;

    /// How long a measurement is true. The cluster measures again after half of it, after a quarter of it when
    /// measuring failed.
    fn ttl(&self) -> Duration;

    /// Measures. An empty list sends nothing. Metrics carry this peer's id and expire after [`Informer::ttl`].
    ///
    /// # Errors
    /// Whatever stood in the way; the cluster then publishes nothing and tries again sooner.
    async fn metrics(&self) -> Result<Vec<Metric>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Informer + ?Sized> Informer for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn ttl(&self) -> Duration {
        (**self).ttl()
    }
    async fn metrics(&self) -> Result<Vec<Metric>> {
        (**self).metrics().await
    }
}

#[cfg(test)]
mod test_cx;
