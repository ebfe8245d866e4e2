//! Cutting a stream of bytes into lines. Pure: knows neither HTTP nor JSON.

use bytes::{Bytes, BytesMut};

use crate::error::{Error, ErrorKind, Result};

/// Longest line of a listing, in bytes. One line is one pin or one status, which holds a few hundred bytes for
/// each peer; more than this is not a listing.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Collects chunks and gives back the lines in them, without their ends and without empty ones.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end, so that a long line is searched once.
    searched: usize,
    line_bytes_max: usize,
}

impl Lines {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, line_bytes_max }
    }

    /// Takes the next chunk. Call [`Lines::next_line`] until it has no more before the next push, or the
    /// bound on memory is lost.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole line.
    ///
    /// # Errors
    /// `Corrupt` when a line is longer than allowed.
    pub(super) fn next_line(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(length) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                self.check_length(self.searched)?;
                return Ok(None);
            };
            let end = self.searched + length;
            self.check_length(end)?;
            let line = self.buffer.split_to(end + 1).freeze();
            self.searched = 0;
            if let Some(line) = without_blanks(line.slice(..end)) {
                return Ok(Some(line));
            }
        }
    }

    /// What came after the last line end, if anything: a server may leave the last one out.
    pub(super) fn finish(self) -> Option<Bytes> {
        without_blanks(self.buffer.freeze())
    }

    fn check_length(&self, length: usize) -> Result<()> {
        if length > self.line_bytes_max {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("a line of the answer is longer than {} bytes", self.line_bytes_max),
            )
            .component("client"));
        }
        Ok(())
    }
}

fn without_blanks(line: Bytes) -> Option<Bytes> {
    let kept = line.trim_ascii();
    if kept.is_empty() { None } else { Some(line.slice_ref(kept)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&str]) -> Vec<String> {
        let mut lines = Lines::new(100);
        let mut found = Vec::new();
        for chunk in chunks {
            lines.push(chunk.as_bytes());
            while let Some(line) = lines.next_line().unwrap() {
                found.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        found.extend(lines.finish().map(|line| String::from_utf8(line.to_vec()).unwrap()));
        found
    }

    #[test]
    fn lines_come_out_whole_however_the_chunks_are_cut() {
        let text = "{\"a\":1}\n{\"b\":\"ü\"}\n\n  \r\n{\"c\":3}\r\n";
        let wanted = ["{\"a\":1}", "{\"b\":\"ü\"}", "{\"c\":3}"];
        assert_eq!(lines_of(&[text]), wanted);
        for size in 1..text.len() {
            let mut lines = Lines::new(100);
            let mut found = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                lines.push(chunk);
                while let Some(line) = lines.next_line().unwrap() {
                    found.push(line);
                }
            }
            assert_eq!(found, wanted, "chunks of {size}");
            assert_eq!(lines.finish(), None);
        }
    }

    #[test]
    fn empty_input_and_empty_lines_give_nothing() {
        assert!(lines_of(&[]).is_empty());
        assert!(lines_of(&["", "\n", "\n\n", "  "]).is_empty());
    }

    #[test]
    fn the_last_line_may_lack_its_end() {
        assert_eq!(lines_of(&["1\n", "2", "3"]), ["1", "23"]);
    }

    #[test]
    fn a_line_over_the_limit_is_an_error_with_and_without_its_end() {
        let mut lines = Lines::new(10);
        lines.push(b"0123456789\n");
        assert_eq!(lines.next_line().unwrap().unwrap(), "0123456789");
        lines.push(b"01234567890");
        assert_eq!(lines.next_line().unwrap_err().kind(), ErrorKind::Corrupt);
        let mut lines = Lines::new(10);
        lines.push(b"01234567890\n");
        assert!(lines.next_line().unwrap_err().to_string().contains("longer than 10 bytes"));
    }
}
