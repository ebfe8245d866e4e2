//! Directories that are too large for one block: a trie over the hashes of the names.
//!
//! Each shard has a place for every value of one byte of the hash. A name that has a place for itself is an entry, several
//! make a shard with the next byte. The trie depends on the names alone, not on the order in which they came.

use std::borrow::Cow;
use std::ops::Range;

use super::dag::{self, ShardLink};
use super::naming::Naming;
use super::tree::Named;
use crate::adder::DagBlock;
use crate::error::{Error, Result};

/// Places of a shard.
const FANOUT: u64 = 256;
/// Murmur3 with 64 bits, in multihash's numbers.
const HASH_FUNCTION: u64 = 0x22;
/// Bytes of a hash, and shards on the way to an entry at most.
const DEPTH_MAX: u32 = 8;

/// A large directory that is made shard by shard.
#[derive(Debug)]
pub(super) struct Hamt<'a> {
    /// In the order of their hashes, which is that of the trie.
    entries: Vec<(u64, &'a Named)>,
    next: usize,
    root: Vec<ShardLink<'a>>,
}

impl<'a> Hamt<'a> {
    /// # Errors
    /// `InvalidInput` when two names have the same hash.
    pub(super) fn new(entries: &'a [Named]) -> Result<Self> {
        let mut entries: Vec<_> =
            entries.iter().map(|entry| (murmur3(entry.name.as_bytes()), entry)).collect();
        entries.sort_unstable_by_key(|(hash, _)| *hash);
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::invalid_input("sharded directory too deep"));
        }
        Ok(Self { entries, next: 0, root: Vec::new() })
    }

    /// Makes what is below the next place of the root, and adds its blocks to `out`. False when nothing is left.
    pub(super) fn advance(&mut self, naming: Naming, out: &mut Vec<DagBlock>) -> bool {
        let Some(range) = group(&self.entries, self.next, 0) else { return false };
        self.next = range.end;
        self.root.push(link(&self.entries[range], 0, naming, out));
        true
    }

    /// The root, when nothing is left.
    pub(super) fn finish(self, naming: Naming) -> DagBlock {
        close(&self.root, naming)
    }
}

/// The place of a hash in shards of this depth.
fn place(hash: u64, depth: u32) -> u8 {
    (hash >> (8 * (DEPTH_MAX - 1 - depth.min(DEPTH_MAX - 1)))) as u8
}

/// The entries from `start` on that share a place.
fn group(entries: &[(u64, &Named)], start: usize, depth: u32) -> Option<Range<usize>> {
    let of = place(entries.get(start)?.0, depth);
    let len = entries[start..].partition_point(|(hash, _)| place(*hash, depth) == of);
    Some(start..start + len)
}

/// The link to entries that share a place. Different hashes differ before the depth ends.
fn link<'a>(
    entries: &[(u64, &'a Named)],
    depth: u32,
    naming: Naming,
    out: &mut Vec<DagBlock>,
) -> ShardLink<'a> {
    let place = entries.first().map_or(0, |(hash, _)| place(*hash, depth));
    if let [(_, entry)] = entries {
        let cid = Cow::Borrowed(&*entry.cid);
        return ShardLink { cid, place, name: &entry.name, dag_bytes: entry.dag_bytes };
    }
    let mut links = Vec::new();
    let mut next = 0;
    while let Some(range) = group(entries, next, depth + 1) {
        next = range.end;
        links.push(link(&entries[range], depth + 1, naming, out));
    }
    let shard = close(&links, naming);
    let link = ShardLink {
        cid: Cow::Owned(shard.block.cid.to_bytes()),
        place,
        name: "",
        dag_bytes: shard.dag_bytes,
    };
    out.push(shard);
    link
}

fn close(links: &[ShardLink<'_>], naming: Naming) -> DagBlock {
    let below = links.iter().fold(0, |sum: u64, link| sum.saturating_add(link.dag_bytes));
    naming.dag_pb(dag::shard(links, FANOUT, HASH_FUNCTION), below)
}

/// The first half of Murmur3 for 64-bit machines, with 128 bits and no seed.
fn murmur3(bytes: &[u8]) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = halves(block);
        h1 = (h1 ^ mix1(k1)).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(k2)).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    last[..tail.len()].copy_from_slice(tail);
    // A half of zeroes mixes to zero: nothing has to be known of the tail's length.
    let (k1, k2) = halves(&last);
    h1 ^= mix1(k1) ^ bytes.len() as u64;
    h2 ^= mix2(k2) ^ bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn halves(block: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    (both as u64, (both >> 64) as u64)
}

fn finish(mut k: u64) -> u64 {
    k = (k ^ k >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ k >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur3_gives_what_it_gives_elsewhere() {
        // The vectors of Go's spaolacci/murmur3, of which the trie takes the first half.
        for (text, hash) in [
            ("", 0),
            ("hello", 0xcbd8_a7b3_41bd_9b02),
            ("hello, world", 0x342f_ac62_3a5e_bc8e),
            ("19 Jan 2038 at 3:14:07 AM", 0xb89e_5988_b737_affc),
            ("The quick brown fox jumps over the lazy dog.", 0xcd99_481f_9ee9_02c9),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }
}
