//! The pinset as the result of the log.
//!
//! What an entry does to the pinset, how far the log has been applied, who the members are, and what is remembered of the
//! parts that were applied go into one batch, so a crash leaves all of an entry or nothing of it, and nothing happens
//! twice.
//!
//! That batch is not synced. What it is the result of is in the log, on disk, on a quorum; what a power cut takes back here
//! is applied again, because how far the pinset is goes back with it. It goes back to the last write to the store that was
//! synced at least, since that covers all before it: the next append to the log is one, and so is what says that the log
//! begins later from now on. So an entry is never removed before the pinset that has it is on disk (see `log`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use openraft::storage::RaftStateMachine;
use openraft::{
    EntryPayload, LogIdOptionExt as _, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageIOError,
};
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use super::command::{self, Operation, Part};
use super::difference::Difference;
use super::lineage::Known;
use super::log::{Failure, LogStore};
use super::records::{self, APPLIED, HAS_VOTED, MEMBERS, META, SEEN, Seen};
use super::snapshot::{Staged, Transfers};
use super::trim::Trim;
use super::types::{
    Answers, Entry, LogId, Membership, Node, Outcome, PartOutcome, StorageError, StoredMembership, Types,
    is_voter,
};
use super::wire::{Reader, corrupt, written};
use crate::consensus::StateEvent;
use crate::consensus::events::EventSender;
use crate::error::{ErrorKind, Result};
use crate::state::{PAGE_ITEMS_MAX, State, decode_pin_protobuf, encode_pin_protobuf};
use crate::storage::{self, Batch, Durability, Storage};
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::types::{Cid, Pin, PinOperation};

/// How far the log has been applied, and who the members were then.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Applied {
    pub(super) id: Option<LogId>,
    pub(super) members: StoredMembership,
    /// Whether this peer votes or did once: one that did and is in no list any more was removed, one that did not is yet
    /// to be added.
    pub(super) has_voted: bool,
}

impl Applied {
    /// The index of the first entry that has not been applied.
    pub(super) fn next(&self) -> u64 {
        self.id.map_or(0, |id| id.index + 1)
    }
}

/// How far it is now, for those who wait until it is further. They are woken in the order in which they came; those of a
/// `watch` channel are in any.
#[derive(Debug, Default)]
pub(super) struct Progress {
    now: RwLock<Applied>,
    news: Notify,
}

impl Progress {
    pub(super) fn borrow(&self) -> RwLockReadGuard<'_, Applied> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, now: Applied) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = now;
        self.news.notify_waiters();
    }

    /// Returns once the first entry that has not been applied is this one or a later one.
    pub(super) async fn until(&self, next: u64) {
        loop {
            let news = self.news.notified();
            if self.borrow().next() >= next {
                return;
            }
            news.await;
        }
    }
}

/// What is remembered of the parts of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SeenPeer {
    session: u64,
    floor: u64,
    /// Answers of those that were applied and are not below the floor, encoded.
    done: BTreeMap<u64, Bytes>,
}

/// What outlives a machine.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) node: Node,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) state: Arc<dyn State>,
    pub(super) events: Arc<EventSender>,
    /// Most changes that are told one by one when they come all at once.
    pub(super) events_max: usize,
    pub(super) applied: Arc<Progress>,
    pub(super) transfers: Arc<Transfers>,
    pub(super) failure: Failure,
    pub(super) starts: Arc<Known>,
    pub(super) trim: Arc<Trim>,
}

/// Applies entries.
#[derive(Debug)]
pub(super) struct Machine {
    at: Surroundings,
    log: LogStore,
    now: Applied,
    seen: BTreeMap<Node, SeenPeer>,
    /// Says when nothing is applied any more.
    _gone: DropGuard,
}

impl Machine {
    /// The machine of a store, with what became of a write that failed made certain.
    ///
    /// # Errors
    /// `Corrupt`, `StorageFull`, `Io`, `ShutDown`.
    pub(super) async fn open(at: Surroundings, log: LogStore, gone: DropGuard) -> Result<Self> {
        let untold = at.state.settle().await?;
        let (mut now, seen) = storage::run(at.storage.clone(), load).await?;
        now.has_voted |= is_voter(&at.node, now.members.membership());
        at.applied.set(now.clone());
        at.events.tell_changes(&untold);
        Ok(Self { at, log, now, seen, _gone: gone })
    }

    async fn apply_all(&mut self, entries: Vec<Entry>) -> Result<Vec<Outcome>> {
        let mut stage = Stage::new(self);
        let outcomes: Vec<Planned> = entries.into_iter().map(|entry| stage.entry(entry)).collect();
        stage.answer(&*self.at.state).await?;
        let Stage { now, seen, mut batch, operations, answers, .. } = stage;
        let outcomes = outcomes
            .into_iter()
            .map(|planned| Outcome(planned.into_iter().map(|part| part.outcome(&answers)).collect()))
            .collect();
        for (part, answers) in &answers {
            // A part below the floor of a later one is waited for by nobody.
            if seen.get(&part.0).is_some_and(|seen| seen.session == part.1 && seen.done.contains_key(&part.2))
            {
                Seen::Part(part.0, part.2, command::encode_answers(answers)).put(&mut batch);
            }
        }
        put_applied(&mut batch, &now);
        // Before it happens, so that whoever sees it happened finds it noted.
        self.at.transfers.touch(operations.iter().map(|operation| operation.operation.cid()));
        let operations = operations.into_iter().map(|operation| operation.operation).collect();
        let changes = self.at.state.apply_with(operations, batch, Durability::Buffered).await?;
        let mut seen = seen;
        for (part, answers) in answers {
            if let Some(done) = seen.get_mut(&part.0).and_then(|seen| seen.done.get_mut(&part.2)) {
                *done = command::encode_answers(&answers);
            }
        }
        (self.now, self.seen) = (now, seen);
        self.at.events.tell_changes(&changes);
        self.at.applied.set(self.now.clone());
        Ok(outcomes)
    }

    /// Applies again what a power cut took from the pinset, as far as it is known without the others that it was agreed on:
    /// what was known when an entry was last written and, where this peer is its own quorum, the whole log. `named` are the
    /// newest members that the log names.
    ///
    /// # Errors
    /// As applying.
    pub(super) async fn catch_up(&mut self, named: Option<&StoredMembership>) -> Result<()> {
        let members = named.filter(|named| named.log_id() > self.now.members.log_id());
        let members = members.unwrap_or(&self.now.members).membership();
        let is_alone = is_quorum_alone(&self.at.node, members);
        let upto = if is_alone { self.log.last() } else { self.log.committed() };
        let (first, end) = (self.now.next(), upto.map_or(0, |upto| upto.index + 1));
        while self.now.next() < end {
            let entries = self.log.entries(self.now.next(), end, false).await?;
            if entries.is_empty() {
                break;
            }
            self.apply_all(entries).await?;
        }
        if first < end {
            info!(entries = end - first, "applied again what the log has and the pinset did not");
        }
        Ok(())
    }

    fn meta(&self) -> Option<SnapshotMeta<Node, openraft::EmptyNode>> {
        let last = self.now.id?;
        Some(SnapshotMeta {
            last_log_id: Some(last),
            last_membership: self.now.members.clone(),
            snapshot_id: last.to_string(),
        })
    }

    async fn install(
        &mut self,
        meta: &SnapshotMeta<Node, openraft::EmptyNode>,
        staged: Staged,
    ) -> Result<()> {
        let Staged { sorter, seen, eras } = staged;
        let sorter = sorter.ok_or_else(|| corrupt("a snapshot without contents cannot be installed"))?;
        let members = meta.last_membership.clone();
        let has_voted = self.now.has_voted || is_voter(&self.at.node, members.membership());
        let now = Applied { id: meta.last_log_id, members, has_voted };
        #[cfg(feature = "testing")]
        let seen = if is_planted(Planted::SnapshotForgetsRequests) { Vec::new() } else { seen };
        let records =
            seen.iter().cloned().map(|(key, value)| Seen::decode(key, value)).collect::<Result<Vec<_>>>()?;
        let mut batch = storage::run(self.at.storage.clone(), |storage| {
            let mut batch = Batch::new();
            let old = records::all_seen(&*storage.snapshot()?)?;
            old.into_iter().for_each(|(key, _)| batch.delete(SEEN, key));
            Ok(batch)
        })
        .await?;
        records.iter().for_each(|record| record.put(&mut batch));
        let at = now.members.log_id().map_or(0, |id| id.index);
        self.at.starts.members_replaced(now.members.membership(), &eras, at, &mut batch);
        put_applied(&mut batch, &now);
        let sorted = storage::run(self.at.storage.clone(), |_| sorter.into_sorted()).await?;
        self.at.transfers.spoil();
        let view = storage::run(self.at.storage.clone(), |storage| storage.snapshot()).await?;
        let difference = Difference::new(self.at.state.clone(), view, self.at.events_max);
        let difference = Arc::new(Mutex::new(Some(difference)));
        let pins = pages(self.at.storage.clone(), sorted, difference.clone());
        let count = self.at.state.replace_with(pins, batch, Arc::new(|_| {})).await?;
        let changes = lock(&difference).take().map(Difference::into_events);
        self.seen = collect(records);
        self.now = now;
        info!(pins = count, "took over the pinset of the leader");
        for event in changes.unwrap_or_else(|| vec![StateEvent::Resync]) {
            self.at.events.tell(event);
        }
        self.at.applied.set(self.now.clone());
        Ok(())
    }
}

/// The entries that were received, as pages of pins. A value that is empty is a pin that is gone.
fn pages(
    storage: Arc<dyn Storage>,
    sorted: crate::state::sort::Sorted,
    difference: Arc<Mutex<Option<Difference>>>,
) -> BoxStream<'static, Result<Vec<Pin>>> {
    stream::try_unfold(Some(sorted), move |sorted| {
        let (storage, difference) = (storage.clone(), difference.clone());
        async move {
            let Some(mut sorted) = sorted else { return Ok(None) };
            storage::run(storage, move |_| {
                let mut difference = lock(&difference);
                let mut page = Vec::with_capacity(PAGE_ITEMS_MAX);
                for entry in sorted.by_ref() {
                    let (key, value) = entry?;
                    if !value.is_empty() {
                        let cid = Cid::try_from(&key[..])
                            .map_err(|source| corrupt("a key of a snapshot is no cid").with_source(source))?;
                        let pin = decode_pin_protobuf(&cid, &value)?;
                        if let Some(difference) = &mut *difference {
                            difference.next(&key, &value, &pin)?;
                        }
                        page.push(pin);
                    }
                    if page.len() == PAGE_ITEMS_MAX {
                        return Ok(Some((page, Some(sorted))));
                    }
                }
                if let Some(difference) = &mut *difference {
                    difference.end()?;
                }
                Ok(Some((page, None)))
            })
            .await
        }
    })
    .boxed()
}

fn lock(difference: &Mutex<Option<Difference>>) -> MutexGuard<'_, Option<Difference>> {
    difference.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put_applied(batch: &mut Batch, now: &Applied) {
    if let Some(id) = &now.id {
        records::put(batch, APPLIED, &written(|writer| writer.log_id(id)));
    }
    records::put(batch, MEMBERS, &written(|writer| writer.stored_membership(&now.members)));
    if now.has_voted {
        batch.put(META, HAS_VOTED, Bytes::new());
    }
}

/// Whether a peer needs nobody else to agree on anything.
fn is_quorum_alone(node: &Node, members: &Membership) -> bool {
    members.get_joint_config().len() == 1 && members.voter_ids().eq([*node])
}

fn load(storage: &dyn Storage) -> Result<(Applied, BTreeMap<Node, SeenPeer>)> {
    let snapshot = storage.snapshot()?;
    let id = records::get_in(&*snapshot, APPLIED, Reader::log_id)?;
    let members = records::get_in(&*snapshot, MEMBERS, Reader::stored_membership)?.unwrap_or_default();
    let records = records::all_seen(&*snapshot)?
        .into_iter()
        .map(|(key, value)| Seen::decode(key, value))
        .collect::<Result<Vec<_>>>()?;
    let has_voted = snapshot.get(META, HAS_VOTED)?.is_some();
    Ok((Applied { id, members, has_voted }, collect(records)))
}

fn collect(records: Vec<Seen>) -> BTreeMap<Node, SeenPeer> {
    let mut seen = BTreeMap::<Node, SeenPeer>::new();
    for record in records {
        match record {
            Seen::Peer(node, session, floor) => {
                let peer = seen.entry(node).or_default();
                (peer.session, peer.floor) = (session, floor);
            }
            Seen::Part(node, sequence, answers) => {
                seen.entry(node).or_default().done.insert(sequence, answers);
            }
        }
    }
    seen
}

/// Peer, session and sequence of a part.
type PartId = (Node, u64, u64);

/// What a part comes to, before it is known what is gone.
enum PlannedPart {
    Now(PartId),
    Before(Bytes),
    Stale(u64),
    Unreadable,
    NotMember,
}

type Planned = Vec<PlannedPart>;

impl PlannedPart {
    fn outcome(self, answers: &BTreeMap<PartId, Answers>) -> PartOutcome {
        match self {
            Self::Now(id) => answers.get(&id).cloned().map_or(PartOutcome::Unreadable, PartOutcome::Applied),
            Self::Before(encoded) => match super::wire::read(encoded, command::decode_answers) {
                Ok(answers) => PartOutcome::Applied(answers),
                Err(_) => PartOutcome::Unreadable,
            },
            Self::Stale(session) => PartOutcome::Stale(session),
            Self::Unreadable => PartOutcome::Unreadable,
            Self::NotMember => PartOutcome::NotMember,
        }
    }
}

/// Entries on their way into one batch.
struct Stage {
    at: Surroundings,
    now: Applied,
    seen: BTreeMap<Node, SeenPeer>,
    batch: Batch,
    operations: Vec<Operation>,
    /// The parts that the operations belong to: where each ends.
    parts: Vec<(PartId, usize)>,
    answers: BTreeMap<PartId, Answers>,
}

impl Stage {
    fn new(machine: &Machine) -> Self {
        Self {
            at: machine.at.clone(),
            now: machine.now.clone(),
            seen: machine.seen.clone(),
            batch: Batch::new(),
            operations: Vec::new(),
            parts: Vec::new(),
            answers: BTreeMap::new(),
        }
    }

    fn entry(&mut self, entry: Entry) -> Planned {
        self.now.id = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Membership(members) => {
                self.forget_others(&members);
                self.at.starts.members_changed(&members, entry.log_id.index, &mut self.batch);
                self.now.has_voted |= is_voter(&self.at.node, &members);
                self.now.members = StoredMembership::new(Some(entry.log_id), members);
                Vec::new()
            }
            EntryPayload::Normal(command) => match command::split(command.0) {
                Ok(parts) => parts.into_iter().map(|part| self.part(part)).collect(),
                Err(error) => {
                    warn!(%error, index = entry.log_id.index, "an entry of the log was left out");
                    Vec::new()
                }
            },
        }
    }

    /// Of peers that do not vote any more nothing is remembered, so what they still ask for is not applied (see
    /// [`Stage::part`]).
    fn forget_others(&mut self, members: &Membership) {
        let batch = &mut self.batch;
        self.seen.retain(|node, seen| {
            let stays = is_voter(node, members);
            if !stays {
                batch.delete(SEEN, records::seen_key(node));
                seen.done
                    .keys()
                    .for_each(|sequence| batch.delete(SEEN, records::answers_key(node, *sequence)));
            }
            stays
        });
    }

    fn part(&mut self, part: Bytes) -> PlannedPart {
        let part = match Part::decode(part) {
            Ok(part) => part,
            Err(error) => {
                warn!(%error, "a part of an entry of the log was left out");
                return PlannedPart::Unreadable;
            }
        };
        let (node, key) = (Node::of(part.key.origin), part.key);
        // It may have been applied before, and be here again because its answer was lost: of those that left nobody knows.
        // Those that are about to vote write nothing yet: they may join twice.
        if !is_voter(&node, self.now.members.membership()) {
            return PlannedPart::NotMember;
        }
        let seen = self.seen.entry(node).or_default();
        if key.session < seen.session {
            return PlannedPart::Stale(seen.session);
        }
        let batch = &mut self.batch;
        let mut forget = |sequence: u64| batch.delete(SEEN, records::answers_key(&node, sequence));
        if key.session > seen.session {
            std::mem::take(&mut seen.done).into_keys().for_each(&mut forget);
            (seen.session, seen.floor) = (key.session, key.floor);
        }
        #[cfg(feature = "testing")]
        if is_planted(Planted::RetryAppliedTwice) {
            seen.done.remove(&key.sequence);
        }
        let id = (node, key.session, key.sequence);
        if let Some(answers) = seen.done.get(&key.sequence) {
            // One that is applied at the same time has no answers yet.
            let is_staged = self.answers.contains_key(&id);
            return if is_staged { PlannedPart::Now(id) } else { PlannedPart::Before(answers.clone()) };
        }
        if key.sequence < seen.floor {
            // Nobody waits for it, and it may have been applied.
            return PlannedPart::Before(command::encode_answers(&Vec::new()));
        }
        if key.floor > seen.floor {
            seen.floor = key.floor;
            let kept = seen.done.split_off(&key.floor);
            std::mem::replace(&mut seen.done, kept).into_keys().for_each(&mut forget);
        }
        seen.done.insert(key.sequence, command::encode_answers(&Vec::new()));
        Seen::Peer(node, seen.session, seen.floor).put(&mut self.batch);
        self.operations.extend(part.operations);
        self.parts.push((id, self.operations.len()));
        self.answers.insert(id, Answers::new());
        PlannedPart::Now(id)
    }

    /// Finds out what will be gone, for those who want to know: it has to be written with what makes it go.
    async fn answer(&mut self, state: &dyn State) -> Result<()> {
        let mut shown = BTreeMap::<Cid, Option<Pin>>::new();
        for operation in self.operations.iter().filter(|operation| operation.tells) {
            let cid = *operation.operation.cid();
            if let std::collections::btree_map::Entry::Vacant(place) = shown.entry(cid) {
                place.insert(match state.get(&cid).await {
                    Ok(pin) => pin,
                    // It is damaged, but it is there.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        Some(Pin::new(cid, Default::default()))
                    }
                    Err(error) => return Err(error),
                });
            }
        }
        if shown.is_empty() {
            return Ok(());
        }
        let mut start = 0;
        for (part, end) in &self.parts {
            for operation in &self.operations[start..*end] {
                let Some(now) = shown.get_mut(operation.operation.cid()) else { continue };
                let applied = match &operation.operation {
                    PinOperation::Revise(revision) if now.as_ref() == Some(revision.seen()) => {
                        revision.operation()
                    }
                    other => other.clone(),
                };
                match applied {
                    PinOperation::Revise(_) => {}
                    PinOperation::Pin(pin) => *now = Some(stored(&pin)?),
                    PinOperation::Unpin(_) => {
                        let gone = now.take();
                        if operation.tells {
                            let gone = gone.map(|pin| encode_pin_protobuf(&pin).into());
                            self.answers.entry(*part).or_default().push(gone);
                        }
                    }
                }
            }
            start = *end;
        }
        Ok(())
    }
}

/// A pin as the pinset will have it.
fn stored(pin: &Pin) -> Result<Pin> {
    decode_pin_protobuf(&pin.cid, &encode_pin_protobuf(pin))
}

/// Says what a snapshot would be, which costs nothing: its contents are read when they are sent.
#[derive(Debug)]
pub(super) struct Builder {
    meta: Option<SnapshotMeta<Node, openraft::EmptyNode>>,
    trim: Arc<Trim>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let meta = self.meta.clone().unwrap_or_default();
        self.trim.built(meta.last_log_id.next_index());
        Ok(Snapshot { meta, snapshot: Box::default() })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.now.id, self.now.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let applied = async {
            // A quorum has them, if this peer's own disk does.
            let last = entries.last().map(|entry| entry.log_id);
            #[cfg(feature = "testing")]
            let last = last.filter(|last| {
                !is_planted(Planted::LeaderCountsUnwritten) || last.leader_id.node_id != self.at.node
            });
            if let Some(last) = last {
                self.log.until_written(last.index).await?;
            }
            self.apply_all(entries).await
        };
        applied.await.map_err(|error| self.at.failure.tell(error, StorageIOError::write_state_machine))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { meta: self.meta(), trim: self.at.trim.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Staged>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<Node, openraft::EmptyNode>,
        snapshot: Box<Staged>,
    ) -> Result<(), StorageError> {
        self.install(meta, *snapshot)
            .await
            .map_err(|error| self.at.failure.tell(error, StorageIOError::write_state_machine))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        Ok(self.meta().map(|meta| Snapshot { meta, snapshot: Box::default() }))
    }
}

#[cfg(test)]
mod tests;
