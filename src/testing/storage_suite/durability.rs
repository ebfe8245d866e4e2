//! Closing, reopening and power cuts.

use super::*;

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
