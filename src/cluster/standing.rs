//! Whether the members have the pins that this peer has.
//!
//! Each of our peers keeps its pinset in short: a count, an order-independent sum, the heads of its history. They are
//! compared on demand and never published. Go's peers have no such thing.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::{Cluster, Inner};
use crate::error::Result;
use crate::rpc::{CALL_TIMEOUT, PinsetDigest, fan_out};
use crate::state::StateCounts;
use crate::types::{PeerId, PeerInfo, PinsetStanding};

/// How much longer than for its id we wait for what a peer says of its pinset.
const DIGEST_GRACE: Duration = Duration::from_secs(1);

/// How a pinset stands to ours, by both in short.
///
/// The same pins are in sync, however they came about. Else who has the lower highest head has heard of less; where that
/// decides nothing, as without heads, who has fewer pins.
fn standing(ours: &PinsetDigest, theirs: &PinsetDigest) -> PinsetStanding {
    if (ours.count, ours.hash) == (theirs.count, theirs.hash) {
        return PinsetStanding::InSync;
    }
    let height = |digest: &PinsetDigest| digest.heads.iter().map(|(_, height)| *height).max();
    let by_height = match (height(theirs), height(ours)) {
        (Some(theirs), Some(ours)) => theirs.cmp(&ours),
        // Of one whose history is empty or of another kind it says nothing.
        _ => std::cmp::Ordering::Equal,
    };
    // Who only changed pins, or added as many as it removed, is one behind at least.
    let pins = theirs.count.abs_diff(ours.count).max(1);
    match by_height.then(theirs.count.cmp(&ours.count)) {
        std::cmp::Ordering::Less => PinsetStanding::Behind(pins),
        std::cmp::Ordering::Greater => PinsetStanding::Ahead(pins),
        std::cmp::Ordering::Equal => PinsetStanding::Diverged,
    }
}

impl Cluster {
    /// How the pinset of every other member stands to this peer's, after 15 s at most. `Unknown` for those that cannot
    /// say so: Go's, peers that do not trust this one, and whoever does not answer.
    ///
    /// # Errors
    /// When the members are not known.
    pub async fn pinset_standings(&self) -> Result<BTreeMap<PeerId, PinsetStanding>> {
        let inner = &self.inner;
        let others = inner.consensus.peers().await?.into_iter().filter(|peer| *peer != inner.peer);
        let deadline = Instant::now() + CALL_TIMEOUT;
        let asked = fan_out(others, |peer| async move {
            timeout_at(deadline, inner.standing_of(peer)).await.unwrap_or_default()
        });
        Ok(asked.collect().await)
    }
}

impl Inner {
    /// Our pinset in short.
    pub(super) fn pinset_digest(&self) -> PinsetDigest {
        // Heads first: pins that come between make us look further than we say, which a next look mends.
        let heads = self.consensus.heads();
        let StateCounts { pins, sum, .. } = self.state.counts();
        PinsetDigest { count: pins, hash: sum.to_be_bytes(), heads }
    }

    async fn standing_of(&self, peer: PeerId) -> PinsetStanding {
        match self.client.pinset_digest(&peer).await {
            // Ours as it is now, which is nearer to theirs than when we asked.
            Ok(theirs) => standing(&self.pinset_digest(), &theirs),
            Err(error) => {
                tracing::debug!(%peer, %error, "does not say what pins it has");
                PinsetStanding::Unknown
            }
        }
    }

    /// What a member says of itself, with how its pinset stands to ours. Both are asked at once, so that a peer takes
    /// hardly longer for both than for the one that it must answer.
    pub(super) async fn id_and_standing_of(&self, peer: PeerId, deadline: Instant) -> Result<PeerInfo> {
        let (id, standing) = (self.id_of(peer, deadline), self.standing_of(peer));
        tokio::pin!(id, standing);
        let mut early = None;
        let mut info = loop {
            tokio::select! {
                biased;
                info = &mut id => break info?,
                found = &mut standing, if early.is_none() => early = Some(found),
            }
        };
        info.pinset = match early {
            Some(found) => found,
            None => {
                let until = deadline.min(Instant::now() + DIGEST_GRACE);
                timeout_at(until, standing).await.unwrap_or_default()
            }
        };
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    #[test]
    fn pinsets_are_compared_by_sum_then_by_heads_then_by_count() {
        use PinsetStanding::{Ahead, Behind, Diverged, InSync};
        let digest = |count, sum: u8, heights: &[u64]| {
            let heads = heights.iter().map(|height| (Block::raw(vec![sum, *height as u8]).cid, *height));
            PinsetDigest { count, hash: [sum; 16], heads: heads.collect() }
        };
        for (ours, theirs, expected) in [
            // Equal pins, whatever the history.
            (digest(0, 0, &[]), digest(0, 0, &[]), InSync),
            (digest(5, 1, &[9]), digest(5, 1, &[9]), InSync),
            (digest(5, 1, &[9]), digest(5, 1, &[7, 8]), InSync),
            (digest(5, 1, &[9]), digest(5, 1, &[]), InSync),
            // Without heads, or with equally high ones, the count decides.
            (digest(10, 1, &[]), digest(7, 2, &[]), Behind(3)),
            (digest(7, 2, &[]), digest(10, 1, &[]), Ahead(3)),
            (digest(10, 1, &[]), digest(10, 2, &[]), Diverged),
            (digest(10, 1, &[4]), digest(7, 2, &[4]), Behind(3)),
            (digest(10, 1, &[4]), digest(10, 2, &[4]), Diverged),
            (digest(10, 1, &[4]), digest(9, 2, &[]), Behind(1)),
            (digest(10, 1, &[]), digest(10, 2, &[4]), Diverged),
            // The lower history is behind, also with more pins: some are not unpinned yet.
            (digest(10, 1, &[5]), digest(7, 2, &[4]), Behind(3)),
            (digest(10, 1, &[5]), digest(12, 2, &[4, 3]), Behind(2)),
            (digest(10, 1, &[5]), digest(10, 2, &[4]), Behind(1)),
            (digest(10, 1, &[3, 5]), digest(9, 2, &[6, 1]), Ahead(1)),
            (digest(10, 1, &[5]), digest(10, 2, &[6]), Ahead(1)),
            (digest(0, 1, &[1]), digest(u64::MAX, 2, &[u64::MAX]), Ahead(u64::MAX)),
        ] {
            assert_eq!(standing(&ours, &theirs), expected, "{ours:?} {theirs:?}");
        }
    }
}
