//! Snapshots and scans.

use super::*;

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
