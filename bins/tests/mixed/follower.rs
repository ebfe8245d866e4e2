//! A follower of either kind, run by its `ipfs-cluster-follow`, and where its configuration comes from.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::kubo::Kubo;
use crate::peer::{Kind, listen_address};
use crate::programs::{IN_SECONDS, Said, terminate, text, wait_until};

/// The name of the followed cluster.
const CLUSTER: &str = "mixed";

/// Serves one text to everybody who asks, as long as the process lives; gives its URL.
pub(crate) fn serve(content: String) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/service.json", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut lines = BufReader::new(&stream).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content.as_bytes()));
        }
    });
    url
}

/// A follower: its Kubo, its folder, and its process while it runs.
pub(crate) struct Follower {
    kind: Kind,
    pub(crate) kubo: Kubo,
    folder: TempDir,
    go: PathBuf,
    environment: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Follower {
    /// One that is initialised from a configuration and does not run.
    pub(crate) fn init(kind: Kind, number: usize, go: PathBuf, url: &str) -> Option<Self> {
        let kubo = Kubo::start()?;
        let mut environment = vec![
            ("CLUSTER_PEERNAME", "follower".to_owned()),
            ("CLUSTER_LISTENMULTIADDRESS", listen_address(number)),
            ("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", kubo.multiaddr()),
            ("CLUSTER_MDNSINTERVAL", "0s".to_owned()),
        ];
        environment.extend(IN_SECONDS.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let folder = TempDir::new().unwrap();
        let follower = Self { kind, kubo, folder, go, environment, child: None };
        follower.follow(&["init", url]).ok();
        Some(follower)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(match self.kind {
            Kind::Go => self.go.join("ipfs-cluster-follow"),
            Kind::Ours => PathBuf::from(env!("CARGO_BIN_EXE_ipfs-cluster-follow")),
        });
        command.arg("--config").arg(self.folder.path()).arg(CLUSTER).args(arguments);
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Runs a command of its `ipfs-cluster-follow`.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// Starts it (again) and waits until it answers.
    pub(crate) fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("follower.log"))
            .unwrap();
        let mut command = self.command(&["run"]);
        command.stdout(Stdio::from(log.try_clone().unwrap())).stderr(Stdio::from(log));
        self.child = Some(command.spawn().unwrap());
        wait_until("the follower answers", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the follower ended: {status}");
            }
            self.follow(&["info"]).out.contains("Cluster Peer online: true")
        });
    }

    /// Ends it without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it does not run");
        child.kill().unwrap();
        child.wait().unwrap();
        if self.kind == Kind::Go {
            // The reference does not start while the socket is there.
            let _ = std::fs::remove_file(self.folder.path().join(CLUSTER).join("api-socket"));
        }
    }

    /// Ends it as a user does.
    pub(crate) fn stop(&mut self) {
        terminate("the follower", self.child.take().expect("it does not run"));
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

    pub(crate) fn log(&self) -> String {
        text(&std::fs::read(self.folder.path().join("follower.log")).unwrap_or_default())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(6_000);
            eprintln!("--- log of the follower ---\n{}", String::from_utf8_lossy(&log.as_bytes()[start..]));
        }
    }
}
