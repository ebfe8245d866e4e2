//! Who is there.

use std::time::Duration;

use ipfs_cluster::consensus::Consensus as _;
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::pin;

use crate::peer::{Peer, config, unique_prefix, until};
use crate::server_or_skip;

async fn until_peers(of: &Peer, numbers: &[u64]) {
    let mut expected: Vec<_> = numbers.iter().map(|number| peer(*number)).collect();
    expected.sort();
    until("these are the members", async || of.etcd.peers().await.unwrap() == expected).await;
}

#[tokio::test]
async fn peers_that_start_and_stop_come_and_go() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    assert!(!one.etcd.is_trusted(&peer(2)));
    let other = Peer::ready(2, config.clone()).await;
    until_peers(&one, &[1, 2]).await;
    until_peers(&other, &[1, 2]).await;
    assert!(one.etcd.is_trusted(&peer(2)) && other.etcd.is_trusted(&peer(1)));
    other.etcd.shutdown().await.unwrap();
    until_peers(&one, &[1]).await;
    // It still is one of us.
    assert!(one.etcd.is_trusted(&peer(2)));
}

#[tokio::test]
async fn a_peer_that_dies_is_gone_when_its_lease_is() {
    let server = server_or_skip!();
    let mut config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    config.lease_ttl = Duration::from_secs(2);
    let mut other = Peer::ready(2, config.clone()).await;
    until_peers(&one, &[1, 2]).await;
    other.cut_off();
    until_peers(&one, &[1]).await;
    let _other = Peer::ready(2, config).await;
    until_peers(&one, &[1, 2]).await;
}

#[tokio::test]
async fn a_peer_that_is_removed_notices_and_stays_out_until_it_is_added() {
    let server = server_or_skip!();
    let mut config = config(&server.url(), &unique_prefix());
    config.lease_ttl = Duration::from_secs(2);
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config.clone()).await;
    until_peers(&one, &[1, 2]).await;
    one.etcd.remove_peer(&peer(2)).await.unwrap();
    until_peers(&one, &[1]).await;
    until_peers(&other, &[1]).await;
    assert!(!one.etcd.is_trusted(&peer(2)));
    let error = other.etcd.log_pin(pin(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("removed"), "{error}");
    // Nor does it help to start it again.
    other.etcd.shutdown().await.unwrap();
    let storage = other.storage.clone();
    drop(other);
    let other = Peer::open_on(2, config.clone(), storage).await;
    let error = other.etcd.ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    // It is the only one who may not.
    one.etcd.log_pin(pin(2)).await.unwrap();
    one.etcd.add_peer(&peer(2)).await.unwrap();
    until("it is in again", async || other.etcd.log_pin(pin(3)).await.is_ok()).await;
    until_peers(&one, &[1, 2]).await;
}

#[tokio::test]
async fn a_peer_that_leaves_may_come_back_and_the_last_one_cannot_leave() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config.clone()).await;
    until_peers(&other, &[1, 2]).await;
    other.etcd.remove_peer(&peer(2)).await.unwrap();
    until_peers(&one, &[1]).await;
    assert!(!one.etcd.is_trusted(&peer(2)));
    assert_eq!(one.etcd.remove_peer(&peer(1)).await.unwrap_err().kind(), ErrorKind::Conflict);
    other.etcd.shutdown().await.unwrap();
    let _other = Peer::ready(2, config).await;
    until_peers(&one, &[1, 2]).await;
}

#[tokio::test]
async fn of_two_peers_that_remove_each_other_one_stays() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config).await;
    until_peers(&one, &[1, 2]).await;
    until_peers(&other, &[1, 2]).await;
    let ids = [peer(1), peer(2)];
    let (first, second) = tokio::join!(one.etcd.remove_peer(&ids[1]), other.etcd.remove_peer(&ids[0]));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let (winner, number) = if first.is_ok() { (&one, 1) } else { (&other, 2) };
    until_peers(winner, &[number]).await;
    winner.etcd.log_pin(pin(1)).await.unwrap();
}

#[tokio::test]
async fn cleaning_empties_etcd_only_where_nobody_else_has_joined() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    one.etcd.log_pin(pin(1)).await.unwrap();
    one.etcd.clean().await.unwrap();
    assert_eq!(one.counts().pins, 0);
    one.etcd.log_pin(pin(2)).await.unwrap();
    let other = Peer::ready(2, config).await;
    assert_eq!(other.counts().pins, 1);
    until_peers(&one, &[1, 2]).await;
    // It does not run now, but the pinset is its pinset, too.
    other.etcd.shutdown().await.unwrap();
    until_peers(&one, &[1]).await;
    one.etcd.clean().await.unwrap();
    assert_eq!(one.counts().pins, 1);
    one.etcd.log_pin(pin(3)).await.unwrap();
    assert_eq!(one.counts().pins, 2);
}
