//! What is measured, one function each. Every figure is of whole programs over HTTP, as a user meets them.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::daemon::{Daemon, FakeKubo, Peer, Subject};
use crate::http::Connection;
use crate::load::{Stop, nth_cid, post_pins};
use crate::report::Row;

const RESIDENT_SAMPLE: Duration = Duration::from_millis(20);
/// How long a daemon rests before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(20);
/// How long pins may take to reach the fake daemon.
const PINNED_TIMEOUT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);

/// What every scenario needs.
pub(crate) struct Setup<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) fake_kubo: &'a Path,
    pub(crate) folder: PathBuf,
}

/// Durable pin requests, many clients and one, beside a daemon that takes 100 ms a pin.
pub(crate) async fn post(setup: &Setup<'_>, seconds: u64) -> Result<Vec<Row>> {
    let kubo = FakeKubo::start(setup.fake_kubo, Duration::from_millis(100), None).await?;
    let peer = Peer::init(setup.subject, &setup.folder.join("post"), kubo.address).await?;
    let (daemon, _) = peer.start("/id").await?;
    // Warm up: the first requests pay for files and pages.
    post_pins(daemon.api, 64, 0, Stop::AtCount(2_000)).await?;
    let many = post_pins(daemon.api, 64, 10_000_000, Stop::After(Duration::from_secs(seconds))).await?;
    let one = post_pins(daemon.api, 1, 20_000_000, Stop::After(Duration::from_secs(seconds))).await?;
    daemon.stop().await?;
    kubo.stop().await?;
    Ok(vec![
        Row::rate("POST /pins/{cid}, 64 clients, durable", many.per_second(), "pins/s"),
        Row::milliseconds("the same, median", many.p50),
        Row::milliseconds("the same, p99", many.p99),
        Row::rate("POST /pins/{cid}, 1 client, durable", one.per_second(), "pins/s"),
    ])
}

/// From the first request until the daemon has the last pin, beside a daemon without delay.
pub(crate) async fn until_pinned(setup: &Setup<'_>, pins: u64) -> Result<Vec<Row>> {
    let kubo = FakeKubo::start(setup.fake_kubo, Duration::ZERO, None).await?;
    let peer = Peer::init(setup.subject, &setup.folder.join("until-pinned"), kubo.address).await?;
    let (daemon, _) = peer.start("/id").await?;
    post_pins(daemon.api, 64, 0, Stop::AtCount(1_000)).await?;
    wait_for_queue(daemon.api).await?;
    let started = Instant::now();
    post_pins(daemon.api, 64, 10_000_000, Stop::AtCount(pins)).await?;
    wait_for_queue(daemon.api).await?;
    let elapsed = started.elapsed();
    daemon.stop().await?;
    kubo.stop().await?;
    Ok(vec![Row::rate(
        format!("POST of {pins} until all are pinned"),
        pins as f64 / elapsed.as_secs_f64(),
        "pins/s",
    )])
}

async fn wait_for_queue(api: SocketAddr) -> Result<()> {
    let started = Instant::now();
    let mut connection = Connection::open(api).await?;
    loop {
        let answer =
            connection.request("GET", "/pins?local=true&filter=pin_queued,pinning,pin_error", false).await?;
        if answer.status == 204 {
            return Ok(());
        }
        ensure!(started.elapsed() < PINNED_TIMEOUT, "pins were not pinned within {PINNED_TIMEOUT:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// A big pinset: import, start, list, rest, export.
pub(crate) async fn big(setup: &Setup<'_>, pins: u64) -> Result<Vec<Row>> {
    let source = setup.folder.join("pins.ndjson");
    write_export(&source, pins)?;
    let kubo = FakeKubo::start(setup.fake_kubo, Duration::ZERO, Some(&source)).await?;
    let peer = Peer::init(setup.subject, &setup.folder.join("big"), kubo.address).await?;
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");

    let empty = peer.disk_bytes()?;
    let import = peer.run(&["state", "import", "--force", &path(&source)?]).await?;
    let disk = peer.disk_bytes()?.saturating_sub(empty);
    let target = setup.folder.join("exported.ndjson");
    let export = peer.run(&["state", "export", "--file", &path(&target)?]).await?;
    let exported = count_lines(&target)?;
    ensure!(exported == pins, "exported {exported} of {pins} pins");

    let one = format!("/allocations/{}", nth_cid(pins / 2)?);
    let (daemon, first_start) = peer.start(&one).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = daemon.resident_bytes()?;
    let allocations = list(&daemon, "/allocations", pins).await?;
    let statuses = list(&daemon, "/pins?local=true", pins).await?;
    // The reference has no pages, and a small pinset too few.
    let found = match setup.subject.reference || pins < 100 * PAGE_LINES {
        true => None,
        false => Some((
            pages(&daemon, "/allocations?name-prefix=bench-7&meta-owner=bench").await?,
            pages(&daemon, "/allocations?meta-owner=bench&created-after=2026-01-01T00:00:00Z").await?,
            pages(&daemon, "/pins?local=true&name-prefix=bench-7&filter=pinned").await?,
        )),
    };
    daemon.stop().await?;
    let (daemon, clean_start) = peer.start(&one).await?;
    // Some writes, so that the kill leaves something to repair.
    post_pins(daemon.api, 16, 1_000_000_000, Stop::AtCount(2_000)).await?;
    daemon.kill().await?;
    let (daemon, killed_start) = peer.start(&one).await?;
    daemon.stop().await?;
    kubo.stop().await?;

    let rate = |elapsed: Duration| pins as f64 / elapsed.as_secs_f64();
    let mut rows = vec![
        Row::rate(format!("state import of {pins} lines"), rate(import), "lines/s"),
        Row::rate("state export", rate(export), "lines/s"),
        Row::lower("disk after import", disk as f64 / pins as f64, "bytes/pin"),
        Row::milliseconds("start after import, first answer from state", first_start),
        Row::milliseconds("start after a clean stop, first answer", clean_start),
        Row::milliseconds("start after kill -9, first answer", killed_start),
        Row::mebibytes("resident, idle", idle),
        Row::rate("GET /allocations", rate(allocations.elapsed), "lines/s"),
        Row::milliseconds("the same, first byte", allocations.first_byte),
        Row::mebibytes("the same, growth of resident memory", allocations.growth),
        Row::rate("GET /pins?local=true", rate(statuses.elapsed), "lines/s"),
        Row::milliseconds("the same, first byte", statuses.first_byte),
        Row::mebibytes("the same, growth of resident memory", statuses.growth),
    ];
    if let Some((by_name, by_metadata, statuses)) = found {
        rows.push(Row::milliseconds(
            format!("a page of 1,000 of {pins} pins by name prefix and metadata, p99"),
            by_name,
        ));
        rows.push(Row::milliseconds("the same by metadata and time, p99", by_metadata));
        rows.push(Row::milliseconds(
            "the same of GET /pins?local=true, by name prefix and status, p99",
            statuses,
        ));
    }
    Ok(rows)
}

/// Pages that are read of one listing; of more the listing begins again.
const PAGES: usize = 300;
const PAGE_LINES: u64 = 1_000;

/// Reads a listing page by page, and gives the time that all but one in a hundred take.
async fn pages(daemon: &Daemon, target: &str) -> Result<Duration> {
    let mut connection = Connection::open(daemon.api).await?;
    let mut latencies = Vec::with_capacity(PAGES);
    let mut after = String::new();
    while latencies.len() < PAGES {
        let sent = Instant::now();
        let target = format!("{target}&limit={PAGE_LINES}{after}");
        let answer = connection.request("GET", &target, false).await?;
        let elapsed = sent.elapsed();
        after = answer.next.map(|next| format!("&after={next}")).unwrap_or_default();
        // The last page of a listing, and any of a small pinset, is no page of this size.
        if answer.lines == PAGE_LINES {
            latencies.push(elapsed);
        }
        ensure!(matches!(answer.status, 200 | 204), "{target} was answered {}", answer.status);
    }
    latencies.sort_unstable();
    Ok(latencies[latencies.len() * 99 / 100])
}

pub(crate) struct Listing {
    pub(crate) elapsed: Duration,
    pub(crate) first_byte: Duration,
    pub(crate) growth: u64,
}

/// Reads a listing to its end while watching the daemon's memory.
pub(crate) async fn list(daemon: &Daemon, target: &'static str, lines: u64) -> Result<Listing> {
    let before = daemon.resident_bytes()?;
    let mut peak = before;
    let mut connection = Connection::open(daemon.api).await?;
    let started = Instant::now();
    let request = connection.request("GET", target, false);
    tokio::pin!(request);
    let answer = loop {
        tokio::select! {
            answer = &mut request => break answer?,
            () = tokio::time::sleep(RESIDENT_SAMPLE) => peak = peak.max(daemon.resident_bytes()?),
        }
    };
    let elapsed = started.elapsed();
    ensure!(answer.lines == lines, "{target} gave {} lines of {lines}", answer.lines);
    Ok(Listing { elapsed, first_byte: answer.first_byte, growth: peak.saturating_sub(before) })
}

/// Pins as the reference exports them.
pub(crate) fn write_export(path: &Path, pins: u64) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for n in 0..pins {
        writeln!(
            file,
            r#"{{"replication_factor_min":-1,"replication_factor_max":-1,"name":"bench-{n}","mode":"recursive","shard_size":0,"user_allocations":null,"expire_at":"0001-01-01T00:00:00Z","metadata":{{"owner":"bench"}},"pin_update":null,"origins":[],"cid":"{}","type":"pin","allocations":[],"max_depth":-1,"reference":null,"timestamp":"2026-11-20T23:16:36Z"}}"#,
            nth_cid(n)?
        )?;
    }
    file.flush()?;
    Ok(())
}

pub(crate) fn count_lines(path: &Path) -> Result<u64> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut lines = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(lines);
        }
        lines += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}
