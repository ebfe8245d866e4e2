//! Listings: pages read from snapshots, one page ahead of the reader.

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio_util::task::AbortOnDropHandle;

use super::head::{Spaces, spaces_in};
use super::index::{self, Driver};
use super::{PAGE_ITEMS_MAX, StateOrder, StatePage, StateQuery, codec};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Direction, KeyRange, Snapshot, Space, Storage};
use crate::types::{Cid, Pin};

/// How long a listing keeps one snapshot. An engine cannot reclaim space behind it, and the reader may be a slow
/// client. A longer listing goes on from its last key in a new snapshot.
pub const SNAPSHOT_LIFETIME: Duration = Duration::from_secs(60);

/// Most keys looked at in one go when few of them are wanted, so that a dropped listing stops soon.
const SCAN_KEYS_MAX: usize = 8 * PAGE_ITEMS_MAX;

/// Most entries in one page that is asked for by itself.
pub const PAGE_LIMIT_MAX: usize = 10_000;

/// Most keys looked at for one such page, however few of them belong to it: some ten milliseconds of work.
const PAGE_SCAN_KEYS_MAX: usize = 8 * 1024;

/// An index that holds at most so many entries of a query is read whole, and what belongs to the query is put in order
/// afterwards, rather than looking for it along another index that has the order.
const GATHER_KEYS_MAX: usize = 2 * 1024;

/// Fewest keys read at a time where not every entry found belongs to the query.
const SCAN_KEYS_MIN: usize = 256;

pub(super) fn list(storage: Arc<dyn Storage>, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>> {
    let listing = Listing { ahead: None, cursor: Some(Cursor::new(query)), reaper: None, storage };
    stream::unfold(listing, |mut listing| async move {
        let page = listing.next().await?;
        Some((page, listing))
    })
    .boxed()
}

/// One page by itself.
pub(super) async fn page(storage: Arc<dyn Storage>, query: StateQuery, limit: usize) -> Result<StatePage> {
    storage::run(storage, move |storage| {
        let mut cursor = Cursor::new(query);
        let limit = limit.clamp(1, PAGE_LIMIT_MAX);
        let pins = cursor.advance(storage, limit, PAGE_SCAN_KEYS_MAX)?;
        let next = match cursor.position {
            Some(position) if !cursor.done => Some(cursor.query.cursor_at(position)),
            _ => None,
        };
        Ok(StatePage { pins, next })
    })
    .await
}

/// A page, and where the next one starts.
type Advance = (Cursor, Result<Vec<Pin>>);

struct Listing {
    storage: Arc<dyn Storage>,
    /// Where to go on; none at the end and while a page is being read ahead.
    cursor: Option<Cursor>,
    ahead: Option<AbortOnDropHandle<Result<Advance>>>,
    /// Lets go of the snapshot although nobody asks for a page.
    reaper: Option<AbortOnDropHandle<()>>,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<Vec<Pin>>> {
        loop {
            let advanced = match (self.ahead.take(), self.cursor.take()) {
                (Some(ahead), _) => ahead.await.unwrap_or_else(|source| {
                    Err(Error::internal("reading a page did not finish")
                        .component("state")
                        .with_source(source))
                }),
                (None, Some(cursor)) => advance(self.storage.clone(), cursor).await,
                (None, None) => return None,
            };
            let (cursor, page) = match advanced {
                Ok((cursor, Ok(page))) => (cursor, page),
                Ok((_, Err(error))) | Err(error) => return Some(Err(error)),
            };
            self.follow(cursor);
            if !page.is_empty() {
                return Some(Ok(page));
            }
        }
    }

    /// Starts on what comes after a page that was just read.
    fn follow(&mut self, mut cursor: Cursor) {
        if cursor.done {
            self.reaper = None;
            return;
        }
        if std::mem::take(&mut cursor.renewed) {
            let view = Arc::downgrade(&cursor.view);
            self.reaper = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                tokio::time::sleep(SNAPSHOT_LIFETIME).await;
                if let Some(view) = view.upgrade() {
                    *lock(&view) = None;
                }
            })));
        }
        // What never waits for a disk gains nothing from being read ahead, and stays in one thread.
        if self.storage.blocks() {
            let page = advance(self.storage.clone(), cursor);
            self.ahead = Some(AbortOnDropHandle::new(tokio::spawn(page)));
        } else {
            self.cursor = Some(cursor);
        }
    }
}

async fn advance(storage: Arc<dyn Storage>, mut cursor: Cursor) -> Result<Advance> {
    storage::run(storage, move |storage| {
        let page = cursor.advance(storage, PAGE_ITEMS_MAX, SCAN_KEYS_MAX);
        Ok((cursor, page))
    })
    .await
}

/// What a listing sees.
#[derive(Debug)]
struct View {
    snapshot: Arc<dyn Snapshot>,
    spaces: Spaces,
}

impl View {
    fn pin(&self, cid: &Cid) -> Result<Option<Pin>> {
        let key = cid.to_bytes();
        let record = self.snapshot.get(self.spaces.pins(), &key)?;
        record.map(|record| codec::decode_record(cid, &key, &record)).transpose()
    }

    fn space(&self, driver: &Driver) -> Space {
        driver.index.map_or_else(|| self.spaces.pins(), |index| self.spaces.index(index))
    }

    /// The record that a key stands for or points to.
    fn found(&self, driver: &Driver, key: &Bytes, value: &Bytes) -> Result<Option<Pin>> {
        match driver.index {
            None => decode(key, value).map(Some),
            Some(index) => match index::cid_of(index, key) {
                Some(cid) => self.pin(&cid),
                None => Ok(None),
            },
        }
    }

    /// How many keys there are, if not more than `most`.
    fn keys(&self, driver: &Driver, most: usize) -> Result<Option<usize>> {
        if driver.range.is_empty() {
            return Ok(Some(0));
        }
        let page = self.snapshot.scan(self.space(driver), driver.range.clone(), Direction::Forward, most)?;
        Ok((!page.more).then_some(page.entries.len()))
    }
}

/// Where a listing stands.
struct Cursor {
    query: StateQuery,
    order: StateOrder,
    way: Way,
    /// The last key that was dealt with, in the order of the query; none before the first.
    position: Option<Bytes>,
    view: Arc<Mutex<Option<Arc<View>>>>,
    /// The view was opened since somebody last looked.
    renewed: bool,
    done: bool,
}

/// How entries are found.
enum Way {
    /// Not decided: that takes a look at the indexes.
    Unknown,
    /// Along something that has the order asked for; the flag says that its range is all there is to the query.
    Along { driver: Driver, is_exact: bool },
    /// They were gathered and put in order, with their positions.
    Gathered(std::vec::IntoIter<(Bytes, Pin)>),
}

impl Cursor {
    fn new(query: StateQuery) -> Self {
        let order = query.resolved_order();
        let (view, way) = (Arc::default(), Way::Unknown);
        Self { query, order, way, position: None, view, renewed: false, done: false }
    }

    /// Reads the next page, which may be empty although more follow. `done` says when none do.
    fn advance(&mut self, storage: &dyn Storage, limit: usize, scan_max: usize) -> Result<Vec<Pin>> {
        let view = self.view(storage)?;
        if matches!(self.way, Way::Unknown) {
            self.position = self.query.position()?;
            self.way = self.choose(&view)?;
        }
        match &mut self.way {
            Way::Gathered(found) => {
                let mut pins = Vec::with_capacity(limit.min(found.len()));
                for (position, pin) in found.take(limit) {
                    self.position = Some(position);
                    pins.push(pin);
                }
                self.done = found.len() == 0;
                Ok(pins)
            }
            _ => self.walk(&view, limit, scan_max),
        }
    }

    /// Takes the index that holds the fewest entries, if that is worth it, else one in the order asked for.
    fn choose(&self, view: &View) -> Result<Way> {
        let conditions = self.query.conditions();
        let (ordered, chosen) = index::ordered_driver(self.order, &conditions);
        let is_exact = !self.query.has_more_than(usize::from(chosen.is_some()));
        let mut fewest: Option<(usize, Driver)> = None;
        // With one condition that has the order there is nothing to choose.
        if conditions.len() > usize::from(chosen.is_some()) {
            for (number, condition) in conditions.iter().enumerate() {
                let Some((index, range)) = index::range(condition) else { continue };
                let driver = Driver { index: Some(index), prefix: Vec::new(), range };
                let keys = view.keys(&driver, GATHER_KEYS_MAX)?;
                let is_fewer = |keys: usize| match &fewest {
                    None => true,
                    Some((least, _)) => keys < *least || (keys == *least && chosen == Some(number)),
                };
                if let Some(keys) = keys.filter(|keys| is_fewer(*keys)) {
                    fewest = Some((keys, driver));
                }
            }
        }
        match fewest {
            Some((_, driver)) if driver.index != ordered.index || driver.range != ordered.range => {
                Ok(Way::Gathered(self.gather(view, &driver)?.into_iter()))
            }
            _ => {
                let mut driver = ordered;
                if let Some(position) = &self.position {
                    let key = if driver.prefix.is_empty() {
                        position.clone()
                    } else {
                        [driver.prefix.as_slice(), position].concat().into()
                    };
                    go_on_after(&mut driver.range, key, self.query.descending);
                }
                Ok(Way::Along { driver, is_exact })
            }
        }
    }

    /// Everything of the query that a short index finds, behind the position, in order.
    fn gather(&self, view: &View, driver: &Driver) -> Result<Vec<(Bytes, Pin)>> {
        let space = view.space(driver);
        let page = view.snapshot.scan(space, driver.range.clone(), Direction::Forward, GATHER_KEYS_MAX)?;
        let mut found = Vec::new();
        for (key, value) in page.entries {
            let Some(pin) = view.found(driver, &key, &value)? else { continue };
            if !self.query.matches(&pin) {
                continue;
            }
            let Some(position) = index::position(self.order, &pin) else { continue };
            let is_ahead = self.position.as_ref().is_none_or(|last| match self.query.descending {
                false => position > *last,
                true => position < *last,
            });
            if is_ahead {
                found.push((position, pin));
            }
        }
        // An entry that was left behind in an index finds a pin twice.
        found.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        found.dedup_by(|(left, _), (right, _)| left == right);
        if self.query.descending {
            found.reverse();
        }
        Ok(found)
    }

    fn walk(&mut self, view: &View, limit: usize, scan_max: usize) -> Result<Vec<Pin>> {
        let Way::Along { driver, is_exact } = &mut self.way else { return Ok(Vec::new()) };
        let direction = if self.query.descending { Direction::Backward } else { Direction::Forward };
        let mut pins = Vec::with_capacity(limit.min(PAGE_ITEMS_MAX));
        let mut scanned = 0;
        while !self.done && pins.len() < limit && scanned < scan_max {
            if driver.range.is_empty() {
                self.done = true;
                break;
            }
            let left = limit - pins.len();
            let keys = if *is_exact { left } else { left.max(SCAN_KEYS_MIN) }.min(PAGE_ITEMS_MAX);
            let page = view.snapshot.scan(view.space(driver), driver.range.clone(), direction, keys)?;
            let read = page.entries.len();
            let mut last = None;
            for (number, (key, value)) in page.entries.into_iter().enumerate() {
                let found = view.found(driver, &key, &value)?.filter(|pin| {
                    // Of an index in the order asked for, the key is compared too: an entry that was left behind
                    // would list a pin twice.
                    self.query.matches(pin)
                        && (driver.index.is_none()
                            || !driver.prefix.is_empty()
                            || index::position(self.order, pin).as_ref() == Some(&key))
                });
                last = Some(key);
                pins.extend(found);
                if pins.len() >= limit {
                    self.done = number + 1 == read && !page.more;
                    break;
                }
            }
            scanned += read;
            let Some(last) = last else {
                self.done = true;
                break;
            };
            self.done |= pins.len() < limit && !page.more;
            self.position = Some(last.slice(driver.prefix.len().min(last.len())..));
            go_on_after(&mut driver.range, last, self.query.descending);
        }
        Ok(pins)
    }

    fn view(&mut self, storage: &dyn Storage) -> Result<Arc<View>> {
        if let Some(view) = &*lock(&self.view) {
            return Ok(view.clone());
        }
        let snapshot = storage.snapshot()?;
        let spaces = spaces_in(&*snapshot)?;
        let view = Arc::new(View { snapshot, spaces });
        *lock(&self.view) = Some(view.clone());
        self.renewed = true;
        Ok(view)
    }
}

fn lock(view: &Mutex<Option<Arc<View>>>) -> std::sync::MutexGuard<'_, Option<Arc<View>>> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves what comes behind a key, in the direction of the listing. A key outside of the range leaves all of it or
/// nothing.
fn go_on_after(range: &mut KeyRange, key: Bytes, descending: bool) {
    if descending {
        let ends_earlier = match &range.end {
            Bound::Unbounded => false,
            Bound::Included(end) => *end < key,
            Bound::Excluded(end) => *end <= key,
        };
        if !ends_earlier {
            range.end = Bound::Excluded(key);
        }
    } else {
        let starts_later = match &range.start {
            Bound::Unbounded => false,
            Bound::Included(start) | Bound::Excluded(start) => *start > key,
        };
        if !starts_later {
            range.start = Bound::Excluded(key);
        }
    }
}

fn decode(key: &Bytes, record: &Bytes) -> Result<Pin> {
    let cid = Cid::try_from(&key[..]).map_err(|source| {
        Error::new(ErrorKind::Corrupt, format!("the stored pinset has the key {key:?}, which is no cid"))
            .component("state")
            .with_source(source)
    })?;
    codec::decode_record(&cid, key, record)
}
