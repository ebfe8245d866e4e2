//! Who is in the cluster, and how they are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use multiaddr::Protocol;
use serde::Serialize;

use super::{Cluster, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Alert, ConnectGraph, IpfsId, Metric, Multiaddr, PeerId, PeerInfo};

/// The protocol of calls between peers, as the reference names it.
pub(super) const RPC_PROTOCOL: &str = "/ipfscluster/1.0/rpc";
/// How long the daemon may take to say who it is, before an answer of ours does without.
const IPFS_ID_TIMEOUT: Duration = Duration::from_secs(5);
/// Alerts kept to be asked for.
const ALERTS_MAX: usize = 1000;

/// The value of a ping metric: fields in the reference's order, each left out when it is empty.
#[derive(Serialize)]
struct PingValue<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    peer_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipfs_id: Option<PeerId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ipfs_addresses: Vec<&'a Multiaddr>,
}

/// The latest alerts.
#[derive(Debug, Default)]
pub(super) struct AlertLog(Mutex<VecDeque<Alert>>);

impl AlertLog {
    pub(super) fn push(&self, alert: Alert) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == ALERTS_MAX {
            log.pop_front();
        }
        log.push_back(alert);
    }

    fn newest_first(&self) -> Vec<Alert> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

impl Cluster {
    /// This peer. A daemon that cannot be asked is part of the answer, not an error.
    pub async fn id(&self) -> PeerInfo {
        self.inner.id().await
    }

    /// Every member. A peer that cannot be asked is an item with its error.
    ///
    /// # Errors
    /// When the members are not known.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>> {
        let mut infos = Vec::new();
        for peer in self.inner.consensus.peers().await? {
            infos.push(if peer == self.inner.peer {
                self.inner.id().await
            } else {
                self.inner.unreachable(peer)
            });
        }
        Ok(infos)
    }

    /// Makes a peer a member.
    ///
    /// # Errors
    /// As [`Consensus::add_peer`](crate::consensus::Consensus::add_peer).
    pub async fn add_peer(&self, peer: &PeerId) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.consensus.add_peer(peer).await
    }

    /// Ends a membership.
    ///
    /// # Errors
    /// As [`Consensus::remove_peer`](crate::consensus::Consensus::remove_peer).
    pub async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.consensus.remove_peer(peer).await
    }

    /// Names of all metrics seen.
    pub fn metric_names(&self) -> Vec<String> {
        self.inner.monitor.names()
    }

    /// The latest usable metric of each peer under a name; an unknown name is an empty list.
    pub fn metrics(&self, name: &str) -> Vec<Metric> {
        self.inner.monitor.latest(name)
    }

    /// The last alerts, newest first.
    pub fn alerts(&self) -> Vec<Alert> {
        self.inner.alerts.newest_first()
    }

    /// Who is connected to whom, as this peer sees it.
    ///
    /// # Errors
    /// When the members are not known.
    pub async fn connect_graph(&self) -> Result<ConnectGraph> {
        let inner = &self.inner;
        let mut graph = ConnectGraph { cluster_id: Some(inner.peer), ..ConnectGraph::default() };
        for peer in inner.consensus.peers().await? {
            graph.cluster_links.insert(peer, Vec::new());
            graph.cluster_trust_links.insert(peer, inner.consensus.is_trusted(&peer));
        }
        graph.id_to_peername.insert(inner.peer, inner.config.peername.clone());
        graph.cluster_links.insert(inner.peer, inner.transport.peers());
        if let Ok(IpfsId { id: Some(daemon), .. }) = inner.ipfs_id().await {
            graph.cluster_to_ipfs.insert(inner.peer, daemon);
            graph.ipfs_links.insert(daemon, inner.ipfs.swarm_peers().await.unwrap_or_default());
        }
        Ok(graph)
    }
}

impl Inner {
    async fn ipfs_id(&self) -> Result<IpfsId> {
        tokio::time::timeout(IPFS_ID_TIMEOUT, self.ipfs.id()).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!("the IPFS daemon did not say who it is within {IPFS_ID_TIMEOUT:?}"),
            ))
        })
    }

    pub(super) async fn id(&self) -> PeerInfo {
        let (members, error) = match self.consensus.peers().await {
            Ok(members) => (members, String::new()),
            Err(error) => (Vec::new(), error.to_string()),
        };
        let others = members.iter().filter(|peer| **peer != self.peer);
        let addresses_of = |peer: &PeerId, addresses: Vec<Multiaddr>| {
            addresses.into_iter().map(|address| with_peer(address, *peer)).collect::<Vec<_>>()
        };
        PeerInfo {
            id: self.peer,
            addresses: Some(if self.reachable {
                addresses_of(&self.peer, self.transport.listen_addresses())
            } else {
                Vec::new()
            }),
            cluster_peers_addresses: Some(
                others.flat_map(|peer| addresses_of(peer, self.transport.addresses(peer))).collect(),
            ),
            cluster_peers: Some(members),
            version: crate::COMPATIBLE_VERSION.to_owned(),
            commit: String::new(),
            rpc_protocol_version: RPC_PROTOCOL.to_owned(),
            error,
            ipfs: match self.ipfs_id().await {
                Ok(id) => id,
                Err(error) => IpfsId { id: None, addresses: None, error: error.to_string() },
            },
            peername: self.config.peername.clone(),
        }
    }

    /// A member that this peer cannot call.
    fn unreachable(&self, peer: PeerId) -> PeerInfo {
        PeerInfo {
            id: peer,
            addresses: None,
            cluster_peers: None,
            cluster_peers_addresses: None,
            version: String::new(),
            commit: String::new(),
            rpc_protocol_version: String::new(),
            error: format!(
                "no calls to {peer}: this consensus has members, but peers do not call each other yet"
            ),
            ipfs: IpfsId::default(),
            peername: String::new(),
        }
    }

    /// The ping metric's value, as the reference writes it.
    pub(super) async fn ping_value(&self, last: &mut Option<IpfsId>) -> String {
        // While the daemon is down the last good value is repeated, so that peers still know whose it is.
        if let Ok(id) = self.ipfs_id().await {
            *last = Some(id);
        }
        let mut value =
            PingValue { peer_name: &self.config.peername, ipfs_id: None, ipfs_addresses: Vec::new() };
        if let Some(id) = last {
            value.ipfs_id = id.id;
            value.ipfs_addresses = public_addresses(id).collect();
        }
        // Text and lists of texts always serialize.
        serde_json::to_string(&value).unwrap_or_default()
    }

    /// Peer, name and daemon, for the status lines of each peer.
    pub(super) fn names(&self) -> BTreeMap<PeerId, String> {
        let mut names: BTreeMap<PeerId, String> = BTreeMap::new();
        for metric in self.monitor.latest("ping") {
            if let Ok(serde_json::Value::Object(value)) = serde_json::from_str(&metric.value)
                && let Some(serde_json::Value::String(name)) = value.get("peer_name")
            {
                names.insert(metric.peer, name.clone());
            }
        }
        names.insert(self.peer, self.config.peername.clone());
        names
    }
}

/// Appends `/p2p/<peer>`, which daemons' addresses may have already.
fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    if address.iter().any(|part| matches!(part, Protocol::P2p(_))) {
        address
    } else {
        address.with(Protocol::P2p(peer))
    }
}

/// Addresses that other machines can dial: DNS names and global unicast IPs.
fn public_addresses(id: &IpfsId) -> impl Iterator<Item = &Multiaddr> {
    id.addresses.iter().flatten().filter(|address| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.is_broadcast())
        }
        Some(Protocol::Ip6(ip)) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local())
        }
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => true,
        _ => false,
    })
}
