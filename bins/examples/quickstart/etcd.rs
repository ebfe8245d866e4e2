//! The etcd of the quickstart: one that runs already, or one that lives as long as the quickstart.

use std::env;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use ipfs_cluster::consensus::EtcdConfig;
use ipfs_cluster::types::PeerId;

/// Names a program, as in the tests.
const PROGRAM_VARIABLE: &str = "IPFS_CLUSTER_TEST_ETCD";
const PROGRAM: &str = "etcd";

/// Where the peers agree.
pub(crate) struct Etcd {
    url: String,
    /// The process, where it is ours.
    own: Option<Child>,
}

impl Etcd {
    /// The one at an address, or else one of our own, with its data in this folder.
    pub(crate) fn at_or_start(url: Option<String>, folder: &Path) -> Result<Self> {
        match url {
            Some(url) => Ok(Self { url, own: None }),
            None => Self::start(folder),
        }
    }

    fn start(folder: &Path) -> Result<Self> {
        let program = env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| OsString::from(PROGRAM));
        let [clients, peers] = free_ports()?;
        let (url, peer_url) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
        let started = Command::new(&program)
            .args(["--name", "quickstart", "--log-level", "error", "--data-dir"])
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("quickstart={peer_url}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(child) => Ok(Self { url, own: Some(child) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no etcd at hand ({} cannot be found). Either name one that runs: --etcd http://127.0.0.1:2379\n\
                 or put the program on PATH: https://github.com/etcd-io/etcd/releases\n\
                 or build it, with Go 1.26: (cd tools/etcd && go build -o /tmp/etcd go.etcd.io/etcd/server/v3), and name it: \
                 {PROGRAM_VARIABLE}=/tmp/etcd",
                program.display()
            ),
            Err(error) => Err(error).with_context(|| format!("starting {}", program.display())),
        }
    }

    /// What a peer is told, in a cluster whose first peer is this one: another run is another cluster.
    pub(crate) fn config(&self, first: &PeerId) -> EtcdConfig {
        let mut config = EtcdConfig::default();
        config.endpoints = vec![self.url.clone()];
        config.prefix = format!("/ipfs-cluster/quickstart-{first}");
        config
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            // What it wrote is in a temporary folder.
            let _ = own.kill();
            let _ = own.wait();
        }
    }
}

fn free_ports() -> Result<[u16; 2]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port");
    let (one, other) = (listen()?, listen()?);
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}
