//! The pinset of a follower that does not run.

use std::path::PathBuf;
use std::sync::Arc;

use ipfs_cluster::config::{Environment, ServiceJson, StorageEngine};
use ipfs_cluster::consensus::CrdtSection;
use ipfs_cluster::state::StoreState;
use ipfs_cluster::storage::Storage;
use ipfs_cluster::{Error, ErrorKind, Result};

use super::folder::FollowerFolder;
use super::template;
use crate::service::reference_data::{self, ReferenceData};
use crate::service::storage;

/// What a follower's folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// No pinset yet.
    Nothing,
    /// One of ours.
    Ours(StorageEngine, PathBuf),
    /// One of a Go peer, and none of ours.
    Reference(ReferenceData),
}

/// An open store with its pinset. Whoever has it holds the folder's lock.
#[derive(Debug)]
pub struct OpenPinset {
    /// The pinset.
    pub state: StoreState,
    storage: Arc<dyn Storage>,
}

impl OpenPinset {
    /// Closes the store.
    ///
    /// # Errors
    /// Of the storage.
    pub fn close(self) -> Result<()> {
        self.storage.close()
    }
}

/// Looks at the folders. Where there are stores of several engines, what is known of the configuration decides.
///
/// # Errors
/// `Conflict` when nothing does; of files that cannot be read.
pub fn find(follower: &FollowerFolder, environment: Environment<'_>) -> Result<Stored> {
    let known = template::known(follower, &template::local(follower)?);
    let read = |file: &ServiceJson| file.read::<CrdtSection>(environment).map(|loaded| loaded.section).ok();
    if let Some(section) = known.as_ref().and_then(read) {
        let path = follower.path().join(section.folder());
        if storage::exists(&path) {
            return Ok(Stored::Ours(section.storage, path));
        }
    }
    let present = [StorageEngine::Fjall, StorageEngine::Redb]
        .map(|engine| (engine, follower.path().join(engine.as_str())))
        .into_iter()
        .filter(|(_, path)| storage::exists(path));
    match &present.collect::<Vec<_>>()[..] {
        [(engine, path)] => Ok(Stored::Ours(*engine, path.clone())),
        [(_, one), (_, other), ..] => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "found both {} and {}, and no copy of the configuration says which is in use: move the other away",
                one.display(),
                other.display()
            ),
        )),
        [] => Ok(match reference_data::find(follower.folder(), &known.unwrap_or_default()) {
            Some(data) => Stored::Reference(data),
            None => Stored::Nothing,
        }),
    }
}

/// Opens the pinset; none where there is none, and nothing is made then.
///
/// # Errors
/// As [`find`] and of the storage; `Conflict` where a Go peer has the only one.
pub async fn open(follower: &FollowerFolder, environment: Environment<'_>) -> Result<Option<OpenPinset>> {
    match find(follower, environment)? {
        Stored::Nothing => Ok(None),
        Stored::Reference(data) => Err(refusal(follower, &data)),
        Stored::Ours(engine, path) => {
            let storage = storage::open_folder(&path, engine)?;
            let state = StoreState::open_with_spool_folder(Arc::clone(&storage), follower.path()).await?;
            Ok(Some(OpenPinset { state, storage }))
        }
    }
}

fn refusal(follower: &FollowerFolder, data: &ReferenceData) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "{} holds the pinset of a Go peer ({}), which this program does not read: \"{} {} run\" gets it from the \
             peers of the cluster",
            data.path.display(),
            data.kind,
            super::PROGRAM,
            follower.name()
        ),
    )
}
