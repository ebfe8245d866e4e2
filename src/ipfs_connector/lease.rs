//! Leases: blocks that are pinned for the sake of those they link to.
//!
//! An add stores blocks before their root exists, and the daemon may collect garbage at any time. So a lease goes first:
//! a small dag-cbor block that links to the blocks of the next megabytes, pinned before any of them is there.

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest as _};

use super::dag::{CODEC_DAG_CBOR, CODEC_RAW};
use crate::types::encoding::{cbor, put_cbor_head, put_cbor_link, put_cbor_text};
use crate::types::{Block, Cid};

/// A lease on blocks: `{"blocks": [links], "holder": bytes}` as dag-cbor.
///
/// The links are to the same hashes as raw, whatever the codec of the blocks: nothing is below raw, so that neither the
/// pin nor the collection of garbage looks further. `holder` makes it a lease of its own: two with the same holder on the same
/// blocks are one.
pub fn lease_block<'a>(cids: impl ExactSizeIterator<Item = &'a Cid>, holder: &[u8]) -> Block {
    const LINK_BYTES: usize = 48;
    let mut data = Vec::with_capacity(cids.len() * LINK_BYTES + holder.len() + 32);
    put_cbor_head(&mut data, cbor::MAP, 2);
    put_cbor_text(&mut data, "blocks");
    put_cbor_head(&mut data, cbor::LIST, cids.len());
    for cid in cids {
        put_cbor_link(&mut data, &Cid::new_v1(CODEC_RAW, *cid.hash()));
    }
    put_cbor_text(&mut data, "holder");
    put_cbor_head(&mut data, cbor::BYTES, holder.len());
    data.extend(holder);
    Block { cid: Cid::new_v1(CODEC_DAG_CBOR, Code::Sha2_256.digest(&data)), data: Bytes::from(data) }
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
