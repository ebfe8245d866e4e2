//! Stores that fail, are damaged, or are of another version of the program.

use super::*;

#[tokio::test]
async fn what_goes_along_is_written_with_the_pins_or_not_at_all() {
    let disk = Arc::new(CrashStorage::new());
    let faulty = Arc::new(FaultyStorage::new(disk.clone()));
    let state = StoreState::open(faulty.clone()).await.unwrap();
    let also = |key: &'static [u8]| {
        let mut batch = Batch::new();
        batch.put(LOG, key, &b"value"[..]);
        batch
    };
    state.apply(vec![put(1)], also(b"first")).await.unwrap();
    // Also when no pin changes.
    state.apply(vec![put(1)], also(b"second")).await.unwrap();
    faulty.fail(StorageCall::Write, 0, io_error());
    let error = state.apply(vec![put(2)], also(b"third")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_pins(&state, [1]).await;
    faulty.heal();

    let disk = Arc::new(disk.crash());
    for (key, there) in [(&b"first"[..], true), (b"second", true), (b"third", false)] {
        assert_eq!(disk.get(LOG, key).unwrap().is_some(), there);
    }
    let state = StoreState::open(disk).await.unwrap();
    assert_pins(&state, [1]).await;
    apply(&state, [2]).await;
    assert_pins(&state, [1, 2]).await;
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() {
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let state = StoreState::open(storage.clone()).await.unwrap();
    apply(&state, 0..10).await;
    let writes = storage.calls(StorageCall::Write);
    apply(&state, 0..10).await;
    state
        .apply(vec![PinOperation::Unpin(cid(77)), put(11), PinOperation::Unpin(cid(11))], Batch::new())
        .await
        .unwrap();
    assert_eq!(storage.calls(StorageCall::Write), writes);
    assert_pins(&state, 0..10).await;
}

#[tokio::test]
async fn a_pinset_of_a_newer_program_is_refused() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    apply(&StoreState::open(storage.clone()).await.unwrap(), 0..3).await;
    let mut head = storage.get(META, b"head").unwrap().unwrap().to_vec();
    head[0] += 1;
    write(&*storage, META, b"head", Some(&head));
    let error = StoreState::open(storage).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("has format 3"), "{error}");
}

#[tokio::test]
async fn a_damaged_head_is_reported_and_not_taken_for_an_empty_pinset() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let state = StoreState::open(storage.clone()).await.unwrap();
    apply(&state, 0..3).await;
    for head in [None, Some(&b""[..]), Some(b"\x01short"), Some(&[0; 13]), Some(&[1; 14])] {
        write(&*storage, META, b"head", head);
        let error = StoreState::open(storage.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{head:?}: {error}");
        let error = state.apply(vec![put(5)], Batch::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{head:?}: {error}");
    }
}

#[tokio::test]
async fn a_damaged_entry_is_named_and_can_be_replaced_or_removed() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let state = StoreState::open(storage.clone()).await.unwrap();
    apply(&state, 0..4).await;
    for number in [1, 2] {
        write(&*storage, PINS, &cid(number).to_bytes(), Some(b"\x01garbage"));
        let error = state.get(&cid(number)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&cid(number).to_string()), "{error}");
    }
    let listed: Result<Vec<Vec<Pin>>> = state.list(StateQuery::default()).try_collect().await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Corrupt);

    // What it was is not known, so the old name still points to it; nobody may see that.
    let mut renamed = pin(1);
    renamed.options.name += " renamed";
    renamed.timestamp = None;
    let operations = vec![PinOperation::Pin(Arc::new(renamed.clone())), PinOperation::Unpin(cid(2))];
    let changes = state.apply(operations, Batch::new()).await.unwrap();
    assert!(matches!(&changes[1], StateChange::Unpinned(gone) if gone.cid == cid(2)), "{changes:?}");
    assert_same(&state, &Model::of([pin(0), renamed, pin(3)])).await;
}

/// Everything that an interrupted replacement may have left is gone once the pinset is opened again.
async fn assert_no_leftovers(storage: &Arc<dyn Storage>, generation: u32) {
    let snapshot = storage.snapshot().unwrap();
    for other in (0..10).filter(|other| *other != generation) {
        for space in ALL_SPACES {
            let space = space.generation(other);
            assert!(!snapshot.scan(space, KeyRange::all(), Direction::Forward, 0).unwrap().more, "{space}");
        }
    }
}

#[tokio::test]
async fn a_replacement_that_is_interrupted_leaves_the_old_pinset_and_no_rubbish() {
    for spared in 0..4 {
        let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let faulty = Arc::new(FaultyStorage::new(disk.clone()));
        let state = StoreState::open(faulty.clone()).await.unwrap();
        apply(&state, 0..30).await;
        faulty.fail(StorageCall::BulkLoad, spared, io_error());
        // As in a crash, nobody cleans up.
        faulty.fail(StorageCall::RemoveSpace, 4, io_error());
        let error = state.replace(pages(100..200), Arc::new(|_| {})).await.unwrap_err();
        assert_eq!(error.message(), "the cable is out");
        assert_pins(&state, 0..30).await;
        let state = StoreState::open(disk.clone()).await.unwrap();
        assert_pins(&state, 0..30).await;
        assert_no_leftovers(&disk, 0).await;
        assert_eq!(state.replace(pages(100..200), Arc::new(|_| {})).await.unwrap(), 100);
        assert_pins(&state, 100..200).await;
        assert_no_leftovers(&disk, 1).await;
    }
}

#[tokio::test]
async fn a_replacement_that_cannot_switch_over_leaves_the_old_pinset() {
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let faulty = Arc::new(FaultyStorage::new(disk.clone()));
    let state = StoreState::open(faulty.clone()).await.unwrap();
    apply(&state, 0..30).await;
    faulty.fail(StorageCall::Write, 0, io_error());
    for result in [
        state.replace(pages(100..200), Arc::new(|_| {})).await.map(drop),
        state.replace(pages(100..300), Arc::new(|_| {})).await.map(drop),
        state.clear().await,
        state.clear().await,
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Io);
        assert_pins(&state, 0..30).await;
    }
    faulty.heal();
    apply(&state, [30]).await;
    let state = StoreState::open(disk.clone()).await.unwrap();
    assert_pins(&state, 0..31).await;
    assert_no_leftovers(&disk, 0).await;
}

/// A pinset of 30 whose switch to another fails, after or before it is there.
async fn with_failed_switch(
    is_there: bool,
    switch: impl AsyncFnOnce(&StoreState) -> Result<()>,
) -> (Arc<dyn Storage>, Arc<FaultyStorage>, StoreState) {
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let faulty = Arc::new(FaultyStorage::new(disk.clone()));
    let state = StoreState::open(faulty.clone()).await.unwrap();
    apply(&state, 0..30).await;
    if is_there {
        faulty.fail_afterwards(StorageCall::Write, 0, io_error());
    } else {
        faulty.fail(StorageCall::Write, 0, io_error());
    }
    assert_eq!(switch(&state).await.unwrap_err().kind(), ErrorKind::Io);
    (disk, faulty, state)
}

async fn replaced(state: &StoreState) -> Result<()> {
    state.replace(pages(100..200), Arc::new(|_| {})).await.map(drop)
}

async fn cleared(state: &StoreState) -> Result<()> {
    state.clear().await
}

#[tokio::test]
async fn a_switch_that_failed_but_happened_is_found_out_and_told() {
    for (is_clear, numbers) in [(false, 100..200), (true, 0..0)] {
        let switch = async |state: &StoreState| match is_clear {
            true => cleared(state).await,
            false => replaced(state).await,
        };
        let (disk, faulty, state) = with_failed_switch(true, switch).await;
        // Until it is certain, nobody may build on what the store shows.
        assert_eq!(state.durable_snapshot().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(state.settle().await.unwrap_err().kind(), ErrorKind::Io);
        faulty.heal();
        assert_eq!(state.settle().await.unwrap(), [StateChange::Replaced]);
        assert_eq!(state.settle().await.unwrap(), []);
        state.durable_snapshot().await.unwrap();
        assert_pins(&state, numbers.clone()).await;
        assert_no_leftovers(&disk, 1).await;
        assert_pins(&StoreState::open(disk).await.unwrap(), numbers).await;
    }
}

#[tokio::test]
async fn a_switch_that_failed_and_did_not_happen_leaves_the_old_pinset_and_no_rubbish() {
    for is_clear in [false, true] {
        let switch = async |state: &StoreState| match is_clear {
            true => cleared(state).await,
            false => replaced(state).await,
        };
        let (disk, faulty, state) = with_failed_switch(false, switch).await;
        assert_eq!(state.durable_snapshot().await.unwrap_err().kind(), ErrorKind::Unavailable);
        faulty.heal();
        assert_eq!(state.settle().await.unwrap(), []);
        state.durable_snapshot().await.unwrap();
        assert_pins(&state, 0..30).await;
        assert_no_leftovers(&disk, 0).await;
    }
}

#[tokio::test]
async fn whatever_is_written_after_a_switch_that_failed_is_built_on_what_is_there() {
    let (disk, faulty, state) = with_failed_switch(true, replaced).await;
    assert_eq!(state.apply(vec![put(1)], Batch::new()).await.unwrap_err().kind(), ErrorKind::Io);
    faulty.heal();
    apply(&state, [1]).await;
    assert_pins(&state, (100..200).chain([1])).await;
    assert_no_leftovers(&disk, 1).await;
    assert_eq!(state.settle().await.unwrap(), [StateChange::Replaced]);

    // The same the other way round: what a batch did that failed is nothing that could be told after another write.
    faulty.fail_afterwards(StorageCall::Write, 0, io_error());
    assert_eq!(state.apply(vec![put(2)], Batch::new()).await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(replaced(&state).await.unwrap_err().kind(), ErrorKind::Io);
    faulty.heal();
    faulty.fail(StorageCall::Write, 1, io_error());
    assert_eq!(replaced(&state).await.unwrap_err().kind(), ErrorKind::Io);
    faulty.heal();
    assert_eq!(state.settle().await.unwrap(), [StateChange::Replaced]);
    assert_pins(&state, (100..200).chain([1, 2])).await;
    assert_no_leftovers(&disk, 1).await;
    replaced(&state).await.unwrap();
    assert_eq!(state.settle().await.unwrap(), []);
    assert_pins(&state, 100..200).await;
    assert_no_leftovers(&disk, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_view_of_what_is_on_disk_does_not_wait_for_a_replacement() {
    for engine in [None, Some(Engine::Fjall), Some(Engine::Redb)] {
        let folder = TempDir::new().unwrap();
        let storage = match engine {
            None => Arc::new(MemoryStorage::new()) as Arc<dyn Storage>,
            Some(engine) => engine.open(folder.path()),
        };
        let state = StoreState::open(storage).await.unwrap();
        apply(&state, 0..30).await;
        let (pages_of, mut more) = futures::channel::mpsc::channel(1);
        let (mut pages_of, importing) = (pages_of, state.clone());
        let import = tokio::spawn(async move {
            let pins = stream::poll_fn(move |cx| more.poll_next_unpin(cx)).boxed();
            importing.replace(pins, Arc::new(|_| {})).await
        });
        for number in 100..104 {
            futures::SinkExt::send(&mut pages_of, Ok(vec![pin(number)])).await.unwrap();
        }
        let snapshot = tokio::time::timeout(Duration::from_secs(5), state.durable_snapshot()).await;
        let page = state.values(&*snapshot.expect("no waiting").unwrap(), KeyRange::all(), 100).unwrap();
        assert_eq!(page.entries.len(), 30);
        drop(pages_of);
        assert_eq!(import.await.unwrap().unwrap(), 4);
        assert_pins(&state, 100..104).await;
    }
}

#[tokio::test]
async fn a_replaced_pinset_that_cannot_be_removed_yet_harms_nobody() {
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let faulty = Arc::new(FaultyStorage::new(disk.clone()));
    let state = StoreState::open(faulty.clone()).await.unwrap();
    apply(&state, 0..30).await;
    faulty.fail(StorageCall::RemoveSpace, 4, io_error());
    assert_eq!(state.replace(pages(20..40), Arc::new(|_| {})).await.unwrap(), 20);
    assert_pins(&state, 20..40).await;
    let state = StoreState::open(disk.clone()).await.unwrap();
    assert_pins(&state, 20..40).await;
    assert_no_leftovers(&disk, 1).await;
}
