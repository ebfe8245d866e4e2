//! The section `pin_tracker.stateless`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::COMPONENT;
use crate::config::{ConfigSection, check, duration, number};
use crate::error::Result;

const PIN_QUEUE_SIZE: usize = 1_000_000;
const CONCURRENT_PINS: usize = 10;
const PRIORITY_RETRIES: usize = 5;

/// What a [`StatelessTracker`](super::StatelessTracker) is made from; `pin_tracker.stateless` of `service.json`, where a
/// number that is 0 takes its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatelessConfig {
    /// Most items that wait to be pinned with priority, to be pinned without, and to be unpinned, each.
    #[serde(
        deserialize_with = "number::zero_is::<_, PIN_QUEUE_SIZE>",
        skip_serializing_if = "is_default_queue_size"
    )]
    pub max_pin_queue_size: usize,
    /// Waiting pins that are remembered one by one, of each of the two queues, at about 250 bytes; of more only their number,
    /// and they are found again when their turn is near, in the order of their CIDs. Not in the file.
    #[serde(skip)]
    pub queued_pins_remembered: usize,
    /// Most pins at a time; fewer when [`pin_concurrency`](crate::ipfs_connector::IpfsConnector::pin_concurrency)
    /// says so.
    #[serde(deserialize_with = "number::zero_is::<_, CONCURRENT_PINS>")]
    pub concurrent_pins: usize,
    /// Most unpins at a time. The reference has one; a few hide the round trip, more would only wait for the lock
    /// that daemons keep around their list of pins. Not in the file.
    #[serde(skip)]
    pub concurrent_unpins: usize,
    /// Pins older than this do not go first.
    #[serde(with = "duration")]
    pub priority_pin_max_age: Duration,
    /// Pins tried more often than this do not go first.
    #[serde(deserialize_with = "number::zero_is::<_, PRIORITY_RETRIES>")]
    pub priority_pin_max_retries: usize,
    /// Bytes that must be left of the daemon's `StorageMax` for a pin to be started; with less, pins wait as on a full
    /// disk. Those that run then go on. Zero, which is not written to the file, leaves it to the disk: Kubo holds pins
    /// beyond its `StorageMax`.
    #[serde(deserialize_with = "number::natural", skip_serializing_if = "is_zero")]
    pub free_space_min: u64,
    /// How often to list what the daemon holds; never sooner than ten times as long as the last listing took. Zero
    /// lists at the start, when the daemon comes back and on `sync_all` only. In the file it is a key of `cluster`, from
    /// where whoever starts a peer takes it.
    #[serde(skip)]
    pub ipfs_sync_interval: Duration,
}

impl Default for StatelessConfig {
    fn default() -> Self {
        Self {
            max_pin_queue_size: PIN_QUEUE_SIZE,
            queued_pins_remembered: 50_000,
            concurrent_pins: CONCURRENT_PINS,
            concurrent_unpins: 4,
            priority_pin_max_age: Duration::from_secs(24 * 60 * 60),
            priority_pin_max_retries: PRIORITY_RETRIES,
            free_space_min: 0,
            ipfs_sync_interval: Duration::from_secs(10 * 60),
        }
    }
}

impl ConfigSection for StatelessConfig {
    const PATH: &'static str = "pin_tracker.stateless";
    const ENV_PREFIX: &'static str = "CLUSTER_STATELESS_";

    fn validate(&self) -> Result<()> {
        for (works, text) in [
            (self.max_pin_queue_size > 0, "max_pin_queue_size too low"),
            (self.queued_pins_remembered > 0, "queued_pins_remembered too low"),
            (number::is_natural(self.free_space_min), "free_space_min is too low"),
            (self.concurrent_pins > 0, "concurrent_pins is too low"),
            (self.concurrent_unpins > 0, "concurrent_unpins is too low"),
            (!self.priority_pin_max_age.is_zero(), "priority_pin_max_age is too low"),
            (self.priority_pin_max_retries > 0, "priority_pin_max_retries is too low"),
        ] {
            check(works, &format!("statelesstracker.{text}")).map_err(|error| error.component(COMPONENT))?;
        }
        Ok(())
    }
}

// Serde hands references to this.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_default_queue_size(size: &usize) -> bool {
    *size == PIN_QUEUE_SIZE
}

#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::testing::{assert_default_reads_back, refusal, section, with};

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        let text = r#"{"concurrent_pins":10,"priority_pin_max_age":"24h0m0s","priority_pin_max_retries":5}"#;
        assert_eq!(serde_json::to_string(&StatelessConfig::default()).unwrap(), text);
        assert_default_reads_back::<StatelessConfig>();
        let zeros = json!({"max_pin_queue_size": 0, "concurrent_pins": 0, "priority_pin_max_retries": 0});
        assert_eq!(section::<StatelessConfig>(zeros), StatelessConfig::default());
        let tracker = with::<StatelessConfig>(json!({}), &[("CLUSTER_STATELESS_MAXPINQUEUESIZE", "7")]);
        let tracker = tracker.unwrap().section;
        assert_eq!(tracker.max_pin_queue_size, 7, "a key that the default does not write");
        assert_eq!(serde_json::to_value(tracker).unwrap()["max_pin_queue_size"], 7);
        let tracker = with::<StatelessConfig>(json!({}), &[("CLUSTER_STATELESS_FREESPACEMIN", "1000000")]);
        assert_eq!(tracker.unwrap().section.free_space_min, 1_000_000);
    }

    #[test]
    fn refusals_have_the_texts_of_the_reference() {
        for (file, text) in [
            (json!({"max_pin_queue_size": -1}), "statelesstracker.max_pin_queue_size too low"),
            (json!({"free_space_min": -1}), "statelesstracker.free_space_min is too low"),
            (json!({"concurrent_pins": -1}), "statelesstracker.concurrent_pins is too low"),
            (json!({"priority_pin_max_age": "0s"}), "statelesstracker.priority_pin_max_age is too low"),
            (json!({"priority_pin_max_retries": -1}), "statelesstracker.priority_pin_max_retries is too low"),
        ] {
            assert_eq!(refusal::<StatelessConfig>(file), text);
        }
    }
}
