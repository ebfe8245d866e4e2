//! Single entries: what is applied, replaced, removed and revised.

use super::*;

/// Nothing is there, and asking for it is no error.
pub async fn an_empty_state_has_nothing(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    assert_eq!(state.get(&cid(1)).await.unwrap(), None);
    assert_same(&*state, &Model::default()).await;
}

/// What was applied can be read when `apply` returns.
pub async fn an_applied_pin_is_there(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let pin = pin(1);
    assert_eq!(apply(&*state, vec![put(&pin)]).await, [StateChange::Pinned(Arc::new(pin.clone()))]);
    assert_same(&*state, &Model::of([pin])).await;
}

/// Every field comes back, of every type of pin.
pub async fn every_kind_of_pin_survives_unchanged(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut model = Model::default();
    for (number, pin_type) in PinType::ALL.into_iter().enumerate() {
        let number = number as u64;
        let full = Pin {
            cid: cid(number),
            pin_type,
            allocations: vec![peer(2), peer(1)],
            max_depth: [-1, 0, 1, 2][number as usize],
            reference: Some(cid(100)),
            timestamp: Some(Timestamp::from_unix_seconds(-5)),
            options: PinOptions {
                replication_factor_min: 2,
                replication_factor_max: i32::MAX,
                name: "full \u{10ffff} \"quoted\"\n".to_owned(),
                mode: if number == 1 { PinMode::Direct } else { PinMode::Recursive },
                shard_size: u64::MAX,
                user_allocations: Vec::new(),
                expire_at: Some(second(1_000_000)),
                metadata: [("", "empty key"), ("key", ""), ("z", "\0")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                pin_update: Some(cid(101)),
                origins: vec![format!("/ip4/10.0.0.1/tcp/4001/p2p/{}", peer(3)).parse().unwrap()],
            },
        };
        apply(&*state, vec![put(&full)]).await;
        model.pin(full);
        let plain = Pin { pin_type, ..Pin::new(cid(number + 10), PinOptions::default()) };
        apply(&*state, vec![put(&plain)]).await;
        model.pin(plain);
    }
    assert_same(&*state, &model).await;
}

/// Fractions of a second and user allocations are not stored, the mode follows from the depth, and the reported
/// change says so already.
pub async fn a_pin_is_kept_in_its_stored_form(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut given = pin(1);
    given.timestamp = Some(second(3) + Duration::from_millis(700));
    given.options.expire_at = Some(second(900) + Duration::from_nanos(1));
    given.options.user_allocations = vec![peer(1)];
    given.options.mode = PinMode::Direct;
    let stored = given.clone().into_stored();
    assert_ne!(given, stored);
    assert_eq!(apply(&*state, vec![put(&given)]).await, [StateChange::Pinned(Arc::new(stored.clone()))]);
    assert_same(&*state, &Model::of([stored])).await;
}

/// Nothing of the old options stays, nor does the number of pins grow.
pub async fn a_pin_replaces_the_one_before(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    let mut changed = pin(1);
    changed.options.metadata.clear();
    changed.allocations = vec![peer(9)];
    apply(&*state, vec![put(&changed)]).await;
    assert_same(&*state, &Model::of([pin(0), changed, pin(2)])).await;
}

/// Who unpins is told what it was.
pub async fn unpinning_gives_the_entry_as_it_was(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    let changes = apply(&*state, vec![PinOperation::Unpin(cid(1))]).await;
    assert_eq!(changes, [StateChange::Unpinned(Arc::new(pin(1)))]);
    assert_same(&*state, &Model::of([pin(0), pin(2)])).await;
}

/// An unpin can be repeated.
pub async fn unpinning_an_absent_cid_changes_nothing(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..1).await;
    for _ in 0..2 {
        let changes = apply(&*state, vec![PinOperation::Unpin(cid(1))]).await;
        assert_eq!(changes, [StateChange::Unchanged]);
    }
    assert_same(&*state, &Model::of([pin(0)])).await;
}

/// A batch is a sequence: each operation meets what those before it left.
pub async fn operations_of_one_batch_see_each_other(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..1).await;
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    let unpin = |number| PinOperation::Unpin(cid(number));
    let operations = vec![
        put(&pin(1)),
        put(&renamed),
        unpin(1),
        unpin(1),
        put(&renamed),
        unpin(0),
        put(&pin(0)),
        put(&pin(2)),
        unpin(2),
    ];
    let pinned = |pin: &Pin| StateChange::Pinned(Arc::new(pin.clone()));
    let unpinned = |pin: &Pin| StateChange::Unpinned(Arc::new(pin.clone()));
    let expected = [
        pinned(&pin(1)),
        pinned(&renamed),
        unpinned(&renamed),
        StateChange::Unchanged,
        pinned(&renamed),
        unpinned(&pin(0)),
        pinned(&pin(0)),
        pinned(&pin(2)),
        unpinned(&pin(2)),
    ];
    assert_eq!(apply(&*state, operations).await, expected);
    assert_same(&*state, &Model::of([pin(0), renamed])).await;
}

/// Something else, or nothing, may be there by then.
pub async fn what_is_not_as_it_was_seen_is_not_revised(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    let operations = vec![
        PinOperation::Revise(Revision::replace(renamed.clone(), pin(1))),
        PinOperation::Revise(Revision::replace(pin(1), renamed.clone())),
        PinOperation::Revise(Revision::remove(pin(1))),
        PinOperation::Revise(Revision::remove(pin(2))),
        PinOperation::Revise(Revision::replace(pin(2), pin(2))),
        PinOperation::Revise(Revision::remove(pin(9))),
    ];
    let expected = [
        StateChange::Unchanged,
        StateChange::Pinned(Arc::new(renamed.clone())),
        StateChange::Unchanged,
        StateChange::Unpinned(Arc::new(pin(2))),
        StateChange::Unchanged,
        StateChange::Unchanged,
    ];
    assert_eq!(apply(&*state, operations).await, expected);
    assert_same(&*state, &Model::of([pin(0), renamed])).await;
}

/// There is something to be told only after an error.
pub async fn nothing_is_left_to_settle_after_what_worked(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    assert_eq!(state.settle().await.expect("settling"), []);
    let snapshot = state.durable_snapshot().await.expect("a view of what is on disk");
    let values = state.values(&*snapshot, KeyRange::all(), 10).expect("reading it");
    assert_eq!(values.entries.len(), 3);
    assert_same(&*state, &Model::of([pin(0), pin(1), pin(2)])).await;
}

/// No operations, no changes, no error.
pub async fn an_empty_batch_is_fine(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    assert_eq!(apply(&*state, Vec::new()).await, []);
    assert_same(&*state, &Model::default()).await;
}

/// Also when a pin comes twice or goes twice, in one batch or two.
pub async fn the_number_of_pins_follows_every_change(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    for (operations, expected) in [
        (vec![put(&pin(1)), put(&pin(1)), put(&pin(2))], 2),
        (vec![put(&pin(1)), put(&pin(3))], 3),
        (vec![PinOperation::Unpin(cid(1)), PinOperation::Unpin(cid(1)), put(&pin(4))], 3),
        (vec![PinOperation::Unpin(cid(9))], 3),
        (vec![put(&pin(5)), PinOperation::Unpin(cid(5))], 3),
        (vec![PinOperation::Unpin(cid(2)), PinOperation::Unpin(cid(3)), PinOperation::Unpin(cid(4))], 0),
    ] {
        apply(&*state, operations).await;
        assert_eq!(state.counts().pins, expected);
    }
}

/// The same content under version 0 and version 1, or another codec, is pinned separately, as in the reference.
pub async fn versions_of_a_cid_are_different_entries(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let v0 = cid(0);
    let versions = [v0, Cid::new_v1(0x70, *v0.hash()), Cid::new_v1(0x55, *v0.hash())];
    let pins = versions.map(|cid| Pin::new(cid, PinOptions::default()));
    apply(&*state, pins.iter().map(put).collect()).await;
    assert_same(&*state, &Model::of(pins.clone())).await;
    apply(&*state, vec![PinOperation::Unpin(v0)]).await;
    assert_same(&*state, &Model::of(pins[1..].to_vec())).await;
}
