//! Disks that are full, fail to sync, or are slow: what was acknowledged stays, the others go on, and a peer goes on by itself
//! when its disk works again.

use std::collections::BTreeSet;
use std::time::Duration;

use ipfs_cluster::consensus::{Consensus, RaftStore};
use ipfs_cluster::testing::state_suite::{cid, pin};
use ipfs_cluster::testing::{StorageCall, peer};
use ipfs_cluster::{Error, ErrorKind};
use tokio::time::{Instant, timeout};

use crate::world::{World, fact, pins};

/// A write may take as long as its deadline, and what is left of an attempt.
const WRITE_MAX: Duration = Duration::from_secs(20);

fn full() -> Error {
    Error::new(ErrorKind::StorageFull, "no space left on device").component("disk")
}

fn broken() -> Error {
    Error::new(ErrorKind::Io, "the disk does not sync").component("disk")
}

/// Writes pins from `first` on at a peer for so long; gives what was acknowledged, and the last error.
async fn write_for(world: &World, number: u64, first: u64, time: Duration) -> (Vec<u64>, Option<Error>) {
    let (until, mut acknowledged, mut last) = (Instant::now() + time, Vec::new(), None);
    for next in first.. {
        if Instant::now() >= until {
            break;
        }
        let before = Instant::now();
        match world.raft(number).log_pin(pin(next)).await {
            Ok(()) => acknowledged.push(next),
            Err(error) => last = Some(error),
        }
        assert!(before.elapsed() < WRITE_MAX, "a write took {:?}", before.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (acknowledged, last)
}

async fn assert_all_there(world: &World, acknowledged: &[u64]) {
    let there: BTreeSet<_> = world.agreed().await.into_iter().map(|pin| pin.cid).collect();
    for number in acknowledged {
        assert!(there.contains(&cid(*number)), "pin {number} is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn the_others_go_on_without_a_leader_whose_disk_fails_and_it_comes_back_by_itself() {
    for (seed, error) in [full(), broken()].into_iter().enumerate() {
        for is_done in [false, true] {
            let world = World::start(seed as u64, 3).await;
            world.raft(1).log_pin(pin(1)).await.unwrap();
            let leader = world.leader().await;
            let other = *world.members.keys().find(|number| **number != leader).unwrap();
            match is_done {
                false => world.faults(leader).fail(StorageCall::Write, 0, error.clone()),
                true => world.faults(leader).fail_afterwards(StorageCall::Write, 0, error.clone()),
            }
            // Whoever asks another peer hardly notices.
            let (mut acknowledged, _) = write_for(&world, other, 100, Duration::from_secs(10)).await;
            assert!(acknowledged.len() > 50, "{} writes", acknowledged.len());
            // Whoever asks this one is told what is wrong.
            let failed = world.raft(leader).log_pin(pin(99)).await.unwrap_err();
            assert_eq!(failed.kind(), error.kind(), "{failed}");
            assert!(failed.to_string().contains("raft waits until"), "{failed}");
            assert!(failed.to_string().contains(error.message()), "{failed}");
            assert!(pins(&*world.raft(leader).state()).await.contains(&pin(1)), "it can still be read");
            world.faults(leader).heal();
            world.raft(leader).ready().await.unwrap();
            world.raft(leader).log_pin(pin(2)).await.unwrap();
            acknowledged.extend([1, 2]);
            assert_all_there(&world, &acknowledged).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_disk_fails_disturbs_nobody() {
    for error in [full(), broken()] {
        let world = World::start(3, 3).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let leader = world.leader().await;
        let victim = world.follower().await;
        let before = world.term(leader);
        world.faults(victim).fail(StorageCall::Write, 0, error.clone());
        let (mut acknowledged, failed) = write_for(&world, leader, 100, Duration::from_secs(10)).await;
        assert!(failed.is_none(), "{failed:?}");
        let failed = world.raft(victim).log_pin(pin(99)).await.unwrap_err();
        assert_eq!(failed.kind(), error.kind(), "{failed}");
        assert_eq!(world.leader().await, leader);
        assert_eq!(world.term(leader), before, "nobody was elected");
        world.faults(victim).heal();
        world.raft(victim).log_pin(pin(2)).await.unwrap();
        acknowledged.extend([1, 2]);
        assert_all_there(&world, &acknowledged).await;
        assert_eq!(world.term(leader), before, "nobody was elected");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_disks_are_full_writes_say_so_and_go_on_when_there_is_space() {
    let world = World::start(4, 3).await;
    let (mut acknowledged, _) = write_for(&world, 1, 100, Duration::from_secs(1)).await;
    for number in 1..=3 {
        world.faults(number).fail(StorageCall::Write, 3, full());
    }
    for number in 1..=3 {
        let (written, failed) = write_for(&world, number, 1_000 * number, Duration::from_secs(20)).await;
        acknowledged.extend(written);
        let failed = failed.unwrap();
        assert_eq!(failed.kind(), ErrorKind::StorageFull, "{failed}");
    }
    for number in 1..=3 {
        world.faults(number).heal();
    }
    for number in 1..=3 {
        world.raft(number).log_pin(pin(number)).await.unwrap();
        acknowledged.push(number);
    }
    assert_all_there(&world, &acknowledged).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_alone_goes_on_when_its_disk_has_space_again() {
    let world = World::start(5, 1).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    world.faults(1).fail(StorageCall::Write, 0, full());
    let failed = world.raft(1).log_pin(pin(2)).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::StorageFull, "{failed}");
    assert_eq!(pins(&*world.raft(1).state()).await.first(), Some(&pin(1)));
    world.faults(1).heal();
    world.raft(1).log_pin(pin(3)).await.unwrap();
    assert!(world.agreed().await.contains(&pin(3)));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_be_read_for_a_while_is_waited_for() {
    for call in [StorageCall::Get, StorageCall::Snapshot] {
        let mut world = World::start(6, 3).await;
        let (mut acknowledged, _) = write_for(&world, 1, 100, Duration::from_secs(1)).await;
        let victim = world.leader().await;
        let other = *world.members.keys().find(|number| **number != victim).unwrap();
        world.faults(victim).fail(call, 0, broken());
        world.faults(victim).fail(StorageCall::Write, 0, broken());
        let (written, _) = write_for(&world, other, 1_000, Duration::from_secs(10)).await;
        assert!(written.len() > 50, "{} writes", written.len());
        acknowledged.extend(written);
        world.faults(victim).heal();
        world.raft(victim).log_pin(pin(1)).await.unwrap();
        assert_all_there(&world, &acknowledged).await;
        world.crash(victim).await;
        assert_all_there(&world, &acknowledged).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_disk_slows_nobody_else_down_for_long() {
    for (seed, is_leader) in [(7, true), (8, false)] {
        for latency in [200, 1_000, 5_000].map(Duration::from_millis) {
            let world = World::start(seed, 3).await;
            world.raft(1).log_pin(pin(1)).await.unwrap();
            let leader = world.leader().await;
            let victim = if is_leader { leader } else { world.follower().await };
            let other = *world.members.keys().find(|number| ![victim, leader].contains(number)).unwrap();
            world.faults(victim).slow(latency);
            let (first, _) = write_for(&world, other, 100, Duration::from_secs(12)).await;
            let settled = world.term(other);
            let (second, failed) = write_for(&world, other, 10_000, Duration::from_secs(12)).await;
            assert!(failed.is_none(), "{latency:?}: {failed:?}");
            println!(
                "leader {is_leader}, {latency:?}: {} and {} writes, terms {settled} {}",
                first.len(),
                second.len(),
                world.term(other)
            );
            assert!(second.len() > 12, "{latency:?}: {} writes", second.len());
            assert!(world.term(other) <= settled + 1, "{latency:?}: elections flap");
            world.faults(victim).heal();
            assert_all_there(&world, &[first, second].concat()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_disks_everywhere_make_writes_slow_and_elections_rare() {
    for latency in [100, 400].map(Duration::from_millis) {
        let world = World::start(9, 3).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        for number in 1..=3 {
            world.faults(number).slow(latency);
        }
        let (first, _) = write_for(&world, 1, 100, Duration::from_secs(20)).await;
        let settled = world.term(1);
        let (second, failed) = write_for(&world, 2, 10_000, Duration::from_secs(20)).await;
        println!(
            "{latency:?}: {} and {} writes, terms {settled} {}",
            first.len(),
            second.len(),
            world.term(1)
        );
        assert!(failed.is_none(), "{latency:?}: {failed:?}");
        assert!(second.len() > 5, "{latency:?}: {} writes", second.len());
        assert!(world.term(1) <= settled + 2, "{latency:?}: elections flap");
        for number in 1..=3 {
            world.faults(number).heal();
        }
        assert_all_there(&world, &[first, second].concat()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn disks_that_nothing_works_with_stop_all_writes_until_they_are_faster() {
    let world = World::start(10, 3).await;
    let (mut acknowledged, _) = write_for(&world, 1, 100, Duration::from_secs(1)).await;
    for number in 1..=3 {
        world.faults(number).slow(Duration::from_secs(7));
    }
    let (written, failed) = write_for(&world, 2, 1_000, Duration::from_secs(60)).await;
    acknowledged.extend(written);
    if let Some(failed) = failed {
        assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
    }
    for number in 1..=3 {
        world.faults(number).heal();
    }
    fact("writes go on", async || world.raft(2).log_pin(pin(1)).await.ok()).await;
    acknowledged.push(1);
    assert_all_there(&world, &acknowledged).await;
    assert!(
        RaftStore::open(world.members[&1].storage.clone()).unwrap().info().unwrap().applied_index.is_some()
    );
}

/// For a while, and not only at some moment.
async fn assert_stays_removed(world: &World, number: u64) {
    for _ in 0..100 {
        let said = timeout(Duration::from_millis(1), world.raft(number).ready()).await.unwrap().unwrap_err();
        assert_eq!(said.kind(), ErrorKind::Conflict, "{said}");
        assert!(said.to_string().contains("was removed from its cluster"), "{said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_removed_stays_removed_when_its_disk_fails_and_when_it_works_again() {
    let world = World::start(11, 3).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let (leader, victim) = (world.leader().await, world.follower().await);
    let writes = || world.faults(victim).calls(StorageCall::Write);
    // What it takes in now is still on its way to the disk when it hears that it was removed.
    world.faults(victim).slow(Duration::from_secs(5));
    world.raft(leader).log_pin(pin(2)).await.unwrap();
    world.raft(leader).remove_peer(&peer(victim)).await.unwrap();
    world.raft(victim).ready().await.unwrap_err();
    let before = writes();
    world.faults(victim).fail(StorageCall::Write, 0, broken());
    world.faults(victim).slow(Duration::ZERO);
    // The write that was under way, and one to see whether the disk works again.
    fact("the disk fails", async || (writes() >= before + 2).then_some(())).await;
    assert_stays_removed(&world, victim).await;
    let before = writes();
    world.faults(victim).heal();
    fact("it is tried again", async || (writes() > before).then_some(())).await;
    assert_stays_removed(&world, victim).await;
}
