//! What the state reads of other peers, of its store and of imports, for `testing::decoders`: each says whether the bytes
//! were read, and panics when what was read does not hold.

use std::io::Cursor;

use futures::{FutureExt as _, TryStreamExt as _};

use super::codec::{self, is_normal};
use super::lines::{ImportOptions, parse_lines, write_pin_json};
use super::{decode_pin_protobuf, encode_pin_protobuf, head};
use crate::types::{Block, Pin};

/// The value of a pin, as peers write it.
pub(crate) fn pin_values(bytes: &[u8]) -> bool {
    let cid = Block::raw("x").cid;
    let Ok(pin) = decode_pin_protobuf(&cid, bytes) else { return false };
    assert!(is_normal(&pin));
    assert_eq!(decode_pin_protobuf(&cid, &encode_pin_protobuf(&pin)).ok(), Some(pin));
    true
}

/// The record of a pin, under the name that is in it.
pub(crate) fn pin_records(bytes: &[u8]) -> bool {
    let name = bytes.get(1..).and_then(codec::name_in);
    let (cid, key) = name.unwrap_or_else(|| (Block::raw("x").cid, Vec::new()));
    let Ok(pin) = codec::decode_record(&cid, &key, bytes) else { return false };
    assert!(is_normal(&pin));
    let again = codec::decode_record(&cid, &cid.to_bytes(), &codec::encode_record(&pin));
    assert_eq!(again.ok(), Some(pin));
    true
}

/// The record of the value that a peer wrote.
pub(crate) fn record_of(value: &[u8]) -> Vec<u8> {
    [&[codec::RECORD_VERSION], value].concat()
}

/// The record of a whole pinset.
pub(crate) fn heads(bytes: &[u8]) -> bool {
    let Some((written, version)) = head::rewritten_head(bytes) else { return false };
    assert!(written == bytes || version == head::WITHOUT_SUM);
    true
}

/// Such a record of each format.
pub(crate) fn head_samples() -> Vec<Vec<u8>> {
    let old: Vec<u8> = [&[head::WITHOUT_SUM][..], &[0; 12]].concat();
    let new: Vec<u8> = [&[head::FORMAT][..], &[7; 28]].concat();
    vec![old, new]
}

fn pins_of(text: Vec<u8>) -> Option<Vec<Pin>> {
    let options = ImportOptions { threads: 0, ..ImportOptions::default() };
    let pages = parse_lines(Cursor::new(text), options).try_collect::<Vec<_>>().now_or_never();
    let pages = pages.unwrap_or_else(|| panic!("bytes that are there were waited for"));
    pages.ok().map(|pages| pages.concat())
}

/// Lines of an import.
pub(crate) fn import_lines(bytes: &[u8]) -> bool {
    let Some(pins) = pins_of(bytes.to_vec()) else { return false };
    let mut lines = Vec::new();
    for pin in &pins {
        write_pin_json(pin, &mut lines);
        lines.push(b'\n');
    }
    assert_eq!(pins_of(lines), Some(pins), "written and read again");
    true
}
