//! Blocks between peers by bitswap, both ways: the reference fetches from us what we announce, we fetch what it wrote.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use ipfs_cluster::error::Result;
use ipfs_cluster::exchange::{Bitswap, BlockExchange as _, BlockSource};
use ipfs_cluster::state::encode_pin_protobuf;
use ipfs_cluster::transport::{GossipMessage, PeerTransport, Topic};
use ipfs_cluster::types::{Block, Cid, Pin};
use multihash_codetable::{Code, MultihashDigest as _};
use tokio::time::timeout;

use crate::gopeer::{FACT_TIMEOUT, GoConfig, GoPeer, everywhere, until};
use crate::ours::{TakeAll, address, host};
use crate::program;

/// Of the cluster's name: base58 of its MD5 multihash.
const TOPIC: &str = "fzhnY9WL3mUY9GWBcbm76DP1o4";
const DAG_PB: u64 = 0x70;
const CHAIN: usize = 300;

/// Blocks in memory.
#[derive(Debug, Default)]
struct Blocks(Mutex<BTreeMap<Cid, Bytes>>);

impl Blocks {
    fn put(&self, block: &Block) {
        self.0.lock().unwrap().insert(block.cid, block.data.clone());
    }
}

impl BlockSource for Blocks {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        Ok(self.0.lock().unwrap().get(cid).cloned())
    }
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A protobuf field of bytes.
fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    [&[tag][..], &varint(value.len()), value].concat()
}

/// A block of the reference's CRDT that adds pins, by hand: what the product writes is tested against this too.
fn node(links: &[Cid], priority: usize, pins: &[Pin]) -> Block {
    let mut delta = Vec::new();
    for pin in pins {
        let key = format!("/{}", data_encoding::BASE32_NOPAD.encode(&pin.cid.to_bytes()));
        delta.extend(field(
            0x0a,
            &[field(0x0a, key.as_bytes()), field(0x1a, &encode_pin_protobuf(pin))].concat(),
        ));
    }
    delta.push(0x18);
    delta.extend(varint(priority));
    let mut data = Vec::new();
    for link in links {
        data.extend(field(0x12, &[field(0x0a, &link.to_bytes()), vec![0x12, 0, 0x18, 0]].concat()));
    }
    data.extend(field(0x0a, &delta));
    Block { cid: Cid::new_v1(DAG_PB, Code::Sha2_256.digest(&data)), data: data.into() }
}

/// One announced head.
fn broadcast(head: &Cid) -> Bytes {
    field(0x0a, &field(0x0a, &head.to_bytes())).into()
}

/// The links of a block that the reference wrote.
fn links(block: &Block) -> Vec<Cid> {
    let mut rest = &block.data[..];
    let mut links = Vec::new();
    while let [0x12, 0x2a, 0x0a, 0x24, after @ ..] = rest {
        links.push(Cid::try_from(&after[..36]).unwrap());
        rest = &after[40..];
    }
    links
}

/// The block under a head's name as the reference stores it.
fn head_cid(name: &str) -> Cid {
    let hash = data_encoding::BASE32_NOPAD.decode(name.as_bytes()).unwrap();
    Cid::new_v1(DAG_PB, cid::multihash::Multihash::from_bytes(&hash).unwrap())
}

fn pin(number: usize) -> Pin {
    everywhere(&Block::raw(format!("content {number}")).cid.to_string(), &format!("pin {number}"))
}

fn follow(ours: &Arc<dyn PeerTransport>) -> futures::stream::BoxStream<'static, GossipMessage> {
    ours.subscribe(&Topic::new(TOPIC), Arc::new(TakeAll))
}

#[tokio::test]
async fn a_go_peer_walks_down_blocks_of_ours_and_gets_one_that_comes_late() {
    let program = program!();
    let ours = host("served ours").await;
    let blocks = Arc::new(Blocks::default());
    let bitswap = Bitswap::new(ours.clone(), blocks.clone()).unwrap();
    let _messages = follow(&ours);
    let go = GoPeer::start(program, GoConfig::new("served go")).await;
    go.connect(&address(&ours)).await.unwrap();

    let mut chain: Vec<Block> = Vec::new();
    for number in 0..CHAIN {
        let below: Vec<Cid> = chain.last().map(|block| block.cid).into_iter().collect();
        chain.push(node(&below, number + 1, &[pin(number)]));
    }
    chain.iter().for_each(|block| blocks.put(block));
    let announce = async |head: Cid| ours.publish(&Topic::new(TOPIC), broadcast(&head)).await.unwrap();
    let head = chain.last().unwrap();
    until("the whole chain", async || {
        announce(head.cid).await;
        (go.state().await.len() == CHAIN).then_some(())
    })
    .await;
    assert_eq!(go.state().await.iter().find(|pinned| pinned.options.name == "pin 7"), Some(&pin(7)));

    // Announced before we have it, as a peer does that passes on what it has not fetched yet: it asks once.
    let late = node(&[head.cid], CHAIN + 1, &[pin(CHAIN)]);
    announce(late.cid).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // Time for it to ask and be told nothing.
    blocks.put(&late);
    bitswap.announce(&[late.cid]).await.unwrap();
    until("the late block", async || (go.state().await.len() == CHAIN + 1).then_some(())).await;
    assert_eq!(go.heads().await.heads.len(), 1);
    go.stop().await;
}

#[tokio::test]
async fn blocks_that_a_go_peer_wrote_can_be_had_one_by_one_and_many_at_once() {
    let program = program!();
    let ours = host("fetching ours").await;
    let bitswap = Bitswap::new(ours.clone(), Arc::new(Blocks::default())).unwrap();
    let mut messages = follow(&ours);
    let go = GoPeer::start(program, GoConfig::new("fetching go")).await;
    ours.connect(&go.address()).await.unwrap();
    let pins: Vec<Pin> = (0..CHAIN).map(pin).collect();
    go.log_pins(&pins).await;

    let name = go.heads().await.heads.remove(0);
    let mut next = vec![head_cid(&name)];
    let mut seen = Vec::new();
    while let Some(cid) = next.pop() {
        let block = timeout(FACT_TIMEOUT, bitswap.get(&cid, Some(go.id()))).await.unwrap().unwrap();
        assert_eq!(Block::verified(cid, block.data.clone()).unwrap().cid, cid);
        next.extend(links(&block));
        seen.push(cid);
    }
    assert_eq!(seen.len(), CHAIN);

    // A second time all at once, without being told who has them.
    let many: Vec<Block> =
        timeout(FACT_TIMEOUT, bitswap.get_many(seen.clone(), None).map(|block| block.unwrap()).collect())
            .await
            .unwrap();
    let mut got: Vec<Cid> = many.iter().map(|block| block.cid).collect();
    got.sort_unstable();
    seen.sort_unstable();
    assert_eq!(got, seen);

    let announced = timeout(FACT_TIMEOUT, async {
        loop {
            let message = messages.next().await.unwrap();
            if message.data == broadcast(&head_cid(&name)) {
                return message;
            }
        }
    });
    assert_eq!(announced.await.expect("the head again").signer, go.id());
    // Nobody has this one: it waits, and being dropped takes it back.
    let missing = Block::raw("nobody has this").cid;
    assert!(timeout(Duration::from_secs(3), bitswap.get(&missing, Some(go.id()))).await.is_err());
    go.stop().await;
}
