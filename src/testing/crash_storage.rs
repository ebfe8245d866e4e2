//! A store that forgets what was not synced, for simulators that cut the power.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::random::SplitMix64;
use crate::storage::{Batch, Durability, Snapshot, Space, Spaces, Storage, check_batch, load};

/// At how many points between two syncs, at most, a power cut can strike: the newest ones.
const UNSYNCED_BATCHES_MAX: usize = 1_024;

const COMPONENT: &str = "crash storage";

/// An in-memory store that knows what a disk would hold.
///
/// It never blocks and asks no clock and no generator, so a simulation on it repeats. [`CrashStorage::crash`] is a
/// power cut: the store is dead thereafter, as its process would be, and a new one holds what was synced. A bulk
/// load and the removal of a space are on disk when they return, without what was only buffered before them.
#[derive(Debug)]
pub struct CrashStorage {
    /// None after close and after a crash, where `disk` has what is left.
    live: Mutex<Option<Live>>,
    disk: Mutex<Spaces>,
}

#[derive(Clone, Debug, Default)]
struct Live {
    /// What every reader sees.
    current: Spaces,
    /// What a power cut leaves at least.
    synced: Spaces,
    /// The store after each batch since, oldest first: a power cut may leave any of them.
    unsynced: VecDeque<Spaces>,
}

impl Default for CrashStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl CrashStorage {
    /// An empty store.
    pub fn new() -> Self {
        Self::on_disk(Spaces::default())
    }

    fn on_disk(spaces: Spaces) -> Self {
        let live = Live { current: spaces.clone(), synced: spaces, unsynced: VecDeque::new() };
        Self { live: Mutex::new(Some(live)), disk: Mutex::default() }
    }

    /// Cuts the power: every later call here is `ShutDown`, and the returned store has what was synced, nothing
    /// else. After [`Storage::close`] nothing is lost, so this is also how a store is opened again.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.stop(|live| live.synced);
        Self::on_disk(lock(&self.disk).clone())
    }

    /// The same, but some of the batches that were only buffered reached the disk by luck: a number of the oldest,
    /// chosen by `seed`.
    #[must_use]
    pub fn crash_keeping_some(&self, seed: u64) -> Self {
        self.stop(|mut live| match SplitMix64::new(seed).next() % (live.unsynced.len() as u64 + 1) {
            0 => live.synced,
            kept => live.unsynced.swap_remove_back(kept as usize - 1).unwrap_or(live.synced),
        });
        Self::on_disk(lock(&self.disk).clone())
    }

    fn stop(&self, left: impl FnOnce(Live) -> Spaces) {
        let mut live = lock(&self.live);
        if let Some(live) = live.take() {
            *lock(&self.disk) = left(live);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Live) -> Result<T>) -> Result<T> {
        act(lock(&self.live).as_mut().ok_or_else(|| Error::shut_down(COMPONENT))?)
    }
}

// Nobody leaves half a change behind: a panic inside can only come from running out of memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// A change that is on disk at once, whatever becomes of the batches before it.
    fn change_everywhere(&mut self, change: impl Fn(&mut Spaces)) {
        change(&mut self.current);
        change(&mut self.synced);
        self.unsynced.iter_mut().for_each(change);
    }
}

impl Storage for CrashStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.with(|live| live.current.get(space, key))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        check_batch(&batch)?;
        self.with(|live| {
            live.current.apply(batch);
            match durability {
                Durability::Synced => {
                    live.synced = live.current.clone();
                    live.unsynced.clear();
                }
                Durability::Buffered => {
                    if live.unsynced.len() == UNSYNCED_BATCHES_MAX {
                        live.unsynced.pop_front();
                    }
                    live.unsynced.push_back(live.current.clone());
                }
            }
            Ok(())
        })
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        self.with(|live| Ok(Arc::new(live.current.clone()) as _))
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.with(|live| live.current.check_absent(space))?;
        // Filled aside: the iterator may well read from this store.
        let (map, count) = load(space, entries)?;
        self.with(|live| {
            live.current.check_absent(space)?;
            live.change_everywhere(|spaces| spaces.replace(space, map.clone()));
            Ok(count)
        })
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        self.with(|live| {
            live.change_everywhere(|spaces| spaces.remove(space));
            Ok(())
        })
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.with(|live| Ok(live.current.approximate_bytes()))
    }

    fn blocks(&self) -> bool {
        false
    }

    fn close(&self) -> Result<()> {
        self.stop(|live| live.current);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Direction, KeyRange};

    const SPACE: Space = Space::new("pins");

    fn put(storage: &CrashStorage, key: u8, durability: Durability) {
        let mut batch = Batch::new();
        batch.put(SPACE, vec![key], "value");
        storage.write(batch, durability).unwrap();
    }

    fn keys(storage: &CrashStorage) -> Vec<u8> {
        let snapshot = storage.snapshot().unwrap();
        let page = snapshot.scan(SPACE, KeyRange::all(), Direction::Forward, usize::MAX).unwrap();
        page.entries.iter().map(|(key, _)| key[0]).collect()
    }

    #[test]
    fn what_was_only_buffered_is_gone_after_a_crash() {
        let storage = CrashStorage::new();
        put(&storage, 1, Durability::Buffered);
        put(&storage, 2, Durability::Synced);
        put(&storage, 3, Durability::Buffered);
        assert_eq!(keys(&storage), [1, 2, 3]);
        let left = storage.crash();
        assert_eq!(keys(&left), [1, 2]);
        assert!(storage.get(SPACE, &[1]).is_err(), "the store lives on after the power cut");
        assert_eq!(keys(&storage.crash()), [1, 2], "a second look at the same disk");
    }

    #[test]
    fn a_seed_chooses_how_much_of_the_buffered_reached_the_disk() {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let left = [(); 2].map(|()| {
                let storage = CrashStorage::new();
                put(&storage, 0, Durability::Synced);
                for key in 1..=4 {
                    put(&storage, key, Durability::Buffered);
                }
                keys(&storage.crash_keeping_some(seed))
            });
            assert_eq!(left[0], left[1], "the same seed left something else");
            assert_eq!(left[0], (0..left[0].len() as u8).collect::<Vec<_>>());
            lengths.insert(left[0].len());
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_removal_is_on_disk_at_once_without_the_writes_before_it() {
        let storage = CrashStorage::new();
        put(&storage, 1, Durability::Synced);
        let mut batch = Batch::new();
        batch.put(SPACE.generation(1), "other", "value");
        storage.write(batch, Durability::Buffered).unwrap();
        storage.remove_space(SPACE).unwrap();
        let left = storage.crash();
        assert_eq!(keys(&left), [] as [u8; 0]);
        assert_eq!(left.get(SPACE.generation(1), b"other").unwrap(), None);
    }
}
