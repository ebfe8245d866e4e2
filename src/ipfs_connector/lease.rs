//! Leases: blocks that are pinned for the sake of those they link to.
//!
//! An add stores blocks before their root exists, and the daemon may collect garbage at any time. So a lease goes first:
//! a small dag-cbor block that links to the blocks of the next megabytes, pinned before any of them is there.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest as _};

use super::dag::{CODEC_DAG_CBOR, CODEC_RAW};
use crate::types::{Block, Cid};

const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_LIST: u8 = 4;
/// A map of two entries.
const MAP_OF_TWO: u8 = 0xa2;
/// Tag 42.
const TAG_LINK: [u8; 2] = [0xd8, 42];

/// A lease on blocks: `{"blocks": [links], "holder": bytes}` as dag-cbor.
///
/// The links are to the same hashes as raw, whatever the codec of the blocks: nothing is below raw, so that neither the
/// pin nor the collection of garbage looks further. `holder` makes it a lease of its own: two with the same holder on the same
/// blocks are one.
pub fn lease_block<'a>(cids: impl ExactSizeIterator<Item = &'a Cid>, holder: &[u8]) -> Block {
    const LINK_BYTES: usize = 48;
    let mut data = Vec::with_capacity(cids.len() * LINK_BYTES + holder.len() + 32);
    data.push(MAP_OF_TWO);
    push_text(&mut data, "blocks");
    push_head(&mut data, MAJOR_LIST, cids.len());
    for cid in cids {
        let link = Cid::new_v1(CODEC_RAW, *cid.hash()).to_bytes();
        data.extend(TAG_LINK);
        push_head(&mut data, MAJOR_BYTES, link.len() + 1);
        // The prefix of a CID in bytes.
        data.push(0);
        data.extend(link);
    }
    push_text(&mut data, "holder");
    push_head(&mut data, MAJOR_BYTES, holder.len());
    data.extend(holder);
    Block { cid: Cid::new_v1(CODEC_DAG_CBOR, Code::Sha2_256.digest(&data)), data: Bytes::from(data) }
}

fn push_text(data: &mut Vec<u8>, text: &str) {
    push_head(data, MAJOR_TEXT, text.len());
    data.extend(text.as_bytes());
}

/// Kind and length of what follows, in the shortest form, as dag-cbor wants it.
fn push_head(data: &mut Vec<u8>, major: u8, length: usize) {
    let major = major << 5;
    let bytes = (length as u64).to_be_bytes();
    match length {
        0..24 => data.push(major | length as u8),
        24..0x100 => data.extend([major | 24, bytes[7]]),
        0x100..0x1_0000 => {
            data.push(major | 25);
            data.extend(&bytes[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            data.push(major | 26);
            data.extend(&bytes[4..]);
        }
        _ => {
            data.push(major | 27);
            data.extend(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs_connector::dag;

    #[test]
    fn a_lease_links_to_its_blocks_as_raw() {
        for count in [0, 1, 23, 24, 255, 256, 3_000, 70_000] {
            let cids: Vec<Cid> = (0..count)
                .map(|number: u32| Cid::new_v1(0x70, Code::Sha2_256.digest(&number.to_be_bytes())))
                .collect();
            let lease = lease_block(cids.iter(), b"me");
            assert_eq!(Block::verified(lease.cid, lease.data.clone()).unwrap(), lease);
            let links = dag::links(&lease.cid, &lease.data).unwrap();
            assert_eq!(links.len(), cids.len());
            for (link, cid) in links.iter().zip(&cids) {
                assert_eq!((link.cid.codec(), link.cid.hash()), (CODEC_RAW, cid.hash()));
            }
        }
    }

    #[test]
    fn each_holder_has_a_lease_of_its_own() {
        let cids = [Block::raw("a").cid];
        assert_eq!(lease_block(cids.iter(), b"me").cid, lease_block(cids.iter(), b"me").cid);
        assert_ne!(lease_block(cids.iter(), b"me").cid, lease_block(cids.iter(), b"you").cid);
    }
}
