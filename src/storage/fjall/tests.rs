use super::*;

const PINS: Space = Space::new("pins");

#[test]
fn what_was_closed_is_in_files_of_its_space_and_not_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FjallStorage::open(folder.path(), FjallConfig::default()).unwrap();
    let storage = open();
    for number in 0..200_u8 {
        let mut batch = Batch::new();
        batch.put(PINS, vec![number], vec![number; 1_000]);
        batch.put(PINS.generation(1), vec![number], vec![number; 10]);
        storage.write(batch, Durability::Synced).unwrap();
    }
    assert_eq!(storage.bytes_by_space().unwrap(), BTreeMap::from([("pins".to_owned(), 0)]));
    storage.close().unwrap();
    assert_eq!(storage.bytes_by_space().unwrap_err().kind(), ErrorKind::ShutDown);

    let storage = open();
    let bytes = storage.bytes_by_space().unwrap()["pins"];
    assert!((1_000..storage.approximate_bytes().unwrap()).contains(&bytes), "{bytes}");
    for keyspace in storage.handle.get().unwrap().spaces().each().map(|(_, keyspace)| keyspace) {
        // Everything that is read comes from files.
        assert!(keyspace.table_count() > 0);
        assert!(!keyspace.rotate_memtable().unwrap(), "something was in memory");
    }
    assert_eq!(storage.get(PINS, &[7]).unwrap().unwrap(), vec![7; 1_000]);
    assert_eq!(storage.get(PINS.generation(1), &[199]).unwrap().unwrap(), vec![199; 10]);
}
