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

/// What was written is read, by the store and by a snapshot, whatever the durability; a second write replaces it.
pub async fn a_written_key_is_read_back(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    for durability in [Durability::Buffered, Durability::Synced] {
        for text in ["one", "", "three"] {
            put(&*storage, PINS, key(1), Bytes::from(text), durability);
            assert_eq!(storage.get(PINS, &key(1)).unwrap().as_deref(), Some(text.as_bytes()));
            let snapshot = storage.snapshot().unwrap();
            assert_eq!(snapshot.get(PINS, &key(1)).unwrap().as_deref(), Some(text.as_bytes()));
        }
    }
    let mut batch = Batch::new();
    batch.delete(PINS, key(1));
    storage.write(batch, Durability::Synced).unwrap();
    assert_eq!(storage.get(PINS, &key(1)).unwrap(), None);
    assert_eq!(storage.snapshot().unwrap().get(PINS, &key(1)).unwrap(), None);
}

/// Absent keys and spaces, and keys that cannot be written, have no value and are no errors.
pub async fn an_absent_key_has_no_value(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let too_long = vec![7; KEY_BYTES_MAX + 1];
    for written in [false, true] {
        if written {
            put_all(&*storage, PINS, [2]);
        }
        let snapshot = storage.snapshot().unwrap();
        for absent in [&key(1)[..], &key(3), &key(2)[..3], b"", &too_long] {
            assert_eq!(storage.get(PINS, absent).unwrap(), None);
            assert_eq!(snapshot.get(PINS, absent).unwrap(), None);
        }
    }
}

/// A batch with one entry that cannot be written is refused as a whole.
pub async fn a_batch_with_an_impossible_entry_writes_nothing(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let impossible = [
        (Bytes::new(), Some(value(1))),
        (Bytes::new(), None),
        (Bytes::from(vec![7; KEY_BYTES_MAX + 1]), Some(value(1))),
        (key(1), Some(Bytes::from(vec![0; VALUE_BYTES_MAX + 1]))),
    ];
    for (bad_key, bad_value) in impossible {
        let mut batch = Batch::new();
        batch.put(PINS, key(1), value(1));
        match bad_value {
            Some(bad_value) => batch.put(LOG, bad_key, bad_value),
            None => batch.delete(LOG, bad_key),
        }
        batch.put(PINS, key(2), value(2));
        assert_kind(storage.write(batch, Durability::Synced), ErrorKind::InvalidInput);
        assert_eq!(all_numbers(&*storage, PINS), [] as [u32; 0]);
        assert_eq!(all_numbers(&*storage, LOG), [] as [u32; 0]);
    }
}

/// Writes of a batch happen in order.
pub async fn the_last_write_of_a_key_in_a_batch_wins(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, [3, 4]);
    let mut batch = Batch::new();
    batch.put(PINS, key(1), "first");
    batch.put(PINS, key(1), "second");
    batch.put(PINS, key(2), "put");
    batch.delete(PINS, key(2));
    batch.delete(PINS, key(3));
    batch.put(PINS, key(3), "again");
    batch.put(PINS, key(4), "new");
    batch.delete(PINS, key(4));
    batch.delete(PINS, key(5));
    batch.put(PINS, key(5), "a");
    batch.delete(PINS, key(5));
    batch.put(PINS, key(5), "b");
    let mut appended = Batch::new();
    appended.put(PINS, key(1), "third");
    batch.append(appended);
    storage.write(batch, Durability::Synced).unwrap();
    let page = everything(&*storage.snapshot().unwrap(), PINS);
    let expected = [(key(1), "third"), (key(3), "again"), (key(5), "b")];
    assert_eq!(page.entries, expected.map(|(key, value)| (key, Bytes::from(value))));
    assert_eq!(storage.get(PINS, &key(2)).unwrap(), None);
    assert_eq!(storage.get(PINS, &key(5)).unwrap().unwrap(), "b");
}

/// An empty batch changes nothing; synced, it is how earlier writes are made durable.
pub async fn an_empty_batch_is_fine(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    storage.write(Batch::new(), Durability::Synced).unwrap();
    put(&*storage, PINS, key(1), value(1), Durability::Buffered);
    storage.write(Batch::new(), Durability::Buffered).unwrap();
    storage.write(Batch::new(), Durability::Synced).unwrap();
    assert_eq!(all_numbers(&*storage, PINS), [1]);
}

/// Removing what is not there is no error, in a space that exists and in one that does not.
pub async fn deleting_an_absent_key_is_fine(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, [1]);
    let mut batch = Batch::new();
    batch.delete(PINS, key(2));
    batch.delete(LOG, key(2));
    storage.write(batch, Durability::Synced).unwrap();
    assert_eq!(all_numbers(&*storage, PINS), [1]);
    assert_eq!(all_numbers(&*storage, LOG), [] as [u32; 0]);
}

/// The same key in another space or generation is another key.
pub async fn spaces_and_generations_are_separate(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let spaces = [PINS, PINS.generation(1), PINS.generation(2), PINS.generation(u32::MAX), LOG];
    let mut batch = Batch::new();
    for (number, space) in (0_u32..).zip(spaces) {
        batch.put(space, key(7), value(number));
        batch.put(space, key(number), "own");
    }
    storage.write(batch, Durability::Synced).unwrap();
    storage.remove_space(PINS.generation(1)).unwrap();
    for (number, space) in (0_u32..).zip(spaces) {
        if space == PINS.generation(1) {
            assert_eq!(all_numbers(&*storage, space), [] as [u32; 0]);
        } else {
            assert_eq!(storage.get(space, &key(7)).unwrap(), Some(value(number)), "{space}");
            assert_eq!(all_numbers(&*storage, space), [number, 7], "{space}");
        }
    }
}

/// Puts, replacements and removals after a snapshot do not reach it.
pub async fn a_snapshot_does_not_see_later_writes(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..1_000);
    let snapshot = storage.snapshot().unwrap();
    let mut batch = Batch::new();
    for number in (0..1_000).step_by(3) {
        batch.delete(PINS, key(number));
        batch.put(PINS, key(number + 1), "replaced");
        batch.put(PINS, key(number + 10_000), "new");
    }
    storage.write(batch, Durability::Synced).unwrap();
    let later = storage.snapshot().unwrap();
    let page = everything(&*snapshot, PINS);
    assert_eq!(numbers(&page), (0..1_000).collect::<Vec<_>>());
    assert!(page.entries.iter().zip(0..).all(|((_, found), number)| *found == value(number)));
    assert_eq!(snapshot.get(PINS, &key(0)).unwrap(), Some(value(0)));
    assert_eq!(snapshot.get(PINS, &key(1)).unwrap(), Some(value(1)));
    assert_eq!(snapshot.get(PINS, &key(10_000)).unwrap(), None);
    assert_eq!(later.get(PINS, &key(0)).unwrap(), None);
    assert_eq!(later.get(PINS, &key(1)).unwrap().unwrap(), "replaced");
    assert_eq!(later.get(PINS, &key(10_000)).unwrap().unwrap(), "new");
}

/// A listing that runs while its generation is replaced goes on reading the old one.
pub async fn a_snapshot_keeps_a_space_that_is_removed(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..100);
    load(&*storage, LOG, 0..100).unwrap();
    let snapshot = storage.snapshot().unwrap();
    storage.remove_space(PINS).unwrap();
    storage.remove_space(LOG).unwrap();
    put_all(&*storage, PINS, [500]);
    load(&*storage, LOG, [500]).unwrap();
    for space in [PINS, LOG] {
        assert_eq!(numbers(&everything(&*snapshot, space)), (0..100).collect::<Vec<_>>());
        assert_eq!(snapshot.get(space, &key(3)).unwrap(), Some(value(3)));
        assert_eq!(all_numbers(&*storage, space), [500]);
    }
}

/// A space that comes into being after a snapshot is empty in it, however it is filled.
pub async fn a_snapshot_does_not_see_a_space_made_later(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let snapshot = storage.snapshot().unwrap();
    put_all(&*storage, PINS, [1]);
    load(&*storage, LOG, [1]).unwrap();
    for space in [PINS, LOG] {
        assert_eq!(numbers(&everything(&*snapshot, space)), [] as [u32; 0]);
        assert_eq!(snapshot.get(space, &key(1)).unwrap(), None);
        assert_eq!(all_numbers(&*storage, space), [1]);
    }
}

/// Ascending by bytes, not by time of writing or by length.
pub async fn a_scan_gives_every_key_in_order(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    // A walk through 0..5000 in jumps, in batches of 100.
    let walk: Vec<u32> = (0..5_000).map(|step| step * 1_777 % 5_000).collect();
    for numbers in walk.chunks(100) {
        put_all(&*storage, PINS, numbers.iter().copied());
    }
    let page = everything(&*storage.snapshot().unwrap(), PINS);
    assert_eq!(numbers(&page), (0..5_000).collect::<Vec<_>>());
    assert!(page.entries.iter().zip(0..).all(|((_, found), number)| *found == value(number)));

    let keys: [&[u8]; 6] = [b"\0", b"\0\0", b"\x01", b"a", b"a\xff", b"b"];
    for key in keys.iter().rev() {
        put(&*storage, LOG, Bytes::from_static(key), Bytes::new(), Durability::Buffered);
    }
    let page = everything(&*storage.snapshot().unwrap(), LOG);
    assert_eq!(page.entries.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), keys);
}

/// The reverse of the same.
pub async fn a_scan_backward_gives_every_key_in_reverse(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, (0..2_000).map(|step| step * 777 % 2_000));
    let snapshot = storage.snapshot().unwrap();
    let page = snapshot.scan(PINS, KeyRange::all(), Direction::Backward, usize::MAX).unwrap();
    assert_eq!(numbers(&page), (0..2_000).rev().collect::<Vec<_>>());
    assert!(!page.more);
}

/// Included and excluded bounds, `after` and `before`, on keys that are there and between them, in both directions.
pub async fn a_scan_keeps_to_its_bounds(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    // Ten keys with room between them, in two other spaces nothing and everything.
    let all: Vec<u32> = (10..=100).step_by(10).collect();
    put_all(&*storage, PINS, all.iter().copied());
    put_all(&*storage, LOG, 0..200);
    let snapshot = storage.snapshot().unwrap();
    let bounds: Vec<Bound<u32>> = [0, 10, 15, 50, 55, 100, 105]
        .into_iter()
        .flat_map(|number| [Bound::Included(number), Bound::Excluded(number)])
        .chain([Bound::Unbounded])
        .collect();
    for start in &bounds {
        for end in &bounds {
            let range = KeyRange { start: start.map(key), end: end.map(key) };
            let mut expected: Vec<u32> = all
                .iter()
                .copied()
                .filter(|number| match start {
                    Bound::Included(start) => number >= start,
                    Bound::Excluded(start) => number > start,
                    Bound::Unbounded => true,
                })
                .filter(|number| match end {
                    Bound::Included(end) => number <= end,
                    Bound::Excluded(end) => number < end,
                    Bound::Unbounded => true,
                })
                .collect();
            let page = snapshot.scan(PINS, range.clone(), Direction::Forward, usize::MAX).unwrap();
            assert_eq!(numbers(&page), expected, "{start:?} to {end:?}");
            expected.reverse();
            let page = snapshot.scan(PINS, range, Direction::Backward, usize::MAX).unwrap();
            assert_eq!(numbers(&page), expected, "{start:?} to {end:?}, backward");
        }
    }
    let between = KeyRange::all().after(key(20)).before(key(50));
    let page = snapshot.scan(PINS, between, Direction::Forward, usize::MAX).unwrap();
    assert_eq!(numbers(&page), [30, 40]);
}

/// Prefixes, also such that nothing can come after them, and pages inside a prefix.
pub async fn a_scan_of_a_prefix_gives_what_starts_with_it(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let keys: [&[u8]; 8] = [b"a", b"a\0", b"ab", b"ab\xff", b"b", b"\xff", b"\xff\xff", b"\xff\xff\x01"];
    let mut batch = Batch::new();
    for key in keys {
        batch.put(PINS, key, Bytes::new());
    }
    storage.write(batch, Durability::Synced).unwrap();
    let snapshot = storage.snapshot().unwrap();
    for prefix in
        [&b""[..], b"a", b"ab", b"ab\xff", b"abc", b"b", b"c", b"\xff", b"\xff\xff", b"\xff\xff\xff"]
    {
        let mut expected: Vec<&[u8]> = keys.into_iter().filter(|key| key.starts_with(prefix)).collect();
        for direction in [Direction::Forward, Direction::Backward] {
            let page = snapshot.scan(PINS, KeyRange::prefix(prefix), direction, usize::MAX).unwrap();
            let found: Vec<&[u8]> = page.entries.iter().map(|(key, _)| &key[..]).collect();
            assert_eq!(found, expected, "{prefix:?} {direction:?}");
            expected.reverse();
        }
    }
    let page = snapshot
        .scan(PINS, KeyRange::prefix(&b"a"[..]).after(&b"a\0"[..]), Direction::Forward, usize::MAX)
        .unwrap();
    assert_eq!(page.entries.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [&b"ab"[..], b"ab\xff"]);
}

/// `more` is exact at every limit, 0 included.
pub async fn a_scan_says_whether_there_is_more(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..20);
    let snapshot = storage.snapshot().unwrap();
    let ten = KeyRange { start: Bound::Included(key(5)), end: Bound::Excluded(key(15)) };
    for direction in [Direction::Forward, Direction::Backward] {
        for limit in [0, 1, 9, 10, 11, usize::MAX] {
            let page = snapshot.scan(PINS, ten.clone(), direction, limit).unwrap();
            assert_eq!(page.entries.len(), limit.min(10), "limit {limit} {direction:?}");
            assert_eq!(page.more, limit < 10, "limit {limit} {direction:?}");
        }
        let nothing = KeyRange { start: Bound::Included(key(50)), end: Bound::Unbounded };
        assert_eq!(snapshot.scan(PINS, nothing, direction, 0).unwrap(), Page::default());
        assert_eq!(snapshot.scan(LOG, KeyRange::all(), direction, 0).unwrap(), Page::default());
    }
}

/// A listing that asks page after page misses nothing and repeats nothing.
pub async fn pages_put_together_are_the_whole_range(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..1_000);
    let snapshot = storage.snapshot().unwrap();
    for direction in [Direction::Forward, Direction::Backward] {
        let mut found = Vec::new();
        let mut range = KeyRange::all();
        loop {
            let page = snapshot.scan(PINS, range.clone(), direction, 64).unwrap();
            found.extend(numbers(&page));
            if !page.more {
                break;
            }
            let last = page.entries.last().expect("a page with more has entries").0.clone();
            range = match direction {
                Direction::Forward => range.after(last),
                Direction::Backward => range.before(last),
            };
        }
        if direction == Direction::Backward {
            found.reverse();
        }
        assert_eq!(found, (0..1_000).collect::<Vec<_>>(), "{direction:?}");
    }
}

/// Ranges in which nothing can lie are no errors, also where the engine panics on them.
pub async fn an_empty_range_gives_nothing(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..20);
    let snapshot = storage.snapshot().unwrap();
    let ranges = [
        (Bound::Included(9), Bound::Included(5)),
        (Bound::Included(9), Bound::Excluded(9)),
        (Bound::Excluded(9), Bound::Included(9)),
        (Bound::Excluded(9), Bound::Excluded(9)),
        (Bound::Excluded(9), Bound::Excluded(10)),
        (Bound::Included(20), Bound::Unbounded),
        (Bound::Excluded(19), Bound::Unbounded),
        (Bound::Unbounded, Bound::Excluded(0)),
    ];
    for (start, end) in ranges {
        for direction in [Direction::Forward, Direction::Backward] {
            let range = KeyRange { start: start.map(key), end: end.map(key) };
            assert_eq!(snapshot.scan(PINS, range, direction, 10).unwrap(), Page::default());
        }
    }
}

/// Removal forgets every key; what is written afterwards is all there is.
pub async fn a_removed_space_is_empty_and_can_be_used_again(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    for round in 0..3 {
        put_all(&*storage, PINS, 0..100);
        storage.remove_space(PINS).unwrap();
        assert_eq!(all_numbers(&*storage, PINS), [] as [u32; 0]);
        assert_eq!(storage.get(PINS, &key(1)).unwrap(), None);
        put_all(&*storage, PINS, [round]);
        assert_eq!(all_numbers(&*storage, PINS), [round]);
        storage.remove_space(PINS).unwrap();
        load(&*storage, PINS, 5..10).unwrap();
        assert_eq!(all_numbers(&*storage, PINS), [5, 6, 7, 8, 9]);
        storage.remove_space(PINS).unwrap();
    }
}

/// As the contract says; also twice.
pub async fn removing_an_absent_space_is_fine(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    storage.remove_space(PINS).unwrap();
    put_all(&*storage, LOG, [1]);
    storage.remove_space(PINS).unwrap();
    storage.remove_space(LOG).unwrap();
    storage.remove_space(LOG).unwrap();
    assert_eq!(all_numbers(&*storage, LOG), [] as [u32; 0]);
}

/// Thousands of entries, counted, in order, and beside other spaces.
pub async fn a_bulk_load_holds_every_entry(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, LOG, [1]);
    assert_eq!(load(&*storage, PINS, 0..20_000).unwrap(), 20_000);
    let page = everything(&*storage.snapshot().unwrap(), PINS);
    assert_eq!(numbers(&page), (0..20_000).collect::<Vec<_>>());
    assert!(page.entries.iter().zip(0..).all(|((_, found), number)| *found == value(number)));
    assert_eq!(storage.get(PINS, &key(12_345)).unwrap(), Some(value(12_345)));
    assert_eq!(all_numbers(&*storage, LOG), [1]);
}

/// A load never mixes with what is there.
pub async fn a_bulk_load_refuses_a_space_that_is_not_empty(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, [50]);
    assert_kind(load(&*storage, PINS, 0..10), ErrorKind::Conflict);
    assert_eq!(all_numbers(&*storage, PINS), [50]);
    load(&*storage, LOG, 0..3).unwrap();
    assert_kind(load(&*storage, LOG, 10..13), ErrorKind::Conflict);
    assert_eq!(all_numbers(&*storage, LOG), [0, 1, 2]);
    // Another generation is another space.
    assert_eq!(load(&*storage, LOG.generation(1), 10..13).unwrap(), 3);
}

/// Descending and equal keys are refused; the space is of use again once removed.
pub async fn a_bulk_load_refuses_keys_out_of_order(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    for keys in [[1, 3, 2], [1, 2, 2], [2, 1, 3]] {
        assert_kind(load(&*storage, PINS, keys), ErrorKind::InvalidInput);
        storage.remove_space(PINS).unwrap();
    }
    assert_eq!(load(&*storage, PINS, [1, 2, 3]).unwrap(), 3);
    assert_eq!(all_numbers(&*storage, PINS), [1, 2, 3]);
}

/// What a batch refuses, a load refuses.
pub async fn a_bulk_load_refuses_impossible_entries(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let impossible = [
        (Bytes::new(), value(1)),
        (Bytes::from(vec![7; KEY_BYTES_MAX + 1]), value(1)),
        (key(1), Bytes::from(vec![0; VALUE_BYTES_MAX + 1])),
    ];
    for entry in impossible {
        let mut entries = [Ok(entry)].into_iter();
        assert_kind(storage.bulk_load(PINS, &mut entries), ErrorKind::InvalidInput);
        storage.remove_space(PINS).unwrap();
    }
    assert_eq!(load(&*storage, PINS, [1, 2, 3]).unwrap(), 3);
}

/// The caller gets its own error back and the load asks for nothing after it.
pub async fn a_bulk_load_stops_at_the_first_error_of_the_iterator(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let mut asked = 0;
    let mut entries = std::iter::from_fn(|| {
        asked += 1;
        Some(if asked <= 100 {
            Ok((key(asked), value(asked)))
        } else {
            Err(Error::new(ErrorKind::Timeout, "the source went silent"))
        })
    });
    let error = storage.bulk_load(PINS, &mut entries).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("the source went silent"), "{error}");
    assert_eq!(asked, 101);
    storage.remove_space(PINS).unwrap();
    assert_eq!(all_numbers(&*storage, PINS), [] as [u32; 0]);
    assert_eq!(load(&*storage, PINS, 0..10).unwrap(), 10);
    assert_eq!(all_numbers(&*storage, PINS), (0..10).collect::<Vec<_>>());
}

/// Nothing loaded leaves an empty space, which can be loaded and written.
pub async fn a_bulk_load_of_nothing_is_fine(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    assert_eq!(load(&*storage, PINS, []).unwrap(), 0);
    assert_eq!(all_numbers(&*storage, PINS), [] as [u32; 0]);
    assert_eq!(load(&*storage, PINS, [4]).unwrap(), 1);
    assert_eq!(load(&*storage, LOG, []).unwrap(), 0);
    put_all(&*storage, LOG, [5]);
    assert_eq!(all_numbers(&*storage, PINS), [4]);
    assert_eq!(all_numbers(&*storage, LOG), [5]);
}

/// A new generation is made from the old one while the load runs.
pub async fn a_bulk_load_may_read_the_store(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..1_000);
    let source = storage.clone();
    let mut entries = (0..1_000).map(|number| {
        let found = source.get(PINS, &key(number))?.expect("it is there");
        assert_eq!(source.snapshot()?.get(PINS, &key(number))?, Some(found.clone()));
        Ok((key(number), found))
    });
    assert_eq!(storage.bulk_load(PINS.generation(1), &mut entries).unwrap(), 1_000);
    assert_eq!(all_numbers(&*storage, PINS.generation(1)), (0..1_000).collect::<Vec<_>>());
}

/// Empty means that no key is there, not that none ever was.
pub async fn a_bulk_load_fills_a_space_emptied_by_deletes(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..100);
    let mut batch = Batch::new();
    for number in 0..100 {
        batch.delete(PINS, key(number));
    }
    storage.write(batch, Durability::Buffered).unwrap();
    assert_eq!(load(&*storage, PINS, 50..60).unwrap(), 10);
    assert_eq!(all_numbers(&*storage, PINS), (50..60).collect::<Vec<_>>());
    for number in 0..100 {
        let expected = (50..60).contains(&number).then(|| value(number));
        assert_eq!(storage.get(PINS, &key(number)).unwrap(), expected, "{number}");
    }
}

/// Later batches replace and remove what was loaded.
pub async fn writes_after_a_bulk_load_win(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    load(&*storage, PINS, 0..100).unwrap();
    let mut batch = Batch::new();
    batch.put(PINS, key(10), "newer");
    batch.delete(PINS, key(11));
    batch.put(PINS, key(200), "added");
    storage.write(batch, Durability::Synced).unwrap();
    assert_eq!(storage.get(PINS, &key(10)).unwrap().unwrap(), "newer");
    assert_eq!(storage.get(PINS, &key(11)).unwrap(), None);
    let expected: Vec<u32> = (0..100).filter(|number| *number != 11).chain([200]).collect();
    assert_eq!(all_numbers(&*storage, PINS), expected);
}

/// From nothing to the longest allowed, in batches and in a bulk load.
pub async fn values_of_all_sizes_are_kept(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let sizes = [0, 1, 4_095, 4_096, 65_535, 65_536, 1 << 20, (1 << 20) + 1, VALUE_BYTES_MAX];
    let make = |size: usize| Bytes::from((0..size).map(|index| (index * 31 % 251) as u8).collect::<Vec<_>>());
    let mut batch = Batch::new();
    for size in sizes {
        batch.put(PINS, key(size as u32), make(size));
    }
    storage.write(batch, Durability::Synced).unwrap();
    let mut entries = sizes.into_iter().map(|size| Ok((key(size as u32), make(size))));
    storage.bulk_load(LOG, &mut entries).unwrap();
    for space in [PINS, LOG] {
        for size in sizes {
            // Not assert_eq: nobody reads sixteen mebibytes.
            assert!(storage.get(space, &key(size as u32)).unwrap() == Some(make(size)), "{size} in {space}");
        }
        let page = everything(&*storage.snapshot().unwrap(), space);
        assert_eq!(page.entries.iter().map(|(_, value)| value.len()).collect::<Vec<_>>(), sizes);
    }
}

/// Keys of one byte and of [`KEY_BYTES_MAX`] work everywhere a key is taken; see
/// [`a_batch_with_an_impossible_entry_writes_nothing`] for the others.
pub async fn the_longest_key_is_kept_and_a_longer_one_refused(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let longest = |last: u8| {
        let mut key = vec![7; KEY_BYTES_MAX];
        key[KEY_BYTES_MAX - 1] = last;
        Bytes::from(key)
    };
    let keys = [longest(0), longest(1), longest(255), Bytes::from_static(&[255])];
    let mut batch = Batch::new();
    for key in &keys {
        batch.put(PINS, key.clone(), key.clone());
    }
    storage.write(batch, Durability::Synced).unwrap();
    let mut entries = keys.iter().map(|key| Ok((key.clone(), key.clone())));
    storage.bulk_load(LOG, &mut entries).unwrap();
    let snapshot = storage.snapshot().unwrap();
    for space in [PINS, LOG] {
        for key in &keys {
            assert_eq!(storage.get(space, key).unwrap().as_ref(), Some(key));
            assert_eq!(snapshot.get(space, key).unwrap().as_ref(), Some(key));
        }
        let after = KeyRange::all().after(longest(0));
        let page = snapshot.scan(space, after, Direction::Forward, 2).unwrap();
        assert_eq!(page.entries.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys[1..3]);
        assert!(page.more);
    }
    let mut batch = Batch::new();
    batch.delete(PINS, longest(1));
    storage.write(batch, Durability::Synced).unwrap();
    assert_eq!(storage.get(PINS, &longest(1)).unwrap(), None);
    let mut batch = Batch::new();
    batch.put(PINS, vec![7; KEY_BYTES_MAX + 1], value(1));
    assert_kind(storage.write(batch, Durability::Synced), ErrorKind::InvalidInput);
}

/// Four writers in two spaces, readers of snapshots and of single keys: nobody ever sees half a batch, and nothing gets lost.
pub async fn many_writers_and_readers_see_whole_batches(fixture: impl Fixture) {
    const WRITERS: u32 = 4;
    const BATCHES: u32 = 50;
    let (_guard, storage) = fixture.create();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let storage = &storage;
                scope.spawn(move || {
                    for number in 0..BATCHES {
                        let mut batch = Batch::new();
                        // The writer's counter stands in both spaces and moves in both at once.
                        batch.put(PINS, key(writer), key(number));
                        batch.put(PINS, key(1_000 + writer * BATCHES + number), value(number));
                        for filler in 0..50 {
                            batch.put(LOG, key(1_000 + writer * 50 + filler), value(number));
                        }
                        batch.put(LOG, key(writer), key(number));
                        let durability =
                            if number % 4 == 0 { Durability::Synced } else { Durability::Buffered };
                        storage.write(batch, durability).unwrap();
                        assert_eq!(storage.get(LOG, &key(writer)).unwrap(), Some(key(number)));
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = [None; WRITERS as usize];
                while !done.load(Ordering::Acquire) {
                    let snapshot = storage.snapshot().unwrap();
                    for (writer, seen) in (0..WRITERS).zip(&mut seen) {
                        let [pins, log] = [PINS, LOG].map(|space| {
                            let counter = snapshot.get(space, &key(writer)).unwrap()?;
                            Some(u32::from_be_bytes(counter.as_ref().try_into().expect("four bytes")))
                        });
                        assert_eq!(pins, log, "half a batch of writer {writer}");
                        assert!(pins >= *seen, "writer {writer} went from {seen:?} back to {pins:?}");
                        *seen = pins;
                        let last = snapshot
                            .scan(
                                PINS,
                                KeyRange::all()
                                    .after(key(999 + writer * BATCHES))
                                    .before(key(1_000 + (writer + 1) * BATCHES)),
                                Direction::Backward,
                                1,
                            )
                            .unwrap();
                        let last = numbers(&last).first().map(|number| number - 1_000 - writer * BATCHES);
                        assert_eq!(last, pins, "a scan and a read of one snapshot differ");
                    }
                }
            });
        }
        for spaces in [[PINS, LOG], [LOG, PINS]] {
            let (storage, done) = (&storage, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    for writer in 0..WRITERS {
                        // The other space was read later, so it is as far or further.
                        let [first, second] = spaces.map(|space| storage.get(space, &key(writer)).unwrap());
                        assert!(first <= second, "half a batch of writer {writer} in {}", spaces[1]);
                    }
                }
            });
        }
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Release);
        results.into_iter().for_each(|result| result.expect("a writer"));
    });
    let expected: Vec<u32> = (0..WRITERS).chain(1_000..1_000 + WRITERS * BATCHES).collect();
    assert_eq!(all_numbers(&*storage, PINS), expected);
}

/// More data takes more room.
pub async fn it_knows_how_much_room_it_takes(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    storage.approximate_bytes().unwrap();
    // More than engines set aside in advance, and incompressible.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(8 << 20)
    .collect();
    let noise = Bytes::from(noise);
    let mut entries =
        (0..8).map(|index| Ok((key(index), noise.slice((index as usize) << 20..(index as usize + 1) << 20))));
    storage.bulk_load(PINS, &mut entries).unwrap();
    let after = storage.approximate_bytes().unwrap();
    assert!((8 << 20..64 << 20).contains(&after), "8 MiB take {after} bytes");
}

/// [`storage::run`] gives back what the work returns, and an error when it panics.
pub async fn work_runs_through_run(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    let found = storage::run(storage.clone(), |storage| {
        put_all(storage, PINS, [1]);
        storage.get(PINS, &key(1))
    })
    .await
    .unwrap();
    assert_eq!(found, Some(value(1)));
    if storage.blocks() {
        let result = storage::run(storage, |_| -> Result<()> { panic!("this panic is part of the test") });
        assert_kind(result.await, ErrorKind::Internal);
    }
}

/// After close everything is `ShutDown`, but another close is Ok; a snapshot still held works or says so.
pub async fn a_closed_store_says_so(fixture: impl Fixture) {
    let (_guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..10);
    let snapshot = storage.snapshot().unwrap();
    storage.close().unwrap();
    storage.close().unwrap();
    assert_kind(storage.get(PINS, &key(1)), ErrorKind::ShutDown);
    assert_kind(storage.snapshot(), ErrorKind::ShutDown);
    assert_kind(load(&*storage, LOG, [1]), ErrorKind::ShutDown);
    assert_kind(storage.remove_space(PINS), ErrorKind::ShutDown);
    assert_kind(storage.approximate_bytes(), ErrorKind::ShutDown);
    for durability in [Durability::Buffered, Durability::Synced] {
        assert_kind(storage.write(Batch::new(), durability), ErrorKind::ShutDown);
        let mut batch = Batch::new();
        batch.put(PINS, key(1), value(1));
        assert_kind(storage.write(batch, durability), ErrorKind::ShutDown);
    }
    match snapshot.get(PINS, &key(3)) {
        Ok(found) => {
            assert_eq!(found, Some(value(3)));
            assert_eq!(numbers(&everything(&*snapshot, PINS)), (0..10).collect::<Vec<_>>());
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::ShutDown),
    }
    storage.close().unwrap();
}

/// Close makes everything durable, and a store can be opened while nobody else has it, many times.
pub async fn a_reopened_store_has_everything(fixture: impl Fixture) {
    let (mut guard, mut storage) = fixture.create();
    let mut expected = Vec::new();
    for round in 0..4 {
        put_all(&*storage, PINS, [round * 10]);
        put(&*storage, PINS, key(round * 10 + 1), value(round * 10 + 1), Durability::Buffered);
        put_all(&*storage, PINS.generation(round), [round * 10, 999]);
        let mut batch = Batch::new();
        batch.delete(PINS.generation(round), key(999));
        storage.write(batch, Durability::Buffered).unwrap();
        expected.extend([round * 10, round * 10 + 1]);
        storage.close().unwrap();
        drop(storage);
        storage = match fixture.reopen(&mut guard) {
            Some(storage) => storage,
            None => return,
        };
        assert_eq!(all_numbers(&*storage, PINS), expected);
        for number in &expected {
            assert_eq!(storage.get(PINS, &key(*number)).unwrap(), Some(value(*number)));
        }
        for generation in 1..=round {
            assert_eq!(all_numbers(&*storage, PINS.generation(generation)), [generation * 10]);
        }
    }
}

/// Loaded entries, and writes before, after and over them, are there after a reopen, without a word of syncing.
pub async fn a_reopened_store_has_what_was_bulk_loaded(fixture: impl Fixture) {
    let (mut guard, storage) = fixture.create();
    put(&*storage, LOG, key(1), value(1), Durability::Buffered);
    load(&*storage, PINS, 0..5_000).unwrap();
    let mut batch = Batch::new();
    batch.put(PINS, key(10), "newer");
    batch.delete(PINS, key(11));
    storage.write(batch, Durability::Buffered).unwrap();
    storage.close().unwrap();
    drop(storage);
    let Some(storage) = fixture.reopen(&mut guard) else { return };
    assert_eq!(all_numbers(&*storage, LOG), [1]);
    assert_eq!(all_numbers(&*storage, PINS), (0..5_000).filter(|number| *number != 11).collect::<Vec<_>>());
    assert_eq!(storage.get(PINS, &key(10)).unwrap().unwrap(), "newer");
    assert_eq!(storage.get(PINS, &key(12)).unwrap(), Some(value(12)));
    assert_kind(load(&*storage, PINS, 0..10), ErrorKind::Conflict);
}

/// Nothing of a removed space comes back, whether or not it was filled again.
pub async fn a_removed_space_stays_removed_when_reopened(fixture: impl Fixture) {
    let (mut guard, storage) = fixture.create();
    put_all(&*storage, PINS, 0..100);
    put_all(&*storage, LOG, 0..100);
    load(&*storage, PINS.generation(1), 0..100).unwrap();
    for space in [PINS, LOG, PINS.generation(1)] {
        storage.remove_space(space).unwrap();
    }
    put(&*storage, LOG, key(7), value(7), Durability::Buffered);
    storage.close().unwrap();
    drop(storage);
    let Some(storage) = fixture.reopen(&mut guard) else { return };
    assert_eq!(all_numbers(&*storage, PINS), [] as [u32; 0]);
    assert_eq!(all_numbers(&*storage, PINS.generation(1)), [] as [u32; 0]);
    assert_eq!(all_numbers(&*storage, LOG), [7]);
    put_all(&*storage, PINS, [1]);
    assert_eq!(load(&*storage, PINS.generation(1), [2]).unwrap(), 1);
    storage.close().unwrap();
    drop(storage);
    let Some(storage) = fixture.reopen(&mut guard) else { return };
    assert_eq!(all_numbers(&*storage, PINS), [1]);
    assert_eq!(all_numbers(&*storage, PINS.generation(1)), [2]);
}

/// Generations are replaced in one life and removed in the next; what one life counted must not confuse another.
pub async fn spaces_come_and_go_through_many_reopenings(fixture: impl Fixture) {
    let (mut guard, mut storage) = fixture.create();
    for life in 0..8_u32 {
        for step in 0..3 {
            let generation = life * 3 + step;
            if step % 2 == 0 {
                load(&*storage, PINS.generation(generation), 0..generation + 10).unwrap();
            } else {
                put_all(&*storage, PINS.generation(generation), 0..generation + 10);
            }
            if let Some(before) = generation.checked_sub(2) {
                storage.remove_space(PINS.generation(before)).unwrap();
            }
        }
        storage.close().unwrap();
        drop(storage);
        storage = match fixture.reopen(&mut guard) {
            Some(storage) => storage,
            None => return,
        };
        let last = life * 3 + 2;
        for generation in 0..=last {
            let expected = if generation + 2 > last { (0..generation + 10).collect() } else { Vec::new() };
            assert_eq!(all_numbers(&*storage, PINS.generation(generation)), expected, "life {life}");
        }
    }
}

/// Opening and closing alone leaves a good store behind.
pub async fn an_empty_store_can_be_reopened(fixture: impl Fixture) {
    let (mut guard, storage) = fixture.create();
    storage.close().unwrap();
    drop(storage);
    let Some(storage) = fixture.reopen(&mut guard) else { return };
    assert_eq!(all_numbers(&*storage, PINS), [] as [u32; 0]);
    put_all(&*storage, PINS, [1]);
    assert_eq!(all_numbers(&*storage, PINS), [1]);
}

/// A synced write, and every buffered one before it.
pub async fn what_was_synced_survives_a_power_cut(fixture: impl Fixture) {
    let (mut guard, mut storage) = fixture.create();
    for round in 0..3 {
        put(&*storage, PINS, key(round * 3), value(round * 3), Durability::Buffered);
        put(&*storage, LOG.generation(round), key(1), value(1), Durability::Buffered);
        put(&*storage, PINS, key(round * 3 + 1), value(round * 3 + 1), Durability::Synced);
        put(&*storage, PINS, key(round * 3 + 2), value(round * 3 + 2), Durability::Buffered);
        storage.write(Batch::new(), Durability::Synced).unwrap();
        storage = match fixture.crash(&mut guard, storage) {
            Some(storage) => storage,
            None => return,
        };
        assert_eq!(all_numbers(&*storage, PINS), (0..round * 3 + 3).collect::<Vec<_>>());
        assert_eq!(all_numbers(&*storage, LOG.generation(round)), [1]);
    }
}

/// Both are on disk when they return.
pub async fn a_removal_and_a_bulk_load_survive_a_power_cut(fixture: impl Fixture) {
    let (mut guard, storage) = fixture.create();
    put_all(&*storage, LOG, 0..100);
    load(&*storage, PINS, 0..1_000).unwrap();
    storage.remove_space(LOG).unwrap();
    let Some(storage) = fixture.crash(&mut guard, storage) else { return };
    assert_eq!(all_numbers(&*storage, PINS), (0..1_000).collect::<Vec<_>>());
    assert_eq!(all_numbers(&*storage, LOG), [] as [u32; 0]);
}

/// What was only buffered may be lost, but by whole batches from the end.
pub async fn a_power_cut_leaves_whole_batches(fixture: impl Fixture) {
    let (mut guard, storage) = fixture.create();
    put_all(&*storage, PINS, [0]);
    put_all(&*storage, LOG, [0]);
    for number in 1..100 {
        let mut batch = Batch::new();
        batch.put(PINS, key(number), value(number));
        batch.put(LOG, key(number), value(number));
        storage.write(batch, Durability::Buffered).unwrap();
    }
    let Some(storage) = fixture.crash(&mut guard, storage) else { return };
    let pins = all_numbers(&*storage, PINS);
    assert!(!pins.is_empty());
    assert_eq!(pins, (0..pins.len() as u32).collect::<Vec<_>>());
    assert_eq!(pins, all_numbers(&*storage, LOG));
}
