//! Messages between peers: a stream carries frames, a frame is its length, a byte that says what it is, and a body.
//!
//! A stream is for one question at a time. Who asks keeps a few streams to each peer for the next questions, and drops
//! one on which a question was not answered, so an answer never meets another question.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::command::PART_BYTES_MAX;
use super::wire::corrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{PeerStream, PeerTransport, Protocol};
use crate::types::PeerId;

/// Longest frame, in bytes: one entry, which is a part and what fits beside it.
pub(super) const FRAME_BYTES_MAX: usize = PART_BYTES_MAX + (16 << 20);
/// Streams to one peer that wait for the next question.
const IDLE_STREAMS_MAX: usize = 4;
/// How long one waits; the other side waits for longer.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// How long an answer is waited for that comes too late for who asked: the stream is there for the next question then.
const LATE_MAX: Duration = Duration::from_secs(10);
/// Questions that wait for an answer, to all peers together.
const ASKED_MAX: usize = 4096;
/// Bytes reserved before they have come.
const RESERVED_BYTES_MAX: usize = 64 * 1024;

/// The protocol of all messages.
pub(super) fn protocol() -> Protocol {
    Protocol::new("/ipfs-cluster-rs/raft/1")
}

fn broken(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the stream broke: {source}"))
        .component(COMPONENT)
        .with_source(source)
}

/// Sends a frame, but for what is buffered below.
pub(super) async fn write(stream: &mut PeerStream, kind: u8, body: &[u8]) -> Result<()> {
    let length = u32::try_from(body.len() + 1).ok().filter(|length| *length as usize <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| Error::invalid_input("a message is too large").component(COMPONENT))?;
    let mut head = [0; 5];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4] = kind;
    if body.len() < RESERVED_BYTES_MAX {
        // In one piece: a packet less.
        stream.write_all(&[&head[..], body].concat()).await.map_err(broken)?;
    } else {
        stream.write_all(&head).await.map_err(broken)?;
        stream.write_all(body).await.map_err(broken)?;
    }
    stream.flush().await.map_err(broken)
}

/// The length of the next frame; none when the other side has nothing more to say.
pub(super) async fn read_length(stream: &mut PeerStream) -> Result<Option<usize>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(broken(error)),
    }
    match u32::from_be_bytes(length) as usize {
        length @ 1..=FRAME_BYTES_MAX => Ok(Some(length)),
        length => Err(corrupt(format!("a message says that it has {length} bytes"))),
    }
}

/// The rest of a frame of that length.
pub(super) async fn read_body(stream: &mut PeerStream, length: usize) -> Result<(u8, Bytes)> {
    let mut frame = Vec::with_capacity(length.min(RESERVED_BYTES_MAX));
    stream.take(length as u64).read_to_end(&mut frame).await.map_err(broken)?;
    if frame.len() != length {
        return Err(corrupt("a message was cut off"));
    }
    let mut frame = Bytes::from(frame);
    let kind = frame.split_to(1);
    Ok((kind.first().copied().unwrap_or_default(), frame))
}

/// The next frame.
pub(super) async fn read(stream: &mut PeerStream) -> Result<(u8, Bytes)> {
    let length = read_length(stream).await?;
    let length =
        length.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the stream ended").component(COMPONENT))?;
    read_body(stream, length).await
}

/// Streams to other peers.
pub(super) struct Links(Arc<Shared>);

struct Shared {
    transport: Arc<dyn PeerTransport>,
    idle: Mutex<BTreeMap<PeerId, Vec<(Instant, PeerStream)>>>,
    /// Questions that wait for an answer, of whoever still wants to know it.
    asked: Semaphore,
    closed: CancellationToken,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.0.closed.cancel();
    }
}

/// An answer on its way.
pub(super) type Asked = oneshot::Receiver<Result<(u8, Bytes)>>;

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, Vec<(Instant, PeerStream)>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, peer: &PeerId) -> Option<PeerStream> {
        let mut idle = self.idle();
        let streams = idle.get_mut(peer)?;
        let now = Instant::now();
        streams.retain(|(since, _)| now - *since < IDLE_MAX);
        streams.pop().map(|(_, stream)| stream)
    }

    fn put(&self, peer: &PeerId, stream: PeerStream) {
        let mut idle = self.idle();
        let streams = idle.entry(*peer).or_default();
        if streams.len() < IDLE_STREAMS_MAX && !self.closed.is_cancelled() {
            streams.push((Instant::now(), stream));
        }
    }

    async fn ask(&self, peer: &PeerId, kind: u8, body: &[u8]) -> Result<(u8, Bytes)> {
        if let Some(mut stream) = self.take(peer) {
            // It may have been closed meanwhile, which shows only now.
            if let Ok(answer) = exchange(&mut stream, kind, body).await {
                self.put(peer, stream);
                return Ok(answer);
            }
            self.idle().remove(peer);
        }
        let mut stream = self.transport.open(peer, &protocol()).await?;
        let answer = exchange(&mut stream, kind, body).await?;
        self.put(peer, stream);
        Ok(answer)
    }
}

impl Links {
    pub(super) fn new(transport: Arc<dyn PeerTransport>) -> Self {
        let (idle, asked, closed) = (Mutex::default(), Semaphore::new(ASKED_MAX), CancellationToken::new());
        Self(Arc::new(Shared { transport, idle, asked, closed }))
    }

    /// Those that this peer is connected to, in ascending order.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        let mut peers = self.0.transport.peers();
        peers.sort_unstable();
        peers
    }

    /// Lets go of everything.
    pub(super) fn close(&self) {
        self.0.closed.cancel();
        self.0.idle().clear();
    }

    /// A stream of its own.
    pub(super) async fn open(&self, peer: &PeerId) -> Result<PeerStream> {
        self.0.transport.open(peer, &protocol()).await
    }

    /// Looks whether there is somebody who could be asked.
    ///
    /// # Errors
    /// `Unsupported` when the peer knows nothing of this protocol; `Unavailable`, `Timeout`.
    pub(super) async fn check(&self, peer: &PeerId, patience: Duration) -> Result<()> {
        let opened = timeout(patience, self.open(peer)).await.unwrap_or_else(|_| Err(silent(peer, patience)));
        opened.map(|stream| self.0.put(peer, stream))
    }

    /// Asks, and gives the answer. Whoever drops this asked all the same. What is asked may arrive twice.
    ///
    /// # Errors
    /// `Unavailable`, `Unsupported`, `Timeout`, `Corrupt`; `QueueFull` when too many wait for answers.
    pub(super) async fn ask(
        &self,
        peer: &PeerId,
        kind: u8,
        body: Bytes,
        patience: Duration,
    ) -> Result<(u8, Bytes)> {
        let answer = self.start(peer, kind, body, patience.max(LATE_MAX));
        timeout(patience, arrived(answer)).await.unwrap_or_else(|_| Err(silent(peer, patience)))
    }

    /// Asks, whether somebody waits for the answer or not: a stream that was opened too late for this question is there
    /// for the next one. The answer is dropped after some time.
    pub(super) fn start(&self, peer: &PeerId, kind: u8, body: Bytes, patience: Duration) -> Asked {
        let (answer, asked) = oneshot::channel();
        let (shared, peer) = (Arc::clone(&self.0), *peer);
        tokio::spawn(async move {
            let asking = async {
                let Ok(_turn) = shared.asked.try_acquire() else {
                    let text = "too many questions wait for the answers of other peers";
                    return Err(Error::new(ErrorKind::QueueFull, text).component(COMPONENT));
                };
                timeout(patience, shared.ask(&peer, kind, &body))
                    .await
                    .unwrap_or_else(|_| Err(silent(&peer, patience)))
            };
            tokio::select! {
                biased;
                () = shared.closed.cancelled() => {}
                result = asking => {
                    // Nobody may want to know any more.
                    let _ = answer.send(result);
                }
            }
        });
        asked
    }
}

/// Waits for an answer that is on its way.
///
/// # Errors
/// As [`Links::ask`]; `ShutDown`.
pub(super) async fn arrived(answer: Asked) -> Result<(u8, Bytes)> {
    answer.await.unwrap_or_else(|_| Err(Error::shut_down(COMPONENT)))
}

fn silent(peer: &PeerId, patience: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no answer from {peer} within {patience:?}")).component(COMPONENT)
}

async fn exchange(stream: &mut PeerStream, kind: u8, body: &[u8]) -> Result<(u8, Bytes)> {
    write(stream, kind, body).await?;
    read(stream).await
}
