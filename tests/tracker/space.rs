//! A daemon without room.

use super::*;

#[tokio::test(start_paused = true)]
async fn pins_that_wait_for_space_are_tried_one_at_a_time_at_growing_intervals_and_what_fits_is_found() {
    let stage = stage(StatelessConfig { concurrent_pins: 3, ..StatelessConfig::default() }).await;
    let full = Error::new(ErrorKind::StorageFull, "no space left on device");
    stage.ipfs.fail_next(IpfsCall::Pin, 1_000, full.clone());
    let pins: Vec<_> = (0..10).map(|seed| recursive(&stage, seed)).collect();
    for pin in &pins {
        stage.add(pin).await;
    }
    stage.wait_counts(|counts| counts.waiting_for_space == 10).await;
    let mut tried = stage.ipfs.count(IpfsCall::Pin).begun;
    assert!(tried <= 3, "only what ran when it was found out: {tried}");
    let mut last = tokio::time::Instant::now();
    for seconds in [30, 60, 120, 240, 480, 600, 600] {
        stage.ipfs.wait_count(IpfsCall::Pin, |count| count.begun > tried).await;
        assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, tried + 1);
        assert_eq!(last.elapsed().as_secs_f64().round(), f64::from(seconds));
        (tried, last) = (tried + 1, tokio::time::Instant::now());
    }
    // Each in its turn, so that one that is too large does not keep away those that fit.
    let mut events = stage.tracker.events();
    let turns = stage.tracker.clone();
    let order = pinning_order(&mut events, 10);
    let ask = async move {
        for _ in 0..10 {
            turns.recover(&pins[0].cid).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        pins
    };
    let (order, pins) = futures::join!(order, ask);
    let distinct: std::collections::BTreeSet<_> = order.iter().collect();
    assert_eq!(distinct.len(), pins.len());
    stage.ipfs.stop_failing(IpfsCall::Pin);
    stage.wait_idle().await;
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn freed_space_and_unpins_bring_the_next_try() {
    let stage = stage(StatelessConfig::default()).await;
    let held = stage.add_pinned(100).await;
    let (first, second) = (recursive(&stage, 1), recursive(&stage, 2));
    for (pin, unpins) in [(&first, false), (&second, true)] {
        stage.ipfs.fail_next(IpfsCall::Pin, 1_000, Error::new(ErrorKind::StorageFull, "no space left"));
        stage.add(pin).await;
        stage.wait_counts(|counts| counts.waiting_for_space == 1).await;
        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        stage.ipfs.stop_failing(IpfsCall::Pin);
        let started = tokio::time::Instant::now();
        if unpins {
            stage.remove(&held).await;
        } else {
            stage.tracker.space_freed();
        }
        stage.wait(&pin.cid, TrackerStatus::Pinned).await;
        assert!(started.elapsed() <= Duration::from_secs(31), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn pins_wait_while_less_is_left_than_the_configuration_wants() {
    let config = StatelessConfig { free_space_min: 1 << 60, ..StatelessConfig::default() };
    let stage = stage(config).await;
    let pin = recursive(&stage, 1);
    stage.add(&pin).await;
    stage.wait_counts(|counts| counts.waiting_for_space == 1).await;
    let info = stage.tracker.status(&pin.cid).await.unwrap();
    assert!(info.status.error.contains("free_space_min"), "{info:?}");
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 0);
    // A daemon that does not say how much is left is no reason to wait.
    stage.ipfs.fail_next(IpfsCall::RepoStat, 1_000, Error::new(ErrorKind::Remote, "no"));
    stage.tracker.recover(&pin.cid).await.unwrap();
    stage.wait(&pin.cid, TrackerStatus::Pinned).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_finds_no_content_lets_the_others_go_on() {
    let stage = stage(StatelessConfig { concurrent_pins: 1, ..StatelessConfig::default() }).await;
    stage.ipfs.fail_next(IpfsCall::Pin, 1, Error::new(ErrorKind::StorageFull, "no space left"));
    let nobody_has =
        stage.pin_of(ipfs_cluster::testing::tracker_suite::missing_content(1), PinMode::Recursive);
    stage.add(&nobody_has).await;
    stage.wait_counts(|counts| counts.waiting_for_space == 1).await;
    let there = recursive(&stage, 1);
    stage.add(&there).await;
    stage.wait(&there.cid, TrackerStatus::Pinned).await;
    stage.wait(&nobody_has.cid, TrackerStatus::PinError).await;
}
