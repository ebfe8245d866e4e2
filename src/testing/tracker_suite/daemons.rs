//! Daemons that are down, hang, break off, come back, are busy or full.

use super::*;

/// Never an empty answer.
pub async fn a_daemon_that_is_down_is_the_reason_shown(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    let remote = stage.content(2);
    stage.add(&stage.remote_pin_of(remote)).await;
    stage.wait_listed().await;
    stage.ipfs.down("pulled the plug");
    let info = stage.tracker.status(&cid).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::ClusterError);
    assert!(info.status.error.contains("pulled the plug"), "{info:?}");
    assert_eq!(stage.status(&remote).await, TrackerStatus::Remote);
    // The news of it travels on its own.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for filter in [StatusFilter::ALL, TrackerStatus::ClusterError.into(), StatusFilter::ERROR] {
        let all = stage.list(filter).await;
        let info = all.iter().find(|info| info.cid == cid).expect("the item that cannot be looked at");
        assert_eq!(info.status.status, TrackerStatus::ClusterError);
        assert!(info.status.error.contains("pulled the plug"), "{info:?}");
    }
    let failing = stage.content(3);
    stage.add(&stage.pin_of(failing, PinMode::Recursive)).await;
    let failed = stage.wait(&failing, TrackerStatus::PinError).await;
    assert!(failed.status.error.contains("pulled the plug"), "{failed:?}");
    stage.ipfs.up();
    stage.wait_listed().await;
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Pinned));
    stage.tracker.recover(&failing).await.unwrap();
    stage.wait(&failing, TrackerStatus::Pinned).await;
}

/// Every call of it.
pub async fn a_daemon_that_hangs_blocks_neither_status_nor_shutdown(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    stage.wait_listed().await;
    for call in IpfsCall::ALL {
        stage.ipfs.stall(call);
    }
    let removed = stage.content(2);
    let pinning = stage.content(3);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.tracker.untrack(&removed).await.unwrap();
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    stage.wait(&removed, TrackerStatus::Unpinning).await;
    let started = tokio::time::Instant::now();
    let info = stage.tracker.status(&pinned).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::ClusterError, "{info:?}");
    assert!(started.elapsed() <= Duration::from_secs(15), "other peers wait no longer for an answer");
    let started = tokio::time::Instant::now();
    assert_eq!(stage.list(StatusFilter::ALL).await.len(), 3);
    assert_eq!(started.elapsed(), Duration::ZERO);
    let mut syncing = stage.tracker.sync_all();
    let (synced, ()) = futures::join!(syncing.next(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started = tokio::time::Instant::now();
        stage.tracker.shutdown().await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    });
    assert_eq!(synced.unwrap().unwrap_err().kind(), ErrorKind::ShutDown);
    for call in [IpfsCall::Pin, IpfsCall::Unpin] {
        let count = stage.ipfs.count(call);
        assert_eq!((count.running, count.dropped), (0, 1), "{call:?}");
    }
}

/// Half a listing would make the other half look lost.
pub async fn a_listing_that_breaks_off_is_not_believed(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut pins = Vec::new();
    for seed in 0..1500 {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.daemon.pin(&pin).await.unwrap();
        pins.push(pin);
    }
    stage.write_all(pins).await;
    stage.wait_listed().await;
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    stage.ipfs.break_next(IpfsCall::ListPins, 1, refusal());
    let error = collect(stage.tracker.sync_all()).await.unwrap_err();
    assert!(error.to_string().contains("the daemon says no"), "{error}");
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 1500);
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
}

/// It may be another one, with other pins.
pub async fn a_daemon_that_comes_back_is_listed_again(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let (kept, lost) = (stage.add_pinned(1).await, stage.add_pinned(2).await);
    stage.wait_listed().await;
    stage.ipfs.down("being replaced");
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.daemon.unpin(&lost).await.unwrap();
    stage.ipfs.up();
    let started = tokio::time::Instant::now();
    while stage.listed_status(&lost).await != Some(TrackerStatus::UnexpectedlyUnpinned) {
        assert!(started.elapsed() < Duration::from_secs(60), "not listed again");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(stage.listed_status(&kept).await, Some(TrackerStatus::Pinned));
}

/// Its opinion may change at any time.
pub async fn no_more_pins_run_than_the_daemon_can_take(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(60));
    let mut pins = Vec::new();
    for seed in 0..6 {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.add(&pin).await;
        pins.push(pin.cid);
    }
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.answered == 2).await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running_max, 1);
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(2));
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running_max, 2);
    for cid in &pins {
        assert_eq!(stage.status(cid).await, TrackerStatus::Pinned);
    }
}

fn no_space() -> Error {
    Error::new(ErrorKind::StorageFull, "write /repo/blocks: no space left on device")
}

/// Pins that many, on a daemon without space, and waits until all of them wait for it.
async fn fill<G>(stage: &Stage<G>, pins: u32) -> Vec<Cid> {
    stage.ipfs.fail_next(IpfsCall::Pin, 100_000, no_space());
    let mut cids = Vec::new();
    for seed in 100..100 + pins {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.add(&pin).await;
        cids.push(pin.cid);
    }
    stage.wait_counts(|counts| counts.waiting_for_space == u64::from(pins)).await;
    cids
}

/// A full disk is no failure of a pin: it waits and says why, no attempt counts, and the daemon is left alone but for
/// one pin now and then.
pub async fn pins_wait_while_the_daemon_has_no_space_and_go_on_by_themselves(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let held = stage.add_pinned(1).await;
    let cids = fill(&stage, 40).await;
    let tried = stage.ipfs.count(IpfsCall::Pin).begun;
    let day = Duration::from_secs(24 * 60 * 60);
    tokio::time::sleep(day).await;
    let tries = stage.ipfs.count(IpfsCall::Pin).begun - tried;
    // Not given up, and neither every second.
    assert!((24..=24 * 60 * 2).contains(&tries), "{tries} tries in a day");
    let waiting = stage.list(TrackerStatus::PinQueued.into()).await;
    assert_eq!(waiting.iter().map(|info| info.cid).collect::<Vec<_>>(), sorted(cids.clone()));
    for info in waiting {
        assert!(info.status.error.contains("space"), "{info:?}");
        assert_eq!(info.status.attempt_count, 0);
    }
    assert_eq!(stage.list(StatusFilter::ERROR).await, []);
    assert_eq!(stage.status(&held).await, TrackerStatus::Pinned);
    stage.ipfs.stop_failing(IpfsCall::Pin);
    stage.wait_idle().await;
    for cid in &cids {
        let info = stage.tracker.status(cid).await.unwrap();
        assert_eq!((info.status.status, info.status.error.as_str()), (TrackerStatus::Pinned, ""));
    }
    assert_eq!(stage.tracker.counts(), TrackerCounts::default());
}

/// Who made room need not wait for the next try.
pub async fn recover_tries_at_once_what_waits_for_space(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    for all in [false, true] {
        let cids = fill(&stage, 20).await;
        tokio::time::sleep(PATIENCE).await;
        stage.ipfs.stop_failing(IpfsCall::Pin);
        let started = tokio::time::Instant::now();
        if all {
            collect(stage.tracker.recover_all()).await.unwrap();
        } else {
            let info = stage.tracker.recover(&cids[0]).await.unwrap();
            assert_eq!(info.status.status, TrackerStatus::PinQueued);
        }
        stage.wait_idle().await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        for cid in &cids {
            stage.remove(cid).await;
        }
        stage.wait_idle().await;
    }
}

/// Nothing is left to wait for, and new pins find out by themselves that there is space again.
pub async fn what_leaves_the_pinset_while_it_waits_for_space_is_forgotten(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    for cid in fill(&stage, 5).await {
        stage.remove(&cid).await;
    }
    stage.wait_idle().await;
    assert_eq!(stage.list(StatusFilter::ALL).await, []);
    tokio::time::sleep(PATIENCE).await;
    stage.ipfs.stop_failing(IpfsCall::Pin);
    let started = tokio::time::Instant::now();
    stage.add_pinned(1).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}
