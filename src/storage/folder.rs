//! The folder of a store on disk: who made it, who holds it, how full the disk is.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Says which engine made the folder, in which version of its layout.
const FORMAT_FILE: &str = "FORMAT";
/// The same while the store is being made: a folder with this one was never used.
const UNFINISHED_FORMAT_FILE: &str = "FORMAT.unfinished";
/// Held locked while the store is open.
const LOCK_FILE: &str = "store.lock";
/// How long a lock is waited for: a store that was just closed stays locked for an instant when this process is
/// starting another one, which holds a copy of every open file until it runs its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Written and removed again to see whether the disk takes anything.
#[cfg(feature = "storage-fjall")]
const PROBE_FILE: &str = "probe";
/// First word of a format file.
const FORMAT_MAGIC: &str = "ipfs-cluster-store";
/// A format file is one short line; no more than this is read of one, in bytes.
const FORMAT_BYTES_MAX: usize = 256;

/// How an engine is named in the format file, and how it lays out its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) engine: &'static str,
    pub(super) version: u32,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FORMAT_MAGIC} {} {}", self.engine, self.version)
    }
}

/// A folder that this process alone uses, until it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    component: &'static str,
    /// Whether it still has to be finished.
    new: bool,
    /// Unlocked when dropped.
    _lock: File,
}

impl Folder {
    /// Takes hold of the folder of a store, or makes one, which the caller has to [`Folder::finish`] when the engine
    /// has made its files.
    ///
    /// # Errors
    /// `Locked` when another process (or another handle in this one) has it, `Conflict` when another engine made it,
    /// `Unsupported` when a newer version did, `Corrupt` when it is not a store of ours, `Io`, `StorageFull`.
    pub(super) fn claim(path: &Path, layout: Layout, component: &'static str) -> Result<Self> {
        claim(path, layout, component).map_err(|error| error.component(component))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    /// Marks a new store as usable. On disk when it returns.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.new {
            let (from, to) = (self.path.join(UNFINISHED_FORMAT_FILE), self.path.join(FORMAT_FILE));
            fs::rename(&from, &to).map_err(|source| self.error("cannot finish the store", source))?;
            sync_folder(&self.path).map_err(|source| self.error("cannot finish the store", source))?;
            self.new = false;
        }
        Ok(())
    }

    /// Refuses with `StorageFull` when fewer than `reserve` bytes are free on the disk.
    pub(super) fn check_free(&self, reserve: u64) -> Result<()> {
        let free = free_bytes(&self.path)
            .map_err(|source| self.error("cannot tell how full the disk is", source))?;
        if free < reserve {
            return Err(Error::new(
                ErrorKind::StorageFull,
                format!(
                    "only {free} bytes are free on the disk of {}, and nothing is written with fewer than {reserve}: \
                     make room",
                    self.path.display()
                ),
            )
            .component(self.component));
        }
        Ok(())
    }

    /// Writes a little into the folder, to learn why an engine could not.
    #[cfg(feature = "storage-fjall")] // The other engine says why.
    pub(super) fn probe(&self) -> Result<()> {
        let path = self.path.join(PROBE_FILE);
        let written = fs::write(&path, [0xA5; 4_096]).and_then(|()| File::open(&path)?.sync_all());
        let removed = fs::remove_file(&path);
        written.and(removed).map_err(|source| self.error("cannot write", source))
    }

    /// Bytes that the files in the folder take on disk.
    pub(super) fn used_bytes(&self) -> Result<u64> {
        used_bytes(&self.path).map_err(|source| self.error("cannot tell the size of the store", source))
    }

    /// What was being done in this folder and failed.
    pub(super) fn error(&self, doing: &str, source: io::Error) -> Error {
        Error::io(format!("{doing} in {}", self.path.display()), source).component(self.component)
    }

    /// Data in this folder is not what it must be.
    pub(super) fn damaged(&self, what: impl fmt::Display) -> Error {
        damaged(&self.path, what).component(self.component)
    }
}

/// The error for data that is not what it must be: what, where, and the way out.
pub(super) fn damaged(path: &Path, what: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the store in {} is damaged ({what}): put a backup in its place, or move the folder away and start with \
             an empty one",
            path.display()
        ),
    )
}

fn claim(path: &Path, layout: Layout, component: &'static str) -> Result<Folder> {
    let shown = path.display();
    let failed = |source| Error::io(format!("cannot open the store in {shown}"), source);
    create_durably(path).map_err(failed)?;
    // Before anything is left in what may be somebody else's folder.
    if let Some(stranger) = find_stranger(path).map_err(failed)? {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{shown} is not a store of this program, it holds {stranger:?} but no {FORMAT_FILE} file: name an \
                 empty folder, or move this one away"
            ),
        ));
    }
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK_FILE))
        .map_err(failed)?;
    let mut patience = LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if patience.is_zero() => {
                return Err(Error::new(
                    ErrorKind::Locked,
                    format!("the store in {shown} is open in another process: stop that one first"),
                ));
            }
            Err(TryLockError::WouldBlock) => {
                let pause = patience.min(LOCK_PAUSE);
                std::thread::sleep(pause);
                patience -= pause;
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    let new = match read_start(&path.join(FORMAT_FILE)).map_err(failed)? {
        Some(text) => {
            check_format(&text, layout, path)?;
            false
        }
        None => {
            // Somebody began to make a store here and was stopped: nothing in it was ever promised to anybody.
            clear(path).map_err(failed)?;
            write_durably(path, UNFINISHED_FORMAT_FILE, &layout.to_string()).map_err(failed)?;
            true
        }
    };
    Ok(Folder { path: path.to_owned(), component, new, _lock: lock })
}

/// Compares what a format file says with what we can read.
fn check_format(text: &str, layout: Layout, path: &Path) -> Result<()> {
    let mut words = text.split_ascii_whitespace();
    let parsed = (words.next(), words.next(), words.next().and_then(|version| version.parse::<u32>().ok()));
    let (Some(FORMAT_MAGIC), Some(engine), Some(version)) = parsed else {
        return Err(damaged(path, format!("its {FORMAT_FILE} file is not readable")));
    };
    let shown = path.display();
    if engine != layout.engine {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the store in {shown} was made by {engine}, not by {}: open it with {engine}, or name another folder",
                layout.engine
            ),
        ));
    }
    if version > layout.version {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the store in {shown} has format {version}, and this version knows formats up to {}: use a newer \
                 version of this program",
                layout.version
            ),
        ));
    }
    Ok(())
}

/// The name of a file in a folder that no store of ours began with.
fn find_stranger(path: &Path) -> io::Result<Option<String>> {
    let mut stranger = None;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            FORMAT_FILE | UNFINISHED_FORMAT_FILE => return Ok(None),
            LOCK_FILE => {}
            _ => stranger = Some(name),
        }
    }
    Ok(stranger)
}

/// Removes what an unfinished store left behind.
fn clear(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // The marker goes last: as long as anything else is there, it says whose that is.
        if entry.file_name() == LOCK_FILE || entry.file_name() == UNFINISHED_FORMAT_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The beginning of a small text file; none when there is no such file.
fn read_start(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut start = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, FORMAT_BYTES_MAX as u64), &mut start)?;
    Ok(Some(String::from_utf8_lossy(&start).into_owned()))
}

fn write_durably(folder: &Path, name: &str, content: &str) -> io::Result<()> {
    let mut file = File::create(folder.join(name))?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    sync_folder(folder)
}

/// Makes a folder and what is missing above it, so that a power cut does not take it away again.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result?,
    }
    sync_folder(parent)
}

/// Makes what was created in, renamed into and removed from a folder survive a power cut.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    // Windows opens no folders, and needs no sync for their entries.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn used_bytes(path: &Path) -> io::Result<u64> {
    let mut used = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Engines delete files while we look.
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        used += if metadata.is_dir() {
            match used_bytes(&entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                used => used?,
            }
        } else {
            allocated_bytes(&metadata)
        };
    }
    Ok(used)
}

/// Engines make files longer than what is in them.
#[cfg(unix)]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    std::os::unix::fs::MetadataExt::blocks(metadata) * BLOCK_BYTES
}

#[cfg(not(unix))]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

#[cfg(unix)]
fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_path: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { engine: "fjall", version: 2 };

    fn claim_at(path: &Path) -> Result<Folder> {
        Folder::claim(path, LAYOUT, "test")
    }

    fn finished_at(path: &Path) {
        claim_at(path).unwrap().finish().unwrap();
    }

    #[test]
    fn a_folder_is_made_once_and_found_again() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/store");
        let mut folder = claim_at(&path).unwrap();
        assert!(folder.is_new());
        folder.finish().unwrap();
        drop(folder);
        assert!(!claim_at(&path).unwrap().is_new());
    }

    #[test]
    fn a_folder_in_use_is_locked_until_it_is_dropped() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = claim_at(temporary.path()).unwrap();
        let error = claim_at(temporary.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains(&temporary.path().display().to_string()), "{error}");
        drop(folder);
        claim_at(temporary.path()).unwrap();
    }

    #[test]
    fn what_an_unfinished_store_left_is_cleared_away() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = claim_at(temporary.path()).unwrap();
        fs::create_dir(temporary.path().join("keyspaces")).unwrap();
        fs::write(temporary.path().join("keyspaces/0"), "half").unwrap();
        fs::write(temporary.path().join("0.jnl"), "half").unwrap();
        drop(folder);
        assert!(claim_at(temporary.path()).unwrap().is_new());
        assert!(!temporary.path().join("keyspaces").exists());
        assert!(!temporary.path().join("0.jnl").exists());
    }

    #[test]
    fn a_strange_folder_is_refused_and_left_as_it_was() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("MANIFEST"), "badger").unwrap();
        let error = claim_at(temporary.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("MANIFEST"), "{error}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_format_file_decides_who_may_open_it() {
        let cases = [
            ("ipfs-cluster-store fjall 1\n", None),
            ("ipfs-cluster-store fjall 2\n", None),
            ("ipfs-cluster-store fjall 3\n", Some(ErrorKind::Unsupported)),
            ("ipfs-cluster-store redb 1\n", Some(ErrorKind::Conflict)),
            ("ipfs-cluster-store fjall\n", Some(ErrorKind::Corrupt)),
            ("ipfs-cluster-store fjall x\n", Some(ErrorKind::Corrupt)),
            ("something else", Some(ErrorKind::Corrupt)),
            ("", Some(ErrorKind::Corrupt)),
        ];
        for (content, expected) in cases {
            let temporary = tempfile::tempdir().unwrap();
            finished_at(temporary.path());
            fs::write(temporary.path().join(FORMAT_FILE), content).unwrap();
            assert_eq!(claim_at(temporary.path()).err().map(|error| error.kind()), expected, "{content:?}");
        }
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_an_error_that_names_it() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("store");
        fs::write(&path, "").unwrap();
        let error = claim_at(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }

    #[test]
    fn a_disk_with_less_than_the_reserve_free_is_full() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = claim_at(temporary.path()).unwrap();
        folder.check_free(1).unwrap();
        if cfg!(unix) {
            assert_eq!(folder.check_free(u64::MAX).unwrap_err().kind(), ErrorKind::StorageFull);
        }
    }
}
