//! The pinset in every store through the conformance suite, and what is particular to [`StoreState`].

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod faults;

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use ipfs_cluster::error::{Error, ErrorKind, Result};
use ipfs_cluster::state::lines::{ImportOptions, export_lines, import_lines};
use ipfs_cluster::state::{
    PAGE_ITEMS_MAX, SNAPSHOT_LIFETIME, Selection, State, StateChange, StateOrder, StateQuery, StateReader,
    StoreState,
};
use ipfs_cluster::storage::{
    Batch, Direction, Durability, FjallConfig, FjallStorage, KeyRange, MemoryStorage, RedbConfig,
    RedbStorage, Space, Storage,
};
use ipfs_cluster::testing::state_suite::{Fixture, Model, assert_same, cid, pin};
use ipfs_cluster::testing::{CrashStorage, FaultyStorage, StorageCall};
use ipfs_cluster::types::{Pin, PinOperation, PinType};
use tempfile::TempDir;

async fn opened(storage: Arc<dyn Storage>) -> Arc<dyn State> {
    Arc::new(StoreState::open(storage).await.unwrap())
}

struct Memory;

#[async_trait]
impl Fixture for Memory {
    type Guard = Arc<dyn Storage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn State>) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        (storage.clone(), opened(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, _state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        Some(opened(storage.clone()).await)
    }
}

ipfs_cluster::state_conformance!(memory, Memory);

struct PowerCut;

#[async_trait]
impl Fixture for PowerCut {
    type Guard = Arc<CrashStorage>;

    async fn create(&self) -> (Self::Guard, Arc<dyn State>) {
        let storage = Arc::new(CrashStorage::new());
        (storage.clone(), opened(storage).await)
    }

    async fn reopen(&self, storage: &mut Self::Guard, state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        storage.close().unwrap();
        self.crash(storage, state).await
    }

    async fn crash(&self, storage: &mut Self::Guard, _state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        *storage = Arc::new(storage.crash());
        Some(opened(storage.clone()).await)
    }
}

ipfs_cluster::state_conformance!(power_cut, PowerCut);

/// An engine that keeps its store in a folder.
#[derive(Clone, Copy)]
enum Engine {
    Fjall,
    Redb,
}

impl Engine {
    fn open(self, folder: &Path) -> Arc<dyn Storage> {
        match self {
            Self::Fjall => Arc::new(FjallStorage::open(folder, FjallConfig::default()).unwrap()),
            Self::Redb => Arc::new(RedbStorage::open(folder, RedbConfig::default()).unwrap()),
        }
    }
}

struct OnDisk(Engine);

impl OnDisk {
    async fn open(&self, folder: &TempDir) -> (Arc<dyn Storage>, Arc<dyn State>) {
        let storage = self.0.open(&folder.path().join("store"));
        let state = StoreState::open_with_spool_folder(storage.clone(), folder.path()).await.unwrap();
        (storage, Arc::new(state))
    }
}

#[async_trait]
impl Fixture for OnDisk {
    type Guard = (Arc<dyn Storage>, TempDir);

    async fn create(&self) -> (Self::Guard, Arc<dyn State>) {
        let folder = TempDir::new().unwrap();
        let (storage, state) = self.open(&folder).await;
        ((storage, folder), state)
    }

    async fn reopen(
        &self,
        (storage, folder): &mut Self::Guard,
        _state: Arc<dyn State>,
    ) -> Option<Arc<dyn State>> {
        storage.close().unwrap();
        let (again, state) = self.open(folder).await;
        *storage = again;
        Some(state)
    }
}

ipfs_cluster::state_conformance!(fjall, OnDisk(Engine::Fjall));
ipfs_cluster::state_conformance!(redb, OnDisk(Engine::Redb));

const META: Space = Space::new("state-meta");
const PINS: Space = Space::new("pins");
const LOG: Space = Space::new("test-log");
const ALL_SPACES: [Space; 4] =
    [PINS, Space::new("pins-by-name"), Space::new("pins-by-meta"), Space::new("pins-by-created")];

fn put(number: u64) -> PinOperation {
    PinOperation::Pin(Arc::new(pin(number)))
}

async fn apply(state: &StoreState, numbers: impl IntoIterator<Item = u64>) {
    state.apply(numbers.into_iter().map(put).collect(), Batch::new()).await.unwrap();
}

fn write(storage: &dyn Storage, space: Space, key: &[u8], value: Option<&[u8]>) {
    let mut batch = Batch::new();
    match value {
        Some(value) => batch.put(space, key.to_vec(), value.to_vec()),
        None => batch.delete(space, key.to_vec()),
    }
    storage.write(batch, Durability::Synced).unwrap();
}

fn io_error() -> Error {
    Error::new(ErrorKind::Io, "the cable is out")
}

async fn assert_pins(state: &StoreState, numbers: impl IntoIterator<Item = u64>) {
    assert_same(state, &Model::of(numbers.into_iter().map(pin))).await;
}

fn pages(numbers: std::ops::Range<u64>) -> BoxStream<'static, Result<Vec<Pin>>> {
    stream::iter([Ok(numbers.map(pin).collect())]).boxed()
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_nobody_reads_lets_go_of_its_snapshot_and_goes_on_in_a_new_one() {
    let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
    let state = StoreState::open(storage.clone()).await.unwrap();
    let count = 3 * PAGE_ITEMS_MAX as u64;
    apply(&state, 0..count).await;
    let in_order = Model::of((0..count).map(pin)).list(&Selection::All);
    let mut listing = state.list(StateQuery::default());
    let first = listing.next().await.unwrap().unwrap();
    assert_eq!(first, in_order[..PAGE_ITEMS_MAX]);
    assert_eq!(storage.snapshots_held(), 1);

    tokio::time::sleep(SNAPSHOT_LIFETIME - Duration::from_secs(1)).await;
    assert_eq!(storage.snapshots_held(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(storage.snapshots_held(), 0);

    let gone = in_order[2 * PAGE_ITEMS_MAX].cid;
    state.apply(vec![PinOperation::Unpin(gone)], Batch::new()).await.unwrap();
    let rest: Vec<Pin> = listing.try_concat().await.unwrap();
    let expected: Vec<Pin> =
        in_order[PAGE_ITEMS_MAX..].iter().filter(|pin| pin.cid != gone).cloned().collect();
    assert_eq!(rest, expected);
    assert_eq!(storage.snapshots_held(), 0);
}

#[tokio::test(start_paused = true)]
async fn listings_by_index_go_on_in_a_new_snapshot_too_also_after_a_replacement() {
    let state = StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap();
    let count = 3 * PAGE_ITEMS_MAX as u64;
    let model = Model::of((0..count).map(pin));
    for selection in [
        Selection::NamePrefix("name".to_owned()),
        Selection::Created { from: None, to: None },
        Selection::Metadata { key: "group".to_owned(), value: "1".to_owned() },
    ] {
        apply(&state, 0..count).await;
        let query = StateQuery { selection: selection.clone(), ..StateQuery::default() };
        let mut listing = state.list(query);
        let mut seen = listing.next().await.unwrap().unwrap();
        state.replace(pages(0..count), Arc::new(|_| {})).await.unwrap();
        tokio::time::sleep(2 * SNAPSHOT_LIFETIME).await;
        seen.extend(listing.try_concat().await.unwrap());
        assert_eq!(seen, model.list(&selection), "{selection:?}");
    }
}

#[tokio::test]
async fn looking_for_what_is_rare_takes_many_short_pages_rather_than_a_long_one() {
    const PINS: u64 = 40_000;
    let state = StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap();
    state.replace(pages(0..PINS), Arc::new(|_| {})).await.unwrap();
    let mut rare = pin(PINS);
    let mut asked = StateQuery {
        types: [PinType::Shard].into_iter().collect(),
        order: Some(StateOrder::Name),
        ..StateQuery::default()
    };
    rare.pin_type = PinType::Shard;
    state.apply(vec![PinOperation::Pin(Arc::new(rare.clone()))], Batch::new()).await.unwrap();
    let (mut found, mut count) = (Vec::new(), 0);
    loop {
        let page = state.page(asked.clone(), 10).await.unwrap();
        found.extend(page.pins);
        count += 1;
        asked.after = page.next;
        if asked.after.is_none() {
            break;
        }
    }
    assert_eq!(found, [rare]);
    assert!((2..=8).contains(&count), "{count} pages");
}

#[tokio::test]
async fn a_dropped_write_cannot_be_overtaken() {
    let folder = TempDir::new().unwrap();
    let state = StoreState::open(Engine::Fjall.open(folder.path())).await.unwrap();
    for round in 0..30 {
        let mut dropped = Box::pin(state.apply(vec![put(1), put(2 + round)], Batch::new()));
        let _ = futures::poll!(&mut dropped);
        drop(dropped);
        let changes =
            state.apply(vec![PinOperation::Unpin(cid(1)), put(100 + round)], Batch::new()).await.unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!(state.get(&cid(1)).await.unwrap(), None);
        let listed: Vec<Pin> = state.list(StateQuery::default()).try_concat().await.unwrap();
        assert_eq!(state.counts().pins, listed.len() as u64);
    }
}

async fn exported(state: &StoreState, query: StateQuery) -> Vec<u8> {
    let chunks: Vec<Bytes> = export_lines(state, query).try_collect().await.unwrap();
    chunks.concat()
}

#[tokio::test]
async fn an_export_can_be_imported_by_every_engine() {
    let source = StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap();
    apply(&source, 0..5_000).await;
    let text = exported(&source, StateQuery::default()).await;
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 5_000);
    for engine in [Some(Engine::Fjall), Some(Engine::Redb), None] {
        let folder = TempDir::new().unwrap();
        let storage = match engine {
            Some(engine) => engine.open(&folder.path().join("store")),
            None => Arc::new(MemoryStorage::new()),
        };
        let state = StoreState::open_with_spool_folder(storage, folder.path()).await.unwrap();
        apply(&state, 6_000..6_100).await;
        let told = Arc::new(AtomicU64::new(0));
        let telling = told.clone();
        let progress = Arc::new(move |read| telling.store(read, Ordering::Relaxed));
        let input = Cursor::new(text.clone());
        let count = import_lines(&state, input, ImportOptions::default(), progress).await.unwrap();
        assert_eq!((count, told.load(Ordering::Relaxed)), (5_000, 5_000));
        assert_eq!(exported(&state, StateQuery::default()).await, text);
        let query = StateQuery { selection: Selection::Name("name 3".to_owned()), ..StateQuery::default() };
        assert_eq!(exported(&state, query.clone()).await, exported(&source, query).await);
        assert!(std::fs::read_dir(folder.path()).unwrap().count() <= 1, "no temporary file is left");
    }
}

#[tokio::test]
async fn an_import_of_a_damaged_export_leaves_the_old_pinset() {
    let state = StoreState::open(Arc::new(MemoryStorage::new())).await.unwrap();
    apply(&state, 0..2_000).await;
    let mut text = exported(&state, StateQuery::default()).await;
    text.truncate(text.len() - 10);
    apply(&state, [3_000]).await;
    let error = import_lines(&state, Cursor::new(text), ImportOptions::default(), Arc::new(|_| {}))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("pin 2000, line 2000"), "{error}");
    assert_pins(&state, (0..2_000).chain([3_000])).await;
}

/// The engine makes its journal so long in advance; what is checked in has no zeros at the end.
const FJALL_JOURNAL_BYTES: u64 = 64 << 20;
/// Of the pinsets that the first version wrote, see `tests/data/pinsets/README.md`.
const OLD_PINS: u64 = 40;

fn old_model() -> Model {
    let mut changed = pin(3);
    changed.options.name = "changed".to_owned();
    Model::of(
        (0..OLD_PINS)
            .filter(|number| *number != 5)
            .map(|number| if number == 3 { changed.clone() } else { pin(number) }),
    )
}

async fn write_pinset(engine: Engine, folder: &Path) {
    let storage = engine.open(folder);
    let state = StoreState::open(storage.clone()).await.unwrap();
    // A replaced generation, single writes on top of it, and a removal.
    state.replace(pages(0..OLD_PINS / 2), Arc::new(|_| {})).await.unwrap();
    apply(&state, OLD_PINS / 2..OLD_PINS).await;
    let mut changed = pin(3);
    changed.options.name = "changed".to_owned();
    let operations = vec![PinOperation::Pin(Arc::new(changed)), PinOperation::Unpin(cid(5))];
    state.apply(operations, Batch::new()).await.unwrap();
    assert_same(&state, &old_model()).await;
    storage.close().unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            if target.extension().is_some_and(|extension| extension == "jnl") {
                let journal = std::fs::OpenOptions::new().write(true).open(target).unwrap();
                journal.set_len(FJALL_JOURNAL_BYTES).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn pinsets_of_the_first_version_still_load() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pinsets");
    if let Some(target) = std::env::var_os("WRITE_PINSETS") {
        write_pinset(Engine::Fjall, &Path::new(&target).join("1-fjall")).await;
        write_pinset(Engine::Redb, &Path::new(&target).join("1-redb")).await;
        return;
    }
    for (engine, name) in [(Engine::Fjall, "1-fjall"), (Engine::Redb, "1-redb")] {
        let folder = TempDir::new().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        copy_folder(&data.join(name), &old);
        write_pinset(engine, &new).await;
        for path in [old, new] {
            let state = StoreState::open(engine.open(&path)).await.unwrap();
            assert_same(&state, &old_model()).await;
            apply(&state, [5]).await;
        }
    }
}

fn keys(storage: &dyn Storage, space: Space) -> usize {
    let page =
        storage.snapshot().unwrap().scan(space, KeyRange::all(), Direction::Forward, usize::MAX).unwrap();
    page.entries.len()
}

#[tokio::test]
async fn no_index_entry_outlives_what_it_points_to() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let state = StoreState::open(storage.clone()).await.unwrap();
    // Each round gives every pin another number of metadata pairs, another name and perhaps no time.
    for round in 0..6u64 {
        let pins: Vec<Pin> = (0..20)
            .map(|number| {
                let mut pin = pin(number);
                pin.options.name = format!("name {}", (number + round) % 4);
                pin.options.metadata =
                    (0..(number + round) % 3).map(|key| (key.to_string(), round.to_string())).collect();
                pin.timestamp = pin.timestamp.filter(|_| (number + round) % 5 != 0);
                pin
            })
            .collect();
        let operations = pins.iter().map(|pin| PinOperation::Pin(Arc::new(pin.clone())));
        let operations = operations.chain([PinOperation::Unpin(cid(round))]);
        state.apply(operations.collect(), Batch::new()).await.unwrap();
        let there: Vec<&Pin> = pins.iter().filter(|pin| pin.cid != cid(round)).collect();
        let expected = [
            there.len(),
            there.len(),
            there.iter().map(|pin| pin.options.metadata.len()).sum(),
            there.iter().filter(|pin| pin.timestamp.is_some()).count(),
        ];
        assert_eq!(ALL_SPACES.map(|space| keys(&*storage, space)), expected, "round {round}");
    }
    let all = (0..20).map(|number| PinOperation::Unpin(cid(number))).collect();
    state.apply(all, Batch::new()).await.unwrap();
    assert_eq!(ALL_SPACES.map(|space| keys(&*storage, space)), [0; 4]);
}
