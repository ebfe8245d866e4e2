//! Peers that join, leave, and take over the whole pinset.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::ErrorKind;
use ipfs_cluster::consensus::{Consensus, RaftConfig, RaftInfo, RaftStore};
use ipfs_cluster::testing::state_suite::{cid, pin};
use ipfs_cluster::testing::{CrashStorage, peer};
use ipfs_cluster::types::{PeerId, PinOperation};

use crate::world::{World, fact, pins};

fn peers(numbers: impl IntoIterator<Item = u64>) -> Vec<PeerId> {
    let mut peers: Vec<PeerId> = numbers.into_iter().map(peer).collect();
    peers.sort_unstable();
    peers
}

/// One peer that founded a cluster.
async fn one(seed: u64) -> World {
    World::start_with(seed, 1, RaftConfig::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_cluster_grows_from_one_peer_and_shrinks_again() {
    let mut world = one(1).await;
    for number in 0..100 {
        world.raft(1).log_pin(pin(number)).await.unwrap();
    }
    for number in 2..=3 {
        world.open_to_join(number).await;
        assert_eq!(world.raft(number).peers().await.unwrap(), []);
        world.raft(1).add_peer(&peer(number)).await.unwrap();
        world.raft(number).ready().await.unwrap();
    }
    for number in 1..=3 {
        fact("all members everywhere", async || {
            (world.raft(number).peers().await.unwrap() == peers(1..=3)).then_some(())
        })
        .await;
        assert!(world.raft(number).is_trusted(&peer(1)) && !world.raft(number).is_trusted(&peer(9)));
    }
    world.raft(3).log_pin(pin(1_000)).await.unwrap();
    assert_eq!(world.agreed().await.len(), 101);
    // Whoever is asked; one that is there already is fine.
    let follower = world.follower().await;
    world.raft(follower).add_peer(&peer(2)).await.unwrap();
    world.raft(follower).remove_peer(&peer(77)).await.unwrap();
    world.raft(follower).remove_peer(&peer(3)).await.unwrap();
    fact("the one that was removed to notice", async || {
        (world.raft(3).peers().await.unwrap() == peers(1..=2)).then_some(())
    })
    .await;
    let error = world.raft(3).log_pin(pin(5_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("removed"), "{error}");
    world.stop(3).await;
    world.raft(1).log_pin(pin(1_001)).await.unwrap();
    assert_eq!(world.agreed().await.len(), 102);
}

#[tokio::test(start_paused = true)]
async fn a_leader_can_be_removed() {
    let mut world = World::start(2, 3).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let leader = world.leader().await;
    world.raft(leader).remove_peer(&peer(leader)).await.unwrap();
    assert!(!world.raft(leader).peers().await.unwrap().contains(&peer(leader)));
    world.stop(leader).await;
    let other = *world.members.keys().next().unwrap();
    world.raft(other).log_pin(pin(2)).await.unwrap();
    assert_eq!(world.agreed().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_too_few_agreed_on_is_none() {
    for is_leader in [false, true] {
        let mut world = World::start(12, 3).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let victim = if is_leader { world.leader().await } else { world.follower().await };
        let away = *world.members.keys().find(|number| **number != victim).unwrap();
        let disk = world.kill(away);
        // With one of three away the other two have to agree, of whom one is to leave.
        let error = world.raft(victim).remove_peer(&peer(victim)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let members = world.raft(victim).peers().await.unwrap();
        assert!(members.contains(&peer(victim)), "{members:?}");
        // It may be removed after all.
        world.open(away, disk, world.config.clone()).await;
        fact("the others write", async || world.raft(away).log_pin(pin(2)).await.ok()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_hears_does_not_remove_itself() {
    for seed in 0..4 {
        let world = World::start(seed, 2).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let leader = world.leader().await;
        world.net.isolate(peer(leader));
        let removed = async { world.raft(leader).remove_peer(&peer(leader)).await };
        let healed = async {
            tokio::time::sleep(Duration::from_secs(seed)).await;
            world.net.heal_all();
        };
        // Whatever became of it, those who are members have a leader.
        if let (Ok(()), ()) = tokio::join!(removed, healed) {
            world.raft(3 - leader).log_pin(pin(2)).await.unwrap();
            continue;
        }
        for number in 1..=2 {
            fact("it writes", async || world.raft(number).log_pin(pin(number)).await.ok()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_who_only_thinks_that_it_leads_says_that_there_is_nothing_to_do() {
    let world = World::start(13, 3).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let leader = world.leader().await;
    world.net.isolate(peer(leader));
    // Others may have added it, or removed it.
    for (error, number) in [
        (world.raft(leader).remove_peer(&peer(77)).await, 77),
        (world.raft(leader).add_peer(&peer(world.follower().await)).await, 2),
    ] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_removed_while_it_was_away_finds_out() {
    let mut world = World::start(3, 3).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let away = world.follower().await;
    let disk = world.stop(away).await;
    let other = *world.members.keys().next().unwrap();
    world.raft(other).remove_peer(&peer(away)).await.unwrap();
    world.open(away, disk, world.config.clone()).await;
    fact("it finds out", async || {
        (!world.raft(away).peers().await.unwrap().contains(&peer(away))).then_some(())
    })
    .await;
    assert_eq!(world.raft(away).ready().await.unwrap_err().kind(), ErrorKind::Conflict);
    // After it was cleaned it can join again.
    world.raft(away).clean().await.unwrap();
    world.stop(away).await;
    world.open_to_join(away).await;
    world.raft(other).add_peer(&peer(away)).await.unwrap();
    assert_eq!(world.agreed().await, [pin(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_there_is_not_added() {
    let world = one(4).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let error = world.raft(1).add_peer(&peer(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("--bootstrap"), "{error}");
    assert_eq!(world.raft(1).peers().await.unwrap(), [peer(1)]);
    world.raft(1).log_pin(pin(2)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_another_cluster_is_refused_and_nothing_of_it_is_lost() {
    let mut world = one(5).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    // It founded one of its own.
    world.open(2, Arc::new(CrashStorage::new()), RaftConfig::default()).await;
    world.raft(2).log_pin(pin(2)).await.unwrap();
    let error = world.raft(1).add_peer(&peer(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("another raft cluster; clean its state"), "{error}");
    assert_eq!(world.raft(1).peers().await.unwrap(), [peer(1)]);
    assert_eq!(world.raft(2).peers().await.unwrap(), [peer(2)]);
    assert_eq!(pins(&*world.raft(1).state()).await, [pin(1)]);
    assert_eq!(pins(&*world.raft(2).state()).await, [pin(2)]);
    world.raft(1).log_pin(pin(3)).await.unwrap();
    world.raft(2).log_pin(pin(4)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_peer_takes_over_the_whole_pinset_while_it_changes() {
    let mut config = RaftConfig::default();
    config.trailing_logs = 8;
    config.snapshot_threshold = 16;
    let mut world = World::start_with(6, 1, config).await;
    for batch in 0..60u64 {
        let operations = (0..100).map(|number| PinOperation::Pin(Arc::new(pin(batch * 100 + number))));
        world.raft(1).log_many(operations.collect()).await.unwrap();
    }
    world.raft(1).log_unpin(&cid(0)).await.unwrap();
    for number in 2..=3 {
        world.open_to_join(number).await;
        let raft = world.raft(1).clone();
        let writing = tokio::spawn(async move {
            for step in 0..200u64 {
                let new = 100_000 * number + step;
                raft.log_pin(pin(new)).await.unwrap();
                raft.log_unpin(&cid(new - 1)).await.unwrap();
                raft.log_unpin(&cid(10 * step + number)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        world.raft(1).add_peer(&peer(number)).await.unwrap();
        writing.await.unwrap();
        let all = world.agreed().await;
        for member in world.members.values() {
            assert_eq!(pins(&*member.raft.state()).await, all);
        }
    }
    // It is a member like the others, also after a crash.
    world.crash(3).await;
    world.raft(3).log_pin(pin(999_999)).await.unwrap();
    world.agreed().await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_is_interrupted_goes_on() {
    let mut config = RaftConfig::default();
    config.trailing_logs = 8;
    config.snapshot_threshold = 16;
    let mut world = World::start_with(7, 1, config).await;
    for batch in 0..60u64 {
        let operations = (0..100).map(|number| PinOperation::Pin(Arc::new(pin(batch * 100 + number))));
        world.raft(1).log_many(operations.collect()).await.unwrap();
    }
    world.net.set_delay(Duration::from_millis(5));
    world.open_to_join(2).await;
    let raft = world.raft(1).clone();
    let adding = tokio::spawn(async move { raft.add_peer(&peer(2)).await });
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        world.net.partition(peer(1), peer(2));
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.net.heal_all();
    }
    adding.await.unwrap().unwrap();
    assert_eq!(world.agreed().await.len(), 6_000);
}

#[tokio::test(start_paused = true)]
async fn a_quorum_that_is_lost_for_good_is_recovered_from() {
    for survivor in 1..=3u64 {
        let mut world = World::start(8 + survivor, 3).await;
        for number in 0..50 {
            world.raft(number % 3 + 1).log_pin(pin(number)).await.unwrap();
        }
        let disks: Vec<_> = (1..=3).map(|number| (number, world.kill(number))).collect();
        let disk = disks[survivor as usize - 1].1.clone();
        let store = RaftStore::open(disk.clone()).unwrap();
        let before = store.info().unwrap();
        assert_eq!(before.members, peers(1..=3));
        let error = store.reset_membership(&peer(9)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        store.reset_membership(&peer(survivor)).unwrap();
        let after = store.info().unwrap();
        assert_eq!(after.members, peers([survivor]));
        assert!(after.term > before.term && after.last_index > before.last_index);

        world.open(survivor, disk, world.config.clone()).await;
        world.raft(survivor).ready().await.unwrap();
        world.raft(survivor).log_pin(pin(1_000)).await.unwrap();
        // What any quorum with it acknowledged is there: every write waited for one, but this peer may not have been in it.
        let there = pins(&*world.raft(survivor).state()).await.len();
        assert!(there >= 2, "{there} pins");
        // One that comes back as it was is not let in, and does no harm.
        let (returning, old) = disks.iter().find(|(number, _)| *number != survivor).unwrap();
        world.open(*returning, old.clone(), world.config.clone()).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.raft(survivor).log_pin(pin(1_001)).await.unwrap();
        assert_eq!(world.raft(survivor).peers().await.unwrap(), [peer(survivor)]);
        // Cleaned, it joins.
        world.kill(*returning);
        world.open_to_join(*returning).await;
        world.raft(survivor).add_peer(&peer(*returning)).await.unwrap();
        assert_eq!(world.agreed().await.len(), there + 1);
    }
}

#[test]
fn a_store_that_belongs_to_no_cluster_has_nothing_to_recover() {
    let store = RaftStore::open(Arc::new(CrashStorage::new())).unwrap();
    assert_eq!(store.info().unwrap(), RaftInfo::default());
    assert_eq!(store.reset_membership(&peer(1)).unwrap_err().kind(), ErrorKind::NotFound);
}
