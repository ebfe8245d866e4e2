//! What changes while it is worked on, or soon after.

use super::*;

/// The daemon is not left looking for what nobody wants.
pub async fn a_pin_that_leaves_the_pinset_while_pinning_is_given_up_and_unpinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = missing_content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    stage.wait(&cid, TrackerStatus::Pinning).await;
    stage.remove(&cid).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1).await;
    stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).answered, 1);
}

/// The same for one that other peers take over.
pub async fn a_pin_that_becomes_remote_while_pinning_is_given_up(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = missing_content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    stage.wait(&cid, TrackerStatus::Pinning).await;
    stage.add(&stage.remote_pin_of(cid)).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1).await;
    stage.wait_idle().await;
    assert_eq!(stage.status(&cid).await, TrackerStatus::Remote);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).answered, 1);
}

/// A repin with another mode is no repetition; also while the first one runs.
pub async fn a_direct_pin_becomes_recursive(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let finished = stage.content(1);
    stage.add(&stage.pin_of(finished, PinMode::Direct)).await;
    stage.wait(&finished, TrackerStatus::Pinned).await;
    let running = stage.content(2);
    stage.ipfs.stall(IpfsCall::Pin);
    stage.add(&stage.pin_of(running, PinMode::Direct)).await;
    stage.wait(&running, TrackerStatus::Pinning).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    for cid in [finished, running] {
        stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    }
    stage.ipfs.unstall(IpfsCall::Pin);
    for cid in [finished, running] {
        stage.wait(&cid, TrackerStatus::Pinned).await;
        assert!(stage.is_held(&cid, PinMode::Recursive).await);
        assert!(!stage.is_held(&cid, PinMode::Direct).await);
    }
}

/// The daemon refuses a direct pin of what it holds recursively, and the unpin may not have happened yet.
pub async fn a_recursive_pin_becomes_direct_when_it_was_unpinned_in_between(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.remove(&cid).await;
    stage.add(&stage.pin_of(cid, PinMode::Direct)).await;
    stage.wait(&cid, TrackerStatus::Pinned).await;
    assert!(stage.is_held(&cid, PinMode::Direct).await);
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
    stage.wait_listed().await;
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Pinned));
}

/// The old pin stays.
pub async fn a_pin_that_continues_another_uses_it(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let old = stage.add_pinned(1).await;
    let new = stage.content(2);
    let mut pin = stage.pin_of(new, PinMode::Recursive);
    pin.options.pin_update = Some(old);
    stage.add(&pin).await;
    stage.wait(&new, TrackerStatus::Pinned).await;
    assert_eq!(stage.status(&old).await, TrackerStatus::Pinned);
    assert!(stage.is_held(&old, PinMode::Recursive).await && stage.is_held(&new, PinMode::Recursive).await);
}

/// Whatever happens in between.
pub async fn pinning_and_unpinning_quickly_ends_as_the_pinset_says(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let (kept, gone) = (stage.content(1), stage.content(2));
    for latency in [0, 1, 15, 40] {
        stage.ipfs.slow(IpfsCall::Pin, Duration::from_millis(latency));
        stage.ipfs.slow(IpfsCall::Unpin, Duration::from_millis(latency / 2));
        for pause in [0, 0, 1, 10, 20, 30] {
            for cid in [kept, gone] {
                stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                stage.remove(&cid).await;
            }
            stage.add(&stage.pin_of(kept, PinMode::Recursive)).await;
        }
        stage.wait_idle().await;
        assert_eq!(stage.status(&kept).await, TrackerStatus::Pinned, "with {latency} ms");
        assert_eq!(stage.status(&gone).await, TrackerStatus::Unpinned, "with {latency} ms");
        assert!(stage.is_held(&kept, PinMode::Recursive).await);
        assert!(!stage.is_held(&gone, PinMode::Recursive).await);
        stage.wait_listed().await;
        assert_eq!(stage.listed_status(&kept).await, Some(TrackerStatus::Pinned));
    }
}

/// An outdated pin is never pinned.
pub async fn a_queued_pin_is_pinned_as_the_pinset_has_it_when_its_turn_comes(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    stage.ipfs.stall(IpfsCall::Pin);
    let first = stage.content(1);
    stage.add(&stage.pin_of(first, PinMode::Recursive)).await;
    stage.wait(&first, TrackerStatus::Pinning).await;
    let (changed, gone) = (stage.content(2), stage.content(3));
    for cid in [changed, gone] {
        stage.add(&stage.pin_of(cid, PinMode::Direct)).await;
        assert_eq!(stage.status(&cid).await, TrackerStatus::PinQueued);
    }
    // The events of these got lost.
    stage.write(&stage.pin_of(changed, PinMode::Recursive)).await;
    stage.erase(&gone).await;
    stage.ipfs.unstall(IpfsCall::Pin);
    stage.wait_idle().await;
    assert!(stage.is_held(&changed, PinMode::Recursive).await);
    assert_eq!(stage.status(&gone).await, TrackerStatus::Unpinned);
    assert!(!stage.is_held(&gone, PinMode::Direct).await);
}
