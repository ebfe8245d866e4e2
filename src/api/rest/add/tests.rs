use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::adder::Content as _;
use crate::api::rest::caller::Caller;
use crate::api::rest::config::RestConfig;
use crate::api::rest::connection;
use crate::api::rest::gate::Gate;
use crate::api::rest::handlers::Api;
use crate::api::rest::io::Io;
use crate::api::rest::room::Room;
use crate::cluster::presets;
use crate::ipfs_connector::MemoryIpfs;
use crate::types::Added;

/// Reads everything and tells a line for each file, with its bytes; fails where it finds `fail` in one.
#[derive(Clone, Debug, Default)]
struct Reader {
    running: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    /// Fails before anything is read.
    at_once: bool,
    /// Tells so many lines for each file.
    chatty: Option<usize>,
    told: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Adds for Reader {
    fn check(&self, options: &AddOptions) -> Result<()> {
        // That of the cluster is tested with it.
        match &options.resume {
            Some(resume) if resume.offset > 7 => Err(Error::new(ErrorKind::Conflict, "not there")),
            _ => Ok(()),
        }
    }

    fn add(&self, mut content: Multipart, options: AddOptions) -> BoxStream<'static, Result<AddEvent>> {
        let this = self.clone();
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(Arc::clone(&self.running));
        async_stream::try_stream! {
            let _running = running;
            if this.at_once {
                Err(Error::invalid_input(format!("unrecognized chunker option: {}", options.chunker)))?;
            }
            while let Some(entry) = content.next().await? {
                let mut size = 0;
                while let Some(bytes) = content.read().await? {
                    size += bytes.len() as u64;
                    this.bytes.fetch_add(bytes.len(), Ordering::SeqCst);
                    if bytes.starts_with(b"fail") {
                        Err(Error::internal("it failed\r\nhalf-way"))?;
                    }
                }
                for _ in 0..this.chatty.unwrap_or(1) {
                    this.told.fetch_add(1, Ordering::SeqCst);
                    yield AddEvent::Line(Added { name: entry.path.clone(), size, ..Added::default() });
                }
            }
        }
        .boxed()
    }
}

struct Server {
    api: Arc<Api>,
    room: Arc<Room>,
    limits: connection::Limits,
    cluster: Cluster,
}

impl Server {
    async fn start(adds: Reader) -> Self {
        let cluster =
            Cluster::builder().preset(presets::InMemory).ipfs(MemoryIpfs::new()).start().await.unwrap();
        let config = RestConfig::default();
        let api = Api::new(cluster.clone(), config.body_limits(), Gate::plain()).adding(Arc::new(adds));
        let room = Room::new(1000, CancellationToken::new());
        Self { api: Arc::new(api), room, limits: config.limits(), cluster }
    }

    /// A connection, and the task that serves it.
    async fn connect(&self) -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let place = self.room.enter(self.room.free().await);
        let (api, limits) = (Arc::clone(&self.api), self.limits);
        let served = tokio::spawn(async move {
            connection::serve(Io::Peer(Box::new(theirs)), Caller::Unknown, api, limits, &place).await;
        });
        (ours, served)
    }

    /// Sends a request and gives everything that comes back.
    async fn call(&self, request: &str) -> String {
        let (mut stream, _) = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }
}

/// Everything until the other side closes.
async fn rest(stream: &mut DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let dates = text.lines().filter(|line| line.starts_with("Date: ")).count();
    assert!(dates <= 1, "{text}");
    text.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect::<Vec<_>>().join("\r\n")
}

/// Reads until this was there.
async fn until(stream: &mut DuplexStream, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "{text}");
        text.push(byte[0].into());
    }
    text
}

const FORM: &str = "Content-Type: multipart/form-data; boundary=B";

fn file(name: &str, bytes: &str) -> String {
    format!("--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{bytes}\r\n")
}

fn request(query: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /add{query} HTTP/1.1\r\nHost: x\r\n{FORM}\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn head(query: &str, more: &str) -> String {
    format!("POST /add{query} HTTP/1.1\r\nHost: x\r\n{FORM}\r\n{more}Transfer-Encoding: chunked\r\n\r\n")
}

fn chunk(bytes: &str) -> String {
    format!("{:x}\r\n{bytes}\r\n", bytes.len())
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nCache-Control: no-cache\r\nX-Chunked-Output: 1\r\nVary: Origin\r\n\
                           Content-Type: application/json\r\nTrailer: X-Stream-Error\r\nConnection: close\r\n\
                           Transfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn an_upload_that_cannot_go_on_is_refused_before_its_body_is_read() {
    let server = Server::start(Reader::default()).await;
    for (query, status, text) in [
        ("?resume=k&offset=8", 409, "not there"),
        ("?resume=k&offset=x", 400, "parameter offset invalid"),
        ("?resume=k&resume=l", 400, "parameter resume invalid"),
        ("?resume=a/b", 400, "invalid resume key"),
        ("?offset=1", 400, "offset means nothing without resume"),
    ] {
        let (mut stream, _) = server.connect().await;
        stream.write_all(head(query, "").as_bytes()).await.unwrap();
        let answer = until(&mut stream, "\"}").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text),
            "{query}: {answer}"
        );
    }
    let answer = server.call(&request("?resume=k&offset=7", &(file("a", "x") + "--B--\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.cluster.shutdown().await;
}

#[tokio::test]
async fn lines_come_while_the_upload_goes_on() {
    let server = Server::start(Reader::default()).await;
    let (mut stream, _) = server.connect().await;
    stream.write_all((head("", "") + &chunk(&(file("a", "one") + "--B"))).as_bytes()).await.unwrap();
    let begun = until(&mut stream, "\n\r\n").await;
    let first = "{\"name\":\"a\",\"cid\":null,\"size\":3}\n";
    let begun = begun + &until(&mut stream, "\n\r\n").await;
    assert!(begun.ends_with(&chunk(first)), "{begun}");
    let more = file("b", "four");
    stream.write_all((chunk(&more[3..]) + &chunk("--B--\r\n") + "0\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(rest(&mut stream).await, chunk("{\"name\":\"b\",\"cid\":null,\"size\":4}\n") + "0\r\n\r\n");
}

#[tokio::test]
async fn success_has_no_trailer_and_failure_has_one() {
    let server = Server::start(Reader::default()).await;
    let line = |name: &str| chunk(&format!("{{\"name\":\"{name}\",\"cid\":null,\"size\":1}}\n"));
    let text = server.call(&request("", &(file("a", "x") + "--B--\r\n"))).await;
    assert_eq!(text, STREAM_HEAD.to_owned() + &line("a") + "0\r\n\r\n");
    let text = server.call(&request("", &(file("a", "x") + &file("b", "fail") + "--B--\r\n"))).await;
    let error = "X-Stream-Error: it failed  half-way\r\n\r\n";
    assert_eq!(text, STREAM_HEAD.to_owned() + &line("a") + "0\r\n" + error);
    let text = server.call(&request("", "--B--\r\n")).await;
    assert!(
        text.starts_with(STREAM_HEAD) && text.contains("X-Stream-Error: there is nothing in the upload"),
        "{text}"
    );
    let text = server.call(&request("", &file("a", "x"))).await;
    assert!(text.contains("X-Stream-Error: the upload broke off: unexpected EOF"), "{text}");
    let old = request("", &(file("a", "x") + "--B--\r\n")).replace("HTTP/1.1", "HTTP/1.0");
    let text = server.call(&old).await;
    assert!(
        text.starts_with("HTTP/1.0 200 OK\r\n")
            && text.ends_with("\r\n\r\n{\"name\":\"a\",\"cid\":null,\"size\":1}\n")
    );
}

#[tokio::test]
async fn without_a_stream_there_is_one_document() {
    let server = Server::start(Reader::default()).await;
    let text =
        server.call(&request("?stream-channels=f", &(file("a", "x") + &file("b", "") + "--B--\r\n"))).await;
    let body = "[{\"name\":\"a\",\"cid\":null,\"size\":1},{\"name\":\"b\",\"cid\":null}]\n";
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
    for header in ["Cache-Control: no-cache", "Connection: close", "Content-Type: application/json"] {
        assert!(
            text.to_lowercase().contains(&format!("\r\n{}\r\n", header.to_lowercase())),
            "{header}: {text}"
        );
    }
    assert!(!text.contains("Trailer") && !text.contains("X-Chunked"));
    let text = server.call(&request("?stream-channels=0", &(file("a", "fail") + "--B--\r\n"))).await;
    assert!(
        text.starts_with("HTTP/1.1 500 ") && text.contains("{\"code\":500,\"message\":\"it failed"),
        "{text}"
    );
}

#[tokio::test]
async fn a_caller_that_waits_for_our_word_gets_it_first() {
    let server = Server::start(Reader::default()).await;
    let (mut stream, _) = server.connect().await;
    stream.write_all(head("", "Expect: 100-continue\r\n").as_bytes()).await.unwrap();
    assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all((chunk(&(file("a", "x") + "--B--\r\n")) + "0\r\n\r\n").as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
    // What is refused is refused without it.
    let (mut stream, _) = server.connect().await;
    stream.write_all(head("?layout=x", "Expect: 100-continue\r\n").as_bytes()).await.unwrap();
    let text = until(&mut stream, "invalid\"}").await;
    assert!(text.starts_with("HTTP/1.1 400 ") && !text.contains("100 Continue"), "{text}");
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_add() {
    let reader = Reader::default();
    let server = Server::start(reader.clone()).await;
    for query in ["", "?stream-channels=false"] {
        let (mut stream, served) = server.connect().await;
        stream.write_all((head(query, "") + &chunk(&file("a", "x"))).as_bytes()).await.unwrap();
        while reader.running.load(Ordering::SeqCst) == 0 || reader.bytes.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        drop(stream);
        served.await.unwrap();
        assert_eq!(reader.running.load(Ordering::SeqCst), 0, "{query}");
        reader.bytes.store(0, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn an_upload_that_is_refused_early_is_answered_also_to_who_sends_everything_first() {
    let server = Server::start(Reader { at_once: true, ..Reader::default() }).await;
    let (mut stream, served) = server.connect().await;
    let body = file("a", &"x".repeat(3 << 20)) + "--B--\r\n";
    stream.write_all(request("?chunker=nope", &body).as_bytes()).await.unwrap();
    let text = rest(&mut stream).await;
    assert_eq!(
        text,
        STREAM_HEAD.to_owned() + "0\r\nX-Stream-Error: unrecognized chunker option: nope\r\n\r\n"
    );
    drop(stream);
    served.await.unwrap();
}

#[tokio::test]
async fn a_caller_that_reads_no_lines_is_not_read_from_for_ever() {
    let reader = Reader { chatty: Some(1000), ..Reader::default() };
    let server = Server::start(reader.clone()).await;
    let (mut stream, _) = server.connect().await;
    let body: String = (0..1000).map(|_| file("a", "x")).collect();
    stream.write_all(head("", "").as_bytes()).await.unwrap();
    let sending = async {
        loop {
            stream.write_all(chunk(&body).as_bytes()).await.unwrap();
        }
    };
    // It ends to send before that: all lines of a second would be far more.
    let told = || reader.told.load(Ordering::SeqCst);
    let still = async {
        let mut before = 1;
        while told() != before || before < 1000 {
            before = told();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        () = sending => {}
        () = still => {}
    }
    let line = "{\"name\":\"a\",\"cid\":null,\"size\":1}\n".len();
    let bytes = told() * line;
    let most = super::super::outlet::BYTES_MAX + (1 << 20);
    assert!((most / 4..most).contains(&bytes), "{bytes} bytes of lines");
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_is_waited_for_and_one_that_stands_still_is_not() {
    let server = Server::start(Reader::default()).await;
    let (mut stream, _) = server.connect().await;
    let body = file("a", &"x".repeat(20)) + "--B--\r\n";
    stream.write_all(head("", "").as_bytes()).await.unwrap();
    for byte in body.chars() {
        tokio::time::sleep(Duration::from_secs(9 * 60)).await;
        stream.write_all(chunk(&byte.to_string()).as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.ends_with("\"size\":20}\n\r\n0\r\n\r\n"));

    let (mut stream, _) = server.connect().await;
    stream.write_all((head("", "") + &chunk(&file("a", "x"))).as_bytes()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let text = rest(&mut stream).await;
    assert!(text.contains("X-Stream-Error: nothing more of the upload came within 600s"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(700));
}

#[tokio::test]
async fn only_so_many_add_at_a_time() {
    let server = Server::start(Reader::default()).await;
    let mut streams = Vec::new();
    for _ in 0..ADDS_MAX {
        let (mut stream, _) = server.connect().await;
        stream.write_all(head("", "").as_bytes()).await.unwrap();
        until(&mut stream, "\r\n\r\n").await;
        streams.push(stream);
    }
    let (mut refused, _) = server.connect().await;
    refused.write_all(head("", "").as_bytes()).await.unwrap();
    assert!(until(&mut refused, "try again").await.starts_with("HTTP/1.1 503 "));
    let mut one = streams.pop().unwrap();
    one.write_all((chunk("--B--") + "0\r\n\r\n").as_bytes()).await.unwrap();
    rest(&mut one).await;
    let text = server.call(&request("", &(file("a", "x") + "--B--\r\n"))).await;
    assert!(text.starts_with(STREAM_HEAD), "{text}");
    server.cluster.shutdown().await;
}

#[test]
fn a_query_is_read_as_the_references_clients_write_it() {
    let read = |text: &str| asked(&Query::parse(Some(text)).unwrap(), || Timestamp::from_unix_seconds(1));
    let nothing = read("").unwrap();
    assert_eq!((nothing.options, nothing.stream), (AddOptions::default(), true));
    let of_ctl = "chunker=size-262144&cid-version=0&format=unixfs&hash=sha2-256&hidden=false&layout=&local=false\
                  &mode=recursive&name=&no-pin=false&nocopy=false&progress=false&raw-leaves=false&recursive=false\
                  &replication-max=0&replication-min=0&shard=false&shard-size=0&stream-channels=true&user-allocations=\
                  &wrap-with-directory=false";
    let asked = read(of_ctl).unwrap();
    assert_eq!(asked.options, AddOptions { raw_leaves: Some(false), ..AddOptions::default() });
    let asked = read(
        "layout=trickle&chunker=rabin&cid-version=1&hash=blake2b-256&format=car&local=1&wrap-with-directory=t&shard=T\
         &progress=TRUE&raw-leaves=F&stream-channels=False&nocopy=True&no-pin=true&name=n&meta-a=b&shard-size=7\
         &pin-update=QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
    )
    .unwrap();
    assert!(!asked.stream && asked.keep == Keep::default());
    let kept = read("preserve-mode=true&preserve-mtime=1").unwrap().keep;
    assert_eq!(kept, Keep { mode: true, modified: true });
    let options = asked.options;
    assert_eq!((options.layout, options.format), (AddLayout::Trickle, AddFormat::Car));
    assert_eq!((options.chunker.as_str(), options.hash.as_str()), ("rabin", "blake2b-256"));
    assert_eq!((options.cid_version, options.raw_leaves), (1, Some(false)));
    assert!(
        options.local
            && options.wrap
            && options.shard
            && options.progress
            && options.no_copy
            && options.no_pin
    );
    assert_eq!((options.pin.name.as_str(), options.pin.shard_size, options.pin.pin_update), ("n", 7, None));
    for (text, message) in [
        ("layout=x&format=zip", "layout parameter is invalid"),
        ("format=zip&local=maybe", "format parameter is invalid"),
        ("local=maybe", "parameter local invalid"),
        ("recursive=x", "parameter recursive invalid"),
        ("hidden=x", "parameter hidden invalid"),
        ("wrap-with-directory=x&shard=x", "parameter wrap-with-directory invalid"),
        ("shard=x&progress=x", "parameter shard invalid"),
        ("progress=x&cid-version=x", "parameter progress invalid"),
        ("cid-version=x&raw-leaves=x", "parameter cid-version invalid"),
        ("raw-leaves=x&stream-channels=x", "parameter raw-leaves invalid"),
        ("stream-channels=x&nocopy=x", "parameter stream-channels invalid"),
        ("nocopy=x&no-pin=x", "parameter nocopy invalid"),
        ("no-pin=x", "parameter no-pin invalid"),
        ("replication-min=x&layout=x", "parameter replication-min invalid"),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (400, message));
    }
}
