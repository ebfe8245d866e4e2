//! Conformance suite of [`PinTracker`].
//!
//! The suite brings the pinset and the daemon; an implementation brings the tracker between them.
//!
//! ```text
//! struct Mine;
//!
//! #[async_trait]
//! impl Fixture for Mine {
//!     type Guard = ();
//!     async fn tracker(&self, cx: TrackerContext) -> ((), Arc<dyn PinTracker>) {
//!         ((), Arc::new(MyTracker::start(cx)))
//!     }
//! }
//!
//! ipfs_cluster::tracker_conformance!(mine, Mine);
//! ```
//!
//! Cases run on paused time. [`Stage`] is open to tests of one implementation, too.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A case fails by panicking.

mod changing;
mod daemons;
mod lifecycle;
mod pinning;
mod recovering;
mod stage;
mod telling;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};

use super::faulty_ipfs::{FaultyIpfs, IpfsCall};
use crate::clock::{TokioClock, WallClock as _};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::{IpfsConnector as _, MemoryIpfs};
use crate::state::{PAGE_ITEMS_MAX, State as _, StateReader as _, StoreState};
use crate::storage::{Batch, MemoryStorage};
use crate::tracker::{PinTracker, TrackerContext, TrackerCounts, TrackerEvent};
use crate::types::{
    Block, Cid, PeerId, Pin, PinInfo, PinMode, PinOperation, PinOptions, PinType, StatusFilter, Timestamp,
    TrackerStatus,
};

pub use self::changing::*;
pub use self::daemons::*;
pub use self::lifecycle::*;
pub use self::pinning::*;
pub use self::recovering::*;
pub use self::stage::*;
pub use self::telling::*;

/// What the suite needs of an implementation.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Cleans up.
    type Guard: Send + Sync;

    /// A tracker that works on at least two pins at a time and has room for 10,000 in its queues.
    async fn tracker(&self, cx: TrackerContext) -> (Self::Guard, Arc<dyn PinTracker>);
}

/// A fixture whose trackers stand behind one more `Arc`.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn tracker(&self, cx: TrackerContext) -> (Self::Guard, Arc<dyn PinTracker>) {
        let (guard, tracker) = self.0.tracker(cx).await;
        (guard, Arc::new(tracker))
    }
}

conformance_suite!(
    $ tracker_suite,
    tracker_conformance,
    run_paused_case,
    [
        a_tracked_pin_gets_pinned,
        a_pin_is_held_in_its_mode_and_listed_so,
        tracking_what_is_pinned_again_is_harmless,
        content_nobody_has_is_pinning_and_then_in_error,
        a_failed_pin_is_retried_on_recover,
        recover_all_retries_what_failed_or_got_lost_and_gives_only_that,
        an_untracked_pin_gets_unpinned,
        a_late_removal_does_not_untrack_what_is_in_the_pinset,
        a_failed_unpin_is_retried_on_recover,
        a_failed_unpin_is_retried_on_recover_all,
        what_this_peer_need_not_hold_is_unpinned,
        meta_pins_are_left_alone,
        a_pin_that_leaves_the_pinset_while_pinning_is_given_up_and_unpinned,
        a_pin_that_becomes_remote_while_pinning_is_given_up,
        a_direct_pin_becomes_recursive,
        a_recursive_pin_becomes_direct_when_it_was_unpinned_in_between,
        a_pin_that_continues_another_uses_it,
        pinning_and_unpinning_quickly_ends_as_the_pinset_says,
        a_queued_pin_is_pinned_as_the_pinset_has_it_when_its_turn_comes,
        a_manual_unpin_shows_and_recover_pins_again,
        recover_leaves_alone_what_needs_nothing,
        sync_all_gives_what_changed_and_pins_nothing,
        sync_forgets_failures_that_the_daemon_fulfils,
        sync_all_forgets_failures_that_the_daemon_fulfils,
        sync_of_a_daemon_that_is_down_is_an_error,
        listings_are_complete_ordered_and_in_pages,
        failed_unpins_are_listed_in_their_place,
        filters_give_exactly_their_statuses,
        a_daemon_that_is_down_is_the_reason_shown,
        a_daemon_that_hangs_blocks_neither_status_nor_shutdown,
        a_listing_that_breaks_off_is_not_believed,
        a_daemon_that_comes_back_is_listed_again,
        no_more_pins_run_than_the_daemon_can_take,
        pins_wait_while_the_daemon_has_no_space_and_go_on_by_themselves,
        recover_tries_at_once_what_waits_for_space,
        what_leaves_the_pinset_while_it_waits_for_space_is_forgotten,
        counts_follow_operations,
        events_tell_each_step,
        a_slow_reader_of_events_is_told_to_compare,
        statuses_carry_the_names_of_peer_and_daemon,
        a_new_tracker_takes_up_what_the_old_one_left,
        shutdown_is_final_and_idempotent,
    ]
);

fn cids(infos: &[PinInfo]) -> Vec<Cid> {
    infos.iter().map(|info| info.cid).collect()
}

fn sorted(cids: impl IntoIterator<Item = Cid>) -> Vec<Cid> {
    let mut cids: Vec<Cid> = cids.into_iter().collect();
    cids.sort_by_key(Cid::to_bytes);
    cids
}

fn refusal() -> Error {
    Error::new(ErrorKind::Remote, "the daemon says no")
}

async fn failed_unpin<G>(stage: &Stage<G>, seed: u32) -> Cid {
    let cid = stage.add_pinned(seed).await;
    stage.ipfs.fail_next(IpfsCall::Unpin, 1, refusal());
    stage.remove(&cid).await;
    let failed = stage.wait(&cid, TrackerStatus::UnpinError).await;
    assert!(failed.status.error.contains("the daemon says no"), "{failed:?}");
    assert_eq!(failed.status.attempt_count, 1);
    cid
}
