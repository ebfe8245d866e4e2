//! The committer, driven as the network side drives it.

mod catchup;
mod convergence;
mod durability;
mod network;
mod offline;
mod reference;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::delta::{Delta, Element, Tombstone};
use super::key::{self, Digest};
use super::ledger::{Head, HeadChange, Ledger as _};
use super::node::Node;
use super::records::{self, BLOCKS, LOG, SET};
use super::set::Elements;
use super::{Crdt, CrdtConfig};
use crate::clock::SystemClock;
use crate::consensus::{Consensus as _, ConsensusContext};
use crate::exchange::{ExchangeMaker, StreamExchange};
use crate::state::{StateQuery, StateReader as _, StoreState, encode_pin_protobuf};
use crate::storage::{MemoryStorage, Space, Storage};
use crate::testing::peer;
use crate::testing::state_suite::pin;
use crate::transport::{MemoryNetwork, MemoryTransport};
use crate::types::{Cid, Pin};

/// Nothing is cut by itself in a test that does not let time pass.
const BATCHED: (usize, Duration) = (1_000, Duration::from_secs(60));
const AT_ONCE: (usize, Duration) = (0, Duration::ZERO);

async fn open(storage: Arc<dyn Storage>, batching: (usize, Duration)) -> Crdt {
    let transport = Arc::new(MemoryNetwork::new(0).join(peer(1)).unwrap());
    open_on(transport, 1, storage, batching).await
}

async fn open_on(
    transport: Arc<MemoryTransport>,
    number: u64,
    storage: Arc<dyn Storage>,
    (operations, age): (usize, Duration),
) -> Crdt {
    let state = Arc::new(StoreState::open(storage.clone()).await.unwrap());
    let mut cx =
        ConsensusContext::new(peer(number), storage, state, transport.clone(), Arc::new(SystemClock));
    cx.exchange =
        ExchangeMaker::new(move |source| Ok(Arc::new(StreamExchange::new(transport.clone(), source)?)));
    let mut config = CrdtConfig::default();
    config.batching.max_batch_size = operations;
    config.batching.max_batch_age = age;
    Crdt::open(config, cx).await.unwrap()
}

async fn memory(batching: (usize, Duration)) -> Crdt {
    open(Arc::new(MemoryStorage::new()), batching).await
}

fn storage(crdt: &Crdt) -> &dyn Storage {
    &*crdt.parts.ledger.storage
}

fn entries(storage: &dyn Storage, space: Space) -> Vec<(Bytes, Bytes)> {
    let mut entries = Vec::new();
    let snapshot = storage.snapshot().unwrap();
    records::for_each(&*snapshot, space, |key, value| {
        entries.push((key.clone(), value.clone()));
        Ok(())
    })
    .unwrap();
    entries
}

/// Every block, in order of height.
fn nodes(storage: &dyn Storage) -> Vec<Node> {
    let parse = |(key, block): (Bytes, Bytes)| {
        let cid = key::block_cid(&key[..].try_into().unwrap());
        assert_eq!(key::cid_of(&block), cid);
        Node::parse(cid, block).unwrap()
    };
    let mut nodes: Vec<Node> = entries(storage, BLOCKS).into_iter().map(parse).collect();
    nodes.sort_by_key(|node| (node.delta.priority, node.cid));
    nodes
}

fn digest(node: &Node) -> Digest {
    key::block_digest(&node.cid).unwrap()
}

/// A block of another peer.
fn node(links: &[&Node], elements: &[&Pin], tombstones: &[(&Pin, &Node)]) -> Node {
    let height = links.iter().map(|link| link.delta.priority).max().unwrap_or(0) + 1;
    let element = |pin: &&Pin| Element { pin: pin.cid, value: encode_pin_protobuf(pin).into() };
    let tombstone = |(pin, node): &(&Pin, &Node)| Tombstone { pin: pin.cid, block: digest(node) };
    let delta = Delta {
        elements: elements.iter().map(element).collect(),
        tombstones: tombstones.iter().map(tombstone).collect(),
        priority: height,
    };
    Node::build(links.iter().map(|link| link.cid).collect(), delta)
}

/// Makes a block the head instead of those it links to.
fn tip(node: &Node) -> HeadChange {
    let add = vec![Head { cid: node.cid, height: node.delta.priority }];
    HeadChange { add, remove: node.links.clone() }
}

async fn merge(crdt: &Crdt, nodes: &[&Node], heads: HeadChange) {
    crdt.parts.ledger.merge(nodes.iter().copied().cloned().collect(), heads).await.unwrap();
}

async fn pinset(crdt: &Crdt) -> BTreeMap<Vec<u8>, Pin> {
    let pages: Vec<Vec<Pin>> = crdt.state.list(StateQuery::default()).try_collect().await.unwrap();
    let pins: BTreeMap<_, _> = pages.concat().into_iter().map(|pin| (pin.cid.to_bytes(), pin)).collect();
    assert_eq!(crdt.state.counts().pins, pins.len() as u64);
    pins
}

/// What is known of a pin, in words that do not depend on the store: live elements with their priorities, tombstones, and
/// the value that counts.
type Known = (BTreeMap<Digest, u64>, Vec<Digest>, Option<Bytes>);

fn known(storage: &dyn Storage) -> BTreeMap<Cid, Known> {
    let named = |number| -> Digest {
        let key = records::number_key(number).unwrap();
        storage.get(records::NUMBERS, &key).unwrap().unwrap()[..].try_into().unwrap()
    };
    let blocks: BTreeMap<Digest, Node> =
        nodes(storage).into_iter().map(|node| (digest(&node), node)).collect();
    let read = |(key, record): (Bytes, Bytes)| {
        let pin = key::pin_of_bytes(&key).unwrap();
        let elements = Elements::decode(&record).unwrap();
        let live: BTreeMap<Digest, u64> =
            elements.live().iter().map(|live| (named(live.number), live.priority)).collect();
        let mut tombstones: Vec<Digest> = elements.tombstones().iter().map(|number| named(*number)).collect();
        tombstones.sort_unstable();
        let value = elements.winner().map(|number| {
            let values = blocks[&named(number)].delta.elements.iter();
            values.filter(|element| element.pin == pin).map(|element| element.value.clone()).max().unwrap()
        });
        (pin, (live, tombstones, value))
    };
    entries(storage, SET).into_iter().map(read).collect()
}

fn named(number: u64, name: &str) -> Pin {
    let mut pin = pin(number);
    pin.options.name = name.to_owned();
    pin
}
