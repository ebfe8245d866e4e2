//! What the state reads of other peers, of its store and of imports, for `testing::decoders`: each says whether the bytes
//! were read, and panics when what was read does not hold.

use std::io::Cursor;

use futures::{FutureExt as _, TryStreamExt as _};

use super::codec::{self, is_normal};
use super::lines::{ImportOptions, parse_lines, write_pin_json};
use super::query::sealed;
use super::{StateCursor, StateQuery, decode_pin_protobuf, encode_pin_protobuf, head};
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

/// A cursor of a listing: its text, or its content, which gets the check sum that it lacks.
pub(crate) fn cursors(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.parse::<StateCursor>().is_ok());
    let text = text.map_or_else(|| sealed(bytes.to_vec()), str::to_owned);
    let Ok(cursor) = text.parse::<StateCursor>() else { return false };
    assert_eq!(cursor.to_string(), text);
    let query = StateQuery { after: Some(cursor), ..StateQuery::default() };
    if let Ok(position) = query.position() {
        assert!(position.is_some_and(|position| !position.is_empty()));
    }
    true
}

/// Texts of cursors, and the content of one.
pub(crate) fn cursor_samples() -> Vec<Vec<u8>> {
    let query = StateQuery::default();
    let texts =
        [&b"a"[..], b"name\0and cid", &[0xff; 64]].map(|place| query.cursor_at(place.to_vec()).to_string());
    let content = [&[1][..], &[7; 8], b"somewhere"].concat();
    texts.into_iter().map(String::into_bytes).chain([content]).collect()
}
