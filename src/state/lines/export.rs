//! Writing lines.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::text::{write_cid, write_display, write_peer, write_time};
use crate::error::Result;
use crate::state::{StateQuery, StateReader};
use crate::types::{Cid, Pin, Timestamp};

/// About how many bytes are handed out at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Room for the line that makes a chunk full.
const LINE_BYTES_USUAL: usize = 4 * 1024;

/// The entries of a listing as lines, in chunks of whole lines of about 64 KiB each (one long line may make a chunk
/// longer). Ends after its first error. Memory does not depend on the number of entries.
pub fn export_lines(reader: &dyn StateReader, query: StateQuery) -> BoxStream<'static, Result<Bytes>> {
    let pages = reader.list(query);
    let none: Vec<Pin> = Vec::new();
    stream::unfold((pages, none.into_iter()), |(mut pages, mut page)| async move {
        if page.len() == 0 {
            page = match pages.next().await? {
                Ok(page) => page.into_iter(),
                Err(error) => return Some((Err(error), (pages, page))),
            };
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + LINE_BYTES_USUAL);
        while chunk.len() < CHUNK_BYTES
            && let Some(pin) = page.next()
        {
            write_pin_json(&pin, &mut chunk);
            chunk.push(b'\n');
        }
        Some((Ok(Bytes::from(chunk)), (pages, page)))
    })
    .boxed()
}

/// Appends the JSON of a pin, without a line end: byte for byte what `serde_json` writes for it, only faster.
pub fn write_pin_json(pin: &Pin, out: &mut Vec<u8>) {
    let options = &pin.options;
    number(out, b"{\"replication_factor_min\":", &options.replication_factor_min);
    number(out, b",\"replication_factor_max\":", &options.replication_factor_max);
    out.extend_from_slice(b",\"name\":");
    string(out, &options.name);
    out.extend_from_slice(b",\"mode\":\"");
    out.extend_from_slice(options.mode.as_str().as_bytes());
    number(out, b"\",\"shard_size\":", &options.shard_size);
    out.extend_from_slice(b",\"user_allocations\":");
    if options.user_allocations.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        list(out, &options.user_allocations, |out, peer| quoted(out, |out| write_peer(peer, out)));
    }
    time(out, b",\"expire_at\":", options.expire_at);
    out.extend_from_slice(b",\"metadata\":");
    if options.metadata.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        let mut separator = b'{';
        for (key, value) in &options.metadata {
            out.push(separator);
            separator = b',';
            string(out, key);
            out.push(b':');
            string(out, value);
        }
        out.push(b'}');
    }
    optional_cid(out, b",\"pin_update\":", &options.pin_update);
    out.extend_from_slice(b",\"origins\":");
    list(out, &options.origins, |out, origin| quoted(out, |out| write_display(origin, out)));
    out.extend_from_slice(b",\"cid\":");
    quoted(out, |out| write_cid(&pin.cid, out));
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(pin.pin_type.as_str().as_bytes());
    out.extend_from_slice(b"\",\"allocations\":");
    list(out, &pin.allocations, |out, peer| quoted(out, |out| write_peer(peer, out)));
    number(out, b",\"max_depth\":", &pin.max_depth);
    optional_cid(out, b",\"reference\":", &pin.reference);
    time(out, b",\"timestamp\":", pin.timestamp);
    out.push(b'}');
}

fn number(out: &mut Vec<u8>, name: &[u8], number: &impl std::fmt::Display) {
    out.extend_from_slice(name);
    write_display(number, out);
}

fn string(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        quoted(out, |out| out.extend_from_slice(text.as_bytes()));
    } else {
        // Neither a string nor a Vec can fail to be written.
        let _ = serde_json::to_writer(out, text);
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn optional_cid(out: &mut Vec<u8>, name: &[u8], cid: &Option<Cid>) {
    out.extend_from_slice(name);
    match cid {
        Some(cid) => quoted(out, |out| write_cid(cid, out)),
        None => out.extend_from_slice(b"null"),
    }
}

fn time(out: &mut Vec<u8>, name: &[u8], time: Option<Timestamp>) {
    out.extend_from_slice(name);
    match time {
        Some(time) => quoted(out, |out| write_time(time, out)),
        None => out.extend_from_slice(b"\"0001-01-01T00:00:00Z\""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::PinOptions;

    fn assert_as_serde(pin: &Pin) {
        let mut out = Vec::new();
        write_pin_json(pin, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(pin).unwrap());
    }

    #[test]
    fn the_references_pins_are_written_as_serde_does() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/go-pins.json")).unwrap();
        for vector in file["vectors"].as_array().unwrap() {
            if let Ok(pin) = Pin::deserialize(&vector["decoded"]) {
                assert_as_serde(&pin);
            }
        }
    }

    use serde::Deserialize;

    proptest! {
        #[test]
        fn any_text_is_escaped_as_serde_does(name in any::<String>(), key in "[\u{0}-\u{7f}]{0,9}", value: String) {
            let cid = "QmTrppo1oN55QpwceRpwKMcmtqD9WQEUGyxtcuAKVBY6rN".parse().unwrap();
            let metadata = [(key, value), ("second".to_owned(), String::new())].into();
            assert_as_serde(&Pin::new(cid, PinOptions { name, metadata, ..PinOptions::default() }));
        }
    }
}
