//! Writing lines.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::error::Result;
use crate::state::{StateQuery, StateReader};
use crate::types::Pin;
use crate::types::text::pin::{self, Shape};

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
    pin::pin(out, pin, Shape::Stored, string);
}

fn string(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Neither a string nor a Vec can fail to be written.
        let _ = serde_json::to_writer(out, text);
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

    #[test]
    fn an_origin_with_characters_that_need_escapes_is_written_as_serde_does() {
        let cid = "QmTrppo1oN55QpwceRpwKMcmtqD9WQEUGyxtcuAKVBY6rN".parse().unwrap();
        let origins = vec!["/unix/a \"quoted\" name".parse().unwrap()];
        assert_as_serde(&Pin::new(cid, PinOptions { origins, ..PinOptions::default() }));
    }

    proptest! {
        #[test]
        fn any_text_is_escaped_as_serde_does(name in any::<String>(), key in "[\u{0}-\u{7f}]{0,9}", value: String) {
            let cid = "QmTrppo1oN55QpwceRpwKMcmtqD9WQEUGyxtcuAKVBY6rN".parse().unwrap();
            let metadata = [(key, value), ("second".to_owned(), String::new())].into();
            assert_as_serde(&Pin::new(cid, PinOptions { name, metadata, ..PinOptions::default() }));
        }
    }
}
