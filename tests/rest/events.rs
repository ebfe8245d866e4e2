//! What happens, over real sockets.

use std::time::Duration;

use ipfs_cluster::api::rest::{Authentication, RestConfig};
use ipfs_cluster::types::{Event, Happening, PinOptions};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{PATIENCE, Peer, soon};

/// One who watches, and sees the bytes.
struct Watching {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Watching {
    async fn start(peer: &Peer, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(peer.address()).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut watching = Self { stream: BufReader::new(stream), head: String::new() };
        while !watching.head.ends_with("\r\n\r\n") {
            assert!(soon(watching.stream.read_line(&mut watching.head)).await.unwrap() > 0);
        }
        watching
    }

    /// The next line that is not of the chunking.
    async fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if soon(self.stream.read_line(&mut line)).await.unwrap() == 0 {
                return None;
            }
            if !line.ends_with("\r\n") {
                return Some(line.trim_end_matches('\n').to_owned());
            }
        }
    }

    async fn event(&mut self) -> Event {
        serde_json::from_str(&self.line().await.unwrap()).unwrap()
    }
}

async fn pin(peer: &Peer, name: &str) -> ipfs_cluster::types::Cid {
    let cid = peer.ipfs.add_sample(name.to_owned());
    peer.cluster.pin(cid, PinOptions { name: name.into(), ..Default::default() }).await.unwrap();
    soon(peer.cluster.wait(cid).into_future()).await.unwrap();
    cid
}

#[tokio::test]
async fn lines_come_as_things_happen_and_go_on_behind_a_cursor() {
    let peer = Peer::start().await;
    let mut watching = Watching::start(&peer, "/events?heartbeat=true&kind=pinned,unpinned", "").await;
    assert!(watching.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", watching.head);
    for header in
        ["Content-Type: application/x-ndjson\r\n", "Cache-Control: no-store\r\n", "Connection: close\r\n"]
    {
        assert!(watching.head.contains(header), "{}", watching.head);
    }
    // At once, so that the first cursor is known.
    let first = watching.event().await;
    assert_eq!(first.what, Happening::Heartbeat);
    let cids = [pin(&peer, "one").await, pin(&peer, "two").await];
    let mut events = Vec::new();
    for cid in cids {
        let event = watching.event().await;
        let Happening::Pinned(told) = &event.what else { panic!("{event:?}") };
        assert_eq!(**told, peer.cluster.state().get(&cid).await.unwrap().unwrap());
        events.push(event);
    }
    drop(watching);
    peer.cluster.unpin(&cids[0]).await.unwrap();
    for (cursor, left) in [(first.cursor, 0), (events[0].cursor, 1), (events[1].cursor, 2)] {
        let path = format!("/events?kind=pinned,unpinned&after={cursor}");
        let mut again = Watching::start(&peer, &path, "").await;
        for event in &events[left..] {
            assert_eq!(again.event().await, *event);
        }
        let Happening::Unpinned(pin) = again.event().await.what else { panic!("it was unpinned") };
        assert_eq!(pin.cid, cids[0]);
    }
    let mut of_one =
        Watching::start(&peer, &format!("/events?after={}&cid={}", first.cursor, cids[1]), "").await;
    let raw = of_one.line().await.unwrap();
    let raw: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!((&raw["type"], &raw["pin"]["name"]), (&"pinned".into(), &"two".into()));
    let mut statuses = Vec::new();
    while statuses.last() != Some(&"pinned".to_owned()) {
        let status: serde_json::Value = serde_json::from_str(&of_one.line().await.unwrap()).unwrap();
        assert_eq!((&status["type"], &status["cid"]), (&"status".into(), &cids[1].to_string().into()));
        assert_eq!(status["peer"], peer.cluster.peer_id().to_string());
        statuses.push(status["info"]["status"].as_str().unwrap().to_owned());
    }
}

#[tokio::test]
async fn a_browser_gets_server_sent_events_and_goes_on_by_its_header() {
    let peer = Peer::start().await;
    let accept = "Accept: text/event-stream\r\n";
    let mut watching = Watching::start(&peer, "/events?kind=pinned", accept).await;
    assert!(watching.head.contains("Content-Type: text/event-stream\r\n"), "{}", watching.head);
    assert_eq!(watching.line().await.unwrap(), ": heartbeat");
    let begin = watching.line().await.unwrap();
    assert_eq!(watching.line().await.unwrap(), "");
    let cid = pin(&peer, "one").await;
    let mut event = Vec::new();
    for _ in 0..4 {
        event.push(watching.line().await.unwrap());
    }
    let [name, id, data, end] = &event[..] else { unreachable!() };
    assert_eq!((name.as_str(), end.as_str()), ("event: pinned", ""));
    let told: Event = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((told.what.cid(), format!("id: {}", told.cursor)), (Some(&cid), id.clone()));
    drop(watching);

    let last = begin.strip_prefix("id: ").unwrap();
    let headers = format!("{accept}Last-Event-ID: {last}\r\n");
    let path = format!("/events?kind=pinned&after={}", told.cursor);
    let mut again = Watching::start(&peer, &path, &headers).await;
    // The header counts, and there is something to tell at once.
    assert_eq!([again.line().await.unwrap(), again.line().await.unwrap()], ["event: pinned", id]);
    let headers = format!("{accept}Last-Event-ID: 0123456789abcdef-5\r\n");
    let mut elsewhere = Watching::start(&peer, "/events", &headers).await;
    assert_eq!(elsewhere.line().await.unwrap(), "event: resync");
}

#[tokio::test]
async fn what_is_wrong_is_one_400_and_the_connection_lives() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    for query in [
        "after=x",
        "after=%ff",
        "after=0123456789abcdef-5&after=0123456789abcdef-5",
        "kind=nope",
        "kind=pinned&kind=resync",
        "cid=nope",
        "heartbeat=1",
        "heartbeat=true&heartbeat=true",
        "local=true",
    ] {
        let received = soon(caller.call("GET", &format!("/events?{query}"))).await;
        assert_eq!((received.status, received.json()["code"].as_u64()), (400, Some(400)), "{query}");
    }
    let mut watching = Watching::start(&peer, "/events?heartbeat=true", "").await;
    let cursor = watching.event().await.cursor.to_string();
    let future = format!("/events?after={}-9", cursor.split_once('-').unwrap().0);
    let received = soon(caller.call("GET", &future)).await;
    assert_eq!(received.status, 400);
    assert!(received.text().contains("has not happened yet"), "{}", received.text());
    assert_eq!(soon(caller.call("POST", "/events")).await.status, 404);
    assert_eq!(soon(caller.call("GET", "/version")).await.status, 200);
}

#[tokio::test]
async fn who_may_not_call_may_not_watch() {
    let users = Authentication::new([("ann".to_owned(), "secret".to_owned())]);
    let config = RestConfig { authentication: Some(users), ..RestConfig::default() };
    let peer = Peer::with(config, |builder| builder).await;
    let mut caller = peer.caller().await;
    assert_eq!(soon(caller.call("GET", "/events")).await.status, 401);
    let let_in = "Authorization: Basic YW5uOnNlY3JldA==\r\n";
    let watching = Watching::start(&peer, "/events", let_in).await;
    assert!(watching.head.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn the_end_of_the_api_or_of_the_peer_ends_the_answer_in_order() {
    for ends_peer in [false, true] {
        // Longer than we wait: it must not be what ends them.
        let config = RestConfig { shutdown_timeout: 2 * PATIENCE, ..RestConfig::default() };
        let peer = Peer::with(config, |builder| builder).await;
        let mut watching = Watching::start(&peer, "/events?heartbeat=true", "").await;
        watching.event().await;
        if ends_peer {
            soon(peer.cluster.shutdown()).await;
        } else {
            soon(peer.api.shutdown()).await;
        }
        let mut rest = String::new();
        soon(async { while watching.stream.read_line(&mut rest).await.unwrap() > 0 {} }).await;
        assert!(rest.ends_with("0\r\nX-Stream-Error: \r\n\r\n"), "{rest:?}");
    }
}

#[tokio::test]
async fn callers_that_went_away_make_room_for_others() {
    let peer = Peer::start().await;
    let mut watching = Vec::new();
    for _ in 0..ipfs_cluster::cluster::WATCHERS_MAX {
        watching.push(Watching::start(&peer, "/events?kind=alert", "").await);
    }
    let mut caller = peer.caller().await;
    assert_eq!(soon(caller.call("GET", "/events")).await.status, 503);
    // Nothing is ever sent to them, so only their silence tells.
    drop(watching);
    soon(async {
        loop {
            let again = Watching::start(&peer, "/events", "").await;
            if again.head.starts_with("HTTP/1.1 200") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[cfg(feature = "client")]
#[tokio::test]
async fn a_client_goes_on_over_an_interruption_without_loss_or_doubles() {
    use futures::StreamExt as _;
    use ipfs_cluster::api::rest::RestApi;
    use ipfs_cluster::client::{Client, Watch};
    use ipfs_cluster::cluster::WatchQuery;
    use ipfs_cluster::types::EventKinds;

    let peer = Peer::start().await;
    let kinds = EventKinds::OF_CIDS;
    let all = peer.cluster.watch(WatchQuery { kinds, ..WatchQuery::default() }).unwrap();
    let client = Client::builder().host(peer.address().to_string()).build().unwrap();
    let mut events = client.watch(&Watch { kinds: Some(kinds), ..Watch::default() });
    let (tell, mut told) = tokio::sync::mpsc::channel(64);
    let reader = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if tell.send(event.unwrap()).await.is_err() {
                return;
            }
        }
    });
    // It may begin later than we do; a marker is pinned until it is seen.
    let mut markers = 0;
    let first = loop {
        pin(&peer, &format!("marker {markers}")).await;
        markers += 1;
        match tokio::time::timeout(Duration::from_millis(50), told.recv()).await {
            Ok(event) => break event.unwrap(),
            Err(_) => assert!(markers < 2_000, "the watch does not begin"),
        }
    };
    peer.api.shutdown().await;
    let meanwhile = pin(&peer, "meanwhile").await;
    let config = RestConfig::default()
        .listen([format!("/ip4/127.0.0.1/tcp/{}", peer.address().port()).parse().unwrap()]);
    let _api = soon(async {
        loop {
            match RestApi::bind(config.clone(), peer.cluster.clone()).await {
                Ok(api) => return api,
                // Its connections may take a moment to be gone.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    let last = pin(&peer, "last").await;
    let is_end = |event: &Event| matches!(&event.what, Happening::Status(info) if info.cid == last && info.status.status.as_str() == "pinned");
    let mut received = vec![first];
    while !is_end(received.last().unwrap()) {
        received.push(soon(told.recv()).await.unwrap());
    }
    let mut expected = Vec::new();
    let mut all = all.skip_while(|event| std::future::ready(event.cursor != received[0].cursor));
    while expected.last().is_none_or(|event| !is_end(event)) {
        expected.push(soon(all.next()).await.unwrap());
    }
    let cursors = |events: &[Event]| events.iter().map(|event| event.cursor.to_string()).collect::<Vec<_>>();
    assert_eq!(cursors(&received), cursors(&expected));
    assert!(received.iter().any(|event| event.what.cid() == Some(&meanwhile)));
    reader.abort();
}
