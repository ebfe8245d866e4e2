//! What is known of adds that broke off and can go on, and which of them run.
//!
//! | key | value |
//! |---|---|
//! | the resume key | format, [`Record`] as JSON |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::adder::CarPlace;
use crate::adder::destinations::Placed;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Direction, Durability, KeyRange, Space, Storage};
use crate::types::{InterruptedAdd, Resume, ResumeKey, Timestamp};

/// How long an add that broke off can go on. Shorter than the leases on its blocks live, [`LEASE_TTL`], so that its rest
/// arrives before they end.
///
/// [`LEASE_TTL`]: crate::cluster::LEASE_TTL
pub const INTERRUPTED_ADD_TTL: Duration = Duration::from_secs(20 * 60 * 60);
/// Adds that broke off and can go on, of one peer. Where there are more, the oldest is forgotten.
pub const INTERRUPTED_ADDS_MAX: usize = 1_024;
/// How often an add may go on and fail on every destination before it is forgotten, so that it can begin anew.
const FAILURES_MAX: u32 = 3;

const SPACE: Space = Space::new("interrupted-adds");
const FORMAT: u8 = 1;

/// An add that broke off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// How far it came. Everything up to there is stored by those in `placed`.
    pub(super) place: CarPlace,
    pub(super) placed: Placed,
    /// A digest of the options that say where blocks go.
    pub(super) options: String,
    /// When it broke off for the first time.
    pub(super) since: Timestamp,
    /// How often every destination failed since it last came further.
    pub(super) failures: u32,
}

impl Record {
    fn is_expired(&self, now: Timestamp) -> bool {
        now.saturating_duration_since(self.since) >= INTERRUPTED_ADD_TTL
    }

    fn shown(&self, key: &ResumeKey) -> Option<InterruptedAdd> {
        let CarPlace { offset, root, blocks, bytes, digest, .. } = self.place;
        Some(InterruptedAdd {
            key: key.clone(),
            root: root?,
            offset,
            blocks,
            bytes,
            digest: digest?,
            since: self.since,
            expires: self.since + INTERRUPTED_ADD_TTL,
            allocations: self.placed.peers.iter().map(|placed| placed.peer).collect(),
        })
    }

    /// The record after every destination failed once more; None when it is of no use any more.
    pub(super) fn after_failure(mut self) -> Option<Self> {
        self.failures += 1;
        (self.failures < FAILURES_MAX).then_some(self)
    }
}

/// What is known of a key; one of both at least.
#[derive(Debug, Default)]
struct Slot {
    record: Option<Record>,
    /// An add with this key runs, or is being ended.
    runs: bool,
}

/// The adds of a peer that have a key.
#[derive(Debug)]
pub(super) struct Interrupted {
    storage: Arc<dyn Storage>,
    slots: Mutex<BTreeMap<ResumeKey, Slot>>,
    /// An add with a key has ended.
    ended: Notify,
}

/// An add with a key that runs, until it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    all: Arc<Interrupted>,
    pub(super) key: ResumeKey,
}

impl Drop for Running {
    fn drop(&mut self) {
        {
            let mut slots = self.all.slots();
            if let Some(slot) = slots.get_mut(&self.key) {
                slot.runs = false;
                if slot.record.is_none() {
                    slots.remove(&self.key);
                }
            }
        }
        self.all.ended.notify_waiters();
    }
}

impl Interrupted {
    /// Finds what earlier runs left behind.
    pub(super) async fn open(storage: Arc<dyn Storage>) -> Result<Arc<Self>> {
        let records = storage::run(Arc::clone(&storage), load).await?;
        let slot = |record| Slot { record: Some(record), runs: false };
        let slots = records.into_iter().map(|(key, record)| (key, slot(record))).collect();
        Ok(Arc::new(Self { storage, slots: Mutex::new(slots), ended: Notify::new() }))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<ResumeKey, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an add could begin now, and what it would go on from.
    pub(super) fn check(&self, resume: &Resume, options: &str, now: Timestamp) -> Result<Option<Record>> {
        decide(self.slots().get(&resume.key), resume, options, now)
    }

    /// Begins an add. What it goes on from, if it does.
    pub(super) fn begin(
        self: &Arc<Self>,
        resume: &Resume,
        options: &str,
        now: Timestamp,
    ) -> Result<(Running, Option<Record>)> {
        let mut slots = self.slots();
        let record = decide(slots.get(&resume.key), resume, options, now)?;
        slots.entry(resume.key.clone()).or_default().runs = true;
        Ok((Running { all: Arc::clone(self), key: resume.key.clone() }, record))
    }

    /// What is known of an add that does not run.
    pub(super) fn find(&self, key: &ResumeKey, now: Timestamp) -> Result<Option<InterruptedAdd>> {
        match self.slots().get(key) {
            Some(Slot { runs: true, .. }) => Err(runs(key)),
            Some(Slot { record: Some(record), .. }) if !record.is_expired(now) => Ok(record.shown(key)),
            _ => Ok(None),
        }
    }

    /// Whether no add with a key runs.
    pub(super) fn is_idle(&self) -> bool {
        !self.slots().values().any(|slot| slot.runs)
    }

    /// Returns when an add with a key ends that runs now. Cancel-safe.
    pub(super) fn ended(&self) -> tokio::sync::futures::Notified<'_> {
        self.ended.notified()
    }

    /// Notes where an add broke off. The oldest record makes room for it.
    pub(super) async fn put(&self, key: &ResumeKey, record: Record) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(SPACE, key.as_str().to_owned(), encoded(&record)?);
        {
            let mut slots = self.slots();
            slots.entry(key.clone()).or_default().record = Some(record);
            while let Some(oldest) = one_too_many(&slots) {
                debug!(key = %oldest, "forgetting the oldest add that broke off");
                batch.delete(SPACE, oldest.as_str().to_owned());
                forget(&mut slots, &oldest);
            }
        }
        self.write(batch, Durability::Synced).await
    }

    /// Forgets where an add broke off.
    pub(super) async fn remove(&self, key: &ResumeKey) -> Result<()> {
        if self.slots().get(key).is_none_or(|slot| slot.record.is_none()) {
            return Ok(());
        }
        forget(&mut self.slots(), key);
        let mut batch = Batch::new();
        batch.delete(SPACE, key.as_str().to_owned());
        self.write(batch, Durability::Buffered).await
    }

    /// Forgets what is too old.
    pub(super) async fn remove_expired(&self, now: Timestamp) -> Result<()> {
        let mut batch = Batch::new();
        {
            let mut slots = self.slots();
            let is_old = |slot: &Slot| slot.record.as_ref().is_some_and(|record| record.is_expired(now));
            // One that goes on is let go of when that ends.
            let old: Vec<_> = slots.iter().filter(|(_, slot)| is_old(slot) && !slot.runs).collect();
            let old: Vec<ResumeKey> = old.into_iter().map(|(key, _)| key.clone()).collect();
            for key in &old {
                debug!(%key, "forgetting an add that broke off: nobody went on with it");
                batch.delete(SPACE, key.as_str().to_owned());
                forget(&mut slots, key);
            }
        }
        self.write(batch, Durability::Buffered).await
    }

    async fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        storage::run(Arc::clone(&self.storage), move |storage| storage.write(batch, durability)).await
    }
}

fn forget(slots: &mut BTreeMap<ResumeKey, Slot>, key: &ResumeKey) {
    if let Some(slot) = slots.get_mut(key) {
        slot.record = None;
        if !slot.runs {
            slots.remove(key);
        }
    }
}

/// The oldest record, where there is one more than may be.
fn one_too_many(slots: &BTreeMap<ResumeKey, Slot>) -> Option<ResumeKey> {
    let records = slots.iter().filter_map(|(key, slot)| Some((slot.record.as_ref()?.since, key)));
    let oldest = records.clone().min()?;
    (records.count() > INTERRUPTED_ADDS_MAX).then(|| oldest.1.clone())
}

/// Whether an add with this key may begin there, and what it goes on from. Pure.
fn decide(slot: Option<&Slot>, resume: &Resume, options: &str, now: Timestamp) -> Result<Option<Record>> {
    let Resume { key, offset } = resume;
    if slot.is_some_and(|slot| slot.runs) {
        return Err(runs(key));
    }
    if *offset == 0 {
        return Ok(None);
    }
    let record = slot.and_then(|slot| slot.record.as_ref()).filter(|record| !record.is_expired(now));
    let Some(record) = record else {
        return Err(conflict(format!(
            "no add {key} that broke off is known here, or not any more; begin anew, at offset 0"
        )));
    };
    let at = record.place.offset;
    if at != *offset {
        return Err(conflict(format!("add {key} goes on at offset {at} and not at {offset}")));
    }
    if record.options != options {
        return Err(conflict(format!(
            "add {key} began with other replication factors, other allocations, or without local; go on with those, or begin \
             anew, at offset 0"
        )));
    }
    Ok(Some(record.clone()))
}

fn runs(key: &ResumeKey) -> Error {
    conflict(format!("add {key} is running, or has just broken off; try again when it has ended"))
}

fn conflict(text: String) -> Error {
    Error::new(ErrorKind::Conflict, text).component(super::COMPONENT)
}

fn encoded(record: &Record) -> Result<Vec<u8>> {
    let mut value = vec![FORMAT];
    serde_json::to_writer(&mut value, record)
        .map_err(|source| Error::internal("what is known of an add cannot be written").with_source(source))?;
    Ok(value)
}

fn decoded(value: &[u8]) -> Option<Record> {
    let (&FORMAT, json) = value.split_first()? else { return None };
    serde_json::from_slice(json).ok()
}

fn load(storage: &dyn Storage) -> Result<BTreeMap<ResumeKey, Record>> {
    let page = storage.snapshot()?.scan(SPACE, KeyRange::all(), Direction::Forward, INTERRUPTED_ADDS_MAX)?;
    let mut records = BTreeMap::new();
    for (key, value) in page.entries {
        let name = std::str::from_utf8(&key).ok().and_then(|text| text.parse::<ResumeKey>().ok());
        match (name, decoded(&value)) {
            (Some(key), Some(record)) => {
                records.insert(key, record);
            }
            _ => warn!(key = hex::encode(key), "cannot read what is known of an add that broke off"),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adder::destinations::PlacedPeer;
    use crate::storage::MemoryStorage;
    use crate::types::{Block, CarDigest, PeerId};

    fn key(number: usize) -> ResumeKey {
        format!("key-{number}").parse().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn record(offset: u64, since: Timestamp) -> Record {
        let root = Block::raw("root").cid;
        let digest = CarDigest::of_header(&[root], 7);
        let peers = vec![PlacedPeer { peer: PeerId::random(), whole: true }];
        Record {
            place: CarPlace {
                offset,
                root: Some(root),
                blocks: 3,
                bytes: 70,
                digest: Some(digest),
                ..CarPlace::default()
            },
            placed: Placed { peers, allocations: None, min: 1, replaceable: true, places: 2 },
            options: "o".to_owned(),
            since,
            failures: 0,
        }
    }

    fn resume(number: usize, offset: u64) -> Resume {
        Resume { key: key(number), offset }
    }

    #[tokio::test]
    async fn records_are_found_again_and_expire() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let adds = Interrupted::open(Arc::clone(&storage)).await.unwrap();
        assert_eq!(adds.find(&key(1), at(0)).unwrap(), None);
        let written = record(100, at(0));
        adds.put(&key(1), written.clone()).await.unwrap();
        let mut bad = Batch::new();
        bad.put(SPACE, "key-2", &b"\x01{}"[..]);
        bad.put(SPACE, "no key", encoded(&written).unwrap());
        bad.put(SPACE, "key-3", &b"\x02"[..]);
        storage.write(bad, Durability::Synced).unwrap();

        let adds = Interrupted::open(Arc::clone(&storage)).await.unwrap();
        let found = adds.find(&key(1), at(60)).unwrap().unwrap();
        assert_eq!((found.offset, found.blocks, found.bytes, found.since), (100, 3, 70, at(0)));
        assert_eq!(found.expires, at(0) + INTERRUPTED_ADD_TTL);
        assert_eq!(adds.find(&key(2), at(60)).unwrap(), None);
        assert_eq!(adds.check(&resume(1, 100), "o", at(60)).unwrap(), Some(written));

        let late = at(0) + INTERRUPTED_ADD_TTL;
        assert_eq!(adds.find(&key(1), late).unwrap(), None);
        assert_eq!(adds.check(&resume(1, 100), "o", late).unwrap_err().kind(), ErrorKind::Conflict);
        adds.remove_expired(late).await.unwrap();
        let adds = Interrupted::open(storage).await.unwrap();
        assert_eq!(adds.find(&key(1), at(60)).unwrap(), None);
    }

    #[tokio::test]
    async fn an_add_goes_on_only_from_where_it_broke_off_as_it_began_and_once_at_a_time() {
        let adds = Interrupted::open(Arc::new(MemoryStorage::new())).await.unwrap();
        adds.put(&key(1), record(100, at(0))).await.unwrap();
        for (resume, options, text) in [
            (resume(1, 99), "o", "goes on at offset 100 and not at 99"),
            (resume(1, 100), "p", "began with other replication factors"),
            (resume(2, 100), "o", "no add key-2 that broke off is known"),
        ] {
            let error = adds.begin(&resume, options, at(1)).unwrap_err();
            assert!(error.kind() == ErrorKind::Conflict && error.message().contains(text), "{error}");
        }
        let (running, before) = adds.begin(&resume(1, 100), "o", at(1)).unwrap();
        assert!(before.is_some() && !adds.is_idle());
        for error in [
            adds.begin(&resume(1, 100), "o", at(1)).unwrap_err(),
            adds.begin(&resume(1, 0), "o", at(1)).unwrap_err(),
            adds.find(&key(1), at(1)).unwrap_err(),
        ] {
            assert!(error.kind() == ErrorKind::Conflict && error.message().contains("is running"), "{error}");
        }
        drop(running);
        assert!(adds.is_idle() && adds.find(&key(1), at(1)).unwrap().is_some(), "it can go on once more");
        // Anew, with other options.
        let (running, before) = adds.begin(&resume(1, 0), "p", at(1)).unwrap();
        assert!(before.is_none());
        adds.remove(&running.key).await.unwrap();
        drop(running);
        assert!(adds.find(&key(1), at(1)).unwrap().is_none() && adds.slots().is_empty());
    }

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let adds = Interrupted::open(Arc::clone(&storage)).await.unwrap();
        for number in 0..=INTERRUPTED_ADDS_MAX {
            adds.put(&key(number), record(1, at((number as i64 + 7) % 1_000))).await.unwrap();
        }
        let adds = Interrupted::open(storage).await.unwrap();
        assert_eq!(adds.slots().len(), INTERRUPTED_ADDS_MAX);
        assert!(adds.find(&key(993), at(1_000)).unwrap().is_none(), "the one of the first second");
    }

    #[test]
    fn what_fails_again_and_again_is_given_up() {
        let record = record(1, at(0)).after_failure().unwrap().after_failure().unwrap();
        assert_eq!(record.after_failure(), None);
    }
}
