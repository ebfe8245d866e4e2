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

/// Virtual time in which whatever should happen has happened.
const PATIENCE: Duration = Duration::from_secs(60 * 60);
/// How often a fact is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The name of the peer under test.
pub const PEERNAME: &str = "here";

/// A tracker with all that it stands between.
pub struct Stage<G> {
    /// The tracker under test.
    pub tracker: Arc<dyn PinTracker>,
    /// Its daemon, as the tracker sees it.
    pub ipfs: FaultyIpfs,
    /// The daemon behind that, as a user of the machine sees it.
    pub daemon: MemoryIpfs,
    /// The pinset.
    pub state: Arc<StoreState>,
    /// The date, which moves with tokio's clock.
    pub clock: TokioClock,
    /// The fixture's guard.
    pub guard: G,
}

impl<G> fmt::Debug for Stage<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("tracker", &self.tracker).field("daemon", &self.daemon).finish()
    }
}

/// The peer under test.
pub fn here() -> PeerId {
    "QmSGCzHkz8gC9fNndMtaCZdf9RFtwtbTEEsGo4zkVfcykD".parse().expect("a peer id")
}

/// Another peer of the cluster.
pub fn elsewhere() -> PeerId {
    "QmdFBMf9HMDH3eCWrc1U11YCPenC3Uvy9mZQ2BedTyKTDf".parse().expect("a peer id")
}

/// Content that no daemon has.
pub fn missing_content(seed: u32) -> Cid {
    Block::raw(format!("nobody has {seed}")).cid
}

impl<G> Stage<G> {
    /// An empty pinset, an empty daemon, and a tracker between them.
    pub async fn new(fixture: &impl Fixture<Guard = G>) -> Self {
        let daemon = MemoryIpfs::new();
        let state = StoreState::open(Arc::new(MemoryStorage::new())).await.expect("a state in memory");
        Self::over(fixture, daemon, Arc::new(state)).await
    }

    /// A tracker between a pinset and a daemon that are there.
    pub async fn over(fixture: &impl Fixture<Guard = G>, daemon: MemoryIpfs, state: Arc<StoreState>) -> Self {
        Self::over_faulty(fixture, FaultyIpfs::new(daemon.clone()), daemon, state).await
    }

    /// The same, with faults set already.
    pub async fn over_faulty(
        fixture: &impl Fixture<Guard = G>,
        ipfs: FaultyIpfs,
        daemon: MemoryIpfs,
        state: Arc<StoreState>,
    ) -> Self {
        let clock = TokioClock::starting_at(Timestamp::from_unix_seconds(1_800_000_000));
        let cx =
            TrackerContext::new(here(), PEERNAME, Arc::new(ipfs.clone()), state.clone(), Arc::new(clock));
        let (guard, tracker) = fixture.tracker(cx).await;
        Self { tracker, ipfs, daemon, state, clock, guard }
    }

    /// Content that the daemon has.
    pub fn content(&self, seed: u32) -> Cid {
        self.daemon.add_sample(format!("content {seed}"))
    }

    /// A pin that every peer must hold.
    pub fn pin_of(&self, cid: Cid, mode: PinMode) -> Pin {
        let options = PinOptions {
            replication_factor_min: -1,
            replication_factor_max: -1,
            name: format!("name of {cid}"),
            mode,
            ..PinOptions::default()
        };
        Pin { timestamp: Some(self.clock.now().truncated_to_seconds()), ..Pin::new(cid, options) }
    }

    /// A pin that only another peer must hold.
    pub fn remote_pin_of(&self, cid: Cid) -> Pin {
        let mut pin = self.pin_of(cid, PinMode::Recursive);
        pin.options.replication_factor_min = 1;
        pin.options.replication_factor_max = 1;
        pin.allocations = vec![elsewhere()];
        pin
    }

    /// Writes a pin to the pinset, without a word to the tracker.
    pub async fn write(&self, pin: &Pin) {
        self.write_all(vec![pin.clone()]).await;
    }

    /// Writes many.
    pub async fn write_all(&self, pins: Vec<Pin>) {
        let operations = pins.into_iter().map(|pin| PinOperation::Pin(Arc::new(pin))).collect();
        self.state.apply(operations, Batch::new()).await.expect("writing the pinset");
    }

    /// Takes a pin out of the pinset, without a word to the tracker.
    pub async fn erase(&self, cid: &Cid) {
        self.state.apply(vec![PinOperation::Unpin(*cid)], Batch::new()).await.expect("writing the pinset");
    }

    /// As consensus does: a pin enters the pinset, then the tracker hears of it.
    pub async fn add(&self, pin: &Pin) {
        self.write(pin).await;
        self.tracker.track(pin.clone()).await.expect("tracking");
    }

    /// Pins content that the daemon has, on every peer, and waits until it holds it.
    pub async fn add_pinned(&self, seed: u32) -> Cid {
        let cid = self.content(seed);
        self.add(&self.pin_of(cid, PinMode::Recursive)).await;
        self.wait(&cid, TrackerStatus::Pinned).await;
        cid
    }

    /// As consensus does: a pin leaves the pinset, then the tracker hears of it.
    pub async fn remove(&self, cid: &Cid) {
        self.erase(cid).await;
        self.tracker.untrack(cid).await.expect("untracking");
    }

    /// The status of one.
    pub async fn status(&self, cid: &Cid) -> TrackerStatus {
        self.tracker.status(cid).await.expect("a status").status.status
    }

    /// Returns once a CID has this status, with the whole answer.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait(&self, cid: &Cid, status: TrackerStatus) -> PinInfo {
        let started = tokio::time::Instant::now();
        loop {
            let info = self.tracker.status(cid).await.expect("a status");
            if info.status.status == status {
                return info;
            }
            assert!(started.elapsed() < PATIENCE, "{cid} is {:?} instead of {status}", info.status);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns once the numbers satisfy a condition.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait_counts(&self, condition: impl Fn(TrackerCounts) -> bool) {
        let started = tokio::time::Instant::now();
        while !condition(self.tracker.counts()) {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.tracker.counts());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns once nothing waits and nothing runs.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait_idle(&self) {
        self.wait_counts(|counts| counts.queued() + counts.pinning + counts.unpinning == 0).await;
    }

    /// Returns once listings say what the daemon holds.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait_listed(&self) {
        let pin = self.pin_of(self.content(u32::MAX), PinMode::Recursive);
        self.write(&pin).await;
        let started = tokio::time::Instant::now();
        loop {
            let all = self.list(TrackerStatus::ClusterError.into()).await;
            if all.is_empty() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{all:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.erase(&pin.cid).await;
    }

    /// A listing, which must come in order and in pages.
    pub async fn list(&self, filter: StatusFilter) -> Vec<PinInfo> {
        collect(self.tracker.status_all(filter)).await.expect("a listing")
    }

    /// What the listing of everything says of one CID.
    pub async fn listed_status(&self, cid: &Cid) -> Option<TrackerStatus> {
        let all = self.list(StatusFilter::ALL).await;
        all.iter().find(|info| info.cid == *cid).map(|info| info.status.status)
    }

    /// Whether the daemon holds it.
    pub async fn is_held(&self, cid: &Cid, mode: PinMode) -> bool {
        self.daemon.is_pinned(cid, mode).await.expect("an answer of the daemon in memory")
    }
}

/// Everything of a stream of pages; they must not be empty nor too long, and in ascending order without repetition.
///
/// # Errors
/// The stream's; it must end with it.
///
/// # Panics
/// When it is otherwise.
pub async fn collect(mut pages: BoxStream<'static, Result<Vec<PinInfo>>>) -> Result<Vec<PinInfo>> {
    let mut all: Vec<PinInfo> = Vec::new();
    while let Some(page) = pages.next().await {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                assert!(pages.next().await.is_none(), "a listing goes on after {error}");
                return Err(error);
            }
        };
        assert!((1..=PAGE_ITEMS_MAX).contains(&page.len()), "a page of {}", page.len());
        all.extend(page);
    }
    let in_order = all.windows(2).all(|pair| pair[0].cid.to_bytes() < pair[1].cid.to_bytes());
    assert!(in_order, "a listing out of order");
    Ok(all)
}

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

/// A tracked pin is queued, pinned, and says what the pinset says of it.
pub async fn a_tracked_pin_gets_pinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.content(1);
    assert_eq!(stage.status(&cid).await, TrackerStatus::Unpinned);
    let mut pin = stage.pin_of(cid, PinMode::Recursive);
    pin.options.metadata.insert("key".to_owned(), "value".to_owned());
    stage.add(&pin).await;
    let info = stage.wait(&cid, TrackerStatus::Pinned).await;
    assert!(stage.is_held(&cid, PinMode::Recursive).await);
    assert_eq!((info.cid, info.peer, info.name), (cid, here(), pin.options.name.clone()));
    assert_eq!(info.metadata, pin.options.metadata);
    assert_eq!((info.created, info.status.timestamp), (pin.timestamp, pin.timestamp));
    assert_eq!(info.status.error, "");
}

/// The reference lists only recursive pins and shows direct ones as lost.
pub async fn a_pin_is_held_in_its_mode_and_listed_so(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    for (seed, mode, other) in
        [(1, PinMode::Recursive, PinMode::Direct), (2, PinMode::Direct, PinMode::Recursive)]
    {
        let cid = stage.content(seed);
        stage.add(&stage.pin_of(cid, mode)).await;
        stage.wait(&cid, TrackerStatus::Pinned).await;
        assert!(stage.is_held(&cid, mode).await && !stage.is_held(&cid, other).await);
    }
    stage.wait_listed().await;
    for round in ["from operations", "from a listing"] {
        let all = stage.list(StatusFilter::ALL).await;
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|info| info.status.status == TrackerStatus::Pinned), "{round}: {all:?}");
        assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    }
}

/// Events may come twice.
pub async fn tracking_what_is_pinned_again_is_harmless(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.tracker.track(stage.pin_of(cid, PinMode::Recursive)).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.status(&cid).await, TrackerStatus::Pinned);
}

/// The daemon looks for content until it gives up.
pub async fn content_nobody_has_is_pinning_and_then_in_error(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = missing_content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    let pinning = stage.wait(&cid, TrackerStatus::Pinning).await;
    assert_eq!(pinning.status.attempt_count, 1);
    let failed = stage.wait(&cid, TrackerStatus::PinError).await;
    assert_eq!(failed.status.attempt_count, 1);
    assert!(failed.status.error.contains("no progress"), "{failed:?}");
    assert_eq!(failed.name, stage.pin_of(cid, PinMode::Recursive).options.name);
    assert!(failed.status.timestamp > pinning.status.timestamp);
}

/// Attempts are counted over recoveries.
pub async fn a_failed_pin_is_retried_on_recover(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let block = Block::raw("comes late");
    let cid = block.cid;
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    stage.wait(&cid, TrackerStatus::PinError).await;
    let recovered = stage.tracker.recover(&cid).await.unwrap();
    assert_eq!(recovered.status.status, TrackerStatus::PinQueued);
    assert_eq!(recovered.status.attempt_count, 1, "what was tried until now");
    stage.wait(&cid, TrackerStatus::Pinning).await;
    let failed = stage.wait(&cid, TrackerStatus::PinError).await;
    assert_eq!(failed.status.attempt_count, 2);
    stage.daemon.put(block).unwrap();
    stage.tracker.recover(&cid).await.unwrap();
    let pinned = stage.wait(&cid, TrackerStatus::Pinned).await;
    assert_eq!(pinned.status.attempt_count, 0);
}

/// Nothing else is given, nothing else is touched.
pub async fn recover_all_retries_what_failed_or_got_lost_and_gives_only_that(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    let lost = stage.content(2);
    stage.write(&stage.pin_of(lost, PinMode::Direct)).await;
    let failing = stage.content(3);
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&stage.pin_of(failing, PinMode::Recursive)).await;
    let failed = stage.wait(&failing, TrackerStatus::PinError).await;
    assert!(failed.status.error.contains("the daemon says no"));
    stage.write(&stage.remote_pin_of(stage.content(4))).await;
    let pins_before = stage.ipfs.count(IpfsCall::Pin).begun;
    let recovered = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(cids(&recovered), sorted([lost, failing]));
    stage.wait_idle().await;
    for cid in [pinned, lost, failing] {
        assert_eq!(stage.status(&cid).await, TrackerStatus::Pinned);
    }
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, pins_before + 2);
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
}

/// The other way round.
pub async fn an_untracked_pin_gets_unpinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.remove(&cid).await;
    let info = stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert_eq!(info.name, "");
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
    assert_eq!(stage.list(StatusFilter::ALL).await, []);
    // Never pinned here: nothing goes wrong.
    stage.tracker.untrack(&missing_content(1)).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.status(&missing_content(1)).await, TrackerStatus::Unpinned);
}

/// A replica that catches up may hear of a removal long after the pin was made again.
pub async fn a_late_removal_does_not_untrack_what_is_in_the_pinset(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.tracker.untrack(&cid).await.unwrap();
    assert_eq!(stage.tracker.counts(), TrackerCounts::default(), "nothing is queued");
    stage.wait_idle().await;
    assert_eq!(stage.status(&cid).await, TrackerStatus::Pinned);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
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

/// The reference forgets to.
pub async fn a_failed_unpin_is_retried_on_recover(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = failed_unpin(&stage, 1).await;
    assert_eq!(stage.tracker.recover(&cid).await.unwrap().status.status, TrackerStatus::UnpinQueued);
    stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
}

/// The reference forgets to.
pub async fn a_failed_unpin_is_retried_on_recover_all(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = failed_unpin(&stage, 1).await;
    let recovered = collect(stage.tracker.recover_all()).await.unwrap();
    assert_eq!(cids(&recovered), [cid]);
    stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
}

/// A pin that moves to other peers leaves this daemon.
pub async fn what_this_peer_need_not_hold_is_unpinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    let other = stage.content(2);
    stage.add(&stage.remote_pin_of(cid)).await;
    stage.add(&stage.remote_pin_of(other)).await;
    stage.wait_idle().await;
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
    for cid in [cid, other] {
        let info = stage.tracker.status(&cid).await.unwrap();
        assert_eq!(info.status.status, TrackerStatus::Remote);
        assert_eq!(info.allocations, [elsewhere()]);
        assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Remote));
    }
}

/// No peer pins the root of sharded content.
pub async fn meta_pins_are_left_alone(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.content(1);
    let mut pin = stage.pin_of(cid, PinMode::Recursive);
    pin.pin_type = PinType::Meta;
    pin.max_depth = 0;
    stage.add(&pin).await;
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 0);
    assert_eq!(stage.status(&cid).await, TrackerStatus::Sharded);
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Sharded));
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
}

/// The daemon is not left looking for what nobody wants.
pub async fn a_pin_that_leaves_the_pinset_while_pinning_is_given_up_and_unpinned(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = missing_content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    stage.wait(&cid, TrackerStatus::Pinning).await;
    stage.remove(&cid).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1).await;
    stage.wait(&cid, TrackerStatus::Unpinned).await;
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).answered, 1);
}

/// The same for one that other peers take over.
pub async fn a_pin_that_becomes_remote_while_pinning_is_given_up(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = missing_content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    stage.wait(&cid, TrackerStatus::Pinning).await;
    stage.add(&stage.remote_pin_of(cid)).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1).await;
    stage.wait_idle().await;
    assert_eq!(stage.status(&cid).await, TrackerStatus::Remote);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).answered, 1);
}

/// A repin with another mode is no repetition; also while the first one runs.
pub async fn a_direct_pin_becomes_recursive(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let finished = stage.content(1);
    stage.add(&stage.pin_of(finished, PinMode::Direct)).await;
    stage.wait(&finished, TrackerStatus::Pinned).await;
    let running = stage.content(2);
    stage.ipfs.stall(IpfsCall::Pin);
    stage.add(&stage.pin_of(running, PinMode::Direct)).await;
    stage.wait(&running, TrackerStatus::Pinning).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
    for cid in [finished, running] {
        stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    }
    stage.ipfs.unstall(IpfsCall::Pin);
    for cid in [finished, running] {
        stage.wait(&cid, TrackerStatus::Pinned).await;
        assert!(stage.is_held(&cid, PinMode::Recursive).await);
        assert!(!stage.is_held(&cid, PinMode::Direct).await);
    }
}

/// The daemon refuses a direct pin of what it holds recursively, and the unpin may not have happened yet.
pub async fn a_recursive_pin_becomes_direct_when_it_was_unpinned_in_between(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.remove(&cid).await;
    stage.add(&stage.pin_of(cid, PinMode::Direct)).await;
    stage.wait(&cid, TrackerStatus::Pinned).await;
    assert!(stage.is_held(&cid, PinMode::Direct).await);
    assert!(!stage.is_held(&cid, PinMode::Recursive).await);
    stage.wait_listed().await;
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Pinned));
}

/// The old pin stays.
pub async fn a_pin_that_continues_another_uses_it(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let old = stage.add_pinned(1).await;
    let new = stage.content(2);
    let mut pin = stage.pin_of(new, PinMode::Recursive);
    pin.options.pin_update = Some(old);
    stage.add(&pin).await;
    stage.wait(&new, TrackerStatus::Pinned).await;
    assert_eq!(stage.status(&old).await, TrackerStatus::Pinned);
    assert!(stage.is_held(&old, PinMode::Recursive).await && stage.is_held(&new, PinMode::Recursive).await);
}

/// Whatever happens in between.
pub async fn pinning_and_unpinning_quickly_ends_as_the_pinset_says(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let (kept, gone) = (stage.content(1), stage.content(2));
    for latency in [0, 1, 15, 40] {
        stage.ipfs.slow(IpfsCall::Pin, Duration::from_millis(latency));
        stage.ipfs.slow(IpfsCall::Unpin, Duration::from_millis(latency / 2));
        for pause in [0, 0, 1, 10, 20, 30] {
            for cid in [kept, gone] {
                stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                stage.remove(&cid).await;
            }
            stage.add(&stage.pin_of(kept, PinMode::Recursive)).await;
        }
        stage.wait_idle().await;
        assert_eq!(stage.status(&kept).await, TrackerStatus::Pinned, "with {latency} ms");
        assert_eq!(stage.status(&gone).await, TrackerStatus::Unpinned, "with {latency} ms");
        assert!(stage.is_held(&kept, PinMode::Recursive).await);
        assert!(!stage.is_held(&gone, PinMode::Recursive).await);
        stage.wait_listed().await;
        assert_eq!(stage.listed_status(&kept).await, Some(TrackerStatus::Pinned));
    }
}

/// An outdated pin is never pinned.
pub async fn a_queued_pin_is_pinned_as_the_pinset_has_it_when_its_turn_comes(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    stage.ipfs.stall(IpfsCall::Pin);
    let first = stage.content(1);
    stage.add(&stage.pin_of(first, PinMode::Recursive)).await;
    stage.wait(&first, TrackerStatus::Pinning).await;
    let (changed, gone) = (stage.content(2), stage.content(3));
    for cid in [changed, gone] {
        stage.add(&stage.pin_of(cid, PinMode::Direct)).await;
        assert_eq!(stage.status(&cid).await, TrackerStatus::PinQueued);
    }
    // The events of these got lost.
    stage.write(&stage.pin_of(changed, PinMode::Recursive)).await;
    stage.erase(&gone).await;
    stage.ipfs.unstall(IpfsCall::Pin);
    stage.wait_idle().await;
    assert!(stage.is_held(&changed, PinMode::Recursive).await);
    assert_eq!(stage.status(&gone).await, TrackerStatus::Unpinned);
    assert!(!stage.is_held(&gone, PinMode::Direct).await);
}

/// Somebody else uses the daemon, too.
pub async fn a_manual_unpin_shows_and_recover_pins_again(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.daemon.unpin(&cid).await.unwrap();
    let info = stage.tracker.status(&cid).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::UnexpectedlyUnpinned);
    assert_eq!(info.status.error, "the item should be pinned but it is not");
    assert_eq!(stage.tracker.recover(&cid).await.unwrap().status.status, TrackerStatus::PinQueued);
    stage.wait(&cid, TrackerStatus::Pinned).await;
    assert!(stage.is_held(&cid, PinMode::Recursive).await);
}

/// It only says where things stand.
pub async fn recover_leaves_alone_what_needs_nothing(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.begun == 2).await;
    for (cid, status) in [
        (pinned, TrackerStatus::Pinned),
        (pinning, TrackerStatus::Pinning),
        (missing_content(2), TrackerStatus::Unpinned),
    ] {
        assert_eq!(stage.tracker.recover(&cid).await.unwrap().status.status, status);
    }
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 2);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
}

/// Lost and found since the last time.
pub async fn sync_all_gives_what_changed_and_pins_nothing(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut pinned = Vec::new();
    for seed in 0..10 {
        pinned.push(stage.add_pinned(seed).await);
    }
    stage.wait_listed().await;
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    let lost = [pinned[2], pinned[7]];
    for cid in &lost {
        stage.daemon.unpin(cid).await.unwrap();
    }
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(cids(&changed), sorted(lost));
    for info in &changed {
        assert_eq!(info.status.status, TrackerStatus::UnexpectedlyUnpinned);
        assert_eq!(info.status.error, "the item should be pinned but it is not");
        assert_eq!(stage.listed_status(&info.cid).await, Some(TrackerStatus::UnexpectedlyUnpinned));
    }
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    stage.daemon.pin(&stage.pin_of(lost[0], PinMode::Recursive)).await.unwrap();
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(cids(&changed), [lost[0]]);
    assert_eq!(changed[0].status.status, TrackerStatus::Pinned);
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).begun, 10);
    assert_eq!(stage.ipfs.count(IpfsCall::Unpin).begun, 0);
}

/// Two failures that somebody cured with the daemon's own tools, and two that are still there.
async fn cured_failures<G>(stage: &Stage<G>) -> [(Cid, TrackerStatus, TrackerStatus); 4] {
    let mut failures = Vec::new();
    for seed in [1, 2] {
        let cid = stage.content(seed);
        stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
        stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
        stage.wait(&cid, TrackerStatus::PinError).await;
        failures.push(cid);
    }
    for seed in [3, 4] {
        failures.push(failed_unpin(stage, seed).await);
    }
    stage.daemon.pin(&stage.pin_of(failures[0], PinMode::Recursive)).await.unwrap();
    stage.daemon.unpin(&failures[2]).await.unwrap();
    [
        (failures[0], TrackerStatus::PinError, TrackerStatus::Pinned),
        (failures[1], TrackerStatus::PinError, TrackerStatus::PinError),
        (failures[2], TrackerStatus::UnpinError, TrackerStatus::Unpinned),
        (failures[3], TrackerStatus::UnpinError, TrackerStatus::UnpinError),
    ]
}

/// One by one.
pub async fn sync_forgets_failures_that_the_daemon_fulfils(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cured = cured_failures(&stage).await;
    let begun = [IpfsCall::Pin, IpfsCall::Unpin].map(|call| stage.ipfs.count(call).begun);
    for (cid, before, after) in cured {
        assert_eq!(stage.status(&cid).await, before);
        assert_eq!(stage.tracker.sync(&cid).await.unwrap().status.status, after);
        assert_eq!(stage.status(&cid).await, after);
    }
    assert_eq!([IpfsCall::Pin, IpfsCall::Unpin].map(|call| stage.ipfs.count(call).begun), begun);
    let counts = stage.tracker.counts();
    assert_eq!((counts.pin_error, counts.unpin_error), (1, 1));
}

/// All at once.
pub async fn sync_all_forgets_failures_that_the_daemon_fulfils(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let cured = cured_failures(&stage).await;
    let changed = collect(stage.tracker.sync_all()).await.unwrap();
    assert_eq!(cids(&changed), sorted([cured[0].0, cured[2].0]));
    for info in &changed {
        let (_, _, after) = cured.iter().find(|(cid, ..)| *cid == info.cid).unwrap();
        assert_eq!(info.status.status, *after);
    }
    for (cid, _, after) in cured {
        assert_eq!(stage.status(&cid).await, after);
    }
}

/// Nothing can be compared.
pub async fn sync_of_a_daemon_that_is_down_is_an_error(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    stage.ipfs.down("pulled the plug");
    assert_eq!(stage.tracker.sync(&cid).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = collect(stage.tracker.sync_all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    stage.ipfs.up();
    assert_eq!(stage.tracker.sync(&cid).await.unwrap().status.status, TrackerStatus::Pinned);
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
}

/// Several pages of every kind of item.
pub async fn listings_are_complete_ordered_and_in_pages(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut pins = Vec::new();
    for seed in 0..3000 {
        let cid = stage.content(seed);
        pins.push(match seed % 3 {
            0 => stage.remote_pin_of(cid),
            1 => stage.pin_of(cid, PinMode::Direct),
            _ => stage.pin_of(cid, PinMode::Recursive),
        });
    }
    for pin in &pins {
        stage.daemon.pin(pin).await.unwrap();
    }
    let expected = sorted(pins.iter().map(|pin| pin.cid));
    stage.write_all(pins).await;
    stage.wait_listed().await;
    collect(stage.tracker.sync_all()).await.unwrap();
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(cids(&all), expected);
    let number = |status| all.iter().filter(|info| info.status.status == status).count();
    assert_eq!((number(TrackerStatus::Remote), number(TrackerStatus::Pinned)), (1000, 2000));
    assert!(all.iter().all(|info| info.name.starts_with("name of ")));
}

/// They are in no pinset, but an operator has to see them.
pub async fn failed_unpins_are_listed_in_their_place(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut kept = Vec::new();
    for seed in 0..8 {
        kept.push(stage.add_pinned(seed).await);
    }
    let mut failed = Vec::new();
    for seed in 100..108 {
        failed.push(failed_unpin(&stage, seed).await);
    }
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(cids(&all), sorted(kept.iter().chain(&failed).copied()));
    for filter in [TrackerStatus::UnpinError.into(), StatusFilter::ERROR] {
        let errors = stage.list(filter).await;
        assert_eq!(cids(&errors), sorted(failed.clone()));
        assert!(errors.iter().all(|info| info.status.error.contains("the daemon says no")));
    }
}

/// The reference also gives items that an operation works on, with a status made up.
pub async fn filters_give_exactly_their_statuses(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    let pinned = stage.add_pinned(1).await;
    let failing = stage.content(2);
    stage.ipfs.fail_next(IpfsCall::Pin, 1, refusal());
    stage.add(&stage.pin_of(failing, PinMode::Recursive)).await;
    stage.wait(&failing, TrackerStatus::PinError).await;
    let failed_unpin = failed_unpin(&stage, 3).await;
    let remote = stage.content(4);
    stage.add(&stage.remote_pin_of(remote)).await;
    let sharded = stage.content(5);
    let meta = Pin { pin_type: PinType::Meta, ..stage.pin_of(sharded, PinMode::Recursive) };
    stage.add(&meta).await;
    let lost = stage.content(6);
    stage.write(&stage.pin_of(lost, PinMode::Recursive)).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    let queued = missing_content(2);
    stage.add(&stage.pin_of(queued, PinMode::Recursive)).await;
    stage.ipfs.stall(IpfsCall::Unpin);
    let unpinning = stage.content(7);
    stage.tracker.untrack(&unpinning).await.unwrap();
    stage.wait(&unpinning, TrackerStatus::Unpinning).await;
    use TrackerStatus as S;
    let expected = [
        (S::Pinned, pinned),
        (S::PinError, failing),
        (S::UnpinError, failed_unpin),
        (S::Remote, remote),
        (S::Sharded, sharded),
        (S::UnexpectedlyUnpinned, lost),
        (S::Pinning, pinning),
        (S::PinQueued, queued),
        (S::Unpinning, unpinning),
    ];
    for status in TrackerStatus::ALL {
        let listed: Vec<_> =
            stage.list(status.into()).await.into_iter().map(|info| (info.status.status, info.cid)).collect();
        let wanted: Vec<_> = expected.iter().filter(|(other, _)| *other == status).copied().collect();
        assert_eq!(listed, wanted, "filter {status}");
    }
    let errors_and_pinned = StatusFilter::ERROR | S::Pinned.into();
    assert_eq!(cids(&stage.list(errors_and_pinned).await), sorted([pinned, failing, failed_unpin]));
    let all = stage.list(StatusFilter::ALL).await;
    assert_eq!(all.len(), expected.len());
    // Asked about some pins, in any order, it says the same.
    let mut pins = Vec::new();
    for (_, cid) in expected.iter().rev() {
        pins.extend(stage.state.get(cid).await.unwrap());
    }
    assert_eq!(pins.len(), expected.len() - 2, "all but what is unpinned");
    let said = stage.tracker.statuses(pins.clone()).await.unwrap();
    assert_eq!(said.len(), pins.len());
    for (pin, info) in pins.iter().zip(&said) {
        let listed = all.iter().find(|listed| listed.cid == pin.cid).unwrap();
        let what =
            |info: &PinInfo| (info.cid, info.status.status, info.status.error.clone(), info.name.clone());
        assert_eq!(what(info), what(listed));
    }
}

/// Never an empty answer.
pub async fn a_daemon_that_is_down_is_the_reason_shown(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    let remote = stage.content(2);
    stage.add(&stage.remote_pin_of(remote)).await;
    stage.wait_listed().await;
    stage.ipfs.down("pulled the plug");
    let info = stage.tracker.status(&cid).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::ClusterError);
    assert!(info.status.error.contains("pulled the plug"), "{info:?}");
    assert_eq!(stage.status(&remote).await, TrackerStatus::Remote);
    // The news of it travels on its own.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for filter in [StatusFilter::ALL, TrackerStatus::ClusterError.into(), StatusFilter::ERROR] {
        let all = stage.list(filter).await;
        let info = all.iter().find(|info| info.cid == cid).expect("the item that cannot be looked at");
        assert_eq!(info.status.status, TrackerStatus::ClusterError);
        assert!(info.status.error.contains("pulled the plug"), "{info:?}");
    }
    let failing = stage.content(3);
    stage.add(&stage.pin_of(failing, PinMode::Recursive)).await;
    let failed = stage.wait(&failing, TrackerStatus::PinError).await;
    assert!(failed.status.error.contains("pulled the plug"), "{failed:?}");
    stage.ipfs.up();
    stage.wait_listed().await;
    assert_eq!(stage.listed_status(&cid).await, Some(TrackerStatus::Pinned));
    stage.tracker.recover(&failing).await.unwrap();
    stage.wait(&failing, TrackerStatus::Pinned).await;
}

/// Every call of it.
pub async fn a_daemon_that_hangs_blocks_neither_status_nor_shutdown(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    stage.wait_listed().await;
    for call in IpfsCall::ALL {
        stage.ipfs.stall(call);
    }
    let removed = stage.content(2);
    let pinning = stage.content(3);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.tracker.untrack(&removed).await.unwrap();
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    stage.wait(&removed, TrackerStatus::Unpinning).await;
    let started = tokio::time::Instant::now();
    let info = stage.tracker.status(&pinned).await.unwrap();
    assert_eq!(info.status.status, TrackerStatus::ClusterError, "{info:?}");
    assert!(started.elapsed() <= Duration::from_secs(15), "other peers wait no longer for an answer");
    let started = tokio::time::Instant::now();
    assert_eq!(stage.list(StatusFilter::ALL).await.len(), 3);
    assert_eq!(started.elapsed(), Duration::ZERO);
    let mut syncing = stage.tracker.sync_all();
    let (synced, ()) = futures::join!(syncing.next(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started = tokio::time::Instant::now();
        stage.tracker.shutdown().await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    });
    assert_eq!(synced.unwrap().unwrap_err().kind(), ErrorKind::ShutDown);
    for call in [IpfsCall::Pin, IpfsCall::Unpin] {
        let count = stage.ipfs.count(call);
        assert_eq!((count.running, count.dropped), (0, 1), "{call:?}");
    }
}

/// Half a listing would make the other half look lost.
pub async fn a_listing_that_breaks_off_is_not_believed(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let mut pins = Vec::new();
    for seed in 0..1500 {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.daemon.pin(&pin).await.unwrap();
        pins.push(pin);
    }
    stage.write_all(pins).await;
    stage.wait_listed().await;
    assert_eq!(collect(stage.tracker.sync_all()).await.unwrap(), []);
    stage.ipfs.break_next(IpfsCall::ListPins, 1, refusal());
    let error = collect(stage.tracker.sync_all()).await.unwrap_err();
    assert!(error.to_string().contains("the daemon says no"), "{error}");
    assert_eq!(stage.list(TrackerStatus::Pinned.into()).await.len(), 1500);
    assert_eq!(collect(stage.tracker.recover_all()).await.unwrap(), []);
}

/// It may be another one, with other pins.
pub async fn a_daemon_that_comes_back_is_listed_again(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let (kept, lost) = (stage.add_pinned(1).await, stage.add_pinned(2).await);
    stage.wait_listed().await;
    stage.ipfs.down("being replaced");
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.daemon.unpin(&lost).await.unwrap();
    stage.ipfs.up();
    let started = tokio::time::Instant::now();
    while stage.listed_status(&lost).await != Some(TrackerStatus::UnexpectedlyUnpinned) {
        assert!(started.elapsed() < Duration::from_secs(60), "not listed again");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(stage.listed_status(&kept).await, Some(TrackerStatus::Pinned));
}

/// Its opinion may change at any time.
pub async fn no_more_pins_run_than_the_daemon_can_take(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    stage.ipfs.slow(IpfsCall::Pin, Duration::from_secs(60));
    let mut pins = Vec::new();
    for seed in 0..6 {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.add(&pin).await;
        pins.push(pin.cid);
    }
    stage.ipfs.wait_count(IpfsCall::Pin, |count| count.answered == 2).await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running_max, 1);
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(2));
    stage.wait_idle().await;
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running_max, 2);
    for cid in &pins {
        assert_eq!(stage.status(cid).await, TrackerStatus::Pinned);
    }
}

fn no_space() -> Error {
    Error::new(ErrorKind::StorageFull, "write /repo/blocks: no space left on device")
}

/// Pins that many, on a daemon without space, and waits until all of them wait for it.
async fn fill<G>(stage: &Stage<G>, pins: u32) -> Vec<Cid> {
    stage.ipfs.fail_next(IpfsCall::Pin, 100_000, no_space());
    let mut cids = Vec::new();
    for seed in 100..100 + pins {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.add(&pin).await;
        cids.push(pin.cid);
    }
    stage.wait_counts(|counts| counts.waiting_for_space == u64::from(pins)).await;
    cids
}

/// A full disk is no failure of a pin: it waits and says why, no attempt counts, and the daemon is left alone but for
/// one pin now and then.
pub async fn pins_wait_while_the_daemon_has_no_space_and_go_on_by_themselves(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let held = stage.add_pinned(1).await;
    let cids = fill(&stage, 40).await;
    let tried = stage.ipfs.count(IpfsCall::Pin).begun;
    let day = Duration::from_secs(24 * 60 * 60);
    tokio::time::sleep(day).await;
    let tries = stage.ipfs.count(IpfsCall::Pin).begun - tried;
    // Not given up, and neither every second.
    assert!((24..=24 * 60 * 2).contains(&tries), "{tries} tries in a day");
    let waiting = stage.list(TrackerStatus::PinQueued.into()).await;
    assert_eq!(waiting.iter().map(|info| info.cid).collect::<Vec<_>>(), sorted(cids.clone()));
    for info in waiting {
        assert!(info.status.error.contains("space"), "{info:?}");
        assert_eq!(info.status.attempt_count, 0);
    }
    assert_eq!(stage.list(StatusFilter::ERROR).await, []);
    assert_eq!(stage.status(&held).await, TrackerStatus::Pinned);
    stage.ipfs.stop_failing(IpfsCall::Pin);
    stage.wait_idle().await;
    for cid in &cids {
        let info = stage.tracker.status(cid).await.unwrap();
        assert_eq!((info.status.status, info.status.error.as_str()), (TrackerStatus::Pinned, ""));
    }
    assert_eq!(stage.tracker.counts(), TrackerCounts::default());
}

/// Who made room need not wait for the next try.
pub async fn recover_tries_at_once_what_waits_for_space(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    for all in [false, true] {
        let cids = fill(&stage, 20).await;
        tokio::time::sleep(PATIENCE).await;
        stage.ipfs.stop_failing(IpfsCall::Pin);
        let started = tokio::time::Instant::now();
        if all {
            collect(stage.tracker.recover_all()).await.unwrap();
        } else {
            let info = stage.tracker.recover(&cids[0]).await.unwrap();
            assert_eq!(info.status.status, TrackerStatus::PinQueued);
        }
        stage.wait_idle().await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        for cid in &cids {
            stage.remove(cid).await;
        }
        stage.wait_idle().await;
    }
}

/// Nothing is left to wait for, and new pins find out by themselves that there is space again.
pub async fn what_leaves_the_pinset_while_it_waits_for_space_is_forgotten(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    for cid in fill(&stage, 5).await {
        stage.remove(&cid).await;
    }
    stage.wait_idle().await;
    assert_eq!(stage.list(StatusFilter::ALL).await, []);
    tokio::time::sleep(PATIENCE).await;
    stage.ipfs.stop_failing(IpfsCall::Pin);
    let started = tokio::time::Instant::now();
    stage.add_pinned(1).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

/// Without being counted.
pub async fn counts_follow_operations(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    assert_eq!(stage.tracker.counts(), TrackerCounts::default());
    stage.ipfs.set_pin_concurrency(NonZeroUsize::new(1));
    for seed in 0..5 {
        stage.add(&stage.pin_of(missing_content(seed), PinMode::Recursive)).await;
    }
    stage.wait_counts(|counts| counts.pinning == 1).await;
    assert_eq!(
        stage.tracker.counts(),
        TrackerCounts { pinning: 1, pin_queued: 4, ..TrackerCounts::default() }
    );
    stage.wait_idle().await;
    assert_eq!(stage.tracker.counts(), TrackerCounts { pin_error: 5, ..TrackerCounts::default() });
    failed_unpin(&stage, 1).await;
    assert_eq!(
        stage.tracker.counts(),
        TrackerCounts { pin_error: 5, unpin_error: 1, ..TrackerCounts::default() }
    );
    for seed in 0..5 {
        stage.remove(&missing_content(seed)).await;
    }
    collect(stage.tracker.recover_all()).await.unwrap();
    stage.wait_idle().await;
    assert_eq!(stage.tracker.counts(), TrackerCounts::default());
}

async fn next_change(events: &mut BoxStream<'static, TrackerEvent>) -> Arc<PinInfo> {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        if let TrackerEvent::StatusChanged(info) = event.expect("an event") {
            return info;
        }
    }
}

/// In order.
pub async fn events_tell_each_step(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let mut events = stage.tracker.events();
    let cid = stage.content(1);
    stage.add(&stage.pin_of(cid, PinMode::Recursive)).await;
    for status in [TrackerStatus::PinQueued, TrackerStatus::Pinning, TrackerStatus::Pinned] {
        let info = next_change(&mut events).await;
        assert_eq!((info.cid, info.status.status), (cid, status));
        assert!(info.name.starts_with("name of "));
    }
    stage.daemon.unpin(&cid).await.unwrap();
    collect(stage.tracker.sync_all()).await.unwrap();
    let info = next_change(&mut events).await;
    assert_eq!((info.cid, info.status.status), (cid, TrackerStatus::UnexpectedlyUnpinned));
    stage.ipfs.fail_next(IpfsCall::Unpin, 1, refusal());
    stage.remove(&cid).await;
    for status in [TrackerStatus::UnpinQueued, TrackerStatus::Unpinning, TrackerStatus::UnpinError] {
        assert_eq!(next_change(&mut events).await.status.status, status);
    }
    stage.tracker.recover(&cid).await.unwrap();
    for status in [TrackerStatus::UnpinQueued, TrackerStatus::Unpinning, TrackerStatus::Unpinned] {
        assert_eq!(next_change(&mut events).await.status.status, status);
    }
    stage.tracker.shutdown().await.unwrap();
    assert!(events.next().await.is_none(), "events end with the tracker");
}

/// The queue of events is bounded.
pub async fn a_slow_reader_of_events_is_told_to_compare(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let mut events = stage.tracker.events();
    for seed in 0..5000 {
        stage.add(&stage.pin_of(stage.content(seed), PinMode::Recursive)).await;
    }
    stage.wait_idle().await;
    let mut seen = 0;
    loop {
        seen += 1;
        match tokio::time::timeout(Duration::from_secs(1), events.next()).await {
            Ok(Some(TrackerEvent::Resync)) => break,
            Ok(Some(TrackerEvent::StatusChanged(_))) if seen < 15_000 => {}
            other => panic!("after {seen} events: {other:?}"),
        }
    }
}

/// As the reference's answers do.
pub async fn statuses_carry_the_names_of_peer_and_daemon(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    stage.wait_listed().await;
    let pinned = stage.add_pinned(1).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    for info in [
        stage.tracker.status(&pinned).await.unwrap(),
        stage.tracker.status(&pinning).await.unwrap(),
        stage.list(StatusFilter::ALL).await.remove(0),
    ] {
        assert_eq!(info.status.peername, PEERNAME);
        assert_eq!(info.status.ipfs_peer_id, Some(stage.daemon.peer()));
    }
}

/// Nothing of a tracker is stored: pinset and daemon say it all.
pub async fn a_new_tracker_takes_up_what_the_old_one_left(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let pinned = stage.add_pinned(1).await;
    stage.ipfs.stall(IpfsCall::Pin);
    let mut left = Vec::new();
    for seed in 2..30 {
        let pin = stage.pin_of(stage.content(seed), PinMode::Recursive);
        stage.add(&pin).await;
        left.push(pin.cid);
    }
    stage.wait_counts(|counts| counts.pinning > 0).await;
    stage.tracker.shutdown().await.unwrap();
    let next = Stage::over(&fixture, stage.daemon.clone(), stage.state.clone()).await;
    let recovered = collect(next.tracker.recover_all()).await.unwrap();
    assert_eq!(cids(&recovered), sorted(left.clone()));
    for cid in left.iter().chain([&pinned]) {
        next.wait(cid, TrackerStatus::Pinned).await;
    }
}

/// Every caller returns when it has stopped, and every call after that is refused.
pub async fn shutdown_is_final_and_idempotent(fixture: impl Fixture) {
    let stage = Stage::new(&fixture).await;
    let cid = stage.add_pinned(1).await;
    let pinning = missing_content(1);
    stage.add(&stage.pin_of(pinning, PinMode::Recursive)).await;
    stage.wait(&pinning, TrackerStatus::Pinning).await;
    let (first, second) = futures::join!(stage.tracker.shutdown(), stage.tracker.shutdown());
    first.unwrap();
    second.unwrap();
    assert_eq!(stage.ipfs.count(IpfsCall::Pin).running, 0);
    stage.tracker.shutdown().await.unwrap();
    let pin = stage.state.get(&cid).await.unwrap().unwrap();
    let refused = |error: Error| assert_eq!(error.kind(), ErrorKind::ShutDown, "{error}");
    refused(stage.tracker.statuses(vec![pin.clone()]).await.unwrap_err());
    refused(stage.tracker.track(pin).await.unwrap_err());
    refused(stage.tracker.untrack(&cid).await.unwrap_err());
    refused(stage.tracker.status(&cid).await.unwrap_err());
    refused(stage.tracker.recover(&cid).await.unwrap_err());
    refused(stage.tracker.sync(&cid).await.unwrap_err());
    refused(collect(stage.tracker.status_all(StatusFilter::ALL)).await.unwrap_err());
    refused(collect(stage.tracker.status_all(StatusFilter::QUEUED)).await.unwrap_err());
    refused(collect(stage.tracker.recover_all()).await.unwrap_err());
    refused(collect(stage.tracker.sync_all()).await.unwrap_err());
    assert!(stage.tracker.events().next().await.is_none());
}
