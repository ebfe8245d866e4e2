//! Writing nodes: UnixFS data in DAG-PB.
//!
//! One encoder for files in both layouts, directories, shards and symbolic links. The bytes are canonical, because CIDs
//! depend on them: links come before data though their field has the higher number, all three fields of a link are always
//! there, sizes of children are not packed. `rust-unixfs` knows one layout, one chunker and one hash function of those
//! that are asked for here, and neither modes nor shards; with the rest to be written anyway, nothing was left for it.

use super::tree::Named;
use crate::types::encoding::{put_bytes, put_number, put_varint};

/// What a node is, in UnixFS's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Raw = 0,
    Directory = 1,
    File = 2,
    Symlink = 4,
    Shard = 5,
}

/// What is kept of an entry besides its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: Option<u32>,
    pub(super) modified: Option<(i64, u32)>,
}

impl Attributes {
    /// Bits of a mode that are permissions.
    const MODE_BITS: u32 = 0o7777;

    /// What there is to keep. Daemons read a mode of zero as none.
    pub(super) fn new(mode: Option<u32>, modified: Option<(i64, u32)>) -> Self {
        Self { mode: mode.map(|mode| mode & Self::MODE_BITS).filter(|mode| *mode != 0), modified }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn write(&self, to: &mut Vec<u8>) {
        if let Some(mode) = self.mode {
            put_number(to, 7, u64::from(mode));
        }
        if let Some((seconds, nanoseconds)) = self.modified {
            let mut time = Vec::with_capacity(16);
            put_number(&mut time, 1, seconds.cast_unsigned());
            if nanoseconds > 0 {
                // A fixed 32 bits, the only ones of their kind here.
                time.push(2 << 3 | 5);
                time.extend_from_slice(&nanoseconds.to_le_bytes());
            }
            put_bytes(to, 8, &time);
        }
    }
}

/// A child of a file's node.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) cid: Vec<u8>,
    pub(super) dag_bytes: u64,
    pub(super) file_bytes: u64,
}

/// A leaf that is a node: bytes of a file.
pub(super) fn leaf(kind: Kind, data: &[u8], attributes: Attributes) -> Vec<u8> {
    let mut after = Vec::with_capacity(32);
    put_number(&mut after, 3, data.len() as u64);
    attributes.write(&mut after);
    let mut before = Vec::with_capacity(16);
    put_number(&mut before, 1, kind as u64);
    if !data.is_empty() {
        put_varint(&mut before, 2 << 3 | 2);
        put_varint(&mut before, data.len() as u64);
    }
    let len = before.len() + data.len() + after.len();
    let mut node = Vec::with_capacity(len + 12);
    put_varint(&mut node, 1 << 3 | 2);
    put_varint(&mut node, len as u64);
    for part in [&before, data, &after] {
        node.extend_from_slice(part);
    }
    node
}

/// A file's node over its parts.
pub(super) fn file(parts: &[Part], attributes: Attributes) -> Vec<u8> {
    let mut data = Vec::with_capacity(16 + parts.len() * 4);
    put_number(&mut data, 1, Kind::File as u64);
    put_number(&mut data, 3, parts.iter().map(|part| part.file_bytes).sum());
    for part in parts {
        put_number(&mut data, 4, part.file_bytes);
    }
    attributes.write(&mut data);
    let mut node = Vec::with_capacity(data.len() + 8 + parts.len() * 52);
    for part in parts {
        write_link(&mut node, &part.cid, "", "", part.dag_bytes);
    }
    put_bytes(&mut node, 1, &data);
    node
}

/// A directory over entries in the order of their names.
pub(super) fn directory(entries: &[Named], attributes: Attributes) -> Vec<u8> {
    let mut data = Vec::new();
    put_number(&mut data, 1, Kind::Directory as u64);
    attributes.write(&mut data);
    let mut node = Vec::new();
    for entry in entries {
        write_link(&mut node, &entry.cid, "", &entry.name, entry.dag_bytes);
    }
    put_bytes(&mut node, 1, &data);
    node
}

/// A link of a shard: the place in hexadecimal, and the name when it is an entry.
#[derive(Debug)]
pub(super) struct ShardLink<'a> {
    pub(super) cid: std::borrow::Cow<'a, [u8]>,
    pub(super) place: u8,
    pub(super) name: &'a str,
    pub(super) dag_bytes: u64,
}

/// A shard of a directory, over links in the order of their places.
pub(super) fn shard(links: &[ShardLink<'_>], fanout: u64, hash: u64) -> Vec<u8> {
    // Place 0 is the last bit of the last byte; zeroes in front are left out.
    let mut places = [0_u8; 32];
    for link in links {
        places[31 - usize::from(link.place / 8)] |= 1 << (link.place % 8);
    }
    let first = places.iter().position(|byte| *byte != 0).unwrap_or(places.len());
    let mut data = Vec::with_capacity(48);
    put_number(&mut data, 1, Kind::Shard as u64);
    put_bytes(&mut data, 2, &places[first..]);
    put_number(&mut data, 5, hash);
    put_number(&mut data, 6, fanout);
    let mut node = Vec::new();
    for link in links {
        write_link(&mut node, &link.cid, &format!("{:02X}", link.place), link.name, link.dag_bytes);
    }
    put_bytes(&mut node, 1, &data);
    node
}

/// A symbolic link. Its mode is not kept.
pub(super) fn symlink(target: &str, attributes: Attributes) -> Vec<u8> {
    let mut data = Vec::with_capacity(target.len() + 32);
    put_number(&mut data, 1, Kind::Symlink as u64);
    put_bytes(&mut data, 2, target.as_bytes());
    Attributes { mode: None, ..attributes }.write(&mut data);
    let mut node = Vec::with_capacity(data.len() + 8);
    put_bytes(&mut node, 1, &data);
    node
}

fn write_link(to: &mut Vec<u8>, cid: &[u8], prefix: &str, name: &str, dag_bytes: u64) {
    let mut link = Vec::with_capacity(cid.len() + prefix.len() + name.len() + 24);
    put_bytes(&mut link, 1, cid);
    put_varint(&mut link, 2 << 3 | 2);
    put_varint(&mut link, (prefix.len() + name.len()) as u64);
    link.extend_from_slice(prefix.as_bytes());
    link.extend_from_slice(name.as_bytes());
    put_number(&mut link, 3, dag_bytes);
    put_bytes(to, 2, &link);
}
