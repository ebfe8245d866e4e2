//! The store of a peer, on the engine that its configuration names.

use std::path::PathBuf;
use std::sync::Arc;

use ipfs_cluster::Result;
use ipfs_cluster::config::StorageEngine;
use ipfs_cluster::storage::{FjallConfig, FjallStorage, RedbConfig, RedbStorage, Storage};

use super::config::PeerConfig;

/// Where the store is.
pub fn folder(config: &PeerConfig) -> PathBuf {
    config.folder.path().join(config.solo.folder())
}

/// Opens the store, making it when there is none.
///
/// # Errors
/// Naming the folder: `Locked`, `Corrupt`, `StorageFull`, `Io`.
pub fn open(config: &PeerConfig) -> Result<Arc<dyn Storage>> {
    let folder = folder(config);
    Ok(match config.solo.storage {
        StorageEngine::Fjall => Arc::new(FjallStorage::open(folder, FjallConfig::default())?),
        StorageEngine::Redb => Arc::new(RedbStorage::open(folder, RedbConfig::default())?),
    })
}
