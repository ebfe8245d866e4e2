//! A real Kubo daemon on loopback, offline, in a folder of its own.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::daemon::terminate;
use crate::programs::{free_address, text};
use crate::wait::wait_until_seen;

/// Where `cargo xtask test` says that Kubo is.
const VARIABLE: &str = "IPFS_CLUSTER_TEST_KUBO";

pub(crate) struct Kubo {
    program: PathBuf,
    repo: TempDir,
    pub(crate) api: SocketAddr,
    child: Option<Child>,
}

/// The program, or none after saying so.
pub(crate) fn program() -> Option<PathBuf> {
    let program = std::env::var_os(VARIABLE).map(PathBuf::from);
    if program.is_none() {
        eprintln!("skipped: no Kubo (run `cargo xtask kubo`, or all tests with `cargo xtask test`)");
    }
    program
}

impl Kubo {
    /// A fresh repository and a running daemon; none without a program.
    pub(crate) fn start() -> Option<Self> {
        let program = program()?;
        let mut kubo = Self { program, repo: TempDir::new().unwrap(), api: free_address(), child: None };
        kubo.run(&["init", "--profile=test", "--empty-repo"]);
        kubo.run(&["config", "Addresses.API", &format!("/ip4/127.0.0.1/tcp/{}", kubo.api.port())]);
        kubo.run(&["config", "--json", "Addresses.Gateway", "null"]);
        kubo.run(&["config", "--json", "Addresses.Swarm", "[]"]);
        kubo.run(&["config", "--json", "Discovery.MDNS.Enabled", "false"]);
        kubo.resume();
        Some(kubo)
    }

    /// Starts the daemon (again) and waits until it answers.
    pub(crate) fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let child = self
            .command(&["daemon", "--offline", "--migrate=false"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_until_seen("Kubo answers", || {
            let output = self.command(&["--api", &self.multiaddr(), "id"]).output().unwrap();
            if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
        });
    }

    /// Ends the daemon as an operator does.
    pub(crate) fn stop(&mut self) {
        terminate("Kubo", self.child.take().expect("it does not run"));
    }

    pub(crate) fn multiaddr(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.api.port())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("IPFS_PATH", self.repo.path()).env("IPFS_TELEMETRY", "off").args(arguments);
        command
    }

    /// Runs `ipfs …` and gives what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "ipfs {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// Adds content without pinning it, and gives its CID.
    pub(crate) fn add(&self, content: &str) -> String {
        let file = self.repo.path().join("content");
        std::fs::write(&file, content).unwrap();
        self.run(&["add", "--quieter", "--pin=false", "--cid-version=1", file.to_str().unwrap()])
    }

    /// Adds a folder of two files, so that there is something below the root.
    pub(crate) fn add_folder(&self, content: &str) -> String {
        let folder = self.repo.path().join("folder");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a"), format!("{content} a")).unwrap();
        std::fs::write(folder.join("b"), format!("{content} b")).unwrap();
        self.run(&[
            "add",
            "--quieter",
            "--pin=false",
            "--cid-version=1",
            "--recursive",
            folder.to_str().unwrap(),
        ])
    }

    /// What the daemon itself lists as pinned recursively.
    pub(crate) fn pins(&self) -> BTreeSet<String> {
        self.run(&["pin", "ls", "--type", "recursive", "--quiet"]).lines().map(str::to_owned).collect()
    }

    /// Whether the daemon itself lists the CID as pinned this way.
    pub(crate) fn has(&self, cid: &str, mode: &str) -> bool {
        let output = self.command(&["pin", "ls", "--type", mode, cid]).output().unwrap();
        output.status.success()
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
