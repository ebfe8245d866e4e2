//! The client against scripted servers: what crosses a real connection, byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::error::{Error, ErrorKind};
use crate::types::{PinOptions, PinTypeFilter, StatusFilter, TrackerStatus, parse_cid};

const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
/// Nobody listens here. A port that was free a moment ago may be another test's by now.
const NOBODY: &str = "127.0.0.1:1";
/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers connections with scripts, one each, in order, and tells what was asked.
struct Server {
    host: String,
    asked: mpsc::Receiver<String>,
}

impl Server {
    fn scripted(scripts: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (tell, asked) = mpsc::channel();
        std::thread::spawn(move || {
            for script in scripts {
                let (mut connection, _) = listener.accept().unwrap();
                let _ = tell.send(read_head(&mut connection));
                let _ = connection.write_all(&script);
            }
        });
        Self { host, asked }
    }

    fn answering(status: &str, body: &str) -> Self {
        Self::scripted(vec![answer(status, body)])
    }

    fn client(&self) -> Client {
        Client::builder().host(&self.host).timeout(PATIENCE).build().unwrap()
    }

    fn next_request(&self) -> String {
        self.asked.recv_timeout(PATIENCE).unwrap()
    }
}

fn read_head(connection: &mut TcpStream) -> String {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

fn chunked(chunks: &[&str], end: &str) -> Vec<u8> {
    let mut script =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Stream-Error\r\n\r\n".to_vec();
    for chunk in chunks {
        script.extend_from_slice(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
    }
    script.extend_from_slice(end.as_bytes());
    script
}

const END: &str = "0\r\nX-Stream-Error: \r\n\r\n";

async fn numbers(script: Vec<u8>) -> (Vec<u64>, Option<Error>) {
    let server = Server::scripted(vec![script]);
    let mut stream = server.client().stream::<u64>([Request::peers()]);
    let mut items = Vec::new();
    loop {
        match stream.next().await {
            Some(Ok(item)) => items.push(item),
            Some(Err(error)) => {
                assert!(stream.next().await.is_none(), "a stream ends after its first error");
                return (items, Some(error));
            }
            None => return (items, None),
        }
    }
}

#[tokio::test]
async fn a_listing_is_read_whole_however_it_is_chunked() {
    for chunks in [&["1\n2\n3\n"][..], &["1\n", "2\n", "3\n"], &["1", "\n", "\n\n2\n3"], &[]] {
        let (items, error) = numbers(chunked(chunks, END)).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(items.len(), if chunks.is_empty() { 0 } else { 3 });
    }
}

#[tokio::test]
async fn errors_in_the_trailer_end_a_listing_as_an_api_error() {
    let end = "0\r\nX-Stream-Error: first\r\nX-Stream-Error: \r\nX-Stream-Error: second\r\n\r\n";
    let (items, error) = numbers(chunked(&["1\n"], end)).await;
    assert_eq!(items, [1]);
    let refusal = ApiError::of(&error.unwrap()).cloned().unwrap();
    assert_eq!(refusal, ApiError { code: 500, message: "first; second".into() });
}

#[tokio::test]
async fn a_listing_that_breaks_off_is_an_error_after_its_whole_lines() {
    let (items, error) = numbers(chunked(&["1\n2\n3"], "")).await;
    let error = error.unwrap();
    assert_eq!((items, error.kind()), (vec![1, 2], ErrorKind::Unavailable));
    assert!(error.to_string().contains("/peers\": the answer broke off: "), "{error}");
    assert!(ApiError::of(&error).is_none());
}

#[tokio::test]
async fn a_line_that_is_no_item_is_named_by_number() {
    for (body, number) in [("1\ntwo\n", 2), ("1\n2\n{\"a\":", 3)] {
        let (_, error) = numbers(chunked(&[body], END)).await;
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&format!("line {number} is not what was expected")), "{error}");
    }
}

#[tokio::test]
async fn a_listing_must_be_answered_with_200_or_204() {
    let (items, error) = numbers(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    assert!(items.is_empty() && error.is_none());
    let (_, error) = numbers(answer("202 Accepted", "1\n")).await;
    let refusal = ApiError::of(&error.unwrap()).cloned().unwrap();
    assert_eq!(
        refusal,
        ApiError { code: 202, message: "expected streaming response with code 200/204".into() }
    );
    let (_, error) =
        numbers(answer("500 Internal Server Error", r#"{"code":500,"message":"no ipfs"}"#)).await;
    assert_eq!(error.unwrap().to_string(), "no ipfs");
}

#[tokio::test]
async fn nothing_is_sent_before_a_listing_is_polled() {
    let server = Server::scripted(vec![chunked(&["1\n"], END)]);
    let stream = server.client().stream::<u64>([Request::peers()]);
    assert!(server.asked.try_recv().is_err());
    assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap(), [1]);
    assert!(server.next_request().starts_with("GET /peers HTTP/1.1\r\n"));
}

#[tokio::test]
async fn many_cids_are_asked_for_in_portions_that_read_as_one_listing() {
    let cid = parse_cid(CID).unwrap();
    let cids = vec![cid; 60];
    let line = format!("{{\"cid\":\"{CID}\",\"peer_map\":{{}}}}\n");
    let requests = Request::status_cids(&cids, false).len();
    assert!(requests > 1);
    let server = Server::scripted(vec![answer("200 OK", &line.repeat(3)); requests]);
    let infos: Vec<_> = server.client().status_cids(&cids, false).try_collect().await.unwrap();
    assert_eq!(infos.len(), 3 * requests);
}

#[tokio::test]
async fn the_next_host_is_asked_only_when_no_answer_came() {
    let closed = NOBODY.to_owned();
    let refusing = Server::answering("404 Not Found", r#"{"code":404,"message":"not found"}"#);
    let good = Server::answering("200 OK", r#"{"version":"1.1.6"}"#);

    let client = Client::builder().host(&closed).host(&good.host).host(&refusing.host).build().unwrap();
    assert_eq!(client.version().await.unwrap().version, "1.1.6");

    // A connection that is closed without an answer counts as none.
    let mute = Server::scripted(vec![Vec::new()]);
    let client = Client::builder().host(&mute.host).host(&refusing.host).host(&good.host).build().unwrap();
    let error = client.version().await.unwrap_err();
    assert_eq!(ApiError::of(&error).map(|refusal| refusal.code), Some(404));

    // Each host is tried once, and the last one's error is told.
    let client = Client::builder().host(&good.host).host(&closed).build().unwrap();
    let error = client.version().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.to_string(),
        format!("Get \"http://{closed}/version\": dial tcp {closed}: connect: connection refused")
    );
}

#[tokio::test]
async fn a_host_that_does_not_answer_in_time_is_a_timeout() {
    // The listener accepts in its backlog and never reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let client = Client::builder().host(&host).timeout(Duration::from_millis(50)).build().unwrap();
    let error = client.id().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().ends_with("(no answer within the timeout of 50ms)"), "{error}");
}

#[tokio::test]
async fn credentials_travel_with_every_call() {
    let server = Server::answering("204 No Content", "");
    let client = Client::builder().host(&server.host).basic_auth("user", "pass:word").build().unwrap();
    client.health().await.unwrap();
    let head = server.next_request().to_lowercase();
    assert!(head.contains("\r\nauthorization: basic dxnlcjpwyxnzondvcmq=\r\n"), "{head}");
    assert!(!format!("{client:?}").contains("pass:word"));
}

#[tokio::test]
async fn a_token_travels_with_every_call_and_never_into_a_log() {
    let server = Server::answering("200 OK", "{\"token\":\"new\"}\n");
    let builder = Client::builder().host(&server.host).basic_auth("user", "password").bearer_token("tok.en");
    assert!(!format!("{builder:?}").contains("tok.en"));
    assert_eq!(builder.build().unwrap().token().await.unwrap(), "new");
    let head = server.next_request();
    assert!(head.starts_with("POST /token HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("\r\nauthorization: bearer tok.en\r\n"), "{head}");
    for (builder, secret) in [
        (Client::builder().bearer_token("hunter2\n"), "hunter2"),
        (Client::builder().basic_auth("us:er", "hunter2"), "hunter2"),
    ] {
        assert!(!format!("{builder:?}").contains(secret));
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!error.to_string().contains(secret), "{error}");
    }
}

#[tokio::test]
async fn a_post_without_a_body_says_so_and_reads_the_pin_back() {
    let body = format!("{{\"cid\":\"{CID}\",\"name\":\"n\",\"metadata\":{{}},\"origins\":null}}\n");
    let server = Server::answering("200 OK", &body);
    let options = PinOptions { name: "n".into(), ..Default::default() };
    let pin = server.client().pin_update(&parse_cid(CID).unwrap(), parse_cid(CID).unwrap(), &options).await;
    assert_eq!(pin.unwrap().options.name, "n");
    let head = server.next_request().to_lowercase();
    assert!(head.starts_with("post /pins/ipfs/qm") && head.contains("&pin-update=qm"), "{head}");
    assert!(head.contains("\r\ncontent-length: 0\r\n"), "{head}");
}

#[tokio::test]
async fn an_answer_that_is_no_document_is_an_api_error_with_its_status() {
    let server = Server::answering("200 OK", "<html>");
    let error = server.client().id().await.unwrap_err();
    let refusal = ApiError::of(&error).unwrap();
    assert_eq!(refusal.code, 200);
    assert!(refusal.message.contains("/id\": the answer is not what was expected: "), "{refusal}");
}

#[tokio::test]
async fn the_text_of_an_answer_can_be_had_as_it_came() {
    let body = "{\"b\": 1.50,\"a\":null}";
    let server = Server::answering("200 OK", body);
    let raw: Box<RawValue> = server.client().fetch(&Request::id()).await.unwrap();
    assert_eq!(raw.get(), body);
}

#[tokio::test]
async fn null_reads_as_an_empty_list() {
    let server = Server::scripted(vec![answer("200 OK", "null"); 4]);
    let client = server.client();
    assert!(client.metric_names().await.unwrap().is_empty());
    assert!(client.metrics("ping").await.unwrap().is_empty());
    assert!(client.alerts().await.unwrap().is_empty());
    assert!(client.bandwidth().await.unwrap().is_empty());
    assert_eq!(client.metrics("..").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_sent() {
    let https = || Client::builder().host("localhost").https(true);
    for pem in ["x", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        let error = https().certificate_authorities(pem).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("certificate authorities"), "{error}");
    }
    assert!(https().no_check_certificate(true).build().is_ok());
    let many = (0..=HOSTS_MAX).fold(Client::builder(), |builder, _| builder.host("localhost"));
    assert!(many.build().unwrap_err().to_string().contains("at most 64"));
}

/// Every typed answer of the reference that a method of the client reads, from its recorded answers.
#[tokio::test]
async fn answers_recorded_from_the_reference_are_understood() {
    let recorded: Value = serde_json::from_str(include_str!("testdata/answers.json")).unwrap();
    let body = |name: &str| recorded["answers"][name].as_str().unwrap_or_else(|| panic!("{name}")).to_owned();
    let cid = parse_cid(CID).unwrap();
    let at = |name: &str| Server::answering("200 OK", &body(name)).client();

    for name in ["id", "ipfsdown-id"] {
        at(name).id().await.unwrap();
    }
    let peers: Vec<_> = at("dead-peers").peers().try_collect().await.unwrap();
    assert!(peers[0].error.is_empty() && peers[1].error.contains("all dials failed"));
    assert_eq!(at("allocations").allocations(PinTypeFilter::ALL).count().await, 10);
    assert!(at("pin-ok").pin(cid, &PinOptions::default()).await.unwrap().is_everywhere());
    let down = at("ipfsdown-status").status(&cid, false).await.unwrap();
    assert!(down.matches(TrackerStatus::ClusterError.into()) && down.created.is_none());
    let all: Vec<_> = at("status-all").status_all(StatusFilter::ALL, false).try_collect().await.unwrap();
    assert!(all.len() > 5);
    assert!(
        at("dead-gc").repo_gc(false).await.unwrap().peer_map.values().any(|gc| gc.error.contains("dial"))
    );
    assert_eq!(at("dead-graph").graph().await.unwrap().cluster_links.len(), 2);
    assert_eq!(at("alerts").alerts().await.unwrap().len(), 2);
    assert_eq!(at("metrics-freespace").metrics("freespace").await.unwrap()[0].name, "freespace");
}
