//! Where a peer's files are.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ipfs_cluster::config::FolderLock;
use ipfs_cluster::{Error, ErrorKind, Result};

/// Name of the program of single peers, in texts that tell the user what to run.
pub const PROGRAM: &str = "ipfs-cluster-service";

/// The folder in the home folder, unless another is named.
const DEFAULT_FOLDER: &str = ".ipfs-cluster";

/// A configuration folder. Its path is absolute; it need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
    program: &'static str,
}

impl Folder {
    /// The named folder, or the default in the home folder. A name that is empty counts as none.
    ///
    /// # Errors
    /// `NotFound` if there is neither a name nor a home folder; `Io` if the working folder is gone.
    pub fn locate(named: Option<&Path>) -> Result<Self> {
        Ok(Self { path: locate(named, DEFAULT_FOLDER)?, program: PROGRAM })
    }

    /// A folder of another program; its path must be absolute.
    pub fn of(program: &'static str, path: PathBuf) -> Self {
        Self { path, program }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// `service.json`.
    pub fn service_json(&self) -> PathBuf {
        self.path.join("service.json")
    }

    /// `identity.json`.
    pub fn identity_json(&self) -> PathBuf {
        self.path.join("identity.json")
    }

    /// Keeps other processes out until it is dropped, also those of the reference. Creates the folder.
    ///
    /// # Errors
    /// See [`FolderLock::acquire`].
    pub fn lock(&self) -> Result<FolderLock> {
        FolderLock::acquire_also(&self.path, self.program, &lock_as_the_reference)
    }
}

/// The reference uses record locks, which know nothing of the other kind. Without this, a peer started on the folder
/// of a running Go peer would come up, fail on its ports and take the Go peer's lock file with it.
#[cfg(unix)]
fn lock_as_the_reference(file: &File) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, fcntl_lock};
    use rustix::io::Errno;
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(unix))]
fn lock_as_the_reference(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// The folder that is used when none is named.
pub fn default_path() -> Option<PathBuf> {
    in_home(DEFAULT_FOLDER)
}

fn in_home(name: &str) -> Option<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(name))
}

/// The named folder, or that of this name in the home folder, as an absolute path. A name that is empty counts as none.
///
/// # Errors
/// As [`Folder::locate`].
pub fn locate(named: Option<&Path>, default: &str) -> Result<PathBuf> {
    let path = match named.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => path.to_owned(),
        None => in_home(default).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "there is no home folder: name the configuration folder with --config",
            )
        })?,
    };
    std::path::absolute(&path).map_err(|source| Error::io(format!("finding {}", path.display()), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_name_becomes_absolute_and_an_empty_one_is_none() {
        let folder = Folder::locate(Some(Path::new("x"))).unwrap();
        assert!(folder.path().is_absolute() && folder.service_json().ends_with("x/service.json"));
        assert_eq!(
            Folder::locate(Some(Path::new(""))).map(|folder| folder.path).ok(),
            Folder::locate(None).map(|folder| folder.path).ok()
        );
    }
}
