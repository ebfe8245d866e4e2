//! The links of a block, read strictly: dag-pb, dag-cbor and raw, which is what content on IPFS is made of.

use crate::error::{Error, ErrorKind, Result};
use crate::types::Cid;

/// Multicodec code of bytes without structure.
pub(crate) const CODEC_RAW: u64 = 0x55;
/// Multicodec code of Merkle DAG protobuf.
pub(crate) const CODEC_DAG_PB: u64 = 0x70;
/// Multicodec code of CBOR with links.
pub(crate) const CODEC_DAG_CBOR: u64 = 0x71;
/// Multihash code of data that is its own hash; such a block is in its CID and nowhere else.
pub(crate) const HASH_IDENTITY: u64 = 0x00;

/// Lists and maps within each other in one dag-cbor block.
const CBOR_DEPTH_MAX: usize = 256;

/// A link out of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its name, empty where the codec has none.
    pub(crate) name: String,
    /// Where it leads.
    pub(crate) cid: Cid,
}

/// The links of a block in their order.
///
/// # Errors
/// `Corrupt` when the bytes are not of the CID's codec; `Unsupported` when the codec is not known here.
pub(crate) fn links(cid: &Cid, data: &[u8]) -> Result<Vec<Link>> {
    let links = match cid.codec() {
        CODEC_RAW => Some(Vec::new()),
        CODEC_DAG_PB => read_protobuf_node(data),
        CODEC_DAG_CBOR => read_cbor(data),
        codec => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("cannot read the links of {cid}: unknown codec {codec:#x}"),
            ));
        }
    };
    links.ok_or_else(|| {
        let codec = if cid.codec() == CODEC_DAG_PB { "dag-pb" } else { "dag-cbor" };
        Error::new(ErrorKind::Corrupt, format!("block {cid} is not valid {codec}"))
    })
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn read_cid(bytes: &[u8]) -> Option<Cid> {
    let cid = Cid::try_from(bytes).ok()?;
    (cid.encoded_len() == bytes.len()).then_some(cid)
}

const WIRE_VARINT: u64 = 0;
const WIRE_BYTES: u64 = 2;

/// `PBNode { Data = 1: bytes, Links = 2: repeated PBLink }` and nothing else.
fn read_protobuf_node(data: &[u8]) -> Option<Vec<Link>> {
    let mut reader = Reader(data);
    let mut links = Vec::new();
    let mut has_data = false;
    while !reader.0.is_empty() {
        let key = reader.varint()?;
        if key & 7 != WIRE_BYTES {
            return None;
        }
        let length = reader.varint()?;
        let value = reader.take(length)?;
        match key >> 3 {
            1 if !has_data => has_data = true,
            2 => links.push(read_protobuf_link(value)?),
            _ => return None,
        }
    }
    Some(links)
}

/// `PBLink { Hash = 1: bytes, Name = 2: string, Tsize = 3: varint }`, each at most once, the hash always.
fn read_protobuf_link(data: &[u8]) -> Option<Link> {
    let mut reader = Reader(data);
    let (mut cid, mut name, mut has_size) = (None, None, false);
    while !reader.0.is_empty() {
        let key = reader.varint()?;
        match (key >> 3, key & 7) {
            (1, WIRE_BYTES) if cid.is_none() => {
                let length = reader.varint()?;
                cid = Some(read_cid(reader.take(length)?)?);
            }
            (2, WIRE_BYTES) if name.is_none() => {
                let length = reader.varint()?;
                name = Some(std::str::from_utf8(reader.take(length)?).ok()?.to_owned());
            }
            (3, WIRE_VARINT) if !has_size => {
                reader.varint()?;
                has_size = true;
            }
            _ => return None,
        }
    }
    Some(Link { name: name.unwrap_or_default(), cid: cid? })
}

fn read_cbor(data: &[u8]) -> Option<Vec<Link>> {
    let mut reader = Reader(data);
    let mut links = Vec::new();
    read_cbor_item(&mut reader, &mut links, CBOR_DEPTH_MAX)?;
    reader.0.is_empty().then_some(links)
}

/// One item with everything in it. Only definite lengths and tag 42 exist in dag-cbor.
fn read_cbor_item(reader: &mut Reader<'_>, links: &mut Vec<Link>, depth_left: usize) -> Option<()> {
    const TAG_LINK: u64 = 42;
    let depth_left = depth_left.checked_sub(1)?;
    let head = reader.byte()?;
    let (major, info) = (head >> 5, head & 0x1f);
    let argument = match info {
        0..24 => u64::from(info),
        24..=27 => {
            let bytes = reader.take(1 << (info - 24))?;
            bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        }
        _ => return None,
    };
    match major {
        0 | 1 => {}
        2 => {
            reader.take(argument)?;
        }
        3 => {
            std::str::from_utf8(reader.take(argument)?).ok()?;
        }
        4 => {
            for _ in 0..argument {
                read_cbor_item(reader, links, depth_left)?;
            }
        }
        5 => {
            for _ in 0..argument {
                if reader.0.first()? >> 5 != 3 {
                    return None;
                }
                read_cbor_item(reader, links, depth_left)?;
                read_cbor_item(reader, links, depth_left)?;
            }
        }
        6 if argument == TAG_LINK => {
            let head = reader.byte()?;
            let length = match head {
                0x40..=0x57 => u64::from(head & 0x1f),
                0x58 => u64::from(reader.byte()?),
                _ => return None,
            };
            let (0, cid) = reader.take(length)?.split_first().map(|(prefix, cid)| (*prefix, cid))? else {
                return None;
            };
            links.push(Link { name: String::new(), cid: read_cid(cid)? });
        }
        // false, true, null and 64-bit floats.
        7 if matches!(info, 20..=22 | 27) => {}
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use multihash_codetable::{Code, MultihashDigest};

    use super::*;
    use crate::types::Block;

    fn cid(codec: u64, data: &[u8]) -> Cid {
        Cid::new_v1(codec, Code::Sha2_256.digest(data))
    }

    #[test]
    fn links_of_protobuf_are_read_strictly() {
        let leaf = Block::raw("leaf").cid;
        let hash = leaf.to_bytes();
        let mut link = vec![0x0a, hash.len() as u8];
        link.extend(&hash);
        link.extend([0x12, 1, b'a', 0x18, 4]);
        let mut node = vec![0x12, link.len() as u8];
        node.extend(&link);
        node.extend([0x0a, 2, 8, 1]);
        let read = |data: &[u8]| links(&cid(CODEC_DAG_PB, data), data);
        assert_eq!(read(&node).unwrap(), [Link { name: "a".to_owned(), cid: leaf }]);
        assert_eq!(read(&[]).unwrap(), []);

        let mut repeated_data = node.clone();
        repeated_data.extend([0x0a, 2, 8, 1]);
        let mut unknown_field = node.clone();
        unknown_field.extend([0x1a, 0]);
        for (name, data) in [
            ("cut", &node[..node.len() - 1]),
            ("data twice", &repeated_data),
            ("unknown field", &unknown_field),
            ("link without hash", &[0x12, 3, 0x12, 1, b'a']),
            ("wire type", &[0x08, 1]),
            ("text", b"<html>"),
            ("endless varint", &[0xff; 20]),
        ] {
            assert_eq!(read(data).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
        }
    }

    #[test]
    fn links_of_cbor_are_found_wherever_they_are() {
        let leaf = Block::raw("leaf").cid;
        let mut link = vec![0xd8, 42, 0x58, 37, 0];
        link.extend(leaf.to_bytes());
        // {"a": [1, link, null], "b": link}
        let mut data = vec![0xa2, 0x61, b'a', 0x83, 1];
        data.extend(&link);
        data.extend([0xf6, 0x61, b'b']);
        data.extend(&link);
        let read = |data: &[u8]| links(&cid(CODEC_DAG_CBOR, data), data);
        assert_eq!(read(&data).unwrap().len(), 2);
        for (name, data) in [
            ("cut", &data[..data.len() - 1]),
            ("empty", &[][..]),
            ("trailing", &[0x01, 0x01]),
            ("indefinite", &[0x9f, 0xff]),
            ("deep", &[0x81; 10_000]),
            ("huge list", &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            ("other tag", &[0xc1, 0x01]),
            ("key not text", &[0xa1, 0x01, 0x01]),
        ] {
            assert_eq!(read(data).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
        }
    }
}
