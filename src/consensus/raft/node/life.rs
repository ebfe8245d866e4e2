//! The life of openraft inside the component: it is started and stopped, again after it failed, and on a store that forgot
//! everything.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest as _};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{Core, Heard, Inner, Standing, lock};
use crate::consensus::StateEvent;
use crate::consensus::group::Retry;
use crate::consensus::raft::COMPONENT;
use crate::consensus::raft::log::LogStore;
use crate::consensus::raft::machine::{Applied, Machine, Surroundings};
use crate::consensus::raft::network::Network;
use crate::consensus::raft::records::{self, CLEANING, ClusterId, FORMAT, FORMAT_KEY, META};
use crate::consensus::raft::types::{Node, Raft};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Durability};
use crate::types::PeerId;

/// How long the state machine may take to let go when openraft has stopped.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it takes at most until it is looked whether a store that failed works again.
const RECOVER_WAIT_MAX: Duration = Duration::from_secs(5);

impl Inner {
    /// Starts openraft on what is stored, and founds a cluster where nothing is and none is to be joined.
    pub(in super::super) async fn start(&self) -> Result<()> {
        let may_start = self.turn.lock().await;
        if !*may_start {
            return Err(Error::shut_down(COMPONENT));
        }
        self.start_now().await
    }

    /// Finishes a cleaning that was interrupted, and takes what is stored of starts: before anything is said.
    pub(in super::super) async fn take_stored(&self) -> Result<()> {
        let is_cleaning = storage::run(self.storage.clone(), |storage| {
            let is_cleaning = storage.get(META, CLEANING)?.is_some();
            if is_cleaning {
                records::forget(storage)?;
            }
            Ok(is_cleaning)
        });
        if is_cleaning.await? {
            self.finish_cleaning().await?;
        }
        let starts = self.starts.clone();
        storage::run(self.storage.clone(), move |storage| starts.load(storage)).await
    }

    async fn start_now(&self) -> Result<()> {
        // Once more: a cleaning may have failed since.
        self.take_stored().await?;
        let (is_pristine, cluster) = storage::run(self.storage.clone(), |storage| {
            Ok((records::is_pristine(storage)?, records::cluster(storage)?))
        })
        .await?;
        *lock(&self.cluster) = cluster;
        // Of the time before.
        self.failure.take();
        let events = lock(&self.events).clone().ok_or_else(|| Error::shut_down(COMPONENT))?;
        let surroundings = Surroundings {
            node: self.node(),
            storage: self.storage.clone(),
            state: self.state.clone(),
            events,
            // With room for what comes at the same time.
            events_max: self.config.max_buffered_events / 2,
            applied: self.applied.clone(),
            transfers: self.transfers.clone(),
            failure: self.failure.clone(),
            starts: self.starts.clone(),
            trim: self.trim.clone(),
        };
        let gone = CancellationToken::new();
        let (storage, failure, trim) = (self.storage.clone(), self.failure.clone(), self.trim.clone());
        let log = LogStore::open(self.node(), storage, failure, trim).await?;
        let mut machine = Machine::open(surroundings, log.clone(), gone.clone().drop_guard()).await?;
        storage::run(self.storage.clone(), records::check).await?;
        let named = log.check().await?;
        machine.catch_up(named.as_ref()).await?;
        let network = Network(self.me.clone());
        let config = Arc::new(self.config.openraft()?);
        let raft = Raft::new(self.node(), config, network, log.clone(), machine)
            .await
            .map_err(|fatal| self.fatal(&fatal))?;
        *lock(&self.heard) = Heard { at: Instant::now(), is_leader: false };
        if is_pristine && !self.config.join {
            let mut members = self.config.init_peerset.clone();
            members.insert(self.peer);
            if cluster.is_none() {
                self.join(self.found(&members)).await?;
            }
            let nodes: BTreeSet<Node> = members.into_iter().map(Node::of).collect();
            let number = nodes.len();
            match raft.initialize(nodes).await {
                Ok(()) => info!(
                    members = number,
                    "nothing is stored here: founding a new raft cluster (a peer that is to join one is started with --bootstrap)"
                ),
                // Somebody else may have been faster.
                Err(error) => debug!(%error, "the cluster was not founded here"),
            }
        }
        *self.core.write().unwrap_or_else(PoisonError::into_inner) = Some(Core { raft, log, gone });
        Ok(())
    }

    /// The id of a new cluster: the same for all of its first members, and another for every peer that is alone.
    fn found(&self, members: &BTreeSet<PeerId>) -> ClusterId {
        let mut bytes = b"ipfs-cluster raft".to_vec();
        members.iter().for_each(|peer| bytes.extend(peer.to_bytes()));
        if members.len() == 1 {
            bytes.extend_from_slice(&self.salt);
        }
        let mut id = ClusterId::default();
        for (to, from) in id.iter_mut().zip(Code::Sha2_256.digest(&bytes).digest()) {
            *to = *from;
        }
        id
    }

    /// Our error for one of openraft's that it does not go on after.
    pub(in super::super) fn fatal(&self, fatal: &openraft::error::Fatal<Node>) -> Error {
        match self.failure.take() {
            Some(error) => error,
            None => {
                Error::new(ErrorKind::Unavailable, format!("raft has stopped: {fatal}")).component(COMPONENT)
            }
        }
    }

    async fn stop_now(&self) {
        let core = self.core.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Core { raft, log, gone }) = core else { return };
        if let Err(error) = raft.shutdown().await {
            error!(%error, "raft did not stop as it should");
        }
        drop(raft);
        // Who opens the log next must not find it in the middle of a write.
        match timeout(LET_GO_TIMEOUT, log.until_all_written()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the end of the log was not written"),
            Err(_) => warn!("the end of the log was not written within {LET_GO_TIMEOUT:?}"),
        }
        if timeout(LET_GO_TIMEOUT, gone.cancelled()).await.is_err() {
            warn!("what applies entries has not let go of the pinset after {LET_GO_TIMEOUT:?}");
        }
    }

    /// Stops openraft, and leaves the rest: for a peer that must not take part any more.
    pub(in super::super) async fn halt(&self) {
        let _turn = self.turn.lock().await;
        self.stop_now().await;
    }

    /// Stops for good. Idempotent.
    pub(in super::super) async fn stop(&self) {
        let mut may_start = self.turn.lock().await;
        *may_start = false;
        self.stop_now().await;
        self.links.close();
        self.staging.clear();
        lock(&self.events).take();
    }

    /// Writes something, which fails as long as nothing can be written.
    async fn probe(&self) -> Result<()> {
        storage::run(self.storage.clone(), |storage| {
            let mut batch = Batch::new();
            batch.put(META, FORMAT_KEY, vec![FORMAT]);
            storage.write(batch, Durability::Synced)
        })
        .await
    }

    /// Starts again after openraft stopped by itself, until it works, it cannot ever, or everything is stopped.
    pub(in super::super) async fn recover(&self, why: Error) {
        let mut retry = Retry::default();
        let mut why = why;
        loop {
            let may_start = self.turn.lock().await;
            if !*may_start {
                return;
            }
            self.stop_now().await;
            // Corrupt stays corrupt.
            if matches!(why.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::InvalidInput) {
                error!(error = %why, "raft cannot go on");
                self.standing.send_replace(Standing::Broken(why));
                return;
            }
            warn!(error = %why, "raft stopped and is started again");
            let what = match why.kind() {
                ErrorKind::StorageFull => "raft waits until there is space on this peer's disk",
                _ => "raft waits until this peer's store works",
            };
            self.standing.send_if_modified(|standing| standing.fail(why.context(what)));
            drop(may_start);
            retry.failed();
            sleep(retry.wait().min(RECOVER_WAIT_MAX)).await;
            let may_start = self.turn.lock().await;
            if !*may_start {
                return;
            }
            let started = match self.probe().await {
                Ok(()) => self.start_now().await,
                Err(error) => Err(error),
            };
            match started {
                Ok(()) => {
                    self.standing.send_if_modified(|standing| {
                        let was_failing = matches!(standing, Standing::Failing(_));
                        if was_failing {
                            *standing = Standing::Working;
                        }
                        was_failing
                    });
                    info!("raft works again");
                    return;
                }
                Err(error) => why = error,
            }
        }
    }

    /// Forgets everything, and begins anew as if nothing had ever been stored.
    pub(in super::super) async fn clean(&self) -> Result<()> {
        let may_start = self.turn.lock().await;
        if !*may_start {
            return Err(Error::shut_down(COMPONENT));
        }
        let others = self.voters().into_iter().any(|peer| peer != self.peer);
        let is_removed = matches!(*self.standing.borrow(), Standing::Removed);
        if others && !is_removed && self.is_member(&self.peer) {
            let text =
                "a member of a cluster with others cannot forget what it promised them: remove it first";
            return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        }
        self.stop_now().await;
        let cleaned = async {
            storage::run(self.storage.clone(), |storage| {
                let mut batch = Batch::new();
                batch.put(META, CLEANING, Bytes::new());
                storage.write(batch, Durability::Synced)?;
                records::forget(storage)
            })
            .await?;
            self.finish_cleaning().await
        }
        .await;
        self.starts.clear();
        self.transfers.spoil();
        self.staging.clear();
        self.applied.set(Applied::default());
        *lock(&self.known) = None;
        if let Some(events) = &*lock(&self.events) {
            events.tell(StateEvent::Resync);
        }
        let started = self.start_now().await;
        cleaned.and(started)
    }

    /// The rest of a cleaning, when all of ours is forgotten.
    async fn finish_cleaning(&self) -> Result<()> {
        self.state.settle().await?;
        self.state.clear().await?;
        storage::run(self.storage.clone(), |storage| {
            let mut batch = Batch::new();
            batch.delete(META, CLEANING);
            storage.write(batch, Durability::Synced)
        })
        .await
    }
}
