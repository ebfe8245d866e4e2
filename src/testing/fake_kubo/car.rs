//! The blocks of a CARv1, as the daemon's `dag/import` reads it.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::types::{Block, Cid};

/// Bytes of a section that are read.
const SECTION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What the daemon can read the structure of: raw, dag-pb, dag-cbor.
const CODECS: [u64; 3] = [0x55, 0x70, 0x71];

/// The blocks in their order.
///
/// # Errors
/// The daemon's, in its words.
pub(super) fn blocks(file: &Bytes) -> Result<Vec<Block>> {
    let refused = |why: &str| Error::invalid_input(why);
    let mut rest = file.clone();
    let header = section(&mut rest)?.ok_or_else(|| refused("EOF"))?;
    if !header.ends_with(b"version\x01") {
        return Err(refused("invalid header"));
    }
    let mut blocks: Vec<Block> = Vec::new();
    while let Some(section) = section(&mut rest)? {
        let at = match blocks.last() {
            Some(block) => format!("import failed after block \"{}\": ", block.cid),
            None => "import failed: ".to_owned(),
        };
        let mut reader = &section[..];
        let cid = Cid::read_bytes(&mut reader).map_err(|error| refused(&format!("{at}{error}")))?;
        let data = section.slice(section.len() - reader.len()..);
        let block = Block::verified(cid, data).map_err(|_| {
            refused(&format!("{at}mismatch in content integrity, expected: {cid}, got: another"))
        })?;
        let is_readable = CODECS.contains(&cid.codec())
            && crate::ipfs_connector::dag::links(&block.cid, &block.data).is_ok();
        if !is_readable {
            return Err(refused(&format!("import failed at block \"{cid}\": it cannot be decoded")));
        }
        blocks.push(block);
    }
    Ok(blocks)
}

fn section(rest: &mut Bytes) -> Result<Option<Bytes>> {
    let (mut length, mut read) = (0usize, 0);
    for byte in rest.iter().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * read);
        read += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if read == 0 {
        return Ok(None);
    }
    if length > SECTION_BYTES_MAX {
        return Err(Error::invalid_input("invalid section data, length of read beyond allowable maximum"));
    }
    if length > rest.len() - read {
        return Err(Error::invalid_input("unexpected EOF"));
    }
    let section = rest.slice(read..read + length);
    *rest = rest.slice(read + length..);
    Ok(Some(section))
}
