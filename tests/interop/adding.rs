//! Content that one kind of peer adds, on the daemons of the other.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use ipfs_cluster::adder::content::InMemory;
use ipfs_cluster::adder::{AddEvent, Content, Entry};
use ipfs_cluster::cluster::Scope;
use ipfs_cluster::ipfs_connector::sample_file_with_chunks;
use ipfs_cluster::types::{
    AddFormat, AddOptions, Block, Cid, PinOptions, PinType, Resume, ResumeKey, TrackerStatus,
};
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

/// Part of a CAR, which breaks off behind it or has its end there.
struct Part {
    bytes: Option<Bytes>,
    breaks_off: bool,
    is_open: bool,
}

#[async_trait]
impl Content for Part {
    async fn next(&mut self) -> ipfs_cluster::Result<Option<Entry>> {
        let first = !std::mem::replace(&mut self.is_open, true);
        Ok(first.then(|| Entry { path: "x.car".to_owned(), ..Entry::default() }))
    }

    async fn read(&mut self) -> ipfs_cluster::Result<Option<Bytes>> {
        match self.bytes.take() {
            None if self.breaks_off => Err(ipfs_cluster::Error::invalid_input("the upload broke off")),
            bytes => Ok(bytes),
        }
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on_onto_a_go_peer() {
    let program = program!();
    let (go, ours) = members(program, "we go on", true).await;
    let (root, mut all) = sample_file_with_chunks(content(5, 3_000_000), 250_000);
    all.rotate_right(1);
    let (car, ends) = ipfs_cluster::testing::car(root, &all);
    let middle = ends[7];
    let car = Bytes::from(car);
    let key: ResumeKey = "onto-go".parse().unwrap();
    let add = async |from: usize, to: usize| {
        let resume = Some(Resume { key: key.clone(), offset: from as u64 });
        let options =
            AddOptions { format: AddFormat::Car, resume, pin: replicated(&go), ..AddOptions::default() };
        let part = Part { bytes: Some(car.slice(from..to)), breaks_off: to < car.len(), is_open: false };
        ours.cluster.add_all(part, options).await
    };
    // The Go peer is told of an ordinary end, and keeps what it got.
    assert_eq!(add(0, middle + 1_000).await.unwrap_err().message(), "the upload broke off");
    let known = ours.cluster.interrupted_add(&key).unwrap().unwrap();
    assert_eq!((known.offset, known.allocations), (middle as u64, vec![go.id()]));
    let there = blocks(&go).await;
    assert!(all[..=6].iter().all(|block| there.contains_key(&block.cid)));
    assert!(!all[7..].iter().any(|block| there.contains_key(&block.cid)));

    let pins = add(middle, car.len()).await.unwrap();
    assert_eq!((pins[0].cid, &pins[0].allocations[..]), (root, &[go.id()][..]));
    let there = blocks(&go).await;
    assert!(all.iter().all(|block| there.contains_key(&block.cid)));
    until("the pin on the Go peer", async || {
        go.state().await.iter().any(|pin| pin.cid == root && pin.allocations == [go.id()]).then_some(())
    })
    .await;
    assert!(ours.cluster.interrupted_add(&key).unwrap().is_none());
    ours.stop().await;
    go.stop().await;
}
