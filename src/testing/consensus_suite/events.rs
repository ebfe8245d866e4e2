//! Events, and readers who are too slow for them.

use super::*;

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

/// Who has been answered and looks for the event does not wait.
pub async fn an_event_comes_before_its_call_returns(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let mut events = consensus.events();
    for number in 0..20 {
        consensus.log_pin(pin(number)).await.unwrap();
        assert_eq!(events.next().now_or_never(), Some(Some(pinned(pin(number)))));
        consensus.log_unpin(&cid(number)).await.unwrap();
        assert_eq!(events.next().now_or_never(), Some(Some(unpinned(pin(number)))));
        consensus.log_many(vec![put(pin(number))]).await.unwrap();
        assert_eq!(events.next().now_or_never(), Some(Some(pinned(pin(number)))));
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
