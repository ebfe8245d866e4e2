//! What peers and daemons say of themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Cid, Multiaddr, PeerId, PinsetStanding, cid};

/// The IPFS daemon beside a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpfsId {
    /// The daemon's own peer id; none when it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<PeerId>,
    /// Where it listens; `null` on the wire when it could not be asked.
    #[serde(default)]
    pub addresses: Option<Vec<Multiaddr>>,
    /// Why it could not be asked; empty otherwise.
    #[serde(default)]
    pub error: String,
}

/// A cluster peer (`GET /id`).
///
/// The lists are `null`, not empty, when the peer could not be asked, as in the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// The peer.
    pub id: PeerId,
    /// Where it listens, with `/p2p/`.
    pub addresses: Option<Vec<Multiaddr>>,
    /// Members it sees, itself included.
    pub cluster_peers: Option<Vec<PeerId>>,
    /// Addresses of the other members.
    pub cluster_peers_addresses: Option<Vec<Multiaddr>>,
    /// Version of the program.
    pub version: String,
    /// Commit of the program; empty.
    pub commit: String,
    /// Protocol of calls between peers.
    pub rpc_protocol_version: String,
    /// Why it could not be asked; empty otherwise.
    pub error: String,
    /// Its daemon.
    pub ipfs: IpfsId,
    /// Its name.
    pub peername: String,
    /// How its pinset stands to that of the peer that lists it. Left out where that is not known; Go's programs neither
    /// send nor read it.
    #[serde(default, skip_serializing_if = "PinsetStanding::is_unknown")]
    pub pinset: PinsetStanding,
}

/// Disk use of a daemon, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RepoStat {
    /// Bytes used.
    pub repo_size: u64,
    /// Bytes it may use.
    pub storage_max: u64,
}

impl RepoStat {
    /// Bytes left before the daemon's limit.
    pub fn free_bytes(&self) -> u64 {
        self.storage_max.saturating_sub(self.repo_size)
    }
}

/// One block that garbage collection removed, or failed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoGcKey {
    /// The block; none when only an error is known.
    #[serde(with = "cid::option_text", default)]
    pub key: Option<Cid>,
    /// Why it failed; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Garbage collection on one daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoGc {
    /// The peer beside the daemon.
    pub peer: PeerId,
    /// Its name.
    #[serde(default)]
    pub peername: String,
    /// What was removed.
    #[serde(default)]
    pub keys: Vec<RepoGcKey>,
    /// Why it failed as a whole; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Garbage collection on all daemons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalRepoGc {
    /// By peer.
    pub peer_map: BTreeMap<PeerId, RepoGc>,
}

/// Who is connected to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectGraph {
    /// The peer that drew it.
    pub cluster_id: Option<PeerId>,
    /// Names of peers.
    pub id_to_peername: BTreeMap<PeerId, String>,
    /// Daemon to daemons.
    pub ipfs_links: BTreeMap<PeerId, Vec<PeerId>>,
    /// Peer to peers.
    pub cluster_links: BTreeMap<PeerId, Vec<PeerId>>,
    /// Whether the drawing peer trusts a peer.
    pub cluster_trust_links: BTreeMap<PeerId, bool>,
    /// Peer to its daemon.
    pub cluster_to_ipfs: BTreeMap<PeerId, PeerId>,
}

/// `GET /version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version that peers and clients compare.
    pub version: String,
}
