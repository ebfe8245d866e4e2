//! A real etcd of one member, or more.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::go_program::find_or_build;
use crate::peer::{FACT_POLL, FACT_TIMEOUT};
use crate::ports::free_port;

/// Names a program that was built already.
const PATH_VARIABLE: &str = "IPFS_CLUSTER_TEST_ETCD";
const PACKAGE: &str = "go.etcd.io/etcd/server/v3";

/// The program, built if need be; none where there is no Go, which is said aloud and is a failure in CI.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| find_or_build(PATH_VARIABLE, "tools/etcd", PACKAGE, "etcd")).as_deref()
}

/// A member; it ends when this is dropped.
pub(crate) struct Server {
    name: String,
    /// All members, as the flag wants them.
    cluster: String,
    scheme: &'static str,
    folder: TempDir,
    port: u16,
    peer_port: u16,
    flags: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// One that several tests use, each below its own prefix.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start(&[])?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// One of its own, with more flags. What it writes need not survive a power cut.
    pub(crate) fn start(flags: &[&str]) -> Option<Self> {
        let [server] = Self::start_all(flags)?;
        Some(server)
    }

    /// Several that are one etcd.
    pub(crate) fn start_all<const COUNT: usize>(flags: &[&str]) -> Option<[Self; COUNT]> {
        program()?;
        let mut servers = std::array::from_fn(|number| Self {
            name: format!("member{number}"),
            cluster: String::new(),
            scheme: if flags.contains(&"--cert-file") { "https" } else { "http" },
            folder: TempDir::new().unwrap(),
            port: free_port(),
            peer_port: free_port(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            child: Mutex::new(None),
        });
        let one = |server: &Self| format!("{}={}", server.name, server.peer_url());
        let cluster = servers.iter().map(one).collect::<Vec<_>>().join(",");
        for server in &mut servers {
            server.cluster.clone_from(&cluster);
            server.run();
        }
        Some(servers)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts the process, on the data that is there.
    pub(crate) fn run(&self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let peer_url = self.peer_url();
        let child = Command::new(program().unwrap())
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &self.cluster])
            .args(["--log-level", "error", "--unsafe-no-fsync"])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it something, as soon as it answers.
    pub(crate) async fn ask(&self, path: &str, question: Value) -> Value {
        let started = Instant::now();
        loop {
            let sent = post(&format!("{}{path}", self.url()), &question).await;
            match sent {
                Ok(answer) => return answer,
                Err(error) => assert!(started.elapsed() < FACT_TIMEOUT, "{path}: {error}"),
            }
            sleep(FACT_POLL).await;
        }
    }

    pub(crate) async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.ask("/v3/kv/put", json!({"key": base64(key), "value": base64(value)})).await;
    }

    /// How many keys begin with this.
    pub(crate) async fn count(&self, prefix: &str) -> u64 {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().unwrap() += 1;
        let question = json!({"key": base64(prefix), "range_end": base64(end), "count_only": true});
        let answer = self.ask("/v3/kv/range", question).await;
        answer["count"].as_str().map_or(0, |count| count.parse().unwrap())
    }

    /// Its revision.
    pub(crate) async fn revision(&self) -> i64 {
        let answer = self.ask("/v3/kv/range", json!({"key": base64("x"), "count_only": true})).await;
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// Forgets its history.
    pub(crate) async fn compact(&self) {
        let revision = self.revision().await;
        self.ask("/v3/kv/compaction", json!({"revision": revision.to_string(), "physical": true})).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("etcd: {log}");
        }
    }
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Good enough for a test: one connection for each request.
async fn post(url: &str, question: &Value) -> std::io::Result<Value> {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await?;
    let body = question.to_string();
    let length = body.len();
    let head = format!(
        "POST /{path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    if !head.contains(" 200 ") {
        return Err(std::io::Error::other(format!("{head} {body}")));
    }
    Ok(serde_json::from_str(body)?)
}
