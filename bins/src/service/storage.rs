//! The store of a peer, on the engine that its configuration names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipfs_cluster::config::StorageEngine;
use ipfs_cluster::storage::{FjallConfig, FjallStorage, RedbConfig, RedbStorage, Storage};
use ipfs_cluster::{Error, Result};

use super::config::PeerConfig;

/// Most stores that are put aside, whatever the configuration says.
const BACKUPS_MAX: usize = 1000;

/// Where the store is.
pub fn folder(config: &PeerConfig) -> PathBuf {
    config.folder.path().join(config.consensus.folder())
}

/// Opens the store, making it when there is none. A replacement that was interrupted is finished or undone first.
///
/// # Errors
/// Naming the folder: `Locked`, `Corrupt`, `StorageFull`, `Io`.
pub fn open(config: &PeerConfig) -> Result<Arc<dyn Storage>> {
    open_folder(&folder(config), config.consensus.storage())
}

/// Opens the store of a folder.
///
/// # Errors
/// As [`open`].
pub fn open_folder(folder: &Path, engine: StorageEngine) -> Result<Arc<dyn Storage>> {
    Replacement::of(folder).settle()?;
    open_at(engine, folder)
}

/// Whether there is a store, or the replacement of one that was interrupted.
pub fn exists(folder: &Path) -> bool {
    folder.exists() || Replacement::of(folder).old.exists()
}

/// Refuses to begin an empty pinset beside the one of a Go peer, which would look as if that was lost.
///
/// # Errors
/// `Conflict` with the way out, when there is one of a Go peer and none of ours.
pub fn refuse_reference_data(config: &PeerConfig) -> Result<()> {
    let folder = folder(config);
    Replacement::of(&folder).settle()?;
    match &config.reference_data {
        Some(data) if !folder.exists() => Err(data.refusal()),
        _ => Ok(()),
    }
}

fn open_at(engine: StorageEngine, folder: &Path) -> Result<Arc<dyn Storage>> {
    Ok(match engine {
        StorageEngine::Fjall => Arc::new(FjallStorage::open(folder, FjallConfig::default())?),
        StorageEngine::Redb => Arc::new(RedbStorage::open(folder, RedbConfig::default())?),
    })
}

/// A store that is made beside the one in use, to take its place whole.
#[derive(Debug)]
pub struct Replacement {
    current: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Replacement {
    fn of(current: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = current.file_name().unwrap_or_default().to_owned();
            name.push(suffix);
            current.with_file_name(name)
        };
        Self { current: current.to_owned(), new: beside(".new"), old: beside(".old") }
    }

    /// Begins an empty store beside the one in use. What an earlier attempt left is removed.
    ///
    /// # Errors
    /// As [`open`].
    pub fn begin(config: &PeerConfig) -> Result<(Self, Arc<dyn Storage>)> {
        let replacement = Self::of(&folder(config));
        replacement.settle()?;
        let storage = open_at(config.consensus.storage(), &replacement.new)?;
        Ok((replacement, storage))
    }

    /// Puts the new store, which must be closed, in the place of the old one, and removes that.
    ///
    /// # Errors
    /// `Io`; then the old store is there still, or is put back by the next [`open`].
    pub fn finish(self) -> Result<()> {
        self.exchange()?;
        remove(&self.old)
    }

    /// The same, but the old store is put aside, see [`put_aside`]. Says where, if there was one.
    ///
    /// # Errors
    /// `Io`; then the old store is there still, or is put back by the next [`open`], unless the new one took its place.
    pub fn finish_keeping(self, kept: usize) -> Result<Option<PathBuf>> {
        self.exchange()?;
        if self.old.exists() { add_to_kept(&self.old, &self.current, kept).map(Some) } else { Ok(None) }
    }

    fn exchange(&self) -> Result<()> {
        if self.current.exists() {
            rename(&self.current, &self.old)?;
        }
        rename(&self.new, &self.current)
    }

    /// Removes the new store.
    ///
    /// # Errors
    /// `Io`.
    pub fn abandon(self) -> Result<()> {
        remove(&self.new)
    }

    /// Brings the folders of an interrupted replacement in order: one store, the old one unless the new one was whole.
    fn settle(&self) -> Result<()> {
        if self.old.exists() && !self.current.exists() {
            // It ended between the two renames: the new one is whole where it still is.
            let whole = if self.new.exists() { &self.new } else { &self.old };
            rename(whole, &self.current)?;
        }
        remove(&self.old)?;
        remove(&self.new)
    }
}

/// A store for what is on its way elsewhere, beside the one in use.
#[derive(Debug)]
pub struct Staging(PathBuf);

impl Staging {
    /// Begins an empty one. What an earlier one left is removed.
    ///
    /// # Errors
    /// As [`open`].
    pub fn begin(config: &PeerConfig) -> Result<(Self, Arc<dyn Storage>)> {
        let mut path = folder(config).into_os_string();
        path.push(".import");
        let staging = Self(path.into());
        remove(&staging.0)?;
        let storage = open_at(config.consensus.storage(), &staging.0)?;
        Ok((staging, storage))
    }

    /// Removes the store, which must be closed.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(self) -> Result<()> {
        remove(&self.0)
    }
}

/// Renames a store to `<folder>.old.0`, after renaming those before it to the next number, and removes what is more than
/// that many. Without a store nothing happens.
///
/// # Errors
/// `Io`.
pub fn put_aside(folder: &Path, kept: usize) -> Result<Option<PathBuf>> {
    Replacement::of(folder).settle()?;
    if folder.exists() { add_to_kept(folder, folder, kept).map(Some) } else { Ok(None) }
}

/// Makes a store the newest of those that are kept of a folder, and says where it is then.
fn add_to_kept(store: &Path, folder: &Path, kept: usize) -> Result<PathBuf> {
    let old = |number: usize| {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(format!(".old.{number}"));
        folder.with_file_name(name)
    };
    let kept = kept.clamp(1, BACKUPS_MAX);
    // From the first number that is free, so that nothing is removed while there is room.
    let free = (0..kept).find(|number| !old(*number).exists()).unwrap_or(kept - 1);
    remove(&old(free))?;
    for number in (0..free).rev() {
        rename(&old(number), &old(number + 1))?;
    }
    let newest = old(0);
    rename(store, &newest)?;
    Ok(newest)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    let failed = |source| Error::io(format!("renaming {} to {}", from.display(), to.display()), source);
    std::fs::rename(from, to).map_err(failed)?;
    // The names are in the folder, which has to be on disk as well.
    let parent = to.parent().unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(path: &Path, what: &str) {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("content"), what).unwrap();
    }

    fn content(path: &Path) -> String {
        std::fs::read_to_string(path.join("content")).unwrap()
    }

    #[test]
    fn a_replacement_takes_the_place_of_the_old_store() {
        let folder = tempfile::tempdir().unwrap();
        let replacement = Replacement::of(&folder.path().join("fjall"));
        for (what, before) in [("first", None), ("second", Some("first"))] {
            if let Some(before) = before {
                assert_eq!(content(&replacement.current), before);
            }
            store(&replacement.new, what);
            Replacement::of(&folder.path().join("fjall")).finish().unwrap();
            assert_eq!(content(&replacement.current), what);
            assert!(!replacement.new.exists() && !replacement.old.exists());
        }
    }

    #[test]
    fn stores_are_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join("fjall");
        assert_eq!(put_aside(&current, 2).unwrap(), None, "there is none");
        for what in ["first", "second", "third"] {
            store(&current, what);
            assert_eq!(put_aside(&current, 2).unwrap(), Some(folder.path().join("fjall.old.0")));
            assert!(!current.exists());
            assert_eq!(content(&folder.path().join("fjall.old.0")), what);
        }
        assert_eq!(content(&folder.path().join("fjall.old.1")), "second");
        assert!(!folder.path().join("fjall.old.2").exists());
    }

    #[test]
    fn a_store_that_is_replaced_can_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join("fjall");
        let replacement = || Replacement::of(&current);
        store(&replacement().new, "first");
        assert_eq!(replacement().finish_keeping(2).unwrap(), None, "there was none");
        for (before, what) in [("first", "second"), ("second", "third")] {
            store(&replacement().new, what);
            let kept = replacement().finish_keeping(2).unwrap().unwrap();
            assert_eq!(kept, folder.path().join("fjall.old.0"));
            assert_eq!((content(&current).as_str(), content(&kept).as_str()), (what, before));
            assert!(!replacement().old.exists() && !replacement().new.exists());
        }
        assert_eq!(content(&folder.path().join("fjall.old.1")), "first");
    }

    #[test]
    fn an_interrupted_replacement_leaves_one_whole_store() {
        // Which folders are there, and whose content is in use afterwards.
        for (current, new, old, expected) in [
            (true, true, false, "current"),
            (false, true, true, "new"),
            (true, false, true, "current"),
            (false, false, true, "old"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let replacement = Replacement::of(&folder.path().join("fjall"));
            for (there, path, what) in [
                (current, &replacement.current, "current"),
                (new, &replacement.new, "new"),
                (old, &replacement.old, "old"),
            ] {
                if there {
                    store(path, what);
                }
            }
            replacement.settle().unwrap();
            assert_eq!(content(&replacement.current), expected);
            assert!(!replacement.new.exists() && !replacement.old.exists());
        }
    }
}
