//! The pinset in a [`Storage`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::Mutex;
use tracing::warn;

use super::head::{Head, META, PINS, Record, Spaces, damaged, spaces_in};
use super::index;
use super::{
    PAGE_ITEMS_MAX, State, StateChange, StateCounts, StatePage, StateQuery, StateReader, codec, list,
    replace, sum,
};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Direction, Durability, KeyRange, Page, Snapshot, Storage};
use crate::types::{Cid, Pin, PinOperation};

/// The pinset in a store, with its secondary indexes.
///
/// A handle: clones are the same pinset.
#[derive(Clone, Debug)]
pub struct StoreState {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) spool_folder: PathBuf,
    /// What the store says, once it is there.
    head: RwLock<Head>,
    /// What became of writes that failed. Locked while something is written that readers will see: a view taken under
    /// this lock shows nothing that is not on disk, once what is buffered is synced.
    failed: std::sync::Mutex<Failed>,
    /// Held by the work itself, so that a dropped call cannot let a second writer in. A replacement holds it for as long
    /// as it takes, so nobody who only reads may wait for it.
    pub(super) writer: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Failed {
    /// The last batch, if its write failed.
    doubt: Option<Doubt>,
    /// What batches did that were there after all, and nobody was told: all changes of one, or that everything may be
    /// another.
    untold: Vec<StateChange>,
    /// Whether what readers see may not be on disk yet, because somebody wanted it so.
    is_buffered: bool,
}

/// A batch that may be there.
#[derive(Debug)]
struct Doubt {
    before: Head,
    after: Head,
    changes: Vec<StateChange>,
}

impl StoreState {
    /// Opens the pinset of a store, or begins an empty one, and removes what an interrupted replacement left.
    ///
    /// # Errors
    /// `Unsupported` when a newer program wrote it, `Corrupt` when it is no pinset, `StorageFull`, `Io`,
    /// `ShutDown`.
    pub async fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        Self::open_with_spool_folder(storage, std::env::temp_dir()).await
    }

    /// As [`StoreState::open`], with another folder than the system's for the temporary files of
    /// [`State::replace`]. They take about as much room as the pinset itself.
    ///
    /// # Errors
    /// As [`StoreState::open`].
    pub async fn open_with_spool_folder(
        storage: Arc<dyn Storage>,
        spool_folder: impl Into<PathBuf>,
    ) -> Result<Self> {
        let head = storage::run(storage.clone(), open).await?;
        let head = RwLock::new(head);
        let (spool_folder, failed) = (spool_folder.into(), Default::default());
        let inner = Inner { storage, spool_folder, head, failed, writer: Arc::default() };
        Ok(Self { inner: Arc::new(inner) })
    }
}

#[async_trait]
impl StateReader for StoreState {
    // On the calling thread: a point read takes microseconds where a filter or the cache answers, and at worst one
    // read of a disk, while going to another thread and back costs more than that on every pin and unpin.
    async fn get(&self, cid: &Cid) -> Result<Option<Pin>> {
        let key = cid.to_bytes();
        loop {
            let generation = self.inner.head().generation;
            let record = self.inner.storage.get(PINS.generation(generation), &key)?;
            // Nothing found may mean that the generation was replaced and removed meanwhile.
            if record.is_some() || self.inner.head().generation == generation {
                return record.map(|record| codec::decode_record(cid, &key, &record)).transpose();
            }
        }
    }

    fn list(&self, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>> {
        list::list(self.inner.storage.clone(), query)
    }

    async fn page(&self, query: StateQuery, limit: usize) -> Result<StatePage> {
        list::page(self.inner.storage.clone(), query, limit).await
    }

    fn counts(&self) -> StateCounts {
        let head = self.inner.head();
        StateCounts { pins: head.pins, sum: head.sum }
    }
}

#[async_trait]
impl State for StoreState {
    async fn apply_with(
        &self,
        operations: Vec<PinOperation>,
        also: Batch,
        durability: Durability,
    ) -> Result<Vec<StateChange>> {
        let inner = self.inner.clone();
        let writing = inner.writer.clone().lock_owned().await;
        storage::run(inner.storage.clone(), move |storage| {
            let _writing = writing;
            let head = inner.head_to_write(storage)?;
            let Staged { mut batch, changes, head: after } = stage(storage, head, operations)?;
            batch.append(also);
            if batch.is_empty() {
                return Ok(changes);
            }
            inner.write(storage, batch, durability, Doubt { before: head, after, changes })
        })
        .await
    }

    async fn settle(&self) -> Result<Vec<StateChange>> {
        let inner = self.inner.clone();
        let writing = inner.writer.clone().lock_owned().await;
        storage::run(inner.storage.clone(), move |storage| {
            let _writing = writing;
            inner.resolve(storage)?;
            Ok(std::mem::take(&mut inner.failed().untold))
        })
        .await
    }

    async fn durable_snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        let inner = self.inner.clone();
        storage::run(inner.storage.clone(), move |storage| {
            // Not the writer's turn, which may be a whole import: only no write may be half done.
            let mut failed = inner.failed();
            if failed.doubt.is_some() {
                let text = "what the store shows may not be on disk since a write failed";
                return Err(Error::new(ErrorKind::Unavailable, text).component("state"));
            }
            if failed.is_buffered {
                storage.write(Batch::new(), Durability::Synced)?;
                failed.is_buffered = false;
            }
            storage.snapshot()
        })
        .await
    }

    async fn replace_with(
        &self,
        pins: BoxStream<'static, Result<Vec<Pin>>>,
        also: Batch,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<u64> {
        replace::replace(self.inner.clone(), pins, also, progress).await
    }

    async fn clear(&self) -> Result<()> {
        let inner = self.inner.clone();
        let writing = inner.writer.clone().lock_owned().await;
        storage::run(inner.storage.clone(), move |storage| {
            let _writing = writing;
            let head = inner.head_to_write(storage)?;
            let empty = Head { generation: head.generation.wrapping_add(1), pins: 0, sum: 0 };
            Spaces::of(empty.generation).remove(storage)?;
            inner.flip(storage, head, empty, Batch::new())
        })
        .await
    }

    fn values(&self, snapshot: &dyn Snapshot, range: KeyRange, limit: usize) -> Result<Page> {
        let pins = spaces_in(snapshot)?.pins();
        let mut page = snapshot.scan(pins, range, Direction::Forward, limit)?;
        for (_, record) in &mut page.entries {
            *record = codec::value_of(record)?;
        }
        Ok(page)
    }
}

impl Inner {
    pub(super) fn head(&self) -> Head {
        *self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_head(&self, head: Head) {
        *self.head.write().unwrap_or_else(PoisonError::into_inner) = head;
    }

    /// What the store says, for whoever is about to write: asked of the store each time, because after a failed write
    /// only the store knows what became of it, and it has to be certain before anything is built on it.
    pub(super) fn head_to_write(&self, storage: &dyn Storage) -> Result<Head> {
        self.resolve(storage)?;
        let mut failed = self.failed();
        if !failed.untold.is_empty() {
            // Told after what is written now, its changes would be in the wrong order.
            failed.untold = vec![StateChange::Replaced];
        }
        Head::of(storage)
    }

    /// Writes a batch, and keeps its outcome in mind when that is unknown. Gives its changes.
    fn write(
        &self,
        storage: &dyn Storage,
        batch: Batch,
        durability: Durability,
        doubt: Doubt,
    ) -> Result<Vec<StateChange>> {
        let mut failed = self.failed();
        if let Err(error) = storage.write(batch, durability) {
            if error.kind() != ErrorKind::InvalidInput {
                failed.doubt = Some(doubt);
            }
            return Err(error);
        }
        failed.is_buffered = durability == Durability::Buffered;
        self.set_head(doubt.after);
        Ok(doubt.changes)
    }

    /// Makes certain what became of a write that failed.
    fn resolve(&self, storage: &dyn Storage) -> Result<()> {
        let mut failed = self.failed();
        let Some(&Doubt { before, after, .. }) = failed.doubt.as_ref() else { return Ok(()) };
        // What readers see and a power cut would take becomes durable, if the disk works again.
        storage.write(Batch::new(), Durability::Synced)?;
        failed.is_buffered = false;
        let head = Head::of(storage)?;
        self.set_head(head);
        let changes = failed.doubt.take().map(|doubt| doubt.changes).unwrap_or_default();
        if head == after && head != before {
            failed.untold.extend(changes);
        }
        drop(failed);
        for generation in [before.generation, after.generation] {
            if generation != head.generation {
                remove_leftover(storage, generation);
            }
        }
        Ok(())
    }

    /// Makes another generation the pinset, in one write with `also`, and removes the one before.
    pub(super) fn flip(&self, storage: &dyn Storage, old: Head, new: Head, also: Batch) -> Result<()> {
        let mut batch = also;
        new.write(&mut batch);
        // When this fails, the switch may have happened on disk: both generations stay until that is certain.
        let doubt = Doubt { before: old, after: new, changes: vec![StateChange::Replaced] };
        self.write(storage, batch, Durability::Synced, doubt)?;
        // Who replaces the pinset tells everybody to compare: what was in it is no news any more.
        self.failed().untold.clear();
        remove_leftover(storage, old.generation);
        Ok(())
    }
}

/// Removes a generation that nobody looks at any more. What cannot be removed now is removed at the next open.
fn remove_leftover(storage: &dyn Storage, generation: u32) {
    if let Err(error) = Spaces::of(generation).remove(storage) {
        warn!(%error, "a pinset that was replaced or not taken still takes room until the next start");
    }
}

fn open(storage: &dyn Storage) -> Result<Head> {
    let head = match Head::read(|key| storage.get(META, key))? {
        Record::Current(head) => head,
        Record::WithoutSum(head) => {
            let head = Head { sum: sum_all(storage, head.generation)?, ..head };
            write_head(storage, head)?;
            head
        }
        Record::Absent => {
            let page = storage.snapshot()?.scan(PINS, KeyRange::all(), Direction::Forward, 0)?;
            if page.more {
                return Err(damaged("there are pins, but its head record is missing"));
            }
            let head = Head { generation: 0, pins: 0, sum: 0 };
            write_head(storage, head)?;
            return Ok(head);
        }
    };
    for leftover in [head.generation.wrapping_sub(1), head.generation.wrapping_add(1)] {
        Spaces::of(leftover).remove(storage)?;
    }
    Ok(head)
}

fn write_head(storage: &dyn Storage, head: Head) -> Result<()> {
    let mut batch = Batch::new();
    head.write(&mut batch);
    storage.write(batch, Durability::Synced)
}

/// Reads every entry: once in the life of a store that was begun before there was a sum, and after damage.
fn sum_all(storage: &dyn Storage, generation: u32) -> Result<u128> {
    let space = Spaces::of(generation).pins();
    let mut range = KeyRange::all();
    let mut sum: u128 = 0;
    loop {
        // A snapshot for each page, because none may be kept for as long as all of them might take.
        let page = storage.snapshot()?.scan(space, range.clone(), Direction::Forward, PAGE_ITEMS_MAX)?;
        for (key, record) in &page.entries {
            // What is damaged adds nothing, neither here nor when it is replaced.
            let cid = Cid::try_from(&key[..]).ok();
            if let Some(pin) = cid.and_then(|cid| codec::decode_record(&cid, key, record).ok()) {
                sum = sum.wrapping_add(sum::of_pin(&pin));
            }
        }
        match page.entries.last() {
            Some((key, _)) if page.more => range = range.after(key.clone()),
            _ => return Ok(sum),
        }
    }
}

/// What has to be written for some operations.
struct Staged {
    batch: Batch,
    changes: Vec<StateChange>,
    head: Head,
}

/// An entry that a batch touches.
struct Touched {
    key: Bytes,
    before: Before,
    now: Option<Arc<Pin>>,
}

/// An entry as the store has it.
#[derive(Clone)]
enum Before {
    Absent,
    Present(Arc<Pin>),
    /// There is a record, but it does not decode. It can be replaced and removed like any other; the index entries
    /// it may have had stay behind and point to nothing.
    Damaged,
}

fn stage(storage: &dyn Storage, mut head: Head, operations: Vec<PinOperation>) -> Result<Staged> {
    let spaces = Spaces::of(head.generation);
    let mut touched: Vec<Touched> = Vec::with_capacity(operations.len());
    let mut places: HashMap<Cid, usize> = HashMap::with_capacity(operations.len());
    let mut changes = Vec::with_capacity(operations.len());
    for operation in operations {
        let cid = *operation.cid();
        let place = match places.get(&cid) {
            Some(place) => *place,
            None => {
                let key = Bytes::from(cid.to_bytes());
                let before = read_before(storage, spaces, &cid, &key)?;
                let now = match &before {
                    Before::Absent => None,
                    Before::Present(pin) => Some(pin.clone()),
                    // Nobody knows what it was, but it was pinned: who unpins it has to be told that it is gone.
                    Before::Damaged => Some(Arc::new(Pin::new(cid, Default::default()))),
                };
                touched.push(Touched { key, before, now });
                places.insert(cid, touched.len() - 1);
                touched.len() - 1
            }
        };
        let now = &mut touched[place].now;
        let operation = match operation {
            PinOperation::Revise(revision) if now.as_deref() == Some(revision.seen()) => revision.operation(),
            other => other,
        };
        changes.push(match operation {
            // It is not as it was seen.
            PinOperation::Revise(_) => StateChange::Unchanged,
            PinOperation::Pin(pin) => {
                let pin = if codec::is_normal(&pin) {
                    pin
                } else {
                    Arc::new(codec::normalise(Arc::unwrap_or_clone(pin)))
                };
                *now = Some(pin.clone());
                StateChange::Pinned(pin)
            }
            PinOperation::Unpin(_) => match now.take() {
                Some(pin) => StateChange::Unpinned(pin),
                None => StateChange::Unchanged,
            },
        });
    }

    if touched.iter().any(|entry| matches!(entry.before, Before::Damaged)) {
        // What a damaged entry added to the sum nobody knows any more.
        head.sum = sum_all(storage, head.generation)?;
    }
    let mut batch = Batch::new();
    for entry in touched {
        let was_there = !matches!(entry.before, Before::Absent);
        match (was_there, entry.now.is_some()) {
            (false, true) => head.pins = head.pins.saturating_add(1),
            (true, false) => head.pins = head.pins.saturating_sub(1),
            _ => {}
        }
        head.sum = head.sum.wrapping_add(write_entry(&mut batch, spaces, entry));
    }
    if !batch.is_empty() {
        head.write(&mut batch);
    }
    Ok(Staged { batch, changes, head })
}

fn read_before(storage: &dyn Storage, spaces: Spaces, cid: &Cid, key: &Bytes) -> Result<Before> {
    let Some(record) = storage.get(spaces.pins(), key)? else { return Ok(Before::Absent) };
    match codec::decode_record(cid, key, &record) {
        Ok(pin) => Ok(Before::Present(Arc::new(pin))),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            warn!(%cid, %error, "replacing a damaged entry");
            Ok(Before::Damaged)
        }
        Err(error) => Err(error),
    }
}

/// Writes what changed of an entry, and gives what that adds to the sum.
fn write_entry(batch: &mut Batch, spaces: Spaces, entry: Touched) -> u128 {
    let before = match &entry.before {
        Before::Present(pin) => Some(&**pin),
        Before::Absent | Before::Damaged => None,
    };
    let now = entry.now.as_deref();
    if before == now && !matches!(entry.before, Before::Damaged) {
        return 0;
    }
    let old = before.map(index::entries).unwrap_or_default();
    let new = now.map(index::entries).unwrap_or_default();
    for (index, key) in old.iter().filter(|entry| !new.contains(entry)) {
        batch.delete(spaces.index(*index), key.clone());
    }
    for (index, key) in new.iter().filter(|entry| !old.contains(entry)) {
        batch.put(spaces.index(*index), key.clone(), Bytes::new());
    }
    let sum = match now {
        Some(pin) => {
            let record = Bytes::from(codec::encode_record(pin));
            // The value is encoded once for both.
            let sum = sum::of_value(&entry.key, codec::body_of(&record));
            batch.put(spaces.pins(), entry.key, record);
            sum
        }
        None => {
            batch.delete(spaces.pins(), entry.key);
            0
        }
    };
    sum.wrapping_sub(before.map_or(0, sum::of_pin))
}
