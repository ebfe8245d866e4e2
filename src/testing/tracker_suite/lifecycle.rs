//! The beginning and the end of a tracker.

use super::*;

/// Nothing of a tracker is stored: pinset and daemon say it all.
pub async fn a_new_tracker_takes_up_what_the_old_one_left(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    stage.ipfs.stall(IpfsCall::Pin);
    let mut left = Vec::new();
    for seed in 2..30 {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.add(&pin).await;
        left.push(pin.cid);
    }
    stage.wait_counts(|counts| counts.pinning > 0).await;
    stage.tracker.shutdown().await.unwrap();
    let next = Stage::over(&fixture, stage.daemon.clone(), stage.state.clone()).await;
    let recovered = collect(next.tracker.recover_all()).await.unwrap();
    assert_eq!(cids(&recovered), sorted(left.clone()));
    for cid in left.iter().chain([&pinned]) {
        next.wait(cid, TrackerStatus::Pinned).await;
    }
}

/// Every caller returns when it has stopped, and every call after that is refused.
pub async fn shutdown_is_final_and_idempotent(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    let (first, second) = futures::join!(stage.tracker.shutdown(), stage.tracker.shutdown());
    first.unwrap();
    second.unwrap();
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running, 0);
    stage.tracker.shutdown().await.unwrap();
    let pin = stage.state.get(&cid).await.unwrap().unwrap();
    let refused = |error: Error| assert_eq!(error.kind(), ErrorKind::ShutDown, "{error}");
    refused(stage.tracker.statuses(vec![pin.clone()]).await.unwrap_err());
    refused(stage.tracker.track(pin).await.unwrap_err());
    refused(stage.tracker.untrack(&cid).await.unwrap_err());
    refused(stage.tracker.status(&cid).await.unwrap_err());
    refused(stage.tracker.recover(&cid).await.unwrap_err());
    refused(stage.tracker.sync(&cid).await.unwrap_err());
    refused(collect(stage.tracker.status_all(StatusFilter::ALL)).await.unwrap_err());
    refused(collect(stage.tracker.status_all(StatusFilter::QUEUED)).await.unwrap_err());
    refused(collect(stage.tracker.recover_all()).await.unwrap_err());
    refused(collect(stage.tracker.sync_all()).await.unwrap_err());
    assert!(stage.tracker.events().next().await.is_none());
}
