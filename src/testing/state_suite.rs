//! Conformance suite of [`State`].
//!
//! ```ignore
//! struct Mine;
//!
//! #[async_trait]
//! impl Fixture for Mine {
//!     type Guard = TempDir;
//!     async fn create(&self) -> (TempDir, Arc<dyn State>) {
//!         let folder = TempDir::new().unwrap();
//!         let state = MyState::open(folder.path()).await.unwrap();
//!         (folder, Arc::new(state))
//!     }
//!     async fn reopen(&self, folder: &mut TempDir, state: Arc<dyn State>) -> Option<Arc<dyn State>> {
//!         drop(state);
//!         Some(Arc::new(MyState::open(folder.path()).await.unwrap()))
//!     }
//! }
//!
//! ipfs_cluster::state_conformance!(mine, Mine);
//! ```

// A test has nothing better to do with a failure than to panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use multihash_codetable::{Code, MultihashDigest};

use crate::error::{Error, ErrorKind, Result};
use crate::state::{
    NAME_ORDER_BYTES_MAX, PAGE_ITEMS_MAX, Selection, State, StateChange, StateOrder, StatePage, StateQuery,
    StateReader, encode_pin_protobuf,
};
use crate::storage::{Batch, KeyRange};
use crate::types::{
    Cid, PeerId, Pin, PinMode, PinOperation, PinOptions, PinType, PinTypeFilter, Revision, Timestamp,
};

/// Makes the states that the suite examines.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// What keeps the place of a state alive and cleans it up afterwards.
    type Guard: Send;

    /// A new, empty state in a place of its own.
    async fn create(&self) -> (Self::Guard, Arc<dyn State>);

    /// Closes a state in good order and opens it again; none where nothing persists.
    async fn reopen(&self, guard: &mut Self::Guard, state: Arc<dyn State>) -> Option<Arc<dyn State>>;

    /// Cuts the power under a state and opens what is left; none where that cannot be arranged.
    async fn crash(&self, _guard: &mut Self::Guard, _state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        None
    }
}

/// A fixture whose states stand behind one more `Arc`, to see that it forwards everything.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn create(&self) -> (Self::Guard, Arc<dyn State>) {
        let (guard, state) = self.0.create().await;
        (guard, Arc::new(state))
    }

    async fn reopen(&self, guard: &mut Self::Guard, state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        Some(Arc::new(self.0.reopen(guard, state).await?))
    }

    async fn crash(&self, guard: &mut Self::Guard, state: Arc<dyn State>) -> Option<Arc<dyn State>> {
        Some(Arc::new(self.0.crash(guard, state).await?))
    }
}

conformance_suite!($ state_suite, state_conformance, run_case, [
    an_empty_state_has_nothing,
    an_applied_pin_is_there,
    every_kind_of_pin_survives_unchanged,
    a_pin_is_kept_in_its_stored_form,
    a_pin_replaces_the_one_before,
    unpinning_gives_the_entry_as_it_was,
    unpinning_an_absent_cid_changes_nothing,
    operations_of_one_batch_see_each_other,
    what_is_not_as_it_was_seen_is_not_revised,
    nothing_is_left_to_settle_after_what_worked,
    an_empty_batch_is_fine,
    the_number_of_pins_follows_every_change,
    versions_of_a_cid_are_different_entries,
    pages_are_full_but_never_too_long_or_empty,
    only_the_asked_types_are_listed,
    a_changed_pin_is_found_by_what_it_is_now,
    names_are_told_apart_however_long_they_are,
    metadata_is_found_by_key_and_value_together,
    times_are_found_by_their_range,
    impossible_ranges_hold_nothing,
    a_listing_goes_on_after_any_entry,
    a_listing_goes_on_after_an_entry_that_is_gone,
    conditions_are_combined_and_put_in_any_order,
    a_cursor_of_another_query_is_refused,
    a_cursor_outlives_a_restart_and_a_replacement,
    random_changes_leave_records_and_indexes_as_a_model_says,
    a_listing_is_not_disturbed_by_changes,
    a_listing_is_not_disturbed_by_a_replacement,
    readers_see_whole_pages_while_others_write,
    a_replacement_is_all_there_is,
    a_replacement_may_come_in_any_order_with_duplicates,
    a_replacement_tells_how_far_it_is,
    a_replacement_by_nothing_empties_the_pinset,
    a_replacement_that_fails_changes_nothing,
    the_pinset_can_be_changed_after_a_replacement,
    a_cleared_pinset_is_empty_and_can_be_used_again,
    a_reopened_state_has_everything,
    a_crash_loses_nothing_that_was_acknowledged,
]);

/// A CID for each number, of both versions and several codecs.
pub fn cid(number: u64) -> Cid {
    let hash = Code::Sha2_256.digest(&number.to_be_bytes());
    match number % 4 {
        0 => Cid::new_v0(hash).unwrap(),
        1 => Cid::new_v1(0x55, hash),
        2 => Cid::new_v1(0x70, hash),
        _ => Cid::new_v1(0x71, Code::Blake2b512.digest(&number.to_be_bytes())),
    }
}

/// A peer for each number.
pub fn peer(number: u64) -> PeerId {
    let hash = Code::Sha2_256.digest(&number.to_be_bytes());
    PeerId::from_multihash(hash.resize().unwrap()).unwrap()
}

/// A stored pin for each number, with a name, metadata and a time.
pub fn pin(number: u64) -> Pin {
    let mut pin = Pin::new(
        cid(number),
        PinOptions {
            replication_factor_min: -1,
            replication_factor_max: -1,
            name: format!("name {}", number % 7),
            metadata: [("group".to_owned(), (number % 3).to_string())].into(),
            ..PinOptions::default()
        },
    );
    pin.timestamp = Some(second(number as i64 % 50));
    pin
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_700_000_000 + second)
}

fn put(pin: &Pin) -> PinOperation {
    PinOperation::Pin(Arc::new(pin.clone()))
}

async fn apply(state: &dyn State, operations: Vec<PinOperation>) -> Vec<StateChange> {
    state.apply(operations, Batch::new()).await.unwrap()
}

async fn filled<F: Fixture>(fixture: &F, numbers: std::ops::Range<u64>) -> Opened<F::Guard> {
    let (guard, state) = fixture.create().await;
    apply(&*state, numbers.map(|number| put(&pin(number))).collect()).await;
    Opened { guard, state }
}

struct Opened<G> {
    guard: G,
    state: Arc<dyn State>,
}

fn query(selection: Selection) -> StateQuery {
    StateQuery { selection, ..StateQuery::default() }
}

async fn list(state: &dyn StateReader, query: StateQuery) -> Result<Vec<Pin>> {
    let pages: Vec<Vec<Pin>> = state.list(query).try_collect().await?;
    for page in &pages {
        assert!(!page.is_empty() && page.len() <= PAGE_ITEMS_MAX, "a page of {} entries", page.len());
    }
    Ok(pages.concat())
}

/// Every page of a query, of as many entries as `limit` says for the n-th.
async fn pages_of(state: &dyn StateReader, asked: &StateQuery, limit: impl Fn(usize) -> usize) -> Vec<Pin> {
    let mut asked = asked.clone();
    let mut all = Vec::new();
    for number in 0.. {
        let limit = limit(number);
        let StatePage { pins, next } = state.page(asked.clone(), limit).await.unwrap();
        assert!(pins.len() <= limit, "{} entries of at most {limit}", pins.len());
        all.extend(pins);
        let Some(next) = next else { break };
        assert_ne!(asked.after.as_ref(), Some(&next), "a page must get somewhere");
        asked.after = Some(next);
    }
    all
}

/// Selections, alone and together, in every order and both directions.
fn combinations() -> Vec<StateQuery> {
    let group = Selection::Metadata { key: "group".to_owned(), value: "1".to_owned() };
    let late = Selection::Created { from: Some(second(10)), to: Some(second(45)) };
    let selections = [
        (Selection::All, vec![]),
        (Selection::Name("name 3".to_owned()), vec![]),
        (Selection::NamePrefix(String::new()), vec![]),
        (Selection::NamePrefix("name".to_owned()), vec![]),
        (group.clone(), vec![]),
        (late.clone(), vec![]),
        (Selection::Created { from: None, to: None }, vec![]),
        (Selection::Name("name 3".to_owned()), vec![group.clone(), late.clone()]),
        (Selection::NamePrefix("name".to_owned()), vec![late.clone()]),
        (late, vec![Selection::All, group]),
    ];
    let orders = [None, Some(StateOrder::Cid), Some(StateOrder::Name), Some(StateOrder::Created)];
    let mut all = Vec::new();
    for descending in [false, true] {
        for order in orders {
            for (selection, also) in selections.clone() {
                // Said or not, an order is the same query.
                let natural = query(selection.clone()).resolved_order();
                if order != Some(natural) {
                    all.push(StateQuery { also, order, descending, ..query(selection) });
                }
            }
        }
    }
    all
}

/// What a pinset has to answer, the slow and certain way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model(BTreeMap<Vec<u8>, Pin>);

impl Model {
    /// The pinset that these pins make.
    pub fn of(pins: impl IntoIterator<Item = Pin>) -> Self {
        let mut model = Self::default();
        pins.into_iter().for_each(|pin| drop(model.pin(pin)));
        model
    }

    fn pin(&mut self, pin: Pin) -> Option<Pin> {
        self.0.insert(pin.cid.to_bytes(), pin)
    }

    fn apply(&mut self, operation: &PinOperation) -> StateChange {
        match operation {
            PinOperation::Revise(revision) => {
                if self.0.get(&revision.seen().cid.to_bytes()) == Some(revision.seen()) {
                    self.apply(&revision.operation())
                } else {
                    StateChange::Unchanged
                }
            }
            PinOperation::Pin(pin) => {
                self.pin((**pin).clone());
                StateChange::Pinned(pin.clone())
            }
            PinOperation::Unpin(cid) => match self.0.remove(&cid.to_bytes()) {
                Some(pin) => StateChange::Unpinned(Arc::new(pin)),
                None => StateChange::Unchanged,
            },
        }
    }

    /// What every peer with this pinset must agree on, see [`StateCounts::sum`](crate::state::StateCounts::sum).
    pub fn sum(&self) -> u128 {
        self.0
            .iter()
            .map(|(key, pin)| {
                let entry = [key.as_slice(), &encode_pin_protobuf(pin)].concat();
                let digest = Code::Sha2_256.digest(&entry);
                u128::from_be_bytes(digest.digest()[..16].try_into().unwrap())
            })
            .fold(0, u128::wrapping_add)
    }

    /// The listing of a query, from its beginning.
    pub fn ask(&self, asked: &StateQuery) -> Vec<Pin> {
        let all = [&asked.selection].into_iter().chain(&asked.also);
        let is_wanted = |pin: &&Pin| {
            let holds = |peer: &PeerId| {
                pin.options.replication_factor_min == -1 || pin.allocations.iter().any(|held| held == peer)
            };
            all.clone().all(|selection| matches(selection, pin))
                && asked.types.matches(pin.pin_type)
                && asked.peer.as_ref().is_none_or(holds)
        };
        let mut pins: Vec<Pin> = self.0.values().filter(is_wanted).cloned().collect();
        let order = asked.order.unwrap_or(match asked.selection {
            Selection::NamePrefix(_) => StateOrder::Name,
            Selection::Created { .. } => StateOrder::Created,
            _ => StateOrder::Cid,
        });
        match order {
            StateOrder::Cid => {}
            StateOrder::Name => pins.sort_by(|a, b| a.options.name.cmp(&b.options.name)),
            StateOrder::Created => {
                pins.retain(|pin| pin.timestamp.is_some());
                pins.sort_by_key(|pin| pin.timestamp);
            }
        }
        if asked.descending {
            pins.reverse();
        }
        pins
    }

    /// The listing of a selection.
    pub fn list(&self, selection: &Selection) -> Vec<Pin> {
        let mut pins: Vec<Pin> = self.0.values().filter(|pin| matches(selection, pin)).cloned().collect();
        match selection {
            Selection::NamePrefix(_) => pins.sort_by(|a, b| a.options.name.cmp(&b.options.name)),
            Selection::Created { .. } => pins.sort_by_key(|pin| pin.timestamp),
            _ => {}
        }
        pins
    }
}

fn matches(selection: &Selection, pin: &Pin) -> bool {
    match selection {
        Selection::All => true,
        Selection::Name(name) => pin.options.name == *name,
        Selection::NamePrefix(prefix) => pin.options.name.starts_with(prefix),
        Selection::Metadata { key, value } => pin.options.metadata.get(key) == Some(value),
        Selection::Created { from, to } => {
            pin.timestamp.is_some_and(|time| *from <= Some(time) && to.is_none_or(|to| time < to))
        }
    }
}

/// Compares a state with a model in everything that can be asked.
///
/// # Panics
/// When they differ.
pub async fn assert_same(state: &dyn StateReader, model: &Model) {
    assert_eq!(state.counts().pins, model.0.len() as u64, "the number of pins");
    assert_eq!(state.counts().sum, model.sum(), "the sum of the pinset");
    for selection in selections(model) {
        let listed = list(state, query(selection.clone())).await.unwrap();
        let expected = model.list(&selection);
        assert_eq!(cids(&listed), cids(&expected), "{selection:?}");
        assert_eq!(listed, expected, "{selection:?}");
    }
    for pin in model.0.values() {
        assert_eq!(state.get(&pin.cid).await.unwrap().as_ref(), Some(pin));
    }
}

/// Selections worth asking: whole, every name, prefixes, every metadata pair, ranges of time.
fn selections(model: &Model) -> Vec<Selection> {
    let mut names: Vec<&str> = model.0.values().map(|pin| pin.options.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut pairs: Vec<_> = model.0.values().flat_map(|pin| &pin.options.metadata).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let created = |from: Option<i64>, to: Option<i64>| Selection::Created {
        from: from.map(second),
        to: to.map(second),
    };
    let mut selections = vec![Selection::All, created(None, None), created(Some(10), Some(20))];
    selections.extend([created(Some(15), None), created(None, Some(15)), created(Some(20), Some(20))]);
    for name in names {
        selections.push(Selection::Name(name.to_owned()));
        let middle = (0..=name.len() / 2).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        selections.push(Selection::NamePrefix(name[..middle].to_owned()));
        selections.push(Selection::NamePrefix(name.to_owned()));
    }
    for (key, value) in pairs {
        selections.push(Selection::Metadata { key: key.clone(), value: value.clone() });
    }
    selections.push(Selection::Name("a name nobody has".to_owned()));
    selections
}

fn cids(pins: &[Pin]) -> Vec<String> {
    pins.iter().map(|pin| pin.cid.to_string()).collect()
}

/// splitmix64: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn pin(&mut self) -> Pin {
        let mut pin = Pin::new(cid(self.below(60)), PinOptions::default());
        // Names that are prefixes of others, that hold separators, and that share more than a key can hold.
        let long = "n".repeat(NAME_ORDER_BYTES_MAX - 2);
        pin.options.name = match self.below(8) {
            0 => String::new(),
            1 => "a".to_owned(),
            2 => "a\0b".to_owned(),
            3 => "a\u{1}".to_owned(),
            4 => format!("a{}", self.below(3)),
            5 => format!("é{}", self.below(3)),
            6 => long.clone(),
            _ => long + "n",
        };
        for _ in 0..self.below(3) {
            pin.options.metadata.insert(format!("k{}", self.below(2)), format!("v{}", self.below(3)));
        }
        pin.timestamp = (self.below(5) > 0).then(|| second(self.below(30) as i64));
        pin.pin_type = PinType::ALL[self.below(4) as usize];
        pin.allocations = (0..self.below(3)).map(peer).collect();
        pin
    }

    fn operation(&mut self) -> PinOperation {
        if self.below(3) == 0 { PinOperation::Unpin(cid(self.below(60))) } else { put(&self.pin()) }
    }
}

/// Nothing is there, and asking for it is no error.
pub async fn an_empty_state_has_nothing(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    assert_eq!(state.get(&cid(1)).await.unwrap(), None);
    assert_same(&*state, &Model::default()).await;
}

/// What was applied can be read when `apply` returns.
pub async fn an_applied_pin_is_there(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let pin = pin(1);
    assert_eq!(apply(&*state, vec![put(&pin)]).await, [StateChange::Pinned(Arc::new(pin.clone()))]);
    assert_same(&*state, &Model::of([pin])).await;
}

/// Every field comes back, of every type of pin.
pub async fn every_kind_of_pin_survives_unchanged(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut model = Model::default();
    for (number, pin_type) in PinType::ALL.into_iter().enumerate() {
        let number = number as u64;
        let full = Pin {
            cid: cid(number),
            pin_type,
            allocations: vec![peer(2), peer(1)],
            max_depth: [-1, 0, 1, 2][number as usize],
            reference: Some(cid(100)),
            timestamp: Some(Timestamp::from_unix_seconds(-5)),
            options: PinOptions {
                replication_factor_min: 2,
                replication_factor_max: i32::MAX,
                name: "full \u{10ffff} \"quoted\"\n".to_owned(),
                mode: if number == 1 { PinMode::Direct } else { PinMode::Recursive },
                shard_size: u64::MAX,
                user_allocations: Vec::new(),
                expire_at: Some(second(1_000_000)),
                metadata: [("", "empty key"), ("key", ""), ("z", "\0")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                pin_update: Some(cid(101)),
                origins: vec![format!("/ip4/10.0.0.1/tcp/4001/p2p/{}", peer(3)).parse().unwrap()],
            },
        };
        apply(&*state, vec![put(&full)]).await;
        model.pin(full);
        let plain = Pin { pin_type, ..Pin::new(cid(number + 10), PinOptions::default()) };
        apply(&*state, vec![put(&plain)]).await;
        model.pin(plain);
    }
    assert_same(&*state, &model).await;
}

/// Fractions of a second and user allocations are not stored, the mode follows from the depth, and the reported
/// change says so already.
pub async fn a_pin_is_kept_in_its_stored_form(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut given = pin(1);
    given.timestamp = Some(second(3) + Duration::from_millis(700));
    given.options.expire_at = Some(second(900) + Duration::from_nanos(1));
    given.options.user_allocations = vec![peer(1)];
    given.options.mode = PinMode::Direct;
    let stored = given.clone().into_stored();
    assert_ne!(given, stored);
    assert_eq!(apply(&*state, vec![put(&given)]).await, [StateChange::Pinned(Arc::new(stored.clone()))]);
    assert_same(&*state, &Model::of([stored])).await;
}

/// Nothing of the old options stays, nor does the number of pins grow.
pub async fn a_pin_replaces_the_one_before(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    let mut changed = pin(1);
    changed.options.metadata.clear();
    changed.allocations = vec![peer(9)];
    apply(&*state, vec![put(&changed)]).await;
    assert_same(&*state, &Model::of([pin(0), changed, pin(2)])).await;
}

/// Who unpins is told what it was.
pub async fn unpinning_gives_the_entry_as_it_was(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    let changes = apply(&*state, vec![PinOperation::Unpin(cid(1))]).await;
    assert_eq!(changes, [StateChange::Unpinned(Arc::new(pin(1)))]);
    assert_same(&*state, &Model::of([pin(0), pin(2)])).await;
}

/// An unpin can be repeated.
pub async fn unpinning_an_absent_cid_changes_nothing(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..1).await;
    for _ in 0..2 {
        let changes = apply(&*state, vec![PinOperation::Unpin(cid(1))]).await;
        assert_eq!(changes, [StateChange::Unchanged]);
    }
    assert_same(&*state, &Model::of([pin(0)])).await;
}

/// A batch is a sequence: each operation meets what those before it left.
pub async fn operations_of_one_batch_see_each_other(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..1).await;
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    let unpin = |number| PinOperation::Unpin(cid(number));
    let operations = vec![
        put(&pin(1)),
        put(&renamed),
        unpin(1),
        unpin(1),
        put(&renamed),
        unpin(0),
        put(&pin(0)),
        put(&pin(2)),
        unpin(2),
    ];
    let pinned = |pin: &Pin| StateChange::Pinned(Arc::new(pin.clone()));
    let unpinned = |pin: &Pin| StateChange::Unpinned(Arc::new(pin.clone()));
    let expected = [
        pinned(&pin(1)),
        pinned(&renamed),
        unpinned(&renamed),
        StateChange::Unchanged,
        pinned(&renamed),
        unpinned(&pin(0)),
        pinned(&pin(0)),
        pinned(&pin(2)),
        unpinned(&pin(2)),
    ];
    assert_eq!(apply(&*state, operations).await, expected);
    assert_same(&*state, &Model::of([pin(0), renamed])).await;
}

/// Something else, or nothing, may be there by then.
pub async fn what_is_not_as_it_was_seen_is_not_revised(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    let operations = vec![
        PinOperation::Revise(Revision::replace(renamed.clone(), pin(1))),
        PinOperation::Revise(Revision::replace(pin(1), renamed.clone())),
        PinOperation::Revise(Revision::remove(pin(1))),
        PinOperation::Revise(Revision::remove(pin(2))),
        PinOperation::Revise(Revision::replace(pin(2), pin(2))),
        PinOperation::Revise(Revision::remove(pin(9))),
    ];
    let expected = [
        StateChange::Unchanged,
        StateChange::Pinned(Arc::new(renamed.clone())),
        StateChange::Unchanged,
        StateChange::Unpinned(Arc::new(pin(2))),
        StateChange::Unchanged,
        StateChange::Unchanged,
    ];
    assert_eq!(apply(&*state, operations).await, expected);
    assert_same(&*state, &Model::of([pin(0), renamed])).await;
}

/// There is something to be told only after an error.
pub async fn nothing_is_left_to_settle_after_what_worked(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..3).await;
    assert_eq!(state.settle().await.expect("settling"), []);
    let snapshot = state.durable_snapshot().await.expect("a view of what is on disk");
    let values = state.values(&*snapshot, KeyRange::all(), 10).expect("reading it");
    assert_eq!(values.entries.len(), 3);
    assert_same(&*state, &Model::of([pin(0), pin(1), pin(2)])).await;
}

/// No operations, no changes, no error.
pub async fn an_empty_batch_is_fine(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    assert_eq!(apply(&*state, Vec::new()).await, []);
    assert_same(&*state, &Model::default()).await;
}

/// Also when a pin comes twice or goes twice, in one batch or two.
pub async fn the_number_of_pins_follows_every_change(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    for (operations, expected) in [
        (vec![put(&pin(1)), put(&pin(1)), put(&pin(2))], 2),
        (vec![put(&pin(1)), put(&pin(3))], 3),
        (vec![PinOperation::Unpin(cid(1)), PinOperation::Unpin(cid(1)), put(&pin(4))], 3),
        (vec![PinOperation::Unpin(cid(9))], 3),
        (vec![put(&pin(5)), PinOperation::Unpin(cid(5))], 3),
        (vec![PinOperation::Unpin(cid(2)), PinOperation::Unpin(cid(3)), PinOperation::Unpin(cid(4))], 0),
    ] {
        apply(&*state, operations).await;
        assert_eq!(state.counts().pins, expected);
    }
}

/// The same content under version 0 and version 1, or another codec, is pinned separately, as in the reference.
pub async fn versions_of_a_cid_are_different_entries(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let v0 = cid(0);
    let versions = [v0, Cid::new_v1(0x70, *v0.hash()), Cid::new_v1(0x55, *v0.hash())];
    let pins = versions.map(|cid| Pin::new(cid, PinOptions::default()));
    apply(&*state, pins.iter().map(put).collect()).await;
    assert_same(&*state, &Model::of(pins.clone())).await;
    apply(&*state, vec![PinOperation::Unpin(v0)]).await;
    assert_same(&*state, &Model::of(pins[1..].to_vec())).await;
}

/// Pages are how listings stay cheap; an empty one would look like the end.
pub async fn pages_are_full_but_never_too_long_or_empty(fixture: impl Fixture) {
    let count = PAGE_ITEMS_MAX * 2 + 500;
    let Opened { state, guard: _guard } = filled(&fixture, 0..count as u64).await;
    let everything = Selection::Created { from: None, to: None };
    for selection in [Selection::All, Selection::NamePrefix("name".to_owned()), everything] {
        let pages: Vec<Vec<Pin>> = state.list(query(selection.clone())).try_collect().await.unwrap();
        let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), count, "{selection:?}");
        assert!(sizes.iter().all(|size| (1..=PAGE_ITEMS_MAX).contains(size)), "{selection:?}: {sizes:?}");
        assert!(sizes.len() <= 6, "{selection:?}: {sizes:?}");
    }
    // A whole number of pages must not end in an empty one.
    apply(
        &*state,
        (2 * PAGE_ITEMS_MAX..count).map(|number| PinOperation::Unpin(cid(number as u64))).collect(),
    )
    .await;
    assert_eq!(list(&*state, StateQuery::default()).await.unwrap().len(), 2 * PAGE_ITEMS_MAX);
}

/// Whatever is selected, and however rare the type is.
pub async fn only_the_asked_types_are_listed(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let kind = |number: u64| match number {
        3_000 => PinType::Meta,
        number if number % 2 == 0 => PinType::Shard,
        _ => PinType::Data,
    };
    let pins: Vec<Pin> = (0..3_200).map(|number| Pin { pin_type: kind(number), ..pin(number) }).collect();
    apply(&*state, pins.iter().map(put).collect()).await;
    let model = Model::of(pins);
    for types in [vec![PinType::Meta], vec![PinType::Data, PinType::Meta], vec![PinType::ClusterDag]] {
        for selection in [Selection::All, Selection::NamePrefix("name".to_owned())] {
            let filter: PinTypeFilter = types.iter().copied().collect();
            let asked = StateQuery { types: filter, ..query(selection.clone()) };
            let listed = list(&*state, asked).await.unwrap();
            let mut expected = model.list(&selection);
            expected.retain(|pin| types.contains(&pin.pin_type));
            assert_eq!(cids(&listed), cids(&expected), "{types:?} {selection:?}");
        }
    }
}

/// Old names, metadata and times find it no more.
pub async fn a_changed_pin_is_found_by_what_it_is_now(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..1).await;
    let old = pin(0);
    let mut new = old.clone();
    new.options.name = "new".to_owned();
    new.options.metadata = [("new".to_owned(), "pair".to_owned())].into();
    new.timestamp = Some(second(49));
    apply(&*state, vec![put(&new)]).await;
    assert_same(&*state, &Model::of([new])).await;
    for selection in [
        Selection::Name(old.options.name.clone()),
        Selection::NamePrefix(old.options.name),
        Selection::Metadata { key: "group".to_owned(), value: "0".to_owned() },
        Selection::Created { from: None, to: Some(second(49)) },
    ] {
        assert_eq!(list(&*state, query(selection.clone())).await.unwrap(), [], "{selection:?}");
    }
}

/// Names are not limited, keys of stores are.
pub async fn names_are_told_apart_however_long_they_are(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let base = "x".repeat(2 * NAME_ORDER_BYTES_MAX);
    let named = |number: u64, name: String| {
        let options = PinOptions { name, ..PinOptions::default() };
        Pin::new(cid(number), options)
    };
    let pins = [
        named(0, base.clone()),
        named(1, format!("{base}a")),
        named(2, format!("{base}b")),
        named(3, format!("{base}ab")),
        named(4, base[..NAME_ORDER_BYTES_MAX].to_owned()),
        named(5, base[..NAME_ORDER_BYTES_MAX + 1].to_owned()),
        named(6, format!("{base}a")),
        named(7, "\0".repeat(NAME_ORDER_BYTES_MAX)),
    ];
    apply(&*state, pins.iter().map(put).collect()).await;
    for pin in &pins {
        let name = &pin.options.name;
        for selection in [Selection::Name(name.clone()), Selection::NamePrefix(name.clone())] {
            let mut listed = cids(&list(&*state, query(selection.clone())).await.unwrap());
            let mut expected =
                cids(&pins.iter().filter(|pin| matches(&selection, pin)).cloned().collect::<Vec<_>>());
            listed.sort();
            expected.sort();
            assert_eq!(listed, expected, "a name of {} bytes", name.len());
        }
    }
    let shared = Selection::NamePrefix("x".to_owned());
    let whole = list(&*state, query(shared.clone())).await.unwrap();
    assert_eq!(whole.len(), 7);
    assert!(
        whole.is_sorted_by_key(|pin| pin.options.name[..NAME_ORDER_BYTES_MAX].to_owned()),
        "sorted by what takes part in the order"
    );
    for descending in [false, true] {
        let asked = StateQuery { descending, ..query(shared.clone()) };
        let mut paged = pages_of(&*state, &asked, |_| 1).await;
        if descending {
            paged.reverse();
        }
        assert_eq!(paged, whole);
    }
}

/// `("ab", "c")` is not `("a", "bc")`, and a value is compared whole.
pub async fn metadata_is_found_by_key_and_value_together(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let long = "v".repeat(10_000);
    let pairs = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc", ""),
        ("", "abc"),
        ("a", "\0bc"),
        ("a\0", "bc"),
        ("long", &long),
        ("long", &long[1..]),
    ];
    let mut model = Model::default();
    for (number, (key, value)) in pairs.iter().enumerate() {
        let mut pin = Pin::new(cid(number as u64), PinOptions::default());
        pin.options.metadata.insert((*key).to_owned(), (*value).to_owned());
        pin.options.metadata.insert("shared".to_owned(), "by all".to_owned());
        apply(&*state, vec![put(&pin)]).await;
        model.pin(pin);
    }
    assert_same(&*state, &model).await;
    for (key, value) in [("a", "b"), ("ab", ""), ("long", "v"), ("shared", "by")] {
        let selection = Selection::Metadata { key: key.to_owned(), value: value.to_owned() };
        assert_eq!(list(&*state, query(selection)).await.unwrap(), []);
    }
}

/// The start belongs to a range, the end does not, fractions count, and a pin without a time is in none.
pub async fn times_are_found_by_their_range(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut pins = Vec::new();
    for number in 0..10 {
        let timestamp = (number > 0).then(|| second(number as i64 / 2));
        pins.push(Pin { timestamp, ..pin(number) });
    }
    apply(&*state, pins.iter().map(put).collect()).await;
    let model = Model::of(pins);
    let half = Duration::from_millis(500);
    let bounds = [0, 1, 2, 5, 9].map(second).into_iter().flat_map(|time| [time, time + half]).map(Some);
    let bounds: Vec<_> = bounds.chain([None]).collect();
    for from in &bounds {
        for to in &bounds {
            let selection = Selection::Created { from: *from, to: *to };
            let listed = list(&*state, query(selection.clone())).await.unwrap();
            assert_eq!(cids(&listed), cids(&model.list(&selection)), "{selection:?}");
        }
    }
}

/// An end before the start is an empty answer.
pub async fn impossible_ranges_hold_nothing(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..20).await;
    for (from, to) in [(second(10), second(5)), (second(5), second(5))] {
        let selection = Selection::Created { from: Some(from), to: Some(to) };
        assert_eq!(list(&*state, query(selection)).await.unwrap(), []);
    }
}

/// The rest after any entry is the rest of the whole, in every order and both directions.
pub async fn a_listing_goes_on_after_any_entry(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..60).await;
    let model = Model::of((0..60).map(pin));
    for asked in combinations() {
        let whole = model.ask(&asked);
        let mut rest = StateQuery { after: None, ..asked.clone() };
        for index in 0..=whole.len() {
            assert_eq!(list(&*state, rest.clone()).await.unwrap(), whole[index..], "{asked:?} after {index}");
            let StatePage { pins, next } = state.page(rest.clone(), 1).await.unwrap();
            assert_eq!(pins, whole[index..].iter().take(1).cloned().collect::<Vec<_>>(), "{asked:?}");
            // Its text is the same cursor.
            rest.after = next.map(|next| next.to_string().parse().unwrap());
            if rest.after.is_none() {
                assert!(index + 1 >= whole.len(), "{asked:?} ended after {index}");
                break;
            }
        }
    }
}

/// In every order the place counts, not the entry that was there.
pub async fn a_listing_goes_on_after_an_entry_that_is_gone(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..60).await;
    for asked in combinations() {
        let whole = list(&*state, asked.clone()).await.unwrap();
        if whole.len() < 2 {
            continue;
        }
        let half = whole.len() / 2;
        let StatePage { pins, next } = state.page(asked.clone(), half).await.unwrap();
        assert_eq!(pins, whole[..half], "{asked:?}");
        let gone = pins.last().unwrap().clone();
        // Gone, or somewhere else in the order: the rest is the same.
        let mut moved = gone.clone();
        moved.options = PinOptions::default();
        moved.timestamp = None;
        for change in [put(&moved), PinOperation::Unpin(gone.cid)] {
            apply(&*state, vec![change]).await;
            let rest = StateQuery { after: next.clone(), ..asked.clone() };
            let rest = pages_of(&*state, &rest, |_| 7).await;
            let rest: Vec<_> = rest.into_iter().filter(|pin| pin.cid != gone.cid).collect();
            assert_eq!(cids(&rest), cids(&whole[half..]), "{asked:?}");
        }
        apply(&*state, vec![put(&gone)]).await;
    }
}

/// Every condition counts, whichever index finds the entries.
pub async fn conditions_are_combined_and_put_in_any_order(fixture: impl Fixture) {
    // More than is gathered from one index, so that both ways of finding are taken.
    let count = 3_000;
    let (_guard, state) = fixture.create().await;
    let pins: Vec<Pin> = (0..count)
        .map(|number| {
            let mut pin = pin(number);
            if number % 5 == 0 {
                pin.options.replication_factor_min = 1;
                pin.options.replication_factor_max = 2;
                pin.allocations = vec![peer(number % 2), peer(7)];
            }
            if number % 11 == 0 {
                pin.timestamp = None;
            }
            if number % 100 == 0 {
                pin.options.metadata.insert("rare".to_owned(), "yes".to_owned());
            }
            if number % 13 == 0 {
                pin.pin_type = PinType::Meta;
            }
            pin
        })
        .collect();
    apply(&*state, pins.iter().map(put).collect()).await;
    let model = Model::of(pins);
    let rare = Selection::Metadata { key: "rare".to_owned(), value: "yes".to_owned() };
    let mut queries = combinations();
    for asked in &mut queries {
        asked.also.push(rare.clone());
    }
    let wide = Selection::NamePrefix("name".to_owned());
    queries.extend([
        StateQuery { peer: Some(peer(1)), ..query(wide.clone()) },
        StateQuery { peer: Some(peer(1)), order: Some(StateOrder::Created), ..query(wide.clone()) },
        StateQuery { peer: Some(peer(99)), descending: true, ..StateQuery::default() },
        StateQuery {
            types: [PinType::Meta].into_iter().collect(),
            order: Some(StateOrder::Cid),
            ..query(wide)
        },
    ]);
    for asked in queries {
        let expected = model.ask(&asked);
        assert_eq!(cids(&list(&*state, asked.clone()).await.unwrap()), cids(&expected), "{asked:?}");
        let paged = pages_of(&*state, &asked, |page| 1 + page * 37 % 400).await;
        assert_eq!(cids(&paged), cids(&expected), "{asked:?}");
    }
}

/// What a place means depends on the query.
pub async fn a_cursor_of_another_query_is_refused(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..60).await;
    let queries: Vec<_> = combinations().into_iter().take(12).collect();
    for (number, asked) in queries.iter().enumerate() {
        let StatePage { next: Some(next), .. } = state.page(asked.clone(), 1).await.unwrap() else {
            continue;
        };
        for (other_number, other) in queries.iter().enumerate() {
            let other = StateQuery { after: Some(next.clone()), ..other.clone() };
            let page = state.page(other.clone(), 1).await;
            let listed = list(&*state, other.clone()).await;
            if number == other_number {
                page.unwrap();
                listed.unwrap();
            } else {
                assert_eq!(page.unwrap_err().kind(), ErrorKind::InvalidInput, "{asked:?}: {other:?}");
                assert_eq!(listed.unwrap_err().kind(), ErrorKind::InvalidInput, "{asked:?}: {other:?}");
            }
        }
    }
}

/// A restart is nothing to who reads page by page.
pub async fn a_cursor_outlives_a_restart_and_a_replacement(fixture: impl Fixture) {
    let Opened { mut state, mut guard } = filled(&fixture, 0..60).await;
    let model = Model::of((0..60).map(pin));
    for asked in combinations().into_iter().step_by(7) {
        let whole = model.ask(&asked);
        let StatePage { pins, next } = state.page(asked.clone(), 3).await.unwrap();
        if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
            state = again;
        }
        replace(&*state, vec![Ok(model.0.values().cloned().collect())]).await.unwrap();
        let rest = match next {
            None => Vec::new(),
            next => pages_of(&*state, &StateQuery { after: next, ..asked.clone() }, |_| 5).await,
        };
        assert_eq!([pins, rest].concat(), whole, "{asked:?}");
    }
}

/// Whatever happens, records, indexes and numbers stay in step.
pub async fn random_changes_leave_records_and_indexes_as_a_model_says(fixture: impl Fixture) {
    for seed in 0..2 {
        let (mut guard, mut state) = fixture.create().await;
        let mut random = Random(seed);
        let mut model = Model::default();
        for _ in 0..12 {
            for _ in 0..4 {
                let operations: Vec<_> = (0..random.below(12)).map(|_| random.operation()).collect();
                let expected: Vec<_> = operations.iter().map(|operation| model.apply(operation)).collect();
                assert_eq!(apply(&*state, operations).await, expected, "seed {seed}");
            }
            match random.below(12) {
                0 => {
                    model = Model::of((0..random.below(80)).map(|_| random.pin()).collect::<Vec<_>>());
                    let page: Vec<Pin> = model.0.values().cloned().collect();
                    replace(&*state, vec![Ok(page)]).await.unwrap();
                }
                1 => {
                    model = Model::default();
                    state.clear().await.unwrap();
                }
                2 | 3 => {
                    if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
                        state = again;
                    }
                }
                _ => {}
            }
            assert_same(&*state, &model).await;
        }
    }
}

/// Who reads slowly still gets every entry once that was there all the time.
pub async fn a_listing_is_not_disturbed_by_changes(fixture: impl Fixture) {
    let count = 4 * PAGE_ITEMS_MAX as u64;
    let Opened { state, guard: _guard } = filled(&fixture, 0..count).await;
    let mut pages = state.list(StateQuery::default());
    let mut seen = pages.next().await.unwrap().unwrap();
    for number in 0..count / 2 {
        let operation =
            if number % 2 == 0 { PinOperation::Unpin(cid(number)) } else { put(&pin(count + number)) };
        if number % 512 == 0 {
            apply(&*state, vec![operation]).await;
        }
    }
    while let Some(page) = pages.next().await {
        seen.extend(page.unwrap());
    }
    assert!(seen.is_sorted_by_key(|pin| pin.cid.to_bytes()), "in order, so each once");
    let seen = Model::of(seen);
    for number in (0..count).filter(|number| number % 512 != 0) {
        assert!(seen.0.contains_key(&cid(number).to_bytes()), "entry {number} was there all the time");
    }
}

/// A listing that began before a replacement gives the old pinset, whole.
pub async fn a_listing_is_not_disturbed_by_a_replacement(fixture: impl Fixture) {
    let count = 3 * PAGE_ITEMS_MAX as u64;
    let Opened { state, guard: _guard } = filled(&fixture, 0..count).await;
    let mut pages = state.list(StateQuery::default());
    let mut seen = pages.next().await.unwrap().unwrap();
    replace(&*state, vec![Ok(vec![pin(count + 1)])]).await.unwrap();
    while let Some(page) = pages.next().await {
        seen.extend(page.unwrap());
    }
    assert_eq!(seen.len() as u64, count);
    assert_same(&*state, &Model::of([pin(count + 1)])).await;
}

/// Writers and readers do not wait for each other, and no page shows half a batch.
pub async fn readers_see_whole_pages_while_others_write(fixture: impl Fixture) {
    const PAIRS: u64 = 50;
    let (_guard, state) = fixture.create().await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (state, stop) = (state.clone(), stop.clone());
            tokio::spawn(async move {
                let mut most = 0;
                while !stop.load(Ordering::Relaxed) {
                    let pins = list(&*state, StateQuery::default()).await.unwrap();
                    // Each batch writes or removes a pair.
                    assert_eq!(pins.len() % 2, 0, "half a batch is visible");
                    most = most.max(pins.len());
                    if let Some(pin) = pins.first() {
                        let got = state.get(&pin.cid).await.unwrap();
                        assert!(got.is_none_or(|got| got == *pin));
                    }
                    tokio::task::yield_now().await;
                }
                most
            })
        })
        .collect();
    for round in 0..3 {
        for pair in 0..PAIRS {
            apply(&*state, vec![put(&pin(2 * pair)), put(&pin(2 * pair + 1))]).await;
            tokio::task::yield_now().await;
        }
        if round < 2 {
            for pair in 0..PAIRS {
                let numbers = [2 * pair, 2 * pair + 1];
                apply(&*state, numbers.map(|number| PinOperation::Unpin(cid(number))).into()).await;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_same(&*state, &Model::of((0..2 * PAIRS).map(pin))).await;
}

async fn replace(state: &dyn State, pages: Vec<Result<Vec<Pin>>>) -> Result<u64> {
    state.replace(stream::iter(pages).boxed(), Arc::new(|_| {})).await
}

/// Of the old pinset nothing is left, neither records nor index entries.
pub async fn a_replacement_is_all_there_is(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..30).await;
    let pages = vec![Ok((20..40).map(pin).collect()), Ok(Vec::new()), Ok((40..60).map(pin).collect())];
    assert_eq!(replace(&*state, pages).await.unwrap(), 40);
    assert_same(&*state, &Model::of((20..60).map(pin))).await;
}

/// A later entry of a CID wins; entries are stored in their stored form.
pub async fn a_replacement_may_come_in_any_order_with_duplicates(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let mut random = Random(5);
    let pins: Vec<Pin> = (0..500).map(|_| random.pin()).collect();
    let model = Model::of(pins.clone());
    let given = pins.into_iter().map(|mut pin| {
        pin.options.user_allocations = vec![peer(7)];
        pin.timestamp = pin.timestamp.map(|time| time + Duration::from_millis(1));
        pin
    });
    let pages: Vec<_> = given.collect::<Vec<_>>().chunks(33).map(|page| Ok(page.to_vec())).collect();
    assert_eq!(replace(&*state, pages).await.unwrap(), model.0.len() as u64);
    assert_same(&*state, &model).await;
}

/// The number only grows, and ends at what was given.
pub async fn a_replacement_tells_how_far_it_is(fixture: impl Fixture) {
    let (_guard, state) = fixture.create().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let pages: Vec<Result<Vec<Pin>>> =
        (0..5).map(|page| Ok((page * 10..page * 10 + 20).map(pin).collect())).collect();
    let count = state
        .replace(stream::iter(pages).boxed(), Arc::new(move |read| telling.lock().unwrap().push(read)))
        .await
        .unwrap();
    assert_eq!(count, 60);
    let told = told.lock().unwrap();
    assert!(told.is_sorted() && told.last() == Some(&100), "{told:?}");
}

/// An empty import is an empty pinset.
pub async fn a_replacement_by_nothing_empties_the_pinset(fixture: impl Fixture) {
    let Opened { state, guard: _guard } = filled(&fixture, 0..30).await;
    assert_eq!(replace(&*state, Vec::new()).await.unwrap(), 0);
    assert_same(&*state, &Model::default()).await;
}

/// The stream's error comes back, and the old pinset is whole, also after a restart.
pub async fn a_replacement_that_fails_changes_nothing(fixture: impl Fixture) {
    let Opened { mut guard, state } = filled(&fixture, 0..30).await;
    let model = Model::of((0..30).map(pin));
    let pages = vec![Ok((100..200).map(pin).collect()), Err(Error::invalid_input("line 101 is not a pin"))];
    let error = replace(&*state, pages).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidInput, "line 101 is not a pin"));
    assert_same(&*state, &model).await;
    if let Some(state) = fixture.reopen(&mut guard, state).await {
        assert_same(&*state, &model).await;
    }
}

/// A replaced pinset is one like any other, also when it is replaced again and again.
pub async fn the_pinset_can_be_changed_after_a_replacement(fixture: impl Fixture) {
    let Opened { mut guard, mut state } = filled(&fixture, 0..10).await;
    for round in 1..4 {
        replace(&*state, vec![Ok((round * 10..round * 10 + 20).map(pin).collect())]).await.unwrap();
        apply(&*state, vec![put(&pin(0)), PinOperation::Unpin(cid(round * 10))]).await;
        let model = Model::of((round * 10 + 1..round * 10 + 20).chain([0]).map(pin));
        assert_same(&*state, &model).await;
        if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
            state = again;
            assert_same(&*state, &model).await;
        }
    }
}

/// Empty now, after a restart too, and not broken.
pub async fn a_cleared_pinset_is_empty_and_can_be_used_again(fixture: impl Fixture) {
    let Opened { mut guard, mut state } = filled(&fixture, 0..30).await;
    state.clear().await.unwrap();
    assert_same(&*state, &Model::default()).await;
    state.clear().await.unwrap();
    if let Some(again) = fixture.reopen(&mut guard, state.clone()).await {
        state = again;
        assert_same(&*state, &Model::default()).await;
    }
    apply(&*state, vec![put(&pin(1))]).await;
    assert_same(&*state, &Model::of([pin(1)])).await;
}

/// What was applied is there after a stop and a start, numbers included.
pub async fn a_reopened_state_has_everything(fixture: impl Fixture) {
    let Opened { mut guard, state } = filled(&fixture, 0..100).await;
    apply(&*state, (0..10).map(|number| PinOperation::Unpin(cid(number))).collect()).await;
    if let Some(state) = fixture.reopen(&mut guard, state).await {
        assert_same(&*state, &Model::of((10..100).map(pin))).await;
    }
}

/// `apply`, `replace` and `clear` return when the disk has it.
pub async fn a_crash_loses_nothing_that_was_acknowledged(fixture: impl Fixture) {
    let Opened { mut guard, state } = filled(&fixture, 0..20).await;
    let told = Arc::new(AtomicU64::new(0));
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_same(&*state, &Model::of((0..20).map(pin))).await;
    apply(&*state, vec![PinOperation::Unpin(cid(1))]).await;
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_same(&*state, &Model::of((0..20).filter(|number| *number != 1).map(pin))).await;
    let telling = told.clone();
    let pages = stream::iter([Ok((50..60).map(pin).collect())]).boxed();
    state.replace(pages, Arc::new(move |read| telling.store(read, Ordering::Relaxed))).await.unwrap();
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_eq!(told.load(Ordering::Relaxed), 10);
    assert_same(&*state, &Model::of((50..60).map(pin))).await;
    state.clear().await.unwrap();
    let Some(state) = fixture.crash(&mut guard, state).await else { return };
    assert_same(&*state, &Model::default()).await;
}
