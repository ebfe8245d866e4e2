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

mod connecting;
mod ending;
mod gossip;
mod streams;

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

pub use self::connecting::*;
pub use self::ending::*;
pub use self::gossip::*;
pub use self::streams::*;

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
const WAIT: Duration = Duration::from_secs(90);
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
