//! Every engine through the conformance suite, and what is particular to each.

#![allow(clippy::unwrap_used)] // A test has nothing better to do with a failure than to panic.

use std::path::Path;
use std::sync::Arc;

use ipfs_cluster::error::Result;
use ipfs_cluster::storage::{FjallConfig, FjallStorage, MemoryStorage, RedbConfig, RedbStorage, Storage};
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
