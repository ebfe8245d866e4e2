//! How much of the log is kept: a number of entries, and of large ones fewer.

use std::sync::Arc;

use ipfs_cluster::consensus::{Consensus, RaftConfig};
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::pin;
use ipfs_cluster::types::PinOperation;

use crate::store::{OURS, records};
use crate::world::{World, fact};

const KEPT: u64 = 1 << 20;
/// What may be there of one entry more, and until it was looked.
const SLACK: u64 = 700 << 10;

/// Entries of about 240 KB.
async fn write_large(world: &World, number: u64, first: u64, entries: u64) {
    for entry in 0..entries {
        let operations = (0..20).map(|part| {
            let mut pin = pin(first + entry * 20 + part);
            pin.options.name = "n".repeat(12_000);
            PinOperation::Pin(Arc::new(pin))
        });
        world.raft(number).log_many(operations.collect()).await.unwrap();
    }
}

/// Entries in the log on a disk, and their bytes.
fn log(world: &World, number: u64) -> (usize, u64) {
    let log = records(&*world.members[&number].storage, &OURS[..1]);
    (log.len(), log.iter().map(|(_, _, value)| value.len() as u64).sum())
}

async fn assert_short(world: &World) {
    for number in world.members.keys() {
        fact("the log is short", async || (log(world, *number).1 <= KEPT + SLACK).then_some(())).await;
        let (entries, bytes) = log(world, *number);
        assert!(entries >= 2 && bytes > KEPT / 2, "{number} keeps {entries} entries of {bytes} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn of_large_entries_fewer_are_kept_and_who_was_away_for_more_gets_the_whole_pinset() {
    let mut config = RaftConfig::default();
    config.init_peerset = (1..=3).map(peer).collect();
    config.max_log_bytes = KEPT;
    let mut world = World::start_with(1, 3, config).await;
    world.raft(1).log_pin(pin(0)).await.unwrap();
    world.agreed().await;
    let away = world.follower().await;
    let disk = world.kill(away);
    let leader = world.leader().await;
    write_large(&world, leader, 1_000, 5).await;
    // Nothing went as long as it was not too much.
    assert!(log(&world, leader).1 > KEPT);
    write_large(&world, leader, 2_000, 40).await;
    assert_short(&world).await;
    world.open(away, disk, world.config.clone()).await;
    assert_eq!(world.agreed().await.len(), 901);
    // It knows how much there is also after a start.
    for number in 1..=3 {
        world.crash(number).await;
    }
    world.agreed().await;
    write_large(&world, 1, 3_000, 10).await;
    world.agreed().await;
    assert_short(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_too_large_at_the_start_is_shortened() {
    let mut world = World::start_with(2, 1, RaftConfig::default()).await;
    write_large(&world, 1, 0, 20).await;
    assert!(log(&world, 1).1 > 4 * KEPT);
    world.config.max_log_bytes = KEPT;
    world.crash(1).await;
    assert_short(&world).await;
    assert_eq!(world.agreed().await.len(), 400);
}

#[tokio::test(start_paused = true)]
async fn of_small_entries_as_many_are_kept_as_were_asked_for() {
    let mut config = RaftConfig::default();
    (config.trailing_logs, config.snapshot_threshold) = (100, 50);
    let world = World::start_with(3, 1, config).await;
    for number in 0..600 {
        world.raft(1).log_pin(pin(number)).await.unwrap();
    }
    fact("the log is short", async || (log(&world, 1).0 <= 100 + 50 + 12).then_some(())).await;
    assert!(log(&world, 1).0 >= 100);
}
