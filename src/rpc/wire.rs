//! What travels, as flat structs with the reference's keys, and how it becomes our types.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::PinsetDigest;
use super::msgpack::{List, decode, encode, malformed, wire_struct};
use crate::error::{Error, Result};
use crate::types::{self, Cid, Multiaddr, PeerId, PinMode, PinType, StatusFilter, Timestamp, TrackerStatus};

/// What peers older than 0.13.3 write before a metric.
pub(super) const LEGACY_METRIC_PREFIX: &[u8] = b"\x09/msgpack\n";

wire_struct! {
    /// Which method.
    ServiceId {
        "Name" service: String, always;
        "Method" method: String, always;
    }
}
wire_struct! {
    /// The head of every reply.
    Response {
        "Service" service: ServiceId;
        "Error" error: String;
        "ErrType" error_type: i64;
    }
}
wire_struct! {
    /// Options and entry of the pinset.
    Pin {
        "rn" replication_factor_min: i64;
        "rx" replication_factor_max: i64;
        "n" name: String;
        "o" mode: i64;
        "s" shard_size: u64;
        "ua" user_allocations: List<PeerId>;
        "e" expire_at: Option<Timestamp>;
        "m" metadata: BTreeMap<String, String>;
        "pu" pin_update: Option<Cid>;
        "g" origins: List<Multiaddr>;
        "c" cid: Option<Cid>, always;
        "t" pin_type: u64;
        "a" allocations: List<PeerId>;
        "d" max_depth: i64;
        "r" reference: Option<Cid>;
        "i" timestamp: Option<Timestamp>;
    }
}
wire_struct! {
    PinInfo {
        "c" cid: Option<Cid>, always;
        "m" name: String;
        "p" peer: Option<PeerId>;
        "o" allocations: List<PeerId>;
        "g" origins: List<Multiaddr>;
        "t" created: Option<Timestamp>;
        "md" metadata: BTreeMap<String, String>;
        "pn" peername: String;
        "i" ipfs: Option<PeerId>;
        "ia" ipfs_addresses: List<Multiaddr>;
        "st" status: i64;
        "ts" timestamp: Option<Timestamp>;
        "e" error: String;
        "a" attempt_count: i64;
        "y" priority_pin: bool;
    }
}
wire_struct! {
    IpfsId {
        "i" id: Option<PeerId>;
        "a" addresses: List<Multiaddr>;
        "e" error: String;
    }
}
wire_struct! {
    /// The reference's `ID`.
    Peer {
        "i" id: Option<PeerId>;
        "a" addresses: List<Multiaddr>;
        "cp" cluster_peers: List<PeerId>;
        "cpa" cluster_peers_addresses: List<Multiaddr>;
        "v" version: String;
        "c" commit: String;
        "rv" rpc_protocol_version: String;
        "e" error: String;
        "ip" ipfs: IpfsId;
        "pn" peername: String;
    }
}
wire_struct! {
    Metric {
        "n" name: String;
        "p" peer: Option<PeerId>;
        "v" value: String;
        "e" expire: i64;
        "d" valid: bool;
        "w" weight: i64;
        "o" partitionable: bool;
        "t" received_at: i64;
    }
}
wire_struct! {
    Version {
        "v" version: String, always;
    }
}
wire_struct! {
    /// A block with its place in what is added.
    Node {
        "d" data: Bytes;
        "c" cid: Option<Cid>;
        "s" cumulative_size: u64;
    }
}
wire_struct! {
    RepoStat {
        "r" repo_size: u64;
        "s" storage_max: u64, always;
    }
}
wire_struct! {
    RepoGcKey {
        "k" key: Option<Cid>;
        "e" error: String;
    }
}
wire_struct! {
    RepoGc {
        "p" peer: Option<PeerId>;
        "pn" peername: String;
        "k" keys: List<RepoGcKey>, always;
        "e" error: String;
    }
}
wire_struct! {
    /// Ours: which items a sorted listing gives.
    SortedFilter {
        "f" filter: u64;
        "a" after: Option<Cid>;
    }
}
wire_struct! {
    /// Ours.
    Head {
        "c" cid: Option<Cid>;
        "h" height: u64;
    }
}
wire_struct! {
    /// Ours.
    Digest {
        "c" count: u64;
        "h" hash: Bytes;
        "d" heads: List<Head>;
    }
}

fn missing(what: &str) -> Error {
    malformed(format!("an answer without {what}"))
}

fn narrow<T: TryFrom<i64>>(number: i64, what: &str) -> Result<T> {
    T::try_from(number).map_err(|_| malformed(format!("{what} of {number}")))
}

const fn pin_type_bits(pin_type: PinType) -> u64 {
    match pin_type {
        PinType::Data => 2,
        PinType::Meta => 4,
        PinType::ClusterDag => 8,
        PinType::Shard => 16,
    }
}

impl From<&types::Pin> for Pin {
    fn from(pin: &types::Pin) -> Self {
        let options = &pin.options;
        Self {
            replication_factor_min: options.replication_factor_min.into(),
            replication_factor_max: options.replication_factor_max.into(),
            name: options.name.clone(),
            mode: match options.mode {
                PinMode::Recursive => 0,
                PinMode::Direct => 1,
            },
            shard_size: options.shard_size,
            user_allocations: options.user_allocations.clone().into(),
            expire_at: options.expire_at,
            metadata: options.metadata.clone(),
            pin_update: options.pin_update,
            origins: options.origins.clone().into(),
            cid: Some(pin.cid),
            pin_type: pin_type_bits(pin.pin_type),
            allocations: pin.allocations.clone().into(),
            max_depth: pin.max_depth.into(),
            reference: pin.reference,
            timestamp: pin.timestamp,
        }
    }
}

impl TryFrom<Pin> for types::Pin {
    type Error = Error;

    fn try_from(pin: Pin) -> Result<Self> {
        Ok(Self {
            cid: pin.cid.ok_or_else(|| malformed("a pin without a cid"))?,
            pin_type: PinType::ALL
                .into_iter()
                .find(|pin_type| pin_type_bits(*pin_type) == pin.pin_type)
                .ok_or_else(|| malformed(format!("a pin of unknown type {}", pin.pin_type)))?,
            allocations: pin.allocations.into_vec(),
            max_depth: narrow(pin.max_depth, "a pin with a depth")?,
            reference: pin.reference,
            timestamp: pin.timestamp,
            options: types::PinOptions {
                replication_factor_min: narrow(
                    pin.replication_factor_min,
                    "a pin with a replication factor",
                )?,
                replication_factor_max: narrow(
                    pin.replication_factor_max,
                    "a pin with a replication factor",
                )?,
                name: pin.name,
                mode: match pin.mode {
                    0 => PinMode::Recursive,
                    1 => PinMode::Direct,
                    other => return Err(malformed(format!("a pin with the unknown mode {other}"))),
                },
                shard_size: pin.shard_size,
                user_allocations: pin.user_allocations.into_vec(),
                expire_at: pin.expire_at,
                metadata: pin.metadata,
                pin_update: pin.pin_update,
                origins: pin.origins.into_vec(),
            },
        })
    }
}

impl From<&types::PinInfo> for PinInfo {
    fn from(info: &types::PinInfo) -> Self {
        let status = &info.status;
        Self {
            cid: Some(info.cid),
            name: info.name.clone(),
            peer: Some(info.peer),
            allocations: info.allocations.clone().into(),
            origins: info.origins.clone().into(),
            created: info.created,
            metadata: info.metadata.clone(),
            peername: status.peername.clone(),
            ipfs: status.ipfs_peer_id,
            ipfs_addresses: status.ipfs_peer_addresses.clone().into(),
            status: status.status.bit().into(),
            timestamp: status.timestamp,
            error: status.error.clone(),
            attempt_count: status.attempt_count.into(),
            priority_pin: status.priority_pin,
        }
    }
}

impl PinInfo {
    /// What `asked` says. It speaks for nobody else: the peer named in the answer is not looked at.
    pub(super) fn said_by(self, asked: PeerId) -> Result<types::PinInfo> {
        let status = TrackerStatus::ALL.into_iter().find(|status| i64::from(status.bit()) == self.status);
        let error = match status {
            Some(_) => self.error,
            // An item that cannot be read must not hide the others.
            None => format!("unknown status {} {}", self.status, self.error).trim_end().to_owned(),
        };
        Ok(types::PinInfo {
            cid: self.cid.ok_or_else(|| missing("a cid"))?,
            name: self.name,
            allocations: self.allocations.into_vec(),
            origins: self.origins.into_vec(),
            created: self.created,
            metadata: self.metadata,
            peer: asked,
            status: types::PinStatus {
                peername: self.peername,
                ipfs_peer_id: self.ipfs,
                ipfs_peer_addresses: self.ipfs_addresses.into_vec(),
                status: status.unwrap_or(TrackerStatus::ClusterError),
                timestamp: self.timestamp,
                error,
                attempt_count: u32::try_from(self.attempt_count.max(0)).unwrap_or(u32::MAX),
                priority_pin: self.priority_pin,
            },
        })
    }
}

impl From<&types::PeerInfo> for Peer {
    fn from(info: &types::PeerInfo) -> Self {
        let error = match (info.ipfs.id, info.ipfs.error.as_str()) {
            // The reference's `health graph` breaks on a daemon that has neither an id nor an error.
            (None, "") if info.error.is_empty() => "the id of the daemon is not known",
            (_, error) => error,
        };
        Self {
            id: Some(info.id),
            addresses: List(info.addresses.clone()),
            cluster_peers: List(info.cluster_peers.clone()),
            cluster_peers_addresses: List(info.cluster_peers_addresses.clone()),
            version: info.version.clone(),
            commit: info.commit.clone(),
            rpc_protocol_version: info.rpc_protocol_version.clone(),
            error: info.error.clone(),
            ipfs: IpfsId {
                id: info.ipfs.id,
                addresses: List(info.ipfs.addresses.clone()),
                error: error.to_owned(),
            },
            peername: info.peername.clone(),
        }
    }
}

impl TryFrom<Peer> for types::PeerInfo {
    type Error = Error;

    fn try_from(peer: Peer) -> Result<Self> {
        Ok(Self {
            id: peer.id.ok_or_else(|| missing("a peer id"))?,
            addresses: peer.addresses.0,
            cluster_peers: peer.cluster_peers.0,
            cluster_peers_addresses: peer.cluster_peers_addresses.0,
            version: peer.version,
            commit: peer.commit,
            rpc_protocol_version: peer.rpc_protocol_version,
            error: peer.error,
            ipfs: types::IpfsId {
                id: peer.ipfs.id,
                addresses: peer.ipfs.addresses.0,
                error: peer.ipfs.error,
            },
            peername: peer.peername,
            // Asked for by a call of its own.
            pinset: types::PinsetStanding::Unknown,
        })
    }
}

impl From<&types::RepoGc> for RepoGc {
    fn from(gc: &types::RepoGc) -> Self {
        let keys = gc.keys.iter().map(|key| RepoGcKey { key: key.key, error: key.error.clone() });
        Self {
            peer: Some(gc.peer),
            peername: gc.peername.clone(),
            keys: List(Some(keys.collect())),
            error: gc.error.clone(),
        }
    }
}

impl RepoGc {
    /// As [`PinInfo::said_by`].
    pub(super) fn said_by(self, asked: PeerId) -> types::RepoGc {
        let keys = self.keys.into_vec().into_iter();
        types::RepoGc {
            peer: asked,
            peername: self.peername,
            keys: keys.map(|key| types::RepoGcKey { key: key.key, error: key.error }).collect(),
            error: self.error,
        }
    }
}

impl From<&PinsetDigest> for Digest {
    fn from(digest: &PinsetDigest) -> Self {
        let heads = digest.heads.iter().map(|(cid, height)| Head { cid: Some(*cid), height: *height });
        Self {
            count: digest.count,
            hash: Bytes::copy_from_slice(&digest.hash),
            heads: List::from(heads.collect::<Vec<_>>()),
        }
    }
}

impl TryFrom<Digest> for PinsetDigest {
    type Error = Error;

    fn try_from(digest: Digest) -> Result<Self> {
        let hash: &[u8] = &digest.hash;
        let heads = digest.heads.into_vec().into_iter();
        Ok(Self {
            count: digest.count,
            hash: hash.try_into().map_err(|_| malformed("a digest that is not 16 bytes"))?,
            heads: heads
                .map(|head| Ok((head.cid.ok_or_else(|| missing("the cid of a head"))?, head.height)))
                .collect::<Result<_>>()?,
        })
    }
}

/// The bits of a filter as they travel.
///
/// # Errors
/// `Corrupt` for bits that filter everything out.
pub(super) fn filter_from_bits(bits: u64) -> Result<StatusFilter> {
    let known = TrackerStatus::ALL.into_iter().filter(|status| bits & u64::from(status.bit()) != 0);
    let filter: StatusFilter = known.collect();
    // The empty filter lets everything through.
    if bits != 0 && filter == StatusFilter::ALL {
        return Err(malformed(format!("a status filter of unknown bits {bits:#x}")));
    }
    Ok(filter)
}

/// Where a CID stands, as it travels; without who says it.
pub(crate) fn encode_pin_info(info: &types::PinInfo) -> Bytes {
    encode(&PinInfo::from(info)).into()
}

/// Reads what [`encode_pin_info`] wrote of what a peer says.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn decode_pin_info(bytes: &[u8], said_by: PeerId) -> Result<types::PinInfo> {
    decode::<PinInfo>(bytes)?.said_by(said_by)
}

/// A metric as it travels on the topic `monitor.metrics`. When it was received is left out: that is the receiver's.
pub fn encode_metric(metric: &types::Metric) -> Bytes {
    let metric = Metric {
        name: metric.name.clone(),
        peer: Some(metric.peer),
        value: metric.value.clone(),
        expire: metric.expire,
        valid: metric.valid,
        weight: metric.weight,
        partitionable: metric.partitionable,
        received_at: 0,
    };
    encode(&metric).into()
}

/// Reads what [`encode_metric`] and the reference write, also with the prefix of peers older than 0.13.3. When it was
/// received is what the sender says; the receiver sets it.
///
/// # Errors
/// `Corrupt` for what is no metric, or names no peer. Whether the peer is the one who sent it is for the caller to check,
/// as is the length of name and value, which is bounded only by that of `bytes`.
pub fn decode_metric(bytes: &[u8]) -> Result<types::Metric> {
    let bytes = bytes.strip_prefix(LEGACY_METRIC_PREFIX).unwrap_or(bytes);
    decode::<Metric>(bytes)?.try_into()
}

impl TryFrom<Metric> for types::Metric {
    type Error = Error;

    fn try_from(metric: Metric) -> Result<Self> {
        Ok(Self {
            name: metric.name,
            peer: metric.peer.ok_or_else(|| malformed("a metric without a peer"))?,
            value: metric.value,
            expire: metric.expire,
            valid: metric.valid,
            weight: metric.weight,
            partitionable: metric.partitionable,
            received_at: metric.received_at,
        })
    }
}
