//! How many pins there are.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Informer, InformerContext, validate_ttl, weight_of};
use crate::config::{ConfigSection, duration};
use crate::error::Result;
use crate::types::Metric;

const NAME: &str = "numpin";
const NUM_PINS_TTL: Duration = Duration::from_secs(10);

/// `informer.numpin` of `service.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NumPinsConfig {
    /// How long a measurement is true.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
}

impl Default for NumPinsConfig {
    fn default() -> Self {
        Self { metric_ttl: NUM_PINS_TTL }
    }
}

impl ConfigSection for NumPinsConfig {
    const PATH: &'static str = "informer.numpin";
    const ENV_PREFIX: &'static str = "CLUSTER_NUMPIN_";

    fn validate(&self) -> Result<()> {
        // The reference's text names the disk informer here.
        validate_ttl("disk", self.metric_ttl)
    }
}

/// Tells the context's `pin_count` as `numpin`; fewer pins weigh more.
///
/// The reference lists the daemon's pins for this at every turn and gives no weight; this reads a number that is
/// kept anyway.
#[derive(Debug)]
pub struct NumPins {
    config: NumPinsConfig,
    cx: InformerContext,
}

impl NumPins {
    /// An informer over the context's `pin_count`.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    pub fn new(config: NumPinsConfig, cx: InformerContext) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, cx })
    }
}

#[async_trait]
impl Informer for NumPins {
    fn name(&self) -> &str {
        NAME
    }

    fn ttl(&self) -> Duration {
        self.config.metric_ttl
    }

    async fn metrics(&self) -> Result<Vec<Metric>> {
        let pins = self.cx.pin_count.read();
        Ok(vec![self.cx.metric(NAME, pins, -weight_of(pins), self.config.metric_ttl)])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::testing::{assert_default_reads_back, refusal};
    use crate::informer::{Gauge, test_cx};

    #[tokio::test(start_paused = true)]
    async fn the_number_is_read_anew_each_time() {
        let mut cx = test_cx::cx_without_daemon();
        let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(7));
        let read = count.clone();
        cx.pin_count = Gauge::new(move || read.load(std::sync::atomic::Ordering::Relaxed));
        let informer = NumPins::new(NumPinsConfig::default(), cx).unwrap();
        for pins in [7, 0, 1_000_000] {
            count.store(pins, std::sync::atomic::Ordering::Relaxed);
            let metrics = informer.metrics().await.unwrap();
            assert_eq!(
                (metrics[0].name.as_str(), metrics[0].value.clone(), metrics[0].weight),
                ("numpin", pins.to_string(), -weight_of(pins))
            );
            assert_eq!(metrics[0].expires_at(), test_cx::EPOCH + Duration::from_secs(10));
        }
    }

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        assert_default_reads_back::<NumPinsConfig>();
        assert_eq!(refusal::<NumPinsConfig>(json!({"metric_ttl": "0s"})), "disk.metric_ttl is invalid");
    }
}
