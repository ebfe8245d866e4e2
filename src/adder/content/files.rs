use std::fs::{self, DirEntry, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::adder::{Content, Entry, EntryKind};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are read at a time: a few chunks of the usual size.
const READ_BYTES: usize = 1024 * 1024;
/// What is read ahead: so many entries or pieces of [`READ_BYTES`].
const READ_AHEAD: usize = 8;

/// Local files and folder trees, as `ipfs add -r` walks them: in the order of their names, symbolic links as links.
///
/// Each path becomes a top-level entry with the name of the file or folder. Names that begin with a dot are left out
/// below folders, unless [`hidden`](Self::hidden) says otherwise. Each file says by its absolute path where it is.
/// Reading is done on the blocking pool, a few pieces ahead.
///
/// ```
/// use ipfs_cluster::adder::content::Files;
///
/// let content = Files::new(["photos"]).hidden(true);
/// # let _ = content;
/// ```
#[derive(Debug)]
pub struct Files {
    walk: Option<Walk>,
    pieces: Option<mpsc::Receiver<Result<Piece>>>,
    /// The entry that came while bytes were wanted.
    next: Option<Entry>,
    failed: bool,
}

/// What the walk finds.
#[derive(Debug)]
enum Piece {
    Entry(Entry),
    Bytes(Bytes),
}

#[derive(Debug, Default)]
struct Walk {
    paths: Vec<PathBuf>,
    hidden: bool,
    keep_mode: bool,
    keep_modified: bool,
}

impl Files {
    /// These files and folders, one after the other. They are looked at when the content is read.
    pub fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        let walk = Walk { paths: paths.into_iter().map(Into::into).collect(), ..Walk::default() };
        Self { walk: Some(walk), pieces: None, next: None, failed: false }
    }

    /// Whether names that begin with a dot are taken from folders. A path that is given is always taken.
    #[must_use]
    pub fn hidden(self, yes: bool) -> Self {
        self.with(|walk| walk.hidden = yes)
    }

    /// Whether permissions are kept, as by `ipfs add --preserve-mode`. CIDs depend on it. Nothing on systems without.
    #[must_use]
    pub fn keep_mode(self, yes: bool) -> Self {
        self.with(|walk| walk.keep_mode = yes)
    }

    /// Whether modification times are kept, as by `ipfs add --preserve-mtime`. CIDs depend on it.
    #[must_use]
    pub fn keep_modified(self, yes: bool) -> Self {
        self.with(|walk| walk.keep_modified = yes)
    }

    fn with(mut self, change: impl FnOnce(&mut Walk)) -> Self {
        self.walk.as_mut().map(change);
        self
    }

    async fn piece(&mut self) -> Result<Option<Piece>> {
        if self.failed {
            return Ok(None);
        }
        if let Some(walk) = self.walk.take() {
            let (send, receive) = mpsc::channel(READ_AHEAD);
            self.pieces = Some(receive);
            // Ends by itself soon after this content is dropped, because then nobody takes what it sends.
            drop(tokio::task::spawn_blocking(move || walk.run(&Out(send))));
        }
        let Some(pieces) = &mut self.pieces else { return Ok(None) };
        let piece = pieces.recv().await.transpose();
        self.failed = piece.is_err();
        piece
    }
}

#[async_trait]
impl Content for Files {
    async fn next(&mut self) -> Result<Option<Entry>> {
        if let Some(entry) = self.next.take() {
            return Ok(Some(entry));
        }
        loop {
            match self.piece().await? {
                Some(Piece::Entry(entry)) => return Ok(Some(entry)),
                Some(Piece::Bytes(_)) => {}
                None => return Ok(None),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.next.is_some() {
            return Ok(None);
        }
        match self.piece().await? {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::Entry(entry)) => {
                self.next = Some(entry);
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

/// Where pieces go.
struct Out(mpsc::Sender<Result<Piece>>);

/// Nobody wants more.
struct Stopped;

impl Out {
    fn send(&self, piece: Result<Piece>) -> std::result::Result<(), Stopped> {
        let is_error = piece.is_err();
        match self.0.blocking_send(piece) {
            Ok(()) if !is_error => Ok(()),
            _ => Err(Stopped),
        }
    }

    fn send_error(
        &self,
        doing: &str,
        path: &Path,
        source: std::io::Error,
    ) -> std::result::Result<(), Stopped> {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
            _ => ErrorKind::Io,
        };
        let message = format!("cannot {doing} {}: {source}", path.display());
        self.send(Err(Error::new(kind, message).component("files").with_source(source)))
    }

    fn refuse(&self, path: &Path, why: &str) -> std::result::Result<(), Stopped> {
        self.send(Err(
            Error::invalid_input(format!("cannot add {}: {why}", path.display())).component("files")
        ))
    }
}

impl Walk {
    fn run(mut self, out: &Out) {
        for path in std::mem::take(&mut self.paths) {
            if self.top(&path, out).is_err() {
                return;
            }
        }
    }

    fn top(&self, path: &Path, out: &Out) -> std::result::Result<(), Stopped> {
        let name = path.file_name().map(ToOwned::to_owned).or_else(|| {
            // `.` and `..` have a name elsewhere; the root of the file system has none anywhere.
            fs::canonicalize(path).ok()?.file_name().map(ToOwned::to_owned)
        });
        let Some(name) = name.as_ref().and_then(|name| name.to_str()) else {
            return match fs::symlink_metadata(path) {
                Err(source) => out.send_error("read", path, source),
                Ok(_) => out.refuse(path, "it has no name that is UTF-8"),
            };
        };
        self.tree(path.to_owned(), name.to_owned(), out)
    }

    /// A file or a folder with all that is in it. No recursion: folders may be deeper than a stack.
    fn tree(&self, path: PathBuf, name: String, out: &Out) -> std::result::Result<(), Stopped> {
        let mut open: Vec<(String, std::vec::IntoIter<DirEntry>)> = Vec::new();
        if let Some(entries) = self.entry(&path, name.clone(), out)? {
            open.push((name, entries));
        }
        while let Some((folder, entries)) = open.last_mut() {
            let Some(entry) = entries.next() else {
                open.pop();
                continue;
            };
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(ToOwned::to_owned) else {
                return out.refuse(&path, "its name is not UTF-8");
            };
            let name = format!("{folder}/{name}");
            if let Some(entries) = self.entry(&path, name.clone(), out)? {
                open.push((name, entries));
            }
        }
        Ok(())
    }

    /// Sends one entry, and the bytes of a file. What is in a folder comes back, sorted.
    fn entry(
        &self,
        path: &Path,
        name: String,
        out: &Out,
    ) -> std::result::Result<Option<std::vec::IntoIter<DirEntry>>, Stopped> {
        let about = match fs::symlink_metadata(path) {
            Ok(about) => about,
            Err(source) => return out.send_error("read", path, source).map(|()| None),
        };
        let mut entry = Entry {
            path: name,
            mode: self.keep_mode.then(|| mode(&about)).flatten(),
            modified: self.keep_modified.then(|| about.modified().ok().and_then(since_1970)).flatten(),
            ..Entry::default()
        };
        if about.is_dir() {
            entry.kind = EntryKind::Directory;
            out.send(Ok(Piece::Entry(entry)))?;
            return match self.entries(path) {
                Ok(entries) => Ok(Some(entries.into_iter())),
                Err(source) => out.send_error("list", path, source).map(|()| None),
            };
        }
        if about.is_symlink() {
            let target = match fs::read_link(path) {
                Ok(target) => target,
                Err(source) => return out.send_error("read", path, source).map(|()| None),
            };
            let Some(target) = target.to_str() else {
                return out.refuse(path, "it links to a path that is not UTF-8").map(|()| None);
            };
            entry.kind = EntryKind::Symlink(target.to_owned());
            out.send(Ok(Piece::Entry(entry)))?;
        } else if about.is_file() {
            entry.origin = std::path::absolute(path).ok().and_then(|path| Some(path.to_str()?.to_owned()));
            out.send(Ok(Piece::Entry(entry)))?;
            self.bytes(path, about.len(), out)?;
        } else {
            out.refuse(path, "it is no file, folder or symbolic link")?;
        }
        Ok(None)
    }

    fn entries(&self, path: &Path) -> std::io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if self.hidden || !entry.file_name().as_encoded_bytes().starts_with(b".") {
                entries.push(entry);
            }
        }
        entries.sort_by_key(DirEntry::file_name);
        Ok(entries)
    }

    fn bytes(&self, path: &Path, expected: u64, out: &Out) -> std::result::Result<(), Stopped> {
        let mut file = match fs::File::open(path) {
            Ok(file) => file,
            Err(source) => return out.send_error("open", path, source),
        };
        // One byte more than the file should have, so that its end is seen with the first read.
        let room =
            usize::try_from(expected.saturating_add(1)).map_or(READ_BYTES, |bytes| bytes.min(READ_BYTES));
        loop {
            let mut piece = BytesMut::zeroed(room);
            let mut filled = 0;
            while filled < room {
                match file.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(source) if source.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(source) => return out.send_error("read", path, source),
                }
            }
            piece.truncate(filled);
            if filled > 0 {
                out.send(Ok(Piece::Bytes(piece.freeze())))?;
            }
            if filled < room {
                return Ok(());
            }
        }
    }
}

#[cfg(unix)]
fn mode(about: &Metadata) -> Option<u32> {
    Some(std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o7777)
}

#[cfg(not(unix))]
fn mode(_: &Metadata) -> Option<u32> {
    None
}

/// Seconds, rounded down, and nanoseconds.
fn since_1970(time: SystemTime) -> Option<(i64, u32)> {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Some((i64::try_from(after.as_secs()).ok()?, after.subsec_nanos())),
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).ok()?;
            let nanoseconds = before.subsec_nanos();
            if nanoseconds == 0 {
                Some((seconds, 0))
            } else {
                Some((seconds - 1, 1_000_000_000 - nanoseconds))
            }
        }
    }
}
