use std::time::Duration;

use super::*;
use crate::cluster::StopReason;
use crate::testing::TestClusterConfig;
use crate::types::{Cid, PinOptions};

async fn peers(count: usize, absent: impl IntoIterator<Item = usize>) -> TestCluster {
    let config = TestClusterConfig {
        peers: count,
        absent: absent.into_iter().collect(),
        raft: Some(RaftConfig::default()),
        ..TestClusterConfig::default()
    };
    TestCluster::with_config(config).await.unwrap()
}

async fn pin(peers: &TestCluster, peer: usize, content: &[u8]) -> Cid {
    let cid = peers.add(content);
    peers.peer(peer).pin(cid, PinOptions::default()).await.unwrap();
    cid
}

#[tokio::test(start_paused = true)]
async fn whole_peers_agree_by_raft_whoever_is_killed() {
    let mut peers = peers(3, []).await;
    let first = pin(&peers, 0, b"first").await;
    peers.wait_pinned(&first).await.unwrap();
    let leader = peers.leader().await.unwrap();
    peers.crash(leader);
    let second = pin(&peers, (leader + 1) % 3, b"second").await;
    peers.restart(leader).await.unwrap();
    peers.wait_converged().await.unwrap();
    peers.wait_pinned(&second).await.unwrap();
    for peer in 0..3 {
        peers.raft(peer).unwrap().synchronize().await.unwrap();
        assert_eq!(peers.peer(peer).state().counts().pins, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_joins_leaves_and_joins_again() {
    let mut peers = peers(4, [3]).await;
    let cid = pin(&peers, 0, b"content").await;
    peers.restart(3).await.unwrap();
    peers.peer(1).add_peer(&peers.id(3)).await.unwrap();
    peers.wait_pinned(&cid).await.unwrap();
    peers.wait_converged().await.unwrap();
    let removed = peers.peer(3).clone();
    peers.peer(2).remove_peer(&peers.id(3)).await.unwrap();
    assert!(matches!(removed.stopped().await, StopReason::Removed));
    assert!(matches!(peers.stop(3).await, Some(StopReason::Removed)));
    peers.wipe(3);
    peers.restart(3).await.unwrap();
    peers.peer(0).add_peer(&peers.id(3)).await.unwrap();
    peers.peer(3).ready().await.unwrap();
    assert_eq!(peers.peer(3).state().counts().pins, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_peer_with_the_identity_of_a_running_one_does_not_start() {
    let peers = peers(3, []).await;
    pin(&peers, 0, b"content").await;
    let error = peers.network().join(peers.id(1)).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Conflict);
    tokio::time::sleep(Duration::from_secs(10)).await;
    pin(&peers, 1, b"more").await;
}
