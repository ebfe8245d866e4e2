//! Many callers, restarts, crashes, the shutdown and forgetting everything.

use super::*;

/// Each call returns, and each pin is there, also after a restart.
pub async fn many_callers_are_all_acknowledged(fixture: impl Fixture) {
    let (mut guard, consensus) = fixture.create().await;
    let callers = (0..300).map(|number| {
        let consensus = consensus.clone();
        tokio::spawn(async move { consensus.log_pin(pin(number)).await })
    });
    for result in join_all(callers).await {
        result.unwrap().unwrap();
    }
    assert_pins(&*consensus, 0..300).await;
    consensus.shutdown().await.unwrap();
    if let Some(consensus) = fixture.reopen(&mut guard, consensus).await {
        consensus.ready().await.unwrap();
        assert_pins(&*consensus, 0..300).await;
    }
}

/// However calls are put together, nobody gets the answer to another's.
pub async fn callers_get_their_own_answers(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_many((0..100).map(|number| put(pin(number))).collect()).await.unwrap();
    let callers = (0..200).map(|number| {
        let consensus = consensus.clone();
        tokio::spawn(async move {
            if number % 3 == 0 {
                consensus
                    .log_many(vec![put(pin(1_000 + number)), PinOperation::Unpin(cid(5_000))])
                    .await
                    .unwrap();
            }
            (number, consensus.log_unpin(&cid(number)).await.unwrap())
        })
    });
    for result in join_all(callers).await {
        let (number, gone) = result.unwrap();
        assert_eq!(gone, (number < 100).then(|| Arc::new(pin(number))), "caller {number}");
    }
}

/// It may happen or not; others go on.
pub async fn a_dropped_call_harms_nobody(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    for number in 0..20 {
        let mut call = consensus.log_pin(pin(number));
        // Far enough to be queued.
        let _ = futures::poll!(&mut call);
        drop(call);
    }
    consensus.log_pin(pin(100)).await.unwrap();
    let state = consensus.state();
    // What was dropped may happen after what was not.
    let settled = async {
        loop {
            let all = listed(&*state).await;
            if state.counts().pins == all.len() as u64 {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all = timeout(FACT_TIMEOUT, settled).await.expect("counts are those of the list in time");
    assert!(all.contains(&pin(100)));
}

/// Pins, unpins and batches alike.
pub async fn everything_is_there_after_a_restart(fixture: impl Fixture) {
    let (mut guard, mut consensus) = fixture.create().await;
    for round in 0..3 {
        consensus.log_many((0..30).map(|number| put(pin(round * 30 + number))).collect()).await.unwrap();
        consensus.log_pin(pin(1_000 + round)).await.unwrap();
        consensus.log_unpin(&cid(round * 30)).await.unwrap();
        consensus.shutdown().await.unwrap();
        let Some(again) = fixture.reopen(&mut guard, consensus).await else {
            return skipped("everything_is_there_after_a_restart", "keeps nothing (`reopen` is none)");
        };
        consensus = again;
        consensus.ready().await.unwrap();
        let there = (0..(round + 1) * 30).filter(|number| number % 30 != 0);
        assert_pins(&*consensus, there.chain(1_000..=1_000 + round)).await;
    }
}

/// An answer is a promise.
pub async fn a_crash_loses_nothing_that_was_acknowledged(fixture: impl Fixture) {
    let (mut guard, mut consensus) = fixture.create().await;
    let mut model = Model::default();
    for round in 0..5u64 {
        // Some calls are under way when the power goes.
        let calls: Vec<_> = (0..40)
            .map(|number| {
                let consensus = consensus.clone();
                let number = round * 40 + number;
                tokio::spawn(async move { consensus.log_pin(pin(number)).await.map(|()| number) })
            })
            .collect();
        consensus.log_pin(pin(1_000 + round)).await.unwrap();
        consensus.log_unpin(&cid(round * 40)).await.unwrap();
        consensus.log_pin(pin(2_000 + round)).await.unwrap();
        let Some(again) = fixture.crash(&mut guard, consensus).await else {
            return skipped(
                "a_crash_loses_nothing_that_was_acknowledged",
                "cannot cut the power (`crash` is none)",
            );
        };
        consensus = again;
        consensus.ready().await.unwrap();
        let state = consensus.state();
        for call in calls {
            if let Ok(number) = call.await.unwrap()
                && number != round * 40
            {
                assert_eq!(state.get(&cid(number)).await.unwrap(), Some(pin(number)));
            }
        }
        for number in [1_000 + round, 2_000 + round] {
            assert_eq!(state.get(&cid(number)).await.unwrap(), Some(pin(number)));
        }
        model = Model::of(listed(&*state).await);
        assert_same(&*state, &model).await;
    }
    assert_ne!(model, Model::default());
}

/// Whoever got Ok finds the pin; whoever did not was told that it was too late.
pub async fn a_shutdown_finishes_what_was_accepted(fixture: impl Fixture) {
    let (mut guard, consensus) = fixture.create().await;
    let callers: Vec<_> = (0..200)
        .map(|number| {
            let consensus = consensus.clone();
            tokio::spawn(async move { (number, consensus.log_pin(pin(number)).await) })
        })
        .collect();
    tokio::task::yield_now().await;
    consensus.shutdown().await.unwrap();
    let mut acknowledged = Vec::new();
    for caller in callers {
        match caller.await.unwrap() {
            (number, Ok(())) => acknowledged.push(pin(number)),
            (_, Err(error)) => assert_eq!(error.kind(), ErrorKind::ShutDown, "{error}"),
        }
    }
    let mut state = consensus.state();
    if let Some(again) = fixture.reopen(&mut guard, consensus).await {
        again.ready().await.unwrap();
        state = again.state();
    }
    let there = listed(&*state).await;
    for pin in acknowledged {
        assert!(there.contains(&pin));
    }
}

/// The second caller does not return before the component has stopped either.
pub async fn everybody_waits_for_the_same_shutdown(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let callers: Vec<_> = (0..50)
        .map(|number| {
            let consensus = consensus.clone();
            tokio::spawn(async move { consensus.log_pin(pin(number)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    // Whatever was accepted is finished when a shutdown returns, so nothing changes after either of them.
    let shut_down = || async {
        consensus.shutdown().await.unwrap();
        consensus.state().counts().pins
    };
    let (one, other) =
        timeout(FACT_TIMEOUT, join(shut_down(), shut_down())).await.expect("a shutdown in time");
    for caller in callers {
        let _ = caller.await.unwrap();
    }
    assert_eq!((one, other), (consensus.state().counts().pins, consensus.state().counts().pins));
    consensus.shutdown().await.unwrap();
}

/// The last look at the state is possible, the next change is not.
pub async fn after_a_shutdown_calls_fail_and_the_state_is_readable(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let state = consensus.state();
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.shutdown().await.unwrap();
    for kind in [
        consensus.log_pin(pin(2)).await.unwrap_err().kind(),
        consensus.log_unpin(&cid(1)).await.unwrap_err().kind(),
        consensus.log_many(vec![put(pin(2))]).await.unwrap_err().kind(),
        consensus.ready().await.unwrap_err().kind(),
        consensus.synchronize().await.unwrap_err().kind(),
        consensus.peers().await.unwrap_err().kind(),
        consensus.clean().await.unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::ShutDown);
    }
    for state in [state, consensus.state()] {
        assert_same(&*state, &Model::of([pin(1)])).await;
    }
}

/// After the last event, and also for who asks later.
pub async fn a_shutdown_ends_the_events(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut events = consensus.events();
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.shutdown().await.unwrap();
    assert_eq!(next(&mut events).await, pinned(pin(1)));
    for mut events in [events, consensus.events()] {
        let end = timeout(FACT_TIMEOUT, events.next()).await.expect("an end in time");
        assert_eq!(end, None);
    }
}

/// On disk too, and the component can be used again.
pub async fn cleaning_forgets_everything(fixture: impl Fixture) {
    let (mut guard, consensus) = fixture.create().await;
    consensus.log_many((0..50).map(|number| put(pin(number))).collect()).await.unwrap();
    consensus.clean().await.unwrap();
    assert_pins(&*consensus, []).await;
    consensus.log_pin(pin(1)).await.unwrap();
    assert_pins(&*consensus, [1]).await;
    consensus.clean().await.unwrap();
    consensus.shutdown().await.unwrap();
    if let Some(consensus) = fixture.reopen(&mut guard, consensus).await {
        consensus.ready().await.unwrap();
        assert_pins(&*consensus, []).await;
    }
}
