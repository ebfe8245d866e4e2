use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use ipfs_cluster::Cluster;
use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::cluster::{Scope, Until, presets};
use ipfs_cluster::consensus::ConsensusContext;
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, MemoryIpfs};
use ipfs_cluster::state::{StateQuery, StoreState};
use ipfs_cluster::storage::{Batch, Durability, MemoryStorage, Snapshot, Space, Storage};
use ipfs_cluster::testing::{CrashStorage, consensus_suite, peer};
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::{Block, PinMode, PinOptions, TrackerStatus};

use super::*;

/// A log of one peer, on stores that take their time and lose what was not synced.
struct Alone;

#[derive(Default)]
struct Disks {
    log: Arc<Disk>,
    copy: Arc<Disk>,
}

impl Disks {
    async fn start(&self) -> Arc<dyn Consensus> {
        let log = Sequencer::open(Arc::clone(&self.log), &SystemClock).await.unwrap();
        Arc::new(log.join(context(1, Arc::clone(&self.copy) as _).await).await.unwrap())
    }

    fn cut_power(&mut self) {
        self.log = Arc::new(self.log.crash());
        self.copy = Arc::new(self.copy.crash());
    }
}

#[async_trait]
impl consensus_suite::Fixture for Alone {
    type Guard = Disks;

    async fn create(&self) -> (Disks, Arc<dyn Consensus>) {
        let disks = Disks::default();
        let consensus = disks.start().await;
        (disks, consensus)
    }

    async fn reopen(&self, disks: &mut Disks, _stopped: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        disks.log.close().unwrap();
        disks.copy.close().unwrap();
        disks.cut_power();
        Some(disks.start().await)
    }

    async fn crash(&self, disks: &mut Disks, _running: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        disks.cut_power();
        Some(disks.start().await)
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        BUFFERED_EVENTS_MAX
    }
}

ipfs_cluster::consensus_conformance!(shared_log_consensus, Alone);

/// What a cluster hands its consensus.
async fn context(number: u64, storage: Arc<dyn Storage>) -> ConsensusContext {
    let state = Arc::new(StoreState::open(Arc::clone(&storage)).await.unwrap());
    let transport = Arc::new(MemoryNetwork::new(0).join(peer(number)).unwrap());
    ConsensusContext::new(peer(number), storage, state, transport, Arc::new(SystemClock))
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

async fn log() -> Sequencer {
    Sequencer::open(memory(), &SystemClock).await.unwrap()
}

async fn join(log: &Sequencer, number: u64) -> SharedLog {
    log.join(context(number, memory()).await).await.unwrap()
}

fn pin(number: u64) -> Pin {
    let options = PinOptions { name: format!("pin {number}"), ..PinOptions::default() };
    Pin::new(Block::raw(number.to_be_bytes().to_vec()).cid, options).into_stored()
}

async fn pinset(peer: &SharedLog) -> Vec<Pin> {
    peer.state().list(StateQuery::default()).try_concat().await.unwrap()
}

/// Waits until a peer has everything that was appended so far.
async fn in_step(log: &Sequencer, peer: &SharedLog) {
    let last = log.shared.log.lock().await.mark.number;
    let mut applied = peer.applied.clone();
    let waited =
        tokio::time::timeout(Duration::from_secs(60), applied.wait_for(|number| *number >= last)).await;
    waited.expect("in time").expect("the follower runs");
}

#[tokio::test]
async fn all_peers_come_to_the_same_pinset_whoever_writes() {
    let log = log().await;
    let peers = [join(&log, 1).await, join(&log, 2).await, join(&log, 3).await].map(Arc::new);
    let ids = [1, 2, 3].map(peer);
    // Everybody changes the same few pins at the same time, so that another order gives another pinset.
    let writers = (0..60u64).map(|round| {
        let peer = Arc::clone(&peers[round as usize % 3]);
        tokio::spawn(async move {
            let mut named = pin(round % 7);
            named.options.name = format!("round {round}");
            peer.log_pin(named.clone()).await.unwrap();
            if round % 5 == 0 {
                peer.log_unpin(&pin((round + 1) % 7).cid).await.unwrap();
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    peers[0].log_pin(pin(100)).await.unwrap();
    let expected = pinset(&peers[0]).await;
    assert!(expected.contains(&pin(100)));
    for peer in &peers {
        in_step(&log, peer).await;
        assert_eq!(pinset(peer).await, expected);
        assert_eq!(peer.peers().await.unwrap(), ids);
        assert!(ids.iter().all(|id| peer.is_trusted(id)));
    }
}

#[tokio::test]
async fn the_second_of_two_unpins_learns_that_there_was_nothing_left() {
    let log = log().await;
    let (one, other) = (join(&log, 1).await, join(&log, 2).await);
    one.log_pin(pin(1)).await.unwrap();
    let cid = pin(1).cid;
    // The other's copy may not have the pin yet; the log does.
    assert_eq!(other.log_unpin(&cid).await.unwrap(), Some(Arc::new(pin(1))));
    assert_eq!(one.log_unpin(&cid).await.unwrap(), None);
}

#[tokio::test]
async fn a_peer_hears_of_changes_by_others_in_their_order() {
    let log = log().await;
    let (writer, reader) = (join(&log, 1).await, join(&log, 2).await);
    let mut events = reader.events();
    for number in 0..50 {
        writer.log_pin(pin(number)).await.unwrap();
    }
    writer.log_unpin(&pin(3).cid).await.unwrap();
    for number in 0..50 {
        assert_eq!(events.next().await, Some(StateEvent::Pinned(Arc::new(pin(number)))));
    }
    assert_eq!(events.next().await, Some(StateEvent::Unpinned(Arc::new(pin(3)))));
    assert_eq!(reader.state().get(&pin(3).cid).await.unwrap(), None);
}

#[tokio::test]
async fn a_peer_that_was_away_takes_a_copy() {
    let log = log().await;
    let writer = join(&log, 1).await;
    writer.log_many(put(0..2_000)).await.unwrap();
    let storage = memory();
    let away = log.join(context(2, Arc::clone(&storage)).await).await.unwrap();
    assert_eq!(pinset(&away).await, pinset(&writer).await);
    away.shutdown().await.unwrap();
    assert_eq!(writer.peers().await.unwrap(), [peer(1)]);
    writer.log_unpin(&pin(7).cid).await.unwrap();
    writer.log_pin(pin(5_000)).await.unwrap();
    let back = log.join(context(2, storage).await).await.unwrap();
    assert_eq!(pinset(&back).await, pinset(&writer).await);
    assert_eq!(back.state().counts(), writer.state().counts());
}

#[tokio::test]
async fn what_one_peer_acknowledged_reaches_the_others_after_a_power_cut() {
    let mut disks = [(); 3].map(|()| Arc::new(CrashStorage::new()));
    for round in 0..5u64 {
        let log = Sequencer::open(Arc::clone(&disks[0]), &SystemClock).await.unwrap();
        let one = log.join(context(1, Arc::clone(&disks[1]) as _).await).await.unwrap();
        let other = log.join(context(2, Arc::clone(&disks[2]) as _).await).await.unwrap();
        assert_eq!(pinset(&one).await.len() as u64, round);
        assert_eq!(pinset(&one).await, pinset(&other).await);
        // The other has no turn in between to write its own copy.
        one.log_pin(pin(round)).await.unwrap();
        disks = disks.map(|disk| Arc::new(disk.crash()));
    }
}

#[tokio::test]
async fn a_pinset_from_elsewhere_is_not_copied_over() {
    let (one_log, other_log, storage) = (log().await, log().await, memory());
    let peer = one_log.join(context(1, Arc::clone(&storage)).await).await.unwrap();
    peer.log_pin(pin(1)).await.unwrap();
    peer.shutdown().await.unwrap();
    let error = other_log.join(context(1, Arc::clone(&storage)).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let back = one_log.join(context(1, storage).await).await.unwrap();
    assert_eq!(pinset(&back).await, [pin(1)]);
}

#[tokio::test]
async fn stores_and_peers_are_not_used_twice() {
    let (store, copy) = (memory(), memory());
    let log = Sequencer::open(Arc::clone(&store), &SystemClock).await.unwrap();
    let error = log.join(context(1, store).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let _peer = log.join(context(1, Arc::clone(&copy)).await).await.unwrap();
    let error = log.join(context(1, memory()).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let error = Sequencer::open(copy, &SystemClock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn after_a_clean_stop_everybody_goes_on_without_a_copy() {
    let mut disks = Disks::default();
    let log = Sequencer::open(Arc::clone(&disks.log), &SystemClock).await.unwrap();
    let (peer, other) =
        (log.join(context(1, Arc::clone(&disks.copy) as _).await).await.unwrap(), join(&log, 2).await);
    peer.log_pin(pin(1)).await.unwrap();
    // The last entries reach a peer that is just writing when it is told to stop.
    disks.copy.set(Mood::Stalled);
    for number in [2, 3] {
        other.log_pin(pin(number)).await.unwrap();
    }
    let mut stopping = peer.shutdown();
    assert!(futures::poll!(&mut stopping).is_pending());
    disks.copy.set(Mood::Good);
    stopping.await.unwrap();
    other.shutdown().await.unwrap();
    log.close().await.unwrap();
    disks.cut_power();
    let peer = disks.start().await;
    assert_eq!((peer.state().counts().pins, disks.copy.loads()), (3, 0));
    peer.log_pin(pin(4)).await.unwrap();
    assert_eq!(peer.state().counts().pins, 4);
}

#[tokio::test]
async fn cleaning_one_of_several_peers_loses_nothing() {
    let log = log().await;
    let (one, other) = (join(&log, 1).await, join(&log, 2).await);
    one.log_pin(pin(1)).await.unwrap();
    one.clean().await.unwrap();
    assert_eq!((pinset(&one).await, pinset(&other).await), (vec![pin(1)], vec![pin(1)]));
    other.shutdown().await.unwrap();
    one.clean().await.unwrap();
    assert_eq!(pinset(&one).await, []);
}

#[tokio::test]
async fn a_dropped_peer_is_no_member_any_more() {
    let log = log().await;
    let (one, other) = (join(&log, 1).await, join(&log, 2).await);
    let mut events = other.events();
    drop(other);
    assert_eq!(events.next().await, None);
    one.log_pin(pin(1)).await.unwrap();
    assert_eq!(one.peers().await.unwrap(), [peer(1)]);
}

fn put(numbers: Range<u64>) -> Vec<PinOperation> {
    numbers.map(|number| PinOperation::Pin(Arc::new(pin(number)))).collect()
}

#[tokio::test]
async fn an_entry_that_failed_leaves_no_peer_behind() {
    let store = Arc::new(Disk::default());
    let log = Sequencer::open(Arc::clone(&store), &SystemClock).await.unwrap();
    let (one, other) = (join(&log, 1).await, join(&log, 2).await);
    one.log_pin(pin(1)).await.unwrap();
    store.set(Mood::FailAfterWriting);
    assert_eq!(one.log_pin(pin(2)).await.unwrap_err().kind(), ErrorKind::StorageFull);
    store.set(Mood::Good);
    other.log_pin(pin(3)).await.unwrap();
    // Whether pin 2 is there is for the store to say, but everybody says the same.
    let truth = log.shared.log.lock().await.state.list(StateQuery::default());
    let truth: Vec<Pin> = truth.try_concat().await.unwrap();
    for peer in [&one, &other] {
        in_step(&log, peer).await;
        assert_eq!(pinset(peer).await, truth);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_a_slow_disk_is_copied_for_and_holds_nobody_up() {
    let log = log().await;
    let disk = Arc::new(Disk::default());
    let quick = join(&log, 1).await;
    let slow = log.join(context(2, Arc::clone(&disk) as _).await).await.unwrap();
    let mut events = slow.events();
    disk.set(Mood::Stalled);
    for number in 0..3 * follower_backlog() {
        quick.log_pin(pin(number)).await.unwrap();
    }
    disk.set(Mood::Good);
    in_step(&log, &slow).await;
    assert_eq!(pinset(&slow).await, pinset(&quick).await);
    while events.next().await.expect("events go on") != StateEvent::Resync {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_behind_knows_what_it_does_not_show_yet() {
    let log = log().await;
    let disk = Arc::new(Disk::default());
    let quick = join(&log, 1).await;
    let slow = log.join(context(2, Arc::clone(&disk) as _).await).await.unwrap();
    disk.set(Mood::Stalled);
    quick.log_pin(pin(1)).await.unwrap();
    assert_eq!(pinset(&slow).await, []);
    let mut synchronizing = slow.synchronize();
    assert!(futures::poll!(&mut synchronizing).is_pending());
    disk.set(Mood::Good);
    synchronizing.await.unwrap();
    assert_eq!(pinset(&slow).await, [pin(1)]);
}

fn follower_backlog() -> u64 {
    sequencer::KEPT_ENTRIES_MAX as u64
}

#[tokio::test]
async fn a_peer_whose_disk_is_full_says_so_and_heals_when_started_again() {
    let log = log().await;
    let disk = Arc::new(Disk::default());
    let one = join(&log, 1).await;
    let full = log.join(context(2, Arc::clone(&disk) as _).await).await.unwrap();
    let mut events = full.events();
    disk.set(Mood::Fail);
    for _ in 0..2 {
        assert_eq!(full.log_pin(pin(1)).await.unwrap_err().kind(), ErrorKind::StorageFull);
    }
    // The cluster stops a peer whose events end.
    assert_eq!(events.next().await, None);
    assert_eq!(full.shutdown().await.unwrap_err().kind(), ErrorKind::StorageFull);
    one.log_pin(pin(2)).await.unwrap();
    disk.set(Mood::Good);
    let healed = log.join(context(2, disk).await).await.unwrap();
    assert_eq!(pinset(&healed).await, pinset(&one).await);
}

#[tokio::test(start_paused = true)]
async fn what_one_peer_pins_every_daemon_holds() {
    let log = log().await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (ipfs, log) = (MemoryIpfs::new(), log.clone());
        let builder = Cluster::builder().preset(presets::InMemory).ipfs(ipfs.clone());
        let cluster = builder.consensus_with(|cx| async move { log.join(cx).await }).start().await.unwrap();
        peers.push((ipfs, cluster));
    }
    let cid = Block::raw("content").cid;
    for (ipfs, _) in &peers {
        assert_eq!(ipfs.add_sample("content"), cid);
    }
    peers[0].1.pin(cid, PinOptions::default()).await.unwrap();
    for (ipfs, cluster) in &peers {
        cluster.wait(cid).scope(Scope::Local).until(Until::Status(TrackerStatus::Pinned)).await.unwrap();
        assert!(ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    }
    peers[2].1.unpin(&cid).await.unwrap();
    for (ipfs, cluster) in &peers {
        cluster.wait(cid).scope(Scope::Local).until(Until::Gone).await.unwrap();
        assert!(!ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    }
    for (_, cluster) in &peers {
        cluster.shutdown().await;
    }
    assert_eq!(log.peers(), []);
}

/// A store that works on the blocking pool as those on a real disk do, and whose writes do as they are told.
#[derive(Debug, Default)]
struct Disk {
    inner: CrashStorage,
    mood: Mutex<Mood>,
    changed: Condvar,
    loads: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Good,
    /// As a disk that is full.
    Fail,
    /// As a disk that fails after the fact.
    FailAfterWriting,
    /// Until the mood changes.
    Stalled,
}

impl Disk {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }

    fn crash(&self) -> Self {
        Self { inner: self.inner.crash(), ..Self::default() }
    }

    /// How often something was copied to it.
    fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }
}

impl Storage for Disk {
    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        let full = Err(Error::new(ErrorKind::StorageFull, "no space left on this disk"));
        let mood = self.mood.lock().unwrap();
        match *self.changed.wait_while(mood, |mood| *mood == Mood::Stalled).unwrap() {
            Mood::Fail => full,
            Mood::FailAfterWriting => self.inner.write(batch, durability).and(full),
            Mood::Good | Mood::Stalled => self.inner.write(batch, durability),
        }
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.inner.bulk_load(space, entries)
    }

    fn blocks(&self) -> bool {
        true
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(space, key)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        self.inner.snapshot()
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        self.inner.remove_space(space)
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.inner.approximate_bytes()
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

#[tokio::test]
async fn a_peer_that_is_removed_is_out_until_it_is_added_also_after_a_restart() {
    let storage = memory();
    let one_disk = memory();
    let log = Sequencer::open(Arc::clone(&storage), &SystemClock).await.unwrap();
    let one = log.join(context(1, Arc::clone(&one_disk)).await).await.unwrap();
    let other = join(&log, 2).await;
    one.remove_peer(&peer(2)).await.unwrap();
    assert_eq!(one.peers().await.unwrap(), [peer(1)]);
    // It sees that it is out, so its cluster stops it, and what it asks for is refused.
    assert_eq!(other.peers().await.unwrap(), [peer(1)]);
    assert!(!one.is_trusted(&peer(2)));
    let error = other.log_pin(pin(1)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("removed"), "{error}");
    assert_eq!(one.remove_peer(&peer(1)).await.unwrap_err().kind(), ErrorKind::Conflict);
    other.shutdown().await.unwrap();
    one.shutdown().await.unwrap();
    drop((one, other, log));

    let log = Sequencer::open(storage, &SystemClock).await.unwrap();
    let one = log.join(context(1, one_disk).await).await.unwrap();
    let error = log.join(context(2, memory()).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    one.add_peer(&peer(2)).await.unwrap();
    let other = join(&log, 2).await;
    other.log_pin(pin(1)).await.unwrap();
    assert_eq!(one.peers().await.unwrap(), [peer(1), peer(2)]);
}
