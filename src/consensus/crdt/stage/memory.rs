//! What the committer knows without asking the store.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::super::batching::{Pending, Waiting, decode_log};
use super::super::records::{self, LOG, META};
use super::super::set::Number;
use super::super::wire::corrupt;
use crate::error::Result;
use crate::storage::Storage;
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::types::Cid;

/// What the committer knows without asking the store. It is what the store says; see [`Memory::load`].
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Memory {
    /// Heads and their heights.
    pub(in super::super) heads: BTreeMap<Cid, u64>,
    /// Operations without a delta.
    pub(in super::super) pending: Pending,
    pub(super) next_number: Number,
    pub(super) next_log: u64,
    /// There may be elements whose block is not here.
    pub(super) is_caught_up: bool,
}

impl Memory {
    /// What the store says.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `ShutDown`.
    pub(in super::super) fn load(storage: &dyn Storage, now: Instant) -> Result<Self> {
        let snapshot = storage.snapshot()?;
        let heads = records::heads(&*snapshot)?.into_iter().map(|head| (head.cid, head.height)).collect();
        let mut pending = Pending::default();
        records::for_each(&*snapshot, LOG, |key, record| {
            let sequence = <[u8; 8]>::try_from(&key[..])
                .map_err(|_| corrupt("the place of an operation in the log is unreadable"))?;
            pending.log.push(u64::from_be_bytes(sequence));
            #[cfg(feature = "testing")]
            if is_planted(Planted::LogNotReplayed) {
                return Ok(());
            }
            decode_log(record)?.into_iter().for_each(|logged| pending.replay(logged));
            Ok(())
        })?;
        if pending.operations > 0 {
            pending.since = Some(now);
        }
        let next_log = pending.log.last().map_or(0, |last| last + 1);
        let is_caught_up = snapshot.get(META, records::META_CAUGHT_UP)?.is_some();
        Ok(Self { heads, pending, next_number: records::next_number(&*snapshot)?, next_log, is_caught_up })
    }

    /// What was staged is on disk.
    pub(in super::super) fn update(&mut self, after: After, now: Instant) {
        if let Some(heads) = after.heads {
            self.heads = heads;
        }
        self.next_number = after.next_number;
        self.is_caught_up |= after.is_caught_up;
        if after.is_cut {
            self.pending = Pending::default();
            return;
        }
        for (pin, waiting) in after.waiting {
            self.pending.set(pin, waiting);
        }
        self.next_log += after.log.len() as u64;
        self.pending.log.extend(after.log);
        self.pending.operations += after.operations;
        if self.pending.operations > 0 {
            self.pending.since.get_or_insert(now);
        }
    }
}

/// How [`Memory`] changes once the batch is on disk.
#[derive(Debug)]
pub(in super::super) struct After {
    pub(super) heads: Option<BTreeMap<Cid, u64>>,
    pub(super) next_number: Number,
    pub(super) is_caught_up: bool,
    pub(super) is_cut: bool,
    pub(super) waiting: BTreeMap<Cid, Waiting>,
    pub(super) operations: usize,
    pub(super) log: Vec<u64>,
}
