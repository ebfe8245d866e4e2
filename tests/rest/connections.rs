//! Connections: slow, broken and large requests, and the end of the server.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::ErrorKind;
use ipfs_cluster::api::rest::{RestApi, RestConfig};
use tokio::sync::Notify;

use super::caller::Caller;
use super::parts::{Scripted, page};
use super::{Peer, soon};

const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
/// Short, but on a busy machine what is on its way arrives within it.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_head_that_does_not_come_is_given_up_but_an_idle_connection_is_not() {
    let config = RestConfig { read_header_timeout: SHORT, ..RestConfig::default() };
    let peer = Peer::with(config, |builder| builder).await;

    let mut silent = peer.caller().await;
    assert!(soon(silent.is_closed()).await);

    let mut slow = peer.caller().await;
    slow.send("GET /id HTTP/1.1\r\nHost").await;
    assert_eq!(soon(slow.answer()).await.status, 408);
    assert!(soon(slow.is_closed()).await);

    let mut idle = peer.caller().await;
    assert_eq!(soon(idle.call("GET", "/health")).await.status, 204);
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(soon(idle.call("GET", "/health")).await.status, 204);
    idle.send("GET /id HTTP/1.1\r\n").await;
    assert_eq!(soon(idle.answer()).await.status, 408);
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let config = RestConfig { idle_timeout: SHORT, ..RestConfig::default() };
    let peer = Peer::with(config, |builder| builder).await;
    let mut caller = peer.caller().await;
    assert_eq!(soon(caller.call("GET", "/health")).await.status, 204);
    assert!(soon(caller.is_closed()).await);
}

#[tokio::test]
async fn a_head_may_have_eight_kilobytes() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    caller.send(format!("GET /health HTTP/1.1\r\nX-Big: {}\r\n\r\n", "a".repeat(8_000))).await;
    assert_eq!(soon(caller.answer()).await.status, 204);
    caller.send(format!("GET /health HTTP/1.1\r\nX-Big: {}\r\n\r\n", "a".repeat(100_000))).await;
    let received = soon(caller.answer()).await;
    assert_eq!((received.status, received.text().as_str()), (431, "431 Request Header Fields Too Large"));
    assert_eq!(received.header("connection"), Some("close"));
    assert!(soon(caller.is_closed()).await);
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let peer = Peer::start().await;
    for text in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET /id HTTP/1.1\r\nno colon\r\n\r\n"] {
        let mut caller = peer.caller().await;
        caller.send(text).await;
        assert_eq!(soon(caller.answer()).await.status, 400, "{text:?}");
        assert!(soon(caller.is_closed()).await);
    }
}

#[tokio::test]
async fn a_body_is_limited_in_size_and_time_and_must_be_whole() {
    let config = RestConfig { body_timeout: SHORT, max_body_bytes: 1_000, ..RestConfig::default() };
    let peer = Peer::with(config, |builder| builder).await;

    let mut caller = peer.caller().await;
    let received = soon(caller.call_with("POST", "/peers", &"x".repeat(100_000))).await;
    assert_eq!(received.status, 413);
    assert_eq!(received.json()["message"], "the request body is larger than 1000 bytes");

    let mut caller = peer.caller().await;
    caller.send("POST /peers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..11 {
        caller.send(format!("64\r\n{}\r\n", "x".repeat(100))).await;
    }
    assert_eq!(soon(caller.answer()).await.status, 413);

    let mut caller = peer.caller().await;
    caller.send("POST /peers HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"peer").await;
    let received = soon(caller.answer()).await;
    assert_eq!((received.status, received.json()["code"].as_u64()), (408, Some(408)));

    let mut caller = peer.caller().await;
    caller.send("POST /peers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    let received = soon(caller.answer()).await;
    assert_eq!(received.status, 400, "{}", received.text());

    // Half a body and then the end: nobody is there to be told, but nothing hangs.
    let mut caller = peer.caller().await;
    caller.send("POST /peers HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"peer").await;
    caller.finish().await;
    let _ = soon(caller.try_answer()).await;

    assert_eq!(soon(peer.caller().await.call("GET", "/health")).await.status, 204);
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_does_no_harm() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    for _ in 0..3 {
        let received = soon(caller.call_with("POST", &format!("/pins/{CID}?name=x"), "{}")).await;
        assert_eq!((received.status, received.json()["name"].as_str()), (200, Some("x")));
    }
    caller.send("POST /peers HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(soon(caller.answer()).await.status, 100);
    caller.send("{}").await;
    assert_eq!(soon(caller.answer()).await.json()["message"], "error decoding request body");
}

#[tokio::test]
async fn a_bug_behind_a_request_is_a_500_and_the_connection_lives_on() {
    let list = || futures::stream::empty().boxed();
    let peer = Peer::with(RestConfig::default(), |builder| {
        builder.consensus_with(move |cx| Scripted::open(cx, list))
    })
    .await;
    let mut caller = peer.caller().await;
    let received = soon(caller.call("POST", &format!("/pins/{CID}?name=panic"))).await;
    assert_eq!(received.status, 500);
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert!(received.json()["message"].as_str().unwrap().contains("bug"));
    assert_eq!(soon(caller.call("POST", &format!("/pins/{CID}"))).await.status, 200);
}

/// A peer whose one listing gives a line, and the rest when it is told to.
async fn peer_with_a_slow_listing(config: RestConfig) -> (Peer, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let waiting = Arc::clone(&go_on);
    let list = move || {
        let waiting = Arc::clone(&waiting);
        let rest = futures::stream::once(async move {
            waiting.notified().await;
            Ok(page(1..3))
        });
        futures::stream::iter([Ok(page(0..1))]).chain(rest).boxed()
    };
    let peer = Peer::with(config, |builder| builder.consensus_with(move |cx| Scripted::open(cx, list))).await;
    (peer, go_on)
}

#[tokio::test]
async fn a_shutdown_lets_requests_in_hand_finish_and_closes_the_rest() {
    let (peer, go_on) = peer_with_a_slow_listing(RestConfig::default()).await;
    let mut idle = peer.caller().await;
    assert_eq!(soon(idle.call("GET", "/health")).await.status, 204);
    let mut busy = peer.caller().await;
    busy.send("GET /allocations?filter=pin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(soon(busy.some()).await.unwrap() > 0);

    let api = &peer.api;
    let address = peer.address();
    let twice = async { tokio::join!(api.shutdown(), api.shutdown()) };
    tokio::pin!(twice);
    tokio::select! {
        _ = &mut twice => panic!("a request is still in hand"),
        closed = idle.is_closed() => assert!(closed),
    }
    // The listener and the connection close each in its own time.
    let listens = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    tokio::select! {
        _ = &mut twice => panic!("a request is still in hand"),
        () = soon(listens) => {}
    }
    go_on.notify_one();
    soon(async {
        tokio::join!(&mut twice, async {
            // To the end, where the trailer is.
            while soon(busy.some()).await.unwrap() > 0 {}
        })
    })
    .await;
    soon(api.shutdown()).await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let config = RestConfig { shutdown_timeout: SHORT, ..RestConfig::default() };
    let (peer, _go_on) = peer_with_a_slow_listing(config).await;
    let mut busy = peer.caller().await;
    busy.send("GET /allocations?filter=pin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(soon(busy.some()).await.unwrap() > 0);
    soon(peer.api.shutdown()).await;
    assert_eq!(soon(busy.some()).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn callers_beyond_the_limit_wait_for_their_turn() {
    let config = RestConfig { connections_max: 1, ..RestConfig::default() };
    let peer = Peer::with(config, |builder| builder).await;
    let mut first = peer.caller().await;
    assert_eq!(soon(first.call("GET", "/health")).await.status, 204);
    let mut second = peer.caller().await;
    second.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(tokio::time::timeout(SHORT, second.answer()).await.is_err());
    drop(first);
    assert_eq!(soon(second.answer()).await.status, 204);
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it_and_names_are_resolved() {
    let peer = Peer::start().await;
    let port = peer.address().port();
    let config = RestConfig::default().listen([format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()]);
    let error = RestApi::bind(config, peer.cluster.clone()).await.unwrap_err();
    assert!(error.message().contains(&format!("127.0.0.1:{port}")), "{error}");

    let config = RestConfig::default().listen(["/dns4/localhost/tcp/0".parse().unwrap()]);
    let named = RestApi::bind(config, peer.cluster.clone()).await.unwrap();
    let mut caller = Caller::connect(named.local_addresses()[0]).await;
    assert_eq!(soon(caller.call("GET", "/version")).await.json()["version"], "1.1.6");

    let config = RestConfig::default().listen(["/dns4/no-such-host.invalid/tcp/0".parse().unwrap()]);
    let error = RestApi::bind(config, peer.cluster.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_peer_that_stopped_answers_503() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    peer.cluster.shutdown().await;
    let received = soon(caller.call("POST", &format!("/pins/{CID}"))).await;
    assert_eq!(received.status, 503, "{}", received.text());
}
