//! The asking side: one session with one peer.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::info;

use super::super::absorb::{Adoption, PinRecord};
use super::super::announce::Announced;
use super::super::commit::Work;
use super::super::key::{self, Digest};
use super::super::ledger::{Branch, Head, HeadChange, Ledger as _};
use super::super::walk::Request;
use super::message::{Chunk, HEADS_MAX, Message, Messages, RecordReader, Table, Wanted, Welcome, misplaced};
use super::table::{Entry, View, chunks};
use super::{
    ABSORB_BYTES, ABSORB_RECORDS, ABSORBS_MAX, CHUNK_ENTRIES, COMPARE_ENTRIES, COMPONENT, CatchUp,
    OPEN_TIMEOUT, WALK_HEIGHTS, WALK_PINS, WANT_RANGES, protocol,
};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Storage};
use crate::types::{Cid, PeerId};

/// What became of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Outcome {
    /// Nothing is missing here that is there.
    Equal,
    /// Little is missing: the walker has these heads.
    LeftToWalk(BTreeSet<Digest>),
    /// What was missing is here.
    CaughtUp,
}

/// Catches up with what a peer had when the session began. Dropping it leaves what was absorbed; another session goes on
/// from there.
///
/// # Errors
/// `Unsupported` when the peer does not speak the protocol; `Corrupt` when it breaks its rules; `Unavailable`, `Timeout`;
/// what the store says.
pub(in super::super) async fn session(
    cx: &CatchUp,
    peer: PeerId,
    left: &BTreeSet<Digest>,
) -> Result<Outcome> {
    let opened = timeout(OPEN_TIMEOUT, cx.transport.open(&peer, &protocol())).await;
    let stream = opened
        .map_err(|_| Error::new(ErrorKind::Timeout, "the peer opens no stream").component(COMPONENT))??;
    let mut messages = Messages::new(stream);
    let mut ours = cx.ledger.heads();
    ours.truncate(HEADS_MAX);
    messages
        .send(&Message::Hello(ours.iter().filter_map(|head| key::block_digest(&head.cid)).collect()))
        .await?;
    let Message::Welcome(welcome) = messages.answer().await? else { return Err(misplaced()) };
    if welcome.merged.len() != ours.len() {
        return Err(misplaced());
    }
    let theirs: Vec<_> = welcome.heads.iter().map(|head| head.cid).collect();
    let processed = cx.ledger.is_processed(&theirs).await?;
    let missing: BTreeSet<Digest> = theirs
        .iter()
        .zip(&processed)
        .filter(|(_, processed)| !**processed)
        .filter_map(|(cid, _)| key::block_digest(cid))
        .collect();
    let walks = cx.ledger.progress().await?;
    if missing.is_empty() && walks.is_empty() {
        // A walk and an adoption that met may leave a head that others cover.
        let covered = covered(&ours, &welcome);
        if !covered.is_empty() && !cx.ledger.dirty().await? {
            cx.ledger.merge(Vec::new(), HeadChange { add: Vec::new(), remove: covered }).await?;
        }
        return Ok(Outcome::Equal);
    }
    let height = |heads: &[Head]| heads.iter().map(|head| head.height).max().unwrap_or(0);
    let above = height(&welcome.heads).saturating_sub(height(&ours));
    let pins = welcome.pins.abs_diff(cx.state.counts().pins);
    // Walks that are under way are left alone once, too.
    let walked: BTreeSet<Digest> = missing
        .iter()
        .copied()
        .chain(walks.iter().filter_map(|walk| key::block_digest(&walk.tip.cid)))
        .collect();
    if !ours.is_empty() && above <= WALK_HEIGHTS && pins <= WALK_PINS && walked.is_disjoint(left) {
        let announced = |head: &Digest| Announced { head: *head, signer: peer, at_once: false };
        cx.inbox.push(missing.iter().map(announced));
        return Ok(Outcome::LeftToWalk(walked));
    }
    // What a walk would get is on its way already.
    let _hold = cx.inbox.hold();
    let begun = Instant::now();
    info!(%peer, pins = welcome.pins, "catching up");
    let mut session = Session {
        cx,
        peer,
        messages,
        reader: RecordReader::default(),
        batch: Vec::new(),
        batch_bytes: 0,
        absorbing: VecDeque::new(),
        last: welcome
            .heads
            .iter()
            .chain(welcome.walks.iter().map(|walk| &walk.tip))
            .filter_map(|head| key::block_digest(&head.cid))
            .collect(),
        absorbed: 0,
        merged: 0,
    };
    session.reconcile(Table::Pins).await?;
    session.absorb().await?;
    session.absorbed_all().await?;
    session.reconcile(Table::Blocks).await?;
    session.check_trust()?;
    let (absorbed, merged) = (session.absorbed, session.merged);
    drop(session);
    adopt(cx, &ours, welcome).await?;
    info!(%peer, records = absorbed, blocks = merged, seconds = begun.elapsed().as_secs_f32(), "caught up");
    Ok(Outcome::CaughtUp)
}

/// Heads of ours that are below heads of theirs: what is merged there and no head, where nothing is part of a walk.
fn covered(ours: &[Head], welcome: &Welcome) -> Vec<Cid> {
    if !welcome.is_whole || !welcome.walks.is_empty() {
        return Vec::new();
    }
    let is_head = |cid: &Cid| welcome.heads.iter().any(|head| head.cid == *cid);
    let merged = ours.iter().zip(&welcome.merged).filter(|(_, merged)| **merged);
    merged.map(|(head, _)| head.cid).filter(|cid| !is_head(cid)).collect()
}

/// Takes the heads over, now that everything below them is here.
async fn adopt(cx: &CatchUp, ours: &[Head], welcome: Welcome) -> Result<()> {
    let gone = || Error::shut_down(COMPONENT);
    let remove = covered(ours, &welcome);
    let Welcome { heads, is_whole, walks, .. } = welcome;
    // The tip too: should we stop before its part is adopted, all of the branch is walked.
    let walks: Vec<Branch> = walks
        .into_iter()
        .map(|mut walk| {
            if !walk.open.contains(&walk.tip.cid) {
                walk.open.push(walk.tip.cid);
            }
            walk
        })
        .collect();
    let has_walks = !walks.is_empty();
    let walks = if has_walks {
        let (taken, take) = oneshot::channel();
        cx.walker.send(Request::Take { walks, taken }).await.map_err(|_| gone())?;
        take.await.map_err(|_| gone())?
    } else {
        walks
    };
    let adopted: Vec<Digest> = heads.iter().filter_map(|head| key::block_digest(&head.cid)).collect();
    let adoption = Adoption { blocks: Vec::new(), heads, remove, walks, is_dirty: !is_whole };
    cx.ledger.desk.call(Work::Adopt(adoption)).await?;
    cx.walker.send(Request::Adopted(adopted)).await.map_err(|_| gone())?;
    if has_walks {
        cx.walker.send(Request::Resume).await.map_err(|_| gone())?;
    }
    Ok(())
}

struct Session<'a> {
    cx: &'a CatchUp,
    peer: PeerId,
    messages: Messages,
    reader: RecordReader,
    batch: Vec<PinRecord>,
    batch_bytes: usize,
    /// Batches that are being written.
    absorbing: VecDeque<JoinHandle<Result<()>>>,
    /// Their heads, which count as merged last, and the tips of their walks, which our walks merge.
    last: BTreeSet<Digest>,
    absorbed: u64,
    merged: u64,
}

/// A run of entries of ours.
struct Page {
    view: View,
    after: Bytes,
    entries: Vec<Entry>,
    more: bool,
}

impl Page {
    async fn read(storage: Arc<dyn Storage>, view: Option<View>, table: Table, after: Bytes) -> Result<Self> {
        storage::run(storage.clone(), move |_| {
            let mut view = match view {
                Some(view) => view,
                None => View::new(storage)?,
            };
            view.renew()?;
            let (entries, more) = view.entries(table, &after, &Bytes::new(), COMPARE_ENTRIES)?;
            Ok(Self { view, after, entries, more })
        })
        .await
    }
}

impl Session<'_> {
    /// Gets everything of a table that is there and not here. The next part is read here while one is compared there.
    async fn reconcile(&mut self, table: Table) -> Result<()> {
        let storage = self.cx.ledger.storage.clone();
        let mut page = Page::read(storage.clone(), None, table, Bytes::new()).await?;
        loop {
            let Page { view, after, entries, more } = page;
            let last = entries.last().map(|entry| entry.key.clone()).filter(|_| more);
            let Some(last) = last else {
                return self.compare(table, after, &entries, false).await;
            };
            let next = Page::read(storage.clone(), Some(view), table, last);
            let compared = self.compare(table, after, &entries, true);
            ((), page) = futures::future::try_join(compared, next).await?;
        }
    }

    async fn compare(&mut self, table: Table, after: Bytes, entries: &[Entry], more: bool) -> Result<()> {
        let mut parts = chunks(entries);
        if !more {
            parts.push(Chunk { to: Bytes::new(), count: 0, sum: 0 });
        }
        let differing = if parts.len() > 1 {
            self.messages
                .send(&Message::Compare { table, after: after.clone(), chunks: parts.clone() })
                .await?;
            let Message::Differing(differing) = self.messages.answer().await? else {
                return Err(misplaced());
            };
            if differing.len() > parts.len() {
                return Err(misplaced());
            }
            differing
        } else {
            vec![0]
        };
        let mut ranges = Vec::new();
        for place in differing {
            let place = usize::try_from(place).map_err(|_| misplaced())?;
            let part = parts.get(place).ok_or_else(misplaced)?;
            let before = place.checked_sub(1).and_then(|before| parts.get(before));
            let hashes = entries.chunks(CHUNK_ENTRIES).nth(place).unwrap_or_default();
            ranges.push(Wanted {
                after: before.map_or_else(|| after.clone(), |before| before.to.clone()),
                to: part.to.clone(),
                hashes: hashes.iter().map(|entry| entry.hash).collect(),
            });
        }
        for ranges in ranges.chunks(WANT_RANGES) {
            self.messages.send(&Message::Want { table, ranges: ranges.to_vec() }).await?;
            self.take(table).await?;
        }
        Ok(())
    }

    /// Takes in an answer.
    async fn take(&mut self, table: Table) -> Result<()> {
        loop {
            match (self.messages.answer().await?, table) {
                (Message::Done, _) => return Ok(()),
                (Message::Records(records), Table::Pins) => {
                    let records = self.reader.read(&records)?;
                    self.batch_bytes += records.iter().map(PinRecord::bytes).sum::<usize>();
                    self.batch.extend(records);
                    if self.batch.len() >= ABSORB_RECORDS || self.batch_bytes >= ABSORB_BYTES {
                        self.absorb().await?;
                    }
                }
                (Message::Merged(mut blocks), Table::Blocks) => {
                    self.check_trust()?;
                    blocks.retain(|(block, _)| !self.last.contains(block));
                    self.merged += blocks.len() as u64;
                    let adoption = Adoption { blocks, ..Default::default() };
                    self.cx.ledger.desk.call(Work::Adopt(adoption)).await?;
                }
                _ => return Err(misplaced()),
            }
        }
    }

    /// Begins to write what came.
    async fn absorb(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.check_trust()?;
        while self.absorbing.len() >= ABSORBS_MAX {
            self.absorbed_one().await?;
        }
        let records = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.absorbed += records.len() as u64;
        let desk = self.cx.ledger.desk.clone();
        self.absorbing
            .push_back(tokio::spawn(async move { desk.call(Work::Absorb(records)).await.map(drop) }));
        Ok(())
    }

    async fn absorbed_one(&mut self) -> Result<()> {
        let Some(absorbing) = self.absorbing.pop_front() else { return Ok(()) };
        absorbing.await.unwrap_or_else(|source| {
            Err(Error::internal("a batch was not written").component(COMPONENT).with_source(source))
        })
    }

    /// Returns when all that came is on disk.
    async fn absorbed_all(&mut self) -> Result<()> {
        while !self.absorbing.is_empty() {
            self.absorbed_one().await?;
        }
        Ok(())
    }

    fn check_trust(&self) -> Result<()> {
        if self.cx.trust.is_trusted(&self.peer) {
            return Ok(());
        }
        let text = "the peer is not trusted any more";
        Err(Error::new(ErrorKind::Unauthorized, text).component(COMPONENT))
    }
}
