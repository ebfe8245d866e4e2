//! Merging what has come: when, how much at a time, and what becomes of walks by it.

use std::collections::BTreeSet;

use futures::future::FutureExt as _;
use tokio::time::Instant;
use tracing::warn;

use super::super::frontier::WalkId;
use super::super::key::block_digest;
use super::{
    Ended, MERGE_BLOCKS, MERGE_BLOCKS_MAX, MERGE_BYTES, MERGE_BYTES_MAX, MERGE_LINGER, MERGE_RETRY, Merging,
    Walker,
};
use crate::error::{ErrorKind, Result};

impl Walker {
    /// When the next merge is due, if time alone can tell.
    pub(super) fn next_merge_at(&self) -> Option<Instant> {
        if self.merging.is_some() {
            return None;
        }
        let due = self.ready_since? + MERGE_LINGER;
        Some(self.pause.map_or(due, |pause| pause.max(due)))
    }

    pub(super) fn start_merge(&mut self) {
        let now = Instant::now();
        if self.merging.is_some() || self.pause.is_some_and(|pause| pause > now) {
            return;
        }
        let is_due = self.ready_since.is_some_and(|since| since + MERGE_LINGER <= now);
        let is_much = self.ready.len() >= MERGE_BLOCKS || self.ready_bytes >= MERGE_BYTES;
        if !is_due && !is_much && !self.frontier.is_urgent() && !self.forgot {
            return;
        }
        let most = if self.singly > 0 { 1 } else { MERGE_BLOCKS_MAX };
        let (mut nodes, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
        while nodes.len() < most && bytes < MERGE_BYTES_MAX {
            let Some(node) = self.ready.pop_front() else { break };
            self.ready_bytes -= node.block.len();
            // Its walk may have been given up.
            let Some(block) = block_digest(&node.cid).filter(|block| self.frontier.is_to_merge(block)) else {
                continue;
            };
            bytes += node.block.len();
            group.push(block);
            nodes.push(node);
        }
        self.singly = self.singly.saturating_sub(1);
        self.ready_since = (!self.ready.is_empty()).then_some(now);
        let outcome = self.frontier.merging(&group);
        if group.is_empty() && outcome.done.is_empty() && !self.forgot {
            return;
        }
        self.forgot = false;
        let mut records = outcome.unfinished.clone();
        records.extend(self.parked.iter().map(|(tip, branch)| {
            let mut branch = branch.clone();
            if outcome.covered.contains(tip) && !branch.met.contains(&branch.tip.cid) {
                branch.met.push(branch.tip.cid);
            }
            branch
        }));
        records.sort_by_key(|branch| branch.tip);
        let changes_records = self.recorded.as_ref() != Some(&records);
        if group.is_empty() && outcome.heads.is_empty() && !changes_records {
            self.merge = Some(async { Ok(()) }.boxed());
        } else {
            let walks = changes_records.then(|| records.clone());
            let heads = outcome.heads.clone();
            let ledger = self.cx.ledger.clone();
            self.merge = Some(async move { ledger.merge_on_walks(nodes, heads, walks).await }.boxed());
        }
        if changes_records {
            self.recorded = Some(records);
        }
        self.merging = Some(Merging { group, outcome, bytes });
    }

    pub(super) async fn merge_ended(&mut self, result: Result<()>) -> Result<()> {
        self.merge = None;
        self.pause = None;
        let Some(Merging { group, outcome, .. }) = self.merging.take() else { return Ok(()) };
        match result {
            Ok(()) => {
                for (tip, branch) in &mut self.parked {
                    if outcome.covered.contains(tip) && !branch.met.contains(&branch.tip.cid) {
                        branch.met.push(branch.tip.cid);
                    }
                }
                self.merged += group.len() as u64;
                for (id, walk) in self.frontier.merged(&group, &outcome, Instant::now()) {
                    self.ended(id, &walk, Ended::Done);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::ShutDown => Err(error),
            // One of them cannot be merged, ever: its walks end, and no others.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Corrupt) => {
                self.recorded = None;
                let owners: BTreeSet<WalkId> =
                    group.iter().flat_map(|block| self.frontier.owners(block)).collect();
                self.frontier.not_merged(&group);
                if group.len() > 1 {
                    self.singly = group.len() + self.ready.len();
                    return Ok(());
                }
                for walk in owners {
                    self.give_up(walk, Ended::Broken, &error.to_string()).await?;
                }
                Ok(())
            }
            Err(error) => {
                warn!(%error, blocks = group.len(), "blocks were not merged; trying again");
                self.recorded = None;
                self.frontier.not_merged(&group);
                self.pause = Some(Instant::now() + MERGE_RETRY);
                Ok(())
            }
        }
    }
}
