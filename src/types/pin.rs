//! Pins: entries of the pinset, and the options they are made from.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Cid, Multiaddr, PeerId, Timestamp, cid, peer, time};
use crate::error::{Error, Result};

/// `max_depth` of a pin that keeps the whole DAG.
pub const MAX_DEPTH_RECURSIVE: i32 = -1;
/// `max_depth` of a pin that keeps only the root block.
pub const MAX_DEPTH_DIRECT: i32 = 0;

/// Whether the daemon keeps the whole DAG or only the root block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PinMode {
    /// The root and everything it links to.
    #[default]
    Recursive,
    /// The root block alone.
    Direct,
}

impl PinMode {
    /// Every mode, in the order shown to users.
    pub const ALL: [Self; 2] = [Self::Recursive, Self::Direct];

    /// The name used in JSON, on the command line and towards Kubo.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recursive => "recursive",
            Self::Direct => "direct",
        }
    }

    /// The depth a new data pin of this mode has.
    pub const fn max_depth(self) -> i32 {
        match self {
            Self::Recursive => MAX_DEPTH_RECURSIVE,
            Self::Direct => MAX_DEPTH_DIRECT,
        }
    }

    /// The mode of a stored pin: depth 0 is direct, everything else recursive (the reference stores no mode).
    pub const fn from_max_depth(max_depth: i32) -> Self {
        if max_depth == MAX_DEPTH_DIRECT { Self::Direct } else { Self::Recursive }
    }
}

impl fmt::Display for PinMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PinMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "recursive" => Ok(Self::Recursive),
            "direct" => Ok(Self::Direct),
            _ => {
                Err(Error::invalid_input(format!("unknown pin mode {text:?}, expected recursive or direct")))
            }
        }
    }
}

/// What an entry of the pinset stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PinType {
    /// Content a user pinned.
    #[default]
    Data,
    /// The root of sharded content; no peer pins it.
    Meta,
    /// The DAG that lists the shards of a meta pin.
    ClusterDag,
    /// One shard of sharded content.
    Shard,
}

impl PinType {
    /// Every type, in the order shown to users.
    pub const ALL: [Self; 4] = [Self::Data, Self::Meta, Self::ClusterDag, Self::Shard];

    /// The name used in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "pin",
            Self::Meta => "meta-pin",
            Self::ClusterDag => "clusterdag-pin",
            Self::Shard => "shard-pin",
        }
    }
}

impl fmt::Display for PinType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PinType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            Error::invalid_input(format!(
                "unknown pin type {text:?}, expected pin, meta-pin, clusterdag-pin or shard-pin"
            ))
        })
    }
}

/// Which pin types a listing shows. Parses from a comma list of type names or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinTypeFilter(u8);

impl PinTypeFilter {
    /// Everything.
    pub const ALL: Self = Self(0b1111);

    /// Whether pins of this type are shown.
    pub const fn matches(self, kind: PinType) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

impl Default for PinTypeFilter {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<PinType> for PinTypeFilter {
    fn from_iter<I: IntoIterator<Item = PinType>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u8))
    }
}

impl FromStr for PinTypeFilter {
    type Err = Error;

    /// Empty text means everything. An unknown name is an error that lists the valid ones.
    fn from_str(text: &str) -> Result<Self> {
        let mut bits = 0;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            bits |= match name {
                "all" => Self::ALL.0,
                _ => match name.parse::<PinType>() {
                    Ok(kind) => 1 << kind as u8,
                    Err(_) => {
                        return Err(Error::invalid_input(format!(
                            "invalid filter value {name:?}, expected a comma list of all, pin, meta-pin, clusterdag-pin, shard-pin"
                        )));
                    }
                },
            };
        }
        Ok(if bits == 0 { Self::ALL } else { Self(bits) })
    }
}

/// How many peers should hold a pin: the checked form of the pair `replication_factor_min`/`_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationFactor {
    /// Every peer of the cluster (`-1` in both).
    Everywhere,
    /// At least `min` and at most `max` peers; `min <= max`.
    Between {
        /// Fewer than this and the pin is refused.
        min: NonZeroU32,
        /// More than this are never allocated.
        max: NonZeroU32,
    },
}

impl ReplicationFactor {
    /// Checks a pair of numbers, in the reference's order and with its texts.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn new(min: i32, max: i32) -> Result<Self> {
        let wrong = |text: &str| Err(Error::invalid_input(text));
        if min == 0 || max == 0 {
            return wrong("cluster.replication_factor_min and max must be set");
        }
        if min > max {
            return wrong("cluster.replication_factor_min is larger than max");
        }
        if min < -1 {
            return wrong("cluster.replication_factor_min is wrong");
        }
        if max < -1 {
            return wrong("cluster.replication_factor_max is wrong");
        }
        let positive = |value: i32| u32::try_from(value).ok().and_then(NonZeroU32::new);
        match (positive(min), positive(max)) {
            (Some(min), Some(max)) => Ok(Self::Between { min, max }),
            (None, None) => Ok(Self::Everywhere),
            _ => wrong("cluster.replication_factor_min and max must be -1 when one of them is"),
        }
    }

    /// The pair of numbers, `-1` for everywhere.
    pub fn as_pair(self) -> (i32, i32) {
        match self {
            Self::Everywhere => (-1, -1),
            Self::Between { min, max } => {
                (i32::try_from(min.get()).unwrap_or(i32::MAX), i32::try_from(max.get()).unwrap_or(i32::MAX))
            }
        }
    }
}

/// What a caller may ask of a pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinOptions {
    /// Fewest peers; `0` takes the peer's default, `-1` means everywhere.
    pub replication_factor_min: i32,
    /// Most peers; `0` takes the peer's default, `-1` means everywhere.
    pub replication_factor_max: i32,
    /// A label for people; need not be unique.
    pub name: String,
    /// Recursive or direct.
    pub mode: PinMode,
    /// Bytes of a shard when content is added sharded; otherwise only stored.
    pub shard_size: u64,
    /// Peers the user prefers; best effort, never stored.
    pub user_allocations: Vec<PeerId>,
    /// When the pin is removed by itself. Stored in whole seconds.
    pub expire_at: Option<Timestamp>,
    /// Free key-value pairs.
    pub metadata: BTreeMap<String, String>,
    /// The pin that this one continues, so that the daemon can reuse its blocks.
    pub pin_update: Option<Cid>,
    /// Addresses (with `/p2p/`) of daemons that have the content.
    pub origins: Vec<Multiaddr>,
}

/// An entry of the pinset.
///
/// Its serde form is the reference's REST and export form: options first, `metadata` and `user_allocations`
/// `null` when empty, times as RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// What is pinned.
    pub cid: Cid,
    /// What the entry stands for.
    pub pin_type: PinType,
    /// Peers that must hold it; empty with factor everywhere.
    pub allocations: Vec<PeerId>,
    /// `-1` the whole DAG, `0` the root, `n` levels (shards).
    pub max_depth: i32,
    /// For sharded content: the previous shard, or the cluster DAG of a meta pin.
    pub reference: Option<Cid>,
    /// When it was last pinned; none when an import did not say.
    pub timestamp: Option<Timestamp>,
    /// What was asked.
    pub options: PinOptions,
}

impl Pin {
    /// A data pin with options and no allocations, as it stands before the cluster decides.
    pub fn new(cid: Cid, options: PinOptions) -> Self {
        Self {
            cid,
            pin_type: PinType::Data,
            allocations: Vec::new(),
            max_depth: options.mode.max_depth(),
            reference: None,
            timestamp: None,
            options,
        }
    }

    /// Whether every peer must hold it.
    pub fn is_everywhere(&self) -> bool {
        self.options.replication_factor_min == -1 && self.options.replication_factor_max == -1
    }

    /// Whether `peer` need not hold it.
    pub fn is_remote_for(&self, peer: &PeerId) -> bool {
        !self.is_everywhere() && !self.allocations.contains(peer)
    }

    /// The mode the daemon keeps it in, from its depth.
    pub fn mode(&self) -> PinMode {
        PinMode::from_max_depth(self.max_depth)
    }

    /// Whether its time has passed at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.options.expire_at.is_some_and(|at| at < now)
    }

    /// The entry as the pinset stores it: whole seconds, mode from the depth, no user allocations.
    #[must_use]
    pub fn into_stored(mut self) -> Self {
        self.timestamp = self.timestamp.map(Timestamp::truncated_to_seconds);
        self.options.expire_at = self.options.expire_at.map(Timestamp::truncated_to_seconds);
        self.options.mode = self.mode();
        self.options.user_allocations = Vec::new();
        self
    }
}

/// One change of the pinset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinOperation {
    /// Adds or replaces the entry of its CID.
    Pin(Arc<Pin>),
    /// Removes the entry, if there is one.
    Unpin(Cid),
    /// Changes or removes the entry if it is as somebody saw it, and changes nothing otherwise.
    Revise(Revision),
}

impl PinOperation {
    /// The CID that changes.
    pub fn cid(&self) -> &Cid {
        match self {
            Self::Pin(pin) => &pin.cid,
            Self::Unpin(cid) => cid,
            Self::Revise(revision) => &revision.seen.cid,
        }
    }
}

/// What a peer does by itself with an entry that it has looked at: nothing, if a user changed the entry meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    seen: Arc<Pin>,
    now: Option<Arc<Pin>>,
}

impl Revision {
    /// The entry becomes another one, of the same CID, where it still is as it was seen.
    pub fn replace(seen: Pin, now: Pin) -> Self {
        let now = Arc::new(Pin { cid: seen.cid, ..now });
        Self { seen: Arc::new(seen.into_stored()), now: Some(now) }
    }

    /// The entry goes where it still is as it was seen.
    pub fn remove(seen: Pin) -> Self {
        Self { seen: Arc::new(seen.into_stored()), now: None }
    }

    /// The entry as it must be, in its stored form.
    pub fn seen(&self) -> &Pin {
        &self.seen
    }

    /// What the entry becomes; none when it goes.
    pub fn now(&self) -> Option<&Arc<Pin>> {
        self.now.as_ref()
    }

    /// What happens where the entry is as it was seen: [`PinOperation::Pin`] or [`PinOperation::Unpin`].
    pub fn operation(&self) -> PinOperation {
        match &self.now {
            Some(pin) => PinOperation::Pin(pin.clone()),
            None => PinOperation::Unpin(self.seen.cid),
        }
    }
}

/// The flat form, borrowed: field order is the reference's.
#[derive(Serialize)]
struct PinOut<'a> {
    replication_factor_min: i32,
    replication_factor_max: i32,
    name: &'a str,
    mode: &'static str,
    shard_size: u64,
    user_allocations: Option<&'a [PeerId]>,
    #[serde(with = "time::or_zero")]
    expire_at: Option<Timestamp>,
    metadata: Option<&'a BTreeMap<String, String>>,
    #[serde(with = "cid::option_text")]
    pin_update: Option<Cid>,
    origins: &'a [Multiaddr],
    #[serde(with = "cid::text")]
    cid: Cid,
    #[serde(rename = "type")]
    kind: &'static str,
    allocations: &'a [PeerId],
    max_depth: i32,
    #[serde(with = "cid::option_text")]
    reference: Option<Cid>,
    #[serde(with = "time::or_zero")]
    timestamp: Option<Timestamp>,
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let options = &self.options;
        PinOut {
            replication_factor_min: options.replication_factor_min,
            replication_factor_max: options.replication_factor_max,
            name: &options.name,
            mode: options.mode.as_str(),
            shard_size: options.shard_size,
            user_allocations: Some(options.user_allocations.as_slice()).filter(|peers| !peers.is_empty()),
            expire_at: options.expire_at,
            metadata: Some(&options.metadata).filter(|metadata| !metadata.is_empty()),
            pin_update: options.pin_update,
            origins: &options.origins,
            cid: self.cid,
            kind: self.pin_type.as_str(),
            allocations: &self.allocations,
            max_depth: self.max_depth,
            reference: self.reference,
            timestamp: self.timestamp,
        }
        .serialize(serializer)
    }
}

/// The flat form, owned; missing fields read as their zero values, as in the reference.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PinIn {
    replication_factor_min: i32,
    replication_factor_max: i32,
    name: String,
    mode: String,
    shard_size: u64,
    #[serde(deserialize_with = "peer::optional_list")]
    user_allocations: Option<Vec<PeerId>>,
    #[serde(with = "time::or_zero")]
    expire_at: Option<Timestamp>,
    metadata: Option<BTreeMap<String, String>>,
    #[serde(with = "cid::option_text")]
    pin_update: Option<Cid>,
    #[serde(deserialize_with = "peer::optional_list")]
    origins: Option<Vec<Multiaddr>>,
    #[serde(with = "cid::option_text")]
    cid: Option<Cid>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "peer::optional_list")]
    allocations: Option<Vec<PeerId>>,
    max_depth: Option<i32>,
    #[serde(with = "cid::option_text")]
    reference: Option<Cid>,
    #[serde(with = "time::or_zero")]
    timestamp: Option<Timestamp>,
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let flat = PinIn::deserialize(deserializer)?;
        let cid = flat.cid.ok_or_else(|| D::Error::missing_field("cid"))?;
        let mode = match flat.mode.as_str() {
            "" => flat.max_depth.map_or(PinMode::Recursive, PinMode::from_max_depth),
            text => text.parse().map_err(D::Error::custom)?,
        };
        let pin_type = match flat.kind.as_str() {
            "" => PinType::Data,
            text => text.parse().map_err(D::Error::custom)?,
        };
        Ok(Self {
            cid,
            pin_type,
            allocations: flat.allocations.unwrap_or_default(),
            max_depth: flat.max_depth.unwrap_or(mode.max_depth()),
            reference: flat.reference,
            timestamp: flat.timestamp,
            options: PinOptions {
                replication_factor_min: flat.replication_factor_min,
                replication_factor_max: flat.replication_factor_max,
                name: flat.name,
                mode,
                shard_size: flat.shard_size,
                user_allocations: flat.user_allocations.unwrap_or_default(),
                expire_at: flat.expire_at,
                metadata: flat.metadata.unwrap_or_default(),
                pin_update: flat.pin_update,
                origins: flat.origins.unwrap_or_default(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTED: &str = r#"{"replication_factor_min":-1,"replication_factor_max":-1,"name":"updated","mode":"recursive","shard_size":0,"user_allocations":null,"expire_at":"2026-11-21T23:16:36Z","metadata":{"kind":"text","owner":"me"},"pin_update":"QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o","origins":[],"cid":"QmTrppo1oN55QpwceRpwKMcmtqD9WQEUGyxtcuAKVBY6rN","type":"pin","allocations":[],"max_depth":-1,"reference":null,"timestamp":"2026-11-20T23:16:36Z"}"#;

    #[test]
    fn a_line_of_the_references_export_survives_a_round_trip() {
        let pin: Pin = serde_json::from_str(EXPORTED).unwrap();
        assert_eq!(serde_json::to_string(&pin).unwrap(), EXPORTED);
        assert!(pin.is_everywhere());
    }

    #[test]
    fn missing_fields_read_as_zero_values_but_the_cid_must_be_there() {
        let pin: Pin =
            serde_json::from_str(r#"{"cid":"QmTrppo1oN55QpwceRpwKMcmtqD9WQEUGyxtcuAKVBY6rN"}"#).unwrap();
        assert_eq!((pin.max_depth, pin.mode(), pin.timestamp), (-1, PinMode::Recursive, None));
        let error = serde_json::from_str::<Pin>("{}").unwrap_err();
        assert!(error.to_string().contains("cid"), "{error}");
    }

    #[test]
    fn replication_factors_are_checked_in_the_references_order() {
        for (min, max, text) in [
            (0, 0, "cluster.replication_factor_min and max must be set"),
            (3, 2, "cluster.replication_factor_min is larger than max"),
            (1, -1, "cluster.replication_factor_min is larger than max"),
            (-2, 2, "cluster.replication_factor_min is wrong"),
            (-1, 1, "cluster.replication_factor_min and max must be -1 when one of them is"),
        ] {
            assert_eq!(ReplicationFactor::new(min, max).unwrap_err().to_string(), text);
        }
        assert_eq!(ReplicationFactor::new(-1, -1).unwrap(), ReplicationFactor::Everywhere);
        assert_eq!(ReplicationFactor::new(2, 3).unwrap().as_pair(), (2, 3));
    }

    #[test]
    fn filters_and_modes_refuse_unknown_names_and_list_the_valid_ones() {
        assert!("pin,bogus".parse::<PinTypeFilter>().unwrap_err().to_string().contains("shard-pin"));
        assert!(
            "recursve".parse::<PinMode>().unwrap_err().to_string().contains("expected recursive or direct")
        );
        let filter: PinTypeFilter = "meta-pin, shard-pin".parse().unwrap();
        assert!(filter.matches(PinType::Shard) && !filter.matches(PinType::Data));
    }
}
