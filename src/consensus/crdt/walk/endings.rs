//! How walks end, and what is said and remembered of those that cannot go on.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::frontier::{Walk, WalkId};
use super::super::key::{Digest, block_cid};
use super::{
    COMPLAINT_MEMORY, COMPLAINTS_MAX, COMPLAINTS_PER_MINUTE, Ended, PARKED_BLOCKS_MAX, PARKED_WALKS_MAX,
    Walker,
};
use crate::error::Result;

impl Walker {
    /// A walk is no more.
    pub(super) fn ended(&mut self, id: WalkId, walk: &Walk, how: Ended) {
        self.resumed.remove(&id);
        if let Some(waiting) = self.waiting.remove(&id) {
            // Whoever asked may have gone.
            let _ = waiting.send(how);
        }
        if how == Ended::Done && walk.begun {
            debug!(head = %block_cid(&walk.tip), blocks = walk.merged, "a branch of the dag is merged");
        }
    }

    /// Ends a walk that cannot go on. What it has begun is remembered, unless it can never be finished.
    pub(super) async fn give_up(&mut self, id: WalkId, how: Ended, why: &str) -> Result<()> {
        let record = self.frontier.record(id);
        let Some(walk) = self.frontier.end(id) else { return Ok(()) };
        self.ended(id, &walk, how);
        let head = block_cid(&walk.tip);
        let announcer = walk.announcer.map(|peer| peer.to_string()).unwrap_or_default();
        if self.complaints.may_complain(walk.tip, Instant::now()) {
            warn!(%head, %announcer, merged = walk.begun, "a branch of the dag is given up: {why}");
        } else {
            debug!(%head, %announcer, merged = walk.begun, "a branch of the dag is given up: {why}");
        }
        if !walk.begun {
            return Ok(());
        }
        self.forgot = true;
        self.cx.dirty.0.fetch_add(1, Ordering::SeqCst);
        self.cx.ledger.set_dirty(true).await?;
        if how == Ended::Missing
            && let Some(record) = record
        {
            let blocks: usize = self.parked.values().map(|branch| branch.open.len()).sum();
            if self.parked.len() < PARKED_WALKS_MAX && blocks + record.open.len() <= PARKED_BLOCKS_MAX {
                self.parked.insert(walk.tip, record);
            }
        }
        Ok(())
    }
}

/// Says the same only once in a while, and not too much in all.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    heads: BTreeMap<Digest, Instant>,
    minute: Option<Instant>,
    said: u32,
}

impl Complaints {
    pub(super) fn may_complain(&mut self, head: Digest, now: Instant) -> bool {
        if self.minute.is_none_or(|minute| now.saturating_duration_since(minute) >= Duration::from_secs(60)) {
            self.minute = Some(now);
            self.said = 0;
        }
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < COMPLAINT_MEMORY;
        if self.said >= COMPLAINTS_PER_MINUTE || self.heads.get(&head).is_some_and(is_recent) {
            return false;
        }
        if self.heads.len() >= COMPLAINTS_MAX {
            self.heads.retain(|_, at| is_recent(at));
        }
        if self.heads.len() < COMPLAINTS_MAX {
            self.heads.insert(head, now);
        }
        self.said += 1;
        true
    }
}
