//! The pinset of a peer that does not run: export, import, cleanup. Whoever calls holds the folder's lock.

use std::io::Write;
use std::sync::Arc;

use futures::StreamExt as _;
use ipfs_cluster::state::lines::{self, export_lines, import_lines};
use ipfs_cluster::state::{StateQuery, StoreState};
use ipfs_cluster::storage::Storage;
use ipfs_cluster::types::PeerId;
use ipfs_cluster::{Error, Result};
use tokio::io::AsyncRead;
use tracing::info;

use super::config::PeerConfig;
use super::storage;

/// Pins between two lines that tell how far an import is.
const PROGRESS_PINS: u64 = 1_000_000;

/// What an import changes in every pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Replaces `replication_factor_min` if positive.
    pub replication_min: i32,
    /// Replaces `replication_factor_max` if positive.
    pub replication_max: i32,
    /// Replaces the allocations unless empty.
    pub allocations: Vec<PeerId>,
}

/// Writes every pin as one line of JSON, and says how many bytes that were. Flushing is up to the caller.
///
/// # Errors
/// Of the storage or the writer.
pub async fn export(config: &PeerConfig, to: &mut (dyn Write + Send)) -> Result<u64> {
    let (storage, state) = open(config).await?;
    let mut bytes = 0;
    let mut pages = export_lines(&state, StateQuery::default());
    while let Some(page) = pages.next().await {
        let page = page?;
        to.write_all(&page).map_err(|source| Error::io("writing the export", source))?;
        bytes += page.len() as u64;
    }
    drop(pages);
    storage.close()?;
    Ok(bytes)
}

/// Replaces the pinset by the pins of a stream of JSON documents, and says how many. Returns once they are on
/// disk; after any error the old pinset is there.
///
/// # Errors
/// Of the storage or the reader; `InvalidInput` naming the document that is wrong.
pub async fn import(
    config: &PeerConfig,
    from: impl AsyncRead + Send + Unpin + 'static,
    options: &ImportOptions,
) -> Result<u64> {
    let (storage, state) = open(config).await?;
    let positive = |factor: i32| (factor > 0).then_some(factor);
    let mut changes = lines::ImportOptions::default();
    changes.replication_factor_min = positive(options.replication_min);
    changes.replication_factor_max = positive(options.replication_max);
    changes.allocations.clone_from(&options.allocations);
    let progress = |read: u64| {
        if read > 0 && read.is_multiple_of(PROGRESS_PINS) {
            info!("{read} pins read");
        }
    };
    let pins = import_lines(&state, from, changes, Arc::new(progress)).await?;
    storage.close()?;
    Ok(pins)
}

/// Removes what the consensus component has on disk, the pinset included.
///
/// # Errors
/// Of the file system, naming the folder.
pub async fn cleanup(config: &PeerConfig) -> Result<()> {
    // By its files, so that a store too damaged to be opened can be cleaned up too.
    let folder = storage::folder(config);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

async fn open(config: &PeerConfig) -> Result<(Arc<dyn Storage>, StoreState)> {
    let storage = storage::open(config)?;
    // Beside the store, because the system's temporary folder may be small, or memory.
    let state = StoreState::open_with_spool_folder(Arc::clone(&storage), config.folder.path()).await?;
    Ok((storage, state))
}
