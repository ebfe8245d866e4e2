//! Several daemons as one cluster, however they agree.

use std::collections::BTreeSet;

use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::testing::fake_kubo::{FakeKubo, FakeKuboConfig};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::kubo::Kubo;
use crate::programs::{Answers as _, IN_SECONDS, Peer, everywhere, pinset, wait_until_all_list_all};
use crate::wait::{wait_until, wait_until_seen};

pub(crate) const SECRET: &str = "6d616e79206d616e79206d616e79206d616e79206d616e79206d616e79206d61";

/// How the peers of a cluster agree, and what they are told about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consensus<'a> {
    /// For `init --consensus`.
    pub(crate) name: &'a str,
    /// `CLUSTER_*` variables of `init` and of the daemon.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// Whether a peer has to be told of another one to be in its cluster.
    pub(crate) joins: bool,
}

/// By the reference's CRDT.
pub(crate) const CRDT: Consensus<'_> = Consensus { name: "crdt", environment: &[], joins: true };
/// By Raft. A removed peer is told so; what it does not hear it finds out by itself within seconds.
pub(crate) const RAFT: Consensus<'_> =
    Consensus { name: "raft", environment: &[("CLUSTER_PEERWATCHINTERVAL", "1s")], joins: true };

impl Consensus<'_> {
    /// A peer of the cluster that is not started, and will join through another.
    pub(crate) fn member(
        self,
        name: &str,
        ipfs: &str,
        through: Option<&Peer>,
        more: &[(&str, &str)],
    ) -> Peer {
        let own = [
            ("CLUSTER_PEERNAME", name),
            ("CLUSTER_SECRET", SECRET),
            ("CLUSTER_DISABLEREPINNING", "false"),
            // Thousands of requests would hide everything else.
            ("IPFS_CLUSTER_LOG_LEVEL", "info,restapilog:error"),
        ];
        let all = own.iter().chain(&IN_SECONDS).chain(self.environment).chain(more);
        let environment: Vec<_> = all.copied().collect();
        let mut peer = Peer::init(ipfs, &["--consensus", self.name], &environment);
        if let Some(through) = through.filter(|_| self.joins) {
            peer.bootstrap(through);
        }
        peer
    }

    /// Peers that run, each beside one of these daemons, all joined through the first.
    pub(crate) fn members(self, ipfs: &[&str], more: &[(&str, &str)]) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (number, ipfs) in ipfs.iter().enumerate() {
            let mut peer = self.member(&format!("peer-{number}"), ipfs, peers.first(), more);
            peer.resume();
            peers.push(peer);
        }
        wait_until_all_list_all(&peers);
        peers
    }
}

/// A daemon that all peers of a test share, where it does not matter who holds what.
pub(crate) struct Shared {
    pub(crate) kubo: FakeKubo,
    _runtime: Runtime,
}

impl Shared {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let kubo = FakeKubo::start(MemoryIpfs::default(), FakeKuboConfig::default());
        Self { kubo: runtime.block_on(kubo).unwrap(), _runtime: runtime }
    }

    pub(crate) fn members<const COUNT: usize>(
        &self,
        consensus: Consensus<'_>,
        more: &[(&str, &str)],
    ) -> Vec<Peer> {
        consensus.members(&[self.kubo.multiaddress().as_str(); COUNT], more)
    }

    pub(crate) fn member(
        &self,
        consensus: Consensus<'_>,
        name: &str,
        through: Option<&Peer>,
        more: &[(&str, &str)],
    ) -> Peer {
        consensus.member(name, &self.kubo.multiaddress(), through, more)
    }
}

pub(crate) fn living(peers: &[Peer]) -> impl Iterator<Item = &Peer> + Clone {
    peers.iter().filter(|peer| peer.is_running())
}

/// The peers that should hold each pin of a pinset entry.
pub(crate) fn allocations(pin: &Value) -> BTreeSet<String> {
    let peers = pin["allocations"].as_array().cloned().unwrap_or_default();
    peers.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Pins something at each pair of these three peers, and waits until it is there.
pub(crate) fn place_pairs(peers: &[Peer], kubos: &[Kubo]) -> Vec<String> {
    let ids: Vec<_> = peers.iter().map(Peer::id).collect();
    for peer in peers {
        wait_until(&format!("{} knows how much room all have", peer.name()), || {
            let room = peer.ctl(&["health", "metrics", "freespace"]).ok();
            ids.iter().all(|id| room.contains(id))
        });
    }
    let placed = [[0, 1], [1, 2], [2, 0]].map(|pair| {
        let cid = everywhere(kubos, &format!("at {pair:?}"));
        let preferred = pair.map(|number| ids[number].as_str()).join(",");
        let arguments = ["--rmin", "2", "--rmax", "2", "--allocations", &preferred, &cid];
        peers[0].ctl(&[&["pin", "add", "--no-status"], &arguments[..]].concat()).ok();
        cid
    });
    wait_until_placed(peers, kubos, &placed);
    placed.into()
}

/// Waits until everybody says that these pins are at two peers that live, and the daemons of just these hold them.
#[track_caller]
pub(crate) fn wait_until_placed(peers: &[Peer], kubos: &[Kubo], placed: &[String]) {
    for peer in living(peers) {
        wait_until_seen(&format!("{} says that each is at two of those that live", peer.name()), || {
            let pins = pinset(peer);
            let elsewhere: Vec<_> = placed
                .iter()
                .filter(|cid| {
                    let holders = allocations(&pins[*cid]);
                    let alive = living(peers).filter(|peer| holders.contains(&peer.id())).count();
                    (holders.len(), alive) != (2, 2)
                })
                .collect();
            if elsewhere.is_empty() { Ok(()) } else { Err(format!("{elsewhere:?}")) }
        });
    }
    let pins = pinset(living(peers).next().unwrap());
    for (peer, kubo) in peers.iter().zip(kubos).filter(|(peer, _)| peer.is_running()) {
        wait_until(&format!("the daemon of {} holds its share", peer.name()), || {
            let (held, id) = (kubo.pins(), peer.id());
            placed.iter().all(|cid| held.contains(cid) == allocations(&pins[cid]).contains(&id))
        });
    }
}
