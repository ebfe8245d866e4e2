//! A peer of the reference as a process: it is built once, configured by the sections of its own service.json, and
//! commanded by lines of JSON. What it says, and what it can be told, is in `gopeer/main.go` and `gopeer/commands.go`.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{env, fs};

use ipfs_cluster::types::{Cid, Metric, Multiaddr, PeerId, Pin, PinOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::go_program::find_or_build;

/// Names a program that was built already.
const PATH_VARIABLE: &str = "IPFS_CLUSTER_TEST_GOPEER";
const MODULE: &str = "tests/interop/gopeer";
/// Nothing that a test waits for takes so long on a machine that works.
pub(crate) const FACT_TIMEOUT: Duration = Duration::from_secs(120);
const FACT_POLL: Duration = Duration::from_millis(50);
/// What the program is told to give a command; the driver gives it a little more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How much of what the program logged a failing test shows.
const LOG_SHOWN_BYTES: usize = 6_000;

/// Short, because deaths are waited for; but nobody is twice as late on a busy machine, and dies of it.
pub(crate) const PING_INTERVAL: &str = "3s";
pub(crate) const METRIC_TTL: &str = "10s";

/// What it logs, where the environment does not say.
const LOG_LEVELS: &str = "info,p2p-config=warn,provider=error";

/// The private network of the tests.
pub(crate) const SECRET: [u8; 32] = [0x11; 32];
pub(crate) const CLUSTER_NAME: &str = "interop";

/// The program, built if need be; none where there is no Go, which is said aloud and is a failure in CI.
pub(crate) fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| find_or_build(PATH_VARIABLE, MODULE, ".", "gopeer")).as_deref()
}

/// Waits until there is an answer; `what` names it if it never comes.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    until_or(what, look, async || String::new()).await
}

/// Like [`until`], and says how things stand if it never comes.
pub(crate) async fn until_or<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
    standing: impl AsyncFn() -> String,
) -> T {
    let deadline = Instant::now() + FACT_TIMEOUT;
    loop {
        if let Some(fact) = look().await {
            return fact;
        }
        if Instant::now() >= deadline {
            panic!("in {} s: not {what}\n{}", FACT_TIMEOUT.as_secs(), standing().await);
        }
        sleep(FACT_POLL).await;
    }
}

/// A pin that every peer must hold, as the pinset stores it.
pub(crate) fn everywhere(cid: &str, name: &str) -> Pin {
    let options = PinOptions {
        replication_factor_min: -1,
        replication_factor_max: -1,
        name: name.to_owned(),
        ..PinOptions::default()
    };
    Pin::new(cid.parse().unwrap(), options)
}

/// What a peer begins with: quick intervals, everybody trusted, no batching, no mDNS, one loopback port.
#[derive(Clone, Debug)]
pub(crate) struct GoConfig(Value);

impl GoConfig {
    /// Equal seeds have equal peer ids.
    pub(crate) fn new(seed: &str) -> Self {
        Self(json!({
            "seed": seed,
            "cluster": {
                "peername": seed,
                "secret": hex::encode(SECRET),
                "listen_multiaddress": ["/ip4/127.0.0.1/tcp/0"],
                "mdns_interval": "0s",
                "monitor_ping_interval": PING_INTERVAL,
                "pubsub": { "heartbeat_interval": "500ms" },
            },
            "crdt": {
                "cluster_name": CLUSTER_NAME,
                "trusted_peers": ["*"],
                "rebroadcast_interval": "1s",
            },
            "disk": { "metric_ttl": METRIC_TTL },
            "tags": { "metric_ttl": METRIC_TTL },
            "pinqueue": { "metric_ttl": METRIC_TTL },
        }))
    }

    /// Sets a key, `section.key` or `section.object.key`.
    pub(crate) fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.0;
        for key in path.split('.') {
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// Keeps what the peer stores, so that another one can go on with it.
    pub(crate) fn in_folder(self, folder: &Path) -> Self {
        self.with("folder", folder.to_str().unwrap())
    }

    pub(crate) fn batching(self, pins: u32, age: &str) -> Self {
        self.with("crdt.batching", json!({ "max_batch_size": pins, "max_batch_age": age }))
    }

    pub(crate) fn trusting(self, peers: &[PeerId]) -> Self {
        let peers: Vec<String> = peers.iter().map(PeerId::to_string).collect();
        self.with("crdt.trusted_peers", peers)
    }
}

/// An error that the program answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoError {
    pub(crate) message: String,
    /// `authorization`, `server`, `client` or `plain`.
    pub(crate) kind: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    id: u64,
    ok: Value,
    #[serde(default)]
    error: String,
    #[serde(default)]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Ready {
    #[serde(default)]
    id: String,
    #[serde(default)]
    addrs: Vec<Multiaddr>,
    #[serde(default)]
    error: String,
}

/// The CRDT's heads as the reference stores them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Heads {
    pub(crate) heads: Vec<String>,
    pub(crate) processed: usize,
    pub(crate) dirty: bool,
}

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Answer>>>>;

/// A running peer. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct GoPeer {
    id: PeerId,
    addresses: Vec<Multiaddr>,
    child: Child,
    input: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
    log: tempfile::NamedTempFile,
}

impl GoPeer {
    pub(crate) async fn start(program: &Path, config: GoConfig) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = tokio::process::Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(File::create(log.path()).unwrap()))
            .env("GOLOG_LOG_LEVEL", env::var_os("GOLOG_LOG_LEVEL").unwrap_or_else(|| LOG_LEVELS.into()))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        input.write_all(format!("{}\n", config.0).as_bytes()).await.unwrap();
        let line = timeout(READY_TIMEOUT, lines.next_line()).await.unwrap_or_else(|_| {
            panic!("no Go peer that is ready in {READY_TIMEOUT:?}\n{}", tail(log.path()))
        });
        let line = line.unwrap().unwrap_or_else(|| panic!("{}", tail(log.path())));
        let ready: Ready = serde_json::from_str(&line).unwrap();
        assert!(ready.error.is_empty(), "{}\n{}", ready.error, tail(log.path()));
        let waiting = Waiting::default();
        let answers = waiting.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: Answer = serde_json::from_str(&line).unwrap();
                if let Some(asker) = answers.lock().unwrap().remove(&answer.id) {
                    let _ = asker.send(answer);
                }
            }
            answers.lock().unwrap().clear();
        });
        Self {
            id: ready.id.parse().unwrap(),
            addresses: ready.addrs,
            child,
            input: tokio::sync::Mutex::new(input),
            waiting,
            next: AtomicU64::new(1),
            log,
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id
    }

    /// Where it listens, with `/p2p/` and its id.
    pub(crate) fn address(&self) -> Multiaddr {
        format!("{}/p2p/{}", self.addresses[0], self.id).parse().unwrap()
    }

    /// Runs a command. A stream that breaks answers with its items and its error; see [`GoPeer::run_partly`].
    pub(crate) async fn run(&self, what: &str, args: Value) -> Result<Value, GoError> {
        match self.run_partly(what, args).await {
            (value, None) => Ok(value),
            (_, Some(error)) => Err(error),
        }
    }

    pub(crate) async fn run_partly(&self, what: &str, args: Value) -> (Value, Option<GoError>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let line =
            json!({ "id": id, "do": what, "timeout_ms": ANSWER_TIMEOUT.as_millis() as u64, "args": args });
        let (asker, answer) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, asker);
        self.input.lock().await.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let answer = timeout(ANSWER_TIMEOUT + Duration::from_secs(5), answer).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {what}"));
        let answer = answer.unwrap_or_else(|_| panic!("the Go peer ended before it answered {what}"));
        let error =
            (!answer.error.is_empty()).then_some(GoError { message: answer.error, kind: answer.kind });
        (answer.ok, error)
    }

    /// Calls a method of another peer, or with none of its own, with the reference's RPC client.
    pub(crate) async fn rpc<T: DeserializeOwned>(
        &self,
        to: Option<PeerId>,
        method: &str,
        args: Vec<Value>,
    ) -> Result<T, GoError> {
        let to = to.map(|peer| peer.to_string());
        let call = match to {
            Some(to) => json!({ "to": to, "method": method, "args": args }),
            None => json!({ "method": method, "args": args }),
        };
        let value = self.run("rpc", call).await?;
        Ok(serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{method}: {error}: {value}")))
    }

    pub(crate) async fn connect(&self, address: &Multiaddr) -> Result<(), GoError> {
        self.run("connect", json!(address)).await.map(drop)
    }

    /// Becomes a member through another peer, as `--bootstrap` does.
    pub(crate) async fn join(&self, address: &Multiaddr) -> Result<(), GoError> {
        self.run("join", json!(address)).await.map(drop)
    }

    pub(crate) async fn disconnect(&self, peer: PeerId) {
        self.run("disconnect", json!(peer.to_string())).await.unwrap();
    }

    /// Connected peers, and for each connection its address, security and muxer.
    pub(crate) async fn peers(&self) -> BTreeMap<String, Vec<String>> {
        serde_json::from_value(self.run("peers", Value::Null).await.unwrap()).unwrap()
    }

    /// The latest usable metric of each peer under this name.
    pub(crate) async fn metrics(&self, name: &str) -> Vec<Metric> {
        serde_json::from_value(self.run("metrics", json!(name)).await.unwrap()).unwrap()
    }

    /// Hands pins to its consensus as they are.
    pub(crate) async fn log_pins(&self, pins: &[Pin]) {
        let operations: Vec<Value> = pins.iter().map(|pin| json!({ "pin": pin })).collect();
        self.run("log", json!(operations)).await.unwrap();
    }

    pub(crate) async fn log_unpins(&self, cids: &[Cid]) {
        let operations: Vec<Value> = cids.iter().map(|cid| json!({ "unpin": cid.to_string() })).collect();
        self.run("log", json!(operations)).await.unwrap();
    }

    /// Its pinset, in order of CIDs' text.
    pub(crate) async fn state(&self) -> Vec<Pin> {
        let mut pins: Vec<Pin> =
            serde_json::from_value(self.run("state", Value::Null).await.unwrap()).unwrap();
        pins.sort_by_key(|pin| pin.cid.to_string());
        pins
    }

    pub(crate) async fn heads(&self) -> Heads {
        serde_json::from_value(self.run("heads", Value::Null).await.unwrap()).unwrap()
    }

    /// Sets what its IPFS daemon does; the keys are those of `Daemon` in `gopeer/ipfs.go`.
    pub(crate) async fn set_ipfs(&self, daemon: Value) {
        self.run("ipfs_set", daemon).await.unwrap();
    }

    /// The pins (with their modes) and blocks (with their sizes) of its IPFS daemon.
    pub(crate) async fn ipfs(&self) -> Value {
        self.run("ipfs", Value::Null).await.unwrap()
    }

    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) {
        self.run("stop", Value::Null).await.unwrap();
        let status = timeout(ANSWER_TIMEOUT, self.child.wait()).await.expect("a Go peer that ends").unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for GoPeer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- what Go peer {} logged last\n{}", self.id, tail(self.log.path()));
        }
    }
}

fn tail(log: &Path) -> String {
    let log = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let from = log.len().saturating_sub(LOG_SHOWN_BYTES);
    let from = (from..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
    log[from..].to_owned()
}
