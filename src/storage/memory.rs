//! The store that lives in memory: for tests, simulators, and peers that need not remember.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::{
    AscendingKeys, Batch, Direction, Durability, KeyRange, Page, Snapshot, Space, Storage, check_batch,
    is_possible_key, space_not_empty,
};
use crate::error::{Error, Result};

pub(crate) mod map;
use map::OrderedMap;

const COMPONENT: &str = "memory storage";

/// Keeps everything in memory; nothing survives it.
///
/// Never blocks on anything but other callers' short critical sections. A snapshot costs one handle for each space;
/// while one is held, a write duplicates the ~200 neighbours of the key it changes, once for each neighbourhood.
#[derive(Debug)]
pub struct MemoryStorage {
    /// None after close.
    spaces: RwLock<Option<Spaces>>,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// An empty store.
    pub fn new() -> Self {
        Self { spaces: RwLock::new(Some(Spaces::default())) }
    }

    /// Everything there is, cheaply.
    fn spaces(&self) -> Result<Spaces> {
        self.read().clone().ok_or_else(|| Error::shut_down(COMPONENT))
    }

    // Nobody can leave half a change behind: a panic inside can only come from running out of memory.
    fn read(&self) -> RwLockReadGuard<'_, Option<Spaces>> {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> RwLockWriteGuard<'_, Option<Spaces>> {
        self.spaces.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.read().as_ref().map(|spaces| spaces.value(space, key)).ok_or_else(|| Error::shut_down(COMPONENT))
    }

    fn write(&self, batch: Batch, _durability: Durability) -> Result<()> {
        check_batch(&batch)?;
        let mut spaces = self.locked();
        spaces.as_mut().ok_or_else(|| Error::shut_down(COMPONENT))?.apply(batch);
        Ok(())
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(self.spaces()?))
    }

    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.spaces()?.check_absent(space)?;
        // Filled aside: the iterator may well read from this store.
        let (map, count) = load(space, entries)?;
        let mut spaces = self.locked();
        let spaces = spaces.as_mut().ok_or_else(|| Error::shut_down(COMPONENT))?;
        spaces.check_absent(space)?;
        spaces.replace(space, map);
        Ok(count)
    }

    fn remove_space(&self, space: Space) -> Result<()> {
        self.locked().as_mut().ok_or_else(|| Error::shut_down(COMPONENT))?.remove(space);
        Ok(())
    }

    fn approximate_bytes(&self) -> Result<u64> {
        self.read().as_ref().map(Spaces::approximate_bytes).ok_or_else(|| Error::shut_down(COMPONENT))
    }

    fn blocks(&self) -> bool {
        false
    }

    fn close(&self) -> Result<()> {
        *self.locked() = None;
        Ok(())
    }
}

/// All spaces of a store; copies are cheap and do not see each other's changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spaces {
    maps: BTreeMap<Space, OrderedMap>,
}

impl Spaces {
    fn value(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        if !is_possible_key(key) {
            return None;
        }
        self.maps.get(&space)?.get(key).cloned()
    }

    pub(crate) fn approximate_bytes(&self) -> u64 {
        self.maps.values().map(OrderedMap::approximate_bytes).sum()
    }

    /// Applies a batch that was checked.
    pub(crate) fn apply(&mut self, batch: Batch) {
        for operation in batch.into_operations() {
            let map = self.maps.entry(operation.space).or_default();
            match operation.value {
                Some(value) => map.insert(operation.key, value),
                None => map.remove(&operation.key),
            }
        }
    }

    pub(crate) fn check_absent(&self, space: Space) -> Result<()> {
        if self.maps.get(&space).is_none_or(OrderedMap::is_empty) {
            return Ok(());
        }
        Err(space_not_empty(space))
    }

    pub(crate) fn replace(&mut self, space: Space, map: OrderedMap) {
        self.maps.insert(space, map);
    }

    pub(crate) fn remove(&mut self, space: Space) {
        self.maps.remove(&space);
    }
}

impl Snapshot for Spaces {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.value(space, key))
    }

    fn scan(&self, space: Space, range: KeyRange, direction: Direction, limit: usize) -> Result<Page> {
        Ok(self.maps.get(&space).map(|map| map.scan(&range, direction, limit)).unwrap_or_default())
    }
}

/// Builds a map from entries in order; returns it and how many there were.
pub(crate) fn load(
    space: Space,
    entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
) -> Result<(OrderedMap, u64)> {
    let mut map = OrderedMap::default();
    let mut order = AscendingKeys::new(space);
    let mut count = 0;
    for entry in entries {
        let (key, value) = entry?;
        order.check(&key, &value)?;
        map.insert(key, value);
        count += 1;
    }
    Ok((map, count))
}
