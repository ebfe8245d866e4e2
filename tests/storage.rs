//! Every engine through the conformance suite, and what is particular to each.

use std::sync::Arc;

use ipfs_cluster::storage::{MemoryStorage, Storage};
use ipfs_cluster::testing::CrashStorage;
use ipfs_cluster::testing::storage_suite::Fixture;

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
