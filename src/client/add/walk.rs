//! Files of this machine: what is there, in which order, and their bytes. Everything here blocks.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::vec;

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
        Self { buffer: Vec::with_capacity(CHUNK_BYTES), content: 0, chunks }
    }

    /// Hands on what was collected.
    ///
    /// # Errors
    /// `Cancelled` when nobody wants it.
    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let content = std::mem::take(&mut self.content);
        self.chunks
            .blocking_send(Chunk { bytes: bytes.into(), content })
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the upload was given up").component("client"))
    }

    /// Takes bytes of a file until there are none, and says how many there were. What is expected need not be true.
    fn copy(&mut self, file: &mut File, path: &Path, expected: u64) -> Result<u64> {
        let mut copied = 0;
        loop {
            if self.buffer.len() >= CHUNK_BYTES {
                self.flush()?;
            }
            let begin = self.buffer.len();
            // Not the whole buffer for each of many small files: what is to be read into is cleared first.
            let left = usize::try_from(expected.saturating_sub(copied)).unwrap_or(CHUNK_BYTES);
            let room = left.max(READ_BYTES_MIN).min(CHUNK_BYTES - begin);
            self.buffer.resize(begin + room, 0);
            let read = loop {
                match file.read(&mut self.buffer[begin..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            self.buffer.truncate(begin + read.as_ref().copied().unwrap_or(0));
            match read.map_err(|error| failed("read", path, error))? {
                0 => return Ok(copied),
                read => {
                    copied += read as u64;
                    self.content += read as u64;
                }
            }
        }
    }
}

/// Hands on a file, a link, or a folder with all that is in it. Folders are read when their turn comes, and one file is
/// open at a time.
///
/// # Errors
/// What cannot be read, by its path; `Cancelled` when nobody wants it any more.
pub(super) fn send(top: &Named, which: Which, encoder: &mut Encoder, out: &mut Out) -> Result<()> {
    let mut folders: Vec<Folder> = Vec::new();
    let mut next = Some(top.clone());
    while let Some(named) = next {
        if let Some(folder) = send_one(&named, which, encoder, out)? {
            folders.push(folder);
        }
        next = next_in(&mut folders);
    }
    out.flush()
}

/// A folder, and what was not visited in it.
struct Folder {
    at: Named,
    rest: vec::IntoIter<OsString>,
}

fn next_in(folders: &mut Vec<Folder>) -> Option<Named> {
    loop {
        let folder = folders.last_mut()?;
        if let Some(entry) = folder.rest.next() {
            let mut name = folder.at.name.clone();
            name.push(b'/');
            name.extend_from_slice(entry.as_encoded_bytes());
            return Some(Named { path: folder.at.path.join(entry), name });
        }
        folders.pop();
    }
}

fn send_one(named: &Named, which: Which, encoder: &mut Encoder, out: &mut Out) -> Result<Option<Folder>> {
    let path = &named.path;
    let there = look_at(path)?;
    let mut part = |buffer: &mut Vec<u8>, kind| encoder.part(buffer, &named.name, kind, stamp(&there));
    if out.buffer.len() >= CHUNK_BYTES {
        out.flush()?;
    }
    if there.is_dir() {
        let entries = entries(path, which.hidden)?;
        part(&mut out.buffer, PartKind::Directory);
        return Ok(Some(Folder { at: named.clone(), rest: entries.into_iter() }));
    }
    if there.is_symlink() {
        let target = fs::read_link(path).map_err(|error| failed("readlink", path, error))?;
        part(&mut out.buffer, PartKind::Symlink);
        out.buffer.extend_from_slice(target.as_os_str().as_encoded_bytes());
        return Ok(None);
    }
    let mut file = File::open(path).map_err(|error| failed("open", path, error))?;
    let expected = file.metadata().map_err(|error| failed("stat", path, error))?.len();
    let origin = std::path::absolute(path).map_err(|error| failed("abs", path, error))?;
    part(&mut out.buffer, PartKind::File { origin: origin.as_os_str().as_encoded_bytes() });
    let copied = out.copy(&mut file, path, expected)?;
    if copied < expected {
        let text = format!(
            "{} became shorter while it was read: {copied} bytes of {expected} were there",
            path.display()
        );
        return Err(Error::new(ErrorKind::Conflict, text).component("client"));
    }
    Ok(None)
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

/// Names in a folder, sorted by their bytes.
fn entries(path: &Path, hidden: bool) -> Result<Vec<OsString>> {
    let entry = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name());
    let names: io::Result<Vec<_>> = fs::read_dir(path).and_then(|entries| entries.map(entry).collect());
    let mut names = names.map_err(|error| failed("open", path, error))?;
    names.retain(|name| hidden || !name.as_encoded_bytes().starts_with(b"."));
    names.sort_unstable();
    Ok(names)
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
                paths.extend(entries.iter().map(|entry| path.join(entry)));
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
        File::open(path).map_err(|error| failed("open", path, error))?;
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
