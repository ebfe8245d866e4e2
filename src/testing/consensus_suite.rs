//! Conformance suite of [`Consensus`].
//!
//! ```text
//! struct Mine;
//!
//! #[async_trait]
//! impl consensus_suite::Fixture for Mine {
//!     type Guard = TempDir;
//!     async fn create(&self) -> (TempDir, Arc<dyn Consensus>) { … }
//!     async fn reopen(&self, folder: &mut TempDir, stopped: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> { … }
//!     fn peer(&self) -> PeerId { … }
//!     fn buffered_events(&self) -> usize { 64 }
//! }
//!
//! ipfs_cluster::consensus_conformance!(mine, Mine);
//! ```

// A test has nothing better to do with a failure than to panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod events;
mod lifecycle;
mod logging;
mod members;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{join, join_all};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::state_suite::{Model, assert_same, cid, pin};
use crate::consensus::{Consensus, OPERATIONS_MAX, StateEvent};
use crate::error::ErrorKind;
use crate::state::{StateQuery, StateReader};
use crate::types::{PeerId, Pin, PinOperation, Revision};

pub use self::events::*;
pub use self::lifecycle::*;
pub use self::logging::*;
pub use self::members::*;

/// Says that a case ends early, because of what a fixture cannot do; tests that pass show it with `--nocapture`.
fn skipped(case: &str, why: &str) {
    eprintln!("skipped: {case}: this fixture {why}");
}

/// A fact that does not come true within this time never does.
const FACT_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes the consensus components that the suite examines: each the only member of its cluster.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// What keeps the place of a component alive and cleans it up afterwards.
    type Guard: Send;

    /// A new component with an empty pinset in a place of its own.
    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>);

    /// Starts a component again where one was shut down; none where nothing persists.
    async fn reopen(
        &self,
        guard: &mut Self::Guard,
        stopped: Arc<dyn Consensus>,
    ) -> Option<Arc<dyn Consensus>>;

    /// Cuts the power under a component and starts it again on what is left; none where that cannot be arranged.
    async fn crash(
        &self,
        _guard: &mut Self::Guard,
        _running: Arc<dyn Consensus>,
    ) -> Option<Arc<dyn Consensus>> {
        None
    }

    /// The peer that every component made here belongs to.
    fn peer(&self) -> PeerId;

    /// Most events that wait for a slow reader before it is told to compare. Small is quick.
    fn buffered_events(&self) -> usize;
}

/// A fixture whose components stand behind one more `Arc`, to see that it forwards everything.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
        let (guard, consensus) = self.0.create().await;
        (guard, Arc::new(consensus))
    }

    async fn reopen(
        &self,
        guard: &mut Self::Guard,
        stopped: Arc<dyn Consensus>,
    ) -> Option<Arc<dyn Consensus>> {
        Some(Arc::new(self.0.reopen(guard, stopped).await?))
    }

    async fn crash(
        &self,
        guard: &mut Self::Guard,
        running: Arc<dyn Consensus>,
    ) -> Option<Arc<dyn Consensus>> {
        Some(Arc::new(self.0.crash(guard, running).await?))
    }

    fn peer(&self) -> PeerId {
        self.0.peer()
    }

    fn buffered_events(&self) -> usize {
        self.0.buffered_events()
    }
}

conformance_suite!($ consensus_suite, consensus_conformance, run_case, [
    it_becomes_ready,
    a_logged_pin_is_in_the_state,
    a_logged_pin_replaces_the_one_before,
    unpinning_gives_the_entry_as_it_was,
    unpinning_an_absent_cid_is_fine,
    many_operations_are_applied_in_order,
    many_operations_may_be_none,
    what_was_changed_meanwhile_is_not_revised,
    too_many_operations_are_refused_whole,
    a_read_after_synchronizing_sees_what_was_acknowledged,
    every_change_is_an_event,
    an_event_comes_when_the_state_shows_it,
    an_event_comes_before_its_call_returns,
    events_begin_with_the_reader,
    every_reader_gets_every_event,
    a_reader_that_missed_events_is_told_to_compare,
    a_slow_reader_does_not_hold_up_others,
    many_callers_are_all_acknowledged,
    callers_get_their_own_answers,
    a_dropped_call_harms_nobody,
    everything_is_there_after_a_restart,
    a_crash_loses_nothing_that_was_acknowledged,
    a_shutdown_finishes_what_was_accepted,
    everybody_waits_for_the_same_shutdown,
    after_a_shutdown_calls_fail_and_the_state_is_readable,
    a_shutdown_ends_the_events,
    cleaning_forgets_everything,
    this_peer_is_a_member_and_trusted,
    only_with_a_leader_there_is_one,
    only_with_membership_changes_members_change,
    only_with_trust_others_are_trusted,
]);

async fn listed(state: &dyn StateReader) -> Vec<Pin> {
    let pages: Vec<Vec<Pin>> = state.list(StateQuery::default()).try_collect().await.unwrap();
    pages.concat()
}

async fn next(events: &mut BoxStream<'static, StateEvent>) -> StateEvent {
    timeout(FACT_TIMEOUT, events.next()).await.expect("an event in time").expect("events have not ended")
}

fn put(pin: Pin) -> PinOperation {
    PinOperation::Pin(Arc::new(pin))
}

fn pinned(pin: Pin) -> StateEvent {
    StateEvent::Pinned(Arc::new(pin))
}

fn unpinned(pin: Pin) -> StateEvent {
    StateEvent::Unpinned(Arc::new(pin))
}

async fn assert_pins(consensus: &dyn Consensus, numbers: impl IntoIterator<Item = u64>) {
    assert_same(&*consensus.state(), &Model::of(numbers.into_iter().map(pin))).await;
}
