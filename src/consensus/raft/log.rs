//! The log in a store.
//!
//! Entries are records (`pieces`). `last` says which one is the last and is written with it, so that a log that was cut is
//! known from one that ends there. `committed` says up to where the log was known to be agreed on; it goes with the next
//! entries, because it is not worth a sync of its own.
//!
//! What is appended is in the log at once and on disk a moment later (`pending`).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::records::{self, APPLIED, COMMITTED, LAST, LOG, META, PURGED, VOTE};
use super::trim::{Trim, Weights};
use super::types::{Entry, LogId, Node, StorageError, StoredMembership, Types, Vote};
use super::wire::{Reader, written};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Direction, Durability, KeyRange, Storage};
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};

mod pending;
mod pieces;
use pending::Pending;
pub(super) use pieces::put;
use pieces::{damaged, delete, get, index_of, remove_below};

/// About how many bytes of entries are given at a time. A single entry may have more.
const READ_BYTES_MAX: usize = 4 << 20;
/// Entries given at a time.
const READ_ENTRIES_MAX: u64 = 1024;
/// About how many bytes of the newest entries are kept in memory, because they are read again at once: to be sent, and
/// to be applied.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// How often it is looked whether the pinset has what is about to be removed.
const APPLIED_POLL: Duration = Duration::from_millis(10);

/// The log. A handle: clones are the same log.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    /// Whose log it is.
    node: Node,
    storage: Arc<dyn Storage>,
    ends: Arc<Mutex<Ends>>,
    /// Tells that more is on disk, or that nothing will be.
    news: Arc<Notify>,
    failure: Failure,
    trim: Arc<Trim>,
}

#[derive(Debug, Default)]
struct Ends {
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Up to where it is known to be agreed on, and what of that is written down.
    committed: Option<LogId>,
    committed_written: Option<LogId>,
    /// The newest entries, without a gap; all that are not on disk yet are among them.
    cache: BTreeMap<u64, Entry>,
    cached_bytes: usize,
    /// Of all that are there.
    weights: Weights,
    pending: Pending,
}

impl Ends {
    fn keep(&mut self, entry: Entry) {
        self.cached_bytes += size(&entry);
        self.cache.insert(entry.log_id.index, entry);
        self.shrink();
    }

    fn shrink(&mut self) {
        let written = self.pending.written.map(|id| id.index);
        while self.cached_bytes > CACHE_BYTES_MAX
            && self.cache.len() > 1
            && let Some(first) = self.cache.first_entry()
            && Some(*first.key()) <= written
        {
            self.cached_bytes -= size(&first.remove());
        }
    }

    fn forget(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.cache.retain(|index, _| !is_gone(*index));
        self.cached_bytes = self.cache.values().map(size).sum();
    }
}

fn size(entry: &Entry) -> usize {
    256 + match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn next_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl LogStore {
    /// The log of a store, of which both ends are looked at.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or cut; `Io`, `ShutDown`.
    pub(super) async fn open(
        node: Node,
        storage: Arc<dyn Storage>,
        failure: Failure,
        trim: Arc<Trim>,
    ) -> Result<Self> {
        let ends = storage::run(storage.clone(), open).await?;
        Ok(Self { node, storage, ends: Arc::new(Mutex::new(ends)), news: Arc::default(), failure, trim })
    }

    /// The newest members that an entry from this index on names, in a store that nobody else has open.
    ///
    /// # Errors
    /// `Corrupt` when the log is damaged or cut; `Io`.
    pub(super) fn newest_membership(storage: &dyn Storage, from: u64) -> Result<Option<StoredMembership>> {
        let ends = open(storage)?;
        pieces::newest_membership(storage, from.max(next_of(ends.purged))..next_of(ends.last), |_| Ok(()))
    }

    /// The last entry.
    pub(super) fn last(&self) -> Option<LogId> {
        let ends = self.ends();
        ends.last.or(ends.purged)
    }

    /// The last entry that was known to be agreed on when one was written last.
    pub(super) fn committed(&self) -> Option<LogId> {
        self.ends().committed
    }

    /// Reads all of it, so that a log which cannot be relied on is found at the start and not when somebody needs it; gives
    /// the newest members that it names, if it does.
    ///
    /// # Errors
    /// `Corrupt` when an entry is damaged or missing; `Io`.
    pub(super) async fn check(&self) -> Result<Option<StoredMembership>> {
        let (first, end, committed) = {
            let ends = self.ends();
            (next_of(ends.purged), next_of(ends.last), ends.committed)
        };
        let (newest, weights) = storage::run(self.storage.clone(), move |storage| {
            let mut weights = Weights::default();
            let newest = pieces::newest_membership(storage, first..end, |entry| {
                let index = entry.log_id.index;
                weights.add(index, size(entry) as u64);
                if committed.is_some_and(|committed| committed.index == index && committed != entry.log_id) {
                    return Err(damaged(format!("entry {index} is not the one that was agreed on")));
                }
                Ok(())
            })?;
            Ok((newest, weights))
        })
        .await?;
        self.trim.grown(&weights);
        self.ends().weights = weights;
        Ok(newest)
    }

    /// The first entry that is there, and the first that would stay if no more than so many bytes were to, when there are
    /// more.
    pub(super) fn too_much(&self, bytes_max: u64) -> (u64, Option<u64>) {
        let ends = self.ends();
        (next_of(ends.purged), ends.weights.surplus(bytes_max))
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries from `start` on and before `end`, as many as are given at a time, and all that are there if `is_whole`.
    pub(super) async fn entries(&self, start: u64, end: u64, is_whole: bool) -> Result<Vec<Entry>> {
        loop {
            let purged = next_of(self.ends().purged);
            match self.entries_there(start, end, is_whole).await {
                // Removed while they were read.
                Err(_) if next_of(self.ends().purged) > purged.max(start) => {}
                read => return read,
            }
        }
    }

    async fn entries_there(&self, start: u64, end: u64, is_whole: bool) -> Result<Vec<Entry>> {
        let (mut start, mut found) = (start, Vec::new());
        let end = {
            let ends = self.ends();
            if !is_whole && start < next_of(ends.purged) {
                // They are about to be sent, and openraft would send what is left behind a gap, which others would store. The
                // leader begins anew instead, and sends the whole pinset.
                let text = format!("entry {start} of the log was removed before it was sent to another peer");
                return Err(Error::new(ErrorKind::Unavailable, text).component(super::COMPONENT));
            }
            start = start.max(next_of(ends.purged));
            let end = end.min(next_of(ends.last));
            let end = if is_whole { end } else { end.min(start.saturating_add(READ_ENTRIES_MAX)) };
            if start >= end {
                return Ok(found);
            }
            let cached = ends.cache.first_key_value().map_or(end, |(first, _)| (*first).clamp(start, end));
            if is_whole || cached == start {
                let mut bytes = 0;
                for entry in ends.cache.range(cached..end).map(|(_, entry)| entry) {
                    bytes += size(entry);
                    if !is_whole && bytes > READ_BYTES_MAX && !found.is_empty() {
                        break;
                    }
                    found.push(entry.clone());
                }
            }
            cached
        };
        if start >= end {
            return Ok(found);
        }
        // What is not in memory is on disk.
        storage::run(self.storage.clone(), move |storage| {
            let (mut bytes, mut all) = (0, Vec::new());
            for index in start..end {
                let entry = get(storage, index)?;
                bytes += size(&entry);
                if !is_whole && bytes > READ_BYTES_MAX && !all.is_empty() {
                    break;
                }
                all.push(entry);
            }
            all.append(&mut found);
            Ok(all)
        })
        .await
    }

    async fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        storage::run(self.storage.clone(), move |storage| storage.write(batch, durability)).await
    }

    /// Writes entries, which are on disk when it returns.
    pub(super) async fn put(&self, entries: &[Entry]) -> Result<()> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        let mut batch = Batch::new();
        entries.iter().try_for_each(|entry| put(&mut batch, entry))?;
        records::put(&mut batch, LAST, &written(|writer| writer.log_id(&last)));
        let committed = {
            let ends = self.ends();
            // A leader that has others to agree hears of it while its own disk is still writing.
            let committed = ends.committed.min(Some(last));
            committed.filter(|_| committed > ends.committed_written)
        };
        if let Some(committed) = &committed {
            records::put(&mut batch, COMMITTED, &written(|writer| writer.log_id(committed)));
        }
        let durability = Durability::Synced;
        #[cfg(feature = "testing")]
        let durability =
            if is_planted(Planted::EntriesNotSynced) { Durability::Buffered } else { durability };
        self.write(batch, durability).await?;
        let mut ends = self.ends();
        ends.committed_written = committed.max(ends.committed_written);
        Ok(())
    }

    async fn cut(&self, from: u64) -> Result<()> {
        self.until_all_written().await?;
        let (purged, last) = {
            let ends = self.ends();
            (ends.purged, ends.last)
        };
        let end = next_of(last);
        if from >= end {
            return Ok(());
        }
        let kept = match from.checked_sub(1) {
            Some(before) if before >= next_of(purged) => {
                self.entries(before, from, true).await?.first().map(|entry| entry.log_id)
            }
            _ => purged,
        };
        storage::run(self.storage.clone(), move |storage| {
            let mut batch = Batch::new();
            match &kept {
                Some(last) => records::put(&mut batch, LAST, &written(|writer| writer.log_id(last))),
                None => batch.delete(META, LAST),
            }
            // All at once, with the new end: half of it would be a hole.
            delete(storage, &mut batch, from, u64::MAX)?;
            storage.write(batch, Durability::Synced)
        })
        .await?;
        let mut ends = self.ends();
        ends.last = kept;
        ends.weights.cut(from);
        ends.pending.written = kept;
        ends.forget(|index| index >= from);
        Ok(())
    }

    /// Waits until the pinset has what is about to be removed. openraft removes the log below a pinset that came as a whole
    /// while that is still being installed; a crash in between, or an error, would leave neither.
    async fn until_applied(&self, upto: LogId) -> Result<()> {
        loop {
            let applied =
                storage::run(self.storage.clone(), |storage| records::get(storage, APPLIED, Reader::log_id));
            if applied.await? >= Some(upto) {
                return Ok(());
            }
            if let Some(error) = self.failure.seen() {
                return Err(error);
            }
            sleep(APPLIED_POLL).await;
        }
    }

    async fn drop_until(&self, upto: LogId) -> Result<()> {
        #[cfg(feature = "testing")]
        let waits = !is_planted(Planted::PurgedBeforeApplied);
        #[cfg(not(feature = "testing"))]
        let waits = true;
        if waits {
            self.until_applied(upto).await?;
        }
        self.until_all_written().await?;
        let (from, last) = {
            let ends = self.ends();
            (next_of(ends.purged), ends.last.filter(|last| *last > upto))
        };
        let last = last.unwrap_or(upto);
        storage::run(self.storage.clone(), move |storage| {
            // First what is to be there; what is below it and was not removed is removed at the next start. Synced, and not
            // for its own sake alone: with it, everything that was applied so far is on disk. Only then may entries go that
            // it would have to be applied from again.
            let mut batch = Batch::new();
            records::put(&mut batch, PURGED, &written(|writer| writer.log_id(&upto)));
            records::put(&mut batch, LAST, &written(|writer| writer.log_id(&last)));
            storage.write(batch, Durability::Synced)
        })
        .await?;
        {
            let mut ends = self.ends();
            (ends.purged, ends.last) = (Some(upto), Some(last));
            ends.weights.drop_until(upto.index);
            ends.pending.written = Some(last);
            ends.forget(|index| index <= upto.index);
        }
        storage::run(self.storage.clone(), move |storage| remove_below(storage, from, upto.index)).await
    }

    async fn vote(&self) -> Result<Option<Vote>> {
        storage::run(self.storage.clone(), |storage| records::get(storage, VOTE, Reader::vote)).await
    }

    /// The vote to begin with. A leader that was started again does not lead any more: openraft would let it, but it does not
    /// know what it acknowledged before, because that may have to be applied again, and would answer reads without it.
    async fn first_vote(&self) -> Result<Option<Vote>> {
        let vote = self.vote().await?;
        #[cfg(feature = "testing")]
        if is_planted(Planted::LeaderStaysLeader) {
            return Ok(vote);
        }
        Ok(vote.map(|vote| match vote.leader_id.voted_for() {
            Some(node) if node == self.node => Vote { committed: false, ..vote },
            _ => vote,
        }))
    }
}

fn open(storage: &dyn Storage) -> Result<Ends> {
    let purged = records::get(storage, PURGED, Reader::log_id)?;
    let last = records::get(storage, LAST, Reader::log_id)?;
    if let Some(purged) = &purged {
        remove_below(storage, 0, purged.index)?;
    }
    let snapshot = storage.snapshot()?;
    let end = |direction| -> Result<Option<u64>> {
        let page = snapshot.scan(LOG, KeyRange::all(), direction, 1)?;
        page.entries.first().map(|(key, _)| index_of(key)).transpose()
    };
    let (first_there, last_there) = (end(Direction::Forward)?, end(Direction::Backward)?);
    let there = (next_of(purged) < next_of(last)).then(|| (next_of(purged), next_of(last) - 1));
    if first_there.zip(last_there) != there {
        let range = |range: Option<(u64, u64)>| match range {
            Some((first, last)) => format!("entries {first} to {last}"),
            None => "no entries".to_owned(),
        };
        return Err(damaged(format!(
            "it should have {}, but has {}",
            range(there),
            range(first_there.zip(last_there))
        )));
    }
    if let Some(last) = last.filter(|_| there.is_some())
        && get(storage, last.index)?.log_id != last
    {
        return Err(damaged(format!("entry {} is not the one it should be", last.index)));
    }
    let committed = records::get(storage, COMMITTED, Reader::log_id)?;
    if committed.is_some() && committed > last.max(purged) {
        return Err(damaged(format!("it ends before entry {}, which was agreed on", next_of(committed) - 1)));
    }
    let mut ends = Ends { purged, last, committed, committed_written: committed, ..Ends::default() };
    ends.pending.written = last.or(purged);
    Ok(ends)
}

/// Why openraft was told that it cannot go on.
#[derive(Clone, Debug, Default)]
pub(super) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    /// The error for openraft, which stops; ours is kept.
    pub(super) fn tell(
        &self,
        error: Error,
        make: impl FnOnce(AnyError) -> StorageIOError<Node>,
    ) -> StorageError {
        let source = make(AnyError::new(&error));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        StorageError::IO { source }
    }

    /// The first error that was not taken.
    fn seen(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first error since this was called last.
    pub(super) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, true)
            .await
            .map_err(|error| self.failure.tell(error, StorageIOError::read_logs))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.entries(start, end, false)
            .await
            .map_err(|error| self.failure.tell(error, StorageIOError::read_logs))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let ends = self.ends();
        Ok(LogState { last_purged_log_id: ends.purged, last_log_id: ends.last.or(ends.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.until_all_written()
            .await
            .map_err(|error| self.failure.tell(error, StorageIOError::write_logs))?;
        let mut batch = Batch::new();
        records::put(&mut batch, VOTE, &written(|writer| writer.vote(vote)));
        let durability = Durability::Synced;
        #[cfg(feature = "testing")]
        let durability = if is_planted(Planted::VoteNotSynced) { Durability::Buffered } else { durability };
        self.write(batch, durability)
            .await
            .map_err(|error| self.failure.tell(error, StorageIOError::write_vote))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.first_vote().await.map_err(|error| self.failure.tell(error, StorageIOError::read_vote))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.take_in(entries.into_iter().collect())
            .await
            .map_err(|error| self.failure.tell(error, StorageIOError::write_logs))?;
        // For openraft it is done; what it makes of that waits for the disk (see `pending`).
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut ends = self.ends();
        ends.committed = committed.max(ends.committed);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.cut(log_id.index).await.map_err(|error| self.failure.tell(error, StorageIOError::write_logs))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.drop_until(log_id).await.map_err(|error| self.failure.tell(error, StorageIOError::write_logs))
    }
}

#[cfg(test)]
mod tests;
