//! What failed or got lost: recover and sync.

use super::*;

/// Attempts are counted over recoveries.
pub async fn a_failed_pin_is_retried_on_recover(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let block = Block::raw("comes late");
    let cid = block.cid;
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    stage.wait(&cid, TrackerStatus::PinError).await;
    let recovered = stage.tracker.recover(&cid).await.unwrap();
    assert_eq!(recovered.status.status, TrackerStatus::PinQueued);
    assert_eq!(recovered.status.attempt_count, 1, "what was tried until now");
    stage.wait(&cid, TrackerStatus::Pinning).await;
    let failed = stage.wait(&cid, TrackerStatus::PinError).await;
    assert_eq!(failed.status.attempt_count, 2);
    stage.daemon.put(block).unwrap();
    stage.tracker.recover(&cid).await.unwrap();
    let pinned = stage.wait(&cid, TrackerStatus::Pinned).await;
    assert_eq!(pinned.status.attempt_count, 0);
}

/// Nothing else is given, nothing else is touched.
pub async fn recover_all_retries_what_failed_or_got_lost_and_gives_only_that(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    let lost = stage.content(2);
    stage.write(&stage.pin_of(lost, PinMode::Direct)).await;
    let failing = stage.content(3);
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&stage.pin_of(failing, PinMode::Recursive)).await;
    let failed = stage.wait(&failing, TrackerStatus::PinError).await;
    assert!(failed.status.error.contains("the daemon says no"));
    stage.write(&stage.remote_pin_of(stage.content(4))).await;
    let pins_before = stage.ipfs.count(IpfsCall::Pin).begun;
    let recovered = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(cids(&recovered), sorted([lost, failing]));
    stage.wait_idle().await;
    for cid in [pinned, lost, failing] {
        assert_eq!(stage.status(&cid).await, TrackerStatus::Pinned);
    }
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, pins_before + 2);
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
}

/// The reference forgets to.
pub async fn a_failed_unpin_is_retried_on_recover(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = failed_unpin(&stage, 1).await;
    assert_eq!(stage.tracker.recover(&cid).await.unwrap().status.status, TrackerStatus::UnpinQueued);
    stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
}

/// The reference forgets to.
pub async fn a_failed_unpin_is_retried_on_recover_all(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = failed_unpin(&stage, 1).await;
    let recovered = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(cids(&recovered), [cid]);
    stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
}

/// Somebody else uses the daemon, too.
pub async fn a_manual_unpin_shows_and_recover_pins_again(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.daemon.unpin(&cid).await.unwrap();
    let info = stage.tracker.status(&cid).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::UnexpectedlyUnpinned);
    assert_eq!(info.status.error, "the item should be pinned but it is not");
    assert_eq!(stage.tracker.recover(&cid).await.unwrap().status.status, TrackerStatus::PinQueued);
    stage.wait(&cid, TrackerStatus::Pinned).await;
    assert!(stage.is_held(&cid, PinMode::Recursive).await);
}

/// It only says where things stand.
pub async fn recover_leaves_alone_what_needs_nothing(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.begun == 2).await;
    for (cid, status) in [
        (pinned, TrackerStatus::Pinned),
        (pinning, TrackerStatus::Pinning),
        (missing_content(2), TrackerStatus::Unpinned),
    ] {
        assert_eq!(stage.tracker.recover(&cid).await.unwrap().status.status, status);
    }
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 2);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
}

/// Lost and found since the last time.
pub async fn sync_all_gives_what_changed_and_pins_nothing(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut pinned = Vec::new();
    for seed in 0..10 {
        pinned.push(stage.add_pinned(seed).await);
    }
    stage.wait_listed().await;
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    let lost = [pinned[2], pinned[7]];
    for cid in &lost {
        stage.daemon.unpin(cid).await.unwrap();
    }
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(cids(&changed), sorted(lost));
    for info in &changed {
        assert_eq!(info.status.status, TrackerStatus::UnexpectedlyUnpinned);
        assert_eq!(info.status.error, "the item should be pinned but it is not");
        assert_eq!(stage.listed_status(&info.cid).await, Some(TrackerStatus::UnexpectedlyUnpinned));
    }
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    stage.daemon.pin(&stage.pin_of(lost[0], PinMode::Recursive)).await.unwrap();
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(cids(&changed), [lost[0]]);
    assert_eq!(changed[0].status.status, TrackerStatus::Pinned);
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 10);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
}

/// Two failures that somebody cured with the daemon's own tools, and two that are still there.
async fn cured_failures<G>(stage: &Stage<G>) -> [(Cid, TrackerStatus, TrackerStatus); 4] {
    let mut failures = Vec::new();
    for seed in [1, 2] {
        let cid = stage.content(seed);
        stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
        stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
        stage.wait(&cid, TrackerStatus::PinError).await;
        failures.push(cid);
    }
    for seed in [3, 4] {
        failures.push(failed_unpin(stage, seed).await);
    }
    stage.daemon.pin(&stage.pin_of(failures[0], PinMode::Recursive)).await.unwrap();
    stage.daemon.unpin(&failures[2]).await.unwrap();
    [
        (failures[0], TrackerStatus::PinError, TrackerStatus::Pinned),
        (failures[1], TrackerStatus::PinError, TrackerStatus::PinError),
        (failures[2], TrackerStatus::UnpinError, TrackerStatus::Unpinned),
        (failures[3], TrackerStatus::UnpinError, TrackerStatus::UnpinError),
    ]
}

/// One by one.
pub async fn sync_forgets_failures_that_the_daemon_fulfils(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cured = cured_failures(&stage).await;
    let begun = [IpfsCall::Pin, IpfsCall::Unpin].map(|call| stage.ipfs.count(call).begun);
    for (cid, before, after) in cured {
        assert_eq!(stage.status(&cid).await, before);
        assert_eq!(stage.tracker.sync(&cid).await.unwrap().status.status, after);
        assert_eq!(stage.status(&cid).await, after);
    }
    assert_eq!([IpfsCall::Pin, IpfsCall::Unpin].map(|call| stage.ipfs.count(call).begun), begun);
    let counts = stage.tracker.counts();
    assert_eq!((counts.pin_error, counts.unpin_error), (1, 1));
}

/// All at once.
pub async fn sync_all_forgets_failures_that_the_daemon_fulfils(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let cured = cured_failures(&stage).await;
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(cids(&changed), sorted([cured[0].0, cured[2].0]));
    for info in &changed {
        let (_, _, after) = cured.iter().find(|(cid, ..)| *cid == info.cid).unwrap();
        assert_eq!(info.status.status, *after);
    }
    for (cid, _, after) in cured {
        assert_eq!(stage.status(&cid).await, after);
    }
}

/// Nothing can be compared.
pub async fn sync_of_a_daemon_that_is_down_is_an_error(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.ipfs.down("pulled the plug");
    assert_eq!(stage.tracker.sync(&cid).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = collect(stage.tracker.sync_all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    stage.ipfs.up();
    assert_eq!(stage.tracker.sync(&cid).await.unwrap().status.status, TrackerStatus::Pinned);
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
}
