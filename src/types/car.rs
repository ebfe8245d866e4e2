//! CARv1: blocks one after another, each under its CID, behind a header that names roots.
//!
//! ```text
//! length, dag-cbor {"roots": [CID…], "version": 1}    the header
//! length, CID, bytes                                  a section: one block; any number of them
//! ```
//!
//! Lengths are varints. This only cuts and joins; whether bytes belong to their CID is to be asked of
//! [`Block::verified`](super::Block::verified).

mod walk;

use bytes::{Buf as _, Bytes, BytesMut};

use super::Cid;
use super::encoding::{CBOR_TAG_LINK, cbor, put_cbor_head, put_cbor_link, put_cbor_text, put_varint};
use crate::error::{Error, Result};
pub use walk::{CarDigest, CarWalk};

/// Most bytes of a header. One root takes about 60.
pub const CAR_HEADER_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a block: more than a daemon takes or gives to others.
pub const CAR_BLOCK_BYTES_MAX: usize = 2 << 20;
/// Most bytes of a CID in a section.
const CID_BYTES_MAX: usize = 128;

/// What a CAR is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarItem {
    /// Its roots; first, and once.
    Header(Vec<Cid>),
    /// A block, not verified.
    Block(Cid, Bytes),
}

/// Cuts a CAR in its items, whatever chunks it comes in. Holds no more than a chunk and an item, and no more of an item
/// than came.
#[derive(Debug, Default)]
pub struct CarDecoder {
    window: Bytes,
    has_header: bool,
    /// The length so far, and how many bytes of it there were.
    length: (u64, u32),
    /// Of the item whose length is known.
    item: Option<(usize, BytesMut)>,
    /// Where the last item ended, in bytes from the beginning.
    position: u64,
    /// Bytes of the length of the item that is being read.
    head_bytes: u32,
}

impl CarDecoder {
    /// At the beginning of a CAR.
    pub fn new() -> Self {
        Self::default()
    }

    /// Behind an item that ended so many bytes behind the beginning, 0 for the beginning itself.
    pub fn behind(position: u64) -> Self {
        Self { has_header: position > 0, position, ..Self::default() }
    }

    /// Where the last item ended, in bytes from the beginning of the CAR.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// More bytes. All items are to be taken before.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.window.is_empty(), "items are left");
        self.window = bytes;
    }

    /// The next item; None when more bytes are needed for it.
    ///
    /// # Errors
    /// `InvalidInput` for what is no CAR. Nothing comes after it.
    pub fn next_item(&mut self) -> Result<Option<CarItem>> {
        loop {
            let Some((length, collected)) = &mut self.item else {
                match self.next_length()? {
                    Some(length) => self.item = Some((length, BytesMut::new())),
                    None => return Ok(None),
                }
                continue;
            };
            let missing = *length - collected.len();
            let bytes = if collected.is_empty() && self.window.len() >= missing {
                self.window.split_to(missing)
            } else {
                let come = missing.min(self.window.len());
                collected.extend_from_slice(&self.window[..come]);
                self.window.advance(come);
                if collected.len() < *length {
                    return Ok(None);
                }
                std::mem::take(collected).freeze()
            };
            self.item = None;
            self.position += u64::from(self.head_bytes) + bytes.len() as u64;
            if self.has_header {
                return section(bytes).map(Some);
            }
            self.has_header = true;
            return Ok(Some(CarItem::Header(header(&bytes)?)));
        }
    }

    /// Checks that nothing is missing at the end of the bytes.
    ///
    /// # Errors
    /// `InvalidInput`, in the reference's words, when something is.
    pub fn finish(&self) -> Result<()> {
        if !self.has_header || self.item.is_some() || self.length.1 > 0 || !self.window.is_empty() {
            return Err(invalid("unexpected EOF"));
        }
        Ok(())
    }

    fn next_length(&mut self) -> Result<Option<usize>> {
        while let Some((&byte, _)) = self.window.split_first() {
            self.window.advance(1);
            let (value, bytes) = &mut self.length;
            // Ten bytes could be a number, but none that is allowed.
            if *bytes == 9 || (*bytes > 0 && byte == 0) {
                return Err(invalid("malformed car; a length in it is no number that can be one"));
            }
            *value |= u64::from(byte & 0x7f) << (7 * *bytes);
            *bytes += 1;
            if byte & 0x80 != 0 {
                continue;
            }
            self.head_bytes = *bytes;
            let length = std::mem::take(&mut self.length).0;
            let (what, most) = match self.has_header {
                false => ("header", CAR_HEADER_BYTES_MAX),
                true => ("block with its cid", CAR_BLOCK_BYTES_MAX + CID_BYTES_MAX),
            };
            return match usize::try_from(length) {
                Ok(0) => Err(invalid(format!("malformed car; a {what} in it has no bytes"))),
                Ok(length) if length <= most => Ok(Some(length)),
                _ => Err(invalid(format!(
                    "malformed car; a {what} in it would have {length} bytes, at most {most} are taken"
                ))),
            };
        }
        Ok(None)
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::invalid_input(text).component("car")
}

fn section(mut bytes: Bytes) -> Result<CarItem> {
    let mut rest = &bytes[..];
    let cid = Cid::read_bytes(&mut rest)
        .map_err(|source| invalid(format!("malformed car; a block has no cid that can be read: {source}")))?;
    let data = bytes.split_off(bytes.len() - rest.len());
    if data.len() > CAR_BLOCK_BYTES_MAX {
        let length = data.len();
        return Err(invalid(format!(
            "block {cid} of the car has {length} bytes, at most {CAR_BLOCK_BYTES_MAX} are taken"
        )));
    }
    Ok(CarItem::Block(cid, data))
}

/// Reads `{"roots": [CID…], "version": 1}`, its keys in any order and nothing else.
fn header(bytes: &[u8]) -> Result<Vec<Cid>> {
    let mut cbor = Cbor(bytes);
    let (mut roots, mut version) = (None, None);
    let read = |cbor: &mut Cbor<'_>| -> Option<()> {
        for _ in 0..cbor.head(cbor::MAP)? {
            let length = cbor.head(cbor::TEXT)?;
            match cbor.take(length)? {
                b"roots" if roots.is_none() => {
                    let count = cbor.head(cbor::LIST)?;
                    let links = (0..count).map(|_| cbor.link());
                    roots = Some(links.collect::<Option<Vec<_>>>()?);
                }
                b"version" if version.is_none() => version = Some(cbor.head(0)?),
                _ => return None,
            }
        }
        cbor.0.is_empty().then_some(())
    };
    let is_read = { read }(&mut cbor).is_some();
    match (is_read, version, roots) {
        (true, Some(1), Some(roots)) => Ok(roots),
        (_, Some(version), _) if version != 1 => Err(invalid(format!("invalid car version: {version}"))),
        _ => Err(invalid("malformed car; its header cannot be read")),
    }
}

/// The little of dag-cbor that a header is made of.
struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// The number at the head of an item of this kind, as short as it can be.
    fn head(&mut self, major: u8) -> Option<u64> {
        let first = self.take(1)?[0];
        if first >> 5 != major {
            return None;
        }
        let length = match first & 0x1f {
            small @ 0..24 => return Some(small.into()),
            size @ 24..=27 => 1u64 << (size - 24),
            _ => return None,
        };
        let value = self.take(length)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let least = if length == 1 { 24 } else { 1 << (4 * length) };
        (value >= least).then_some(value)
    }

    fn link(&mut self) -> Option<Cid> {
        if self.take(2)? != CBOR_TAG_LINK {
            return None;
        }
        let length = self.head(cbor::BYTES)?;
        let (0, mut bytes) = self.take(length)?.split_first().map(|(prefix, rest)| (*prefix, rest))? else {
            return None;
        };
        let cid = Cid::read_bytes(&mut bytes).ok()?;
        bytes.is_empty().then_some(cid)
    }
}

/// The bytes of a CAR's header, its length in front.
pub fn car_header(roots: &[Cid]) -> Vec<u8> {
    let mut data = Vec::new();
    put_cbor_head(&mut data, cbor::MAP, 2);
    put_cbor_text(&mut data, "roots");
    put_cbor_head(&mut data, cbor::LIST, roots.len());
    roots.iter().for_each(|root| put_cbor_link(&mut data, root));
    put_cbor_text(&mut data, "version");
    put_cbor_head(&mut data, cbor::NUMBER, 1);
    let mut header = Vec::with_capacity(data.len() + 3);
    put_varint(&mut header, data.len() as u64);
    header.extend_from_slice(&data);
    header
}

/// What stands in a CAR in front of a block's bytes.
pub fn car_section_head(cid: &Cid, block_bytes: usize) -> Vec<u8> {
    let cid = cid.to_bytes();
    let mut head = Vec::with_capacity(cid.len() + 5);
    put_varint(&mut head, (cid.len() + block_bytes) as u64);
    head.extend_from_slice(&cid);
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    fn read(car: &[u8], chunk: usize) -> Result<Vec<CarItem>> {
        let mut decoder = CarDecoder::new();
        let mut items = Vec::new();
        for bytes in car.chunks(chunk.max(1)) {
            decoder.push(Bytes::copy_from_slice(bytes));
            while let Some(item) = decoder.next_item()? {
                items.push(item);
            }
        }
        decoder.finish()?;
        Ok(items)
    }

    fn written(roots: &[Cid], blocks: &[Block]) -> Vec<u8> {
        let mut car = car_header(roots);
        for block in blocks {
            car.extend(car_section_head(&block.cid, block.data.len()));
            car.extend_from_slice(&block.data);
        }
        car
    }

    fn blocks() -> Vec<Block> {
        vec![Block::raw("one"), Block::raw(""), Block::raw(vec![7; 70_000])]
    }

    #[test]
    fn what_is_written_is_read_whatever_the_chunks() {
        let blocks = blocks();
        let v0: Cid = "QmRK984TroGyy8se6GkgqAB6k9CxtAsrh7Q8FSHW3hx3Ce".parse().unwrap();
        for roots in
            [vec![], vec![v0], vec![blocks[0].cid; 30], vec![blocks[1].cid; 300], vec![blocks[1].cid; 1_500]]
        {
            let car = written(&roots, &blocks);
            let mut expected = vec![CarItem::Header(roots)];
            expected.extend(blocks.iter().map(|block| CarItem::Block(block.cid, block.data.clone())));
            for chunk in [1, 3, 50, 4096, car.len()] {
                assert_eq!(read(&car, chunk).unwrap(), expected);
            }
        }
    }

    #[test]
    fn the_header_is_that_of_other_writers() {
        let root: Cid = "QmRK984TroGyy8se6GkgqAB6k9CxtAsrh7Q8FSHW3hx3Ce".parse().unwrap();
        // As `ipfs dag export` writes it.
        let hex = format!("38a265726f6f747381d82a582300{}6776657273696f6e01", hex::encode(root.to_bytes()));
        assert_eq!(hex::encode(car_header(&[root])), hex);
    }

    #[test]
    fn a_car_that_breaks_off_is_an_error_unless_between_blocks() {
        let blocks = blocks();
        let car = written(&[blocks[0].cid], &blocks[..2]);
        let between =
            [car_header(&[blocks[0].cid]).len(), written(&[blocks[0].cid], &blocks[..1]).len(), car.len()];
        for length in 0..=car.len() {
            match read(&car[..length], 7) {
                Ok(_) => assert!(between.contains(&length), "{length}"),
                Err(error) => {
                    assert_eq!(error.message(), "unexpected EOF");
                    assert!(!between.contains(&length), "{length}");
                }
            }
        }
        assert_eq!(read(b"not a car", 100).unwrap_err().message(), "unexpected EOF");
    }

    #[test]
    fn lengths_that_lie_and_headers_of_others_are_refused() {
        let header = car_header(&[Block::raw("one").cid]);
        let with = |bytes: &[u8]| [&header[..], bytes].concat();
        let of = |hex: &str| {
            let cbor = hex::decode(hex).unwrap();
            [&[cbor.len() as u8][..], &cbor].concat()
        };
        for (car, text) in [
            (vec![0xff, 0xff, 0xff, 0xff, 0x0f], "would have 4294967295 bytes"),
            (vec![0x80, 0x00], "no number"),
            (vec![0xff; 20], "no number"),
            (vec![0], "has no bytes"),
            (with(&[0]), "has no bytes"),
            (with(&[0x81, 0x81, 0x80, 0x01]), "would have 2097281 bytes"),
            (with(&[3, 1, 0x55, 0x12]), "no cid that can be read"),
            (of("a16776657273696f6e02"), "invalid car version: 2"),
            (of("a265726f6f7473806776657273696f6e03"), "invalid car version: 3"),
            (of("a16776657273696f6e01"), "its header cannot be read"),
            (of("a365726f6f7473806776657273696f6e01616100"), "its header cannot be read"),
            (of("a265726f6f747381016776657273696f6e01"), "its header cannot be read"),
            (of("a265726f6f74739bffffffffffffffff6776657273696f6e01"), "its header cannot be read"),
            (of("a265726f6f7473806776657273696f6e1801"), "its header cannot be read"),
        ] {
            let message = read(&car, 100).unwrap_err().message().to_owned();
            assert!(message.contains(text), "{message}");
        }
    }
}
