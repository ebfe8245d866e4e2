//! One process for each configuration folder: `cluster.lock`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::file;
use crate::error::{Error, ErrorKind, Result};

/// The lock's file in the configuration folder.
pub const LOCK_FILE: &str = "cluster.lock";

/// How often a lock is tried again because its file was removed meanwhile by one that ended.
const ATTEMPTS_MAX: u32 = 16;

/// Holds a configuration folder. Dropping it removes the file and lets the next one in; when the process dies
/// the file stays, and the lock does not.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    // Closing it is what gives the lock up.
    file: File,
}

impl FolderLock {
    /// Locks a folder, creating it if need be, without waiting. `program` is who asks, for the error's text.
    ///
    /// # Errors
    /// `Locked` if another process, or this one, holds it; `Io` if the folder cannot be written. Both with the
    /// reference's text, which says what to do.
    pub fn acquire(folder: &Path, program: &str) -> Result<Self> {
        Self::acquire_also(folder, program, &|_| Ok(true))
    }

    /// Like [`acquire`](Self::acquire), and takes a lock of another kind on the same file: for programs that share
    /// their folder with some that use that kind. `also` says whether it got it, without waiting.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire). The file is left alone then.
    pub fn acquire_also(
        folder: &Path,
        program: &str,
        also: &dyn Fn(&File) -> io::Result<bool>,
    ) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let locked = file::create_folder(folder).and_then(|()| lock(&path, also));
        locked.map(|file| Self { path: path.clone(), file }).map_err(|error| {
            let path = path.display();
            Error::new(
                error.kind(),
                format!(
                    "{error}. If no other {program} process is running, remove {path}, or make sure that the \
                     config folder is writable for the user running {program}."
                ),
            )
            .component("config")
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Before the lock is given up, so that it is never somebody else's file that goes; unless ours was removed
        // by hand already.
        if !is_still_at(&self.file, &self.path).unwrap_or(false) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the lock file could not be removed");
        }
    }
}

fn lock(path: &Path, also: &dyn Fn(&File) -> io::Result<bool>) -> Result<File> {
    for _ in 0..ATTEMPTS_MAX {
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, file::MODE_SHARED);
        let handle = options.open(path).map_err(|source| file::failed("open", path, source))?;
        let failed = |source| file::failed("lock", path, source);
        match handle.try_lock() {
            Ok(()) if !also(&handle).map_err(failed)? => return Err(held(path)),
            Ok(()) if is_still_at(&handle, path).map_err(failed)? => return Ok(handle),
            // Its last owner removed the file after we opened it: what we locked has no name any more.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(path)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    Err(held(path))
}

fn held(path: &Path) -> Error {
    Error::new(ErrorKind::Locked, format!("lock {}: someone else has the lock", path.display()))
}

#[cfg(unix)]
fn is_still_at(handle: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let ours = handle.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_still_at(_: &File, _: &Path) -> io::Result<bool> {
    // An open file cannot be removed here.
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_who_asks_is_refused_with_the_text_of_the_reference() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::acquire(folder.path(), "ipfs-cluster-service").unwrap();
        let refused = FolderLock::acquire(folder.path(), "ipfs-cluster-service").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        let path = held.path().display();
        assert_eq!(
            refused.to_string(),
            format!(
                "lock {path}: someone else has the lock. If no other ipfs-cluster-service process is running, \
                 remove {path}, or make sure that the config folder is writable for the user running \
                 ipfs-cluster-service."
            )
        );
    }

    #[test]
    fn a_lock_that_was_given_up_leaves_no_file_and_can_be_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("not/there/yet");
        drop(FolderLock::acquire(&inner, "x").unwrap());
        assert!(!inner.join(LOCK_FILE).exists());
        drop(FolderLock::acquire(&inner, "x").unwrap());
    }

    #[test]
    fn a_lock_of_another_kind_that_is_held_counts_and_its_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        fs::write(&path, "").unwrap();
        let refused = FolderLock::acquire_also(folder.path(), "x", &|_| Ok(false)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        assert!(path.exists());
        FolderLock::acquire_also(folder.path(), "x", &|_| Ok(true)).unwrap();
    }

    #[test]
    fn a_file_left_by_a_process_that_died_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LOCK_FILE), "").unwrap();
        FolderLock::acquire(folder.path(), "x").unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_on_a_removed_file_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        let stale = File::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!is_still_at(&stale, &path).unwrap());
        File::create(&path).unwrap();
        assert!(!is_still_at(&stale, &path).unwrap());
    }

    #[test]
    fn many_who_race_are_never_two_at_a_time() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 600 {
                        if let Ok(_lock) = FolderLock::acquire(folder.path(), "x") {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            // Long enough for others to come in, if they could.
                            (0..20).for_each(|_| std::thread::yield_now());
                            taken.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                        std::thread::yield_now();
                    }
                });
            }
        });
    }
}
