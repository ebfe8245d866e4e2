//! `ipfs-cluster-ctl add` into a real Kubo, beside `ipfs add` and the reference.
//!
//! Each time there is a fresh Kubo with a repository of its own, offline, and a fresh peer beside it. What was written
//! before is on disk before the clock starts. Files are emptied and not deleted as long as it is measured: for some minutes
//! after thousands were, ext4 is many times as slow to make new ones.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Child;

use super::content::{self, SMALL_BYTES};
use super::hashing::middle;
use super::{Adding, megabytes_per_second};
use crate::ctl::watch_output;
use crate::daemon::{FakeKubo, Peer, Subject, free_address};
use crate::http::Connection;
use crate::report::Row;

/// A large file is added so often by each, by turns; the middle one counts.
const LARGE_ROUNDS: usize = 3;
/// Small files beside a daemon that drops them.
const SMALL_ROUNDS: usize = 3;
const KUBO_START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the daemon may take to pin what it has.
const PINNED_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a peer may take to know how free it is.
const METRIC_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// The same blocks of all.
const OPTIONS: [&str; 3] = ["--quieter", "--recursive", "--cid-version=1"];

/// A running Kubo.
struct Kubo {
    program: PathBuf,
    repository: PathBuf,
    api: SocketAddr,
    daemon: Child,
}

impl Kubo {
    async fn start(program: &Path, folder: &Path) -> Result<Self> {
        let repository = tempfile::tempdir_in(folder)?.keep();
        let api = free_address()?;
        let address = format!("/ip4/{}/tcp/{}", api.ip(), api.port());
        let run = async |arguments: &[&str]| {
            let output = tokio::process::Command::from(ipfs(program, &repository, arguments)).output();
            let output = output.await?;
            let text = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ipfs {arguments:?} failed: {text}");
            Ok(())
        };
        run(&["init", "--profile=test", "--empty-repo"]).await?;
        run(&["config", "Addresses.API", &address]).await?;
        run(&["config", "--json", "Addresses.Gateway", "null"]).await?;
        run(&["config", "--json", "Addresses.Swarm", "[]"]).await?;
        run(&["config", "--json", "Discovery.MDNS.Enabled", "false"]).await?;
        let daemon = ipfs(program, &repository, &["daemon", "--offline", "--migrate=false"]);
        let mut daemon = tokio::process::Command::from(daemon);
        daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let daemon = daemon.spawn().context("starting Kubo")?;
        let started = Instant::now();
        loop {
            if let Ok(mut connection) = Connection::open(api).await
                && connection.request("POST", "/api/v0/id", false).await.is_ok_and(|id| id.status == 200)
            {
                return Ok(Self { program: program.to_owned(), repository, api, daemon });
            }
            ensure!(started.elapsed() < KUBO_START_TIMEOUT, "Kubo did not start");
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Kubo {
    /// Ends it, and gives back what its blocks take on disk.
    async fn stop(mut self) -> Result<()> {
        self.daemon.kill().await?;
        let blocks = self.repository.join("blocks");
        tokio::task::spawn_blocking(move || empty(&blocks)).await?
    }
}

/// Empties all files below a folder.
fn empty(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            empty(&entry.path())?;
        } else {
            std::fs::OpenOptions::new().write(true).open(entry.path())?.set_len(0)?;
        }
    }
    Ok(())
}

fn ipfs(program: &Path, repository: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.env("IPFS_PATH", repository).env("IPFS_TELEMETRY", "off").args(arguments);
    command
}

/// What an add came to.
#[derive(Clone, Debug, Default)]
struct Added {
    elapsed: Duration,
    /// From the start until the daemon has pinned it.
    pinned: Duration,
    root: String,
    ctl_bytes: u64,
    /// By how much the service grew.
    growth: u64,
}

/// Adds with `ipfs add`, into a fresh Kubo.
async fn by_ipfs(adding: &Adding<'_>, kubo: &Path, path: &Path) -> Result<Added> {
    let kubo = Kubo::start(kubo, &adding.folder).await?;
    let mut command = ipfs(&kubo.program, &kubo.repository, &["add"]);
    command.args(OPTIONS).arg(path);
    settle().await?;
    let ran = tokio::task::spawn_blocking(|| watch_output(command, Stdio::piped())).await??;
    let root = ran.output.trim().to_owned();
    kubo.stop().await?;
    Ok(Added { elapsed: ran.elapsed, pinned: ran.elapsed, root, ctl_bytes: ran.resident_bytes, growth: 0 })
}

/// Adds with a ctl to its service, beside a fresh Kubo, or without one beside a daemon that drops blocks.
async fn by_ctl(
    adding: &Adding<'_>,
    kubo: Option<&Path>,
    by: (&Subject, &Path),
    path: &Path,
) -> Result<Added> {
    match kubo {
        Some(program) => {
            let kubo = Kubo::start(program, &adding.folder).await?;
            let added = by_ctl_beside(adding, kubo.api, by, path).await?;
            kubo.stop().await?;
            Ok(added)
        }
        None => {
            let kubo = FakeKubo::start_sink(adding.fake_kubo, 0).await?;
            let added = by_ctl_beside(adding, kubo.address, by, path).await?;
            kubo.stop().await?;
            Ok(added)
        }
    }
}

async fn by_ctl_beside(
    adding: &Adding<'_>,
    kubo: SocketAddr,
    (subject, ctl): (&Subject, &Path),
    path: &Path,
) -> Result<Added> {
    let folder = tempfile::tempdir_in(&adding.folder)?.keep();
    let peer = Peer::init(subject, &folder.join("peer"), kubo).await?;
    let (daemon, _) = peer.start("/id").await?;
    wait_for_metric(daemon.api).await?;
    let mut command = Command::new(ctl);
    command.args(["--host", &format!("/ip4/{}/tcp/{}", daemon.api.ip(), daemon.api.port()), "add"]);
    command.args(OPTIONS).arg(path);
    settle().await?;
    let watched = daemon.watch_memory()?;
    let started = Instant::now();
    let ran = tokio::task::spawn_blocking(|| watch_output(command, Stdio::piped())).await??;
    let root = ran.output.trim().to_owned();
    wait_until_pinned(kubo, &root).await?;
    let pinned = started.elapsed();
    let growth = watched.growth()?;
    daemon.stop().await?;
    Ok(Added { elapsed: ran.elapsed, pinned, root, ctl_bytes: ran.resident_bytes, growth })
}

/// Without a metric the reference knows no destination.
async fn wait_for_metric(api: SocketAddr) -> Result<()> {
    let started = Instant::now();
    let mut connection = Connection::open(api).await?;
    loop {
        let answer = connection.request("GET", "/monitor/metrics/freespace", true).await?;
        let metrics: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
        if !metrics.is_empty() {
            return Ok(());
        }
        ensure!(started.elapsed() < METRIC_TIMEOUT, "the peer did not say how free it is");
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_until_pinned(kubo: SocketAddr, root: &str) -> Result<()> {
    let started = Instant::now();
    let mut connection = Connection::open(kubo).await?;
    let target = format!("/api/v0/pin/ls?type=recursive&arg={root}");
    while connection.request("POST", &target, false).await?.status != 200 {
        ensure!(started.elapsed() < PINNED_TIMEOUT, "{root} was not pinned within {PINNED_TIMEOUT:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Returns when all that was written is on disk.
async fn settle() -> Result<()> {
    ensure!(tokio::process::Command::new("sync").status().await?.success(), "sync failed");
    Ok(())
}

/// All of the adds by one.
#[derive(Default)]
struct Rounds(Vec<Added>);

impl Rounds {
    fn of(&self, time: impl Fn(&Added) -> Duration) -> Duration {
        middle(self.0.iter().map(time).collect())
    }

    fn most(&self, bytes: impl Fn(&Added) -> u64) -> u64 {
        self.0.iter().map(bytes).max().unwrap_or_default()
    }
}

struct Measured {
    ipfs: Rounds,
    ours: Rounds,
    reference: Rounds,
}

/// Adds a path by everybody, by turns; by `ipfs add` only into a real Kubo.
async fn by_turns(adding: &Adding<'_>, kubo: Option<&Path>, path: &Path, rounds: usize) -> Result<Measured> {
    let mut measured =
        Measured { ipfs: Rounds::default(), ours: Rounds::default(), reference: Rounds::default() };
    for _ in 0..rounds {
        let ours = by_ctl(adding, kubo, (adding.ours, adding.ctl), path).await.context("ours")?;
        let root = ours.root.clone();
        eprintln!("… ours {:.2?}, until pinned {:.2?}", ours.elapsed, ours.pinned);
        measured.ours.0.push(ours);
        if let Some(kubo) = kubo {
            let ipfs = by_ipfs(adding, kubo, path).await.context("ipfs add")?;
            ensure!(root == ipfs.root, "ours made {root} of what ipfs made {}", ipfs.root);
            eprintln!("… ipfs add {:.2?}", ipfs.elapsed);
            measured.ipfs.0.push(ipfs);
        }
        if let Some(reference) = adding.reference {
            let theirs = by_ctl(adding, kubo, reference, path).await.context("the reference")?;
            ensure!(root == theirs.root, "ours made {root} of what the reference made {}", theirs.root);
            eprintln!("… the reference {:.2?}, until pinned {:.2?}", theirs.elapsed, theirs.pinned);
            measured.reference.0.push(theirs);
        }
    }
    Ok(measured)
}

/// One file.
pub(super) async fn large(adding: &Adding<'_>, kubo: &Path) -> Result<(Vec<Row>, Vec<Row>)> {
    let path = adding.folder.join("large.bin");
    content::write_large(&path, adding.mib)?;
    let measured = by_turns(adding, Some(kubo), &path, LARGE_ROUNDS).await?;
    let bytes = adding.mib * content::PIECE_BYTES as u64;
    let rate = |time| megabytes_per_second(bytes, time);
    let what = format!("ctl add of {} MiB into a real Kubo", adding.mib);
    Ok(rows(&measured, &what, rate, "MB/s"))
}

/// Many small files in folders: beside a daemon that drops blocks, and into a real Kubo where there is one.
///
/// A real one takes nearly all of the time by itself: it makes a file of each block.
pub(super) async fn small(adding: &Adding<'_>) -> Result<(Vec<Row>, Vec<Row>)> {
    let path = adding.folder.join("small");
    content::write_small(&path, adding.files)?;
    let rate = |time: Duration| adding.files as f64 / time.as_secs_f64();
    let what = format!("ctl add of {} files of {SMALL_BYTES} bytes", adding.files);
    let measured = by_turns(adding, None, &path, SMALL_ROUNDS).await?;
    let (mut ours, mut theirs) = rows(&measured, &format!("{what}, daemon drops blocks"), rate, "files/s");
    if let Some(kubo) = adding.kubo {
        let measured = by_turns(adding, Some(kubo), &path, 1).await?;
        let (more, also) = rows(&measured, &format!("{what} into a real Kubo"), rate, "files/s");
        ours.extend(more);
        theirs.extend(also);
    }
    Ok((ours, theirs))
}

fn rows(
    Measured { ipfs, ours, reference }: &Measured,
    what: &str,
    rate: impl Fn(Duration) -> f64,
    unit: &'static str,
) -> (Vec<Row>, Vec<Row>) {
    let of = |rounds: &Rounds| {
        vec![
            Row::rate(what, rate(rounds.of(|added| added.elapsed)), unit),
            Row::rate(
                "the same, until the daemon has pinned it",
                rate(rounds.of(|added| added.pinned)),
                unit,
            ),
            Row::mebibytes(
                "the same, growth of the service's resident memory",
                rounds.most(|added| added.growth),
            ),
            Row::mebibytes("the same, resident memory of ctl", rounds.most(|added| added.ctl_bytes)),
        ]
    };
    let mut rows = of(ours);
    let theirs = if reference.0.is_empty() { Vec::new() } else { of(reference) };
    if ipfs.0.is_empty() {
        return (rows, theirs);
    }
    let (by_ipfs, elapsed) = (ipfs.of(|added| added.elapsed), ours.of(|added| added.elapsed));
    rows.push(Row::rate("ipfs add of the same into the same", rate(by_ipfs), unit));
    rows.push(Row::rate(
        "ctl add, times as fast as ipfs add",
        by_ipfs.as_secs_f64() / elapsed.as_secs_f64(),
        "times",
    ));
    (rows, theirs)
}
