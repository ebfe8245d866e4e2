//! A peer that is behind: what was acknowledged elsewhere is neither denied nor forgotten there.

use std::time::Duration;

use ipfs_cluster::ErrorKind;
use ipfs_cluster::cluster::Cluster;
use ipfs_cluster::consensus::{Consensus as _, NoLongerMember, RaftConfig};
use ipfs_cluster::testing::state_suite::{cid, pin};
use ipfs_cluster::testing::{StorageCall, TestCluster, TestClusterConfig, peer};
use ipfs_cluster::types::PinOptions;
use tokio::time::{Instant, sleep, timeout};

use crate::world::{FACT_TIMEOUT, World, fact};

/// A call may take as long as a leader is waited for, and what is left of an attempt.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Long enough for a call to have come as far as it gets.
const HELD: Duration = Duration::from_secs(2);

/// Three peers: who leads, who follows, and who follows and hears nobody.
async fn three() -> (TestCluster, usize, usize, usize) {
    let config =
        TestClusterConfig { peers: 3, raft: Some(RaftConfig::default()), ..TestClusterConfig::default() };
    let peers = TestCluster::with_config(config).await.unwrap();
    for (_, peer) in peers.running() {
        timeout(FACT_TIMEOUT, peer.ready()).await.unwrap().unwrap();
    }
    let leader = fact("a leader", async || peers.leader().await).await;
    let (other, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    for peer in [leader, other] {
        peers.partition(peer, behind);
    }
    (peers, leader, other, behind)
}

/// Has a peer that hears nobody do something, and lets it hear the others only then.
async fn heard_late<T: Send + 'static>(
    peers: &TestCluster,
    behind: usize,
    call: impl AsyncFnOnce(Cluster) -> T,
) -> T {
    let late = async {
        sleep(HELD).await;
        peers.heal();
    };
    tokio::join!(call(peers.peer(behind).clone()), late).0
}

#[tokio::test(start_paused = true)]
async fn what_another_peer_acknowledged_is_unpinned_by_one_that_does_not_have_it_yet() {
    let (peers, leader, other, behind) = three().await;
    let cid = peers.add(b"content");
    peers.peer(other).pin(cid, PinOptions::default()).await.unwrap();
    assert_eq!(peers.peer(behind).pin_get(&cid).await.unwrap_err().kind(), ErrorKind::NotFound);
    let unpinned = heard_late(&peers, behind, async |cluster| cluster.unpin(&cid).await).await;
    assert_eq!(unpinned.unwrap().cid, cid);
    // And it is gone for good, also for who had it.
    for peer in [leader, other, behind] {
        peers.peer(peer).synchronize().await.unwrap();
        assert_eq!(peers.peer(peer).pin_get(&cid).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pin_is_continued_by_a_peer_that_does_not_have_it_yet() {
    let (peers, leader, _, behind) = three().await;
    let (old, new) = (peers.add(b"old"), peers.add(b"new"));
    let named = PinOptions { name: "site".to_owned(), ..PinOptions::default() };
    peers.peer(leader).pin(old, named).await.unwrap();
    let options = PinOptions { pin_update: Some(old), ..PinOptions::default() };
    let pinned = heard_late(&peers, behind, async |cluster| cluster.pin(new, options).await).await;
    assert_eq!(pinned.unwrap().options.name, "site");
}

#[tokio::test(start_paused = true)]
async fn what_is_pinned_nowhere_is_not_pinned() {
    let (peers, leader, other, behind) = three().await;
    peers.heal();
    let cid = peers.add(b"content");
    for peer in [leader, other, behind] {
        let error = peers.peer(peer).unpin(&cid).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let options = PinOptions { pin_update: Some(cid), ..PinOptions::default() };
        let error = peers.peer(peer).pin(peers.add(b"new"), options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_nobody_is_told_that_something_is_not_pinned() {
    let (mut peers, leader, other, behind) = three().await;
    let (cid, elsewhere) = (peers.add(b"content"), peers.add(b"elsewhere"));
    peers.peer(leader).pin(cid, PinOptions::default()).await.unwrap();
    let before = Instant::now();
    let error = peers.peer(behind).unpin(&cid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no leader"), "{error}");
    assert!(before.elapsed() < CALL_MAX, "{:?}", before.elapsed());
    // A leader that is left alone does not know either.
    peers.crash(other);
    for unpinned in [elsewhere, cid] {
        let before = Instant::now();
        let error = peers.peer(leader).unpin(&unpinned).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(before.elapsed() < CALL_MAX, "{:?}", before.elapsed());
    }
    // Reading goes on.
    assert_eq!(peers.peer(leader).pin_get(&cid).await.unwrap().cid, cid);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_synchronize_says_why() {
    let world = World::start(7, 3).await;
    world.raft(1).log_pin(pin(1)).await.unwrap();
    let leader = world.leader().await;
    let [removed, full]: [u64; 2] =
        (1..=3).filter(|number| *number != leader).collect::<Vec<_>>().try_into().unwrap();
    world.raft(leader).remove_peer(&peer(removed)).await.unwrap();
    let error = fact("the removed peer knows", async || {
        world.raft(removed).synchronize().await.err().filter(|error| error.kind() == ErrorKind::Conflict)
    })
    .await;
    assert!(error.downcast_source::<NoLongerMember>().is_some(), "{error}");

    // Its copy cannot follow.
    let no_space = ipfs_cluster::Error::new(ErrorKind::StorageFull, "no space left on device");
    world.faults(full).fail(StorageCall::Write, 0, no_space);
    let writing = world.raft(leader).clone();
    let writing = tokio::spawn(async move { writing.log_pin(pin(2)).await });
    let error = fact("the full peer says so", async || {
        world.raft(full).synchronize().await.err().filter(|error| error.kind() == ErrorKind::StorageFull)
    })
    .await;
    assert!(error.to_string().contains("no space left"), "{error}");
    writing.abort();

    // Whoever waits is told at once when the peer is shut down.
    world.net.isolate(peer(leader));
    let before = Instant::now();
    let stopping = async {
        sleep(HELD).await;
        // What it was asked for before may fail.
        let _ = world.raft(leader).shutdown().await;
    };
    let asked = async {
        let asked = world.raft(leader).synchronize().await;
        (asked.unwrap_err().kind(), before.elapsed())
    };
    let ((kind, elapsed), ()) = tokio::join!(asked, stopping);
    assert_eq!(kind, ErrorKind::ShutDown);
    assert!(elapsed <= HELD + Duration::from_secs(1), "{elapsed:?}");
    assert!(world.raft(leader).state().get(&cid(1)).await.unwrap().is_some());
}
