//! Our side: a host on loopback in the tests' private network, and a handler that answers calls from a table.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use ipfs_cluster::allocator::BalancedAllocator;
use ipfs_cluster::cluster::{Cluster, ClusterConfig};
use ipfs_cluster::config::{Identity, Secret};
use ipfs_cluster::consensus::{Crdt, CrdtConfig};
use ipfs_cluster::error::{Error, ErrorKind, Result};
use ipfs_cluster::exchange::Bitswap;
use ipfs_cluster::informer::{FreeSpace, FreeSpaceConfig, Tags, TagsConfig};
use ipfs_cluster::ipfs_connector::MemoryIpfs;
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::rpc::{Authorizer, Page, PeerClient, Reply, Request, RequestHandler, RpcServer};
use ipfs_cluster::state::StateQuery;
use ipfs_cluster::storage::{MemoryStorage, Storage};
use ipfs_cluster::tracker::StatelessConfig;
use ipfs_cluster::transport::{Libp2pConfig, Libp2pTransport, MessageValidator, PeerTransport, Verdict};
use ipfs_cluster::types::{
    Block, Cid, IpfsId, Multiaddr, PeerId, PeerInfo, Pin, PinInfo, PinOperation, PinsetStanding, RepoGc,
    RepoStat, StatusFilter, Version,
};
use libp2p::identity::Keypair;

use crate::gopeer::{CLUSTER_NAME, FACT_TIMEOUT, METRIC_TTL, PING_INTERVAL, SECRET};

/// How many items a page has that the table gives.
const PAGE_ITEMS: usize = 500;

/// Equal seeds have equal peer ids.
pub(crate) fn keypair(seed: &str) -> Keypair {
    let mut bytes = [0; 32];
    for (at, byte) in seed.bytes().enumerate() {
        bytes[at % 32] ^= byte;
    }
    Keypair::ed25519_from_bytes(bytes).unwrap()
}

/// Where a host listens, with `/p2p/` and its id.
pub(crate) fn address(transport: &dyn PeerTransport) -> Multiaddr {
    format!("{}/p2p/{}", transport.listen_addresses()[0], transport.local_peer()).parse().unwrap()
}

/// Trusts everybody, or those in the list.
#[derive(Debug)]
pub(crate) struct Trust(pub(crate) Option<BTreeSet<PeerId>>);

impl Authorizer for Trust {
    fn is_trusted(&self, peer: &PeerId) -> bool {
        self.0.as_ref().is_none_or(|trusted| trusted.contains(peer))
    }
}

/// What a peer of ours answers.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) client: PeerClient,
    pub(crate) info: PeerInfo,
    pub(crate) pins: Vec<PinInfo>,
    pub(crate) repo_stat: RepoStat,
    pub(crate) repo_gc: RepoGc,
    pub(crate) swarm_peers: Vec<PeerId>,
    /// Calls in the order they came.
    pub(crate) calls: Mutex<Vec<Request>>,
    pub(crate) blocks: Mutex<Vec<Block>>,
}

impl Table {
    pub(crate) fn new(transport: &Arc<dyn PeerTransport>, name: &str) -> Self {
        let id = transport.local_peer();
        Self {
            client: PeerClient::new(transport.clone()),
            info: PeerInfo {
                id,
                addresses: Some(vec![address(transport)]),
                cluster_peers: Some(vec![id]),
                cluster_peers_addresses: None,
                version: "1.1.6".to_owned(),
                commit: String::new(),
                rpc_protocol_version: "/ipfscluster/1.0/rpc".to_owned(),
                error: String::new(),
                // A peer that knows neither its daemon nor why not is more than the reference's graph can draw.
                ipfs: IpfsId { error: "there is no daemon".to_owned(), ..IpfsId::default() },
                peername: name.to_owned(),
                pinset: PinsetStanding::Unknown,
            },
            pins: Vec::new(),
            repo_stat: RepoStat { repo_size: 1_234, storage_max: u64::MAX },
            repo_gc: RepoGc { peer: id, peername: name.to_owned(), keys: Vec::new(), error: String::new() },
            swarm_peers: Vec::new(),
            calls: Mutex::default(),
            blocks: Mutex::default(),
        }
    }

    /// Answers calls on this host from now on.
    pub(crate) fn serve(self, transport: &dyn PeerTransport, trust: Trust) -> Arc<Self> {
        let table = Arc::new(self);
        RpcServer::new(table.clone(), Arc::new(trust)).accept_on(transport).unwrap();
        table
    }

    fn pin(&self, cid: &Cid) -> Result<Reply> {
        let found = self.pins.iter().find(|info| info.cid == *cid);
        let missing = || Error::new(ErrorKind::NotFound, format!("{cid} is not in the table"));
        found.map(|info| Reply::Pin(Box::new(info.clone()))).ok_or_else(missing)
    }

    fn pages(&self, filter: StatusFilter) -> BoxStream<'static, Result<Page>> {
        let matching = self.pins.iter().filter(|info| filter.matches(info.status.status));
        let pins: Vec<PinInfo> = matching.cloned().collect();
        let pages: Vec<_> = pins.chunks(PAGE_ITEMS).map(|page| Ok(Page::Pins(page.to_vec()))).collect();
        stream::iter(pages).boxed()
    }
}

#[async_trait]
impl RequestHandler for Table {
    async fn call(&self, from: PeerId, request: Request) -> Result<Reply> {
        self.calls.lock().unwrap().push(request.clone());
        match request {
            Request::Id => Ok(Reply::Peer(Box::new(self.info.clone()))),
            Request::PeerAdd(peer) => {
                assert_eq!(peer, from, "a peer adds itself");
                let mut info = self.client.id(&peer).await?;
                info.cluster_peers.get_or_insert_default().push(self.info.id);
                Ok(Reply::Peer(Box::new(info)))
            }
            Request::Version => Ok(Reply::Version(Version { version: self.info.version.clone() })),
            Request::Status(cid) | Request::Recover(cid) | Request::RecoverLocal(cid) => self.pin(&cid),
            Request::RepoStat => Ok(Reply::RepoStat(self.repo_stat)),
            Request::RepoGcLocal => Ok(Reply::RepoGc(self.repo_gc.clone())),
            Request::SwarmPeers => Ok(Reply::Peers(self.swarm_peers.clone())),
            other => Err(Error::new(ErrorKind::Unsupported, format!("{other:?} is not in the table"))),
        }
    }

    async fn stream(&self, _from: PeerId, request: Request) -> Result<BoxStream<'static, Result<Page>>> {
        self.calls.lock().unwrap().push(request.clone());
        match request {
            Request::IdStream | Request::Peers => {
                Ok(stream::iter([Ok(Page::Peers(vec![self.info.clone()]))]).boxed())
            }
            Request::StatusAll(filter) => Ok(self.pages(filter)),
            Request::RecoverAllLocal => Ok(self.pages(StatusFilter::default())),
            other => Err(Error::new(ErrorKind::Unsupported, format!("{other:?} is not in the table"))),
        }
    }

    async fn put_blocks(&self, _from: PeerId, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        while let Some(block) = blocks.next().await {
            self.blocks.lock().unwrap().push(block?);
        }
        Ok(())
    }
}

/// A host in the tests' private network that looks for nobody.
pub(crate) async fn host(seed: &str) -> Arc<dyn PeerTransport> {
    host_with(seed, |_| {}).await
}

pub(crate) async fn host_with(seed: &str, change: impl FnOnce(&mut Libp2pConfig)) -> Arc<dyn PeerTransport> {
    let mut config = Libp2pConfig::loopback(Secret::from_bytes(SECRET));
    config.gossip.heartbeat_interval = Duration::from_millis(500);
    // A busy machine is no reason to give up.
    config.dial_timeout = FACT_TIMEOUT / 6;
    change(&mut config);
    Arc::new(Libp2pTransport::start(&Identity::from_keypair(keypair(seed)), config).await.unwrap())
}

/// Takes every message of a topic.
#[derive(Debug)]
pub(crate) struct TakeAll;

impl MessageValidator for TakeAll {
    fn validate(&self, _signer: &PeerId, _data: &[u8]) -> Verdict {
        Verdict::Accept
    }
}

/// A whole peer of ours: CRDT, bitswap, gossiped metrics, an IPFS daemon in memory.
#[derive(Debug)]
pub(crate) struct OurPeer {
    pub(crate) cluster: Cluster,
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) ipfs: MemoryIpfs,
}

/// What a whole peer begins with; equal to what `GoConfig::new` says.
#[derive(Clone, Debug)]
pub(crate) struct OurConfig {
    pub(crate) cluster: ClusterConfig,
    pub(crate) crdt: CrdtConfig,
}

/// A number of seconds as the reference writes it.
fn duration(text: &str) -> Duration {
    Duration::from_secs(text.strip_suffix('s').unwrap().parse().unwrap())
}

impl OurConfig {
    pub(crate) fn new(seed: &str) -> Self {
        let cluster = ClusterConfig {
            peername: seed.to_owned(),
            monitor_ping_interval: duration(PING_INTERVAL),
            ..ClusterConfig::default()
        };
        let mut crdt = CrdtConfig::default();
        crdt.cluster_name = CLUSTER_NAME.to_owned();
        crdt.rebroadcast_interval = Duration::from_secs(1);
        Self { cluster, crdt }
    }

    pub(crate) fn batching(mut self, pins: usize, age: Duration) -> Self {
        self.crdt.batching.max_batch_size = pins;
        self.crdt.batching.max_batch_age = age;
        self
    }
}

impl OurPeer {
    pub(crate) async fn start(config: OurConfig) -> Self {
        Self::start_on(config, MemoryStorage::new()).await
    }

    /// Goes on with what the storage has.
    pub(crate) async fn start_on(config: OurConfig, storage: impl Storage) -> Self {
        let OurConfig { cluster, crdt } = config;
        let transport = host(&cluster.peername).await;
        let ipfs = MemoryIpfs::new();
        let ttl = duration(METRIC_TTL);
        let cluster = Cluster::builder()
            .config(cluster)
            .storage(storage)
            .transport(transport.clone())
            .ipfs(ipfs.clone())
            .allocator(BalancedAllocator::by(["tag:group", "freespace"]))
            .stateless_tracker(StatelessConfig::default())
            .pubsub_monitor(MonitorConfig { check_interval: Duration::from_millis(500) })
            .informer_with(move |cx| {
                FreeSpace::new(FreeSpaceConfig { metric_ttl: ttl, ..Default::default() }, cx)
            })
            .informer_with(move |cx| Tags::new(TagsConfig { metric_ttl: ttl, ..Default::default() }, cx))
            .exchange_with(Bitswap::new)
            .consensus_with(move |cx| async move { Crdt::open(crdt, cx).await })
            .start()
            .await
            .unwrap();
        cluster.ready().await.unwrap();
        Self { cluster, transport, ipfs }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.transport.local_peer()
    }

    pub(crate) fn address(&self) -> Multiaddr {
        address(&self.transport)
    }

    /// Hands operations to its consensus as they are.
    pub(crate) async fn log_pins(&self, pins: &[Pin]) {
        let operations = pins.iter().map(|pin| PinOperation::Pin(Arc::new(pin.clone()))).collect();
        self.cluster.consensus().log_many(operations).await.unwrap();
    }

    pub(crate) async fn log_unpins(&self, cids: &[Cid]) {
        let operations = cids.iter().map(|cid| PinOperation::Unpin(*cid)).collect();
        self.cluster.consensus().log_many(operations).await.unwrap();
    }

    /// Its pinset, in order of CIDs' text.
    pub(crate) async fn state(&self) -> Vec<Pin> {
        let pages: Vec<Vec<Pin>> = self.cluster.pins(StateQuery::default()).try_collect().await.unwrap();
        let mut pins = pages.concat();
        pins.sort_by_key(|pin| pin.cid.to_string());
        pins
    }

    /// Ends it in order; the storage can be opened again.
    pub(crate) async fn stop(self) {
        self.cluster.shutdown().await;
    }
}
