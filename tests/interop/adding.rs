//! Content that one kind of peer adds, on the daemons of the other.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use ipfs_cluster::adder::AddEvent;
use ipfs_cluster::adder::content::InMemory;
use ipfs_cluster::cluster::Scope;
use ipfs_cluster::types::{AddOptions, Block, Cid, PinOptions, PinType, TrackerStatus};
use serde_json::{Value, json};

use crate::cluster::members;
use crate::gopeer::{GoPeer, until};
use crate::program;

const CODEC_RAW: u64 = 0x55;

/// Several leaves, no two alike.
fn content(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at >> 10).wrapping_mul(0x9e37) as u8 ^ (at >> 18) as u8 ^ seed).collect()
}

/// One copy, on the Go peer if that can be.
fn replicated(go: &GoPeer) -> PinOptions {
    PinOptions {
        name: "ours".to_owned(),
        replication_factor_min: 1,
        replication_factor_max: 1,
        user_allocations: vec![go.id()],
        ..PinOptions::default()
    }
}

/// What the daemon of the Go peer has: how many bytes by CID.
async fn blocks(go: &GoPeer) -> BTreeMap<Cid, usize> {
    let content = go.run("ipfs", Value::Null).await.unwrap();
    let blocks: BTreeMap<String, usize> = serde_json::from_value(content["blocks"].clone()).unwrap();
    blocks.into_iter().map(|(cid, bytes)| (cid.parse().unwrap(), bytes)).collect()
}

#[tokio::test]
async fn content_that_we_add_arrives_on_a_go_peer_and_is_pinned_there() {
    let program = program!();
    let (go, ours) = members(program, "we add", true).await;
    let data = content(1, 3_000_000);
    let options =
        AddOptions { raw_leaves: Some(true), cid_version: 1, pin: replicated(&go), ..AddOptions::default() };
    let pins = ours.cluster.add_all(InMemory::new().file("file", data.clone()), options).await.unwrap();
    assert_eq!(pins[0].allocations, [go.id()]);
    let there = blocks(&go).await;
    assert!(there.contains_key(&pins[0].cid), "the root of {there:?}");
    let bytes: usize = there.iter().filter(|(cid, _)| cid.codec() == CODEC_RAW).map(|(_, bytes)| bytes).sum();
    assert_eq!(bytes, data.len());
    for cid in there.keys() {
        let data: String =
            go.rpc(None, "IPFSConnector.BlockGet", vec![json!(cid.to_string())]).await.unwrap();
        Block::verified(*cid, STANDARD.decode(data).unwrap().into()).unwrap();
    }
    until("the pin on the Go peer", async || {
        let state = go.state().await;
        state.iter().any(|pin| pin.cid == pins[0].cid && pin.allocations == [go.id()]).then_some(())
    })
    .await;

    // In shards, and the Go peer unpins all of them by the root.
    let pin = PinOptions { shard_size: 600_000, ..replicated(&go) };
    let options = AddOptions { shard: true, pin, ..AddOptions::default() };
    let pins =
        ours.cluster.add_all(InMemory::new().file("sharded", content(2, 2_000_000)), options).await.unwrap();
    assert_eq!(pins[0].pin_type, PinType::Meta);
    until("all shards, and what holds them together, in the Go peer's pinset", async || {
        let state = go.state().await;
        let shards = state.iter().filter(|pin| pin.pin_type == PinType::Shard).count();
        ((shards, state.len()) == (4, 7)).then_some(())
    })
    .await;

    // Its daemon is gone, and ours takes its place.
    go.set_ipfs(json!({ "down": true })).await;
    let options = AddOptions { pin: replicated(&go), ..AddOptions::default() };
    let pins =
        ours.cluster.add_all(InMemory::new().file("other", content(4, 500_000)), options).await.unwrap();
    assert_eq!(pins[0].allocations, [ours.id()]);
    ours.stop().await;
    go.stop().await;
}

#[tokio::test]
async fn content_that_a_go_peer_adds_arrives_on_ours_and_is_pinned_there() {
    let program = program!();
    let (go, ours) = members(program, "go adds", false).await;
    let data = content(3, 3_000_000);
    let options =
        AddOptions { cid_version: 1, raw_leaves: Some(true), no_pin: true, ..AddOptions::default() };
    // What we make of the same bytes, without pinning it.
    let mut expected = Vec::new();
    let mut events = ours.cluster.add(InMemory::new().file("file", data.clone()), options);
    while let Some(event) = events.next().await {
        if let AddEvent::Line(line) = event.unwrap() {
            expected.extend(line.cid);
        }
    }
    let add = async |query: String| -> Cid {
        let query = format!("{query}&replication=1&user-allocations={}", ours.id());
        let args = json!({ "name": "file", "data": STANDARD.encode(&data), "query": query });
        go.run("add", args).await.unwrap().as_str().unwrap().parse().unwrap()
    };
    let root = add("cid-version=1&raw-leaves=true".to_owned()).await;
    assert_eq!([root], expected[..]);
    until("our peer has it pinned", async || {
        let info = ours.cluster.status(&root, Scope::Local).await.ok()?;
        (info.peer_map[&ours.id()].status == TrackerStatus::Pinned).then_some(())
    })
    .await;
    let root = add("shard=true&shard-size=600000&name=sh".to_owned()).await;
    // Each comes by itself, the root last.
    let meta = until("the shards in our pinset, and their root", async || {
        let state = ours.state().await;
        let shards = state.iter().filter(|pin| pin.pin_type == PinType::Shard).count();
        state.into_iter().find(|pin| pin.cid == root && shards == 6)
    })
    .await;
    assert_eq!(meta.pin_type, PinType::Meta);
    ours.stop().await;
    go.stop().await;
}
