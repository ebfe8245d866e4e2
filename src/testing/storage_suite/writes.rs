//! Batches: what is written, deleted and refused.

use super::*;

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
