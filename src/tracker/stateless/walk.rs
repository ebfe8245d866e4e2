//! Listings: the pinset, the operations and what the daemon holds, side by side in CID order.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt as _};

use super::COMPONENT;
use super::inner::Inner;
use super::listing::Outcome;
use crate::error::{Error, ErrorKind, Result};
use crate::state::{PAGE_ITEMS_MAX, StateQuery};
use crate::tracker::key::CidKey;
use crate::tracker::operation::{Holding, Phase, Wish};
use crate::tracker::table::View;
use crate::types::{Pin, PinInfo, StatusFilter, TrackerStatus};

type Pages = BoxStream<'static, Result<Vec<PinInfo>>>;

/// Statuses that items show without an operation.
const RESTING: [TrackerStatus; 4] = [
    TrackerStatus::Pinned,
    TrackerStatus::UnexpectedlyUnpinned,
    TrackerStatus::Sharded,
    TrackerStatus::Remote,
];

/// One CID: what the pinset, the operations and the daemon say of it, all read at one moment but the first.
#[derive(Debug)]
struct Entry {
    key: CidKey,
    pin: Option<Pin>,
    wish: Wish,
    /// Its entry in the set of what the daemon holds, if it should.
    held_entry: Option<u128>,
    operation: Option<View>,
    holding: Holding,
}

/// Walks pinset and operations side by side, in pages.
struct Walk {
    inner: Arc<Inner>,
    pages: BoxStream<'static, Result<Vec<Pin>>>,
    /// Rest of the page of the pinset, in order; operations and what is held are still to be added.
    waiting: VecDeque<Entry>,
    /// Everything up to here was given.
    after: Option<CidKey>,
    /// Whether the pinset has no more pages.
    ended: bool,
    /// Whether nothing is left at all.
    finished: bool,
}

impl Walk {
    fn new(inner: Arc<Inner>) -> Self {
        let pages = inner.state.list(StateQuery::default());
        Self { inner, pages, waiting: VecDeque::new(), after: None, ended: false, finished: false }
    }

    /// The next entries; at most a page of each, never none at all.
    async fn next(&mut self) -> Result<Option<Vec<Entry>>> {
        while !self.finished {
            self.inner.check_open()?;
            if self.waiting.is_empty() && !self.ended {
                match self.pages.next().await {
                    Some(page) => self.wait(page?),
                    None => self.ended = true,
                }
            }
            let mut entries = self.merge();
            for entry in entries.iter_mut().filter(|entry| entry.pin.is_none()) {
                // It may have entered the pinset after its page was read.
                entry.pin = self.inner.state.get(&entry.key.cid()?).await?;
                entry.wish = Wish::of(entry.pin.as_ref(), &self.inner.peer);
            }
            // A pinset in memory never waits; others want to run too.
            tokio::task::yield_now().await;
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        Ok(None)
    }

    fn wait(&mut self, page: Vec<Pin>) {
        self.waiting = page.into_iter().map(|pin| Entry::of_pin(&self.inner, pin)).collect();
    }

    /// Puts the waiting entries and the operations among them together.
    fn merge(&mut self) -> Vec<Entry> {
        let shared = self.inner.lock();
        let page_end = self.waiting.back().map(|last| last.key.clone());
        let operations = shared.table.range(self.after.as_ref(), page_end.as_ref(), PAGE_ITEMS_MAX);
        // A full range may have been cut off: then only as far as it reaches.
        let is_cut = operations.len() == PAGE_ITEMS_MAX;
        let end = if is_cut { operations.last().map(|(key, _)| key.clone()) } else { page_end };
        let reaches = |entry: &Entry| end.as_ref().is_none_or(|end| entry.key <= *end);
        for entry in self.waiting.iter_mut().take_while(|entry| reaches(entry)) {
            entry.holding = entry.held_entry.map_or(Holding::Missing, |held| shared.holding(held));
        }
        drop(shared);
        let mut entries;
        if operations.is_empty() {
            entries = Vec::from(std::mem::take(&mut self.waiting));
        } else {
            entries = Vec::with_capacity(self.waiting.len().min(PAGE_ITEMS_MAX) + operations.len());
            let mut operations = operations.into_iter().peekable();
            while let Some(mut entry) = self.waiting.pop_front_if(|entry| reaches(entry)) {
                while let Some((key, view)) = operations.next_if(|(key, _)| *key < entry.key) {
                    entries.push(Entry::of_operation(key, view));
                }
                entry.operation = operations.next_if(|(key, _)| *key == entry.key).map(|(_, view)| view);
                entries.push(entry);
            }
            entries.extend(operations.map(|(key, view)| Entry::of_operation(key, view)));
        }
        self.finished = self.ended && self.waiting.is_empty() && !is_cut;
        if end.is_some() {
            self.after = end;
        }
        entries
    }
}

impl Entry {
    fn of_pin(inner: &Inner, pin: Pin) -> Self {
        let key = CidKey::from(&pin.cid);
        let wish = Wish::of(Some(&pin), &inner.peer);
        let held_entry = match wish {
            Wish::Held(mode) => Some(inner.hasher.hash(&key, mode)),
            Wish::Remote | Wish::Sharded | Wish::Absent => None,
        };
        Self { key, pin: Some(pin), wish, held_entry, operation: None, holding: Holding::Missing }
    }

    fn of_operation(key: CidKey, view: View) -> Self {
        let wish = Wish::Absent;
        Self { key, pin: None, wish, held_entry: None, operation: Some(view), holding: Holding::Missing }
    }
}

/// Makes answers of entries.
fn answers(inner: &Inner, entries: Vec<Entry>, filter: StatusFilter) -> Result<Vec<PinInfo>> {
    let daemon = Arc::clone(&inner.lock().daemon);
    let mut infos = Vec::with_capacity(entries.len());
    for entry in entries {
        let status = match &entry.operation {
            Some(view) => inner.operation_status(&daemon, view),
            None => inner.resting_status(&daemon, entry.pin.as_ref(), entry.wish, &entry.holding),
        };
        if filter.matches(status.status) {
            let cid = match &entry.pin {
                Some(pin) => pin.cid,
                None => entry.key.cid()?,
            };
            infos.push(inner.info(cid, entry.pin, status));
        }
    }
    Ok(infos)
}

/// Cuts off the first page.
fn cut_page(infos: &mut Vec<PinInfo>) -> Vec<PinInfo> {
    let rest = infos.split_off(infos.len().min(PAGE_ITEMS_MAX));
    std::mem::replace(infos, rest)
}

pub(super) fn status_all(inner: Arc<Inner>, filter: StatusFilter) -> Pages {
    async_stream::try_stream! {
        inner.check_open()?;
        let wants_errors = filter.matches(TrackerStatus::ClusterError);
        let is_unknown = inner.lock().unknown().is_some();
        let wants_backlog = filter.matches(TrackerStatus::PinQueued) && inner.lock().table.has_backlog();
        if filter.matches_any(&RESTING) || (wants_errors && is_unknown) || wants_backlog {
            let mut walk = Walk::new(Arc::clone(&inner));
            while let Some(entries) = walk.next().await? {
                let mut infos = answers(&inner, entries, filter)?;
                while !infos.is_empty() {
                    yield cut_page(&mut infos);
                }
            }
        } else {
            // Only operations show these: the pinset need not be walked, however large.
            let mut after: Option<CidKey> = None;
            loop {
                inner.check_open()?;
                let operations = inner.lock().table.range(after.as_ref(), None, PAGE_ITEMS_MAX);
                let Some((last, _)) = operations.last() else { break };
                after = Some(last.clone());
                let mut entries = Vec::new();
                for (key, view) in operations {
                    if filter.matches(view.status()) {
                        let pin = inner.state.get(&key.cid()?).await?;
                        entries.push(Entry { pin, ..Entry::of_operation(key, view) });
                    }
                }
                tokio::task::yield_now().await;
                if !entries.is_empty() {
                    yield answers(&inner, entries, filter)?;
                }
            }
        }
    }
    .boxed()
}

pub(super) fn statuses(inner: &Inner, pins: Vec<Pin>) -> Result<Vec<PinInfo>> {
    inner.check_open()?;
    let mut entries: Vec<_> = pins.into_iter().map(|pin| Entry::of_pin(inner, pin)).collect();
    for page in entries.chunks_mut(PAGE_ITEMS_MAX) {
        let shared = inner.lock();
        for entry in page {
            entry.holding = entry.held_entry.map_or(Holding::Missing, |held| shared.holding(held));
            entry.operation = shared.table.get(&entry.key);
        }
    }
    answers(inner, entries, StatusFilter::ALL)
}

pub(super) fn recover_all(inner: Arc<Inner>) -> Pages {
    async_stream::try_stream! {
        inner.check_open()?;
        inner.probe_space_now();
        inner.wait_listed().await?;
        let mut unknown: Option<Arc<str>> = None;
        // What is part of it waits already, and is found when its turn is near.
        let had_backlog = inner.lock().table.has_backlog();
        let mut walk = Walk::new(Arc::clone(&inner));
        while let Some(entries) = walk.next().await? {
            let mut infos = Vec::new();
            for entry in entries {
                let cid = entry.key.cid()?;
                let is_due = match (&entry.operation, &entry.holding) {
                    (Some(view), _) if view.phase == Phase::Failed => true,
                    (Some(view), _) => {
                        // One that the pinset wants otherwise by now, because an event got lost.
                        if entry.pin.is_none() && !view.kind.unpins() {
                            // A full queue leaves it in error, for the next time.
                            let _ = inner.untrack(&cid).await;
                        }
                        false
                    }
                    (None, Holding::Missing) => matches!(entry.wish, Wish::Held(_)) && !had_backlog,
                    (None, Holding::Held) => false,
                    (None, Holding::Unknown(reason)) => {
                        unknown.get_or_insert_with(|| Arc::clone(reason));
                        false
                    }
                };
                if is_due {
                    infos.extend(inner.retry(&entry.key, cid).await?.map(|(_, info)| info));
                }
            }
            while !infos.is_empty() {
                yield cut_page(&mut infos);
            }
        }
        if let Some(reason) = unknown {
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("{reason}; only what had failed was retried, recover again when the IPFS daemon answers"),
            )
            .component(COMPONENT))?;
        }
    }
    .boxed()
}

/// Looks for the pins of the backlog, queues what there is room for, and counts the rest.
pub(super) async fn refill(inner: Arc<Inner>) -> Result<()> {
    let cannot =
        |reason: &Arc<str>| Error::new(ErrorKind::Unavailable, reason.to_string()).component(COMPONENT);
    let (mut left, before) = (0, inner.lock().table.backlog());
    let mut walk = Walk::new(Arc::clone(&inner));
    while let Some(entries) = walk.next().await? {
        let mut shared = inner.lock();
        if let Some(reason) = shared.unknown() {
            return Err(cannot(reason));
        }
        for entry in entries {
            // As it is now, not as it was before others had their turn.
            let is_held = entry.held_entry.is_none_or(|held| shared.holding(held) == Holding::Held);
            if is_held || shared.table.get(&entry.key).is_some() || shared.table.is_running(&entry.key) {
                continue;
            }
            if !shared.table.refill(&entry.key, entry.pin.as_ref(), inner.clock.now()) {
                left += 1;
                continue;
            }
            if let (Some(pin), Some(view)) = (&entry.pin, shared.table.get(&entry.key)) {
                let status = inner.operation_status(&shared.daemon, &view);
                inner.announce(pin.cid, Some(pin), status);
            }
        }
        drop(shared);
        inner.work.notify_one();
    }
    let mut shared = inner.lock();
    // What came meanwhile may have come behind the walk.
    let came = shared.table.backlog().saturating_sub(before);
    shared.table.set_backlog(left + came);
    inner.refresh_statuses(&mut shared);
    Ok(())
}

pub(super) fn sync_all(inner: Arc<Inner>) -> Pages {
    async_stream::try_stream! {
        inner.check_open()?;
        let outcome = inner.list_now().await?;
        let mut pages = changes(inner, outcome);
        while let Some(page) = pages.next().await {
            yield page?;
        }
    }
    .boxed()
}

/// The items whose status a listing changed, in CID order. Without a set to differ from these are the ones the
/// daemon lacks.
pub(super) fn changes(inner: Arc<Inner>, outcome: Arc<Outcome>) -> Pages {
    async_stream::try_stream! {
        // Operations that are forgotten now; those of CIDs that left the pinset are no entry of the walk.
        let mut fulfilled: VecDeque<CidKey> = outcome.fulfilled.iter().cloned().collect();
        if !outcome.was_complete || !outcome.difference.is_empty() {
            let mut walk = Walk::new(Arc::clone(&inner));
            while let Some(entries) = walk.next().await? {
                let mut changed = Vec::new();
                for entry in entries {
                    while let Some(key) = fulfilled.pop_front_if(|key| *key < entry.key) {
                        changed.push(read(&inner, key).await?);
                    }
                    let is_fulfilled = fulfilled.pop_front_if(|key| *key == entry.key).is_some();
                    let differs = entry.held_entry.is_some_and(|held| match outcome.was_complete {
                        true => outcome.difference.contains(held),
                        false => entry.holding == Holding::Missing,
                    });
                    if is_fulfilled || (differs && entry.operation.is_none()) {
                        changed.push(entry);
                    }
                }
                let mut infos = answers(&inner, changed, StatusFilter::ALL)?;
                while !infos.is_empty() {
                    yield cut_page(&mut infos);
                }
            }
        }
        while !fulfilled.is_empty() {
            inner.check_open()?;
            let mut entries = Vec::new();
            for key in fulfilled.drain(..fulfilled.len().min(PAGE_ITEMS_MAX)) {
                entries.push(read(&inner, key).await?);
            }
            yield answers(&inner, entries, StatusFilter::ALL)?;
        }
    }
    .boxed()
}

/// One CID as it stands now.
async fn read(inner: &Inner, key: CidKey) -> Result<Entry> {
    let pin = inner.state.get(&key.cid()?).await?;
    let wish = Wish::of(pin.as_ref(), &inner.peer);
    let held_entry = match wish {
        Wish::Held(mode) => Some(inner.hasher.hash(&key, mode)),
        Wish::Remote | Wish::Sharded | Wish::Absent => None,
    };
    let shared = inner.lock();
    let holding = held_entry.map_or(Holding::Missing, |entry| shared.holding(entry));
    let operation = shared.table.get(&key);
    Ok(Entry { key, pin, wish, held_entry, operation, holding })
}
