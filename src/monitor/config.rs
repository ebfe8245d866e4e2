//! The configuration that monitors share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigSection, duration};
use crate::error::{Error, Result};

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
        if self.check_interval.is_zero() {
            return Err(Error::invalid_input(
                "pubsubmon.check_interval too low: it must be more than 0s, for example \"15s\"",
            )
            .component("monitor"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        let text = r#"{"check_interval":"15s"}"#;
        assert_eq!(serde_json::to_string(&MonitorConfig::default()).unwrap(), text);
        assert_eq!(serde_json::from_str::<MonitorConfig>("{}").unwrap(), MonitorConfig::default());
        let zero: MonitorConfig = serde_json::from_str(r#"{"check_interval":"0s"}"#).unwrap();
        assert!(zero.validate().unwrap_err().to_string().starts_with("pubsubmon.check_interval too low"));
    }
}
