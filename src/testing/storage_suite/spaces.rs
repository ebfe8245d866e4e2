//! Whole spaces: removing them and loading them in bulk.

use super::*;

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
