//! A Kubo daemon that is none: its RPC API over any [`IpfsConnector`], with Kubo's answers, refusals and habits.
//!
//! Over [`MemoryIpfs`](crate::ipfs_connector::MemoryIpfs) it behaves as an online daemon does (content that is missing
//! stays pinning, and says so twice a second), over [`LeanIpfs`] it takes millions of pins for measurements, over
//! [`FaultyIpfs`](super::faulty_ipfs::FaultyIpfs) it fails, stalls and breaks off when told. For measurements uploads can
//! be throttled, and blocks dropped unseen. The program
//! `examples/fake_kubo.rs` serves it to other processes.

mod car;
mod intake;
mod lean;
mod multipart;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::{CONTENT_TYPE, SERVER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use axum::serve::ListenerExt as _;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use intake::Pace;
pub use lean::LeanIpfs;

use crate::error::{Error, Result};
use crate::ipfs_connector::{IpfsConnector, IpfsPin};
use crate::types::{Block, Cid, Pin, PinMode, PinOptions, parse_cid, parse_multiaddr};

/// Time between two lines that say how far a pin is, as in Kubo.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of one request.
const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Where other processes see what was asked so far, as JSON.
const REQUESTS_PATH: &str = "/fake/requests";
/// Where bytes can be sent for nothing, to measure what it takes to send them.
const SINK_PATH: &str = "/fake/sink";

/// How the daemon behaves.
#[derive(Clone, Debug)]
pub struct FakeKuboConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long each pin takes.
    pub pin_delay: Duration,
    /// Every so many pins one fails; 0 is none.
    pub fail_every: u64,
    /// Bytes of bodies that it takes a second, of all requests together; 0 is no limit.
    pub bytes_per_second: u64,
    /// Blocks of `dag/import` are counted and dropped, without a look at their hashes.
    pub drop_blocks: bool,
}

impl Default for FakeKuboConfig {
    /// Any port of 127.0.0.1, no delay, no failures, as quick as it can.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            pin_delay: Duration::ZERO,
            fail_every: 0,
            bytes_per_second: 0,
            drop_blocks: false,
        }
    }
}

/// A running server. It stops when dropped.
#[derive(Debug)]
pub struct FakeKubo {
    address: SocketAddr,
    face: Arc<Face>,
    server: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
struct Face {
    ipfs: Arc<dyn IpfsConnector>,
    config: FakeKuboConfig,
    pace: Pace,
    stopped: CancellationToken,
    requests: watch::Sender<Requests>,
}

/// What was asked of a [`FakeKubo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// All requests so far.
    pub begun: u64,
    /// Requests without an answer's end yet.
    pub running: u64,
    /// `pin/add` so far.
    pub pins: u64,
    /// `pin/add` that run now.
    pub pins_running: u64,
    /// Most `pin/add` that ever ran at a time.
    pub pins_running_max: u64,
}

impl Requests {
    fn to_json(self) -> String {
        let Self { begun, running, pins, pins_running, pins_running_max } = self;
        json!({
            "begun": begun,
            "running": running,
            "pins": pins,
            "pins_running": pins_running,
            "pins_running_max": pins_running_max,
        })
        .to_string()
    }
}

impl FakeKubo {
    /// Starts serving a connector.
    ///
    /// # Errors
    /// The system's, when it cannot listen there.
    pub async fn start(ipfs: impl IpfsConnector, config: FakeKuboConfig) -> Result<Self> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| Error::io(format!("listening on {}", config.listen), error))?;
        let address =
            listener.local_addr().map_err(|error| Error::io("asking for the own address", error))?;
        let face = Arc::new(Face {
            ipfs: Arc::new(ipfs),
            pace: Pace::new(config.bytes_per_second),
            config,
            stopped: CancellationToken::new(),
            requests: watch::Sender::default(),
        });
        let listener = listener.tap_io(|connection| {
            // Answers are small and asked for one after another.
            let _ = connection.set_nodelay(true);
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&face));
        let stopped = face.stopped.clone().cancelled_owned();
        let server =
            tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
        Ok(Self { address, face, server: Some(server) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a multiaddress.
    pub fn multiaddress(&self) -> String {
        format!("/ip4/{}/tcp/{}", self.address.ip(), self.address.port())
    }

    /// What was asked so far.
    pub fn requests(&self) -> Requests {
        *self.face.requests.borrow()
    }

    /// Returns once what was asked satisfies a condition.
    pub async fn wait_requests(&self, condition: impl Fn(&Requests) -> bool) -> Requests {
        let mut requests = self.face.requests.subscribe();
        match requests.wait_for(|now| condition(now)).await {
            Ok(now) => *now,
            // The sender lives in `self`.
            Err(_) => self.requests(),
        }
    }

    /// Pulls the plug: breaks off running answers and closes the port. Returns once it is free again.
    pub async fn stop(mut self) {
        self.face.stopped.cancel();
        if let Some(server) = self.server.take() {
            let _ = server.await;
        }
    }
}

impl Drop for FakeKubo {
    fn drop(&mut self) {
        self.face.stopped.cancel();
    }
}

/// Counts a request until its answer is at its end or dropped.
struct Running {
    face: Arc<Face>,
    is_pin: bool,
}

impl Running {
    fn begin(face: &Arc<Face>, is_pin: bool) -> Self {
        face.requests.send_modify(|requests| {
            requests.begun += 1;
            requests.running += 1;
            if is_pin {
                requests.pins += 1;
                requests.pins_running += 1;
                requests.pins_running_max = requests.pins_running_max.max(requests.pins_running);
            }
        });
        Self { face: Arc::clone(face), is_pin }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.face.requests.send_modify(|requests| {
            requests.running -= 1;
            requests.pins_running -= u64::from(self.is_pin);
        });
    }
}

/// A refusal, or an answer of another form.
enum Answer {
    Json(String),
    Bytes(Bytes),
    Lines(BoxStream<'static, io::Result<Bytes>>),
    Refused(String),
}

async fn handle(State(face): State<Arc<Face>>, request: Request) -> Response {
    let path = request.uri().path();
    if path == REQUESTS_PATH {
        return respond(StatusCode::OK, "application/json", Body::from(face.requests.borrow().to_json()));
    }
    if path == SINK_PATH {
        return match face.drain(request).await {
            Ok(bytes) => respond(StatusCode::OK, "application/json", Body::from(bytes.to_string())),
            Err(error) => respond(StatusCode::BAD_REQUEST, "text/plain", Body::from(error.to_string())),
        };
    }
    let Some(command) = path.strip_prefix("/api/v0/").filter(|command| COMMANDS.contains(command)) else {
        return respond(StatusCode::NOT_FOUND, "text/plain", Body::from("404 page not found\n"));
    };
    let command = command.to_owned();
    if request.method() != Method::POST {
        return respond(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            Body::from("405 - Method Not Allowed\n"),
        );
    }
    let running = Running::begin(&face, command == "pin/add");
    let stopped = face.stopped.clone();
    let answer = tokio::select! {
        biased;
        // The connection cannot be cut before an answer; one that breaks off is the nearest to it.
        () = stopped.cancelled() => Answer::Lines(stream::iter([Err(gone())]).boxed()),
        answer = face.answer(&command, request) => answer,
    };
    match answer {
        Answer::Json(text) => respond(StatusCode::OK, "application/json", Body::from(text + "\n")),
        Answer::Bytes(bytes) => respond(StatusCode::OK, "application/vnd.ipld.raw", Body::from(bytes)),
        Answer::Refused(message) => {
            let text = json!({"Message": message, "Code": 0, "Type": "error"}).to_string() + "\n";
            respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Body::from(text))
        }
        Answer::Lines(lines) => {
            let cut = stream::once(stopped.cancelled_owned()).map(|()| Err(gone()));
            let lines = until_cut(lines, cut.boxed()).map(move |line| {
                // Until the stream is at its end or dropped.
                let _ = &running;
                line
            });
            respond(StatusCode::OK, "application/json", Body::from_stream(lines))
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the fake daemon was stopped")
}

/// The lines, broken off by an error when the cut gives one.
fn until_cut(
    lines: BoxStream<'static, io::Result<Bytes>>,
    cut: BoxStream<'static, io::Result<Bytes>>,
) -> BoxStream<'static, io::Result<Bytes>> {
    stream::unfold(Some((lines, cut)), |state| async move {
        let (mut lines, mut cut) = state?;
        tokio::select! {
            biased;
            Some(error) = cut.next() => Some((error, None)),
            line = lines.next() => line.map(|line| (line, Some((lines, cut)))),
        }
    })
    .boxed()
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(SERVER, HeaderValue::from_static("kubo/0.39.0"));
    response
}

const COMMANDS: &[&str] = &[
    "id",
    "version",
    "config/show",
    "filestore/ls",
    "add",
    "pin/add",
    "pin/rm",
    "pin/ls",
    "pin/update",
    "repo/stat",
    "repo/gc",
    "block/put",
    "block/get",
    "dag/import",
    "resolve",
    "swarm/peers",
    "swarm/connect",
];

/// The query of a request.
struct Arguments(Vec<(String, String)>);

impl Arguments {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn args(&self) -> Vec<&str> {
        self.0.iter().filter(|(name, _)| name == "arg").map(|(_, value)| value.as_str()).collect()
    }

    fn arg(&self) -> Result<&str> {
        self.get("arg").ok_or_else(|| Error::invalid_input("argument \"arg\" is required"))
    }

    fn cid(&self) -> Result<Cid> {
        cid(self.arg()?)
    }
}

fn cid(text: &str) -> Result<Cid> {
    parse_cid(text.strip_prefix("/ipfs/").unwrap_or(text)).map_err(|_| {
        Error::invalid_input(format!("invalid path {text:?}: path does not have enough components"))
    })
}

impl Face {
    async fn answer(self: &Arc<Self>, command: &str, request: Request) -> Answer {
        let arguments = match Query::<Vec<(String, String)>>::try_from_uri(request.uri()) {
            Ok(Query(arguments)) => Arguments(arguments),
            Err(error) => return Answer::Refused(error.to_string()),
        };
        let answer = match command {
            "id" => self.id().await,
            "version" => Ok(Answer::Json(
                json!({"Version": "0.39.0", "Commit": "", "Repo": "18", "System": "amd64/linux", "Golang": "go1.26"})
                    .to_string(),
            )),
            "config/show" => Ok(Answer::Json(json!({"Datastore": {"StorageMax": "10GB"}}).to_string())),
            "filestore/ls" | "add" => Err(Error::invalid_input("filestore is not enabled, see https://git.io/vNItf")),
            "pin/add" => self.pin_add(&arguments).await,
            "pin/rm" => self.pin_rm(&arguments).await,
            "pin/ls" => self.pin_ls(&arguments).await,
            "pin/update" => self.pin_update(&arguments).await,
            "repo/stat" => self.repo_stat().await,
            "repo/gc" => Ok(self.repo_gc()),
            "block/put" => self.block_put(&arguments, request).await,
            "block/get" => self.block_get(&arguments).await,
            "dag/import" => self.dag_import(&arguments, request).await,
            "resolve" => self.resolve(&arguments).await,
            "swarm/peers" => self.swarm_peers().await,
            "swarm/connect" => self.swarm_connect(&arguments).await,
            _ => Err(Error::internal(format!("no command {command:?}"))),
        };
        answer.unwrap_or_else(|error| Answer::Refused(error.message().to_owned()))
    }

    async fn id(&self) -> Result<Answer> {
        let id = self.ipfs.id().await?;
        let answer = json!({
            "ID": id.id.map(|id| id.to_string()),
            "PublicKey": "",
            "Addresses": id.addresses,
            "AgentVersion": "kubo/0.39.0/",
            "Protocols": null,
        });
        Ok(Answer::Json(answer.to_string()))
    }

    async fn pin_add(self: &Arc<Self>, arguments: &Arguments) -> Result<Answer> {
        let cid = arguments.cid()?;
        let mode =
            if arguments.get("recursive") == Some("false") { PinMode::Direct } else { PinMode::Recursive };
        let mut pin = Pin::new(cid, PinOptions { mode, ..PinOptions::default() });
        if let Some(depth) = arguments.get("max-depth") {
            pin.max_depth =
                depth.parse().map_err(|_| Error::invalid_input(format!("invalid max-depth {depth:?}")))?;
        }
        let number = self.requests.borrow().pins;
        if self.config.fail_every > 0 && number.is_multiple_of(self.config.fail_every) {
            return Err(Error::invalid_input("pin: this one was told to fail"));
        }
        let (ipfs, delay) = (Arc::clone(&self.ipfs), self.config.pin_delay);
        let mut pinning = Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            ipfs.pin(&pin).await
        });
        let done = format!("{{\"Pins\":[\"{cid}\"]}}");
        if arguments.get("progress") != Some("true") {
            pinning.await?;
            return Ok(Answer::Json(done));
        }
        // Kubo holds the status back until it has something to say.
        if let Ok(pinned) = tokio::time::timeout(PROGRESS_INTERVAL, &mut pinning).await {
            pinned?;
            return Ok(Answer::Json(if mode == PinMode::Direct {
                done
            } else {
                format!("{{\"Progress\":1}}\n{done}")
            }));
        }
        let started = tokio::time::Instant::now();
        let lines = stream::unfold(Some((pinning, 0u64)), move |state| {
            let done = done.clone();
            async move {
                let (mut pinning, mut progress) = state?;
                let wait = if progress == 0 { Duration::ZERO } else { PROGRESS_INTERVAL };
                let text = match tokio::time::timeout(wait, &mut pinning).await {
                    Ok(Ok(())) => done,
                    Ok(Err(error)) => {
                        json!({"Message": error.message(), "Code": 0, "Type": "error"}).to_string()
                    }
                    Err(_) => {
                        // Blocks come during the delay; after it the pin waits for some that do not.
                        if progress == 0 || started.elapsed() < delay {
                            progress += 1;
                        }
                        return Some((
                            Ok(line(&format!("{{\"Progress\":{progress}}}"))),
                            Some((pinning, progress)),
                        ));
                    }
                };
                Some((Ok(line(&text)), None))
            }
        });
        Ok(Answer::Lines(lines.boxed()))
    }

    async fn is_pinned(&self, cid: &Cid) -> Result<bool> {
        Ok(self.ipfs.is_pinned(cid, PinMode::Recursive).await?
            || self.ipfs.is_pinned(cid, PinMode::Direct).await?)
    }

    async fn pin_rm(&self, arguments: &Arguments) -> Result<Answer> {
        let cid = arguments.cid()?;
        if !self.is_pinned(&cid).await? {
            return Err(Error::not_found("not pinned or pinned indirectly"));
        }
        self.ipfs.unpin(&cid).await?;
        Ok(Answer::Json(format!("{{\"Pins\":[\"{cid}\"]}}")))
    }

    async fn pin_ls(&self, arguments: &Arguments) -> Result<Answer> {
        let modes: &[PinMode] = match arguments.get("type").unwrap_or("all") {
            "recursive" => &[PinMode::Recursive],
            "direct" => &[PinMode::Direct],
            "all" => &PinMode::ALL,
            other => {
                return Err(Error::invalid_input(format!(
                    "invalid type '{other}', must be one of {{direct, indirect, recursive, all}}"
                )));
            }
        };
        let Some(arg) = arguments.get("arg") else {
            let ipfs = Arc::clone(&self.ipfs);
            let lines = stream::iter(modes).flat_map(move |mode| {
                ipfs.list_pins(*mode).map(|page| {
                    page.map(|page| pin_lines(&page)).map_err(|error| io::Error::other(error.to_string()))
                })
            });
            return Ok(Answer::Lines(lines.boxed()));
        };
        let asked = cid(arg)?;
        for mode in modes {
            if self.ipfs.is_pinned(&asked, *mode).await? {
                return Ok(Answer::Json(format!("{{\"Cid\":\"{asked}\",\"Type\":\"{mode}\"}}")));
            }
        }
        Err(Error::not_found(format!("path '{arg}' is not pinned")))
    }

    async fn pin_update(&self, arguments: &Arguments) -> Result<Answer> {
        let args = arguments.args();
        let [from, to] = args.as_slice() else {
            return Err(Error::invalid_input("argument \"to-path\" is required"));
        };
        let (from, to) = (cid(from)?, cid(to)?);
        if !self.ipfs.is_pinned(&from, PinMode::Recursive).await? {
            return Err(Error::not_found("'from' cid was not recursively pinned already"));
        }
        if self.ipfs.is_pinned(&to, PinMode::Recursive).await? {
            return Err(Error::not_found("'to' cid was already recursively pinned"));
        }
        self.ipfs.pin(&Pin::new(to, PinOptions::default())).await?;
        if arguments.get("unpin") != Some("false") {
            self.ipfs.unpin(&from).await?;
        }
        Ok(Answer::Json(json!({"Pins": [from.to_string(), to.to_string()]}).to_string()))
    }

    async fn repo_stat(&self) -> Result<Answer> {
        let stat = self.ipfs.repo_stat().await?;
        let answer = json!({
            "RepoSize": stat.repo_size,
            "StorageMax": stat.storage_max,
            "NumObjects": 0,
            "RepoPath": "",
            "Version": "",
        });
        Ok(Answer::Json(answer.to_string()))
    }

    fn repo_gc(&self) -> Answer {
        let lines = self.ipfs.repo_gc().map(|item| {
            let text = match item.map_err(|error| io::Error::other(error.to_string()))? {
                item if item.error.is_empty() => {
                    json!({"Key": item.key.map(|cid| json!({"/": cid.to_string()}))})
                }
                item => json!({"Error": item.error}),
            };
            Ok(line(&text.to_string()))
        });
        Answer::Lines(lines.boxed())
    }

    async fn block_put(&self, arguments: &Arguments, request: Request) -> Result<Answer> {
        let hash = arguments.get("mhtype").unwrap_or("sha2-256");
        let codec = arguments.get("cid-codec").unwrap_or("raw");
        let files = self.files(request, "data").await?;
        let blocks: Vec<Block> =
            files.into_iter().map(|data| block(hash, codec, data)).collect::<Result<_>>()?;
        let answer = blocks
            .iter()
            .map(|block| json!({"Key": block.cid.to_string(), "Size": block.data.len()}).to_string())
            .collect::<Vec<_>>()
            .join("\n");
        if arguments.get("pin") == Some("true") {
            for block in blocks {
                self.ipfs.hold(block).await?;
            }
        } else {
            self.ipfs.put_blocks(stream::iter(blocks).map(Ok).boxed()).await?;
        }
        Ok(Answer::Json(answer))
    }

    async fn dag_import(&self, arguments: &Arguments, request: Request) -> Result<Answer> {
        if arguments.get("pin-roots") != Some("false") {
            return Err(Error::invalid_input("this one pins no roots"));
        }
        let (mut count, mut bytes) = (0, 0);
        let files = if self.config.drop_blocks {
            (count, bytes) = self.count_blocks(request).await?;
            Vec::new()
        } else {
            self.files(request, "path").await?
        };
        for file in files {
            let blocks = car::blocks(&file)?;
            count += blocks.len();
            bytes += blocks.iter().map(|block| block.data.len()).sum::<usize>();
            self.ipfs.put_blocks(stream::iter(blocks).map(Ok).boxed()).await?;
        }
        let stats = json!({"Stats": {"BlockCount": count, "BlockBytesCount": bytes}});
        Ok(if arguments.get("stats") == Some("true") {
            Answer::Json(stats.to_string())
        } else {
            Answer::Bytes(Bytes::new())
        })
    }

    async fn block_get(&self, arguments: &Arguments) -> Result<Answer> {
        Ok(Answer::Bytes(self.ipfs.get_block(&arguments.cid()?).await?.data))
    }

    async fn resolve(&self, arguments: &Arguments) -> Result<Answer> {
        let cid = self.ipfs.resolve(arguments.arg()?).await?;
        Ok(Answer::Json(json!({"Path": format!("/ipfs/{cid}")}).to_string()))
    }

    async fn swarm_peers(&self) -> Result<Answer> {
        let peers = self.ipfs.swarm_peers().await?;
        let peers: Vec<_> = peers
            .iter()
            .map(|peer| json!({"Addr": "/ip4/127.0.0.1/tcp/4001", "Peer": peer.to_string()}))
            .collect();
        Ok(Answer::Json(json!({"Peers": peers}).to_string()))
    }

    async fn swarm_connect(&self, arguments: &Arguments) -> Result<Answer> {
        let address = parse_multiaddr(arguments.arg()?)?;
        self.ipfs.swarm_connect(&address).await?;
        Ok(Answer::Json(json!({"Strings": [format!("connect {address} success")]}).to_string()))
    }
}

fn content_type(request: &Request) -> String {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn no_file(argument: &str) -> Error {
    Error::invalid_input(format!("file argument '{argument}' is required"))
}

impl Face {
    /// A body, as fast as is allowed.
    fn pieces(&self, request: Request) -> impl Stream<Item = Result<Bytes>> + Unpin {
        let pieces = request.into_body().into_data_stream().then(async |piece| {
            let piece = piece.map_err(|error| Error::invalid_input(error.to_string()))?;
            self.pace.keep(piece.len()).await;
            Ok(piece)
        });
        Box::pin(pieces)
    }

    /// The files of a request's form.
    async fn files(&self, request: Request, argument: &str) -> Result<Vec<Bytes>> {
        let content_type = content_type(&request);
        let mut body = BytesMut::new();
        let mut pieces = self.pieces(request);
        while let Some(piece) = pieces.try_next().await? {
            if body.len() + piece.len() > BODY_BYTES_MAX {
                return Err(Error::invalid_input(format!("a body has more than {BODY_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        multipart::files(&content_type, &body.freeze()).ok_or_else(|| no_file(argument))
    }

    /// Blocks of a CAR in a request's form, and bytes of them with their CIDs.
    async fn count_blocks(&self, request: Request) -> Result<(usize, usize)> {
        let content_type = content_type(&request);
        let boundary = multipart::boundary(&content_type).ok_or_else(|| no_file("path"))?;
        let mut count = car::Count::new(boundary);
        let mut pieces = self.pieces(request);
        while let Some(piece) = pieces.try_next().await? {
            count.feed(&piece);
        }
        count.finish()
    }

    /// Bytes of a body that nobody wants.
    async fn drain(&self, request: Request) -> Result<u64> {
        let mut pieces = self.pieces(request);
        let mut bytes = 0;
        while let Some(piece) = pieces.try_next().await? {
            bytes += piece.len() as u64;
        }
        Ok(bytes)
    }
}

fn line(text: &str) -> Bytes {
    Bytes::from(format!("{text}\n"))
}

fn pin_lines(page: &[IpfsPin]) -> Bytes {
    use std::fmt::Write as _;
    const LINE_BYTES: usize = 96;
    let mut text = String::with_capacity(page.len() * LINE_BYTES);
    for IpfsPin { cid, mode } in page {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{{\"Cid\":\"{cid}\",\"Type\":\"{mode}\"}}");
    }
    Bytes::from(text)
}

fn block(hash: &str, codec: &str, data: Bytes) -> Result<Block> {
    use multihash_codetable::{Code, MultihashDigest as _};
    let code = match hash {
        "sha2-256" => Code::Sha2_256,
        "sha2-512" => Code::Sha2_512,
        "blake2b-256" => Code::Blake2b256,
        "blake2b-512" => Code::Blake2b512,
        _ => return Err(Error::invalid_input(format!("unrecognized multihash function: {hash}"))),
    };
    let codec = match codec {
        "raw" => 0x55,
        "dag-pb" => 0x70,
        "dag-cbor" => 0x71,
        _ => return Err(Error::invalid_input(format!("unknown codec: {codec}"))),
    };
    Ok(Block { cid: Cid::new_v1(codec, code.digest(&data)), data })
}
