//! Disk use of the daemon: what is free, or what is used.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Informer, InformerContext, METRIC_TTL, validate_ttl, weight_of};
use crate::config::{ConfigSection, duration};
use crate::error::{Error, Result};
use crate::types::Metric;

/// Which side of the disk is measured; also the name of the metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskMetric {
    /// `freespace`: bytes left before the daemon's limit, more is better.
    #[default]
    FreeSpace,
    /// `reposize`: bytes used, less is better.
    RepoSize,
}

impl DiskMetric {
    /// The name in configuration and of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FreeSpace => "freespace",
            Self::RepoSize => "reposize",
        }
    }
}

impl fmt::Display for DiskMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DiskMetric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "freespace" => Ok(Self::FreeSpace),
            "reposize" => Ok(Self::RepoSize),
            _ => Err(Error::invalid_input(format!(
                "disk.metric_type is invalid: {text:?}, expected freespace or reposize"
            ))
            .component("informer")),
        }
    }
}

impl Serialize for DiskMetric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for DiskMetric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// `informer.disk` of `service.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FreeSpaceConfig {
    /// How long a measurement is true.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
    /// What is measured.
    pub metric_type: DiskMetric,
}

impl Default for FreeSpaceConfig {
    fn default() -> Self {
        Self { metric_ttl: METRIC_TTL, metric_type: DiskMetric::FreeSpace }
    }
}

impl ConfigSection for FreeSpaceConfig {
    const PATH: &'static str = "informer.disk";
    const ENV_PREFIX: &'static str = "CLUSTER_DISK_";

    fn validate(&self) -> Result<()> {
        validate_ttl("disk", self.metric_ttl)
    }
}

/// Measures the daemon's disk: `freespace` weighs its bytes, `reposize` the negative of its bytes.
///
/// A daemon without free space sends no metric, so that it gets no new pins. A daemon that cannot be asked is an
/// error.
#[derive(Debug)]
pub struct FreeSpace {
    config: FreeSpaceConfig,
    cx: InformerContext,
    /// Whether somebody was told already.
    full: AtomicBool,
}

impl FreeSpace {
    /// An informer.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    pub fn new(config: FreeSpaceConfig, cx: InformerContext) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, cx, full: AtomicBool::new(false) })
    }
}

#[async_trait]
impl Informer for FreeSpace {
    fn name(&self) -> &str {
        self.config.metric_type.as_str()
    }

    fn ttl(&self) -> Duration {
        self.config.metric_ttl
    }

    async fn metrics(&self) -> Result<Vec<Metric>> {
        let stat = self.cx.ipfs.repo_stat().await?;
        let (value, weight) = match self.config.metric_type {
            DiskMetric::RepoSize => (stat.repo_size, -weight_of(stat.repo_size)),
            DiskMetric::FreeSpace => {
                let free = stat.free_bytes();
                let full = free == 0;
                if full && !self.full.swap(full, Ordering::Relaxed) {
                    tracing::warn!(
                        used = stat.repo_size,
                        limit = stat.storage_max,
                        "the ipfs daemon has no free space: this peer gets no new pins by free space until it has, raise Datastore.StorageMax or unpin"
                    );
                }
                if full {
                    return Ok(Vec::new());
                }
                self.full.store(false, Ordering::Relaxed);
                (free, weight_of(free))
            }
        };
        Ok(vec![self.cx.metric(self.name(), value, weight, self.config.metric_ttl)])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::testing::{assert_default_reads_back, refusal};
    use crate::error::ErrorKind;
    use crate::informer::test_cx;
    use crate::types::RepoStat;

    fn informer(metric_type: DiskMetric, stat: Result<RepoStat>) -> FreeSpace {
        FreeSpace::new(FreeSpaceConfig { metric_type, ..FreeSpaceConfig::default() }, test_cx::cx(stat))
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_of_the_disk_gives_its_metric() {
        for (metric_type, repo_size, storage_max, expected) in [
            (DiskMetric::FreeSpace, 2_000, 100_000, Some(("98000", 98_000))),
            (DiskMetric::FreeSpace, 99_999, 100_000, Some(("1", 1))),
            (DiskMetric::FreeSpace, 100_000, 100_000, None),
            (DiskMetric::FreeSpace, 200_000, 100_000, None),
            (DiskMetric::FreeSpace, 0, u64::MAX, Some(("18446744073709551615", i64::MAX))),
            (DiskMetric::RepoSize, 2_000, 100_000, Some(("2000", -2_000))),
            (DiskMetric::RepoSize, 200_000, 100_000, Some(("200000", -200_000))),
            (DiskMetric::RepoSize, 0, 0, Some(("0", 0))),
        ] {
            let metrics =
                informer(metric_type, Ok(RepoStat { repo_size, storage_max })).metrics().await.unwrap();
            let found = metrics.first().map(|metric| (metric.value.as_str(), metric.weight));
            assert_eq!(found, expected, "{metric_type} {repo_size} of {storage_max}");
            for metric in metrics {
                assert_eq!(metric.name, metric_type.as_str());
                assert!(metric.valid && !metric.partitionable);
                assert_eq!(metric.expires_at(), test_cx::EPOCH + Duration::from_secs(30));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_does_not_answer_is_an_error_and_not_an_empty_disk() {
        let down = Error::new(ErrorKind::Unavailable, "no answer");
        for metric_type in [DiskMetric::FreeSpace, DiskMetric::RepoSize] {
            let error = informer(metric_type, Err(down.clone())).metrics().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
    }

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        let text = r#"{"metric_ttl":"30s","metric_type":"freespace"}"#;
        assert_eq!(serde_json::to_string(&FreeSpaceConfig::default()).unwrap(), text);
        assert_default_reads_back::<FreeSpaceConfig>();
        let text = refusal::<FreeSpaceConfig>(json!({"metric_type": "size"}));
        assert!(
            text.contains("disk.metric_type is invalid") && text.contains("freespace or reposize"),
            "{text}"
        );
        assert_eq!(refusal::<FreeSpaceConfig>(json!({"metric_ttl": "0s"})), "disk.metric_ttl is invalid");
    }
}
