//! Content made up for tests, examples and demonstrations: blocks as `ipfs add --cid-version=1` makes them.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest};

use super::dag::CODEC_DAG_PB;
use crate::types::encoding::{put_bytes, put_number};
use crate::types::{Block, Cid};

/// Bytes of a leaf, as Kubo cuts files by default.
const CHUNK_BYTES: usize = 256 * 1024;
/// Links of an inner node, as in Kubo.
const LINKS_PER_NODE: usize = 174;

/// The blocks of a file, leaves first, and its root, which is what `ipfs add --cid-version=1` gives for the bytes.
pub fn sample_file(data: impl Into<Bytes>) -> (Cid, Vec<Block>) {
    sample_file_with_chunks(data, CHUNK_BYTES)
}

/// Like [`sample_file`], cut every `chunk_bytes` (at least 1), so that little data makes a DAG.
pub fn sample_file_with_chunks(data: impl Into<Bytes>, chunk_bytes: usize) -> (Cid, Vec<Block>) {
    let mut rest: Bytes = data.into();
    let chunk_bytes = chunk_bytes.max(1);
    let mut blocks = Vec::new();
    let mut level: Vec<Node> = Vec::new();
    loop {
        let leaf = Block::raw(rest.split_to(rest.len().min(chunk_bytes)));
        let bytes = leaf.data.len() as u64;
        level.push(Node { cid: leaf.cid, file_bytes: bytes, dag_bytes: bytes });
        blocks.push(leaf);
        if rest.is_empty() {
            break;
        }
    }
    while level.len() > 1 {
        level = level
            .chunks(LINKS_PER_NODE)
            .map(|children| {
                let (node, block) = inner_node(children);
                blocks.push(block);
                node
            })
            .collect();
    }
    let root = level.first().map(|node| node.cid).unwrap_or_else(|| Block::raw("").cid);
    (root, blocks)
}

/// A directory block over named entries, in the order of their names.
pub fn sample_directory<'a>(entries: impl IntoIterator<Item = (&'a str, Cid)>) -> Block {
    const UNIXFS_DIRECTORY: u64 = 1;
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    let mut data = Vec::new();
    for (name, cid) in entries {
        write_link(&mut data, name, &cid, 0);
    }
    let mut unixfs = Vec::new();
    put_number(&mut unixfs, 1, UNIXFS_DIRECTORY);
    put_bytes(&mut data, 1, &unixfs);
    dag_pb_block(data)
}

struct Node {
    cid: Cid,
    file_bytes: u64,
    dag_bytes: u64,
}

fn inner_node(children: &[Node]) -> (Node, Block) {
    const UNIXFS_FILE: u64 = 2;
    let file_bytes = children.iter().map(|child| child.file_bytes).sum();
    let mut data = Vec::new();
    for child in children {
        write_link(&mut data, "", &child.cid, child.dag_bytes);
    }
    let mut unixfs = Vec::new();
    put_number(&mut unixfs, 1, UNIXFS_FILE);
    put_number(&mut unixfs, 3, file_bytes);
    for child in children {
        put_number(&mut unixfs, 4, child.file_bytes);
    }
    put_bytes(&mut data, 1, &unixfs);
    let block = dag_pb_block(data);
    let dag_bytes = block.data.len() as u64 + children.iter().map(|child| child.dag_bytes).sum::<u64>();
    (Node { cid: block.cid, file_bytes, dag_bytes }, block)
}

fn dag_pb_block(data: Vec<u8>) -> Block {
    Block { cid: Cid::new_v1(CODEC_DAG_PB, Code::Sha2_256.digest(&data)), data: data.into() }
}

fn write_link(out: &mut Vec<u8>, name: &str, cid: &Cid, dag_bytes: u64) {
    let mut link = Vec::new();
    put_bytes(&mut link, 1, &cid.to_bytes());
    put_bytes(&mut link, 2, name.as_bytes());
    put_number(&mut link, 3, dag_bytes);
    put_bytes(out, 2, &link);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs_connector::dag;

    #[test]
    fn small_content_is_one_raw_block_as_in_kubo() {
        // `printf 'hello world\n' | ipfs add --cid-version=1 -Q`
        let (root, blocks) = sample_file("hello world\n");
        assert_eq!(root.to_string(), "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4");
        assert_eq!(blocks.len(), 1);
    }

    #[test]
    fn larger_content_has_the_root_that_kubo_gives_it() {
        // `head -c 1000000 /dev/zero | ipfs add --cid-version=1 -Q`
        let (root, _) = sample_file(vec![0; 1_000_000]);
        assert_eq!(root.to_string(), "bafybeidide6lpcdutn3we5vvypssfhlq2n265w6dygwj37fyeklhlmfi34");
        // `seq 1 20000 | ipfs add --cid-version=1 -Q --chunker=size-100`
        let lines: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
        let (root, _) = sample_file_with_chunks(lines, 100);
        assert_eq!(root.to_string(), "bafybeicju6acpbowlc53oyasq4oayysjsnxpop2l4udcqytmguzx6dmuni");
    }

    #[test]
    fn larger_content_is_a_tree_whose_links_are_its_blocks() {
        let (root, blocks) = sample_file_with_chunks(vec![7; 1000 * 3 + 1], 3);
        let root_block = blocks.last().unwrap();
        assert_eq!(root_block.cid, root);
        assert_eq!(blocks.len(), 1001 + 6 + 1);
        assert_eq!(dag::links(&root, &root_block.data).unwrap().len(), 6);
        for block in &blocks {
            Block::verified(block.cid, block.data.clone()).unwrap();
        }
    }

    #[test]
    fn no_bytes_are_one_empty_block() {
        let (root, blocks) = sample_file("");
        assert_eq!((root, blocks.len()), (Block::raw("").cid, 1));
    }
}
