//! The log: puts changes in one order and on disk.
//!
//! It is kept the way logs are once they are compacted: the pinset after the last entry, that entry's number, and in memory
//! the last few entries for those who follow. Who is farther behind takes a copy of the pinset.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipfs_cluster::clock::WallClock;
use ipfs_cluster::consensus::{ConsensusContext, OPERATIONS_MAX};
use ipfs_cluster::state::{State, StateChange, StateReader as _, StoreState};
use ipfs_cluster::storage::{self, Batch, Space, Storage};
use ipfs_cluster::types::{PeerId, PinOperation};
use ipfs_cluster::{Error, ErrorKind, Result};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::follower::Follower;
use super::members::{self, Members, Membership};
use super::{BUFFERED_EVENTS_MAX, COMPONENT, FollowerParts, SharedLog};

/// Calls that wait for the sequencer; more wait in their callers.
const WAITING_CALLS_MAX: usize = 1024;

/// Entries kept for followers; one that falls farther behind takes a copy of the pinset.
pub(super) const KEPT_ENTRIES_MAX: usize = 64;

/// Where a store keeps our records beside the pinset.
const SPACE: Space = Space::new("shared-log");
/// In the sequencer's store: which log this is, and the number of its last entry.
const LOG: &[u8] = b"log";
/// In a peer's store: of which log its pinset is a copy, and up to which entry.
const COPY: &[u8] = b"copy";
/// In the sequencer's store: who may not join.
const REMOVED: &[u8] = b"removed";

/// A totally ordered log of changes to one pinset, for all peers of one process. Clones are the same log.
#[derive(Clone)]
pub struct Sequencer {
    calls: mpsc::Sender<Call>,
    pub(super) shared: Arc<Shared>,
}

/// What peers and the task that appends have in common.
pub(super) struct Shared {
    /// Locked while entries are appended, and by who takes a copy.
    pub(super) log: tokio::sync::Mutex<Log>,
    members: Mutex<Members>,
}

impl fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequencer").field("peers", &self.peers()).finish_non_exhaustive()
    }
}

impl Sequencer {
    /// Opens the log in a store of its own, or begins one, and starts the task that appends to it. The task ends when the
    /// log and all peers on it are dropped.
    ///
    /// # Errors
    /// `InvalidInput` for the store of a peer; those of [`StoreState::open`].
    pub async fn open(storage: impl Storage, clock: &dyn WallClock) -> Result<Self> {
        let storage: Arc<dyn Storage> = Arc::new(storage);
        if Mark::read(&storage, COPY).await?.is_some() {
            return Err(Error::invalid_input(
                "this store belongs to a peer of a shared log; give the log a store of its own",
            )
            .component(COMPONENT));
        }
        let state = StoreState::open(Arc::clone(&storage)).await?;
        let mark = match Mark::read(&storage, LOG).await? {
            Some(mark) => mark,
            None => {
                // Number 1, so that a peer that never copied (number 0) is behind even when nothing was logged: the store
                // may have had a pinset before it became a log.
                let begun = Mark { log: clock.now().unix_nanoseconds(), number: 1 };
                state.apply(Vec::new(), begun.record(LOG)).await?;
                begun
            }
        };
        let removed = storage::run(Arc::clone(&storage), |storage| storage.get(SPACE, REMOVED)).await?;
        let removed = removed.map(|record| members::decode(&record)).transpose()?.unwrap_or_default();
        let members = Members::without(removed);
        let (entries, _) = broadcast::channel(KEPT_ENTRIES_MAX);
        let log = Log { storage, state, mark, unsure: 0, entries };
        let shared = Arc::new(Shared { log: tokio::sync::Mutex::new(log), members: Mutex::new(members) });
        let (calls, waiting) = mpsc::channel(WAITING_CALLS_MAX);
        tokio::spawn(append_calls(Arc::clone(&shared), waiting));
        Ok(Self { calls, shared })
    }

    /// Makes a peer follow this log: for [`consensus_with`](ipfs_cluster::cluster::ClusterBuilder::consensus_with). Its
    /// copy of the pinset is up to date when this returns. While a copy is taken, nobody appends.
    ///
    /// # Errors
    /// `Conflict` when the peer has joined already or was removed, or its store has a pinset that does not come from this log;
    /// `InvalidInput` for the log's own store; those of [`State::replace`].
    pub async fn join(&self, cx: ConsensusContext) -> Result<SharedLog> {
        let membership = Membership::begin(&self.shared, cx.peer)?;
        if Mark::read(&cx.storage, LOG).await?.is_some() {
            return Err(Error::invalid_input(
                "this store holds a shared log; give the peer a store of its own",
            )
            .component(COMPONENT));
        }
        let copy = cx.state;
        let mark = Mark::read(&cx.storage, COPY).await?;

        let log = self.shared.log.lock().await;
        let known = mark.filter(|mark| mark.log == log.mark.log && mark.number <= log.mark.number);
        if known.is_none() {
            // To copy over it would be to lose it.
            if copy.counts().pins > 0 {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "this peer has a pinset that does not come from this log; export it, start the peer in an empty \
                     folder and import it",
                )
                .component(COMPONENT));
            }
            // Says whose copy it is before the first pin of it is there, should we be interrupted.
            let mark = Mark { log: log.mark.log, number: 0 };
            copy.apply(Vec::new(), mark.record(COPY)).await?;
        }
        let (cleans, asked_to_clean) = mpsc::channel(1);
        let (events, _) = broadcast::channel(BUFFERED_EVENTS_MAX);
        let (applied_sender, applied) = watch::channel(log.mark.number);
        let weak_events = events.downgrade();
        let mut follower = Follower {
            shared: Arc::clone(&self.shared),
            copy: Arc::clone(&copy),
            mark: log.mark,
            entries: log.entries.subscribe(),
            asked_to_clean,
            events,
            applied: applied_sender,
        };
        if known != Some(log.mark) {
            follower.take_copy(&log).await?;
        }
        drop(log);
        let stop = CancellationToken::new();
        let parts = FollowerParts { follower, membership, cleans, events: weak_events, applied, stop };
        Ok(SharedLog::start(cx.peer, self.clone(), copy, parts))
    }

    /// The peers that have joined, in ascending order.
    pub fn peers(&self) -> Vec<PeerId> {
        self.shared.members().joined().collect()
    }

    /// Whether a peer has joined.
    pub fn has_peer(&self, peer: &PeerId) -> bool {
        self.shared.members().has(peer)
    }

    /// Ends a membership and keeps the peer out, or lets it in again: on disk, then so.
    pub(super) async fn keep_out(&self, peer: &PeerId, is_out: bool) -> Result<()> {
        // Whoever changes members holds this, so nobody else does meanwhile.
        let mut log = self.shared.log.lock().await;
        let removed = {
            let members = self.shared.members();
            if is_out { members.removed_with(peer)? } else { members.removed_without(peer) }
        };
        log.write_removed(&removed).await?;
        self.shared.members().keep_out(removed);
        Ok(())
    }

    /// Closes the log's store, so that another process can open it. Peers that still run are refused from then on.
    ///
    /// # Errors
    /// As [`Storage::close`].
    pub async fn close(&self) -> Result<()> {
        let log = self.shared.log.lock().await;
        storage::run(Arc::clone(&log.storage), |storage| storage.close()).await
    }

    /// Appends one entry. Returns once it is on disk; a dropped call may still be appended.
    pub(super) async fn append(&self, operations: Vec<PinOperation>) -> Result<Appended> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::internal("the sequencer ended before its time").component(COMPONENT);
        self.calls.send(Call { operations, reply }).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The number of the last entry: everything that was acknowledged has this one or one before it.
    pub(super) async fn end(&self) -> u64 {
        self.shared.log.lock().await.mark.number
    }
}

impl Shared {
    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        // Members are whole, whoever panicked.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Tells logs apart: when it was begun, in Unix nanoseconds.
    log: i64,
    /// Of the last entry.
    pub(super) number: u64,
}

impl Mark {
    async fn read(storage: &Arc<dyn Storage>, key: &'static [u8]) -> Result<Option<Self>> {
        let Some(record) = storage::run(Arc::clone(storage), |storage| storage.get(SPACE, key)).await? else {
            return Ok(None);
        };
        match record.split_first_chunk().map(|(log, rest)| (log, rest.try_into())) {
            Some((log, Ok(number))) => {
                Ok(Some(Self { log: i64::from_be_bytes(*log), number: u64::from_be_bytes(number) }))
            }
            _ => {
                let text = "the place in the shared log is unreadable; start in an empty folder";
                Err(Error::new(ErrorKind::Corrupt, text).component(COMPONENT))
            }
        }
    }

    fn record(self, key: &'static [u8]) -> Batch {
        let mut batch = Batch::new();
        batch.put(SPACE, key, [self.log.to_be_bytes(), self.number.to_be_bytes()].concat());
        batch
    }

    /// To be written with the pins that it stands for.
    pub(super) fn of_copy(self) -> Batch {
        self.record(COPY)
    }
}

/// What one call, or several that shared a sync, changed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) operations: Arc<Vec<PinOperation>>,
}

/// What became of a call.
#[derive(Debug)]
pub(super) struct Appended {
    /// The entry it is part of.
    pub(super) number: u64,
    /// One for each operation.
    pub(super) changes: Vec<StateChange>,
}

#[derive(Debug)]
struct Call {
    operations: Vec<PinOperation>,
    reply: oneshot::Sender<Result<Appended>>,
}

/// Appends what callers bring, as much of it at a time as has gathered meanwhile.
async fn append_calls(shared: Arc<Shared>, mut calls: mpsc::Receiver<Call>) {
    let mut waiting = Vec::new();
    while calls.recv_many(&mut waiting, WAITING_CALLS_MAX).await > 0 {
        while !waiting.is_empty() {
            let mut operations = 0;
            let fits = |call: &&Call| {
                operations += call.operations.len();
                operations <= OPERATIONS_MAX
            };
            // One call always fits.
            let together = waiting.iter().take_while(fits).count().max(1);
            let calls = waiting.drain(..together).collect();
            shared.log.lock().await.append_together(calls).await;
        }
    }
}

pub(super) struct Log {
    storage: Arc<dyn Storage>,
    /// The pinset after the last entry.
    pub(super) state: StoreState,
    pub(super) mark: Mark,
    /// Numbers after the mark of which nobody knows whether they are on disk.
    unsure: u64,
    pub(super) entries: broadcast::Sender<Entry>,
}

impl Log {
    /// Appends calls as one entry and answers each.
    async fn append_together(&mut self, calls: Vec<Call>) {
        let operations = calls.iter().flat_map(|call| call.operations.iter().cloned()).collect();
        match self.append(operations).await {
            Ok(changes) => {
                let (number, mut changes) = (self.mark.number, changes.into_iter());
                for call in calls {
                    let changes = changes.by_ref().take(call.operations.len()).collect();
                    // A caller that was dropped does not want to know.
                    let _ = call.reply.send(Ok(Appended { number, changes }));
                }
            }
            // One caller's pin is impossible: that is not the others' fault.
            Err(error)
                if calls.len() > 1
                    && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Corrupt) =>
            {
                for call in calls {
                    let result = self.append(call.operations).await;
                    let number = self.mark.number;
                    let _ = call.reply.send(result.map(|changes| Appended { number, changes }));
                }
            }
            Err(error) => {
                for call in calls {
                    let _ = call.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Appends one entry: on disk, then visible to followers.
    async fn append(&mut self, operations: Vec<PinOperation>) -> Result<Vec<StateChange>> {
        let next = self.next_mark();
        let result = self.state.apply(operations.clone(), next.record(LOG)).await;
        match &result {
            Ok(_) => {
                self.reached(next);
                // That nobody follows is fine.
                let _ = self.entries.send(Entry { number: next.number, operations: Arc::new(operations) });
            }
            Err(error) => self.failed(error),
        }
        result
    }

    /// Empties the pinset. Followers find out by the number that they miss.
    pub(super) async fn clear(&mut self) -> Result<()> {
        // The number first: interrupted in between, the log has a number without an entry, and followers copy.
        let next = self.next_mark();
        let cleared = match self.state.apply(Vec::new(), next.record(LOG)).await {
            Ok(_) => {
                self.reached(next);
                self.state.clear().await
            }
            Err(error) => Err(error),
        };
        cleared.inspect_err(|error| self.failed(error))
    }

    async fn write_removed(&mut self, removed: &BTreeSet<PeerId>) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(SPACE, REMOVED, members::encode(removed));
        let written = self.state.apply(Vec::new(), batch).await;
        written.map(drop).inspect_err(|error| self.failed(error))
    }

    fn next_mark(&self) -> Mark {
        Mark { number: self.mark.number + self.unsure + 1, ..self.mark }
    }

    fn reached(&mut self, mark: Mark) {
        self.mark = mark;
        self.unsure = 0;
    }

    /// What a refused batch would have written is not there. Of any other, nobody knows: its number is not used again, so
    /// that followers miss it and copy what the store says.
    fn failed(&mut self, error: &Error) {
        if error.kind() != ErrorKind::InvalidInput {
            self.unsure += 1;
        }
    }
}
