//! The whole pinset on its way to a peer that is far behind, interrupted half-way: it goes on or begins anew, and until it is
//! there the old pinset is what is shown.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::consensus::{Consensus, RaftConfig};
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::pin;
use ipfs_cluster::types::{Pin, PinOperation};
use tempfile::TempDir;

use crate::world::{World, fact};

/// More bytes of them than the receiver sorts in memory.
const PINS: u64 = 1_600;
/// What the peer that was away had before.
const OLD: u64 = 50;
/// A transfer that nobody goes on with is forgotten after five minutes.
const FORGOTTEN: Duration = Duration::from_secs(400);

/// Three peers. One was away while the pinset grew, and comes back: it is being sent a snapshot over a slow network, of which
/// some has come. Gives it, and the leader.
async fn half_way(seed: u64, spool: Option<&TempDir>) -> (World, u64, u64) {
    let mut config = RaftConfig::default();
    config.init_peerset = (1..=3).map(peer).collect();
    (config.trailing_logs, config.snapshot_threshold) = (4, 8);
    if let Some(spool) = spool {
        config.spool_folder = spool.path().to_owned();
    }
    let mut world = World::start_with(seed, 3, config).await;
    world.is_blocking = spool.is_some();
    for number in 0..OLD {
        world.raft(1).log_pin(pin(number)).await.unwrap();
    }
    world.agreed().await;
    let away = world.follower().await;
    let disk = world.kill(away);
    let leader = world.leader().await;
    for batch in 0..PINS / 20 {
        let operations =
            (0..20).map(|number| PinOperation::Pin(Arc::new(large(1_000 + batch * 20 + number))));
        world.raft(leader).log_many(operations.collect()).await.unwrap();
    }
    world.open(away, disk, world.config.clone()).await;
    // About twenty messages.
    world.faults(away).slow(Duration::from_millis(300));
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    assert_old(&world, away);
    (world, leader, away)
}

/// A pin that takes several kilobytes.
fn large(number: u64) -> Pin {
    let mut pin = pin(number);
    pin.options.name = "n".repeat(12_000);
    pin
}

fn count(world: &World, number: u64) -> u64 {
    world.raft(number).state().counts().pins
}

/// All of the old pinset, and nothing of the new one.
fn assert_old(world: &World, number: u64) {
    // A power cut may take back the last write, which is applied again when a leader says that it counts.
    let count = count(world, number);
    assert!((OLD - 1..=OLD).contains(&count), "{count}: the old pinset is shown until the new one is whole");
}

async fn assert_whole(world: &World) {
    world.members.values().for_each(|member| member.faults.heal());
    assert_eq!(world.agreed().await.len() as u64, OLD + PINS);
}

#[tokio::test(start_paused = true)]
async fn the_receiver_crashes_half_way() {
    let (mut world, _, away) = half_way(1, None).await;
    for _ in 0..3 {
        world.crash(away).await;
        assert_old(&world, away);
        world.faults(away).slow(Duration::from_millis(300));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_old(&world, away);
    }
    assert_whole(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_sender_crashes_half_way_and_another_leader_sends_it() {
    let (mut world, leader, away) = half_way(2, None).await;
    let disk = world.kill(leader);
    assert_old(&world, away);
    let other = *world.members.keys().find(|number| **number != away).unwrap();
    fact("it has all of it", async || (count(&world, away) == OLD + PINS).then_some(())).await;
    world.raft(other).ready().await.unwrap();
    world.open(leader, disk, world.config.clone()).await;
    assert_whole(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_sender_stops_half_way_and_another_leader_sends_it() {
    let (mut world, leader, away) = half_way(3, None).await;
    let disk = world.stop(leader).await;
    fact("it has all of it", async || (count(&world, away) == OLD + PINS).then_some(())).await;
    world.open(leader, disk, world.config.clone()).await;
    assert_whole(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_network_is_cut_for_longer_than_a_transfer_is_remembered() {
    let (world, leader, away) = half_way(4, None).await;
    world.net.isolate(peer(away));
    for _ in 0..4 {
        tokio::time::sleep(FORGOTTEN / 4).await;
        world.raft(leader).log_unpin(&pin(1_000).cid).await.unwrap();
        world.raft(leader).log_pin(large(1_000)).await.unwrap();
        assert_old(&world, away);
    }
    world.net.heal_all();
    assert_whole(&world).await;
}

#[tokio::test(start_paused = true)]
async fn the_leader_changes_half_way_and_again() {
    let (world, first, away) = half_way(5, None).await;
    for _ in 0..3 {
        let leader = world.leader().await;
        world.net.isolate(peer(leader));
        tokio::time::sleep(Duration::from_secs(3)).await;
        if count(&world, away) != OLD + PINS {
            assert_old(&world, away);
        }
        world.net.heal_all();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert!(world.members.contains_key(&first));
    assert_whole(&world).await;
}

/// Files that this process has open there, also those without a name.
#[cfg(target_os = "linux")]
fn files(folder: &TempDir) -> usize {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|path| path.starts_with(folder.path()))
        .count()
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn what_came_is_in_a_temporary_file_that_is_removed_in_any_case() {
    // It comes to its end.
    let spool = TempDir::new().unwrap();
    let (world, ..) = half_way(6, Some(&spool)).await;
    fact("a file", async || (files(&spool) == 1).then_some(())).await;
    assert_whole(&world).await;
    assert_eq!(files(&spool), 0, "after it was taken over");
    // Nobody goes on with it.
    let spool = TempDir::new().unwrap();
    let (world, _, away) = half_way(7, Some(&spool)).await;
    fact("a file", async || (files(&spool) == 1).then_some(())).await;
    world.net.isolate(peer(away));
    tokio::time::sleep(FORGOTTEN).await;
    assert_eq!(files(&spool), 0, "after nobody went on with it");
    // The receiver stops.
    let spool = TempDir::new().unwrap();
    let (mut world, _, away) = half_way(8, Some(&spool)).await;
    fact("a file", async || (files(&spool) == 1).then_some(())).await;
    world.stop(away).await;
    fact("no file is left", async || (files(&spool) == 0).then_some(())).await;
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
}
