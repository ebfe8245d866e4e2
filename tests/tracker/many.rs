//! Many items, and random events in any order.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_items_are_listed_as_they_are_pulled() {
    const ITEMS: u32 = 100_000;
    let (stage, _, watched) = hooked_stage().await;
    let mut pins = Vec::new();
    for seed in 0..ITEMS {
        let cid = Block::raw(seed.to_be_bytes().to_vec()).cid;
        pins.push(if seed % 2 == 0 {
            stage.remote_pin_of(cid)
        } else {
            stage.pin_of(cid, PinMode::Recursive)
        });
    }
    stage.write_all(pins).await;
    stage.wait_listed().await;
    let pages_of = |watched: &Watched| watched.pages.swap(0, Ordering::Relaxed);
    pages_of(&watched);
    let mut listing = stage.tracker.status_all(StatusFilter::ALL);
    listing.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pages_of(&watched) <= 2, "pages are read before they are wanted");
    drop(listing);
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(all.len() as u32, ITEMS);
    let lost = all.iter().filter(|info| info.status.status == TrackerStatus::UnexpectedlyUnpinned);
    assert_eq!(lost.count() as u32, ITEMS / 2);
    pages_of(&watched);
    // What only operations show does not need the pinset.
    assert_eq!(stage.list(StatusFilter::ERROR | StatusFilter::QUEUED).await, []);
    assert_eq!(pages_of(&watched), 0);
    // Nobody pulls: nothing is queued but what was pulled.
    let mut recovering = stage.tracker.recover_all();
    stage.ipfs.stall(IpfsCall::Pin);
    let first = recovering.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counts = stage.tracker.counts();
    assert_eq!(counts.pin_queued + counts.pinning, first.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn operations_beside_a_small_pinset_are_listed_to_the_last() {
    let stage = default_stage().await;
    stage.wait_listed().await;
    let mut expected = Vec::new();
    for seed in 0..5 {
        expected.push(stage.add_pinned(seed).await);
    }
    stage.ipfs.stall(IpfsCall::Unpin);
    for seed in 0..3000 {
        let cid = missing_content(seed);
        stage.tracker.untrack(&cid).await.unwrap();
        expected.push(cid);
    }
    expected.sort_by_key(Cid::to_bytes);
    for filter in [StatusFilter::ALL, "pinned,unpin_queued,unpinning".parse().unwrap()] {
        let listed: Vec<_> = stage.list(filter).await.iter().map(|info| info.cid).collect();
        assert_eq!(listed, expected);
    }
    let unpins = stage.list("unpin_queued,unpinning".parse().unwrap()).await;
    assert_eq!(unpins.len(), 3000);
    // The end of a page of operations may be the end of the page of pins, or of everything.
    for left in [2048, 1025, 1024, 1023] {
        let cids: Vec<_> = stage.list(TrackerStatus::UnpinQueued.into()).await;
        for info in cids.iter().skip(left - 4) {
            stage.write(&stage.remote_pin_of(info.cid)).await;
            stage.tracker.track(stage.remote_pin_of(info.cid)).await.unwrap();
        }
        let all = stage.list(StatusFilter::ALL).await;
        assert_eq!(all.len(), expected.len());
        let unpins = stage.list("unpin_queued,unpinning".parse().unwrap()).await;
        assert_eq!(unpins.len(), left);
    }
}

/// Everything a run shows, for comparison with another run.
async fn trace(seed: u64) -> Vec<String> {
    let stage = default_stage().await;
    let mut events = stage.tracker.events();
    let mut random = seed;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_millis(7));
    for _ in 0..300 {
        let pin = recursive(&stage, next(20) as u32);
        match next(10) {
            0..4 => stage.add(&pin).await,
            4..6 => stage.remove(&pin.cid).await,
            6 => stage.add(&stage.remote_pin_of(pin.cid)).await,
            7 => stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal()),
            8 => drop(collect(stage.tracker.recover_all()).await),
            _ => tokio::time::sleep(Duration::from_millis(next(30))).await,
        }
    }
    stage.ipfs.stop_failing(IpfsCall::Pin);
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    for info in stage.list(StatusFilter::ALL).await {
        let expected =
            if info.allocations.is_empty() { TrackerStatus::Pinned } else { TrackerStatus::Remote };
        assert_eq!(info.status.status, expected, "seed {seed}: {info:?}");
        let held = stage.is_held(&info.cid, PinMode::Recursive).await;
        assert_eq!(held, expected == TrackerStatus::Pinned, "seed {seed}: {info:?}");
    }
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), [], "seed {seed}");
    stage.tracker.shutdown().await.unwrap();
    let mut lines = Vec::new();
    while let Some(event) = events.next().await {
        lines.push(format!("{event:?}"));
    }
    lines
}

#[test]
fn any_order_of_events_ends_as_the_pinset_says_and_a_seed_always_runs_the_same() {
    let run = |seed| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(trace(seed))
    };
    for seed in 0..24 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_end_as_the_pinset_says() {
    let stage = Arc::new(default_stage().await);
    let pins: Vec<_> = (0..40).map(|seed| recursive(&stage, seed)).collect();
    // Writing the pinset is one writer's business, telling of it is not.
    let mut expected = BTreeMap::new();
    for round in 0..30 {
        let mut calls = Vec::new();
        for (number, pin) in pins.iter().enumerate() {
            let wanted = (number + round) % 3 != 0;
            expected.insert(number, wanted);
            if wanted {
                stage.write(pin).await;
            } else {
                stage.erase(&pin.cid).await;
            }
            let (tracker, pin) = (Arc::clone(&stage.tracker), pin.clone());
            calls.push(tokio::spawn(async move {
                if wanted { tracker.track(pin).await } else { tracker.untrack(&pin.cid).await }
            }));
        }
        let (listed, synced) = futures::join!(
            collect(stage.tracker.status_all(StatusFilter::ALL)),
            collect(stage.tracker.sync_all())
        );
        listed.unwrap();
        synced.unwrap();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    stage.wait_idle().await;
    for (number, wanted) in expected {
        assert_eq!(stage.is_held(&pins[number].cid, PinMode::Recursive).await, wanted, "pin {number}");
    }
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
    stage.tracker.shutdown().await.unwrap();
}
