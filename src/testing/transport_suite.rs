//! Conformance suite of [`PeerTransport`].
//!
//! ```text
//! struct Mine;
//! #[async_trait]
//! impl transport_suite::Fixture for Mine {
//!     type Guard = ();
//!     async fn transports(&self, count: usize) -> ((), Vec<Arc<dyn PeerTransport>>) { … }
//! }
//! ipfs_cluster::transport_conformance!(mine, Mine);
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)] // A case fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::error::{ErrorKind, Result};
use crate::transport::{
    GOSSIP_PROTOCOL, GossipMessage, MessageValidator, PeerStream, PeerTransport, Protocol, StreamHandler,
    Topic, TransportEvent, Verdict,
};
use crate::types::{Multiaddr, PeerId};

/// Makes the transports under test.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Cleans up when it is dropped at the end of a case.
    type Guard: Send;

    /// So many transports of different peers (at most three) that listen and can reach each other by their listen
    /// addresses, but are not connected and do not look for each other.
    async fn transports(&self, count: usize) -> (Self::Guard, Vec<Arc<dyn PeerTransport>>);
}

/// The same implementation behind one more `Arc`.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn transports(&self, count: usize) -> (F::Guard, Vec<Arc<dyn PeerTransport>>) {
        let (guard, transports) = self.0.transports(count).await;
        (guard, transports.into_iter().map(|transport| Arc::new(transport) as _).collect())
    }
}

conformance_suite!($ transport_suite, transport_conformance, run_case, [
    each_knows_who_and_where_it_is,
    connecting_says_who_is_there_and_both_sides_see_it,
    connecting_to_where_nobody_is_fails,
    connecting_to_what_is_no_address_of_ours_is_invalid,
    a_stream_carries_bytes_both_ways_and_says_who_opened_it,
    each_half_of_a_stream_ends_by_itself,
    what_travels_is_counted_by_protocol,
    large_data_arrives_whole,
    a_writer_waits_for_a_reader_that_does_not_read,
    streams_do_not_wait_for_each_other,
    a_dropped_stream_ends_at_the_other_side_too,
    a_protocol_nobody_serves_is_unsupported,
    a_second_handler_is_refused_and_the_first_goes_on,
    a_handler_that_panics_harms_only_its_stream,
    opening_connects_again_where_needed,
    opening_to_who_left_is_unavailable,
    an_open_that_is_dropped_leaves_nothing_behind,
    a_message_reaches_subscribers_and_who_published_it,
    a_message_passes_through_who_accepts_it,
    a_rejected_message_goes_no_further,
    an_ignored_message_goes_no_further,
    a_message_nobody_wants_is_published_all_the_same,
    a_message_that_is_too_long_is_invalid,
    a_subscriber_that_does_not_read_holds_nobody_up,
    disconnecting_ends_streams_and_both_sides_see_it,
    events_that_were_missed_are_a_resync,
    a_shutdown_is_seen_by_the_others,
    every_shutdown_returns_and_ends_all_streams,
    calls_after_the_shutdown_are_refused,
]);

/// Longer than anything takes that works.
const WAIT: Duration = Duration::from_secs(30);
/// Between two attempts where a fact can only be seen by trying.
const PAUSE: Duration = Duration::from_millis(20);

async fn within<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    timeout(WAIT, waiting).await.unwrap_or_else(|_| panic!("{what} took more than {WAIT:?}"))
}

async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    within(what, async {
        while !fact() {
            sleep(PAUSE).await;
        }
    })
    .await;
}

fn protocol(name: &str) -> Protocol {
    Protocol::new(format!("/suite/{name}/1"))
}

fn topic() -> Topic {
    Topic::new("suite")
}

async fn connect(from: &Arc<dyn PeerTransport>, to: &Arc<dyn PeerTransport>) {
    let address = to.listen_addresses()[0].clone();
    let found = within("connecting", from.connect(&address)).await.unwrap();
    assert_eq!(found, to.local_peer());
    until("the other side of a connection", || {
        to.peers().contains(&from.local_peer()) && from.peers().contains(&to.local_peer())
    })
    .await;
}

/// Two that are connected.
async fn two<F: Fixture>(fixture: &F) -> (F::Guard, Arc<dyn PeerTransport>, Arc<dyn PeerTransport>) {
    let (guard, transports) = fixture.transports(2).await;
    let [one, other] = transports.try_into().expect("as many transports as were asked for");
    connect(&one, &other).await;
    (guard, one, other)
}

/// Three, the first connected to the second, the second to the third.
async fn chain<F: Fixture>(fixture: &F) -> (F::Guard, [Arc<dyn PeerTransport>; 3]) {
    let (guard, transports) = fixture.transports(3).await;
    let chain: [_; 3] = transports.try_into().expect("as many transports as were asked for");
    connect(&chain[0], &chain[1]).await;
    connect(&chain[1], &chain[2]).await;
    (guard, chain)
}

async fn open(from: &Arc<dyn PeerTransport>, to: &Arc<dyn PeerTransport>, name: &str) -> Result<PeerStream> {
    within("opening a stream", from.open(&to.local_peer(), &protocol(name))).await
}

/// Gives the streams that come to the test.
#[derive(Debug)]
struct Hand(mpsc::Sender<(PeerId, PeerStream)>);

#[async_trait]
impl StreamHandler for Hand {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        let _ = self.0.send((from, stream)).await;
        // The transport may think that the stream is done when this returns, so it stays as long as the test.
        self.0.closed().await;
    }
}

fn hand_out(transport: &Arc<dyn PeerTransport>, name: &str) -> mpsc::Receiver<(PeerId, PeerStream)> {
    let (sender, receiver) = mpsc::channel(16);
    transport.accept(protocol(name), Arc::new(Hand(sender))).unwrap();
    receiver
}

/// Sends everything back; panics when it starts with `!`.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl StreamHandler for Echo {
    async fn handle(&self, _: PeerId, mut stream: PeerStream) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(length) => {
                    assert_ne!(buffer[0], b'!', "told to panic");
                    if stream.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        let _ = stream.shutdown().await;
    }
}

fn echo(transport: &Arc<dyn PeerTransport>) {
    transport.accept(protocol("echo"), Arc::new(Echo)).unwrap();
}

/// Sends data while it reads the answer.
async fn echoed(stream: PeerStream, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let sending = async {
        write.write_all(data).await?;
        write.shutdown().await
    };
    let (sent, received) =
        within("an echo", async { tokio::join!(sending, read.read_to_end(&mut answer)) }).await;
    sent.and(received)?;
    Ok(answer)
}

async fn echo_works(from: &Arc<dyn PeerTransport>, to: &Arc<dyn PeerTransport>) {
    let stream = open(from, to, "echo").await.unwrap();
    assert_eq!(echoed(stream, b"hello").await.unwrap(), b"hello");
}

#[derive(Debug)]
struct Judge(fn(&[u8]) -> Verdict);

impl MessageValidator for Judge {
    fn validate(&self, _: &PeerId, data: &[u8]) -> Verdict {
        (self.0)(data)
    }
}

type Messages = BoxStream<'static, GossipMessage>;

fn subscribe(transport: &Arc<dyn PeerTransport>, judge: fn(&[u8]) -> Verdict) -> Messages {
    transport.subscribe(&topic(), Arc::new(Judge(judge)))
}

fn accept_all(_: &[u8]) -> Verdict {
    Verdict::Accept
}

/// Publishes until the message comes; that others subscribed takes a while to get around.
async fn heard(from: &Arc<dyn PeerTransport>, data: &'static [u8], at: &mut Messages) -> GossipMessage {
    within("gossip", async {
        loop {
            from.publish(&topic(), Bytes::from_static(data)).await.unwrap();
            if let Ok(message) = timeout(10 * PAUSE, at.next()).await {
                let message = message.expect("the subscription ended");
                if message.data == data {
                    return message;
                }
            }
        }
    })
    .await
}

async fn event(events: &mut BoxStream<'static, TransportEvent>, expected: &TransportEvent) {
    within("an event", async {
        while events.next().await.as_ref().expect("the events ended") != expected {}
    })
    .await;
}

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

/// Who opened decides what it may ask.
pub async fn a_stream_carries_bytes_both_ways_and_says_who_opened_it(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    for (from, to, name) in [(&one, &other, "there"), (&other, &one, "back")] {
        let mut streams = hand_out(to, name);
        let mut ours = open(from, to, name).await.unwrap();
        ours.write_all(b"ping").await.unwrap();
        ours.flush().await.unwrap();
        let (opened_by, mut theirs) = within("a stream", streams.recv()).await.unwrap();
        assert_eq!(opened_by, from.local_peer());
        let mut four = [0; 4];
        within("reading", theirs.read_exact(&mut four)).await.unwrap();
        assert_eq!(&four, b"ping");
        theirs.write_all(b"pong").await.unwrap();
        theirs.flush().await.unwrap();
        within("reading", ours.read_exact(&mut four)).await.unwrap();
        assert_eq!(&four, b"pong");
    }
}

/// A question ends, its answer still comes.
pub async fn each_half_of_a_stream_ends_by_itself(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "halves");
    let mut ours = open(&one, &other, "halves").await.unwrap();
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let (_, mut theirs) = within("a stream", streams.recv()).await.unwrap();
    let mut question = Vec::new();
    within("the question", theirs.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    drop(theirs);
    let mut answer = Vec::new();
    within("the answer", ours.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer", "dropping after the end takes nothing back");
}

/// More than any buffer holds.
pub async fn large_data_arrives_whole(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    // No part starts with the byte that makes the echo panic.
    let byte = |number: u32| (number.wrapping_mul(2_654_435_761) >> 27) as u8;
    let data: Vec<u8> = (0..4 * 1024 * 1024).map(byte).collect();
    let answer = echoed(open(&one, &other, "echo").await.unwrap(), &data).await.unwrap();
    assert!(answer == data, "{} of {} bytes came back, or others", answer.len(), data.len());
}

/// Memory is bounded by buffers, not by what is sent.
pub async fn a_writer_waits_for_a_reader_that_does_not_read(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "unread");
    let mut ours = open(&one, &other, "unread").await.unwrap();
    let much = vec![7; 64 * 1024 * 1024];
    let written = timeout(Duration::from_millis(500), ours.write_all(&much)).await;
    assert!(written.is_err(), "{written:?}: 64 MiB went somewhere");
    drop(streams.try_recv());
}

/// Operators look here for what fills their links.
pub async fn what_travels_is_counted_by_protocol(fixture: impl Fixture) {
    const SENT: usize = 100_000;
    const ANSWERED: usize = 7;
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "counted");
    hand_out(&other, "silent");
    let name = protocol("counted");
    assert!(!one.bandwidth().contains_key(name.as_str()));
    let mut ours = open(&one, &other, "counted").await.unwrap();
    ours.write_all(&vec![1; SENT]).await.unwrap();
    ours.shutdown().await.unwrap();
    let (_, mut theirs) = within("a stream", streams.recv()).await.unwrap();
    let mut read = Vec::new();
    within("what was sent", theirs.read_to_end(&mut read)).await.unwrap();
    theirs.write_all(&[2; ANSWERED]).await.unwrap();
    theirs.shutdown().await.unwrap();
    within("the answer", ours.read_to_end(&mut read)).await.unwrap();

    for (transport, total_in, total_out) in [(&one, ANSWERED, SENT), (&other, SENT, ANSWERED)] {
        let all = transport.bandwidth();
        let moved = all[name.as_str()];
        assert_eq!((moved.total_in, moved.total_out), (total_in as i64, total_out as i64));
        assert!(moved.rate_in > 0.0 && moved.rate_out > 0.0, "{moved:?}");
        assert!(!all.contains_key(protocol("silent").as_str()), "{all:?}");
    }
    let mut messages = subscribe(&other, accept_all);
    heard(&one, b"counted", &mut messages).await;
    for transport in [&one, &other] {
        let gossip = transport.bandwidth()[GOSSIP_PROTOCOL];
        assert!(gossip.total_in + gossip.total_out > 0, "{gossip:?}");
    }
    one.shutdown().await.unwrap();
    assert_eq!(one.bandwidth()[name.as_str()].total_out, SENT as i64);
}

/// Also when one of them is stuck.
pub async fn streams_do_not_wait_for_each_other(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let streams = hand_out(&other, "stuck");
    echo(&other);
    let mut stuck = open(&one, &other, "stuck").await.unwrap();
    let much = vec![7; 16 * 1024 * 1024];
    assert!(timeout(Duration::from_millis(200), stuck.write_all(&much)).await.is_err());
    join_all((0..50).map(|_| echo_works(&one, &other))).await;
    drop(streams);
}

/// As an error or as an end, but not never.
pub async fn a_dropped_stream_ends_at_the_other_side_too(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "dropped");
    let mut ours = open(&one, &other, "dropped").await.unwrap();
    ours.write_all(b"x").await.unwrap();
    ours.flush().await.unwrap();
    let (_, mut theirs) = within("a stream", streams.recv()).await.unwrap();
    drop(ours);
    let mut rest = Vec::new();
    let _ = within("the end of a dropped stream", theirs.read_to_end(&mut rest)).await;

    let mut ours = open(&one, &other, "dropped").await.unwrap();
    ours.write_all(b"x").await.unwrap();
    ours.flush().await.unwrap();
    drop(within("a stream", streams.recv()).await.unwrap());
    let _ = within("the end of a dropped stream", ours.read_to_end(&mut rest)).await;
}

/// The caller falls back to an older protocol by this kind, and the connection serves it.
pub async fn a_protocol_nobody_serves_is_unsupported(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    let error = open(&one, &other, "nobody").await.err().expect("a protocol that nobody serves");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    echo_works(&one, &other).await;
}

/// Two components that take the same name are a bug that must show at once.
pub async fn a_second_handler_is_refused_and_the_first_goes_on(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    let (sender, _receiver) = mpsc::channel(1);
    let error = other.accept(protocol("echo"), Arc::new(Hand(sender))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    echo_works(&one, &other).await;
}

/// What comes from the network must not take the peer down.
pub async fn a_handler_that_panics_harms_only_its_stream(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    let mut stream = open(&one, &other, "echo").await.unwrap();
    stream.write_all(b"!").await.unwrap();
    stream.flush().await.unwrap();
    let mut rest = Vec::new();
    let _ = within("the end after a panic", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    echo_works(&one, &other).await;
}

/// Connections come and go; callers only name the peer.
pub async fn opening_connects_again_where_needed(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    one.disconnect(&other.local_peer()).await.unwrap();
    until("a disconnection", || one.peers().is_empty() && other.peers().is_empty()).await;
    echo_works(&one, &other).await;
    assert_eq!(one.peers(), [other.local_peer()]);
}

/// A member that is down makes an entry in an answer, not a hang.
pub async fn opening_to_who_left_is_unavailable(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    within("shutting down", other.shutdown()).await.unwrap();
    let error = open(&one, &other, "echo").await.err().expect("a stream to nobody");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
}

/// Deadlines drop calls.
pub async fn an_open_that_is_dropped_leaves_nothing_behind(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    for polls in 0..20 {
        let (to, name) = (other.local_peer(), protocol("echo"));
        let mut opening = one.open(&to, &name);
        for _ in 0..polls {
            if (&mut opening).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    echo_works(&one, &other).await;
}

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
    one.disconnect(&super::peer(1)).await.unwrap();
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
    while let Ok(event) = timeout(25 * PAUSE, events.next()).await {
        connected = match event.expect("the events ended") {
            TransportEvent::Connected(peer) if peer == other.local_peer() => true,
            TransportEvent::Disconnected(peer) if peer == other.local_peer() => false,
            TransportEvent::Resync => !one.peers().is_empty(),
            _ => connected,
        };
    }
    assert!(!connected);
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
