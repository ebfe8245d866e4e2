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
    every_change_is_an_event,
    an_event_comes_when_the_state_shows_it,
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

/// `ready` returns, and from then on operations are taken.
pub async fn it_becomes_ready(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    timeout(FACT_TIMEOUT, consensus.ready()).await.expect("ready in time").unwrap();
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.ready().await.unwrap();
    assert_eq!(consensus.capabilities(), consensus.capabilities());
}

/// Visible when `log_pin` returns, to readers that were there before too, in its stored form.
pub async fn a_logged_pin_is_in_the_state(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let before = consensus.state();
    let mut given = pin(1);
    given.options.user_allocations = vec![fixture.peer()];
    consensus.log_pin(given).await.unwrap();
    assert_eq!(before.get(&cid(1)).await.unwrap(), Some(pin(1)));
    assert_pins(&*consensus, [1]).await;
}

/// One entry for each CID.
pub async fn a_logged_pin_replaces_the_one_before(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_pin(pin(1)).await.unwrap();
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    consensus.log_pin(renamed.clone()).await.unwrap();
    assert_same(&*consensus.state(), &Model::of([renamed])).await;
}

/// The caller learns what it removed.
pub async fn unpinning_gives_the_entry_as_it_was(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.log_pin(pin(2)).await.unwrap();
    assert_eq!(consensus.log_unpin(&cid(1)).await.unwrap(), Some(Arc::new(pin(1))));
    assert_pins(&*consensus, [2]).await;
}

/// Unpinning can be repeated.
pub async fn unpinning_an_absent_cid_is_fine(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_pin(pin(1)).await.unwrap();
    assert_eq!(consensus.log_unpin(&cid(2)).await.unwrap(), None);
    assert!(consensus.log_unpin(&cid(1)).await.unwrap().is_some());
    assert_eq!(consensus.log_unpin(&cid(1)).await.unwrap(), None);
    assert_pins(&*consensus, []).await;
}

/// A batch is a sequence.
pub async fn many_operations_are_applied_in_order(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut renamed = pin(1);
    renamed.options.name = "renamed".to_owned();
    let operations = vec![
        put(pin(1)),
        put(pin(2)),
        PinOperation::Unpin(cid(1)),
        put(renamed.clone()),
        put(pin(3)),
        PinOperation::Unpin(cid(2)),
    ];
    let mut events = consensus.events();
    consensus.log_many(operations).await.unwrap();
    assert_same(&*consensus.state(), &Model::of([renamed.clone(), pin(3)])).await;
    // Implementations may leave out what did not last, but what they tell is in order and ends with the last word.
    let mut last = Vec::new();
    while last.len() < 2 || !last.contains(&pinned(pin(3))) || !last.contains(&pinned(renamed.clone())) {
        last.push(next(&mut events).await);
    }
    let place = |event: &StateEvent| last.iter().position(|seen| seen == event);
    assert!(place(&pinned(renamed)) < place(&pinned(pin(3))), "{last:?}");
}

/// What a peer decides by itself about an entry yields to whoever changed the entry since it was looked at.
pub async fn what_was_changed_meanwhile_is_not_revised(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let named = |number, name: &str| {
        let mut pin = pin(number);
        pin.options.name = name.to_owned();
        pin
    };
    let replace = |seen, now| PinOperation::Revise(Revision::replace(seen, now));
    let remove = |seen| PinOperation::Revise(Revision::remove(seen));
    consensus.log_many((1..=4).map(|number| put(pin(number))).collect()).await.unwrap();
    let operations = vec![
        replace(pin(1), named(1, "revised")),
        remove(pin(2)),
        // Not as they were seen.
        replace(named(3, "other"), named(3, "revised")),
        remove(named(4, "other")),
        replace(pin(5), named(5, "revised")),
        // Nor in the same batch.
        replace(pin(1), named(1, "twice")),
        remove(pin(2)),
        put(named(4, "user")),
        remove(pin(4)),
        replace(named(4, "user"), named(4, "revised")),
    ];
    consensus.log_many(operations).await.unwrap();
    let expected = [named(1, "revised"), pin(3), named(4, "revised")];
    assert_same(&*consensus.state(), &Model::of(expected.clone())).await;
    // A user who comes first counts, however short before.
    let (user, revision) = tokio::join!(
        consensus.log_pin(named(3, "user")),
        consensus.log_many(vec![replace(pin(3), named(3, "revised")), remove(pin(3))])
    );
    user.and(revision).unwrap();
    let [one, _, four] = expected;
    assert_same(&*consensus.state(), &Model::of([one, named(3, "user"), four])).await;
}

/// No operations, no error.
pub async fn many_operations_may_be_none(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_many(Vec::new()).await.unwrap();
    assert_pins(&*consensus, []).await;
}

/// What one batch cannot hold is not cut into two behind the caller's back.
pub async fn too_many_operations_are_refused_whole(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut operations = vec![PinOperation::Unpin(cid(1)); OPERATIONS_MAX];
    operations.push(put(pin(2)));
    let error = consensus.log_many(operations).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_pins(&*consensus, []).await;
}

/// In the order of the calls; what changed nothing is no event.
pub async fn every_change_is_an_event(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut events = consensus.events();
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.log_unpin(&cid(7)).await.unwrap();
    consensus.log_pin(pin(2)).await.unwrap();
    consensus.log_unpin(&cid(1)).await.unwrap();
    // Pinning again what is pinned is how a user asks to try again.
    consensus.log_pin(pin(2)).await.unwrap();
    for expected in [pinned(pin(1)), pinned(pin(2)), unpinned(pin(1)), pinned(pin(2))] {
        assert_eq!(next(&mut events).await, expected);
    }
}

/// Who acts on an event finds the state changed.
pub async fn an_event_comes_when_the_state_shows_it(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut events = consensus.events();
    let state = consensus.state();
    for number in 0..20 {
        let logging = consensus.log_pin(pin(number));
        let watching = async {
            assert_eq!(next(&mut events).await, pinned(pin(number)));
            assert_eq!(state.get(&cid(number)).await.unwrap(), Some(pin(number)));
        };
        join(logging.map(Result::unwrap), watching).await;
        let cid = cid(number);
        let unlogging = consensus.log_unpin(&cid);
        let watching = async {
            assert_eq!(next(&mut events).await, unpinned(pin(number)));
            assert_eq!(state.get(&cid).await.unwrap(), None);
        };
        join(unlogging.map(Result::unwrap), watching).await;
    }
}

/// From the call of `events`, not from the first look at it.
pub async fn events_begin_with_the_reader(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_pin(pin(1)).await.unwrap();
    let mut events = consensus.events();
    consensus.log_pin(pin(2)).await.unwrap();
    assert_eq!(next(&mut events).await, pinned(pin(2)));
}

/// Readers do not take events from each other.
pub async fn every_reader_gets_every_event(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut readers = [consensus.events(), consensus.events()];
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.log_pin(pin(2)).await.unwrap();
    for events in &mut readers {
        assert_eq!(next(events).await, pinned(pin(1)));
        assert_eq!(next(events).await, pinned(pin(2)));
    }
}

async fn overflow(fixture: &impl Fixture, consensus: &dyn Consensus) -> u64 {
    // Rings are often rounded up to a power of two.
    let count = fixture.buffered_events() as u64 * 2 + 2;
    let operations: Vec<PinOperation> = (0..count).map(|number| put(pin(number))).collect();
    for some in operations.chunks(512) {
        consensus.log_many(some.to_vec()).await.unwrap();
    }
    count
}

/// `Resync` stands for everything that was missed, and after it events go on.
pub async fn a_reader_that_missed_events_is_told_to_compare(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut events = consensus.events();
    let count = overflow(&fixture, &*consensus).await;
    let mut told = false;
    loop {
        match next(&mut events).await {
            StateEvent::Resync => {
                told = true;
                assert_eq!(listed(&*consensus.state()).await.len() as u64, count);
            }
            event if event == pinned(pin(count - 1)) => break,
            _ => {}
        }
    }
    assert!(told, "{count} events fit into a buffer of {}", fixture.buffered_events());
    consensus.log_unpin(&cid(0)).await.unwrap();
    assert_eq!(next(&mut events).await, unpinned(pin(0)));
}

/// Neither those who log nor those who read.
pub async fn a_slow_reader_does_not_hold_up_others(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let _slow = consensus.events();
    timeout(FACT_TIMEOUT, overflow(&fixture, &*consensus)).await.expect("nobody waits for a reader");
    let mut quick = consensus.events();
    consensus.log_pin(pin(1)).await.unwrap();
    assert_eq!(next(&mut quick).await, pinned(pin(1)));
}

/// Each call returns, and each pin is there, also after a restart.
pub async fn many_callers_are_all_acknowledged(fixture: impl Fixture) {
    let (mut guard, consensus) = fixture.create().await;
    let callers = (0..300).map(|number| {
        let consensus = consensus.clone();
        tokio::spawn(async move { consensus.log_pin(pin(number)).await })
    });
    for result in join_all(callers).await {
        result.unwrap().unwrap();
    }
    assert_pins(&*consensus, 0..300).await;
    consensus.shutdown().await.unwrap();
    if let Some(consensus) = fixture.reopen(&mut guard, consensus).await {
        consensus.ready().await.unwrap();
        assert_pins(&*consensus, 0..300).await;
    }
}

/// However calls are put together, nobody gets the answer to another's.
pub async fn callers_get_their_own_answers(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.log_many((0..100).map(|number| put(pin(number))).collect()).await.unwrap();
    let callers = (0..200).map(|number| {
        let consensus = consensus.clone();
        tokio::spawn(async move {
            if number % 3 == 0 {
                consensus
                    .log_many(vec![put(pin(1_000 + number)), PinOperation::Unpin(cid(5_000))])
                    .await
                    .unwrap();
            }
            (number, consensus.log_unpin(&cid(number)).await.unwrap())
        })
    });
    for result in join_all(callers).await {
        let (number, gone) = result.unwrap();
        assert_eq!(gone, (number < 100).then(|| Arc::new(pin(number))), "caller {number}");
    }
}

/// It may happen or not; others go on.
pub async fn a_dropped_call_harms_nobody(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    for number in 0..20 {
        let mut call = consensus.log_pin(pin(number));
        // Far enough to be queued.
        let _ = futures::poll!(&mut call);
        drop(call);
    }
    consensus.log_pin(pin(100)).await.unwrap();
    let state = consensus.state();
    let all = listed(&*state).await;
    assert_eq!(state.counts().pins, all.len() as u64);
    assert!(all.contains(&pin(100)));
}

/// Pins, unpins and batches alike.
pub async fn everything_is_there_after_a_restart(fixture: impl Fixture) {
    let (mut guard, mut consensus) = fixture.create().await;
    for round in 0..3 {
        consensus.log_many((0..30).map(|number| put(pin(round * 30 + number))).collect()).await.unwrap();
        consensus.log_pin(pin(1_000 + round)).await.unwrap();
        consensus.log_unpin(&cid(round * 30)).await.unwrap();
        consensus.shutdown().await.unwrap();
        let Some(again) = fixture.reopen(&mut guard, consensus).await else { return };
        consensus = again;
        consensus.ready().await.unwrap();
        let there = (0..(round + 1) * 30).filter(|number| number % 30 != 0);
        assert_pins(&*consensus, there.chain(1_000..=1_000 + round)).await;
    }
}

/// An answer is a promise.
pub async fn a_crash_loses_nothing_that_was_acknowledged(fixture: impl Fixture) {
    let (mut guard, mut consensus) = fixture.create().await;
    let mut model = Model::default();
    for round in 0..5u64 {
        // Some calls are under way when the power goes.
        let calls: Vec<_> = (0..40)
            .map(|number| {
                let consensus = consensus.clone();
                let number = round * 40 + number;
                tokio::spawn(async move { consensus.log_pin(pin(number)).await.map(|()| number) })
            })
            .collect();
        consensus.log_pin(pin(1_000 + round)).await.unwrap();
        consensus.log_unpin(&cid(round * 40)).await.unwrap();
        consensus.log_pin(pin(2_000 + round)).await.unwrap();
        let Some(again) = fixture.crash(&mut guard, consensus).await else { return };
        consensus = again;
        consensus.ready().await.unwrap();
        let state = consensus.state();
        for call in calls {
            if let Ok(number) = call.await.unwrap()
                && number != round * 40
            {
                assert_eq!(state.get(&cid(number)).await.unwrap(), Some(pin(number)));
            }
        }
        for number in [1_000 + round, 2_000 + round] {
            assert_eq!(state.get(&cid(number)).await.unwrap(), Some(pin(number)));
        }
        model = Model::of(listed(&*state).await);
        assert_same(&*state, &model).await;
    }
    assert_ne!(model, Model::default());
}

/// Whoever got Ok finds the pin; whoever did not was told that it was too late.
pub async fn a_shutdown_finishes_what_was_accepted(fixture: impl Fixture) {
    let (mut guard, consensus) = fixture.create().await;
    let callers: Vec<_> = (0..200)
        .map(|number| {
            let consensus = consensus.clone();
            tokio::spawn(async move { (number, consensus.log_pin(pin(number)).await) })
        })
        .collect();
    tokio::task::yield_now().await;
    consensus.shutdown().await.unwrap();
    let mut acknowledged = Vec::new();
    for caller in callers {
        match caller.await.unwrap() {
            (number, Ok(())) => acknowledged.push(pin(number)),
            (_, Err(error)) => assert_eq!(error.kind(), ErrorKind::ShutDown, "{error}"),
        }
    }
    let mut state = consensus.state();
    if let Some(again) = fixture.reopen(&mut guard, consensus).await {
        again.ready().await.unwrap();
        state = again.state();
    }
    let there = listed(&*state).await;
    for pin in acknowledged {
        assert!(there.contains(&pin));
    }
}

/// The second caller does not return before the component has stopped either.
pub async fn everybody_waits_for_the_same_shutdown(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let callers: Vec<_> = (0..50)
        .map(|number| {
            let consensus = consensus.clone();
            tokio::spawn(async move { consensus.log_pin(pin(number)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    // Whatever was accepted is finished when a shutdown returns, so nothing changes after either of them.
    let shut_down = || async {
        consensus.shutdown().await.unwrap();
        consensus.state().counts().pins
    };
    let (one, other) =
        timeout(FACT_TIMEOUT, join(shut_down(), shut_down())).await.expect("a shutdown in time");
    for caller in callers {
        let _ = caller.await.unwrap();
    }
    assert_eq!((one, other), (consensus.state().counts().pins, consensus.state().counts().pins));
    consensus.shutdown().await.unwrap();
}

/// The last look at the state is possible, the next change is not.
pub async fn after_a_shutdown_calls_fail_and_the_state_is_readable(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let state = consensus.state();
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.shutdown().await.unwrap();
    for kind in [
        consensus.log_pin(pin(2)).await.unwrap_err().kind(),
        consensus.log_unpin(&cid(1)).await.unwrap_err().kind(),
        consensus.log_many(vec![put(pin(2))]).await.unwrap_err().kind(),
        consensus.ready().await.unwrap_err().kind(),
        consensus.peers().await.unwrap_err().kind(),
        consensus.clean().await.unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::ShutDown);
    }
    for state in [state, consensus.state()] {
        assert_same(&*state, &Model::of([pin(1)])).await;
    }
}

/// After the last event, and also for who asks later.
pub async fn a_shutdown_ends_the_events(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut events = consensus.events();
    consensus.log_pin(pin(1)).await.unwrap();
    consensus.shutdown().await.unwrap();
    assert_eq!(next(&mut events).await, pinned(pin(1)));
    for mut events in [events, consensus.events()] {
        let end = timeout(FACT_TIMEOUT, events.next()).await.expect("an end in time");
        assert_eq!(end, None);
    }
}

/// On disk too, and the component can be used again.
pub async fn cleaning_forgets_everything(fixture: impl Fixture) {
    let (mut guard, consensus) = fixture.create().await;
    consensus.log_many((0..50).map(|number| put(pin(number))).collect()).await.unwrap();
    consensus.clean().await.unwrap();
    assert_pins(&*consensus, []).await;
    consensus.log_pin(pin(1)).await.unwrap();
    assert_pins(&*consensus, [1]).await;
    consensus.clean().await.unwrap();
    consensus.shutdown().await.unwrap();
    if let Some(consensus) = fixture.reopen(&mut guard, consensus).await {
        consensus.ready().await.unwrap();
        assert_pins(&*consensus, []).await;
    }
}

/// In a cluster of itself alone it is the only one.
pub async fn this_peer_is_a_member_and_trusted(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.ready().await.unwrap();
    assert_eq!(consensus.peers().await.unwrap(), [fixture.peer()]);
    assert!(consensus.is_trusted(&fixture.peer()));
}

/// And in a cluster of one it is this peer, before long.
pub async fn only_with_a_leader_there_is_one(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    if !consensus.capabilities().leader {
        assert_eq!(consensus.leader().await.unwrap_err().kind(), ErrorKind::Unsupported);
        return;
    }
    consensus.ready().await.unwrap();
    let elected = async {
        while consensus.leader().await.unwrap() != Some(fixture.peer()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(FACT_TIMEOUT, elected).await.expect("a leader in time");
}

/// Only what needs no second peer is asked here.
pub async fn only_with_membership_changes_members_change(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.ready().await.unwrap();
    let (own, stranger) = (fixture.peer(), super::peer(u64::MAX));
    if consensus.capabilities().membership_changes {
        consensus.add_peer(&own).await.unwrap();
        consensus.remove_peer(&stranger).await.unwrap();
        assert_eq!(consensus.remove_peer(&own).await.unwrap_err().kind(), ErrorKind::Conflict);
    } else {
        assert_eq!(consensus.add_peer(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(consensus.remove_peer(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert_eq!(consensus.peers().await.unwrap(), [own]);
}

/// And never ourselves not.
pub async fn only_with_trust_others_are_trusted(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let (own, stranger) = (fixture.peer(), super::peer(u64::MAX));
    if consensus.capabilities().trust {
        consensus.trust(&stranger).await.unwrap();
        assert!(consensus.is_trusted(&stranger));
        consensus.distrust(&stranger).await.unwrap();
        assert!(!consensus.is_trusted(&stranger));
        assert_eq!(consensus.distrust(&own).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    } else {
        assert_eq!(consensus.trust(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(consensus.distrust(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert!(consensus.is_trusted(&own));
}
