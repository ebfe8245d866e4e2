//! Blocks to all destinations at the same time, and somebody else in the place of one that fails.
//!
//! ```text
//! put ─▶ window (window.rs) ─┬▶ stream ─▶ peer: BlockStream RPC     each at its own pace, no further apart
//!                            ├▶ stream ─▶ peer                      than the window is long
//!                            └▶ stream ─▶ the daemon beside us
//! a stream fails or stalls ─▶ plan.rs (pure) ─▶ go on | another candidate | give up
//! ```
//!
//! The uploaded bytes pass once and are gone. Who takes a place early gets all blocks, because the window still has
//! them; who takes it later gets those to come, and what it lacks from the daemons of the others when it pins. So one
//! destination at least has to get everything from us.

mod plan;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use self::plan::{Next, Plan};
use self::window::{FeedId, Window};
pub use self::window::{LAST_STALL_TIMEOUT, STALL_TIMEOUT, WINDOW_BLOCKS_MAX, WINDOW_BYTES_MAX};
use super::{BlockSink, DagBlock};
use crate::error::{Error, ErrorKind, Result};
use crate::rpc::BLOCK_BYTES_MAX;
use crate::types::{Block, Cid, PeerId};

/// Most peers that blocks are streamed to; the others get them from these when they pin.
pub const DESTINATIONS_MAX: usize = 64;
/// How long a destination gets to notice that an add was given up.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(5);
/// How many of the last blocks are looked at for one that came already: importers repeat themselves.
const RECENT_BLOCKS: usize = 2;

const COMPONENT: &str = "adder";
/// The reference's text.
const ALL_FAILED: &str = "failed to put block on all destinations";

/// Where a DAG goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who gets the blocks from us. At least one.
    pub destinations: Vec<PeerId>,
    /// Who is told, and pins, if not the destinations.
    pub allocations: Option<Vec<PeerId>>,
    /// Fewest peers that must pin.
    pub min: usize,
    /// Whether others may take the place of those that fail.
    pub replaceable: bool,
}

/// Where the blocks of an add are that broke off, so that the rest can go there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Who has stored what it got.
    pub peers: Vec<PlacedPeer>,
    /// As in [`Choice`].
    pub allocations: Option<Vec<PeerId>>,
    /// As in [`Choice`].
    pub min: usize,
    /// As in [`Choice`].
    pub replaceable: bool,
    /// How many destinations there should be.
    pub places: usize,
}

/// One of [`Placed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedPeer {
    /// Who.
    pub peer: PeerId,
    /// It got every block.
    pub whole: bool,
}

/// What the destinations need of the peer that adds.
#[async_trait]
pub trait Placement: fmt::Debug + Send + Sync + 'static {
    /// Chooses where a DAG goes.
    ///
    /// # Errors
    /// `NotEnoughPeers`; whatever keeps it from choosing.
    async fn choose(&self) -> Result<Choice>;

    /// One more peer, none of `tried`; None when there is nobody.
    ///
    /// # Errors
    /// Whatever keeps it from choosing.
    async fn another(&self, tried: &[PeerId]) -> Result<Option<PeerId>>;

    /// Stores blocks on a peer's daemon, which may be this peer's; Ok when it has all of them. Dropping it, or an error in
    /// the stream, gives it up.
    ///
    /// # Errors
    /// What the peer or its daemon says; that it does not answer.
    async fn put_blocks(&self, peer: &PeerId, blocks: BoxStream<'static, Result<Block>>) -> Result<()>;
}

/// A sink that streams blocks to their destinations. Dropping it gives the add up: streams that are not finished end with
/// an error, so that who receives them does not keep what came.
#[derive(Debug)]
pub struct Destinations {
    placement: Arc<dyn Placement>,
    window: Arc<Window>,
    /// Where the blocks before these are.
    before: Option<Placed>,
    /// None before the first block.
    chosen: Option<Chosen>,
    streams: JoinSet<(FeedId, Result<()>)>,
    recent: [Option<Cid>; RECENT_BLOCKS],
    recent_next: usize,
    /// Why nothing more is taken.
    failed: Option<Error>,
    /// That is that nobody has all blocks, nor will.
    lost: bool,
}

#[derive(Debug)]
struct Chosen {
    plan: Plan,
    allocations: Option<Vec<PeerId>>,
    min: usize,
    replaceable: bool,
    /// Who is at the other end of each stream.
    peers: BTreeMap<FeedId, PeerId>,
    /// What the last one that failed said.
    reasons: Vec<String>,
}

impl Chosen {
    fn new(plan: Plan, allocations: Option<Vec<PeerId>>, min: usize, replaceable: bool) -> Self {
        Self { plan, allocations, min, replaceable, peers: BTreeMap::new(), reasons: Vec::new() }
    }
}

impl Destinations {
    /// A sink that chooses where to go when the first block comes.
    pub fn new(placement: Arc<dyn Placement>) -> Self {
        Self::with(placement, Window::new(), None)
    }

    fn with(placement: Arc<dyn Placement>, window: Arc<Window>, before: Option<Placed>) -> Self {
        Self {
            placement,
            window,
            before,
            chosen: None,
            streams: JoinSet::new(),
            recent: [None; RECENT_BLOCKS],
            recent_next: 0,
            failed: None,
            lost: false,
        }
    }

    /// A sink for the rest of an add. Those that have the beginning go on; in the place of one that is lost there comes
    /// somebody else, as long as one is left that has everything.
    pub fn of_rest(placement: Arc<dyn Placement>, before: Placed) -> Self {
        Self::with(placement, Window::of_rest(), Some(before))
    }

    /// Whether nothing more is taken, because nobody is left.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Where the blocks are, once [`Self::finish`] has returned Ok.
    pub fn placed(&self) -> Option<Placed> {
        let Chosen { plan, allocations, min, replaceable, .. } = self.chosen.as_ref()?;
        let peers = plan.who_stored().map(|(peer, whole)| PlacedPeer { peer, whole });
        Some(Placed {
            peers: peers.collect(),
            allocations: allocations.clone(),
            min: *min,
            replaceable: *replaceable,
            places: plan.places(),
        })
    }

    /// Ends the streams, waits until the destinations have stored what they got, and says who is to pin it. At least one
    /// of the destinations has every block then. Not cancel-safe.
    ///
    /// # Errors
    /// As [`BlockSink::put`].
    pub async fn finish(&mut self) -> Result<Vec<PeerId>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let finished = self.drain().await;
        self.keep(finished)?;
        Ok(self.allocations())
    }

    /// Peers that failed, when that is why nothing more is taken, and others could do better if they got the content from its
    /// beginning, which is no longer at hand here.
    pub fn lost(&self) -> Option<Vec<PeerId>> {
        let chosen = self.chosen.as_ref().filter(|chosen| self.lost && chosen.replaceable)?;
        (!self.window.is_whole()).then(|| chosen.plan.all_failed())
    }

    async fn drain(&mut self) -> Result<()> {
        self.begin().await?;
        self.window.finish();
        while let Some(ended) = self.streams.join_next().await {
            self.ended(ended).await?;
        }
        match &self.chosen {
            Some(chosen) if chosen.plan.is_stored() => Ok(()),
            _ => Err(self.all_failed()),
        }
    }

    async fn begin(&mut self) -> Result<()> {
        if self.chosen.is_some() {
            return Ok(());
        }
        if let Some(before) = self.before.take() {
            return self.go_on(before).await;
        }
        let Choice { mut destinations, allocations, min, replaceable } = self.placement.choose().await?;
        if destinations.is_empty() {
            return Err(Error::new(ErrorKind::NotEnoughPeers, "there is no peer to put blocks on")
                .component(COMPONENT));
        }
        let told =
            allocations.or_else(|| (destinations.len() > DESTINATIONS_MAX).then(|| destinations.clone()));
        destinations.truncate(DESTINATIONS_MAX);
        debug!(?destinations, ?told, min, "blocks go to");
        let plan = Plan::new(destinations.iter().map(|peer| (*peer, true)), min, replaceable);
        self.chosen = Some(Chosen::new(plan, told, min, replaceable));
        for peer in destinations {
            self.stream_to(peer, false);
        }
        Ok(())
    }

    /// Begins with those that have the blocks before, and tries to find somebody for each place that was lost.
    async fn go_on(&mut self, before: Placed) -> Result<()> {
        let Placed { mut peers, allocations, min, replaceable, places } = before;
        peers.truncate(DESTINATIONS_MAX);
        debug!(?peers, ?allocations, min, "the rest of the blocks goes to");
        let plan = Plan::new(peers.iter().map(|placed| (placed.peer, placed.whole)), min, replaceable);
        self.chosen = Some(Chosen::new(plan, allocations, min, replaceable));
        for PlacedPeer { peer, whole } in &peers {
            self.stream_to(*peer, *whole);
        }
        let missing = if replaceable { places.min(DESTINATIONS_MAX).saturating_sub(peers.len()) } else { 0 };
        for _ in 0..missing {
            let tried = self.chosen.as_ref().map(|chosen| chosen.plan.tried().to_vec()).unwrap_or_default();
            match self.placement.another(&tried).await {
                Ok(Some(peer)) => {
                    if let Some(chosen) = &mut self.chosen {
                        chosen.plan.join(peer);
                    }
                    self.stream_to(peer, false);
                }
                Ok(None) => break,
                Err(error) => {
                    warn!(%error, "nobody can be chosen for a place that was lost");
                    break;
                }
            }
        }
        Ok(())
    }

    fn stream_to(&mut self, peer: PeerId, has_beginning: bool) {
        let id = self.window.open(has_beginning);
        if let Some(chosen) = &mut self.chosen {
            chosen.peers.insert(id, peer);
        }
        let stream = stream_blocks(Arc::clone(&self.placement), Arc::clone(&self.window), id, peer);
        self.streams.spawn(async move {
            let ended = AssertUnwindSafe(stream).catch_unwind().await;
            let panicked = |_| Err(Error::internal("putting blocks panicked").component(COMPONENT));
            (id, ended.unwrap_or_else(panicked))
        });
    }

    async fn ended(
        &mut self,
        ended: std::result::Result<(FeedId, Result<()>), tokio::task::JoinError>,
    ) -> Result<()> {
        let (id, ended) = ended.map_err(|error| {
            Error::internal("a stream of blocks was ended").component(COMPONENT).with_source(error)
        })?;
        let Some(chosen) = &mut self.chosen else { return Ok(()) };
        let Some(peer) = chosen.peers.get(&id).copied() else { return Ok(()) };
        let Err(error) = ended else {
            chosen.plan.stored(&peer);
            return Ok(());
        };
        self.window.close(id);
        warn!(%peer, %error, "a destination of an add failed");
        chosen.reasons.push(format!("{peer}: {error}"));
        let from_start = self.window.is_whole();
        match chosen.plan.failed(&peer, from_start) {
            Next::GoOn => return Ok(()),
            Next::GiveUp => return Err(self.all_failed()),
            Next::Replace => {}
        }
        let tried = chosen.plan.tried().to_vec();
        let another = self.placement.another(&tried).await.unwrap_or_else(|error| {
            warn!(%error, "nobody can be chosen in its place");
            None
        });
        let Some(chosen) = &mut self.chosen else { return Ok(()) };
        if chosen.plan.replace(&peer, another, from_start) == Next::GiveUp {
            return Err(self.all_failed());
        }
        if let Some(another) = another {
            debug!(%peer, %another, from_start, "another destination takes its place");
            self.stream_to(another, false);
        }
        Ok(())
    }

    fn all_failed(&mut self) -> Error {
        self.lost = true;
        let reasons = self.chosen.as_ref().map(|chosen| chosen.reasons.as_slice()).unwrap_or_default();
        // The text is the reference's, which clients know; why is in the source and in the log.
        let mut text = ALL_FAILED.to_owned();
        if !self.window.is_whole() {
            let last = reasons.last().map(|reason| format!(" ({reason})")).unwrap_or_default();
            text += &format!(
                "{last}, and whoever took over would lack the beginning, which is gone: send the content again; with \
                 a higher replication factor one that fails does no harm"
            );
        }
        Error::new(ErrorKind::Unavailable, text).component(COMPONENT).with_source(reasons.join("; "))
    }

    async fn take(&mut self, block: Block) -> Result<()> {
        if block.data.len() > BLOCK_BYTES_MAX {
            return Err(Error::invalid_input(format!(
                "block {} has {} bytes, and peers take {BLOCK_BYTES_MAX} at most",
                block.cid,
                block.data.len()
            ))
            .component(COMPONENT));
        }
        if self.recent.contains(&Some(block.cid)) {
            return Ok(());
        }
        self.begin().await?;
        let cid = block.cid;
        let (window, mut waiting) = (Arc::clone(&self.window), block);
        loop {
            while let Some(ended) = self.streams.try_join_next() {
                self.ended(ended).await?;
            }
            let room = window.room();
            match window.push(waiting) {
                None => break,
                Some(block) => waiting = block,
            }
            tokio::select! {
                biased;
                Some(ended) = self.streams.join_next() => self.ended(ended).await?,
                () = room => {}
            }
        }
        self.recent[self.recent_next] = Some(cid);
        self.recent_next = (self.recent_next + 1) % RECENT_BLOCKS;
        Ok(())
    }

    /// After an error nothing more is taken, and what was sent is given up.
    fn keep<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.window.abandon();
            self.failed = Some(error.clone());
        }
        outcome
    }
}

#[async_trait]
impl BlockSink for Destinations {
    async fn put(&mut self, block: DagBlock) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let taken = self.take(block.block).await;
        self.keep(taken)
    }

    fn allocations(&self) -> Vec<PeerId> {
        match &self.chosen {
            None => Vec::new(),
            Some(Chosen { allocations: Some(allocations), .. }) => allocations.clone(),
            Some(chosen) => chosen.plan.allocations(),
        }
    }
}

impl Drop for Destinations {
    fn drop(&mut self) {
        self.window.abandon();
        // They end by themselves within a bounded time; aborted, they could not tell the other side anything.
        self.streams.detach_all();
    }
}

/// One destination, from its first block to its answer.
async fn stream_blocks(
    placement: Arc<dyn Placement>,
    window: Arc<Window>,
    id: FeedId,
    peer: PeerId,
) -> Result<()> {
    let mut put = placement.put_blocks(&peer, window.feed(id));
    let ended = tokio::select! {
        biased;
        ended = &mut put => ended,
        () = window.abandoned() => {
            let _ = timeout(LAST_WORDS_TIMEOUT, put).await;
            return Err(Error::new(ErrorKind::Cancelled, "the add was given up").component(COMPONENT));
        }
        waited = window.stalled(id) => {
            let text = format!("it took no block for {} s", waited.as_secs());
            return Err(Error::new(ErrorKind::Timeout, text).component(COMPONENT));
        }
    };
    ended?;
    if window.took_all(id) {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Remote, "it stopped before it had all blocks").component(COMPONENT))
    }
}

#[cfg(test)]
mod tests;
