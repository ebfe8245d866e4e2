//! Status answers: of one peer, and of all peers merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Cid, Multiaddr, PeerId, Pin, Timestamp, TrackerStatus, cid, time};
use crate::error::Error;

/// What one peer says of one CID (the reference's `PinInfoShort`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinStatus {
    /// The peer's name; empty when unknown.
    #[serde(default)]
    pub peername: String,
    /// The daemon's id, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipfs_peer_id: Option<PeerId>,
    /// The daemon's public addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipfs_peer_addresses: Vec<Multiaddr>,
    /// Where the CID stands.
    pub status: TrackerStatus,
    /// Since when, or when it was asked.
    #[serde(default, with = "time::or_zero")]
    pub timestamp: Option<Timestamp>,
    /// The reason of an error status; empty otherwise.
    #[serde(default)]
    pub error: String,
    /// How often the running or failed operation was tried.
    #[serde(default)]
    pub attempt_count: u32,
    /// Whether the operation sits in the priority queue.
    #[serde(default)]
    pub priority_pin: bool,
}

impl PinStatus {
    /// A status without error, tried never.
    pub fn new(status: TrackerStatus, timestamp: Timestamp) -> Self {
        Self {
            peername: String::new(),
            ipfs_peer_id: None,
            ipfs_peer_addresses: Vec::new(),
            status,
            timestamp: Some(timestamp),
            error: String::new(),
            attempt_count: 0,
            priority_pin: false,
        }
    }

    /// What is shown of a peer that could not be asked: data, not an error.
    pub fn cluster_error(error: &Error, timestamp: Timestamp) -> Self {
        Self { error: error.to_string(), ..Self::new(TrackerStatus::ClusterError, timestamp) }
    }
}

/// What one peer says of one CID, with what the pinset says of the CID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinInfo {
    /// The CID.
    pub cid: Cid,
    /// Name of the pin; empty when it is not in the pinset.
    pub name: String,
    /// Peers that must hold it.
    pub allocations: Vec<PeerId>,
    /// Origins given with the pin.
    pub origins: Vec<Multiaddr>,
    /// When it was pinned.
    pub created: Option<Timestamp>,
    /// The pin's metadata.
    pub metadata: BTreeMap<String, String>,
    /// Who says so.
    pub peer: PeerId,
    /// What it says.
    pub status: PinStatus,
}

impl PinInfo {
    /// The answer of `peer` about an entry of the pinset.
    pub fn of_pin(pin: &Pin, peer: PeerId, status: PinStatus) -> Self {
        Self {
            cid: pin.cid,
            name: pin.options.name.clone(),
            allocations: pin.allocations.clone(),
            origins: pin.options.origins.clone(),
            created: pin.timestamp,
            metadata: pin.options.metadata.clone(),
            peer,
            status,
        }
    }

    /// The answer of `peer` about a CID that is not in the pinset.
    pub fn of_cid(cid: Cid, peer: PeerId, status: PinStatus) -> Self {
        Self {
            cid,
            name: String::new(),
            allocations: Vec::new(),
            origins: Vec::new(),
            created: None,
            metadata: BTreeMap::new(),
            peer,
            status,
        }
    }
}

/// What all peers say of one CID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalPinInfo {
    /// The CID.
    #[serde(with = "cid::text")]
    pub cid: Cid,
    /// Name of the pin.
    #[serde(default)]
    pub name: String,
    /// Peers that must hold it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub allocations: Vec<PeerId>,
    /// Origins given with the pin.
    #[serde(default, deserialize_with = "null_as_default")]
    pub origins: Vec<Multiaddr>,
    /// When it was pinned.
    #[serde(default, with = "time::or_zero")]
    pub created: Option<Timestamp>,
    /// The pin's metadata; `null` when empty.
    #[serde(default, deserialize_with = "null_as_default", serialize_with = "empty_as_null")]
    pub metadata: BTreeMap<String, String>,
    /// What each peer says.
    #[serde(default, deserialize_with = "null_as_default")]
    pub peer_map: BTreeMap<PeerId, PinStatus>,
}

impl GlobalPinInfo {
    /// An answer nobody has added to yet.
    pub fn new(cid: Cid) -> Self {
        Self {
            cid,
            name: String::new(),
            allocations: Vec::new(),
            origins: Vec::new(),
            created: None,
            metadata: BTreeMap::new(),
            peer_map: BTreeMap::new(),
        }
    }

    /// Adds what one peer says. The header comes from the last answer that is not `cluster_error`, as in the
    /// reference, because a peer that could not ask its pinset knows none of it; and only from one that has the pin,
    /// once there is one.
    pub fn add(&mut self, info: PinInfo) {
        let knows = info.status.status != TrackerStatus::ClusterError && info.created.is_some();
        if knows || self.created.is_none() {
            self.name = info.name;
            self.allocations = info.allocations;
            self.origins = info.origins;
            self.created = info.created;
            self.metadata = info.metadata;
        }
        self.peer_map.insert(info.peer, info.status);
    }

    /// Whether any peer's status matches.
    pub fn matches(&self, filter: super::StatusFilter) -> bool {
        self.peer_map.values().any(|status| filter.matches(status.status))
    }
}

impl From<PinInfo> for GlobalPinInfo {
    fn from(info: PinInfo) -> Self {
        let mut global = Self::new(info.cid);
        global.add(info);
        global
    }
}

pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn empty_as_null<S: serde::Serializer>(
    metadata: &BTreeMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if metadata.is_empty() { serializer.serialize_none() } else { metadata.serialize(serializer) }
}
