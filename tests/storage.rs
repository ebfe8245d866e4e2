//! Every engine through the conformance suite, and what is particular to each.

#![allow(clippy::unwrap_used)] // A test has nothing better to do with a failure than to panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ipfs_cluster::ErrorKind;
use ipfs_cluster::error::Result;
use ipfs_cluster::storage::{
    Batch, Direction, Durability, FjallConfig, FjallStorage, KeyRange, MemoryStorage, RedbConfig,
    RedbStorage, Space, Storage,
};
use ipfs_cluster::testing::CrashStorage;
use ipfs_cluster::testing::storage_suite::Fixture;
use tempfile::TempDir;

struct Memory;

impl Fixture for Memory {
    type Guard = ();

    fn create(&self) -> ((), Arc<dyn Storage>) {
        ((), Arc::new(MemoryStorage::new()))
    }

    fn reopen(&self, (): &mut ()) -> Option<Arc<dyn Storage>> {
        None
    }
}

ipfs_cluster::storage_conformance!(memory, Memory);

struct Crash {
    /// None loses all that was not synced.
    seed: Option<u64>,
}

impl Fixture for Crash {
    /// The store that was made last, to find its disk again.
    type Guard = Arc<CrashStorage>;

    fn create(&self) -> (Arc<CrashStorage>, Arc<dyn Storage>) {
        let storage = Arc::new(CrashStorage::new());
        (storage.clone(), storage)
    }

    fn reopen(&self, guard: &mut Arc<CrashStorage>) -> Option<Arc<dyn Storage>> {
        *guard = Arc::new(guard.crash());
        Some(guard.clone())
    }

    fn crash(&self, guard: &mut Arc<CrashStorage>, _storage: Arc<dyn Storage>) -> Option<Arc<dyn Storage>> {
        *guard = Arc::new(match self.seed {
            Some(seed) => guard.crash_keeping_some(seed),
            None => guard.crash(),
        });
        Some(guard.clone())
    }
}

ipfs_cluster::storage_conformance!(crash, Crash { seed: None });
ipfs_cluster::storage_conformance!(lucky_crash, Crash { seed: Some(7) });

/// An engine that keeps its store in a folder.
struct OnDisk(fn(&Path) -> Result<Arc<dyn Storage>>);

impl OnDisk {
    const FJALL: Self =
        Self(|path| FjallStorage::open(path, FjallConfig::default()).map(|storage| Arc::new(storage) as _));
    const REDB: Self =
        Self(|path| RedbStorage::open(path, RedbConfig::default()).map(|storage| Arc::new(storage) as _));
}

impl Fixture for OnDisk {
    type Guard = TempDir;

    fn create(&self) -> (TempDir, Arc<dyn Storage>) {
        let folder = TempDir::new().unwrap();
        let storage = (self.0)(&folder.path().join("store")).unwrap();
        (folder, storage)
    }

    fn reopen(&self, folder: &mut TempDir) -> Option<Arc<dyn Storage>> {
        Some((self.0)(&folder.path().join("store")).unwrap())
    }
}

ipfs_cluster::storage_conformance!(fjall, OnDisk::FJALL);
ipfs_cluster::storage_conformance!(redb, OnDisk::REDB);

/// Both engines, with their names.
const ENGINES: [(&str, OnDisk); 2] = [("fjall", OnDisk::FJALL), ("redb", OnDisk::REDB)];

const PINS: Space = Space::new("pins");

fn put(storage: &dyn Storage, key: u32) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(PINS, key.to_be_bytes().to_vec(), format!("value of {key}"));
    storage.write(batch, Durability::Synced)
}

/// A closed store with a thousand keys, some of them loaded in bulk.
fn fill(engine: &OnDisk, path: &Path) {
    let storage = (engine.0)(path).unwrap();
    let mut entries =
        (0..500_u32).map(|key| Ok((key.to_be_bytes().to_vec().into(), format!("value of {key}").into())));
    storage.bulk_load(PINS, &mut entries).unwrap();
    let mut batch = Batch::new();
    for key in 500..1_000_u32 {
        batch.put(PINS, key.to_be_bytes().to_vec(), format!("value of {key}"));
    }
    storage.write(batch, Durability::Synced).unwrap();
    storage.close().unwrap();
}

#[track_caller]
fn assert_error(result: Result<Arc<dyn Storage>>, kind: ErrorKind, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn a_store_that_is_open_is_locked() {
    for (name, engine) in ENGINES {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        let storage = (engine.0)(&path).unwrap();
        assert_error((engine.0)(&path), ErrorKind::Locked, &["another process", path.to_str().unwrap()]);
        storage.close().unwrap();
        (engine.0)(&path).unwrap();
    }
}

#[test]
fn a_store_can_be_opened_again_while_somebody_holds_a_snapshot_of_it() {
    for (name, engine) in ENGINES {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        let storage = (engine.0)(&path).unwrap();
        put(&*storage, 1).unwrap();
        let snapshot = storage.snapshot().unwrap();
        storage.close().unwrap();
        let again = (engine.0)(&path).unwrap();
        put(&*again, 2).unwrap();
        match snapshot.get(PINS, &1_u32.to_be_bytes()) {
            Ok(value) => assert!(value.is_some(), "{name}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ShutDown, "{name}"),
        }
        drop(snapshot);
        assert!(again.get(PINS, &1_u32.to_be_bytes()).unwrap().is_some());
    }
}

#[test]
fn a_store_of_another_engine_is_refused_and_left_alone() {
    for (index, (name, engine)) in ENGINES.into_iter().enumerate() {
        let folder = TempDir::new().unwrap();
        fill(&engine, folder.path());
        let (other_name, other) = &ENGINES[1 - index];
        assert_error(
            (other.0)(folder.path()),
            ErrorKind::Conflict,
            &[name, other_name, folder.path().to_str().unwrap()],
        );
        let storage = (engine.0)(folder.path()).unwrap();
        assert!(storage.get(PINS, &999_u32.to_be_bytes()).unwrap().is_some());
    }
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_alone() {
    for (_, engine) in ENGINES {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("000001.vlog"), "badger").unwrap();
        assert_error((engine.0)(folder.path()), ErrorKind::Corrupt, &["000001.vlog", "empty folder"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    for (name, engine) in ENGINES {
        let folder = TempDir::new().unwrap();
        fill(&engine, folder.path());
        std::fs::write(folder.path().join("FORMAT"), format!("ipfs-cluster-store {name} 99\n")).unwrap();
        assert_error((engine.0)(folder.path()), ErrorKind::Unsupported, &["99", "newer"]);
    }
}

type OpenWithReserve = fn(&Path, u64) -> Result<Arc<dyn Storage>>;

#[test]
fn a_disk_that_is_nearly_full_refuses_writes_but_not_reads() {
    let stores: [OpenWithReserve; 2] = [
        |path, reserve| {
            let mut config = FjallConfig::default();
            config.reserve_bytes = reserve;
            FjallStorage::open(path, config).map(|storage| Arc::new(storage) as _)
        },
        |path, reserve| {
            let mut config = RedbConfig::default();
            config.reserve_bytes = reserve;
            RedbStorage::open(path, config).map(|storage| Arc::new(storage) as _)
        },
    ];
    for open in stores {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("store");
        assert_error(open(&path, u64::MAX), ErrorKind::StorageFull, &["free"]);
        let storage = open(&path, 0).unwrap();
        put(&*storage, 1).unwrap();
        storage.close().unwrap();
        let storage = open(&path, u64::MAX).unwrap();
        assert_eq!(put(&*storage, 2).unwrap_err().kind(), ErrorKind::StorageFull);
        let mut entries = std::iter::once(Ok((Bytes::from("key"), Bytes::from("value"))));
        assert_eq!(
            storage.bulk_load(PINS.generation(1), &mut entries).unwrap_err().kind(),
            ErrorKind::StorageFull
        );
        assert!(storage.get(PINS, &1_u32.to_be_bytes()).unwrap().is_some());
        assert!(storage.get(PINS, &2_u32.to_be_bytes()).unwrap().is_none());
        storage.close().unwrap();
        let storage = open(&path, 0).unwrap();
        put(&*storage, 2).unwrap();
    }
}

#[test]
fn a_damaged_file_is_an_error_or_harmless() {
    for (name, engine) in ENGINES {
        let folder = TempDir::new().unwrap();
        let good = folder.path().join("good");
        fill(&engine, &good);
        // As after a while: what is in the journal is also in a table.
        (engine.0)(&good).unwrap().close().unwrap();
        let mut files = Vec::new();
        list_files(&good, &mut files);
        assert!(!files.is_empty());
        let (mut refused, mut harmless) = (0, 0);
        for file in &files {
            let length = std::fs::metadata(file).unwrap().len();
            for damage in 0..6_u64 {
                let bad = folder.path().join("bad");
                copy_folder(&good, &bad);
                let victim = bad.join(file.strip_prefix(&good).unwrap());
                let handle = std::fs::File::options().read(true).write(true).open(&victim).unwrap();
                match damage {
                    0 => handle.set_len(length / 2).unwrap(),
                    1 => std::fs::remove_file(&victim).unwrap(),
                    _ if length == 0 => continue,
                    _ => {
                        let at = (damage - 2) * (length - 1) / 3;
                        let garbage = vec![0xA5; 16.min((length - at) as usize)];
                        std::os::unix::fs::FileExt::write_all_at(&handle, &garbage, at).unwrap();
                    }
                }
                // redb compares no checksums while it reads.
                let exact = name == "fjall";
                match read_all((engine.0)(&bad), exact) {
                    Err(error) => {
                        let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported, ErrorKind::Conflict];
                        assert!(kinds.contains(&error.kind()), "{name} {victim:?} {damage}: {error:?}");
                        refused += 1;
                    }
                    Ok(()) => harmless += 1,
                }
                std::fs::remove_dir_all(&bad).unwrap();
            }
        }
        println!("{name}: {} files, {refused} damages refused, {harmless} harmless", files.len());
        assert!(refused > 0);
    }
}

/// Reads all keys; an error of the store, or a panic about a wrong value.
fn read_all(storage: Result<Arc<dyn Storage>>, exact: bool) -> Result<()> {
    let storage = storage?;
    let snapshot = storage.snapshot()?;
    let page = snapshot.scan(PINS, KeyRange::all(), Direction::Forward, usize::MAX)?;
    for (key, value) in page.entries.into_iter().filter(|_| exact) {
        let key = u32::from_be_bytes(key.as_ref().try_into().unwrap());
        assert_eq!(value, format!("value of {key}"));
    }
    Ok(())
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list_files(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
