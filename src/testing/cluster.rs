//! Whole peers in one process, with everything around them in the hands of a test.
//!
//! Each peer is a [`Cluster`] as applications use it. Around it are fakes that can be broken: one
//! [`MemoryNetwork`], and for each peer a [`CrashStorage`], a [`TestDaemon`] and a [`TestClock`]. On a current-thread
//! runtime with paused time the same calls on the same seed give the same run.
//!
//! ```text
//! #[tokio::test(start_paused = true)]
//! async fn a_pin_reaches_the_peer_that_was_away() {
//!     let mut peers = TestCluster::start(3).await.unwrap();
//!     peers.partition(0, 2);
//!     …
//!     peers.heal();
//!     peers.wait_converged().await.unwrap();
//! }
//! ```

mod clock;
mod daemon;
mod disk;
#[cfg(feature = "consensus-raft")]
mod members;
mod plain;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::daemon::DaemonLink;
use self::plain::PlainTransport;
use super::random::Random;
use super::{CrashStorage, peer};
use crate::cluster::{Cluster, ClusterBuilder, ClusterConfig, StopReason, presets};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::MemorySwarm;
use crate::monitor::MonitorConfig;
use crate::state::StateCounts;
use crate::transport::{MemoryNetwork, MemoryTransport, PeerTransport as _};
use crate::types::{Cid, Multiaddr, PeerId, Timestamp, TrackerStatus};

pub use clock::TestClock;
pub use daemon::{DaemonManners, TestDaemon};
pub use disk::{DiskTrouble, TestDisk};

/// Any day will do.
const EPOCH_UNIX_SECONDS: i64 = 1_800_000_000;
/// How often a peer dials those it is not connected to.
const REDIAL_INTERVAL: Duration = Duration::from_secs(2);
/// How often a fact is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long a fact is waited for, in the peers' time.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

type Assemble = dyn Fn(usize, ClusterBuilder) -> ClusterBuilder + Send + Sync;

/// What a [`TestCluster`] is made from.
#[derive(Clone)]
pub struct TestClusterConfig {
    /// How many peers.
    pub peers: usize,
    /// How many of them, the last ones, are in follower mode.
    pub followers: usize,
    /// What everything random starts from.
    pub seed: u64,
    /// What each peer is told about itself; it gets a name of its own.
    pub cluster: ClusterConfig,
    /// How long anything travels between two peers.
    pub delay: Duration,
    /// How the daemons behave.
    pub daemons: DaemonManners,
    /// Peers that are not there yet: [`TestCluster::restart`] brings them in, with nothing on their disks.
    pub absent: BTreeSet<usize>,
    /// Peers that catch up only by walking, as those of the reference, and let nobody catch up otherwise.
    pub walkers: BTreeSet<usize>,
    /// Chooses what is not chosen yet, or otherwise: given the peer's index, and its builder with storage, network,
    /// daemon and clock in place.
    pub assemble: Arc<Assemble>,
    /// The peers agree by Raft, whatever `assemble` chose. Those that are there from the beginning found the cluster;
    /// those that come later, and those that were wiped, wait for a member to add them ([`Cluster::add_peer`]). Who the
    /// first members are, and whether a peer waits, is filled in.
    #[cfg(feature = "consensus-raft")]
    pub raft: Option<crate::consensus::RaftConfig>,
}

impl Default for TestClusterConfig {
    /// One peer on good hardware, alone. With the feature `consensus-crdt` more of them agree by the CRDT and trust each
    /// other; without it each is a cluster of its own.
    fn default() -> Self {
        Self {
            peers: 1,
            followers: 0,
            seed: 0,
            cluster: ClusterConfig::default(),
            delay: Duration::from_millis(10),
            daemons: DaemonManners::default(),
            absent: BTreeSet::new(),
            walkers: BTreeSet::new(),
            assemble: Arc::new(|_, builder| agreeing(builder)),
            #[cfg(feature = "consensus-raft")]
            raft: None,
        }
    }
}

#[cfg(feature = "consensus-crdt")]
fn agreeing(builder: ClusterBuilder) -> ClusterBuilder {
    use crate::consensus::{Crdt, CrdtConfig};
    builder.consensus_with(|cx| Crdt::open(CrdtConfig::default(), cx))
}

#[cfg(not(feature = "consensus-crdt"))]
fn agreeing(builder: ClusterBuilder) -> ClusterBuilder {
    builder
}

impl fmt::Debug for TestClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClusterConfig")
            .field("peers", &self.peers)
            .field("seed", &self.seed)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// Several peers and their surroundings.
#[derive(Debug)]
pub struct TestCluster {
    config: TestClusterConfig,
    network: MemoryNetwork,
    random: Random,
    seats: Vec<Seat>,
}

/// A peer's place, which stays when the peer is down.
#[derive(Debug)]
struct Seat {
    id: PeerId,
    daemon: TestDaemon,
    clock: TestClock,
    disk: TestDisk,
    storage: Arc<CrashStorage>,
    /// Whether it founds nothing, but waits for a member to add it.
    #[cfg(feature = "consensus-raft")]
    joins: bool,
    running: Option<Running>,
}

/// One life of a peer.
#[derive(Debug)]
struct Running {
    cluster: Cluster,
    transport: Arc<MemoryTransport>,
    link: DaemonLink,
    redial: CancellationToken,
    #[cfg(feature = "consensus-raft")]
    raft: Option<Arc<crate::consensus::Raft>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.redial.cancel();
    }
}

impl TestCluster {
    /// So many peers, each ready, and dialling each other.
    ///
    /// # Errors
    /// Why a peer did not start.
    pub async fn start(peers: usize) -> Result<Self> {
        Self::with_config(TestClusterConfig { peers, ..TestClusterConfig::default() }).await
    }

    /// The same with more choices.
    ///
    /// # Errors
    /// As [`TestCluster::start`].
    pub async fn with_config(config: TestClusterConfig) -> Result<Self> {
        let mut random = Random::new(config.seed);
        let network = MemoryNetwork::new(random.number());
        network.set_delay(config.delay);
        let (started, swarm) = (Instant::now(), MemorySwarm::default());
        let epoch = Timestamp::from_unix_seconds(EPOCH_UNIX_SECONDS);
        let mut seats: Vec<Seat> = Vec::with_capacity(config.peers);
        for index in 0..config.peers {
            // Peers and daemons count from one.
            let number = u16::try_from(index + 1)
                .map_err(|_| Error::invalid_input("a test cluster has fewer peers than that"))?;
            let daemon = TestDaemon::new(number, swarm.clone(), config.daemons, random.fork());
            for other in &seats {
                daemon.ipfs().connect(other.daemon.ipfs());
            }
            seats.push(Seat {
                id: peer(u64::from(number)),
                daemon,
                clock: TestClock::new(started, epoch),
                disk: TestDisk::new(Random::new(config.seed ^ (u64::from(number) << 32))),
                storage: Arc::new(CrashStorage::new()),
                #[cfg(feature = "consensus-raft")]
                joins: config.absent.contains(&index),
                running: None,
            });
        }
        let mut peers = Self { config, network, random, seats };
        for index in 0..peers.seats.len() {
            if peers.config.absent.contains(&index) {
                // Addresses are given in the order of joining: it has its own when it comes.
                drop(peers.network.join(peers.seats[index].id)?);
            } else {
                peers.restart(index).await?;
            }
        }
        Ok(peers)
    }

    /// How many peers there are, running or not.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// A running peer; none while it is down.
    pub fn get(&self, index: usize) -> Option<&Cluster> {
        self.seats[index].running.as_ref().map(|running| &running.cluster)
    }

    /// A running peer.
    ///
    /// # Panics
    /// When it is down.
    #[allow(clippy::expect_used)] // The test knows what it stopped.
    pub fn peer(&self, index: usize) -> &Cluster {
        self.get(index).expect("this peer to run")
    }

    /// The running peers, with their indices.
    pub fn running(&self) -> impl Iterator<Item = (usize, &Cluster)> {
        self.seats
            .iter()
            .enumerate()
            .filter_map(|(index, seat)| Some((index, &seat.running.as_ref()?.cluster)))
    }

    /// A peer's id, running or not.
    pub fn id(&self, index: usize) -> PeerId {
        self.seats[index].id
    }

    /// A peer's daemon.
    pub fn daemon(&self, index: usize) -> &TestDaemon {
        &self.seats[index].daemon
    }

    /// A peer's clock.
    pub fn clock(&self, index: usize) -> &TestClock {
        &self.seats[index].clock
    }

    /// A peer's disk, to be made full and faulty.
    pub fn disk(&self, index: usize) -> &TestDisk {
        &self.seats[index].disk
    }

    /// What a peer's disk holds, whatever is wrong with it. It is another one after each start.
    pub fn storage(&self, index: usize) -> Arc<CrashStorage> {
        Arc::clone(&self.seats[index].storage)
    }

    /// The network, to be made slow and lossy.
    pub fn network(&self) -> &MemoryNetwork {
        &self.network
    }

    /// Gives content to every daemon, unpinned, and its CID.
    pub fn add(&self, data: &[u8]) -> Cid {
        let mut cid = None;
        for seat in &self.seats {
            cid = Some(seat.daemon.ipfs().add_sample(data.to_vec()));
        }
        cid.unwrap_or_else(|| crate::types::Block::raw(data.to_vec()).cid)
    }

    /// Cuts two peers off from each other.
    pub fn partition(&self, one: usize, other: usize) {
        self.network.partition(self.id(one), self.id(other));
    }

    /// Lets everybody reach everybody again; the peers dial by themselves.
    pub fn heal(&self) {
        self.network.heal_all();
    }

    /// Stops a peer as its operator would. None when it was down.
    pub async fn stop(&mut self, index: usize) -> Option<StopReason> {
        let running = self.seats[index].running.take()?;
        let reason = running.cluster.shutdown().await;
        // What was closed is all there when it is opened again.
        let seat = &mut self.seats[index];
        seat.storage = Arc::new(seat.storage.crash());
        Some(reason)
    }

    /// Kills a peer, and the power with it: its disk has what was synced and nothing else. What its tasks do until they
    /// notice reaches nobody.
    pub fn crash(&mut self, index: usize) {
        self.crash_with(index, CrashStorage::crash);
    }

    /// The same, but some of what was only buffered reached the disk by luck.
    pub fn crash_keeping_some(&mut self, index: usize) {
        let seed = self.random.number();
        self.crash_with(index, |storage| storage.crash_keeping_some(seed));
    }

    fn crash_with(&mut self, index: usize, crash: impl FnOnce(&CrashStorage) -> CrashStorage) {
        let seat = &mut self.seats[index];
        let Some(running) = seat.running.take() else { return };
        seat.storage = Arc::new(crash(&seat.storage));
        self.network.crash(seat.id);
        running.link.cut();
        // Asks it to stop and waits for nothing, so that also those who hold a handle see it end.
        let _ = running.cluster.shutdown().now_or_never();
    }

    /// Starts a peer on what its disk has, and waits until it is ready unless its daemon is down. Nothing when it runs.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        if self.seats[index].running.is_some() {
            return Ok(());
        }
        let addresses: Vec<Multiaddr> = self
            .seats
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            // They join in order, and keep their addresses.
            .map(|(other, _)| Multiaddr::empty().with(multiaddr::Protocol::Memory(other as u64 + 1)))
            .collect();
        let seat = &mut self.seats[index];
        let transport = Arc::new(self.network.join(seat.id)?);
        let link = seat.daemon.link();
        let config = ClusterConfig {
            peername: format!("peer-{index}"),
            follower_mode: index + self.config.followers >= self.config.peers,
            ..self.config.cluster.clone()
        };
        let builder = Cluster::builder()
            .preset(presets::Solo)
            .pubsub_monitor(MonitorConfig::default())
            .seed(self.random.number())
            .config(config)
            .clock(seat.clock.clone())
            .storage(seat.disk.holding(Arc::clone(&seat.storage)))
            .ipfs(link.clone());
        let builder = if self.config.walkers.contains(&index) {
            builder.transport(PlainTransport(Arc::clone(&transport)))
        } else {
            builder.transport(Arc::clone(&transport))
        };
        let builder = (self.config.assemble)(index, builder);
        #[cfg(feature = "consensus-raft")]
        let (builder, made) = self.agreeing_by_raft(index, builder);
        let seat = &mut self.seats[index];
        let cluster = match builder.start().await {
            Ok(cluster) => cluster,
            Err(error) => {
                // The process ends, whatever it closed before.
                seat.storage = Arc::new(seat.storage.crash());
                self.network.crash(seat.id);
                return Err(error);
            }
        };
        let redial = CancellationToken::new();
        tokio::spawn(dial_others(Arc::clone(&transport), addresses, redial.clone()));
        let running = Running {
            cluster,
            transport,
            link,
            redial,
            #[cfg(feature = "consensus-raft")]
            raft: made.get().cloned(),
        };
        let cluster = seat.running.insert(running).cluster.clone();
        tokio::select! {
            biased;
            ready = cluster.ready() => ready,
            () = tokio::time::sleep(Duration::from_millis(1)) => Ok(()),
        }
    }

    /// Addresses of a running peer's neighbours.
    pub fn neighbours(&self, index: usize) -> Vec<PeerId> {
        self.seats[index].running.as_ref().map(|running| running.transport.peers()).unwrap_or_default()
    }

    /// Waits, in the peers' time, until a fact holds.
    ///
    /// # Errors
    /// `Timeout` after [`WAIT_TIMEOUT`], with what was waited for.
    pub async fn wait_until(&self, what: &str, fact: impl AsyncFn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !fact(self).await {
            if Instant::now() >= deadline {
                return Err(Error::new(ErrorKind::Timeout, format!("waited in vain until {what}")));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until a CID is in the pinset of every running peer, and pinned wherever it should be.
    ///
    /// # Errors
    /// As [`TestCluster::wait_until`].
    pub async fn wait_pinned(&self, cid: &Cid) -> Result<()> {
        self.wait_until(&format!("{cid} is pinned"), async |peers: &Self| {
            let mut pinned = 0;
            for (_, cluster) in peers.running() {
                match cluster.tracker().status(cid).await.map(|info| info.status.status) {
                    Ok(TrackerStatus::Pinned) => pinned += 1,
                    Ok(TrackerStatus::Remote) => {}
                    Ok(_) | Err(_) => return false,
                }
            }
            pinned > 0
        })
        .await
    }

    /// Waits until every running peer has the same pinset.
    ///
    /// # Errors
    /// As [`TestCluster::wait_until`].
    pub async fn wait_converged(&self) -> Result<()> {
        self.wait_until("all peers have the same pinset", async |peers: &Self| peers.is_converged()).await
    }

    /// Whether every running peer has the same pinset.
    pub fn is_converged(&self) -> bool {
        let mut counts = self.running().map(|(_, cluster)| cluster.state().counts());
        let first: Option<StateCounts> = counts.next();
        counts.all(|other| Some(other) == first)
    }
}

/// Keeps a peer connected, as a host dials again whom it knows.
async fn dial_others(transport: Arc<MemoryTransport>, addresses: Vec<Multiaddr>, stop: CancellationToken) {
    let dialling = async {
        loop {
            for address in &addresses {
                let connected = transport.peers();
                let known = connected.iter().any(|peer| transport.addresses(peer).contains(address));
                if !known {
                    // It may be down, or cut off.
                    let _ = transport.connect(address).await;
                }
            }
            tokio::time::sleep(REDIAL_INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = dialling => {}
    }
}

#[cfg(test)]
mod tests;
