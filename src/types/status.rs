//! What a peer says of one CID.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::error::{Error, Result};

/// Where a CID stands on one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum TrackerStatus {
    /// The peer or its daemon could not be asked; the error says why.
    ClusterError = 1 << 1,
    /// Pinning failed; recover retries it.
    PinError = 1 << 2,
    /// Unpinning failed; recover retries it.
    UnpinError = 1 << 3,
    /// The daemon holds it.
    Pinned = 1 << 4,
    /// The daemon is fetching it.
    Pinning = 1 << 5,
    /// The daemon is letting go of it.
    Unpinning = 1 << 6,
    /// It is not in the pinset.
    Unpinned = 1 << 7,
    /// Other peers hold it.
    Remote = 1 << 8,
    /// It waits to be pinned.
    PinQueued = 1 << 9,
    /// It waits to be unpinned.
    UnpinQueued = 1 << 10,
    /// The root of sharded content: its shards are pinned, not the root.
    Sharded = 1 << 11,
    /// The pinset says this peer holds it, the daemon says it does not.
    UnexpectedlyUnpinned = 1 << 12,
}

impl TrackerStatus {
    /// Every status, in the order of the reference's bits.
    pub const ALL: [Self; 12] = [
        Self::ClusterError,
        Self::PinError,
        Self::UnpinError,
        Self::Pinned,
        Self::Pinning,
        Self::Unpinning,
        Self::Unpinned,
        Self::Remote,
        Self::PinQueued,
        Self::UnpinQueued,
        Self::Sharded,
        Self::UnexpectedlyUnpinned,
    ];

    /// The name used in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterError => "cluster_error",
            Self::PinError => "pin_error",
            Self::UnpinError => "unpin_error",
            Self::Pinned => "pinned",
            Self::Pinning => "pinning",
            Self::Unpinning => "unpinning",
            Self::Unpinned => "unpinned",
            Self::Remote => "remote",
            Self::PinQueued => "pin_queued",
            Self::UnpinQueued => "unpin_queued",
            Self::Sharded => "sharded",
            Self::UnexpectedlyUnpinned => "unexpectedly_unpinned",
        }
    }

    /// The reference's bit, as it travels between peers.
    pub const fn bit(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for TrackerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TrackerStatus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| Error::invalid_input(format!("unknown status {text:?}")))
    }
}

impl Serialize for TrackerStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TrackerStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A set of statuses. The empty set, the default, means *no filter*: everything matches.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StatusFilter(u16);

impl StatusFilter {
    /// Everything matches.
    pub const ALL: Self = Self(0);
    /// `cluster_error`, `pin_error` and `unpin_error`.
    pub const ERROR: Self = Self(
        TrackerStatus::ClusterError.bit() | TrackerStatus::PinError.bit() | TrackerStatus::UnpinError.bit(),
    );
    /// `pin_queued` and `unpin_queued`.
    pub const QUEUED: Self = Self(TrackerStatus::PinQueued.bit() | TrackerStatus::UnpinQueued.bit());

    /// Whether items of this status are wanted.
    pub const fn matches(self, status: TrackerStatus) -> bool {
        self.0 == 0 || self.0 & status.bit() != 0
    }

    /// Whether any of these statuses is wanted.
    pub fn matches_any(self, statuses: &[TrackerStatus]) -> bool {
        statuses.iter().any(|status| self.matches(*status))
    }

    /// The reference's bits; 0 is "no filter".
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl From<TrackerStatus> for StatusFilter {
    fn from(status: TrackerStatus) -> Self {
        Self(status.bit())
    }
}

impl BitOr for StatusFilter {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<TrackerStatus> for StatusFilter {
    fn from_iter<I: IntoIterator<Item = TrackerStatus>>(statuses: I) -> Self {
        Self(statuses.into_iter().fold(0, |bits, status| bits | status.bit()))
    }
}

impl FromStr for StatusFilter {
    type Err = Error;

    /// A comma list of status names, `error` and `queued`; empty text is no filter.
    ///
    /// # Errors
    /// `InvalidInput` that lists the valid names (the reference ignores unknown ones).
    fn from_str(text: &str) -> Result<Self> {
        let mut filter = Self::ALL;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            filter = filter
                | match name {
                    "error" => Self::ERROR,
                    "queued" => Self::QUEUED,
                    _ => match name.parse::<TrackerStatus>() {
                        Ok(status) => status.into(),
                        Err(_) => {
                            let names: Vec<_> =
                                TrackerStatus::ALL.iter().map(|status| status.as_str()).collect();
                            return Err(Error::invalid_input(format!(
                                "invalid filter value {name:?}, expected a comma list of error, queued, {}",
                                names.join(", ")
                            )));
                        }
                    },
                };
        }
        Ok(filter)
    }
}

impl fmt::Display for StatusFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = TrackerStatus::ALL
            .iter()
            .filter(|status| self.0 & status.bit() != 0)
            .map(|status| status.as_str())
            .collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for StatusFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("StatusFilter(all)") } else { write!(f, "StatusFilter({self})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_parses_names_and_groups_and_refuses_the_rest() {
        let filter: StatusFilter = "pinning, queued".parse().unwrap();
        assert!(filter.matches(TrackerStatus::UnpinQueued) && filter.matches(TrackerStatus::Pinning));
        assert!(!filter.matches(TrackerStatus::Pinned));
        assert!("".parse::<StatusFilter>().unwrap().matches(TrackerStatus::Pinned));
        let error = "pinned,bogus".parse::<StatusFilter>().unwrap_err().to_string();
        assert!(error.contains("\"bogus\"") && error.contains("unexpectedly_unpinned"), "{error}");
        assert!(!StatusFilter::ERROR.matches(TrackerStatus::UnexpectedlyUnpinned));
    }
}
