//! Servers that are no IPFS daemon, or one gone mad: what is sent to them, and that nothing they say is believed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use ipfs_cluster::ErrorKind;
use ipfs_cluster::ipfs_connector::{Availability, IpfsConnector, KuboConfig, KuboConnector};
use ipfs_cluster::types::{Block, Cid, Pin, PinMode, PinOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

/// Time in which every call must have given up, whatever it is told.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a server does after it has read a request.
#[derive(Clone, Debug)]
enum Reply {
    /// Writes this and closes.
    Close(Vec<u8>),
    /// Writes this and waits.
    Hang(Vec<u8>),
    /// Writes this, then the other thing for ever.
    Endless(Vec<u8>, Vec<u8>),
}

fn ok(body: &str) -> Reply {
    Reply::Close(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

fn status(line: &str, body: &str) -> Reply {
    Reply::Close(format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Stream-Error\r\n\r\n";

/// A whole answer in chunks, which says at its end that it failed, as Kubo does.
fn failed_at_end(body: &str, message: &str) -> Reply {
    let text = format!("{CHUNKED}{:x}\r\n{body}\r\n0\r\nX-Stream-Error: {message}\r\n\r\n", body.len());
    Reply::Close(text.into_bytes())
}

type Requests = Arc<Mutex<Vec<String>>>;

/// Reads one request with its body, remembers its path, and replies.
async fn serve_one(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    requests: Requests,
    reply: impl Fn(&str) -> Reply,
) {
    let mut text = Vec::new();
    let mut buffer = [0; 65_536];
    let body_end = loop {
        let Ok(read @ 1..) = connection.read(&mut buffer).await else { return };
        text.extend_from_slice(&buffer[..read]);
        let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let chunked = text[..head].windows(7).any(|window| window.eq_ignore_ascii_case(b"chunked"));
        if !chunked || text.ends_with(b"0\r\n\r\n") {
            break head;
        }
    };
    let head = String::from_utf8_lossy(&text[..body_end]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches("/api/v0/").to_owned();
    requests.lock().unwrap().push(path.clone());
    match reply(&path) {
        Reply::Close(bytes) => {
            let _ = connection.write_all(&bytes).await;
        }
        Reply::Hang(bytes) => {
            let _ = connection.write_all(&bytes).await;
            // Until the other side has enough of it.
            let _ = connection.read(&mut buffer).await;
        }
        Reply::Endless(bytes, more) => {
            let mut sent = connection.write_all(&bytes).await;
            while sent.is_ok() {
                sent = connection.write_all(&more).await;
            }
        }
    }
}

struct Server {
    address: String,
    requests: Requests,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(reply: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let task = tokio::spawn({
        let requests = Arc::clone(&requests);
        async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve_one(connection, Arc::clone(&requests), reply.clone()));
            }
        }
    });
    Server { address, requests, task }
}

fn connect_for(address: &str, timeout: Duration) -> KuboConnector {
    KuboConnector::with_config(KuboConfig {
        pin_timeout: timeout,
        unpin_timeout: timeout,
        ipfs_request_timeout: timeout,
        repogc_timeout: timeout,
        ..KuboConfig::at(address.parse().unwrap())
    })
    .unwrap()
}

/// To one that answers.
fn connect(address: &str) -> KuboConnector {
    connect_for(address, PATIENCE)
}

/// To one that does not.
fn connect_in_a_hurry(address: &str) -> KuboConnector {
    connect_for(address, Duration::from_millis(500))
}

/// To one of which some answers come, and others do not.
fn connect_for_some(address: &str) -> KuboConnector {
    connect_for(address, Duration::from_secs(3))
}

fn cid() -> Cid {
    Block::raw("content").cid
}

fn pin() -> Pin {
    Pin::new(cid(), PinOptions::default())
}

/// Every call, and what it gave when that is not an error.
async fn everything_believed(ipfs: &KuboConnector) -> Vec<String> {
    let mut believed = Vec::new();
    let mut note = |call: &str, answer: Result<String, ipfs_cluster::Error>| {
        if let Ok(answer) = answer {
            believed.push(format!("{call}: {answer}"));
        }
    };
    fn text<T: std::fmt::Debug>(value: T) -> String {
        format!("{value:?}")
    }
    note("id", ipfs.id().await.map(text));
    note("pin", ipfs.pin(&pin()).await.map(text));
    note("unpin", ipfs.unpin(&cid()).await.map(text));
    note("is_pinned", ipfs.is_pinned(&cid(), PinMode::Recursive).await.map(text));
    note("repo_stat", ipfs.repo_stat().await.map(text));
    note("resolve", ipfs.resolve(&format!("/ipfs/{}/a", cid())).await.map(text));
    note("get_block", ipfs.get_block(&cid()).await.map(text));
    let blocks = stream::iter([Ok(Block::raw("content"))]).boxed();
    note("put_blocks", ipfs.put_blocks(blocks).await.map(text));
    note("hold", ipfs.hold(Block::raw("content")).await.map(text));
    note("release", ipfs.release(&[cid()]).await.map(text));
    let listed: Vec<_> = ipfs.list_pins(PinMode::Recursive).collect().await;
    note("list_pins", listed.into_iter().collect::<Result<Vec<_>, _>>().map(text));
    let removed: Vec<_> = ipfs.repo_gc().collect().await;
    note("repo_gc", removed.into_iter().collect::<Result<Vec<_>, _>>().map(text));
    note("swarm_peers", ipfs.swarm_peers().await.map(text));
    note("swarm_connect", ipfs.swarm_connect(&"/ip4/127.0.0.1/tcp/1".parse().unwrap()).await.map(text));
    believed
}

#[tokio::test]
async fn nothing_is_believed_of_a_server_that_is_no_daemon() {
    let html = "<html><body>It works!</body></html>";
    let spaces = vec![b' '; 65_536];
    let cut = |body: &str| {
        Reply::Close(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{body}").into_bytes())
    };
    let cases: Vec<(&str, Reply)> = vec![
        ("closes at once", Reply::Close(Vec::new())),
        ("speaks another protocol", Reply::Close(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())),
        ("hangs", Reply::Hang(Vec::new())),
        ("hangs in the head", Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec())),
        ("hangs after the head", Reply::Hang(CHUNKED.as_bytes().to_vec())),
        ("an endless head", Reply::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 65_536])),
        ("a web page", ok(html)),
        ("not found", status("404 Not Found", html)),
        ("an empty 500", status("500 Internal Server Error", "")),
        ("a bad gateway", status("502 Bad Gateway", html)),
        ("a redirect", status("302 Found\r\nLocation: http://127.0.0.1:1/", "")),
        ("no content", status("204 No Content", "")),
        ("a list", ok("[1,2,3]\n")),
        ("null", ok("null\n")),
        ("a number", ok("5\n")),
        ("not UTF-8", Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\n\n".to_vec())),
        (
            "wrong types",
            ok(
                "{\"ID\":5,\"Pins\":7,\"Progress\":\"x\",\"Cid\":[],\"Type\":{},\"Key\":1,\"Peers\":3,\"Path\":9,\"RepoSize\":\"big\"}\n",
            ),
        ),
        (
            "another CID",
            ok(
                "{\"Cid\":\"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn\",\"Type\":\"indirect\",\"Pins\":5,\"Key\":\"x\",\"Path\":\"/ipns/x\",\"Peers\":5}\n",
            ),
        ),
        ("half an answer", cut("{\"ID\":")),
        ("a good line and a broken connection", cut(&format!("{{\"Pins\":[\"{}\"]}}\n", cid()))),
        ("half a chunk", Reply::Close(format!("{CHUNKED}ff\r\n{{\"Cid\"").into_bytes())),
        ("bad chunks", Reply::Close(format!("{CHUNKED}zz\r\n{{}}\r\n").into_bytes())),
        (
            "an endless line",
            Reply::Endless(
                CHUNKED.as_bytes().to_vec(),
                format!("4\r\n{}\r\n", "aaaa").repeat(5_000).into_bytes(),
            ),
        ),
        (
            "a huge answer",
            Reply::Endless(
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
                spaces.clone(),
            ),
        ),
        (
            "a refusal without end",
            Reply::Endless(b"HTTP/1.1 500 No\r\nContent-Length: 99999999999\r\n\r\n".to_vec(), spaces),
        ),
    ];
    let cases = cases.into_iter().map(|(name, reply)| async move {
        let server = serve(move |_| reply.clone()).await;
        let ipfs = connect_in_a_hurry(&server.address);
        let Ok(mut believed) = tokio::time::timeout(PATIENCE, everything_believed(&ipfs)).await else {
            panic!("{name}: hangs")
        };
        // Its answer has no content that could be wrong.
        believed.retain(|call| !call.starts_with("swarm_connect: "));
        assert!(believed.is_empty(), "{name}: {believed:#?}");
        tokio::time::timeout(PATIENCE, ipfs.shutdown()).await.unwrap().unwrap();
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn a_failure_told_at_the_end_of_an_answer_counts() {
    let confirmed = format!("{{\"Pins\":[\"{}\"]}}\n", cid());
    let listed = format!("{{\"Cid\":\"{}\",\"Type\":\"recursive\"}}\n", cid());
    let server = serve(move |path| {
        if path.contains("pin/ls?stream=true&arg") {
            status(
                "500 Internal Server Error",
                "{\"Message\":\"path 'x' is not pinned\",\"Code\":0,\"Type\":\"error\"}",
            )
        } else if path.starts_with("pin/ls") {
            failed_at_end(&listed, "the datastore broke")
        } else {
            failed_at_end(&confirmed, "pin: the datastore broke")
        }
    })
    .await;
    let ipfs = connect(&server.address);
    let error = ipfs.pin(&pin()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
    assert!(error.message().ends_with("Message: pin: the datastore broke"), "{error}");
    let pages: Vec<_> = ipfs.list_pins(PinMode::Recursive).collect().await;
    let error = pages.last().unwrap().as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
    assert!(error.message().ends_with("Message: the datastore broke"), "{error}");
}

#[tokio::test]
async fn a_listing_whose_end_cannot_be_told_is_an_error() {
    let line = format!("{{\"Cid\":\"{}\",\"Type\":\"recursive\"}}\n", cid());
    let reply = Reply::Close(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{line}").into_bytes());
    let server = serve(move |_| reply.clone()).await;
    let pages: Vec<_> = connect(&server.address).list_pins(PinMode::Recursive).collect().await;
    assert_eq!(pages.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn ready_gives_up_only_on_what_can_never_be_a_daemon() {
    let html = "<html></html>";
    for reply in
        [ok(html), ok("{}"), status("404 Not Found", html), status("403 Forbidden", "403 - Forbidden")]
    {
        let server = serve(move |_| reply.clone()).await;
        let ipfs = connect(&server.address);
        tokio::time::timeout(PATIENCE, ipfs.ready()).await.unwrap().unwrap_err();
    }
    for reply in [status("502 Bad Gateway", html), status("500 Oh", html), Reply::Close(Vec::new())] {
        let server = serve(move |_| reply.clone()).await;
        let ipfs = connect(&server.address);
        let two_attempts = Duration::from_millis(1_200);
        assert!(tokio::time::timeout(two_attempts, ipfs.ready()).await.is_err());
    }
}

/// Kubo as far as one test needs it.
fn agreeable(path: &str) -> Reply {
    let not_pinned = "{\"Message\":\"path 'x' is not pinned\",\"Code\":0,\"Type\":\"error\"}\n";
    let old = Block::raw("old").cid;
    let command = path.split('?').next().unwrap_or_default();
    match command {
        "pin/ls" if path.contains(&old.to_string()) => {
            ok(&format!("{{\"Cid\":\"{old}\",\"Type\":\"recursive\"}}\n"))
        }
        "pin/ls" if path.contains("arg=") => status("500 Internal Server Error", not_pinned),
        "pin/ls" => ok(""),
        "pin/add" | "pin/rm" | "pin/update" => {
            ok(&format!("{{\"Progress\":1}}\n{{\"Pins\":[\"{}\"]}}\n", cid()))
                .only_last_line_unless(command == "pin/add")
        }
        "block/put" => ok(&format!("{{\"Key\":\"{}\",\"Size\":7}}\n", cid())),
        "block/get" => ok("content"),
        "dag/import" => ok("{\"Stats\":{\"BlockCount\":1,\"BlockBytesCount\":7}}\n"),
        "repo/stat" => ok("{\"RepoSize\":5,\"StorageMax\":7,\"NumObjects\":0}\n"),
        "repo/gc" => ok(&format!("{{\"Key\":{{\"/\":\"{}\"}}}}\n{{\"Error\":\"could not\"}}\n", cid())),
        "resolve" => ok(&format!("{{\"Path\":\"/ipfs/{}\"}}\n", cid())),
        "swarm/peers" => ok("{\"Peers\":null}\n"),
        _ => ok(
            "{\"ID\":\"12D3KooWApga4bncThrVGQKb7k52uMR3amfGvaAZ8dm6jDN85nAj\",\"Addresses\":[\"/ip4/1.2.3.4/tcp/4001\",\"nonsense\"]}\n",
        ),
    }
}

impl Reply {
    fn only_last_line_unless(self, keep: bool) -> Self {
        if keep { self } else { ok(&format!("{{\"Pins\":[\"{}\"]}}\n", cid())) }
    }
}

#[tokio::test]
async fn requests_are_those_of_the_reference() {
    let server = serve(agreeable).await;
    let ipfs = connect(&server.address);
    let cid = cid();
    let sent = || std::mem::take(&mut *server.requests.lock().unwrap());

    let id = ipfs.id().await.unwrap();
    assert_eq!(id.addresses.unwrap().len(), 1);
    assert_eq!(sent(), ["id"]);

    let mut pin = pin();
    ipfs.pin(&pin).await.unwrap();
    assert_eq!(
        sent(),
        [
            format!("pin/ls?stream=true&arg={cid}&type=recursive"),
            format!("pin/add?arg={cid}&recursive=true&progress=true"),
        ]
    );
    pin.max_depth = 0;
    ipfs.pin(&pin).await.unwrap();
    assert_eq!(
        sent(),
        [
            format!("pin/ls?stream=true&arg={cid}&type=direct"),
            format!("pin/add?arg={cid}&recursive=false&progress=true"),
        ]
    );
    pin.max_depth = 2;
    ipfs.pin(&pin).await.unwrap();
    assert_eq!(sent()[1], format!("pin/add?arg={cid}&max-depth=2&recursive=true&progress=true"));

    let old = Block::raw("old").cid;
    pin.max_depth = -1;
    pin.options.pin_update = Some(old);
    ipfs.pin(&pin).await.unwrap();
    assert_eq!(
        sent()[1..],
        [
            format!("pin/ls?stream=true&arg={old}&type=recursive"),
            format!("pin/update?arg={old}&arg={cid}&unpin=false"),
        ]
    );
    ipfs.unpin(&cid).await.unwrap();
    assert_eq!(sent(), [format!("pin/rm?arg={cid}")]);
    assert_eq!(ipfs.list_pins(PinMode::Direct).count().await, 0);
    assert_eq!(sent(), ["pin/ls?stream=true&type=direct"]);

    assert_eq!(ipfs.repo_stat().await.unwrap().free_bytes(), 2);
    assert_eq!(ipfs.get_block(&cid).await.unwrap().data, "content");
    ipfs.put_blocks(stream::iter([Ok(Block::raw("content"))]).boxed()).await.unwrap();
    ipfs.hold(Block::raw("content")).await.unwrap();
    ipfs.release(&[cid]).await.unwrap();
    let removed: Vec<_> = ipfs.repo_gc().map(Result::unwrap).collect().await;
    assert_eq!((removed[0].key, removed[1].error.as_str()), (Some(cid), "could not"));
    assert_eq!(ipfs.resolve("/ipns/example.org/a b").await.unwrap(), cid);
    assert_eq!(ipfs.resolve(&cid.to_string()).await.unwrap(), cid);
    assert!(ipfs.swarm_peers().await.unwrap().is_empty());
    ipfs.swarm_connect(&"/ip4/127.0.0.1/tcp/1".parse().unwrap()).await.unwrap();
    assert_eq!(
        sent(),
        [
            "repo/stat?size-only=true",
            &format!("block/get?arg={cid}"),
            "dag/import?allow-big-block=true&fast-provide-root=false&pin-roots=false&stats=true",
            "block/put?allow-big-block=true&cid-codec=raw&mhlen=32&mhtype=sha2-256&pin=true",
            &format!("pin/rm?arg={cid}"),
            "repo/gc?stream-errors=true",
            "resolve?arg=%2Fipns%2Fexample.org%2Fa+b",
            "swarm/peers",
            "swarm/connect?arg=%2Fip4%2F127.0.0.1%2Ftcp%2F1",
        ]
    );
}

#[tokio::test]
async fn at_most_ten_origins_are_connected_to_while_a_pin_runs() {
    let server = serve(|path| {
        if path.starts_with("pin/add") {
            // Until it is given up, which is long enough for the origins to be told.
            Reply::Hang(CHUNKED.as_bytes().to_vec())
        } else if path.starts_with("swarm/connect") {
            status("500 Internal Server Error", "{\"Message\":\"no\"}")
        } else {
            agreeable(path)
        }
    })
    .await;
    let ipfs = connect_for_some(&server.address);
    let mut pin = pin();
    pin.options.origins =
        (1..=12).map(|port| format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()).collect();
    assert_eq!(ipfs.pin(&pin).await.unwrap_err().kind(), ErrorKind::Timeout);
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests.iter().filter(|path| path.starts_with("swarm/connect")).count(), 10);
}

#[tokio::test]
async fn an_update_that_does_not_end_becomes_a_plain_pin() {
    let server =
        serve(|path| if path.starts_with("pin/update") { Reply::Hang(Vec::new()) } else { agreeable(path) })
            .await;
    let mut pin = pin();
    pin.options.pin_update = Some(Block::raw("old").cid);
    connect_for_some(&server.address).pin(&pin).await.unwrap();
    assert!(server.requests.lock().unwrap().last().unwrap().starts_with("pin/add"));
}

#[tokio::test]
async fn a_daemon_behind_a_unix_socket_is_spoken_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ipfs.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let task = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve_one(connection, Requests::default(), agreeable));
        }
    });
    let ipfs = connect(&format!("/unix{}", path.display()));
    assert!(ipfs.id().await.unwrap().id.is_some());
    ipfs.pin(&pin()).await.unwrap();
    task.abort();
}

#[tokio::test]
async fn a_pin_that_is_not_confirmed_is_not_believed() {
    let other = Block::raw("other").cid;
    for body in
        ["", "{\"Progress\":5}\n", "{}\n", &format!("{{\"Pins\":[\"{other}\"]}}\n"), "{\"Pins\":[]}\n"]
    {
        let body = body.to_owned();
        let server =
            serve(move |path| if path.starts_with("pin/add") { ok(&body) } else { agreeable(path) }).await;
        let error = connect(&server.address).pin(&pin()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }
}

#[tokio::test]
async fn a_daemon_that_is_down_is_asked_until_it_answers_and_then_no_more() {
    let broken = Arc::new(AtomicBool::new(true));
    let server = serve({
        let broken = Arc::clone(&broken);
        move |path| if broken.load(Ordering::SeqCst) { Reply::Close(Vec::new()) } else { agreeable(path) }
    })
    .await;
    let ipfs = connect(&server.address);
    let mut availability = ipfs.availability();
    let mut next = async || tokio::time::timeout(PATIENCE, availability.next()).await.unwrap();
    assert!(matches!(next().await, Some(Availability::Down(_))));
    let asked = || server.requests.lock().unwrap().len();
    let before = asked();
    // Each question is sent twice: a connection that breaks may have been one that was kept too long.
    tokio::time::timeout(PATIENCE, async {
        while asked() < before + 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    broken.store(false, Ordering::SeqCst);
    assert!(matches!(next().await, Some(Availability::Up)));
    let answered = asked();
    let more_than_one_question = Duration::from_millis(2_200);
    tokio::time::sleep(more_than_one_question).await;
    assert_eq!(asked(), answered);
}

#[tokio::test]
async fn a_connector_that_is_dropped_asks_no_more() {
    let server = serve(|_| Reply::Close(Vec::new())).await;
    let ipfs = connect(&server.address);
    ipfs.id().await.unwrap_err();
    drop(ipfs);
    let before = server.requests.lock().unwrap().len();
    let more_than_one_question = Duration::from_millis(2_200);
    tokio::time::sleep(more_than_one_question).await;
    // One question may have been on its way.
    assert!(server.requests.lock().unwrap().len() <= before + 2);
}
