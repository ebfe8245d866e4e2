//! The store on redb, a copy-on-write B-tree in one file: steady, few moving parts, slower at writing.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ::redb::{
    AccessGuard, Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTableMetadata, StorageError, TableDefinition, TableError, WriteTransaction,
};
use bytes::Bytes;

use super::folder::{Folder, Layout, damaged, sync_folder};
use super::handle::{Handle, refusal_after};
use super::{
    AscendingKeys, Batch, Direction, Durability, KeyRange, Page, Snapshot, Space, Storage, check_batch,
    is_possible_key, space_not_empty,
};
use crate::error::{Error, ErrorKind, Result};

const COMPONENT: &str = "redb storage";
const LAYOUT: Layout = Layout { engine: "redb", version: 1 };
/// The file in the folder.
const DATA_FILE: &str = "data.redb";

/// What buffered writes may pile up before one of them is synced after all, in bytes: until then the engine can
/// neither reclaim nor write out anything.
const BUFFERED_BYTES_MAX: u64 = 8 << 20;
/// A bulk load is cut into transactions of this many bytes or entries, whichever comes first.
const BULK_BYTES: usize = 4 << 20;
const BULK_ENTRIES: usize = 16_384;

/// How a [`RedbStorage`] uses memory and disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedbConfig {
    /// Pages of data kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Keeps what is needed to open at once after a crash, for a second sync in every synced write. Without it
    /// opening after a crash reads the whole file: about 3 s for each GB.
    pub quick_repair: bool,
    /// Writes are refused as `StorageFull` when fewer bytes than this are free on the disk, so that the engine never
    /// has to stop half-way.
    pub reserve_bytes: u64,
}

impl Default for RedbConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, quick_repair: true, reserve_bytes: 128 << 20 }
    }
}

/// A store in one file in a folder, on the redb engine.
///
/// One batch is written at a time; callers that have many at once put them into one batch. The engine compares no
/// checksums while it reads: what the disk changed by itself is not noticed, unlike with fjall.
pub struct RedbStorage {
    handle: Handle<Engine>,
}

impl RedbStorage {
    /// Opens the store in a folder, or makes one where there is none or an empty folder.
    ///
    /// # Errors
    /// `Locked` when another process has the folder; `Conflict` when another engine made it, `Unsupported` when a
    /// newer version did; `Corrupt` when it is not a store of ours or its data are damaged; `StorageFull`, `Io`.
    pub fn open(path: impl AsRef<Path>, config: RedbConfig) -> Result<Self> {
        let engine = Engine::open(Folder::claim(path.as_ref(), LAYOUT, COMPONENT)?, config)?;
        Ok(Self { handle: Handle::new(engine, COMPONENT) })
    }
}

impl fmt::Debug for RedbStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.handle.get() {
            Ok(engine) => f.debug_tuple("RedbStorage").field(&engine.folder.path()).finish(),
            Err(_) => f.write_str("RedbStorage(closed)"),
        }
    }
}

/// Everything that holds on to the files. The folder comes last: its lock goes when the database is gone.
struct Engine {
    database: Database,
    config: RedbConfig,
    /// Bytes written since the last sync.
    buffered_bytes: AtomicU64,
    /// The write that failed, after which the engine takes no more.
    failure: OnceLock<Error>,
    folder: Folder,
}

impl Engine {
    fn open(mut folder: Folder, config: RedbConfig) -> Result<Self> {
        if folder.is_new() {
            folder.check_free(config.reserve_bytes)?;
        }
        let file = folder.path().join(DATA_FILE);
        let mut builder = Database::builder();
        builder.set_cache_size(config.cache_bytes);
        // The engine panics on some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            if folder.is_new() { builder.create(&file) } else { builder.open(&file) }
        }));
        let database = match opened {
            Ok(result) => result.map_err(|error| open_error(&folder, error))?,
            Err(_) => return Err(folder.damaged("the engine gave up")),
        };
        if folder.is_new() {
            sync_folder(folder.path()).map_err(|source| folder.error("cannot make the store", source))?;
        }
        folder.finish()?;
        let engine =
            Self { database, config, buffered_bytes: AtomicU64::new(0), failure: OnceLock::new(), folder };
        Ok(engine)
    }

    /// An error of writing. The engine takes no write after one that failed, and does not say why: we do.
    fn write_error(&self, error: impl Into<::redb::Error>) -> Error {
        let error = error.into();
        if let ::redb::Error::PreviousIo = error
            && let Some(first) = self.failure.get()
        {
            return refusal_after(first);
        }
        let error = engine_error(self.folder.path(), "cannot write", error);
        self.failure.get_or_init(|| error.clone());
        error
    }

    fn read_error(&self, error: impl Into<::redb::Error>) -> Error {
        engine_error(self.folder.path(), "cannot read", error.into())
    }

    /// Does something in one transaction. On an error of `change` nothing is changed.
    fn transact<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<T>,
    ) -> Result<T> {
        self.folder.check_free(self.config.reserve_bytes)?;
        let mut transaction = self.database.begin_write().map_err(|error| self.write_error(error))?;
        match durability {
            Durability::Buffered => transaction
                .set_durability(::redb::Durability::None)
                .map_err(|error| self.write_error(error))?,
            Durability::Synced => transaction.set_quick_repair(self.config.quick_repair),
        }
        let changed = change(&transaction)?;
        transaction.commit().map_err(|error| self.write_error(error))?;
        if durability == Durability::Synced {
            self.buffered_bytes.store(0, Ordering::Relaxed);
        }
        Ok(changed)
    }

    fn write(&self, batch: Batch, mut durability: Durability) -> Result<()> {
        let mut bytes = 0;
        // Each table is opened once.
        let mut by_space = BTreeMap::<Space, Vec<(Bytes, Option<Bytes>)>>::new();
        for operation in batch.into_operations() {
            bytes += (operation.key.len() + operation.value.as_ref().map_or(0, Bytes::len)) as u64;
            by_space.entry(operation.space).or_default().push((operation.key, operation.value));
        }
        if durability == Durability::Buffered {
            if by_space.is_empty() {
                return Ok(());
            }
            // Pages are written whole, so many small batches weigh more than their bytes.
            let weight = bytes + 4_096 * by_space.len() as u64;
            if self.buffered_bytes.fetch_add(weight, Ordering::Relaxed) + weight > BUFFERED_BYTES_MAX {
                durability = Durability::Synced;
            }
        }
        self.transact(durability, |transaction| {
            for (space, operations) in by_space {
                let name = space.to_string();
                let mut table =
                    transaction.open_table(table(&name)).map_err(|error| self.write_error(error))?;
                for (key, value) in operations {
                    match value {
                        Some(value) => table.insert(&*key, &*value).map(drop),
                        None => table.remove(&*key).map(drop),
                    }
                    .map_err(|error| self.write_error(error))?;
                }
            }
            Ok(())
        })
    }

    fn view(&self) -> Result<RedbSnapshot> {
        let transaction = self.database.begin_read().map_err(|error| self.read_error(error))?;
        Ok(RedbSnapshot { transaction, path: self.folder.path().into() })
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        let name = space.to_string();
        if let Some(table) = self.view()?.table(space)?
            && !table.is_empty().map_err(|error| self.read_error(error))?
        {
            return Err(space_not_empty(space));
        }
        let mut order = AscendingKeys::new(space);
        let mut count = 0;
        let mut done = false;
        while !done {
            // Collected before the transaction begins: the iterator may take its time, and may read from here.
            let mut piece = Vec::new();
            let mut bytes = 0;
            while bytes < BULK_BYTES && piece.len() < BULK_ENTRIES && !done {
                match entries.next() {
                    Some(entry) => {
                        let (key, value) = entry?;
                        order.check(&key, &value)?;
                        bytes += key.len() + value.len();
                        piece.push((key, value));
                    }
                    None => done = true,
                }
            }
            let durability = if done { Durability::Synced } else { Durability::Buffered };
            count += piece.len() as u64;
            self.transact(durability, |transaction| {
                let mut table =
                    transaction.open_table(table(&name)).map_err(|error| self.write_error(error))?;
                for (key, value) in piece {
                    table.insert(&*key, &*value).map_err(|error| self.write_error(error))?;
                }
                Ok(())
            })?;
        }
        Ok(count)
    }
}

fn table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

fn open_error(folder: &Folder, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::new(
            ErrorKind::Locked,
            format!("the store in {} is open in another process: stop that one first", folder.path().display()),
        )
        .component(COMPONENT)
        .with_source(error),
        DatabaseError::UpgradeRequired(_) => Error::new(
            ErrorKind::Unsupported,
            format!(
                "the store in {} has a format of another version of the engine: use the version of this program that \
                 made it",
                folder.path().display()
            ),
        )
        .component(COMPONENT)
        .with_source(error),
        DatabaseError::RepairAborted => folder.damaged(&error).with_source(error),
        error => engine_error(folder.path(), "cannot open", error.into()),
    }
}

/// What an error of the engine means to a caller.
fn engine_error(path: &Path, doing: &str, error: ::redb::Error) -> Error {
    use ::redb::Error as Redb;
    match error {
        Redb::DatabaseClosed => Error::shut_down(COMPONENT),
        Redb::Io(source) => match source.kind() {
            // The file is gone, cut off, or begins with something else.
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::InvalidData => damaged(path, &source).component(COMPONENT).with_source(source),
            _ => Error::io(format!("{doing} in {}", path.display()), source).component(COMPONENT),
        },
        error @ Redb::PreviousIo => Error::new(
            ErrorKind::Io,
            format!(
                "the store in {} takes no writes since an earlier one failed: look after the disk, then start again",
                path.display()
            ),
        )
        .component(COMPONENT)
        .with_source(error),
        error @ (Redb::Corrupted(_)
        | Redb::TableTypeMismatch { .. }
        | Redb::TableIsMultimap(_)
        | Redb::TypeDefinitionChanged { .. }
        | Redb::UpgradeRequired(_)
        | Redb::RepairAborted) => damaged(path, &error).component(COMPONENT).with_source(error),
        error => Error::internal(format!("{doing} in {}: {error}", path.display()))
            .component(COMPONENT)
            .with_source(error),
    }
}

impl Storage for RedbStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.handle.get()?.view()?.get(space, key)
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        check_batch(&batch)?;
        self.handle.get()?.write(batch, durability)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(self.handle.get()?.view()?))
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.handle.get()?.bulk_load(space, entries)
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        let engine = self.handle.get()?;
        let name = space.to_string();
        engine.transact(Durability::Synced, |transaction| {
            transaction.delete_table(table(&name)).map(drop).map_err(|error| engine.write_error(error))
        })
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.handle.get()?.folder.used_bytes()
    }

    fn blocks(&self) -> bool {
        true
    }

    fn close(&self) -> Result<()> {
        self.handle.close(|engine| match engine.buffered_bytes.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => engine.write(Batch::new(), Durability::Synced),
        })
    }
}

/// The engine invalidates it at close; it keeps nothing open.
struct RedbSnapshot {
    transaction: ReadTransaction,
    path: Arc<Path>,
}

impl fmt::Debug for RedbSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedbSnapshot")
    }
}

impl RedbSnapshot {
    fn table(&self, space: Space) -> Result<Option<ReadOnlyTable<&'static [u8], &'static [u8]>>> {
        match self.transaction.open_table(table(&space.to_string())) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    fn error(&self, error: impl Into<::redb::Error>) -> Error {
        engine_error(&self.path, "cannot read", error.into())
    }
}

type Entry<'a> = (AccessGuard<'a, &'static [u8]>, AccessGuard<'a, &'static [u8]>);

impl Snapshot for RedbSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        if !is_possible_key(key) {
            return Ok(None);
        }
        let Some(table) = self.table(space)? else { return Ok(None) };
        let found = table.get(key).map_err(|error| self.error(error))?;
        Ok(found.map(|found| Bytes::copy_from_slice(found.value())))
    }

    fn scan(&self, space: Space, range: KeyRange, direction: Direction, limit: usize) -> Result<Page> {
        let Some(table) = self.table(space)? else { return Ok(Page::default()) };
        // The engine panics on such ranges.
        if range.is_empty() {
            return Ok(Page::default());
        }
        let bounds = (range.start.as_ref().map(|key| &**key), range.end.as_ref().map(|key| &**key));
        let mut entries = table.range::<&[u8]>(bounds).map_err(|error| self.error(error))?;
        let mut page = Page::default();
        loop {
            let next: Option<Result<Entry<'_>, StorageError>> = match direction {
                Direction::Forward => entries.next(),
                Direction::Backward => entries.next_back(),
            };
            let Some(entry) = next else { return Ok(page) };
            if page.entries.len() == limit {
                page.more = true;
                return Ok(page);
            }
            let (key, value) = entry.map_err(|error| self.error(error))?;
            page.entries.push((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())));
        }
    }
}
