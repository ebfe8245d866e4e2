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
    walk: Walk,
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

#[derive(Clone, Debug, Default)]
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
        Self { walk, pieces: None, next: None, failed: false }
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
        change(&mut self.walk);
        self
    }

    async fn piece(&mut self) -> Result<Option<Piece>> {
        if self.failed {
            return Ok(None);
        }
        let pieces = self.pieces.get_or_insert_with(|| {
            let (send, receive) = mpsc::channel(READ_AHEAD);
            let walk = self.walk.clone();
            // Ends by itself soon after this content is dropped, because then nobody takes what it sends.
            drop(tokio::task::spawn_blocking(move || walk.run(&Out(send))));
            receive
        });
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

    fn rewind(&mut self) -> bool {
        (self.pieces, self.next, self.failed) = (None, None, false);
        true
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
        let mut room =
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
            // It has grown, or does not say how large it is.
            room = READ_BYTES;
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

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn all(mut files: Files) -> Result<Vec<(String, EntryKind, usize)>> {
        let mut found = Vec::new();
        while let Some(entry) = files.next().await? {
            let mut bytes = 0;
            while let Some(piece) = files.read().await? {
                assert!(!piece.is_empty());
                bytes += piece.len();
            }
            found.push((entry.path, entry.kind, bytes));
        }
        Ok(found)
    }

    #[tokio::test]
    async fn a_tree_is_walked_in_the_order_of_names_and_hidden_ones_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("t/b/empty")).unwrap();
        fs::create_dir_all(path("t/.git")).unwrap();
        fs::write(path("t/.git/config"), "x").unwrap();
        fs::write(path("t/b.txt"), vec![7; 3 * READ_BYTES]).unwrap();
        fs::write(path("t/Z"), vec![7; READ_BYTES - 1]).unwrap();
        fs::write(path("t/a"), "").unwrap();
        symlink("b/empty", path("t/b/link")).unwrap();
        let found = all(Files::new([path("t")])).await.unwrap();
        let expected = [
            ("t", EntryKind::Directory, 0),
            ("t/Z", EntryKind::File, READ_BYTES - 1),
            ("t/a", EntryKind::File, 0),
            ("t/b", EntryKind::Directory, 0),
            ("t/b/empty", EntryKind::Directory, 0),
            ("t/b/link", EntryKind::Symlink("b/empty".into()), 0),
            ("t/b.txt", EntryKind::File, 3 * READ_BYTES),
        ];
        assert_eq!(found, expected.map(|(path, kind, bytes)| (path.to_owned(), kind, bytes)));
        let hidden = all(Files::new([path("t")]).hidden(true)).await.unwrap();
        assert_eq!(hidden[1].0, "t/.git");
        assert_eq!(all(Files::new([path("t/.git")])).await.unwrap()[1].0, ".git/config");
    }

    #[tokio::test]
    async fn what_is_not_read_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(folder.path().join(name), vec![1; 20 * READ_BYTES]).unwrap();
        }
        let mut files = Files::new(["a", "b"].map(|name| folder.path().join(name)));
        assert_eq!(files.next().await.unwrap().unwrap().path, "a");
        assert!(files.read().await.unwrap().is_some());
        let b = files.next().await.unwrap().unwrap();
        assert_eq!(b.path, "b");
        assert_eq!(b.origin.as_deref(), folder.path().join("b").to_str());
        assert!(files.next().await.unwrap().is_none());
        assert!(files.read().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_added_is_an_error_that_names_it_and_ends_the_walk() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let mut files = Files::new([missing.clone(), folder.path().to_owned()]);
        let error = files.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
        assert!(files.next().await.unwrap().is_none());

        fs::write(folder.path().join(OsStr::from_bytes(b"\xff")), "").unwrap();
        let error = all(Files::new([folder.path()])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().ends_with("its name is not UTF-8"), "{error}");

        let socket = folder.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = all(Files::new([socket])).await.unwrap_err();
        assert!(error.to_string().ends_with("it is no file, folder or symbolic link"), "{error}");
        assert!(all(Files::new(["/"])).await.unwrap_err().to_string().contains("it has no name"));
    }

    #[test]
    fn times_before_1970_round_down() {
        let before = |nanoseconds| UNIX_EPOCH - std::time::Duration::from_nanos(nanoseconds);
        assert_eq!(since_1970(before(1)), Some((-1, 999_999_999)));
        assert_eq!(since_1970(before(2_000_000_000)), Some((-2, 0)));
        assert_eq!(since_1970(UNIX_EPOCH), Some((0, 0)));
    }
}
