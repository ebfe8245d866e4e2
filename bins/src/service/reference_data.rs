//! Data of a Go peer in the folder, which this program does not read.

use std::fs;
use std::path::{Path, PathBuf};

use ipfs_cluster::config::ServiceJson;
use ipfs_cluster::config::kept::REFERENCE_STORES;
use ipfs_cluster::{Error, ErrorKind};

use super::folder::{Folder, PROGRAM};

/// A folder with the pinset of a Go peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceData {
    /// Where it is.
    pub path: PathBuf,
    /// Of which kind: `pebble`, `badger`, `badger3`, `leveldb`, `raft`.
    pub kind: &'static str,
}

/// The first store of a Go peer that has anything in it, where the file says or where it is by default.
pub fn find(folder: &Folder, file: &ServiceJson) -> Option<ReferenceData> {
    let at = |path: PathBuf, kind| has_content(&path).then_some(ReferenceData { path, kind });
    REFERENCE_STORES.iter().find_map(|&(section, key, default)| {
        let named = file.section(section).ok().flatten();
        let named = named.as_ref().and_then(|section| section.get(key)?.as_str());
        // An absolute path stays what it is.
        let named =
            named.filter(|name| !name.is_empty()).and_then(|name| at(folder.path().join(name), default));
        named.or_else(|| at(folder.path().join(default), default))
    })
}

impl ReferenceData {
    /// Why nothing is done on it, and what to do.
    pub fn refusal(&self) -> Error {
        let (path, kind) = (self.path.display(), self.kind);
        Error::new(
            ErrorKind::Conflict,
            format!(
                "{path} holds the pinset of a Go peer ({kind}), which this program does not read. To move the pinset: \
                 run \"{PROGRAM} state export -f pins.json\" with the Go program and \"{PROGRAM} state import \
                 pins.json\" with this one; {path} is left as it is. If other peers of the cluster have the pinset, \
                 this peer can get it from them: move {path} away and start again"
            ),
        )
    }
}

/// A folder that cannot be read may have anything in it.
fn has_content(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_of_the_reference_are_found_where_they_are_if_there_is_anything_in_them() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(temporary.path())).unwrap();
        let file = ServiceJson::parse(r#"{"datastore": {"badger3": {"folder": "elsewhere"}}}"#).unwrap();
        assert_eq!(find(&folder, &file), None);
        for kind in ["pebble", "badger", "badger3", "leveldb", "raft"] {
            let path = temporary.path().join(kind);
            fs::create_dir(&path).unwrap();
            assert_eq!(find(&folder, &file), None, "{kind} is empty");
            fs::write(path.join("CURRENT"), "x").unwrap();
            let found = find(&folder, &file).unwrap();
            assert_eq!((found.kind, &found.path), (kind, &path));
            fs::remove_dir_all(&path).unwrap();
        }
        let path = temporary.path().join("elsewhere");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("MANIFEST"), "x").unwrap();
        let refusal = find(&folder, &file).unwrap().refusal().to_string();
        assert!(refusal.contains("elsewhere") && refusal.contains("badger3"), "{refusal}");
    }
}
