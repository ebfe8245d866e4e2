//! How fast a new peer walks down a DAG that only the reference can serve: one block a pin, each naming the next.
//!
//! A new peer hears of heads when a peer that has them tells them again, which is a matter of a timer and not of
//! speed. So there are two figures: from the start of the program, and from the first pin that it lists.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::daemon::{FakeKubo, Peer, Subject};
use crate::http::Connection;
use crate::load::{Stop, nth_cid, post_pins};
use crate::many::{SECRET, bootstrap};
use crate::report::Row;
use crate::scenarios::write_export;

/// Posted by so many at a time, which is also how many of the first pins are asked for one by one.
const CLIENTS: u64 = 64;
/// How long a peer may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(20);

/// The same for all: no batching, so that each pin is a block.
const SETTINGS: [(&str, &str); 6] = [
    ("CLUSTER_SECRET", SECRET),
    ("CLUSTER_CRDT_TRUSTEDPEERS", "*"),
    ("CLUSTER_CRDT_REBROADCASTINTERVAL", "2s"),
    ("CLUSTER_REPLICATIONFACTORMIN", "-1"),
    ("CLUSTER_REPLICATIONFACTORMAX", "-1"),
    ("CLUSTER_DISK_METRICTTL", "10s"),
];

struct Joined {
    from_start: Duration,
    from_first: Duration,
}

/// A peer of the reference gets pins; then a new peer of the reference joins it, and then one of ours. Rows of ours
/// and of the reference.
pub(crate) async fn walk(
    ours: &Subject,
    reference: &Subject,
    fake_kubo: &Path,
    folder: &Path,
    pins: u64,
) -> Result<(Vec<Row>, Vec<Row>)> {
    let pinned = folder.join("walk.ndjson");
    write_export(&pinned, pins)?;
    let kubo = FakeKubo::start(fake_kubo, Duration::ZERO, Some(&pinned)).await?;
    let source = Peer::init_with(reference, &folder.join("walk-source"), kubo.address, &SETTINGS).await?;
    let (source_daemon, _) = source.start("/id").await?;
    eprintln!("a peer of the reference gets {pins} pins, a block each …");
    let posted = post_pins(source_daemon.api, CLIENTS, 0, Stop::AtCount(pins)).await?;
    eprintln!("… at {:.0} pins/s", posted.per_second());
    let address = source.address().await?;

    let mut rows = Vec::new();
    for (subject, name) in [(reference, "walk-reference"), (ours, "walk-ours")] {
        eprintln!("{}: a peer joins it …", subject.name);
        let kubo = FakeKubo::start(fake_kubo, Duration::ZERO, Some(&pinned)).await?;
        let joined = join(subject, &folder.join(name), kubo.address, &address, pins).await?;
        kubo.stop().await?;
        rows.push(rows_of(&joined, pins));
    }
    source_daemon.stop().await?;
    kubo.stop().await?;
    let ours = rows.pop().unwrap_or_default();
    Ok((ours, rows.pop().unwrap_or_default()))
}

fn rows_of(joined: &Joined, pins: u64) -> Vec<Row> {
    let rate = |elapsed: Duration| pins as f64 / elapsed.as_secs_f64();
    vec![
        Row::rate(
            format!("a new peer walks {pins} blocks of a Go peer, from the first pin listed"),
            rate(joined.from_first),
            "pins/s",
        ),
        Row::lower("the same, whole", joined.from_first.as_secs_f64(), "s"),
        Row::rate(
            "the same, from the start of the program, heads told again every 2 s",
            rate(joined.from_start),
            "pins/s",
        ),
        Row::lower("the same, whole", joined.from_start.as_secs_f64(), "s"),
    ]
}

/// A fresh peer joins, and ends when it has all pins.
async fn join(
    subject: &Subject,
    folder: &Path,
    kubo: SocketAddr,
    address: &str,
    pins: u64,
) -> Result<Joined> {
    let peer = Peer::init_with(subject, folder, kubo, &SETTINGS).await?;
    let started = Instant::now();
    let (daemon, _) = peer.start_with(&bootstrap(&[address.to_owned()]), "/id").await?;
    let mut connection = Connection::open(daemon.api).await?;
    wait(&mut connection, "/allocations", started, |answer| answer.lines > 0).await?;
    let first = Instant::now();
    // Listing everything again and again would slow down who is measured. The pins that were posted first are in the
    // blocks that are reached last, so it is only worth a try when these are here.
    for n in 0..CLIENTS.min(pins) {
        let target = format!("/allocations/{}", nth_cid(n)?);
        wait(&mut connection, &target, started, |answer| answer.status == 200).await?;
    }
    wait(&mut connection, "/allocations", started, |answer| answer.lines >= pins).await?;
    let joined = Joined { from_start: started.elapsed(), from_first: first.elapsed() };
    daemon.stop().await?;
    Ok(joined)
}

/// Returns once an answer is as it should be.
async fn wait(
    connection: &mut Connection,
    target: &str,
    started: Instant,
    is_there: impl Fn(&crate::http::Answer) -> bool,
) -> Result<()> {
    loop {
        let answer = connection.request("GET", target, false).await?;
        if is_there(&answer) {
            return Ok(());
        }
        ensure!(
            started.elapsed() < JOIN_TIMEOUT,
            "{target} had status {} and {} lines after {JOIN_TIMEOUT:?}",
            answer.status,
            answer.lines
        );
        tokio::time::sleep(POLL).await;
    }
}
