//! The whole pinset at once: replacements, clearing, restarts and crashes.

use super::*;

/// Of the old pinset nothing is left, neither records nor index entries.
pub async fn a_replacement_is_all_there_is(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..30).await;
    let pages = vec![Ok((20..40).map(pin).collect()), Ok(Vec::new()), Ok((40..60).map(pin).collect())];
    assert_eq!(replace(&*state, pages).await.unwrap(), 40);
    assert_same(&*state, &Model::of((20..60).map(pin))).await;
}

/// A later entry of a CID wins; entries are stored in their stored form.
pub async fn a_replacement_may_come_in_any_order_with_duplicates(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut random = Random::new(5);
    let pins: Vec<Pin> = (0..500).map(|_| random.pin()).collect();
    let model = Model::of(pins.clone());
    let given = pins.into_iter().map(|mut pin| {
        pin.options.user_allocations = vec![peer(7)];
        pin.timestamp = pin.timestamp.map(|time| time + Duration::from_millis(1));
        pin
    });
    let pages: Vec<_> = given.collect::<Vec<_>>().chunks(33).map(|page| Ok(page.to_vec())).collect();
    assert_eq!(replace(&*state, pages).await.unwrap(), model.0.len() as u64);
    assert_same(&*state, &model).await;
}

/// The number only grows, and ends at what was given.
pub async fn a_replacement_tells_how_far_it_is(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let pages: Vec<Result<Vec<Pin>>> =
        (0..5).map(|page| Ok((page * 10..page * 10 + 20).map(pin).collect())).collect();
    let count = state
        .replace(stream::iter(pages).boxed(), Arc::new(move |read| telling.lock().unwrap().push(read)))
        .await
        .unwrap();
    assert_eq!(count, 60);
    let told = told.lock().unwrap();
    assert!(told.is_sorted() && told.last() == Some(&100), "{told:?}");
}

/// An empty import is an empty pinset.
pub async fn a_replacement_by_nothing_empties_the_pinset(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..30).await;
    assert_eq!(replace(&*state, Vec::new()).await.unwrap(), 0);
    assert_same(&*state, &Model::default()).await;
}

/// The stream's error comes back, and the old pinset is whole, also after a restart.
pub async fn a_replacement_that_fails_changes_nothing(fixture: impl Fixture) {
    let Opened { mut guard, state } = filled(&fixture, 0..30).await;
    let model = Model::of((0..30).map(pin));
    let pages = vec![Ok((100..200).map(pin).collect()), Err(Error::invalid_input("line 101 is not a pin"))];
    let error = replace(&*state, pages).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidInput, "line 101 is not a pin"));
    assert_same(&*state, &model).await;
    if let Some(state) = fixture.reopen(&mut guard, state).await {
        assert_same(&*state, &model).await;
    }
}

/// A replaced pinset is one like any other, also when it is replaced again and again.
pub async fn the_pinset_can_be_changed_after_a_replacement(fixture: impl Fixture) {
    let Opened { mut guard, mut state } = filled(&fixture, 0..10).await;
    for round in 1..4 {
        replace(&*state, vec![Ok((round * 10..round * 10 + 20).map(pin).collect())]).await.unwrap();
        apply(&*state, vec![put(&pin(0)), PinOperation::Unpin(cid(round * 10))]).await;
        let model = Model::of((round * 10 + 1..round * 10 + 20).chain([0]).map(pin));
        assert_same(&*state, &model).await;
        if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
            state = again;
            assert_same(&*state, &model).await;
        }
    }
}

/// Empty now, after a restart too, and not broken.
pub async fn a_cleared_pinset_is_empty_and_can_be_used_again(fixture: impl Fixture) {
    let Opened { mut guard, mut state } = filled(&fixture, 0..30).await;
    state.clear().await.unwrap();
    assert_same(&*state, &Model::default()).await;
    state.clear().await.unwrap();
    if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
        state = again;
        assert_same(&*state, &Model::default()).await;
    }
    apply(&*state, vec![put(&pin(1))]).await;
    assert_same(&*state, &Model::of([pin(1)])).await;
}

/// What was applied is there after a stop and a start, numbers included.
pub async fn a_reopened_state_has_everything(fixture: impl Fixture) {
    let Opened { mut guard, state } = filled(&fixture, 0..100).await;
    apply(&*state, (0..10).map(|number| PinOperation::Unpin(cid(number))).collect()).await;
    if let Some(state) = fixture.reopen(&mut guard, state).await {
        assert_same(&*state, &Model::of((10..100).map(pin))).await;
    }
}

/// `apply`, `replace` and `clear` return when the disk has it.
pub async fn a_crash_loses_nothing_that_was_acknowledged(fixture: impl Fixture) {
    let Opened { mut guard, state } = filled(&fixture, 0..20).await;
    let told = Arc::new(AtomicU64::new(0));
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_same(&*state, &Model::of((0..20).map(pin))).await;
    apply(&*state, vec![PinOperation::Unpin(cid(1))]).await;
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_same(&*state, &Model::of((0..20).filter(|number| *number != 1).map(pin))).await;
    let telling = told.clone();
    let pages = stream::iter([Ok((50..60).map(pin).collect())]).boxed();
    state.replace(pages, Arc::new(move |read| telling.store(read, Ordering::Relaxed))).await.unwrap();
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_eq!(told.load(Ordering::Relaxed), 10);
    assert_same(&*state, &Model::of((50..60).map(pin))).await;
    state.clear().await.unwrap();
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_same(&*state, &Model::default()).await;
}
