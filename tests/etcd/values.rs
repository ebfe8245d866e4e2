//! What somebody else has put below the prefix.

use ipfs_cluster::consensus::Consensus as _;
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::testing::state_suite::{Model, assert_same, cid, pin};

use crate::peer::{Peer, config, unique_prefix, until_same};
use crate::server::base64;
use crate::server_or_skip;

#[tokio::test]
async fn what_cannot_be_read_is_passed_over() {
    let server = server_or_skip!();
    let prefix = unique_prefix();
    let config = config(&server.url(), &prefix);
    let one = Peer::ready(1, config.clone()).await;
    one.etcd.log_pin(pin(1)).await.unwrap();
    one.etcd.log_pin(pin(5)).await.unwrap();
    let junk = [
        (format!("{prefix}/pins/{}", cid(2)), &b"\xff\xff\xff"[..]),
        // Where there was a pin.
        (format!("{prefix}/pins/{}", cid(5)), b""),
        (format!("{prefix}/pins/nothing"), b"x"),
        (format!("{prefix}/pins/"), b"x"),
        (format!("{prefix}/peers/nobody"), b"x"),
        (format!("{prefix}/members/"), b"x"),
        (format!("{prefix}/something"), b"x"),
        (format!("{prefix}/lanes/x"), b"x"),
        // Nobody could write if it were kept.
        (format!("{prefix}/batch"), b"x"),
        (format!("{prefix}/parts/x"), b"x"),
    ];
    for (key, value) in &junk {
        server.put(key, value).await;
    }
    // For who follows.
    one.etcd.log_pin(pin(3)).await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of([pin(1), pin(3), pin(5)])).await;
    // For who begins.
    for (key, value) in &junk {
        server.put(key, value).await;
    }
    let other = Peer::ready(2, config).await;
    assert_same(&*other.etcd.state(), &Model::of([pin(1), pin(3)])).await;
    // What was there before it was overwritten is nothing that anybody could give back.
    assert_eq!(other.etcd.log_unpin(&cid(5)).await.unwrap(), None);
    until_same(&one, &other).await;
}

#[tokio::test]
async fn a_batch_that_names_parts_that_are_not_there_holds_nobody_up() {
    let server = server_or_skip!();
    let prefix = unique_prefix();
    let one = Peer::ready(1, config(&server.url(), &prefix)).await;
    server.put(format!("{prefix}/parts/x/0001"), b"\x01junk").await;
    server.put(format!("{prefix}/batch"), "1 x 3 0 0").await;
    one.etcd.log_pin(pin(1)).await.unwrap();
    assert_eq!(server.count(&format!("{prefix}/batch")).await, 0);
}

#[tokio::test]
async fn a_batch_of_a_later_version_is_left_alone() {
    let server = server_or_skip!();
    let prefix = unique_prefix();
    let one = Peer::ready(1, config(&server.url(), &prefix)).await;
    server.put(format!("{prefix}/batch"), "2 x").await;
    let error = one.etcd.log_pin(pin(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(server.count(&format!("{prefix}/batch")).await, 1);
}

#[tokio::test]
async fn who_removes_everything_at_once_is_followed() {
    let server = server_or_skip!();
    let prefix = unique_prefix();
    let one = Peer::ready(1, config(&server.url(), &prefix)).await;
    let operations = (0..500).map(|number| ipfs_cluster::types::PinOperation::Pin(pin(number).into()));
    one.etcd.log_many(operations.collect()).await.unwrap();
    let range = serde_json::json!({
        "key": base64(format!("{prefix}/pins/")),
        "range_end": base64(format!("{prefix}/pins0")),
    });
    server.ask("/v3/kv/deleterange", range).await;
    one.etcd.log_pin(pin(1_000)).await.unwrap();
    assert_same(&*one.etcd.state(), &Model::of([pin(1_000)])).await;
}
