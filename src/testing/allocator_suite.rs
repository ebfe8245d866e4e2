//! Conformance suite of [`PinAllocator`].
//!
//! ```text
//! struct Mine;
//! #[async_trait]
//! impl allocator_suite::Fixture for Mine {
//!     type Guard = ();
//!     async fn allocator(&self) -> ((), Arc<dyn PinAllocator>) { ((), Arc::new(MyAllocator::new())) }
//! }
//! ipfs_cluster::allocator_conformance!(mine, Mine);
//! ```

#![allow(clippy::unwrap_used)] // A case fails by panicking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

use super::peer;
use crate::allocator::{Candidates, PeerMetrics, PinAllocator};
use crate::types::{Block, Cid, Metric, PeerId};

/// Makes the allocator under test.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Cleans up when it is dropped at the end of a case.
    type Guard: Send;

    /// An allocator, configured the same each time.
    async fn allocator(&self) -> (Self::Guard, Arc<dyn PinAllocator>);

    /// A metric that the allocator understands. `rank` says which peers should be alike: equal ranks give equal
    /// metrics but for the peer. By default the value is the rank as a number, and metrics called `tag:…` are
    /// partitionable and weigh nothing.
    fn metric(&self, name: &str, peer: PeerId, rank: u32) -> Metric {
        let tag = name.starts_with("tag:");
        Metric {
            name: name.to_owned(),
            peer,
            value: rank.to_string(),
            expire: i64::MAX,
            valid: true,
            weight: if tag { 0 } else { i64::from(rank) },
            partitionable: tag,
            received_at: 0,
        }
    }
}

/// The same implementation behind one more `Arc`.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn allocator(&self) -> (F::Guard, Arc<dyn PinAllocator>) {
        let (guard, allocator) = self.0.allocator().await;
        (guard, Arc::new(allocator))
    }

    fn metric(&self, name: &str, peer: PeerId, rank: u32) -> Metric {
        self.0.metric(name, peer, rank)
    }
}

conformance_suite!($ allocator_suite, allocator_conformance, run_case, [
    the_metrics_it_needs_have_names_and_never_change,
    nobody_to_choose_from_gives_nobody,
    only_candidates_are_chosen,
    nobody_is_chosen_twice,
    priority_peers_come_before_all_others,
    the_same_input_gives_the_same_answer,
    every_instance_gives_the_same_answer,
    concurrent_calls_do_not_mix,
    peers_with_equal_metrics_are_told_apart,
]);

/// How metrics of the peers of one input relate.
const RANKS: [fn(u32) -> u32; 3] = [|number| number, |_| 7, |number| number % 3];

fn class(
    fixture: &impl Fixture,
    names: &[String],
    numbers: std::ops::Range<u32>,
    rank: fn(u32) -> u32,
) -> BTreeMap<PeerId, PeerMetrics> {
    numbers
        .map(|number| {
            let id = peer(u64::from(number));
            let metrics =
                names.iter().map(|name| (name.clone(), fixture.metric(name, id, rank(number)))).collect();
            (id, metrics)
        })
        .collect()
}

fn candidates(
    fixture: &impl Fixture,
    names: &[String],
    sizes: (u32, u32, u32),
    rank: fn(u32) -> u32,
) -> Candidates {
    let (current, priority, others) = sizes;
    let mut candidates = Candidates::new();
    candidates.current = class(fixture, names, 0..current, rank);
    candidates.priority = class(fixture, names, 100..100 + priority, rank);
    candidates.candidates = class(fixture, names, 200..200 + others, rank);
    candidates
}

fn inputs(fixture: &impl Fixture, names: &[String]) -> Vec<Candidates> {
    const SIZES: [(u32, u32, u32); 6] = [(0, 0, 1), (0, 1, 0), (0, 0, 9), (2, 3, 4), (1, 5, 0), (3, 2, 30)];
    RANKS.into_iter().flat_map(|rank| SIZES.map(|sizes| candidates(fixture, names, sizes, rank))).collect()
}

fn cid(number: u8) -> Cid {
    Block::raw(vec![number]).cid
}

/// An allocator asks for the same metrics all its life: the cluster may read the names once.
pub async fn the_metrics_it_needs_have_names_and_never_change(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    let names = allocator.metrics().to_vec();
    assert!(names.iter().all(|name| !name.is_empty()), "{names:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "named twice: {names:?}");
    for input in inputs(&fixture, &names) {
        allocator.allocate(&cid(0), input).await.unwrap();
    }
    assert_eq!(allocator.metrics(), names);
}

/// Peers that hold the pin already are no candidates.
pub async fn nobody_to_choose_from_gives_nobody(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    assert!(allocator.allocate(&cid(0), Candidates::new()).await.unwrap().is_empty());
    let names = allocator.metrics().to_vec();
    let only_current = candidates(&fixture, &names, (3, 0, 0), RANKS[0]);
    assert!(allocator.allocate(&cid(0), only_current).await.unwrap().is_empty());
}

/// Who is chosen was in `priority` or `candidates`.
pub async fn only_candidates_are_chosen(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    let names = allocator.metrics().to_vec();
    for input in inputs(&fixture, &names) {
        for peer in allocator.allocate(&cid(0), input.clone()).await.unwrap() {
            let known = input.priority.contains_key(&peer) || input.candidates.contains_key(&peer);
            assert!(known, "{peer} is no candidate of {input:?}");
        }
    }
}

/// One copy on each peer.
pub async fn nobody_is_chosen_twice(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    let names = allocator.metrics().to_vec();
    for input in inputs(&fixture, &names) {
        let order = allocator.allocate(&cid(0), input).await.unwrap();
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len(), "{order:?}");
    }
}

/// What the user asked for goes before any weight.
pub async fn priority_peers_come_before_all_others(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    let names = allocator.metrics().to_vec();
    for input in inputs(&fixture, &names) {
        let order = allocator.allocate(&cid(0), input.clone()).await.unwrap();
        let is_priority = |peer: &PeerId| input.priority.contains_key(peer);
        let first_other = order.iter().position(|peer| !is_priority(peer)).unwrap_or(order.len());
        assert!(!order[first_other..].iter().any(is_priority), "{order:?} of {input:?}");
    }
}

/// Asked again, it answers again the same; also after other questions.
pub async fn the_same_input_gives_the_same_answer(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    let names = allocator.metrics().to_vec();
    let mut first = Vec::new();
    for input in inputs(&fixture, &names) {
        first.push(allocator.allocate(&cid(1), input).await.unwrap());
    }
    for (input, first) in inputs(&fixture, &names).into_iter().zip(&first) {
        assert_eq!(allocator.allocate(&cid(1), input).await.unwrap(), *first);
    }
}

/// Every peer of the cluster has its own instance; they must agree.
pub async fn every_instance_gives_the_same_answer(fixture: impl Fixture) {
    let (_guard, one) = fixture.allocator().await;
    let (_other_guard, other) = fixture.allocator().await;
    assert_eq!(one.metrics(), other.metrics());
    let names = one.metrics().to_vec();
    for input in inputs(&fixture, &names) {
        assert_eq!(
            one.allocate(&cid(2), input.clone()).await.unwrap(),
            other.allocate(&cid(2), input).await.unwrap()
        );
    }
}

/// Calls that run at the same time see only their own input.
pub async fn concurrent_calls_do_not_mix(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    let names = allocator.metrics().to_vec();
    let inputs = inputs(&fixture, &names);
    let mut expected = Vec::new();
    for input in &inputs {
        expected.push(allocator.allocate(&cid(3), input.clone()).await.unwrap());
    }
    let cid = cid(3);
    let together = join_all(inputs.into_iter().map(|input| allocator.allocate(&cid, input))).await;
    for (together, expected) in together.into_iter().zip(expected) {
        assert_eq!(together.unwrap(), expected);
    }
}

/// Peers whose metrics are equal must not be taken for one peer (reference: equal free space).
pub async fn peers_with_equal_metrics_are_told_apart(fixture: impl Fixture) {
    let (_guard, allocator) = fixture.allocator().await;
    let names = allocator.metrics().to_vec();
    let different = candidates(&fixture, &names, (0, 0, 6), RANKS[0]);
    let alike = candidates(&fixture, &names, (0, 0, 6), RANKS[1]);
    let of_different = allocator.allocate(&cid(4), different).await.unwrap().len();
    let of_alike = allocator.allocate(&cid(4), alike).await.unwrap().len();
    // An allocator may leave peers out, but not because others look like them.
    assert!(
        of_alike >= of_different.min(1),
        "{of_alike} of 6 equal peers, {of_different} of 6 different ones"
    );
}
