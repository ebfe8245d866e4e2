//! Peers that are not who they were: a store that was deleted or replaced, two with one identity, clocks that jump.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::ErrorKind;
use ipfs_cluster::consensus::{Consensus, RaftConfig};
use ipfs_cluster::testing::state_suite::{cid, pin};
use ipfs_cluster::testing::{CrashStorage, peer};
use ipfs_cluster::types::Timestamp;

use crate::agreement::seeds;
use crate::store::copy;
use crate::world::{World, fact};

/// Nobody starts a peer twice in one second.
const A_WHILE: Duration = Duration::from_secs(2);

/// Three peers with some pins; the leader, and one that follows.
async fn three(seed: u64) -> (World, u64, u64) {
    let world = World::start(seed, 3).await;
    for number in 0..20 {
        world.raft(number % 3 + 1).log_pin(pin(number)).await.unwrap();
    }
    world.agreed().await;
    let (leader, follower) = (world.leader().await, world.follower().await);
    (world, leader, follower)
}

/// A peer is not let in, says so and what to do, and disturbs nobody.
async fn assert_refused(world: &World, number: u64, leader: u64, words: &str) {
    let before = world.term(leader);
    let error =
        tokio::time::timeout(Duration::from_secs(60), world.raft(number).ready()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    let error = world.raft(number).log_pin(pin(9_999)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    for next in 100..130 {
        world.raft(leader).log_pin(pin(next)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.raft(leader).leader().await.unwrap(), Some(peer(leader)));
    assert_eq!(world.term(leader), before, "somebody was elected");
}

/// The way out that the error names.
async fn remove_and_join_again(world: &mut World, number: u64) {
    let other = *world.members.keys().find(|other| **other != number).unwrap();
    world.raft(other).remove_peer(&peer(number)).await.unwrap();
    world.stop(number).await;
    world.open_to_join(number).await;
    world.raft(other).add_peer(&peer(number)).await.unwrap();
    world.raft(number).ready().await.unwrap();
    world.raft(number).log_pin(pin(7_777)).await.unwrap();
    assert!(world.agreed().await.contains(&pin(7_777)));
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_store_was_deleted_is_refused_until_it_is_removed() {
    for join in [false, true] {
        let (mut world, leader, victim) = three(1).await;
        world.kill(victim);
        let mut config = world.config.clone();
        config.join = join;
        tokio::time::sleep(A_WHILE).await;
        world.open(victim, Arc::new(CrashStorage::new()), config).await;
        assert_refused(&world, victim, leader, "clean its state, and let it join again").await;
        let error = world.raft(leader).add_peer(&peer(victim)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("is a member already"), "{error}");
        remove_and_join_again(&mut world, victim).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_removed_and_cleaned_its_store_waits_whatever_a_leader_says_that_was_away() {
    let mut world = World::start(5, 5).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    world.agreed().await;
    let old = world.leader().await;
    world.net.isolate(peer(old));
    let victim = *world.members.keys().find(|number| **number != old).unwrap();
    let other = *world.members.keys().find(|number| ![old, victim].contains(number)).unwrap();
    fact("it is removed", async || world.raft(other).remove_peer(&peer(victim)).await.ok()).await;
    world.stop(victim).await;
    tokio::time::sleep(A_WHILE).await;
    world.open_to_join(victim).await;
    // The only one that it hears takes it for a member that lost its store.
    world.net.heal(peer(old), peer(victim));
    let waits = tokio::time::timeout(Duration::from_secs(60), world.raft(victim).ready()).await;
    assert!(waits.is_err(), "{waits:?}");
    world.net.heal_all();
    world.raft(other).add_peer(&peer(victim)).await.unwrap();
    world.raft(victim).ready().await.unwrap();
    assert_eq!(world.agreed().await, [pin(1)]);
}

#[tokio::test(start_paused = true)]
async fn an_older_copy_of_a_store_is_refused() {
    for is_leader in [false, true] {
        let (mut world, leader, follower) = three(2).await;
        let victim = if is_leader { leader } else { follower };
        let old = world.stop(victim).await;
        world.open(victim, copy(&*old), world.config.clone()).await;
        world.raft(victim).log_pin(pin(50)).await.unwrap();
        world.agreed().await;
        world.kill(victim);
        tokio::time::sleep(A_WHILE).await;
        let leader = world.leader().await;
        world.open(victim, old, world.config.clone()).await;
        assert_refused(&world, victim, leader, "clean its state, and let it join again").await;
        assert!(world.raft(leader).state().get(&cid(50)).await.unwrap().is_some());
        remove_and_join_again(&mut world, victim).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_peers_with_one_identity_the_one_started_last_is_a_member() {
    let (mut world, _, victim) = three(3).await;
    let original = world.stop(victim).await;
    let clone = copy(&*original);
    world.open(victim, clone, world.config.clone()).await;
    world.raft(victim).log_pin(pin(50)).await.unwrap();
    world.agreed().await;
    // The clone is somewhere else now, and the original is started.
    let clone = world.stop(victim).await;
    tokio::time::sleep(A_WHILE).await;
    let leader = world.leader().await;
    world.open(victim, original, world.config.clone()).await;
    assert_refused(&world, victim, leader, "clean its state, and let it join again").await;
    world.kill(victim);
    tokio::time::sleep(A_WHILE).await;
    world.open(victim, clone, world.config.clone()).await;
    world.raft(victim).ready().await.unwrap();
    world.raft(victim).log_pin(pin(51)).await.unwrap();
    world.agreed().await;
}

#[tokio::test(start_paused = true)]
async fn who_joined_again_is_known_also_to_a_member_that_was_away_meanwhile() {
    for seed in seeds(4) {
        // With and without a snapshot.
        let mut config = RaftConfig::default();
        config.init_peerset = (1..=4).map(peer).collect();
        if seed % 2 == 1 {
            (config.trailing_logs, config.snapshot_threshold) = (4, 8);
        }
        let mut world = World::start_with(seed, 4, config).await;
        for number in 0..20 {
            world.raft(number % 4 + 1).log_pin(pin(number)).await.unwrap();
        }
        world.agreed().await;
        let away = world.follower().await;
        let disk = world.kill(away);
        let leader = world.leader().await;
        let again = *world.members.keys().find(|number| **number != leader).unwrap();
        remove_and_join_again(&mut world, again).await;
        for number in 20..40 {
            world.raft(again).log_pin(pin(number)).await.unwrap();
        }
        // Now it needs the one that joined again and the one that knows it from before to agree.
        let leader = world.leader().await;
        if leader != again {
            world.kill(leader);
        } else {
            world.kill(*world.members.keys().find(|number| **number != again).unwrap());
        }
        world.open(away, disk, world.config.clone()).await;
        world.raft(away).log_pin(pin(40)).await.unwrap();
        world.raft(again).log_pin(pin(41)).await.unwrap();
        assert_eq!(world.agreed().await.len(), 43, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn clocks_that_jump_change_nothing() {
    let year = 365 * 24 * 3600;
    let now = 1_700_000_000i64;
    for (seed, jumps) in [
        [now, now + 100 * year, now - 10 * year, now],
        [now - 50 * year, now, now, now],
        [now, now - 1, now + 3_600, now - 3_600],
        [-5, 0, i64::from(i32::MAX), now],
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = World::start(seed as u64, 3).await;
        let mut written = 0;
        for (round, jump) in jumps.into_iter().enumerate() {
            // The leader's jumps, that of a follower, and not that of the third one.
            let leader = world.leader().await;
            let follower = world.follower().await;
            for victim in [leader, follower] {
                world.clocks.insert(victim, Timestamp::from_unix_seconds(jump));
                if round % 2 == 0 {
                    world.crash(victim).await;
                } else {
                    let disk = world.stop(victim).await;
                    world.open(victim, disk, world.config.clone()).await;
                }
                world.raft(victim).ready().await.unwrap();
                for number in 1..=3 {
                    // No write fails, none is taken for one of before.
                    world.raft(number).log_pin(pin(written)).await.unwrap();
                    let gone = world.raft(number).log_unpin(&cid(written)).await.unwrap();
                    assert_eq!(gone.as_deref(), Some(&pin(written)));
                    world.raft(number).log_pin(pin(written)).await.unwrap();
                    written += 1;
                }
            }
        }
        fact("all of it everywhere", async || (world.agreed().await.len() as u64 == written).then_some(()))
            .await;
    }
}
