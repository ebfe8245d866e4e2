//! The queue and the workers.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_work_names_its_key() {
    type Spoil = fn(&mut StatelessConfig);
    StatelessConfig::default().validate().unwrap();
    let cases: [(&str, Spoil); 6] = [
        ("queued_pins_remembered", |config| config.queued_pins_remembered = 0),
        ("max_pin_queue_size", |config| config.max_pin_queue_size = 0),
        ("concurrent_pins", |config| config.concurrent_pins = 0),
        ("concurrent_unpins", |config| config.concurrent_unpins = 0),
        ("priority_pin_max_age", |config| config.priority_pin_max_age = Duration::ZERO),
        ("priority_pin_max_retries", |config| config.priority_pin_max_retries = 0),
    ];
    for (key, spoil) in cases {
        let mut config = StatelessConfig::default();
        spoil(&mut config);
        let error = config.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn a_tracker_outside_of_a_runtime_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cx = runtime.block_on(async {
        let state = StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap();
        let clock = TokioClock::starting_at(Timestamp::UNIX_EPOCH);
        TrackerContext::new(here(), PEERNAME, Arc::new(MemoryIpfs::new()), Arc::new(state), Arc::new(clock))
    });
    let error = StatelessTracker::new(StatelessConfig::default(), cx).unwrap_err();
    assert!(error.to_string().contains("runtime"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_told_and_leaves_the_item_in_error() {
    let stage =
        stage(StatelessConfig { max_pin_queue_size: 2, concurrent_pins: 1, ..StatelessConfig::default() })
            .await;
    stage.ipfs.stall(IpfsCall::Pin);
    let running = recursive(&stage, 0);
    stage.add(&running).await;
    stage.wait(&running.cid, TrackerStatus::Pinning).await;
    for seed in 1..3 {
        stage.add(&recursive(&stage, seed)).await;
    }
    let refused = recursive(&stage, 3);
    stage.write(&refused).await;
    let error = stage.tracker.track(refused.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::QueueFull, QUEUE_FULL));
    let info = stage.tracker.status(&refused.cid).await.unwrap();
    assert_eq!((info.status.status, info.status.error.as_str()), (TrackerStatus::PinError, QUEUE_FULL));
    assert_eq!(stage.tracker.recover(&refused.cid).await.unwrap_err().kind(), ErrorKind::QueueFull);
    // Old pins wait elsewhere.
    let old = Pin { timestamp: None, ..recursive(&stage, 4) };
    stage.add(&old).await;
    stage.ipfs.unstall(IpfsCall::Pin);
    stage.wait_idle().await;
    stage.tracker.recover(&refused.cid).await.unwrap();
    stage.wait(&refused.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn recover_all_goes_on_after_a_full_queue() {
    let stage =
        stage(StatelessConfig { max_pin_queue_size: 3, concurrent_pins: 1, ..StatelessConfig::default() })
            .await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    stage.write_all((0..20).map(|seed| recursive(&stage, seed)).collect()).await;
    let recovered = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(recovered.len(), 20);
    let queued = recovered.iter().filter(|info| info.status.status == TrackerStatus::PinQueued).count();
    assert!((3..=4).contains(&queued), "{queued}");
    let refused =
        |info: &&PinInfo| info.status.status == TrackerStatus::PinError && info.status.error == QUEUE_FULL;
    assert_eq!(recovered.iter().filter(refused).count(), 20 - queued);
    for _ in 0..10 {
        stage.wait_idle().await;
        collect(stage.tracker.recover_all()).await.unwrap();
    }
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn unpins_that_found_no_room_are_not_forgotten() {
    let stage =
        stage(StatelessConfig { max_pin_queue_size: 3, concurrent_unpins: 1, ..StatelessConfig::default() })
            .await;
    let mut cids = Vec::new();
    for seed in 0..10 {
        cids.push(stage.add_pinned(seed).await);
    }
    stage.ipfs.stall(IpfsCall::Unpin);
    let mut refused = 0;
    for cid in &cids {
        stage.erase(cid).await;
        refused += usize::from(stage.tracker.untrack(cid).await.is_err());
    }
    assert!(refused >= 6, "{refused}");
    assert_eq!(stage.list(TrackerStatus::UnpinError.into()).await.len(), refused);
    stage.ipfs.unstall(IpfsCall::Unpin);
    for _ in 0..5 {
        stage.wait_idle().await;
        collect(stage.tracker.recover_all()).await.unwrap();
    }
    stage.wait_idle().await;
    for cid in &cids {
        assert!(!stage.is_held(cid, PinMode::Recursive).await);
    }
    assert_eq!(stage.list(StatusFilter::ALL).await, []);
}

#[tokio::test(start_paused = true)]
async fn young_pins_that_did_not_fail_too_often_go_first() {
    let config = StatelessConfig {
        concurrent_pins: 1,
        priority_pin_max_age: Duration::from_secs(24 * 60 * 60),
        priority_pin_max_retries: 2,
        ..StatelessConfig::default()
    };
    let stage = stage(config).await;
    let troubled = recursive(&stage, 1);
    stage.write(&troubled).await;
    for attempt in 1..=3 {
        stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
        stage.tracker.recover(&troubled.cid).await.unwrap();
        stage.wait_idle().await;
        let status = stage.tracker.status(&troubled.cid).await.unwrap().status;
        assert_eq!((status.attempt_count, status.priority_pin), (attempt, true));
    }
    stage.ipfs.stall(IpfsCall::Pin);
    let running = recursive(&stage, 2);
    stage.add(&running).await;
    stage.wait(&running.cid, TrackerStatus::Pinning).await;
    let mut events = stage.tracker.events();
    let recovered = stage.tracker.recover(&troubled.cid).await.unwrap();
    assert!(!recovered.status.priority_pin, "tried too often");
    let day = Duration::from_secs(24 * 60 * 60);
    let old = Pin { timestamp: Some(stage.clock.now() - day * 2), ..recursive(&stage, 3) };
    let young = [recursive(&stage, 4), recursive(&stage, 5)];
    stage.add(&old).await;
    for pin in &young {
        stage.add(pin).await;
    }
    stage.ipfs.unstall(IpfsCall::Pin);
    let order = pinning_order(&mut events, 4).await;
    assert_eq!(order, [young[0].cid, young[1].cid, troubled.cid, old.cid]);
}

#[tokio::test(start_paused = true)]
async fn no_more_operations_run_than_configured() {
    let stage =
        stage(StatelessConfig { concurrent_pins: 3, concurrent_unpins: 2, ..StatelessConfig::default() })
            .await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    stage.ipfs.slow(IpfsCall::Unpin, Duration::from_secs(1));
    let pins: Vec<_> = (0..12).map(|seed| recursive(&stage, seed)).collect();
    for pin in &pins {
        stage.add(pin).await;
    }
    stage.wait_idle().await;
    for pin in &pins {
        stage.remove(&pin.cid).await;
    }
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running_max, 3);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).running_max, 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_leaves_an_error_and_the_others_go_on() {
    let (stage, hooked, _) = hooked_stage().await;
    hooked.panic_on_capacity.store(true, Ordering::Relaxed);
    let (bad, good) = (recursive(&stage, 1), recursive(&stage, 2));
    *hooked.panic_on.lock().unwrap() = Some(bad.cid);
    for _ in 0..20 {
        stage.add(&bad).await;
        let failed = stage.wait(&bad.cid, TrackerStatus::PinError).await;
        assert!(failed.status.error.contains("panicked: told to panic"), "{failed:?}");
    }
    stage.add(&good).await;
    stage.wait(&good.cid, TrackerStatus::Pinned).await;
    *hooked.panic_on.lock().unwrap() = None;
    stage.tracker.recover(&bad.cid).await.unwrap();
    stage.wait(&bad.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn pins_beyond_what_is_remembered_wait_like_the_others_and_are_all_pinned() {
    let config =
        StatelessConfig { queued_pins_remembered: 20, concurrent_pins: 5, ..StatelessConfig::default() };
    let stage = stage(config).await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    let pins: Vec<_> = (0..3_000).map(|seed| recursive(&stage, seed)).collect();
    stage.write_all(pins.clone()).await;
    let queued = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(queued.len(), pins.len());
    assert!(queued.iter().all(|info| info.status.status == TrackerStatus::PinQueued));
    let counts = stage.tracker.counts();
    assert_eq!(counts.pin_queued + counts.pinning, 3_000);
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), [], "all of them wait already");
    let all = stage.list(StatusFilter::ALL).await;
    let waiting = stage.list(TrackerStatus::PinQueued.into()).await;
    assert_eq!((all.len(), waiting.len()), (3_000, 2_995));
    assert_eq!(stage.list(TrackerStatus::UnexpectedlyUnpinned.into()).await, []);
    for info in waiting.iter().step_by(100) {
        assert_eq!(stage.status(&info.cid).await, TrackerStatus::PinQueued);
    }
    // What leaves the pinset is not pinned, what comes is.
    let gone = waiting.last().unwrap().cid;
    stage.remove(&gone).await;
    let late = recursive(&stage, 5_000);
    stage.add(&late).await;
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 3_000);
    assert_eq!(stage.status(&late.cid).await, TrackerStatus::Pinned);
    assert!(!stage.is_held(&gone, PinMode::Recursive).await);
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 3_000, "each once");
    assert_eq!(stage.tracker.counts(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn pins_that_are_not_remembered_wait_for_space_and_for_a_daemon_that_comes_back() {
    let config =
        StatelessConfig { queued_pins_remembered: 4, concurrent_pins: 2, ..StatelessConfig::default() };
    let stage = stage(config).await;
    stage.ipfs.fail_next(IpfsCall::Pin, 1_000, Error::new(ErrorKind::StorageFull, "no space left"));
    for seed in 0..100 {
        stage.add(&recursive(&stage, seed)).await;
    }
    stage.wait_counts(|counts| counts.waiting_for_space == 100).await;
    let waiting = stage.list(TrackerStatus::PinQueued.into()).await;
    assert_eq!(waiting.len(), 100);
    assert!(waiting.iter().all(|info| info.status.error.contains("no space left")));
    stage.ipfs.down("pulled the plug");
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    stage.ipfs.stop_failing(IpfsCall::Pin);
    stage.ipfs.up();
    stage.wait_listed().await;
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 100);
}
