//! What was acknowledged survives, and gets into the DAG once.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Batch, Durability, Snapshot};
use crate::testing::state_suite::cid;
use crate::testing::{CrashStorage, FaultyStorage, StorageCall};
use crate::types::PinOperation;

/// What a peer would have that got nothing but the blocks.
async fn told(crdt: &Crdt) -> BTreeMap<Vec<u8>, Pin> {
    let other = memory(AT_ONCE).await;
    let all = nodes(storage(crdt));
    other.parts.ledger.merge(all, HeadChange::none()).await.unwrap();
    pinset(&other).await
}

/// How often each pin was added.
fn elements(storage: &dyn Storage) -> BTreeMap<Cid, usize> {
    let mut counts = BTreeMap::new();
    for element in nodes(storage).into_iter().flat_map(|node| node.delta.elements) {
        *counts.entry(element.pin).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_and_not_cut_is_there_after_a_crash_and_cut_once() {
    // The power goes after this many operations.
    for crash_after in 0..=12u64 {
        let mut disk = Arc::new(CrashStorage::new());
        let mut crdt = open(disk.clone(), BATCHED).await;
        for number in 0..12u64 {
            if number == crash_after {
                let before = pinset(&crdt).await;
                disk = Arc::new(disk.crash());
                crdt = open(disk.clone(), BATCHED).await;
                assert_eq!(pinset(&crdt).await, before, "{number}");
                assert!(nodes(storage(&crdt)).is_empty(), "it is not old enough");
            }
            match number % 4 {
                3 => drop(crdt.log_unpin(&cid(number - 1)).await.unwrap().unwrap()),
                _ => crdt.log_pin(pin(number)).await.unwrap(),
            }
        }
        let pins = pinset(&crdt).await;
        assert_eq!(pins.len(), 6);
        // Old enough; and once more, to see that nothing is cut twice.
        tokio::time::sleep(BATCHED.1 + Duration::from_secs(1)).await;
        let [only] = &*nodes(storage(&crdt)) else { panic!("one delta") };
        assert!(only.delta.elements.len() == 6 && only.delta.tombstones.is_empty());
        tokio::time::sleep(2 * BATCHED.1).await;
        assert!(entries(storage(&crdt), LOG).is_empty());
        assert_eq!(nodes(storage(&crdt)).len(), 1);
        assert_eq!(told(&crdt).await, pins);
        // A crash after the cut changes nothing, and its head is there to be announced.
        let again = open(Arc::new(disk.crash()), BATCHED).await;
        assert_eq!(pinset(&again).await, pins);
        assert_eq!(again.parts.ledger.heads(), [Head { cid: only.cid, height: 1 }]);
        tokio::time::sleep(2 * BATCHED.1).await;
        assert_eq!(nodes(storage(&again)).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_batch_any_more_cuts_what_waited() {
    let disk = Arc::new(CrashStorage::new());
    let crdt = open(disk.clone(), BATCHED).await;
    crdt.log_many((0..5).map(|number| PinOperation::Pin(pin(number).into())).collect()).await.unwrap();
    let disk = Arc::new(disk.crash());
    let crdt = open(disk, AT_ONCE).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(elements(storage(&crdt)).len(), 5);
    assert!(entries(storage(&crdt), LOG).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_cuts_what_waits() {
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let crdt = open(disk.clone(), BATCHED).await;
    crdt.log_pin(pin(1)).await.unwrap();
    assert!(nodes(&*disk).is_empty());
    let mut cut = crdt.parts.cut.clone();
    crdt.shutdown().await.unwrap();
    let [node] = &*nodes(&*disk) else { panic!("one delta") };
    assert_eq!(*cut.borrow_and_update(), Some(Head { cid: node.cid, height: 1 }));
    assert!(entries(&*disk, LOG).is_empty());
    let again = open(disk, BATCHED).await;
    again.shutdown().await.unwrap();
    assert_eq!(nodes(storage(&again)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_component_that_is_dropped_cuts_what_waits() {
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let crdt = open(disk.clone(), BATCHED).await;
    crdt.log_pin(pin(1)).await.unwrap();
    let mut events = crdt.events();
    drop(crdt);
    while futures::StreamExt::next(&mut events).await.is_some() {}
    assert_eq!(nodes(&*disk).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_fails_is_tried_again_and_nothing_is_lost() {
    let storage_of = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let crdt = open(storage_of.clone(), BATCHED).await;
    crdt.log_pin(pin(1)).await.unwrap();
    storage_of.fail(StorageCall::Write, 0, Error::new(ErrorKind::StorageFull, "no space left"));
    tokio::time::sleep(2 * BATCHED.1).await;
    assert!(nodes(storage(&crdt)).is_empty());
    assert_eq!(crdt.log_pin(pin(2)).await.unwrap_err().kind(), ErrorKind::StorageFull);
    storage_of.heal();
    tokio::time::sleep(2 * BATCHED.1).await;
    assert_eq!(elements(storage(&crdt)), BTreeMap::from([(cid(1), 1)]));
    crdt.log_pin(pin(2)).await.unwrap();
    crdt.shutdown().await.unwrap();
    assert_eq!(elements(storage(&crdt)), BTreeMap::from([(cid(1), 1), (cid(2), 1)]));
    assert_eq!(told(&crdt).await, pinset(&crdt).await);
}

/// A store that once does what it was told and says that it could not.
#[derive(Debug)]
pub(super) struct Liar {
    pub(super) inner: MemoryStorage,
    pub(super) lies: AtomicBool,
}

impl Storage for Liar {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(space, key)
    }
    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        self.inner.write(batch, durability)?;
        if self.lies.swap(false, Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Io, "the disk went away for a moment"));
        }
        Ok(())
    }
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        self.inner.snapshot()
    }
    fn bulk_load(
        &self,
        space: Space,
        entries: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    ) -> Result<u64> {
        self.inner.bulk_load(space, entries)
    }
    fn remove_space(&self, space: Space) -> Result<()> {
        self.inner.remove_space(space)
    }
    fn approximate_bytes(&self) -> Result<u64> {
        self.inner.approximate_bytes()
    }
    fn blocks(&self) -> bool {
        self.inner.blocks()
    }
    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_but_happened_is_found_out() {
    for batching in [AT_ONCE, BATCHED] {
        let liar = Arc::new(Liar { inner: MemoryStorage::new(), lies: AtomicBool::new(false) });
        let crdt = open(liar.clone(), batching).await;
        crdt.log_pin(pin(1)).await.unwrap();
        liar.lies.store(true, Ordering::Relaxed);
        assert_eq!(crdt.log_pin(pin(2)).await.unwrap_err().kind(), ErrorKind::Io);
        crdt.log_pin(pin(3)).await.unwrap();
        crdt.log_unpin(&cid(1)).await.unwrap().unwrap();
        tokio::time::sleep(2 * BATCHED.1).await;
        // Each block has a number of its own, and all of them are below one head.
        let numbers = entries(storage(&crdt), records::NUMBERS).len();
        assert_eq!(numbers, nodes(storage(&crdt)).len(), "{batching:?}");
        assert_eq!(crdt.parts.ledger.heads().len(), 1);
        assert_eq!(told(&crdt).await, pinset(&crdt).await, "{batching:?}");
        assert_eq!(pinset(&crdt).await.len(), 2);
    }
}

#[tokio::test]
async fn a_cleaning_that_was_cut_off_is_finished() {
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let crdt = open(disk.clone(), AT_ONCE).await;
    crdt.log_pin(pin(1)).await.unwrap();
    crdt.shutdown().await.unwrap();
    let mut batch = Batch::new();
    batch.put(records::META, records::META_CLEANING, Bytes::new());
    disk.write(batch, Durability::Synced).unwrap();
    let crdt = open(disk, AT_ONCE).await;
    assert!(pinset(&crdt).await.is_empty() && crdt.parts.ledger.heads().is_empty());
    for space in records::CONTENT {
        assert!(entries(storage(&crdt), space).is_empty(), "{space}");
    }
    assert!(storage(&crdt).get(records::META, records::META_CLEANING).unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_pinned_after_a_cleaning_that_failed_is_not_forgotten_with_the_rest() {
    for failing in [StorageCall::RemoveSpace, StorageCall::Write] {
        for spared in 0..2 {
            let disk = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
            let crdt = open(disk.clone(), AT_ONCE).await;
            crdt.log_pin(pin(1)).await.unwrap();
            disk.fail(failing, spared, Error::new(ErrorKind::Io, "the disk went away"));
            let cleaned = crdt.clean().await;
            disk.heal();
            crdt.log_pin(pin(2)).await.unwrap();
            let listed = pinset(&crdt).await;
            assert!(listed.contains_key(&cid(2).to_bytes()));
            assert!(cleaned.is_err() || listed.len() == 1, "{failing:?} after {spared}: {listed:?}");
            crdt.shutdown().await.unwrap();
            let crdt = open(disk, AT_ONCE).await;
            assert_eq!(pinset(&crdt).await, listed, "{failing:?} after {spared}");
        }
    }
}

fn damage(crdt: &Crdt, number: u64) {
    let mut batch = Batch::new();
    batch.put(SET, cid(number).to_bytes(), vec![1, 0xff]);
    storage(crdt).write(batch, Durability::Synced).unwrap();
}

#[tokio::test]
async fn an_unreadable_record_fails_its_own_call_alone() {
    let crdt = Arc::new(memory(AT_ONCE).await);
    crdt.log_pin(pin(1)).await.unwrap();
    damage(&crdt, 1);
    let call = |operation| {
        let crdt = crdt.clone();
        tokio::spawn(async move { crdt.log_many(vec![operation]).await })
    };
    let put = |number| PinOperation::Pin(named(number, "again").into());
    // Nobody knows which elements would have to go.
    let calls = [call(put(2)), call(PinOperation::Unpin(cid(1))), call(put(3))];
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await.unwrap().map_err(|error| error.kind()));
    }
    assert_eq!(results, [Ok(()), Err(ErrorKind::Corrupt), Ok(())]);
    assert_eq!(pinset(&crdt).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_does_not_keep_what_waits_from_being_cut() {
    let crdt = memory(BATCHED).await;
    for number in 1..4 {
        crdt.log_pin(pin(number)).await.unwrap();
        damage(&crdt, number);
    }
    tokio::time::sleep(2 * BATCHED.1).await;
    assert!(entries(storage(&crdt), LOG).is_empty());
    assert_eq!(told(&crdt).await, pinset(&crdt).await);
    assert!(crdt.log_unpin(&cid(1)).await.unwrap().is_some(), "the records are whole again");
}
