//! Handing blocks on.

use super::naming;
use crate::adder::{BlockSink, DagBlock};
use crate::error::Result;
use crate::types::{Cid, PeerId};

/// Blocks that are not sent again when they come again: as many as the reference remembers.
const RECENT: usize = 2;

/// A sink that is spared what it has just got.
pub(super) struct Blocks<'a> {
    sink: &'a mut dyn BlockSink,
    recent: [Option<Cid>; RECENT],
    next: usize,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(sink: &'a mut dyn BlockSink) -> Self {
        Self { sink, recent: [None; RECENT], next: 0 }
    }

    pub(super) async fn put(&mut self, block: DagBlock) -> Result<()> {
        let cid = Some(block.block.cid);
        if self.recent.contains(&cid) {
            return Ok(());
        }
        naming::check(&block.block)?;
        self.recent[self.next] = cid;
        self.next = (self.next + 1) % RECENT;
        self.sink.put(block).await
    }

    /// Empties `blocks`.
    pub(super) async fn put_all(&mut self, blocks: &mut Vec<DagBlock>) -> Result<()> {
        for block in blocks.drain(..) {
            self.put(block).await?;
        }
        Ok(())
    }

    pub(super) fn allocations(&self) -> Vec<PeerId> {
        self.sink.allocations()
    }
}
