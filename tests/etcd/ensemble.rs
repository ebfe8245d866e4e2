//! An etcd of three members, and one that speaks TLS.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::consensus::{Consensus as _, EtcdConfig};
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::state::StateReader as _;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::testing::state_suite::{Model, assert_same, cid, pin};

use crate::peer::{Peer, config, unique_prefix, until, until_same};
use crate::server::Server;
use crate::server_or_skip;

const CERTIFICATE: &str = include_str!("../data/tls/cert.pem");

fn config_of(servers: &[Server; 3], first: usize, timeout: Duration) -> EtcdConfig {
    let mut config = config("", "/test");
    config.endpoints = (0..3).map(|number| servers[(first + number) % 3].url()).collect();
    config.request_timeout = timeout;
    config
}

#[tokio::test]
async fn losing_any_member_loses_nothing_and_losing_two_is_said() {
    let Some(servers) = Server::start_all::<3>(&[]) else { return };
    let timeout = Duration::from_secs(8);
    // Each begins with another member.
    let one = Peer::open(1, config_of(&servers, 0, timeout)).await;
    let other = Peer::open(2, config_of(&servers, 1, timeout)).await;
    for peer in [&one, &other] {
        peer.etcd.ready().await.unwrap();
    }
    let mut next = 0..;
    let mut acknowledged = Vec::new();
    for server in &servers {
        server.kill();
        // Perhaps it was the leader, and the others have to choose one first.
        for peer in [&one, &other] {
            until("two members take a pin", async || {
                let number = next.next().unwrap();
                let is_logged = peer.etcd.log_pin(pin(number)).await.is_ok();
                acknowledged.extend(is_logged.then_some(number));
                is_logged
            })
            .await;
        }
        server.run();
        until("three members take a pin", async || {
            let number = next.next().unwrap();
            let is_logged = one.etcd.log_pin(pin(number)).await.is_ok();
            acknowledged.extend(is_logged.then_some(number));
            is_logged
        })
        .await;
    }
    until_same(&one, &other).await;
    servers[0].kill();
    servers[1].kill();
    let error = one.etcd.log_pin(pin(1_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for number in &acknowledged {
        assert_eq!(one.etcd.state().get(&cid(*number)).await.unwrap(), Some(pin(*number)));
    }
    servers[0].run();
    until("a quorum is back", async || one.etcd.log_pin(pin(1_001)).await.is_ok()).await;
    until_same(&one, &other).await;
    // Whatever it was told, what failed is there or not, and the same for all.
    let fresh = Peer::open(3, config_of(&servers, 2, timeout)).await;
    until("a new peer is in", async || fresh.etcd.ready().await.is_ok()).await;
    until_same(&one, &fresh).await;
}

#[tokio::test]
async fn an_etcd_with_tls_is_believed_by_its_certificate_only() {
    let server = server_or_skip!(&[
        "--cert-file",
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/cert.pem"),
        "--key-file",
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/key.pem"),
    ]);
    let mut config = config(&server.url(), &unique_prefix());
    config.tls.authorities = CERTIFICATE.to_owned();
    let one = Peer::ready(1, config.clone()).await;
    one.etcd.log_pin(pin(1)).await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of([pin(1)])).await;
    // Nobody else vouches for it.
    config.tls.authorities.clear();
    config.request_timeout = Duration::from_secs(1);
    match Peer::try_open_on(2, config, Arc::new(MemoryStorage::new())).await {
        Ok(other) => {
            let error = other.etcd.log_pin(pin(2)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        // A system that believes nobody.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Internal, "{error}"),
    }
    assert_eq!(one.counts().pins, 1);
}
