//! The configuration that monitors share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigSection, check, duration};
use crate::error::Result;

/// `monitor.pubsubmon` of `service.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MonitorConfig {
    /// How often expired metrics are looked for.
    #[serde(with = "duration")]
    pub check_interval: Duration,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self { check_interval: Duration::from_secs(15) }
    }
}

impl ConfigSection for MonitorConfig {
    const PATH: &'static str = "monitor.pubsubmon";
    const ENV_PREFIX: &'static str = "CLUSTER_PUBSUBMON_";

    fn validate(&self) -> Result<()> {
        check(!self.check_interval.is_zero(), "pubsubmon.check_interval too low")
            .map_err(|error| error.component("monitor"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::testing::{assert_default_reads_back, refusal, section};

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        let text = r#"{"check_interval":"15s"}"#;
        assert_eq!(serde_json::to_string(&MonitorConfig::default()).unwrap(), text);
        assert_default_reads_back::<MonitorConfig>();
        assert_eq!(section::<MonitorConfig>(json!({})), MonitorConfig::default());
        assert_eq!(
            refusal::<MonitorConfig>(json!({"check_interval": "0s"})),
            "pubsubmon.check_interval too low"
        );
    }
}
