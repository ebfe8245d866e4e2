//! An allocator: weighted rendezvous hashing.
//!
//! For each pin every peer draws a lot, and the best lots win. The lot comes from a hash of the CID and the peer, so every
//! peer of the cluster computes the same answer without asking anybody. A peer with twice the free space wins twice as
//! often. When a peer comes or goes, the others keep their lots: only the pins it won or loses have to move, which is what
//! sorting by free space alone does not give (all new pins go to the emptiest peer until it no longer is).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use async_trait::async_trait;
use ipfs_cluster::Result;
use ipfs_cluster::allocator::{Candidates, PeerMetrics, PinAllocator};
use ipfs_cluster::types::{Cid, PeerId};
use multihash_codetable::{Code, MultihashDigest as _};

/// Orders peers by lot, in proportion to the weight of one metric.
///
/// Peers whose metric weighs nothing (or less) come after all others.
#[derive(Clone, Debug)]
pub struct RendezvousAllocator {
    // The trait hands out a slice of all metrics an allocator needs; here it is one.
    metrics: [String; 1],
}

impl RendezvousAllocator {
    /// In proportion to the weight of this metric.
    pub fn by(metric: impl Into<String>) -> Self {
        Self { metrics: [metric.into()] }
    }

    fn ordered(&self, cid: &Cid, peers: &BTreeMap<PeerId, PeerMetrics>) -> Vec<PeerId> {
        let [metric] = &self.metrics;
        let mut lots: Vec<Lot> = peers
            .iter()
            .filter_map(|(peer, metrics)| {
                // The cluster leaves out peers that lack the metric before it asks; whoever else asks may not.
                let weight = u64::try_from(metrics.get(metric)?.weight).unwrap_or(0);
                Some(Lot { cost: cost(cid, peer), weight, peer: *peer })
            })
            .collect();
        lots.sort_unstable_by(Lot::cmp_best_first);
        lots.into_iter().map(|lot| lot.peer).collect()
    }
}

impl Default for RendezvousAllocator {
    /// By free space.
    fn default() -> Self {
        Self::by("freespace")
    }
}

#[async_trait]
impl PinAllocator for RendezvousAllocator {
    fn metrics(&self) -> &[String] {
        &self.metrics
    }

    async fn allocate(&self, cid: &Cid, candidates: Candidates) -> Result<Vec<PeerId>> {
        // Peers the user asked for come before all others, whatever their lots. All of `candidates.current` hold the pin
        // already and stay: they are given for allocators that spread copies away from them.
        let mut order = self.ordered(cid, &candidates.priority);
        order.extend(self.ordered(cid, &candidates.candidates));
        Ok(order)
    }
}

/// What a peer drew for a pin. The smaller `cost / weight`, the better.
struct Lot {
    cost: u64,
    weight: u64,
    peer: PeerId,
}

impl Lot {
    /// A total order, as sorting needs it; peers that are alike in everything else are told apart by their ids.
    fn cmp_best_first(&self, other: &Self) -> Ordering {
        // a.cost / a.weight against b.cost / b.weight without dividing; nobody with weight before those without.
        let (own, others) = (
            u128::from(self.cost) * u128::from(other.weight),
            u128::from(other.cost) * u128::from(self.weight),
        );
        own.cmp(&others).then(self.cost.cmp(&other.cost)).then(self.peer.cmp(&other.peer))
    }
}

/// `-log2` of a number in (0, 1] drawn for this CID and this peer, with 32 bits after the point. Divided by a weight, such
/// numbers order peers so that each is first as often as its weight says.
fn cost(cid: &Cid, peer: &PeerId) -> u64 {
    let digest = Code::Sha2_256.digest(&[cid.to_bytes(), peer.to_bytes()].concat());
    let drawn =
        digest.digest().iter().take(size_of::<u64>()).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    minus_log2(drawn)
}

/// `-log2(drawn / 2^64)` with [`FRACTION_BITS`] after the point; a drawn 0 counts as 1.
///
/// In integers: `f64::ln` may differ in its last bit from one machine to the next, and then two peers disagree.
fn minus_log2(drawn: u64) -> u64 {
    const FRACTION_BITS: u32 = 32;
    let drawn = drawn.max(1);
    // A number in [1, 2) with 63 bits after the point. Squaring it doubles its logarithm, so that the next bit of the
    // fraction moves in front of the point.
    let mut mantissa = u128::from(drawn << drawn.leading_zeros());
    let mut log2 = u64::from(drawn.ilog2());
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = mantissa >> 64;
        mantissa >>= bit;
        log2 = log2 << 1 | bit as u64;
    }
    (64 << FRACTION_BITS) - log2
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ipfs_cluster::testing::allocator_suite::{self, Fixture as _};
    use ipfs_cluster::testing::peer;
    use ipfs_cluster::types::Block;

    use super::*;

    struct Rendezvous;

    #[async_trait]
    impl allocator_suite::Fixture for Rendezvous {
        type Guard = ();

        async fn allocator(&self) -> ((), Arc<dyn PinAllocator>) {
            ((), Arc::new(RendezvousAllocator::default()))
        }
    }

    ipfs_cluster::allocator_conformance!(rendezvous_allocator, Rendezvous);

    /// Candidates numbered from 0, each of a weight.
    fn candidates(weights: &[u32]) -> Candidates {
        let mut candidates = Candidates::new();
        for (&weight, peer) in weights.iter().zip((0..).map(peer)) {
            let metric = Rendezvous.metric("freespace", peer, weight);
            candidates.candidates.insert(peer, PeerMetrics::from([(metric.name.clone(), metric)]));
        }
        candidates
    }

    async fn order(number: u32, candidates: &Candidates) -> Vec<PeerId> {
        let cid = Block::raw(number.to_be_bytes().to_vec()).cid;
        RendezvousAllocator::default().allocate(&cid, candidates.clone()).await.unwrap()
    }

    #[tokio::test]
    async fn peers_are_first_in_proportion_to_their_free_space() {
        const PINS: u32 = 7_000;
        let weights = [1, 2, 4, 0];
        let candidates = candidates(&weights);
        let mut first = BTreeMap::<PeerId, u32>::new();
        for number in 0..PINS {
            let order = order(number, &candidates).await;
            assert_eq!((order.len(), order[3]), (4, peer(3)), "who has no space comes last");
            *first.entry(order[0]).or_default() += 1;
        }
        for (number, weight) in (0..3).zip(weights) {
            let share = f64::from(first[&peer(number)]) * 7.0 / f64::from(PINS);
            assert!((share / f64::from(weight) - 1.0).abs() < 0.1, "{share} sevenths instead of {weight}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_goes_takes_only_its_own_pins_along() {
        let all = candidates(&[5, 3, 8, 1, 9]);
        let mut left = all.clone();
        left.candidates.remove(&peer(2));
        for number in 0..500 {
            let mut expected = order(number, &all).await;
            expected.retain(|id| *id != peer(2));
            assert_eq!(order(number, &left).await, expected);
        }
    }

    #[tokio::test]
    async fn a_peer_that_gets_more_space_only_moves_up() {
        let (before, after) = (candidates(&[5, 3, 8, 1]), candidates(&[5, 3, 8, 4]));
        for number in 0..500 {
            let (mut before, mut after) = (order(number, &before).await, order(number, &after).await);
            let place = |order: &[PeerId]| order.iter().position(|id| *id == peer(3));
            assert!(place(&after) <= place(&before));
            for order in [&mut before, &mut after] {
                order.retain(|id| *id != peer(3));
            }
            assert_eq!(before, after);
        }
    }

    #[test]
    fn logarithms_are_right_to_the_last_bits() {
        assert_eq!(minus_log2(1), 64 << 32);
        assert_eq!(minus_log2(0), 64 << 32);
        assert_eq!(minus_log2(1 << 63), 1 << 32);
        assert!(minus_log2(u64::MAX) > 0, "a lot that costs nothing would win whatever the weight");
        for drawn in [3, 1 << 20 | 12_345, 0x9e37_79b9_7f4a_7c15, u64::MAX / 3] {
            let expected = (64.0 - (drawn as f64).log2()) * f64::from(1u32 << 16) * f64::from(1u32 << 16);
            assert!((minus_log2(drawn) as f64 - expected).abs() < 8.0, "{drawn}");
        }
    }
}
