//! Merges without a network, for who measures what they cost.

use std::collections::HashMap;

use bytes::Bytes;

use super::delta::{Delta, Element};
use super::ledger::{Branch, Head, HeadChange, Ledger};
use super::node::Node;
use super::{Crdt, broadcast, key, topic};
use crate::error::Result;
use crate::exchange::BlockSource;
use crate::state::encode_pin_protobuf;
use crate::transport::Topic;
use crate::types::{Cid, Pin};

/// The blocks of a DAG that other peers made, one pin each, as a walk down from its heads meets them.
#[derive(Debug)]
pub struct ForeignBlocks {
    /// Names and bytes, the highest first.
    blocks: Vec<(Cid, Bytes)>,
    by_name: HashMap<Cid, Bytes>,
    heads: Vec<Head>,
}

impl ForeignBlocks {
    /// So many blocks at each height, each of which names all of those below.
    ///
    /// # Panics
    /// With a width of 0.
    pub fn new(pins: &[Pin], width: usize) -> Self {
        let mut blocks = Vec::with_capacity(pins.len());
        let mut heads: Vec<Head> = Vec::new();
        for (level, pins) in pins.chunks(width).enumerate() {
            let height = level as u64 + 1;
            let links: Vec<Cid> = heads.iter().map(|head| head.cid).collect();
            heads.clear();
            for pin in pins {
                let value = encode_pin_protobuf(pin).into();
                let elements = vec![Element { pin: pin.cid, value }];
                let delta = Delta { elements, tombstones: Vec::new(), priority: height };
                let Node { cid, block, .. } = Node::build(links.clone(), delta);
                heads.push(Head { cid, height });
                blocks.push((cid, block));
            }
        }
        blocks.reverse();
        let by_name = blocks.iter().cloned().collect();
        Self { blocks, by_name, heads }
    }

    /// What a peer of a cluster of this name tells the others when it has them, and where.
    pub fn announcement(&self, cluster: &str) -> (Topic, Bytes) {
        let heads: Vec<Cid> = self.heads.iter().map(|head| head.cid).collect();
        (topic::of_cluster(cluster), broadcast::encode(&heads).into())
    }

    /// Names and bytes of all blocks are checked and read, as they are when they were fetched.
    ///
    /// # Errors
    /// `Corrupt`, were they no blocks of such a DAG.
    pub fn read(&self) -> Result<ReadBlocks> {
        let read = |(cid, block): &(Cid, Bytes)| {
            debug_assert_eq!(key::cid_of(block), *cid);
            // Each has come in memory of its own.
            Node::parse(*cid, Bytes::copy_from_slice(block))
        };
        Ok(ReadBlocks {
            nodes: self.blocks.iter().map(read).collect::<Result<_>>()?,
            heads: self.heads.clone(),
        })
    }
}

impl BlockSource for ForeignBlocks {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        Ok(self.by_name.get(cid).cloned())
    }
}

/// [`ForeignBlocks`] that were read.
#[derive(Debug)]
pub struct ReadBlocks {
    nodes: Vec<Node>,
    heads: Vec<Head>,
}

impl ReadBlocks {
    /// Merges all, so many at a time, each time with a record of the walk, and then makes heads of the heads.
    ///
    /// # Errors
    /// Those of the component.
    pub async fn merge(self, crdt: &Crdt, at_a_time: usize) -> Result<()> {
        let ledger = &crdt.parts.ledger;
        let mut nodes = self.nodes.into_iter().peekable();
        while nodes.peek().is_some() {
            let group: Vec<Node> = nodes.by_ref().take(at_a_time.max(1)).collect();
            let open = group.last().map(|node| node.links.clone()).unwrap_or_default();
            let walks = self
                .heads
                .first()
                .map(|tip| Branch { tip: *tip, open, met: Vec::new() })
                .into_iter()
                .collect();
            ledger.merge_on_walks(group, HeadChange::none(), Some(walks)).await?;
        }
        let heads = HeadChange { add: self.heads, remove: Vec::new() };
        ledger.merge_on_walks(Vec::new(), heads, Some(Vec::new())).await
    }
}
