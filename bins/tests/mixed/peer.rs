//! A peer of either kind, on an address of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::kind::Kind;
use crate::kubo::Kubo;
use crate::programs::{Answers, IN_SECONDS, Said, documents, free_address};

/// Where the reference's programs are.
const GO_VARIABLE: &str = "IPFS_CLUSTER_MIXED_GO";
pub(crate) const SECRET: &str = "6d69786564206d69786564206d69786564206d69786564206d69786564206d69";
/// The port of the first peer. Each has another: one machine that dials from the port that it also dials to, on another
/// of its own addresses, would reach itself.
const SWARM_PORT: u16 = 9096;

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
    // Before its folder, which has its log.
    daemon: Daemon,
    folder: TempDir,
    go: PathBuf,
    api: String,
    bootstrap: Option<String>,
    environment: Vec<(&'static str, String)>,
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
        Self::init_as("crdt", kind, number, go, from, more)
    }

    /// As [`init`](Self::init), with another consensus.
    pub(crate) fn init_as(
        consensus: &str,
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
        let folder = TempDir::new().unwrap();
        let peer = Self {
            daemon: Daemon::new(&name, folder.path()),
            kind,
            name,
            kubo,
            number,
            folder,
            go,
            api,
            bootstrap: from.map(Self::address),
            environment,
        };
        let said = peer.service(&["init", "--consensus", consensus]);
        assert_eq!(said.code, 0, "{said:?}");
        Some(peer)
    }

    /// Joins through this one from its next start on, or through nobody.
    pub(crate) fn bootstrap(&mut self, from: Option<String>) {
        self.bootstrap = from;
    }

    /// Where its files are.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Trusts these peers from its next start on, and no others.
    pub(crate) fn trust(&mut self, ids: &[String]) {
        self.environment.push(("CLUSTER_CRDT_TRUSTEDPEERS", ids.join(",")));
    }

    fn service_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.kind.service(&self.go));
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
        let mut arguments = vec!["daemon"];
        if let Some(from) = &self.bootstrap {
            arguments.extend(["--bootstrap", from]);
        }
        let mut command = self.service_command(&arguments);
        let (program, api) = (self.kind.ctl(&self.go), &self.api);
        self.daemon.start(&mut command, || ctl(&program, api, &["version"]).code == 0);
    }

    /// Ends the daemon without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Ends the daemon as an operator does.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
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
        ctl(&whose.ctl(&self.go), &self.api, arguments)
    }
}

fn ctl(program: &Path, api: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new(program);
    command.args(["--host", api]).args(arguments).stdin(Stdio::null()).output().unwrap().into()
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
