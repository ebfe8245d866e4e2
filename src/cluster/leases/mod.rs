//! Storing the blocks of adds so that the daemon's garbage collection takes none before their root is pinned.
//!
//! Blocks come in streams, from other peers and from an add here, long before the root is pinned. They are cut into
//! segments; for each a *lease* is pinned first ([`IpfsConnector::hold`](crate::ipfs_connector::IpfsConnector::hold)),
//! and noted in the peer's store before that. There is no gap: a collection before the lease finds nothing of
//! ours, and the lease waits for one that runs; every later one sees it. A stream that fails is released at once, also
//! one that a killed peer left behind; one that ended well when its roots are pinned on this daemon, and after
//! [`LEASE_TTL`] at the latest. An upload that breaks off and goes on later is several streams that end well, which are
//! released together (`cover`), and none of them while its rest may be on its way.

mod cids;
mod cover;
mod manage;
mod notes;
mod records;
mod roots;
#[cfg(all(test, feature = "testing"))]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream, TryStreamExt as _};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::cover::{Step, Together};
use self::notes::Notes;
use self::roots::{Found, Roots};
use super::Inner;
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::dag;
use crate::ipfs_connector::lease_block;
use crate::storage::{self, Storage};
use crate::types::{Block, Cid, LeaseState as State, PinMode, Timestamp};

/// Bytes of blocks under one lease, where few streams run.
const SEGMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of blocks under one lease, where many streams run.
const SEGMENT_BYTES_MIN: usize = 1024 * 1024;
/// Bytes that the segments being gathered have together, as long as no more streams run than this has of the smallest.
const GATHERED_BYTES: usize = 64 * 1024 * 1024;
/// Blocks under one lease.
const SEGMENT_BLOCKS_MAX: usize = 1_536;
/// Leases of a stream that are being made at a time. Each waits for this peer's disk and then for the daemon's, and together
/// they wait once.
const HOLDS_AHEAD: usize = 6;
/// Leases of a peer at a time; streams fail when there are more.
pub const LEASES_MAX: usize = 65_536;
/// How long blocks of a stream that ended well wait for their root.
pub const LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// What all streams together link to and do not have, as far as it is remembered.
const MISSING_MAX: usize = 1 << 20;
/// How long a stream that waited long enough waits for the pin of another that may be the rest of it.
const REST_WAIT: Duration = Duration::from_secs(60 * 60);
/// Time from the end of a stream until it is looked whether its roots are pinned; then twice as long each time,
const LOOK_WAIT_MIN: Duration = Duration::from_secs(1);
/// up to this.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// Time until a release that failed is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(30);
/// Time after which a stream that failed is released once more: a lease that was being made then may have come after.
const SETTLE_WAIT: Duration = Duration::from_secs(60);

/// A lease, as a stream has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    number: u32,
    cid: Cid,
    blocks: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StreamKey([u8; 16]);

#[derive(Debug)]
struct Stream {
    since: Timestamp,
    leases: Vec<Held>,
    /// Numbers of leases that were used.
    numbers: u32,
    state: State,
    /// What its blocks link to and it does not have, sorted; empty where that is too much.
    missing: Arc<[cids::Key]>,
    /// When the last block came, where it is waited for roots.
    ended: Timestamp,
    /// The daemon was told.
    released: bool,
    /// When it is looked at next, and how long it was waited for that.
    look: Instant,
    waited: Duration,
}

impl Stream {
    fn new(since: Timestamp, state: State) -> Self {
        Self {
            since,
            leases: Vec::new(),
            numbers: 0,
            state,
            missing: Arc::default(),
            ended: since,
            released: false,
            look: Instant::now(),
            waited: Duration::ZERO,
        }
    }
}

/// The leases of a peer.
#[derive(Debug)]
pub(super) struct Leases {
    storage: Arc<dyn Storage>,
    notes: Notes,
    streams: Mutex<BTreeMap<StreamKey, Stream>>,
}

impl Leases {
    /// Finds what an earlier run left behind.
    pub(super) async fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let streams = storage::run(Arc::clone(&storage), records::load).await?;
        if !streams.is_empty() {
            let leases = streams.values().map(|stream| stream.leases.len()).sum::<usize>();
            info!(streams = streams.len(), leases, "found leases on blocks of earlier adds");
        }
        Ok(Self { storage, notes: Notes::default(), streams: Mutex::new(streams) })
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<StreamKey, Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, since: Timestamp) -> StreamKey {
        let mut streams = self.streams();
        let mut number = 0;
        loop {
            let key = StreamKey::new(since, number);
            if let Entry::Vacant(entry) = streams.entry(key) {
                entry.insert(Stream::new(since, State::Running));
                return key;
            }
            number += 1;
        }
    }

    /// Bytes of the next segment of any stream.
    fn segment_bytes(&self) -> usize {
        let streams = self.streams();
        let running = streams.values().filter(|stream| stream.state == State::Running).count();
        (GATHERED_BYTES / running.max(1)).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    fn next_number(&self, key: StreamKey) -> Result<u32> {
        let mut streams = self.streams();
        let count = streams.values().map(|stream| stream.leases.len()).sum::<usize>();
        if count >= LEASES_MAX {
            return Err(Error::new(
                ErrorKind::QueueFull,
                format!(
                    "this peer holds blocks of {count} adds' segments that nobody pinned; try again later"
                ),
            )
            .component("cluster"));
        }
        let stream = streams.get_mut(&key).ok_or_else(|| Error::internal("a stream of blocks got lost"))?;
        stream.numbers += 1;
        Ok(stream.numbers - 1)
    }

    fn end(&self, key: StreamKey, ended: Timestamp, found: Option<Found>) {
        let mut streams = self.streams();
        let remembered: usize = streams.values().map(|stream| stream.missing.len()).sum();
        let Some(stream) = streams.get_mut(&key) else { return };
        if stream.leases.is_empty() {
            streams.remove(&key);
            return;
        }
        stream.state = State::Failed;
        if let Some(Found { roots, missing }) = found {
            stream.waited = LOOK_WAIT_MIN;
            stream.missing =
                if remembered + missing.len() <= MISSING_MAX { missing.into() } else { Arc::default() };
            stream.state = State::Waiting { roots: roots.into() };
        }
        stream.look = Instant::now() + stream.waited;
        stream.ended = ended;
    }

    /// A stream that is to be looked at by now, or when the next one is.
    fn next(&self) -> Next {
        let now = Instant::now();
        let streams = self.streams();
        let ended = streams.iter().filter(|(_, stream)| stream.state != State::Running);
        match ended.min_by_key(|(_, stream)| stream.look) {
            None => Next::Nothing,
            Some((_, stream)) if stream.look > now => Next::At(stream.look),
            Some((key, stream)) => Next::Look(stream.look_at(*key)),
        }
    }

    /// Whether a stream that ended well waited long enough. Not while one may be the rest of what it is part of: one that
    /// began before that runs, or ended so lately that its roots may still have to be pinned.
    fn is_overdue(&self, key: StreamKey, ended: Timestamp, now: Timestamp) -> bool {
        if now.saturating_duration_since(ended) < LEASE_TTL {
            return false;
        }
        let may_be_rest = |(other, stream): (&StreamKey, &Stream)| {
            let began_in_time = stream.since < ended + LEASE_TTL;
            let is_recent = match stream.state {
                State::Running => true,
                State::Waiting { .. } => now.saturating_duration_since(stream.ended) < REST_WAIT,
                _ => false,
            };
            *other != key && began_in_time && is_recent
        };
        !self.streams().iter().any(may_be_rest)
    }

    fn look_later(&self, key: StreamKey, wait: impl FnOnce(Duration) -> Duration) {
        if let Some(stream) = self.streams().get_mut(&key) {
            stream.waited = wait(stream.waited);
            stream.look = Instant::now() + stream.waited;
        }
    }

    fn released(&self, key: StreamKey) {
        if let Some(stream) = self.streams().get_mut(&key) {
            stream.released = true;
            stream.look = Instant::now() + SETTLE_WAIT;
        }
    }
}

enum Next {
    Nothing,
    At(Instant),
    Look(Look),
}

/// What is known of a stream that ended.
struct Look {
    key: StreamKey,
    ended: Timestamp,
    released: bool,
    leases: Vec<Cid>,
    numbers: u32,
    state: State,
}

impl Stream {
    fn look_at(&self, key: StreamKey) -> Look {
        Look {
            key,
            ended: self.ended,
            released: self.released,
            leases: self.leases.iter().map(|lease| lease.cid).collect(),
            numbers: self.numbers,
            state: self.state.clone(),
        }
    }
}

/// A stream that runs; it failed unless it is said to have ended well.
struct Running {
    inner: Arc<Inner>,
    key: StreamKey,
    roots: Mutex<Roots>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let leases = &self.inner.leases;
        let failed = leases.streams().get(&self.key).is_some_and(|stream| stream.state == State::Running);
        if failed {
            leases.end(self.key, self.inner.clock.now(), None);
        }
        self.inner.wakes.leases.notify_one();
    }
}

impl Inner {
    /// Stores blocks on this peer's daemon and has it keep them until what they belong to is pinned. Ok when the daemon
    /// has all of them. Dropping the call is a failure of the stream: what came of it is released.
    ///
    /// # Errors
    /// The stream's own; what the daemon says; `QueueFull` when too much is held that nobody pinned.
    pub(super) async fn store_blocks(
        self: Arc<Self>,
        blocks: BoxStream<'static, Result<Block>>,
    ) -> Result<()> {
        self.store(blocks, |_| true).await
    }

    /// As [`Self::store_blocks`], but raw blocks are only held: somebody else stores them, afterwards.
    #[cfg(feature = "add")]
    pub(super) async fn store_nodes(
        self: Arc<Self>,
        blocks: BoxStream<'static, Result<Block>>,
    ) -> Result<()> {
        self.store(blocks, |block| block.cid.codec() != dag::CODEC_RAW).await
    }

    /// Holds all blocks, and stores some.
    async fn store(
        self: Arc<Self>,
        blocks: BoxStream<'static, Result<Block>>,
        is_stored: fn(&Block) -> bool,
    ) -> Result<()> {
        let key = self.leases.begin(self.clock.now());
        let running = Arc::new(Running { inner: Arc::clone(&self), key, roots: Mutex::default() });
        let held = held(Arc::clone(&running), blocks);
        let held = held.try_filter(move |block| std::future::ready(is_stored(block))).boxed();
        let stored = self.ipfs.put_blocks(held).await;
        // There is less room now, whatever went wrong.
        self.wakes.metrics.notify_waiters();
        stored?;
        let found = running.roots.lock().unwrap_or_else(PoisonError::into_inner).found();
        let (ended, noted) = (self.clock.now(), found.clone());
        let write = move |storage: &dyn Storage| records::put_end(storage, key, ended, &noted);
        if let Err(error) = storage::run(Arc::clone(&self.leases.storage), write).await {
            // They are stored all the same; after a restart they would be released too early.
            warn!(%error, "could not note that blocks wait to be pinned");
        }
        self.leases.end(key, ended, Some(found));
        Ok(())
    }

    /// Holds the blocks of a segment before any of them is stored.
    async fn hold(&self, key: StreamKey, segment: Vec<Block>) -> Result<Vec<Block>> {
        // What is in its own CID is not stored.
        let cids: Vec<Cid> = segment
            .iter()
            .map(|block| block.cid)
            .filter(|cid| cid.hash().code() != dag::HASH_IDENTITY)
            .collect();
        if cids.is_empty() {
            return Ok(segment);
        }
        let number = self.leases.next_number(key)?;
        // Of this peer, because others may use the same daemon, and of this segment of this stream.
        let holder = [&self.peer.to_bytes()[..], &key.0, &number.to_be_bytes()].concat();
        let lease = lease_block(cids.iter(), &holder);
        let held = Held {
            number,
            cid: lease.cid,
            blocks: segment.len() as u64,
            bytes: segment.iter().map(|block| block.data.len() as u64).sum(),
        };
        // From now on it counts, whatever becomes of the call.
        if let Some(stream) = self.leases.streams().get_mut(&key) {
            stream.leases.push(held.clone());
        }
        self.leases.notes.put(&self.leases.storage, key, held).await?;
        self.ipfs.hold(lease).await?;
        Ok(segment)
    }

    /// Releases what need not be held any more. When there is something to look at again.
    pub(super) async fn release_leases(&self) -> (Option<Instant>, Result<()>) {
        let mut outcome = Ok(());
        loop {
            let look = match self.leases.next() {
                Next::Nothing => return (None, outcome),
                Next::At(at) => return (Some(at), outcome),
                Next::Look(look) => look,
            };
            let key = look.key;
            if let Err(error) = self.look_at(look).await {
                debug!(%error, "could not release blocks of an add; trying again later");
                self.leases.look_later(key, |_| RETRY_WAIT);
                outcome = Err(error);
            }
        }
    }

    async fn look_at(&self, look: Look) -> Result<()> {
        let (key, now) = (look.key, self.clock.now());
        match look.state {
            State::Failed if !look.released => {
                self.ipfs.release(&look.leases).await?;
                debug!(leases = look.leases.len(), "released blocks of an add that failed");
                self.leases.released(key);
                return Ok(());
            }
            State::Failed => return self.let_go(look, "once more").await,
            State::Waiting { .. } if look.leases.is_empty() => {
                return self.let_go(look, "they were released by hand").await;
            }
            State::Waiting { .. } if self.leases.is_overdue(key, look.ended, now) => {
                return self.let_go(look, "nobody pinned them").await;
            }
            State::Waiting { .. } => {}
            _ => return Ok(()),
        }
        let covered = self.covered(key).await?;
        if !covered.contains(&key) {
            let longer = |waited: Duration| (waited * 2).clamp(LOOK_WAIT_MIN, LOOK_WAIT_MAX);
            self.leases.look_later(key, longer);
        }
        for key in covered {
            let Some(look) = self.leases.streams().get(&key).map(|stream| stream.look_at(key)) else {
                continue;
            };
            self.let_go(look, "they are pinned").await?;
        }
        Ok(())
    }

    /// Which streams need not be held any more, of those that have to do with this one.
    async fn covered(&self, key: StreamKey) -> Result<BTreeSet<StreamKey>> {
        let together = Together::of(&self.leases.streams(), key);
        let mut pinned = BTreeMap::new();
        loop {
            match together.step(&pinned) {
                Step::Covered(streams) => return Ok(streams),
                Step::Ask(root) => {
                    let is_pinned = self.ipfs.is_pinned(&root, PinMode::Recursive).await?;
                    pinned.insert(root, is_pinned);
                }
            }
        }
    }

    async fn let_go(&self, look: Look, why: &str) -> Result<()> {
        let Look { key, leases, numbers, .. } = look;
        self.ipfs.release(&leases).await?;
        debug!(leases = leases.len(), why, "released blocks of an add");
        let write = move |storage: &dyn Storage| records::remove(storage, key, numbers);
        storage::run(Arc::clone(&self.leases.storage), write).await?;
        self.leases.streams().remove(&key);
        Ok(())
    }
}

/// The blocks, each held before it comes.
fn held(
    running: Arc<Running>,
    blocks: BoxStream<'static, Result<Block>>,
) -> BoxStream<'static, Result<Block>> {
    segments(Arc::clone(&running), blocks)
        .map_ok(move |segment| {
            let running = Arc::clone(&running);
            async move { running.inner.hold(running.key, segment).await }
        })
        .try_buffered(HOLDS_AHEAD)
        .map_ok(|segment| stream::iter(segment).map(Ok))
        .try_flatten()
        .boxed()
}

/// Cuts the stream into what goes under one lease. Nobody waits for a block of it alone, so that a slow stream need not be
/// cut sooner.
fn segments(
    running: Arc<Running>,
    blocks: BoxStream<'static, Result<Block>>,
) -> BoxStream<'static, Result<Vec<Block>>> {
    // The last segment ends where the stream does, and the one after it asks again.
    stream::try_unfold((running, blocks.fuse()), |(running, mut blocks)| async move {
        let (mut segment, mut bytes) = (Vec::new(), 0);
        while segment.len() < SEGMENT_BLOCKS_MAX && bytes < running.inner.leases.segment_bytes() {
            let Some(block) = blocks.try_next().await? else { break };
            running.roots.lock().unwrap_or_else(PoisonError::into_inner).see(&block);
            bytes += block.data.len();
            segment.push(block);
        }
        Ok((!segment.is_empty()).then_some((segment, (running, blocks))))
    })
    .boxed()
}
