//! The reference's store, dumped, and ours after the same blocks.

use serde_json::Value;

use super::super::records::{HEADS, IDS};
use super::super::vectors;
use super::super::wire::{put_varint, read_varint};
use super::*;
use crate::state::decode_pin_protobuf;
use crate::types::PinOperation;

fn block(step: &str) -> Node {
    let bytes = vectors::bytes(&format!("crdt/{step}/block"));
    Node::parse(key::cid_of(&bytes), bytes.into()).unwrap()
}

fn varint(value: u64) -> String {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, value);
    hex::encode(bytes)
}

/// Our store in the reference's words.
async fn dump(crdt: &Crdt) -> BTreeMap<String, String> {
    let mut dump = BTreeMap::new();
    for (key, record) in entries(storage(crdt), IDS) {
        if records::BlockId::decode(&record).unwrap().is_processed {
            dump.insert(format!("/c/b{}", key::of_block(&key[..].try_into().unwrap())), String::new());
        }
    }
    for (key, height) in entries(storage(crdt), HEADS) {
        let id = key::of_block(&key[..].try_into().unwrap());
        dump.insert(format!("/c/h{id}"), varint(read_varint(&height).unwrap().0));
    }
    let pins = pinset(crdt).await;
    let known = known(storage(crdt));
    for (pin, (live, tombstones, value)) in &known {
        let name = key::of_pin(pin);
        for id in live.keys() {
            dump.insert(format!("/c/s/s{name}{}", key::of_block(id)), String::new());
        }
        for id in tombstones {
            dump.insert(format!("/c/s/t{name}{}", key::of_block(id)), String::new());
        }
        let shown = pins.get(&pin.to_bytes()).map(|pin| Bytes::from(encode_pin_protobuf(pin)));
        assert_eq!(shown, *value);
        if let Some(value) = value {
            dump.insert(format!("/c/s/k{name}/v"), hex::encode(value));
            dump.insert(format!("/c/s/k{name}/p"), varint(live.values().max().unwrap() + 1));
        }
    }
    dump
}

/// The reference's dump without elements that a tombstone names, which we do not keep, and its version.
fn expected(step: &str) -> BTreeMap<String, String> {
    let name = format!("crdt/{step}/datastore");
    let vector = vectors::group("crdt/").into_iter().find(|vector| vector.name == name).unwrap();
    let Value::Object(map) = vector.decoded else { panic!("{name}") };
    let is_buried = |key: &str| {
        key.strip_prefix("/c/s/s/").is_some_and(|rest| map.contains_key(&format!("/c/s/t/{rest}")))
    };
    map.iter()
        .filter(|(key, _)| *key != "/c/crdt_version" && !is_buried(key))
        .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

const STEPS: [&str; 7] = ["1-put", "2-put", "3-overwrite", "4-delete", "5-batch", "6-concurrent", "8-join"];

#[tokio::test]
async fn after_each_block_our_store_says_what_the_references_does() {
    let crdt = memory(AT_ONCE).await;
    let mut dumps: Vec<String> = vectors::group("crdt/")
        .into_iter()
        .filter_map(|vector| Some(vector.name.strip_suffix("/datastore")?.strip_prefix("crdt/")?.to_owned()))
        .collect();
    for step in STEPS {
        let node = block(step);
        merge(&crdt, &[&node], tip(&node)).await;
        // The dump after the concurrent block has a name of its own.
        let step = if step == "6-concurrent" { "7-two-heads" } else { step };
        if let Some(place) = dumps.iter().position(|name| name == step) {
            dumps.swap_remove(place);
            assert_eq!(dump(&crdt).await, expected(step), "{step}");
        }
    }
    assert_eq!(dumps, [""; 0], "dumps that nobody looked at");
}

#[tokio::test]
async fn in_whatever_order_blocks_come_the_store_says_the_same() {
    let blocks: Vec<Node> = STEPS.iter().map(|step| block(step)).collect();
    let last = blocks.last().unwrap();
    let expected = expected("8-join");
    // 7! orders are many; every 11th has each block in every place.
    let mut orders = Vec::new();
    permute(&mut (0..blocks.len()).collect(), 0, &mut orders);
    assert_eq!(orders.len(), 5_040);
    for (number, order) in orders.into_iter().step_by(11).enumerate() {
        let crdt = memory(AT_ONCE).await;
        let shuffled: Vec<&Node> = order.iter().map(|place| &blocks[*place]).collect();
        // One by one, or some at a time.
        for some in shuffled.chunks(1 + number % 4) {
            merge(&crdt, some, HeadChange::none()).await;
        }
        merge(&crdt, &[last], tip(last)).await;
        assert_eq!(dump(&crdt).await, expected, "{order:?}");
    }
}

fn permute(order: &mut Vec<usize>, from: usize, orders: &mut Vec<Vec<usize>>) {
    if from == order.len() {
        return orders.push(order.clone());
    }
    for place in from..order.len() {
        order.swap(from, place);
        permute(order, from + 1, orders);
        order.swap(from, place);
    }
}

#[tokio::test]
async fn the_same_operations_make_the_references_blocks() {
    let crdt = memory(AT_ONCE).await;
    let put = |step: &str| {
        let Element { pin, value } = &block(step).delta.elements[0];
        decode_pin_protobuf(pin, value).unwrap()
    };
    let has = |step: &str| assert!(nodes(storage(&crdt)).contains(&block(step)), "{step}");
    for step in ["1-put", "2-put", "3-overwrite"] {
        crdt.log_pin(put(step)).await.unwrap();
        has(step);
    }
    // Our tombstones would come in another order, which says the same under another name.
    let removed = block("4-delete");
    merge(&crdt, &[&removed], tip(&removed)).await;
    let batch = vec![PinOperation::Pin(put("5-batch").into()), PinOperation::Unpin(put("2-put").cid)];
    crdt.log_many(batch).await.unwrap();
    has("5-batch");
    let concurrent = block("6-concurrent");
    merge(&crdt, &[&concurrent], tip(&concurrent)).await;
    assert_eq!(dump(&crdt).await, expected("7-two-heads"));
    crdt.log_pin(put("8-join")).await.unwrap();
    has("8-join");
    assert_eq!(dump(&crdt).await, expected("8-join"));
}
