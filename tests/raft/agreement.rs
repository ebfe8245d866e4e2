//! Three peers, and what is acknowledged stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use ipfs_cluster::ErrorKind;
use ipfs_cluster::consensus::Consensus;
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::{cid, pin};
use tokio::time::Instant;

use crate::world::{FACT_TIMEOUT, World, pins};

/// How many histories are tried: `RAFT_SEEDS=from..to` for others than the usual ones.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("RAFT_SEEDS").ok();
    let range = asked.as_deref().and_then(|text| text.split_once(".."));
    match range.map(|(from, to)| (from.parse(), to.parse())) {
        Some((Ok(from), Ok(to))) => from..to,
        _ => 0..usual,
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_asked_writes_and_everybody_has_it() {
    let world = World::start(1, 3).await;
    for number in 1..=3 {
        world.raft(number).log_pin(pin(number)).await.unwrap();
        assert_eq!(world.raft(number).state().get(&cid(number)).await.unwrap(), Some(pin(number)));
    }
    let gone = world.raft(2).log_unpin(&cid(1)).await.unwrap();
    assert_eq!(gone.as_deref(), Some(&pin(1)));
    let mut expected = vec![pin(2), pin(3)];
    expected.sort_by_key(|pin| pin.cid.to_bytes());
    assert_eq!(world.agreed().await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_barrier_shows_what_another_peer_acknowledged() {
    let world = World::start(2, 3).await;
    for number in 0..50u64 {
        let (writer, reader) = (number % 3 + 1, (number + 1) % 3 + 1);
        world.raft(writer).log_pin(pin(number)).await.unwrap();
        world.raft(reader).synchronize().await.unwrap();
        assert!(world.raft(reader).state().get(&cid(number)).await.unwrap().is_some(), "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_soon_after_the_leader_died() {
    for seed in 0..20 {
        let mut world = World::start(seed, 3).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let leader = world.leader().await;
        let disk = world.kill(leader);
        let before = Instant::now();
        let other = *world.members.keys().next().unwrap();
        world.raft(other).log_pin(pin(2)).await.unwrap();
        let gap = before.elapsed();
        assert!(gap < Duration::from_secs(3), "seed {seed}: {gap:?}");
        world.open(leader, disk, world.config.clone()).await;
        assert_eq!(world.agreed().await.len(), 2, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_a_write_fails_in_time_and_says_what_to_do() {
    let mut world = World::start(3, 3).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let leader = world.leader().await;
    let others: Vec<u64> = (1..=3).filter(|number| *number != leader).collect();
    let disks: Vec<_> = others.iter().map(|number| (*number, world.kill(*number))).collect();
    for _ in 0..2 {
        let before = Instant::now();
        let error = world.raft(leader).log_pin(pin(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("quorum") || error.to_string().contains("no leader"), "{error}");
        assert!(before.elapsed() <= Duration::from_secs(16), "{:?}", before.elapsed());
    }
    assert_eq!(world.raft(leader).leader().await.unwrap(), None);
    let error = world.raft(leader).synchronize().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // What is there can still be read.
    assert_eq!(pins(&*world.raft(leader).state()).await, [pin(1)]);
    for (number, disk) in disks {
        world.open(number, disk, world.config.clone()).await;
    }
    world.raft(leader).log_pin(pin(3)).await.unwrap();
    let there: BTreeSet<_> = world.agreed().await.into_iter().map(|pin| pin.cid).collect();
    assert!(there.contains(&cid(1)) && there.contains(&cid(3)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_returns_does_not_disturb_the_leader() {
    let world = World::start(4, 3).await;
    world.raft(1).log_pin(pin(0)).await.unwrap();
    let leader = world.leader().await;
    let away = world.follower().await;
    let before = world.term(leader);
    world.net.isolate(peer(away));
    for number in 1..20 {
        world.raft(leader).log_pin(pin(number)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.net.heal_all();
    for number in 20..60 {
        world.raft(leader).log_pin(pin(number)).await.unwrap();
        assert_eq!(world.leader().await, leader, "the leader changed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.agreed().await.len(), 60);
    for number in 1..=3 {
        assert_eq!(world.term(number), before, "somebody was elected");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_the_leader_cannot_reach_starts_no_election() {
    let world = World::start(14, 3).await;
    world.raft(1).log_pin(pin(0)).await.unwrap();
    let leader = world.leader().await;
    let (before, away) = (world.term(leader), world.follower().await);
    world.net.partition(peer(leader), peer(away));
    for number in 1..20 {
        world.raft(leader).log_pin(pin(number)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.net.heal_all();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.agreed().await.len(), 20);
    for number in 1..=3 {
        assert_eq!(world.term(number), before, "somebody was elected");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_whoever_crashes_when() {
    for seed in seeds(12) {
        let mut world = World::start(seed, 3).await;
        world.leader().await;
        // Each writer has its own pins, so it knows what must be there.
        let mut known = BTreeMap::new();
        for round in 0..8u64 {
            let writers = world.members.iter().map(|(number, member)| {
                let (raft, first) = (member.raft.clone(), number * 10_000 + round * 100);
                tokio::spawn(async move {
                    let mut outcomes = Vec::new();
                    let calls = (first..first + 20).flat_map(|number| {
                        let unpins = (number % 3 == 0).then_some((number, false));
                        [(number, true)].into_iter().chain(unpins)
                    });
                    for (number, is_pin) in calls {
                        let done = match is_pin {
                            true => raft.log_pin(pin(number)).await,
                            false => raft.log_unpin(&cid(number)).await.map(drop),
                        };
                        outcomes.push((number, is_pin, done.is_ok()));
                        // A peer that was killed writes nothing any more.
                        if done.is_err() {
                            break;
                        }
                    }
                    outcomes
                })
            });
            let writers: Vec<_> = writers.collect();
            tokio::time::sleep(Duration::from_millis(7 * (seed + 1) * (round + 1) % 90)).await;
            let victim = (seed + round) % 3 + 1;
            match (seed + round) % 4 {
                0 => {
                    let leader = world.leader().await;
                    world.crash(leader).await;
                }
                1 => {
                    // All at once.
                    for number in 1..=3 {
                        world.crash(number).await;
                    }
                }
                2 => {
                    world.net.isolate(peer(victim));
                    tokio::time::sleep(Duration::from_secs(4)).await;
                    world.net.heal_all();
                }
                _ => world.crash(victim).await,
            }
            for outcomes in tokio::time::timeout(FACT_TIMEOUT, join_all(writers)).await.expect("writers end")
            {
                for (number, is_pin, is_acknowledged) in outcomes.unwrap() {
                    // What failed may have happened or not.
                    known.insert(number, is_acknowledged.then_some(is_pin));
                }
            }
        }
        let there: BTreeSet<_> = world.agreed().await.into_iter().map(|pin| pin.cid).collect();
        for (number, expected) in &known {
            if let Some(expected) = expected {
                assert_eq!(there.contains(&cid(*number)), *expected, "seed {seed}: pin {number}");
            }
        }
        let acknowledged = known.values().filter(|known| known.is_some()).count();
        assert!(acknowledged > 60, "seed {seed}: only {acknowledged} of {} were acknowledged", known.len());
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed: u64| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::start(seed, 3).await;
            let mut seen = Vec::new();
            for number in 0..30u64 {
                let writer = number % 3 + 1;
                let result = world.raft(writer).log_pin(pin(number)).await;
                seen.push(format!("{number} {result:?} {:?}", world.raft(writer).leader().await));
                if number % 10 == 5 {
                    let leader = world.leader().await;
                    world.crash(leader).await;
                }
            }
            world.agreed().await;
            (seen, world.net.trace())
        })
    };
    assert_eq!(history(5), history(5));
}
