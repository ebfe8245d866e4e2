//! What is pinned and unpinned, as the pinset says.

use super::*;

/// A tracked pin is queued, pinned, and says what the pinset says of it.
pub async fn a_tracked_pin_gets_pinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.content(1);
    assert_eq!(stage.status(&cid).await, TrackerStatus::Unpinned);
    let mut pin = stage.pin_of(cid, PinMode::Recursive);
    pin.options.metadata.insert("key".to_owned(), "value".to_owned());
    stage.add(&pin).await;
    let info = stage.wait(&cid, TrackerStatus::Pinned).await;
    assert!(stage.is_held(&cid, PinMode::Recursive).await);
    assert_eq!((info.cid, info.peer, info.name), (cid, here(), pin.options.name.clone()));
    assert_eq!(info.metadata, pin.options.metadata);
    assert_eq!((info.created, info.status.timestamp), (pin.timestamp, pin.timestamp));
    assert_eq!(info.status.error, "");
}

/// The reference lists only recursive pins and shows direct ones as lost.
pub async fn a_pin_is_held_in_its_mode_and_listed_so(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    for (seed, mode, other) in
        [(1, PinMode::Recursive, PinMode::Direct), (2, PinMode::Direct, PinMode::Recursive)]
    {
        let cid = stage.content(seed);
        stage.add(&stage.pin_of(cid, mode)).await;
        stage.wait(&cid, TrackerStatus::Pinned).await;
        assert!(stage.is_held(&cid, mode).await && !stage.is_held(&cid, other).await);
    }
    stage.wait_listed().await;
    for round in ["from operations", "from a listing"] {
        let all = stage.list(StatusFilter::ALL).await;
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|info| info.status.status == TrackerStatus::Pinned), "{round}: {all:?}");
        assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    }
}

/// Events may come twice.
pub async fn tracking_what_is_pinned_again_is_harmless(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.tracker.track(stage.pin_of(cid, PinMode::Recursive)).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.status(&cid).await, TrackerStatus::Pinned);
}

/// The daemon looks for content until it gives up.
pub async fn content_nobody_has_is_pinning_and_then_in_error(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = missing_content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    let pinning = stage.wait(&cid, TrackerStatus::Pinning).await;
    assert_eq!(pinning.status.attempt_count, 1);
    let failed = stage.wait(&cid, TrackerStatus::PinError).await;
    assert_eq!(failed.status.attempt_count, 1);
    assert!(failed.status.error.contains("no progress"), "{failed:?}");
    assert_eq!(failed.name, stage.pin_of(cid, PinMode::Recursive).options.name);
    assert!(failed.status.timestamp > pinning.status.timestamp);
}

/// The other way round.
pub async fn an_untracked_pin_gets_unpinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.remove(&cid).await;
    let info = stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert_eq!(info.name, "");
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
    assert_eq!(stage.list(StatusFilter::ALL).await, []);
    // Never pinned here: nothing goes wrong.
    stage.tracker.untrack(&missing_content(1)).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.status(&missing_content(1)).await, TrackerStatus::Unpinned);
}

/// A replica that catches up may hear of a removal long after the pin was made again.
pub async fn a_late_removal_does_not_untrack_what_is_in_the_pinset(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.tracker.untrack(&cid).await.unwrap();
    assert_eq!(stage.tracker.counts(), TrackerCounts::default(), "nothing is queued");
    stage.wait_idle().await;
    assert_eq!(stage.status(&cid).await, TrackerStatus::Pinned);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
}

/// A pin that moves to other peers leaves this daemon.
pub async fn what_this_peer_need_not_hold_is_unpinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    let other = stage.content(2);
    stage.add(&stage.remote_pin_of(cid)).await;
    stage.add(&stage.remote_pin_of(other)).await;
    stage.wait_idle().await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
    for cid in [cid, other] {
        let info = stage.tracker.status(&cid).await.unwrap();
        assert_eq!(info.status.status, TrackerStatus::Remote);
        assert_eq!(info.allocations, [elsewhere()]);
        assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Remote));
    }
}

/// No peer pins the root of sharded content.
pub async fn meta_pins_are_left_alone(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.content(1);
    let mut pin = stage.pin_of(cid, PinMode::Recursive);
    pin.pin_type = PinType::Meta;
    pin.max_depth = 0;
    stage.add(&pin).await;
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 0);
    assert_eq!(stage.status(&cid).await, TrackerStatus::Sharded);
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Sharded));
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
}
