//! Listings: lines, statuses, trailers, and callers that do not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use ipfs_cluster::api::rest::{RestConfig, router};
use ipfs_cluster::types::Pin;
use ipfs_cluster::{Error, Result};

use super::caller::Caller;
use super::parts::{Scripted, page};
use super::{Peer, soon};

async fn peer_that_lists(
    config: RestConfig,
    list: impl Fn() -> BoxStream<'static, Result<Vec<Pin>>> + Send + Sync + 'static,
) -> Peer {
    Peer::with(config, |builder| builder.consensus_with(move |cx| Scripted::open(cx, list))).await
}

fn pages(pages: Vec<Result<Vec<Pin>>>) -> BoxStream<'static, Result<Vec<Pin>>> {
    stream::iter(pages).boxed()
}

fn broken() -> Error {
    Error::internal("the disk is on fire")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_long_listing_comes_once_and_in_order() {
    let list = || stream::iter((0..12).map(|n| Ok(page(n * 1024..(n + 1) * 1024)))).boxed();
    let peer = peer_that_lists(RestConfig::default(), list).await;
    let mut caller = peer.caller().await;
    for _ in 0..2 {
        let received = soon(caller.call("GET", "/allocations?filter=pin")).await;
        assert_eq!(received.status, 200);
        assert_eq!(received.header("content-type"), Some("application/json"));
        assert_eq!(received.header("trailer"), Some("X-Stream-Error"));
        assert_eq!(received.header("vary"), Some("Origin"));
        assert!(received.header("date").unwrap().ends_with(" GMT"));
        assert_eq!(received.stream_errors(), [""]);
        let expected: Vec<_> =
            page(0..12 * 1024).iter().map(|pin| serde_json::to_value(pin).unwrap()).collect();
        assert!(received.lines() == expected);
    }
    // The connection goes on behind it, for listings and others.
    assert_eq!(caller.call("GET", "/version").await.status, 200);
}

#[tokio::test]
async fn a_listing_without_lines_is_204_and_announces_its_trailer_all_the_same() {
    let peer = peer_that_lists(RestConfig::default(), || pages(vec![Ok(vec![])])).await;
    let received = soon(peer.caller().await.call("GET", "/allocations?filter=pin")).await;
    assert_eq!((received.status, received.body.len(), received.chunks), (204, 0, None));
    assert_eq!(received.header("trailer"), Some("X-Stream-Error"));
    assert_eq!(received.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn an_error_before_the_first_line_is_a_document_and_one_behind_it_a_trailer() {
    let first = peer_that_lists(RestConfig::default(), || pages(vec![Err(broken())])).await;
    let mut caller = first.caller().await;
    let received = soon(caller.call("GET", "/allocations?filter=pin")).await;
    assert_eq!((received.status, received.chunks), (500, None));
    assert_eq!(received.text(), "{\"code\":500,\"message\":\"the disk is on fire\"}\n");
    assert_eq!(received.header("trailer"), Some("X-Stream-Error"));

    let behind = peer_that_lists(RestConfig::default(), || pages(vec![Ok(page(0..3)), Err(broken())])).await;
    let mut caller = behind.caller().await;
    let received = soon(caller.call("GET", "/allocations?filter=pin")).await;
    assert_eq!((received.status, received.lines().len()), (200, 3));
    assert_eq!(received.stream_errors(), ["the disk is on fire"]);
    assert_eq!(caller.call("GET", "/health").await.status, 204);
}

#[tokio::test]
async fn a_bug_in_a_listing_is_told_in_the_trailer() {
    let list =
        || pages(vec![Ok(page(0..100))]).chain(stream::once(async { panic!("a bug, for the test") })).boxed();
    let peer = peer_that_lists(RestConfig::default(), list).await;
    let mut caller = peer.caller().await;
    let received = soon(caller.call("GET", "/allocations?filter=pin")).await;
    assert!(received.status == 500 || received.stream_errors()[0].contains("bug"), "{received:?}");
    assert_eq!(caller.call("GET", "/health").await.status, 204);
}

#[tokio::test]
async fn a_caller_that_does_not_read_stops_the_listing_and_is_given_up() {
    let pulled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&pulled);
    let list = move || {
        let count = Arc::clone(&count);
        stream::iter(0..10_000)
            .map(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(page(0..1024))
            })
            .boxed()
    };
    let config = RestConfig { stall_timeout: Duration::from_millis(300), ..RestConfig::default() };
    let peer = peer_that_lists(config, list).await;
    let mut caller = peer.caller().await;
    caller.send("GET /allocations?filter=pin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    // Nothing is read, until the server has given up. The system's buffers take a few megabytes.
    let open = async {
        while Arc::strong_count(&pulled) > 2 || pulled.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(open).await;
    assert!(
        pulled.load(Ordering::Relaxed) < 100,
        "{} pages were made for nobody",
        pulled.load(Ordering::Relaxed)
    );
    // What was sent breaks off and cannot be taken for a whole listing.
    assert!(soon(caller.try_answer()).await.is_err());
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_listing() {
    let alive = Arc::new(());
    let kept = Arc::clone(&alive);
    let list = move || {
        let kept = Arc::clone(&kept);
        stream::iter(0..1_000_000).map(move |_| (Arc::clone(&kept), Ok(page(0..1024))).1).boxed()
    };
    let peer = peer_that_lists(RestConfig::default(), list).await;
    let mut caller = peer.caller().await;
    caller.send("GET /allocations?filter=pin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(soon(caller.some()).await.unwrap() > 0);
    assert!(Arc::strong_count(&alive) > 2);
    drop(caller);
    soon(async {
        while Arc::strong_count(&alive) > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn old_callers_get_plain_lines_and_a_reset_instead_of_a_trailer() {
    let list = || pages(vec![Ok(page(0..3))]);
    let peer = peer_that_lists(RestConfig::default(), list).await;
    let mut caller = peer.caller().await;
    caller.send("GET /allocations?filter=pin HTTP/1.0\r\n\r\n").await;
    let received = soon(caller.answer()).await;
    assert_eq!((received.version.as_str(), received.chunks, received.lines().len()), ("HTTP/1.0", None, 3));
    assert_eq!(received.header("connection"), Some("close"));

    let list = || pages(vec![Ok(page(0..3)), Err(broken())]);
    let peer = peer_that_lists(RestConfig::default(), list).await;
    let mut caller = peer.caller().await;
    caller.send("GET /allocations?filter=pin HTTP/1.0\r\n\r\n").await;
    assert_eq!(soon(caller.try_answer()).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_caller_that_wants_to_close_is_let_go_behind_the_listing() {
    let peer = peer_that_lists(RestConfig::default(), || pages(vec![Ok(page(0..3))])).await;
    let mut caller = peer.caller().await;
    caller.send("GET /allocations?filter=pin HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n").await;
    let received = soon(caller.answer()).await;
    assert_eq!((received.header("connection"), received.lines().len()), (Some("close"), 3));
    assert!(soon(caller.is_closed()).await);
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order_with_listings_between_them() {
    let peer = peer_that_lists(RestConfig::default(), || pages(vec![Ok(page(0..3))])).await;
    let mut caller = peer.caller().await;
    let requests = ["/version", "/allocations", "/allocations", "/nope", "/allocations", "/health"]
        .map(|path| format!("GET {path}?filter=pin HTTP/1.1\r\nHost: x\r\n\r\n"))
        .concat();
    caller.send(&requests).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let received = soon(caller.answer()).await;
        statuses.push((received.status, received.chunks.is_some()));
    }
    assert_eq!(statuses, [(200, false), (200, true), (200, true), (404, false), (200, true), (204, false)]);
    // Also when a request comes in pieces behind a listing.
    caller.send(&requests[..120]).await;
    assert_eq!(soon(caller.answer()).await.status, 200);
    caller.send(&requests[120..]).await;
    for _ in 0..5 {
        soon(caller.answer()).await;
    }
}

#[tokio::test]
async fn the_body_of_a_request_for_a_listing_is_not_taken_for_the_next_request() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    // More than is read at once.
    let body = "GET /id HTTP/1.1\r\n\r\n".repeat(2_000);
    let received = soon(caller.call_with("POST", "/pins/recover", &body)).await;
    assert_eq!(received.status, 204);
    assert_eq!(soon(caller.call("GET", "/version")).await.json()["version"], "1.1.6");
}

#[tokio::test]
async fn as_a_router_trailers_go_to_who_asks_and_others_see_the_transfer_break_off() {
    let peer = peer_that_lists(RestConfig::default(), || pages(vec![Ok(page(0..3)), Err(broken())])).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, router(peer.cluster.clone())).into_future());

    let mut caller = Caller::connect(address).await;
    caller.send("GET /allocations?filter=pin HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n").await;
    let received = soon(caller.answer()).await;
    assert_eq!((received.status, received.lines().len()), (200, 3));
    assert_eq!(received.stream_errors(), ["the disk is on fire"]);
    assert_eq!(caller.call("GET", "/version").await.json()["version"], "1.1.6");
    assert_eq!(caller.call("PUT", "/version").await.status, 405);

    caller.send("GET /allocations?filter=pin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(soon(caller.try_answer()).await.is_err());
    server.abort();
}
