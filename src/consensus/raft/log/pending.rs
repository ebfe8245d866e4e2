//! Entries of the log that are not on disk yet.
//!
//! openraft waits for the disk before it does anything else, so a leader would send an entry only after its own disk has it,
//! and would hear of no answer meanwhile. Here an append returns when the entries are in memory. One task writes what
//! gathered, with one sync for all of it; the leader's disk and those of the others work at the same time.
//!
//! What openraft then takes for written may be lost by a crash, so whatever it makes of that waits:
//!
//! - a follower answers for entries when they are on disk ([`LogStore::until_safe`]),
//! - nothing is applied, here or elsewhere, before this peer has it on disk ([`LogStore::until_written`], for `machine`, and
//!   [`LogStore::written`], for what a leader says of how far is agreed on): this is where a leader counts itself,
//! - before a vote is noted, and before entries are cut off or removed, everything before is on disk.
//!
//! A crash then only takes what nobody was told of, as it could before when it came a moment earlier.

use super::{Entry, LogId, LogStore, size};
use crate::error::{Error, Result};

/// Bytes of entries that may wait for the disk. A single entry may have more.
const PENDING_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// In order; they follow on what is being written.
    entries: Vec<Entry>,
    /// Bytes of these and of those that are being written.
    bytes: usize,
    /// The last entry on disk.
    pub(super) written: Option<LogId>,
    /// How many entries were ever appended, and how many of them are on disk.
    appended: u64,
    done: u64,
    /// Whether there is a task that writes.
    is_writing: bool,
    /// Why nothing is written any more.
    failed: Option<Error>,
}

impl LogStore {
    /// Takes entries in. Returns when they are in the log, and will be on disk.
    ///
    /// # Errors
    /// Why writing failed, for these or for some before.
    pub(super) async fn take_in(&self, entries: Vec<Entry>) -> Result<()> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        self.until(|pending| pending.bytes < PENDING_BYTES_MAX).await?;
        let mut ends = self.ends();
        if let Some(error) = &ends.pending.failed {
            return Err(error.clone());
        }
        ends.last = Some(last);
        let pending = &mut ends.pending;
        pending.appended += entries.len() as u64;
        pending.bytes += entries.iter().map(size).sum::<usize>();
        pending.entries.extend(entries.iter().cloned());
        let writes_already = std::mem::replace(&mut pending.is_writing, true);
        let mut is_larger = false;
        for entry in entries {
            is_larger |= ends.weights.add(entry.log_id.index, size(&entry) as u64);
            ends.keep(entry);
        }
        if is_larger {
            self.trim.grown(&ends.weights);
        }
        drop(ends);
        if !writes_already {
            tokio::spawn(self.clone().write_out());
        }
        Ok(())
    }

    /// Writes until nothing waits any more.
    async fn write_out(self) {
        loop {
            let entries = {
                let mut ends = self.ends();
                let entries = std::mem::take(&mut ends.pending.entries);
                if entries.is_empty() {
                    ends.pending.is_writing = false;
                    return;
                }
                entries
            };
            let result = self.put(&entries).await;
            {
                let mut ends = self.ends();
                let pending = &mut ends.pending;
                match result {
                    Ok(()) => {
                        pending.written = entries.last().map(|entry| entry.log_id);
                        pending.done += entries.len() as u64;
                        pending.bytes -= entries.iter().map(size).sum::<usize>();
                        ends.shrink();
                    }
                    Err(error) => {
                        pending.failed = Some(error);
                        pending.entries.clear();
                    }
                }
            }
            self.news.notify_waiters();
        }
    }

    /// Returns when that is so.
    ///
    /// # Errors
    /// Why nothing is written any more.
    async fn until(&self, is_so: impl Fn(&Pending) -> bool) -> Result<()> {
        loop {
            let news = self.news.notified();
            {
                let ends = self.ends();
                if is_so(&ends.pending) {
                    return Ok(());
                }
                if let Some(error) = &ends.pending.failed {
                    return Err(error.clone());
                }
            }
            news.await;
        }
    }

    /// Returns when the entry at an index is on disk. It must be one that nobody cuts off.
    ///
    /// # Errors
    /// Why nothing is written any more.
    pub(in super::super) async fn until_written(&self, index: u64) -> Result<()> {
        self.until(|pending| pending.written.is_some_and(|written| written.index >= index)).await
    }

    /// Returns when everything is on disk that was taken in before.
    ///
    /// # Errors
    /// Why nothing is written any more.
    pub(in super::super) async fn until_all_written(&self) -> Result<()> {
        let appended = self.ends().pending.appended;
        self.until(|pending| pending.done >= appended).await
    }

    /// Returns when a crash cannot take the log up to some entry that is in it now.
    ///
    /// # Errors
    /// Why nothing is written any more.
    pub(in super::super) async fn until_safe(&self, upto: Option<LogId>) -> Result<()> {
        // What is not on disk has a greater index than all that is.
        if upto.map(|id| id.index) <= self.written().map(|id| id.index) {
            return Ok(());
        }
        self.until_all_written().await
    }

    /// The last entry on disk.
    pub(in super::super) fn written(&self) -> Option<LogId> {
        self.ends().pending.written
    }

    /// Why nothing is written any more, if that is so.
    pub(in super::super) fn failed(&self) -> Option<Error> {
        self.ends().pending.failed.clone()
    }
}
