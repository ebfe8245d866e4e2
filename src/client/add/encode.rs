//! The body of an upload, as Kubo's clients and the reference's write it: one part for each file, directory and link.
//! Pure.

use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;

/// Letters of a boundary. As many as the reference's clients have.
const BOUNDARY_LETTERS: usize = 60;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind<'a> {
    /// Bytes follow, until the next part.
    File {
        /// Where it lies: an absolute path or a URL; empty for what lies nowhere.
        origin: &'a [u8],
    },
    /// Nothing follows.
    Directory,
    /// Where it leads follows.
    Symlink,
}

/// What is known of a file beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Kind and permissions in Go's own bits; 0 for unknown.
    pub(super) mode: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(super) modified: Option<(i64, u32)>,
}

/// Writes the frame of parts.
#[derive(Debug)]
pub(super) struct Encoder {
    boundary: String,
    has_parts: bool,
}

impl Encoder {
    pub(super) fn new(boundary: &str) -> Self {
        Self { boundary: boundary.to_owned(), has_parts: false }
    }

    /// The beginning of a part. What the name means is told by its bytes: any but zero may be in it.
    pub(super) fn part(&mut self, text: &mut Vec<u8>, name: &[u8], kind: PartKind<'_>, stamp: Stamp) {
        if std::mem::replace(&mut self.has_parts, true) {
            return self.following(text, name, kind, stamp);
        }
        self.head(text, name, kind, stamp);
    }

    /// The beginning of a part that is not the first.
    pub(super) fn following(&self, text: &mut Vec<u8>, name: &[u8], kind: PartKind<'_>, stamp: Stamp) {
        text.extend_from_slice(b"\r\n");
        self.head(text, name, kind, stamp);
    }

    fn head(&self, text: &mut Vec<u8>, name: &[u8], kind: PartKind<'_>, stamp: Stamp) {
        let what = match kind {
            PartKind::File { .. } => "application/octet-stream",
            PartKind::Directory => "application/x-directory",
            PartKind::Symlink => "application/symlink",
        };
        text.extend_from_slice(b"--");
        text.extend_from_slice(self.boundary.as_bytes());
        text.extend_from_slice(b"\r\n");
        if let PartKind::File { origin } = kind {
            text.extend_from_slice(b"Abspath-Encoded: ");
            escape(text, origin);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"Content-Disposition: form-data; name=\"file");
        stamp.query(text);
        text.extend_from_slice(b"\"; filename=\"");
        escape(text, name);
        text.extend_from_slice(b"\"\r\nContent-Type: ");
        text.extend_from_slice(what.as_bytes());
        text.extend_from_slice(b"\r\n\r\n");
    }

    /// The end of the body.
    pub(super) fn end(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }
}

impl Stamp {
    fn query(self, text: &mut Vec<u8>) {
        let mut mark = '?';
        // Writing to memory does not fail.
        if self.mode != 0 {
            let _ = write!(text, "{mark}mode=0{:o}", self.mode);
            mark = '&';
        }
        if let Some((seconds, nanoseconds)) = self.modified {
            let _ = write!(text, "{mark}mtime={seconds}");
            if nanoseconds > 0 {
                let _ = write!(text, "&mtime-nsecs={nanoseconds}");
            }
        }
    }
}

/// Bits of a Unix mode as Go numbers them: permissions are the same, all others have places of their own.
#[cfg_attr(not(unix), allow(dead_code, reason = "only unix has modes"))]
pub(super) fn go_mode(mode: u32) -> u32 {
    const BITS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        _ => 0,
    };
    let special = BITS.iter().filter(|(unix, _)| mode & unix != 0).map(|(_, go)| go);
    special.fold(kind | (mode & 0o777), |mode, bit| mode | bit)
}

/// A boundary that nobody who makes the content can know before.
pub(super) fn boundary() -> String {
    let random = RandomState::new();
    let mut boundary = String::with_capacity(BOUNDARY_LETTERS + 16);
    for number in 0_u64.. {
        if boundary.len() >= BOUNDARY_LETTERS {
            break;
        }
        boundary.push_str(&format!("{:016x}", random.hash_one(number)));
    }
    boundary.truncate(BOUNDARY_LETTERS);
    boundary
}

/// Bytes as they stand in a query: letters, digits and `-_.~` as they are, a space as `+`.
fn escape(text: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    text.reserve(bytes.len());
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(byte),
            b' ' => text.push(b'+'),
            _ => {
                let [high, low] = [byte >> 4, byte & 0xf].map(|half| HEX[usize::from(half)]);
                text.extend_from_slice(&[b'%', high, low]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_numbered_as_in_go() {
        for (unix, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0o20_000_000_755),
            (0o120_777, 0o1_000_000_777),
            (0o104_755, 0o40_000_755),
            (0o102_750, 0o20_000_750),
            (0o041_777, 0o20_004_000_777),
        ] {
            assert_eq!(go_mode(unix), go, "{unix:o}");
        }
    }

    #[test]
    fn any_bytes_can_be_a_name() {
        let mut text = Vec::new();
        escape(&mut text, b"a Z0-_.~/\"\r\n\xff%+");
        assert_eq!(text, b"a+Z0-_.~%2F%22%0D%0A%FF%25%2B");
    }

    #[test]
    fn boundaries_are_long_and_differ() {
        let (one, other) = (boundary(), boundary());
        assert!(one.len() == 60 && one.bytes().all(|letter| letter.is_ascii_hexdigit()), "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn without_parts_there_is_only_the_end() {
        assert_eq!(Encoder::new("b").end(), b"\r\n--b--\r\n");
    }
}
