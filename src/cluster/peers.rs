//! Who is in the cluster, and how they are.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::{Cluster, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::rpc::{RPC_PROTOCOL, fan_out};
use crate::types::{
    Alert, Bandwidth, ConnectGraph, IpfsId, Metric, Multiaddr, PeerId, PeerInfo, PinsetStanding,
    parse_multiaddr, parse_peer,
};

/// How long all members together may take to say who they are.
const PEERS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the daemon may take to say who it is, before an answer of ours does without.
const IPFS_ID_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the daemon may take to connect to one address of another.
const SWARM_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Addresses of one daemon that are tried.
const SWARM_ADDRESSES_MAX: usize = 32;
/// Alerts kept to be asked for.
const ALERTS_MAX: usize = 1000;
/// Members that one peer may list in its part of the graph; more are cut off.
const GRAPH_PEERS_MAX: usize = 4096;

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

/// What a peer's last ping says of it; empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ping {
    pub(super) peername: String,
    pub(super) ipfs_id: Option<PeerId>,
    pub(super) ipfs_addresses: Vec<Multiaddr>,
}

impl Ping {
    /// What cannot be read is left out: it was made by another peer.
    pub(super) fn read(value: &str) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Raw {
            peer_name: String,
            ipfs_id: String,
            ipfs_addresses: Vec<String>,
        }
        let raw: Raw = serde_json::from_str(value).unwrap_or_default();
        Self {
            peername: raw.peer_name,
            ipfs_id: parse_peer(&raw.ipfs_id).ok(),
            ipfs_addresses: raw.ipfs_addresses.iter().flat_map(|text| parse_multiaddr(text)).collect(),
        }
    }
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

    /// Every member, in order of their ids, after 15 s at most. A peer that cannot be asked is an item with its error;
    /// the others say how their pinset stands to this peer's, as far as that is known a second after they said who they
    /// are.
    ///
    /// # Errors
    /// When the members are not known.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>> {
        let inner = &self.inner;
        inner.ask_members(|peer, deadline| inner.id_and_standing_of(peer, deadline)).await
    }

    /// Makes a peer a member, and gives what it says of itself. Where members are whoever lives there is nothing to
    /// make of it, and it is only asked.
    ///
    /// # Errors
    /// As [`Consensus::add_peer`](crate::consensus::Consensus::add_peer); when it cannot be asked; `ReadOnly` in
    /// follower mode.
    pub async fn add_peer(&self, peer: &PeerId) -> Result<PeerInfo> {
        self.inner.check_writable()?;
        self.inner.add_peer(peer).await
    }

    /// Ends a membership, after pinning elsewhere what only the peer held (unless repinning is disabled).
    ///
    /// # Errors
    /// As [`Consensus::remove_peer`](crate::consensus::Consensus::remove_peer).
    pub async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.remove_peer(peer).await
    }

    /// Joins the cluster of the peers at these addresses, and gives those that were reached. They are members for this
    /// peer at once, and this peer tells everybody that it lives and how it is.
    ///
    /// Every address is tried; Ok when one peer was reached, or when there are no addresses but this peer's own.
    ///
    /// # Errors
    /// Why the last one was not reached; `ShutDown`.
    pub async fn join(&self, addresses: &[Multiaddr]) -> Result<Vec<PeerId>> {
        let inner = &self.inner;
        let mut joined = Vec::new();
        let mut failure = None;
        for address in addresses {
            inner.check_alive()?;
            match inner.join(address).await {
                Ok(Some(peer)) => joined.push(peer),
                Ok(None) => {}
                Err(error) => {
                    // Every failure is told once, the last one to the caller if nobody was reached.
                    let told = failure.replace(error.context(format_args!("joining through {address}")));
                    if let Some(error) = told {
                        could_not_join(&error);
                    }
                }
            }
        }
        match failure {
            Some(error) if joined.is_empty() => Err(error),
            Some(error) => {
                could_not_join(&error);
                Ok(joined)
            }
            None => Ok(joined),
        }
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

    /// What travelled between this peer and others since it started, by protocol, see
    /// [`PeerTransport::bandwidth`](crate::transport::PeerTransport::bandwidth).
    pub fn bandwidth(&self) -> BTreeMap<String, Bandwidth> {
        self.inner.transport.bandwidth()
    }

    /// Who sees whom: each member's view of the members, and its daemon's connections. A member that cannot be asked
    /// has no links.
    ///
    /// # Errors
    /// When the members are not known.
    pub async fn connect_graph(&self) -> Result<ConnectGraph> {
        self.inner.connect_graph().await
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
                addresses_of(&self.peer, self.transport.announced_addresses())
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
                // Go's clients need the error: an answer with neither id nor error breaks their graph.
                Err(error) => IpfsId { id: None, addresses: None, error: error.to_string() },
            },
            peername: self.config.peername.clone(),
            pinset: PinsetStanding::Unknown,
        }
    }

    /// The members, without a word about their pinsets.
    pub(super) async fn peers(&self) -> Result<Vec<PeerInfo>> {
        self.ask_members(|peer, deadline| self.id_of(peer, deadline)).await
    }

    /// What a member says of itself.
    pub(super) async fn id_of(&self, peer: PeerId, deadline: Instant) -> Result<PeerInfo> {
        timeout_at(deadline, self.client.id_stream(&peer)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("no answer from {peer} within {PEERS_TIMEOUT:?}")))
        })
    }

    /// Asks every other member, and adds this one.
    async fn ask_members<F>(&self, ask: impl Fn(PeerId, Instant) -> F) -> Result<Vec<PeerInfo>>
    where
        F: Future<Output = Result<PeerInfo>>,
    {
        let members = self.consensus.peers().await?;
        let deadline = Instant::now() + PEERS_TIMEOUT;
        let others = members.iter().copied().filter(|peer| *peer != self.peer);
        let asked = fan_out(others, |peer| ask(peer, deadline));
        let (own, answers) = tokio::join!(self.id(), asked.collect::<BTreeMap<_, _>>());
        let mut infos = BTreeMap::from([(self.peer, own)]);
        for (peer, answer) in answers {
            match answer {
                Ok(info) => infos.insert(peer, info),
                Err(error) if error.kind() == ErrorKind::Unauthorized => None,
                Err(error) => infos.insert(peer, not_asked(peer, &error)),
            };
        }
        Ok(infos.into_values().collect())
    }

    /// Makes a peer a member and asks it who it is. Where members are whoever lives, nothing has to be made.
    pub(super) async fn add_peer(&self, peer: &PeerId) -> Result<PeerInfo> {
        if *peer == self.peer {
            return Ok(self.id().await);
        }
        let by_liveness = {
            let can = self.consensus.capabilities();
            can.trust && !can.membership_changes
        };
        if !by_liveness {
            self.consensus.add_peer(peer).await?;
            info!(%peer, "added a member");
        }
        let mut info = self.client.id(peer).await?;
        let members = info.cluster_peers.get_or_insert_default();
        if !members.contains(&self.peer) {
            members.push(self.peer);
        }
        Ok(info)
    }

    pub(super) async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        if self.consensus.capabilities().membership_changes && !self.config.disable_repinning {
            // Afterwards nobody would know whose pins these were.
            self.vacate(peer).await?;
        }
        self.consensus.remove_peer(peer).await
    }

    /// Joins through the peer at an address, if it is another one.
    async fn join(&self, address: &Multiaddr) -> Result<Option<PeerId>> {
        if address.iter().any(|part| part == Protocol::P2p(self.peer)) {
            return Ok(None);
        }
        let peer = self.transport.connect(address).await?;
        if peer == self.peer {
            return Ok(None);
        }
        self.consensus.check_joinable(&peer).await?;
        self.client.peer_add(&peer, &self.peer).await?;
        // It lives, as we just saw; what it says of itself comes with its next ping.
        let is_known = self.monitor.latest_for("ping", &peer);
        if !is_known.is_some_and(|ping| ping.is_usable(self.clock.now())) {
            self.monitor.record(self.ping_metric(peer, String::new())).await?;
        }
        for informer in &self.informers {
            if let Err(error) = self.measure(&**informer).await {
                debug!(informer = informer.name(), %error, "could not measure");
            }
        }
        self.publish_ping().await?;
        self.wakes.joined.notify_waiters();
        info!(%peer, "joined a cluster");
        Ok(Some(peer))
    }

    async fn connect_graph(&self) -> Result<ConnectGraph> {
        let mut graph = ConnectGraph { cluster_id: Some(self.peer), ..ConnectGraph::default() };
        let members = self.consensus.peers().await?;
        for peer in &members {
            graph.cluster_trust_links.insert(*peer, self.consensus.is_trusted(peer));
        }
        let views = fan_out(members, |peer| self.view_of(peer)).collect::<BTreeMap<_, _>>().await;
        let mut daemons = BTreeMap::new();
        for (member, view) in views {
            let links = graph.cluster_links.entry(member).or_default();
            let view = match view {
                Ok(view) => view,
                Err(error) => {
                    debug!(peer = %member, %error, "does not say whom it sees");
                    continue;
                }
            };
            let mut own = None;
            for info in view.into_iter().filter(|info| info.error.is_empty()) {
                if info.id == member { own = Some(info) } else { links.push(info.id) }
            }
            let Some(own) = own else { continue };
            graph.id_to_peername.insert(member, own.peername);
            if let IpfsId { id: Some(daemon), error, .. } = own.ipfs
                && error.is_empty()
            {
                daemons.insert(member, daemon);
            }
        }
        let swarms = fan_out(daemons.keys().copied(), |peer| self.swarm_of(peer));
        for (member, swarm) in swarms.collect::<BTreeMap<_, _>>().await {
            let Some(daemon) = daemons.get(&member) else { continue };
            graph.cluster_to_ipfs.insert(member, *daemon);
            graph.ipfs_links.insert(*daemon, swarm.unwrap_or_default());
        }
        Ok(graph)
    }

    /// The members as one of them sees them.
    async fn view_of(&self, member: PeerId) -> Result<Vec<PeerInfo>> {
        if member == self.peer {
            return self.peers().await;
        }
        let mut infos = Vec::new();
        let mut peers = self.client.peers(&member).take(GRAPH_PEERS_MAX);
        while let Some(info) = peers.next().await {
            infos.push(info?);
        }
        Ok(infos)
    }

    /// Whom the daemon of a member is connected to.
    async fn swarm_of(&self, member: PeerId) -> Result<Vec<PeerId>> {
        if member == self.peer {
            self.ipfs.swarm_peers().await
        } else {
            self.client.swarm_peers(&member).await
        }
    }

    /// Connects this peer's daemon with those of the other members, so that they find each other's content.
    pub(super) async fn connect_swarms(&self) -> Result<()> {
        for info in self.peers().await?.into_iter().filter(|info| info.id != self.peer) {
            let addresses = info.ipfs.addresses.unwrap_or_default();
            for address in addresses.into_iter().take(SWARM_ADDRESSES_MAX) {
                match tokio::time::timeout(SWARM_CONNECT_TIMEOUT, self.ipfs.swarm_connect(&address)).await {
                    Ok(Ok(())) => debug!(peer = %info.id, %address, "connected the daemons"),
                    Ok(Err(error)) => {
                        debug!(peer = %info.id, %address, %error, "could not connect the daemons")
                    }
                    Err(_) => debug!(peer = %info.id, %address, "connecting the daemons took too long"),
                }
            }
        }
        Ok(())
    }

    /// Says that this peer lives.
    pub(super) async fn publish_ping(&self) -> Result<()> {
        let value = self.ping_value().await;
        self.monitor.publish(self.ping_metric(self.peer, value)).await
    }

    fn ping_metric(&self, peer: PeerId, value: String) -> Metric {
        let now = self.clock.now();
        Metric {
            name: "ping".to_owned(),
            peer,
            value,
            expire: (now + self.config.monitor_ping_interval.max(super::tasks::PERIOD_MIN) * 2)
                .unix_nanoseconds(),
            valid: true,
            weight: 0,
            partitionable: false,
            received_at: now.unix_nanoseconds(),
        }
    }

    /// The ping metric's value, as the reference writes it.
    async fn ping_value(&self) -> String {
        // While the daemon is down the last good value is repeated, so that peers still know whose it is. A ping that
        // waits for a daemon that does not answer would come too late, and all would take this peer for dead.
        let patience = self.config.monitor_ping_interval.max(super::tasks::PERIOD_MIN) / 2;
        if let Ok(Ok(id)) = tokio::time::timeout(patience, self.ipfs_id()).await {
            *self.last_ipfs.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(id));
        }
        let last = self.last_ipfs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut value =
            PingValue { peer_name: &self.config.peername, ipfs_id: None, ipfs_addresses: Vec::new() };
        if let Some(id) = &last {
            value.ipfs_id = id.id;
            value.ipfs_addresses = public_addresses(id).collect();
        }
        // Text and lists of texts always serialize.
        serde_json::to_string(&value).unwrap_or_default()
    }

    /// What a peer last said of itself.
    pub(super) fn ping_of(&self, peer: &PeerId) -> Ping {
        self.monitor.latest_for("ping", peer).map(|metric| Ping::read(&metric.value)).unwrap_or_default()
    }
}

fn could_not_join(error: &Error) {
    warn!(%error, "could not join there");
}

/// A member that could not be asked.
fn not_asked(peer: PeerId, error: &Error) -> PeerInfo {
    PeerInfo {
        id: peer,
        addresses: None,
        cluster_peers: None,
        cluster_peers_addresses: None,
        version: String::new(),
        commit: String::new(),
        rpc_protocol_version: String::new(),
        error: error.to_string(),
        ipfs: IpfsId::default(),
        peername: String::new(),
        pinset: PinsetStanding::Unknown,
    }
}

/// Appends `/p2p/<peer>`, which daemons' addresses may have already.
fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    // The id before `/p2p-circuit` is the relay's.
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_through_a_relay_ends_with_whose_it_is() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        for (address, expected) in [
            ("/ip4/1.2.3.4/tcp/1".to_owned(), format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}")),
            (format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}"), format!("/ip4/1.2.3.4/tcp/1/p2p/{peer}")),
            (
                format!("/ip4/1.2.3.4/tcp/1/p2p/{relay}/p2p-circuit"),
                format!("/ip4/1.2.3.4/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}"),
            ),
        ] {
            assert_eq!(with_peer(parse_multiaddr(&address).unwrap(), peer).to_string(), expected);
        }
    }

    #[test]
    fn a_ping_is_read_as_far_as_it_can_be() {
        let id = PeerId::random();
        let value = format!(
            r#"{{"peer_name":"a","ipfs_id":"{id}","ipfs_addresses":["/ip4/1.2.3.4/tcp/1","nonsense"],"more":1}}"#
        );
        let ping = Ping::read(&value);
        assert_eq!((ping.peername.as_str(), ping.ipfs_id), ("a", Some(id)));
        assert_eq!(ping.ipfs_addresses, [parse_multiaddr("/ip4/1.2.3.4/tcp/1").unwrap()]);
        for value in ["", "{}", "[]", "\"x\"", r#"{"ipfs_id":"x"}"#] {
            assert_eq!(Ping::read(value), Ping::default(), "{value}");
        }
    }
}
