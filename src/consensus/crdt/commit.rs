//! The one task that writes: local operations and nodes of other peers, many of them in one durable batch.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, warn};

use super::COMPONENT;
use super::absorb::{Adoption, PinRecord, Recent};
use super::batching::Policy;
use super::heads::Heads;
use super::ledger::{Branch, Head, HeadChange};
use super::node::Node;
use super::records::{self, META};
use super::stage::{Memory, Stage, Staged};
use crate::consensus::StateEvent;
use crate::consensus::events::EventSender;
use crate::consensus::group::{self, Call, Inbox, Reply, Retry};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{State, StateChange};
use crate::storage::{self, Batch, Durability, Storage};
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::types::{Cid, PinOperation};

/// Most operations and entries of deltas of several callers that share one batch. A single call may have more.
const GROUP_OPERATIONS_MAX: usize = 4096;
/// About how many bytes of several callers share one batch. A single call may have more.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// An operation and the value it gives the pin, which the caller encoded.
#[derive(Clone, Debug)]
pub(super) struct LocalOperation {
    pub(super) operation: PinOperation,
    /// Empty for an unpin.
    pub(super) value: Bytes,
}

/// What is asked of the committer.
#[derive(Debug)]
pub(super) enum Work {
    /// Local operations, all or nothing.
    Apply(Vec<LocalOperation>),
    /// Nodes whose blocks were checked, heads, and which walks are unfinished then, all or nothing.
    Merge(Vec<Node>, HeadChange, Option<Vec<Branch>>),
    /// What another peer knows of some pins.
    Absorb(Vec<PinRecord>),
    /// Blocks that count as merged, and heads with them.
    Adopt(Adoption),
    /// Records of whoever asks.
    Write(Batch),
    /// Forget everything.
    Clean,
}

impl Work {
    /// How many operations, and about how many bytes they take; none for what is done alone.
    fn size(&self) -> Option<(usize, usize)> {
        match self {
            Self::Apply(operations) => Some(group::size(operations.iter().map(|local| &local.operation))),
            Self::Merge(nodes, ..) => Some(nodes.iter().fold((0, 0), |(count, bytes), node| {
                (count + node.delta.len() + 1, bytes + 2 * node.block.len())
            })),
            Self::Absorb(records) => Some(
                records.iter().fold((0, 0), |(count, bytes), record| (count + 1, bytes + record.bytes())),
            ),
            Self::Adopt(adoption) => Some((adoption.blocks.len() + 1, adoption.blocks.len() * 100)),
            Self::Write(_) | Self::Clean => None,
        }
    }

    /// Whether it revises what somebody saw.
    fn revises(&self) -> bool {
        let Self::Apply(operations) = self else { return false };
        operations.iter().any(|local| matches!(local.operation, PinOperation::Revise(_)))
    }

    /// Whether it is of this peer alone.
    const fn is_local(&self) -> bool {
        matches!(self, Self::Apply(_))
    }
}

type Answer = Vec<StateChange>;

/// What the rest of the component hears of.
#[derive(Debug)]
pub(super) struct Hooks {
    /// Changes of the pinset.
    pub(super) events: EventSender,
    /// The heads, for whoever asks.
    pub(super) heads: Heads,
    /// The newest head of ours. One that nobody looked at is below the next.
    pub(super) cut: watch::Sender<Option<Head>>,
    /// Blocks that are new here. Who asked for one asks again, so some may be lost.
    pub(super) blocks: mpsc::Sender<Vec<Cid>>,
    /// What was merged lately, for whoever gives others what is here.
    pub(super) recent: Arc<Recent>,
}

/// The committer.
#[derive(Debug)]
pub(super) struct Committer {
    storage: Arc<dyn Storage>,
    state: Arc<dyn State>,
    policy: Policy,
    inbox: Inbox<Work, Answer>,
    hooks: Hooks,
    memory: Arc<Memory>,
    /// After a write failed only the store knows what became of it.
    is_stale: bool,
    /// When it is tried again after a failure.
    retry: Retry,
}

impl Committer {
    /// Over what the store says.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        state: Arc<dyn State>,
        policy: Policy,
        inbox: Inbox<Work, Answer>,
        hooks: Hooks,
        memory: Memory,
    ) -> Self {
        hooks.heads.set(&memory.heads);
        let memory = Arc::new(memory);
        Self { storage, state, policy, inbox, hooks, memory, is_stale: false, retry: Retry::default() }
    }

    /// Works until it is stopped, everything accepted is done and everything that waited is cut. An error is what kept
    /// some of that from being done.
    pub(super) async fn run(mut self) -> Result<()> {
        loop {
            let deadline = self.deadline();
            let call = tokio::select! {
                biased;
                call = self.inbox.take() => call,
                () = group::until(deadline) => {
                    // Logged; it is tried again. What waits has its own time once it is known what that is.
                    let cut_all = !self.is_stale;
                    drop(self.commit(Vec::new(), cut_all).await);
                    continue;
                }
            };
            match call {
                // Its own caller is told.
                Some(call) => drop(self.serve(call).await),
                None => break,
            }
        }
        self.inbox.close();
        let mut result = Ok(());
        while let Some(call) = self.inbox.drain().await {
            result = result.and(self.serve(call).await);
        }
        if self.is_stale || self.memory.pending.operations > 0 {
            result = result.and(self.commit(Vec::new(), true).await);
        }
        result
    }

    /// When what waits is cut, or a failed write is looked after, if nothing happens before.
    fn deadline(&self) -> Option<Instant> {
        if self.is_stale {
            return self.retry.at();
        }
        let since = self.memory.pending.since?;
        let due = match self.policy {
            // It was left by a failure, or by a peer that batched.
            Policy::AtOnce => since,
            Policy::Batched { age, .. } => since + age,
        };
        Some(self.retry.at().map_or(due, |retry| retry.max(due)))
    }

    /// Serves a call, and with it those that wait and fit into its batch.
    async fn serve(&mut self, first: Call<Work, Answer>) -> Result<()> {
        let Some((mut operations, mut bytes)) = first.work.size() else {
            return self.serve_alone(first).await;
        };
        let mut revises = first.work.revises();
        let mut calls = vec![first];
        while let Some(call) = self.inbox.take_now() {
            // A delta is cut above all that is in its batch: what a revision did not look at must not be.
            let is_unseen = revises && !call.work.is_local();
            let fits = call.work.size().filter(|(more_operations, more_bytes)| {
                operations += more_operations;
                bytes += more_bytes;
                !is_unseen && operations <= GROUP_OPERATIONS_MAX && bytes <= GROUP_BYTES_MAX
            });
            revises |= call.work.revises();
            if fits.is_none() {
                self.inbox.put_back(call);
                break;
            }
            calls.push(call);
        }
        self.commit(calls, false).await
    }

    async fn serve_alone(&mut self, call: Call<Work, Answer>) -> Result<()> {
        let result = match call.work {
            Work::Write(batch) => {
                let write = move |storage: &dyn Storage| storage.write(batch, Durability::Synced);
                storage::run(self.storage.clone(), write).await
            }
            _ => self.clean().await.inspect_err(|_| self.retry.failed()),
        };
        call.reply.send(result.clone().map(|()| Vec::new()));
        result
    }

    /// Writes what some calls want in one batch, and a delta of everything that waits if that is due or wanted.
    async fn commit(&mut self, calls: Vec<Call<Work, Answer>>, cut_all: bool) -> Result<()> {
        let (works, replies): (Vec<Work>, Vec<Reply<Answer>>) =
            calls.into_iter().map(|call| (call.work, call.reply)).unzip();
        let works = Arc::new(works);
        let all = 0..works.len();
        match self.write(&works, all.clone(), cut_all).await {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    reply.send(Ok(answer));
                }
                Ok(())
            }
            // One caller's pin is impossible, or a record that it touches is unreadable: not the others' fault.
            Err(error)
                if works.len() > 1
                    && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Corrupt) =>
            {
                warn!(%error, "writing a batch call by call");
                let mut result = Ok(());
                for (index, reply) in all.zip(replies) {
                    let written = self.write(&works, index..index + 1, cut_all).await;
                    result = result.and(written.as_ref().map(drop).map_err(Error::clone));
                    reply.send(written.map(|answers| answers.into_iter().flatten().collect()));
                }
                result
            }
            Err(error) => {
                error!(%error, calls = works.len(), "a batch of operations was not written");
                for reply in replies {
                    reply.send(Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// The changes of each work.
    async fn write(
        &mut self,
        works: &Arc<Vec<Work>>,
        which: Range<usize>,
        cut_all: bool,
    ) -> Result<Vec<Answer>> {
        let written = self.try_write(works.clone(), which, cut_all).await;
        match &written {
            Ok(_) => self.retry.worked(),
            Err(_) => self.retry.failed(),
        }
        written
    }

    async fn try_write(
        &mut self,
        works: Arc<Vec<Work>>,
        which: Range<usize>,
        cut_all: bool,
    ) -> Result<Vec<Answer>> {
        let now = Instant::now();
        if self.is_stale {
            let changes = self.state.settle().await?;
            self.hooks.events.tell_changes(&changes);
            // Whatever is written beside the mark would be forgotten with the rest at the next start.
            if is_cleaning(&self.storage).await? {
                finish_cleaning(&self.storage, &self.state).await?;
                self.hooks.events.tell(StateEvent::Resync);
            }
            // What waits has waited since it came.
            let since = self.memory.pending.since.unwrap_or(now);
            let memory =
                storage::run(self.storage.clone(), move |storage| Memory::load(storage, since)).await?;
            self.hooks.heads.set(&memory.heads);
            (self.memory, self.is_stale) = (Arc::new(memory), false);
        }
        #[cfg(feature = "testing")]
        let removals = planted_removals(&works[which.clone()]);
        let (memory, policy, state) = (self.memory.clone(), self.policy, self.state.clone());
        let (staged, places) = storage::run(self.storage.clone(), move |storage| {
            stage(storage, &*state, &memory, &works[which], policy, now, cut_all)
        })
        .await?;
        let Staged { operations, batch, after, cut, blocks, merged, unreadable } = staged;
        self.hooks.recent.merging(&merged);
        let changes = if operations.is_empty() && batch.is_empty() {
            Vec::new()
        } else {
            let applied = self.state.apply(operations, batch).await;
            self.is_stale = applied.is_err();
            applied?
        };
        self.hooks.recent.merged();
        Arc::make_mut(&mut self.memory).update(after, now);
        if let Some((count, cid, error)) = unreadable {
            warn!(%cid, %error, count, "pins of other peers that cannot be read are left out");
        }
        self.hooks.heads.set(&self.memory.heads);
        self.hooks.events.tell_changes(&changes);
        #[cfg(feature = "testing")]
        for cid in removals {
            if let Some(pin) = self.state.get(&cid).await? {
                self.hooks.events.tell(StateEvent::Unpinned(Arc::new(pin)));
            }
        }
        if cut.is_some() {
            self.hooks.cut.send_replace(cut);
        }
        if !blocks.is_empty() {
            // Full: see there.
            let _ = self.hooks.blocks.try_send(blocks);
        }
        let answer =
            |place: Range<usize>| changes.get(place).map(<[StateChange]>::to_vec).unwrap_or_default();
        Ok(places.into_iter().map(answer).collect())
    }

    /// Forgets everything. What a failure leaves is removed before anything else is written, what a crash leaves at the
    /// next start.
    async fn clean(&mut self) -> Result<()> {
        self.is_stale = true;
        storage::run(self.storage.clone(), |storage| {
            let mut batch = Batch::new();
            batch.put(META, records::META_CLEANING, Bytes::new());
            storage.write(batch, Durability::Synced)
        })
        .await?;
        finish_cleaning(&self.storage, &self.state).await?;
        self.is_stale = false;
        self.memory = Arc::default();
        self.hooks.heads.set(&self.memory.heads);
        self.hooks.cut.send_replace(None);
        self.hooks.events.tell(StateEvent::Resync);
        Ok(())
    }
}

/// Whether everything is to be removed, and some may still be there.
pub(super) async fn is_cleaning(storage: &Arc<dyn Storage>) -> Result<bool> {
    storage::run(storage.clone(), |storage| Ok(storage.get(META, records::META_CLEANING)?.is_some())).await
}

/// Removes everything, and then the mark that says so.
pub(super) async fn finish_cleaning(storage: &Arc<dyn Storage>, state: &Arc<dyn State>) -> Result<()> {
    state.clear().await?;
    storage::run(storage.clone(), |storage| {
        records::CONTENT.into_iter().try_for_each(|space| storage.remove_space(space))?;
        let mut batch = Batch::new();
        for name in [
            records::META_DIRTY,
            records::META_PROGRESS,
            records::META_CAUGHT_UP,
            records::META_LACKING,
            records::META_CLEANING,
        ] {
            batch.delete(META, name);
        }
        storage.write(batch, Durability::Synced)
    })
    .await
}

/// Pins that a planted bug says are gone, whatever else keeps them in the set.
#[cfg(feature = "testing")]
fn planted_removals(works: &[Work]) -> Vec<Cid> {
    if !is_planted(Planted::LateRemovalUntracks) {
        return Vec::new();
    }
    let nodes = works.iter().flat_map(|work| match work {
        Work::Merge(nodes, ..) => nodes.as_slice(),
        _ => &[],
    });
    nodes.flat_map(|node| &node.delta.tombstones).map(|tombstone| tombstone.pin).collect()
}

/// What has to be written, and where the operations of each work are.
fn stage(
    storage: &dyn Storage,
    state: &dyn State,
    memory: &Memory,
    works: &[Work],
    policy: Policy,
    now: Instant,
    cut_all: bool,
) -> Result<(Staged, Vec<Range<usize>>)> {
    let mut stage = Stage::new(storage, state, memory);
    let mut places = Vec::with_capacity(works.len());
    for work in works {
        match work {
            Work::Apply(operations) => {
                // What nodes before it did is not its own.
                stage.show()?;
                let start = stage.operations();
                for local in operations {
                    stage.log(&local.operation, &local.value)?;
                }
                places.push(start..stage.operations());
            }
            Work::Merge(nodes, heads, _) => {
                nodes.iter().try_for_each(|node| stage.merge(node))?;
                stage.change_heads(heads)?;
                places.push(0..0);
            }
            Work::Absorb(records) => {
                records.iter().try_for_each(|record| stage.absorb(record))?;
                places.push(0..0);
            }
            Work::Adopt(adoption) => {
                stage.adopt(adoption)?;
                places.push(0..0);
            }
            Work::Write(_) | Work::Clean => {
                return Err(Error::internal("this work is done alone").component(COMPONENT));
            }
        }
    }
    let mut staged = stage.finish(policy, now, cut_all)?;
    let mut walks = works.iter().rev().find_map(|work| match work {
        Work::Merge(_, _, walks) => walks.clone(),
        _ => None,
    });
    let adopted =
        works.iter().filter_map(|work| if let Work::Adopt(adoption) = work { Some(adoption) } else { None });
    for branch in adopted.flat_map(|adoption| &adoption.walks) {
        let walks = match &mut walks {
            Some(walks) => walks,
            none => none.insert(match storage.get(META, records::META_PROGRESS)? {
                Some(record) => records::decode_progress(&record)?,
                None => Vec::new(),
            }),
        };
        if walks.iter().all(|walk| walk.tip.cid != branch.tip.cid) {
            walks.push(branch.clone());
        }
    }
    if let Some(walks) = walks {
        records::put_progress(&mut staged.batch, walks)?;
    }
    Ok((staged, places))
}
