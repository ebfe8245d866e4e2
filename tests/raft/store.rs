//! What is in a store, to be copied and damaged.

use std::sync::Arc;

use ipfs_cluster::storage::{Batch, Direction, Durability, KeyRange, Space, Storage};
use ipfs_cluster::testing::CrashStorage;

/// Spaces of the log, and of what goes with it.
pub(crate) const OURS: [&str; 3] = ["raft-log", "raft-meta", "raft-seen"];
const PINSET: [&str; 5] = ["pins", "pins-by-name", "pins-by-meta", "pins-by-created", "state-meta"];

/// Space, key and value.
pub(crate) type Record = (Space, bytes::Bytes, bytes::Bytes);

pub(crate) fn records(storage: &dyn Storage, spaces: &[&'static str]) -> Vec<Record> {
    let view = storage.snapshot().unwrap();
    let mut all = Vec::new();
    for space in spaces.iter().map(|name| Space::new(name)) {
        let page = view.scan(space, KeyRange::all(), Direction::Forward, 10_000).unwrap();
        assert!(!page.more);
        all.extend(page.entries.into_iter().map(|(key, value)| (space, key, value)));
    }
    all
}

pub(crate) fn write(storage: &dyn Storage, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    change(&mut batch);
    storage.write(batch, Durability::Synced).unwrap();
}

/// A store with the same in it.
pub(crate) fn copy(storage: &dyn Storage) -> Arc<CrashStorage> {
    let copy = CrashStorage::new();
    write(&copy, |batch| {
        for (space, key, value) in records(storage, &[&OURS[..], &PINSET[..]].concat()) {
            batch.put(space, key, value);
        }
    });
    Arc::new(copy)
}
