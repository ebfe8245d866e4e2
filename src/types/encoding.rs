//! Numbers, protobuf fields and dag-cbor as the formats of IPFS write them: each in as few bytes as will do.

use super::Cid;

/// Kinds of dag-cbor items.
pub(crate) mod cbor {
    /// A number that is not negative.
    pub(crate) const NUMBER: u8 = 0;
    /// A byte string.
    pub(crate) const BYTES: u8 = 2;
    /// A text.
    pub(crate) const TEXT: u8 = 3;
    /// A list.
    pub(crate) const LIST: u8 = 4;
    /// A map.
    pub(crate) const MAP: u8 = 5;
}

/// Tag 42: what follows is a link.
pub(crate) const CBOR_TAG_LINK: [u8; 2] = [0xd8, 42];

/// Writes a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a protobuf field of bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a protobuf field of a number.
pub(crate) fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// Writes the head of a dag-cbor item: its kind, and its number or length.
pub(crate) fn put_cbor_head(out: &mut Vec<u8>, major: u8, number: usize) {
    let major = major << 5;
    let bytes = (number as u64).to_be_bytes();
    match number {
        0..24 => out.push(major | number as u8),
        24..0x100 => out.extend([major | 24, bytes[7]]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend(&bytes[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend(bytes);
        }
    }
}

/// Writes a dag-cbor text.
pub(crate) fn put_cbor_text(out: &mut Vec<u8>, text: &str) {
    put_cbor_head(out, cbor::TEXT, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Writes a dag-cbor link.
pub(crate) fn put_cbor_link(out: &mut Vec<u8>, cid: &Cid) {
    let bytes = cid.to_bytes();
    out.extend(CBOR_TAG_LINK);
    put_cbor_head(out, cbor::BYTES, bytes.len() + 1);
    // The prefix of a CID in bytes.
    out.push(0);
    out.extend(bytes);
}
