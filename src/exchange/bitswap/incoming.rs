//! What others say to us.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::Inner;
use super::message::{Message, MessageReader, Payload};
use super::wants::Arrived;
use crate::transport::{PeerStream, StreamHandler};
use crate::types::{Block, PeerId};

/// Streams of one peer that are read at a time; Go opens one for each message. Further ones wait.
const STREAMS_PER_PEER_MAX: usize = 32;
/// Messages over 64 KiB of one peer that are being received at a time.
const LONG_MESSAGES_PER_PEER_MAX: usize = 4;
/// A block is copied out of its message unless it is this part of it or more: it would keep all of it in memory.
const KEPT_PART_MIN: usize = 2;

/// The streams of one peer.
pub(super) struct Incoming {
    streams: Semaphore,
    long_messages: Semaphore,
}

impl Incoming {
    fn new() -> Self {
        Self {
            streams: Semaphore::new(STREAMS_PER_PEER_MAX),
            long_messages: Semaphore::new(LONG_MESSAGES_PER_PEER_MAX),
        }
    }
}

/// Serves the streams that others open.
pub(super) struct Server(Weak<Inner>);

impl Server {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(inner))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bitswap::Server")
    }
}

#[async_trait]
impl StreamHandler for Server {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        let Some(inner) = self.0.upgrade() else { return };
        // A shutdown waits for this too: afterwards nobody reads the source.
        let _running = inner.tasks.token();
        let streams = Streams::of(&inner, from);
        let read = tokio::select! {
            biased;
            () = inner.tasks.stopped() => Ok(()),
            read = streams.read(stream) => read,
        };
        if let Err(error) = read {
            tracing::debug!(peer = %from, %error, "a bitswap stream broke");
        }
    }
}

/// The streams of one peer, held by each that is served.
struct Streams<'a> {
    inner: &'a Arc<Inner>,
    from: PeerId,
    incoming: Arc<Incoming>,
}

impl<'a> Streams<'a> {
    fn of(inner: &'a Arc<Inner>, from: PeerId) -> Self {
        let mut all = inner.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let incoming = all.entry(from).or_insert_with(|| Arc::new(Incoming::new())).clone();
        Self { inner, from, incoming }
    }

    async fn read(&self, stream: PeerStream) -> io::Result<()> {
        let Ok(_stream) = self.incoming.streams.acquire().await else { return Ok(()) };
        let mut messages = MessageReader::new(stream, &self.incoming.long_messages);
        while let Some(message) = messages.next().await? {
            self.inner.receive(self.from, message);
        }
        Ok(())
    }
}

impl Drop for Streams<'_> {
    fn drop(&mut self) {
        let mut all = self.inner.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        // The map has one, and we have one.
        if Arc::strong_count(&self.incoming) > 2 {
            return;
        }
        all.remove(&self.from);
        drop(all);
        // What it said after it was seen to disconnect is not kept.
        if !self.inner.tasks.is_stopped() && !self.inner.transport.peers().contains(&self.from) {
            self.inner.state().ledgers.forget_peer(&self.from);
        }
    }
}

impl Inner {
    fn receive(self: &Arc<Self>, from: PeerId, message: Message) {
        let listens = self.change(|state, now| {
            if state.ledgers.receive(from, message.full, &message.entries) {
                self.stir(state, from);
            }
            for (cid, has) in &message.presences {
                state.wants.answered(from, *cid, *has, now);
            }
            state.wants.listens_to(&from, now)
        });
        if !listens {
            // Nothing was asked of this peer, so that hashing would be for nothing.
            return;
        }
        let total: usize = message.blocks.iter().map(|block| block.data.len()).sum();
        for block in message.blocks {
            if !self.receive_block(from, block, total) {
                return;
            }
        }
    }

    /// False when further blocks of this peer are not worth a look.
    fn receive_block(self: &Arc<Self>, from: PeerId, payload: Payload, message_bytes: usize) -> bool {
        let is_bare = payload.is_bare();
        // What cannot be hashed was not asked for either, but says little about its sender.
        let Some(mut block) = payload.block() else { return true };
        let arrived = self.change(|state, now| {
            if is_bare && !state.wants.is_wanted(&block.cid) {
                // Old peers do not say which CID of this hash they mean.
                let others = [0x70, 0x55].map(|codec| crate::types::Cid::new_v1(codec, *block.cid.hash()));
                block.cid = others.into_iter().find(|cid| state.wants.is_wanted(cid)).unwrap_or(block.cid);
            }
            state.wants.arrived(&block.cid, from, now)
        });
        match arrived {
            Arrived::Wanted(waiters) => {
                let block = Block { data: own_copy(block.data, message_bytes), ..block };
                for waiter in waiters {
                    // It may just have been dropped.
                    let _ = waiter.send(block.clone());
                }
            }
            Arrived::Late => {}
            Arrived::Unasked => {
                tracing::debug!(peer = %from, cid = %block.cid, "a peer sent a block nobody asked for");
            }
            Arrived::Distrusted => {
                tracing::warn!(peer = %from, "a peer sent wrong blocks and is not asked for a while");
                return false;
            }
        }
        true
    }
}

fn own_copy(data: Bytes, message_bytes: usize) -> Bytes {
    if data.len() * KEPT_PART_MIN < message_bytes { Bytes::copy_from_slice(&data) } else { data }
}
