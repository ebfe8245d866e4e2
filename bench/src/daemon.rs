//! The programs under measurement, as child processes on loopback.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ipfs_cluster::storage::{FjallConfig, FjallStorage, Storage as _};
use tokio::process::{Child, Command};

use crate::http::{CREDENTIALS, Connection, sends_credentials};
use crate::slow_disk::SlowDisk;

/// How long a program may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// A program that can be measured.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) init: &'static [&'static str],
    pub(crate) reference: bool,
}

/// A folder with a configuration, and what its daemon must be told.
pub(crate) struct Peer {
    subject: Subject,
    pub(crate) folder: PathBuf,
    pub(crate) api: SocketAddr,
    swarm: SocketAddr,
    environment: Vec<(&'static str, String)>,
    disk: Option<SlowDisk>,
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) api: SocketAddr,
}

pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn multiaddr(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

impl Peer {
    /// Writes a configuration for a fresh peer beside a daemon at `kubo`.
    pub(crate) async fn init(subject: &Subject, folder: &Path, kubo: SocketAddr) -> Result<Self> {
        Self::init_with(subject, folder, kubo, &[]).await
    }

    /// The same with more `CLUSTER_*` variables.
    pub(crate) async fn init_with(
        subject: &Subject,
        folder: &Path,
        kubo: SocketAddr,
        more: &[(&'static str, &str)],
    ) -> Result<Self> {
        let (api, swarm, proxy, pinsvc) =
            (free_address()?, free_address()?, free_address()?, free_address()?);
        let mut environment = vec![
            ("CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS", multiaddr(api)),
            ("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", multiaddr(kubo)),
            ("CLUSTER_IPFSPROXY_LISTENMULTIADDRESS", multiaddr(proxy)),
            ("CLUSTER_IPFSPROXY_NODEMULTIADDRESS", multiaddr(kubo)),
            ("CLUSTER_PINSVCAPI_HTTPLISTENMULTIADDRESS", multiaddr(pinsvc)),
            ("CLUSTER_LISTENMULTIADDRESS", multiaddr(swarm)),
            ("CLUSTER_MDNSINTERVAL", "0s".to_owned()),
            ("CLUSTER_MONITORPINGINTERVAL", "2s".to_owned()),
            ("CLUSTER_PEERNAME", "bench".to_owned()),
        ];
        if sends_credentials() {
            environment.push(("CLUSTER_RESTAPI_BASICAUTHCREDENTIALS", CREDENTIALS.to_owned()));
        }
        environment.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let peer =
            Self { subject: subject.clone(), folder: folder.to_owned(), api, swarm, environment, disk: None };
        peer.run(subject.init).await?;
        Ok(peer)
    }

    /// The same peer, whose daemon runs on such a disk.
    pub(crate) fn on(self, disk: Option<SlowDisk>) -> Self {
        Self { disk, ..self }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_on(None, arguments)
    }

    fn command_on(&self, disk: Option<SlowDisk>, arguments: &[&str]) -> Command {
        let mut command = match disk {
            None => Command::new(&self.subject.program),
            Some(disk) => {
                let mut command = disk.arguments(&SlowDisk::notes(&self.folder));
                command.arg(&self.subject.program);
                command
            }
        };
        command.arg("--config").arg(&self.folder).args(arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command of the program to its end and says how long it took.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Duration> {
        let started = Instant::now();
        let output = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).output().await?;
        ensure!(
            output.status.success(),
            "{} {arguments:?} failed: {}",
            self.subject.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(started.elapsed())
    }

    /// Starts the daemon and returns once `GET path` is answered, with how long that took.
    pub(crate) async fn start(&self, path: &str) -> Result<(Daemon, Duration)> {
        self.start_with(&[], path).await
    }

    /// The same, with arguments of the command `daemon`.
    pub(crate) async fn start_with(&self, arguments: &[String], path: &str) -> Result<(Daemon, Duration)> {
        let started = Instant::now();
        let words: Vec<&str> =
            std::iter::once("daemon").chain(arguments.iter().map(String::as_str)).collect();
        let mut command = self.command_on(self.disk, &words);
        if sends_credentials() {
            // With its log, which has a line for each request, as in operation.
            let mut log = std::fs::File::options();
            log.create(true).append(true);
            command.stderr(log.open(self.folder.with_extension("log")).context("opening the log")?);
        }
        let mut child = command.spawn().context("starting the daemon")?;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("the daemon ended at once: {status}");
            }
            if let Ok(mut connection) = Connection::open(self.api).await
                && let Ok(answer) = connection.request("GET", path, false).await
                && answer.status < 300
            {
                return Ok((Daemon { child, api: self.api }, started.elapsed()));
            }
            ensure!(started.elapsed() < START_TIMEOUT, "the daemon did not answer within {START_TIMEOUT:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts the daemon, or this follower on its folder, and reads a listing as soon as it answers; gives how long it
    /// took until the first line came.
    pub(crate) async fn start_listing(
        &self,
        follower: Option<&Path>,
        listing: &str,
    ) -> Result<(Daemon, Duration)> {
        let mut command = match follower {
            None => self.command(&["daemon"]),
            Some(program) => {
                let (base, name) = (self.folder.parent(), self.folder.file_name());
                let mut command = Command::new(program);
                command.arg("--config").arg(base.context("a folder in no other")?);
                command.arg(name.context("a folder without a name")?).arg("run");
                command.envs(self.environment.iter().cloned()).kill_on_drop(true);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                command
            }
        };
        let started = Instant::now();
        let mut child = command.spawn().context("starting the daemon")?;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("the daemon ended at once: {status}");
            }
            if let Ok(mut connection) = Connection::open(self.api).await {
                let asked = started.elapsed();
                let answer = connection.request("GET", listing, false).await?;
                ensure!(answer.status == 200 && answer.lines > 0, "{listing} was answered {}", answer.status);
                return Ok((Daemon { child, api: self.api }, asked + answer.first_byte));
            }
            ensure!(started.elapsed() < START_TIMEOUT, "the daemon did not answer within {START_TIMEOUT:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where other peers reach it, once it runs.
    pub(crate) async fn address(&self) -> Result<String> {
        let answer = Connection::open(self.api).await?.request("GET", "/id", true).await?;
        let id: serde_json::Value = serde_json::from_slice(&answer.body)?;
        let id = id["id"].as_str().context("an answer to /id without id")?;
        Ok(format!("{}/p2p/{id}", multiaddr(self.swarm)))
    }

    /// Bytes below the folder.
    pub(crate) fn disk_bytes(&self) -> Result<u64> {
        fn below(folder: &Path) -> Result<u64> {
            let mut bytes = 0;
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                bytes += if metadata.is_dir() {
                    below(&entry.path())?
                } else {
                    use std::os::unix::fs::MetadataExt as _;
                    metadata.blocks() * 512
                };
            }
            Ok(bytes)
        }
        below(&self.folder)
    }

    /// Bytes in each space of the store, and in its journal; the daemon must not run.
    pub(crate) fn disk_by_space(&self) -> Result<Vec<(String, u64)>> {
        self.disk_by_space_of("fjall")
    }

    /// The same of the store in a folder of that name.
    pub(crate) fn disk_by_space_of(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let store = FjallStorage::open(self.folder.join(folder), FjallConfig::default())?;
        let mut spaces: Vec<(String, u64)> = store.bytes_by_space()?.into_iter().collect();
        let known: u64 = spaces.iter().map(|(_, bytes)| bytes).sum();
        spaces.retain(|(_, bytes)| *bytes > 0);
        spaces.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        spaces.push(("journal and the rest".to_owned(), store.approximate_bytes()?.saturating_sub(known)));
        store.close()?;
        Ok(spaces)
    }
}

impl Daemon {
    fn pid(&self) -> Result<u32> {
        self.child.id().context("the daemon has ended")
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        memory(self.pid()?, "VmRSS:")
    }

    /// The most memory that was ever resident, in bytes.
    pub(crate) fn peak_bytes(&self) -> Result<u64> {
        memory(self.pid()?, "VmHWM:")
    }

    /// Has the kernel note from now on how much memory is resident at most.
    pub(crate) fn watch_memory(&self) -> Result<Watched> {
        Watched::begin(self.pid()?)
    }

    /// Processor time it has taken so far: of all its threads, in the kernel too.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        /// What the kernel counts in, whatever its own clock.
        const TICK: Duration = Duration::from_millis(10);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // The name of the program may have anything in it but this.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || -> Result<u32> { Ok(fields.next().context("no times in stat")?.parse()?) };
        Ok(TICK * (ticks()? + ticks()?))
    }

    /// Ends it as an operator does, and waits.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.pid()?;
        ensure!(
            Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await?.success(),
            "could not signal the daemon"
        );
        tokio::time::timeout(START_TIMEOUT, self.child.wait()).await.context("the daemon did not stop")??;
        Ok(())
    }

    /// Ends it as a power failure does (but for the page cache).
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

/// A process whose resident memory is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pid: u32,
    before: u64,
}

impl Watched {
    pub(crate) fn begin(pid: u32) -> Result<Self> {
        /// Resets the peak to what is resident now.
        const RESET_PEAK: &str = "5";
        std::fs::write(format!("/proc/{pid}/clear_refs"), RESET_PEAK)
            .context("resetting the peak of memory")?;
        Ok(Self { pid, before: memory(pid, "VmRSS:")? })
    }

    /// Bytes that the peak since then is above what there was.
    pub(crate) fn growth(self) -> Result<u64> {
        Ok(memory(self.pid, "VmHWM:")?.saturating_sub(self.before))
    }
}

fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).with_context(|| format!("no {field}"))?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number of KiB")?.parse()?;
    Ok(kib * 1024)
}

/// The fake IPFS daemon, as a child process.
pub(crate) struct FakeKubo {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl FakeKubo {
    pub(crate) async fn start(
        program: &Path,
        pin_delay: Duration,
        pinned_from: Option<&Path>,
    ) -> Result<Self> {
        let mut arguments: Vec<OsString> =
            vec!["--pin-delay-ms".into(), pin_delay.as_millis().to_string().into()];
        if let Some(file) = pinned_from {
            arguments.extend(["--pinned-from".into(), file.into()]);
        }
        Self::start_with(program, &arguments).await
    }

    /// One that drops the blocks of imports, as fast as it can or so many bytes a second.
    pub(crate) async fn start_sink(program: &Path, bytes_per_second: u64) -> Result<Self> {
        let rate = bytes_per_second.to_string();
        Self::start_with(program, &["--drop-blocks", "yes", "--bytes-per-second", &rate].map(OsString::from))
            .await
    }

    async fn start_with(program: &Path, arguments: &[OsString]) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program);
        command.arg("--listen").arg(address.to_string()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("the fake IPFS daemon ended at once: {status}");
            }
            if let Ok(mut connection) = Connection::open(address).await
                && connection.request("POST", "/api/v0/id", false).await.is_ok()
            {
                return Ok(Self { child, address });
            }
            ensure!(started.elapsed() < START_TIMEOUT, "the fake IPFS daemon did not answer");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Most pins that ever ran at a time.
    pub(crate) async fn pins_running_max(&self) -> Result<u64> {
        let answer = Connection::open(self.address).await?.request("GET", "/fake/requests", true).await?;
        let requests: serde_json::Value = serde_json::from_slice(&answer.body)?;
        requests["pins_running_max"].as_u64().context("an answer without pins_running_max")
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}
