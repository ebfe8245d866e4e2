//! What happens to an etcd that is looked after badly: it is full, forgets, forgets who asked, stands still, is restored.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::consensus::Consensus as _;
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::testing::peer;
use ipfs_cluster::testing::state_suite::{Model, assert_same, cid, pin};
use ipfs_cluster::types::PinOperation;
use serde_json::json;

use crate::peer::{Peer, config, unique_prefix, until, until_same};
use crate::proxy::Proxy;
use crate::server::Server;
use crate::server_or_skip;

fn put(number: u64) -> PinOperation {
    PinOperation::Pin(Arc::new(pin(number)))
}

#[tokio::test]
async fn an_etcd_that_is_full_says_so_and_takes_changes_again_when_it_has_room() {
    // As small as it gets with what a new one has.
    let server = server_or_skip!(&["--quota-backend-bytes", "4194304"]);
    let prefix = unique_prefix();
    let one = Peer::ready(1, config(&server.url(), &prefix)).await;
    one.etcd.log_pin(pin(1)).await.unwrap();
    // Somebody else fills it.
    let mut written = 0;
    let full = loop {
        let value = "x".repeat(1_000_000);
        let question = json!({"key": crate::server::base64(format!("/other/{written}")), "value": crate::server::base64(value)});
        match server.try_ask("/v3/kv/put", question).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 20, "it never is full");
    };
    assert!(full.contains("space exceeded"), "{full}");
    for result in [one.etcd.log_pin(pin(2)).await, one.etcd.log_many((10..2_000).map(put).collect()).await] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(error.to_string().contains("compact and defragment etcd"), "{error}");
    }
    assert_same(&*one.etcd.state(), &Model::of([pin(1)])).await;
    assert_eq!(one.etcd.peers().await.unwrap(), [peer(1)]);
    // A peer that starts now waits for room.
    let other = Peer::open(2, config(&server.url(), &prefix)).await;

    let all = json!({"key": crate::server::base64("/other/"), "range_end": crate::server::base64("/other0")});
    server.ask("/v3/kv/deleterange", all).await;
    server.compact().await;
    server.ask("/v3/maintenance/defragment", json!({})).await;
    let alarms = server.ask("/v3/maintenance/alarm", json!({"action": "GET"})).await;
    let member = alarms["alarms"][0]["memberID"].clone();
    let disarm = json!({"action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE"});
    server.ask("/v3/maintenance/alarm", disarm).await;
    until("there is room", async || one.etcd.log_pin(pin(2)).await.is_ok()).await;
    other.etcd.ready().await.unwrap();
    until_same(&one, &other).await;
    assert_same(&*other.etcd.state(), &Model::of([pin(1), pin(2)])).await;
}

#[tokio::test]
async fn a_peer_that_was_cut_off_while_etcd_forgot_its_history_copies_anew() {
    let server = server_or_skip!(&[]);
    let proxy = Proxy::start(server.port()).await;
    let prefix = unique_prefix();
    let one = Peer::ready(1, config(&proxy.url(), &prefix)).await;
    let other = Peer::ready(2, config(&server.url(), &prefix)).await;
    other.etcd.log_many((0..40).map(put).collect()).await.unwrap();
    until_same(&one, &other).await;
    proxy.cut(true);
    for number in 0..20 {
        other.etcd.log_unpin(&cid(number)).await.unwrap();
    }
    server.compact().await;
    other.etcd.log_pin(pin(100)).await.unwrap();
    server.compact().await;
    assert_eq!(one.counts().pins, 40);
    proxy.cut(false);
    until_same(&one, &other).await;
    one.etcd.log_pin(pin(101)).await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of((20..40).chain([100, 101]).map(pin))).await;
}

#[tokio::test]
async fn an_etcd_that_is_compacted_and_defragmented_under_load_loses_nothing() {
    let server = server_or_skip!(&[]);
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config).await;
    let writing = async {
        for round in 0..10u64 {
            let calls = (0..30).map(|number| one.etcd.log_pin(pin(round * 30 + number)));
            for done in futures::future::join_all(calls).await {
                done.unwrap();
            }
        }
    };
    let tidying = async {
        for _ in 0..5 {
            // Nothing was written since the last time, perhaps; and it may be too busy.
            let now = json!({"revision": server.revision().await.to_string(), "physical": true});
            let _ = server.try_ask("/v3/kv/compaction", now).await;
            server.ask("/v3/maintenance/defragment", json!({})).await;
        }
    };
    tokio::join!(writing, tidying);
    until_same(&one, &other).await;
    assert_same(&*other.etcd.state(), &Model::of((0..300).map(pin))).await;
}

#[tokio::test]
async fn a_token_that_runs_out_is_replaced_and_who_may_write_below_the_prefix_may_enough() {
    let server = server_or_skip!(&["--auth-token", "simple", "--auth-token-ttl", "1"]);
    let root = json!({"name": "root", "password": "secret"});
    server.ask("/v3/auth/user/add", root).await;
    server.ask("/v3/auth/user/grant", json!({"user": "root", "role": "root"})).await;
    let prefix = unique_prefix();
    server.ask("/v3/auth/role/add", json!({"name": "peer"})).await;
    let below = |end: &str| crate::server::base64(format!("{prefix}{end}"));
    let permission = json!({"permType": "READWRITE", "key": below("/"), "range_end": below("0")});
    server.ask("/v3/auth/role/grant", json!({"name": "peer", "perm": permission})).await;
    server.ask("/v3/auth/user/add", json!({"name": "me", "password": "secret"})).await;
    server.ask("/v3/auth/user/grant", json!({"user": "me", "role": "peer"})).await;
    server.ask("/v3/auth/enable", json!({})).await;
    let mut config = config(&server.url(), &prefix);
    config.username = "me".to_owned();
    config.password.0 = "secret".to_owned();
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config).await;
    for number in 0..3 {
        one.etcd.log_pin(pin(number)).await.unwrap();
        // Longer than a token that nobody uses lives.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    // One that is started again knows no token at all.
    server.kill();
    server.run();
    until("it knows us again", async || one.etcd.log_pin(pin(3)).await.is_ok()).await;
    one.etcd.log_many((10..1_000).map(put).collect()).await.unwrap();
    until_same(&one, &other).await;
    assert_same(&*other.etcd.state(), &Model::of((0..4).chain(10..1_000).map(pin))).await;
    other.etcd.shutdown().await.unwrap();
    until("it is gone, not only its lease", async || one.etcd.peers().await.unwrap() == [peer(1)]).await;
}

#[tokio::test]
async fn an_etcd_that_stands_still_is_waited_for() {
    let server = server_or_skip!(&[]);
    let one = Peer::ready(1, config(&server.url(), &unique_prefix())).await;
    for round in 0..2 {
        server.signal("STOP");
        let calls: Vec<_> = (0..20)
            .map(|number| {
                let etcd = one.etcd.clone();
                tokio::spawn(async move { etcd.log_pin(pin(round * 20 + number)).await })
            })
            .collect();
        // Longer than one attempt takes, so that some of them are sent twice.
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal("CONT");
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    assert_same(&*one.etcd.state(), &Model::of((0..40).map(pin))).await;
}

#[tokio::test]
async fn a_member_that_stands_still_is_passed_over() {
    let Some(servers) = Server::start_all::<3>(&[]) else { return };
    let mut config = config("", "/test");
    config.endpoints = servers.iter().map(Server::url).collect();
    // Who does not write finds out by its own signs of life that what it follows stands still.
    config.lease_ttl = Duration::from_secs(6);
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config).await;
    for (number, server) in (0u64..).zip(&servers) {
        server.signal("STOP");
        // Its lease may run out while the others choose a leader, and it is told to do it again.
        until("two members take a pin", async || one.etcd.log_pin(pin(number)).await.is_ok()).await;
        until_same(&one, &other).await;
        server.signal("CONT");
    }
    assert_same(&*other.etcd.state(), &Model::of((0..3).map(pin))).await;
}

/// With the same name, addresses and token it has the same id, and its revisions go on where the backup was.
#[tokio::test]
async fn an_etcd_that_was_restored_from_a_backup_is_copied_anew() {
    let server = server_or_skip!(&[]);
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config.clone()).await;
    one.etcd.log_many((0..10).map(put).collect()).await.unwrap();
    until_same(&one, &other).await;
    server.kill();
    let backup = tempfile::tempdir().unwrap();
    copy(&server.data(), backup.path());
    server.run();
    until("it is back", async || one.etcd.log_pin(pin(100)).await.is_ok()).await;
    for number in 101..110 {
        one.etcd.log_pin(pin(number)).await.unwrap();
    }
    until_same(&one, &other).await;
    // One runs, the other does not, while the backup is brought back and time goes on.
    other.etcd.shutdown().await.unwrap();
    let storage = other.storage.clone();
    drop(other);
    let revision = server.revision().await;
    server.kill();
    fs::remove_dir_all(server.data()).unwrap();
    copy(backup.path(), &server.data());
    server.run();
    until("the one that runs has what the backup had", async || one.counts().pins == 10).await;
    let mut number = 200;
    while server.revision().await <= revision + 10 {
        one.etcd.log_pin(pin(number)).await.unwrap();
        number += 1;
    }
    let other = Peer::open_on(2, config, storage).await;
    assert_eq!(other.counts().pins, 20);
    other.etcd.ready().await.unwrap();
    until_same(&one, &other).await;
    assert_same(&*other.etcd.state(), &Model::of((0..10).chain(200..number).map(pin))).await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_batch_that_is_larger_than_etcd_can_make_whole_is_refused_before_anything_is_written() {
    let server = server_or_skip!(&["--max-request-bytes", "65536"]);
    let prefix = unique_prefix();
    let mut config = config(&server.url(), &prefix);
    config.max_request_bytes = 64 << 10;
    let one = Peer::ready(1, config).await;
    let large = |number: u64| {
        let mut pin = pin(number);
        pin.options.metadata.insert("k".into(), "x".repeat(20_000));
        PinOperation::Pin(Arc::new(pin))
    };
    let error = one.etcd.log_many((0..300).map(large).collect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("log them in smaller batches"), "{error}");
    assert_eq!((one.counts().pins, server.count(&format!("{prefix}/parts/")).await), (0, 0));
    one.etcd.log_many((0..100).map(large).collect()).await.unwrap();
    assert_eq!(one.counts().pins, 100);
}
