//! A peer of either kind, on an address of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::kubo::Kubo;
use crate::programs::{Answers, IN_SECONDS, Said, documents, free_address, terminate, text, wait_until};

/// Where the reference's programs are.
const GO_VARIABLE: &str = "IPFS_CLUSTER_MIXED_GO";
pub(crate) const SECRET: &str = "6d69786564206d69786564206d69786564206d69786564206d69786564206d69";
/// The port of the first peer. Each has another: one machine that dials from the port that it also dials to, on another
/// of its own addresses, would reach itself.
const SWARM_PORT: u16 = 9096;

/// Whose programs a peer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Go,
    Ours,
}

/// The reference's programs; none after saying why, also where the addresses of the peers are not there.
pub(crate) fn go_programs() -> Option<PathBuf> {
    let folder = std::env::var_os(GO_VARIABLE).map(PathBuf::from);
    if folder.is_none() || TcpListener::bind((address(0).as_str(), 0)).is_err() {
        eprintln!("skipped: no Go programs or no network namespace (run `cargo xtask mixed FOLDER`)");
        return None;
    }
    folder
}

fn address(number: usize) -> String {
    format!("10.77.0.{}", number + 1)
}

pub(crate) fn listen_address(number: usize) -> String {
    format!("/ip4/{}/tcp/{}", address(number), usize::from(SWARM_PORT) + number)
}

/// A peer: its Kubo, its folder, and its daemon while it runs.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) kubo: Kubo,
    number: usize,
    folder: TempDir,
    go: PathBuf,
    api: String,
    bootstrap: Option<String>,
    environment: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Peer {
    /// Initialises a peer and starts it; it knows nobody but the one it starts from.
    pub(crate) fn start(
        kind: Kind,
        number: usize,
        go: PathBuf,
        from: Option<&Self>,
        more: &[(&'static str, &str)],
    ) -> Option<Self> {
        let mut peer = Self::init(kind, number, go, from, more)?;
        peer.resume();
        Some(peer)
    }

    /// Initialises a peer that trusts everybody, and does not start it.
    pub(crate) fn init(
        kind: Kind,
        number: usize,
        go: PathBuf,
        from: Option<&Self>,
        more: &[(&'static str, &str)],
    ) -> Option<Self> {
        let kubo = Kubo::start()?;
        let multiaddr = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}");
        let api = multiaddr(free_address().port());
        let name = format!("{kind:?}-{number}").to_lowercase();
        let mut environment = vec![
            ("CLUSTER_PEERNAME", name.clone()),
            ("CLUSTER_SECRET", SECRET.to_owned()),
            ("CLUSTER_LISTENMULTIADDRESS", listen_address(number)),
            ("CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS", api.clone()),
            ("CLUSTER_IPFSPROXY_LISTENMULTIADDRESS", multiaddr(free_address().port())),
            ("CLUSTER_PINSVCAPI_HTTPLISTENMULTIADDRESS", multiaddr(free_address().port())),
            ("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", kubo.multiaddr()),
            ("CLUSTER_MDNSINTERVAL", "0s".to_owned()),
            ("CLUSTER_CRDT_TRUSTEDPEERS", "*".to_owned()),
        ];
        environment.extend(IN_SECONDS.iter().chain(more).map(|(key, value)| (*key, (*value).to_owned())));
        let peer = Self {
            kind,
            name,
            kubo,
            number,
            folder: TempDir::new().unwrap(),
            go,
            api,
            bootstrap: from.map(Self::address),
            environment,
            child: None,
        };
        let said = peer.service(&["init"]);
        assert_eq!(said.code, 0, "{said:?}");
        Some(peer)
    }

    /// Trusts these peers from its next start on, and no others.
    pub(crate) fn trust(&mut self, ids: &[String]) {
        self.environment.push(("CLUSTER_CRDT_TRUSTEDPEERS", ids.join(",")));
    }

    fn program(&self, name: &str) -> PathBuf {
        match (self.kind, name) {
            (Kind::Go, _) => self.go.join(name),
            (Kind::Ours, "ipfs-cluster-ctl") => PathBuf::from(env!("CARGO_BIN_EXE_ipfs-cluster-ctl")),
            (Kind::Ours, _) => PathBuf::from(env!("CARGO_BIN_EXE_ipfs-cluster-service")),
        }
    }

    fn service_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program("ipfs-cluster-service"));
        command.arg("--config").arg(self.folder.path()).args(arguments);
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Runs a command of its `ipfs-cluster-service`.
    pub(crate) fn service(&self, arguments: &[&str]) -> Said {
        self.service_command(arguments).output().unwrap().into()
    }

    /// Starts the daemon (again) and waits until it answers.
    pub(crate) fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut arguments = vec!["daemon"];
        if let Some(from) = &self.bootstrap {
            arguments.extend(["--bootstrap", from]);
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("daemon.log"))
            .unwrap();
        let mut command = self.service_command(&arguments);
        self.child = Some(
            command.stdout(Stdio::from(log.try_clone().unwrap())).stderr(Stdio::from(log)).spawn().unwrap(),
        );
        wait_until(&format!("{} answers", self.name), || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("{} ended: {status}", self.name);
            }
            self.ctl(self.kind, &["version"]).code == 0
        });
    }

    /// Ends the daemon without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it does not run");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends the daemon as an operator does.
    pub(crate) fn stop(&mut self) {
        terminate(&self.name, self.child.take().expect("it does not run"));
    }

    pub(crate) fn id(&self) -> String {
        // From the file, because it is wanted before it runs, too.
        let identity = std::fs::read(self.folder.path().join("identity.json")).unwrap();
        let identity: Value = serde_json::from_slice(&identity).unwrap();
        identity["id"].as_str().unwrap_or_else(|| panic!("{identity}")).to_owned()
    }

    /// Where other peers find it.
    pub(crate) fn address(&self) -> String {
        format!("{}/p2p/{}", listen_address(self.number), self.id())
    }

    /// Runs the `ipfs-cluster-ctl` of either kind against this peer.
    pub(crate) fn ctl(&self, whose: Kind, arguments: &[&str]) -> Said {
        let program = match whose {
            Kind::Go => self.go.join("ipfs-cluster-ctl"),
            Kind::Ours => PathBuf::from(env!("CARGO_BIN_EXE_ipfs-cluster-ctl")),
        };
        let mut command = Command::new(program);
        command.args(["--host", &self.api]).args(arguments).stdin(Stdio::null());
        command.output().unwrap().into()
    }

    pub(crate) fn log(&self) -> String {
        text(&std::fs::read(self.folder.path().join("daemon.log")).unwrap_or_default())
    }
}

impl Answers for Peer {
    fn name(&self) -> &str {
        &self.name
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.ctl(self.kind, &[&["--enc", "json"], arguments].concat());
        assert_eq!(said.code, 0, "{}: {arguments:?}: {said:?}", self.name);
        documents(&said.out)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(6_000);
            eprintln!("--- log of {} ---\n{}", self.name, String::from_utf8_lossy(&log.as_bytes()[start..]));
        }
    }
}
