//! How much this peer still has to do.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Informer, InformerContext, METRIC_TTL, validate_ttl, weight_of};
use crate::config::{ConfigSection, check, duration, number};
use crate::error::Result;
use crate::types::Metric;

const NAME: &str = "pinqueue";

/// `informer.pinqueue` of `service.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PinQueueConfig {
    /// How long a measurement is true.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
    /// Queues whose lengths divide to the same number by this are alike for allocators; 0 compares exact lengths. A
    /// section without it means 0, not the default.
    #[serde(default, deserialize_with = "number::natural")]
    pub weight_bucket_size: u64,
}

impl Default for PinQueueConfig {
    fn default() -> Self {
        Self { metric_ttl: METRIC_TTL, weight_bucket_size: 100_000 }
    }
}

impl ConfigSection for PinQueueConfig {
    const PATH: &'static str = "informer.pinqueue";
    const ENV_PREFIX: &'static str = "CLUSTER_PINQUEUE_";

    fn validate(&self) -> Result<()> {
        validate_ttl("pinqueue", self.metric_ttl)?;
        check(number::is_natural(self.weight_bucket_size), "pinqueue.WeightBucketSize is invalid")
            .map_err(|error| error.component("informer"))
    }
}

/// Measures the tracker's queues as `pinqueue`; a shorter queue weighs more.
#[derive(Debug)]
pub struct PinQueue {
    config: PinQueueConfig,
    cx: InformerContext,
}

impl PinQueue {
    /// An informer over the context's `queue_length`.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    pub fn new(config: PinQueueConfig, cx: InformerContext) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, cx })
    }
}

#[async_trait]
impl Informer for PinQueue {
    fn name(&self) -> &str {
        NAME
    }

    fn ttl(&self) -> Duration {
        self.config.metric_ttl
    }

    async fn metrics(&self) -> Result<Vec<Metric>> {
        let queued = self.cx.queue_length.read();
        let weight = -weight_of(queued / self.config.weight_bucket_size.max(1));
        Ok(vec![self.cx.metric(NAME, queued, weight, self.config.metric_ttl)])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::testing::{assert_default_reads_back, refusal, section};
    use crate::informer::{Gauge, test_cx};

    #[tokio::test(start_paused = true)]
    async fn the_weight_falls_by_one_with_each_bucket() {
        for (queued, weight_bucket_size, weight) in [
            (42, 0, -42),
            (42, 1, -42),
            (42, 5, -8),
            (4, 5, 0),
            (5, 5, -1),
            (0, 0, 0),
            (u64::MAX, 0, -i64::MAX),
        ] {
            let mut cx = test_cx::cx_without_daemon();
            cx.queue_length = Gauge::new(move || queued);
            let config = PinQueueConfig { weight_bucket_size, ..PinQueueConfig::default() };
            let metrics = PinQueue::new(config, cx).unwrap().metrics().await.unwrap();
            assert_eq!(metrics.len(), 1);
            assert_eq!(
                (metrics[0].name.as_str(), metrics[0].value.clone(), metrics[0].weight),
                ("pinqueue", queued.to_string(), weight),
                "buckets of {weight_bucket_size}"
            );
            assert!(metrics[0].valid && !metrics[0].partitionable);
        }
    }

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        let text = r#"{"metric_ttl":"30s","weight_bucket_size":100000}"#;
        assert_eq!(serde_json::to_string(&PinQueueConfig::default()).unwrap(), text);
        assert_default_reads_back::<PinQueueConfig>();
        assert_eq!(section::<PinQueueConfig>(json!({})).weight_bucket_size, 0);
        for (file, text) in [
            (json!({"metric_ttl": "0s"}), "pinqueue.metric_ttl is invalid"),
            (json!({"weight_bucket_size": -1}), "pinqueue.WeightBucketSize is invalid"),
        ] {
            assert_eq!(refusal::<PinQueueConfig>(file), text);
        }
    }
}
