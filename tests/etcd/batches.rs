//! More operations than one transaction of etcd takes.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::consensus::{Consensus as _, OPERATIONS_MAX};
use ipfs_cluster::error::ErrorKind;
use ipfs_cluster::testing::state_suite::{Model, assert_same, cid, pin};
use ipfs_cluster::types::{Pin, PinOperation, Revision};
use tokio::time::sleep;

use crate::peer::{Peer, config, unique_prefix, until, until_same};
use crate::server_or_skip;

fn put(pin: Pin) -> PinOperation {
    PinOperation::Pin(Arc::new(pin))
}

fn named(number: u64, name: &str) -> Pin {
    let mut pin = pin(number);
    pin.options.name = name.to_owned();
    pin
}

#[tokio::test]
async fn a_batch_of_many_transactions_is_a_sequence() {
    let server = server_or_skip!();
    let prefix = unique_prefix();
    let config = config(&server.url(), &prefix);
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config).await;
    let mut operations: Vec<PinOperation> = (0..1_000).map(|number| put(pin(number))).collect();
    // These meet the entries long after the transaction that wrote them.
    operations.extend((0..1_000).step_by(3).map(|number| PinOperation::Unpin(cid(number))));
    operations.extend(
        (0..1_000)
            .step_by(2)
            .map(|number| PinOperation::Revise(Revision::replace(pin(number), named(number, "revised")))),
    );
    operations.extend((0..30).map(|number| PinOperation::Revise(Revision::remove(named(number, "revised")))));
    one.etcd.log_many(operations).await.unwrap();
    let expected = (0..1_000).filter(|number| number % 3 != 0).filter_map(|number| match number % 2 {
        0 if number < 30 => None,
        0 => Some(named(number, "revised")),
        _ => Some(pin(number)),
    });
    assert_same(&*one.etcd.state(), &Model::of(expected)).await;
    until_same(&one, &other).await;
    // Nothing of it is left behind.
    assert_eq!(server.count(&format!("{prefix}/parts/")).await, 0);
    assert_eq!(server.count(&format!("{prefix}/batch")).await, 0);
}

#[tokio::test]
async fn nobody_sees_a_part_of_a_batch() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config).await;
    let etcd = one.etcd.clone();
    let logging =
        tokio::spawn(async move { etcd.log_many((0..2_000).map(|number| put(pin(number))).collect()).await });
    let mut seen = 0;
    until("the batch is there", async || {
        for peer in [&one, &other] {
            let pins = peer.counts().pins;
            assert!(pins == 0 || pins == 2_000, "{pins} of 2,000 pins are shown");
            seen = seen.max(pins);
        }
        seen > 0
    })
    .await;
    logging.await.unwrap().unwrap();
    until_same(&one, &other).await;
}

#[tokio::test]
async fn a_batch_whose_author_dies_is_done_by_others_or_never_was() {
    let server = server_or_skip!();
    let prefix = unique_prefix();
    let mut config = config(&server.url(), &prefix);
    config.lease_ttl = Duration::from_secs(2);
    let other = Peer::ready(100, config.clone()).await;
    let mut expected = 0;
    for round in 0..6u64 {
        let mut author = Peer::ready(round, config.clone()).await;
        let etcd = author.etcd.clone();
        let range = round * 10_000..round * 10_000 + 1_500;
        let logging =
            tokio::spawn(async move { etcd.log_many(range.map(|number| put(pin(number))).collect()).await });
        // Wherever it is by then.
        if round > 0 {
            let parts = format!("{prefix}/{}", if round % 2 == 0 { "parts/" } else { "batch" });
            until("it has begun", async || server.count(&parts).await > 0 || logging.is_finished()).await;
            sleep(Duration::from_millis(round * 5)).await;
        }
        author.cut_off();
        let acknowledged = logging.await.unwrap().is_ok();
        // Anybody who writes finds it.
        other.etcd.log_pin(pin(1_000_000 + round)).await.unwrap();
        expected += 1;
        let pins = other.counts().pins;
        assert!(pins == expected || pins == expected + 1_500, "{pins} pins after {expected}");
        assert!(!acknowledged || pins > expected);
        expected = pins;
    }
    until("what was left behind is gone", async || server.count(&format!("{prefix}/parts/")).await == 0)
        .await;
    let fresh = Peer::ready(200, config).await;
    assert_eq!(fresh.counts(), other.counts());
}

#[tokio::test]
async fn calls_beside_a_batch_wait_for_it() {
    let server = server_or_skip!();
    let config = config(&server.url(), &unique_prefix());
    let one = Peer::ready(1, config.clone()).await;
    let other = Peer::ready(2, config).await;
    let batch = (0..1_500).map(|number| put(pin(number))).collect();
    let calls = async {
        for number in 2_000..2_020 {
            other.etcd.log_pin(pin(number)).await.unwrap();
            one.etcd.log_pin(pin(number + 100)).await.unwrap();
        }
    };
    let (batch, ()) = tokio::join!(one.etcd.log_many(batch), calls);
    batch.unwrap();
    until_same(&one, &other).await;
    assert_eq!(one.counts().pins, 1_540);
}

#[tokio::test]
async fn an_entry_that_etcd_cannot_take_is_refused_and_harms_nobody() {
    let server = server_or_skip!();
    let one = Peer::ready(1, config(&server.url(), &unique_prefix())).await;
    let mut large = pin(1);
    large.options.metadata.insert("k".into(), "x".repeat(1_400_000));
    one.etcd.log_pin(large.clone()).await.unwrap();
    let mut larger = pin(2);
    larger.options.metadata.insert("k".into(), "x".repeat(1_600_000));
    let (refused, others) = tokio::join!(one.etcd.log_pin(larger), one.etcd.log_pin(pin(3)));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    others.unwrap();
    assert_same(&*one.etcd.state(), &Model::of([large, pin(3)])).await;
    // Many large ones are no matter.
    let batch = (10..20).map(|number| {
        let mut pin = pin(number);
        pin.options.metadata.insert("k".into(), "x".repeat(600_000));
        put(pin)
    });
    one.etcd.log_many(batch.collect()).await.unwrap();
    assert_eq!(one.counts().pins, 12);
}

/// The largest batch that the contract has. Slow: more than five hundred transactions.
#[tokio::test]
async fn the_largest_batch_goes_in_whole() {
    let server = server_or_skip!();
    let one = Peer::ready(1, config(&server.url(), &unique_prefix())).await;
    let operations = (0..OPERATIONS_MAX as u64).map(|number| put(pin(number))).collect();
    one.etcd.log_many(operations).await.unwrap();
    assert_eq!(one.counts().pins, OPERATIONS_MAX as u64);
}
