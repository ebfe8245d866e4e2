//! Gets the blocks that count as merged and are not here, so that peers that walk can get them from us.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::super::commit::Work;
use super::super::key::{self, Digest};
use super::super::ledger::{HeadChange, Ledger as _};
use super::super::node::Node;
use super::super::records::{self, BlockId, IDS, META, META_LACKING, NUMBERS, VALUES};
use super::super::walk::{Ended, Request};
use super::super::wire::corrupt;
use super::message::{BLOCKS_MAX, Message, Messages, misplaced};
use super::{CatchUp, OPEN_TIMEOUT, protocol};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Direction, KeyRange, Storage};
use crate::types::{Cid, PeerId};

/// Entries that are read at once.
const PAGE_ENTRIES: usize = 4096;
/// About how many bytes of blocks are written at once.
const WRITE_BYTES: usize = 4 << 20;
/// How long those are waited for that the peer has not.
const ELSEWHERE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// Blocks that are not merged although others link to them; with more, the whole dag is looked over.
const HOLES_MAX: usize = 4096;
/// Blocks between two times that we say how far we are.
const PROGRESS_BLOCKS: u64 = 10_000;

/// Gets them from this peer, and from others what it has not. What nobody has is asked for the next time.
pub(in super::super) async fn fetch(cx: &CatchUp, peer: PeerId) -> Result<()> {
    let storage = cx.ledger.storage.clone();
    let is_lacking = |storage: &dyn Storage| Ok(storage.get(META, META_LACKING)?.is_some());
    if !storage::run(storage, is_lacking).await? {
        return Ok(());
    }
    let opened = timeout(OPEN_TIMEOUT, cx.transport.open(&peer, &protocol())).await;
    let stream = opened.map_err(|_| {
        Error::new(ErrorKind::Timeout, "the peer opens no stream").component(super::COMPONENT)
    })??;
    let mut messages = Messages::new(stream);
    let (mut after, mut got, mut missing) = (Bytes::new(), 0u64, 0u64);
    let mut holes = BTreeSet::new();
    loop {
        let (blocks, next) = lacking(cx, after).await?;
        for blocks in blocks.chunks(BLOCKS_MAX) {
            let (nodes, elsewhere) = ask(cx, &mut messages, blocks).await?;
            holes.extend(unmerged(cx, nodes).await?);
            let (nodes, lost) = ask_others(cx, elsewhere).await?;
            holes.extend(unmerged(cx, nodes).await?);
            if holes.len() > HOLES_MAX {
                // A walk over everything finds them too.
                cx.ledger.set_dirty(true).await?;
                holes.clear();
            }
            missing += lost;
            let before = got;
            got += blocks.len() as u64 - lost;
            if got / PROGRESS_BLOCKS > before / PROGRESS_BLOCKS {
                info!(blocks = got, missing, "getting the blocks of the dag");
            }
        }
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    fill(cx, holes).await?;
    if missing > 0 {
        info!(blocks = got, missing, "some blocks of the dag could not be got; asking again later");
        return Ok(());
    }
    sweep_values(cx).await?;
    let mut batch = Batch::new();
    batch.delete(META, META_LACKING);
    cx.ledger.desk.call(Work::Write(batch)).await?;
    info!(blocks = got, "all blocks of the dag are here");
    Ok(())
}

/// Blocks that are not here, out of the next entries after a key, and where to go on.
async fn lacking(cx: &CatchUp, after: Bytes) -> Result<(Vec<Digest>, Option<Bytes>)> {
    storage::run(cx.ledger.storage.clone(), move |storage| {
        let range = if after.is_empty() { KeyRange::all() } else { KeyRange::all().after(after) };
        let page = storage.snapshot()?.scan(IDS, range, Direction::Forward, PAGE_ENTRIES)?;
        let mut blocks = Vec::new();
        for (key, record) in &page.entries {
            if BlockId::decode(record)?.is_lacking {
                blocks.push(records::digest_of(key)?);
            }
        }
        Ok((blocks, page.entries.last().filter(|_| page.more).map(|(key, _)| key.clone())))
    })
    .await
}

/// Which of these blocks that others link to are not merged. The peer may have been in the middle of a walk when it said
/// what it has merged, and what a walk has met but not merged yet nobody says.
async fn unmerged(cx: &CatchUp, links: BTreeSet<Cid>) -> Result<Vec<Cid>> {
    let links: Vec<Cid> = links.into_iter().collect();
    let merged = cx.ledger.is_processed(&links).await?;
    Ok(links.into_iter().zip(merged).filter_map(|(cid, is_merged)| (!is_merged).then_some(cid)).collect())
}

/// Has these and everything below them merged, if a walk has not come by meanwhile.
async fn fill(cx: &CatchUp, holes: BTreeSet<Cid>) -> Result<()> {
    for block in unmerged(cx, holes).await? {
        let gone = || Error::shut_down(super::COMPONENT);
        let (ended, end) = oneshot::channel();
        cx.walker.send(Request::Fill { block, ended }).await.map_err(|_| gone())?;
        if !matches!(end.await.map_err(|_| gone())?, Ended::Done) {
            cx.ledger.set_dirty(true).await?;
        }
    }
    Ok(())
}

/// Asks the peer for some, and says what they link to and which it has not.
async fn ask(cx: &CatchUp, messages: &mut Messages, blocks: &[Digest]) -> Result<(BTreeSet<Cid>, Vec<Cid>)> {
    let mut links = BTreeSet::new();
    messages.send(&Message::Fetch(blocks.to_vec())).await?;
    let (mut nodes, mut bytes, mut elsewhere) = (Vec::new(), 0, Vec::new());
    // In the order asked.
    for asked in blocks {
        let Message::Block(digest, block) = messages.answer().await? else { return Err(misplaced()) };
        if digest != *asked {
            return Err(misplaced());
        }
        let cid = key::block_cid(&digest);
        if block.is_empty() {
            elsewhere.push(cid);
            continue;
        }
        if key::cid_of(&block) != cid {
            return Err(corrupt(format!("the peer sent other bytes than those of {cid}")));
        }
        bytes += block.len();
        let node = Node::parse(cid, block)?;
        links.extend(node.links.iter().copied());
        nodes.push(node);
        if bytes >= WRITE_BYTES {
            bytes = 0;
            cx.ledger.merge(std::mem::take(&mut nodes), HeadChange::none()).await?;
        }
    }
    let Message::Done = messages.answer().await? else { return Err(misplaced()) };
    cx.ledger.merge(nodes, HeadChange::none()).await?;
    Ok((links, elsewhere))
}

/// Asks everybody for some. What they link to, and how many nobody has.
async fn ask_others(cx: &CatchUp, blocks: Vec<Cid>) -> Result<(BTreeSet<Cid>, u64)> {
    let mut left = blocks.len() as u64;
    let mut links = BTreeSet::new();
    if left == 0 {
        return Ok((links, 0));
    }
    let mut coming = cx.exchange.get_many(blocks, None);
    let deadline = sleep(ELSEWHERE_TIMEOUT);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            biased;
            block = coming.next() => match block {
                None => return Ok((links, left)),
                Some(Ok(block)) => {
                    let node = Node::parse(block.cid, block.data)?;
                    links.extend(node.links.iter().copied());
                    cx.ledger.merge(vec![node], HeadChange::none()).await?;
                    left -= 1;
                }
                Some(Err(error)) if error.kind() == ErrorKind::ShutDown => return Err(error),
                Some(Err(error)) => debug!(%error, "a block of the dag did not come"),
            },
            () = &mut deadline => return Ok((links, left)),
        }
    }
}

/// Forgets values that were kept because their block was not here.
async fn sweep_values(cx: &CatchUp) -> Result<()> {
    let mut after: Option<Bytes> = None;
    loop {
        let from = after.take();
        let (batch, next) = storage::run(cx.ledger.storage.clone(), move |storage| {
            let range = from.map_or(KeyRange::all(), |from| KeyRange::all().after(from));
            let page = storage.snapshot()?.scan(VALUES, range, Direction::Forward, PAGE_ENTRIES)?;
            let mut batch = Batch::new();
            for (key, _) in &page.entries {
                let number = key.len().checked_sub(5).and_then(|start| key.get(start..));
                let digest = number.map(|number| storage.get(NUMBERS, number)).transpose()?.flatten();
                let Some(digest) = digest else { continue };
                let id = records::block_id(storage, &records::digest_of(&digest)?)?;
                if id.is_some_and(|id| id.is_here()) {
                    batch.delete(VALUES, key.clone());
                }
            }
            Ok((batch, page.entries.last().filter(|_| page.more).map(|(key, _)| key.clone())))
        })
        .await?;
        if !batch.is_empty() {
            cx.ledger.desk.call(Work::Write(batch)).await?;
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}
