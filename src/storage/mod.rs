//! An ordered key-value store: atomic durable batches, point reads and snapshots.
//!
//! [`Storage`] is synchronous, because every engine blocks. [`run`] moves a piece of work to the blocking pool
//! where the engine needs it, and runs it in place where it does not (the in-memory store, so that a whole
//! cluster stays deterministic in one thread).

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

#[cfg(feature = "storage-fjall")]
mod fjall;
#[cfg(any(feature = "storage-fjall", feature = "storage-redb"))]
mod folder;
#[cfg(any(feature = "storage-fjall", feature = "storage-redb"))]
mod handle;
mod memory;
#[cfg(feature = "storage-redb")]
mod redb;

#[cfg(feature = "storage-fjall")]
pub use fjall::{FjallConfig, FjallStorage};
pub use memory::MemoryStorage;
#[cfg(feature = "storage-redb")]
pub use redb::{RedbConfig, RedbStorage};

#[cfg(feature = "testing")]
pub(crate) use memory::{Spaces, load};

/// Longest key an engine must take, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// Longest value an engine must take, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// A named, ordered set of keys inside a store.
///
/// A space exists as soon as something is written to it. Its generation lets a reader switch from one whole
/// set of keys to another in one batch: load generation `n + 1`, write a pointer, remove generation `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space {
    name: &'static str,
    generation: u32,
}

impl Space {
    /// A space of generation 0.
    ///
    /// # Panics
    /// At compile time in a `const`, when the name is not 1 to 32 lowercase letters, digits and `-`.
    pub const fn new(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= 32, "a space has a name of 1 to 32 characters");
        let mut index = 0;
        while index < bytes.len() {
            assert!(
                bytes[index].is_ascii_lowercase() || bytes[index].is_ascii_digit() || bytes[index] == b'-',
                "a space's name is lowercase letters, digits and -"
            );
            index += 1;
        }
        Self { name, generation: 0 }
    }

    /// The same name in another generation.
    #[must_use]
    pub const fn generation(self, generation: u32) -> Self {
        Self { name: self.name, generation }
    }

    /// The name without the generation.
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Display for Space {
    /// The name an engine stores it under: `pins`, or `pins_3` in generation 3.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.generation == 0 {
            f.write_str(self.name)
        } else {
            write!(f, "{}_{}", self.name, self.generation)
        }
    }
}

/// One write inside a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOperation {
    /// Where.
    pub space: Space,
    /// Which key.
    pub key: Bytes,
    /// What; none removes the key.
    pub value: Option<Bytes>,
}

/// Writes that happen together or not at all, in order: the last write of a key wins.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    operations: Vec<BatchOperation>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a key.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.operations.push(BatchOperation { space, key: key.into(), value: Some(value.into()) });
    }

    /// Removes a key; absent is fine.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.operations.push(BatchOperation { space, key: key.into(), value: None });
    }

    /// Adds the writes of another batch after these.
    pub fn append(&mut self, mut other: Self) {
        self.operations.append(&mut other.operations);
    }

    /// The writes in order.
    pub fn operations(&self) -> &[BatchOperation] {
        &self.operations
    }

    /// The writes in order, owned.
    pub fn into_operations(self) -> Vec<BatchOperation> {
        self.operations
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// What must be true when a write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Visible to every reader; a power cut, perhaps a crash, may take it back: as a whole, and only with every batch
    /// written after it.
    Buffered,
    /// On disk, with everything written before it.
    Synced,
}

/// Keys to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// Where it starts.
    pub start: Bound<Bytes>,
    /// Where it ends.
    pub end: Bound<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub const fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }

    /// Keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix: Bytes = prefix.into();
        let mut end = prefix.to_vec();
        // The first key after all that start with the prefix: the last byte that can grow, grown.
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self { start: Bound::Included(prefix), end: Bound::Excluded(end.into()) };
            }
        }
        Self { start: Bound::Included(prefix), end: Bound::Unbounded }
    }

    /// The same range without everything up to and including `key`.
    #[must_use]
    pub fn after(mut self, key: impl Into<Bytes>) -> Self {
        self.start = Bound::Excluded(key.into());
        self
    }

    /// The same range without everything from `key` on.
    #[must_use]
    pub fn before(mut self, key: impl Into<Bytes>) -> Self {
        self.end = Bound::Excluded(key.into());
        self
    }

    /// Whether no key can lie in it, which some engines refuse to be asked.
    pub fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start), Bound::Excluded(end))
            | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
            (Bound::Excluded(start), Bound::Excluded(end)) => start >= end,
            _ => false,
        }
    }
}

/// Which end of a range a scan starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    #[default]
    Forward,
    /// Largest key first.
    Backward,
}

/// A piece of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values in the order asked for.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Whether the range has more after these.
    pub more: bool,
}

/// An ordered key-value store on one machine.
///
/// Calls block the calling thread; use [`run`] from async code. All methods may be called from many threads.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// The value of a key, newest write included. A key that cannot be written is absent.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `ShutDown` after [`Storage::close`].
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>>;

    /// Writes everything or nothing. With [`Durability::Synced`] the batch, and every batch before it, is on disk
    /// when this returns: an empty synced batch is how buffered writes are made durable.
    ///
    /// # Errors
    /// `InvalidInput` for a key that is empty or longer than [`KEY_BYTES_MAX`] or a value longer than
    /// [`VALUE_BYTES_MAX`], `StorageFull`, `Io`, `ShutDown`. After an error of a synced write it is unknown whether the batch is there.
    fn write(&self, batch: Batch, durability: Durability) -> Result<()>;

    /// The store as it is now, unmoved by later writes. Writers never wait for it, but an engine cannot reclaim
    /// space behind it, so nobody keeps one for longer than a minute.
    ///
    /// # Errors
    /// `Io`, `ShutDown`.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>>;

    /// Fills an *empty* space from entries in strictly ascending key order, faster than batches can. On disk
    /// when it returns; returns how many. After an error or a crash half-way the space holds any part of them
    /// and must be removed. The iterator may read from this store but not write to it, and nobody else writes to
    /// the space meanwhile.
    ///
    /// # Errors
    /// The first error of the iterator; `Conflict` when the space is not empty; `InvalidInput` for keys out of
    /// order and for what [`Storage::write`] refuses; `StorageFull`, `Io`, `ShutDown`.
    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64>;

    /// Forgets a space and gives its room back in time. An absent space is fine. On disk when it returns.
    ///
    /// # Errors
    /// `Io`, `ShutDown`.
    fn remove_space(&self, space: Space) -> Result<()>;

    /// Bytes used on disk (in memory for the in-memory store), as well as the engine knows.
    ///
    /// # Errors
    /// `Io`, `ShutDown`.
    fn approximate_bytes(&self) -> Result<u64>;

    /// Whether calls may wait for a disk. False only where they never do.
    fn blocks(&self) -> bool;

    /// How much time of tokio's clock [`run`] lets pass before each piece of work: how a test has a slow disk in simulated
    /// time. None everywhere else.
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    /// Makes everything durable and lets go of the files, so that another process can open them. Later calls
    /// are `ShutDown`; a second close is Ok. Snapshots still held keep working where the engine can.
    ///
    /// # Errors
    /// `StorageFull`, `Io`.
    fn close(&self) -> Result<()>;
}

/// A frozen view of a store.
pub trait Snapshot: fmt::Debug + Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>>;

    /// At most `limit` entries of a range. A limit of 0 gives an empty page that only says whether there is more.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    fn scan(&self, space: Space, range: KeyRange, direction: Direction, limit: usize) -> Result<Page>;
}

/// Runs blocking work on a store: in place when it never blocks, else on tokio's blocking pool.
///
/// Not cancel-safe in the sense that dropping the future does not undo or stop work that has begun.
///
/// # Errors
/// What the work returns; `Internal` when it panicked.
pub async fn run<T, F>(storage: Arc<dyn Storage>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&dyn Storage) -> Result<T> + Send + 'static,
{
    let latency = storage.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    if !storage.blocks() {
        return work(&*storage);
    }
    tokio::task::spawn_blocking(move || work(&*storage)).await.unwrap_or_else(|source| {
        Err(Error::internal(format!("storage work did not finish: {source}"))
            .component("storage")
            .with_source(source))
    })
}

/// Whether an engine has to take such a key.
fn is_possible_key(key: &[u8]) -> bool {
    !key.is_empty() && key.len() <= KEY_BYTES_MAX
}

/// Refuses what no engine has to take.
fn check_entry(space: Space, key: &[u8], value: Option<&Bytes>) -> Result<()> {
    if !is_possible_key(key) {
        return Err(Error::invalid_input(format!(
            "a key for {space} has {} bytes, but keys have 1 to {KEY_BYTES_MAX}",
            key.len()
        ))
        .component("storage"));
    }
    match value {
        Some(value) if value.len() > VALUE_BYTES_MAX => Err(Error::invalid_input(format!(
            "a value for {space} has {} bytes, but at most {VALUE_BYTES_MAX} can be stored",
            value.len()
        ))
        .component("storage")),
        _ => Ok(()),
    }
}

/// Refuses a batch before anything of it is written.
pub(crate) fn check_batch(batch: &Batch) -> Result<()> {
    batch
        .operations()
        .iter()
        .try_for_each(|operation| check_entry(operation.space, &operation.key, operation.value.as_ref()))
}

/// Watches over the entries of a bulk load.
#[derive(Debug)]
struct AscendingKeys {
    space: Space,
    last: Option<Bytes>,
}

impl AscendingKeys {
    const fn new(space: Space) -> Self {
        Self { space, last: None }
    }

    /// Refuses an entry that cannot be stored or does not come after the one before.
    fn check(&mut self, key: &Bytes, value: &Bytes) -> Result<()> {
        check_entry(self.space, key, Some(value))?;
        if self.last.as_ref().is_some_and(|last| last >= key) {
            return Err(Error::invalid_input(format!(
                "keys for {} are out of order: a bulk load takes strictly ascending keys",
                self.space
            ))
            .component("storage"));
        }
        self.last = Some(key.clone());
        Ok(())
    }
}

/// The error of a bulk load into a space that is not empty.
fn space_not_empty(space: Space) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("{space} is not empty: a bulk load takes an empty space, remove it first"),
    )
    .component("storage")
}

#[deny(clippy::missing_trait_methods)]
impl<T: Storage + ?Sized> Storage for Arc<T> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        (**self).get(space, key)
    }
    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        (**self).write(batch, durability)
    }
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        (**self).snapshot()
    }
    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        (**self).bulk_load(space, entries)
    }
    fn remove_space(&self, space: Space) -> Result<()> {
        (**self).remove_space(space)
    }
    fn approximate_bytes(&self) -> Result<u64> {
        (**self).approximate_bytes()
    }
    fn blocks(&self) -> bool {
        (**self).blocks()
    }
    fn latency(&self) -> Duration {
        (**self).latency()
    }
    fn close(&self) -> Result<()> {
        (**self).close()
    }
}
