//! Peers of one cluster in one process, each on a store that loses what was not synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use ipfs_cluster::clock::TokioClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Raft, RaftConfig, RaftStore};
use ipfs_cluster::state::{StateQuery, StateReader, StoreState};
use ipfs_cluster::storage::Storage;
use ipfs_cluster::testing::{CrashStorage, FaultyStorage, peer};
use ipfs_cluster::transport::{MemoryNetwork, PeerTransport};
use ipfs_cluster::types::{PeerId, Pin, Timestamp};

/// A fact that does not come true within this time never does.
pub(crate) const FACT_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct Member {
    pub(crate) raft: Arc<Raft>,
    pub(crate) storage: Arc<CrashStorage>,
    /// What is between the peer and its storage.
    pub(crate) faults: Arc<FaultyStorage>,
    transport: Arc<dyn PeerTransport>,
}

pub(crate) struct World {
    pub(crate) net: MemoryNetwork,
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) config: RaftConfig,
    /// What the clocks of peers show at their next start.
    pub(crate) clocks: BTreeMap<u64, Timestamp>,
    /// Whether peers that are opened take their stores for disks.
    pub(crate) is_blocking: bool,
    clock: TokioClock,
    seed: u64,
    starts: u64,
}

impl World {
    /// Peers `1..=peers`, who found a cluster together.
    pub(crate) async fn start(seed: u64, peers: u64) -> Self {
        let mut config = RaftConfig::default();
        config.init_peerset = (1..=peers).map(peer).collect();
        Self::start_with(seed, peers, config).await
    }

    pub(crate) async fn start_with(seed: u64, peers: u64, config: RaftConfig) -> Self {
        let net = MemoryNetwork::new(seed);
        net.set_delay(Duration::from_millis(1));
        let clock = TokioClock::starting_at(Timestamp::from_unix_seconds(1_700_000_000));
        let mut world = Self {
            net,
            members: BTreeMap::new(),
            config,
            clocks: BTreeMap::new(),
            is_blocking: false,
            clock,
            seed,
            starts: 0,
        };
        for number in 1..=peers {
            world.open(number, Arc::new(CrashStorage::new()), world.config.clone()).await;
        }
        world
    }

    pub(crate) async fn try_open(
        &mut self,
        number: u64,
        storage: Arc<CrashStorage>,
        config: RaftConfig,
    ) -> ipfs_cluster::Result<()> {
        let transport: Arc<dyn PeerTransport> = Arc::new(self.net.join(peer(number)).unwrap());
        let faults = Arc::new(FaultyStorage::new(storage.clone()));
        if self.is_blocking {
            faults.pretend_to_block();
        }
        let store: Arc<dyn Storage> = faults.clone();
        let state = Arc::new(StoreState::open(store.clone()).await?);
        let clock = self.clocks.get(&number).map_or(self.clock, |now| TokioClock::starting_at(*now));
        let mut cx = ConsensusContext::new(peer(number), store, state, transport.clone(), Arc::new(clock));
        // Every start has another one.
        self.starts += 1;
        cx.seed = self.seed + 1_000_000 * self.starts;
        let raft = match Raft::open(config, cx).await {
            Ok(raft) => Arc::new(raft),
            Err(error) => {
                transport.shutdown().await.unwrap();
                return Err(error);
            }
        };
        self.members.insert(number, Member { raft, storage, faults, transport });
        Ok(())
    }

    pub(crate) async fn open(&mut self, number: u64, storage: Arc<CrashStorage>, config: RaftConfig) {
        self.try_open(number, storage, config).await.unwrap();
    }

    /// A peer that waits to be added.
    pub(crate) async fn open_to_join(&mut self, number: u64) {
        let mut config = self.config.clone();
        config.join = true;
        self.open(number, Arc::new(CrashStorage::new()), config).await;
    }

    pub(crate) fn raft(&self, number: u64) -> &Arc<Raft> {
        &self.members[&number].raft
    }

    pub(crate) fn faults(&self, number: u64) -> &FaultyStorage {
        &self.members[&number].faults
    }

    /// The term that a peer has on disk.
    pub(crate) fn term(&self, number: u64) -> u64 {
        RaftStore::open(self.members[&number].storage.clone()).unwrap().info().unwrap().term
    }

    /// The power goes under a peer; gives what is left on its disk.
    pub(crate) fn kill(&mut self, number: u64) -> Arc<CrashStorage> {
        let member = self.members.remove(&number).unwrap();
        let left = Arc::new(member.storage.crash());
        self.net.crash(peer(number));
        left
    }

    pub(crate) async fn crash(&mut self, number: u64) {
        let left = self.kill(number);
        self.open(number, left, self.config.clone()).await;
    }

    /// An orderly stop; gives the disk.
    pub(crate) async fn stop(&mut self, number: u64) -> Arc<CrashStorage> {
        let member = self.members.remove(&number).unwrap();
        member.raft.shutdown().await.unwrap();
        member.transport.shutdown().await.unwrap();
        Arc::new(member.storage.crash())
    }

    /// The leader that a quorum of those that run agrees on.
    pub(crate) async fn leader(&self) -> u64 {
        fact("a leader", async || {
            let mut votes = BTreeMap::<PeerId, usize>::new();
            for member in self.members.values() {
                if let Ok(Some(leader)) = member.raft.leader().await {
                    *votes.entry(leader).or_default() += 1;
                }
            }
            let (leader, count) = votes.into_iter().max_by_key(|(_, count)| *count)?;
            let number = self.members.keys().find(|number| peer(**number) == leader)?;
            (count > self.members.len() / 2).then_some(*number)
        })
        .await
    }

    /// Somebody who follows.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.members.keys().find(|number| **number != leader).unwrap()
    }

    /// Waits until every peer that runs has the same pinset, and gives it.
    pub(crate) async fn agreed(&self) -> Vec<Pin> {
        fact("the same pinset everywhere", async || {
            let mut sums = Vec::new();
            for member in self.members.values() {
                member.raft.synchronize().await.ok()?;
                sums.push(member.raft.state().counts());
            }
            sums.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        })
        .await;
        let (_, first) = self.members.first_key_value().unwrap();
        pins(&*first.raft.state()).await
    }
}

pub(crate) async fn pins(state: &dyn StateReader) -> Vec<Pin> {
    let pages: Vec<Vec<Pin>> = state.list(StateQuery::default()).try_collect().await.unwrap();
    pages.concat()
}

/// Waits until something is so.
pub(crate) async fn fact<T>(what: &str, mut is_so: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(FACT_TIMEOUT, async {
        loop {
            if let Some(found) = is_so().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not within {FACT_TIMEOUT:?}: {what}"))
}
