//! Operations that overtake each other, and daemons that come and go.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_never_here_is_not_asked_about() {
    let stage = default_stage().await;
    stage.wait_listed().await;
    for seed in 0..100 {
        stage.add(&stage.remote_pin_of(missing_content(seed))).await;
    }
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
    assert_eq!(stage.ipfs.count(IpfsCall::IsPinned).begun, 0);
}

#[tokio::test(start_paused = true)]
async fn a_remote_pin_that_could_not_be_unpinned_is_retried() {
    let stage = default_stage().await;
    let cid = stage.add_pinned(1).await;
    stage.ipfs.fail_next(IpfsCall::Unpin, 1, refusal());
    stage.add(&stage.remote_pin_of(cid)).await;
    stage.wait_idle().await;
    let info = stage.tracker.status(&cid).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::Remote);
    assert!(info.status.error.contains("the daemon says no"), "{info:?}");
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
}

#[tokio::test(start_paused = true)]
async fn an_unpin_that_is_overtaken_may_finish_before_the_pin_starts() {
    let stage = default_stage().await;
    let cid = stage.add_pinned(1).await;
    for latency in [3, 30] {
        stage.ipfs.slow(IpfsCall::Unpin, Duration::from_secs(latency));
        stage.remove(&cid).await;
        stage.wait(&cid, TrackerStatus::Unpinning).await;
        stage.ipfs.wait_count(IpfsCall::Unpin, |count| count.running == 1).await;
        let started = Instant::now();
        let begun = stage.ipfs.count(IpfsCall::Pin).begun;
        stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
        assert_eq!(stage.status(&cid).await, TrackerStatus::PinQueued);
        stage.ipfs.wait_count(IpfsCall::Pin, |count| count.begun > begun).await;
        assert_eq!(started.elapsed().as_secs_f64().round() as u64, latency.min(10));
        stage.wait(&cid, TrackerStatus::Pinned).await;
        assert!(stage.is_held(&cid, PinMode::Recursive).await);
    }
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pin_whose_removal_got_lost_is_let_go_of_when_it_is_done() {
    let stage = default_stage().await;
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(1));
    let (removed, moved) = (recursive(&stage, 1), recursive(&stage, 2));
    for pin in [&removed, &moved] {
        stage.add(pin).await;
        stage.wait(&pin.cid, TrackerStatus::Pinning).await;
    }
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 2).await;
    stage.erase(&removed.cid).await;
    stage.write(&stage.remote_pin_of(moved.cid)).await;
    stage.wait_idle().await;
    for pin in [&removed, &moved] {
        assert!(!stage.is_held(&pin.cid, PinMode::Recursive).await);
    }
}

#[tokio::test(start_paused = true)]
async fn recover_all_gives_up_pins_whose_removal_got_lost() {
    let stage = default_stage().await;
    let pin = stage.pin_of(missing_content(1), PinMode::Recursive);
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    stage.erase(&pin.cid).await;
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1).await;
    stage.wait(&pin.cid, TrackerStatus::Unpinned).await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_with_new_origins_starts_again_with_them() {
    let stage = default_stage().await;
    let mut pin = stage.pin_of(missing_content(1), PinMode::Recursive);
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    stage.add(&pin).await;
    stage.wait(&pin.cid, TrackerStatus::Pinning).await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 1, "nothing new");
    pin.options.origins = vec![stage.daemon.address().clone()];
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1 && count.begun == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_is_dropped_stops() {
    let stage = default_stage().await;
    let pin = stage.pin_of(missing_content(1), PinMode::Recursive);
    stage.add(&pin).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    let listing = stage.tracker.status_all(StatusFilter::ALL);
    let ipfs = stage.ipfs.clone();
    drop(stage);
    ipfs.wait_count(IpfsCall::Pin, |count| count.running == 0).await;
    assert_eq!(collect(listing).await.unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test(start_paused = true)]
async fn the_daemon_going_and_coming_tells_to_compare() {
    let stage = default_stage().await;
    stage.wait_listed().await;
    let mut events = stage.tracker.events();
    stage.ipfs.down("for a while");
    assert!(matches!(events.next().await, Some(TrackerEvent::Resync)));
    stage.ipfs.up();
    assert!(matches!(events.next().await, Some(TrackerEvent::Resync)));
}
