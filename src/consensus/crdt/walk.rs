//! Gets what others announce: fetches down from their heads, many blocks at a time, and merges while it fetches.
//!
//! One task. A block's successors are asked for as soon as it is here, before it is merged, so a chain takes one
//! round trip a block, and the disk is never waited for between two of them. What has come while one merge was being
//! synced is the next one. Every merge carries, in its own batch, which walks are unfinished and what they still need,
//! so after a crash they go on where they were.
//!
//! A walk that comes no nearer to its end for two minutes is given up, as in the reference. Of what the reference then
//! forgets until a repair, the rest of a walk that has begun is remembered: it goes on when its head is announced again,
//! when a repair is due, and after a restart.

mod endings;
mod fetching;
mod merging;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{AbortHandle, BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::endings::Complaints;
use self::fetching::{Fetched, Looked};
use super::announce::{Announced, Inbox};
use super::frontier::{Frontier, Outcome, WALKS_MAX, WINDOW_BLOCKS, WINDOW_BLOCKS_MIN, Walk, WalkId};
use super::key::{Digest, block_digest};
use super::ledger::{Branch, Ledger};
use super::node::Node;
use super::trust::Trust;
use crate::error::{ErrorKind, Result};
use crate::exchange::BlockExchange;
use crate::types::{Cid, PeerId};

/// How long a walk may come no nearer to its end before it is given up, as in the reference.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// The same when others wait for its place.
const STALL_TIMEOUT_WHEN_FULL: Duration = Duration::from_secs(20);
/// Walks of one announcer at a time.
const WALKS_PER_SIGNER: usize = 8;
/// Walks from before a restart, or begun and given up once, at a time: new heads always find a place.
const WALKS_RESUMED: usize = WALKS_MAX / 2;
/// About how many bytes of blocks are on their way or wait to be merged.
const WINDOW_BYTES: usize = 64 << 20;
/// Blocks that wait to be merged before no more are asked for: what comes while two merges last, so that neither waits for
/// the other. With each merge all of them are looked through.
const READY_BLOCKS_MAX: usize = 2 * MERGE_BLOCKS_MAX;
/// What one merge takes at most. A sync takes as long as merging hundreds of blocks and is for all of them; who pins
/// meanwhile waits for the whole of it, which is a tenth of a second.
const MERGE_BLOCKS_MAX: usize = 2_048;
const MERGE_BYTES_MAX: usize = 8 << 20;
/// What is worth a merge at once; less waits for more. A sync takes as long as merging a hundred blocks, and nothing but a
/// reader of the pinset waits for it: the walk goes on meanwhile.
const MERGE_BLOCKS: usize = 256;
const MERGE_BYTES: usize = 1 << 20;
/// How long it waits.
const MERGE_LINGER: Duration = Duration::from_millis(20);
/// How long after a failed merge the next one is tried.
const MERGE_RETRY: Duration = Duration::from_secs(5);
/// How long after a failure of the ledger it is begun anew, at most.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Walks that are remembered when they cannot go on now, and the blocks that they need.
const PARKED_WALKS_MAX: usize = 256;
const PARKED_BLOCKS_MAX: usize = 16_384;
/// How long a head that was complained about is not complained about again, and how many such are remembered.
const COMPLAINT_MEMORY: Duration = Duration::from_secs(3_600);
const COMPLAINTS_MAX: usize = 1_024;
/// Complaints of all kinds in a minute; the rest is at debug level.
const COMPLAINTS_PER_MINUTE: u32 = 20;
/// How often time is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often a long walk says how far it is.
const PROGRESS_TICKS: u64 = 10;
/// Questions to the walker that wait.
pub(super) const REQUESTS_MAX: usize = 16;

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All of it is merged.
    Done,
    /// Some could not be got now.
    Missing,
    /// Some is not what it should be, and never will be.
    Broken,
}

/// What others ask of the walker.
#[derive(Debug)]
pub(super) enum Request {
    /// Merge a block and everything below it. No head changes.
    Fill { block: Cid, ended: oneshot::Sender<Ended> },
    /// Go on with walks that could not go on before.
    Resume,
    /// Remember these walks of another peer, to be gone on with when told. Answered when no merge forgets them, with what
    /// they are here: one whose tip was merged here makes no head, as whoever merged it saw to that.
    Take { walks: Vec<Branch>, taken: oneshot::Sender<Vec<Branch>> },
    /// These became heads without a walk.
    Adopted(Vec<Digest>),
}

/// How often the store was marked dirty since the start. Who clears the mark looks whether it was set meanwhile.
#[derive(Debug, Default)]
pub(super) struct DirtyCount(AtomicU64);

impl DirtyCount {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What the walker needs.
#[derive(Debug)]
pub(super) struct WalkerContext {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) exchange: Arc<dyn BlockExchange>,
    pub(super) trust: Arc<Trust>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) dirty: Arc<DirtyCount>,
    pub(super) cancel: CancellationToken,
}

struct Merging {
    group: Vec<Digest>,
    outcome: Outcome,
    bytes: usize,
}

/// The task. Create it, then [`Walker::run`] it.
pub(super) struct Walker {
    cx: WalkerContext,
    frontier: Frontier,
    fetches: FuturesUnordered<BoxFuture<'static, (Digest, Option<Fetched>)>>,
    fetching: BTreeMap<Digest, AbortHandle>,
    looks: FuturesUnordered<BoxFuture<'static, Looked>>,
    ready: VecDeque<Node>,
    ready_bytes: usize,
    ready_since: Option<Instant>,
    merging: Option<Merging>,
    merge: Option<BoxFuture<'static, Result<()>>>,
    /// No merge is tried before.
    pause: Option<Instant>,
    /// Merges of one block each, because one of those before was refused.
    singly: usize,
    /// Begun, and to be gone on with later.
    parked: BTreeMap<Digest, Branch>,
    /// Parked ones whose turn has come, and who has them.
    resuming: VecDeque<(Digest, Option<PeerId>)>,
    resumed: BTreeSet<WalkId>,
    waiting: BTreeMap<WalkId, oneshot::Sender<Ended>>,
    /// What the ledger remembers of unfinished walks; none when that is uncertain.
    recorded: Option<Vec<Branch>>,
    /// A walk that has begun was given up, so that record is not right any more.
    forgot: bool,
    complaints: Complaints,
    /// About how large blocks are.
    block_bytes: usize,
    ticks: u64,
    merged_before: u64,
    merged: u64,
}

impl Walker {
    /// A walker that has yet to read what was left unfinished.
    pub(super) fn new(cx: WalkerContext) -> Self {
        Self {
            cx,
            frontier: Frontier::default(),
            fetches: FuturesUnordered::new(),
            fetching: BTreeMap::new(),
            looks: FuturesUnordered::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            ready_since: None,
            merging: None,
            merge: None,
            pause: None,
            singly: 0,
            parked: BTreeMap::new(),
            resuming: VecDeque::new(),
            resumed: BTreeSet::new(),
            waiting: BTreeMap::new(),
            recorded: None,
            forgot: false,
            complaints: Complaints::default(),
            block_bytes: WINDOW_BYTES / WINDOW_BLOCKS,
            ticks: 0,
            merged_before: 0,
            merged: 0,
        }
    }

    /// Walks until it is cancelled or the ledger or the exchange is shut down. A merge that has begun is waited for. When
    /// the ledger fails it begins anew after a while, with what the ledger remembers of unfinished walks.
    pub(super) async fn run(mut self) {
        let mut pause = MERGE_RETRY;
        loop {
            let begun = Instant::now();
            let result = self.work().await;
            if let Some(merge) = self.merge.take() {
                // What it carries is on disk then or not at all; either way nothing is lost.
                drop(merge.await);
            }
            let error = match result {
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::ShutDown => return,
                Err(error) => error,
            };
            pause = if begun.elapsed() > RESTART_PAUSE_MAX { MERGE_RETRY } else { pause };
            warn!(%error, seconds = pause.as_secs(), "announcements are not followed for a while");
            self = self.anew();
            tokio::select! {
                biased;
                () = self.cx.cancel.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
    }

    /// A walker that knows nothing; those who wait for this one are told that it did not get what they want.
    fn anew(mut self) -> Self {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            let _ = waiting.send(Ended::Missing);
        }
        // What is being repaired is not whole until the walks that are remembered have been gone on with.
        self.cx.dirty.0.fetch_add(1, Ordering::SeqCst);
        Self::new(self.cx)
    }

    async fn work(&mut self) -> Result<()> {
        let cancel = self.cx.cancel.clone();
        let inbox = self.cx.inbox.clone();
        let recorded = self.cx.ledger.progress().await?;
        self.recorded = Some(recorded.clone());
        for branch in recorded {
            if let Some(tip) = block_digest(&branch.tip.cid) {
                self.parked.insert(tip, branch);
                self.resuming.push_back((tip, None));
            }
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.advance();
            let linger = self.next_merge_at();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                result = ended(&mut self.merge) => self.merge_ended(result).await?,
                Some(looked) = self.looks.next() => self.looked(looked).await?,
                _ = ticks.tick() => self.tick().await?,
                Some(request) = self.cx.requests.recv() => self.request(request).await?,
                () = inbox.filled() => {}
                Some((block, fetched)) = self.fetches.next() => {
                    self.fetched(block, fetched).await?;
                    // Those that are here too: their successors are looked up together.
                    for _ in 0..WINDOW_BLOCKS {
                        let Some(Some((block, fetched))) = self.fetches.next().now_or_never() else { break };
                        self.fetched(block, fetched).await?;
                    }
                }
                () = at(linger) => {}
            }
        }
    }

    /// Does everything that can be done without waiting.
    fn advance(&mut self) {
        self.take_heads();
        for block in self.frontier.dropped() {
            if let Some(fetch) = self.fetching.remove(&block) {
                fetch.abort();
            }
        }
        for block in self.frontier.unfold() {
            self.unfold(block);
        }
        // What waits for the disk keeps everybody from asking, what others wait for does not.
        if let Some(room) = self.room() {
            for ask in self.frontier.asks(room, WINDOW_BLOCKS_MIN) {
                self.fetch(ask);
            }
        }
        self.start_merge();
    }

    /// How many more blocks may be asked for; none when enough wait to be merged.
    fn room(&self) -> Option<usize> {
        let waiting = self.ready_bytes + self.merging.as_ref().map_or(0, |merging| merging.bytes);
        if self.ready.len() >= READY_BLOCKS_MAX || waiting >= WINDOW_BYTES {
            return None;
        }
        let by_bytes = (WINDOW_BYTES - waiting) / self.block_bytes.max(1);
        Some(WINDOW_BLOCKS.min(by_bytes).saturating_sub(self.frontier.asked()))
    }

    fn take_heads(&mut self) {
        let now = Instant::now();
        while self.resumed.len() < WALKS_RESUMED && self.frontier.len() < WALKS_MAX {
            let Some((tip, announcer)) = self.resuming.pop_front() else { break };
            if let Some(branch) = self.parked.remove(&tip)
                && let Some((walk, check)) = self.frontier.resume(&branch, announcer, now)
            {
                debug!(head = %branch.tip.cid, open = branch.open.len(), "goes on down the dag");
                self.resumed.insert(walk);
                self.look_up(check);
            }
        }
        while self.frontier.len() < WALKS_MAX {
            let mut walks: BTreeMap<PeerId, usize> = BTreeMap::new();
            for announcer in self.frontier.walks().filter_map(|(_, walk)| walk.announcer) {
                *walks.entry(announcer).or_default() += 1;
            }
            let has_place = |signer: &PeerId| walks.get(signer).is_none_or(|walks| *walks < WALKS_PER_SIGNER);
            let Some(announced) = self.cx.inbox.take(has_place) else { break };
            self.announced(announced, now);
        }
    }

    fn announced(&mut self, Announced { head, signer, at_once }: Announced, now: Instant) {
        if !self.cx.trust.is_trusted(&signer) || self.frontier.walks_from(&head).is_some() {
            return;
        }
        if self.parked.contains_key(&head) {
            if !self.resuming.iter().any(|(tip, _)| *tip == head) {
                self.resuming.push_back((head, Some(signer)));
            }
            return;
        }
        self.frontier.begin(head, Some(signer), at_once, false, now);
    }

    async fn request(&mut self, request: Request) -> Result<()> {
        match request {
            Request::Fill { block, ended } => match block_digest(&block) {
                // Repairs ask for one at a time, so this is one above the bound at most.
                Some(block) => {
                    let walk = self.frontier.begin(block, None, false, true, Instant::now());
                    self.waiting.insert(walk, ended);
                }
                None => drop(ended.send(Ended::Broken)),
            },
            Request::Take { mut walks, taken } => {
                let tips: Vec<Cid> = walks.iter().map(|walk| walk.tip.cid).collect();
                let merged = self.cx.ledger.is_processed(&tips).await?;
                for (walk, _) in walks.iter_mut().zip(merged).filter(|(_, is_merged)| *is_merged) {
                    if !walk.met.contains(&walk.tip.cid) {
                        walk.met.push(walk.tip.cid);
                    }
                }
                for walk in &walks {
                    if let Some(tip) = block_digest(&walk.tip.cid)
                        && self.parked.len() < PARKED_WALKS_MAX
                        && self.frontier.walks_from(&tip).is_none()
                    {
                        // Walks that have come by it cover it.
                        self.frontier.meet(tip);
                        self.parked.entry(tip).or_insert_with(|| walk.clone());
                    }
                }
                // Whoever asked may have gone.
                let _ = taken.send(walks);
            }
            Request::Adopted(heads) => {
                heads.iter().for_each(|head| self.frontier.became_head(head));
                // It may have been told of walks that are done by now.
                self.recorded = None;
                self.forgot = true;
            }
            Request::Resume => {
                let queued: BTreeSet<Digest> = self.resuming.iter().map(|(tip, _)| *tip).collect();
                let parked = self.parked.keys().filter(|tip| !queued.contains(*tip));
                self.resuming.extend(parked.map(|tip| (*tip, None)));
            }
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<()> {
        let now = Instant::now();
        self.ticks += 1;
        // Where the disk keeps us waiting, nobody else is to blame.
        let merging = self.merging.as_ref().map_or(&[][..], |merging| &merging.group);
        self.frontier.touch(merging, now);
        let is_full = self.frontier.len() >= WALKS_MAX && !self.cx.inbox.is_empty();
        let patience = if is_full { STALL_TIMEOUT_WHEN_FULL } else { STALL_TIMEOUT };
        let is_stalled = |walk: &Walk| now.saturating_duration_since(walk.progress) >= patience;
        let stalled: Vec<_> =
            self.frontier.walks().filter(|(_, walk)| is_stalled(walk)).map(|(id, _)| id).collect();
        for walk in stalled {
            let why = format!("nobody sent a block of it for {} s", patience.as_secs());
            self.give_up(walk, Ended::Missing, &why).await?;
        }
        if self.ticks.is_multiple_of(PROGRESS_TICKS) {
            if self.merged - self.merged_before >= 1_000 {
                let height = self.frontier.walks().map(|(_, walk)| walk.height).max().unwrap_or_default();
                info!(merged = self.merged, walks = self.frontier.len(), height, "walking down the dag");
            }
            self.merged_before = self.merged;
        }
        Ok(())
    }
}

async fn ended(merge: &mut Option<BoxFuture<'static, Result<()>>>) -> Result<()> {
    match merge {
        Some(merge) => merge.await,
        None => pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
