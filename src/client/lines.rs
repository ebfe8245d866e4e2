//! Cutting a stream of bytes into lines, and reading them where they lie. Pure: knows no HTTP.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// Longest line of a listing, in bytes. One line is one pin or one status, which holds a few hundred bytes for
/// each peer; more than this is not a listing.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whole lines of a listing that came together, each of them an item; from [`Client::lines`].
///
/// They are read one after the other and in place, so that an item may borrow its texts:
///
/// ```no_run
/// use std::borrow::Cow;
/// use futures::TryStreamExt as _;
/// use ipfs_cluster::client::{Client, Request};
/// use ipfs_cluster::types::PinTypeFilter;
///
/// #[derive(serde::Deserialize)]
/// struct Named<'a> {
///     #[serde(borrow)]
///     name: Cow<'a, str>,
/// }
///
/// # async fn run(client: Client) -> ipfs_cluster::Result<()> {
/// let mut listing = client.lines([Request::allocations(PinTypeFilter::ALL)]);
/// while let Some(mut lines) = listing.try_next().await? {
///     while let Some(pin) = lines.next_item::<Named<'_>>() {
///         println!("{}", pin?.name);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// [`Client::lines`]: super::Client::lines
#[derive(Clone, Debug)]
pub struct Lines {
    /// `Get "http://…"`, for errors.
    label: Arc<str>,
    /// How many lines of the answer were read, empty ones too.
    number: u64,
    text: Bytes,
    /// How much of the text was read.
    read: usize,
    line_bytes_max: usize,
}

impl Lines {
    /// Reads the next item, if there is one.
    ///
    /// # Errors
    /// `Corrupt` for a line that is no such item or too long, naming it by its number in the answer.
    pub fn next_item<'a, T: Deserialize<'a>>(&'a mut self) -> Option<Result<T>> {
        self.next_with(serde_json::from_str)
    }

    /// As [`next_item`](Self::next_item), for those who make something of the text by themselves.
    ///
    /// # Errors
    /// As there; why `read` refused a line becomes a part of the message.
    pub fn next_with<'a, T, E>(
        &'a mut self,
        read: impl FnOnce(&'a str) -> std::result::Result<T, E>,
    ) -> Option<Result<T>>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let text: &'a [u8] = &self.text;
        let line = loop {
            let rest = text.get(self.read..).filter(|rest| !rest.is_empty())?;
            let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            self.read += length + 1;
            self.number += 1;
            if length > self.line_bytes_max {
                return Some(Err(too_long(self.line_bytes_max)));
            }
            let line = rest[..length].trim_ascii();
            if !line.is_empty() {
                break line;
            }
        };
        Some(match std::str::from_utf8(line) {
            Ok(line) => read(line).map_err(|source| self.unexpected(source)),
            Err(source) => Err(self.unexpected(source)),
        })
    }

    fn unexpected(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        let message = format!("{}: line {} is not what was expected: {source}", self.label, self.number);
        Error::new(ErrorKind::Corrupt, message).component("client").with_source(source)
    }
}

/// Collects chunks and gives back the whole lines in them.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end, so that a long line is searched once.
    searched: usize,
    line_bytes_max: usize,
    label: Arc<str>,
    /// How many lines were given.
    number: u64,
}

impl Splitter {
    /// `label` names the request, for errors.
    pub(super) fn new(label: &str, line_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, line_bytes_max, label: label.into(), number: 0 }
    }

    /// Takes the next chunk and gives all lines that are whole now, if there are any.
    ///
    /// # Errors
    /// `Corrupt` when what there is of a line is longer than a line may be. One that is whole is found out when it is
    /// read.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Option<Lines>> {
        self.buffer.extend_from_slice(chunk);
        let end = memchr::memrchr(b'\n', &self.buffer[self.searched..]);
        let lines = end.map(|length| {
            let text = self.buffer.split_to(self.searched + length + 1).freeze();
            self.lines(text)
        });
        self.searched = self.buffer.len();
        if self.searched > self.line_bytes_max && lines.is_none() {
            return Err(too_long(self.line_bytes_max));
        }
        Ok(lines)
    }

    /// What came after the last line end, if anything: a server may leave the last one out.
    pub(super) fn finish(mut self) -> Option<Lines> {
        let text = self.buffer.split().freeze();
        (!text.is_empty()).then(|| self.lines(text))
    }

    fn lines(&mut self, text: Bytes) -> Lines {
        let number = self.number;
        self.number += memchr::memchr_iter(b'\n', &text).count() as u64;
        Lines { label: Arc::clone(&self.label), number, text, read: 0, line_bytes_max: self.line_bytes_max }
    }
}

fn too_long(line_bytes_max: usize) -> Error {
    let message = format!("a line of the answer is longer than {line_bytes_max} bytes");
    Error::new(ErrorKind::Corrupt, message).component("client")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn texts(lines: Option<Lines>) -> Vec<String> {
        let mut texts = Vec::new();
        let Some(mut lines) = lines else { return texts };
        while let Some(text) = lines.next_with(|text| Ok::<_, Infallible>(text.to_owned())) {
            texts.push(text.unwrap());
        }
        texts
    }

    fn lines_of<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut splitter = Splitter::new("Get", 100);
        let mut found = Vec::new();
        for chunk in chunks {
            found.extend(texts(splitter.push(chunk).unwrap()));
        }
        found.extend(texts(splitter.finish()));
        found
    }

    #[test]
    fn lines_come_out_whole_however_the_chunks_are_cut() {
        let text = "{\"a\":1}\n{\"b\":\"ü\"}\n\n  \r\n{\"c\":3}\r\n";
        let wanted = ["{\"a\":1}", "{\"b\":\"ü\"}", "{\"c\":3}"];
        for size in 1..=text.len() {
            assert_eq!(lines_of(text.as_bytes().chunks(size)), wanted, "chunks of {size}");
        }
    }

    #[test]
    fn empty_input_and_empty_lines_give_nothing() {
        assert!(lines_of([]).is_empty());
        assert!(lines_of(["", "\n", "\n\n", "  "].map(str::as_bytes)).is_empty());
    }

    #[test]
    fn the_last_line_may_lack_its_end() {
        assert_eq!(lines_of(["1\n", "2", "3"].map(str::as_bytes)), ["1", "23"]);
    }

    #[test]
    fn a_line_over_the_limit_is_an_error_with_and_without_its_end() {
        let mut splitter = Splitter::new("Get", 10);
        assert_eq!(texts(splitter.push(b"0123456789\n").unwrap()), ["0123456789"]);
        assert_eq!(splitter.push(b"01234567890").unwrap_err().kind(), ErrorKind::Corrupt);
        let mut splitter = Splitter::new("Get", 10);
        let mut lines = splitter.push(b"1\n01234567890\n").unwrap().unwrap();
        assert_eq!(lines.next_item::<u8>().unwrap().unwrap(), 1);
        let error = lines.next_item::<u64>().unwrap().unwrap_err();
        assert!(error.to_string().contains("longer than 10 bytes"), "{error}");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_by_its_number_in_the_answer() {
        let mut splitter = Splitter::new("Get \"x\"", 10);
        assert_eq!(texts(splitter.push(b"1\n2\n").unwrap()), ["1", "2"]);
        let mut lines = splitter.push(b"3\n\n\xff\n6\n").unwrap().unwrap();
        assert_eq!(lines.next_item::<u8>().unwrap().unwrap(), 3);
        let error = lines.next_item::<u8>().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.to_string().starts_with("Get \"x\": line 5 is not what was expected: invalid utf-8"),
            "{error}"
        );
        assert_eq!(lines.next_item::<u8>().unwrap().unwrap(), 6);
        assert!(lines.next_item::<u8>().is_none());
    }
}
