//! A follower of either kind, run by its `ipfs-cluster-follow`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::kind::Kind;
use crate::kubo::Kubo;
use crate::peer::listen_address;
use crate::programs::{IN_SECONDS, Said};
use crate::wait::wait_until;

/// The name of the followed cluster.
const CLUSTER: &str = "mixed";

/// A follower: its Kubo, its folder, and its process while it runs.
pub(crate) struct Follower {
    pub(crate) kubo: Kubo,
    daemon: Daemon,
    program: Program,
}

/// What is run, and where.
struct Program {
    kind: Kind,
    path: PathBuf,
    folder: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Program {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--config").arg(self.folder.path()).arg(CLUSTER).args(arguments);
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }
}

impl Follower {
    /// One that is initialised from a configuration and does not run.
    pub(crate) fn init(kind: Kind, number: usize, go: &Path, url: &str) -> Option<Self> {
        let kubo = Kubo::start()?;
        let mut environment = vec![
            ("CLUSTER_PEERNAME", "follower".to_owned()),
            ("CLUSTER_LISTENMULTIADDRESS", listen_address(number)),
            ("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", kubo.multiaddr()),
            ("CLUSTER_MDNSINTERVAL", "0s".to_owned()),
        ];
        environment.extend(IN_SECONDS.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let folder = TempDir::new().unwrap();
        let path = match kind {
            Kind::Go => go.join("ipfs-cluster-follow"),
            Kind::Ours => env!("CARGO_BIN_EXE_ipfs-cluster-follow").into(),
        };
        let daemon = Daemon::new("the follower", folder.path());
        let follower = Self { kubo, daemon, program: Program { kind, path, folder, environment } };
        follower.follow(&["init", url]).ok();
        Some(follower)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.program.kind
    }

    /// Runs a command of its `ipfs-cluster-follow`.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Said {
        self.program.command(arguments).output().unwrap().into()
    }

    /// Starts it (again) and waits until it answers.
    pub(crate) fn resume(&mut self) {
        let program = &self.program;
        self.daemon.start(&mut program.command(&["run"]), || {
            let info = Said::from(program.command(&["info"]).output().unwrap());
            info.out.contains("Cluster Peer online: true")
        });
    }

    /// Ends it without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
        if self.program.kind == Kind::Go {
            // The reference does not start while the socket is there.
            let _ = std::fs::remove_file(self.program.folder.path().join(CLUSTER).join("api-socket"));
        }
    }

    /// Ends it as a user does.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }

    /// What it lists: the status of each CID.
    pub(crate) fn list(&self) -> BTreeMap<String, String> {
        let listed = self.follow(&["list"]).ok();
        let words = listed.lines().map(|line| line.split_whitespace().map(str::to_owned));
        words
            .filter_map(|mut words| words.next().zip(words.next()))
            .map(|(status, cid)| (cid, status))
            .collect()
    }

    /// Waits until its daemon holds these and it lists nothing else.
    #[track_caller]
    pub(crate) fn wait_until_it_holds(&self, cids: &[&String]) {
        let expected: BTreeMap<String, String> =
            cids.iter().map(|cid| ((*cid).clone(), "pinned".to_owned())).collect();
        let mut listed = BTreeMap::new();
        wait_until(&format!("the follower lists {expected:?}"), || {
            let now = self.list();
            if now != listed {
                eprintln!("the follower lists {now:?}");
                listed = now;
            }
            listed == expected
        });
        for cid in cids {
            assert!(self.kubo.has(cid, "recursive"), "the daemon of the follower lacks {cid}");
        }
    }
}
