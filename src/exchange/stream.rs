//! Blocks over the streams of any transport.
//!
//! To ask a peer, an exchange opens one stream to it and keeps it while something is wanted; questions go one way,
//! answers the other. The asked side remembers what it could not answer for as long as the stream lives. Streams of
//! the other direction belong to the other side's questions.

#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod frame;
mod serving;
mod wants;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::DropGuard;

use self::frame::{Frame, FrameReader};
use self::serving::{Serving, SessionId, Wanted};
use self::wants::{WaiterId, Wants};
use super::{BlockExchange, BlockSource};
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::Tasks;
use crate::transport::{PeerStream, PeerTransport, Protocol, StreamHandler, TransportEvent};
use crate::types::{Block, Cid, PeerId, hash};

pub use self::frame::BLOCK_BYTES_MAX;

/// What the streams are opened for.
pub const BLOCKS_PROTOCOL: &str = "/ipfscluster-rs/blocks/1";
/// Most blocks that are wanted at a time; further calls wait for their turn.
pub const WANTS_MAX: usize = 16_384;
/// Most blocks that one call of `get_many` wants at a time.
const WINDOW_BLOCKS: usize = 256;
/// How often a waiting call looks whether somebody else should be asked.
const TICK: Duration = Duration::from_secs(1);
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other side may take nothing of what we write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stream of ours is kept when nothing is wanted of its peer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Questions that are written at once.
const WRITE_FRAMES: usize = 512;
/// Bytes of answers that are written at once, and at most one block more.
const ANSWER_BYTES: usize = 256 * 1024;

const COMPONENT: &str = "exchange";

/// Gets blocks from peers that run the same, over any [`PeerTransport`].
///
/// A block is fetched from the hint, or from the first peer that says it has it; everybody connected is asked when the
/// hint has it not or sends nothing for two seconds. Peers that connect later are asked too. Who sent bytes that do not
/// fit their CID is not asked for ten minutes.
///
/// Blocks over [`BLOCK_BYTES_MAX`] do not travel.
pub struct StreamExchange {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

struct Inner {
    transport: Arc<dyn PeerTransport>,
    source: Arc<dyn BlockSource>,
    protocol: Protocol,
    /// Permits are wants that are still possible.
    room: Semaphore,
    asking: Mutex<Asking>,
    serving: Mutex<Serving>,
    tasks: Tasks,
}

#[derive(Default)]
struct Asking {
    wants: Wants,
    /// Wakes the task that writes to a peer.
    sessions: BTreeMap<PeerId, Arc<Notify>>,
}

impl StreamExchange {
    /// An exchange that serves `source` from now on. Its tasks run until it is shut down or dropped.
    ///
    /// # Errors
    /// `Conflict` when the transport has one already; `ShutDown` when the transport is; `Internal` outside of a tokio
    /// runtime.
    pub fn new(transport: Arc<dyn PeerTransport>, source: Arc<dyn BlockSource>) -> Result<Self> {
        let tasks = Tasks::here("an exchange needs a tokio runtime for its streams", COMPONENT)?;
        let inner = Arc::new(Inner {
            transport,
            source,
            protocol: Protocol::new(BLOCKS_PROTOCOL),
            room: Semaphore::new(WANTS_MAX),
            asking: Mutex::default(),
            serving: Mutex::default(),
            tasks,
        });
        // The transport keeps the handler, so the handler must not keep the transport.
        let server = Server(Arc::downgrade(&inner));
        inner.transport.accept(inner.protocol.clone(), Arc::new(server))?;
        inner.spawn(ask_who_connects(inner.clone(), inner.transport.events()));
        Ok(Self { _stop: inner.tasks.drop_guard(), inner })
    }
}

impl fmt::Debug for StreamExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamExchange")
            .field("peer", &self.inner.transport.local_peer())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl BlockExchange for StreamExchange {
    async fn get(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        self.inner.get(*cid, hint).await
    }

    async fn fetch(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        self.inner.fetch(*cid, hint).await
    }

    fn get_many(&self, cids: Vec<Cid>, hint: Option<PeerId>) -> BoxStream<'static, Result<Block>> {
        let mut seen = BTreeSet::new();
        let cids: Vec<Cid> = cids.into_iter().filter(|cid| seen.insert(*cid)).collect();
        let inner = self.inner.clone();
        let get = move |cid| {
            let inner = inner.clone();
            async move { inner.get(cid, hint).await }
        };
        let blocks = stream::iter(cids).map(get).buffer_unordered(WINDOW_BLOCKS);
        // After the shutdown the rest would all say the same.
        let until_shut_down = |ended: &mut bool, block: Result<Block>| {
            let item = (!*ended).then_some(block);
            *ended |= matches!(&item, Some(Err(error)) if error.kind() == ErrorKind::ShutDown);
            std::future::ready(item)
        };
        blocks.scan(false, until_shut_down).boxed()
    }

    async fn announce(&self, cids: &[Cid]) -> Result<()> {
        self.inner.ensure_running()?;
        for cid in cids {
            self.inner.serving().announce(cid);
            let wanted = self.inner.asking().wants.is_wanted(cid);
            if wanted && let Some(block) = self.inner.own(cid)? {
                self.inner.deliver(&block, None);
            }
        }
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.tasks.stop();
        self.inner.asking().wants.clear();
        self.inner.tasks.ended().await;
        Ok(())
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
        self.inner.change(|wants, _| wants.drop_waiter(&self.cid, self.id));
    }
}

impl Inner {
    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn get(self: &Arc<Self>, cid: Cid, hint: Option<PeerId>) -> Result<Block> {
        self.ensure_running()?;
        if cid.hash().code() == hash::IDENTITY {
            return Ok(Block { cid, data: Bytes::copy_from_slice(cid.hash().digest()) });
        }
        match self.own(&cid)? {
            Some(block) => Ok(block),
            None => self.fetch(cid, hint).await,
        }
    }

    async fn fetch(self: &Arc<Self>, cid: Cid, hint: Option<PeerId>) -> Result<Block> {
        self.ensure_running()?;
        if !hash::is_known(cid.hash().code()) || !Frame::is_possible(&cid) {
            let text = format!(
                "cannot get {cid} from others: its hash function is unknown here, so nobody could check"
            );
            return Err(Error::new(ErrorKind::Unsupported, text).component(COMPONENT));
        }
        let waiting = async {
            let _room = self.room.acquire().await.map_err(|_| Error::shut_down(COMPONENT))?;
            self.wait_for(cid, hint).await
        };
        tokio::select! {
            biased;
            () = self.tasks.stopped() => Err(Error::shut_down(COMPONENT)),
            block = waiting => block,
        }
    }

    async fn wait_for(self: &Arc<Self>, cid: Cid, hint: Option<PeerId>) -> Result<Block> {
        let hint = hint.filter(|hint| *hint != self.transport.local_peer());
        let connected = self.transport.peers();
        let (id, mut block) = self.change(|wants, now| wants.want(cid, hint, &connected, now));
        let _waiter = Waiter { inner: self, cid, id };
        // It may have been announced before we were waiting for it.
        if let Some(block) = self.own(&cid)? {
            return Ok(block);
        }
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                block = &mut block => return block.map_err(|_| Error::shut_down(COMPONENT)),
                _ = ticks.tick() => {
                    let connected = self.transport.peers();
                    self.change(|wants, now| wants.tick(cid, &connected, now));
                }
            }
        }
    }

    /// Gives a block to who waits for it.
    fn deliver(self: &Arc<Self>, block: &Block, from: Option<PeerId>) {
        for waiter in self.change(|wants, now| wants.arrived(&block.cid, from, now)) {
            // It may just have been dropped.
            let _ = waiter.send(block.clone());
        }
    }

    /// Changes what we want, and sees to it that what is to be asked now gets written.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Wants, Instant) -> T) -> T {
        let mut asking = self.asking();
        let result = change(&mut asking.wants, Instant::now());
        self.stir(&mut asking);
        result
    }

    fn stir(self: &Arc<Self>, asking: &mut Asking) {
        for peer in asking.wants.stirred() {
            if self.tasks.is_stopped() {
                break;
            }
            let notify = asking.sessions.entry(peer).or_insert_with(|| {
                let notify = Arc::new(Notify::new());
                self.spawn(ask_one_peer(self.clone(), peer, notify.clone()));
                notify
            });
            notify.notify_one();
        }
    }

    /// The session of a peer broke; what is asked from now on begins a new one.
    fn session_broke(self: &Arc<Self>, peer: PeerId, may_recover: bool) {
        let connected = self.transport.peers();
        let mut asking = self.asking();
        asking.sessions.remove(&peer);
        asking.wants.session_ended(peer, may_recover, &connected, Instant::now());
        self.stir(&mut asking);
    }

    /// Ends the session of a peer of whom nothing is wanted.
    fn end_idle_session(&self, peer: &PeerId) -> bool {
        let mut asking = self.asking();
        let idle = !asking.wants.needs(peer);
        if idle {
            asking.sessions.remove(peer);
        }
        idle
    }
}

/// Asks peers as they connect for what everybody is asked for.
async fn ask_who_connects(inner: Arc<Inner>, mut events: BoxStream<'static, TransportEvent>) {
    while let Some(event) = events.next().await {
        let peers = match event {
            TransportEvent::Connected(peer) => vec![peer],
            TransportEvent::Resync => inner.transport.peers(),
            TransportEvent::Disconnected(_) | TransportEvent::AddressesChanged(_) => continue,
        };
        inner.change(|wants, now| peers.iter().for_each(|peer| wants.connected(*peer, now)));
    }
}

/// Our stream to one peer, from the first question until nothing is wanted or it breaks.
async fn ask_one_peer(inner: Arc<Inner>, peer: PeerId, outbox: Arc<Notify>) {
    let opened = timeout(OPEN_TIMEOUT, inner.transport.open(&peer, &inner.protocol)).await;
    let may_recover = match opened {
        Ok(Ok(stream)) => {
            let (read, write) = split(stream);
            let broke = tokio::select! {
                biased;
                broke = read_answers(&inner, peer, read) => broke,
                idle = write_questions(&inner, peer, &outbox, write) => match idle {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
            };
            match broke {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(%peer, %error, "the stream for blocks broke");
                    // Who wrote nonsense will hardly do better in a moment.
                    error.kind() != io::ErrorKind::InvalidData
                }
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "cannot ask for blocks");
            error.kind() != ErrorKind::Unsupported
        }
        Err(_) => {
            tracing::debug!(%peer, "asking for blocks timed out");
            true
        }
    };
    inner.session_broke(peer, may_recover);
}

/// Returns when nothing is wanted of the peer any more; its session is ended then.
async fn write_questions(
    inner: &Arc<Inner>,
    peer: PeerId,
    outbox: &Notify,
    mut stream: WriteHalf<PeerStream>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let frames = inner.asking().wants.outbox(&peer, WRITE_FRAMES);
        if !frames.is_empty() {
            frames.iter().for_each(|frame| frame.write(&mut buffer));
            write(&mut stream, &mut buffer).await?;
            continue;
        }
        if timeout(IDLE_TIMEOUT, outbox.notified()).await.is_err() && inner.end_idle_session(&peer) {
            // The other side sees an end; whether it does is not our concern any more.
            let _ = timeout(WRITE_TIMEOUT, stream.shutdown()).await;
            return Ok(());
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), buffer: &mut BytesMut) -> io::Result<()> {
    while !buffer.is_empty() {
        let written = timeout(WRITE_TIMEOUT, stream.write_buf(buffer)).await;
        if written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    timeout(WRITE_TIMEOUT, stream.flush()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Returns when the peer ends the stream, or has to be left.
async fn read_answers(inner: &Arc<Inner>, peer: PeerId, stream: ReadHalf<PeerStream>) -> io::Result<()> {
    let mut frames = FrameReader::new(stream);
    while let Some(frame) = frames.next().await? {
        match frame {
            Frame::Have(cid) => inner.answered(peer, cid, true),
            Frame::HaveNot(cid) => inner.answered(peer, cid, false),
            Frame::Block(cid, data) => {
                // Late is not wrong: we may have taken it back meanwhile.
                if !inner.asking().wants.is_wanted(&cid) {
                    continue;
                }
                match Block::verified(cid, data) {
                    Ok(block) => inner.deliver(&block, Some(peer)),
                    Err(error) => {
                        tracing::warn!(%peer, %error, "a peer sent a wrong block and is not asked for a while");
                        inner.change(|wants, now| wants.distrust(peer, now));
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
            }
            Frame::WantHave(_) | Frame::WantBlock(_) | Frame::Cancel(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a question where only answers come"));
            }
        }
    }
    Ok(())
}

impl Inner {
    fn answered(self: &Arc<Self>, peer: PeerId, cid: Cid, has: bool) {
        let connected = self.transport.peers();
        self.change(|wants, now| wants.answered(peer, cid, has, &connected, now));
    }

    /// What a question about a block is answered with now; none when it is remembered and said already.
    fn answer(&self, cid: &Cid, wanted: Wanted) -> Option<Frame> {
        let data = match self.source.get(cid) {
            Ok(data) => data?,
            Err(error) => {
                tracing::warn!(%cid, %error, "cannot read a block that a peer asked for");
                return None;
            }
        };
        if data.len() > BLOCK_BYTES_MAX {
            tracing::warn!(%cid, bytes = data.len(), "a block is too large to be sent");
            return None;
        }
        Some(match wanted {
            Wanted::Have => Frame::Have(*cid),
            Wanted::Block => Frame::Block(*cid, data),
        })
    }
}

/// Serves what others ask.
struct Server(Weak<Inner>);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("blocks::Server")
    }
}

#[async_trait]
impl StreamHandler for Server {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        let Some(inner) = self.0.upgrade() else { return };
        // A shutdown waits for this too: afterwards nobody reads the source.
        let _running = inner.tasks.token();
        let (id, ready) = inner.serving().begin();
        let session = ServedSession { inner, id };
        let served = tokio::select! {
            biased;
            () = session.inner.tasks.stopped() => Ok(()),
            served = session.serve(stream, &ready) => served,
        };
        if let Err(error) = served {
            tracing::debug!(peer = %from, %error, "serving blocks ended");
        }
    }
}

struct ServedSession {
    inner: Arc<Inner>,
    id: SessionId,
}

impl Drop for ServedSession {
    fn drop(&mut self) {
        self.inner.serving().end(self.id);
    }
}

impl ServedSession {
    async fn serve(&self, stream: PeerStream, ready: &Notify) -> io::Result<()> {
        let (read, mut to) = split(stream);
        let mut questions = FrameReader::new(read);
        let mut buffer = BytesMut::new();
        loop {
            let mut next = tokio::select! {
                biased;
                () = ready.notified() => {
                    self.serve_announced(&mut to, &mut buffer).await?;
                    continue;
                }
                question = questions.next() => question?,
            };
            if next.is_none() {
                return timeout(WRITE_TIMEOUT, to.shutdown()).await.unwrap_or(Ok(()));
            }
            // Questions come in bunches, and small answers leave together.
            while let Some(question) = next.take() {
                self.take_in(question, &mut buffer)?;
                if buffer.len() < ANSWER_BYTES {
                    next = questions.next_arrived()?;
                }
            }
            write(&mut to, &mut buffer).await?;
        }
    }

    fn take_in(&self, question: Frame, answers: &mut BytesMut) -> io::Result<()> {
        match question {
            Frame::Cancel(cid) => {
                self.inner.serving().forget(self.id, &cid);
            }
            Frame::WantHave(cid) => self.question(cid, Wanted::Have).write(answers),
            Frame::WantBlock(cid) => self.question(cid, Wanted::Block).write(answers),
            Frame::Have(_) | Frame::HaveNot(_) | Frame::Block(..) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "an answer where only questions come",
                ));
            }
        }
        Ok(())
    }

    fn question(&self, cid: Cid, wanted: Wanted) -> Frame {
        // Remembered before the look, so that what is announced in between is not missed.
        self.inner.serving().remember(self.id, cid, wanted);
        match self.inner.answer(&cid, wanted) {
            Some(answer) => {
                self.inner.serving().forget(self.id, &cid);
                answer
            }
            None => Frame::HaveNot(cid),
        }
    }

    async fn serve_announced(&self, to: &mut WriteHalf<PeerStream>, buffer: &mut BytesMut) -> io::Result<()> {
        loop {
            let Some((cid, wanted)) = self.inner.serving().next_ready(self.id) else { return Ok(()) };
            if let Some(answer) = self.inner.answer(&cid, wanted) {
                answer.write(buffer);
                write(to, buffer).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests;
