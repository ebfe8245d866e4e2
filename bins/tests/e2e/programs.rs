//! The programs under test, as a person runs them, and what several peers are asked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ipfs_cluster::testing::power_cut::{Loss, PowerCut};
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::kubo::Kubo;
use crate::ports::free_port;
use crate::wait::wait_until_seen;

/// Seconds instead of minutes, so that a test of several peers sees what operators see.
pub(crate) const IN_SECONDS: [(&str, &str); 6] = [
    // Twice as long for dead is who is not heard of, and nobody is that late on a busy machine.
    ("CLUSTER_MONITORPINGINTERVAL", "3s"),
    ("CLUSTER_PUBSUBMON_CHECKINTERVAL", "1s"),
    ("CLUSTER_DISK_METRICTTL", "12s"),
    ("CLUSTER_TAGS_METRICTTL", "12s"),
    ("CLUSTER_STATESYNCINTERVAL", "2s"),
    ("CLUSTER_CRDT_REBROADCASTINTERVAL", "3s"),
];

pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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

/// The JSON documents that a ctl wrote, whether they came as lines or as a list.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    documents
        .flat_map(|document| match document.unwrap() {
            Value::Array(items) => items,
            other => vec![other],
        })
        .collect()
}

/// A peer of any kind that answers its ctl.
pub(crate) trait Answers {
    fn name(&self) -> &str;
    /// What its own ctl says in JSON.
    fn json(&self, arguments: &[&str]) -> Vec<Value>;
}

/// The pinset as a peer lists it, by CID, in its own JSON.
pub(crate) fn pinset(peer: &impl Answers) -> BTreeMap<String, Value> {
    let pins = peer.json(&["pin", "ls"]);
    pins.into_iter().map(|pin| (pin["cid"].as_str().unwrap_or_default().to_owned(), pin)).collect()
}

/// Waits until every peer lists as many peers as there are, and each of them answers.
#[track_caller]
pub(crate) fn wait_until_all_list_all<'a, P: Answers + 'a>(peers: impl IntoIterator<Item = &'a P> + Clone) {
    let count = peers.clone().into_iter().count();
    for peer in peers {
        wait_until_seen(&format!("{} lists {count} peers without errors", peer.name()), || {
            let listed = peer.json(&["peers", "ls"]);
            let is_well = |info: &Value| info["error"].as_str().is_none_or(str::is_empty);
            if listed.len() == count && listed.iter().all(is_well) { Ok(()) } else { Err(listed) }
        });
    }
}

/// Waits until every peer lists this many pins, all the same.
#[track_caller]
pub(crate) fn wait_until_equal<'a, P: Answers + 'a>(
    peers: impl IntoIterator<Item = &'a P> + Clone,
    pins: usize,
) {
    for peer in peers.clone() {
        wait_until_seen(&format!("{} has {pins} pins", peer.name()), || match pinset(peer) {
            all if all.len() == pins => Ok(()),
            others => Err(others),
        });
    }
    wait_until_seen("all peers list the same pinset", || {
        let pinsets: Vec<_> = peers.clone().into_iter().map(pinset).collect();
        let is_equal = pinsets.iter().all(|pinset| pinset.len() == pins && *pinset == pinsets[0]);
        if is_equal { Ok(()) } else { Err(pinsets) }
    });
}

/// The same content at every daemon, and its CID.
pub(crate) fn everywhere<'a>(kubos: impl IntoIterator<Item = &'a Kubo>, content: &str) -> String {
    let mut cids = kubos.into_iter().map(|kubo| kubo.add(content));
    let cid = cids.next().unwrap();
    assert!(cids.all(|other| other == cid));
    cid
}

/// A peer: its folder, and its daemon while it runs.
pub(crate) struct Peer {
    // Before its folder, which has its log.
    daemon: Daemon,
    pub(crate) folder: TempDir,
    pub(crate) api: SocketAddr,
    /// Where other peers find it.
    swarm: SocketAddr,
    name: String,
    environment: Vec<(String, String)>,
    /// What the daemon is started with, `--bootstrap` for one.
    pub(crate) arguments: Vec<String>,
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
        let (api, swarm) = (free_address(), free_address());
        let given = environment.iter().find(|(variable, _)| *variable == "CLUSTER_PEERNAME");
        let name = given.map_or("under-test", |(_, name)| *name);
        let mut all = vec![
            (
                "CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS".to_owned(),
                format!("/ip4/127.0.0.1/tcp/{}", api.port()),
            ),
            ("CLUSTER_IPFSHTTP_NODEMULTIADDRESS".to_owned(), ipfs.to_owned()),
            ("CLUSTER_PEERNAME".to_owned(), name.to_owned()),
            // Nobody but this machine, and nobody is looked for.
            ("CLUSTER_LISTENMULTIADDRESS".to_owned(), format!("/ip4/127.0.0.1/tcp/{}", swarm.port())),
            ("CLUSTER_MDNSINTERVAL".to_owned(), "0s".to_owned()),
            // Seconds instead of minutes, so that a test sees what operators see.
            ("CLUSTER_PINRECOVERINTERVAL".to_owned(), "2s".to_owned()),
            ("CLUSTER_STATESYNCINTERVAL".to_owned(), "1s".to_owned()),
        ];
        all.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let folder = TempDir::new().unwrap();
        let peer = Self {
            daemon: Daemon::new(name, folder.path()),
            folder,
            api,
            swarm,
            name: name.to_owned(),
            environment: all,
            arguments: Vec::new(),
            power_cut: None,
        };
        let mut arguments = vec!["init"];
        arguments.extend(init);
        peer.service(&arguments).ok();
        peer
    }

    /// Has it join through another one from its next start on.
    pub(crate) fn bootstrap(&mut self, through: &Self) {
        self.arguments = vec!["--bootstrap".to_owned(), through.multiaddr()];
    }

    /// A peer that does not run, with a copy of the folder of this one, identity and all, as it is now. On ports of its own.
    pub(crate) fn copy(&self, name: &str) -> Self {
        let (api, swarm, folder) = (free_address(), free_address(), TempDir::new().unwrap());
        copy_folder(self.path(), folder.path());
        std::fs::remove_file(folder.path().join("daemon.log")).unwrap();
        let mut environment = self.environment.clone();
        for (variable, value) in [
            ("CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS", format!("/ip4/127.0.0.1/tcp/{}", api.port())),
            ("CLUSTER_LISTENMULTIADDRESS", format!("/ip4/127.0.0.1/tcp/{}", swarm.port())),
            ("CLUSTER_PEERNAME", name.to_owned()),
        ] {
            environment.push((variable.to_owned(), value));
        }
        Self {
            daemon: Daemon::new(name, folder.path()),
            folder,
            api,
            swarm,
            name: name.to_owned(),
            environment,
            arguments: Vec::new(),
            power_cut: None,
        }
    }

    /// Starts the daemon (again) and waits until it answers.
    pub(crate) fn resume(&mut self) {
        let mut arguments = vec!["daemon"];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let mut command = self.service_command(&arguments);
        if let Some(power_cut) = &self.power_cut {
            power_cut.env(&mut command);
        }
        self.daemon.start(&mut command, || ctl(self.api, &["version"]).code == 0);
    }

    /// Ends the daemon as an operator does; gives its exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        self.daemon.stop().code().unwrap_or(-1)
    }

    /// Waits until the daemon has ended by itself; gives its exit code.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> i32 {
        self.daemon.ended().code().unwrap_or(-1)
    }

    /// Ends the daemon without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Ends the daemon and takes from its disk whatever was not synced.
    pub(crate) fn cut_power(&mut self, loss: Loss) {
        self.kill();
        self.restore(loss);
    }

    /// Takes from the disk of a daemon that was killed whatever was not synced.
    pub(crate) fn restore(&self, loss: Loss) {
        self.power_cut.as_ref().expect("it cannot lose power").restore(loss).unwrap();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.daemon.is_running()
    }

    /// Its id, also while it does not run.
    pub(crate) fn id(&self) -> String {
        let identity = std::fs::read(self.folder.path().join("identity.json")).unwrap();
        let identity: Value = serde_json::from_slice(&identity).unwrap();
        identity["id"].as_str().unwrap().to_owned()
    }

    /// Where other peers reach it.
    pub(crate) fn multiaddr(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", self.swarm.port(), self.id())
    }

    /// Whether it would find another one after its next start.
    pub(crate) fn remembers(&self, other: &Self) -> bool {
        let peerstore = std::fs::read_to_string(self.folder.path().join("peerstore"));
        peerstore.is_ok_and(|known| known.contains(&other.id()))
    }

    /// Everything that its daemons logged.
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
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
        ctl(self.api, arguments)
    }

    /// What `status CID` says, in small letters for comparison with the names of statuses.
    pub(crate) fn status(&self, cid: &str) -> String {
        self.ctl(&["status", cid]).ok().to_lowercase()
    }

    #[track_caller]
    pub(crate) fn wait_for_status(&self, cid: &str, status: &str) {
        self.wait_for_said(cid, &format!(": {status}"));
    }

    /// Waits until `status CID` says this.
    #[track_caller]
    pub(crate) fn wait_for_said(&self, cid: &str, text: &str) {
        wait_until_seen(&format!("{text:?} of {cid}"), || {
            let said = self.status(cid);
            if said.contains(text) { Ok(()) } else { Err(said) }
        });
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Answers for Peer {
    fn name(&self) -> &str {
        &self.name
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        documents(&self.ctl(&[&["--enc", "json"], arguments].concat()).ok())
    }
}

/// Runs `ipfs-cluster-ctl …` against the peer whose API is here.
fn ctl(api: SocketAddr, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-ctl"));
    command.args(["--host", &format!("/ip4/127.0.0.1/tcp/{}", api.port())]).args(arguments);
    command.stdin(Stdio::null()).output().unwrap().into()
}
