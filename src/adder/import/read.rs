//! Reading content: entries and chunks in their order, as batches on their way to be hashed.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures::poll;
use tokio::sync::{Semaphore, mpsc};

use super::batch::{Batch, Chunk, Form, Started, Step, aside};
use super::chunker::{BLOCK_BYTES_MAX, Cutter, Pool};
use super::dag::{Attributes, Kind};
use super::{Settings, object_too_large};
use crate::adder::{Content, Entry, EntryKind, Lines};
use crate::error::{Error, Result};
use crate::types::{AddLayout, Added};

/// Memory for what is read and not yet stored, in bytes.
const IN_FLIGHT_BYTES: usize = 14 * 1024 * 1024;
/// A path longer than this is refused. In bytes.
const PATH_BYTES_MAX: usize = 64 * 1024;
/// Chunkers that look at every byte get so many at a time.
const SCANNED_BYTES: usize = 1024 * 1024;
/// Bytes from one line about progress to the next, as in the reference.
const PROGRESS_BYTES: u64 = 256 * 1024;

/// Reads all of the content.
pub(super) struct Reader<'a> {
    settings: &'a Settings,
    lines: &'a Lines,
    batch: Batch,
    memory: Arc<Semaphore>,
    /// Shared by the files, whose chunks are made by the same rule.
    chunks: Arc<Pool>,
    out: mpsc::Sender<Started>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a Settings, lines: &'a Lines, out: mpsc::Sender<Started>) -> Self {
        let memory = Arc::new(Semaphore::new(IN_FLIGHT_BYTES));
        Self { settings, lines, batch: Batch::default(), memory, chunks: Arc::default(), out }
    }

    /// Returns at the end of the content, when all batches are on their way.
    pub(super) async fn run(mut self, content: &mut dyn Content) -> Result<()> {
        while let Some(entry) = self.next(content).await? {
            if entry.path.len() > PATH_BYTES_MAX {
                return Err(Error::invalid_input(format!(
                    "a path has {} bytes, at most {PATH_BYTES_MAX} are possible",
                    entry.path.len()
                )));
            }
            // The reference keeps none of a file that stays where it is.
            let is_kept = !(self.settings.no_copy && entry.kind == EntryKind::File);
            let attributes =
                if is_kept { Attributes::new(entry.mode, entry.modified) } else { Attributes::default() };
            match entry.kind {
                EntryKind::File => self.file(content, entry, attributes).await?,
                EntryKind::Directory => self.push(Step::Directory { path: entry.path, attributes }).await?,
                EntryKind::Symlink(target) if target.len() > BLOCK_BYTES_MAX => {
                    return Err(object_too_large());
                }
                EntryKind::Symlink(target) => {
                    self.push(Step::Symlink { path: entry.path, target, attributes }).await?;
                }
            }
        }
        self.flush().await
    }

    async fn file(&mut self, content: &mut dyn Content, entry: Entry, attributes: Attributes) -> Result<()> {
        if self.settings.no_copy && entry.origin.as_ref().is_none_or(String::is_empty) {
            return Err(Error::invalid_input("missing file path or URL, can't create filestore reference"));
        }
        let mut leaves = Leaves::new(self.settings, attributes)?;
        let mut progress = Progress::default();
        let mut cutter = Cutter::new(self.settings.chunker, &self.chunks);
        let mut chunks = Vec::new();
        while let Some(mut piece) = self.read(content).await? {
            while !piece.is_empty() {
                let part = if cutter.is_slow() {
                    piece.split_to(piece.len().min(SCANNED_BYTES))
                } else {
                    std::mem::take(&mut piece)
                };
                let read = part.len() as u64;
                cutter = cut(cutter, part, &mut chunks).await?;
                if self.settings.progress {
                    progress.tell(&entry.path, read, self).await;
                }
                for chunk in chunks.drain(..) {
                    for leaf in leaves.next(chunk) {
                        self.push(leaf).await?;
                    }
                }
            }
        }
        for leaf in cutter.finish().into_iter().flat_map(|chunk| leaves.next(chunk)).collect::<Vec<_>>() {
            self.push(leaf).await?;
        }
        if let Some(leaf) = leaves.finish() {
            self.push(leaf).await?;
        }
        if self.settings.progress {
            self.lines.tell(progress.line(&entry.path, self.settings)).await;
        }
        self.push(Step::FileEnd { path: entry.path, attributes }).await
    }

    async fn push(&mut self, step: Step<Chunk>) -> Result<()> {
        self.batch.push(step);
        if self.batch.is_full() { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        // A batch weighs less than two of the largest leaves, paths and targets, which is far below what there is.
        let weight = u32::try_from(batch.weight().min(IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
        let stopped = |_| Error::internal("nobody takes blocks any more").component("adder");
        let permit = self.memory.clone().acquire_many_owned(weight).await.map_err(|_| stopped(()))?;
        self.out.send(batch.start(self.settings.naming, permit)).await.map_err(|_| stopped(()))
    }

    /// The next entry. Who has to wait for it does not keep what is there from being hashed.
    async fn next(&mut self, content: &mut dyn Content) -> Result<Option<Entry>> {
        let mut next = pin!(content.next());
        if let Poll::Ready(entry) = poll!(&mut next) {
            return entry;
        }
        self.flush().await?;
        next.await
    }

    async fn read(&mut self, content: &mut dyn Content) -> Result<Option<Bytes>> {
        let mut piece = pin!(content.read());
        if let Poll::Ready(piece) = poll!(&mut piece) {
            return piece;
        }
        self.flush().await?;
        piece.await
    }
}

/// Cuts, elsewhere when it takes long.
async fn cut(mut cutter: Cutter, piece: Bytes, chunks: &mut Vec<Bytes>) -> Result<Cutter> {
    /// Less than this is looked at in place, in bytes.
    const IN_PLACE_BYTES: usize = 64 * 1024;
    if !cutter.is_slow() || piece.len() < IN_PLACE_BYTES {
        cutter.feed(piece, chunks)?;
        return Ok(cutter);
    }
    let (cutter, mut made) = aside(move || {
        let mut made = Vec::new();
        cutter.feed(piece, &mut made).map(|()| (cutter, made))
    })
    .await??;
    chunks.append(&mut made);
    Ok(cutter)
}

/// Says what the chunks of a file become.
struct Leaves {
    layout: AddLayout,
    is_raw: bool,
    attributes: Attributes,
    /// The first one, while it may be the only one, which is the root then and has the attributes.
    first: Option<Bytes>,
    any: bool,
}

impl Leaves {
    fn new(settings: &Settings, attributes: Attributes) -> Result<Self> {
        if !attributes.is_empty() && settings.raw_leaves == Some(true) {
            return Err(Error::invalid_input(
                "raw-leaves can't be used with UnixFS metadata like mode or modification time",
            ));
        }
        // A leaf without a node has no place for attributes, so Kubo makes nodes of all leaves then.
        let is_raw = settings.raw_leaves.unwrap_or(settings.raw_by_default && attributes.is_empty());
        Ok(Self { layout: settings.layout, is_raw, attributes, first: None, any: false })
    }

    fn leaf(&self, data: Bytes, is_only: bool) -> Step<Chunk> {
        let form = match self.layout {
            _ if self.is_raw => Form::Raw,
            AddLayout::Trickle => Form::Node(Kind::Raw, Attributes::default()),
            AddLayout::Balanced if is_only => Form::Node(Kind::File, self.attributes),
            AddLayout::Balanced => Form::Node(Kind::File, Attributes::default()),
        };
        Step::Leaf(Chunk { data, form })
    }

    /// Takes a chunk, and gives those of which is known what they are.
    fn next(&mut self, chunk: Bytes) -> impl Iterator<Item = Step<Chunk>> + use<> {
        let (first, chunk) = if self.any {
            (self.first.take(), Some(chunk))
        } else {
            self.any = true;
            self.first = Some(chunk);
            (None, None)
        };
        let leaf = |data| self.leaf(data, false);
        [first.map(leaf), chunk.map(leaf)].into_iter().flatten()
    }

    /// The only chunk, if it was. An empty file has a leaf too, but in the trickle layout.
    fn finish(mut self) -> Option<Step<Chunk>> {
        match self.first.take() {
            Some(first) => Some(self.leaf(first, true)),
            None if self.any || self.layout == AddLayout::Trickle => None,
            None => Some(self.leaf(Bytes::new(), true)),
        }
    }
}

#[derive(Default)]
struct Progress {
    read: u64,
}

impl Progress {
    async fn tell(&mut self, path: &str, read: u64, reader: &Reader<'_>) {
        let end = self.read + read;
        loop {
            let next = (self.read / PROGRESS_BYTES + 1) * PROGRESS_BYTES;
            if next > end {
                break;
            }
            self.read = next;
            reader.lines.tell(self.line(path, reader.settings)).await;
        }
        self.read = end;
    }

    fn line(&self, path: &str, settings: &Settings) -> Added {
        // As in the reference: the path below the root.
        let below = path.split_once('/').map_or("", |(_, below)| below);
        let name = if settings.wrap { path } else { below };
        Added { name: name.to_owned(), bytes: self.read, ..Added::default() }
    }
}
