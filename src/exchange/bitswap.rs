//! Bitswap, as Go peers speak it: 1.2.0, and the versions before it towards peers that know nothing newer.
//!
//! Streams carry messages one way. What we say to a peer, questions and answers, goes on one stream that we open to it
//! and keep while there is something to say; what it says to us comes on streams that it opens. What a peer asked for
//! is remembered until it is answered or taken back, or the peer disconnects.

#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod incoming;
mod ledger;
mod link;
mod message;
mod wants;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::DropGuard;

use self::incoming::{Incoming, Server};
use self::ledger::Ledgers;
use self::message::{Dialect, inline_block, is_checkable};
use self::wants::{SessionId, WaiterId, Wants};
use super::{BlockExchange, BlockSource};
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::Tasks;
use crate::transport::{PeerTransport, Protocol, TransportEvent};
use crate::types::{Block, Cid, PeerId};

pub use self::message::BITSWAP_BLOCK_BYTES_MAX;

/// What streams are opened for, best first.
pub const BITSWAP_PROTOCOLS: [&str; 4] =
    ["/ipfs/bitswap/1.2.0", "/ipfs/bitswap/1.1.0", "/ipfs/bitswap/1.0.0", "/ipfs/bitswap"];
const DIALECTS: [Dialect; 4] = [Dialect::Presences, Dialect::Prefixes, Dialect::Bare, Dialect::Bare];

/// Most blocks that are wanted at a time; further calls wait for their turn.
pub const BITSWAP_WANTS_MAX: usize = 4_096;
/// Most blocks that one call of `get_many` wants at a time.
const WINDOW_BLOCKS_MAX: usize = 256;
/// And the fewest, however large they are.
const WINDOW_BLOCKS_MIN: usize = 4;
/// How many it wants at first; each that arrives makes room for two.
const WINDOW_BLOCKS_FIRST: usize = 32;
/// Bytes that one call of `get_many` may have on their way to it, by the size of the blocks that came.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;
/// How often is looked whether somebody else should be asked.
const TICK: Duration = Duration::from_secs(1);
/// How long the other side of a stream may take to go on.
const PATIENCE_WITH_STREAMS: Duration = Duration::from_secs(60);
/// Look-ups of providers that wait for their turn; more are made later.
const SEARCHES_QUEUED_MAX: usize = 64;
const SEARCHES_MAX: usize = 4;
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);

const COMPONENT: &str = "bitswap";

/// Gets blocks from peers that speak bitswap, and serves them, over any [`PeerTransport`].
///
/// A block is asked of the hint first. When it has it not, or sends nothing for a second, up to 64 connected peers are
/// asked who has it, and the transport who provides it. Who sends blocks nobody asked for is not asked for ten minutes.
///
/// Blocks over [`BITSWAP_BLOCK_BYTES_MAX`] do not travel, and Go peers take none over 2 MiB.
pub struct Bitswap {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

struct Inner {
    transport: Arc<dyn PeerTransport>,
    source: Arc<dyn BlockSource>,
    /// Permits are wants that are still possible.
    room: Semaphore,
    state: Mutex<State>,
    incoming: Mutex<BTreeMap<PeerId, Arc<Incoming>>>,
    /// How often blocks were announced here.
    announced: AtomicU64,
    /// Something is wanted.
    wake: Notify,
    tasks: Tasks,
}

#[derive(Default)]
struct State {
    wants: Wants,
    ledgers: Ledgers,
    /// Wakes the task that writes to a peer.
    links: BTreeMap<PeerId, Arc<Notify>>,
}

impl Bitswap {
    /// Serves `source` from now on. Its tasks run until it is shut down or dropped.
    ///
    /// # Errors
    /// `Conflict` when the transport has bitswap already; `ShutDown` when the transport is; `Internal` outside of a
    /// tokio runtime.
    pub fn new(transport: Arc<dyn PeerTransport>, source: Arc<dyn BlockSource>) -> Result<Self> {
        let tasks = Tasks::here("bitswap needs a tokio runtime for its streams", COMPONENT)?;
        let inner = Arc::new(Inner {
            transport,
            source,
            room: Semaphore::new(BITSWAP_WANTS_MAX),
            state: Mutex::default(),
            incoming: Mutex::default(),
            announced: AtomicU64::new(0),
            wake: Notify::new(),
            tasks,
        });
        let events = inner.transport.events();
        // The transport keeps the handler, so the handler must not keep the transport.
        let server = Arc::new(Server::new(&inner));
        for protocol in BITSWAP_PROTOCOLS {
            inner.transport.accept(Protocol::new(protocol), server.clone())?;
        }
        let connected = inner.transport.peers();
        inner.change(|state, now| state.wants.all_connected(&connected, now));
        let (searches, queue) = mpsc::channel(SEARCHES_QUEUED_MAX);
        inner.spawn(follow_connections(inner.clone(), events));
        inner.spawn(watch_the_time(inner.clone(), searches));
        inner.spawn(search(inner.clone(), queue));
        Ok(Self { _stop: inner.tasks.drop_guard(), inner })
    }
}

impl fmt::Debug for Bitswap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitswap").field("peer", &self.inner.transport.local_peer()).finish_non_exhaustive()
    }
}

#[async_trait]
impl BlockExchange for Bitswap {
    async fn get(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        let session = Session::begin(&self.inner, hint, false);
        session.get(*cid).await
    }

    async fn fetch(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        let session = Session::begin(&self.inner, hint, false);
        session.fetch(*cid, self.inner.announced.load(Ordering::SeqCst)).await
    }

    fn get_many(&self, cids: Vec<Cid>, hint: Option<PeerId>) -> BoxStream<'static, Result<Block>> {
        let mut seen = BTreeSet::new();
        let cids: Vec<Cid> = cids.into_iter().filter(|cid| seen.insert(*cid)).collect();
        let session = Arc::new(Session::begin(&self.inner, hint, cids.len() > WINDOW_BLOCKS_FIRST));
        let (mut cids, mut running, mut window) = (cids.into_iter(), FuturesUnordered::new(), Window::new());
        let mut ended = false;
        let blocks = async_stream::stream! {
            while !ended {
                while running.len() < window.blocks()
                    && let Some(cid) = cids.next()
                {
                    let session = session.clone();
                    running.push(async move { session.get(cid).await });
                }
                let Some(block) = running.next().await else { break };
                if let Ok(block) = &block {
                    window.came(block.data.len());
                }
                // After the shutdown the rest would all say the same.
                ended = block.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::ShutDown);
                yield block;
            }
        };
        blocks.boxed()
    }

    async fn announce(&self, cids: &[Cid]) -> Result<()> {
        self.inner.ensure_running()?;
        self.inner.announced.fetch_add(1, Ordering::SeqCst);
        for cid in cids {
            let wanted = self.inner.change(|state, _| {
                for peer in state.ledgers.announce(cid) {
                    self.inner.stir(state, peer);
                }
                state.wants.is_wanted(cid)
            });
            if wanted {
                self.inner.give_own(cid)?;
            }
        }
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.tasks.stop();
        {
            let mut state = self.inner.state();
            state.wants.clear();
            state.ledgers = Ledgers::default();
        }
        self.inner.tasks.ended().await;
        Ok(())
    }
}

/// How many blocks a call may have on their way.
struct Window {
    came: usize,
    /// The largest block lately.
    bytes: usize,
}

impl Window {
    fn new() -> Self {
        Self { came: 0, bytes: 0 }
    }

    fn came(&mut self, bytes: usize) {
        self.came += 1;
        self.bytes = bytes.max(self.bytes - self.bytes / 8);
    }

    fn blocks(&self) -> usize {
        let by_bytes = WINDOW_BYTES / self.bytes.max(1);
        by_bytes.min(WINDOW_BLOCKS_FIRST + self.came).clamp(WINDOW_BLOCKS_MIN, WINDOW_BLOCKS_MAX)
    }
}

/// One call, and what it learned about who has its blocks.
struct Session {
    inner: Arc<Inner>,
    id: SessionId,
}

impl Session {
    fn begin(inner: &Arc<Inner>, hint: Option<PeerId>, many: bool) -> Self {
        let hint = hint.filter(|hint| *hint != inner.transport.local_peer());
        let id = inner.change(|state, _| state.wants.begin(hint, many));
        Self { inner: inner.clone(), id }
    }

    async fn get(&self, cid: Cid) -> Result<Block> {
        self.inner.ensure_running()?;
        let announced = self.inner.announced.load(Ordering::SeqCst);
        match self.inner.own(&cid)? {
            Some(block) => Ok(block),
            None => self.fetch(cid, announced).await,
        }
    }

    /// A block that was not ours when so many had been announced.
    async fn fetch(&self, cid: Cid, announced: u64) -> Result<Block> {
        let inner = &self.inner;
        inner.ensure_running()?;
        if let Some(block) = inline_block(&cid) {
            return Ok(block);
        }
        if !is_checkable(&cid) {
            let text = format!(
                "cannot get {cid} from others: its hash function is unknown here, so nobody could check"
            );
            return Err(Error::new(ErrorKind::Unsupported, text).component(COMPONENT));
        }
        let waiting = async {
            let _room = inner.room.acquire().await.map_err(|_| Error::shut_down(COMPONENT))?;
            let (id, block) = inner.change(|state, now| state.wants.want(self.id, cid, now));
            let _waiter = Waiter { inner, cid, id };
            // It may have been announced before we were waiting for it.
            if inner.announced.load(Ordering::SeqCst) != announced
                && let Some(block) = inner.own(&cid)?
            {
                return Ok(block);
            }
            inner.wake.notify_one();
            block.await.map_err(|_| Error::shut_down(COMPONENT))
        };
        tokio::select! {
            biased;
            () = inner.tasks.stopped() => Err(Error::shut_down(COMPONENT)),
            block = waiting => block,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.inner.state().wants.end(self.id);
    }
}

/// Takes a want back when the call that made it is dropped.
struct Waiter<'a> {
    inner: &'a Arc<Inner>,
    cid: Cid,
    id: WaiterId,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.inner.change(|state, _| state.wants.drop_waiter(&self.cid, self.id));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ensure_running(&self) -> Result<()> {
        self.tasks.ensure_running(COMPONENT)
    }

    /// Runs a task that is dropped at the shutdown.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    fn own(&self, cid: &Cid) -> Result<Option<Block>> {
        Ok(self.source.get(cid)?.map(|data| Block { cid: *cid, data }))
    }

    /// Gives a block to those who wait for it, if it is ours.
    fn give_own(self: &Arc<Self>, cid: &Cid) -> Result<bool> {
        let Some(block) = self.own(cid)? else { return Ok(false) };
        for waiter in self.change(|state, _| state.wants.is_ours(cid)) {
            // It may just have been dropped.
            let _ = waiter.send(block.clone());
        }
        Ok(true)
    }

    /// Changes what we know, and sees to it that what is to be said now gets written.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state, Instant::now());
        for peer in state.wants.stirred() {
            self.stir(&mut state, peer);
        }
        result
    }

    /// Wakes the task that writes to a peer.
    fn stir(self: &Arc<Self>, state: &mut State, peer: PeerId) {
        if self.tasks.is_stopped() {
            return;
        }
        let notify = state.links.entry(peer).or_insert_with(|| {
            let notify = Arc::new(Notify::new());
            self.spawn(link::run(self.clone(), peer, notify.clone()));
            notify
        });
        notify.notify_one();
    }
}

/// Learns who is connected: who comes is asked for what everybody is asked for, and what those who go wanted is
/// forgotten.
async fn follow_connections(inner: Arc<Inner>, mut events: BoxStream<'static, TransportEvent>) {
    while let Some(event) = events.next().await {
        match event {
            TransportEvent::Connected(peer) => inner.change(|state, now| state.wants.connected(peer, now)),
            TransportEvent::Disconnected(peer) => inner.change(|state, now| {
                state.ledgers.forget_peer(&peer);
                state.wants.disconnected(peer, now);
            }),
            TransportEvent::Resync => {
                let connected = inner.transport.peers();
                inner.change(|state, now| {
                    for gone in state.ledgers.peers().iter().filter(|peer| !connected.contains(peer)) {
                        state.ledgers.forget_peer(gone);
                    }
                    state.wants.all_connected(&connected, now);
                });
            }
            TransportEvent::AddressesChanged(_) => {}
        }
    }
}

async fn watch_the_time(inner: Arc<Inner>, searches: mpsc::Sender<Cid>) {
    loop {
        if inner.state().wants.is_idle() {
            inner.wake.notified().await;
        }
        sleep(TICK).await;
        for cid in inner.change(|state, now| state.wants.tick(now)) {
            // It may have become ours after its caller looked and before it was wanted.
            if inner.give_own(&cid).unwrap_or_default() {
                continue;
            }
            // With no room it is looked for later.
            let _ = searches.try_send(cid);
        }
    }
}

/// Looks for peers that provide what nobody who is connected sends.
async fn search(inner: Arc<Inner>, queue: mpsc::Receiver<Cid>) {
    let queued = stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
    let search_one = |cid| {
        let inner = inner.clone();
        async move {
            match timeout(SEARCH_TIMEOUT, inner.transport.providers(&cid)).await {
                Ok(Ok(peers)) => inner.change(|state, now| {
                    let local = inner.transport.local_peer();
                    for peer in peers.into_iter().filter(|peer| *peer != local) {
                        state.wants.provides(peer, cid, now);
                    }
                }),
                Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => {}
                Ok(Err(error)) => tracing::debug!(%cid, %error, "cannot look for who provides a block"),
                Err(_) => tracing::debug!(%cid, "looking for who provides a block timed out"),
            }
        }
    };
    queued.for_each_concurrent(SEARCHES_MAX, search_one).await;
}

#[cfg(test)]
mod tests;
