//! Strings, escaped as the reference does.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// What becomes of a byte inside a JSON string: 0 stays, `u` is written `\u00..`, `s` may begin a separator of lines,
/// anything else is written after a backslash. What HTML minds is escaped because the reference does so, and answers
/// should be the same to the byte.
static ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'<' as usize] = b'u';
    table[b'>' as usize] = b'u';
    table[b'&' as usize] = b'u';
    table[SEPARATOR[0] as usize] = b's';
    table
};

/// U+2028 and U+2029 without their last byte: scripts take them for the end of a line.
const SEPARATOR: [u8; 2] = [0xe2, 0x80];

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A quoted string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    fragment(out, text);
    out.push(b'"');
}

/// What is between the quotes of a string.
fn fragment(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape == 0 {
            continue;
        }
        if escape == b's' {
            if let [second, last @ (0xa8 | 0xa9), ..] = bytes[index + 1..]
                && second == SEPARATOR[1]
            {
                out.extend_from_slice(&bytes[written..index]);
                out.extend_from_slice(if last == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                written = index + 3;
            }
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        if escape == b'u' {
            let [high, low] = [byte >> 4, byte & 0xf].map(|half| HEX[usize::from(half)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

/// A value in its serde form, with strings escaped as everywhere here.
///
/// # Errors
/// When its serde form cannot be written.
pub(crate) fn value(out: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Escaping))
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, to: &mut W, text: &str) -> io::Result<()> {
        // What serde escapes by itself is not in here.
        let mut escaped = Vec::new();
        fragment(&mut escaped, text);
        to.write_all(&escaped)
    }
}
