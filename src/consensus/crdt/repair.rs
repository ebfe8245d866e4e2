//! Finds what is missing below our heads and has it fetched.
//!
//! Blocks are visited from the highest down. Everything that links to a block is higher than it, so a block that was
//! visited is never met again, and only the width of the DAG has to be remembered, not its size.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use super::COMPONENT;
use super::key::{Digest, block_cid, block_digest};
use super::ledger::{HeadChange, Ledger};
use super::node::Node;
use super::walk::{DirtyCount, Ended, Request, STALL_TIMEOUT};
use crate::error::{Error, ErrorKind, Result};
use crate::exchange::BlockExchange;
use crate::types::Cid;

/// Blocks at a time whose turn has not come.
const WIDTH_MAX: usize = 65_536;
/// Holes that cannot be filled now before a repair is put off. Each may have taken two minutes.
const HOLES_MAX: usize = 8;
/// Blocks between two times that others get their turn.
const BLOCKS_A_TURN: u64 = 64;
/// How often a long repair says how far it is.
const PROGRESS: Duration = Duration::from_secs(60);

/// What repairs need.
#[derive(Debug)]
pub(super) struct RepairContext {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) exchange: Arc<dyn BlockExchange>,
    pub(super) walker: mpsc::Sender<Request>,
    pub(super) dirty: Arc<DirtyCount>,
}

/// What a repair found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) visited: u64,
    /// Blocks below which something was missing and is no more.
    pub(super) filled: u64,
    /// Blocks below which something is missing that could not be got.
    pub(super) missing: u64,
    /// Blocks below which something can never be got, or should not.
    pub(super) broken: u64,
}

impl RepairContext {
    /// Repairs at once and at every interval when the store is marked dirty, until the store is shut down. An interval of
    /// zero: never, as in the reference.
    pub(super) async fn run(&self, every: Duration) {
        if every.is_zero() {
            return;
        }
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.when_dirty().await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ShutDown => return,
                Err(error) => warn!(%error, "the dag was not repaired; trying again when it is time"),
            }
        }
    }

    async fn when_dirty(&self) -> Result<()> {
        if self.ledger.dirty().await? {
            info!("some of the dag may be missing: looking through all of it");
            self.walker.send(Request::Resume).await.map_err(|_| Error::shut_down(COMPONENT))?;
            let report = self.repair().await?;
            info!(?report, "looked through the dag");
        }
        Ok(())
    }

    /// Visits everything below the heads, and has what is not merged fetched. Clears the mark when nothing is missing.
    ///
    /// # Errors
    /// `QueueFull` for a DAG that is too wide; `ShutDown`; what the ledger says.
    pub(super) async fn repair(&self) -> Result<Report> {
        let dirty = self.dirty.get();
        let mut report = Report::default();
        let mut turns = Turns::default();
        let mut said = Instant::now();
        for head in self.ledger.heads() {
            self.enter(&head.cid, u64::MAX, &mut turns, &mut report).await?;
        }
        while let Some((height, links)) = turns.next() {
            for link in links {
                if report.missing >= HOLES_MAX as u64 {
                    return Ok(report);
                }
                self.enter(&link, height, &mut turns, &mut report).await?;
            }
            report.visited += 1;
            if report.visited.is_multiple_of(BLOCKS_A_TURN) {
                tokio::task::yield_now().await;
                if said.elapsed() >= PROGRESS {
                    info!(?report, height, "looking through the dag");
                    said = Instant::now();
                }
            }
        }
        // What was lost meanwhile may be above where we are.
        if report.missing == 0 && self.dirty.get() == dirty {
            self.ledger.set_dirty(false).await?;
        }
        Ok(report)
    }

    /// Sees to it that a block is merged, and puts it where its turn comes.
    async fn enter(&self, cid: &Cid, below: u64, turns: &mut Turns, report: &mut Report) -> Result<()> {
        let Some(digest) = block_digest(cid).filter(|digest| !turns.contains(digest)) else { return Ok(()) };
        if turns.len() >= WIDTH_MAX {
            let text = format!("the dag is too wide to be repaired: {WIDTH_MAX} blocks are open at once");
            return Err(Error::new(ErrorKind::QueueFull, text).component(COMPONENT));
        }
        if self.ledger.is_processed(&[*cid]).await? != [true] {
            let (ended, end) = oneshot::channel();
            let request = Request::Fill { block: *cid, ended };
            self.walker.send(request).await.map_err(|_| Error::shut_down(COMPONENT))?;
            match end.await.map_err(|_| Error::shut_down(COMPONENT))? {
                Ended::Done => report.filled += 1,
                Ended::Missing => {
                    report.missing += 1;
                    return Ok(());
                }
                Ended::Broken => {
                    report.broken += 1;
                    return Ok(());
                }
            }
        }
        let data = match self.ledger.block(cid).await? {
            Some(data) => data,
            None => match timeout(STALL_TIMEOUT, self.exchange.get(cid, None)).await {
                Ok(block) => {
                    // It was caught up without its block.
                    let block = block?;
                    let node = Node::parse(*cid, block.data.clone())?;
                    self.ledger.merge(vec![node], HeadChange::none(), None).await?;
                    block.data
                }
                Err(_) => {
                    report.missing += 1;
                    return Ok(());
                }
            },
        };
        let node = Node::parse(*cid, data)?;
        if node.delta.priority >= below {
            debug!(%cid, height = node.delta.priority, below, "a block is as high as what links to it");
            report.broken += 1;
            return Ok(());
        }
        turns.insert(node.delta.priority, digest, node.links);
        Ok(())
    }
}

/// Blocks whose turn has not come, the highest next.
#[derive(Debug, Default)]
struct Turns {
    by_height: BTreeMap<(Reverse<u64>, Digest), Vec<Cid>>,
    contained: BTreeSet<Digest>,
}

impl Turns {
    fn contains(&self, block: &Digest) -> bool {
        self.contained.contains(block)
    }

    fn len(&self) -> usize {
        self.contained.len()
    }

    fn insert(&mut self, height: u64, block: Digest, links: Vec<Cid>) {
        self.contained.insert(block);
        self.by_height.insert((Reverse(height), block), links);
    }

    fn next(&mut self) -> Option<(u64, Vec<Cid>)> {
        let ((Reverse(height), block), links) = self.by_height.pop_first()?;
        self.contained.remove(&block);
        Some((height, links))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_block_is_next_and_none_waits_twice() {
        let mut turns = Turns::default();
        for (height, block) in [(3, 1), (9, 2), (5, 3)] {
            turns.insert(height, [block; 32], vec![block_cid(&[block; 32])]);
        }
        assert!(turns.contains(&[2; 32]) && turns.len() == 3);
        let order: Vec<_> = std::iter::from_fn(|| turns.next()).map(|(height, _)| height).collect();
        assert_eq!(order, [9, 5, 3]);
        assert!(!turns.contains(&[2; 32]));
    }
}
