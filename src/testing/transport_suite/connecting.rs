//! Who is where, and connecting.

use super::*;

/// What others need to find it.
pub async fn each_knows_who_and_where_it_is(fixture: impl Fixture) {
    let (_guard, transports) = fixture.transports(3).await;
    let mut peers: Vec<_> = transports.iter().map(|transport| transport.local_peer()).collect();
    peers.sort();
    peers.dedup();
    assert_eq!(peers.len(), 3);
    for transport in &transports {
        assert!(!transport.listen_addresses().is_empty());
        for address in transport.listen_addresses() {
            assert!(!address.to_string().contains("/p2p/"), "{address}");
        }
        assert!(transport.peers().is_empty(), "nobody connected yet");
    }
}

/// With or without the peer id in the address.
pub async fn connecting_says_who_is_there_and_both_sides_see_it(fixture: impl Fixture) {
    let (_guard, transports) = fixture.transports(2).await;
    let (one, other) = (&transports[0], &transports[1]);
    let (mut events, mut others_events) = (one.events(), other.events());
    connect(one, other).await;
    event(&mut events, &TransportEvent::Connected(other.local_peer())).await;
    event(&mut others_events, &TransportEvent::Connected(one.local_peer())).await;
    assert_eq!(one.peers(), [other.local_peer()]);
    assert!(!one.addresses(&other.local_peer()).is_empty());

    let full: Multiaddr =
        format!("{}/p2p/{}", other.listen_addresses()[0], other.local_peer()).parse().unwrap();
    assert_eq!(within("connecting again", one.connect(&full)).await.unwrap(), other.local_peer());
    assert_eq!(one.peers(), [other.local_peer()]);
}

/// A bootstrap peer that is down must not hang the start.
pub async fn connecting_to_where_nobody_is_fails(fixture: impl Fixture) {
    let (_guard, transports) = fixture.transports(2).await;
    let address = transports[1].listen_addresses()[0].clone();
    within("shutting down", transports[1].shutdown()).await.unwrap();
    let error = within("failing", transports[0].connect(&address)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
    assert!(transports[0].peers().is_empty());
}

/// The error must not look like one that goes away by waiting.
pub async fn connecting_to_what_is_no_address_of_ours_is_invalid(fixture: impl Fixture) {
    let (_guard, transports) = fixture.transports(1).await;
    let address: Multiaddr = "/unix/%2Ftmp%2Fno-transport".parse().unwrap();
    let error = within("failing", transports[0].connect(&address)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
}
