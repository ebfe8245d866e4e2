//! Many peers without a leader: the reference's Merkle-CRDT.
//!
//! Every peer has the same set of *elements* (a pin's value, added by a block) and *tombstones* (elements that are gone),
//! and `set` says what a set means. Blocks form a DAG: each links to the *heads* it was built on and holds a *delta*,
//! some elements and tombstones. Peers tell each other their heads, and fetch what they have not.
//!
//! One task, the committer (`commit`), writes: it puts local operations and blocks of other peers into batches (`stage`)
//! that also hold what changes in the pinset, so a crash leaves all of one or nothing. With batching, operations are
//! acknowledged when they are in a log, and a delta is cut of the log later (`batching`).
//!
//! Beside it, the tasks of `network` deal with other peers: they say our heads and hear theirs (`announce`), walk down
//! from those that are new (`walk`, which decides in `frontier`), and look for what is missing (`repair`). To them the
//! committer is a `ledger`.

mod absorb;
mod announce;
mod batching;
mod broadcast;
mod catchup;
mod commit;
mod config;
#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod delta;
mod frontier;
mod heads;
#[cfg(feature = "testing")]
pub(crate) mod inspect;
mod key;
mod ledger;
#[cfg(feature = "testing")]
mod merges;
mod network;
mod node;
mod offline;
mod records;
mod repair;
mod set;
#[cfg(test)]
mod simulation;
mod stage;
mod store;
#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;
mod topic;
mod trust;
#[cfg(test)]
mod vectors;
mod walk;
mod wire;

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::{debug, info};

use self::absorb::Recent;
use self::batching::DELTA_BYTES;
use self::catchup::{CatchUpParts, Server};
use self::commit::{Committer, Hooks, LocalOperation, Work, finish_cleaning};
use self::delta::element_len;
use self::heads::Heads;
use self::ledger::Head;
use self::network::{Network, NetworkParts};
use self::records::{META, META_CLEANING, META_FORMAT};
use self::stage::Memory;
use self::store::{StoreLedger, StoredBlocks};
use self::trust::Trust;
use super::events::{self, EventSource};
use super::group::{self, Desk};
use super::{Alive, Consensus, ConsensusCapabilities, ConsensusContext, StateEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::exchange::BlockExchange;
use crate::state::{State, StateChange, StateReader, encode_pin_protobuf};
use crate::storage::{self, Batch, Durability, Storage};
use crate::transport::PeerTransport;
use crate::types::{Cid, PeerId, Pin, PinOperation};

pub use config::{BatchingConfig, CrdtConfig, CrdtSection};
#[cfg(feature = "testing")]
pub use merges::{ForeignBlocks, ReadBlocks};
pub use offline::{CrdtInfo, CrdtStore};

const COMPONENT: &str = "crdt consensus";

/// Most calls that wait for the committer, whatever the configuration says; more wait in their callers.
const QUEUED_CALLS_MAX: usize = 50_000;
/// Batches of new blocks that wait to be told to the exchange.
const TOLD_BLOCKS_MAX: usize = 1024;

/// Consensus of many peers by a Merkle-CRDT, with peers of the reference among them.
///
/// Any peer changes the pinset at any time, and all come to the same. Dropping it without [`Consensus::shutdown`]
/// finishes what was accepted and then stops its tasks.
#[derive(Debug)]
pub struct Crdt {
    peer: PeerId,
    state: Arc<dyn State>,
    transport: Arc<dyn PeerTransport>,
    exchange: Arc<dyn BlockExchange>,
    alive: Alive,
    trust: Arc<Trust>,
    desk: Desk<Work, Vec<StateChange>>,
    events: EventSource,
    parts: Parts,
    /// Lets others catch up with us, until it is shut down.
    server: std::sync::Mutex<Option<Server>>,
    /// The tasks that deal with other peers; none once they have been stopped for good.
    network: Mutex<Option<Network>>,
    _stop: DropGuard,
}

/// What the tasks of the network side work with.
#[derive(Clone, Debug)]
struct Parts {
    /// What the tests drive as the network side does.
    #[cfg_attr(not(test), allow(dead_code, reason = "the network side has its own handle"))]
    ledger: Arc<StoreLedger>,
    /// The newest head of ours, to be announced.
    #[cfg_attr(not(test), allow(dead_code, reason = "the network side has its own handle"))]
    cut: watch::Receiver<Option<Head>>,
    network: NetworkParts,
}

impl Crdt {
    /// Opens the set in the context's store, cuts what an earlier run left in its log, and begins to serve blocks.
    ///
    /// # Errors
    /// `InvalidInput` for the configuration; `Conflict` when the store has a pinset that is not of this component;
    /// `Unsupported` when a newer program wrote it, and for a context without a block exchange, because a peer that can
    /// give and get no blocks would agree with nobody; `Corrupt`, `Io`, `StorageFull`, `ShutDown`.
    pub async fn open(config: CrdtConfig, cx: ConsensusContext) -> Result<Self> {
        config.validate()?;
        let ConsensusContext { peer, storage, state, transport, exchange, alive, seed, .. } = cx;
        prepare(&storage, &state).await?;
        let now = Instant::now();
        let memory = storage::run(storage.clone(), move |storage| Memory::load(storage, now)).await?;
        let exchange = exchange
            .open(Arc::new(StoredBlocks(storage.clone())))
            .map_err(|error| error.context("crdt consensus needs a block exchange"))?;
        if memory.pending.operations > 0 {
            info!(operations = memory.pending.operations, "cutting operations that the last run left");
        }

        let waiting = config.batching.max_queue_size.clamp(1, QUEUED_CALLS_MAX);
        let (desk, mut inbox) = group::desk(COMPONENT, waiting);
        let (sender, events) = events::channel(config.max_buffered_events);
        let heads = Heads::default();
        let (cut_sender, cut) = watch::channel(None);
        let (blocks, told) = mpsc::channel(TOLD_BLOCKS_MAX);
        let recent = Arc::<Recent>::default();
        let hooks =
            Hooks { events: sender, heads: heads.clone(), cut: cut_sender, blocks, recent: recent.clone() };
        let ended = inbox.on_end();
        let committer = Committer::new(storage.clone(), state.clone(), config.policy(), inbox, hooks, memory);
        tokio::spawn(async move { ended(committer.run().await) });
        tokio::spawn(tell_blocks(exchange.clone(), told));

        let server = Server::start(&*transport, storage.clone(), state.clone(), recent)?;
        let trust = Arc::new(Trust::new(peer, config.trust_all, config.trusted_peers.iter().copied()));
        trust.trusted().iter().for_each(|peer| transport.protect(peer, true));
        let stop = desk.stop_token().drop_guard();
        let ledger = Arc::new(StoreLedger { storage, heads, desk: desk.clone() });
        let network = NetworkParts {
            transport: transport.clone(),
            exchange: exchange.clone(),
            ledger: ledger.clone(),
            trust: trust.clone(),
            cut: cut.clone(),
            topic: topic::of_cluster(&config.cluster_name),
            rebroadcast_interval: config.rebroadcast_interval,
            repair_interval: config.repair_interval,
            seed,
            catch_up: Some(CatchUpParts { ledger: ledger.clone(), state: state.clone() }),
        };
        let parts = Parts { ledger, cut, network: network.clone() };
        let network = Mutex::new(Some(Network::start(network)));
        let server = std::sync::Mutex::new(Some(server));
        Ok(Self {
            peer,
            state,
            transport,
            exchange,
            alive,
            trust,
            desk,
            events,
            parts,
            server,
            network,
            _stop: stop,
        })
    }

    async fn apply(&self, operations: Vec<PinOperation>) -> Result<Vec<StateChange>> {
        self.desk.check_open()?;
        let operations = operations.into_iter().map(local).collect::<Result<_>>()?;
        self.desk.call(Work::Apply(operations)).await
    }

    fn unsupported(what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("a crdt cluster {what}")).component(COMPONENT)
    }
}

/// The operation with its value, encoded by whoever calls, so that the committer does not.
fn local(operation: PinOperation) -> Result<LocalOperation> {
    let pin = match &operation {
        PinOperation::Pin(pin) => Some(pin),
        PinOperation::Unpin(_) => None,
        PinOperation::Revise(revision) => revision.now(),
    };
    let value = match pin {
        None => Bytes::new(),
        Some(pin) => {
            let value = Bytes::from(encode_pin_protobuf(pin));
            // What is larger than a delta gets into no block that other peers take.
            let bytes = element_len(&pin.cid, value.len());
            if bytes > DELTA_BYTES {
                return Err(Error::invalid_input(format!(
                    "the pin of {} takes {bytes} bytes, but at most {DELTA_BYTES} travel between peers; give it a \
                     shorter name, less metadata or fewer origins",
                    pin.cid
                ))
                .component(COMPONENT));
            }
            value
        }
    };
    Ok(LocalOperation { operation, value })
}

/// Makes the store one of ours, and finishes a cleaning that was interrupted.
async fn prepare(storage: &Arc<dyn Storage>, state: &Arc<dyn State>) -> Result<()> {
    let (format, is_cleaning) = storage::run(storage.clone(), |storage| {
        Ok((storage.get(META, META_FORMAT)?, storage.get(META, META_CLEANING)?.is_some()))
    })
    .await?;
    match format.as_deref() {
        Some(&[records::FORMAT]) => {}
        Some(&[format]) if format > records::FORMAT => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the stored crdt has format {format}, this program reads up to {}; run the newer one",
                    records::FORMAT
                ),
            )
            .component(COMPONENT));
        }
        Some(_) => return Err(wire::corrupt("the format of the stored crdt is unreadable")),
        None if state.counts().pins > 0 => {
            let message =
                "this store has a pinset that no crdt peer wrote: export it, and import it into an empty one";
            return Err(Error::new(ErrorKind::Conflict, message).component(COMPONENT));
        }
        None => {
            storage::run(storage.clone(), |storage| {
                let mut batch = Batch::new();
                batch.put(META, META_FORMAT, vec![records::FORMAT]);
                storage.write(batch, Durability::Synced)
            })
            .await?;
        }
    }
    if is_cleaning { finish_cleaning(storage, state).await } else { Ok(()) }
}

/// Tells the exchange of new blocks, until the committer is gone.
async fn tell_blocks(exchange: Arc<dyn BlockExchange>, mut blocks: mpsc::Receiver<Vec<Cid>>) {
    while let Some(cids) = blocks.recv().await {
        if let Err(error) = exchange.announce(&cids).await {
            debug!(%error, "new blocks were not told to those who asked for them");
        }
    }
}

#[async_trait]
impl Consensus for Crdt {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities { trust: true, ..Default::default() }
    }

    async fn ready(&self) -> Result<()> {
        self.desk.check_open()
    }

    async fn log_pin(&self, pin: Pin) -> Result<()> {
        self.apply(vec![PinOperation::Pin(Arc::new(pin))]).await.map(drop)
    }

    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        let changes = self.apply(vec![PinOperation::Unpin(*cid)]).await?;
        Ok(group::unpinned(changes))
    }

    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        group::check_length(&operations).map_err(|error| error.component(COMPONENT))?;
        self.apply(operations).await.map(drop)
    }

    fn state(&self) -> Arc<dyn StateReader> {
        self.state.clone()
    }

    async fn synchronize(&self) -> Result<()> {
        // Nobody knows what others have done that did not come here yet.
        self.desk.check_open()
    }

    fn events(&self) -> BoxStream<'static, StateEvent> {
        self.events.stream()
    }

    fn heads(&self) -> Vec<(Cid, u64)> {
        self.parts.ledger.heads.list().into_iter().map(|head| (head.cid, head.height)).collect()
    }

    async fn peers(&self) -> Result<Vec<PeerId>> {
        self.desk.check_open()?;
        let mut peers = self.alive.peers();
        peers.push(self.peer);
        peers.sort_unstable();
        peers.dedup();
        Ok(peers)
    }

    async fn add_peer(&self, _peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        Err(Self::unsupported("has no list of members: a peer joins by connecting"))
    }

    async fn remove_peer(&self, _peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        Err(Error::new(
            ErrorKind::Unsupported,
            "crdt consensus component cannot remove peers: a peer leaves by stopping",
        )
        .component(COMPONENT))
    }

    async fn leader(&self) -> Result<Option<PeerId>> {
        self.desk.check_open()?;
        Err(Self::unsupported("has no leader"))
    }

    fn is_trusted(&self, peer: &PeerId) -> bool {
        self.trust.is_trusted(peer)
    }

    async fn trust(&self, peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        self.trust.trust(peer)?;
        self.transport.protect(peer, true);
        Ok(())
    }

    async fn distrust(&self, peer: &PeerId) -> Result<()> {
        self.desk.check_open()?;
        self.trust.distrust(peer)?;
        self.transport.protect(peer, false);
        Ok(())
    }

    async fn clean(&self) -> Result<()> {
        // Walks go on from what is there, so they begin anew.
        let mut network = self.network.lock().await;
        if let Some(network) = network.take() {
            network.shutdown().await;
        }
        let cleaned = self.desk.call(Work::Clean).await.map(drop);
        if self.desk.check_open().is_ok() {
            *network = Some(Network::start(self.parts.network.clone()));
        }
        cleaned
    }

    async fn shutdown(&self) -> Result<()> {
        drop(self.server.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(network) = self.network.lock().await.take() {
            network.shutdown().await;
        }
        let committed = self.desk.shutdown().await;
        // After the last block was cut, nobody asks us for any more.
        let closed = self.exchange.shutdown().await;
        committed.and(closed)
    }
}
