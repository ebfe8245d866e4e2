//! Adds onto real Kubo daemons. Without Kubo it says that it is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod by_reference;
mod hashes;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ipfs_cluster::Result;
use ipfs_cluster::adder::{Content, Entry};
use ipfs_cluster::cluster::Until;
use ipfs_cluster::consensus::{Crdt, CrdtConfig};
use ipfs_cluster::ipfs_connector::KuboConnector;
use ipfs_cluster::testing::TestCluster;
use ipfs_cluster::testing::cluster::TestClusterConfig;
use ipfs_cluster::types::{AddOptions, PeerId, PinOptions};
use tokio::sync::watch;

const PIECE_BYTES: usize = 1024 * 1024;
/// Pieces of the file, where the environment does not say: more than the window holds, few enough for every run.
const PIECES: usize = 96;
/// Longer than anything takes, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a daemon may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const PIECES_VARIABLE: &str = "IPFS_CLUSTER_TEST_ADD_MIB";

/// Bytes that nothing makes smaller and nobody has twice.
fn piece(number: usize) -> Bytes {
    let mut state = number as u64 + 1;
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    while bytes.len() < PIECE_BYTES {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.into()
}

/// One large file, and how much of it was read. Its last quarter comes when it may.
struct Large {
    pieces: usize,
    opened: bool,
    read: Arc<AtomicUsize>,
    may_end: watch::Receiver<bool>,
}

#[async_trait]
impl Content for Large {
    async fn next(&mut self) -> Result<Option<Entry>> {
        let first = !std::mem::replace(&mut self.opened, true);
        Ok(first.then(|| Entry { path: "large".to_owned(), ..Entry::default() }))
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        let number = self.read.fetch_add(1, Ordering::SeqCst);
        if number >= self.pieces / 4 * 3 {
            self.may_end.wait_for(|may| *may).await.expect("the test goes on");
        }
        Ok((number < self.pieces).then(|| piece(number)))
    }
}

/// A daemon on loopback that others can connect to.
struct Kubo {
    program: PathBuf,
    repository: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Kubo {
    /// Whether it keeps references to files.
    fn start_with(filestore: bool) -> Option<Self> {
        let Some(program) = std::env::var_os("IPFS_CLUSTER_TEST_KUBO").map(PathBuf::from) else {
            println!("skipped: no Kubo (run `cargo xtask kubo`)");
            return None;
        };
        let mut kubo = Self { program, repository: tempfile::tempdir().unwrap(), daemon: None };
        // The profile has no bootstrap peers and random ports on 127.0.0.1.
        kubo.ipfs(&["init", "--profile=test", "--empty-repo"]);
        kubo.ipfs(&["config", "Routing.Type", "none"]);
        kubo.ipfs(&["config", "--json", "Addresses.Gateway", "null"]);
        kubo.ipfs(&["config", "--json", "Experimental.FilestoreEnabled", &filestore.to_string()]);
        kubo.daemon = Some(kubo.command(&["daemon"]).stdout(Stdio::null()).spawn().unwrap());
        Some(kubo)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("IPFS_PATH", self.repository.path()).env("IPFS_TELEMETRY", "off");
        command.stderr(Stdio::null());
        command
    }

    fn ipfs(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "ipfs {arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn connector(&self) -> KuboConnector {
        let api = self.repository.path().join("api");
        let address = async {
            loop {
                match std::fs::read_to_string(&api) {
                    Ok(address) if !address.is_empty() => return address,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let address = tokio::time::timeout(START_TIMEOUT, address).await.expect("a Kubo that starts");
        KuboConnector::new(address.as_str()).unwrap()
    }

    fn swarm_address(&self) -> String {
        let addresses = self.ipfs(&["id", "--format=<addrs>"]);
        addresses.lines().find(|address| address.starts_with("/ip4/127.0.0.1/tcp/")).unwrap().to_owned()
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        // What a daemon that was killed leaves behind.
        for leftover in ["api", "repo.lock"] {
            let _ = std::fs::remove_file(self.repository.path().join(leftover));
        }
    }

    /// Whether the repository alone gives every byte.
    fn has_all(&self, root: &str, pieces: usize) -> bool {
        let stat = self.command(&["--offline", "dag", "stat", "--progress=false", root]).output().unwrap();
        let mut cat = self.command(&["--offline", "cat", root]).stdout(Stdio::piped()).spawn().unwrap();
        let mut bytes = cat.stdout.take().unwrap();
        let mut found = vec![0; PIECE_BYTES];
        let equal = (0..pieces).all(|number| bytes.read_exact(&mut found).is_ok() && found == piece(number));
        let ended = equal && bytes.read(&mut found).unwrap() == 0;
        stat.status.success() && cat.wait().unwrap().success() && ended
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What has to happen; the limits of test clusters are for paused time, which is none here.
async fn within<T>(what: impl Future<Output = Result<T>>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it did not happen").unwrap()
}

/// Peers with a daemon each, which know all metrics; with `filestore` the first keeps references.
async fn peers(count: usize, filestore: bool) -> Option<(TestCluster, Vec<Kubo>)> {
    let daemons =
        (0..count).map(|index| Kubo::start_with(filestore && index == 0)).collect::<Option<Vec<_>>>()?;
    let mut connectors = Vec::new();
    for daemon in &daemons {
        connectors.push(daemon.connector().await);
    }
    for (index, daemon) in daemons.iter().enumerate() {
        for other in &daemons[..index] {
            daemon.ipfs(&["swarm", "connect", &other.swarm_address()]);
        }
    }
    let cluster = TestCluster::with_config(TestClusterConfig {
        peers: count,
        assemble: Arc::new(move |index, builder| {
            builder.ipfs(connectors[index].clone()).consensus_with(|cx| Crdt::open(CrdtConfig::default(), cx))
        }),
        ..TestClusterConfig::default()
    })
    .await
    .unwrap();
    let all_known = async |peers: &TestCluster| peers.peer(0).metrics("freespace").len() == count;
    within(cluster.wait_until("all metrics are known", all_known)).await;
    Some((cluster, daemons))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_in_the_middle_is_replaced_and_every_replica_is_complete() {
    let pieces = std::env::var(PIECES_VARIABLE).map_or(PIECES, |pieces| pieces.parse().unwrap());
    let Some((cluster, mut daemons)) = peers(3, false).await else { return };
    let wanted: [PeerId; 2] = [cluster.id(1), cluster.id(2)];
    let pin = PinOptions {
        replication_factor_min: 2,
        replication_factor_max: 2,
        user_allocations: wanted.to_vec(),
        ..PinOptions::default()
    };
    let options = AddOptions { cid_version: 1, raw_leaves: Some(true), pin, ..AddOptions::default() };
    let read = Arc::new(AtomicUsize::new(0));
    let (let_end, may_end) = watch::channel(false);
    let content = Large { pieces, opened: false, read: Arc::clone(&read), may_end };
    let peer = cluster.peer(0).clone();
    let started = std::time::Instant::now();
    let adding = tokio::spawn(async move { peer.add_all(content, options).await });
    while read.load(Ordering::SeqCst) < pieces / 2 && !adding.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    daemons[1].kill();
    let_end.send_replace(true);
    let pins = adding.await.unwrap().unwrap();
    println!("added {pieces} MiB in {:?}", started.elapsed());
    let [pin] = &pins[..] else { panic!("{pins:?}") };
    let mut allocations = pin.allocations.clone();
    allocations.sort_unstable();
    let mut complete = [cluster.id(0), wanted[1]];
    complete.sort_unstable();
    assert_eq!(allocations, complete, "the one that was killed is replaced");
    let pinned = cluster.peer(0).wait(pin.cid).until(Until::PinnedBy(2));
    within(pinned.into_future()).await;
    println!("pinned by both after {:?}", started.elapsed());
    for index in [0, 2] {
        daemons[index].kill();
        assert!(daemons[index].has_all(&pin.cid.to_string(), pieces), "the replica of peer {index}");
    }
}
