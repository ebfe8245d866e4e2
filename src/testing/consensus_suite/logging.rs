//! What is logged and what the state then shows.

use super::*;

/// `ready` returns, and from then on operations are taken.
pub async fn it_becomes_ready(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    timeout(FACT_TIMEOUT, consensus.ready()).await.expect("ready in time").unwrap();
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.ready().await.unwrap();
    assert_eq!(consensus.capabilities(), consensus.capabilities());
}

/// Visible when `log_pin` returns, to readers that were there before too, in its stored form.
pub async fn a_logged_pin_is_in_the_state(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let before = consensus.state();
    let mut given = pin(1);
    given.options.user_allocations = vec![fixture.peer()];
    consensus.log_pin(given).await.unwrap();
    assert_eq!(before.get(&cid(1)).await.unwrap(), Some(pin(1)));
    assert_pins(&*consensus, [1]).await;
}

/// One entry for each CID.
pub async fn a_logged_pin_replaces_the_one_before(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_pin(pin(1)).await.unwrap();
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    consensus.log_pin(renamed.clone()).await.unwrap();
    assert_same(&*consensus.state(), &Model::of([renamed])).await;
}

/// The caller learns what it removed.
pub async fn unpinning_gives_the_entry_as_it_was(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.log_pin(pin(2)).await.unwrap();
    assert_eq!(consensus.log_unpin(&cid(1)).await.unwrap(), Some(Arc::new(pin(1))));
    assert_pins(&*consensus, [2]).await;
}

/// Unpinning can be repeated.
pub async fn unpinning_an_absent_cid_is_fine(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_pin(pin(1)).await.unwrap();
    assert_eq!(consensus.log_unpin(&cid(2)).await.unwrap(), None);
    assert!(consensus.log_unpin(&cid(1)).await.unwrap().is_some());
    assert_eq!(consensus.log_unpin(&cid(1)).await.unwrap(), None);
    assert_pins(&*consensus, []).await;
}

/// A batch is a sequence.
pub async fn many_operations_are_applied_in_order(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    let operations = vec![
        put(pin(1)),
        put(pin(2)),
        PinOperation::Unpin(cid(1)),
        put(renamed.clone()),
        put(pin(3)),
        PinOperation::Unpin(cid(2)),
    ];
    let mut events = consensus.events();
    consensus.log_many(operations).await.unwrap();
    assert_same(&*consensus.state(), &Model::of([renamed.clone(), pin(3)])).await;
    // Implementations may leave out what did not last, but what they tell is in order and ends with the last word.
    let mut last = Vec::new();
    while last.len() < 2 || !last.contains(&pinned(pin(3))) || !last.contains(&pinned(renamed.clone())) {
        last.push(next(&mut events).await);
    }
    let place = |event: &StateEvent| last.iter().position(|seen| seen == event);
    assert!(place(&pinned(renamed)) < place(&pinned(pin(3))), "{last:?}");
}

/// What a peer decides by itself about an entry yields to whoever changed the entry since it was looked at.
pub async fn what_was_changed_meanwhile_is_not_revised(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let named = |number, name: &str| {
        let mut pin = pin(number);
        pin.options.name = name.to_owned();
        pin
    };
    let replace = |seen, now| PinOperation::Revise(Revision::replace(seen, now));
    let remove = |seen| PinOperation::Revise(Revision::remove(seen));
    consensus.log_many((1..=4).map(|number| put(pin(number))).collect()).await.unwrap();
    let operations = vec![
        replace(pin(1), named(1, "revised")),
        remove(pin(2)),
        // Not as they were seen.
        replace(named(3, "other"), named(3, "revised")),
        remove(named(4, "other")),
        replace(pin(5), named(5, "revised")),
        // Nor in the same batch.
        replace(pin(1), named(1, "twice")),
        remove(pin(2)),
        put(named(4, "user")),
        remove(pin(4)),
        replace(named(4, "user"), named(4, "revised")),
    ];
    consensus.log_many(operations).await.unwrap();
    let expected = [named(1, "revised"), pin(3), named(4, "revised")];
    assert_same(&*consensus.state(), &Model::of(expected.clone())).await;
    // A user who comes first counts, however short before.
    let (user, revision) = tokio::join!(
        consensus.log_pin(named(3, "user")),
        consensus.log_many(vec![replace(pin(3), named(3, "revised")), remove(pin(3))])
    );
    user.and(revision).unwrap();
    let [one, _, four] = expected;
    assert_same(&*consensus.state(), &Model::of([one, named(3, "user"), four])).await;
}

/// No operations, no error.
pub async fn many_operations_may_be_none(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_many(Vec::new()).await.unwrap();
    assert_pins(&*consensus, []).await;
}

/// What one batch cannot hold is not cut into two behind the caller's back.
pub async fn too_many_operations_are_refused_whole(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut operations = vec![PinOperation::Unpin(cid(1)); OPERATIONS_MAX];
    operations.push(put(pin(2)));
    let error = consensus.log_many(operations).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_pins(&*consensus, []).await;
}

/// Whoever asks, and however many at a time; and nothing changes by it.
pub async fn a_read_after_synchronizing_sees_what_was_acknowledged(fixture: impl Fixture) {
    let (mut guard, consensus) = fixture.create().await;
    let synchronize = async |consensus: &dyn Consensus| {
        timeout(FACT_TIMEOUT, consensus.synchronize()).await.expect("an answer in time").unwrap();
    };
    consensus.ready().await.unwrap();
    synchronize(&*consensus).await;
    assert_pins(&*consensus, []).await;
    let callers = (0..50).map(|number| {
        let consensus = consensus.clone();
        tokio::spawn(async move {
            consensus.log_pin(pin(number)).await.unwrap();
            timeout(FACT_TIMEOUT, consensus.synchronize()).await.expect("an answer in time").unwrap();
            assert_eq!(consensus.state().get(&cid(number)).await.unwrap(), Some(pin(number)));
        })
    });
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    consensus.log_unpin(&cid(7)).await.unwrap();
    let mut events = consensus.events();
    synchronize(&*consensus).await;
    for _ in 0..10 {
        // Who gives up harms nobody.
        let mut call = consensus.synchronize();
        let _ = futures::poll!(&mut call);
    }
    synchronize(&*consensus).await;
    let there = || (0..50).filter(|number| *number != 7);
    assert_pins(&*consensus, there()).await;
    assert_eq!(events.next().now_or_never(), None);
    consensus.shutdown().await.unwrap();
    if let Some(consensus) = fixture.reopen(&mut guard, consensus).await {
        consensus.ready().await.unwrap();
        synchronize(&*consensus).await;
        assert_pins(&*consensus, there()).await;
    }
}
