//! Histories of several clients over peers that crash and are cut off: each looks as if every call had happened at one
//! moment between its beginning and its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use ipfs_cluster::consensus::{Consensus, Raft};
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::random::Random;
use ipfs_cluster::testing::sim::linear::{self, Call, Happened, Verdict};
use ipfs_cluster::testing::state_suite::{cid, pin};

use crate::agreement::seeds;
use crate::world::{FACT_TIMEOUT, World};

const CLIENTS: u64 = 4;
const PINS: u64 = 3;
const CALLS: u64 = 12;

fn below(random: &mut Random, bound: u64) -> u64 {
    random.below(usize::try_from(bound).unwrap()) as u64
}

type Peers = Arc<Mutex<BTreeMap<u64, Arc<Raft>>>>;
type Clock = Arc<Mutex<u64>>;

fn tick(clock: &Clock) -> u64 {
    let mut now = clock.lock().unwrap();
    *now += 1;
    *now
}

async fn client(number: u64, seed: u64, peers: Peers, clock: Clock) -> Vec<(u64, Happened)> {
    let mut random = Random::new(seed * 1_000 + number);
    let mut history = Vec::new();
    for step in 0..CALLS {
        tokio::time::sleep(Duration::from_millis(below(&mut random, 400))).await;
        let raft = {
            let peers = peers.lock().unwrap();
            let Some(raft) =
                peers.values().nth(below(&mut random, peers.len().max(1) as u64) as usize).cloned()
            else {
                continue;
            };
            raft
        };
        let key = below(&mut random, PINS);
        let began = tick(&clock);
        let (call, is_done) = match below(&mut random, 3) {
            0 => {
                let name = number * 1_000 + step;
                let mut named = pin(key);
                named.options.name = name.to_string();
                (Call::Pin(name), raft.log_pin(named).await.is_ok())
            }
            1 => match raft.log_unpin(&cid(key)).await {
                Ok(was) => (Call::Unpin(Some(was.and_then(|pin| pin.options.name.parse().ok()))), true),
                Err(_) => (Call::Unpin(None), false),
            },
            _ => {
                if raft.synchronize().await.is_err() {
                    continue;
                }
                let pin = raft.state().get(&cid(key)).await.unwrap();
                (Call::Read(pin.and_then(|pin| pin.options.name.parse().ok())), true)
            }
        };
        let ended = is_done.then(|| tick(&clock));
        history.push((key, Happened { call, began, ended }));
    }
    history
}

fn handles(world: &World) -> BTreeMap<u64, Arc<Raft>> {
    world.members.iter().map(|(number, member)| (*number, member.raft.clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn histories_are_linearizable_whatever_fails() {
    let (mut checked, mut done) = (0, 0);
    for seed in seeds(15) {
        let mut world = World::start(seed, 3).await;
        world.leader().await;
        let (peers, clock) = (Peers::new(Mutex::new(handles(&world))), Clock::default());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| tokio::spawn(client(number, seed, peers.clone(), clock.clone())))
            .collect();
        let mut random = Random::new(seed);
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(200 + below(&mut random, 1_500))).await;
            let victim = below(&mut random, 3) + 1;
            match below(&mut random, 4) {
                0 => world.crash(victim).await,
                1 => {
                    for number in 1..=3 {
                        world.crash(number).await;
                    }
                }
                2 => world.net.isolate(peer(victim)),
                _ => world.net.partition(peer(victim), peer(victim % 3 + 1)),
            }
            *peers.lock().unwrap() = handles(&world);
            tokio::time::sleep(Duration::from_millis(below(&mut random, 3_000))).await;
            world.net.heal_all();
        }
        let histories = tokio::time::timeout(4 * FACT_TIMEOUT, join_all(clients)).await.expect("clients end");
        let mut of_pins = BTreeMap::<u64, Vec<Happened>>::new();
        for (key, happened) in histories.into_iter().flat_map(Result::unwrap) {
            done += u64::from(happened.ended.is_some());
            of_pins.entry(key).or_default().push(happened);
        }
        for (key, history) in of_pins {
            let verdict = linear::check(&history);
            assert_eq!(verdict, Verdict::Linearizable, "seed {seed}, pin {key}: {history:#?}");
            checked += 1;
        }
    }
    assert!(checked > 0 && done > 100, "{done} calls in {checked} histories");
}
