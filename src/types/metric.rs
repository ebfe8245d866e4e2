//! Metrics: weighted values with a time to live, by which peers are chosen and found missing.

use serde::{Deserialize, Serialize};

use super::{PeerId, Timestamp};

/// One value of one peer.
///
/// Times are Unix nanoseconds, as in the reference's JSON and on its wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// What is measured: `ping`, `freespace`, `tag:group`, …
    pub name: String,
    /// Who measured it.
    pub peer: PeerId,
    /// The value as text.
    pub value: String,
    /// When it stops being true, in Unix nanoseconds.
    pub expire: i64,
    /// False when the peer could not measure.
    pub valid: bool,
    /// What allocators sort by; more is better.
    pub weight: i64,
    /// Whether equal values form one group (tags).
    pub partitionable: bool,
    /// When this peer received it, in Unix nanoseconds.
    #[serde(default)]
    pub received_at: i64,
}

impl Metric {
    /// Whether its time has passed at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now.unix_nanoseconds() > self.expire
    }

    /// Whether it can be used at `now`: valid and not expired.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.valid && !self.is_expired(now)
    }

    /// When it stops being true.
    pub fn expires_at(&self) -> Timestamp {
        Timestamp::from_unix_nanoseconds(self.expire)
    }
}

/// A metric that stopped coming.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The last one that came.
    #[serde(flatten)]
    pub metric: Metric,
    /// When its absence was noticed.
    pub triggered_at: Timestamp,
}
