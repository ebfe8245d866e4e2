//! The clusters in which the pairs were recorded, built again from our peers.

use std::collections::BTreeSet;
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
use ipfs_cluster::types::{Block, Cid, Pin, PinOptions, StatusFilter};

use super::caller::{Caller, Received};
use super::daemon::RecordedIpfs;
use super::node::Node;
use super::recording::{Body, Recording};

/// The recorded peers and their daemons.
const PEER_A: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
const DAEMON_A: &str = "12D3KooWFCexTNU4tpCXwRE7ounDXzhomCVk8UxZGi7L2fSgrcgE";
const PEER_B: &str = "12D3KooWJrXgPLcddsGwWa7UuMrxsts34DKx6he42cAd9FyR4s8L";
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

/// Short, because a peer's death is waited for.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const METRIC_TTL: Duration = Duration::from_secs(2);

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
        let ipfs = RecordedIpfs::new(daemon, &[ABSENT]);
        let config = ClusterConfig { monitor_ping_interval: PING_INTERVAL, ..ClusterConfig::default() };
        let cluster = Cluster::builder()
            .preset(presets::Collaborative)
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
        let busy: StatusFilter = "queued,pinning,unpinning".parse().unwrap();
        loop {
            let mut pages = self.cluster.status_all(busy, Scope::Local);
            match pages.next().await {
                None => return,
                // Its daemon is down, so nothing is on its way.
                Some(Err(_)) => return,
                Some(Ok(_)) => tokio::task::yield_now().await,
            }
        }
    }
}

impl World {
    /// The peer that was recorded, alone.
    pub(crate) async fn start(config: RestConfig) -> Self {
        let network = MemoryNetwork::new(0);
        let asked = Member::start(&network, "peerA", PEER_A, DAEMON_A).await;
        let config = config.listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
        let api = RestApi::bind(config, asked.cluster.clone()).await.unwrap();
        until(async || asked.cluster.metric_names().len() == 4).await;
        let address = api.local_addresses()[0];
        Self { network, asked, other: None, _api: api, address, caller: Caller::connect(address).await }
    }

    /// Makes the world what it was when this was recorded, where requests that are not replayed made it so.
    pub(crate) async fn prepare(&mut self, recording: &Recording, all: &[Recording]) {
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
                self.settle().await;
            }
            "two-peers" => self.second_peer_comes().await,
            "dead-status" => {
                self.write_missing(all, "dead-status-all-pinned").await;
                self.second_peer_dies().await;
            }
            "alerts" => {
                let cluster = &self.asked.cluster;
                until(async || cluster.alerts().len() >= 2 && cluster.metrics("ping").len() == 1).await;
            }
            "ipfsdown-id" => {
                let again = PINNED_AGAIN.parse().unwrap();
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
        text += recording.body.as_deref().unwrap_or_default();
        self.caller.send(text).await;
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
                until(async || cluster.metrics(metric).len() == 2).await;
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

    /// Pins what a later listing has and we have not: it was added.
    async fn write_missing(&self, all: &[Recording], name: &str) {
        let listing = all.iter().find(|recording| recording.name == name).unwrap();
        let held: BTreeSet<Cid> = self.asked.pinset().await.iter().map(|pin| pin.cid).collect();
        for status in documents(listing) {
            let text = |field: &str| status.get(field).and_then(Node::text).unwrap();
            let cid: Cid = text("cid").parse().unwrap();
            if held.contains(&cid) {
                continue;
            }
            let options = PinOptions { name: text("name").to_owned(), ..PinOptions::default() };
            let mut pin = Pin::new(cid, options);
            let allocations = status.get("allocations").unwrap().list();
            pin.allocations = allocations.iter().map(|peer| peer.text().unwrap().parse().unwrap()).collect();
            let factor = if pin.allocations.is_empty() { -1 } else { 1 };
            pin.options.replication_factor_min = factor;
            pin.options.replication_factor_max = factor;
            pin.timestamp = Some(text("created").parse().unwrap());
            self.asked.write([pin]).await;
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
