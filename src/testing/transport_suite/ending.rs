//! Disconnecting, missed events and the shutdown.

use super::*;

/// Ours and theirs; a peer we do not know is fine.
pub async fn disconnecting_ends_streams_and_both_sides_see_it(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let (mut events, mut others_events) = (one.events(), other.events());
    echo(&other);
    let mut stream = open(&one, &other, "echo").await.unwrap();
    stream.write_all(b"x").await.unwrap();
    within("disconnecting", one.disconnect(&other.local_peer())).await.unwrap();
    event(&mut events, &TransportEvent::Disconnected(other.local_peer())).await;
    event(&mut others_events, &TransportEvent::Disconnected(one.local_peer())).await;
    assert!(one.peers().is_empty());
    let mut rest = Vec::new();
    let _ = within("the end of a cut stream", stream.read_to_end(&mut rest)).await;
    one.disconnect(&other.local_peer()).await.unwrap();
    one.disconnect(&crate::testing::peer(1)).await.unwrap();
}

/// Who follows the events, and asks for the peers when told to, knows who is there in the end.
pub async fn events_that_were_missed_are_a_resync(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut events = one.events();
    for _ in 0..400 {
        one.disconnect(&other.local_peer()).await.unwrap();
        until("a disconnection", || one.peers().is_empty() && other.peers().is_empty()).await;
        let address = &other.listen_addresses()[0];
        within("connecting", one.connect(address)).await.unwrap();
    }
    one.disconnect(&other.local_peer()).await.unwrap();
    until("the last disconnection", || one.peers().is_empty()).await;

    let mut connected = true;
    within("the last word of the events: that nobody is there", async {
        loop {
            match timeout(25 * PAUSE, events.next()).await {
                Ok(event) => {
                    connected = match event.expect("the events ended") {
                        TransportEvent::Connected(peer) if peer == other.local_peer() => true,
                        TransportEvent::Disconnected(peer) if peer == other.local_peer() => false,
                        TransportEvent::Resync => !one.peers().is_empty(),
                        _ => connected,
                    };
                }
                Err(_) if !connected => return,
                Err(_) => {}
            }
        }
    })
    .await;
}

/// Without anybody telling them.
pub async fn a_shutdown_is_seen_by_the_others(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut events = other.events();
    within("shutting down", one.shutdown()).await.unwrap();
    event(&mut events, &TransportEvent::Disconnected(one.local_peer())).await;
    assert!(other.peers().is_empty());
}

/// Whoever waits for something stops waiting; handlers too.
pub async fn every_shutdown_returns_and_ends_all_streams(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let (mut events, mut messages) = (one.events(), subscribe(&one, accept_all));
    let mut streams = hand_out(&one, "held");
    let mut theirs = open(&other, &one, "held").await.unwrap();
    theirs.write_all(b"x").await.unwrap();
    theirs.flush().await.unwrap();
    let (_, ours) = within("a stream", streams.recv()).await.unwrap();
    let together = join_all((0..3).map(|_| one.shutdown()));
    for result in within("shutting down", together).await {
        result.unwrap();
    }
    within("a second shutdown", one.shutdown()).await.unwrap();
    within("the end of the events", async { while events.next().await.is_some() {} }).await;
    within("the end of a subscription", async { while messages.next().await.is_some() {} }).await;
    let mut rest = Vec::new();
    let _ = within("the end of a stream", theirs.read_to_end(&mut rest)).await;
    drop(ours);
}

/// Not a hang, and not `Unavailable`, which would be tried again.
pub async fn calls_after_the_shutdown_are_refused(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    within("shutting down", one.shutdown()).await.unwrap();
    let address = other.listen_addresses()[0].clone();
    let refused = [
        open(&one, &other, "echo").await.err(),
        one.accept(protocol("late"), Arc::new(Echo)).err(),
        one.publish(&topic(), Bytes::from_static(b"late")).await.err(),
        within("connecting", one.connect(&address)).await.err(),
        one.disconnect(&other.local_peer()).await.err(),
    ];
    for error in refused {
        assert_eq!(error.expect("an error").kind(), ErrorKind::ShutDown);
    }
    assert!(one.peers().is_empty());
    assert!(within("late events", one.events().next()).await.is_none());
    assert!(within("late messages", subscribe(&one, accept_all).next()).await.is_none());
}
