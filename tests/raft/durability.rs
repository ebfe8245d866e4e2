//! The pinset on disk may be older than what was acknowledged, as long as the log makes up for it: whatever a power cut
//! takes back is applied again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ipfs_cluster::clock::TokioClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Raft, RaftConfig, RaftInfo, RaftStore};
use ipfs_cluster::error::{ErrorKind, Result};
use ipfs_cluster::state::StoreState;
use ipfs_cluster::storage::{
    Batch, Direction, Durability, KeyRange, MemoryStorage, Snapshot, Space, Storage,
};
use ipfs_cluster::testing::state_suite::{cid, pin};
use ipfs_cluster::testing::{CrashStorage, peer};
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::{PinOperation, Timestamp};

use crate::world::{World, fact, pins};

fn info(storage: Arc<dyn Storage>) -> RaftInfo {
    RaftStore::open(storage).unwrap().info().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_power_cut_takes_from_every_pinset_is_applied_again() {
    for seed in 0..10 {
        let mut world = World::start(seed, 3).await;
        let mut expected = Vec::new();
        for round in 0..4u64 {
            for number in round * 10..round * 10 + 10 {
                let writer = (number + seed) % 3 + 1;
                world.raft(writer).log_pin(pin(number)).await.unwrap();
                if number % 4 == 1 {
                    let gone = world.raft(writer % 3 + 1).log_unpin(&cid(number)).await.unwrap();
                    assert_eq!(gone.as_deref(), Some(&pin(number)), "seed {seed}");
                } else {
                    expected.push(pin(number));
                }
            }
            // The whole cluster at once, so nobody can tell the others what they lack.
            let shown = world.members.values().map(|member| info(member.storage.clone()).applied_index).max();
            let disks: Vec<_> = (1..=3).map(|number| (number, world.kill(number))).collect();
            let left = disks.iter().map(|(_, disk)| info(disk.clone()).applied_index).max();
            assert!(left < shown, "seed {seed}: no pinset went back: {left:?} of {shown:?}");
            for (number, disk) in disks {
                world.open(number, disk, world.config.clone()).await;
            }
            expected.sort_by_key(|pin| pin.cid.to_bytes());
            assert_eq!(world.agreed().await, expected, "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn members_go_back_with_the_pinset_and_come_again_with_it() {
    let mut world = World::start_with(21, 1, RaftConfig::default()).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    world.open_to_join(2).await;
    world.raft(1).add_peer(&peer(2)).await.unwrap();
    let members: BTreeSet<_> = world.raft(1).peers().await.unwrap().into_iter().collect();
    assert_eq!(members, [peer(1), peer(2)].into());
    let disks: Vec<_> = (1..=2).map(|number| (number, world.kill(number))).collect();
    for (number, disk) in disks {
        assert_eq!(info(disk.clone()).members.len(), 2, "the log of {number} knows the members");
        world.open(number, disk, RaftConfig::default()).await;
    }
    world.raft(2).ready().await.unwrap();
    for number in 1..=2 {
        fact("both members", async || {
            (world.raft(number).peers().await.ok()?.into_iter().collect::<BTreeSet<_>>() == members)
                .then_some(())
        })
        .await;
    }
    world.raft(2).log_pin(pin(2)).await.unwrap();
    assert_eq!(world.agreed().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pinset_that_came_as_a_whole_is_on_disk_at_once() {
    let mut config = RaftConfig::default();
    (config.trailing_logs, config.snapshot_threshold) = (0, 4);
    let mut world = World::start_with(22, 1, config).await;
    for number in 0..40 {
        world.raft(1).log_pin(pin(number)).await.unwrap();
    }
    world.open_to_join(2).await;
    world.raft(1).add_peer(&peer(2)).await.unwrap();
    world.raft(2).ready().await.unwrap();
    let disk = world.kill(2);
    let (there, log_begins) = (info(disk.clone()), first_index(&*disk));
    assert!(there.applied_index > Some(30), "{there:?}");
    assert!(log_begins.is_none_or(|first| first > 30), "it came as entries, from {log_begins:?} on");
    world.open(2, disk, world.config.clone()).await;
    assert_eq!(world.agreed().await.len(), 40);
}

const LOG: Space = Space::new("raft-log");
const META: Space = Space::new("raft-meta");

/// A store of which somebody took a part away is refused, with the way out, instead of waiting for entries for ever.
#[tokio::test(start_paused = true)]
async fn a_pinset_that_the_log_does_not_reach_back_to_is_refused() {
    let mut config = RaftConfig::default();
    (config.trailing_logs, config.snapshot_threshold) = (0, 1);
    let mut world = World::start_with(24, 1, config).await;
    for number in 0..20 {
        world.raft(1).log_pin(pin(number)).await.unwrap();
    }
    let disk = world.stop(1).await;
    assert!(disk.get(META, b"purged").unwrap().is_some(), "the log was never shortened");
    let mut batch = Batch::new();
    batch.delete(META, "applied");
    disk.write(batch, Durability::Synced).unwrap();
    let error = world.try_open(1, disk, world.config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("join again"), "{error}");
}

/// The index of the first entry that is in a log.
fn first_index(storage: &dyn Storage) -> Option<u64> {
    let page = storage.snapshot().unwrap().scan(LOG, KeyRange::all(), Direction::Forward, 1).unwrap();
    page.entries.first().map(|(key, _)| u64::from_be_bytes(key[..8].try_into().unwrap()))
}

/// A store whose power cuts are worse than promised: what shortens the log reaches the disk before everything else that
/// was only buffered. Who does not sync first has a log that begins after its pinset ends.
#[derive(Debug)]
struct Hasty {
    live: MemoryStorage,
    disk: Mutex<Option<Disk>>,
}

/// What there is after a power cut.
#[derive(Debug, Default)]
struct Disk {
    storage: MemoryStorage,
    buffered: Vec<Batch>,
    spaces: BTreeSet<Space>,
}

fn dead() -> ipfs_cluster::Error {
    ipfs_cluster::Error::shut_down("hasty storage")
}

impl Hasty {
    fn new() -> Self {
        Self { live: MemoryStorage::new(), disk: Mutex::new(Some(Disk::default())) }
    }

    fn crash(&self) -> Self {
        let disk = self.disk.lock().unwrap().take().unwrap();
        let (copy, snapshot) = (Self::new(), disk.storage.snapshot().unwrap());
        for space in disk.spaces {
            let page = snapshot.scan(space, KeyRange::all(), Direction::Forward, usize::MAX).unwrap();
            copy.bulk_load(space, &mut page.entries.into_iter().map(Ok)).unwrap();
        }
        copy
    }

    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T>) -> Result<T> {
        act(self.disk.lock().unwrap().as_mut().ok_or_else(dead)?)
    }
}

fn shortens_the_log(batch: &Batch) -> bool {
    batch.operations().iter().any(|operation| {
        operation.space == LOG && operation.value.is_none()
            || operation.space == META && operation.key == "purged"
    })
}

impl Disk {
    fn write(&mut self, batch: Batch) -> Result<()> {
        self.spaces.extend(batch.operations().iter().map(|operation| operation.space));
        self.storage.write(batch, Durability::Synced)
    }
}

impl Storage for Hasty {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.with(|_| self.live.get(space, key))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        self.with(|disk| {
            self.live.write(batch.clone(), durability)?;
            if durability == Durability::Buffered && !shortens_the_log(&batch) {
                disk.buffered.push(batch);
                return Ok(());
            }
            if durability == Durability::Synced {
                std::mem::take(&mut disk.buffered).into_iter().try_for_each(|batch| disk.write(batch))?;
            }
            disk.write(batch)
        })
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        self.with(|_| self.live.snapshot())
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        let entries = entries.collect::<Result<Vec<_>>>()?;
        self.with(|disk| {
            disk.spaces.insert(space);
            disk.storage.bulk_load(space, &mut entries.clone().into_iter().map(Ok))?;
            self.live.bulk_load(space, &mut entries.into_iter().map(Ok))
        })
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        self.with(|disk| {
            disk.storage.remove_space(space)?;
            self.live.remove_space(space)
        })
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.with(|_| self.live.approximate_bytes())
    }

    fn blocks(&self) -> bool {
        false
    }

    fn close(&self) -> Result<()> {
        self.disk.lock().unwrap().take();
        Ok(())
    }
}

async fn open(storage: Arc<Hasty>, seed: u64) -> Raft {
    let mut config = RaftConfig::default();
    // The log is as short as it can be.
    (config.trailing_logs, config.snapshot_threshold) = (0, 1);
    let transport = Arc::new(MemoryNetwork::new(seed).join(peer(1)).unwrap());
    let state = Arc::new(StoreState::open(storage.clone()).await.unwrap());
    let clock = Arc::new(TokioClock::starting_at(Timestamp::from_unix_seconds(1_700_000_000)));
    Raft::open(config, ConsensusContext::new(peer(1), storage, state, transport, clock)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_entry_leaves_the_log_only_when_the_pinset_that_has_it_is_on_disk() {
    let mut storage = Arc::new(Hasty::new());
    let mut expected = Vec::new();
    for round in 0..20u64 {
        let raft = open(storage.clone(), round).await;
        raft.ready().await.unwrap();
        assert_eq!(pins(&*raft.state()).await, expected, "round {round}");
        let operations: Vec<_> =
            (0..5).map(|number| PinOperation::Pin(Arc::new(pin(round * 10 + number)))).collect();
        raft.log_many(operations).await.unwrap();
        expected.extend((0..5).map(|number| pin(round * 10 + number)));
        expected.sort_by_key(|pin| pin.cid.to_bytes());
        // In some rounds everything has come to rest.
        tokio::time::sleep(Duration::from_millis(round % 5 * 3)).await;
        storage = Arc::new(storage.crash());
        drop(raft);
    }
    let raft = open(storage.clone(), 99).await;
    raft.ready().await.unwrap();
    assert_eq!(pins(&*raft.state()).await, expected);
    assert!(first_index(&*storage).is_none_or(|first| first > 10), "nothing left the log");
    assert_eq!(raft.state().counts().pins, expected.len() as u64);
    raft.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_single_peer_has_its_pinset_back_when_it_is_open() {
    let config = RaftConfig::default();
    let mut world = World::start_with(23, 1, config).await;
    for number in 0..30 {
        world.raft(1).log_pin(pin(number)).await.unwrap();
        if number % 3 == 0 {
            let disk = world.kill(1);
            let left = info(disk.clone());
            assert!(left.applied_index < left.last_index, "nothing was taken back");
            world.open(1, disk, world.config.clone()).await;
        }
        assert!(world.raft(1).state().get(&cid(number)).await.unwrap().is_some(), "{number}");
    }
    assert_eq!(pins(&*world.raft(1).state()).await.len(), 30);
    let _: Arc<CrashStorage> = world.stop(1).await;
}
