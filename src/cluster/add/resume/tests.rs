//! Adds that break off and go on, in whole clusters, on paused time.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::time::sleep;

use super::*;
use crate::adder::{AddEvent, Entry};
use crate::cluster::add::INTERRUPTED_ADD_TTL;
use crate::cluster::add::tests::{CHUNK_BYTES, Peers, all, dag, peers, replicated};
use crate::cluster::{LEASE_TTL, LeaseState};
use crate::error::ErrorKind;
use crate::ipfs_connector::IpfsConnector as _;
use crate::testing::TestCluster;
use crate::testing::faulty_ipfs::IpfsCall;
use crate::testing::random::Random;
use crate::types::{Added, Block, Cid, PinMode};

const PIECE_BYTES: usize = 60_000;

/// How a content ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// As an upload does whose connection breaks.
    Broken,
    /// Nothing more comes.
    Silent,
}

/// Bytes of a CAR, in pieces.
struct Bytewise {
    bytes: Bytes,
    end: End,
    opened: bool,
}

#[async_trait]
impl Content for Bytewise {
    async fn next(&mut self) -> Result<Option<Entry>> {
        let first = !std::mem::replace(&mut self.opened, true);
        Ok(first.then(|| Entry { path: "x.car".to_owned(), ..Entry::default() }))
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if !self.bytes.is_empty() {
            return Ok(Some(self.bytes.split_to(PIECE_BYTES.min(self.bytes.len()))));
        }
        match self.end {
            End::Whole => Ok(None),
            End::Broken => Err(Error::invalid_input("the upload broke off")),
            End::Silent => std::future::pending().await,
        }
    }
}

/// A CAR in the order of exports, the root first, or the other way round.
struct Car {
    root: Cid,
    blocks: Vec<Block>,
    bytes: Bytes,
    /// Where each item ends.
    ends: Vec<usize>,
}

fn car(chunks: usize, root_first: bool) -> Car {
    let (root, mut blocks) = dag("large", chunks);
    if root_first {
        blocks.rotate_right(1);
    }
    let (bytes, ends) = crate::testing::car(root, &blocks);
    Car { root, blocks, bytes: bytes.into(), ends }
}

fn key() -> ResumeKey {
    "the-key".parse().unwrap()
}

fn options(min: i32, max: i32, offset: u64) -> AddOptions {
    let resume = Some(Resume { key: key(), offset });
    AddOptions { format: AddFormat::Car, resume, ..replicated(min, max) }
}

impl Car {
    fn part(&self, from: u64, to: usize, end: End) -> Bytewise {
        Bytewise { bytes: self.bytes.slice(from as usize..to), end, opened: false }
    }

    fn rest(&self, from: u64) -> Bytewise {
        self.part(from, self.bytes.len(), End::Whole)
    }

    /// Bytes of all blocks.
    fn block_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.data.len() as u64).sum()
    }
}

/// Peers that can be started again.
async fn on_plain_daemons(count: usize) -> Peers {
    let cluster = TestCluster::start(count).await.unwrap();
    let memory = (0..count).map(|index| cluster.daemon(index).ipfs().clone()).collect();
    let peers = Peers { cluster, memory, faulty: Vec::new() };
    peers.know_each_other().await;
    peers
}

fn known(peers: &Peers) -> Option<InterruptedAdd> {
    peers.cluster.peer(0).interrupted_add(&key()).unwrap()
}

async fn until_known(peers: &Peers) -> InterruptedAdd {
    let is_known = async |peers: &TestCluster| matches!(peers.peer(0).interrupted_add(&key()), Ok(Some(_)));
    peers.cluster.wait_until("it is known where the add broke off", is_known).await.unwrap();
    known(peers).unwrap()
}

type Events = BoxStream<'static, Result<AddEvent>>;

fn add(peers: &Peers, content: Bytewise, options: AddOptions) -> Events {
    peers.cluster.peer(0).add(content, options)
}

/// Lines and pins of an add that succeeds.
async fn added(events: Events) -> (Vec<Added>, Vec<Pin>) {
    let (lines, pins, ended) = all(events).await;
    ended.unwrap();
    (lines, pins)
}

async fn refused(events: Events) -> Error {
    let (_, pins, ended) = all(events).await;
    assert!(pins.is_empty());
    ended.unwrap_err()
}

/// Everything that a pin promises.
async fn assert_complete(peers: &Peers, car: &Car, pin: &Pin) {
    peers
        .cluster
        .wait_until("all running peers agree", async |peers: &TestCluster| peers.is_converged())
        .await
        .unwrap();
    peers.cluster.wait_pinned(&car.root).await.unwrap();
    for peer in &pin.allocations {
        let index = peers.index(peer);
        assert_eq!(peers.blocks_at(index, &car.blocks), car.blocks.len(), "peer {index}");
        assert!(peers.memory[index].is_pinned(&car.root, PinMode::Recursive).await.unwrap());
    }
}

async fn until_released(peers: &Peers) {
    let released = async |peers: &TestCluster| peers.running().all(|(_, peer)| peer.leases().is_empty());
    peers.cluster.wait_until("all leases are released", released).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_breaks_off_goes_on_and_is_as_if_it_were_one() {
    for (root_first, chunks) in [(true, 40), (false, 40), (true, 3)] {
        let peers = peers(4).await;
        let car = car(chunks, root_first);
        // In the middle of the third block from the end.
        let cut = car.ends[chunks - 1] - 7;
        let error = refused(add(&peers, car.part(0, cut, End::Broken), options(2, 2, 0))).await;
        assert_eq!(error.message(), "the upload broke off");

        let known = known(&peers).unwrap();
        assert_eq!((known.offset, known.blocks), (car.ends[chunks - 2] as u64, chunks as u64 - 2));
        assert_eq!((known.root, known.allocations.len(), &known.key), (car.root, 2, &key()));
        for peer in &known.allocations {
            let leases = peers.cluster.peer(peers.index(peer)).leases();
            assert!(!leases.is_empty());
            assert!(
                leases.iter().all(|lease| matches!(lease.state, LeaseState::Waiting { .. })),
                "{leases:?}"
            );
            let _: Vec<_> = peers.memory[peers.index(peer)].repo_gc().collect().await;
            let kept = car.blocks.iter().take(chunks - 2).cloned().collect::<Vec<_>>();
            assert_eq!(
                peers.blocks_at(peers.index(peer), &kept),
                kept.len(),
                "garbage is collected in between"
            );
        }
        assert_eq!(peers.cluster.peer(0).state().counts().pins, 0);

        let events = add(&peers, car.rest(known.offset), options(2, 2, known.offset));
        let (lines, pins) = added(events).await;
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((line.cid, line.bytes, line.name.as_str()), (Some(car.root), car.block_bytes(), "x.car"));
        assert_eq!(line.size, (chunks * CHUNK_BYTES) as u64, "what the root says, wherever it was");
        assert_eq!((pins[0].cid, pins[0].allocations.clone()), (car.root, known.allocations));
        assert_complete(&peers, &car, &pins[0]).await;
        until_released(&peers).await;
        assert!(self::known(&peers).is_none());
        let again = refused(add(&peers, car.rest(0), options(2, 2, known.offset))).await;
        assert_eq!(again.kind(), ErrorKind::Conflict);
    }
}

#[tokio::test(start_paused = true)]
async fn an_add_that_is_dropped_goes_on_from_the_block_before() {
    let peers = peers(3).await;
    let car = car(20, true);
    let mut events = add(&peers, car.part(0, car.ends[11] + 100, End::Silent), options(3, 3, 0));
    assert!(tokio::time::timeout(Duration::from_secs(5), events.next()).await.is_err());
    let error = peers.cluster.peer(0).interrupted_add(&key()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "it runs");
    let second = refused(add(&peers, car.rest(0), options(3, 3, 0))).await;
    assert!(second.kind() == ErrorKind::Conflict && second.message().contains("is running"), "{second}");
    drop(events);
    let known = until_known(&peers).await;
    assert_eq!((known.offset, known.blocks), (car.ends[11] as u64, 11));

    // Once more, before it came any further.
    let mut events =
        add(&peers, car.part(known.offset, car.ends[12] - 1, End::Silent), options(3, 3, known.offset));
    assert!(tokio::time::timeout(Duration::from_secs(5), events.next()).await.is_err());
    drop(events);
    assert_eq!(until_known(&peers).await, known);

    let (lines, pins) = added(add(&peers, car.rest(known.offset), options(3, 3, known.offset))).await;
    assert_eq!(lines[0].bytes, car.block_bytes());
    assert_complete(&peers, &car, &pins[0]).await;
    until_released(&peers).await;
}

#[tokio::test(start_paused = true)]
async fn what_broke_off_before_its_pin_needs_no_more_bytes() {
    let peers = peers(2).await;
    let car = car(5, true);
    // Everything came, and then something that no CAR has behind its end.
    let mut bytes = car.bytes.to_vec();
    bytes.push(7);
    let content = Bytewise { bytes: bytes.into(), end: End::Whole, opened: false };
    let error = refused(add(&peers, content, options(2, 2, 0))).await;
    assert_eq!(error.message(), "unexpected EOF");
    let known = known(&peers).unwrap();
    assert_eq!(known.offset, car.bytes.len() as u64);
    let (_, pins) = added(add(&peers, car.rest(known.offset), options(2, 2, known.offset))).await;
    assert_complete(&peers, &car, &pins[0]).await;
    until_released(&peers).await;
}

#[tokio::test(start_paused = true)]
async fn the_peer_may_be_stopped_in_between_but_not_killed() {
    let mut peers = on_plain_daemons(3).await;
    let car = car(20, true);
    let adding = tokio::spawn(all(add(&peers, car.part(0, car.ends[9] + 9, End::Silent), options(3, 3, 0))));
    sleep(Duration::from_secs(5)).await;
    peers.cluster.stop(0).await.unwrap();
    assert_eq!(adding.await.unwrap().2.unwrap_err().kind(), ErrorKind::ShutDown);
    sleep(Duration::from_secs(60 * 60)).await;
    peers.cluster.restart(0).await.unwrap();
    peers.know_each_other().await;
    let known = known(&peers).unwrap();
    assert_eq!((known.offset, known.allocations.len()), (car.ends[9] as u64, 3));

    // Killed while it goes on: what it knew before is still right.
    let content = car.part(known.offset, car.ends[15], End::Silent);
    let adding = tokio::spawn(all(add(&peers, content, options(3, 3, known.offset))));
    sleep(Duration::from_secs(5)).await;
    peers.cluster.crash(0);
    adding.abort();
    peers.cluster.restart(0).await.unwrap();
    peers.know_each_other().await;
    assert_eq!(self::known(&peers).unwrap(), known);
    let (_, pins) = added(add(&peers, car.rest(known.offset), options(3, 3, known.offset))).await;
    assert_complete(&peers, &car, &pins[0]).await;
    until_released(&peers).await;

    // Killed in the first part: nothing is known, and nothing is left.
    peers.cluster.peer(0).unpin(&car.root).await.unwrap();
    let adding = tokio::spawn(all(add(&peers, car.part(0, car.ends[9], End::Silent), options(3, 3, 0))));
    sleep(Duration::from_secs(5)).await;
    peers.cluster.crash(0);
    adding.abort();
    peers.cluster.restart(0).await.unwrap();
    assert!(self::known(&peers).is_none());
    until_released(&peers).await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_lost_in_between_is_replaced_while_one_is_left() {
    let mut peers = peers(4).await;
    let car = car(30, true);
    let place = |peers: &Peers, offset| {
        let mut options = options(2, 2, offset);
        options.pin.user_allocations = vec![peers.cluster.id(1), peers.cluster.id(2)];
        options
    };
    refused(add(&peers, car.part(0, car.ends[14], End::Broken), place(&peers, 0))).await;
    let known = known(&peers).unwrap();
    peers.cluster.crash(1);
    let (_, pins) = added(add(&peers, car.rest(known.offset), place(&peers, known.offset))).await;
    let allocations = &pins[0].allocations;
    assert!(allocations.len() == 2 && allocations.contains(&peers.cluster.id(2)), "{allocations:?}");
    assert!(!allocations.contains(&peers.cluster.id(1)));
    assert_complete(&peers, &car, &pins[0]).await;
    // Who came later does not know what links to its blocks.
    let later = allocations.iter().find(|peer| **peer != peers.cluster.id(2)).map(|peer| peers.index(peer));
    let released = async |peers: &TestCluster| {
        peers.running().all(|(index, peer)| Some(index) == later || peer.leases().is_empty())
    };
    peers.cluster.wait_until("the leases of all others are released", released).await.unwrap();
    sleep(LEASE_TTL + Duration::from_secs(1_200)).await;
    until_released(&peers).await;
}

#[tokio::test(start_paused = true)]
async fn where_all_destinations_are_lost_it_begins_anew_in_the_end() {
    let mut peers = peers(3).await;
    let car = car(10, true);
    let place = |peers: &Peers, offset, index| {
        let mut options = options(1, 1, offset);
        options.pin.user_allocations = vec![peers.cluster.id(index)];
        options
    };
    refused(add(&peers, car.part(0, car.ends[5], End::Broken), place(&peers, 0, 1))).await;
    let known = known(&peers).unwrap();
    peers.cluster.crash(1);
    // Twice it may be a matter of time.
    for attempt in 0..3 {
        assert_eq!(self::known(&peers), Some(known.clone()), "{attempt}");
        let error = refused(add(&peers, car.rest(known.offset), place(&peers, known.offset, 1))).await;
        assert!(error.message().starts_with("failed to put block on all destinations"), "{error}");
    }
    assert_eq!(self::known(&peers), None);
    let (_, pins) = added(add(&peers, car.rest(0), place(&peers, 0, 2))).await;
    assert_complete(&peers, &car, &pins[0]).await;
    until_released(&peers).await;
}

#[tokio::test(start_paused = true)]
async fn where_the_first_part_fails_everywhere_nothing_is_kept() {
    let peers = peers(1).await;
    let car = car(10, true);
    peers.faulty[0].fail_next(IpfsCall::PutBlocks, 1, Error::new(ErrorKind::StorageFull, "no space left"));
    let error = refused(add(&peers, car.part(0, car.ends[5], End::Broken), options(1, 1, 0))).await;
    let texts = ["the upload broke off", "failed to put block on all destinations"];
    assert!(texts.iter().any(|text| error.message().starts_with(text)), "{error}");
    assert!(known(&peers).is_none());
    peers.assert_nothing_is_left().await;
    until_released(&peers).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_go_on_is_refused_and_beginning_anew_is_always_possible() {
    let peers = peers(2).await;
    let car = car(10, true);
    refused(add(&peers, car.part(0, car.ends[5], End::Broken), options(2, 2, 0))).await;
    let at = known(&peers).unwrap().offset;
    for (options, kind, text) in [
        (options(2, 2, at + 1), ErrorKind::Conflict, "goes on at offset"),
        (options(1, 1, at), ErrorKind::Conflict, "other replication factors"),
        (AddOptions { local: true, ..options(2, 2, at) }, ErrorKind::Conflict, "other replication factors"),
        (AddOptions { shard: true, ..options(2, 2, 0) }, ErrorKind::InvalidInput, "what is sharded cannot"),
        (
            AddOptions { format: AddFormat::UnixFs, ..options(2, 2, 0) },
            ErrorKind::InvalidInput,
            "only a CAR (format=car) can",
        ),
    ] {
        assert_eq!(peers.cluster.peer(0).check_resume(&options).unwrap_err().kind(), kind);
        let error = refused(add(&peers, car.rest(at), options)).await;
        assert!(error.kind() == kind && error.message().contains(text), "{error}");
    }
    assert_eq!(known(&peers).unwrap().offset, at);
    peers.cluster.peer(0).check_resume(&options(2, 2, at)).unwrap();

    // A splice that cannot be right is an error of the CAR.
    let error = refused(add(&peers, car.part(at + 1, car.bytes.len(), End::Whole), options(2, 2, at))).await;
    assert!(["car;", "block"].iter().any(|word| error.message().contains(word)), "{error}");
    assert_eq!(known(&peers).unwrap().offset, at);

    // Another file under the same key replaces it.
    let other = self::car(7, false);
    refused(add(&peers, other.part(0, other.ends[3], End::Broken), options(1, 1, 0))).await;
    let now = known(&peers).unwrap();
    assert_eq!((now.offset, now.root), (other.ends[3] as u64, other.root));
    let (_, pins) = added(add(&peers, other.rest(0), options(1, 1, 0))).await;
    assert_complete(&peers, &other, &pins[0]).await;
    assert!(known(&peers).is_none());
}

#[tokio::test(start_paused = true)]
async fn when_nobody_comes_back_nothing_is_left() {
    let peers = peers(2).await;
    let car = car(10, false);
    refused(add(&peers, car.part(0, car.ends[5], End::Broken), options(2, 2, 0))).await;
    let known = known(&peers).unwrap();
    assert_eq!(known.expires, known.since + INTERRUPTED_ADD_TTL);
    sleep(INTERRUPTED_ADD_TTL - Duration::from_secs(60)).await;
    assert_eq!(self::known(&peers), Some(known.clone()));
    sleep(Duration::from_secs(60)).await;
    assert!(self::known(&peers).is_none());
    let late = refused(add(&peers, car.rest(known.offset), options(2, 2, known.offset))).await;
    assert_eq!(late.kind(), ErrorKind::Conflict);
    sleep(LEASE_TTL - INTERRUPTED_ADD_TTL + Duration::from_secs(1_200)).await;
    for (_, peer) in peers.cluster.running() {
        assert!(peer.leases().is_empty());
    }
    for daemon in &peers.memory {
        let _: Vec<_> = daemon.repo_gc().collect().await;
    }
    assert_eq!(peers.blocks_at(0, &car.blocks) + peers.blocks_at(1, &car.blocks), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_part_stays_as_long_as_the_rest_is_on_its_way() {
    let peers = peers(1).await;
    let car = car(10, false);
    refused(add(&peers, car.part(0, car.ends[5], End::Broken), options(1, 1, 0))).await;
    let known = known(&peers).unwrap();
    sleep(INTERRUPTED_ADD_TTL - Duration::from_secs(60)).await;
    // It takes longer than the first part would wait.
    let (go_on, gate) = oneshot::channel::<()>();
    struct Slow(Option<oneshot::Receiver<()>>, Bytewise);
    #[async_trait]
    impl Content for Slow {
        async fn next(&mut self) -> Result<Option<Entry>> {
            self.1.next().await
        }
        async fn read(&mut self) -> Result<Option<Bytes>> {
            if self.1.bytes.is_empty()
                && let Some(gate) = self.0.take()
            {
                let _ = gate.await;
            }
            self.1.read().await
        }
    }
    let content = Slow(Some(gate), car.rest(known.offset));
    let adding = tokio::spawn(all(peers.cluster.peer(0).add(content, options(1, 1, known.offset))));
    sleep(LEASE_TTL).await;
    let _: Vec<_> = peers.memory[0].repo_gc().collect().await;
    assert_eq!(peers.blocks_at(0, &car.blocks[..5]), 5);
    go_on.send(()).unwrap();
    let (_, pins, ended) = adding.await.unwrap();
    ended.unwrap();
    assert_complete(&peers, &car, &pins[0]).await;
    until_released(&peers).await;
}

#[tokio::test(start_paused = true)]
async fn however_often_it_breaks_off_the_result_is_that_of_one_upload() {
    const SEEDS: u64 = 10;
    let car_of = |random: &mut Random| car(random.between(1, 45), random.percent(50));
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let (peers, car) = (peers(3).await, car_of(&mut random));
        let (mut offset, mut parts) = (0, 0);
        let pins = loop {
            let most = car.bytes.len() - offset as usize;
            let taken = if parts < 6 { random.below(most + 1) } else { most };
            let to = offset as usize + taken;
            let end = match (to == car.bytes.len(), random.percent(50)) {
                (true, true) => End::Whole,
                (true, false) if parts >= 6 => End::Whole,
                (_, true) => End::Broken,
                (_, false) => End::Silent,
            };
            parts += 1;
            let mut events = add(&peers, car.part(offset, to, end), options(2, 2, offset));
            if end == End::Whole {
                let (lines, pins) = added(events).await;
                assert_eq!((lines.len(), lines[0].bytes), (1, car.block_bytes()), "seed {seed}");
                break pins;
            }
            // An error, or nothing for a while.
            let _ =
                tokio::time::timeout(Duration::from_secs(random.between(1, 90) as u64), events.next()).await;
            drop(events);
            let idle = async |peers: &TestCluster| peers.peer(0).interrupted_add(&key()).is_ok();
            peers.cluster.wait_until("it has ended", idle).await.unwrap();
            let whole_blocks = car.ends.iter().rposition(|end| *end <= to).filter(|blocks| *blocks > 0);
            let expected = whole_blocks.map(|blocks| car.ends[blocks] as u64).unwrap_or(0);
            let now = known(&peers).map_or(0, |known| known.offset);
            assert_eq!(now, expected.max(offset), "seed {seed}, part {parts}");
            offset = now;
        };
        assert_complete(&peers, &car, &pins[0]).await;
        until_released(&peers).await;
        let pinned: BTreeSet<Cid> = peers.cluster.peer(0).state_cids().await;
        assert_eq!(pinned, [car.root].into());
        assert!(known(&peers).is_none());
    }
}

impl Cluster {
    async fn state_cids(&self) -> BTreeSet<Cid> {
        let pages = self.pins(crate::state::StateQuery::default());
        pages.flat_map(|page| futures::stream::iter(page.unwrap())).map(|pin| pin.cid).collect().await
    }
}
