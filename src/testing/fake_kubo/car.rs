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

/// Counts the blocks of a CARv1 in a form of one file, while it comes.
#[derive(Debug)]
pub(super) struct Count {
    /// What comes behind the file.
    end: Vec<u8>,
    /// What came last, which may be that.
    held: Vec<u8>,
    at: At,
    sections: usize,
    bytes: usize,
}

/// Where in the form it is.
#[derive(Debug)]
enum At {
    /// In the head of the part, of whose end so many bytes came.
    Head(usize),
    /// In the length of a section: what came of it, and how many bits.
    Length(usize, u32),
    /// In a section, so many bytes before its end.
    Section(usize),
}

impl Count {
    pub(super) fn new(boundary: &str) -> Self {
        let end = format!("\r\n--{boundary}--\r\n").into_bytes();
        Self { end, held: Vec::new(), at: At::Head(0), sections: 0, bytes: 0 }
    }

    pub(super) fn feed(&mut self, piece: &[u8]) {
        let known = (self.held.len() + piece.len()).saturating_sub(self.end.len());
        let (of_held, of_piece) = (known.min(self.held.len()), known.saturating_sub(self.held.len()));
        let held: Vec<u8> = self.held.drain(..of_held).collect();
        self.read(&held);
        self.read(&piece[..of_piece]);
        self.held.extend_from_slice(&piece[of_piece..]);
    }

    fn read(&mut self, mut bytes: &[u8]) {
        const HEAD_END: &[u8] = b"\r\n\r\n";
        while let Some((first, rest)) = bytes.split_first() {
            self.at = match self.at {
                At::Section(0) => At::Length(0, 0),
                At::Section(left) => {
                    let read = left.min(bytes.len());
                    self.bytes += read;
                    bytes = &bytes[read..];
                    At::Section(left - read)
                }
                At::Head(seen) => {
                    bytes = rest;
                    match seen + 1 {
                        _ if *first != HEAD_END[seen] => At::Head(usize::from(*first == HEAD_END[0])),
                        seen if seen == HEAD_END.len() => At::Section(0),
                        seen => At::Head(seen),
                    }
                }
                At::Length(length, bits) => {
                    bytes = rest;
                    let length = length | usize::from(first & 0x7f) << bits;
                    if first & 0x80 == 0 || bits >= 28 {
                        self.sections += 1;
                        At::Section(length)
                    } else {
                        At::Length(length, bits + 7)
                    }
                }
            };
        }
    }

    /// Blocks, and bytes of all sections.
    ///
    /// # Errors
    /// `InvalidInput` when it is not whole.
    pub(super) fn finish(self) -> Result<(usize, usize)> {
        match (self.at, self.sections) {
            // The first one is the header.
            (At::Section(0), sections @ 1..) if self.held == self.end => Ok((sections - 1, self.bytes)),
            _ => Err(Error::invalid_input("unexpected EOF")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_however_the_form_is_cut() {
        let mut form = b"--xy\r\nContent-Type: a\r\nContent-Disposition: b\r\n\r\n".to_vec();
        form.extend([1, b'h', 12]);
        form.extend(b"\r\n--xy--\r\n..");
        form.extend([0x80, 0x02]);
        form.extend([0; 256]);
        form.extend(b"\r\n--xy--\r\n");
        for size in [1, 2, 3, 7, 100, form.len()] {
            let mut count = Count::new("xy");
            form.chunks(size).for_each(|piece| count.feed(piece));
            assert_eq!(count.finish().unwrap(), (2, 269), "pieces of {size}");
        }
        for length in [0, 10, form.len() - 1] {
            let mut count = Count::new("xy");
            count.feed(&form[..length]);
            assert!(count.finish().is_err());
        }
    }
}
