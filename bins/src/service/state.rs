//! The pinset of a peer that does not run: export, import, cleanup. Whoever calls holds the folder's lock.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{
    BatchingConfig, Consensus, ConsensusContext, Crdt, CrdtConfig, CrdtInfo, CrdtSection, CrdtStore,
    EtcdSection, Raft, RaftConfig, RaftInfo, RaftSection, RaftStore, Solo, SoloConfig,
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
use super::etcd;
use super::storage::{self, Replacement, Staging};

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

/// Writes every pin as one line of JSON, and says how many bytes that were. Flushing is up to the caller. With etcd these
/// are the pins of this peer's copy.
///
/// # Errors
/// Of the storage or the writer; `Conflict` where the only pinset is one of a Go peer; `NotFound` where there is no copy
/// of what etcd has.
pub async fn export(config: &PeerConfig, to: &mut (dyn Write + Send)) -> Result<u64> {
    storage::refuse_reference_data(config)?;
    let (storage, state) = open(config).await?;
    if let ConsensusSection::Etcd(section) = &config.consensus {
        let revision = etcd::copied(config, section, Arc::clone(&storage)).await?;
        info!("what is exported is the copy of this peer, which is that of revision {revision} of etcd");
    }
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
/// disk; after any error the old pinset is there. With Raft this peer begins a new cluster, and the old store is put aside as
/// by [`cleanup`]. With etcd it is the pinset of all peers, whether they run or not; it is
/// changed once all documents are read, and an error of etcd may leave it changed in part.
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
        ConsensusSection::Etcd(section) => {
            // All of it is read before anything is changed.
            let (staging, storage) = Staging::begin(config)?;
            let pins = lines::parse_lines(from, changes);
            let imported =
                import_to_etcd(config, section, Arc::clone(&storage), pins, Arc::new(progress)).await;
            storage.close()?;
            staging.remove()?;
            imported
        }
        ConsensusSection::Solo(_) => {
            let (storage, state) = open(config).await?;
            let pins = import_lines(&state, from, changes, Arc::new(progress)).await?;
            storage.close()?;
            Ok(pins)
        }
        ConsensusSection::Crdt(_) | ConsensusSection::Raft(_) => {
            // A new history in a new store, so that the old one is whole until the new one is.
            let (replacement, storage) = Replacement::begin(config)?;
            let imported = match alone(config, Arc::clone(&storage)).await {
                Ok(consensus) => log_all(consensus, lines::parse_lines(from, changes)).await,
                Err(error) => Err(error),
            };
            let closed = storage.close();
            match imported.and_then(|pins| closed.map(|()| pins)) {
                Ok(pins) => match &config.consensus {
                    // As in the reference.
                    ConsensusSection::Raft(section) => {
                        if let Some(before) = replacement.finish_keeping(section.backups_rotate)? {
                            info!("what was there before is in {}", before.display());
                        }
                        Ok(pins)
                    }
                    _ => replacement.finish().map(|()| pins),
                },
                Err(error) => {
                    replacement.abandon()?;
                    Err(error)
                }
            }
        }
    }
}

async fn import_to_etcd(
    config: &PeerConfig,
    section: &EtcdSection,
    storage: Arc<dyn Storage>,
    pins: BoxStream<'static, Result<Vec<Pin>>>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<u64> {
    let state = StoreState::open_with_spool_folder(storage, config.folder.path()).await?;
    state.replace(pins, progress).await?;
    etcd::replace(config, section, Arc::new(state)).await
}

/// The consensus component of a configuration, speaking to nobody.
async fn alone(config: &PeerConfig, storage: Arc<dyn Storage>) -> Result<Box<dyn Consensus>> {
    let peer = config.identity.id();
    let state: Arc<dyn State> =
        Arc::new(StoreState::open_with_spool_folder(Arc::clone(&storage), config.folder.path()).await?);
    let nowhere = Arc::new(MemoryNetwork::new(0).join(peer)?);
    let mut cx = ConsensusContext::new(peer, storage, state, nowhere.clone(), Arc::new(SystemClock));
    Ok(match &config.consensus {
        ConsensusSection::Raft(section) => Box::new(Raft::open(raft_alone(section)?, cx).await?),
        ConsensusSection::Crdt(section) => {
            cx.exchange = ExchangeMaker::new(move |source| {
                Ok(Arc::new(StreamExchange::new(nowhere.clone(), source)?) as _)
            });
            Box::new(Crdt::open(crdt_at_once(section)?, cx).await?)
        }
        ConsensusSection::Solo(section) => Box::new(Solo::open(SoloConfig::from(section), cx).await?),
        ConsensusSection::Etcd(_) => return Err(Error::internal("a peer on etcd speaks to etcd")),
    })
}

fn crdt_at_once(section: &CrdtSection) -> Result<CrdtConfig> {
    let mut settings = CrdtConfig::try_from(section)?;
    // What is logged at once is a batch already.
    settings.batching = BatchingConfig::default();
    Ok(settings)
}

/// A cluster of this peer, which the others join.
fn raft_alone(section: &RaftSection) -> Result<RaftConfig> {
    let mut settings = RaftConfig::try_from(section)?;
    settings.init_peerset.clear();
    // Who joins gets the whole pinset: what is in it need not be in the log as well.
    settings.trailing_logs = 0;
    settings.snapshot_threshold = 8;
    Ok(settings)
}

/// Logs pins, and says how many there are in the end.
async fn log_all(
    consensus: Box<dyn Consensus>,
    mut pins: BoxStream<'static, Result<Vec<Pin>>>,
) -> Result<u64> {
    let mut read = 0;
    let mut operations = Vec::with_capacity(IMPORT_BATCH);
    let logged = async {
        while let Some(page) = pins.next().await {
            let page = page?;
            read += page.len() as u64;
            operations.extend(page.into_iter().map(|pin| PinOperation::Pin(Arc::new(pin))));
            if operations.len() >= IMPORT_BATCH {
                consensus.log_many(std::mem::take(&mut operations)).await?;
            }
            if read.is_multiple_of(PROGRESS_PINS) {
                info!("{read} pins read");
            }
        }
        consensus.log_many(operations).await?;
        Ok(consensus.state().counts().pins)
    }
    .await;
    let stopped = consensus.shutdown().await;
    logged.and_then(|pins| stopped.map(|()| pins))
}

/// Removes what the consensus component has on disk, the pinset included. With Raft it is put aside, and as many old
/// stores are kept as the configuration says: `<folder>.old.0` is the newest. With etcd it is this peer's copy: the pinset is
/// in etcd, and is copied again when the peer starts. Says where the store was put aside, if it was.
///
/// # Errors
/// Of the file system, naming the folder.
pub async fn cleanup(config: &PeerConfig) -> Result<Option<PathBuf>> {
    let folder = storage::folder(config);
    if let ConsensusSection::Raft(section) = &config.consensus {
        return storage::put_aside(&folder, section.backups_rotate);
    }
    // By its files, so that a store too damaged to be opened can be cleaned up too.
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", folder.display()), error))
        }
        _ => Ok(None),
    }
}

/// How far the log of a Raft peer is, and who the members are. Blocks.
///
/// # Errors
/// Of the storage; `Conflict` where the only pinset is one of a Go peer.
pub fn raft_info(config: &PeerConfig) -> Result<RaftInfo> {
    with_raft(config, RaftStore::info)
}

/// Makes this peer the only member of its Raft cluster, see [`RaftStore::reset_membership`]. Blocks.
///
/// # Errors
/// As there; `Conflict` where the only pinset is one of a Go peer.
pub fn reset_raft(config: &PeerConfig) -> Result<()> {
    with_raft(config, |store| store.reset_membership(&config.identity.id()))
}

fn with_raft<T>(config: &PeerConfig, work: impl FnOnce(&RaftStore) -> Result<T>) -> Result<T> {
    storage::refuse_reference_data(config)?;
    let storage = storage::open(config)?;
    let done = RaftStore::open(Arc::clone(&storage)).and_then(|store| work(&store));
    storage.close()?;
    done
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
