//! Conformance suite of [`Storage`].
//!
//! ```ignore
//! struct Mine;
//!
//! impl Fixture for Mine {
//!     type Guard = TempDir;
//!     fn create(&self) -> (TempDir, Arc<dyn Storage>) {
//!         let folder = TempDir::new().unwrap();
//!         let storage = MyStorage::open(folder.path()).unwrap();
//!         (folder, Arc::new(storage))
//!     }
//!     fn reopen(&self, folder: &mut TempDir) -> Option<Arc<dyn Storage>> {
//!         Some(Arc::new(MyStorage::open(folder.path()).unwrap()))
//!     }
//! }
//!
//! ipfs_cluster::storage_conformance!(mine, Mine);
//! ```

// A test has nothing better to do with a failure than to panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod durability;
mod limits;
mod scans;
mod spaces;
mod writes;

use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{
    self, Batch, Direction, Durability, KEY_BYTES_MAX, KeyRange, Page, Snapshot, Space, Storage,
    VALUE_BYTES_MAX,
};

pub use self::durability::*;
pub use self::limits::*;
pub use self::scans::*;
pub use self::spaces::*;
pub use self::writes::*;

/// Makes the stores that the suite examines.
pub trait Fixture: Send + Sync + 'static {
    /// What keeps the place of a store alive and cleans it up afterwards.
    type Guard: Send;

    /// A new, empty store in a place of its own.
    fn create(&self) -> (Self::Guard, Arc<dyn Storage>);

    /// Opens a store again where it was closed; none where nothing persists.
    fn reopen(&self, guard: &mut Self::Guard) -> Option<Arc<dyn Storage>>;

    /// Cuts the power under a store that is in use, and opens what is left; none where that cannot be arranged.
    fn crash(&self, _guard: &mut Self::Guard, _storage: Arc<dyn Storage>) -> Option<Arc<dyn Storage>> {
        None
    }
}

/// A fixture whose stores stand behind one more `Arc`, to see that it forwards everything.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[deny(clippy::missing_trait_methods)]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    fn create(&self) -> (Self::Guard, Arc<dyn Storage>) {
        let (guard, storage) = self.0.create();
        (guard, Arc::new(storage))
    }

    fn reopen(&self, guard: &mut Self::Guard) -> Option<Arc<dyn Storage>> {
        Some(Arc::new(self.0.reopen(guard)?))
    }

    fn crash(&self, guard: &mut Self::Guard, storage: Arc<dyn Storage>) -> Option<Arc<dyn Storage>> {
        Some(Arc::new(self.0.crash(guard, storage)?))
    }
}

conformance_suite!($ storage_suite, storage_conformance, run_case, [
    a_written_key_is_read_back,
    an_absent_key_has_no_value,
    a_batch_with_an_impossible_entry_writes_nothing,
    the_last_write_of_a_key_in_a_batch_wins,
    an_empty_batch_is_fine,
    deleting_an_absent_key_is_fine,
    spaces_and_generations_are_separate,
    a_snapshot_does_not_see_later_writes,
    a_snapshot_keeps_a_space_that_is_removed,
    a_snapshot_does_not_see_a_space_made_later,
    a_scan_gives_every_key_in_order,
    a_scan_backward_gives_every_key_in_reverse,
    a_scan_keeps_to_its_bounds,
    a_scan_of_a_prefix_gives_what_starts_with_it,
    a_scan_says_whether_there_is_more,
    pages_put_together_are_the_whole_range,
    an_empty_range_gives_nothing,
    a_removed_space_is_empty_and_can_be_used_again,
    removing_an_absent_space_is_fine,
    a_bulk_load_holds_every_entry,
    a_bulk_load_refuses_a_space_that_is_not_empty,
    a_bulk_load_refuses_keys_out_of_order,
    a_bulk_load_refuses_impossible_entries,
    a_bulk_load_stops_at_the_first_error_of_the_iterator,
    a_bulk_load_of_nothing_is_fine,
    a_bulk_load_may_read_the_store,
    a_bulk_load_fills_a_space_emptied_by_deletes,
    writes_after_a_bulk_load_win,
    values_of_all_sizes_are_kept,
    the_longest_key_is_kept_and_a_longer_one_refused,
    many_writers_and_readers_see_whole_batches,
    it_knows_how_much_room_it_takes,
    work_runs_through_run,
    a_closed_store_says_so,
    a_reopened_store_has_everything,
    a_reopened_store_has_what_was_bulk_loaded,
    a_removed_space_stays_removed_when_reopened,
    spaces_come_and_go_through_many_reopenings,
    an_empty_store_can_be_reopened,
    what_was_synced_survives_a_power_cut,
    a_removal_and_a_bulk_load_survive_a_power_cut,
    a_power_cut_leaves_whole_batches,
]);

const PINS: Space = Space::new("suite-pins");
const LOG: Space = Space::new("suite-log");

fn key(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn value(number: u32) -> Bytes {
    Bytes::from(format!("value of {number}"))
}

fn numbers(page: &Page) -> Vec<u32> {
    page.entries
        .iter()
        .map(|(key, _)| u32::from_be_bytes(key.as_ref().try_into().expect("a key of four bytes")))
        .collect()
}

fn put_all(storage: &dyn Storage, space: Space, keys: impl IntoIterator<Item = u32>) {
    let mut batch = Batch::new();
    for number in keys {
        batch.put(space, key(number), value(number));
    }
    storage.write(batch, Durability::Synced).unwrap();
}

fn put(storage: &dyn Storage, space: Space, key: Bytes, value: Bytes, durability: Durability) {
    let mut batch = Batch::new();
    batch.put(space, key, value);
    storage.write(batch, durability).unwrap();
}

fn everything(snapshot: &dyn Snapshot, space: Space) -> Page {
    snapshot.scan(space, KeyRange::all(), Direction::Forward, usize::MAX).unwrap()
}

fn all_numbers(storage: &dyn Storage, space: Space) -> Vec<u32> {
    let page = everything(&*storage.snapshot().unwrap(), space);
    assert!(!page.more, "a scan without a limit says that there is more");
    numbers(&page)
}

fn load(storage: &dyn Storage, space: Space, keys: impl IntoIterator<Item = u32>) -> Result<u64> {
    storage.bulk_load(space, &mut keys.into_iter().map(|number| Ok((key(number), value(number)))))
}

#[track_caller]
fn assert_kind<T: Debug>(result: Result<T>, kind: ErrorKind) {
    match result {
        Err(error) => assert_eq!(error.kind(), kind, "{error:?}"),
        Ok(value) => panic!("expected {kind}, got Ok({value:?})"),
    }
}
