//! What the tests stand in: a home folder, servers of configurations, IPFS daemons, processes, a peer that writes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipfs_cluster::config::StorageEngine;
use ipfs_cluster::ipfs_connector::IpfsConnector as _;
use ipfs_cluster::state::{State as _, StoreState};
use ipfs_cluster::storage::Batch;
use ipfs_cluster::testing::fake_kubo::{FakeKubo, FakeKuboConfig, LeanIpfs};
use ipfs_cluster::types::{Cid, Pin, PinMode, PinOperation, PinOptions, parse_cid};
use ipfs_cluster_bins::service::storage;
use serde_json::{Value, json};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Nothing listens here, which is a daemon that is down.
pub(crate) const NOBODY: &str = "/ip4/127.0.0.1/tcp/1";
pub(crate) const CIDS: [&str; 3] = [
    "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
    "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
    "bafybeiehe5yxqu4ixnsomtoinlugvreling26pht2h57q7rzaumjnsf56u",
];
/// A peer that nobody is.
pub(crate) const STRANGER: &str = "12D3KooWRN8KRjpyg9rsW2w7StbBRGper65psTZm68cjud9KAkaW";

pub(crate) fn cid(index: usize) -> Cid {
    parse_cid(CIDS[index]).unwrap()
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Both outputs as the captures have them, of a command that said nothing to standard error.
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }
}

/// A user with a base folder that does not exist yet.
pub(crate) struct Home {
    folder: tempfile::TempDir,
    pub(crate) base: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { base: folder.path().join("F"), folder }
    }

    /// With a follower of this name.
    pub(crate) fn following(name: &str, url: &str) -> Self {
        let home = Self::new();
        home.init(name, url);
        home
    }

    pub(crate) fn init(&self, name: &str, url: &str) {
        self.run(&[name, "init", url]).ok();
    }

    /// A command on the base folder. Nothing of this process's environment reaches it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-follow"));
        command
            .arg("--config")
            .arg(&self.base)
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", NOBODY)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let output = self.command(arguments).envs(variables.iter().copied()).output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn start(&self, arguments: &[&str], ipfs: &str, variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(arguments);
        command.env("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", ipfs).envs(variables.iter().copied());
        Running::start(command)
    }

    pub(crate) fn path(&self, name: &str, file: &str) -> PathBuf {
        self.base.join(name).join(file)
    }

    /// Puts pins into the store of a follower that does not run.
    pub(crate) fn store(&self, name: &str, engine: StorageEngine, pins: &[Pin]) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let storage = storage::open_folder(&self.path(name, engine.as_str()), engine).unwrap();
        runtime.block_on(async {
            let state = StoreState::open(storage.clone()).await.unwrap();
            let pins = pins.iter().map(|pin| PinOperation::Pin(Arc::new(pin.clone()))).collect();
            state.apply(pins, Batch::new()).await.unwrap();
        });
        storage.close().unwrap();
    }
}

/// A pin that every peer holds.
pub(crate) fn pin(index: usize, name: &str) -> Pin {
    let options = PinOptions {
        replication_factor_min: -1,
        replication_factor_max: -1,
        name: name.to_owned(),
        ..Default::default()
    };
    Pin::new(cid(index), options)
}

/// A process that runs, and what it says.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("{text:?} was never said ({error}): {:#?}", self.seen),
            }
        }
    }

    /// Until it is ready as often as named.
    pub(crate) fn ready(mut self) -> Self {
        self.wait_for("** IPFS Cluster is READY **");
        self
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn exit_code(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.seen.extend(self.lines.iter());
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {:#?}", self.seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.exit_code()
    }

    pub(crate) fn said(&self, text: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.seen.extend(self.lines.iter());
            eprintln!("what process {} said: {:#?}", self.child.id(), self.seen);
        }
    }
}

/// An IPFS daemon that has everything, and what is pinned in it.
pub(crate) struct Ipfs {
    pub(crate) address: String,
    ipfs: LeanIpfs,
    runtime: tokio::runtime::Runtime,
    _kubo: FakeKubo,
}

impl Ipfs {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ipfs = LeanIpfs::default();
        let kubo = runtime.block_on(FakeKubo::start(ipfs.clone(), FakeKuboConfig::default())).unwrap();
        Self { address: kubo.multiaddress(), ipfs, runtime, _kubo: kubo }
    }

    pub(crate) fn pin(&self, index: usize) {
        self.runtime.block_on(self.ipfs.pin(&pin(index, ""))).unwrap();
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.runtime.block_on(self.ipfs.is_pinned(&cid(index), PinMode::Recursive)).unwrap()
    }
}

/// Waits for a fact.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} never came true");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An HTTP server whose answers can be changed, for a configuration, a gateway or an IPFS daemon.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) port: u16,
    files: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files: Arc<Mutex<BTreeMap<String, (u16, String)>>> = Arc::default();
        let server = Self { url: format!("http://127.0.0.1:{port}"), port, files: files.clone() };
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let found = files.lock().unwrap().get(path).cloned();
                let (status, body) = found.unwrap_or_else(|| (404, "not here\n".to_owned()));
                // Cut off, as by a machine that goes away.
                if status == 0 {
                    continue;
                }
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: \
                     close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        server
    }

    /// With this configuration at `/service.json`.
    pub(crate) fn of(template: &Value) -> Self {
        let server = Self::start();
        server.put("/service.json", template);
        server
    }

    pub(crate) fn put(&self, path: &str, template: &Value) {
        self.answer(path, 200, &template.to_string());
    }

    pub(crate) fn answer(&self, path: &str, status: u16, body: &str) {
        self.files.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    pub(crate) fn service_json(&self) -> String {
        format!("{}/service.json", self.url)
    }

    pub(crate) fn multiaddress(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.port)
    }
}

/// A configuration for followers of a cluster whose writer is not there.
pub(crate) fn template() -> Value {
    json!({
        "cluster": {
            "secret": "6d".repeat(32),
            "listen_multiaddress": ["/ip4/127.0.0.1/tcp/0"],
            "mdns_interval": "0s",
        },
        "consensus": {"crdt": {"cluster_name": "followed", "trusted_peers": [STRANGER]}},
        "informer": {"disk": {}},
    })
}

/// A peer that writes, and the configuration of those that follow it.
pub(crate) struct Writer {
    _folder: tempfile::TempDir,
    _running: Running,
    pub(crate) api: u16,
    pub(crate) template: Value,
}

impl Writer {
    pub(crate) fn start(ipfs: &str, cluster: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-service"));
            command.arg("-c").arg(folder.path().join("peer")).env_clear().env("HOME", folder.path());
            command.stdin(Stdio::null());
            command
        };
        let output = service().arg("init").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let id = text(service().arg("id").output().unwrap().stdout);
        let mut template = template();
        template["consensus"]["crdt"]["cluster_name"] = cluster.into();
        template["consensus"]["crdt"]["trusted_peers"] = json!([id]);
        let path = folder.path().join("peer/service.json");
        let mut own: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for key in ["secret", "mdns_interval", "listen_multiaddress"] {
            own["cluster"][key] = template["cluster"][key].clone();
        }
        own["consensus"]["crdt"]["cluster_name"] = cluster.into();
        own["consensus"]["crdt"]["trusted_peers"] = json!([id]);
        own["api"]["restapi"]["http_listen_multiaddress"] = json!("/ip4/127.0.0.1/tcp/0");
        own["ipfs_connector"]["ipfshttp"]["node_multiaddress"] = json!(ipfs);
        fs::write(path, own.to_string()).unwrap();
        let mut command = service();
        command.arg("daemon");
        let mut running = Running::start(command).ready();
        // Where the system put it.
        let swarm = port(&running.wait_for("\tlistening\t"));
        let api = port(&running.wait_for("REST API (HTTP): "));
        template["cluster"]["peer_addresses"] = json!([format!("/ip4/127.0.0.1/tcp/{swarm}/p2p/{id}")]);
        Self { _folder: folder, _running: running, api, template }
    }

    /// Has the cluster pin something, or unpin it.
    pub(crate) fn ask(&self, method: &str, index: usize, query: &str) {
        let answer = ask(self.api, method, &format!("/pins/{}{query}", CIDS[index]));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// The port in a line with an address.
fn port(line: &str) -> u16 {
    let digits = line.split("/tcp/").nth(1).unwrap();
    digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A request, and all of the answer.
pub(crate) fn ask(port: u16, method: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap().trim().to_owned()
}
