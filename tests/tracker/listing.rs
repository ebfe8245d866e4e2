//! What is known of the daemon, from its listings and from single answers.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_pinset_that_cannot_be_read_fails_the_operation_and_the_question() {
    let (stage, _, watched) = hooked_stage().await;
    let pin = recursive(&stage, 1);
    stage.write(&pin).await;
    watched.fails.store(true, Ordering::Relaxed);
    stage.tracker.track(pin.clone()).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.tracker.counts().pin_error, 1);
    assert_eq!(stage.tracker.status(&pin.cid).await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(stage.tracker.untrack(&pin.cid).await.unwrap_err().kind(), ErrorKind::Io);
    watched.fails.store(false, Ordering::Relaxed);
    let info = stage.tracker.status(&pin.cid).await.unwrap();
    assert!(info.status.error.contains("the disk is gone"), "{info:?}");
    stage.tracker.recover(&pin.cid).await.unwrap();
    stage.wait(&pin.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn operations_that_finish_while_the_daemon_is_listed_win_over_the_listing() {
    let (stage, hooked, _) = hooked_stage().await;
    let removed = stage.add_pinned(1).await;
    let kept = stage.add_pinned(2).await;
    stage.wait_listed().await;
    hooked.gate.send_replace(false);
    let listings = stage.ipfs.count(IpfsCall::ListPins).answered;
    let syncing = tokio::spawn(collect(stage.tracker.sync_all()));
    stage.ipfs.wait_count(IpfsCall::ListPins, |count| count.answered > listings).await;
    // The listing has seen what comes now as it was.
    let added = recursive(&stage, 3);
    stage.add(&added).await;
    stage.remove(&removed).await;
    stage.wait_idle().await;
    assert!(stage.is_held(&added.cid, PinMode::Recursive).await);
    hooked.gate.send_replace(true);
    assert_eq!(syncing.await.unwrap().unwrap(), []);
    assert_eq!(stage.listed_status(&added.cid).await, Some(TrackerStatus::Pinned));
    assert_eq!(stage.listed_status(&kept).await, Some(TrackerStatus::Pinned));
    // Had the listing won, this would be found lost.
    stage.write(&stage.pin_of(removed, PinMode::Recursive)).await;
    assert_eq!(stage.listed_status(&removed).await, Some(TrackerStatus::UnexpectedlyUnpinned));
}

#[tokio::test(start_paused = true)]
async fn an_answer_older_than_the_operation_that_just_ended_is_not_used() {
    let (stage, hooked, _) = hooked_stage().await;
    stage.wait_listed().await;
    let pins = [recursive(&stage, 1), recursive(&stage, 2)];
    for pin in &pins {
        stage.write(pin).await;
    }
    hooked.gate.send_replace(false);
    let status = tokio::spawn({
        let (tracker, cid) = (stage.tracker.clone(), pins[0].cid);
        async move { tracker.status(&cid).await }
    });
    let sync = tokio::spawn({
        let (tracker, cid) = (stage.tracker.clone(), pins[1].cid);
        async move { tracker.sync(&cid).await }
    });
    stage.ipfs.wait_count(IpfsCall::IsPinned, |count| count.answered == 2).await;
    for pin in &pins {
        stage.tracker.track(pin.clone()).await.unwrap();
    }
    stage.wait_idle().await;
    hooked.gate.send_replace(true);
    assert_eq!(status.await.unwrap().unwrap().status.status, TrackerStatus::Pinned);
    assert_eq!(sync.await.unwrap().unwrap().status.status, TrackerStatus::Pinned);
    assert_eq!(stage.listed_status(&pins[1].cid).await, Some(TrackerStatus::Pinned));
}

#[tokio::test(start_paused = true)]
async fn a_failure_during_a_listing_is_not_forgiven_by_it() {
    let (stage, hooked, _) = hooked_stage().await;
    stage.wait_listed().await;
    let pin = recursive(&stage, 1);
    stage.daemon.pin(&pin).await.unwrap();
    hooked.gate.send_replace(false);
    let listings = stage.ipfs.count(IpfsCall::ListPins).answered;
    let syncing = tokio::spawn(collect(stage.tracker.sync_all()));
    stage.ipfs.wait_count(IpfsCall::ListPins, |count| count.answered > listings).await;
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&pin).await;
    stage.wait(&pin.cid, TrackerStatus::PinError).await;
    hooked.gate.send_replace(true);
    syncing.await.unwrap().unwrap();
    assert_eq!(stage.status(&pin.cid).await, TrackerStatus::PinError);
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(changed.len(), 1);
    assert_eq!(stage.status(&pin.cid).await, TrackerStatus::Pinned);
}

/// Listings of both modes that began so far.
fn listings(stage: &Stage<()>) -> u64 {
    stage.ipfs.count(IpfsCall::ListPins).begun / 2
}

#[tokio::test(start_paused = true)]
async fn the_daemon_is_listed_at_the_interval_and_rests_ten_times_as_long() {
    let interval = Duration::from_secs(60);
    let stage = stage(StatelessConfig { ipfs_sync_interval: interval, ..StatelessConfig::default() }).await;
    stage.wait_listed().await;
    assert_eq!(listings(&stage), 1);
    tokio::time::sleep(interval * 10 + Duration::from_secs(1)).await;
    assert_eq!(listings(&stage), 11);
    // Both modes together take 40 s: ten times that is more than the interval.
    stage.ipfs.slow(IpfsCall::ListPins, Duration::from_secs(20));
    collect(stage.tracker.sync_all()).await.unwrap();
    let before = listings(&stage);
    tokio::time::sleep(Duration::from_secs(399)).await;
    assert_eq!(listings(&stage), before);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(listings(&stage), before + 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_interval_the_daemon_is_listed_only_when_there_is_a_reason() {
    let config = StatelessConfig { ipfs_sync_interval: Duration::ZERO, ..StatelessConfig::default() };
    let stage = stage(config).await;
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    assert_eq!(listings(&stage), 1);
    // Callers share a listing.
    let (first, second) =
        futures::join!(collect(stage.tracker.sync_all()), collect(stage.tracker.sync_all()));
    assert_eq!((first.unwrap(), second.unwrap()), (vec![], vec![]));
    assert_eq!(listings(&stage), 2);
    stage.ipfs.down("for a while");
    tokio::time::sleep(Duration::from_secs(60)).await;
    stage.ipfs.up();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(listings(&stage), 3);
}

#[tokio::test(start_paused = true)]
async fn recover_all_does_not_believe_what_was_known_of_a_daemon_that_went_away() {
    let stage = default_stage().await;
    let (kept, lost) = (stage.add_pinned(1).await, stage.add_pinned(2).await);
    stage.wait_listed().await;
    for notice in [Duration::ZERO, Duration::from_secs(1)] {
        stage.ipfs.down("being replaced");
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.daemon.unpin(&lost).await.unwrap();
        stage.ipfs.slow(IpfsCall::ListPins, Duration::from_secs(5));
        stage.ipfs.up();
        tokio::time::sleep(notice).await;
        let recovered = collect(stage.tracker.recover_all()).await.unwrap();
        assert_eq!(recovered.iter().map(|info| info.cid).collect::<Vec<_>>(), [lost]);
        stage.wait(&lost, TrackerStatus::Pinned).await;
        assert_eq!(stage.status(&kept).await, TrackerStatus::Pinned);
    }
}

#[tokio::test(start_paused = true)]
async fn until_the_daemon_was_listed_items_say_why_they_are_unknown() {
    let daemon = MemoryIpfs::new();
    let state = Arc::new(StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap());
    let faulty = FaultyIpfs::new(daemon.clone());
    faulty.fail_next(IpfsCall::ListPins, 2, refusal());
    let stage = Stage::over_faulty(&stateless(), faulty, daemon, state).await;
    let unknown = recursive(&stage, 1);
    stage.daemon.pin(&unknown).await.unwrap();
    stage.write(&unknown).await;
    let early = stage.list(StatusFilter::ALL).await;
    assert_eq!(early[0].status.status, TrackerStatus::ClusterError);
    assert!(early[0].status.error.contains("the first listing has not ended yet"), "{early:?}");
    // Recovering waits for a listing, and says that it knows no better.
    let failing = recursive(&stage, 2);
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&failing).await;
    let mut recovering = stage.tracker.recover_all();
    let recovered = recovering.next().await.unwrap().unwrap();
    assert_eq!(recovered[0].cid, failing.cid);
    let error = recovering.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("the daemon says no"), "{error}");
    stage.wait(&failing.cid, TrackerStatus::Pinned).await;
    // What we pinned ourselves is known to be held.
    let pinned = stage.list(TrackerStatus::Pinned.into()).await;
    assert_eq!(pinned.len(), 1);
    let errors = stage.list(StatusFilter::ERROR).await;
    assert!(errors[0].status.error.contains("the daemon says no"), "{errors:?}");
    // And it is tried again on its own.
    stage.wait_listed().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_says_nothing_is_given_up_and_tried_again() {
    let stage = default_stage().await;
    let cid = stage.add_pinned(1).await;
    stage.wait_listed().await;
    stage.ipfs.stall(IpfsCall::ListPins);
    let error = collect(stage.tracker.sync_all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Pinned));
    stage.daemon.unpin(&cid).await.unwrap();
    stage.ipfs.unstall(IpfsCall::ListPins);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::UnexpectedlyUnpinned));
}
