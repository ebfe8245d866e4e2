//! The pinset of a peer that agrees through etcd and does not run. Whoever calls holds the folder's lock.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Etcd, EtcdConfig, EtcdSection};
use ipfs_cluster::state::{State, StateQuery, StateReader, StoreState};
use ipfs_cluster::storage::Storage;
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::{Pin, PinOperation};
use ipfs_cluster::{Error, ErrorKind, Result};
use tokio::time::timeout;
use tracing::info;

use super::config::PeerConfig;
use super::storage;

/// Operations of one call, few enough for one transaction of an etcd that has its defaults.
const OPERATIONS: usize = 100;
/// Calls under way.
const CALLS: usize = 32;
/// How often etcd may take as long as a request may take, until it has let this peer in and the copy is up to date.
const READY_TIMEOUTS: u32 = 6;

/// What a peer with this configuration is told.
///
/// # Errors
/// As [`EtcdSection::config`].
pub fn settings(config: &PeerConfig, section: &EtcdSection) -> Result<EtcdConfig> {
    let mut settings = section.config(config.folder.path())?;
    settings.secret = config.cluster.secret.clone();
    Ok(settings)
}

/// Up to which revision of etcd a store has a copy of the pinset.
///
/// # Errors
/// `NotFound` where it has none, and an export would look as if the pinset was empty; of the storage.
pub async fn copied(config: &PeerConfig, section: &EtcdSection, storage: Arc<dyn Storage>) -> Result<i64> {
    let settings = settings(config, section)?;
    Etcd::copied(&settings, storage).await?.ok_or_else(|| {
        Error::not_found(
            "this peer has no copy of the pinset in etcd; start the daemon once, and stop it when it is ready",
        )
    })
}

/// Makes the pinset in etcd, that of all peers, what `wanted` has, and says how many pins that are. What is the same
/// already is not written.
///
/// # Errors
/// Of etcd and the storage. Then a part of it is done, and the same again does the rest.
pub async fn replace(
    config: &PeerConfig,
    section: &EtcdSection,
    wanted: Arc<dyn StateReader>,
) -> Result<u64> {
    let storage = storage::open(config)?;
    let replaced = replace_in(config, section, Arc::clone(&storage), wanted).await;
    storage.close()?;
    replaced
}

async fn replace_in(
    config: &PeerConfig,
    section: &EtcdSection,
    storage: Arc<dyn Storage>,
    wanted: Arc<dyn StateReader>,
) -> Result<u64> {
    let peer = config.identity.id();
    let state: Arc<dyn State> =
        Arc::new(StoreState::open_with_spool_folder(Arc::clone(&storage), config.folder.path()).await?);
    let nowhere = Arc::new(MemoryNetwork::new(0).join(peer)?);
    let cx = ConsensusContext::new(peer, storage, state, nowhere, Arc::new(SystemClock));
    let mut settings = settings(config, section)?;
    // It is a member for a moment, and cannot be reached.
    settings.find_peers = false;
    let patience = settings.request_timeout.saturating_mul(READY_TIMEOUTS);
    let endpoints = settings.endpoints.join(", ");
    let etcd = Etcd::open(settings, cx).await?;
    let ready = timeout(patience, etcd.ready()).await.unwrap_or_else(|_| {
        let text = format!("etcd at {endpoints} does not answer, or has no quorum; nothing was changed");
        Err(Error::new(ErrorKind::Unavailable, text))
    });
    let replaced = match ready {
        Ok(()) => write(&etcd, &*wanted).await.map_err(|error| {
            error.context("the pinset in etcd is replaced in part, do the same again to finish it")
        }),
        Err(error) => Err(error),
    };
    let stopped = etcd.shutdown().await;
    let pins = replaced?;
    stopped?;
    Ok(pins)
}

async fn write(etcd: &Etcd, wanted: &dyn StateReader) -> Result<u64> {
    let is = etcd.state();
    if is.counts() != wanted.counts() {
        // What is missing before what is too much: a part of it done must not look as if pins were lost.
        let added = changes(etcd, wanted.list(StateQuery::default()), async |pin| {
            let is_there = is.get(&pin.cid).await?.as_ref() == Some(&pin);
            Ok((!is_there).then(|| PinOperation::Pin(Arc::new(pin))))
        });
        let added = added.await?;
        let removed = changes(etcd, is.list(StateQuery::default()), async |pin| {
            Ok(wanted.get(&pin.cid).await?.is_none().then_some(PinOperation::Unpin(pin.cid)))
        });
        let removed = removed.await?;
        info!("{added} pins were written to etcd and {removed} removed from it");
    }
    Ok(is.counts().pins)
}

/// Logs what is to be done for each of these pins, and says how much that was.
async fn changes(
    etcd: &Etcd,
    pins: BoxStream<'static, Result<Vec<Pin>>>,
    mut change: impl AsyncFnMut(Pin) -> Result<Option<PinOperation>>,
) -> Result<u64> {
    let mut pages = pins;
    let mut operations = Vec::new();
    let mut changed = 0;
    loop {
        let page = pages.try_next().await?;
        let is_last = page.is_none();
        for pin in page.into_iter().flatten() {
            operations.extend(change(pin).await?);
        }
        if is_last || operations.len() >= OPERATIONS * CALLS {
            changed += operations.len() as u64;
            log(etcd, std::mem::take(&mut operations)).await?;
        }
        if is_last {
            return Ok(changed);
        }
    }
}

async fn log(etcd: &Etcd, operations: Vec<PinOperation>) -> Result<()> {
    let calls: Vec<Vec<PinOperation>> = operations.chunks(OPERATIONS).map(<[_]>::to_vec).collect();
    stream::iter(calls)
        .map(|operations| etcd.log_many(operations))
        .buffer_unordered(CALLS)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}
