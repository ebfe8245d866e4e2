//! Etcd that is away, slow, another one, or loses answers; and peers that are.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use ipfs_cluster::consensus::{Consensus as _, StateEvent};
use ipfs_cluster::error::{Error, ErrorKind};
use ipfs_cluster::state::StateReader as _;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::testing::state_suite::{Model, assert_same, cid, pin};
use ipfs_cluster::testing::{FaultyStorage, StorageCall, peer};
use ipfs_cluster::types::{PinOperation, Revision};
use tokio::time::sleep;

use crate::peer::{FACT_POLL, Peer, config, unique_prefix, until, until_same};
use crate::proxy::Proxy;
use crate::server_or_skip;

fn put(number: u64) -> PinOperation {
    PinOperation::Pin(Arc::new(pin(number)))
}

#[tokio::test]
async fn while_etcd_is_down_writes_fail_in_time_and_reading_goes_on() {
    let server = server_or_skip!(&[]);
    let prefix = unique_prefix();
    let mut impatient = config(&server.url(), &prefix);
    impatient.request_timeout = Duration::from_secs(3);
    let one = Peer::open(1, impatient).await;
    one.etcd.ready().await.unwrap();
    // A machine under load may be as slow as an etcd that is down.
    let other = Peer::ready(2, config(&server.url(), &prefix)).await;
    until("a pin is logged", async || one.etcd.log_pin(pin(1)).await.is_ok()).await;
    until("both are members", async || one.etcd.peers().await.unwrap().len() == 2).await;
    server.kill();
    for _ in 0..2 {
        let error = one.etcd.log_pin(pin(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("etcd"), "{error}");
    }
    assert_eq!(one.etcd.state().get(&cid(1)).await.unwrap(), Some(pin(1)));
    assert_eq!(one.etcd.peers().await.unwrap(), [peer(1), peer(2)]);
    // One that cannot leave has not left, also while it tries.
    let leaving = one.etcd.clone();
    let leaving = tokio::spawn(async move { leaving.remove_peer(&peer(1)).await });
    while !leaving.is_finished() {
        assert_eq!(one.etcd.peers().await.unwrap(), [peer(1), peer(2)]);
        sleep(FACT_POLL).await;
    }
    assert_eq!(leaving.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    server.run();
    until("etcd is back", async || one.etcd.log_pin(pin(3)).await.is_ok()).await;
    let state = one.etcd.state();
    assert_eq!(state.get(&cid(3)).await.unwrap(), Some(pin(3)));
    one.etcd.ready().await.unwrap();
    until_same(&one, &other).await;
    one.etcd.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_etcd_under_load() {
    let server = server_or_skip!(&[]);
    let mut impatient = config(&server.url(), &unique_prefix());
    impatient.request_timeout = Duration::from_secs(5);
    let one = Peer::open(1, impatient.clone()).await;
    one.etcd.ready().await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3u64 {
        let calls = (0..50).map(|number| {
            let etcd = one.etcd.clone();
            let number = round * 50 + number;
            tokio::spawn(async move { etcd.log_pin(pin(number)).await.map(|()| number) })
        });
        let calls: Vec<_> = calls.collect();
        until("something is logged", async || one.counts().pins > 50 * round).await;
        server.kill();
        server.run();
        for call in calls {
            acknowledged.extend(call.await.unwrap().ok());
        }
        until("etcd is back", async || one.etcd.log_pin(pin(1_000 + round)).await.is_ok()).await;
    }
    // A peer that has nothing of its own sees the same.
    let other = Peer::open(2, impatient).await;
    other.etcd.ready().await.unwrap();
    until_same(&one, &other).await;
    let state = other.etcd.state();
    for number in acknowledged {
        assert_eq!(state.get(&cid(number)).await.unwrap(), Some(pin(number)));
    }
}

#[tokio::test]
async fn a_peer_that_was_away_while_etcd_forgot_its_history_copies_anew() {
    let server = server_or_skip!(&[]);
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config.clone()).await;
    one.etcd.log_many((0..40).map(put).collect()).await.unwrap();
    until_same(&one, &other).await;
    other.etcd.shutdown().await.unwrap();
    let storage = other.storage.clone();
    drop(other);
    for number in 0..20 {
        one.etcd.log_unpin(&cid(number)).await.unwrap();
    }
    one.etcd.log_pin(pin(100)).await.unwrap();
    server.compact().await;
    let other = Peer::open_on(2, config, storage).await;
    // What is on its disk can be read at once.
    assert_eq!(other.counts().pins, 40);
    let mut events = other.etcd.events();
    other.etcd.ready().await.unwrap();
    assert_same(&*other.etcd.state(), &Model::of((20..40).chain([100]).map(pin))).await;
    assert_eq!(events.next().await, Some(StateEvent::Resync));
    // And follows again.
    one.etcd.log_pin(pin(101)).await.unwrap();
    until_same(&one, &other).await;
}

#[tokio::test]
async fn a_peer_that_was_away_hears_only_what_it_missed() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let mut other = Peer::ready(2, config.clone()).await;
    one.etcd.log_many((0..10).map(put).collect()).await.unwrap();
    until_same(&one, &other).await;
    // Without a word, as when its machine loses power.
    other.cut_off();
    one.etcd.log_pin(pin(10)).await.unwrap();
    let other = Peer::open_on(2, config, other.storage.clone()).await;
    let mut events = other.etcd.events();
    other.etcd.ready().await.unwrap();
    assert_same(&*other.etcd.state(), &Model::of((0..=10).map(pin))).await;
    // The last one may have been applied before somebody listened.
    one.etcd.log_pin(pin(11)).await.unwrap();
    until_same(&one, &other).await;
    let mut told = Vec::new();
    while told.last() != Some(&StateEvent::Pinned(Arc::new(pin(11)))) {
        told.push(events.next().await.unwrap());
    }
    let allowed = [10, 11].map(|number| StateEvent::Pinned(Arc::new(pin(number))));
    assert!(told.iter().all(|event| allowed.contains(event)), "{told:?}");
}

#[tokio::test]
async fn an_etcd_that_was_replaced_is_copied_anew() {
    let server = server_or_skip!(&[]);
    let prefix = unique_prefix();
    let one = Peer::ready(1, config(&server.url(), &prefix)).await;
    one.etcd.log_many((0..10).map(put).collect()).await.unwrap();
    one.etcd.shutdown().await.unwrap();
    let storage = one.storage.clone();
    drop((one, server));
    let server = server_or_skip!(&[]);
    let other = Peer::ready(2, config(&server.url(), &prefix)).await;
    other.etcd.log_pin(pin(7)).await.unwrap();
    let one = Peer::open_on(1, config(&server.url(), &prefix), storage).await;
    one.etcd.ready().await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of([pin(7)])).await;
}

#[tokio::test]
async fn peers_that_write_at_the_same_time_end_up_the_same() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let peers = [Peer::ready(1, config.clone()).await, Peer::ready(2, config.clone()).await];
    let calls = (0..200u64).map(|number| {
        let etcd = peers[usize::try_from(number % 2).unwrap()].etcd.clone();
        tokio::spawn(async move {
            // Each entry is written by both, with names of their own.
            let mut pin = pin(number / 4);
            pin.options.name = format!("by call {number}");
            match number % 5 {
                0 => etcd.log_unpin(&cid(number / 4)).await.map(drop),
                1 => {
                    let seen = ipfs_cluster::testing::state_suite::pin(number / 4);
                    etcd.log_many(vec![PinOperation::Revise(Revision::replace(seen, pin))]).await
                }
                _ => etcd.log_pin(pin).await,
            }
        })
    });
    for call in join_all(calls).await {
        call.unwrap().unwrap();
    }
    until_same(&peers[0], &peers[1]).await;
    let fresh = Peer::ready(3, config).await;
    assert_eq!(fresh.counts(), peers[0].counts());
}

#[tokio::test]
async fn of_two_peers_that_revise_what_both_saw_one_wins() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let peers = [Peer::ready(1, config.clone()).await, Peer::ready(2, config).await];
    peers[0].etcd.log_many((0..20).map(put).collect()).await.unwrap();
    until_same(&peers[0], &peers[1]).await;
    let revise = |by: usize, number: u64| {
        let mut now = pin(number);
        now.options.name = format!("by {by}");
        let etcd = peers[by].etcd.clone();
        async move { etcd.log_many(vec![PinOperation::Revise(Revision::replace(pin(number), now))]).await }
    };
    for number in 0..20 {
        let (one, other) = tokio::join!(revise(0, number), revise(1, number));
        one.and(other).unwrap();
    }
    until_same(&peers[0], &peers[1]).await;
    for number in 0..20 {
        let name = peers[0].etcd.state().get(&cid(number)).await.unwrap().unwrap().options.name;
        assert!(name.starts_with("by "), "{name}");
    }
}

#[tokio::test]
async fn a_lost_answer_does_not_make_a_write_happen_twice() {
    let server = server_or_skip!();
    let proxy = Proxy::start(server.port()).await;
    let prefix = unique_prefix();
    let one = Peer::ready(1, config(&proxy.url(), &prefix)).await;
    let other = Peer::ready(2, config(&server.url(), &prefix)).await;
    for number in 0..10 {
        one.etcd.log_pin(pin(number)).await.unwrap();
        proxy.lose(1);
        // Sent again it would find nothing to remove.
        let before = one.etcd.log_unpin(&cid(number)).await.unwrap();
        assert_eq!(proxy.left(), 0, "an answer was lost");
        assert_eq!(before, Some(Arc::new(pin(number))));
    }
    assert_eq!(one.counts().pins, 0);
    until_same(&one, &other).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_passed_over() {
    let server = server_or_skip!();
    let mut config = config(&format!("http://127.0.0.1:{}", crate::ports::free_port()), &unique_prefix());
    config.endpoints.push(server.url());
    let one = Peer::ready(1, config).await;
    one.etcd.log_pin(pin(1)).await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of([pin(1)])).await;
}

#[tokio::test]
async fn a_store_that_fails_is_told_and_catches_up() {
    let server = server_or_skip!();
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let one = Peer::open_on(1, config(&server.url(), &unique_prefix()), storage.clone()).await;
    one.etcd.ready().await.unwrap();
    storage.fail(StorageCall::Write, 0, Error::new(ErrorKind::StorageFull, "the disk is full"));
    // Etcd has it, our copy has not.
    let error = one.etcd.log_pin(pin(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert_eq!(one.counts().pins, 0);
    storage.heal();
    until("the copy catches up", async || one.counts().pins == 1).await;
    until("writes work again", async || one.etcd.log_pin(pin(2)).await.is_ok()).await;
    assert_same(&*one.etcd.state(), &Model::of([pin(1), pin(2)])).await;
}

#[tokio::test]
async fn a_peer_that_crashes_between_etcd_and_its_disk_catches_up() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let mut one = Peer::open_on(1, config.clone(), storage.clone()).await;
    one.etcd.ready().await.unwrap();
    one.etcd.log_pin(pin(1)).await.unwrap();
    storage.fail(StorageCall::Write, 0, Error::new(ErrorKind::Io, "cut"));
    one.etcd.log_many((2..200).map(put).collect()).await.unwrap_err();
    one.cut_off();
    storage.heal();
    let one = Peer::open_on(1, config, storage).await;
    one.etcd.ready().await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of((1..200).map(pin))).await;
}

#[tokio::test]
async fn who_has_the_wrong_password_is_told() {
    let server = server_or_skip!(&[]);
    let root = serde_json::json!({"name": "root", "password": "secret"});
    server.ask("/v3/auth/user/add", root).await;
    server.ask("/v3/auth/user/grant", serde_json::json!({"user": "root", "role": "root"})).await;
    server.ask("/v3/auth/enable", serde_json::json!({})).await;
    let prefix = unique_prefix();
    let with = |username: &str, password: &str| {
        let mut config = config(&server.url(), &prefix);
        config.username = username.to_owned();
        config.password.0 = password.to_owned();
        config
    };
    for (config, text) in [
        (with("root", "wrong"), "etcd.password"),
        (with("nobody", "secret"), "etcd.username"),
        (with("", ""), "etcd.username"),
    ] {
        let one = Peer::open(1, config).await;
        let error = one.etcd.ready().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(error.to_string().contains(text) && !error.to_string().contains("secret"), "{error}");
    }
    let one = Peer::ready(1, with("root", "secret")).await;
    one.etcd.log_pin(pin(1)).await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of([pin(1)])).await;
}

#[tokio::test]
async fn a_pinset_of_another_consensus_is_not_replaced() {
    use ipfs_cluster::clock::SystemClock;
    use ipfs_cluster::consensus::{ConsensusContext, Solo, SoloConfig};
    use ipfs_cluster::state::StoreState;
    use ipfs_cluster::storage::Storage;
    use ipfs_cluster::transport::MemoryNetwork;

    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let state = Arc::new(StoreState::open(storage.clone()).await.unwrap());
    let transport = Arc::new(MemoryNetwork::new(0).join(peer(1)).unwrap());
    let cx = ConsensusContext::new(peer(1), storage.clone(), state, transport, Arc::new(SystemClock));
    let solo = Solo::open(SoloConfig::default(), cx).await.unwrap();
    solo.log_pin(pin(1)).await.unwrap();
    solo.shutdown().await.unwrap();
    let opened = Peer::try_open_on(1, config("http://127.0.0.1:1", "/x"), storage).await;
    assert_eq!(opened.err().map(|error| error.kind()), Some(ErrorKind::Conflict));
}
