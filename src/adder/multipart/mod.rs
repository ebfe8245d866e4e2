//! Content that comes as `multipart/form-data`, as Kubo's clients and those of the reference send it.
//!
//! Each part is a file, a directory (`application/x-directory`, without bytes) or a symbolic link
//! (`application/symlink`, its target as bytes). Its path is the `filename` of `Content-Disposition`, URL-encoded; mode and
//! time stand behind a question mark in the name of the field; `Abspath-Encoded` or `Abspath` say where the file lies.
//!
//! The parser is our own: what there is collects everything of a body that has come, however much, has no limit for
//! the heads of parts, and copies each byte. Here a chunk is handed on as it came, no more than one is held, and heads are
//! bounded by 48 KiB a part.

mod head;

use std::collections::VecDeque;
use std::fmt;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use memchr::memmem::Finder;

pub use self::head::boundary;
use self::head::{Head, Kind};
use super::{Content, Entry, EntryKind};
use crate::error::{Error, Result};

/// Who speaks in the errors about what is wrong with a form.
pub(crate) const COMPONENT: &str = "multipart";

/// Most bytes of the head of a part: a path and an origin of full length, every byte of them encoded.
const HEAD_BYTES_MAX: usize = 48 * 1024;
/// Most bytes in front of the first part.
const PREAMBLE_BYTES_MAX: usize = 64 * 1024;
/// Most bytes behind the last part that are waited for.
const EPILOGUE_BYTES_MAX: usize = 64 * 1024;
/// Most spaces behind a boundary.
const PADDING_BYTES_MAX: usize = 256;
/// Most bytes of the target of a symbolic link.
const TARGET_BYTES_MAX: usize = 4096;
/// Most parts of one upload.
const PARTS_MAX: u64 = 16 << 20;

/// The entries of a body.
///
/// Directories that no part names are made. A part without a `filename` is a file whose path is empty, as standard
/// input has none. What comes behind the closing boundary is thrown away; it ends the content only when it ended itself, so that
/// whoever sends has sent everything.
pub struct Multipart {
    body: BoxStream<'static, Result<Bytes>>,
    /// What came and was not used yet.
    window: Bytes,
    /// A line break, two dashes, the boundary.
    delimiter: Finder<'static>,
    stage: Stage,
    parts: u64,
    /// Entries that come before the next part is looked at.
    ready: VecDeque<Entry>,
    /// The directory that the last entry is in, or is.
    directory: String,
    keep: Keep,
}

/// Which attributes of entries are told. Clients send them whether or not anybody wants them in the DAG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Permission bits.
    pub mode: bool,
    /// When it was changed last.
    pub modified: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before the first boundary.
    Preamble,
    /// In a part that has no bytes, or whose bytes are for nobody.
    Skipped,
    /// In a file.
    File,
    /// Behind a boundary.
    Boundary,
    /// Behind the closing boundary, or an error.
    End,
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipart")
            .field("stage", &self.stage)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl Multipart {
    /// Content of the chunks of a body; the boundary is that of its [content type](boundary).
    ///
    /// A chunk is what is held at most; whoever makes chunks decides how large that is.
    pub fn new(boundary: &str, body: BoxStream<'static, Result<Bytes>>) -> Self {
        let delimiter = format!("\r\n--{boundary}");
        Self {
            body,
            // The first boundary is one at the very beginning too.
            window: Bytes::from_static(b"\r\n"),
            delimiter: Finder::new(delimiter.as_bytes()).into_owned(),
            stage: Stage::Preamble,
            parts: 0,
            ready: VecDeque::new(),
            directory: String::new(),
            keep: Keep::default(),
        }
    }

    /// Tells attributes as well; the reference never does.
    pub fn keep(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// Waits for more bytes; false when there are none.
    async fn more(&mut self) -> Result<bool> {
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk?;
            if chunk.is_empty() {
                continue;
            }
            if self.window.is_empty() {
                self.window = chunk;
            } else {
                // Little is left over: part of what may be a boundary, or of a head. What was joined before is ours and
                // has room, so that many small chunks are not copied over and over.
                let mut joined = std::mem::take(&mut self.window)
                    .try_into_mut()
                    .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                joined.extend_from_slice(&chunk);
                self.window = joined.freeze();
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// More bytes, which must come.
    async fn must_have_more(&mut self) -> Result<()> {
        if self.more().await? {
            return Ok(());
        }
        Err(invalid("the upload broke off: unexpected EOF, its multipart body has no closing boundary"))
    }

    /// Bytes up to the next boundary, never empty; None behind it.
    async fn part_bytes(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = self.delimiter.find(&self.window) {
                if at > 0 {
                    return Ok(Some(self.window.split_to(at)));
                }
                self.window.advance(self.delimiter.needle().len());
                self.stage = Stage::Boundary;
                return Ok(None);
            }
            let given = self.window.len() - begun(&self.window, self.delimiter.needle());
            if given > 0 {
                return Ok(Some(self.window.split_to(given)));
            }
            self.must_have_more().await?;
        }
    }

    /// Goes on to the next boundary.
    async fn skip(&mut self) -> Result<()> {
        let limit = if self.stage == Stage::Preamble { PREAMBLE_BYTES_MAX } else { usize::MAX };
        let mut skipped = 0;
        while let Some(bytes) = self.part_bytes().await? {
            skipped += bytes.len();
            if skipped > limit {
                return Err(invalid("the multipart body does not begin with its boundary"));
            }
        }
        Ok(())
    }

    /// Reads the rest of a boundary: whether another part follows.
    async fn part_follows(&mut self) -> Result<bool> {
        while self.window.len() < 2 {
            self.must_have_more().await?;
        }
        if self.window.starts_with(b"--") {
            return Ok(false);
        }
        loop {
            let padding = self.window.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let rest = &self.window[padding..];
            if rest.starts_with(b"\r\n") {
                // The line break stays: a head without fields is nothing but another.
                self.window.advance(padding);
                return Ok(true);
            }
            if padding > PADDING_BYTES_MAX || !(rest.is_empty() || rest == b"\r") {
                return Err(invalid("a boundary of the multipart body is not followed by a line break"));
            }
            self.must_have_more().await?;
        }
    }

    /// All parts are there, so what happens now matters to nobody.
    async fn read_epilogue(&mut self) {
        let mut read = 0;
        while let Some(Ok(chunk)) = self.body.next().await
            && read <= EPILOGUE_BYTES_MAX
        {
            read += chunk.len();
        }
    }

    /// Reads the head of a part.
    async fn head(&mut self) -> Result<Head> {
        const END: &[u8] = b"\r\n\r\n";
        let mut seen = 0;
        loop {
            if let Some(at) = memchr::memmem::find(&self.window[seen..], END) {
                let head = self.window.split_to(seen + at + END.len());
                if head.len() > HEAD_BYTES_MAX {
                    return Err(head_too_large());
                }
                return Head::read(&head[2..head.len() - 2], self.keep);
            }
            if self.window.len() > HEAD_BYTES_MAX {
                return Err(head_too_large());
            }
            seen = self.window.len().saturating_sub(END.len() - 1);
            self.must_have_more().await?;
        }
    }

    /// The bytes of a part that has few.
    async fn target(&mut self) -> Result<String> {
        let mut target = Vec::new();
        while let Some(bytes) = self.part_bytes().await? {
            if target.len() + bytes.len() > TARGET_BYTES_MAX {
                return Err(invalid(format!(
                    "the target of a symbolic link is longer than {TARGET_BYTES_MAX} bytes"
                )));
            }
            target.extend_from_slice(&bytes);
        }
        String::from_utf8(target).map_err(|_| invalid("the target of a symbolic link is not UTF-8"))
    }

    /// The next part as an entry, directories that it needs before it; None at the end.
    async fn part(&mut self) -> Result<Option<Entry>> {
        loop {
            if self.stage != Stage::Boundary {
                self.skip().await?;
            }
            if !self.part_follows().await? {
                if self.parts == 0 {
                    return Err(invalid("there is nothing in the upload; send at least one file"));
                }
                self.stage = Stage::End;
                self.read_epilogue().await;
                return Ok(None);
            }
            self.parts += 1;
            if self.parts > PARTS_MAX {
                return Err(invalid(format!("the upload has more than {PARTS_MAX} parts")));
            }
            let head = self.head().await?;
            self.part_without_bytes().await?;
            let kind = match head.kind {
                Kind::File => {
                    self.stage = Stage::File;
                    EntryKind::File
                }
                Kind::Directory => {
                    self.stage = Stage::Skipped;
                    EntryKind::Directory
                }
                Kind::Symlink => EntryKind::Symlink(self.target().await?),
            };
            let is_open = is_within(&head.path, &self.directory);
            if kind == EntryKind::Directory && is_open {
                // It was made for what is in it, or is there twice.
                continue;
            }
            let Head { path, mode, modified, origin, .. } = head;
            self.enter(&path, kind == EntryKind::Directory);
            self.ready.push_back(Entry { path, kind, mode, modified, origin });
            return Ok(self.ready.pop_front());
        }
    }

    /// Some write the boundary behind the head at once; the line break that belongs to it is that of the head then.
    async fn part_without_bytes(&mut self) -> Result<()> {
        let length = self.delimiter.needle().len();
        while self.window.len() < length - 2 && self.delimiter.needle()[2..].starts_with(&self.window) {
            self.must_have_more().await?;
        }
        if self.window.starts_with(&self.delimiter.needle()[2..]) {
            let mut window = BytesMut::with_capacity(self.window.len() + 2);
            window.extend_from_slice(b"\r\n");
            window.extend_from_slice(&self.window);
            self.window = window.freeze();
        }
        Ok(())
    }

    /// Makes the directories of a path that were not there just before.
    fn enter(&mut self, path: &str, is_directory: bool) {
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in ends {
            let directory = &path[..end];
            if !is_within(directory, &self.directory) {
                self.ready.push_back(Entry {
                    path: directory.to_owned(),
                    kind: EntryKind::Directory,
                    ..Entry::default()
                });
            }
        }
        let parent = if is_directory { path.len() } else { path.rfind('/').unwrap_or(0) };
        self.directory = path[..parent].to_owned();
    }
}

/// Whether a directory is another one or above it.
fn is_within(directory: &str, open: &str) -> bool {
    open.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How many bytes at the end may be the beginning of the delimiter.
fn begun(bytes: &[u8], delimiter: &[u8]) -> usize {
    let most = bytes.len().min(delimiter.len() - 1);
    let tail = &bytes[bytes.len() - most..];
    // The delimiter has one line break, in front, unless somebody chose an odd boundary.
    memchr::memchr_iter(b'\r', tail)
        .map(|at| &tail[at..])
        .find(|end| delimiter.starts_with(end))
        .map_or(0, <[u8]>::len)
}

#[async_trait]
impl Content for Multipart {
    async fn next(&mut self) -> Result<Option<Entry>> {
        if let Some(entry) = self.ready.pop_front() {
            return Ok(Some(entry));
        }
        if self.stage == Stage::End {
            return Ok(None);
        }
        let part = self.part().await;
        if part.is_err() {
            self.stage = Stage::End;
            self.ready.clear();
        }
        part
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.stage != Stage::File || !self.ready.is_empty() {
            return Ok(None);
        }
        let bytes = self.part_bytes().await;
        if bytes.is_err() {
            self.stage = Stage::End;
        }
        bytes
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::invalid_input(text).component(COMPONENT)
}

fn head_too_large() -> Error {
    invalid(format!("the head of a part of the upload is larger than {HEAD_BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests;
