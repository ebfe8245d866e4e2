//! A block of the DAG: links to the heads it was built on, and a delta.

use bytes::Bytes;

use super::delta::Delta;
use super::key;
use super::wire::{Field, Fields, corrupt, put_bytes, put_varint};
use crate::error::{Error, Result};
use crate::types::Cid;

/// Largest block that is read, in bytes: what one message of a block exchange can hold.
pub(super) const BLOCK_BYTES_MAX: usize = 4 << 20;
/// Most links of one block.
pub(super) const LINKS_MAX: usize = 4096;

/// A block, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Its name: version 1, dag-pb, SHA-256.
    pub(super) cid: Cid,
    /// The heads it was built on, in the order written: each a name of the same kind.
    pub(super) links: Vec<Cid>,
    /// What it changes.
    pub(super) delta: Delta,
    /// Its bytes.
    pub(super) block: Bytes,
}

impl Node {
    /// Reads a block, which must have been checked against its CID, as a block exchange does. Values of the delta share
    /// its memory.
    ///
    /// # Errors
    /// `Corrupt` for what is no block of this DAG: a CID or link of another kind, more than [`BLOCK_BYTES_MAX`] bytes or
    /// [`LINKS_MAX`] links, no dag-pb, no delta, an impossible height.
    pub(super) fn parse(cid: Cid, block: Bytes) -> Result<Self> {
        let named = |error: crate::error::Error| error.context(format_args!("block {cid}"));
        if key::block_digest(&cid).is_none() {
            return Err(named(corrupt("its name is not version 1, dag-pb, sha2-256")));
        }
        if block.len() > BLOCK_BYTES_MAX {
            return Err(named(corrupt(format!(
                "it has {} bytes, but at most {BLOCK_BYTES_MAX} are taken",
                block.len()
            ))));
        }
        let (links, data) = parse_dag_pb(&block).map_err(named)?;
        let delta = Delta::decode(data).map_err(named)?;
        Ok(Self { cid, links, delta, block })
    }

    /// Makes a block on top of `links`, in the order given, and names it.
    pub(super) fn build(links: Vec<Cid>, delta: Delta) -> Self {
        /// A link as it is written, with its frame.
        const LINK_BYTES: usize = 44;
        let data = delta.encode();
        let mut block = Vec::with_capacity(links.len() * LINK_BYTES + data.len() + 6);
        for link in &links {
            let name = link.to_bytes();
            put_varint(&mut block, 2 << 3 | 2);
            put_varint(&mut block, name.len() as u64 + 6);
            put_bytes(&mut block, 1, &name);
            // Name and size are empty, but there.
            put_bytes(&mut block, 2, &[]);
            block.extend_from_slice(&[3 << 3, 0]);
        }
        put_bytes(&mut block, 1, &data);
        let block = Bytes::from(block);
        Self { cid: key::cid_of(&block), links, delta, block }
    }
}

/// Links and data of a dag-pb block. Either may come first; nothing else may come.
fn parse_dag_pb(block: &Bytes) -> Result<(Vec<Cid>, Bytes)> {
    let mut links = Vec::new();
    let mut data = None;
    let mut fields = Fields::of(block);
    while let Some(field) = fields.next()? {
        match field {
            Field::Bytes(1, bytes) if data.is_none() => data = Some(block.slice_ref(bytes)),
            Field::Bytes(2, _) if links.len() == LINKS_MAX => {
                return Err(corrupt(format!("it has more than {LINKS_MAX} links")));
            }
            Field::Bytes(2, link) => links.push(parse_link(link)?),
            _ => return Err(corrupt("it is no dag-pb: a field too many")),
        }
    }
    Ok((links, data.ok_or_else(|| corrupt("it has no data"))?))
}

fn parse_link(link: &[u8]) -> Result<Cid> {
    let mut cid = None;
    let mut fields = Fields::of(link);
    while let Some(field) = fields.next()? {
        match field {
            Field::Bytes(1, bytes) if cid.is_none() => {
                cid = Some(key::block_of_bytes(bytes).ok_or_else(no_block)?);
            }
            Field::Bytes(2, _) | Field::Varint(3, _) => {}
            _ => return Err(corrupt("it is no dag-pb: a link has a field too many")),
        }
    }
    cid.ok_or_else(no_block)
}

fn no_block() -> Error {
    corrupt("a link does not name a dag-pb block by sha2-256")
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use crate::error::ErrorKind;
    use crate::types::cid::parse_cid;

    #[test]
    fn blocks_are_read_and_written_as_the_reference_does() {
        let vectors: Vec<_> =
            vectors::group("crdt/").into_iter().filter(|vector| vector.name.ends_with("/block")).collect();
        assert_eq!(vectors.len(), 7);
        for vector in vectors {
            let cid = parse_cid(vector.decoded["cid"].as_str().unwrap()).unwrap();
            let node = Node::parse(cid, vector.bytes().into()).unwrap();
            let links = vector.decoded["links"].as_array().cloned().unwrap_or_default();
            let expected: Vec<String> =
                node.links.iter().map(|link| format!("cid={link} name=\"\" size=0")).collect();
            assert_eq!(links, expected, "{}", vector.name);
            let built = Node::build(node.links.clone(), node.delta.clone());
            assert_eq!(hex::encode(&built.block), vector.hex, "{}", vector.name);
            assert_eq!(built, node);
        }
    }

    fn corruption(block: Vec<u8>) -> String {
        let error = Node::parse(key::cid_of(&block), block.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        error.to_string()
    }

    #[test]
    fn what_is_no_block_of_the_dag_is_refused() {
        let delta = Delta { priority: 1, ..Default::default() };
        let good = Node::build(Vec::new(), delta.clone());
        Node::parse(good.cid, good.block.clone()).unwrap();
        let raw = Cid::new_v1(0x55, *good.cid.hash());
        assert!(Node::parse(raw, good.block.clone()).is_err());
        assert!(corruption(Vec::new()).contains("no data"));
        assert!(corruption([&*good.block, &*good.block].concat()).contains("too many"));
        assert!(corruption(Node::build(vec![raw], delta.clone()).block.to_vec()).contains("link"));
        let many = Node::build(vec![good.cid; LINKS_MAX + 1], delta);
        assert!(corruption(many.block.to_vec()).contains("4096 links"));
        assert!(corruption(vec![0; BLOCK_BYTES_MAX + 1]).contains("4194305 bytes"));
    }
}
