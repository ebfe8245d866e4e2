use futures::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::*;
use crate::transport::Verdict;

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, number]).unwrap()
}

/// Transports of peers 1 to `count`, each connected to the next.
async fn chain(network: &MemoryNetwork, count: u8) -> Vec<MemoryTransport> {
    let transports: Vec<_> = (1..=count).map(|number| network.join(peer(number)).unwrap()).collect();
    for pair in transports.windows(2) {
        pair[0].connect(&pair[1].listen_addresses()[0]).await.unwrap();
    }
    transports
}

#[derive(Debug)]
struct Anything;

impl MessageValidator for Anything {
    fn validate(&self, _: &PeerId, _: &[u8]) -> Verdict {
        Verdict::Accept
    }
}

/// What never comes fails a test instead of stopping it.
async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(600), waiting).await.expect("this to happen")
}

fn topic() -> Topic {
    Topic::new("t")
}

/// Holds streams until they end, and echoes single bytes.
#[derive(Debug)]
struct Hold;

#[async_trait]
impl StreamHandler for Hold {
    async fn handle(&self, _: PeerId, mut stream: PeerStream) {
        while let Ok(byte) = stream.read_u8().await {
            if stream.write_u8(byte).await.is_err() {
                return;
            }
        }
    }
}

fn hold() -> Protocol {
    Protocol::new("/hold/1")
}

#[tokio::test(start_paused = true)]
async fn delays_are_round_trips_for_connecting_opening_and_asking() {
    let network = MemoryNetwork::new(0);
    network.set_delay(Duration::from_millis(50));
    network.set_delay_between(peer(1), peer(2), Duration::from_millis(10));
    let transports = [1, 2, 3].map(|number| network.join(peer(number)).unwrap());
    for (other, round_trip) in [(1, 20), (2, 100)] {
        let round_trip = Duration::from_millis(round_trip);
        transports[other].accept(hold(), Arc::new(Hold)).unwrap();
        let start = Instant::now();
        let mut stream = transports[0].open(&transports[other].local_peer(), &hold()).await.unwrap();
        assert_eq!(start.elapsed(), 2 * round_trip, "connecting, then opening");
        stream.write_u8(7).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), 7);
        assert_eq!(start.elapsed(), 3 * round_trip);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shorter_way_is_not_held_up_by_a_longer_one() {
    let network = MemoryNetwork::new(0);
    let transports = chain(&network, 3).await;
    network.set_delay_between(peer(1), peer(2), Duration::from_secs(10));
    network.set_delay_between(peer(3), peer(2), Duration::from_secs(1));
    let mut messages = transports[1].subscribe(&topic(), Arc::new(Anything));
    let start = Instant::now();
    transports[0].publish(&topic(), Bytes::from_static(b"slow")).await.unwrap();
    transports[2].publish(&topic(), Bytes::from_static(b"fast")).await.unwrap();
    assert_eq!(soon(messages.next()).await.unwrap().data, b"fast".as_slice());
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert_eq!(soon(messages.next()).await.unwrap().data, b"slow".as_slice());
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn who_rejects_a_message_decides_for_all_subscriptions_of_a_peer() {
    #[derive(Debug)]
    struct Always(Verdict);

    impl MessageValidator for Always {
        fn validate(&self, _: &PeerId, _: &[u8]) -> Verdict {
            self.0
        }
    }

    for (other_verdict, given, passed_on) in
        [(Verdict::Accept, true, true), (Verdict::Ignore, true, false), (Verdict::Reject, false, false)]
    {
        let network = MemoryNetwork::new(0);
        let transports = chain(&network, 3).await;
        let mut accepting = transports[1].subscribe(&topic(), Arc::new(Always(Verdict::Accept)));
        let _other = transports[1].subscribe(&topic(), Arc::new(Always(other_verdict)));
        let mut last = transports[2].subscribe(&topic(), Arc::new(Anything));
        transports[0].publish(&topic(), Bytes::from_static(b"x")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let came = (accepting.next().now_or_never().is_some(), last.next().now_or_never().is_some());
        assert_eq!(came, (given, passed_on), "{other_verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_by_two_ways_is_given_once() {
    let network = MemoryNetwork::new(0);
    let transports = chain(&network, 4).await;
    transports[3].connect(&transports[0].listen_addresses()[0]).await.unwrap();
    let mut subscriptions: Vec<_> =
        transports.iter().map(|transport| transport.subscribe(&topic(), Arc::new(Anything))).collect();
    transports[0].publish(&topic(), Bytes::from_static(b"once")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for messages in &mut subscriptions {
        assert!(messages.next().now_or_never().is_some());
        assert!(messages.next().now_or_never().is_none());
    }
}

/// What of 200 messages came through a lossy chain of three, and when.
async fn trace(seed: u64) -> Vec<(Bytes, Duration)> {
    let network = MemoryNetwork::new(seed);
    let transports = chain(&network, 3).await;
    network.set_gossip_loss(0.3);
    network.set_delay(Duration::from_millis(3));
    let _middle = transports[1].subscribe(&topic(), Arc::new(Anything));
    let mut last = transports[2].subscribe(&topic(), Arc::new(Anything));
    let start = Instant::now();
    for number in 0..200_u8 {
        transports[0].publish(&topic(), Bytes::copy_from_slice(&[number])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut trace = Vec::new();
    while let Ok(message) = timeout(Duration::from_secs(1), last.next()).await {
        trace.push((message.unwrap().data, start.elapsed()));
    }
    trace
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_loses_the_same_messages() {
    let first = trace(1).await;
    assert_eq!(first, trace(1).await);
    assert_ne!(first, trace(2).await);
    // Two hops that each keep 70 %.
    assert!((70..130).contains(&first.len()), "{}", first.len());
}

#[tokio::test(start_paused = true)]
async fn a_partition_breaks_what_is_there_and_what_is_under_way_until_it_heals() {
    let network = MemoryNetwork::new(0);
    let transports = chain(&network, 2).await;
    let (one, other) = (&transports[0], &transports[1]);
    other.accept(hold(), Arc::new(Hold)).unwrap();
    let mut events = other.events();
    let mut messages = other.subscribe(&topic(), Arc::new(Anything));
    let mut stream = one.open(&peer(2), &hold()).await.unwrap();
    network.set_delay(Duration::from_secs(5));
    one.publish(&topic(), Bytes::from_static(b"under way")).await.unwrap();
    let address = other.listen_addresses()[0].clone();
    let mut dialling = one.connect(&address);
    assert!((&mut dialling).now_or_never().is_none());

    network.partition(peer(1), peer(2));
    assert!(soon(stream.read_u8()).await.is_err());
    assert_eq!(soon(events.next()).await, Some(TransportEvent::Disconnected(peer(1))));
    assert_eq!(dialling.await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(one.open(&peer(2), &hold()).await.err().unwrap().kind(), ErrorKind::Unavailable);
    assert!(timeout(Duration::from_secs(60), messages.next()).await.is_err());

    network.heal(peer(2), peer(1));
    let mut stream = one.open(&peer(2), &hold()).await.unwrap();
    stream.write_u8(7).await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), 7);
    assert_eq!(soon(events.next()).await, Some(TransportEvent::Connected(peer(1))));
    one.publish(&topic(), Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(soon(messages.next()).await.unwrap().data, b"after".as_slice());
}

#[tokio::test(start_paused = true)]
async fn an_isolated_peer_reaches_nobody_and_the_others_each_other() {
    let network = MemoryNetwork::new(0);
    let transports = chain(&network, 3).await;
    network.isolate(peer(2));
    assert!(transports.iter().all(|transport| transport.peers().is_empty()));
    transports[0].connect(&transports[2].listen_addresses()[0]).await.unwrap();
    assert!(transports[1].connect(&transports[2].listen_addresses()[0]).await.is_err());
    network.heal_all();
    transports[1].connect(&transports[2].listen_addresses()[0]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_crashed_is_gone_at_once_and_comes_back_under_its_address() {
    let network = MemoryNetwork::new(0);
    let mut transports = chain(&network, 2).await;
    let crashed = transports.pop().unwrap();
    let one = transports.pop().unwrap();
    crashed.accept(hold(), Arc::new(Hold)).unwrap();
    let (mut events, mut own_events) = (one.events(), crashed.events());
    let mut stream = one.open(&peer(2), &hold()).await.unwrap();
    assert_eq!(network.join(peer(2)).unwrap_err().kind(), ErrorKind::Conflict);

    network.crash(peer(2));
    network.crash(peer(2));
    assert!(soon(stream.read_u8()).await.is_err());
    assert_eq!(soon(events.next()).await, Some(TransportEvent::Disconnected(peer(2))));
    assert_eq!(soon(own_events.next()).await, None, "a dead peer sees nothing");
    assert_eq!(crashed.open(&peer(1), &hold()).await.err().unwrap().kind(), ErrorKind::ShutDown);

    let back = network.join(peer(2)).unwrap();
    assert_eq!(back.listen_addresses(), crashed.listen_addresses());
    drop(crashed);
    assert_eq!(one.connect(&back.listen_addresses()[0]).await.unwrap(), peer(2));
    assert_eq!(
        one.open(&peer(2), &hold()).await.err().unwrap().kind(),
        ErrorKind::Unsupported,
        "what it served died with it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dropped_transport_leaves_and_lets_go_of_its_handlers() {
    let network = MemoryNetwork::new(0);
    let mut transports = chain(&network, 2).await;
    let handler = Arc::new(Hold);
    transports[1].accept(hold(), handler.clone()).unwrap();
    let mut stream = transports[0].open(&peer(2), &hold()).await.unwrap();
    transports.pop();
    assert!(soon(stream.read_u8()).await.is_err());
    assert!(transports[0].peers().is_empty());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(Arc::strong_count(&handler), 1);
}

#[tokio::test(start_paused = true)]
async fn one_peer_gets_a_bounded_number_of_streams_and_others_theirs() {
    let network = MemoryNetwork::new(0);
    let transports = chain(&network, 3).await;
    transports[1].accept(hold(), Arc::new(Hold)).unwrap();
    let mut streams = Vec::new();
    for _ in 0..STREAMS_PER_PEER_MAX {
        streams.push(transports[0].open(&peer(2), &hold()).await.unwrap());
    }
    let start = Instant::now();
    assert_eq!(transports[0].open(&peer(2), &hold()).await.err().unwrap().kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), OPEN_TIMEOUT);
    transports[2].open(&peer(2), &hold()).await.unwrap();

    let (to, protocol) = (peer(2), hold());
    let waiting = transports[0].open(&to, &protocol);
    let (opened, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        streams.pop();
    });
    opened.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_at_an_address_must_be_who_it_names() {
    let network = MemoryNetwork::new(0);
    let transports = chain(&network, 3).await;
    for (address, kind) in [
        (format!("/memory/2/p2p/{}", peer(3)), ErrorKind::Unavailable),
        ("/memory/99".to_owned(), ErrorKind::Unavailable),
        ("/memory/1".to_owned(), ErrorKind::InvalidInput),
        ("/memory/2/tcp/1".to_owned(), ErrorKind::InvalidInput),
    ] {
        let error = transports[0].connect(&address.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{address}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_shut_its_own_transport_down() {
    #[derive(Debug)]
    struct StopsItself(std::sync::Mutex<Option<Arc<MemoryTransport>>>);

    #[async_trait]
    impl StreamHandler for StopsItself {
        async fn handle(&self, _: PeerId, _: PeerStream) {
            let transport = self.0.lock().unwrap().take().unwrap();
            let _ = transport.shutdown().await;
        }
    }

    let network = MemoryNetwork::new(0);
    let one = network.join(peer(1)).unwrap();
    let other = Arc::new(network.join(peer(2)).unwrap());
    let handler = StopsItself(std::sync::Mutex::new(Some(other.clone())));
    other.accept(hold(), Arc::new(handler)).unwrap();
    let mut stream = one.open(&peer(2), &hold()).await.unwrap();
    assert!(soon(stream.read_u8()).await.is_err());
    other.shutdown().await.unwrap();
}
