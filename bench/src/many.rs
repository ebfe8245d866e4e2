//! What several peers do together, on loopback, with CRDT consensus that batches.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::daemon::{FakeKubo, Peer};
use crate::http::Connection;
use crate::load::{Stop, nth_cid, post_and_count, post_pins};
use crate::peers::{self, PEERS, apis};
use crate::report::Row;
use crate::scenarios::{Setup, list, write_export};

/// One secret for all, as `init` would make it.
pub(crate) const SECRET: &str = "6c6f6f706261636b206265616e6368206f6e6c79206c6f6f706261636b206265";
/// How long peers may take to agree.
const AGREE_TIMEOUT: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(20);

/// How the peers of a cluster are told to work.
fn settings(replication: &'static str) -> [(&'static str, &'static str); 8] {
    [
        ("CLUSTER_SECRET", SECRET),
        ("CLUSTER_CRDT_TRUSTEDPEERS", "*"),
        ("CLUSTER_CRDT_BATCHING_MAXBATCHSIZE", "500"),
        ("CLUSTER_CRDT_BATCHING_MAXBATCHAGE", "1s"),
        ("CLUSTER_REPLICATIONFACTORMIN", replication),
        ("CLUSTER_REPLICATIONFACTORMAX", replication),
        ("CLUSTER_DISK_METRICTTL", "10s"),
        ("CLUSTER_TAGS_METRICTTL", "10s"),
    ]
}

/// Pins through one of three peers, replication 1, beside daemons that take 100 ms a pin; and the status of all.
pub(crate) async fn cluster(setup: &Setup<'_>, pins: u64) -> Result<Vec<Row>> {
    let members = peers::start(setup, "cluster", &settings("1"), None).await?;
    let apis = apis(&members);
    let posted = post_and_count(apis[0], 64, 10_000_000, Stop::AtCount(pins)).await?;
    let last = Instant::now();
    wait_until_equal(setup, &apis, posted.acknowledged).await?;
    let converged = last.elapsed();
    wait_for_lines(&apis, "/allocations", posted.acknowledged).await?;
    let mut rows = vec![
        Row::rate(format!("3 peers: POST of {pins} through one, 64 clients"), posted.per_second(), "pins/s"),
        Row::lower("the same, refused", posted.refused as f64, "pins"),
        Row::milliseconds("the same, last answer until all peers are equal", converged),
    ];
    let statuses = list(&members[0].daemon, "/pins", posted.acknowledged).await?;
    let rate = posted.acknowledged as f64 / statuses.elapsed.as_secs_f64();
    rows.push(Row::rate("3 peers: GET /pins of these", rate, "lines/s"));
    rows.push(Row::milliseconds("the same, first byte", statuses.first_byte));
    rows.push(Row::mebibytes("the same, growth of resident memory", statuses.growth));
    for member in members {
        member.stop().await?;
    }
    Ok(rows)
}

/// A new peer joins one that has a pinset; then it is away while one percent changes; then the status of all of it.
pub(crate) async fn join(setup: &Setup<'_>, pins: u64) -> Result<Vec<Row>> {
    let source = setup.folder.join("join.ndjson");
    write_export(&source, pins)?;
    let mut kubos = Vec::new();
    for _ in 0..PEERS {
        kubos.push(FakeKubo::start(setup.fake_kubo, Duration::ZERO, Some(&source)).await?);
    }
    let first =
        Peer::init_with(setup.subject, &setup.folder.join("join-0"), kubos[0].address, &settings("-1"))
            .await?;
    let empty = first.disk_bytes()?;
    first.run(&["state", "import", "--force", &source.display().to_string()]).await?;
    let disk = first.disk_bytes()?.saturating_sub(empty);
    let spaces = if setup.subject.reference { Vec::new() } else { first.disk_by_space()? };
    let (first_daemon, _) = first.start(&format!("/allocations/{}", nth_cid(pins / 2)?)).await?;
    let addresses = [first.address().await?];
    let second =
        Peer::init_with(setup.subject, &setup.folder.join("join-1"), kubos[1].address, &settings("-1"))
            .await?;

    let started = Instant::now();
    let (daemon, _) = second.start_with(&bootstrap(&addresses), "/id").await?;
    wait_until_equal(setup, &[daemon.api, first_daemon.api], pins).await?;
    let joined = started.elapsed();
    wait_for_lines(&[daemon.api], "/allocations", pins).await?;
    daemon.stop().await?;

    let changed = pins / 100;
    post_pins(first_daemon.api, 64, 2_000_000_000, Stop::AtCount(changed)).await?;
    let started = Instant::now();
    let (daemon, started_in) = second.start_with(&bootstrap(&addresses), "/id").await?;
    wait_until_equal(setup, &[daemon.api, first_daemon.api], pins + changed).await?;
    let caught_up = started.elapsed();
    wait_for_lines(&[daemon.api], "/allocations", pins + changed).await?;

    let third =
        Peer::init_with(setup.subject, &setup.folder.join("join-2"), kubos[2].address, &settings("-1"))
            .await?;
    let (third_daemon, _) = third.start_with(&bootstrap(&addresses), "/id").await?;
    let apis = [first_daemon.api, daemon.api, third_daemon.api];
    wait_for_lines(&apis, "/allocations", pins + changed).await?;
    wait_for_lines(&apis, "/peers", PEERS as u64).await?;
    let statuses = list(&first_daemon, "/pins", pins + changed).await?;
    let rate = (pins + changed) as f64 / statuses.elapsed.as_secs_f64();
    for daemon in [third_daemon, daemon, first_daemon] {
        daemon.stop().await?;
    }
    for kubo in kubos {
        kubo.stop().await?;
    }
    let seconds = joined.as_secs_f64();
    let per_pin = |bytes: u64| bytes as f64 / pins as f64;
    let mut rows = vec![Row::lower("disk after import in batches, DAG included", per_pin(disk), "bytes/pin")];
    rows.extend(
        spaces
            .iter()
            .map(|(name, bytes)| Row::lower(format!("of these in `{name}`"), per_pin(*bytes), "bytes/pin")),
    );
    rows.extend([
        Row::rate("a new peer joins, batches of 500", pins as f64 / seconds, "pins/s"),
        Row::lower("the same, whole", seconds, "s"),
        Row::lower("a peer that is 1 % behind is equal again, from its start", caught_up.as_secs_f64(), "s"),
        Row::milliseconds("the same, first answer", started_in),
        Row::rate("3 peers: GET /pins of all of these", rate, "lines/s"),
        Row::milliseconds("the same, first byte", statuses.first_byte),
        Row::mebibytes("the same, growth of resident memory", statuses.growth),
    ]);
    Ok(rows)
}

/// The arguments that make a peer join others.
pub(crate) fn bootstrap(addresses: &[String]) -> Vec<String> {
    if addresses.is_empty() { Vec::new() } else { vec!["--bootstrap".to_owned(), addresses.join(",")] }
}

/// Returns once a peer knows the free space of so many.
pub(crate) async fn wait_for_metrics(api: SocketAddr, peers: usize) -> Result<()> {
    let started = Instant::now();
    let mut connection = Connection::open(api).await?;
    loop {
        let answer = connection.request("GET", "/monitor/metrics/freespace", true).await?;
        let metrics: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
        if metrics.len() >= peers {
            return Ok(());
        }
        ensure!(
            started.elapsed() < AGREE_TIMEOUT,
            "only {} of {peers} peers said how free they are",
            metrics.len()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Returns once these peers have equal pinsets, of so many pins. Ours say so themselves, by count and sum, which costs
/// them nothing; of the reference whole listings are counted, again and again.
pub(crate) async fn wait_until_equal(setup: &Setup<'_>, apis: &[SocketAddr], pins: u64) -> Result<()> {
    let (Some(first), false) = (apis.first(), setup.subject.reference) else {
        return wait_for_lines(apis, "/allocations", pins).await;
    };
    let started = Instant::now();
    let mut connection = Connection::open(*first).await?;
    loop {
        let answer = connection.request("GET", "/peers", true).await?;
        let equal = String::from_utf8_lossy(&answer.body).matches(r#""pinset":"in sync""#).count();
        // It says nothing of itself.
        if equal + 1 >= apis.len() {
            return Ok(());
        }
        ensure!(
            started.elapsed() < AGREE_TIMEOUT,
            "{equal} of {} other peers were equal after {AGREE_TIMEOUT:?}",
            apis.len() - 1
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Returns once every one of these answers with so many lines.
pub(crate) async fn wait_for_lines(apis: &[SocketAddr], target: &str, lines: u64) -> Result<()> {
    let started = Instant::now();
    for api in apis {
        let mut connection = Connection::open(*api).await?;
        loop {
            let answer = connection.request("GET", target, false).await?;
            if answer.lines >= lines {
                break;
            }
            ensure!(
                started.elapsed() < AGREE_TIMEOUT,
                "{target} had {} of {lines} lines after {AGREE_TIMEOUT:?}",
                answer.lines
            );
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}
