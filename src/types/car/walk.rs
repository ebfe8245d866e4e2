//! What stands in a part of a CAR, and going through one without reading its blocks.

use std::fmt;
use std::io::{self, BufReader, Read, Seek};
use std::str::FromStr;

use multihash_codetable::{Code, MultihashDigest as _};
use serde::{Deserialize, Serialize};

use super::{CAR_BLOCK_BYTES_MAX, CAR_HEADER_BYTES_MAX, CID_BYTES_MAX, header, invalid};
use crate::error::{Error, Result};
use crate::types::Cid;

/// Bytes that a walk reads at a time: a length and a CID, of blocks that are small some more.
const WALK_BUFFER_BYTES: usize = 4 * 1024;

/// What stands in a CAR up to the end of some item, in 32 bytes: two CARs with the same digest have the same roots and the same
/// blocks up to there, in the same order, at the same places.
///
/// For the header it is the sha2-256 of the position of its end (eight bytes, big-endian) and the binary CIDs of the roots, and
/// for each block the sha2-256 of the digest before it, the position of its end, and its binary CID. So it can be
/// found without reading the bytes of blocks, which their CIDs stand for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CarDigest([u8; 32]);

impl CarDigest {
    /// Of a header that ends there.
    pub fn of_header(roots: &[Cid], end: u64) -> Self {
        let mut bytes = end.to_be_bytes().to_vec();
        roots.iter().for_each(|root| bytes.extend(root.to_bytes()));
        Self::of(&bytes)
    }

    /// The one behind a block that ends there.
    #[must_use]
    pub fn then(self, cid: &Cid, end: u64) -> Self {
        Self::of(&[&self.0[..], &end.to_be_bytes(), &cid.to_bytes()].concat())
    }

    fn of(bytes: &[u8]) -> Self {
        let hash = Code::Sha2_256.digest(bytes);
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.digest());
        Self(digest)
    }
}

impl fmt::Display for CarDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CarDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CarDigest({self})")
    }
}

impl FromStr for CarDigest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)
            .map_err(|_| invalid("the digest of a part of a car has 64 hexadecimal digits"))?;
        Ok(Self(digest))
    }
}

impl TryFrom<String> for CarDigest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<CarDigest> for String {
    fn from(digest: CarDigest) -> Self {
        digest.to_string()
    }
}

/// Goes through a CAR that can be read anywhere, without reading the bytes of its blocks.
#[derive(Debug)]
pub struct CarWalk<R> {
    car: BufReader<R>,
    roots: Vec<Cid>,
    position: u64,
    digest: CarDigest,
}

impl<R: Read + Seek> CarWalk<R> {
    /// Reads the header of a CAR that begins where `car` is.
    ///
    /// # Errors
    /// `InvalidInput` for what has no header of a CARv1; those of reading.
    pub fn new(car: R) -> Result<Self> {
        let mut walk = Self {
            car: BufReader::with_capacity(WALK_BUFFER_BYTES, car),
            roots: Vec::new(),
            position: 0,
            digest: CarDigest([0; 32]),
        };
        let length = walk.length()?.ok_or_else(|| invalid("unexpected EOF"))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > CAR_HEADER_BYTES_MAX {
            return Err(invalid("malformed car; its header is too long"));
        }
        let mut bytes = vec![0; length];
        walk.car.read_exact(&mut bytes).map_err(unreadable)?;
        walk.position += length as u64;
        walk.roots = header(&bytes)?;
        walk.digest = CarDigest::of_header(&walk.roots, walk.position);
        Ok(walk)
    }

    /// The roots.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// Where the last item ended.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What stood before.
    pub fn digest(&self) -> CarDigest {
        self.digest
    }

    /// Goes over one block; false when there is none. That a block's bytes are all there is not looked at.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn step(&mut self) -> Result<bool> {
        let Some(length) = self.length()? else { return Ok(false) };
        let most = (CAR_BLOCK_BYTES_MAX + CID_BYTES_MAX) as u64;
        if length > most {
            return Err(invalid("malformed car; a block in it is too long"));
        }
        let mut head = Vec::with_capacity(CID_BYTES_MAX);
        self.car
            .by_ref()
            .take(length.min(CID_BYTES_MAX as u64))
            .read_to_end(&mut head)
            .map_err(unreadable)?;
        let cid = Cid::read_bytes(&head[..]).map_err(|source| {
            invalid(format!("malformed car; a block has no cid that can be read: {source}"))
        })?;
        let rest = length - head.len() as u64;
        // At most what is checked above.
        self.car.seek_relative(rest as i64).map_err(unreadable)?;
        self.position += length;
        self.digest = self.digest.then(&cid, self.position);
        Ok(true)
    }

    /// The length of the next item; None at the end.
    fn length(&mut self) -> Result<Option<u64>> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let mut byte = [0];
            match self.car.read(&mut byte).map_err(unreadable)? {
                0 if shift == 0 => return Ok(None),
                0 => return Err(invalid("unexpected EOF")),
                _ => self.position += 1,
            }
            if shift == 63 || (shift > 0 && byte[0] == 0) {
                return Err(invalid("malformed car; a length in it is no number that can be one"));
            }
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(value));
            }
            shift += 7;
        }
    }
}

fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("unexpected EOF"),
        _ => Error::io("read the car", error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bytes::Bytes;

    use super::*;
    use crate::types::{Block, CarDecoder, CarItem, car_header, car_section_head};

    fn car(blocks: &[Block]) -> Vec<u8> {
        let mut car = car_header(&[blocks[0].cid]);
        for block in blocks {
            car.extend(car_section_head(&block.cid, block.data.len()));
            car.extend_from_slice(&block.data);
        }
        car
    }

    /// Positions and digests behind each item, by reading everything.
    fn decoded(car: &[u8]) -> Vec<(u64, CarDigest)> {
        let mut decoder = CarDecoder::new();
        decoder.push(Bytes::copy_from_slice(car));
        let mut places: Vec<(u64, CarDigest)> = Vec::new();
        while let Some(item) = decoder.next_item().unwrap() {
            let end = decoder.position();
            let digest = match (item, places.last()) {
                (CarItem::Header(roots), None) => CarDigest::of_header(&roots, end),
                (CarItem::Block(cid, _), Some((_, before))) => before.then(&cid, end),
                other => panic!("{other:?}"),
            };
            places.push((end, digest));
        }
        places
    }

    #[test]
    fn a_walk_comes_by_the_same_places_as_a_decoder() {
        let blocks = [Block::raw("one"), Block::raw(""), Block::raw(vec![7; 70_000]), Block::raw("two")];
        let car = car(&blocks);
        let mut walk = CarWalk::new(Cursor::new(&car)).unwrap();
        assert_eq!(walk.roots(), [blocks[0].cid]);
        let mut places = vec![(walk.position(), walk.digest())];
        while walk.step().unwrap() {
            places.push((walk.position(), walk.digest()));
        }
        assert_eq!(places, decoded(&car));
        assert_eq!(walk.position(), car.len() as u64);
        // From each place on the rest is read as it is.
        for (number, (position, _)) in places.iter().enumerate() {
            let mut decoder = CarDecoder::behind(*position);
            decoder.push(Bytes::copy_from_slice(&car[*position as usize..]));
            for block in &blocks[number..] {
                let wanted = CarItem::Block(block.cid, block.data.clone());
                assert_eq!(decoder.next_item().unwrap(), Some(wanted));
            }
            decoder.finish().unwrap();
            assert_eq!(decoder.position(), car.len() as u64);
        }
    }

    #[test]
    fn another_order_other_blocks_and_other_roots_have_other_digests() {
        let (one, two) = (Block::raw("one"), Block::raw("two"));
        let last = |blocks: &[Block]| decoded(&car(blocks)).pop().unwrap();
        let digest = last(&[one.clone(), two.clone()]);
        for other in [vec![two.clone(), one.clone()], vec![one.clone()], vec![one.clone(), one.clone()]] {
            assert_ne!(last(&other).1, digest.1);
        }
        let text = digest.1.to_string();
        assert_eq!((text.len(), text.parse::<CarDigest>().unwrap()), (64, digest.1));
        assert!("ab".parse::<CarDigest>().is_err());
    }

    #[test]
    fn what_is_no_car_is_an_error_and_never_a_panic() {
        let whole = car(&[Block::raw("one"), Block::raw(vec![7; 700])]);
        for cut in 0..whole.len() {
            let Ok(mut walk) = CarWalk::new(Cursor::new(&whole[..cut])) else { continue };
            while let Ok(true) = walk.step() {}
        }
        for bad in [&b""[..], b"\xff", b"not a car", &[0xff; 40], &[0x80, 0x00], &[0]] {
            assert!(CarWalk::new(Cursor::new(bad)).is_err(), "{bad:?}");
        }
        let mut long = car_header(&[Block::raw("x").cid]);
        long.extend([0xff, 0xff, 0xff, 0xff, 0x7f]);
        assert!(CarWalk::new(Cursor::new(long)).unwrap().step().is_err());
    }
}
