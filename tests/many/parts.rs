//! Peers of one cluster in one process, and what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use ipfs_cluster::Result;
use ipfs_cluster::allocator::BalancedAllocator;
use ipfs_cluster::clock::{TokioClock, WallClock as _};
use ipfs_cluster::cluster::{Cluster, ClusterBuilder, ClusterConfig, presets};
use ipfs_cluster::consensus::{
    Alive, Consensus, ConsensusCapabilities, ConsensusContext, Solo, SoloConfig, StateEvent,
};
use ipfs_cluster::ipfs_connector::{MemoryIpfs, MemoryIpfsConfig, MemorySwarm};
use ipfs_cluster::monitor::{Monitor as _, MonitorConfig, MonitorContext, PubSubMonitor};
use ipfs_cluster::rpc::{Authorizer, Method, Page, RPC_PROTOCOL, Reply, Request, RequestHandler, RpcServer};
use ipfs_cluster::state::StateReader;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::testing::faulty_ipfs::FaultyIpfs;
use ipfs_cluster::testing::peer;
use ipfs_cluster::transport::{MemoryNetwork, MemoryTransport, PeerTransport as _, Protocol};
use ipfs_cluster::types::{
    Block, Cid, IpfsId, Metric, PeerId, PeerInfo, Pin, PinInfo, PinOperation, PinsetStanding, Timestamp,
};
use tokio::time::Instant;

/// What every peer of a test logs comes to the pinsets of all of them at once, whatever becomes of the network.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedLog(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    members: BTreeMap<PeerId, Arc<Solo>>,
    /// Who logged what, in order.
    logged: Vec<(PeerId, PinOperation)>,
    distrusted: BTreeSet<PeerId>,
    /// Where members are added and removed: who is one.
    roll: Option<BTreeSet<PeerId>>,
}

impl SharedLog {
    pub(crate) async fn open(self, cx: ConsensusContext) -> Result<Shares> {
        let (peer, alive) = (cx.peer, cx.alive.clone());
        let own = Arc::new(Solo::open(SoloConfig::default(), cx).await?);
        self.0.lock().unwrap().members.insert(peer, Arc::clone(&own));
        Ok(Shares { log: self, peer, alive, own })
    }

    /// Who logged what since this was last asked.
    pub(crate) fn take(&self) -> Vec<(PeerId, PinOperation)> {
        std::mem::take(&mut self.0.lock().unwrap().logged)
    }

    /// Members are added and removed from now on; these are.
    pub(crate) fn call_the_roll(&self, members: impl IntoIterator<Item = PeerId>) {
        self.0.lock().unwrap().roll = Some(members.into_iter().collect());
    }

    fn roll(&self) -> Option<BTreeSet<PeerId>> {
        self.0.lock().unwrap().roll.clone()
    }

    /// Nobody trusts this peer from now on.
    pub(crate) fn distrust(&self, peer: PeerId) {
        self.0.lock().unwrap().distrusted.insert(peer);
    }
}

/// One peer's part in a [`SharedLog`]. Members are whoever lives.
#[derive(Debug)]
pub(crate) struct Shares {
    log: SharedLog,
    peer: PeerId,
    alive: Alive,
    own: Arc<Solo>,
}

impl Shares {
    /// Logs at everybody else's.
    async fn others(&self, operations: &[PinOperation]) {
        let members = {
            let mut shared = self.log.0.lock().unwrap();
            shared.logged.extend(operations.iter().map(|operation| (self.peer, operation.clone())));
            shared.members.clone()
        };
        for (_, member) in members.into_iter().filter(|(peer, _)| *peer != self.peer) {
            // Some were shut down.
            let _ = member.log_many(operations.to_vec()).await;
        }
    }
}

#[async_trait]
impl Consensus for Shares {
    fn capabilities(&self) -> ConsensusCapabilities {
        let mut can = ConsensusCapabilities::default();
        can.trust = true;
        can.membership_changes = self.log.roll().is_some();
        can
    }
    async fn ready(&self) -> Result<()> {
        self.own.ready().await
    }
    async fn log_pin(&self, pin: Pin) -> Result<()> {
        self.own.log_pin(pin.clone()).await?;
        self.others(&[PinOperation::Pin(pin.into())]).await;
        Ok(())
    }
    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        let unpinned = self.own.log_unpin(cid).await?;
        self.others(&[PinOperation::Unpin(*cid)]).await;
        Ok(unpinned)
    }
    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        self.own.log_many(operations.clone()).await?;
        self.others(&operations).await;
        Ok(())
    }
    fn state(&self) -> Arc<dyn StateReader> {
        self.own.state()
    }
    async fn synchronize(&self) -> Result<()> {
        self.own.synchronize().await
    }
    fn events(&self) -> BoxStream<'static, StateEvent> {
        self.own.events()
    }
    async fn peers(&self) -> Result<Vec<PeerId>> {
        if let Some(roll) = self.log.roll() {
            return Ok(roll.into_iter().collect());
        }
        let members: BTreeSet<_> = self.alive.peers().into_iter().chain([self.peer]).collect();
        Ok(members.into_iter().collect())
    }
    async fn add_peer(&self, peer: &PeerId) -> Result<()> {
        if let Some(roll) = &mut self.log.0.lock().unwrap().roll {
            roll.insert(*peer);
            return Ok(());
        }
        self.own.add_peer(peer).await
    }
    async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        if let Some(roll) = &mut self.log.0.lock().unwrap().roll {
            roll.remove(peer);
            return Ok(());
        }
        self.own.remove_peer(peer).await
    }
    async fn leader(&self) -> Result<Option<PeerId>> {
        self.own.leader().await
    }
    fn is_trusted(&self, peer: &PeerId) -> bool {
        *peer == self.peer || !self.log.0.lock().unwrap().distrusted.contains(peer)
    }
    async fn trust(&self, peer: &PeerId) -> Result<()> {
        self.own.trust(peer).await
    }
    async fn distrust(&self, peer: &PeerId) -> Result<()> {
        self.own.distrust(peer).await
    }
    async fn clean(&self) -> Result<()> {
        self.own.clean().await
    }
    async fn shutdown(&self) -> Result<()> {
        self.own.shutdown().await
    }
}

/// One peer with its daemon.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: PeerId,
    pub(crate) cluster: Cluster,
    pub(crate) ipfs: MemoryIpfs,
    pub(crate) faults: FaultyIpfs,
}

/// Peers with their daemons in one network.
pub(crate) struct Peers {
    pub(crate) network: MemoryNetwork,
    pub(crate) log: SharedLog,
    pub(crate) clock: TokioClock,
    pub(crate) members: Vec<Member>,
    swarm: MemorySwarm,
}

/// Any day will do.
pub(crate) fn today() -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000)
}

pub(crate) fn config() -> ClusterConfig {
    ClusterConfig { disable_repinning: false, ..ClusterConfig::default() }
}

impl Peers {
    pub(crate) fn none() -> Self {
        let network = MemoryNetwork::new(0);
        network.set_delay(Duration::from_millis(5));
        let clock = TokioClock::starting_at(today());
        Self { network, log: SharedLog::default(), clock, members: Vec::new(), swarm: MemorySwarm::default() }
    }

    /// So many peers that all know each other, and whose daemons are connected. Each has 10 GB more than the next.
    pub(crate) async fn start(count: u16) -> Self {
        Self::start_with(count, |_| config()).await
    }

    pub(crate) async fn start_with(count: u16, config: impl Fn(usize) -> ClusterConfig) -> Self {
        let mut peers = Self::none();
        for number in 0..usize::from(count) {
            peers.add(config(number)).await;
        }
        peers.meet().await;
        for (number, one) in peers.members.iter().enumerate() {
            for other in &peers.members[..number] {
                one.ipfs.connect(&other.ipfs);
            }
        }
        peers
    }

    /// Starts one more peer, which knows nobody.
    pub(crate) async fn add(&mut self, config: ClusterConfig) -> Member {
        self.add_built(config, |builder| builder).await
    }

    pub(crate) async fn add_built(
        &mut self,
        config: ClusterConfig,
        change: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Member {
        let number = self.members.len() as u64;
        let id = peer(number);
        let ipfs = MemoryIpfs::with_config(MemoryIpfsConfig {
            number: number as u16,
            storage_max: (100 - number) * 10_000_000_000,
            swarm: self.swarm.clone(),
            ..MemoryIpfsConfig::default()
        });
        let faults = FaultyIpfs::new(ipfs.clone());
        let log = self.log.clone();
        let builder = Cluster::builder()
            .preset(presets::Solo)
            .config(config)
            .peername(format!("peer-{number}"))
            .clock(self.clock)
            .seed(number)
            .transport(self.network.join(id).unwrap())
            .storage(MemoryStorage::new())
            .ipfs(faults.clone())
            .pubsub_monitor(MonitorConfig::default())
            .allocator(BalancedAllocator::by(["freespace"]))
            .consensus_with(move |cx| log.open(cx));
        let cluster = change(builder).start().await.unwrap();
        cluster.ready().await.unwrap();
        let member = Member { id, cluster, ipfs, faults };
        self.members.push(member.clone());
        member
    }

    /// Lets everybody join through everybody before, and waits until all see all.
    pub(crate) async fn meet(&self) {
        for (number, member) in self.members.iter().enumerate() {
            for other in &self.members[..number] {
                let address = other.cluster.id().await.addresses.unwrap();
                member.cluster.join(&address).await.unwrap();
            }
        }
        let all = self.members.len();
        for member in &self.members {
            until("everybody's metrics are everywhere", || async {
                member.cluster.metrics("ping").len() == all
                    && member.cluster.metrics("freespace").len() == all
            })
            .await;
        }
    }

    /// Ends a peer without a word to the others, as if its machine went down.
    pub(crate) async fn kill(&self, number: usize) {
        let Member { id, cluster, .. } = &self.members[number];
        self.network.crash(*id);
        // Left alone it would go on by itself.
        cluster.shutdown().await;
    }
}

/// Waits for a fact, at most an hour of paused time.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut fact: impl FnMut() -> F) {
    let begin = Instant::now();
    while !fact().await {
        assert!(begin.elapsed() < Duration::from_secs(3600), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A peer of another program: it speaks the reference's calls alone, and lists in an order of its own.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) id: PeerId,
    pub(crate) pins: Vec<PinInfo>,
    /// Whether it knows the calls that are ours.
    pub(crate) knows_ours: bool,
    /// How often each call came.
    pub(crate) calls: Arc<Mutex<BTreeMap<Method, usize>>>,
}

impl Foreign {
    /// One that knows no call of ours.
    pub(crate) fn new(id: PeerId, pins: Vec<PinInfo>) -> Self {
        Self { id, pins, knows_ours: false, calls: Arc::default() }
    }

    /// Brings it in. It lives as long as what this returns.
    pub(crate) async fn start(self, peers: &Peers) -> (Arc<MemoryTransport>, PubSubMonitor) {
        let transport = Arc::new(peers.network.join(self.id).unwrap());
        let cx = MonitorContext::new(self.id, Arc::clone(&transport) as _, Arc::new(peers.clock));
        let monitor = PubSubMonitor::new(MonitorConfig::default(), cx).unwrap();
        let id = self.id;
        let handler = Arc::new(self);
        let server = RpcServer::new(Arc::clone(&handler) as _, Arc::clone(&handler) as _);
        if handler.knows_ours {
            server.accept_on(&*transport).unwrap();
        } else {
            transport.accept(Protocol::new(RPC_PROTOCOL), Arc::new(server)).unwrap();
        }
        for member in &peers.members {
            let address = member.cluster.id().await.addresses.unwrap().remove(0);
            transport.connect(&address).await.unwrap();
        }
        let ping = Metric {
            name: "ping".into(),
            peer: id,
            value: r#"{"peer_name":"foreign"}"#.into(),
            expire: (peers.clock.now() + Duration::from_secs(3600)).unix_nanoseconds(),
            valid: true,
            weight: 0,
            partitionable: false,
            received_at: 0,
        };
        monitor.publish(ping).await.unwrap();
        for member in &peers.members {
            until("the foreign peer is a member", || async {
                member.cluster.metrics("ping").iter().any(|ping| ping.peer == id)
            })
            .await;
        }
        (transport, monitor)
    }
}

impl Foreign {
    fn note(&self, request: &Request) {
        *self.calls.lock().unwrap().entry(request.method()).or_default() += 1;
    }
}

impl Authorizer for Foreign {
    fn is_trusted(&self, _: &PeerId) -> bool {
        true
    }
}

#[async_trait]
impl RequestHandler for Foreign {
    async fn call(&self, _from: PeerId, request: Request) -> Result<Reply> {
        self.note(&request);
        match request {
            Request::Status(cid) => {
                let found = self.pins.iter().find(|info| info.cid == cid);
                let found = found.cloned().ok_or_else(|| ipfs_cluster::Error::not_found("not here"))?;
                Ok(Reply::Pin(Box::new(found)))
            }
            _ => Err(ipfs_cluster::Error::internal("not in this test")),
        }
    }

    async fn stream(&self, _from: PeerId, request: Request) -> Result<BoxStream<'static, Result<Page>>> {
        self.note(&request);
        Ok(match request {
            Request::IdStream => {
                let info = PeerInfo {
                    id: self.id,
                    addresses: None,
                    cluster_peers: None,
                    cluster_peers_addresses: None,
                    version: "1.1.6".into(),
                    commit: String::new(),
                    rpc_protocol_version: RPC_PROTOCOL.into(),
                    error: String::new(),
                    ipfs: IpfsId { error: "no daemon".into(), ..IpfsId::default() },
                    peername: "foreign".into(),
                    pinset: PinsetStanding::Unknown,
                };
                stream::iter([Ok(Page::Peers(vec![info]))]).boxed()
            }
            Request::StatusOf(cids) => {
                // One that breaks off at what it does not know.
                let found = |cid: &Cid| self.pins.iter().find(|info| info.cid == *cid).cloned();
                let known: Vec<_> = cids.iter().map_while(found).collect();
                let failed = (known.len() < cids.len()).then(|| Err(ipfs_cluster::Error::not_found("gone")));
                stream::iter([Ok(Page::Pins(known))].into_iter().chain(failed)).boxed()
            }
            Request::StatusAll(_) | Request::RecoverAllLocal => {
                let pages: Vec<_> = self.pins.chunks(7).map(|page| Ok(Page::Pins(page.to_vec()))).collect();
                stream::iter(pages).boxed()
            }
            _ => stream::iter([Err(ipfs_cluster::Error::internal("not in this test"))]).boxed(),
        })
    }

    async fn put_blocks(&self, _: PeerId, _: BoxStream<'static, Result<Block>>) -> Result<()> {
        Ok(())
    }
}
