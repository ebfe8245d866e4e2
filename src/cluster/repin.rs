//! Pinning elsewhere what dead peers hold.
//!
//! When a peer's ping stops coming, every pin it holds may have too few living copies. Of the trusted peers that live,
//! the one closest to the CID gives such a pin new allocations without the dead ones; a pin that still has its minimum
//! of living holders stays as it is. As in the reference, with three differences: each walk looks for the pins of every
//! peer that is dead by now, so that nothing is lost when two die together and the one who should have acted is among
//! them; what could not be done is tried again; and alerts go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use tracing::{debug, info, warn};

use super::Inner;
use super::closest::Closest;
use super::pin::Metrics;
use crate::error::Result;
use crate::state::StateQuery;
use crate::types::{PeerId, Pin, PinOperation, ReplicationFactor};

/// Pins with new allocations that are logged as one batch.
const REPIN_BATCH: usize = 1024;

/// What a walk over the pinset did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repinned {
    /// Pins with new allocations.
    pub(super) moved: u64,
    /// Pins that have too few living holders and could not be given more.
    pub(super) left: u64,
}

/// The holders of a pin that are dead.
fn dead_holders(pin: &Pin, mut is_dead: impl FnMut(&PeerId) -> bool) -> Vec<PeerId> {
    if pin.is_everywhere() {
        return Vec::new();
    }
    pin.allocations.iter().filter(|peer| is_dead(peer)).copied().collect()
}

impl Inner {
    /// Gives new allocations to the pins of dead peers that are this peer's to look after.
    pub(super) async fn repin_from_dead(self: &Arc<Self>) -> Result<Repinned> {
        let closest = self.closest().await?;
        let now = self.clock.now();
        let is_dead = |peer: &PeerId| {
            // Who never pinged may only be about to start.
            *peer != self.peer
                && self.monitor.latest_for("ping", peer).is_some_and(|ping| ping.is_expired(now))
        };
        self.repin(is_dead, |pin| closest.is_own(&pin.cid)).await
    }

    /// Gives new allocations to every pin of a peer that is about to leave.
    pub(super) async fn vacate(self: &Inner, leaving: &PeerId) -> Result<()> {
        self.repin(|peer| peer == leaving, |_| true).await.map(|_| ())
    }

    /// Who of the trusted members that live looks after what one peer is enough for.
    pub(super) async fn closest(&self) -> Result<Closest> {
        let members = self.consensus.peers().await?;
        let trusted = members.into_iter().filter(|peer| self.consensus.is_trusted(peer));
        Ok(Closest::new(&self.peer, trusted))
    }

    async fn repin(
        &self,
        is_dead: impl Fn(&PeerId) -> bool,
        is_ours: impl Fn(&Pin) -> bool,
    ) -> Result<Repinned> {
        let mut done = Repinned::default();
        let mut batch = Vec::new();
        let mut pages = self.state.list(StateQuery::default());
        while let Some(page) = pages.next().await {
            // Per page, so that neither the monitor is asked for each pin nor an old answer is used for long.
            let mut known = BTreeMap::new();
            let mut metrics = None;
            for listed in page? {
                let mut is_dead = |peer: &PeerId| *known.entry(*peer).or_insert_with(|| is_dead(peer));
                if dead_holders(&listed, &mut is_dead).is_empty() || !is_ours(&listed) {
                    continue;
                }
                // It may have been changed or removed since the page was read.
                let Some(pin) = self.state.get(&listed.cid).await? else { continue };
                let dead = dead_holders(&pin, &mut is_dead);
                if dead.is_empty() {
                    continue;
                }
                let metrics = metrics.get_or_insert_with(|| self.allocation_metrics());
                match self.moved(&pin, &dead, metrics).await {
                    Ok(Some(moved)) => {
                        debug!(cid = %moved.cid, from = ?dead, to = ?moved.allocations, "repinning");
                        batch.push(PinOperation::Pin(moved.into()));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        done.left += 1;
                        debug!(cid = %pin.cid, %error, "could not repin");
                    }
                }
                if batch.len() >= REPIN_BATCH {
                    done.moved += batch.len() as u64;
                    self.consensus.log_many(std::mem::take(&mut batch)).await?;
                }
            }
        }
        if !batch.is_empty() {
            done.moved += batch.len() as u64;
            self.consensus.log_many(batch).await?;
        }
        if done.moved > 0 {
            info!(pins = done.moved, "pinned elsewhere what dead peers held");
        }
        if done.left > 0 {
            warn!(pins = done.left, "too few peers for what dead peers held; trying again later");
        }
        Ok(done)
    }

    /// The pin with living holders instead of dead ones; none where enough are left, or where it is not worth it.
    async fn moved(&self, pin: &Pin, dead: &[PeerId], metrics: &Metrics) -> Result<Option<Pin>> {
        let now = self.clock.now();
        if pin.is_expired(now) {
            return Ok(None);
        }
        let options = &pin.options;
        let factor = ReplicationFactor::new(options.replication_factor_min, options.replication_factor_max)?;
        let allocations = self.allocate(pin, factor, &pin.allocations, dead, metrics).await?;
        if allocations == pin.allocations {
            return Ok(None);
        }
        let mut pin = pin.clone();
        pin.allocations = allocations;
        pin.timestamp = Some(now);
        Ok(Some(pin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Block, PinOptions};

    #[test]
    fn only_allocated_peers_hold_a_pin() {
        let (dead, alive) = (PeerId::random(), PeerId::random());
        let mut pin = Pin::new(Block::raw("x").cid, PinOptions::default());
        pin.allocations = vec![dead, alive];
        assert!(dead_holders(&pin, |peer| *peer == dead).is_empty(), "everywhere");
        pin.options.replication_factor_min = 1;
        pin.options.replication_factor_max = 2;
        assert_eq!(dead_holders(&pin, |peer| *peer == dead), [dead]);
        assert!(dead_holders(&pin, |_| false).is_empty());
    }
}
