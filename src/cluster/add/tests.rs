//! Adds in whole clusters, on paused time.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::sleep;

use super::*;
use crate::adder::content::InMemory;
use crate::adder::destinations::STALL_TIMEOUT;
use crate::adder::{DagBlock, Entry};
use crate::cluster::ClusterConfig;
use crate::consensus::{Crdt, CrdtConfig};
use crate::ipfs_connector::{MemoryIpfs, MemoryIpfsConfig, MemorySwarm, sample_file_with_chunks};
use crate::testing::TestCluster;
use crate::testing::cluster::TestClusterConfig;
use crate::testing::faulty_ipfs::{FaultyIpfs, IpfsCall};
use crate::types::{PinType, TrackerStatus};

pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// Files of equal chunks, no two alike. It stops where it is told to, until it is told to go on.
struct Files {
    names: Vec<&'static str>,
    chunks: usize,
    next: usize,
    chunk: usize,
    /// How many chunks of the last file may be read by now.
    gate: Option<watch::Receiver<usize>>,
    /// How often it may be read once more.
    rewinds: usize,
}

fn files(names: &[&'static str], chunks: usize) -> Files {
    Files { names: names.to_vec(), chunks, next: 0, chunk: 0, gate: None, rewinds: 0 }
}

/// A file that can be stopped.
fn gated(chunks: usize, open: usize) -> (Files, watch::Sender<usize>) {
    let (gate, watched) = watch::channel(open);
    (Files { gate: Some(watched), ..files(&["large"], chunks) }, gate)
}

fn chunk(file: &str, number: usize) -> Bytes {
    let mut bytes = vec![0; CHUNK_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..8 + file.len()].copy_from_slice(file.as_bytes());
    bytes.into()
}

fn whole(file: &str, chunks: usize) -> Vec<u8> {
    (0..chunks).flat_map(|number| chunk(file, number)).collect()
}

pub(super) fn dag(file: &str, chunks: usize) -> (Cid, Vec<Block>) {
    sample_file_with_chunks(whole(file, chunks), CHUNK_BYTES)
}

#[async_trait]
impl Content for Files {
    async fn next(&mut self) -> Result<Option<Entry>> {
        self.chunk = 0;
        let name = self.names.get(self.next);
        self.next += 1;
        Ok(name.map(|name| Entry { path: (*name).to_owned(), ..Entry::default() }))
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.chunk == self.chunks {
            return Ok(None);
        }
        if let Some(gate) = self.gate.as_mut().filter(|_| self.next == self.names.len()) {
            let number = self.chunk;
            gate.wait_for(|open| number < *open).await.map_err(|_| Error::internal("who uploads is gone"))?;
        }
        self.chunk += 1;
        Ok(Some(chunk(self.names[self.next - 1], self.chunk - 1)))
    }

    fn rewind(&mut self) -> bool {
        if self.rewinds == 0 {
            return false;
        }
        (self.rewinds, self.next, self.chunk) = (self.rewinds - 1, 0, 0);
        true
    }
}

/// Cuts where the content does.
fn import<'a>(
    content: &'a mut (dyn Content + 'static),
    _: &'a AddOptions,
    sink: &'a mut (dyn BlockSink + 'static),
    lines: &'a Lines,
) -> BoxFuture<'a, Result<Vec<Root>>> {
    Box::pin(async move {
        let mut roots = Vec::new();
        while let Some(entry) = content.next().await? {
            let mut all = Vec::new();
            while let Some(bytes) = content.read().await? {
                all.extend_from_slice(&bytes);
                sink.put(DagBlock { block: Block::raw(bytes), dag_bytes: CHUNK_BYTES as u64 }).await?;
            }
            let size = all.len() as u64;
            let (root, blocks) = sample_file_with_chunks(all, CHUNK_BYTES);
            for block in blocks.into_iter().filter(|block| block.cid.codec() != 0x55) {
                sink.put(DagBlock { block, dag_bytes: size }).await?;
            }
            let allocations = sink.allocations();
            lines
                .tell(Added { name: entry.path.clone(), cid: Some(root), size, allocations, bytes: 0 })
                .await;
            roots.push(Root { name: entry.path, cid: root, dag_bytes: size });
        }
        Ok(roots)
    })
}

/// Peers that know each other, and their daemons.
pub(super) struct Peers {
    pub(super) cluster: TestCluster,
    pub(super) memory: Vec<MemoryIpfs>,
    pub(super) faulty: Vec<FaultyIpfs>,
}

pub(super) async fn peers_with(count: usize, followers: usize) -> Peers {
    let swarm = MemorySwarm::default();
    let memory: Vec<MemoryIpfs> = (0..count)
        .map(|index| {
            MemoryIpfs::with_config(MemoryIpfsConfig {
                number: 100 + index as u16,
                swarm: swarm.clone(),
                ..MemoryIpfsConfig::default()
            })
        })
        .collect();
    for one in &memory {
        for other in &memory {
            one.connect(other);
        }
    }
    let faulty: Vec<FaultyIpfs> = memory.iter().cloned().map(FaultyIpfs::new).collect();
    let daemons = faulty.clone();
    let cluster = TestCluster::with_config(TestClusterConfig {
        peers: count,
        followers,
        cluster: ClusterConfig::default(),
        assemble: Arc::new(move |index, builder| {
            builder.ipfs(daemons[index].clone()).consensus_with(|cx| Crdt::open(CrdtConfig::default(), cx))
        }),
        ..TestClusterConfig::default()
    })
    .await
    .unwrap();
    let peers = Peers { cluster, memory, faulty };
    peers.know_each_other().await;
    peers
}

pub(super) async fn peers(count: usize) -> Peers {
    peers_with(count, 0).await
}

impl Peers {
    pub(super) async fn know_each_other(&self) {
        let count = self.cluster.running().count();
        self.cluster
            .wait_until("all peers have each other's metrics", async |peers: &TestCluster| {
                for (_, peer) in peers.running() {
                    let members = peer.inner.consensus.peers().await.unwrap().len();
                    if members != count || peer.inner.monitor.latest("freespace").len() != count {
                        return false;
                    }
                }
                true
            })
            .await
            .unwrap();
    }

    fn add(&self, content: Files, options: AddOptions) -> BoxStream<'static, Result<AddEvent>> {
        self.cluster.peer(0).inner.adding(content, options, import)
    }

    pub(super) fn index(&self, peer: &PeerId) -> usize {
        (0..self.memory.len()).find(|index| self.cluster.id(*index) == *peer).unwrap()
    }

    pub(super) fn blocks_at(&self, index: usize, dag: &[Block]) -> usize {
        dag.iter().filter(|block| self.memory[index].has_block(&block.cid)).count()
    }

    /// Nothing is pinned, and nobody stores blocks any more.
    pub(super) async fn assert_nothing_is_left(&self) {
        sleep(Duration::from_secs(30)).await;
        for (index, peer) in self.cluster.running() {
            assert_eq!(peer.state().counts().pins, 0, "pins of peer {index}");
        }
        for daemon in &self.faulty {
            assert_eq!(daemon.count(IpfsCall::PutBlocks).running, 0);
        }
        assert_eq!(self.cluster.peer(0).inner.adds.room.available_permits(), ADDS_MAX);
    }
}

pub(super) fn replicated(min: i32, max: i32) -> AddOptions {
    let pin = PinOptions {
        name: "added".to_owned(),
        replication_factor_min: min,
        replication_factor_max: max,
        ..PinOptions::default()
    };
    AddOptions { pin, ..AddOptions::default() }
}

/// Lines, pins, and how it ended.
pub(super) async fn all(
    mut events: BoxStream<'static, Result<AddEvent>>,
) -> (Vec<Added>, Vec<Pin>, std::result::Result<(), Error>) {
    let (mut lines, mut pins) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event {
            Ok(AddEvent::Line(line)) => {
                assert!(pins.is_empty(), "lines come first");
                lines.push(line);
            }
            Ok(AddEvent::Pinned(pin)) => pins.push(*pin),
            Err(error) => {
                assert!(events.next().await.is_none(), "an error is the end");
                return (lines, pins, Err(error));
            }
        }
    }
    (lines, pins, Ok(()))
}

async fn error_of(events: BoxStream<'static, Result<AddEvent>>) -> Error {
    let (_, pins, ended) = all(events).await;
    assert!(pins.is_empty());
    ended.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn blocks_arrive_on_all_allocated_peers_and_the_root_is_pinned_there() {
    let peers = peers(4).await;
    let (root, blocks) = dag("one", 5);
    let (lines, pins, ended) = all(peers.add(files(&["one"], 5), replicated(2, 2))).await;
    ended.unwrap();
    let [pin] = &pins[..] else { panic!("{pins:?}") };
    assert_eq!((pin.cid, pin.options.name.as_str(), pin.allocations.len()), (root, "added", 2));
    assert_eq!((pin.mode(), lines[0].cid), (PinMode::Recursive, Some(root)));
    assert_eq!(lines[0].allocations, pin.allocations);
    for index in 0..4 {
        let wanted = if pin.allocations.contains(&peers.cluster.id(index)) { blocks.len() } else { 0 };
        assert_eq!(peers.blocks_at(index, &blocks), wanted, "peer {index}");
    }
    peers.cluster.wait_converged().await.unwrap();
    peers.cluster.wait_pinned(&root).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_dies_in_the_middle_is_replaced_and_every_replica_is_complete() {
    let mut peers = peers(4).await;
    // More than the window holds: the replacement cannot be given the beginning.
    let chunks = 100;
    let (root, blocks) = dag("large", chunks);
    let (content, gate) = gated(chunks, 80);
    let mut options = replicated(2, 2);
    let two = [peers.cluster.id(1), peers.cluster.id(2)];
    options.pin.user_allocations = two.to_vec();
    let adding = tokio::spawn(all(peers.add(content, options)));
    let stored = peers.faulty[1].wait_count(IpfsCall::PutBlocks, |count| count.running > 0).await;
    assert_eq!(stored.begun, 1);
    sleep(Duration::from_secs(1)).await;
    // What is left waits for its lease.
    assert!(peers.blocks_at(1, &blocks) >= 60);
    peers.cluster.crash(1);
    gate.send_replace(chunks);
    let (lines, pins, ended) = adding.await.unwrap();
    ended.unwrap();
    let allocations = &pins[0].allocations;
    assert!(allocations.len() == 2 && allocations.contains(&two[1]) && !allocations.contains(&two[0]));
    assert_eq!(lines[0].cid, Some(root));
    peers
        .cluster
        .wait_until("all running peers agree", async |peers: &TestCluster| peers.is_converged())
        .await
        .unwrap();
    peers.cluster.wait_pinned(&root).await.unwrap();
    for peer in allocations {
        let index = peers.index(peer);
        assert_eq!(peers.blocks_at(index, &blocks), blocks.len(), "peer {index}");
        assert!(
            crate::ipfs_connector::IpfsConnector::is_pinned(&peers.memory[index], &root, PinMode::Recursive)
                .await
                .unwrap()
        );
    }
}

/// Adds more than the window holds with one copy, and kills who gets it after all but the end of it.
async fn killed_late(rewinds: usize) -> (Peers, Vec<Block>, PeerId, (Vec<Added>, Vec<Pin>, Result<()>)) {
    let mut peers = peers(4).await;
    let chunks = 80;
    let (content, gate) = gated(chunks, 70);
    let content = Files { names: vec!["small", "large"], rewinds, ..content };
    let mut options = replicated(1, 1);
    let unlucky = peers.cluster.id(1);
    options.pin.user_allocations = vec![unlucky];
    let adding = tokio::spawn(all(peers.add(content, options)));
    let (_, blocks) = dag("large", chunks);
    peers
        .cluster
        .wait_until("much of it is stored", async |_: &TestCluster| {
            peers.memory[1].has_block(&blocks[30].cid)
        })
        .await
        .unwrap();
    peers.cluster.crash(1);
    gate.send_replace(chunks);
    let ended = adding.await.unwrap();
    (peers, blocks, unlucky, ended)
}

#[tokio::test(start_paused = true)]
async fn the_only_peer_that_has_the_beginning_dies_and_content_that_can_be_read_again_is() {
    let (peers, blocks, unlucky, (lines, pins, ended)) = killed_late(1).await;
    ended.unwrap();
    let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["small", "large"], "each line once");
    assert_eq!(pins.len(), 2);
    let [other] = pins[0].allocations[..] else { panic!("{pins:?}") };
    assert_ne!(other, unlucky);
    assert_eq!((&lines[1].allocations, &pins[1].allocations), (&vec![other], &vec![other]));
    assert_eq!(peers.blocks_at(peers.index(&other), &blocks), blocks.len());
}

#[tokio::test(start_paused = true)]
async fn the_only_peer_that_has_the_beginning_dies_and_an_upload_is_told_what_to_do() {
    let (peers, _, unlucky, (lines, pins, ended)) = killed_late(0).await;
    let error = ended.unwrap_err();
    let text = error.message();
    assert!(
        text.starts_with("failed to put block on all destinations (") && text.contains(&unlucky.to_string()),
        "{text}"
    );
    assert!(text.contains("send the content again"), "{text}");
    assert_eq!((lines.len(), pins.len()), (1, 0));
    peers.assert_nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn content_is_read_again_until_nobody_is_left_and_no_longer() {
    // Every daemon breaks off late.
    let peers = peers(3).await;
    let (content, gate) = gated(80, 70);
    let (_, blocks) = dag("large", 80);
    let adding = tokio::spawn(error_of(peers.add(Files { rewinds: 100, ..content }, replicated(1, 1))));
    let late = |index: usize| peers.memory[index].has_block(&blocks[60].cid);
    let mut alive = BTreeSet::from([0, 1, 2]);
    for _ in 0..6_000 {
        if adding.is_finished() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        if let Some(index) = alive.iter().copied().find(|index| late(*index)) {
            alive.remove(&index);
            peers.faulty[index].down("it broke");
            // It is noticed when there is more.
            sleep(Duration::from_secs(1)).await;
            gate.send_modify(|open| *open += 1);
        }
    }
    assert!(adding.is_finished(), "{alive:?}");
    let error = adding.await.unwrap();
    assert!(error.message().starts_with("failed to put block on all destinations ("), "{error}");
    assert!(alive.is_empty(), "all were tried");
    for daemon in &peers.faulty {
        assert_eq!(daemon.count(IpfsCall::PutBlocks).begun, 1);
    }
    drop(gate);
    peers.assert_nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_hangs_is_full_or_down_is_replaced() {
    for trouble in ["hangs", "full", "down"] {
        let peers = peers(3).await;
        let (_, blocks) = dag("large", 10);
        let mut options = replicated(1, 1);
        let unlucky = peers.cluster.id(2);
        options.pin.user_allocations = vec![unlucky];
        let daemon = &peers.faulty[2];
        match trouble {
            "hangs" => daemon.stall(IpfsCall::PutBlocks),
            "full" => {
                let error = Error::new(ErrorKind::StorageFull, "no space left on device");
                daemon.fail_next(IpfsCall::PutBlocks, 1, error);
            }
            _ => daemon.down("the daemon is down"),
        }
        let start = tokio::time::Instant::now();
        let (_, pins, ended) = all(peers.add(files(&["large"], 10), options)).await;
        ended.unwrap();
        assert!(
            start.elapsed() < STALL_TIMEOUT + Duration::from_secs(20),
            "{trouble}: {:?}",
            start.elapsed()
        );
        let [other] = pins[0].allocations[..] else { panic!("{pins:?}") };
        assert_ne!(other, unlucky, "{trouble}");
        assert_eq!(peers.blocks_at(peers.index(&other), &blocks), blocks.len(), "{trouble}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_destinations_fail_nothing_is_pinned_and_the_next_add_works() {
    let peers = peers(2).await;
    for daemon in &peers.faulty {
        daemon.fail_next(
            IpfsCall::PutBlocks,
            1,
            Error::new(ErrorKind::StorageFull, "no space left on device"),
        );
    }
    for options in [replicated(1, 2), replicated(-1, -1)] {
        for daemon in &peers.faulty {
            daemon.stop_failing(IpfsCall::PutBlocks);
            let full = Error::new(ErrorKind::StorageFull, "no space left on device");
            daemon.fail_next(IpfsCall::PutBlocks, 1, full);
        }
        let error = error_of(peers.add(files(&["one"], 3), options)).await;
        assert_eq!(error.message(), "failed to put block on all destinations");
        assert!(format!("{error:?}").contains("no space left"), "{error:?}");
        peers.assert_nothing_is_left().await;
    }
    assert_eq!(all(peers.add(files(&["one"], 3), replicated(1, 1))).await.1.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn everywhere_is_every_member_and_one_of_them_is_enough() {
    let peers = peers(3).await;
    let (_, blocks) = dag("one", 4);
    peers.faulty[1].down("the daemon is down");
    let (lines, pins, ended) = all(peers.add(files(&["one"], 4), replicated(-1, -1))).await;
    ended.unwrap();
    assert!(pins[0].is_everywhere() && pins[0].allocations.is_empty());
    assert!(!lines[0].allocations.is_empty());
    assert_eq!(peers.blocks_at(0, &blocks), blocks.len());
    assert_eq!(peers.blocks_at(2, &blocks), blocks.len());
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_nothing_pinned_and_nothing_running() {
    let peers = peers(3).await;
    let (content, _gate) = gated(50, 20);
    let mut events = peers.add(content, replicated(3, 3));
    assert!(tokio::time::timeout(Duration::from_secs(5), events.next()).await.is_err());
    for daemon in &peers.faulty {
        assert_eq!(daemon.count(IpfsCall::PutBlocks).running, 1);
    }
    drop(events);
    peers.assert_nothing_is_left().await;
    for daemon in &peers.faulty {
        let count = daemon.count(IpfsCall::PutBlocks);
        assert_eq!((count.answered, count.dropped), (1, 0), "it was told that no more come");
    }
}

#[tokio::test(start_paused = true)]
async fn local_stores_on_the_peer_that_is_asked_and_pins_there() {
    let peers = peers(3).await;
    let me = peers.cluster.id(0);
    let (root, blocks) = dag("one", 3);
    for (user, factor, here) in [(None, (1, 1), true), (Some(1), (1, 1), false), (None, (2, 2), true)] {
        let mut options = AddOptions { local: true, ..replicated(factor.0, factor.1) };
        options.pin.user_allocations = user.iter().map(|index| peers.cluster.id(*index)).collect();
        let (lines, pins, ended) = all(peers.add(files(&["one"], 3), options)).await;
        ended.unwrap();
        assert_eq!(pins[0].allocations.len(), factor.1 as usize);
        assert_eq!(pins[0].allocations.contains(&me), here, "{user:?} {factor:?}");
        assert_eq!(lines[0].allocations, pins[0].allocations);
        assert_eq!(peers.blocks_at(0, &blocks), blocks.len());
        assert_eq!(peers.faulty[1].count(IpfsCall::PutBlocks).begun, 0);
        peers.cluster.wait_converged().await.unwrap();
        peers.cluster.wait_pinned(&root).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn all_roots_are_pinned_or_none_when_that_is_asked() {
    let peers = peers(2).await;
    let names = ["one", "two", "three"];
    let options = AddOptions { no_pin: true, ..replicated(1, 1) };
    let (lines, pins, ended) = all(peers.add(files(&names, 2), options)).await;
    ended.unwrap();
    assert_eq!((lines.len(), pins.len()), (3, 0));
    peers.assert_nothing_is_left().await;

    // The same one twice is pinned once.
    let (_, pins, ended) = all(peers.add(files(&["one", "two", "three", "two"], 2), replicated(1, 1))).await;
    ended.unwrap();
    let pinned: Vec<Cid> = pins.iter().map(|pin| pin.cid).collect();
    assert_eq!(pinned, names.map(|name| dag(name, 2).0));
    assert_eq!(peers.cluster.peer(0).state().counts().pins, 3);
}

#[tokio::test(start_paused = true)]
async fn an_add_keeps_its_allocations_where_the_content_was_pinned_elsewhere() {
    let peers = peers(3).await;
    let place = |index: usize| {
        let mut options = replicated(1, 1);
        options.pin.user_allocations = vec![peers.cluster.id(index)];
        options
    };
    for index in [1, 2] {
        let (_, pins, ended) = all(peers.add(files(&["one"], 1), place(index))).await;
        ended.unwrap();
        assert_eq!(pins[0].allocations, [peers.cluster.id(index)]);
    }
}

#[tokio::test(start_paused = true)]
async fn sharded_content_is_pinned_in_parts_and_unpinned_as_a_whole() {
    let peers = peers(3).await;
    let mut options = AddOptions { shard: true, ..replicated(1, 1) };
    options.pin.shard_size = 4 * CHUNK_BYTES as u64;
    let (root, blocks) = dag("large", 10);
    let (lines, pins, ended) = all(peers.add(files(&["large"], 10), options.clone())).await;
    ended.unwrap();
    let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["shard-0", "shard-1", "shard-2", "large", "shard-3", "added-clusterDAG"]);
    assert_eq!((pins.len(), pins[0].cid, pins[0].pin_type), (1, root, PinType::Meta));
    let peer = peers.cluster.peer(0);
    assert_eq!(peer.state().counts().pins, 6);
    for block in &blocks {
        let holders = (0..3).filter(|index| peers.memory[*index].has_block(&block.cid)).count();
        assert_eq!(holders, 1, "{}", block.cid);
    }
    peers.cluster.wait_converged().await.unwrap();
    // Again: the same pins.
    assert!(all(peers.add(files(&["large"], 10), options.clone())).await.2.is_ok());
    assert_eq!(peer.state().counts().pins, 6);
    peer.unpin(&root).await.unwrap();
    peers.assert_nothing_is_left().await;

    // A last step that cannot succeed leaves only what was there before.
    peer.pin(root, replicated(1, 1).pin).await.unwrap();
    let error = error_of(peers.add(files(&["large"], 10), options.clone())).await;
    assert_eq!(
        error.message(),
        "cannot repin CID with different tracking method, clear state with pin rm to proceed. New: meta-pin. Was: pin"
    );
    assert_eq!(peer.state().counts().pins, 1);
    peer.unpin(&root).await.unwrap();

    let error = error_of(peers.add(files(&["one", "two"], 10), options.clone())).await;
    assert!(error.message().contains("one root and not 2"), "{error}");
    options.pin.shard_size = 10;
    let error = error_of(peers.add(files(&["large"], 10), options.clone())).await;
    assert_eq!(error.message(), "block doesn't fit in empty shard: shard size too small?");
    options.no_pin = true;
    assert_eq!(error_of(peers.add(files(&["large"], 10), options)).await.kind(), ErrorKind::InvalidInput);
    peers.assert_nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_no_shards() {
    let peers = peers(1).await;
    let mut options = AddOptions { shard: true, ..replicated(1, 1) };
    options.pin.shard_size = 4 * CHUNK_BYTES as u64;
    let (content, _gate) = gated(50, 20);
    let mut events = peers.add(content, options);
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(5), events.next()).await {
        assert!(matches!(event.unwrap(), AddEvent::Line(_)));
    }
    assert_eq!(peers.cluster.peer(0).state().counts().pins, 6);
    drop(events);
    peers.assert_nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_added_says_so_before_anything_is_read() {
    let peers = peers_with(2, 1).await;
    let closed = || gated(1, 0).0;
    let error = error_of(peers.add(closed(), replicated(3, 3))).await;
    assert_eq!(error.kind(), ErrorKind::Internal, "it reads first: {error}");
    let error = error_of(peers.add(files(&["one"], 1), replicated(3, 3))).await;
    assert_eq!(error.kind(), ErrorKind::NotEnoughPeers, "{error}");
    let error = error_of(peers.add(closed(), replicated(2, 1))).await;
    assert_eq!(error.message(), "cluster.replication_factor_min is larger than max");
    let follower = peers.cluster.peer(1);
    let refused = error_of(follower.inner.adding(closed(), replicated(1, 1), import)).await;
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);

    // Too many at a time.
    let (mut running, mut gates) = (Vec::new(), Vec::new());
    for _ in 0..ADDS_MAX {
        let (content, gate) = gated(1, 0);
        let mut events = peers.add(content, replicated(1, 1));
        assert!(events.next().now_or_never().is_none());
        running.push(events);
        gates.push(gate);
    }
    assert_eq!(error_of(peers.add(closed(), replicated(1, 1))).await.kind(), ErrorKind::QueueFull);
    drop(running);
    peers.assert_nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_ends_its_adds() {
    let mut peers = peers(2).await;
    let (content, _gate) = gated(5, 2);
    let adding = tokio::spawn(all(peers.add(content, replicated(2, 2))));
    sleep(Duration::from_secs(1)).await;
    peers.cluster.stop(0).await.unwrap();
    assert_eq!(adding.await.unwrap().2.unwrap_err().kind(), ErrorKind::ShutDown);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(peers.faulty[1].count(IpfsCall::PutBlocks).running, 0);
    let status = peers.cluster.peer(1).tracker().status(&dag("large", 5).0).await.unwrap().status.status;
    assert_eq!(status, TrackerStatus::Unpinned);
}

/// The reference's lines about these bytes.
#[tokio::test(start_paused = true)]
async fn shards_of_real_content_are_those_of_the_reference() {
    let peers = peers(1).await;
    let mut options = AddOptions { shard: true, ..AddOptions::default() };
    options.pin.shard_size = 300_000;
    options.pin.name = "sh".to_owned();
    let content = InMemory::new().file("big.bin", vec![b'x'; 614_400]);
    let (lines, pins, ended) = all(peers.cluster.peer(0).add(content, options)).await;
    ended.unwrap();
    let told: Vec<_> =
        lines.iter().map(|line| (line.name.as_str(), line.cid.unwrap().to_string(), line.size)).collect();
    let line = |name, cid: &str, size| (name, cid.to_owned(), size);
    assert_eq!(
        told,
        [
            line("shard-0", "bafyreiea44lxlcxym7zk4i7lhaawwq4cnzjkjgztmgzq7fgoutwtw2mohu", 262_158),
            line("big.bin", "QmVHwU5At4YCvg56z38EMvRE9rYVxQMoTmYuFAe3pUbD7Y", 614_594),
            line("shard-1", "bafyreifnl2bsu2jrr2rhlzftlqijohowpwdethggkzbqj342cwnime76xy", 90_376),
            line("sh-clusterDAG", "bafyreibkadc5aws42hzz467ae3gp7mz5a443eqj7lprjyu5dbuaow4kspe", 352_534),
        ]
    );
    assert_eq!(pins[0].cid.to_string(), "QmVHwU5At4YCvg56z38EMvRE9rYVxQMoTmYuFAe3pUbD7Y");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_keeps_no_references_is_found_out_before_anything_is_stored() {
    let peers = peers(2).await;
    let entry =
        Entry { path: "file".to_owned(), origin: Some("/somewhere/file".to_owned()), ..Entry::default() };
    let content = InMemory::new().entry(entry, "some bytes");
    let options = AddOptions { no_copy: true, cid_version: 1, ..replicated(1, 2) };
    let error = error_of(peers.cluster.peer(0).add(content, options)).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("copies of files only"), "{error}");
    for daemon in &peers.faulty {
        assert_eq!(daemon.count(IpfsCall::PutBlocks).begun, 0);
    }
    peers.assert_nothing_is_left().await;
}
