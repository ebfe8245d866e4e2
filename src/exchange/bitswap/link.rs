//! What we say to one peer: a task with one stream that asks and answers. What waits for it is entries of an outbox and
//! of a ledger, both bounded; blocks are read when they are written, so that a peer that asks for everything and reads
//! nothing costs one message.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::ledger::Wanted;
use super::message::{BITSWAP_BLOCK_BYTES_MAX, Dialect, EntryKind, Message, Payload};
use super::{BITSWAP_PROTOCOLS, COMPONENT, DIALECTS, Inner, PATIENCE_WITH_STREAMS, State};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{PeerStream, Protocol};
use crate::types::{Block, Cid, PeerId};

/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stream is kept when there is nothing to say.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Entries of a wantlist in one message.
const MESSAGE_ENTRIES: usize = 512;
/// Bytes of blocks in one message, unless a single one is larger.
pub(super) const MESSAGE_BLOCK_BYTES: usize = 512 * 1024;
/// Wants that are looked up for one message.
const MESSAGE_ANSWERS: usize = 1_024;
/// Largest block that is sent to who asks only whether it is there, in bytes (as in Go).
pub(super) const SMALL_BLOCK_BYTES: usize = 1_024;

pub(super) async fn run(inner: Arc<Inner>, peer: PeerId, mail: Arc<Notify>) {
    let mut link = Link { inner: &inner, peer, stream: None, left_over: None };
    let error = loop {
        let message = link.next_message();
        if message.is_empty() {
            if link.wait(&mail).await {
                link.close().await;
                return;
            }
        } else if let Err(error) = link.send(message).await {
            break error;
        }
    };
    drop(link);
    if error.kind() == ErrorKind::Unsupported {
        tracing::debug!(%peer, "a peer does not speak bitswap");
    } else {
        tracing::debug!(%peer, %error, "cannot write to a peer");
    }
    inner.change(|state, now| {
        state.links.remove(&peer);
        state.ledgers.forget_peer(&peer);
        if error.kind() == ErrorKind::Unsupported {
            state.wants.does_not_speak(peer, now);
        } else {
            state.wants.lost(peer, now);
        }
    });
}

struct Link<'a> {
    inner: &'a Arc<Inner>,
    peer: PeerId,
    stream: Option<(PeerStream, Dialect)>,
    /// A block that was read and did not fit into its message.
    left_over: Option<Block>,
}

enum Answer {
    Block(Block),
    Presence(Cid, bool),
    /// It is remembered until the block comes.
    Nothing,
}

impl Link<'_> {
    /// What is to be said now; empty when there is nothing.
    fn next_message(&mut self) -> Message {
        let mut message = Message {
            entries: self.inner.state().wants.outbox(&self.peer, MESSAGE_ENTRIES),
            ..Message::default()
        };
        let mut bytes = 0;
        if let Some(block) = self.left_over.take() {
            bytes += block.data.len();
            message.blocks.push(Payload::of(&block));
        }
        for _ in 0..MESSAGE_ANSWERS {
            if bytes >= MESSAGE_BLOCK_BYTES {
                break;
            }
            let due = self.inner.state().ledgers.next_due(&self.peer);
            let Some((cid, wanted)) = due else { break };
            match self.answer(&cid, wanted) {
                Answer::Block(block) => {
                    self.inner.state().ledgers.forget(&self.peer, &cid);
                    if bytes > 0 && bytes + block.data.len() > MESSAGE_BLOCK_BYTES {
                        // At most 4 MiB.
                        message.pending_bytes = block.data.len() as i32;
                        self.left_over = Some(block);
                        break;
                    }
                    bytes += block.data.len();
                    message.blocks.push(Payload::of(&block));
                }
                Answer::Presence(cid, has) => {
                    if has {
                        self.inner.state().ledgers.forget(&self.peer, &cid);
                    }
                    message.presences.push((cid, has));
                }
                Answer::Nothing => {}
            }
        }
        message
    }

    fn answer(&self, cid: &Cid, wanted: Wanted) -> Answer {
        let data = match self.inner.source.get(cid) {
            Ok(Some(data)) if data.len() <= BITSWAP_BLOCK_BYTES_MAX => Some(data),
            Ok(Some(data)) => {
                tracing::warn!(%cid, bytes = data.len(), "a block is too large to be sent");
                None
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%cid, %error, "cannot read a block that a peer asked for");
                None
            }
        };
        match data {
            Some(data) if wanted.block || data.len() <= SMALL_BLOCK_BYTES => {
                Answer::Block(Block { cid: *cid, data })
            }
            Some(_) => Answer::Presence(*cid, true),
            None if wanted.send_dont_have => Answer::Presence(*cid, false),
            None => Answer::Nothing,
        }
    }

    /// Waits for something to say. True when nothing came for a while and the link is no more.
    async fn wait(&mut self, mail: &Notify) -> bool {
        if self.has_more() {
            // Much was looked up and nothing was to be said; others come first.
            tokio::task::yield_now().await;
            return false;
        }
        let waited = match &mut self.stream {
            Some((stream, _)) => {
                tokio::select! {
                    biased;
                    waited = timeout(IDLE_TIMEOUT, mail.notified()) => waited,
                    // Nothing is ever said on it: the other side ended it.
                    _ = stream.read_u8() => {
                        self.stream = None;
                        return false;
                    }
                }
            }
            None => timeout(IDLE_TIMEOUT, mail.notified()).await,
        };
        if waited.is_ok() {
            return false;
        }
        let mut state = self.inner.state();
        let idle = !has_more(&state, &self.peer);
        if idle {
            state.links.remove(&self.peer);
        }
        idle
    }

    fn has_more(&self) -> bool {
        has_more(&self.inner.state(), &self.peer)
    }

    async fn close(mut self) {
        if let Some((stream, _)) = &mut self.stream {
            // The other side sees an end; whether it does is not our concern any more.
            let _ = timeout(PATIENCE_WITH_STREAMS, stream.shutdown()).await;
        }
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        let was_open = self.stream.is_some();
        match self.try_send(&message).await {
            // It may have broken while there was nothing to say, or the other side started anew.
            Err(error) if was_open && error.kind() == ErrorKind::Unavailable => self.try_send(&message).await,
            sent => sent,
        }
    }

    async fn try_send(&mut self, message: &Message) -> Result<()> {
        if self.stream.is_none() {
            if message.entries.is_empty() && !self.inner.transport.peers().contains(&self.peer) {
                return Err(
                    Error::new(ErrorKind::Unavailable, "it left before its answer").component(COMPONENT)
                );
            }
            let opening = timeout(OPEN_TIMEOUT, open(self.inner, &self.peer));
            self.stream = Some(opening.await.map_err(|_| {
                Error::new(ErrorKind::Timeout, "opening a stream took too long").component(COMPONENT)
            })??);
        }
        let Some((stream, dialect)) = &mut self.stream else { return Ok(()) };
        let mut buffer = BytesMut::new();
        match *dialect {
            Dialect::Presences => message.write(*dialect, &mut buffer),
            old => {
                if let Some(message) = in_old_words(message) {
                    message.write(old, &mut buffer);
                }
            }
        }
        let written = write(stream, &mut buffer).await;
        written.map_err(|source| {
            self.stream = None;
            let kind = match source.kind() {
                io::ErrorKind::TimedOut => ErrorKind::Timeout,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "a stream broke").component(COMPONENT).with_source(source)
        })
    }
}

fn has_more(state: &State, peer: &PeerId) -> bool {
    state.wants.has_mail(peer) || state.ledgers.has_due(peer)
}

async fn open(inner: &Inner, peer: &PeerId) -> Result<(PeerStream, Dialect)> {
    let mut unsupported = None;
    for (protocol, dialect) in BITSWAP_PROTOCOLS.into_iter().zip(DIALECTS) {
        match inner.transport.open(peer, &Protocol::new(protocol)).await {
            Ok(stream) => return Ok((stream, dialect)),
            Err(error) if error.kind() == ErrorKind::Unsupported => unsupported = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(unsupported.unwrap_or_else(|| Error::internal("no protocol to open").component(COMPONENT)))
}

/// What a peer before 1.2 understands of a message: it knows only blocks.
fn in_old_words(message: &Message) -> Option<Message> {
    let mut message = message.clone();
    for entry in &mut message.entries {
        if matches!(entry.kind, EntryKind::Have { .. } | EntryKind::Block { .. }) {
            entry.kind = EntryKind::Block { send_dont_have: false };
        }
    }
    message.presences.clear();
    (!message.is_empty()).then_some(message)
}

async fn write(stream: &mut PeerStream, buffer: &mut BytesMut) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    while !buffer.is_empty() {
        if timeout(PATIENCE_WITH_STREAMS, stream.write_buf(buffer)).await.map_err(late)?? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    timeout(PATIENCE_WITH_STREAMS, stream.flush()).await.map_err(late)?
}
