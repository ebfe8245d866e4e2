//! Reading lines.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::read_buf;

use crate::error::{Error, Result};
use crate::state::{PAGE_ITEMS_MAX, State};
use crate::types::{PeerId, Pin};

/// Longest pin that an import takes, in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// About how many bytes are parsed in one go.
const CHUNK_BYTES: usize = 64 * 1024;
/// Threads that parse, unless somebody says otherwise.
const THREADS_DEFAULT: usize = 3;
/// Most threads that parse.
const THREADS_MAX: usize = 64;

/// What an import changes in every pin, and how it works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Replaces the smallest number of copies.
    pub replication_factor_min: Option<i32>,
    /// Replaces the largest number of copies.
    pub replication_factor_max: Option<i32>,
    /// Replaces the allocations, unless it is empty.
    pub allocations: Vec<PeerId>,
    /// How many threads of the blocking pool parse (at most 64); with 0 the calling task does it.
    pub threads: usize,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            replication_factor_min: None,
            replication_factor_max: None,
            allocations: Vec::new(),
            threads: THREADS_DEFAULT,
        }
    }
}

impl ImportOptions {
    fn apply(&self, pin: &mut Pin) {
        if let Some(min) = self.replication_factor_min {
            pin.options.replication_factor_min = min;
        }
        if let Some(max) = self.replication_factor_max {
            pin.options.replication_factor_max = max;
        }
        if !self.allocations.is_empty() {
            pin.allocations.clone_from(&self.allocations);
        }
    }
}

/// Replaces the pinset by the pins of `input` and returns how many there are then. All or nothing, as
/// [`State::replace`]; `progress` is told the number read so far.
///
/// # Errors
/// `InvalidInput` that names the document and the line where it is wrong, what `input` fails with, and those of
/// [`State::replace`].
pub async fn import_lines(
    state: &dyn State,
    input: impl AsyncRead + Send + Unpin + 'static,
    options: ImportOptions,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<u64> {
    state.replace(parse_lines(input, options), progress).await
}

/// The pins of `input` in order, in pages of at most [`PAGE_ITEMS_MAX`]: JSON objects one after the other, with or
/// without white space between them. Missing fields have their zero values, as in the reference. Ends after its
/// first error.
///
/// # Errors
/// As items: `InvalidInput` that names the document and the line where it is wrong, and what `input` fails with.
pub fn parse_lines(
    input: impl AsyncRead + Send + Unpin + 'static,
    options: ImportOptions,
) -> BoxStream<'static, Result<Vec<Pin>>> {
    let chunks = chunks(input);
    let threads = options.threads.min(THREADS_MAX);
    let options = Arc::new(options);
    if threads == 0 {
        return chunks.map(move |chunk| parse(&chunk?, &options)).boxed();
    }
    // A chunk more than threads waits, so that a thread that is done has something to go on with.
    chunks
        .map(move |chunk| {
            let options = options.clone();
            let parsing = chunk.map(|chunk| tokio::task::spawn_blocking(move || parse(&chunk, &options)));
            async move {
                parsing?.await.unwrap_or_else(|source| {
                    Err(Error::internal("parsing did not finish").component("state").with_source(source))
                })
            }
        })
        .buffered(threads + 1)
        .boxed()
}

/// Some whole documents.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Bytes,
    documents: Vec<Document>,
}

/// Where a document lies in its chunk and in the input, both counted from 1.
#[derive(Clone, Copy, Debug)]
struct Document {
    start: usize,
    end: usize,
    number: u64,
    line: u64,
}

fn parse(chunk: &Chunk, options: &ImportOptions) -> Result<Vec<Pin>> {
    chunk
        .documents
        .iter()
        .map(|document| {
            if document.end - document.start > DOCUMENT_BYTES_MAX {
                return Err(too_long(document.number, document.line));
            }
            let mut pin: Pin = serde_json::from_slice(&chunk.bytes[document.start..document.end])
                .map_err(|source| invalid(document, source))?;
            options.apply(&mut pin);
            Ok(pin)
        })
        .collect()
}

fn invalid(document: &Document, source: serde_json::Error) -> Error {
    let place = format!(" at line {} column {}", source.line(), source.column());
    let text = source.to_string();
    let what = text.strip_suffix(&place).unwrap_or(&text);
    let line = document.line + (source.line() as u64).saturating_sub(1);
    wrong(document.number, line, what).with_source(source)
}

fn too_long(document: u64, line: u64) -> Error {
    wrong(document, line, format_args!("the pin is longer than {DOCUMENT_BYTES_MAX} bytes of JSON"))
}

fn wrong(document: u64, line: u64, what: impl std::fmt::Display) -> Error {
    Error::invalid_input(format!("cannot import pin {document}, line {line}: {what}")).component("state")
}

fn chunks(input: impl AsyncRead + Send + Unpin + 'static) -> BoxStream<'static, Result<Chunk>> {
    let reader = Reader { input, buffer: BytesMut::new(), splitter: Splitter::default(), ended: false };
    stream::try_unfold(
        reader,
        |mut reader| async move { Ok(reader.next().await?.map(|chunk| (chunk, reader))) },
    )
    .into_stream()
    .boxed()
}

struct Reader<R> {
    input: R,
    /// What was read and not handed out, from the start of the document that is being looked at.
    buffer: BytesMut,
    splitter: Splitter,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            let documents = self.splitter.split(&self.buffer)?;
            if let Some(last) = documents.last() {
                let bytes = self.buffer.split_to(last.end).freeze();
                self.splitter.forget(bytes.len());
                return Ok(Some(Chunk { bytes, documents }));
            }
            if self.ended {
                return self.splitter.finish().map(|()| None);
            }
            // White space is not kept.
            let _ = self.buffer.split_to(self.splitter.start);
            self.splitter.forget(self.splitter.start);
            self.buffer.reserve(CHUNK_BYTES);
            let read = read_buf(&mut self.input, &mut self.buffer)
                .await
                .map_err(|source| Error::io("reading the pins to import", source).component("state"))?;
            self.ended = read == 0;
        }
    }
}

/// Finds where documents start and end, and nothing else about them.
#[derive(Debug, Default)]
struct Splitter {
    /// Where the open document starts; without one, how far white space was skipped.
    start: usize,
    /// How far it has looked.
    position: usize,
    /// Open brackets; zero between documents.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Of the document that is open, else that were finished.
    number: u64,
    /// Line of `position`, less one.
    line: u64,
    /// Line where the open document starts.
    start_line: u64,
}

impl Splitter {
    /// The documents that end in what was not looked at yet, at most a page of them. `buffer` is what it was, minus
    /// what [`Splitter::forget`] was told of, plus more.
    fn split(&mut self, buffer: &[u8]) -> Result<Vec<Document>> {
        let mut documents = Vec::new();
        while let Some(&byte) = buffer.get(self.position) {
            self.position += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    b'\n' => self.line += 1,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'\n' => self.line += 1,
                b'"' if self.depth > 0 => self.in_string = true,
                b'{' | b'[' if self.depth > 0 => self.depth += 1,
                b'}' | b']' if self.depth > 0 => self.depth -= 1,
                b'{' => {
                    self.depth = 1;
                    self.start = self.position - 1;
                    self.start_line = self.line + 1;
                    self.number += 1;
                    continue;
                }
                b' ' | b'\t' | b'\r' => {}
                _ if self.depth > 0 => continue,
                _ if !documents.is_empty() => {
                    // What came before it comes first, and may be wrong itself.
                    self.position -= 1;
                    return Ok(documents);
                }
                _ => {
                    let found = char::from(byte);
                    return Err(wrong(
                        self.number + 1,
                        self.line + 1,
                        format_args!("expected a pin as a JSON object, found {found:?}"),
                    ));
                }
            }
            if self.depth > 0 {
                continue;
            }
            if matches!(byte, b'}' | b']') {
                let document = Document {
                    start: self.start,
                    end: self.position,
                    number: self.number,
                    line: self.start_line,
                };
                documents.push(document);
                if documents.len() == PAGE_ITEMS_MAX {
                    self.start = self.position;
                    return Ok(documents);
                }
            }
            self.start = self.position;
        }
        if documents.is_empty() && self.position - self.start > DOCUMENT_BYTES_MAX {
            return Err(too_long(self.number, self.start_line));
        }
        Ok(documents)
    }

    /// So many bytes are gone from the front of the buffer.
    fn forget(&mut self, bytes: usize) {
        self.start -= bytes;
        self.position -= bytes;
    }

    fn finish(&self) -> Result<()> {
        if self.depth > 0 {
            let what = format_args!("the input ends inside the pin that begins on line {}", self.start_line);
            return Err(wrong(self.number, self.line + 1, what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin as Pinned;
    use std::task::{Context, Poll};

    use multihash_codetable::{Code, MultihashDigest};
    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;
    use crate::error::ErrorKind;
    use crate::types::{Cid, PinOptions};

    /// Gives its text in pieces of the given lengths, over and over.
    struct Pieces {
        text: Vec<u8>,
        lengths: Vec<usize>,
        reads: usize,
    }

    impl Pieces {
        fn new(text: impl Into<Vec<u8>>, lengths: &[usize]) -> Self {
            Self { text: text.into(), lengths: lengths.to_vec(), reads: 0 }
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pinned<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let wanted = self.lengths[self.reads % self.lengths.len()];
            self.reads += 1;
            let length = wanted.min(self.text.len()).min(out.remaining());
            let rest = self.text.split_off(length);
            out.put_slice(&self.text);
            self.text = rest;
            Poll::Ready(Ok(()))
        }
    }

    fn options(threads: usize) -> ImportOptions {
        ImportOptions { threads, ..ImportOptions::default() }
    }

    fn read(input: Pieces, options: ImportOptions) -> Result<Vec<Pin>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let pages: Vec<Vec<Pin>> = runtime.block_on(parse_lines(input, options).try_collect())?;
        assert!(pages.iter().all(|page| (1..=PAGE_ITEMS_MAX).contains(&page.len())));
        Ok(pages.concat())
    }

    fn error_of(text: &str) -> Error {
        let whole = read(Pieces::new(text, &[1000]), options(0)).unwrap_err();
        let bytewise = read(Pieces::new(text, &[1]), options(2)).unwrap_err();
        assert_eq!(whole.to_string(), bytewise.to_string());
        assert_eq!(whole.kind(), ErrorKind::InvalidInput);
        whole
    }

    fn pin(name: &str) -> Pin {
        let cid = Cid::new_v1(0x55, Code::Sha2_256.digest(name.as_bytes()));
        Pin::new(cid, PinOptions { name: name.to_owned(), ..PinOptions::default() })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pins_are_found_however_they_are_laid_out_and_cut(
            names in proptest::collection::vec("[{}\\[\\]\"\\\\ \nx\u{e9}]{0,6}", 0..30),
            gaps in proptest::collection::vec("[ \t\r\n]{0,3}", 1..5),
            lengths in proptest::collection::vec(1usize..100, 1..5),
            pretty: bool, threads in 0usize..3,
        ) {
            let pins: Vec<Pin> = names.iter().map(|name| pin(name)).collect();
            let mut text = gaps[0].clone();
            for (index, pin) in pins.iter().enumerate() {
                text += &if pretty { serde_json::to_string_pretty(pin) } else { serde_json::to_string(pin) }.unwrap();
                text += &gaps[index % gaps.len()];
            }
            prop_assert_eq!(read(Pieces::new(text, &lengths), options(threads)).unwrap(), pins);
        }
    }

    #[test]
    fn many_pins_come_in_order_from_several_threads() {
        let pins: Vec<Pin> = (0..5_000).map(|number| pin(&number.to_string())).collect();
        let text: String = pins.iter().map(|pin| serde_json::to_string(pin).unwrap() + "\n").collect();
        assert_eq!(read(Pieces::new(text, &[usize::MAX]), options(4)).unwrap(), pins);
    }

    #[test]
    fn an_export_of_the_reference_reads() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/go-pins.json")).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        let export = vectors.iter().find(|vector| vector["name"] == "state/export-json").unwrap();
        let text = hex::decode(export["hex"].as_str().unwrap()).unwrap();
        let pins = read(Pieces::new(text.clone(), &[7]), options(1)).unwrap();
        assert_eq!(pins.len(), 2);
        let mut lines = Vec::new();
        for pin in &pins {
            super::super::write_pin_json(pin, &mut lines);
            lines.push(b'\n');
        }
        // What was never stored has null for a list without items; what was has `[]`, as we write.
        let text = String::from_utf8(text).unwrap().replace("\"origins\":null", "\"origins\":[]");
        assert_eq!(String::from_utf8(lines).unwrap(), text);
    }

    #[test]
    fn an_error_says_where_it_is() {
        let good = serde_json::to_string(&pin("good")).unwrap();
        for (text, expected) in [
            (format!("{good}\n{{\"cid\":\n5}}"), "cannot import pin 2, line 3: invalid type: integer `5`"),
            (format!("{good}\n\n{{}}"), "cannot import pin 2, line 3: missing field `cid`"),
            (format!("{good}{{\"cid\":\"Qm\"}}"), "cannot import pin 2, line 1: invalid cid: "),
            (
                format!("{good}\n[{good}]"),
                "cannot import pin 2, line 2: expected a pin as a JSON object, found '['",
            ),
            (format!("{{}}{good}\nnull"), "cannot import pin 1, line 1: missing field `cid`"),
            (
                format!("{good}\n{good}}}"),
                "cannot import pin 3, line 2: expected a pin as a JSON object, found '}'",
            ),
            (
                format!("{good}\n\n{}", &good[..good.len() / 2]),
                "cannot import pin 2, line 3: the input ends inside the pin that begins on line 3",
            ),
            (format!("{}]", &good[..good.len() - 1]), "cannot import pin 1, line 1: expected `,` or `}`"),
        ] {
            let error = error_of(&text);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_pin_without_end_is_an_error_and_not_all_memory() {
        let text = format!("{{\"name\":\"{}", "x".repeat(DOCUMENT_BYTES_MAX + 10 * CHUNK_BYTES));
        let error = read(Pieces::new(text, &[usize::MAX]), options(0)).unwrap_err();
        assert!(error.to_string().contains("longer than 4194304 bytes"), "{error}");
        let mut long = pin("");
        long.options.name = "x".repeat(DOCUMENT_BYTES_MAX);
        let error =
            read(Pieces::new(serde_json::to_vec(&long).unwrap(), &[usize::MAX]), options(0)).unwrap_err();
        assert!(error.to_string().contains("longer than 4194304 bytes"), "{error}");
    }

    #[test]
    fn an_unreadable_input_is_not_a_short_one() {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(
                self: Pinned<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<std::io::Result<()>> {
                Poll::Ready(Err(std::io::Error::other("the cable is out")))
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(parse_lines(Broken, options(0)).try_collect::<Vec<_>>()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("the cable is out"), "{error}");
    }

    #[test]
    fn options_replace_what_the_pins_say() {
        let peer = PeerId::from_multihash(Code::Sha2_256.digest(b"peer").resize().unwrap()).unwrap();
        let change = ImportOptions {
            replication_factor_min: Some(1),
            replication_factor_max: Some(3),
            allocations: vec![peer],
            ..options(0)
        };
        let text = serde_json::to_string(&pin("x")).unwrap();
        let changed = read(Pieces::new(text, &[9]), change).unwrap().swap_remove(0);
        assert_eq!(changed.allocations, [peer]);
        assert_eq!((changed.options.replication_factor_min, changed.options.replication_factor_max), (1, 3));
    }
}
