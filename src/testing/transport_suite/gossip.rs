//! Messages on topics.

use super::*;

/// The signer is who made it.
pub async fn a_message_reaches_subscribers_and_who_published_it(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let (mut at_one, mut at_other) = (subscribe(&one, accept_all), subscribe(&other, accept_all));
    let message = heard(&one, b"news", &mut at_other).await;
    assert_eq!((message.signer, message.from), (one.local_peer(), one.local_peer()));
    let own = within("our own message", at_one.next()).await.unwrap();
    assert_eq!((own.signer, own.data.as_ref()), (one.local_peer(), b"news".as_slice()));
}

/// Peers need not all be connected to each other.
pub async fn a_message_passes_through_who_accepts_it(fixture: impl Fixture) {
    let (_guard, [first, middle, last]) = chain(&fixture).await;
    let _at_middle = subscribe(&middle, accept_all);
    let message = heard(&first, b"news", &mut subscribe(&last, accept_all)).await;
    assert_eq!((message.signer, message.from), (first.local_peer(), middle.local_peer()));
    assert!(!last.peers().contains(&first.local_peer()));
}

/// A bad message comes before each good one, and only good ones may come through a middle with this judgement.
async fn only_good_ones_pass(fixture: impl Fixture, judge: fn(&[u8]) -> Verdict) {
    let (_guard, [first, middle, last]) = chain(&fixture).await;
    let mut at_middle = subscribe(&middle, judge);
    let mut at_last = subscribe(&last, accept_all);
    heard(&first, b"good", &mut at_last).await;
    for _ in 0..3 {
        first.publish(&topic(), Bytes::from_static(b"bad")).await.unwrap();
        heard(&first, b"good", &mut at_last).await;
    }
    for messages in [&mut at_middle, &mut at_last] {
        while let Ok(message) = timeout(10 * PAUSE, messages.next()).await {
            assert_eq!(message.unwrap().data, b"good".as_slice());
        }
    }
}

/// Forged updates must not spread.
pub async fn a_rejected_message_goes_no_further(fixture: impl Fixture) {
    only_good_ones_pass(fixture, |data| if data == b"bad" { Verdict::Reject } else { Verdict::Accept }).await;
}

/// Nor what is of no use.
pub async fn an_ignored_message_goes_no_further(fixture: impl Fixture) {
    only_good_ones_pass(fixture, |data| if data == b"bad" { Verdict::Ignore } else { Verdict::Accept }).await;
}

/// A cluster of one publishes too.
pub async fn a_message_nobody_wants_is_published_all_the_same(fixture: impl Fixture) {
    let (_guard, transports) = fixture.transports(1).await;
    transports[0].publish(&topic(), Bytes::from_static(b"news")).await.unwrap();
    drop(subscribe(&transports[0], accept_all));
    transports[0].publish(&topic(), Bytes::from_static(b"news")).await.unwrap();
}

/// Cutting it would make another message of it.
pub async fn a_message_that_is_too_long_is_invalid(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut at_other = subscribe(&other, accept_all);
    let long = Bytes::from(vec![7; 64 * 1024 * 1024]);
    assert_eq!(one.publish(&topic(), long).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    heard(&one, b"news", &mut at_other).await;
}

/// Gossip is a hint: the oldest is dropped.
pub async fn a_subscriber_that_does_not_read_holds_nobody_up(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut unread = subscribe(&other, accept_all);
    let mut read = subscribe(&other, accept_all);
    heard(&one, b"first", &mut read).await;
    for number in 0..5_000_u32 {
        // A transport may push back, but not for ever.
        within("publishing", one.publish(&topic(), Bytes::copy_from_slice(&number.to_be_bytes())))
            .await
            .unwrap();
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    heard(&one, b"last", &mut read).await;
    heard(&one, b"last", &mut unread).await;
}
