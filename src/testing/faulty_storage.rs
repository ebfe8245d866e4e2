//! A store around a store that fails on request and counts what is asked of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::storage::{Batch, Direction, Durability, KeyRange, Page, Snapshot, Space, Storage};

/// What can be told to fail, and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StorageCall {
    /// [`Storage::get`].
    Get,
    /// [`Storage::write`].
    Write,
    /// [`Storage::snapshot`].
    Snapshot,
    /// [`Storage::bulk_load`].
    BulkLoad,
    /// [`Storage::remove_space`].
    RemoveSpace,
}

/// A store that can be told to fail.
#[derive(Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    faults: Mutex<Faults>,
    snapshots: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Faults {
    calls: BTreeMap<StorageCall, u64>,
    failing: BTreeMap<StorageCall, Failing>,
    latency: Duration,
    blocks: bool,
}

#[derive(Clone, Debug)]
struct Failing {
    /// From this call on (counted from 0) each one fails.
    from: u64,
    error: Error,
    /// Whether the store inside does what is asked all the same.
    is_done: bool,
}

impl FaultyStorage {
    /// A store that works as `inner` does, for now.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, faults: Mutex::default(), snapshots: Arc::default() }
    }

    /// Lets `spared` more calls of a kind work, and every one after them fail, until [`FaultyStorage::heal`]. What fails
    /// does not reach the store inside.
    pub fn fail(&self, call: StorageCall, spared: u64, error: Error) {
        self.set_failing(call, spared, error, false);
    }

    /// As [`FaultyStorage::fail`], but the store inside does what it is asked, and nobody hears of it.
    pub fn fail_afterwards(&self, call: StorageCall, spared: u64, error: Error) {
        self.set_failing(call, spared, error, true);
    }

    fn set_failing(&self, call: StorageCall, spared: u64, error: Error, is_done: bool) {
        let mut faults = self.faults();
        let from = faults.calls.get(&call).copied().unwrap_or(0) + spared;
        faults.failing.insert(call, Failing { from, error, is_done });
    }

    /// Lets every piece of work that goes through [`storage::run`](crate::storage::run) take this much longer, in the time of
    /// tokio's clock, until [`FaultyStorage::heal`].
    pub fn slow(&self, latency: Duration) {
        self.faults().latency = latency;
    }

    /// Says that it blocks, whatever the store inside does: then what is too large for memory goes to files.
    pub fn pretend_to_block(&self) {
        self.faults().blocks = true;
    }

    /// Everything works again.
    pub fn heal(&self) {
        let mut faults = self.faults();
        faults.failing.clear();
        faults.latency = Duration::ZERO;
    }

    /// How many calls of a kind there were, those that failed included.
    pub fn calls(&self, call: StorageCall) -> u64 {
        self.faults().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many snapshots are held by somebody.
    pub fn snapshots_held(&self) -> usize {
        self.snapshots.load(Ordering::SeqCst)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, call: StorageCall, work: impl FnOnce(&dyn Storage) -> Result<T>) -> Result<T> {
        let failing = {
            let mut faults = self.faults();
            let number = faults.calls.entry(call).or_default();
            let this = *number;
            *number += 1;
            faults.failing.get(&call).filter(|failing| this >= failing.from).cloned()
        };
        match failing {
            None => work(&*self.inner),
            Some(failing) => {
                if failing.is_done {
                    work(&*self.inner)?;
                }
                Err(failing.error)
            }
        }
    }
}

impl Storage for FaultyStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.call(StorageCall::Get, |inner| inner.get(space, key))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        self.call(StorageCall::Write, |inner| inner.write(batch, durability))
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        let inner = self.call(StorageCall::Snapshot, |inner| inner.snapshot())?;
        self.snapshots.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(CountedSnapshot { inner, held: self.snapshots.clone() }))
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.call(StorageCall::BulkLoad, |inner| inner.bulk_load(space, entries))
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        self.call(StorageCall::RemoveSpace, |inner| inner.remove_space(space))
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.inner.approximate_bytes()
    }

    fn blocks(&self) -> bool {
        self.faults().blocks || self.inner.blocks()
    }

    fn latency(&self) -> Duration {
        self.faults().latency.max(self.inner.latency())
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

#[derive(Debug)]
struct CountedSnapshot {
    inner: Arc<dyn Snapshot>,
    held: Arc<AtomicUsize>,
}

impl Drop for CountedSnapshot {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Snapshot for CountedSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(space, key)
    }

    fn scan(&self, space: Space, range: KeyRange, direction: Direction, limit: usize) -> Result<Page> {
        self.inner.scan(space, range, direction, limit)
    }
}
