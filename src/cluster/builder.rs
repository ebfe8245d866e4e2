//! Assembling a peer.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tracing::warn;

use super::hand_over;
use super::handler::Handler;
use super::leases::Leases;
use super::lifecycle::{self, Life};
use super::presets::Preset;
use super::repin::Witnesses;
use super::spool::SpoolRoom;
use super::summary::Looked;
use super::tasks::{self, Subscriptions, Wakes};
use super::watch::Hub;
use super::{Cluster, ClusterConfig, Inner, peers};
use crate::allocator::PinAllocator;
use crate::clock::{SystemClock, WallClock};
use crate::consensus::{Alive, Consensus, ConsensusContext, Solo, SoloConfig};
#[cfg(feature = "consensus-crdt")]
use crate::consensus::{Crdt, CrdtConfig};
#[cfg(feature = "consensus-etcd")]
use crate::consensus::{Etcd, EtcdConfig};
#[cfg(feature = "consensus-raft")]
use crate::consensus::{Raft, RaftConfig};
use crate::error::{Error, Result};
use crate::exchange::{Bitswap, BlockExchange, BlockSource, ExchangeMaker};
use crate::informer::{Gauge, Informer, InformerContext};
use crate::ipfs_connector::IpfsConnector;
use crate::monitor::{LocalMonitor, Monitor, MonitorConfig, MonitorContext, PubSubMonitor};
use crate::rpc::{Method, PeerClient, RpcServer};
use crate::state::StoreState;
use crate::storage::Storage;
use crate::tracker::{PinTracker, StatelessConfig, StatelessTracker, TrackerContext};
use crate::transport::{MemoryNetwork, PeerTransport};
use crate::types::PeerId;

type Made<T> = Pin<Box<dyn Future<Output = Result<Arc<T>>> + Send>>;
type Maker<Cx, T> = Box<dyn FnOnce(Cx) -> Made<T> + Send>;
type ExchangeOver =
    Box<dyn Fn(Arc<dyn PeerTransport>, Arc<dyn BlockSource>) -> Result<Arc<dyn BlockExchange>> + Send + Sync>;
type InformerMaker = Box<dyn FnOnce(InformerContext) -> Result<Arc<dyn Informer>> + Send>;

/// Assembles a peer: finished components by `x(…)`, components that need the running peer by `x_with(|cx| …)`.
///
/// A component given twice replaces the first; informers add up. What is missing is named by [`ClusterBuilder::start`].
#[derive(Default)]
pub struct ClusterBuilder {
    config: ClusterConfig,
    peer: Option<PeerId>,
    clock: Option<Arc<dyn WallClock>>,
    storage: Option<Arc<dyn Storage>>,
    transport: Option<Arc<dyn PeerTransport>>,
    ipfs: Option<Arc<dyn IpfsConnector>>,
    allocator: Option<Arc<dyn PinAllocator>>,
    consensus: Option<Maker<ConsensusContext, dyn Consensus>>,
    tracker: Option<Maker<TrackerContext, dyn PinTracker>>,
    monitor: Option<Maker<MonitorContext, dyn Monitor>>,
    exchange: Option<ExchangeOver>,
    seed: Option<u64>,
    refused_calls: Vec<Method>,
    is_follower: bool,
    informers: Vec<InformerMaker>,
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl ClusterBuilder {
    /// Makes the choices of a preset.
    #[must_use]
    pub fn preset(self, preset: impl Preset) -> Self {
        preset.apply(self)
    }

    /// What the peer is told about itself.
    #[must_use]
    pub fn config(mut self, config: ClusterConfig) -> Self {
        self.config = config;
        self
    }

    /// The name shown to people.
    #[must_use]
    pub fn peername(mut self, name: impl Into<String>) -> Self {
        self.config.peername = name.into();
        self
    }

    /// Refuses writes and answers about this peer only, whatever [`ClusterBuilder::config`] says before or after.
    #[must_use]
    pub fn follower_mode(mut self) -> Self {
        self.is_follower = true;
        self
    }

    /// Who the peer is, where no transport says so. Without either, a new identity is made.
    #[must_use]
    pub fn peer(mut self, peer: PeerId) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The time of day; the system's without this.
    #[must_use]
    pub fn clock(mut self, clock: impl WallClock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Where the peer keeps its records. Closed when the peer stops.
    #[must_use]
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// How the peer reaches others; without this, an in-memory network of its own.
    #[must_use]
    pub fn transport(mut self, transport: impl PeerTransport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// The IPFS daemon beside the peer.
    #[must_use]
    pub fn ipfs(mut self, ipfs: impl IpfsConnector) -> Self {
        self.ipfs = Some(Arc::new(ipfs));
        self
    }

    /// Who chooses the peers that hold a pin.
    #[must_use]
    pub fn allocator(mut self, allocator: impl PinAllocator) -> Self {
        self.allocator = Some(Arc::new(allocator));
        self
    }

    /// A finished consensus component.
    #[must_use]
    pub fn consensus(self, consensus: impl Consensus) -> Self {
        self.consensus_with(move |_| async move { Ok(consensus) })
    }

    /// A consensus component that needs its peer.
    #[must_use]
    pub fn consensus_with<C, F, Fut>(mut self, make: F) -> Self
    where
        C: Consensus,
        F: FnOnce(ConsensusContext) -> Fut + Send + 'static,
        Fut: Future<Output = Result<C>> + Send + 'static,
    {
        self.consensus = Some(Box::new(move |cx| {
            let made = make(cx);
            Box::pin(async move { Ok(Arc::new(made.await?) as Arc<dyn Consensus>) })
        }));
        self
    }

    /// A cluster of one.
    #[must_use]
    pub fn solo(self, config: SoloConfig) -> Self {
        self.consensus_with(move |cx| Solo::open(config, cx))
    }

    /// Peers that agree by a Merkle-CRDT, as those of the reference do.
    #[cfg(feature = "consensus-crdt")]
    #[must_use]
    pub fn crdt(self, config: CrdtConfig) -> Self {
        self.consensus_with(move |cx| Crdt::open(config, cx))
    }

    /// Peers that agree on one order, with a leader.
    #[cfg(feature = "consensus-raft")]
    #[must_use]
    pub fn raft(self, config: RaftConfig) -> Self {
        self.consensus_with(move |cx| Raft::open(config, cx))
    }

    /// Peers that agree through an etcd that runs already.
    #[cfg(feature = "consensus-etcd")]
    #[must_use]
    pub fn etcd(self, config: EtcdConfig) -> Self {
        self.consensus_with(move |cx| Etcd::open(config, cx))
    }

    /// A finished tracker.
    #[must_use]
    pub fn tracker(self, tracker: impl PinTracker) -> Self {
        self.tracker_with(move |_| async move { Ok(tracker) })
    }

    /// A tracker that needs its peer.
    #[must_use]
    pub fn tracker_with<T, F, Fut>(mut self, make: F) -> Self
    where
        T: PinTracker,
        F: FnOnce(TrackerContext) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.tracker = Some(Box::new(move |cx| {
            let made = make(cx);
            Box::pin(async move { Ok(Arc::new(made.await?) as Arc<dyn PinTracker>) })
        }));
        self
    }

    /// The tracker that remembers only what runs and what failed.
    #[must_use]
    pub fn stateless_tracker(self, config: StatelessConfig) -> Self {
        self.tracker_with(move |cx| async move { StatelessTracker::new(config, cx) })
    }

    /// A finished monitor.
    #[must_use]
    pub fn monitor(self, monitor: impl Monitor) -> Self {
        self.monitor_with(move |_| async move { Ok(monitor) })
    }

    /// A monitor that needs its peer.
    #[must_use]
    pub fn monitor_with<M, F, Fut>(mut self, make: F) -> Self
    where
        M: Monitor,
        F: FnOnce(MonitorContext) -> Fut + Send + 'static,
        Fut: Future<Output = Result<M>> + Send + 'static,
    {
        self.monitor = Some(Box::new(move |cx| {
            let made = make(cx);
            Box::pin(async move { Ok(Arc::new(made.await?) as Arc<dyn Monitor>) })
        }));
        self
    }

    /// The monitor of a cluster of one.
    #[must_use]
    pub fn local_monitor(self, config: MonitorConfig) -> Self {
        self.monitor_with(move |cx| async move { LocalMonitor::new(config, cx) })
    }

    /// The monitor that tells this peer's metrics to the others.
    #[must_use]
    pub fn pubsub_monitor(self, config: MonitorConfig) -> Self {
        self.monitor_with(move |cx| async move { PubSubMonitor::new(config, cx) })
    }

    /// How blocks travel between peers, for a consensus that has blocks: it calls this with those it serves. Without
    /// this, bitswap, which peers of the reference understand.
    #[must_use]
    pub fn exchange_with<E, F>(mut self, make: F) -> Self
    where
        E: BlockExchange,
        F: Fn(Arc<dyn PeerTransport>, Arc<dyn BlockSource>) -> Result<E> + Send + Sync + 'static,
    {
        self.exchange = Some(Box::new(move |transport, source| Ok(Arc::new(make(transport, source)?) as _)));
        self
    }

    /// Closes these calls to every other peer, trusted or not; a follower's daemon may collect no garbage for others.
    #[must_use]
    pub fn refuse_calls(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.refused_calls.extend(methods);
        self
    }

    /// What the randomness of the peer starts from, so that a test can have the same again; the system's without this.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// One more finished informer.
    #[must_use]
    pub fn informer(self, informer: impl Informer) -> Self {
        self.informer_with(move |_| Ok(informer))
    }

    /// One more informer that needs its peer.
    #[must_use]
    pub fn informer_with<I, F>(mut self, make: F) -> Self
    where
        I: Informer,
        F: FnOnce(InformerContext) -> Result<I> + Send + 'static,
    {
        self.informers.push(Box::new(move |cx| Ok(Arc::new(make(cx)?) as Arc<dyn Informer>)));
        self
    }

    /// Takes back every informer given so far, those of presets included.
    #[must_use]
    pub fn no_informers(mut self) -> Self {
        self.informers.clear();
        self
    }

    /// Starts the peer. It accepts calls when this returns; [`Cluster::ready`] waits for its daemon.
    ///
    /// # Errors
    /// `InvalidInput` that names what is missing or wrong; whatever a component fails with. What was started until
    /// then is stopped again.
    pub async fn start(self) -> Result<Cluster> {
        self.config.validate()?;
        let missing = |what: &str, how: &str| {
            Error::invalid_input(format!("a cluster peer needs {what}: give one with {how}, or use a preset"))
                .component("cluster")
        };
        let storage = self.storage.ok_or_else(|| missing("a storage", "ClusterBuilder::storage"))?;
        let ipfs = self.ipfs.ok_or_else(|| missing("an IPFS connector", "ClusterBuilder::ipfs"))?;
        let allocator = self.allocator.ok_or_else(|| missing("an allocator", "ClusterBuilder::allocator"))?;
        let make_consensus =
            self.consensus.ok_or_else(|| missing("a consensus", "ClusterBuilder::consensus_with"))?;
        let make_tracker =
            self.tracker.ok_or_else(|| missing("a tracker", "ClusterBuilder::tracker_with"))?;
        let make_monitor =
            self.monitor.ok_or_else(|| missing("a monitor", "ClusterBuilder::monitor_with"))?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let reachable = self.transport.is_some();
        let transport = match self.transport {
            Some(transport) => transport,
            None => {
                let peer = self
                    .peer
                    .unwrap_or_else(|| libp2p_identity::Keypair::generate_ed25519().public().to_peer_id());
                Arc::new(MemoryNetwork::new(0).join(peer)?) as Arc<dyn PeerTransport>
            }
        };
        let peer = transport.local_peer();
        if self.peer.is_some_and(|asked| asked != peer) {
            return Err(Error::invalid_input("the transport has another peer id than the one given")
                .component("cluster"));
        }
        let mut config = self.config;
        if config.peername.is_empty() {
            config.peername = peer.to_string();
        }
        config.follower_mode |= self.is_follower;

        let mut started = Started { storage, ipfs, transport, consensus: None, tracker: None, monitor: None };
        let parts = Parts {
            config,
            clock,
            reachable,
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one("seed")),
            allocator,
            make_monitor,
            make_consensus,
            make_tracker,
            refused_calls: self.refused_calls,
            make_exchange: self.exchange.unwrap_or_else(|| Box::new(bitswap)),
            informers: self.informers,
        };
        match parts.assemble(peer, &mut started).await {
            Ok(cluster) => Ok(cluster),
            Err(error) => {
                started.undo().await;
                Err(error)
            }
        }
    }
}

fn bitswap(
    transport: Arc<dyn PeerTransport>,
    source: Arc<dyn BlockSource>,
) -> Result<Arc<dyn BlockExchange>> {
    Ok(Arc::new(Bitswap::new(transport, source)?))
}

/// What a peer is made of, when nothing is missing.
struct Parts {
    config: ClusterConfig,
    clock: Arc<dyn WallClock>,
    reachable: bool,
    seed: u64,
    refused_calls: Vec<Method>,
    allocator: Arc<dyn PinAllocator>,
    make_monitor: Maker<MonitorContext, dyn Monitor>,
    make_consensus: Maker<ConsensusContext, dyn Consensus>,
    make_tracker: Maker<TrackerContext, dyn PinTracker>,
    make_exchange: ExchangeOver,
    informers: Vec<InformerMaker>,
}

impl Parts {
    async fn assemble(self, peer: PeerId, started: &mut Started) -> Result<Cluster> {
        let Started { storage, ipfs, transport, .. } = &*started;
        let (storage, ipfs, transport) = (Arc::clone(storage), Arc::clone(ipfs), Arc::clone(transport));
        let Self { config, clock, .. } = self;

        // First who lives, because that is who the members are for some kinds of consensus.
        let monitor_cx = MonitorContext::new(peer, Arc::clone(&transport), Arc::clone(&clock));
        let monitor = Arc::clone(started.monitor.insert((self.make_monitor)(monitor_cx).await?));
        let pinset = Arc::new(StoreState::open(Arc::clone(&storage)).await?);
        let mut consensus_cx = ConsensusContext::new(
            peer,
            Arc::clone(&storage),
            pinset,
            Arc::clone(&transport),
            Arc::clone(&clock),
        );
        let (pings, streams) = (Arc::clone(&monitor), Arc::clone(&transport));
        consensus_cx.alive =
            Alive::new(move || pings.latest("ping").into_iter().map(|ping| ping.peer).collect());
        consensus_cx.exchange =
            ExchangeMaker::new(move |source| (self.make_exchange)(Arc::clone(&streams), source));
        consensus_cx.seed = self.seed;
        let consensus = Arc::clone(started.consensus.insert((self.make_consensus)(consensus_cx).await?));
        let state = consensus.state();
        let tracker_cx = TrackerContext::new(
            peer,
            config.peername.clone(),
            Arc::clone(&ipfs),
            Arc::clone(&state),
            Arc::clone(&clock),
        );
        #[cfg(feature = "add")]
        let (adds, broken_adds) = super::add::Adds::open(Arc::clone(&storage)).await?;
        // Subscribe before anything can change the pinset through us.
        let (hand_over, turns) = hand_over::channel();
        let subscriptions = Subscriptions {
            state: consensus.events(),
            turns,
            monitor: monitor.events(),
            #[cfg(feature = "add")]
            broken_adds,
        };
        let tracker = Arc::clone(started.tracker.insert((self.make_tracker)(tracker_cx).await?));
        let mut informer_cx = InformerContext::new(peer, Arc::clone(&ipfs), Arc::clone(&clock));
        let queue = Arc::clone(&tracker);
        informer_cx.queue_length = Gauge::new(move || queue.counts().queued());
        let pins = Arc::clone(&state);
        informer_cx.pin_count = Gauge::new(move || pins.counts().pins);
        let informers: Result<Vec<_>> =
            self.informers.into_iter().map(|make| make(informer_cx.clone())).collect();

        let life = Arc::new(Life::new());
        let watch = Arc::new(Hub::new(peer, self.seed, Arc::clone(&clock)));
        let alive = life.cancel.clone().drop_guard();
        let inner = Arc::new(Inner {
            peer,
            config,
            clock,
            client: PeerClient::new(Arc::clone(&transport)),
            spools: SpoolRoom::new(Arc::clone(&storage)),
            leases: Leases::open(Arc::clone(&storage)).await?,
            storage,
            transport,
            reachable: self.reachable,
            consensus,
            hand_over,
            state,
            tracker,
            allocator: self.allocator,
            monitor,
            ipfs,
            informers: informers?,
            alerts: peers::AlertLog::default(),
            last_ipfs: Mutex::default(),
            witnesses: Witnesses::default(),
            watch,
            looked: Looked::default(),
            wakes: Wakes::default(),
            #[cfg(feature = "add")]
            adds,
            life,
        });
        // From here on others may call; whatever they change, the subscriptions hear of.
        let handler = Arc::new(Handler::new(&inner));
        RpcServer::refusing(Arc::clone(&handler) as _, handler, self.refused_calls)
            .accept_on(&*inner.transport)?;
        let tasks = tasks::all(&inner, subscriptions);
        tokio::spawn(lifecycle::supervise(Arc::clone(&inner), tasks));
        Ok(Cluster { inner, _alive: Arc::new(alive) })
    }
}

/// What was started, to be stopped again when something after it fails.
struct Started {
    storage: Arc<dyn Storage>,
    ipfs: Arc<dyn IpfsConnector>,
    transport: Arc<dyn PeerTransport>,
    consensus: Option<Arc<dyn Consensus>>,
    tracker: Option<Arc<dyn PinTracker>>,
    monitor: Option<Arc<dyn Monitor>>,
}

impl Started {
    /// Stops everything, in the order of a peer that stops.
    async fn undo(self) {
        if let Some(tracker) = self.tracker {
            stop_quietly("tracker", tracker.shutdown()).await;
        }
        if let Some(consensus) = self.consensus {
            stop_quietly("consensus", consensus.shutdown()).await;
        }
        if let Some(monitor) = self.monitor {
            stop_quietly("monitor", monitor.shutdown()).await;
        }
        stop_quietly("connector", self.ipfs.shutdown()).await;
        stop_quietly("transport", self.transport.shutdown()).await;
        stop_quietly("storage", crate::storage::run(self.storage, |storage| storage.close())).await;
    }
}

async fn stop_quietly(component: &str, stop: impl Future<Output = Result<()>>) {
    if let Err(error) = stop.await {
        warn!(component, %error, "did not stop cleanly after a failed start");
    }
}
