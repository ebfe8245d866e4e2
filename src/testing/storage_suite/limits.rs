//! Sizes, many writers and readers, and how it runs.

use super::*;

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
