//! The disk of a peer of a [`TestCluster`](super::TestCluster): it outlives the peer, gets full and slow, and fails to write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Batch, Durability, Snapshot, Space, Storage};
use crate::testing::CrashStorage;
use crate::testing::random::Random;

const COMPONENT: &str = "test disk";

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskTrouble {
    /// Nothing.
    #[default]
    None,
    /// There is no room: nothing is written, everything can be read.
    Full,
    /// So many more writes fail with an I/O error. Of half of them the bytes were there already, though not on disk, as
    /// when a write works and the sync after it does not: readers see them, and a power cut may take them.
    FailingWrites(usize),
    /// Nothing can be written or read.
    Unreachable,
}

/// A disk's health. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct TestDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    trouble: DiskTrouble,
    latency: Duration,
    random: Random,
}

/// What becomes of a write.
enum Fate {
    Done,
    Unsynced(Error),
    Lost(Error),
}

impl TestDisk {
    pub(super) fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(State { trouble: DiskTrouble::None, latency: Duration::ZERO, random })))
    }

    /// Behaves like this from now on.
    pub fn set(&self, trouble: DiskTrouble) {
        self.state().trouble = trouble;
    }

    /// What is wrong with it now.
    pub fn trouble(&self) -> DiskTrouble {
        self.state().trouble
    }

    /// Takes half of this time to all of it for each piece of work from now on, whatever else is wrong with it. The work is
    /// done at the end of that time, so a power cut meanwhile finds nothing done. Works that were begun at the same time may
    /// overtake each other.
    pub fn slow(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// How much time the next piece of work takes.
    fn next_latency(&self) -> Duration {
        let State { latency, random, .. } = &mut *self.state();
        // Who is not slow chooses nothing: the choices of a run stay what they are.
        if latency.is_zero() { Duration::ZERO } else { random.time(*latency / 2, *latency) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> Fate {
        let State { trouble, random, .. } = &mut *self.state();
        let broken = || Error::new(ErrorKind::Io, "the disk does not write").component(COMPONENT);
        match trouble {
            DiskTrouble::None => Fate::Done,
            DiskTrouble::Full => {
                Fate::Lost(Error::new(ErrorKind::StorageFull, "the disk is full").component(COMPONENT))
            }
            DiskTrouble::Unreachable => Fate::Lost(unreachable()),
            DiskTrouble::FailingWrites(left) => {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    *trouble = DiskTrouble::None;
                }
                if random.percent(50) { Fate::Unsynced(broken()) } else { Fate::Lost(broken()) }
            }
        }
    }

    fn check_readable(&self) -> Result<()> {
        match self.trouble() {
            DiskTrouble::Unreachable => Err(unreachable()),
            DiskTrouble::None | DiskTrouble::Full | DiskTrouble::FailingWrites(_) => Ok(()),
        }
    }

    /// A store on this disk.
    pub(super) fn holding(&self, store: Arc<CrashStorage>) -> OnDisk {
        OnDisk { store, disk: self.clone() }
    }
}

fn unreachable() -> Error {
    Error::new(ErrorKind::Io, "the disk does not answer").component(COMPONENT)
}

/// A store as its process sees it.
#[derive(Debug)]
pub(super) struct OnDisk {
    store: Arc<CrashStorage>,
    disk: TestDisk,
}

#[deny(clippy::missing_trait_methods)]
impl Storage for OnDisk {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.disk.check_readable()?;
        self.store.get(space, key)
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        match self.disk.fate() {
            Fate::Done => self.store.write(batch, durability),
            Fate::Unsynced(error) => {
                self.store.write(batch, Durability::Buffered)?;
                Err(error)
            }
            Fate::Lost(error) => Err(error),
        }
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        self.disk.check_readable()?;
        self.store.snapshot()
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        match self.disk.fate() {
            Fate::Done => self.store.bulk_load(space, entries),
            Fate::Unsynced(error) | Fate::Lost(error) => Err(error),
        }
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        match self.disk.fate() {
            Fate::Done => self.store.remove_space(space),
            Fate::Unsynced(error) | Fate::Lost(error) => Err(error),
        }
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.store.approximate_bytes()
    }

    fn blocks(&self) -> bool {
        self.store.blocks()
    }

    fn latency(&self) -> Duration {
        self.disk.next_latency()
    }

    fn close(&self) -> Result<()> {
        self.store.close()
    }
}
