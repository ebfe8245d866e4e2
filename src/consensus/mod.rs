//! Agreeing on the pinset.
//!
//! [`Consensus`] is the contract; [`Solo`], a Merkle-CRDT, Raft and etcd are four answers to it that differ in kind. The
//! rest of a peer asks the contract and nothing else, so a fifth is written the same way.
//!
//! # What differs, and who asks
//!
//! | | [`Solo`] | CRDT | Raft | etcd |
//! |---|---|---|---|---|
//! | who orders changes | the one peer | nobody: what two peers did at once is merged | the leader's log | etcd |
//! | `Ok` means on the disks of | this peer | this peer | more than half of the members | more than half of etcd's members |
//! | and visible | here | here, elsewhere soon | here, elsewhere soon | here, elsewhere soon |
//! | [`log_many`](Consensus::log_many) is all or nothing for | this peer | this peer | every peer | every peer |
//! | [`Revise`](PinOperation::Revise) compares with | the pinset | the pinset of this peer | the pinset where the log puts it | what etcd has then |
//! | after [`synchronize`](Consensus::synchronize) a read here sees | everything | what came here so far | what any member acknowledged | what any peer acknowledged |
//! | [members](Consensus::peers) are | this peer | those that live, by their pings | those that were added | those whose lease lives |
//! | [capabilities](ConsensusCapabilities) | none | `trust` | `leader`, `membership_changes` | `membership_changes` |
//! | without the others | there are none | goes on | changes are `Unavailable` in time, reading goes on | likewise, without etcd |
//! | [`heads`](Consensus::heads) | none | the ends of the history | none | none |
//! | [`clean`](Consensus::clean) | forgets the pinset | forgets this peer's | forgets this peer's copy and log | beside others a new copy, alone the pinset |
//!
//! Capabilities are what is *true*, not what is intended: a call that one does not have is `Unsupported`, at once, and with
//! a text that says what to do instead. The cluster acts by them: with `membership_changes` a peer that is no longer a
//! member stops (also one that is told so by [`NoLongerMember`] when it starts), `POST /peers` adds one, and `DELETE /peers/{peer}` moves its pins away and removes it; with `trust` alone
//! whoever lives is a member, and nobody has to be added. [`Consensus::check_joinable`] is asked before a peer asks another one
//! to add it. [`Consensus::is_trusted`] is asked for every call of another peer,
//! whatever the capabilities.
//!
//! # Writing your own
//!
//! 1. **Decide where the order comes from**, and what `Ok` means. Everything else follows from it. The least is: after `Ok`
//!    the change survives a power cut of this peer, and [`Consensus::state`] shows it.
//! 2. **Keep the pinset in [`ConsensusContext::state`]**, whose one writer you are. [`State::apply`] makes one synced batch of
//!    a change and of records of your own (how far this copy is, say), so that a crash leaves both or neither. After an error
//!    of it call [`State::settle`] before anything else: the batch may be there, and your records with it, so read them again.
//! 3. **Let many callers share one sync.** Take what gathered while the last batch was written. All queues are bounded; who
//!    does not fit waits, or gets `QueueFull`.
//! 4. **Tell events after the state shows them and before the call returns**, through a channel that forgets what a slow
//!    reader has not taken, and says [`StateEvent::Resync`] then. Events are hints: the state is the truth.
//! 5. **Subscribe, then spawn; nobody waits for himself.** Tasks end with the component. [`Consensus::shutdown`] finishes what was
//!    accepted, also for the second caller, and calls after it are `ShutDown`.
//! 6. **Bound everything that comes from elsewhere**, in bytes, number and time, and have an answer in time: an operator reads
//!    "no quorum" after seconds, not after a timeout of HTTP.
//! 7. **A call that was given up may have happened.** Say so in the error, and make sure that doing it again does no harm: Raft
//!    gives each part a key, etcd a lane to each writer.
//! 8. **Say when this copy is up to date.** Where there is an order, a change is acknowledged by one peer before the copies of
//!    others show it. [`Consensus::synchronize`] waits until this one does: ask the order itself how far it is, not this
//!    peer's notion of it, and wait for a place that this copy is sure to reach. The cluster calls it before it says that
//!    something is not pinned which is to be unpinned.
//! 9. **Put it into a peer**: `Cluster::builder().consensus_with(|cx| Mine::open(config, cx))` hands it its context while the
//!    peer is being made ([`ClusterBuilder::consensus_with`](crate::cluster::ClusterBuilder::consensus_with)). What takes long,
//!    or waits for others, belongs into [`Consensus::ready`]: the peer can be read meanwhile.
//!
//! Where the order is kept elsewhere, operations have to be written there. [`Pin`] is serde, in the form of `state export`,
//! which keeps all of it; [`encode_pin_protobuf`](crate::state::encode_pin_protobuf) is shorter, but leaves out the mode and
//! the user's allocations, as the reference's form does. A [`Revise`](PinOperation::Revise) is written with what was seen and
//! what it becomes, and [`State::apply`] decides where the order puts it, on every peer alike. What [`State::apply`] refuses as
//! `InvalidInput` it refuses everywhere and each time: a copy that meets that in the order goes on behind it.
//!
//! `examples/custom_consensus.rs` wraps another one. `examples/outside/parts` has one from scratch in a crate of its own: several
//! peers of one process agree by one log on disk, and members are removed and added by call. `examples/etcd.rs` is a peer
//! on a service that exists elsewhere, in its section of `service.json` `consensus.etcd`.
//!
//! # Does it keep its promises?
//!
//! With the feature `testing`, `testing::consensus_suite` has what all of them must do, a case for each sentence above and
//! in the contract. Write its `Fixture` (how one is made in a place of its own, started again, and loses its power), and one
//! macro line makes named tests, each also through one more `Arc`:
//!
//! ```text
//! ipfs_cluster::consensus_conformance!(mine, MyFixture);
//!
//! cargo test mine::direct::                                               all cases
//! cargo test mine::direct::a_crash_loses_nothing_that_was_acknowledged    one of them
//! ```
//!
//! A component is made for a test with the context that a peer would give it. `testing::CrashStorage` in the place of
//! [`MemoryStorage`](crate::storage::MemoryStorage) loses what was not synced, when the fixture cuts the power:
//!
//! ```
//! # use std::sync::Arc;
//! # use ipfs_cluster::{Result, clock::SystemClock, consensus::ConsensusContext, state::StoreState};
//! # use ipfs_cluster::{storage::MemoryStorage, transport::MemoryNetwork, types::PeerId};
//! async fn context(peer: PeerId) -> Result<ConsensusContext> {
//!     let storage = Arc::new(MemoryStorage::new());
//!     let state = Arc::new(StoreState::open(storage.clone()).await?);
//!     let transport = Arc::new(MemoryNetwork::new(0).join(peer)?);
//!     Ok(ConsensusContext::new(peer, storage, state, transport, Arc::new(SystemClock)))
//! }
//! ```
//!
//! A case asks [`Consensus::capabilities`] and examines either what one has, or that it says clearly what it has not; nothing
//! is left out for that. Only where a fixture cannot start again or cut the power (`None`), the cases that need it say that they
//! were skipped. Ours run all of them: `tests/consensus.rs` (solo and CRDT, on every engine, and over stores that lose what was
//! not synced), `tests/raft/conformance.rs`, `tests/etcd/conformance.rs` (against a real etcd). What only yours does you test
//! yourself; whole peers in one process are made as in `examples/three_peers.rs`.

#[cfg(feature = "consensus-crdt")]
mod crdt;
#[cfg(feature = "consensus-etcd")]
mod etcd;
mod events;
mod group;
#[cfg(feature = "consensus-raft")]
mod raft;
mod solo;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::clock::WallClock;
use crate::error::Result;
use crate::exchange::ExchangeMaker;
use crate::state::{State, StateReader};
use crate::storage::Storage;
use crate::transport::PeerTransport;
use crate::types::{Cid, PeerId, Pin, PinOperation};

#[cfg(all(feature = "consensus-crdt", feature = "testing"))]
pub(crate) use crdt::decoders as crdt_decoders;
#[cfg(all(feature = "consensus-crdt", feature = "testing"))]
pub(crate) use crdt::inspect as crdt_inspect;
#[cfg(feature = "consensus-crdt")]
pub use crdt::{BatchingConfig, Crdt, CrdtConfig, CrdtInfo, CrdtSection, CrdtStore};
#[cfg(all(feature = "consensus-crdt", feature = "testing"))]
pub use crdt::{ForeignBlocks, ReadBlocks};
#[cfg(feature = "consensus-etcd")]
pub use etcd::{Etcd, EtcdConfig, EtcdSection, EtcdTls, EtcdTlsSection};
#[cfg(all(feature = "consensus-raft", feature = "testing"))]
pub(crate) use raft::decoders as raft_decoders;
#[cfg(feature = "consensus-raft")]
pub use raft::{Raft, RaftConfig, RaftInfo, RaftSection, RaftStore};
pub use solo::{Solo, SoloConfig};

/// Most operations in one call of [`Consensus::log_many`].
pub const OPERATIONS_MAX: usize = 65_536;

/// What a consensus implementation may need of its peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsensusContext {
    /// This peer.
    pub peer: PeerId,
    /// Where records of its own live. Those that belong to a change of the pinset go with it in one batch
    /// ([`State::apply`]).
    pub storage: Arc<dyn Storage>,
    /// The pinset, in the same store. The consensus component is its one writer.
    pub state: Arc<dyn State>,
    /// How it reaches the others.
    pub transport: Arc<dyn PeerTransport>,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// How it gets blocks from others and serves its own. None until the peer says how.
    pub exchange: ExchangeMaker,
    /// Who lives, for implementations whose members are whoever lives. Only this peer until the peer says.
    pub alive: Alive,
    /// What its randomness starts from.
    pub seed: u64,
}

type ListPeers = dyn Fn() -> Vec<PeerId> + Send + Sync;

/// The peers that live, as far as this peer can tell.
#[derive(Clone)]
pub struct Alive(Arc<ListPeers>);

impl Alive {
    /// Asks this function, which answers at once.
    pub fn new(list: impl Fn() -> Vec<PeerId> + Send + Sync + 'static) -> Self {
        Self(Arc::new(list))
    }

    /// The peers that live, in any order; this peer need not be among them.
    pub fn peers(&self) -> Vec<PeerId> {
        (self.0)()
    }
}

impl fmt::Debug for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Alive").field(&self.peers()).finish()
    }
}

impl ConsensusContext {
    /// A context without a block exchange, that knows nobody else to live. Set the fields that should be otherwise.
    pub fn new(
        peer: PeerId,
        storage: Arc<dyn Storage>,
        state: Arc<dyn State>,
        transport: Arc<dyn PeerTransport>,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        Self {
            peer,
            storage,
            state,
            transport,
            clock,
            exchange: ExchangeMaker::none(),
            alive: Alive::new(Vec::new),
            seed: 0,
        }
    }
}

/// What an implementation can do. The cluster and the conformance suite ask; nobody guesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsensusCapabilities {
    /// There is one leader at a time.
    pub leader: bool,
    /// Members can be added and removed by call.
    pub membership_changes: bool,
    /// Some peers are trusted and others are not.
    pub trust: bool,
}

/// This peer was removed while it was away, or left before: with its stop (`StopReason::Removed`)
/// what it has stored can be put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this peer is no longer a member of its cluster")]
pub struct NoLongerMember;

/// A change of the pinset on this peer. A hint: who misses one compares the state with what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateEvent {
    /// The entry is in the state.
    Pinned(Arc<Pin>),
    /// The entry, as it was, is no longer in the state.
    Unpinned(Arc<Pin>),
    /// Some events were missed: compare.
    Resync,
}

/// Agrees with other peers on the pinset. The [module](self) has a guide to writing one.
#[async_trait]
pub trait Consensus: fmt::Debug + Send + Sync + 'static {
    /// What this implementation can do.
    fn capabilities(&self) -> ConsensusCapabilities;

    /// Returns when operations can be logged and the state can be read.
    ///
    /// # Errors
    /// `Conflict` with a [`NoLongerMember`] as source when this peer was a member and is none any more, and what is stored here
    /// is of no more use: it stops then, as one that was removed. Otherwise why it will never be ready; `ShutDown`.
    async fn ready(&self) -> Result<()>;

    /// Adds or replaces an entry. Ok means that it survives a crash of this peer and is visible in
    /// [`Consensus::state`]. Many callers share one disk sync. A dropped call may still be logged.
    ///
    /// # Errors
    /// `InvalidInput` for a pin too large to be stored. `QueueFull`, `StorageFull`, `Io`, `Unavailable` (no
    /// quorum), `ShutDown`: whether the operation happened is then unknown; logging it again is harmless.
    async fn log_pin(&self, pin: Pin) -> Result<()>;

    /// Removes an entry and gives it as it was; none when there was none, which is Ok. Promises as
    /// [`Consensus::log_pin`].
    ///
    /// # Errors
    /// As [`Consensus::log_pin`].
    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>>;

    /// Many operations, in order, as one batch: import, repinning, bulk calls. All or nothing on this peer.
    ///
    /// # Errors
    /// As [`Consensus::log_pin`]; `InvalidInput` for more than [`OPERATIONS_MAX`] operations.
    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()>;

    /// The pinset on this peer. Where there is an order of changes it may be behind it: see [`Consensus::synchronize`].
    fn state(&self) -> Arc<dyn StateReader>;

    /// Returns when [`Consensus::state`] on this peer shows everything that any peer acknowledged before this was called,
    /// where the implementation has an order that tells (Raft, etcd): a read after it is as if there was one pinset. Where
    /// this peer is the only one (solo) that is always so; where nobody orders changes (CRDT) it is not promised. Both
    /// return at once.
    ///
    /// It waits no longer than a write may take, and changes no pin. Cancel-safe: who stops waiting can call it again.
    ///
    /// The default is for implementations without an order. It does not know of a shutdown: one that is to pass the
    /// conformance suite says `ShutDown` itself.
    ///
    /// # Errors
    /// `Unavailable` when there is no quorum, or the service does not answer, in time, or what it has does not get here;
    /// `Conflict` when this peer is no member any more; `Io`, `StorageFull` when this peer cannot store it; `ShutDown`.
    async fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// Changes from now on, each after it is visible in the state, and a change that a call here made before that call
    /// returns: the cluster then has told its tracker of it when the user is answered. Bounded;
    /// [`StateEvent::Resync`] after an overflow. Ends at shutdown.
    fn events(&self) -> BoxStream<'static, StateEvent>;

    /// The newest of a history of changes, with their heights, in ascending order, where there is a history: two peers
    /// with the same have seen the same. In memory: answers at once.
    fn heads(&self) -> Vec<(Cid, u64)> {
        Vec::new()
    }

    /// Members, this peer included, in ascending order.
    ///
    /// # Errors
    /// `Conflict` when this peer can take part no more as it is, because the members know its identity with another state: it
    /// stops then. `Unavailable`, `ShutDown`.
    async fn peers(&self) -> Result<Vec<PeerId>>;

    /// Whether this peer could be a member together with another one. Asked before that one is asked to add this peer:
    /// whoever is added and cannot take part may cost the others their quorum.
    ///
    /// # Errors
    /// `Conflict` when it could not, and why; `Unavailable`, `Timeout` when that is not known now; `ShutDown`.
    async fn check_joinable(&self, _peer: &PeerId) -> Result<()> {
        Ok(())
    }

    /// Makes a peer a member; one that is already is Ok.
    ///
    /// # Errors
    /// `Unsupported` without `membership_changes`; `Unavailable`, `ShutDown`.
    async fn add_peer(&self, peer: &PeerId) -> Result<()>;

    /// Ends a membership; an absent peer is Ok.
    ///
    /// # Errors
    /// `Unsupported` without `membership_changes`; `Conflict` for the last member; `Unavailable`, `ShutDown`.
    async fn remove_peer(&self, peer: &PeerId) -> Result<()>;

    /// The leader, where there is one.
    ///
    /// # Errors
    /// `Unsupported` without `leader`; `Unavailable`, `ShutDown`.
    async fn leader(&self) -> Result<Option<PeerId>>;

    /// Whether a peer may change our state. Asked for every request, so it answers at once. We trust ourselves.
    fn is_trusted(&self, peer: &PeerId) -> bool;

    /// Trusts a peer from now on.
    ///
    /// # Errors
    /// `Unsupported` without `trust`.
    async fn trust(&self, peer: &PeerId) -> Result<()>;

    /// Stops trusting a peer.
    ///
    /// # Errors
    /// `Unsupported` without `trust`; `InvalidInput` for ourselves.
    async fn distrust(&self, peer: &PeerId) -> Result<()>;

    /// Forgets everything on disk, the pinset included.
    ///
    /// # Errors
    /// `Io`, `StorageFull`, `ShutDown`.
    async fn clean(&self) -> Result<()>;

    /// Finishes what was accepted and stops. Idempotent, and every caller returns only when it has stopped; calls
    /// after it are `ShutDown`, but the state can still be read.
    ///
    /// # Errors
    /// What kept accepted operations from being finished.
    async fn shutdown(&self) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Consensus + ?Sized> Consensus for Arc<T> {
    fn capabilities(&self) -> ConsensusCapabilities {
        (**self).capabilities()
    }
    async fn ready(&self) -> Result<()> {
        (**self).ready().await
    }
    async fn log_pin(&self, pin: Pin) -> Result<()> {
        (**self).log_pin(pin).await
    }
    async fn log_unpin(&self, cid: &Cid) -> Result<Option<Arc<Pin>>> {
        (**self).log_unpin(cid).await
    }
    async fn log_many(&self, operations: Vec<PinOperation>) -> Result<()> {
        (**self).log_many(operations).await
    }
    fn state(&self) -> Arc<dyn StateReader> {
        (**self).state()
    }
    async fn synchronize(&self) -> Result<()> {
        (**self).synchronize().await
    }
    fn events(&self) -> BoxStream<'static, StateEvent> {
        (**self).events()
    }
    fn heads(&self) -> Vec<(Cid, u64)> {
        (**self).heads()
    }
    async fn peers(&self) -> Result<Vec<PeerId>> {
        (**self).peers().await
    }
    async fn check_joinable(&self, peer: &PeerId) -> Result<()> {
        (**self).check_joinable(peer).await
    }
    async fn add_peer(&self, peer: &PeerId) -> Result<()> {
        (**self).add_peer(peer).await
    }
    async fn remove_peer(&self, peer: &PeerId) -> Result<()> {
        (**self).remove_peer(peer).await
    }
    async fn leader(&self) -> Result<Option<PeerId>> {
        (**self).leader().await
    }
    fn is_trusted(&self, peer: &PeerId) -> bool {
        (**self).is_trusted(peer)
    }
    async fn trust(&self, peer: &PeerId) -> Result<()> {
        (**self).trust(peer).await
    }
    async fn distrust(&self, peer: &PeerId) -> Result<()> {
        (**self).distrust(peer).await
    }
    async fn clean(&self) -> Result<()> {
        (**self).clean().await
    }
    async fn shutdown(&self) -> Result<()> {
        (**self).shutdown().await
    }
}
