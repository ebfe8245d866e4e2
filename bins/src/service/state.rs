//! The pinset of a peer that does not run: export, import, cleanup. Whoever calls holds the folder's lock.

use std::io::Write;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{
    BatchingConfig, Consensus as _, ConsensusContext, Crdt, CrdtConfig, CrdtInfo, CrdtSection, CrdtStore,
};
use ipfs_cluster::exchange::{ExchangeMaker, StreamExchange};
use ipfs_cluster::state::lines::{self, export_lines, import_lines};
use ipfs_cluster::state::{State, StateQuery, StateReader as _, StoreState};
use ipfs_cluster::storage::Storage;
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::{PeerId, Pin, PinOperation};
use ipfs_cluster::{Error, Result};
use tokio::io::AsyncRead;
use tracing::info;

use super::config::{ConsensusSection, PeerConfig};
use super::storage::{self, Replacement};

/// Pins between two lines that tell how far an import is.
const PROGRESS_PINS: u64 = 1_000_000;
/// Pins that are logged as one batch; the consensus component makes deltas of it.
const IMPORT_BATCH: usize = 16_384;

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
/// Of the storage or the writer; `Conflict` where the only pinset is one of a Go peer.
pub async fn export(config: &PeerConfig, to: &mut (dyn Write + Send)) -> Result<u64> {
    storage::refuse_reference_data(config)?;
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
    match &config.consensus {
        ConsensusSection::Solo(_) => {
            let (storage, state) = open(config).await?;
            let pins = import_lines(&state, from, changes, Arc::new(progress)).await?;
            storage.close()?;
            Ok(pins)
        }
        ConsensusSection::Crdt(section) => {
            // A new history in a new store, so that the old one is whole until the new one is.
            let (replacement, storage) = Replacement::begin(config)?;
            let imported =
                log_all(config, section, Arc::clone(&storage), lines::parse_lines(from, changes)).await;
            let closed = storage.close();
            match imported.and_then(|pins| closed.map(|()| pins)) {
                Ok(pins) => replacement.finish().map(|()| pins),
                Err(error) => {
                    replacement.abandon()?;
                    Err(error)
                }
            }
        }
    }
}

/// Logs pins through a consensus component that speaks to nobody, and says how many there are in the end.
async fn log_all(
    config: &PeerConfig,
    section: &CrdtSection,
    storage: Arc<dyn Storage>,
    mut pins: BoxStream<'static, Result<Vec<Pin>>>,
) -> Result<u64> {
    let peer = config.identity.id();
    let state: Arc<dyn State> =
        Arc::new(StoreState::open_with_spool_folder(Arc::clone(&storage), config.folder.path()).await?);
    let nowhere = Arc::new(MemoryNetwork::new(0).join(peer)?);
    let mut cx = ConsensusContext::new(peer, storage, state, nowhere.clone(), Arc::new(SystemClock));
    cx.exchange =
        ExchangeMaker::new(move |source| Ok(Arc::new(StreamExchange::new(nowhere.clone(), source)?) as _));
    let mut settings = CrdtConfig::try_from(section)?;
    // What is logged at once is a batch already.
    settings.batching = BatchingConfig::default();
    let crdt = Crdt::open(settings, cx).await?;
    let mut read = 0;
    let mut operations = Vec::with_capacity(IMPORT_BATCH);
    let logged = async {
        while let Some(page) = pins.next().await {
            let page = page?;
            read += page.len() as u64;
            operations.extend(page.into_iter().map(|pin| PinOperation::Pin(Arc::new(pin))));
            if operations.len() >= IMPORT_BATCH {
                crdt.log_many(std::mem::take(&mut operations)).await?;
            }
            if read.is_multiple_of(PROGRESS_PINS) {
                info!("{read} pins read");
            }
        }
        crdt.log_many(operations).await?;
        Ok(crdt.state().counts().pins)
    }
    .await;
    let stopped = crdt.shutdown().await;
    logged.and_then(|pins| stopped.map(|()| pins))
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

/// Heads of the crdt, and whether something may be missing below them. Blocks.
///
/// # Errors
/// Of the storage; `Conflict` where the only pinset is one of a Go peer.
pub fn crdt_info(config: &PeerConfig) -> Result<CrdtInfo> {
    with_crdt(config, |store| store.info())
}

/// Writes the DAG for Graphviz, and says how many blocks it has. Flushing is up to the caller. Blocks.
///
/// # Errors
/// Of the storage or the writer; `Conflict` where the only pinset is one of a Go peer.
pub fn crdt_dot(config: &PeerConfig, to: &mut (dyn Write + Send)) -> Result<u64> {
    with_crdt(config, |store| store.write_dot(to))
}

/// Has the next run look through the whole DAG, or not. Blocks.
///
/// # Errors
/// Of the storage; `Conflict` where the only pinset is one of a Go peer.
pub fn mark_crdt(config: &PeerConfig, dirty: bool) -> Result<()> {
    with_crdt(config, |store| store.set_dirty(dirty))
}

fn with_crdt<T>(config: &PeerConfig, work: impl FnOnce(&CrdtStore) -> Result<T>) -> Result<T> {
    storage::refuse_reference_data(config)?;
    let storage = storage::open(config)?;
    let done = CrdtStore::open(Arc::clone(&storage)).and_then(|store| work(&store));
    storage.close()?;
    done
}

async fn open(config: &PeerConfig) -> Result<(Arc<dyn Storage>, StoreState)> {
    let storage = storage::open(config)?;
    // Beside the store, because the system's temporary folder may be small, or memory.
    let state = StoreState::open_with_spool_folder(Arc::clone(&storage), config.folder.path()).await?;
    Ok((storage, state))
}
