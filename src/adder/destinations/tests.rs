//! Destinations that take blocks, fail and hang, on paused time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use tokio::time::{Instant, sleep};

use super::*;

/// How a destination behaves.
#[derive(Clone, Copy, Debug)]
enum Manners {
    Good,
    /// Takes one block in so long.
    Slow(Duration),
    /// Takes so many blocks and fails.
    Fails(usize),
    /// Takes so many blocks, and then nothing more.
    Hangs(usize),
    /// Takes everything and never says that it is stored.
    HangsAtTheEnd,
    /// Takes so many blocks and says that this is all.
    StopsEarly(usize),
    Panics,
}
use Manners::{Fails, Good, Hangs, HangsAtTheEnd, Panics, Slow, StopsEarly};

#[derive(Debug, Default)]
struct Store {
    blocks: Vec<Cid>,
    /// How the stream of blocks ended.
    ended: Option<Result<()>>,
}

#[derive(Debug)]
struct Fake {
    manners: BTreeMap<PeerId, Manners>,
    destinations: Vec<PeerId>,
    candidates: Vec<PeerId>,
    min: usize,
    replaceable: bool,
    stores: Mutex<BTreeMap<PeerId, Store>>,
    running: AtomicUsize,
    chosen: AtomicUsize,
}

impl Fake {
    /// The first ones are the destinations, the others candidates.
    fn new(destinations: usize, min: usize, manners: &[Manners]) -> Arc<Self> {
        let peers: Vec<PeerId> = (0..manners.len() as u8).map(peer).collect();
        Arc::new(Self {
            manners: peers.iter().copied().zip(manners.iter().copied()).collect(),
            destinations: peers[..destinations].to_vec(),
            candidates: peers[destinations..].to_vec(),
            min,
            replaceable: true,
            stores: Mutex::default(),
            running: AtomicUsize::new(0),
            chosen: AtomicUsize::new(0),
        })
    }

    fn sink(self: &Arc<Self>) -> Destinations {
        Destinations::new(self.clone())
    }

    /// How many of these blocks a peer has.
    fn count(&self, number: u8, blocks: &[DagBlock]) -> usize {
        let stores = self.stores.lock().unwrap();
        let Some(store) = stores.get(&peer(number)) else { return 0 };
        blocks.iter().filter(|block| store.blocks.contains(&block.block.cid)).count()
    }

    fn ended(&self, number: u8) -> Option<Result<()>> {
        self.stores.lock().unwrap().get(&peer(number)).and_then(|store| store.ended.clone())
    }
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Placement for Fake {
    async fn choose(&self) -> Result<Choice> {
        self.chosen.fetch_add(1, Ordering::SeqCst);
        Ok(Choice {
            destinations: self.destinations.clone(),
            allocations: None,
            min: self.min,
            replaceable: self.replaceable,
        })
    }

    async fn another(&self, tried: &[PeerId]) -> Result<Option<PeerId>> {
        Ok(self.candidates.iter().find(|peer| !tried.contains(peer)).copied())
    }

    async fn put_blocks(&self, peer: &PeerId, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.running);
        let manners = self.manners[peer];
        let mut taken = 0;
        loop {
            match manners {
                Fails(after) if taken == after => {
                    return Err(Error::new(ErrorKind::Unavailable, "it is gone"));
                }
                Hangs(after) if taken == after => return std::future::pending().await,
                StopsEarly(after) if taken == after => return Ok(()),
                Slow(time) => sleep(time).await,
                Panics => panic!("a destination with a bug"),
                _ => {}
            }
            let block = blocks.next().await;
            let mut stores = self.stores.lock().unwrap();
            let store = stores.entry(*peer).or_default();
            match block {
                Some(Ok(block)) => store.blocks.push(block.cid),
                Some(Err(error)) => {
                    store.ended = Some(Err(error.clone()));
                    return Err(error);
                }
                None => {
                    store.ended = Some(Ok(()));
                    break;
                }
            }
            taken += 1;
        }
        if matches!(manners, HangsAtTheEnd) {
            return std::future::pending().await;
        }
        Ok(())
    }
}

fn blocks(count: usize, bytes: usize) -> Vec<DagBlock> {
    (0..count)
        .map(|number| {
            let mut data = vec![0; bytes.max(8)];
            data[..8].copy_from_slice(&number.to_le_bytes());
            DagBlock { block: Block::raw(data), dag_bytes: bytes as u64 }
        })
        .collect()
}

async fn add(sink: &mut Destinations, blocks: &[DagBlock]) -> Result<Vec<PeerId>> {
    for block in blocks {
        sink.put(block.clone()).await?;
    }
    sink.finish().await
}

fn peers(numbers: &[u8]) -> Vec<PeerId> {
    numbers.iter().copied().map(peer).collect()
}

/// More than the window holds.
const MANY: usize = 40;
const LARGE: usize = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn every_destination_gets_every_block_in_order() {
    let fake = Fake::new(3, 2, &[Good, Slow(Duration::from_millis(20)), Good]);
    let mut sink = fake.sink();
    assert!(sink.allocations().is_empty(), "nothing is chosen before the first block");
    let blocks = blocks(MANY, LARGE);
    sink.put(blocks[0].clone()).await.unwrap();
    assert_eq!(sink.allocations(), peers(&[0, 1, 2]));
    // Twice in a row is once.
    sink.put(blocks[0].clone()).await.unwrap();
    assert_eq!(add(&mut sink, &blocks).await.unwrap(), peers(&[0, 1, 2]));
    let cids: Vec<Cid> = blocks.iter().map(|block| block.block.cid).collect();
    for number in 0..3 {
        assert_eq!(fake.stores.lock().unwrap()[&peer(number)].blocks, cids, "{number}");
        fake.ended(number).unwrap().unwrap();
    }
    assert_eq!(fake.chosen.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_destination_sets_the_pace_only_where_the_window_ends() {
    let fake = Fake::new(2, 1, &[Good, Slow(Duration::from_secs(1))]);
    let mut sink = fake.sink();
    let blocks = blocks(WINDOW_BYTES_MAX / LARGE + 5, LARGE);
    let start = Instant::now();
    for block in &blocks[..WINDOW_BYTES_MAX / LARGE] {
        sink.put(block.clone()).await.unwrap();
    }
    assert!(start.elapsed().is_zero(), "{:?}", start.elapsed());
    for block in &blocks[WINDOW_BYTES_MAX / LARGE..] {
        sink.put(block.clone()).await.unwrap();
    }
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    sink.finish().await.unwrap();
    assert_eq!(fake.count(1, &blocks), blocks.len());
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_fails_late_is_replaced_without_starting_over() {
    let fake = Fake::new(2, 2, &[Fails(30), Good, Good]);
    let blocks = blocks(MANY, LARGE);
    let allocations = add(&mut fake.sink(), &blocks).await.unwrap();
    assert_eq!(allocations, peers(&[2, 1]));
    assert_eq!(fake.count(1, &blocks), MANY, "one has everything");
    let late = fake.count(2, &blocks);
    assert!(late > 0 && late < MANY, "the other one gets the rest when it pins: {late}");
    assert_eq!(fake.chosen.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_dead_from_the_start_costs_nothing_but_a_candidate() {
    // The only one, and the next one fails as well.
    for dead in [Fails(0), StopsEarly(0), Panics] {
        let fake = Fake::new(1, 1, &[dead, Fails(3), Good]);
        let blocks = blocks(10, 1000);
        assert_eq!(add(&mut fake.sink(), &blocks).await.unwrap(), peers(&[2]), "{dead:?}");
        assert_eq!(fake.count(2, &blocks), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_is_replaced() {
    for hangs in [Hangs(0), Hangs(5), HangsAtTheEnd] {
        let fake = Fake::new(1, 1, &[hangs, Good]);
        let blocks = blocks(MANY, LARGE / 4);
        let start = Instant::now();
        let mut sink = fake.sink();
        assert_eq!(add(&mut sink, &blocks).await.unwrap(), peers(&[1]), "{hangs:?}");
        assert_eq!(fake.count(1, &blocks), MANY);
        assert!(start.elapsed() < STALL_TIMEOUT + Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(fake.running.load(Ordering::SeqCst), 0, "{hangs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_others_go_on_when_there_is_nobody_left() {
    let fake = Fake::new(3, 2, &[Good, Hangs(3), Good]);
    let blocks = blocks(MANY, LARGE);
    assert_eq!(add(&mut fake.sink(), &blocks).await.unwrap(), peers(&[0, 2]));
    // Too few are left: the one that failed is to pin when it is back.
    let fake = Fake::new(2, 2, &[Fails(3), Good]);
    assert_eq!(add(&mut fake.sink(), &blocks).await.unwrap(), peers(&[1, 0]));
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_add_does_with_the_text_of_the_reference() {
    let fake = Fake::new(2, 1, &[Fails(1), Fails(2), Fails(1)]);
    let mut sink = fake.sink();
    let error = add(&mut sink, &blocks(MANY, LARGE)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Unavailable, "failed to put block on all destinations")
    );
    assert!(format!("{error:?}").contains("it is gone"), "{error:?}");
    // And it stays so.
    assert!(sink.put(blocks(1, 10)[0].clone()).await.is_err());
    assert!(sink.finish().await.is_err());

    // The last one that has the beginning fails when that is no longer at hand.
    let fake = Fake::new(1, 1, &[Fails(30), Good]);
    assert!(add(&mut fake.sink(), &blocks(MANY, LARGE)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_add_that_is_given_up_ends_its_streams_with_an_error() {
    let fake = Fake::new(2, 1, &[Good, Hangs(2)]);
    let mut sink = fake.sink();
    for block in blocks(5, 1000) {
        sink.put(block).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.running.load(Ordering::SeqCst), 2);
    drop(sink);
    sleep(LAST_WORDS_TIMEOUT + Duration::from_secs(1)).await;
    assert_eq!(fake.running.load(Ordering::SeqCst), 0, "nothing is left running");
    assert_eq!(fake.ended(0).unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_failed_add_ends_the_streams_of_those_that_did_not_fail() {
    let fake = Fake::new(1, 1, &[Good]);
    let mut sink = fake.sink();
    sink.put(blocks(1, 10)[0].clone()).await.unwrap();
    let large = Block::raw(vec![0; BLOCK_BYTES_MAX + 1]);
    let error = sink.put(DagBlock { block: large, dag_bytes: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.ended(0).unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn more_destinations_than_are_streamed_to_are_told_and_pin() {
    let count = DESTINATIONS_MAX + 3;
    let fake = Fake::new(count, 1, &vec![Good; count]);
    let mut sink = fake.sink();
    assert_eq!(add(&mut sink, &blocks(1, 10)).await.unwrap().len(), count);
    assert_eq!(fake.stores.lock().unwrap().len(), DESTINATIONS_MAX);
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, number]).unwrap()
}
