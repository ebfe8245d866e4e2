//! The clusters in which the pairs were recorded, built again from our peers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::allocator::BalancedAllocator;
use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::cluster::{Cluster, ClusterConfig, Scope, presets};
use ipfs_cluster::informer::{FreeSpace, FreeSpaceConfig, PinQueue, PinQueueConfig, Tags, TagsConfig};
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::state::StateQuery;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::{Block, Cid, Pin, PinMode, PinOptions, StatusFilter, Timestamp, TrackerStatus};

use super::caller::{Caller, Received};
use super::compare::Matched;
use super::daemon::RecordedIpfs;
use super::node::Node;
use super::recording::{Body, Recording};

/// The recorded peers and their daemons.
const PEER_A: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
const DAEMON_A: &str = "12D3KooWFCexTNU4tpCXwRE7ounDXzhomCVk8UxZGi7L2fSgrcgE";
const PEER_B: &str = "12D3KooWJrXgPLcddsGwWa7UuMrxsts34DKx6he42cAd9FyR4s8L";
const PEER_WITH_USERS: &str = "12D3KooWHrCn6yJVnRDoFmzoiNwfbGV1uSoFF6i1fjvdZa2vQy7W";
/// The only member of a cluster that agrees by Raft.
const PEER_RAFT: &str = "12D3KooWFcoiwUMpNgJESMFxEQrtdvPEKjvedUGwLWjp3jyjyjPi";
const DAEMON_B: &str = "12D3KooWLQfAfEbqHt1dvLiyzt1N3jRom38H6cuBKX7j7fFHgYAW";
const ABSENT: &str = "QmXFCHiN2nh6aWqtPcLcTrYkoYLfBvAz5YdzABAdTvH1KY";
/// Pinned when the reference's daemon went down, without a name: somebody had pinned it again.
const PINNED_AGAIN: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
/// The cluster DAG of `sh2` and its shards.
const DAG: &str = "bafyreihhs44z5poongx4foqmi5srjjprxr6t32skehybhlmpdu22ojd4cm";
const SHARDS: [&str; 2] = [
    "bafyreiea44lxlcxym7zk4i7lhaawwq4cnzjkjgztmgzq7fgoutwtw2mohu",
    "bafyreifaozucjmbnvbv5n2ahshc65kk52srfe3qrug2nwl2rghdxkzcyia",
];

/// Short, because a peer's death is waited for; but nobody is twice as late on a busy machine, and dies of it.
const PING_INTERVAL: Duration = Duration::from_secs(4);
const METRIC_TTL: Duration = Duration::from_secs(8);

/// A peer that is asked, and those around it.
pub(crate) struct World {
    network: MemoryNetwork,
    asked: Member,
    other: Option<Member>,
    _api: RestApi,
    address: std::net::SocketAddr,
    caller: Caller,
}

struct Member {
    cluster: Cluster,
    ipfs: RecordedIpfs,
}

impl Member {
    async fn start(network: &MemoryNetwork, name: &str, peer: &str, daemon: &str) -> Self {
        let builder = Cluster::builder().preset(presets::Collaborative::default());
        #[cfg(feature = "consensus-raft")]
        let builder = if peer == PEER_RAFT {
            builder.raft(ipfs_cluster::consensus::RaftConfig::default())
        } else {
            builder
        };
        let ipfs = RecordedIpfs::new(daemon, &[ABSENT]);
        let config = ClusterConfig { monitor_ping_interval: PING_INTERVAL, ..ClusterConfig::default() };
        let cluster = builder
            .config(config)
            .peername(name)
            .transport(network.join(peer.parse().unwrap()).unwrap())
            .storage(MemoryStorage::new())
            .ipfs(ipfs.clone())
            .pubsub_monitor(MonitorConfig { check_interval: PING_INTERVAL })
            .allocator(BalancedAllocator::by(["tag:group", "freespace"]))
            .no_informers()
            .informer_with(|cx| {
                FreeSpace::new(FreeSpaceConfig { metric_ttl: METRIC_TTL, ..FreeSpaceConfig::default() }, cx)
            })
            .informer_with(|cx| {
                PinQueue::new(PinQueueConfig { metric_ttl: METRIC_TTL, ..PinQueueConfig::default() }, cx)
            })
            .informer_with(|cx| {
                let tags = [("group".to_owned(), "default".to_owned())].into();
                Tags::new(TagsConfig { tags, metric_ttl: METRIC_TTL }, cx)
            })
            .start()
            .await
            .unwrap();
        cluster.ready().await.unwrap();
        Self { cluster, ipfs }
    }

    /// Puts entries into the pinset as they are.
    async fn write(&self, pins: impl IntoIterator<Item = Pin>) {
        for pin in pins {
            self.cluster.consensus().log_pin(pin).await.unwrap();
        }
    }

    async fn pinset(&self) -> Vec<Pin> {
        self.cluster.pins(StateQuery::default()).map(|page| page.unwrap()).concat().await
    }

    /// Until nothing is on its way to the daemon: the pairs were recorded that way.
    async fn settle(&self) {
        until(async || !self.is_busy().await).await;
    }

    /// Whether the daemon is going to be asked for something, also when its tracker was not told yet.
    async fn is_busy(&self) -> bool {
        let unsettled: StatusFilter = match self.ipfs.is_up() {
            true => "queued,pinning,unpinning,unexpectedly_unpinned",
            false => "queued,pinning,unpinning",
        }
        .parse()
        .unwrap();
        let pinset: BTreeSet<Cid> = self.pinset().await.iter().map(|pin| pin.cid).collect();
        if self.ipfs.is_up() && self.ipfs.pinned().iter().any(|cid| !pinset.contains(cid)) {
            return true;
        }
        // An error is a daemon that is down, to which nothing is on its way.
        matches!(self.cluster.status_all(unsettled, Scope::Local).next().await, Some(Ok(_)))
    }
}

impl World {
    /// The peer that was recorded, alone.
    pub(crate) async fn start(config: RestConfig, is_raft: bool) -> Self {
        let network = MemoryNetwork::new(0);
        let (name, peer, daemon) = match (is_raft, &config.authentication) {
            (true, _) => ("peerR", PEER_RAFT, DAEMON_B),
            (false, Some(_)) => ("peerA", PEER_WITH_USERS, DAEMON_A),
            (false, None) => ("peerA", PEER_A, DAEMON_A),
        };
        let asked = Member::start(&network, name, peer, daemon).await;
        let config = config.listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
        let api = RestApi::bind(config, asked.cluster.clone()).await.unwrap();
        until(async || asked.cluster.metric_names().len() == 4).await;
        let address = api.local_addresses()[0];
        Self { network, asked, other: None, _api: api, address, caller: Caller::connect(address).await }
    }

    /// Makes the world what it was when this was recorded, where requests that are not replayed made it so.
    pub(crate) async fn prepare(&mut self, recording: &Recording, all: &[Recording], matched: &mut Matched) {
        match recording.name.as_str() {
            "allocations-after-shard-meta" => {
                self.asked.write(entries(recording)).await;
                self.asked.ipfs.hold(cluster_dag());
                self.settle().await;
            }
            "alloc-block-put" => {
                let entries = entries(recording);
                let named: BTreeSet<Cid> = entries.iter().map(|pin| pin.cid).collect();
                for pin in self.asked.pinset().await {
                    if !named.contains(&pin.cid) {
                        self.asked.cluster.consensus().log_unpin(&pin.cid).await.unwrap();
                    }
                }
                self.asked.write(entries).await;
                matched.forget_pins();
                self.settle().await;
            }
            "unpin-path" => {
                let error = documents(recording)[0].get("message").and_then(Node::text).unwrap();
                self.asked.ipfs.fail_to_resolve(error);
            }
            "two-peers" => self.second_peer_comes().await,
            "dead-status" => {
                self.write_pinned(all, "dead-status-all-pinned").await;
                matched.forget_pins();
                self.second_peer_dies().await;
            }
            "alerts" => {
                let cluster = &self.asked.cluster;
                let is_told = || cluster.alerts().iter().any(|alert| alert.metric.name == "ping");
                until(async || {
                    cluster.alerts().len() >= 2 && is_told() && cluster.metrics("ping").len() == 1
                })
                .await;
            }
            "ipfsdown-id" => {
                let again = PINNED_AGAIN.parse().unwrap();
                self.asked.cluster.unpin(&again).await.unwrap();
                self.settle().await;
                self.asked.cluster.pin(again, PinOptions::default()).await.unwrap();
                self.settle().await;
                self.asked.ipfs.set_up(false);
            }
            _ => {}
        }
        if recording.path.starts_with("/ipfs/gc") {
            self.asked.ipfs.set_garbage(garbage(recording));
        }
    }

    /// Sends a request and gives the answer.
    pub(crate) async fn send(&mut self, recording: &Recording) -> Received {
        let mut text = format!("{} {} HTTP/1.1\r\nHost: x\r\n", recording.method, recording.path);
        for (name, value) in &recording.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &recording.body {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        let body = recording.body.as_deref().unwrap_or_default();
        self.caller.send([text.as_bytes(), body].concat()).await;
        let received = self.caller.answer().await;
        if received.header("connection") == Some("close") {
            assert!(self.caller.is_closed().await, "{} says that it closes, and does not", recording.name);
            self.caller = Caller::connect(self.address).await;
        }
        received
    }

    /// A request that must succeed.
    pub(crate) async fn must(&mut self, method: &str, path: &str) {
        let received = self.caller.call(method, path).await;
        assert!(received.status < 300, "{method} {path}: {}", received.text());
    }

    /// What a request did has come to the daemons.
    pub(crate) async fn settle_after(&self, recording: &Recording) {
        let cid = recording.path.split(['/', '?']).nth(2).and_then(|part| part.parse::<Cid>().ok());
        if let Some(cid) = cid.filter(|_| !self.asked.ipfs.is_up()) {
            let failed = async || {
                let info = self.asked.cluster.tracker().status(&cid).await.unwrap();
                matches!(info.status.status, TrackerStatus::PinError | TrackerStatus::UnpinError)
            };
            until(failed).await;
        }
        self.settle().await;
    }

    pub(crate) async fn settle(&self) {
        self.asked.settle().await;
        if let Some(other) = &self.other {
            let counts = || (self.asked.cluster.state().counts(), other.cluster.state().counts());
            until(async || counts().0 == counts().1).await;
            other.settle().await;
        }
    }

    async fn second_peer_comes(&mut self) {
        let other = Member::start(&self.network, "peerB", PEER_B, DAEMON_B).await;
        let address = other.cluster.id().await.addresses.unwrap();
        self.asked.cluster.join(&address).await.unwrap();
        for cluster in [&self.asked.cluster, &other.cluster] {
            for metric in ["ping", "freespace", "tag:group"] {
                // Who was joined counts as alive before its own ping comes, which says more.
                let of_both = async || {
                    let metrics = cluster.metrics(metric);
                    metrics.len() == 2 && metrics.iter().all(|metric| !metric.value.is_empty())
                };
                until(of_both).await;
            }
        }
        self.other = Some(other);
        self.settle().await;
    }

    async fn second_peer_dies(&mut self) {
        let other = self.other.take().unwrap();
        self.network.crash(PEER_B.parse().unwrap());
        other.cluster.shutdown().await;
        let asked = &self.asked.cluster;
        let gone = async || {
            let infos = asked.peers().await.unwrap();
            infos.iter().any(|info| info.id.to_string() == PEER_B && !info.error.is_empty())
        };
        until(gone).await;
    }

    /// Makes what is pinned what a later listing says: some was added, pinned again and unpinned elsewhere.
    async fn write_pinned(&self, all: &[Recording], name: &str) {
        let listing = all.iter().find(|recording| recording.name == name).unwrap();
        let held: BTreeMap<Cid, Pin> =
            self.asked.pinset().await.into_iter().map(|pin| (pin.cid, pin)).collect();
        let mut listed = BTreeSet::new();
        for status in documents(listing) {
            let text = |field: &str| status.get(field).and_then(Node::text).unwrap();
            let cid: Cid = text("cid").parse().unwrap();
            listed.insert(cid);
            let created: Option<Timestamp> = Some(text("created").parse().unwrap());
            if held
                .get(&cid)
                .is_some_and(|held| held.timestamp >= created && held.options.name == text("name"))
            {
                continue;
            }
            let options = PinOptions { name: text("name").to_owned(), ..PinOptions::default() };
            let mut pin = Pin::new(cid, options);
            let allocations = status.get("allocations").unwrap().list();
            pin.allocations = allocations.iter().map(|peer| peer.text().unwrap().parse().unwrap()).collect();
            let factor = if pin.allocations.is_empty() { -1 } else { 1 };
            pin.options.replication_factor_min = factor;
            pin.options.replication_factor_max = factor;
            pin.timestamp = created;
            self.asked.write([pin]).await;
        }
        // Not what is pinned elsewhere, and not the direct pin, which the reference does not list.
        let everywhere = |pin: &&Pin| pin.allocations.is_empty() && pin.options.mode == PinMode::Recursive;
        for pin in held.values().filter(everywhere).filter(|pin| !listed.contains(&pin.cid)) {
            self.asked.cluster.consensus().log_unpin(&pin.cid).await.unwrap();
        }
        self.settle().await;
    }
}

/// Waits for a fact.
pub(crate) async fn until(mut fact: impl AsyncFnMut() -> bool) {
    while !fact().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn documents(recording: &Recording) -> &[Node] {
    match &recording.answer.body {
        Body::Documents { documents, .. } => documents,
        Body::Text(_) => &[],
    }
}

/// The entries of a pinset that was listed. What had expired since would be unpinned, so that is made to last.
fn entries(recording: &Recording) -> Vec<Pin> {
    let read = |document: &Node| -> Pin { serde_json::from_str(&document.write()).unwrap() };
    let mut pins: Vec<Pin> = documents(recording).iter().map(read).collect();
    for pin in &mut pins {
        if pin.options.expire_at.is_some() {
            pin.options.expire_at = Some("2100-01-01T00:00:00Z".parse().unwrap());
        }
    }
    pins
}

/// What a recorded collection removed on the peer that was asked.
fn garbage(recording: &Recording) -> Vec<Cid> {
    let peers = documents(recording).first().and_then(|document| document.get("peer_map"));
    let keys = peers.and_then(|peers| peers.get(PEER_A)?.get("keys"));
    let keys = keys.map(Node::list).unwrap_or_default();
    keys.iter().map(|key| key.get("key").and_then(Node::text).unwrap().parse().unwrap()).collect()
}

/// In CBOR a map from numbers to links, each a byte string with a zero in front and a tag.
fn cluster_dag() -> Block {
    let mut data = vec![0xa0 + SHARDS.len() as u8];
    for (number, shard) in SHARDS.iter().enumerate() {
        let shard = shard.parse::<Cid>().unwrap().to_bytes();
        data.extend([0x61, b'0' + number as u8, 0xd8, 0x2a, 0x58, shard.len() as u8 + 1, 0]);
        data.extend(shard);
    }
    Block { cid: DAG.parse().unwrap(), data: data.into() }
}
