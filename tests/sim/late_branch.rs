//! A peer gets what others have without the history, and then an old branch turns up that nobody knew of.

use std::collections::BTreeMap;
use std::time::Duration;

use ipfs_cluster::cluster::ClusterConfig;
use ipfs_cluster::ipfs_connector::IpfsConnector as _;
use ipfs_cluster::storage::{Space, Storage as _};
use ipfs_cluster::testing::sim::dag::{self, BlockName, Dag};
use ipfs_cluster::testing::sim::{self, Plan};
use ipfs_cluster::testing::{TestCluster, TestClusterConfig};
use ipfs_cluster::types::{Cid, PinMode, PinOptions};
use tokio::time::sleep;

/// Seeds that each run of the tests looks at.
const SEEDS: u64 = 50;
/// Of so many of them the peer that joined must have had something by then, or they show little.
const TOOK_OVER_MIN: u64 = 25;

/// Peers of the scenario: the first two stay, one is cut off, one joins, one walks.
const STAYS: usize = 0;
const STAYS_TOO: usize = 1;
const OLD: usize = 2;
const JOINS: usize = 3;
const WALKS: usize = 4;

fn named(name: &str) -> PinOptions {
    PinOptions { name: name.to_owned(), ..PinOptions::default() }
}

async fn pin(peers: &TestCluster, peer: usize, cid: Cid, name: &str) {
    peers.peer(peer).pin(cid, named(name)).await.unwrap();
}

async fn name_of(peers: &TestCluster, peer: usize, cid: &Cid) -> Option<String> {
    peers.peer(peer).state().get(cid).await.unwrap().map(|pin| pin.options.name)
}

/// Whether a peer's daemon holds a CID.
async fn holds(peers: &TestCluster, peer: usize, cid: &Cid) -> bool {
    peers.daemon(peer).ipfs().is_pinned(cid, PinMode::Recursive).await.unwrap()
}

fn heads(peers: &TestCluster, peer: usize) -> BTreeMap<BlockName, u64> {
    dag::heads(&*peers.storage(peer)).unwrap()
}

/// Whether a peer got what it has without the history, at least in part.
fn took_over(peers: &TestCluster, peer: usize) -> bool {
    peers.storage(peer).get(Space::new("crdt-meta"), b"caught-up").unwrap().is_some()
}

async fn scenario(seed: u64) {
    let config = TestClusterConfig {
        peers: 5,
        seed,
        delay: Duration::from_millis(1 + seed % 200),
        cluster: ClusterConfig {
            replication_factor_min: -1,
            replication_factor_max: -1,
            ..ClusterConfig::default()
        },
        absent: [JOINS, WALKS].into(),
        walkers: [WALKS].into(),
        ..TestClusterConfig::default()
    };
    let mut peers = TestCluster::with_config(config).await.unwrap();
    let cids: Vec<Cid> = (0..8).map(|number| peers.add(format!("content {number}").as_bytes())).collect();
    // All have the first six.
    for (number, cid) in cids.iter().enumerate().take(6) {
        pin(&peers, number % 3, *cid, "first").await;
    }
    let has_six =
        async |peers: &TestCluster| peers.running().all(|(_, peer)| peer.state().counts().pins == 6);
    peers.wait_until("all have six pins", has_six).await.unwrap();

    // One is cut off, and says something of what the others change too. It says it early: its branch is not high.
    for peer in [STAYS, STAYS_TOO, JOINS, WALKS] {
        peers.partition(OLD, peer);
    }
    pin(&peers, OLD, cids[0], "old").await;
    peers.peer(OLD).unpin(&cids[1]).await.unwrap();
    peers.peer(OLD).unpin(&cids[2]).await.unwrap();
    pin(&peers, OLD, cids[3], "old").await;
    peers.peer(OLD).unpin(&cids[4]).await.unwrap();
    pin(&peers, OLD, cids[4], "old").await;
    pin(&peers, OLD, cids[6], "old").await;
    if seed.is_multiple_of(3) {
        peers.peer(OLD).unpin(&cids[6]).await.unwrap();
    }
    // The others go on, and are higher in the end.
    for round in 0..3 + seed % 5 {
        let name = format!("round {round}");
        pin(&peers, STAYS, cids[0], &name).await;
        pin(&peers, STAYS_TOO, cids[1], &name).await;
        pin(&peers, STAYS, cids[7], &name).await;
    }
    peers.peer(STAYS).unpin(&cids[3]).await.unwrap();
    sleep(Duration::from_millis(seed * 37 % 3_000)).await;
    peers.peer(STAYS_TOO).unpin(&cids[5]).await.unwrap();
    peers.peer(STAYS).unpin(&cids[0]).await.unwrap();
    pin(&peers, STAYS, cids[0], "last").await;
    let agree = async |peers: &TestCluster| {
        peers.peer(STAYS).state().counts() == peers.peer(STAYS_TOO).state().counts()
    };
    peers.wait_until("those who stay agree", agree).await.unwrap();

    // One joins, gets it all at once, and goes on.
    peers.restart(JOINS).await.unwrap();
    let joined = async |peers: &TestCluster| {
        took_over(peers, JOINS)
            && peers.peer(JOINS).state().counts() == peers.peer(STAYS).state().counts()
            && heads(peers, JOINS) == heads(peers, STAYS)
    };
    peers.wait_until("the one that joins has caught up", joined).await.unwrap();
    if seed.is_multiple_of(2) {
        pin(&peers, JOINS, cids[2], "joined").await;
    }
    let held = async |peers: &TestCluster| holds(peers, JOINS, &cids[1]).await;
    peers
        .wait_until("the daemon of the one that joined holds what is about to be removed late", held)
        .await
        .unwrap();

    // The old branch turns up: here by word of mouth, there after a restart of who wrote it.
    if seed % 4 == 1 {
        peers.crash(OLD);
        peers.restart(OLD).await.unwrap();
    }
    peers.heal();
    peers.wait_until("all know the same blocks", async |peers: &TestCluster| all_equal(peers)).await.unwrap();

    // A peer that walks over everything comes last.
    peers.restart(WALKS).await.unwrap();
    peers
        .wait_until("the one that walks has them too", async |peers: &TestCluster| all_equal(peers))
        .await
        .unwrap();
    assert!(!took_over(&peers, WALKS), "seed {seed}: the peer that walks did not");
    let walked = dag::known(&*peers.storage(WALKS)).unwrap();
    assert_eq!(walked, Dag::of(&*peers.storage(WALKS)).unwrap().known(), "seed {seed}");
    for peer in [STAYS, STAYS_TOO, OLD, JOINS] {
        assert_eq!(dag::known(&*peers.storage(peer)).unwrap(), walked, "seed {seed}, peer {peer}");
    }
    // What the late removals did not know of is still there, and held.
    for peer in [STAYS, STAYS_TOO, OLD, JOINS, WALKS] {
        let name = async |number: usize| name_of(&peers, peer, &cids[number]).await;
        assert_eq!(name(0).await.as_deref(), Some("last"), "seed {seed}, peer {peer}");
        assert!(name(1).await.is_some_and(|name| name.starts_with("round")), "seed {seed}, peer {peer}");
        assert_eq!(
            name(2).await.as_deref(),
            seed.is_multiple_of(2).then_some("joined"),
            "seed {seed}, peer {peer}"
        );
        assert_eq!(name(3).await.as_deref(), Some("old"), "seed {seed}, peer {peer}");
        assert_eq!(name(4).await.as_deref(), Some("old"), "seed {seed}, peer {peer}");
        assert_eq!(name(5).await, None, "seed {seed}, peer {peer}");
        assert_eq!(
            name(6).await.as_deref(),
            (!seed.is_multiple_of(3)).then_some("old"),
            "seed {seed}, peer {peer}"
        );
    }
    for (number, cid) in cids.iter().enumerate() {
        let is_there = name_of(&peers, STAYS, cid).await.is_some();
        let settled = async |peers: &TestCluster| {
            for peer in 0..peers.len() {
                if holds(peers, peer, cid).await != is_there {
                    return false;
                }
            }
            true
        };
        peers.wait_until(&format!("all daemons agree about content {number}"), settled).await.unwrap();
    }
}

/// Whether all running peers have the same pinset, heads and blocks.
fn all_equal(peers: &TestCluster) -> bool {
    let mut seen = peers.running().map(|(index, peer)| {
        (peer.state().counts(), dag::blocks(&*peers.storage(index)).unwrap(), heads(peers, index))
    });
    let first = seen.next();
    seen.all(|other| Some(other) == first)
}

#[test]
fn an_old_branch_that_turns_up_after_a_snapshot_gives_what_a_walk_over_everything_gives() {
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(scenario(seed));
    }
}

#[test]
fn any_old_branch_that_turns_up_after_a_snapshot_loses_nothing() {
    let mut took_over = 0;
    for seed in 0..SEEDS {
        let report = sim::run_plan(&Plan::late_branch(seed), None);
        assert!(report.is_good(), "{report}");
        took_over += u64::from(report.took_over(1));
    }
    assert!(took_over >= TOOK_OVER_MIN, "{took_over} of {SEEDS}");
}
