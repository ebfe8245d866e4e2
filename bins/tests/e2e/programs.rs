//! The programs under test, as a person runs them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ipfs_cluster::testing::power_cut::{Loss, PowerCut};
use tempfile::TempDir;

/// Longest wait for a fact, on a machine that has other things to do.
const FACT_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a fact.
#[track_caller]
pub(crate) fn wait_until(fact: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < FACT_TIMEOUT, "waited {FACT_TIMEOUT:?} in vain until {fact}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Said {
    /// Its output, when it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

/// A peer: its folder, and its daemon while it runs.
pub(crate) struct Peer {
    pub(crate) folder: TempDir,
    pub(crate) api: SocketAddr,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    /// What its daemon loses when the power is cut; nothing without.
    pub(crate) power_cut: Option<PowerCut>,
}

impl Peer {
    /// A fresh peer beside the IPFS daemon at a multiaddress, initialised and running.
    pub(crate) fn start(ipfs: &str, init: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut peer = Self::init(ipfs, init, environment);
        peer.resume();
        peer
    }

    pub(crate) fn init(ipfs: &str, init: &[&str], environment: &[(&str, &str)]) -> Self {
        let api = free_address();
        let mut all = vec![
            (
                "CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS".to_owned(),
                format!("/ip4/127.0.0.1/tcp/{}", api.port()),
            ),
            ("CLUSTER_IPFSHTTP_NODEMULTIADDRESS".to_owned(), ipfs.to_owned()),
            ("CLUSTER_PEERNAME".to_owned(), "under-test".to_owned()),
            // Nobody but this machine, and nobody is looked for.
            (
                "CLUSTER_LISTENMULTIADDRESS".to_owned(),
                format!("/ip4/127.0.0.1/tcp/{}", free_address().port()),
            ),
            ("CLUSTER_MDNSINTERVAL".to_owned(), "0s".to_owned()),
            // Seconds instead of minutes, so that a test sees what operators see.
            ("CLUSTER_PINRECOVERINTERVAL".to_owned(), "2s".to_owned()),
            ("CLUSTER_STATESYNCINTERVAL".to_owned(), "1s".to_owned()),
        ];
        all.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let peer =
            Self { folder: TempDir::new().unwrap(), api, environment: all, child: None, power_cut: None };
        let mut arguments = vec!["init"];
        arguments.extend(init);
        peer.service(&arguments).ok();
        peer
    }

    /// Starts the daemon (again) and waits until it answers.
    pub(crate) fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = self.service_command(&["daemon"]);
        if let Some(power_cut) = &self.power_cut {
            power_cut.env(&mut command);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(std::fs::File::create(self.folder.path().join("daemon.log")).unwrap()))
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_until("the daemon answers", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the daemon ended: {status}\n{}", self.log());
            }
            self.ctl(&["version"]).code == 0
        });
    }

    /// Ends the daemon as an operator does; gives its exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        let mut child = self.child.take().expect("it does not run");
        assert!(Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap().success());
        let mut code = None;
        wait_until("the daemon stops", || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(-1)
    }

    /// Ends the daemon without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it does not run");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends the daemon and takes from its disk whatever was not synced.
    pub(crate) fn cut_power(&mut self, loss: Loss) {
        self.kill();
        self.power_cut.as_ref().expect("it cannot lose power").restore(loss).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default()
    }

    pub(crate) fn service_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-service"));
        command.arg("--config").arg(self.folder.path()).args(arguments).envs(self.environment.clone());
        command
    }

    /// Runs `ipfs-cluster-service …` to its end.
    pub(crate) fn service(&self, arguments: &[&str]) -> Said {
        self.service_command(arguments).stdin(Stdio::null()).output().unwrap().into()
    }

    /// Runs `ipfs-cluster-ctl …` against this peer.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Said {
        let host = format!("/ip4/127.0.0.1/tcp/{}", self.api.port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-ctl"));
        command.args(["--host", &host]).args(arguments).stdin(Stdio::null());
        command.output().unwrap().into()
    }

    /// What `status CID` says, in small letters for comparison with the names of statuses.
    pub(crate) fn status(&self, cid: &str) -> String {
        self.ctl(&["status", cid]).ok().to_lowercase()
    }

    #[track_caller]
    pub(crate) fn wait_for_status(&self, cid: &str, status: &str) {
        wait_until(&format!("{cid} is {status}; it is {}", self.status(cid)), || {
            self.status(cid).contains(&format!(": {status}"))
        });
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                eprintln!("--- log of the daemon ---\n{}", self.log());
            }
        }
    }
}
