//! Listings: pages read from snapshots, one page ahead of the reader.

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio_util::task::AbortOnDropHandle;

use super::index::{self, Index};
use super::store::{Spaces, spaces_in};
use super::{PAGE_ITEMS_MAX, Selection, StateQuery, codec};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Direction, KeyRange, Snapshot, Storage};
use crate::types::{Cid, Pin, PinTypeFilter};

/// How long a listing keeps one snapshot. An engine cannot reclaim space behind it, and the reader may be a slow
/// client. A longer listing goes on from its last key in a new snapshot.
pub const SNAPSHOT_LIFETIME: Duration = Duration::from_secs(60);

/// Most keys looked at in one go when few of them are wanted, so that a dropped listing stops soon.
const SCAN_KEYS_MAX: usize = 8 * PAGE_ITEMS_MAX;

pub(super) fn list(storage: Arc<dyn Storage>, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>> {
    let listing = Listing { ahead: None, cursor: Some(Cursor::new(query)), reaper: None, storage };
    stream::unfold(listing, |mut listing| async move {
        let page = listing.next().await?;
        Some((page, listing))
    })
    .boxed()
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
        let page = cursor.advance(storage);
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
}

/// Where a listing stands.
struct Cursor {
    selection: Selection,
    types: PinTypeFilter,
    after: Option<Cid>,
    /// The index that is read, none for the records themselves, and what is left of it.
    index: Option<Index>,
    range: KeyRange,
    view: Arc<Mutex<Option<Arc<View>>>>,
    /// The view was opened since somebody last looked.
    renewed: bool,
    done: bool,
}

impl Cursor {
    fn new(query: StateQuery) -> Self {
        let StateQuery { selection, types, after } = query;
        let (index, range) = match index::range(&selection) {
            None => (None, KeyRange::all()),
            Some((index, range)) => (Some(index), range),
        };
        Self { selection, types, after, index, range, view: Arc::default(), renewed: false, done: false }
    }

    /// Reads the next page, which may be empty although more follow. `done` says when none do.
    fn advance(&mut self, storage: &dyn Storage) -> Result<Vec<Pin>> {
        let view = self.view(storage)?;
        if let Some(cid) = self.after.take() {
            self.skip_to(&view, &cid)?;
        }
        let mut pins = Vec::with_capacity(PAGE_ITEMS_MAX);
        let mut scanned = 0;
        while !self.done && pins.len() < PAGE_ITEMS_MAX && scanned < SCAN_KEYS_MAX {
            if self.range.is_empty() {
                self.done = true;
                break;
            }
            let space = self.index.map_or_else(|| view.spaces.pins(), |index| view.spaces.index(index));
            let limit = PAGE_ITEMS_MAX - pins.len();
            let page = view.snapshot.scan(space, self.range.clone(), Direction::Forward, limit)?;
            scanned += page.entries.len();
            match page.entries.last() {
                Some((key, _)) => self.range.start = Bound::Excluded(key.clone()),
                None => self.done = true,
            }
            self.done |= !page.more;
            for (key, value) in page.entries {
                let pin = match self.index {
                    None => Some(decode(&key, &value)?),
                    Some(index) => self.follow(&view, index, &key)?,
                };
                pins.extend(pin.filter(|pin| self.types.matches(pin.pin_type)));
            }
        }
        Ok(pins)
    }

    /// The record that an index entry points to, if it is what the entry says.
    fn follow(&self, view: &View, index: Index, key: &Bytes) -> Result<Option<Pin>> {
        let Some(cid) = index::cid_of(index, key) else { return Ok(None) };
        let Some(pin) = view.pin(&cid)? else { return Ok(None) };
        // The key is compared too: an entry that was left behind would list a pin twice.
        let belongs = index::matches(&self.selection, &pin)
            && index::position(&self.selection, &pin).as_ref() == Some(key);
        Ok(belongs.then_some(pin))
    }

    fn skip_to(&mut self, view: &View, cid: &Cid) -> Result<()> {
        let position = match index::position_of_cid(&self.selection, cid) {
            Some(position) => Some(position),
            None => view.pin(cid)?.and_then(|pin| index::position(&self.selection, &pin)),
        };
        let position = position.ok_or_else(|| {
            Error::not_found(format!(
                "cannot continue a listing after {cid}, which is not in it any more; list from the beginning"
            ))
            .component("state")
        })?;
        let starts_later = match &self.range.start {
            Bound::Unbounded => false,
            Bound::Included(start) | Bound::Excluded(start) => *start > position,
        };
        if !starts_later {
            self.range.start = Bound::Excluded(position);
        }
        Ok(())
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

fn decode(key: &Bytes, record: &Bytes) -> Result<Pin> {
    let cid = Cid::try_from(&key[..]).map_err(|source| {
        Error::new(ErrorKind::Corrupt, format!("the stored pinset has the key {key:?}, which is no cid"))
            .component("state")
            .with_source(source)
    })?;
    codec::decode_record(&cid, key, record)
}
