//! What the tests stand in: a home folder with followers, their IPFS daemons, a peer that writes.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ipfs_cluster::config::StorageEngine;
use ipfs_cluster::ipfs_connector::IpfsConnector as _;
use ipfs_cluster::state::{State as _, StoreState};
use ipfs_cluster::storage::Batch;
use ipfs_cluster::testing::fake_kubo::LeanIpfs;
use ipfs_cluster::types::{Cid, Pin, PinOperation, PinOptions, parse_cid};
use ipfs_cluster_bins::service::storage;
use serde_json::{Value, json};

pub(crate) use crate::http::{CUT_OFF, Server, ask};
pub(crate) use crate::ports::free_port;
pub(crate) use crate::process::Running;
use crate::process::port;
pub(crate) use crate::ran::Ran;
pub(crate) use crate::wait::{PATIENCE, wait_until};

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
        self.command(arguments).envs(variables.iter().copied()).output().unwrap().into()
    }

    pub(crate) fn start(&self, arguments: &[&str], ipfs: &str, variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(arguments);
        command.env("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", ipfs).envs(variables.iter().copied());
        Running::start(&mut command)
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

/// An IPFS daemon that has everything, and what is pinned in it.
pub(crate) type Ipfs = crate::ipfs::Ipfs<LeanIpfs>;

impl Ipfs {
    pub(crate) fn pin(&self, index: usize) {
        self.runtime.block_on(self.daemon.pin(&pin(index, ""))).unwrap();
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.is_pinned(&cid(index))
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
        let mut running = Running::start(service().arg("daemon")).ready();
        // Where the system put it.
        let swarm = port(&running.wait_for("\tlistening\t"));
        let api = running.api_port();
        template["cluster"]["peer_addresses"] = json!([format!("/ip4/127.0.0.1/tcp/{swarm}/p2p/{id}")]);
        Self { _folder: folder, _running: running, api, template }
    }

    /// Has the cluster pin something, or unpin it.
    pub(crate) fn ask(&self, method: &str, index: usize, query: &str) {
        let answer = ask(self.api, method, &format!("/pins/{}{query}", CIDS[index]));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap().trim().to_owned()
}
