//! A real etcd, of one member or more, for tests: named by a variable, or built from `tools/etcd`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tempfile::TempDir;

use crate::go_program::find_or_build;
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

    /// One at these ports, with an empty folder.
    pub(crate) fn start_at(port: u16, peer_port: u16) -> Option<Self> {
        let [server] = Self::start_at_all([(port, peer_port)], &[])?;
        Some(server)
    }

    /// Several that are one etcd.
    pub(crate) fn start_all<const COUNT: usize>(flags: &[&str]) -> Option<[Self; COUNT]> {
        Self::start_at_all(std::array::from_fn(|_| (free_port(), free_port())), flags)
    }

    fn start_at_all<const COUNT: usize>(ports: [(u16, u16); COUNT], flags: &[&str]) -> Option<[Self; COUNT]> {
        program()?;
        let mut servers = std::array::from_fn(|number| Self {
            name: format!("member{number}"),
            cluster: String::new(),
            scheme: if flags.contains(&"--cert-file") { "https" } else { "http" },
            folder: TempDir::new().unwrap(),
            port: ports[number].0,
            peer_port: ports[number].1,
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
            .arg(self.data())
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

    /// Sends its process a signal: `STOP` has it stand still until `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let child = self.child.lock().unwrap();
        let id = child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
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
