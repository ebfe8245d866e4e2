//! Pinning elsewhere what dead peers hold.
//!
//! When a peer's ping stops coming, every pin it holds may have too few living copies. Of the trusted peers that live,
//! the one closest to the CID gives such a pin new allocations without the dead ones; a pin that still has its minimum
//! of living holders stays as it is. As in the reference, with differences: each walk looks for the pins of every peer
//! that is dead by now, so that nothing is lost when two die together and the one who should have acted is among them;
//! what could not be done is tried again, by those who saw the peer die; and alerts go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use tracing::{debug, info, warn};

use super::Inner;
use super::closest::Closest;
use super::pin::Metrics;
use crate::error::Result;
use crate::monitor::PEERS_MAX;
use crate::state::StateQuery;
use crate::types::{PeerId, Pin, PinOperation, ReplicationFactor, Revision};

/// Pins with new allocations that are logged as one batch.
const REPIN_BATCH: usize = 1024;
/// Combinations of dead peers for which is remembered who looks after their pins.
const CLOSEST_CACHED_MAX: usize = 256;

/// What a walk over the pinset did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repinned {
    /// Pins with new allocations.
    pub(super) moved: u64,
    /// Pins that have too few living holders and could not be given more.
    pub(super) left: u64,
    /// Pins that somebody changed meanwhile, who may not have known that a peer is dead.
    pub(super) changed: u64,
}

/// Who saw which peer die: whoever starts later does not know that it is gone, and cannot look after its pins.
#[derive(Debug, Default)]
pub(super) struct Witnesses(Mutex<BTreeMap<PeerId, Arc<BTreeSet<PeerId>>>>);

impl Witnesses {
    /// Notes that a peer died before the eyes of these.
    fn died(&self, peer: PeerId, living: &Arc<BTreeSet<PeerId>>) {
        let mut deaths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The latest death counts; as many are kept as peers are known.
        if deaths.len() < PEERS_MAX || deaths.contains_key(&peer) {
            deaths.insert(peer, Arc::clone(living));
        }
    }

    /// Forgets those that live.
    fn forget(&self, living: &BTreeSet<PeerId>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|peer, _| !living.contains(peer));
    }

    /// Those of the living that saw every one of these die.
    fn of(&self, dead: &[PeerId], living: &BTreeSet<PeerId>) -> Vec<PeerId> {
        let deaths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let saw = |peer: &PeerId| {
            dead.iter().all(|dead| deaths.get(dead).is_none_or(|witnesses| witnesses.contains(peer)))
        };
        living.iter().copied().filter(saw).collect()
    }
}

/// The holders of a pin that are dead.
fn dead_holders(pin: &Pin, mut is_dead: impl FnMut(&PeerId) -> bool) -> Vec<PeerId> {
    if pin.is_everywhere() {
        return Vec::new();
    }
    pin.allocations.iter().filter(|peer| is_dead(peer)).copied().collect()
}

impl Inner {
    /// Notes that the ping of a peer stopped coming.
    pub(super) async fn saw_die(&self, peer: PeerId) -> Result<()> {
        let living = self.consensus.peers().await?.into_iter().filter(|living| *living != peer);
        self.witnesses.died(peer, &Arc::new(living.collect()));
        Ok(())
    }

    /// Gives new allocations to the pins of dead peers that are this peer's to look after.
    pub(super) async fn repin_from_dead(&self) -> Result<Repinned> {
        let living = self.trusted_members().await?;
        self.witnesses.forget(&living);
        let now = self.clock.now();
        let is_dead = |peer: &PeerId| {
            // Who never pinged may only be about to start.
            *peer != self.peer
                && self.monitor.latest_for("ping", peer).is_some_and(|ping| ping.is_expired(now))
        };
        let mut closest = BTreeMap::new();
        let is_ours = move |pin: &Pin, dead: &[PeerId]| {
            if closest.len() >= CLOSEST_CACHED_MAX && !closest.contains_key(dead) {
                closest.clear();
            }
            let witnesses = || Closest::new(&self.peer, self.witnesses.of(dead, &living));
            closest.entry(dead.to_vec()).or_insert_with(witnesses).is_own(&pin.cid)
        };
        self.repin(is_dead, is_ours).await
    }

    /// Gives new allocations to every pin of a peer that is about to leave.
    pub(super) async fn vacate(&self, leaving: &PeerId) -> Result<()> {
        self.repin(|peer| peer == leaving, |_, _| true).await.map(|_| ())
    }

    async fn trusted_members(&self) -> Result<BTreeSet<PeerId>> {
        let members = self.consensus.peers().await?;
        Ok(members.into_iter().filter(|peer| self.consensus.is_trusted(peer)).collect())
    }

    /// Who of the trusted members that live looks after what one peer is enough for.
    pub(super) async fn closest(&self) -> Result<Closest> {
        Ok(Closest::new(&self.peer, self.trusted_members().await?))
    }

    async fn repin(
        &self,
        is_dead: impl Fn(&PeerId) -> bool,
        mut is_ours: impl FnMut(&Pin, &[PeerId]) -> bool,
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
                let dead = dead_holders(&listed, &mut is_dead);
                if dead.is_empty() || !is_ours(&listed, &dead) {
                    continue;
                }
                // It may have been changed or removed since the page was read.
                let Some(pin) = self.state.get(&listed.cid).await? else { continue };
                let dead = dead_holders(&pin, &mut is_dead);
                if dead.is_empty() {
                    continue;
                }
                let metrics = match &metrics {
                    Some(metrics) => metrics,
                    None => metrics.insert(self.allocation_metrics().await?),
                };
                match self.moved(&pin, &dead, metrics).await {
                    Ok(Some(moved)) => {
                        debug!(cid = %moved.cid, from = ?dead, to = ?moved.allocations, "repinning");
                        batch.push((pin, moved));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        done.left += 1;
                        debug!(cid = %pin.cid, %error, "could not repin");
                    }
                }
                if batch.len() >= REPIN_BATCH {
                    self.log_moved(std::mem::take(&mut batch), &mut done).await?;
                }
            }
        }
        if !batch.is_empty() {
            self.log_moved(batch, &mut done).await?;
        }
        if done.moved > 0 {
            info!(pins = done.moved, "pinned elsewhere what dead peers held");
        }
        if done.left > 0 {
            warn!(pins = done.left, "too few peers for what dead peers held; trying again later");
        }
        Ok(done)
    }

    /// Logs pins that were so, and are otherwise now. What a user says of a pin meanwhile counts for more, as does a
    /// removal.
    async fn log_moved(&self, pins: Vec<(Pin, Pin)>, done: &mut Repinned) -> Result<()> {
        let moved: Vec<_> = pins.iter().map(|(_, now)| (now.cid, now.allocations.clone())).collect();
        let revise = |(seen, now)| PinOperation::Revise(Revision::replace(seen, now));
        self.log_many(pins.into_iter().map(revise).collect()).await?;
        for (cid, allocations) in moved {
            match self.state.get(&cid).await? {
                Some(pin) if pin.allocations == allocations => done.moved += 1,
                Some(_) => done.changed += 1,
                None => {}
            }
        }
        Ok(())
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
        pin.options.replication_factor_min = -1;
        pin.options.replication_factor_max = -1;
        assert!(dead_holders(&pin, |peer| *peer == dead).is_empty(), "everywhere");
        pin.options.replication_factor_min = 1;
        pin.options.replication_factor_max = 2;
        assert_eq!(dead_holders(&pin, |peer| *peer == dead), [dead]);
        assert!(dead_holders(&pin, |_| false).is_empty());
    }

    #[test]
    fn only_who_saw_all_of_them_die_looks_after_their_pins() {
        let peers: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
        let of = |numbers: &[usize]| numbers.iter().map(|number| peers[*number]).collect::<BTreeSet<_>>();
        let witnesses = Witnesses::default();
        witnesses.died(peers[0], &Arc::new(of(&[1, 2])));
        witnesses.died(peers[1], &Arc::new(of(&[2, 3])));
        let living = of(&[2, 3]);
        let who = |dead: &[usize]| {
            let dead: Vec<_> = dead.iter().map(|number| peers[*number]).collect();
            witnesses.of(&dead, &living).into_iter().collect::<BTreeSet<_>>()
        };
        assert_eq!(who(&[0]), of(&[2]));
        assert_eq!(who(&[1]), of(&[2, 3]));
        assert_eq!(who(&[0, 1]), of(&[2]));
        witnesses.forget(&of(&[0]));
        assert_eq!(who(&[0]), of(&[2, 3]), "nothing is known of its death");
    }
}
