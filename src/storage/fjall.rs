//! The store on fjall, a log-structured merge tree: fast at writing, flat in the number of keys.
//!
//! Each space is one fjall keyspace under a name that is never used twice (`pins_3.17`). A keyspace of our own, the
//! registry, says which of them is which space, and changes by synced batches only. So making, filling and removing
//! a space happens at once or not at all, whatever fjall does with the files meanwhile and afterwards; a keyspace
//! that the registry does not know is left over and is removed on opening.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use ::fjall::{Database, Keyspace, PersistMode, Readable};
use bytes::Bytes;

use super::folder::{Folder, Layout};
use super::handle::{self, Handle, Held, refusal_after};
use super::{
    AscendingKeys, Batch, BatchOperation, Direction, Durability, KeyRange, Page, Snapshot, Space, Storage,
    check_batch, is_possible_key, space_not_empty,
};
use crate::error::{Error, ErrorKind, Result};

mod journal;
mod spaces;
use spaces::{Registry, Spaces};

const COMPONENT: &str = "fjall storage";
const LAYOUT: Layout = Layout { engine: "fjall", version: 1 };

/// Without the first the engine takes the folder for a new one; without the second it takes all keyspaces for left
/// over, and removes them.
const VITAL_FILES: [&str; 2] = ["version", "keyspaces/0/current"];
/// The engine takes no smaller journal, in bytes.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;
/// Files kept open for reading, so that sockets have their share of the usual 1,024 descriptors.
const OPEN_FILES_MAX: usize = 256;
/// How long closing waits for what is in memory to become files, and how often it looks.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const SETTLE_POLL: Duration = Duration::from_millis(2);
/// How many entries of a bulk load are written between two looks at how full the disk is.
const BULK_CHECK_ENTRIES: u64 = 65_536;

/// How a [`FjallStorage`] uses memory and disk.
///
/// The defaults suit a peer with a million pins: it opens in less than a second after a crash, and takes little
/// memory while idle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FjallConfig {
    /// Blocks of data kept in memory for reading, in bytes.
    pub cache_bytes: u64,
    /// What is written to one space is collected in memory up to this many bytes, then becomes a file. Applies to
    /// spaces that are made from now on.
    pub memtable_bytes: u64,
    /// The journal of what is not in such files yet, in bytes; reading it again is what opening after a crash takes
    /// long for. At least 64 MiB.
    pub journal_bytes_max: u64,
    /// Writes are refused as `StorageFull` when fewer bytes than this are free on the disk, so that the engine never
    /// has to stop half-way in its own housekeeping.
    pub reserve_bytes: u64,
}

impl Default for FjallConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            memtable_bytes: 8 << 20,
            journal_bytes_max: 128 << 20,
            reserve_bytes: 128 << 20,
        }
    }
}

/// A store in a folder, on the fjall engine.
///
/// `Synced` writes are one `fdatasync` each; callers that have many at once put them into one batch. A batch is held
/// in memory three times over while it is written: keep batches well below the size of a memtable.
pub struct FjallStorage {
    handle: Handle<Engine>,
}

impl FjallStorage {
    /// Opens the store in a folder, or makes one where there is none or an empty folder.
    ///
    /// Blocks while what a crash left in the journal is read again.
    ///
    /// # Errors
    /// `InvalidInput` for values that the engine does not take; `Locked` when another process has the folder;
    /// `Conflict` when another engine made it, `Unsupported` when a newer version did; `Corrupt` when it is not a
    /// store of ours or its data are damaged; `StorageFull`, `Io`.
    pub fn open(path: impl AsRef<Path>, config: FjallConfig) -> Result<Self> {
        config.validate()?;
        let engine = Engine::open(Folder::claim(path.as_ref(), LAYOUT, COMPONENT)?, config)?;
        Ok(Self { handle: Handle::new(engine, COMPONENT) })
    }

    /// About how many bytes of files each space takes, by its name; generations of a space count together. What was
    /// written lately is in the journal alone, which belongs to no space: the rest of
    /// [`approximate_bytes`](Storage::approximate_bytes).
    ///
    /// # Errors
    /// `ShutDown` after close.
    pub fn bytes_by_space(&self) -> Result<BTreeMap<String, u64>> {
        let engine = self.handle.get()?;
        let mut bytes = BTreeMap::new();
        for (name, keyspace) in engine.spaces().each() {
            *bytes.entry(name.to_owned()).or_default() += keyspace.disk_space();
        }
        Ok(bytes)
    }
}

impl FjallConfig {
    /// Whether the engine can work with these values.
    ///
    /// # Errors
    /// `InvalidInput` that names the field.
    pub fn validate(&self) -> Result<()> {
        if self.journal_bytes_max < JOURNAL_BYTES_MIN {
            return Err(Error::invalid_input(format!(
                "journal_bytes_max is {}, but at least {JOURNAL_BYTES_MIN} are needed",
                self.journal_bytes_max
            ))
            .component(COMPONENT));
        }
        if self.memtable_bytes == 0 {
            return Err(
                Error::invalid_input("memtable_bytes is 0, but at least 1 is needed").component(COMPONENT)
            );
        }
        Ok(())
    }
}

impl fmt::Debug for FjallStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.handle.get() {
            Ok(engine) => f.debug_tuple("FjallStorage").field(&engine.folder.path()).finish(),
            Err(_) => f.write_str("FjallStorage(closed)"),
        }
    }
}

/// Everything that holds on to the files. The folder comes last: its lock goes when the others are gone.
struct Engine {
    spaces: RwLock<Arc<Spaces>>,
    /// The spaces that each snapshot looks at, by its number: a removed space stays readable for those who had it,
    /// but all of them are let go of at close.
    snapshots: Mutex<BTreeMap<u64, Arc<Spaces>>>,
    /// Held by whoever makes, fills or removes a space.
    registry: Mutex<Registry>,
    /// Held by writers, see [`Registry`].
    quiet: Arc<RwLock<()>>,
    /// The write that failed, after which the engine takes no more.
    failure: OnceLock<Error>,
    config: FjallConfig,
    database: Database,
    folder: Folder,
}

// Nobody leaves half a change behind in any of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    fn open(mut folder: Folder, config: FjallConfig) -> Result<Self> {
        if folder.is_new() {
            folder.check_free(config.reserve_bytes)?;
        }
        let path = folder.path().to_owned();
        if !folder.is_new()
            && let Some(missing) = VITAL_FILES.into_iter().find(|file| !path.join(file).exists())
        {
            return Err(folder.damaged(format!("its file {missing:?} is gone")));
        }
        let builder = Database::builder(&path)
            .cache_size(config.cache_bytes)
            .max_journaling_size(config.journal_bytes_max)
            .max_cached_files(Some(OPEN_FILES_MAX));
        journal::mend(&folder)?;
        // The engine panics on some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = builder.open().map_err(|error| engine_error(&folder, "cannot open", error))?;
            let quiet = Arc::<RwLock<()>>::default();
            let (registry, spaces) = Registry::open(&database, &folder, &config, quiet.clone())?;
            Ok((database, registry, spaces, quiet))
        }));
        let (database, registry, spaces, quiet) = match opened {
            Ok(result) => result?,
            Err(panic) => return Err(folder.damaged(panic_text(&*panic))),
        };
        folder.finish()?;
        Ok(Self {
            spaces: RwLock::new(Arc::new(spaces)),
            snapshots: Mutex::default(),
            registry: Mutex::new(registry),
            quiet,
            failure: OnceLock::new(),
            config,
            database,
            folder,
        })
    }

    fn spaces(&self) -> Arc<Spaces> {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change_spaces(&self, change: impl FnOnce(&mut Spaces)) {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut spaces));
    }

    /// An error of reading.
    fn read_error(&self, error: ::fjall::Error) -> Error {
        engine_error(&self.folder, "cannot read", error)
    }

    /// An error of writing. The engine takes no write after one that failed, and does not say why: we do.
    fn write_error(&self, error: ::fjall::Error) -> Error {
        if let ::fjall::Error::Poisoned = error {
            // Its housekeeping failed, behind our back: the disk may tell why.
            let first = self.failure.get_or_init(|| match self.folder.probe() {
                Err(error) => error,
                Ok(()) => Error::new(
                    ErrorKind::Io,
                    format!(
                        "the engine could not write its files in {}: look after the disk, then start again",
                        self.folder.path().display()
                    ),
                )
                .component(COMPONENT),
            });
            return refusal_after(first);
        }
        let error = engine_error(&self.folder, "cannot write", error);
        self.failure.get_or_init(|| error.clone());
        error
    }

    /// The keyspace of a space, made now if it is not there.
    fn space_to_write(&self, space: Space) -> Result<Keyspace> {
        if let Some(keyspace) = self.spaces().get(space) {
            return Ok(keyspace.clone());
        }
        let mut registry = lock(&self.registry);
        // Somebody may have been faster.
        if let Some(keyspace) = self.spaces().get(space) {
            return Ok(keyspace.clone());
        }
        let keyspace = registry
            .make(&self.database, &self.folder, space, &self.config, |error| self.write_error(error))?;
        registry.assign(&self.database, space, &keyspace).map_err(|error| self.write_error(error))?;
        self.change_spaces(|spaces| spaces.insert(space, keyspace.clone()));
        Ok(keyspace)
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        self.folder.check_free(self.config.reserve_bytes)?;
        let mode = match durability {
            Durability::Buffered => PersistMode::Buffer,
            Durability::Synced => PersistMode::SyncData,
        };
        let mut operations = batch.into_operations();
        // Sorted, because neighbours are inserted faster. All writes of a batch carry one sequence number, so only the
        // last of a key may go in, which a stable sort leaves last.
        operations.sort_by(|one, other| (one.space, &one.key).cmp(&(other.space, &other.key)));
        let mut writes = self.database.batch().durability(Some(mode));
        let mut last: Option<(Space, Keyspace)> = None;
        let mut operations = operations.into_iter().peekable();
        while let Some(operation) = operations.next() {
            let is_same = |next: &BatchOperation| next.space == operation.space && next.key == operation.key;
            if operations.peek().is_some_and(is_same) {
                continue;
            }
            let keyspace = match &last {
                Some((space, keyspace)) if *space == operation.space => keyspace,
                _ => {
                    let keyspace = match (self.spaces().get(operation.space), &operation.value) {
                        (Some(keyspace), _) => keyspace.clone(),
                        (None, Some(_)) => self.space_to_write(operation.space)?,
                        (None, None) => continue,
                    };
                    &last.insert((operation.space, keyspace)).1
                }
            };
            match operation.value {
                Some(value) => writes.insert(keyspace, operation.key, value),
                None => writes.remove(keyspace, operation.key),
            }
        }
        let _shared = self.quiet.read().unwrap_or_else(PoisonError::into_inner);
        if !writes.is_empty() {
            return writes.commit().map_err(|error| self.write_error(error));
        }
        match durability {
            Durability::Buffered => Ok(()),
            Durability::Synced => self.database.persist(mode).map_err(|error| self.write_error(error)),
        }
    }

    fn check_empty(&self, space: Space) -> Result<()> {
        match self.spaces().get(space) {
            Some(keyspace) if !keyspace.is_empty().map_err(|error| self.read_error(error))? => {
                Err(space_not_empty(space))
            }
            _ => Ok(()),
        }
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.folder.check_free(self.config.reserve_bytes)?;
        self.check_empty(space)?;
        // A keyspace that nobody knows is filled, then takes the place of the empty one. Nothing is locked while the
        // iterator runs.
        let keyspace =
            lock(&self.registry)
                .make(&self.database, &self.folder, space, &self.config, |error| self.write_error(error))?;
        let assigned = self.ingest(space, &keyspace, entries).and_then(|count| {
            let registry = lock(&self.registry);
            self.check_empty(space)?;
            registry.assign(&self.database, space, &keyspace).map_err(|error| self.write_error(error))?;
            let replaced = self.spaces().get(space).cloned();
            self.change_spaces(|spaces| spaces.insert(space, keyspace.clone()));
            Ok((count, replaced))
        });
        match assigned {
            Ok((count, replaced)) => {
                if let Some(replaced) = replaced {
                    self.discard(&lock(&self.registry), replaced);
                }
                Ok(count)
            }
            Err(error) => {
                self.discard(&lock(&self.registry), keyspace);
                Err(error)
            }
        }
    }

    fn ingest(
        &self,
        space: Space,
        keyspace: &Keyspace,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        let mut ingestion = keyspace.start_ingestion().map_err(|error| self.write_error(error))?;
        let mut order = AscendingKeys::new(space);
        let mut count = 0;
        for entry in entries {
            let (key, value) = entry?;
            order.check(&key, &value)?;
            ingestion.write(key, value).map_err(|error| self.write_error(error))?;
            count += 1;
            if count % BULK_CHECK_ENTRIES == 0 {
                self.folder.check_free(self.config.reserve_bytes)?;
            }
        }
        ingestion.finish().map_err(|error| self.write_error(error))?;
        Ok(count)
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        let registry = lock(&self.registry);
        let Some(keyspace) = self.spaces().get(space).cloned() else { return Ok(()) };
        registry.forget(&self.database, space).map_err(|error| self.write_error(error))?;
        self.change_spaces(|spaces| spaces.remove(space));
        self.discard(&registry, keyspace);
        Ok(())
    }

    /// Makes files of what is in memory, so that the next opening has nothing to write again: it would take long, and
    /// the memory besides. Nothing depends on it, as all of it is in the journal: it stops when it takes too long, and
    /// the engine does not say when it cannot.
    fn settle(&self) {
        let registry = lock(&self.registry);
        let spaces = self.spaces();
        let keyspaces = || spaces.each().map(|(_, keyspace)| keyspace).chain([registry.keyspace()]);
        for keyspace in keyspaces() {
            if let Err(error) = keyspace.rotate_memtable() {
                tracing::debug!(%error, "what was written lately stays in the journal");
                return;
            }
        }
        let deadline = Instant::now() + SETTLE_MAX;
        while keyspaces().any(|keyspace| keyspace.sealed_memtable_count() > 0) {
            if Instant::now() >= deadline {
                tracing::debug!("what was written lately stays in the journal: writing files takes too long");
                return;
            }
            std::thread::sleep(SETTLE_POLL);
        }
    }

    /// Gives back the room of a keyspace that the registry does not know. If that fails, the next opening does it.
    fn discard(&self, registry: &Registry, keyspace: Keyspace) {
        let name = keyspace.name().to_string();
        if let Err(error) = registry.discard(&self.database, keyspace) {
            tracing::warn!(keyspace = name, %error, "the room of a removed space is given back at the next start");
        }
    }
}

/// What an error of the engine means to a caller.
fn engine_error(folder: &Folder, doing: &str, error: ::fjall::Error) -> Error {
    use ::fjall::{Error as Fjall, LsmError as Tree};
    let io = match error {
        Fjall::Io(source) | Fjall::Storage(Tree::Io(source)) => source,
        Fjall::Locked => {
            return Error::new(
                ErrorKind::Locked,
                format!(
                    "the store in {} is open in another process: stop that one first",
                    folder.path().display()
                ),
            )
            .component(COMPONENT)
            .with_source(error);
        }
        Fjall::InvalidVersion(Some(_)) => {
            return Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the store in {} has a format of another version of the engine: use the version of this program \
                     that made it",
                    folder.path().display()
                ),
            )
            .component(COMPONENT)
            .with_source(error);
        }
        Fjall::KeyspaceDeleted | Fjall::Poisoned => {
            return Error::internal(format!("{doing} in {}: {error}", folder.path().display()))
                .component(COMPONENT)
                .with_source(error);
        }
        error => return folder.damaged(&error).with_source(error),
    };
    match io.kind() {
        // A file of the engine's own is gone or cut off.
        std::io::ErrorKind::NotFound
        | std::io::ErrorKind::UnexpectedEof
        | std::io::ErrorKind::InvalidData => folder.damaged(&io).with_source(io),
        _ => folder.error(doing, io),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the engine gave up").to_owned()
}

impl Storage for FjallStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let engine = self.handle.get()?;
        if !is_possible_key(key) {
            return Ok(None);
        }
        let Some(keyspace) = engine.spaces().get(space).cloned() else { return Ok(None) };
        // Not from the keyspace itself, which shows batches that are only half applied.
        let found = engine.database.snapshot().get(&keyspace, key);
        found.map(|found| found.map(Bytes::from)).map_err(|error| engine.read_error(error))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        check_batch(&batch)?;
        self.handle.get()?.write(batch, durability)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        let engine = self.handle.get()?;
        // Both under one lock: nobody replaces or removes a space in between.
        let spaces = engine.spaces.read().unwrap_or_else(PoisonError::into_inner);
        let view = engine.database.snapshot();
        let mut snapshots = lock(&engine.snapshots);
        let number = snapshots.last_key_value().map_or(0, |(last, _)| last + 1);
        snapshots.insert(number, spaces.clone());
        drop(snapshots);
        drop(spaces);
        Ok(Arc::new(FjallSnapshot { engine: Arc::downgrade(&engine), number, view }))
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.handle.get()?.bulk_load(space, entries)
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        self.handle.get()?.remove_space(space)
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.handle.get()?.folder.used_bytes()
    }

    fn blocks(&self) -> bool {
        true
    }

    fn close(&self) -> Result<()> {
        self.handle.close(|engine| {
            engine.database.persist(PersistMode::SyncAll).map_err(|error| engine.write_error(error))?;
            engine.settle();
            Ok(())
        })
    }
}

/// Keeps no file open by itself, so that the store can be closed.
struct FjallSnapshot {
    engine: Weak<Held<Engine>>,
    number: u64,
    view: ::fjall::Snapshot,
}

impl fmt::Debug for FjallSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FjallSnapshot").field(&self.number).finish()
    }
}

impl Drop for FjallSnapshot {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            // Dropped outside the lock: the last to know a removed space deletes its files.
            let spaces = lock(&engine.snapshots).remove(&self.number);
            drop(spaces);
        }
    }
}

impl FjallSnapshot {
    fn keyspace(&self, space: Space) -> Result<Option<(Arc<Held<Engine>>, Keyspace)>> {
        let engine = handle::upgrade(&self.engine, COMPONENT)?;
        let keyspace =
            lock(&engine.snapshots).get(&self.number).and_then(|spaces| spaces.get(space).cloned());
        Ok(keyspace.map(|keyspace| (engine, keyspace)))
    }
}

impl Snapshot for FjallSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let Some((engine, keyspace)) = self.keyspace(space)? else { return Ok(None) };
        if !is_possible_key(key) {
            return Ok(None);
        }
        let found = self.view.get(&keyspace, key);
        found.map(|found| found.map(Bytes::from)).map_err(|error| engine.read_error(error))
    }

    fn scan(&self, space: Space, range: KeyRange, direction: Direction, limit: usize) -> Result<Page> {
        let Some((engine, keyspace)) = self.keyspace(space)? else { return Ok(Page::default()) };
        // The engine panics on such ranges.
        if range.is_empty() {
            return Ok(Page::default());
        }
        let mut entries = self.view.range(&keyspace, (range.start, range.end));
        let mut page = Page::default();
        loop {
            let next = match direction {
                Direction::Forward => entries.next(),
                Direction::Backward => entries.next_back(),
            };
            let Some(entry) = next else { return Ok(page) };
            if page.entries.len() == limit {
                page.more = true;
                return Ok(page);
            }
            let (key, value) = entry.into_inner().map_err(|error| engine.read_error(error))?;
            page.entries.push((key.into(), value.into()));
        }
    }
}

#[cfg(test)]
mod tests;
