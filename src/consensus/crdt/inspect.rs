//! What a store of the set holds, in words that do not depend on the store: for simulators.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::key;
use super::node::Node;
use super::records::{self, BLOCKS, NUMBERS, SET};
use super::set::Elements;
use super::wire::corrupt;
use crate::error::Result;
use crate::storage::Storage;
use crate::types::Cid;

/// SHA-256 of a block: its name.
pub type BlockName = [u8; 32];

/// What is known of one pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPin {
    /// The elements that nothing removed, each by the block that added it, with their priorities.
    pub live: BTreeMap<BlockName, u64>,
    /// Blocks whose element is gone.
    pub tombstones: BTreeSet<BlockName>,
}

/// One block of the DAG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockView {
    /// The blocks that it was built on.
    pub links: Vec<BlockName>,
    /// Its height, which is the priority of its elements.
    pub height: u64,
    /// The pins that it adds, each with its greatest value.
    pub elements: BTreeMap<Cid, Bytes>,
    /// What it removes: of which pin, and which block added it.
    pub tombstones: Vec<(Cid, BlockName)>,
}

/// What a store knows of each pin of which it knows anything.
///
/// # Errors
/// What the store says; `Corrupt`.
pub fn known(storage: &dyn Storage) -> Result<BTreeMap<Cid, KnownPin>> {
    let snapshot = storage.snapshot()?;
    let mut pins = BTreeMap::new();
    records::for_each(&*snapshot, SET, |key, record| {
        let cid =
            key::pin_of_bytes(key).ok_or_else(|| corrupt("the key of a pin's elements is unreadable"))?;
        let elements = Elements::decode(record)?;
        let named = |number| {
            let name = snapshot.get(NUMBERS, &records::number_key(number)?)?;
            records::digest_of(&name.ok_or_else(|| corrupt("nobody knows which block a number stands for"))?)
        };
        let live = elements.live().iter().map(|live| Ok((named(live.number)?, live.priority)));
        let tombstones = elements.tombstones().iter().map(|number| named(*number));
        pins.insert(
            cid,
            KnownPin { live: live.collect::<Result<_>>()?, tombstones: tombstones.collect::<Result<_>>()? },
        );
        Ok(())
    })?;
    Ok(pins)
}

/// The heads, with their heights.
///
/// # Errors
/// As [`known`].
pub fn heads(storage: &dyn Storage) -> Result<BTreeMap<BlockName, u64>> {
    let heads = records::heads(&*storage.snapshot()?)?.into_iter();
    Ok(heads.filter_map(|head| Some((key::block_digest(&head.cid)?, head.height))).collect())
}

/// The blocks that a store has.
///
/// # Errors
/// As [`known`].
pub fn blocks(storage: &dyn Storage) -> Result<BTreeMap<BlockName, BlockView>> {
    let snapshot = storage.snapshot()?;
    let mut blocks = BTreeMap::new();
    records::for_each(&*snapshot, BLOCKS, |key, block| {
        let name = records::digest_of(key)?;
        let Node { links, delta, .. } = Node::parse(key::block_cid(&name), block.clone())?;
        let mut elements: BTreeMap<Cid, Bytes> = BTreeMap::new();
        for element in delta.elements {
            let greatest = elements.entry(element.pin).or_default();
            if element.value > *greatest {
                *greatest = element.value;
            }
        }
        let view = BlockView {
            links: links.iter().filter_map(key::block_digest).collect(),
            height: delta.priority,
            elements,
            tombstones: delta.tombstones.into_iter().map(|gone| (gone.pin, gone.block)).collect(),
        };
        blocks.insert(name, view);
        Ok(())
    })?;
    Ok(blocks)
}

/// What whoever walked over these blocks knows: all elements without those that any block removes.
pub fn walked<'a>(
    blocks: impl IntoIterator<Item = (&'a BlockName, &'a BlockView)>,
) -> BTreeMap<Cid, KnownPin> {
    let mut pins: BTreeMap<Cid, KnownPin> = BTreeMap::new();
    for (name, block) in blocks {
        for cid in block.elements.keys() {
            pins.entry(*cid).or_default().live.insert(*name, block.height);
        }
        for (cid, gone) in &block.tombstones {
            pins.entry(*cid).or_default().tombstones.insert(*gone);
        }
    }
    for pin in pins.values_mut() {
        let KnownPin { live, tombstones } = pin;
        live.retain(|name, _| !tombstones.contains(name));
    }
    pins
}
