//! The whole pinset for a peer that is too far behind for the log.
//!
//! The pinset is in the store, so a snapshot costs nothing until it is sent. Its pages are read in the order of the CIDs,
//! each from a view of the store that is seconds old, because no view may be kept for as long as a slow peer takes. What
//! is changed meanwhile is noted; at the end it is sent again, from one last view, and with it how far the log was applied
//! in that view. So what the receiver has in the end is exactly what that view shows.
//!
//! The receiver puts what comes into a file that sorts it, and makes it its pinset in one write. When the stream breaks,
//! both sides remember for a while where they were.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::SnapshotMeta;
use tokio::time::{Instant, timeout};

use super::COMPONENT;
use super::command::{PIN_BYTES_MAX, WINDOW};
use super::frame;
use super::lineage::{Eras, Start};
use super::message::Answer;
use super::records::{self, APPLIED, JOINED, MEMBERS, Seen};
use super::types::{LogId, Node, StoredMembership};
use super::wire::{PEERS_MAX, Reader, Writer, corrupt, read, written};
use crate::error::{Error, ErrorKind, Result};
use crate::state::sort::Sorter;
use crate::state::{State, decode_pin_protobuf};
use crate::storage::{self, KeyRange, Snapshot, Storage};
use crate::transport::PeerStream;
use crate::types::{Cid, PeerId};

/// Entries read at a time.
const PAGE: usize = 512;
/// About how many bytes of entries are in one message.
const MESSAGE_BYTES: usize = 1 << 20;
/// How long one view of the store is read from.
const VIEW_MAX: Duration = Duration::from_secs(20);
/// How long the other side may say nothing.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the receiver says that it is still at it.
const WORKING_INTERVAL: Duration = Duration::from_secs(5);
/// How long an interrupted transfer can be resumed.
const RESUME_MAX: Duration = Duration::from_secs(300);
/// Changes noted during one transfer; with more it begins anew.
const TOUCHED_MAX: usize = 1 << 20;
/// Memory that the receiver's sorting takes, in bytes.
const SORT_BYTES_MAX: usize = 16 << 20;
/// Records of what was asked for that a snapshot has.
const SEEN_MAX: usize = PEERS_MAX * (WINDOW as usize + 1);

/// Receiver: where to go on.
const RESUME: u8 = 32;
/// Sender: entries in order.
const PINS: u8 = 33;
/// Sender: entries that changed meanwhile, in any order; an empty value is an entry that is gone.
const CHANGES: u8 = 34;
/// Sender: records of what was asked for.
const SEEN: u8 = 35;
/// Sender: that is all, and what it is.
const END: u8 = 36;
/// Receiver: it is being installed.
const WORKING: u8 = 37;

type Meta = SnapshotMeta<Node, openraft::EmptyNode>;

/// What was received. Nothing, where a snapshot is only spoken of.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) sorter: Option<Sorter>,
    pub(super) seen: Vec<(Bytes, Bytes)>,
    /// Since when each of the members votes.
    pub(super) eras: Eras,
}

/// Snapshots that are being sent.
#[derive(Debug, Default)]
pub(super) struct Transfers(Mutex<BTreeMap<PeerId, Transfer>>);

#[derive(Debug)]
struct Transfer {
    number: u64,
    /// What changed since it began; none when that was too much.
    touched: Option<BTreeSet<Cid>>,
    /// Since when nobody works at it.
    idle_since: Option<Instant>,
    /// Messages sent.
    sent: u64,
}

impl Transfers {
    fn all(&self) -> MutexGuard<'_, BTreeMap<PeerId, Transfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transfer to a peer: the one that was interrupted, or a new one with this number.
    fn begin(&self, to: &PeerId, number: u64) -> u64 {
        let mut all = self.all();
        all.retain(|_, transfer| transfer.is_of_use());
        let transfer = all.entry(*to).or_insert_with(|| Transfer {
            number,
            touched: Some(BTreeSet::new()),
            idle_since: None,
            sent: 0,
        });
        transfer.idle_since = None;
        transfer.number
    }

    fn pause(&self, to: &PeerId) {
        if let Some(transfer) = self.all().get_mut(to) {
            transfer.idle_since = Some(Instant::now());
        }
    }

    fn end(&self, to: &PeerId) {
        self.all().remove(to);
    }

    fn sent(&self, to: &PeerId) {
        if let Some(transfer) = self.all().get_mut(to) {
            transfer.sent += 1;
        }
    }

    /// Something that changes as long as a transfer to a peer gets on.
    pub(super) fn progress(&self, to: &PeerId) -> Option<(u64, u64)> {
        self.all().get(to).map(|transfer| (transfer.number, transfer.sent))
    }

    /// What changed since a transfer began.
    fn touched(&self, to: &PeerId) -> Result<BTreeSet<Cid>> {
        let touched = self.all().get(to).and_then(|transfer| transfer.touched.clone());
        touched.ok_or_else(|| {
            let text = "too much changed while a snapshot was sent: it begins anew";
            Error::new(ErrorKind::Unavailable, text).component(COMPONENT)
        })
    }

    /// These are about to change.
    pub(super) fn touch<'a>(&self, cids: impl Iterator<Item = &'a Cid>) {
        let mut all = self.all();
        if all.is_empty() {
            return;
        }
        all.retain(|_, transfer| transfer.is_of_use());
        let cids: Vec<Cid> = cids.copied().collect();
        for transfer in all.values_mut() {
            if let Some(touched) = &mut transfer.touched {
                touched.extend(&cids);
                if touched.len() > TOUCHED_MAX {
                    transfer.touched = None;
                }
            }
        }
    }

    /// Everything is about to change.
    pub(super) fn spoil(&self) {
        self.all().values_mut().for_each(|transfer| transfer.touched = None);
    }
}

impl Transfer {
    fn is_of_use(&self) -> bool {
        match self.idle_since {
            // Whoever works at it finds out.
            None => true,
            Some(since) => self.touched.is_some() && since.elapsed() < RESUME_MAX,
        }
    }
}

/// Goes idle when it is dropped half-way.
struct Turn<'a> {
    transfers: &'a Transfers,
    to: PeerId,
    is_done: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_done { self.transfers.end(&self.to) } else { self.transfers.pause(&self.to) }
    }
}

/// The sending side.
pub(super) struct Sender<'a> {
    pub(super) storage: &'a Arc<dyn Storage>,
    pub(super) state: &'a Arc<dyn State>,
    pub(super) transfers: &'a Transfers,
    pub(super) to: PeerId,
    /// For a transfer that is new.
    pub(super) number: u64,
}

impl Sender<'_> {
    /// Sends everything. `ask` opens the stream and asks on it, about the transfer of that number. Gives the answer.
    pub(super) async fn send<F>(self, ask: impl FnOnce(u64) -> F) -> Result<(Start, Answer)>
    where
        F: Future<Output = Result<PeerStream>>,
    {
        let number = self.transfers.begin(&self.to, self.number);
        let mut turn = Turn { transfers: self.transfers, to: self.to, is_done: false };
        let mut stream = ask(number).await?;
        let last = match self.read(&mut stream).await? {
            (RESUME, body) => read(body, |reader| reader.option(Reader::bytes))?,
            (kind, body) => return Answer::decode(kind, body),
        };
        self.pins(&mut stream, last).await?;
        // First the view, then what changed up to it: what changed after it does no harm.
        let view = self.state.durable_snapshot().await?;
        let touched = self.transfers.touched(&self.to)?;
        self.changes(&mut stream, &view, touched).await?;
        self.end(&mut stream, view).await?;
        loop {
            match self.read(&mut stream).await? {
                (WORKING, _) => self.transfers.sent(&self.to),
                (kind, body) => {
                    turn.is_done = true;
                    return Answer::decode(kind, body);
                }
            }
        }
    }

    async fn read(&self, stream: &mut PeerStream) -> Result<(u8, Bytes)> {
        timeout(PROGRESS_TIMEOUT, frame::read(stream)).await.map_err(|_| self.stuck())?
    }

    async fn write(&self, stream: &mut PeerStream, kind: u8, body: &[u8]) -> Result<()> {
        timeout(PROGRESS_TIMEOUT, frame::write(stream, kind, body)).await.map_err(|_| self.stuck())??;
        self.transfers.sent(&self.to);
        Ok(())
    }

    fn stuck(&self) -> Error {
        let text = format!("{} did not go on receiving a snapshot within {PROGRESS_TIMEOUT:?}", self.to);
        Error::new(ErrorKind::Timeout, text).component(COMPONENT)
    }

    async fn pins(&self, stream: &mut PeerStream, last: Option<Bytes>) -> Result<()> {
        let mut range = KeyRange::all();
        if let Some(last) = last {
            range = range.after(last);
        }
        let (mut view, mut since) = (self.state.durable_snapshot().await?, Instant::now());
        let mut message = Entries::of(PINS);
        loop {
            if since.elapsed() > VIEW_MAX {
                (view, since) = (self.state.durable_snapshot().await?, Instant::now());
            }
            let page = self.page(&view, range.clone(), PAGE).await?;
            let last = page.entries.last().map(|(key, _)| key.clone());
            for (key, value) in &page.entries {
                message.push(key, value);
                if message.is_full() {
                    self.write(stream, message.kind, &message.take()).await?;
                }
            }
            match last {
                Some(last) if page.more => range = range.after(last),
                _ => break,
            }
        }
        self.write(stream, message.kind, &message.take()).await
    }

    async fn page(&self, view: &Arc<dyn Snapshot>, range: KeyRange, limit: usize) -> Result<storage::Page> {
        let (state, view) = (self.state.clone(), view.clone());
        storage::run(self.storage.clone(), move |_| state.values(&*view, range, limit)).await
    }

    async fn changes(
        &self,
        stream: &mut PeerStream,
        view: &Arc<dyn Snapshot>,
        touched: BTreeSet<Cid>,
    ) -> Result<()> {
        let mut message = Entries::of(CHANGES);
        let touched: Vec<Cid> = touched.into_iter().collect();
        for cids in touched.chunks(PAGE) {
            let (state, view, cids) = (self.state.clone(), view.clone(), cids.to_vec());
            let found = storage::run(self.storage.clone(), move |_| {
                cids.into_iter()
                    .map(|cid| {
                        let key = Bytes::from(cid.to_bytes());
                        let only = KeyRange {
                            start: Bound::Included(key.clone()),
                            end: Bound::Included(key.clone()),
                        };
                        let mut page = state.values(&*view, only, 1)?;
                        Ok((key, page.entries.pop().map(|(_, value)| value).unwrap_or_default()))
                    })
                    .collect::<Result<Vec<_>>>()
            })
            .await?;
            for (key, value) in found {
                message.push(&key, &value);
                if message.is_full() {
                    self.write(stream, message.kind, &message.take()).await?;
                }
            }
        }
        self.write(stream, message.kind, &message.take()).await
    }

    async fn end(&self, stream: &mut PeerStream, view: Arc<dyn Snapshot>) -> Result<()> {
        let (seen, applied, members, eras) = storage::run(self.storage.clone(), move |_| {
            Ok((
                records::all_seen(&*view)?,
                records::get_in(&*view, APPLIED, Reader::log_id)?,
                records::get_in(&*view, MEMBERS, Reader::stored_membership)?.unwrap_or_default(),
                records::get_in(&*view, JOINED, Reader::eras)?.unwrap_or_default(),
            ))
        })
        .await?;
        let mut message = Entries::of(SEEN);
        for (key, value) in &seen {
            message.push(key, value);
            if message.is_full() {
                self.write(stream, message.kind, &message.take()).await?;
            }
        }
        self.write(stream, message.kind, &message.take()).await?;
        let end = written(|writer| {
            writer.option(applied.as_ref(), Writer::log_id);
            writer.stored_membership(&members);
            writer.eras(&eras);
        });
        self.write(stream, END, &end).await
    }
}

/// Keys and values that gather for a message.
struct Entries {
    kind: u8,
    writer: Writer,
}

impl Entries {
    fn of(kind: u8) -> Self {
        Self { kind, writer: Writer::default() }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.writer.bytes(key);
        self.writer.bytes(value);
    }

    fn is_full(&self) -> bool {
        self.writer.0.len() >= MESSAGE_BYTES
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.writer.0)
    }

    fn decode(body: Bytes) -> Result<Vec<(Bytes, Bytes)>> {
        let mut reader = Reader::of(body);
        let mut entries = Vec::new();
        while !reader.is_empty() {
            entries.push((reader.bytes()?, reader.bytes()?));
        }
        Ok(entries)
    }
}

/// What is being received, between streams.
#[derive(Debug, Default)]
pub(super) struct Staging(Mutex<Option<Received>>);

#[derive(Debug)]
struct Received {
    from: PeerId,
    number: u64,
    sorter: Sorter,
    /// Up to where the entries that come in order have come.
    last: Option<Bytes>,
    at: Instant,
}

impl Staging {
    fn slot(&self) -> MutexGuard<'_, Option<Received>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, from: &PeerId, number: u64) -> Option<Received> {
        let received = self.slot().take()?;
        (received.from == *from && received.number == number && received.at.elapsed() < RESUME_MAX)
            .then_some(received)
    }

    /// Forgets what nobody went on with.
    pub(super) fn expire(&self) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|received| received.at.elapsed() >= RESUME_MAX) {
            slot.take();
        }
    }

    /// Forgets what is there.
    pub(super) fn clear(&self) {
        self.slot().take();
    }
}

/// The receiving side.
pub(super) struct Receiver<'a> {
    pub(super) storage: &'a Arc<dyn Storage>,
    pub(super) staging: &'a Staging,
    pub(super) spool_folder: &'a Path,
    pub(super) from: PeerId,
    pub(super) number: u64,
    /// Told whenever something comes.
    pub(super) heard: &'a (dyn Fn() + Sync),
}

impl Receiver<'_> {
    /// Receives everything; what it is, and the contents.
    pub(super) async fn receive(self, stream: &mut PeerStream) -> Result<(Meta, Staged)> {
        let mut received = self.staging.take(&self.from, self.number).unwrap_or_else(|| {
            let is_on_disk = self.storage.blocks();
            let sorter = if is_on_disk {
                Sorter::on_disk(self.spool_folder, SORT_BYTES_MAX)
            } else {
                Sorter::in_memory()
            };
            Received { from: self.from, number: self.number, sorter, last: None, at: Instant::now() }
        });
        let resume = written(|writer| writer.option(received.last.as_ref(), |writer, key| writer.bytes(key)));
        frame::write(stream, RESUME, &resume).await?;
        let mut seen = Vec::new();
        loop {
            let next = timeout(PROGRESS_TIMEOUT, frame::read(stream)).await.unwrap_or_else(|_| {
                let text = format!("no more of a snapshot came within {PROGRESS_TIMEOUT:?}");
                Err(Error::new(ErrorKind::Timeout, text).component(COMPONENT))
            });
            let (kind, body) = match next {
                Ok(frame) => frame,
                Err(error) => {
                    received.at = Instant::now();
                    *self.staging.slot() = Some(received);
                    return Err(error);
                }
            };
            (self.heard)();
            match kind {
                PINS | CHANGES => {
                    let entries = Entries::decode(body)?;
                    if let (PINS, Some((last, _))) = (kind, entries.last()) {
                        received.last = Some(last.clone());
                    }
                    let mut sorter = received.sorter;
                    received.sorter = storage::run(self.storage.clone(), move |_| {
                        for (key, value) in entries {
                            check(&key, &value, kind)?;
                            sorter.push(&key, &value)?;
                        }
                        Ok(sorter)
                    })
                    .await?;
                }
                SEEN => {
                    let records = Entries::decode(body)?;
                    if seen.len() + records.len() > SEEN_MAX {
                        return Err(corrupt("a snapshot remembers more than there can be"));
                    }
                    for (key, value) in records {
                        Seen::decode(key.clone(), value.clone())?;
                        seen.push((key, value));
                    }
                }
                END => {
                    let (id, members, eras) = read(body, |reader| {
                        Ok((reader.option(Reader::log_id)?, reader.stored_membership()?, reader.eras()?))
                    })?;
                    return Ok((meta(id, members)?, Staged { sorter: Some(received.sorter), seen, eras }));
                }
                kind => return Err(corrupt(format!("a snapshot has a message of the unknown kind {kind}"))),
            }
        }
    }
}

/// What is taken will be read again, when nobody can refuse it any more.
fn check(key: &[u8], value: &[u8], kind: u8) -> Result<()> {
    let cid =
        Cid::try_from(key).map_err(|source| corrupt("a key of a snapshot is no cid").with_source(source))?;
    if value.len() > PIN_BYTES_MAX + 1024 {
        return Err(corrupt("a pin of a snapshot is too large"));
    }
    if kind == CHANGES && value.is_empty() {
        return Ok(());
    }
    decode_pin_protobuf(&cid, value).map(drop)
}

fn meta(id: Option<LogId>, members: StoredMembership) -> Result<Meta> {
    let last = id.ok_or_else(|| corrupt("a snapshot of nothing"))?;
    Ok(Meta { last_log_id: Some(last), last_membership: members, snapshot_id: last.to_string() })
}

/// Waits for an installation, and keeps the sender waiting.
pub(super) async fn while_installing<T>(stream: &mut PeerStream, installed: impl Future<Output = T>) -> T {
    let mut installed = std::pin::pin!(installed);
    loop {
        tokio::select! {
            biased;
            done = &mut installed => return done,
            () = tokio::time::sleep(WORKING_INTERVAL) => {
                // Whoever does not listen any more asks again.
                let _ = timeout(WORKING_INTERVAL, frame::write(stream, WORKING, &[])).await;
            }
        }
    }
}
