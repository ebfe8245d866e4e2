//! Readers while others write, and many random changes.

use super::*;

/// Whatever happens, records, indexes and numbers stay in step.
pub async fn random_changes_leave_records_and_indexes_as_a_model_says(fixture: impl Fixture) {
    for seed in 0..2 {
        let (mut guard, mut state) = fixture.create().await;
        let mut random = Random::new(seed);
        let mut model = Model::default();
        for _ in 0..12 {
            for _ in 0..4 {
                let operations: Vec<_> = (0..random.below(12)).map(|_| random.operation()).collect();
                let expected: Vec<_> = operations.iter().map(|operation| model.apply(operation)).collect();
                assert_eq!(apply(&*state, operations).await, expected, "seed {seed}");
            }
            match random.below(12) {
                0 => {
                    model = Model::of((0..random.below(80)).map(|_| random.pin()).collect::<Vec<_>>());
                    let page: Vec<Pin> = model.0.values().cloned().collect();
                    replace(&*state, vec![Ok(page)]).await.unwrap();
                }
                1 => {
                    model = Model::default();
                    state.clear().await.unwrap();
                }
                2 | 3 => {
                    if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
                        state = again;
                    }
                }
                _ => {}
            }
            assert_same(&*state, &model).await;
        }
    }
}

/// Who reads slowly still gets every entry once that was there all the time.
pub async fn a_listing_is_not_disturbed_by_changes(fixture: impl Fixture) {
    let count = 4 * PAGE_ITEMS_MAX as u64;
    let Opened { state, guard: _guard } = filled(&fixture, 0..count).await;
    let mut pages = state.list(StateQuery::default());
    let mut seen = pages.next().await.unwrap().unwrap();
    for number in 0..count / 2 {
        let operation =
            if number % 2 == 0 { PinOperation::Unpin(cid(number)) } else { put(&pin(count + number)) };
        if number % 512 == 0 {
            apply(&*state, vec![operation]).await;
        }
    }
    while let Some(page) = pages.next().await {
        seen.extend(page.unwrap());
    }
    assert!(seen.is_sorted_by_key(|pin| pin.cid.to_bytes()), "in order, so each once");
    let seen = Model::of(seen);
    for number in (0..count).filter(|number| number % 512 != 0) {
        assert!(seen.0.contains_key(&cid(number).to_bytes()), "entry {number} was there all the time");
    }
}

/// A listing that began before a replacement gives the old pinset, whole.
pub async fn a_listing_is_not_disturbed_by_a_replacement(fixture: impl Fixture) {
    let count = 3 * PAGE_ITEMS_MAX as u64;
    let Opened { state, guard: _guard } = filled(&fixture, 0..count).await;
    let mut pages = state.list(StateQuery::default());
    let mut seen = pages.next().await.unwrap().unwrap();
    replace(&*state, vec![Ok(vec![pin(count + 1)])]).await.unwrap();
    while let Some(page) = pages.next().await {
        seen.extend(page.unwrap());
    }
    assert_eq!(seen.len() as u64, count);
    assert_same(&*state, &Model::of([pin(count + 1)])).await;
}

/// Writers and readers do not wait for each other, and no page shows half a batch.
pub async fn readers_see_whole_pages_while_others_write(fixture: impl Fixture) {
    const PAIRS: u64 = 50;
    let (_guard, state) = fixture.create().await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (state, stop) = (state.clone(), stop.clone());
            tokio::spawn(async move {
                let mut most = 0;
                while !stop.load(Ordering::Relaxed) {
                    let pins = list(&*state, StateQuery::default()).await.unwrap();
                    // Each batch writes or removes a pair.
                    assert_eq!(pins.len() % 2, 0, "half a batch is visible");
                    most = most.max(pins.len());
                    if let Some(pin) = pins.first() {
                        let got = state.get(&pin.cid).await.unwrap();
                        assert!(got.is_none_or(|got| got == *pin));
                    }
                    tokio::task::yield_now().await;
                }
                most
            })
        })
        .collect();
    for round in 0..3 {
        for pair in 0..PAIRS {
            apply(&*state, vec![put(&pin(2 * pair)), put(&pin(2 * pair + 1))]).await;
            tokio::task::yield_now().await;
        }
        if round < 2 {
            for pair in 0..PAIRS {
                let numbers = [2 * pair, 2 * pair + 1];
                apply(&*state, numbers.map(|number| PinOperation::Unpin(cid(number))).into()).await;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_same(&*state, &Model::of((0..2 * PAIRS).map(pin))).await;
}
