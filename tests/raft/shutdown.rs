//! A leader that stops, or is removed, makes way for another one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipfs_cluster::ErrorKind;
use ipfs_cluster::consensus::Consensus;
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::{cid, pin};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::agreement::seeds;
use crate::world::{FACT_TIMEOUT, World, fact};

/// What a client may wait for longer than usual when a leader stops: the others would need at least half of the election
/// timeout, 500 ms, to miss it.
const GAP_MAX: Duration = Duration::from_millis(100);

/// Writes one pin after the other until it is told to stop.
struct Client {
    done: Arc<AtomicBool>,
    task: JoinHandle<(Vec<u64>, Duration)>,
}

impl Client {
    fn start(world: &World, number: u64) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (raft, is_done) = (world.raft(number).clone(), done.clone());
        let task = tokio::spawn(async move {
            let (mut written, mut longest) = (Vec::new(), Duration::ZERO);
            for next in number * 100_000.. {
                if is_done.load(Ordering::SeqCst) {
                    break;
                }
                let before = Instant::now();
                raft.log_pin(pin(next)).await.unwrap();
                longest = longest.max(before.elapsed());
                written.push(next);
                // Whoever is alone writes without any time passing.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (written, longest)
        });
        Self { done, task }
    }

    /// What it wrote, and how long it waited for one write at most.
    async fn stop(self) -> (Vec<u64>, Duration) {
        self.done.store(true, Ordering::SeqCst);
        tokio::time::timeout(FACT_TIMEOUT, self.task).await.expect("the client ends").unwrap()
    }
}

async fn assert_all_there(world: &World, written: &[u64]) {
    let there: BTreeSet<_> = world.agreed().await.into_iter().map(|pin| pin.cid).collect();
    for number in written {
        assert!(there.contains(&cid(*number)), "pin {number} is lost");
    }
}

/// Clients at these peers write while `change` happens, and for a second more; gives what they wrote, and how long one of them
/// waited at most.
async fn written_meanwhile(
    world: &mut World,
    clients: &[u64],
    change: impl AsyncFnOnce(&mut World),
) -> (Vec<u64>, Duration) {
    let clients: Vec<_> = clients.iter().map(|number| Client::start(world, *number)).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    change(world).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut written, mut longest) = (Vec::new(), Duration::ZERO);
    for client in clients {
        let (own, wait) = client.stop().await;
        written.extend(own);
        longest = longest.max(wait);
    }
    (written, longest)
}

fn others(world: &World, than: u64) -> Vec<u64> {
    world.members.keys().copied().filter(|number| *number != than).collect()
}

#[tokio::test(start_paused = true)]
async fn clients_hardly_notice_that_a_leader_stops() {
    for (seed, peers) in seeds(6).zip([3, 5].into_iter().cycle()) {
        let mut world = World::start(seed, peers).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let leader = world.leader().await;
        let before = world.term(leader);
        let clients = others(&world, leader);
        let mut disk = None;
        let (written, longest) =
            written_meanwhile(&mut world, &clients, async |world| disk = Some(world.stop(leader).await))
                .await;
        println!("{peers} peers, seed {seed}: the longest write took {longest:?}");
        assert!(longest < GAP_MAX, "{peers} peers, seed {seed}: {longest:?}");
        world.open(leader, disk.unwrap(), world.config.clone()).await;
        assert_all_there(&world, &written).await;
        assert_eq!(world.term(leader), before + 1, "seed {seed}: one election was enough");
    }
}

#[tokio::test(start_paused = true)]
async fn peers_that_stop_one_after_the_other_and_come_back_are_hardly_noticed() {
    let mut world = World::start(11, 3).await;
    for round in 0..3u64 {
        let leader = world.leader().await;
        let client = others(&world, leader)[0];
        let (written, longest) = written_meanwhile(&mut world, &[client], async |world| {
            let disk = world.stop(leader).await;
            world.open(leader, disk, world.config.clone()).await;
            world.raft(leader).ready().await.unwrap();
        })
        .await;
        assert!(longest < GAP_MAX, "round {round}: {longest:?}");
        assert_all_there(&world, &written).await;
    }
}

#[tokio::test(start_paused = true)]
async fn clients_hardly_notice_that_a_leader_is_removed() {
    // Asked on the leader, and on another peer; the last one is left alone.
    for (seed, (peers, is_asked)) in seeds(4).zip([(3, true), (3, false), (2, true), (2, false)]) {
        let mut world = World::start(seed, peers).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let leader = world.leader().await;
        let clients = others(&world, leader);
        let asked = if is_asked { leader } else { clients[0] };
        let (written, longest) = written_meanwhile(&mut world, &clients, async |world| {
            world.raft(asked).remove_peer(&peer(leader)).await.unwrap();
        })
        .await;
        println!("{peers} peers, seed {seed}: the longest write took {longest:?}");
        assert!(longest < GAP_MAX, "{peers} peers, seed {seed}: {longest:?}");
        assert!(!world.raft(clients[0]).peers().await.unwrap().contains(&peer(leader)));
        fact("it knows", async || {
            (!world.raft(leader).peers().await.unwrap().contains(&peer(leader))).then_some(())
        })
        .await;
        world.stop(leader).await;
        assert_all_there(&world, &written).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_accepted_before_it_stops_is_written() {
    let mut world = World::start(12, 3).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let leader = world.leader().await;
    let calls: Vec<_> = (0..500)
        .map(|number| {
            let raft = world.raft(leader).clone();
            tokio::spawn(async move { raft.log_pin(pin(1_000 + number)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    world.stop(leader).await;
    let mut written = Vec::new();
    for (number, call) in calls.into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(()) => written.push(1_000 + number as u64),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ShutDown, "{error}"),
        }
    }
    assert!(!written.is_empty());
    assert_all_there(&world, &written).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_hands_over_to_a_peer_that_has_everything_and_answers() {
    for seed in seeds(4) {
        let mut world = World::start(seed, 5).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let leader = world.leader().await;
        let others = others(&world, leader);
        // It misses entries, and it is not there: each of which is enough not to be asked.
        world.net.isolate(peer(others[0]));
        for number in 2..10 {
            world.raft(leader).log_pin(pin(number)).await.unwrap();
        }
        let (written, longest) = written_meanwhile(&mut world, &others[1..], async |world| {
            world.stop(leader).await;
        })
        .await;
        assert!(longest < GAP_MAX, "seed {seed}: {longest:?}");
        world.net.heal_all();
        assert_all_there(&world, &written).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_hears_stops_in_time_all_the_same() {
    for is_silent in [false, true] {
        let mut world = World::start(13, 3).await;
        world.raft(1).log_pin(pin(1)).await.unwrap();
        let leader = world.leader().await;
        if is_silent {
            // Nothing breaks, but nothing comes either.
            world.net.set_delay(Duration::from_secs(3600));
        } else {
            world.net.isolate(peer(leader));
        }
        let before = Instant::now();
        world.stop(leader).await;
        assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    }
}
