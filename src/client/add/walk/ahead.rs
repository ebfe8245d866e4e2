//! Reading a folder ahead: one thread lists, a few read small files, and everything is handed on in the order of the walk.
//!
//! ```text
//! lister ─▶ portions of entries ─▶ readers, each a portion ─▶ in their order ─▶ Out
//!                                  large files ────────────▶ read when their turn comes
//! ```
//!
//! Opening a small file takes longer than reading it, and where it must come from a disk much longer.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{thread, vec};

use super::{
    CHUNK_BYTES, Chunk, Listed, Named, Out, Which, absolute, check_whole, copy_whole, entries, look_at, open,
    read_some, stamp, target_of,
};
use crate::client::add::encode::{Encoder, PartKind};
use crate::error::{Error, ErrorKind, Result};

/// Threads that read small files.
const READERS: usize = 4;
/// Entries that one of them reads at a time.
const PORTION_ENTRIES_MAX: usize = 128;
/// Bytes of them that are kept until their turn comes; the others are read then.
const PORTION_BYTES_MAX: usize = 1024 * 1024;
/// Portions that are read or wait for their turn.
const PORTIONS_AHEAD: usize = 2 * READERS;
/// A file of at least so many bytes is read when its turn comes.
const LARGE_BYTES: u64 = 64 * 1024;

/// A folder, as a path, as the name under which it is added, and where it lies.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    name: Vec<u8>,
    origin: PathBuf,
}

impl Folder {
    fn below(&self, name: &OsString) -> Self {
        let Named { path, name: below } = self.named(name);
        Self { path, name: below, origin: self.origin.join(name) }
    }

    fn named(&self, entry: &OsString) -> Named {
        let bytes = entry.as_encoded_bytes();
        let mut name = Vec::with_capacity(self.name.len() + 1 + bytes.len());
        name.extend_from_slice(&self.name);
        name.push(b'/');
        name.extend_from_slice(bytes);
        Named { path: self.path.join(entry), name }
    }
}

/// What lies in a folder.
#[derive(Debug)]
struct Entry {
    folder: Arc<Folder>,
    name: OsString,
    is_folder: bool,
}

impl Entry {
    /// What is there. What is in a folder was listed before, so that it must be one, or none, still.
    fn look(&self) -> Result<(Named, Metadata)> {
        let named = self.folder.named(&self.name);
        let there = look_at(&named.path)?;
        if there.is_dir() == self.is_folder {
            return Ok((named, there));
        }
        let text = format!("{} became something else while it was read", named.path.display());
        Err(Error::new(ErrorKind::Conflict, text).component("client"))
    }

    /// Writes the beginning of the part of a file.
    fn head(&self, named: &Named, there: &Metadata, encoder: &Encoder, buffer: &mut Vec<u8>) {
        let origin = self.folder.origin.join(&self.name);
        let kind = PartKind::File { origin: origin.as_os_str().as_encoded_bytes() };
        encoder.following(buffer, &named.name, kind, stamp(there));
    }
}

/// Entries that are read together.
type Portion = VecDeque<Entry>;

/// What became of a portion.
#[derive(Debug)]
struct Filled {
    chunk: Chunk,
    /// What is to be read when its turn comes.
    rest: Portion,
    /// Why nothing follows.
    failure: Option<Error>,
}

/// A portion, and where it goes when it is read.
struct Job {
    portion: Portion,
    filled: SyncSender<Filled>,
}

/// Hands on all that is in a folder.
///
/// # Errors
/// As [`send`](super::send).
pub(super) fn send_below(
    top: &Named,
    listed: Vec<Listed>,
    which: Which,
    encoder: &Encoder,
    out: &mut Out,
) -> Result<()> {
    let Named { path, name } = top.clone();
    let folder = Folder { origin: absolute(&path)?, path, name };
    let mut lister = Lister { which, folders: vec![(Arc::new(folder), listed.into_iter())] };
    let (jobs, waiting) = sync_channel::<Job>(PORTIONS_AHEAD);
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        // They end when nobody has a job for them any more.
        let read = || while read_next(&waiting, encoder) {};
        let reader = |number| thread::Builder::new().name(format!("read-{number}")).spawn_scoped(scope, read);
        let readers = (0..READERS).map_while(|number| reader(number).ok()).count();
        let sent = send_portions(&mut lister, (readers > 0).then_some(&jobs), encoder, out);
        drop(jobs);
        sent
    })
}

/// Reads a portion that somebody waits for; false when there will be none.
fn read_next(waiting: &Mutex<Receiver<Job>>, encoder: &Encoder) -> bool {
    let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
    let Ok(Job { portion, filled }) = job else { return false };
    // Nobody may want it any more.
    let _ = filled.send(fill(portion, encoder));
    true
}

fn send_portions(
    lister: &mut Lister,
    jobs: Option<&SyncSender<Job>>,
    encoder: &Encoder,
    out: &mut Out,
) -> Result<()> {
    let mut ahead: VecDeque<Receiver<Filled>> = VecDeque::with_capacity(PORTIONS_AHEAD);
    // Told when its turn comes, behind what was listed before.
    let mut listed = Ok(());
    loop {
        while ahead.len() < PORTIONS_AHEAD && listed.is_ok() {
            let mut portion = Portion::new();
            listed = lister.next(&mut portion);
            if portion.is_empty() {
                break;
            }
            let (filled, turn) = sync_channel(1);
            match jobs {
                Some(jobs) => jobs.send(Job { portion, filled }).map_err(|_| ended())?,
                None => filled.send(fill(portion, encoder)).map_err(|_| ended())?,
            }
            ahead.push_back(turn);
        }
        let Some(turn) = ahead.pop_front() else { return listed };
        send_filled(turn.recv().map_err(|_| ended())?, encoder, out)?;
    }
}

/// Hands on a portion, with what of it was not read before.
fn send_filled(mut filled: Filled, encoder: &Encoder, out: &mut Out) -> Result<()> {
    loop {
        out.send(filled.chunk)?;
        if let Some(failure) = filled.failure {
            return Err(failure);
        }
        let Some(entry) = filled.rest.pop_front() else { return Ok(()) };
        send_large(&entry, encoder, out)?;
        filled = fill(filled.rest, encoder);
    }
}

/// Hands on one entry, of any size.
fn send_large(entry: &Entry, encoder: &Encoder, out: &mut Out) -> Result<()> {
    let (named, there) = entry.look()?;
    if there.is_file() {
        entry.head(&named, &there, encoder, &mut out.buffer);
        copy_whole(&named.path, out)?;
    } else {
        write_other(&named, &there, encoder, &mut out.buffer)?;
    }
    out.flush()
}

/// Writes a folder or a link.
fn write_other(named: &Named, there: &Metadata, encoder: &Encoder, buffer: &mut Vec<u8>) -> Result<()> {
    if there.is_dir() {
        encoder.following(buffer, &named.name, PartKind::Directory, stamp(there));
        return Ok(());
    }
    let target = target_of(&named.path)?;
    encoder.following(buffer, &named.name, PartKind::Symlink, stamp(there));
    buffer.extend_from_slice(target.as_os_str().as_encoded_bytes());
    Ok(())
}

fn ended() -> Error {
    Error::internal("reading files ended").component("client")
}

/// Lists folders, each when all that comes before it was listed.
struct Lister {
    which: Which,
    folders: Vec<(Arc<Folder>, vec::IntoIter<Listed>)>,
}

impl Lister {
    /// Adds the next entries, none at the end. What was added before an error counts.
    fn next(&mut self, portion: &mut Portion) -> Result<()> {
        while portion.len() < PORTION_ENTRIES_MAX
            && let Some((folder, rest)) = self.folders.last_mut()
        {
            let Some((name, is_folder)) = rest.next() else {
                self.folders.pop();
                continue;
            };
            let folder = Arc::clone(folder);
            let inner = is_folder.then(|| folder.below(&name));
            portion.push_back(Entry { folder, name, is_folder });
            if let Some(inner) = inner {
                let listed = entries(&inner.path, self.which.hidden)?;
                self.folders.push((Arc::new(inner), listed.into_iter()));
            }
        }
        Ok(())
    }
}

/// Reads entries up to the first that is large, or as many as may be kept.
fn fill(mut portion: Portion, encoder: &Encoder) -> Filled {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    let (mut content, mut failure) = (0, None);
    while buffer.len() < PORTION_BYTES_MAX
        && let Some(entry) = portion.front()
    {
        match read_small(entry, encoder, &mut buffer) {
            Ok(Some(bytes)) => content += bytes,
            Ok(None) => break,
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
        portion.pop_front();
    }
    Filled { chunk: Chunk { bytes: buffer.into(), content }, rest: portion, failure }
}

/// Adds an entry to the buffer, and says how much content it has; None, with nothing added, for a large file.
fn read_small(entry: &Entry, encoder: &Encoder, buffer: &mut Vec<u8>) -> Result<Option<u64>> {
    let (named, there) = entry.look()?;
    if !there.is_file() {
        write_other(&named, &there, encoder, buffer)?;
        return Ok(Some(0));
    }
    if there.len() >= LARGE_BYTES {
        return Ok(None);
    }
    let mut file = open(&named.path)?;
    let begin = buffer.len();
    entry.head(&named, &there, encoder, buffer);
    let (head, mut copied) = (buffer.len(), 0);
    loop {
        let is_end = read_some(&mut file, &named.path, buffer, (copied, there.len()), CHUNK_BYTES)?;
        copied = (buffer.len() - head) as u64;
        if is_end {
            return check_whole(&named.path, copied, there.len()).map(|()| Some(copied));
        }
        if copied >= LARGE_BYTES {
            // It grows.
            buffer.truncate(begin);
            return Ok(None);
        }
    }
}
