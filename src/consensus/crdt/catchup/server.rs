//! The answering side. It reads and never writes; whoever is in the network may ask, as for blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::super::absorb::Recent;
use super::super::key::{self, Digest};
use super::super::records::{self, BLOCKS, BlockId, IDS, META, META_DIRTY, META_PROGRESS};
use super::message::{
    HEADS_MAX, Message, Messages, RecordWriter, Table, WALK_BLOCKS_MAX, Wanted, Welcome, misplaced,
};
use super::table::{PAGE_ENTRIES, View};
use super::{SESSION_MAX, SESSIONS_MAX, SESSIONS_OF_PEER_MAX, protocol};
use crate::error::{Error, ErrorKind, Result};
use crate::state::State;
use crate::storage::{self, Snapshot, Storage};
use crate::transport::{PeerStream, PeerTransport, StreamHandler};
use crate::types::PeerId;

/// Records that are read before they are sent, about.
const READ_RECORDS: usize = PAGE_ENTRIES;

/// Serves for as long as it lives.
#[derive(Debug)]
pub(in super::super) struct Server {
    _inner: Arc<Inner>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    state: Arc<dyn State>,
    recent: Arc<Recent>,
    sessions: Semaphore,
    /// Who has some of them.
    served: Mutex<BTreeMap<PeerId, usize>>,
    cancel: CancellationToken,
}

/// The transport keeps it, so it keeps nothing.
#[derive(Debug)]
struct Handler(Weak<Inner>);

impl Server {
    /// Begins to serve.
    ///
    /// # Errors
    /// `Conflict` when the transport has one already; `ShutDown`.
    pub(in super::super) fn start(
        transport: &dyn PeerTransport,
        storage: Arc<dyn Storage>,
        state: Arc<dyn State>,
        recent: Arc<Recent>,
    ) -> Result<Self> {
        let cancel = CancellationToken::new();
        let sessions = Semaphore::new(SESSIONS_MAX);
        let served = Mutex::default();
        let inner = Arc::new(Inner { storage, state, recent, sessions, served, cancel: cancel.clone() });
        transport.accept(protocol(), Arc::new(Handler(Arc::downgrade(&inner))))?;
        Ok(Self { _inner: inner, _stop: cancel.drop_guard() })
    }
}

#[async_trait]
impl StreamHandler for Handler {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        let Some(inner) = self.0.upgrade() else { return };
        let cancel = inner.cancel.clone();
        let served = async {
            timeout(SESSION_MAX, inner.serve(from, stream)).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Timeout, "it took too long").component(super::COMPONENT))
            })
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            served = served => if let Err(error) = served {
                debug!(peer = %from, %error, "a peer that was catching up is no longer served");
            },
        }
    }
}

/// One session of a peer, until it is dropped.
struct Turn<'a>(&'a Mutex<BTreeMap<PeerId, usize>>, PeerId);

impl<'a> Turn<'a> {
    fn take(served: &'a Mutex<BTreeMap<PeerId, usize>>, peer: PeerId) -> Option<Self> {
        let mut all = served.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = all.entry(peer).or_default();
        if *sessions >= SESSIONS_OF_PEER_MAX {
            return None;
        }
        *sessions += 1;
        Some(Self(served, peer))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = all.get_mut(&self.1) {
            *sessions -= 1;
            if *sessions == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// What one session remembers.
struct Session {
    view: View,
    writer: RecordWriter,
    /// Blocks that may not be in the first view though they were about to be merged.
    unseen: BTreeSet<Digest>,
    /// What came after this is left out: pins may have been read before it.
    mark: u64,
}

impl Inner {
    async fn serve(&self, from: PeerId, stream: PeerStream) -> Result<()> {
        let mut messages = Messages::new(stream);
        let (Some(_turn), Ok(_permit)) = (Turn::take(&self.served, from), self.sessions.try_acquire()) else {
            return messages.send(&Message::Busy).await;
        };
        let mut session = None;
        while let Some(message) = messages.next().await? {
            match message {
                Message::Hello(heads) => {
                    let Some((welcome, begun)) = self.welcome(heads).await? else {
                        return messages.send(&Message::Expired).await;
                    };
                    session = Some(begun);
                    messages.send(&Message::Welcome(welcome)).await?;
                }
                Message::Compare { table, after, chunks } => {
                    let Some(mut begun) = self.prepared(session.take().ok_or_else(misplaced)?, table).await?
                    else {
                        return messages.send(&Message::Expired).await;
                    };
                    let compare = move |_: &dyn Storage| {
                        let differing = begun.view.differing(table, &after, &chunks)?;
                        Ok((begun, differing))
                    };
                    let (begun, differing) = storage::run(self.storage.clone(), compare).await?;
                    session = Some(begun);
                    messages.send(&Message::Differing(differing)).await?;
                }
                Message::Want { table, ranges } => {
                    let Some(begun) = self
                        .give(session.take().ok_or_else(misplaced)?, &mut messages, table, ranges)
                        .await?
                    else {
                        return messages.send(&Message::Expired).await;
                    };
                    session = Some(begun);
                    messages.send(&Message::Done).await?;
                }
                Message::Fetch(blocks) => {
                    for digest in blocks {
                        let read = move |storage: &dyn Storage| storage.get(BLOCKS, &digest);
                        let block = storage::run(self.storage.clone(), read).await?.unwrap_or_default();
                        messages.put(&Message::Block(digest, block)).await?;
                    }
                    messages.send(&Message::Done).await?;
                }
                Message::Welcome(_)
                | Message::Differing(_)
                | Message::Records(_)
                | Message::Merged(_)
                | Message::Block(..)
                | Message::Done
                | Message::Busy
                | Message::Expired => return Err(misplaced()),
            }
        }
        Ok(())
    }

    /// Who we are, and a session that begins here; none when too much is going on.
    async fn welcome(&self, theirs: Vec<Digest>) -> Result<Option<(Welcome, Session)>> {
        let (storage, recent) = (self.storage.clone(), self.recent.clone());
        let pins = self.state.counts().pins;
        let settled = recent.settled();
        let Some(snapshot) = self.durable_snapshot().await? else { return Ok(None) };
        let mark = recent.end();
        storage::run(self.storage.clone(), move |_| {
            let view = View::of(storage, snapshot);
            let snapshot = view.snapshot();
            let is_processed = |digest: &Digest| -> Result<bool> {
                let record = snapshot.get(IDS, digest)?;
                Ok(record
                    .map(|record| BlockId::decode(&record))
                    .transpose()?
                    .is_some_and(|id| id.is_processed))
            };
            let Some(doubtful) = recent.since(settled) else { return Ok(None) };
            let mut unseen = BTreeSet::new();
            for digest in doubtful {
                if !is_processed(&digest)? {
                    unseen.insert(digest);
                }
            }
            let merged = theirs.iter().map(is_processed).collect::<Result<_>>()?;
            let mut heads = records::heads(snapshot)?;
            let mut is_whole = snapshot.get(META, META_DIRTY)?.is_none() && heads.len() <= HEADS_MAX;
            heads.truncate(HEADS_MAX);
            let mut walks = match snapshot.get(META, META_PROGRESS)? {
                Some(record) => records::decode_progress(&record)?,
                None => Vec::new(),
            };
            let blocks: usize = walks.iter().map(|walk| walk.open.len() + walk.met.len()).sum();
            if walks.len() > HEADS_MAX || blocks > WALK_BLOCKS_MAX {
                // A repair will find what they are about.
                walks.clear();
                is_whole = false;
            }
            let welcome = Welcome { heads, merged, is_whole, walks, pins };
            Ok(Some((welcome, Session { view, writer: RecordWriter::default(), unseen, mark })))
        })
        .await
    }

    /// What we have and cannot lose any more: who has caught up with us has it without its blocks, which it could not
    /// get from anybody else. None while that is uncertain.
    async fn durable_snapshot(&self) -> Result<Option<Arc<dyn Snapshot>>> {
        match self.state.durable_snapshot().await {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(error) if error.kind() == ErrorKind::Unavailable => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that the view is not old, and that blocks are left out which say more than the pins that were read.
    async fn prepared(&self, mut session: Session, table: Table) -> Result<Option<Session>> {
        if session.view.is_old() {
            let Some(snapshot) = self.durable_snapshot().await? else { return Ok(None) };
            session.view.renew_with(snapshot);
        }
        if table == Table::Blocks {
            // The view came first: what it shows is remembered by now.
            let Some(mut except) = self.recent.since(session.mark) else { return Ok(None) };
            except.extend(&session.unseen);
            session.view.leave_out(except);
        }
        Ok(Some(session))
    }

    /// Sends what is wanted; none when too much happened meanwhile.
    async fn give(
        &self,
        mut session: Session,
        messages: &mut Messages,
        table: Table,
        ranges: Vec<Wanted>,
    ) -> Result<Option<Session>> {
        let mut left: Vec<Wanted> = ranges.into_iter().rev().collect();
        while !left.is_empty() {
            let Some(mut ready) = self.prepared(session, table).await? else { return Ok(None) };
            let state = self.state.clone();
            let read = move |_: &dyn Storage| {
                let (mut pins, mut blocks) = (Vec::new(), Vec::new());
                while pins.len() + blocks.len() < READ_RECORDS
                    && let Some(mut wanted) = left.pop()
                {
                    let has: BTreeSet<u64> = wanted.hashes.iter().copied().collect();
                    let next = match table {
                        Table::Pins => {
                            let (mut more, next) = ready.view.records(&*state, &wanted, &has)?;
                            pins.append(&mut more);
                            next
                        }
                        Table::Blocks => {
                            let (found, more) = ready.view.blocks(&wanted.after, &wanted.to, PAGE_ENTRIES)?;
                            let next = found.last().filter(|_| more).map(|(last, _)| last.to_vec().into());
                            blocks.extend(found);
                            next
                        }
                    };
                    if let Some(next) = next {
                        wanted.after = next;
                        left.push(wanted);
                    }
                }
                Ok((ready, left, pins, blocks))
            };
            let (read, rest, pins, blocks) = storage::run(self.storage.clone(), read).await?;
            (session, left) = (read, rest);
            for record in &pins {
                debug_assert!(key::pin_of_bytes(&record.pin.to_bytes()).is_some());
                if let Some(message) = session.writer.put(record) {
                    messages.put(&message).await?;
                }
            }
            if !blocks.is_empty() {
                messages.put(&Message::Merged(blocks)).await?;
            }
        }
        if let Some(message) = session.writer.take() {
            messages.put(&message).await?;
        }
        Ok(Some(session))
    }
}
