//! What a tracker tells: listings, counts and events.

use super::*;

/// Several pages of every kind of item.
pub async fn listings_are_complete_ordered_and_in_pages(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut pins = Vec::new();
    for seed in 0..3000 {
        let cid = stage.content(seed);
        pins.push(match seed % 3 {
            0 => stage.remote_pin_of(cid),
            1 => stage.pin_of(cid, PinMode::Direct),
            _ => stage.pin_of(cid, PinMode::Recursive),
        });
    }
    for pin in &pins {
        stage.daemon.pin(pin).await.unwrap();
    }
    let expected = sorted(pins.iter().map(|pin| pin.cid));
    stage.write_all(pins).await;
    stage.wait_listed().await;
    collect(stage.tracker.sync_all()).await.unwrap();
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(cids(&all), expected);
    let number = |status| all.iter().filter(|info| info.status.status == status).count();
    assert_eq!((number(TrackerStatus::Remote), number(TrackerStatus::Pinned)), (1000, 2000));
    assert!(all.iter().all(|info| info.name.starts_with("name of ")));
}

/// They are in no pinset, but an operator has to see them.
pub async fn failed_unpins_are_listed_in_their_place(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut kept = Vec::new();
    for seed in 0..8 {
        kept.push(stage.add_pinned(seed).await);
    }
    let mut failed = Vec::new();
    for seed in 100..108 {
        failed.push(failed_unpin(&stage, seed).await);
    }
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(cids(&all), sorted(kept.iter().chain(&failed).copied()));
    for filter in [TrackerStatus::UnpinError.into(), StatusFilter::ERROR] {
        let errors = stage.list(filter).await;
        assert_eq!(cids(&errors), sorted(failed.clone()));
        assert!(errors.iter().all(|info| info.status.error.contains("the daemon says no")));
    }
}

/// The reference also gives items that an operation works on, with a status made up.
pub async fn filters_give_exactly_their_statuses(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    let pinned = stage.add_pinned(1).await;
    let failing = stage.content(2);
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&stage.pin_of(failing, PinMode::Recursive)).await;
    stage.wait(&failing, TrackerStatus::PinError).await;
    let failed_unpin = failed_unpin(&stage, 3).await;
    let remote = stage.content(4);
    stage.add(&stage.remote_pin_of(remote)).await;
    let sharded = stage.content(5);
    let meta = Pin { pin_type: PinType::Meta, ..stage.pin_of(sharded, PinMode::Recursive) };
    stage.add(&meta).await;
    let lost = stage.content(6);
    stage.write(&stage.pin_of(lost, PinMode::Recursive)).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    let queued = missing_content(2);
    stage.add(&stage.pin_of(queued, PinMode::Recursive)).await;
    stage.ipfs.stall(IpfsCall::Unpin);
    let unpinning = stage.content(7);
    stage.tracker.untrack(&unpinning).await.unwrap();
    stage.wait(&unpinning, TrackerStatus::Unpinning).await;
    use TrackerStatus as S;
    let expected = [
        (S::Pinned, pinned),
        (S::PinError, failing),
        (S::UnpinError, failed_unpin),
        (S::Remote, remote),
        (S::Sharded, sharded),
        (S::UnexpectedlyUnpinned, lost),
        (S::Pinning, pinning),
        (S::PinQueued, queued),
        (S::Unpinning, unpinning),
    ];
    for status in TrackerStatus::ALL {
        let listed: Vec<_> =
            stage.list(status.into()).await.into_iter().map(|info| (info.status.status, info.cid)).collect();
        let wanted: Vec<_> = expected.iter().filter(|(other, _)| *other == status).copied().collect();
        assert_eq!(listed, wanted, "filter {status}");
    }
    let errors_and_pinned = StatusFilter::ERROR | S::Pinned.into();
    assert_eq!(cids(&stage.list(errors_and_pinned).await), sorted([pinned, failing, failed_unpin]));
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(all.len(), expected.len());
    // Asked about some pins, in any order, it says the same.
    let mut pins = Vec::new();
    for (_, cid) in expected.iter().rev() {
        pins.extend(stage.state.get(cid).await.unwrap());
    }
    assert_eq!(pins.len(), expected.len() - 2, "all but what is unpinned");
    let said = stage.tracker.statuses(pins.clone()).await.unwrap();
    assert_eq!(said.len(), pins.len());
    for (pin, info) in pins.iter().zip(&said) {
        let listed = all.iter().find(|listed| listed.cid == pin.cid).unwrap();
        let what =
            |info: &PinInfo| (info.cid, info.status.status, info.status.error.clone(), info.name.clone());
        assert_eq!(what(info), what(listed));
    }
}

/// Without being counted.
pub async fn counts_follow_operations(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    assert_eq!(stage.tracker.counts(), TrackerCounts::default());
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    for seed in 0..5 {
        stage.add(&stage.pin_of(missing_content(seed), PinMode::Recursive)).await;
    }
    stage.wait_counts(|counts| counts.pinning == 1).await;
    assert_eq!(
        stage.tracker.counts(),
        TrackerCounts { pinning: 1, pin_queued: 4, ..TrackerCounts::default() }
    );
    stage.wait_idle().await;
    assert_eq!(stage.tracker.counts(), TrackerCounts { pin_error: 5, ..TrackerCounts::default() });
    failed_unpin(&stage, 1).await;
    assert_eq!(
        stage.tracker.counts(),
        TrackerCounts { pin_error: 5, unpin_error: 1, ..TrackerCounts::default() }
    );
    for seed in 0..5 {
        stage.remove(&missing_content(seed)).await;
    }
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.tracker.counts(), TrackerCounts::default());
}

async fn next_change(events: &mut BoxStream<'static, TrackerEvent>) -> Arc<PinInfo> {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        if let TrackerEvent::StatusChanged(info) = event.expect("an event") {
            return info;
        }
    }
}

/// In order.
pub async fn events_tell_each_step(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let mut events = stage.tracker.events();
    let cid = stage.content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    for status in [TrackerStatus::PinQueued, TrackerStatus::Pinning, TrackerStatus::Pinned] {
        let info = next_change(&mut events).await;
        assert_eq!((info.cid, info.status.status), (cid, status));
        assert!(info.name.starts_with("name of "));
    }
    stage.daemon.unpin(&cid).await.unwrap();
    collect(stage.tracker.sync_all()).await.unwrap();
    let info = next_change(&mut events).await;
    assert_eq!((info.cid, info.status.status), (cid, TrackerStatus::UnexpectedlyUnpinned));
    stage.ipfs.fail_next(IpfsCall::Unpin, 1, refusal());
    stage.remove(&cid).await;
    for status in [TrackerStatus::UnpinQueued, TrackerStatus::Unpinning, TrackerStatus::UnpinError] {
        assert_eq!(next_change(&mut events).await.status.status, status);
    }
    stage.tracker.recover(&cid).await.unwrap();
    for status in [TrackerStatus::UnpinQueued, TrackerStatus::Unpinning, TrackerStatus::Unpinned] {
        assert_eq!(next_change(&mut events).await.status.status, status);
    }
    stage.tracker.shutdown().await.unwrap();
    assert!(events.next().await.is_none(), "events end with the tracker");
}

/// The queue of events is bounded.
pub async fn a_slow_reader_of_events_is_told_to_compare(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let mut events = stage.tracker.events();
    for seed in 0..5000 {
        stage.add(&stage.pin_of(stage.content(seed), PinMode::Recursive)).await;
    }
    stage.wait_idle().await;
    let mut seen = 0;
    loop {
        seen += 1;
        match tokio::time::timeout(Duration::from_secs(1), events.next()).await {
            Ok(Some(TrackerEvent::Resync)) => break,
            Ok(Some(TrackerEvent::StatusChanged(_))) if seen < 15_000 => {}
            other => panic!("after {seen} events: {other:?}"),
        }
    }
}

/// As the reference's answers do.
pub async fn statuses_carry_the_names_of_peer_and_daemon(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let pinned = stage.add_pinned(1).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    for info in [
        stage.tracker.status(&pinned).await.unwrap(),
        stage.tracker.status(&pinning).await.unwrap(),
        stage.list(StatusFilter::ALL).await.remove(0),
    ] {
        assert_eq!(info.status.peername, PEERNAME);
        assert_eq!(info.status.ipfs_peer_id, Some(stage.daemon.peer()));
    }
}
