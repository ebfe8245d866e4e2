//! What the set reads of other peers and of its store, for `testing::decoders`: each says whether the bytes were read, and
//! panics when what was read does not hold.

use bytes::Bytes;

use super::batching::{Logged, decode_log, encode_log};
use super::broadcast::{self, BROADCAST_HEADS_MAX};
use super::catchup::message::{Message, RecordReader};
use super::catchup::samples;
use super::delta::{DELTA_ENTRIES_MAX, Delta};
use super::key;
use super::ledger::{Branch, Head};
use super::node::{LINKS_MAX, Node};
use super::records::{BlockId, decode_progress, encode_progress};
use super::set::{Elements, Live};
use crate::types::Cid;

/// What peers say on the topic.
pub(crate) fn broadcasts(bytes: &[u8]) -> bool {
    let Ok(heads) = broadcast::decode(bytes) else { return false };
    assert!(heads.len() <= BROADCAST_HEADS_MAX);
    assert_eq!(broadcast::decode(&broadcast::encode(&heads)).ok(), Some(heads));
    true
}

/// What a block changes.
pub(crate) fn deltas(bytes: &[u8]) -> bool {
    let Ok(delta) = Delta::decode(Bytes::copy_from_slice(bytes)) else { return false };
    assert!(delta.len() <= DELTA_ENTRIES_MAX);
    let written = delta.encode();
    assert!(written.len() <= delta.encoded_len());
    assert_eq!(Delta::decode(written.into()).ok(), Some(delta));
    true
}

/// A block of the DAG, under the name that its bytes have.
pub(crate) fn blocks(bytes: &[u8]) -> bool {
    let Ok(node) = Node::parse(key::cid_of(bytes), Bytes::copy_from_slice(bytes)) else { return false };
    assert!(node.links.len() <= LINKS_MAX);
    let built = Node::build(node.links, node.delta);
    assert_eq!(Node::parse(built.cid, built.block.clone()).ok(), Some(built));
    true
}

/// The names of pins and blocks in deltas. Whatever is one is spelt in one way only.
pub(crate) fn keys(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (pin, block) = (key::to_pin(text), key::to_block(text));
    assert!(pin.is_none_or(|pin| key::of_pin(&pin) == text));
    assert!(block.is_none_or(|block| key::of_block(&block) == text));
    let binary = key::pin_of_bytes(bytes);
    assert!(binary.is_none_or(|cid| cid.to_bytes() == bytes));
    pin.is_some() || block.is_some() || binary.is_some()
}

/// Names of both kinds, as text and in bytes.
pub(crate) fn key_samples() -> Vec<Vec<u8>> {
    let cid = key::block_cid(&[7; 32]);
    let raw = Cid::new_v1(0x55, *cid.hash());
    let texts = [key::of_pin(&cid), key::of_pin(&raw), key::of_block(&[7; 32])];
    texts.into_iter().map(String::into_bytes).chain([cid.to_bytes(), raw.to_bytes()]).collect()
}

/// The record of a pin.
pub(crate) fn elements(bytes: &[u8]) -> bool {
    let Ok(elements) = Elements::decode(bytes) else { return false };
    assert!(elements.live().len() + elements.tombstones().len() <= bytes.len());
    assert!(elements.tombstones().is_sorted());
    assert_eq!(Elements::decode(&elements.encode()).ok(), Some(elements));
    true
}

/// Records of pins with some elements, and with none.
pub(crate) fn element_samples() -> Vec<Vec<u8>> {
    let record = |numbers: &[u64]| {
        let mut elements = Elements::default();
        for &number in numbers {
            elements.add(Live { number, priority: number });
            elements.bury(number * 2 + 1);
        }
        elements.encode()
    };
    [&[][..], &[1], &[1, 2, 3], &[7, 300, 40_000, 41_000]].map(record).into()
}

/// The record of a block.
pub(crate) fn block_ids(bytes: &[u8]) -> bool {
    let Ok(id) = BlockId::decode(bytes) else { return false };
    assert_eq!(BlockId::decode(&id.encode()).ok(), Some(id));
    true
}

/// Records of blocks, merged and not.
pub(crate) fn block_id_samples() -> Vec<Vec<u8>> {
    let id = |number, height, is_processed, is_lacking| {
        BlockId { number, height, is_processed, is_lacking }.encode()
    };
    vec![id(0, 0, false, false), id(70_000, 70_000, true, true), id((1 << 40) - 1, u64::MAX, true, false)]
}

/// What peers say to each other to catch up, without the lengths before.
pub(crate) fn catchup_messages(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(&Bytes::copy_from_slice(bytes)) else { return false };
    assert_eq!(Message::decode(&message.encode().into()).ok().as_ref(), Some(&message));
    match message {
        Message::Records(records) => RecordReader::default().read(&records).is_ok(),
        _ => true,
    }
}

/// A message of each kind.
pub(crate) fn catchup_samples() -> Vec<Vec<u8>> {
    samples::messages().iter().map(Message::encode).collect()
}

/// Walks that were not finished.
pub(crate) fn walks(bytes: &[u8]) -> bool {
    let Ok(branches) = decode_progress(bytes) else { return false };
    let written = encode_progress(&branches).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(decode_progress(&written).ok(), Some(branches));
    true
}

/// Some walks.
pub(crate) fn walk_samples() -> Vec<Vec<u8>> {
    let block = |number: u8| key::block_cid(&[number; 32]);
    let tip = |number: u8| Head { cid: block(number), height: u64::from(number) * 100 };
    let branches = [
        Branch { tip: tip(1), open: vec![block(2), block(3)], met: vec![block(4)] },
        Branch { tip: tip(5), open: Vec::new(), met: Vec::new() },
    ];
    (0..=branches.len()).filter_map(|length| encode_progress(&branches[..length]).ok()).collect()
}

/// Operations that were acknowledged.
pub(crate) fn logs(bytes: &[u8]) -> bool {
    let Ok(operations) = decode_log(&Bytes::copy_from_slice(bytes)) else { return false };
    let records = encode_log(&operations).into_iter();
    let again: Result<Vec<_>, _> = records.map(|record| decode_log(&record.into())).collect();
    assert_eq!(again.ok().map(|parts| parts.concat()), Some(operations));
    true
}

/// Logs with both kinds of operations.
pub(crate) fn log_samples() -> Vec<Vec<u8>> {
    let pin = key::block_cid(&[7; 32]);
    let value = Bytes::from_static(b"value");
    let operations = [Logged::Pin { pin, value }, Logged::Unpin { pin, elements: vec![[7; 32], [8; 32]] }];
    (1..=operations.len()).flat_map(|length| encode_log(&operations[..length])).collect()
}
