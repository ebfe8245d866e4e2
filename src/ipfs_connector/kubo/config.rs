//! The section `ipfs_connector.ipfshttp`.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::KuboAddress;
use crate::config::{ConfigSection, check, duration, number};
use crate::error::{Error, Result};

/// Where the daemon is and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KuboConfig {
    /// The RPC API of the daemon.
    pub node_multiaddress: KuboAddress,
    /// How long after its start a peer connects its daemon to the other peers' daemons; zero is never.
    #[serde(with = "duration")]
    pub connect_swarms_delay: Duration,
    /// How long short requests may take as a whole, and how long a listing may give nothing.
    #[serde(with = "duration")]
    pub ipfs_request_timeout: Duration,
    /// How long a pin may make no progress.
    #[serde(with = "duration")]
    pub pin_timeout: Duration,
    /// How long an unpin may take.
    #[serde(with = "duration")]
    pub unpin_timeout: Duration,
    /// How long garbage collection may take.
    #[serde(with = "duration")]
    pub repogc_timeout: Duration,
    /// After so many pins and adds the peer sends its metrics at once; zero is never.
    #[serde(deserialize_with = "number::natural")]
    pub informer_trigger_interval: u64,
    /// Whether unpinning is refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unpin_disable: bool,
    /// The most that `pin_concurrency` answers. Not in the file: whoever starts a peer takes it from
    /// `pin_tracker.stateless.concurrent_pins`.
    #[serde(skip, default = "default_concurrent_pins_max")]
    pub concurrent_pins_max: NonZeroUsize,
}

/// High enough for the tracker's own limit to decide.
const CONCURRENT_PINS_MAX_DEFAULT: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();

const fn default_concurrent_pins_max() -> NonZeroUsize {
    CONCURRENT_PINS_MAX_DEFAULT
}

impl KuboConfig {
    /// The defaults, for the daemon at an address.
    pub fn at(node_multiaddress: KuboAddress) -> Self {
        Self {
            node_multiaddress,
            connect_swarms_delay: Duration::from_secs(30),
            ipfs_request_timeout: Duration::from_secs(5 * 60),
            pin_timeout: Duration::from_secs(2 * 60),
            unpin_timeout: Duration::from_secs(3 * 60 * 60),
            repogc_timeout: Duration::from_secs(24 * 60 * 60),
            informer_trigger_interval: 0,
            unpin_disable: false,
            concurrent_pins_max: CONCURRENT_PINS_MAX_DEFAULT,
        }
    }
}

impl Default for KuboConfig {
    fn default() -> Self {
        Self::at(KuboAddress::local_default())
    }
}

impl ConfigSection for KuboConfig {
    const PATH: &'static str = "ipfs_connector.ipfshttp";
    const ENV_PREFIX: &'static str = "CLUSTER_IPFSHTTP_";
    const REQUIRED_KEYS: &'static [&'static str] = &["node_multiaddress"];

    fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("ipfs_request_timeout", self.ipfs_request_timeout),
            ("pin_timeout", self.pin_timeout),
            ("unpin_timeout", self.unpin_timeout),
            ("repogc_timeout", self.repogc_timeout),
        ] {
            if value.is_zero() {
                return Err(Error::invalid_input(format!(
                    "ipfshttp.{key} invalid: it must be longer than 0s"
                )));
            }
        }
        check(
            number::is_natural(self.informer_trigger_interval),
            "ipfshttp.informer_trigger_interval is invalid",
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::testing::{assert_default_reads_back, changed, refusal, section};

    #[test]
    fn the_defaults_are_written_as_the_reference_writes_them() {
        let text = serde_json::to_string(&KuboConfig::default()).unwrap();
        assert_eq!(
            text,
            "{\"node_multiaddress\":\"/ip4/127.0.0.1/tcp/5001\",\"connect_swarms_delay\":\"30s\",\
             \"ipfs_request_timeout\":\"5m0s\",\"pin_timeout\":\"2m0s\",\"unpin_timeout\":\"3h0m0s\",\
             \"repogc_timeout\":\"24h0m0s\",\"informer_trigger_interval\":0}"
        );
        assert_default_reads_back::<KuboConfig>();
        let file = json!({"node_multiaddress": "/ip4/127.0.0.1/tcp/5001"});
        assert_eq!(section::<KuboConfig>(file), KuboConfig::default());
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_their_key() {
        let refused = |key: &str, value: Value| refusal::<KuboConfig>(changed::<KuboConfig>(key, value));
        assert!(refused("/pin_timeout", json!("0s")).starts_with("ipfshttp.pin_timeout invalid"));
        assert!(refused("/node_multiaddress", json!("/ip4/1.2.3.4")).contains("a tcp port must follow"));
        assert!(refused("/ipfs_request_timeout", json!("soon")).contains("invalid duration"));
        assert_eq!(
            refused("/informer_trigger_interval", json!(-1)),
            "ipfshttp.informer_trigger_interval is invalid"
        );
        for file in [json!({}), json!({"node_multiaddress": ""}), json!({"node_multiaddress": null})] {
            assert_eq!(refusal::<KuboConfig>(file), "ipfshttp.node_multiaddress not set");
        }
        for (wrong, part) in [("x", "\"x\": must begin with /"), ("127.0.0.1:5001", "must begin with /")] {
            let text = refused("/node_multiaddress", json!(wrong));
            assert!(
                text.contains("ipfs_connector.ipfshttp.node_multiaddress: ") && text.contains(part),
                "{text}"
            );
        }
    }
}
