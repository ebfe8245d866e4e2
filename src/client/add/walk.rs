//! Files of this machine: what is there, in which order, and their bytes. Everything here blocks.

mod ahead;

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::encode::{Encoder, PartKind, Stamp};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are handed on together.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes that are asked for where a file seems to have ended.
const READ_BYTES_MIN: usize = 4096;

/// Which files are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Which {
    pub(super) recursive: bool,
    pub(super) hidden: bool,
}

/// A path as it is given, and the name under which it is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: PathBuf,
    pub(super) name: Vec<u8>,
}

/// Bytes of the body, and how many of them are content.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) content: u64,
}

/// Where bytes go to.
#[derive(Debug)]
pub(super) struct Out {
    buffer: Vec<u8>,
    /// Bytes in the buffer that are content.
    content: u64,
    chunks: mpsc::Sender<Chunk>,
}

impl Out {
    pub(super) fn new(chunks: mpsc::Sender<Chunk>) -> Self {
        Self { buffer: Vec::new(), content: 0, chunks }
    }

    /// Hands on what was collected.
    ///
    /// # Errors
    /// `Cancelled` when nobody wants it.
    fn flush(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.buffer).into();
        let content = std::mem::take(&mut self.content);
        self.send(Chunk { bytes, content })
    }

    /// Hands on what was collected elsewhere; nothing is in the buffer.
    fn send(&self, chunk: Chunk) -> Result<()> {
        if chunk.bytes.is_empty() {
            return Ok(());
        }
        self.chunks
            .blocking_send(chunk)
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the upload was given up").component("client"))
    }

    /// Takes bytes of a file until there are none, and says how many there were. What is expected need not be true.
    fn copy(&mut self, file: &mut File, path: &Path, expected: u64) -> Result<u64> {
        let mut copied = 0;
        loop {
            if self.buffer.len() >= CHUNK_BYTES {
                self.flush()?;
            }
            self.buffer.reserve_exact(CHUNK_BYTES - self.buffer.len());
            let begin = self.buffer.len();
            let is_end = read_some(file, path, &mut self.buffer, (copied, expected), CHUNK_BYTES - begin)?;
            let read = (self.buffer.len() - begin) as u64;
            copied += read;
            self.content += read;
            if is_end {
                return Ok(copied);
            }
        }
    }
}

/// Adds bytes of a file to a buffer, `most` of them, and says whether that is the end of the file. So many were read before
/// of those that are expected.
fn read_some(
    file: &mut File,
    path: &Path,
    buffer: &mut Vec<u8>,
    (copied, expected): (u64, u64),
    most: usize,
) -> Result<bool> {
    let begin = buffer.len();
    let left = usize::try_from(expected.saturating_sub(copied)).unwrap_or(usize::MAX);
    // Not a large buffer for each of many small files: what is to be read into is cleared first. One byte more than is
    // left, so that the end is seen.
    let room = if left == 0 { READ_BYTES_MIN } else { left.saturating_add(1) }.min(most);
    buffer.resize(begin + room, 0);
    let read = loop {
        match file.read(&mut buffer[begin..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    buffer.truncate(begin + read.as_ref().copied().unwrap_or(0));
    let read = read.map_err(|error| failed("read", path, error))?;
    // Less than there was room for, and all that was expected: to ask once more would be to ask twice for most files.
    Ok(read == 0 || (read == left && read < room))
}

/// Hands on a file, a link, or a folder with all that is in it. Folders are listed and small files are read a little
/// before their turn comes.
///
/// # Errors
/// What cannot be read, by its path; `Cancelled` when nobody wants it any more.
pub(super) fn send(top: &Named, which: Which, encoder: &mut Encoder, out: &mut Out) -> Result<()> {
    let there = look_at(&top.path)?;
    let mut part = |buffer: &mut Vec<u8>, kind| encoder.part(buffer, &top.name, kind, stamp(&there));
    if there.is_file() {
        let origin = absolute(&top.path)?;
        part(&mut out.buffer, PartKind::File { origin: origin.as_os_str().as_encoded_bytes() });
        copy_whole(&top.path, out)?;
    } else if there.is_symlink() {
        let target = target_of(&top.path)?;
        part(&mut out.buffer, PartKind::Symlink);
        out.buffer.extend_from_slice(target.as_os_str().as_encoded_bytes());
    } else {
        let entries = entries(&top.path, which.hidden)?;
        part(&mut out.buffer, PartKind::Directory);
        out.flush()?;
        ahead::send_below(top, entries, which, encoder, out)?;
    }
    out.flush()
}

/// Hands on the bytes of a file.
fn copy_whole(path: &Path, out: &mut Out) -> Result<()> {
    let mut file = open(path)?;
    let expected = file.metadata().map_err(|error| failed("stat", path, error))?.len();
    let copied = out.copy(&mut file, path, expected)?;
    check_whole(path, copied, expected)
}

fn check_whole(path: &Path, copied: u64, expected: u64) -> Result<()> {
    if copied >= expected {
        return Ok(());
    }
    let text = format!(
        "{} became shorter while it was read: {copied} bytes of {expected} were there",
        path.display()
    );
    Err(Error::new(ErrorKind::Conflict, text).component("client"))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| failed("open", path, error))
}

fn target_of(path: &Path) -> Result<PathBuf> {
    fs::read_link(path).map_err(|error| failed("readlink", path, error))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| failed("abs", path, error))
}

/// What a path is, links not followed.
///
/// # Errors
/// `NotFound` and the like; `Unsupported` for what is no file, folder or link: devices, pipes, sockets.
pub(super) fn look_at(path: &Path) -> Result<Metadata> {
    let there = fs::symlink_metadata(path).map_err(|error| failed("lstat", path, error))?;
    let kind = there.file_type();
    if !kind.is_file() && !kind.is_dir() && !kind.is_symlink() {
        let text =
            format!("unrecognized file type for {}: it is no file, folder or symbolic link", path.display());
        return Err(Error::new(ErrorKind::Unsupported, text).component("client"));
    }
    Ok(there)
}

/// A name in a folder, and whether it is that of a folder.
type Listed = (OsString, bool);

/// What lies in a folder, sorted by the bytes of its names.
fn entries(path: &Path, hidden: bool) -> Result<Vec<Listed>> {
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name(), entry.file_type()?.is_dir()))
    };
    let entries: io::Result<Vec<_>> = fs::read_dir(path).and_then(|entries| entries.map(entry).collect());
    let mut entries = entries.map_err(|error| failed("open", path, error))?;
    entries.retain(|(name, _)| hidden || !name.as_encoded_bytes().starts_with(b"."));
    entries.sort_unstable();
    Ok(entries)
}

/// Bytes of all files that are meant; what cannot be read is left out, it will be told when its turn comes.
pub(super) fn file_bytes(top: &Path, which: Which) -> u64 {
    let mut bytes = 0;
    let mut paths = vec![top.to_owned()];
    while let Some(path) = paths.pop() {
        match look_at(&path) {
            Ok(there) if there.is_file() => bytes += there.len(),
            Ok(there) if there.is_dir() => {
                let entries = entries(&path, which.hidden).unwrap_or_default();
                paths.extend(entries.iter().map(|(entry, _)| path.join(entry)));
            }
            _ => {}
        }
    }
    bytes
}

/// Finds out whether a path can be added at all, so that nothing is sent that has to be taken back.
pub(super) fn check(path: &Path, which: Which) -> Result<()> {
    let there = look_at(path)?;
    if there.is_dir() && !which.recursive {
        let text = format!("{} is a directory, but Recursive option is not set", path.display());
        return Err(Error::invalid_input(text).component("client"));
    }
    if there.is_file() {
        open(path)?;
    }
    Ok(())
}

/// The path without what means nothing, and its name: that of the folder it leads to where the path has none.
pub(super) fn named(path: &Path) -> Result<Named> {
    use std::path::Component;
    let mut path: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    if path.as_os_str().is_empty() {
        path.push(".");
    }
    if path.file_name().is_none() {
        path = fs::canonicalize(&path).map_err(|error| failed("lstat", &path, error))?;
    }
    let Some(name) = path.file_name() else {
        let text = format!("{} has no name to be added under", path.display());
        return Err(Error::invalid_input(text).component("client"));
    };
    let name = name.as_encoded_bytes().to_vec();
    Ok(Named { path, name })
}

#[cfg(unix)]
fn stamp(there: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    // A link has no permissions of its own; where systems give it some, they mean nothing.
    let mode = if there.is_symlink() { 0o120_777 } else { there.mode() };
    let nanoseconds = u32::try_from(there.mtime_nsec()).unwrap_or(0);
    Stamp { mode: super::encode::go_mode(mode), modified: Some((there.mtime(), nanoseconds)) }
}

#[cfg(not(unix))]
fn stamp(_: &Metadata) -> Stamp {
    Stamp::default()
}

/// An error of the system, in the words in which the reference tells it.
fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_lowercase).collect();
    let text = format!("{doing} {}: {first}{}", path.display(), letters.as_str());
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Error::new(kind, text).component("client").with_source(error)
}
