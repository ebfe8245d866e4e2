//! Blocks as a CARv1, the form in which `dag/import` takes them.

use bytes::{Bytes, BytesMut};

use crate::types::{Cid, car_header, car_section_head};

/// Bytes of a section that the daemon's reader takes, of which the CID has a few.
pub(super) const BLOCK_BYTES_MAX: usize = 8 * 1024 * 1024 - 256;
/// Data up to here is copied, so that many small blocks are written as few pieces.
const COPIED_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a piece of small blocks; its last block may go beyond.
const PIECE_BYTES: usize = 64 * 1024;
/// Bytes of a section that is copied, with its length and its CID.
const SECTION_BYTES_MAX: usize = COPIED_BYTES_MAX + 128;

/// The file, in pieces. What is large is not copied.
pub(super) fn pieces<'a>(sections: impl IntoIterator<Item = (Cid, &'a Bytes)>) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut small = BytesMut::from(&car_header(&[])[..]);
    for (cid, data) in sections {
        if data.len() <= COPIED_BYTES_MAX && small.capacity() - small.len() < SECTION_BYTES_MAX {
            // In one step, so that nothing is copied while it grows.
            small.reserve(PIECE_BYTES.saturating_sub(small.len()) + SECTION_BYTES_MAX);
        }
        small.extend_from_slice(&car_section_head(&cid, data.len()));
        if data.len() <= COPIED_BYTES_MAX {
            small.extend_from_slice(data);
        } else {
            pieces.push(small.split().freeze());
            pieces.push(data.clone());
        }
        if small.len() >= PIECE_BYTES {
            pieces.push(small.split().freeze());
        }
    }
    if !small.is_empty() {
        pieces.push(small.freeze());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    /// `{"roots": [], "version": 1}` as dag-cbor, behind its length.
    const HEADER: &[u8] = b"\x11\xa2\x65roots\x80\x67version\x01";

    #[test]
    fn a_file_is_its_header_and_its_sections() {
        assert_eq!(pieces([]), [Bytes::from_static(HEADER)]);
        let (small, large) = (Block::raw("small"), Block::raw(vec![7; COPIED_BYTES_MAX + 1]));
        let blocks = [&small, &large, &small];
        let mut expected = HEADER.to_vec();
        for block in blocks {
            let length = block.cid.to_bytes().len() + block.data.len();
            if length < 0x80 {
                expected.push(length as u8);
            } else {
                expected.extend([length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8]);
            }
            expected.extend(block.cid.to_bytes());
            expected.extend(&block.data);
        }
        let written = pieces(blocks.map(|block| (block.cid, &block.data)));
        assert_eq!(written.concat(), expected);
        assert_eq!(written[1].as_ptr(), large.data.as_ptr(), "what is large is not copied");
    }

    #[test]
    fn small_blocks_share_pieces() {
        let blocks: Vec<Block> = (0..1_000u32).map(|n| Block::raw(vec![n as u8; 1_024])).collect();
        let written = pieces(blocks.iter().map(|block| (block.cid, &block.data)));
        assert!(written.len() < 20, "{} pieces", written.len());
    }
}
