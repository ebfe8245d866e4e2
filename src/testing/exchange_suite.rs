//! Conformance suite of [`BlockExchange`].
//!
//! ```text
//! struct Mine;
//! #[async_trait]
//! impl exchange_suite::Fixture for Mine {
//!     type Guard = ();
//!     async fn exchanges(&self, sources: Vec<Arc<dyn BlockSource>>) -> ((), Vec<(PeerId, Arc<dyn BlockExchange>)>) { … }
//! }
//! ipfs_cluster::exchange_conformance!(mine, Mine);
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)] // A case fails by panicking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use tokio::time::{sleep, timeout};

use crate::error::{Error, ErrorKind, Result};
use crate::exchange::{BlockExchange, BlockSource};
use crate::types::{Block, Cid, PeerId};

/// Makes the exchanges under test.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Cleans up when it is dropped at the end of a case.
    type Guard: Send;

    /// An exchange for each source (at most three), of different peers that are all connected to each other.
    async fn exchanges(
        &self,
        sources: Vec<Arc<dyn BlockSource>>,
    ) -> (Self::Guard, Vec<(PeerId, Arc<dyn BlockExchange>)>);
}

/// The same implementation behind one more `Arc`.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn exchanges(
        &self,
        sources: Vec<Arc<dyn BlockSource>>,
    ) -> (F::Guard, Vec<(PeerId, Arc<dyn BlockExchange>)>) {
        let sources = sources.into_iter().map(|source| Arc::new(source) as _).collect();
        let (guard, exchanges) = self.0.exchanges(sources).await;
        (guard, exchanges.into_iter().map(|(peer, exchange)| (peer, Arc::new(exchange) as _)).collect())
    }
}

conformance_suite!($ exchange_suite, exchange_conformance, run_case, [
    a_block_of_ours_is_given_at_once,
    a_block_is_got_from_the_hint,
    a_block_is_found_without_a_hint,
    a_wrong_hint_costs_only_time,
    a_hint_nobody_knows_costs_only_time,
    a_large_block_arrives_whole,
    many_blocks_come_once_each,
    blocks_that_are_spread_are_all_found,
    a_block_that_comes_later_is_sent_when_it_is_announced,
    our_own_announcement_ends_our_wait,
    a_block_nobody_has_is_waited_for,
    calls_for_the_same_block_all_get_it,
    a_dropped_call_does_not_disturb_others,
    bytes_that_are_not_the_block_are_never_given,
    a_source_that_fails_is_an_error_for_us_and_no_block_for_others,
    both_sides_ask_at_the_same_time,
    a_peer_that_stops_in_the_middle_costs_only_time,
    a_flood_of_wants_disturbs_nobody,
    a_shutdown_ends_waiting_and_serving,
    every_shutdown_returns_and_calls_after_it_are_refused,
]);

/// Longer than anything takes that works.
const WAIT: Duration = Duration::from_secs(90);
/// Longer than what is announced takes, shorter than asking again does.
const SOON: Duration = Duration::from_secs(5);
/// Long enough for a block to come, were it to come.
const A_WHILE: Duration = Duration::from_millis(500);

async fn within<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    timeout(WAIT, waiting).await.unwrap_or_else(|_| panic!("{what} took more than {WAIT:?}"))
}

/// Blocks in memory; can be told to fail or to lie.
#[derive(Debug, Default)]
struct Blocks(Mutex<BTreeMap<Cid, Result<Bytes>>>);

impl Blocks {
    fn put(&self, block: &Block) {
        self.0.lock().unwrap().insert(block.cid, Ok(block.data.clone()));
    }

    fn answer(&self, cid: Cid, answer: Result<Bytes>) {
        self.0.lock().unwrap().insert(cid, answer);
    }
}

impl BlockSource for Blocks {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        self.0.lock().unwrap().get(cid).cloned().transpose()
    }
}

#[derive(Clone)]
struct Member {
    peer: PeerId,
    exchange: Arc<dyn BlockExchange>,
    blocks: Arc<Blocks>,
}

impl Member {
    async fn get(&self, block: &Block, hint: Option<PeerId>) -> Result<Block> {
        within("getting a block", self.exchange.get(&block.cid, hint)).await
    }

    /// What `get_many` gives, in order of CIDs.
    async fn get_many(&self, blocks: &[Block], hint: Option<PeerId>) -> Vec<Cid> {
        let cids = blocks.iter().map(|block| block.cid).collect();
        let got = within("getting blocks", self.exchange.get_many(cids, hint).collect::<Vec<_>>()).await;
        let mut got: Vec<Cid> = got.into_iter().map(|block| block.unwrap().cid).collect();
        got.sort();
        got
    }
}

async fn members<F: Fixture, const N: usize>(fixture: &F) -> (F::Guard, [Member; N]) {
    let blocks: Vec<Arc<Blocks>> = (0..N).map(|_| Arc::default()).collect();
    let sources = blocks.iter().map(|blocks| blocks.clone() as _).collect();
    let (guard, exchanges) = fixture.exchanges(sources).await;
    assert_eq!(
        exchanges.iter().map(|(peer, _)| peer).collect::<BTreeSet<_>>().len(),
        N,
        "one for each source"
    );
    let members: Vec<Member> = exchanges
        .into_iter()
        .zip(blocks)
        .map(|((peer, exchange), blocks)| Member { peer, exchange, blocks })
        .collect();
    (guard, members.try_into().unwrap_or_else(|_| panic!("an exchange for each source")))
}

fn block(number: u32) -> Block {
    Block::raw(format!("block {number}"))
}

fn blocks(count: u32) -> Vec<Block> {
    (0..count).map(block).collect()
}

fn cids(blocks: &[Block]) -> Vec<Cid> {
    let mut cids: Vec<Cid> = blocks.iter().map(|block| block.cid).collect();
    cids.sort();
    cids
}

/// Also when nobody else is there.
pub async fn a_block_of_ours_is_given_at_once(fixture: impl Fixture) {
    let (_guard, [one]) = members(&fixture).await;
    one.blocks.put(&block(1));
    assert_eq!(one.get(&block(1), None).await.unwrap(), block(1));
    assert_eq!(one.get(&block(1), Some(one.peer)).await.unwrap(), block(1));
    assert_eq!(one.get_many(&[block(1)], None).await, cids(&[block(1)]));
}

/// Who announced a head has its blocks.
pub async fn a_block_is_got_from_the_hint(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    other.blocks.put(&block(1));
    assert_eq!(one.get(&block(1), Some(other.peer)).await.unwrap(), block(1));
}

/// From whoever is connected.
pub async fn a_block_is_found_without_a_hint(fixture: impl Fixture) {
    let (_guard, [one, _, third]) = members(&fixture).await;
    third.blocks.put(&block(1));
    assert_eq!(one.get(&block(1), None).await.unwrap(), block(1));
}

/// The peer has it not, or is ourselves.
pub async fn a_wrong_hint_costs_only_time(fixture: impl Fixture) {
    let (_guard, [one, other, third]) = members(&fixture).await;
    third.blocks.put(&block(1));
    third.blocks.put(&block(2));
    assert_eq!(one.get(&block(1), Some(other.peer)).await.unwrap(), block(1));
    assert_eq!(one.get(&block(2), Some(one.peer)).await.unwrap(), block(2));
}

/// Peers leave between their announcement and our question.
pub async fn a_hint_nobody_knows_costs_only_time(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    other.blocks.put(&block(1));
    assert_eq!(one.get(&block(1), Some(super::peer(99))).await.unwrap(), block(1));
}

/// A delta of thousands of pins.
pub async fn a_large_block_arrives_whole(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    let data: Vec<u8> =
        (0..1024 * 1024_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (large, empty) = (Block::raw(data), Block::raw(Vec::new()));
    other.blocks.put(&large);
    other.blocks.put(&empty);
    assert!(one.get(&large, Some(other.peer)).await.unwrap() == large);
    assert_eq!(one.get(&empty, None).await.unwrap(), empty);
}

/// However often they are asked for, and ours among them.
pub async fn many_blocks_come_once_each(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    let all = blocks(1_000);
    all.iter().for_each(|block| other.blocks.put(block));
    all[..100].iter().for_each(|block| one.blocks.put(block));
    let twice: Vec<Block> = all.iter().chain(&all[..500]).cloned().collect();
    assert_eq!(one.get_many(&twice, Some(other.peer)).await, cids(&all));
    assert_eq!(one.get_many(&[], None).await, []);
}

/// The hint has only a part.
pub async fn blocks_that_are_spread_are_all_found(fixture: impl Fixture) {
    let (_guard, [one, other, third]) = members(&fixture).await;
    let all = blocks(300);
    for (number, block) in all.iter().enumerate() {
        [&other, &third][number % 2].blocks.put(block);
    }
    assert_eq!(one.get_many(&all, Some(other.peer)).await, cids(&all));
    assert_eq!(one.get_many(&all, None).await, cids(&all));
}

/// The other side remembers what we want.
pub async fn a_block_that_comes_later_is_sent_when_it_is_announced(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    for (number, hint) in [(1, Some(other.peer)), (2, None)] {
        let wanted = block(number);
        let announcing = async {
            sleep(A_WHILE).await;
            other.blocks.put(&wanted);
            other.exchange.announce(&[wanted.cid, block(99).cid]).await.unwrap();
        };
        let (got, ()) = tokio::join!(timeout(A_WHILE + SOON, one.get(&wanted, hint)), announcing);
        assert_eq!(got.expect("asking again is not what an announcement is for").unwrap(), wanted);
    }
}

/// It may come to us by another way.
pub async fn our_own_announcement_ends_our_wait(fixture: impl Fixture) {
    let (_guard, [one]) = members(&fixture).await;
    let wanted = block(1);
    let announcing = async {
        sleep(A_WHILE).await;
        one.blocks.put(&wanted);
        one.exchange.announce(&[wanted.cid]).await.unwrap();
    };
    let (got, ()) = tokio::join!(one.get(&wanted, None), announcing);
    assert_eq!(got.unwrap(), wanted);
}

/// The caller brings the deadline.
pub async fn a_block_nobody_has_is_waited_for(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    let hints = [None, Some(other.peer)];
    for hint in hints {
        let got = timeout(A_WHILE, one.exchange.get(&block(1).cid, hint)).await;
        assert!(got.is_err(), "{got:?}");
    }
}

/// Several parts of a peer may need the same one.
pub async fn calls_for_the_same_block_all_get_it(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    let wanted = block(1);
    let calls = join_all((0..10).map(|number| one.get(&wanted, (number % 2 == 0).then_some(other.peer))));
    let announcing = async {
        sleep(A_WHILE).await;
        other.blocks.put(&wanted);
        other.exchange.announce(&[wanted.cid]).await.unwrap();
    };
    let (got, ()) = tokio::join!(calls, announcing);
    for block in got {
        assert_eq!(block.unwrap(), wanted);
    }
}

/// Deadlines drop calls, alone and in the middle of many.
pub async fn a_dropped_call_does_not_disturb_others(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    let (wanted, all) = (block(1), blocks(200));
    let staying = one.get(&wanted, None);
    let others = async {
        for hint in [None, Some(other.peer)] {
            assert!(timeout(A_WHILE / 4, one.exchange.get(&wanted.cid, hint)).await.is_err());
        }
        all.iter().for_each(|block| other.blocks.put(block));
        other.exchange.announce(&cids(&all)).await.unwrap();
        let mut some = one.exchange.get_many(cids(&all), None);
        for _ in 0..10 {
            within("a block", some.next()).await.unwrap().unwrap();
        }
        drop(some);
        assert_eq!(one.get_many(&all, None).await, cids(&all));
    };
    let (got, ()) = tokio::join!(staying, others);
    assert_eq!(got.unwrap(), wanted);
}

/// A peer that lies is passed over; when nobody else has the block, it is as if nobody had it.
pub async fn bytes_that_are_not_the_block_are_never_given(fixture: impl Fixture) {
    let (_guard, [one, liar, honest]) = members(&fixture).await;
    for number in 0..5 {
        liar.blocks.answer(block(number).cid, Ok(Bytes::from_static(b"something else")));
    }
    let got = timeout(A_WHILE, one.exchange.get(&block(0).cid, Some(liar.peer))).await;
    assert!(got.is_err(), "{got:?}");
    for number in 1..5 {
        honest.blocks.put(&block(number));
        let hint = (number % 2 == 0).then_some(liar.peer);
        assert_eq!(one.get(&block(number), hint).await.unwrap(), block(number));
    }
}

/// A damaged store must not look like an empty one to us, nor stop others from asking elsewhere.
pub async fn a_source_that_fails_is_an_error_for_us_and_no_block_for_others(fixture: impl Fixture) {
    let (_guard, [one, damaged, third]) = members(&fixture).await;
    damaged.blocks.answer(block(1).cid, Err(Error::new(ErrorKind::Corrupt, "bad sector")));
    assert_eq!(damaged.get(&block(1), None).await.unwrap_err().kind(), ErrorKind::Corrupt);
    third.blocks.put(&block(1));
    assert_eq!(one.get(&block(1), Some(damaged.peer)).await.unwrap(), block(1));
}

/// As after a partition: everybody has what the others lack.
pub async fn both_sides_ask_at_the_same_time(fixture: impl Fixture) {
    let (_guard, [one, other, third]) = members(&fixture).await;
    let all = blocks(300);
    let members = [one, other, third];
    for (number, block) in all.iter().enumerate() {
        members[number % 3].blocks.put(block);
    }
    for got in join_all(members.iter().map(|member| member.get_many(&all, None))).await {
        assert_eq!(got, cids(&all));
    }
}

/// What it had not sent yet comes from another.
pub async fn a_peer_that_stops_in_the_middle_costs_only_time(fixture: impl Fixture) {
    let (_guard, [one, other, third]) = members(&fixture).await;
    let all = blocks(500);
    for block in &all {
        other.blocks.put(block);
        third.blocks.put(block);
    }
    let mut many = one.exchange.get_many(cids(&all), Some(other.peer));
    let mut got = Vec::new();
    for _ in 0..50 {
        got.push(within("a block", many.next()).await.unwrap().unwrap().cid);
    }
    within("shutting down", other.exchange.shutdown()).await.unwrap();
    let rest = within("the rest", many.collect::<Vec<_>>()).await;
    got.extend(rest.into_iter().map(|block| block.unwrap().cid));
    got.sort();
    assert_eq!(got, cids(&all));
}

/// Not even when all of them are for what nobody has.
pub async fn a_flood_of_wants_disturbs_nobody(fixture: impl Fixture) {
    let (_guard, [flooded, flooding, third]) = members(&fixture).await;
    let wanted = block(1);
    flooded.blocks.put(&wanted);
    let flood = join_all((0..30_u32).map(|call| {
        let cids = (0..500).map(|number| block(1_000 + call * 500 + number).cid).collect();
        flooding.exchange.get_many(cids, Some(flooded.peer)).collect::<Vec<_>>()
    }));
    let others = async {
        sleep(A_WHILE).await;
        assert_eq!(third.get(&wanted, Some(flooded.peer)).await.unwrap(), wanted);
        flooded.blocks.put(&block(2));
        flooded.exchange.announce(&[block(2).cid]).await.unwrap();
        assert_eq!(third.get(&block(2), None).await.unwrap(), block(2));
        within("shutting down", flooding.exchange.shutdown()).await.unwrap();
    };
    let (flood, ()) = tokio::join!(flood, others);
    for got in flood.into_iter().flatten() {
        assert_eq!(got.unwrap_err().kind(), ErrorKind::ShutDown);
    }
}

/// Nobody waits for what will not come.
pub async fn a_shutdown_ends_waiting_and_serving(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    let (first, many) = (block(1), blocks(10));
    let stopping = async {
        sleep(A_WHILE).await;
        within("shutting down", one.exchange.shutdown()).await.unwrap();
    };
    let waiting = within("the end of many", one.exchange.get_many(cids(&many), None).collect::<Vec<_>>());
    let (got, got_many, ()) = tokio::join!(one.get(&first, Some(other.peer)), waiting, stopping);
    assert_eq!(got.unwrap_err().kind(), ErrorKind::ShutDown);
    for got in got_many {
        assert_eq!(got.unwrap_err().kind(), ErrorKind::ShutDown);
    }
    one.blocks.put(&block(50));
    let got = timeout(A_WHILE, other.exchange.get(&block(50).cid, Some(one.peer))).await;
    assert!(got.is_err(), "served after the end: {got:?}");
}

/// Also several at once; also for blocks of ours.
pub async fn every_shutdown_returns_and_calls_after_it_are_refused(fixture: impl Fixture) {
    let (_guard, [one, other]) = members(&fixture).await;
    one.blocks.put(&block(1));
    other.blocks.put(&block(2));
    one.get(&block(2), None).await.unwrap();
    for result in within("shutting down", join_all((0..3).map(|_| one.exchange.shutdown()))).await {
        result.unwrap();
    }
    within("shutting down again", one.exchange.shutdown()).await.unwrap();
    for wanted in [block(1), block(2)] {
        assert_eq!(one.get(&wanted, None).await.unwrap_err().kind(), ErrorKind::ShutDown);
        let many = within("many", one.exchange.get_many(vec![wanted.cid], None).collect::<Vec<_>>()).await;
        assert!(many.iter().all(|got| got.as_ref().is_err_and(|error| error.kind() == ErrorKind::ShutDown)));
    }
    assert_eq!(one.exchange.announce(&[block(1).cid]).await.unwrap_err().kind(), ErrorKind::ShutDown);
}
