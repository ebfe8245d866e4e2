//! Choosing the peers that hold a pin.
//!
//! The rules that hold for every allocator (who is a candidate, how many are needed, who is dropped) are the pure
//! function [`plan`]; an allocator only puts candidates in order.

mod balanced;
mod plan;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::types::{Cid, Metric, PeerId};

pub use balanced::{ALLOCATE_BY_METRICS_MAX, BalancedAllocator, BalancedConfig};
pub use plan::{Need, Plan, PlanInput, TrustRule, plan};

/// The usable metrics of one peer, by name.
pub type PeerMetrics = BTreeMap<String, Metric>;

/// Peers to choose from. Ordered maps, so that every peer of the cluster comes to the same answer.
///
/// Each peer has every metric that [`PinAllocator::metrics`] asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidates {
    /// Peers that hold the pin already and stay; given so that new ones can be spread away from them.
    pub current: BTreeMap<PeerId, PeerMetrics>,
    /// Peers the user asked for; they come before all others.
    pub priority: BTreeMap<PeerId, PeerMetrics>,
    /// All others.
    pub candidates: BTreeMap<PeerId, PeerMetrics>,
}

impl Candidates {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Orders candidates.
#[async_trait]
pub trait PinAllocator: fmt::Debug + Send + Sync + 'static {
    /// Names of the metrics it decides by. A peer that lacks one is no candidate.
    fn metrics(&self) -> &[String];

    /// Peers of `priority` and `candidates`, best first: nobody twice, nobody else, and every one of `priority`
    /// before any of `candidates`. It may leave some out. The same input gives the same answer on every peer.
    ///
    /// # Errors
    /// Whatever keeps it from deciding.
    async fn allocate(&self, cid: &Cid, candidates: Candidates) -> Result<Vec<PeerId>>;
}

/// Fewer peers can take the pin than its replication factor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough peers to allocate CID. Needed at least: {needed}. Wanted at most: {wanted}. Available candidates: {available}. See logs for more info."
)]
pub struct NotEnoughPeers {
    /// More peers that are needed.
    pub needed: usize,
    /// More peers that would be taken.
    pub wanted: usize,
    /// Peers there are.
    pub available: usize,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: PinAllocator + ?Sized> PinAllocator for Arc<T> {
    fn metrics(&self) -> &[String] {
        (**self).metrics()
    }
    async fn allocate(&self, cid: &Cid, candidates: Candidates) -> Result<Vec<PeerId>> {
        (**self).allocate(cid, candidates).await
    }
}

#[cfg(test)]
mod test_peers {
    use libp2p_identity::Keypair;

    use super::*;

    /// A peer for each number, in the order of the numbers.
    pub(super) fn peer(number: u8) -> PeerId {
        thread_local! {
            static PEERS: Vec<PeerId> = {
                let key = |seed: u8| Keypair::ed25519_from_bytes([seed; 32]).unwrap().public().to_peer_id();
                let mut peers: Vec<_> = (0..=60).map(key).collect();
                peers.sort_unstable();
                peers
            };
        }
        PEERS.with(|peers| peers[usize::from(number)])
    }

    pub(super) fn metric(peer: PeerId, name: &str, value: &str, weight: i64, partitionable: bool) -> Metric {
        Metric {
            name: name.to_owned(),
            peer,
            value: value.to_owned(),
            expire: i64::MAX,
            valid: true,
            weight,
            partitionable,
            received_at: 0,
        }
    }
}
