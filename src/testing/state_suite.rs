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

mod changes;
mod cursors;
mod entries;
mod listings;
mod replacement;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use multihash_codetable::{Code, MultihashDigest};

use crate::error::{Error, ErrorKind, Result};
use crate::random::SplitMix64;
use crate::state::{
    NAME_ORDER_BYTES_MAX, PAGE_ITEMS_MAX, Selection, State, StateChange, StateOrder, StatePage, StateQuery,
    StateReader, encode_pin_protobuf,
};
use crate::storage::{Batch, KeyRange};
use crate::types::{
    Cid, PeerId, Pin, PinMode, PinOperation, PinOptions, PinType, PinTypeFilter, Revision, Timestamp,
};

pub use self::changes::*;
pub use self::cursors::*;
pub use self::entries::*;
pub use self::listings::*;
pub use self::replacement::*;

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

/// The same sequence in every run.
struct Random(SplitMix64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0.next() % bound
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

async fn replace(state: &dyn State, pages: Vec<Result<Vec<Pin>>>) -> Result<u64> {
    state.replace(stream::iter(pages).boxed(), Arc::new(|_| {})).await
}
