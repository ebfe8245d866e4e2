//! How fast a new peer walks down a DAG that only the reference can serve: one block a pin, each naming the next.
//!
//! A new peer hears of heads when a peer that has them tells them again, which is a matter of a timer and not of
//! speed. So there are two figures: from the start of the program, and from the first pin that it lists.
//!
//! What many clients post at a time becomes a broad DAG: the reference's blocks link to all heads there are, about ten
//! here. What one client posts becomes a chain, and only the next block is ever known.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::daemon::{Daemon, FakeKubo, Peer, Subject};
use crate::http::Connection;
use crate::load::{Stop, nth_cid, post_pins};
use crate::many::{SECRET, bootstrap};
use crate::report::Row;

/// How long a peer may take; then it is measured by how far it came. Some of the reference come to no end.
const JOIN_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);

/// What each pin takes the daemons. A new peer is allocated none of those that it walks down to.
const PIN_DELAY: Duration = Duration::from_millis(100);
/// The same for all: no batching, so that each pin is a block.
const SETTINGS: [(&str, &str); 6] = [
    ("CLUSTER_SECRET", SECRET),
    ("CLUSTER_CRDT_TRUSTEDPEERS", "*"),
    ("CLUSTER_CRDT_REBROADCASTINTERVAL", "2s"),
    ("CLUSTER_REPLICATIONFACTORMIN", "1"),
    ("CLUSTER_REPLICATIONFACTORMAX", "1"),
    ("CLUSTER_DISK_METRICTTL", "10s"),
];

/// How far a new peer came.
struct Joined {
    pins: u64,
    /// Whether that is all there is.
    whole: bool,
    from_start: Duration,
    from_first: Duration,
    /// Processor time of the new peer since then, and of the one that it joined.
    taken: Duration,
    taken_of_source: Duration,
}

/// A peer of the reference gets pins from so many clients; then a new peer of the reference joins it, and then one of
/// ours. Rows of ours and of the reference.
pub(crate) async fn walk(
    ours: &Subject,
    reference: &Subject,
    fake_kubo: &Path,
    folder: &Path,
    pins: u64,
    clients: u64,
) -> Result<(Vec<Row>, Vec<Row>)> {
    let kubo = FakeKubo::start(fake_kubo, PIN_DELAY, None).await?;
    let folder_of = |name: &str| folder.join(format!("walk-{clients}-{name}"));
    let source = Peer::init_with(reference, &folder_of("source"), kubo.address, &SETTINGS).await?;
    let (source_daemon, _) = source.start("/id").await?;
    eprintln!("a peer of the reference gets {pins} pins from {clients} clients, a block each …");
    // Without a metric a pin can be allocated to nobody.
    let mut connection = Connection::open(source_daemon.api).await?;
    const NO_METRICS: u64 = "null\n".len() as u64;
    let has_metric = |answer: &crate::http::Answer| answer.status == 200 && answer.bytes > NO_METRICS;
    wait(&mut connection, "/monitor/metrics/freespace", Instant::now(), has_metric).await?;
    post_pins(source_daemon.api, clients, 0, Stop::AtCount(pins)).await?;
    let address = source.address().await?;

    let mut rows = Vec::new();
    for subject in [reference, ours] {
        eprintln!("{}: a peer joins it …", subject.name);
        let kubo = FakeKubo::start(fake_kubo, PIN_DELAY, None).await?;
        let folder = folder_of(subject.name);
        let joined = join(subject, &folder, kubo.address, (&source_daemon, &address), pins, clients).await?;
        kubo.stop().await?;
        eprintln!(
            "… {} of {pins} pins in {:.1} s, {:.1} s of it from the first one",
            joined.pins,
            joined.from_start.as_secs_f64(),
            joined.from_first.as_secs_f64()
        );
        eprintln!(
            "… of processors it took {:.1} s, the peer that it joined {:.1} s",
            joined.taken.as_secs_f64(),
            joined.taken_of_source.as_secs_f64()
        );
        rows.push(rows_of(&joined, pins, clients));
    }
    source_daemon.stop().await?;
    kubo.stop().await?;
    let ours = rows.pop().unwrap_or_default();
    Ok((ours, rows.pop().unwrap_or_default()))
}

fn rows_of(joined: &Joined, pins: u64, clients: u64) -> Vec<Row> {
    let rate = |elapsed: Duration| joined.pins as f64 / elapsed.as_secs_f64();
    let by = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
    let mut rows = vec![
        Row::rate(
            format!(
                "a new peer walks {pins} blocks of a Go peer (posted by {by}), from the first pin listed"
            ),
            rate(joined.from_first),
            "pins/s",
        ),
        Row::rate(
            "the same, from the start of the program, heads told every 2 s",
            rate(joined.from_start),
            "pins/s",
        ),
    ];
    if joined.whole {
        rows.push(Row::lower(format!("the same, whole, {by}"), joined.from_start.as_secs_f64(), "s"));
    }
    rows
}

/// A fresh peer joins, and ends when it has all pins or its time is over.
async fn join(
    subject: &Subject,
    folder: &Path,
    kubo: SocketAddr,
    (source, address): (&Daemon, &str),
    pins: u64,
    clients: u64,
) -> Result<Joined> {
    let peer = Peer::init_with(subject, folder, kubo, &SETTINGS).await?;
    let started = Instant::now();
    let (daemon, _) = peer.start_with(&bootstrap(&[address.to_owned()]), "/id").await?;
    let mut connection = Connection::open(daemon.api).await?;
    let lines = wait(&mut connection, "/allocations", started, |answer| answer.lines > 0).await?;
    ensure!(lines > 0, "{} heard of no pin within {JOIN_TIMEOUT:?}", subject.name);
    let first = Instant::now();
    let taken = [daemon.processor_time()?, source.processor_time()?];
    // Listing everything again and again would slow down who is measured. The pins that were posted first are in the
    // blocks that are reached last, so it is only worth a try when these are here.
    for n in 0..clients.min(pins) {
        let target = format!("/allocations/{}", nth_cid(n)?);
        wait(&mut connection, &target, started, |answer| answer.status == 200).await?;
    }
    let lines = wait(&mut connection, "/allocations", started, |answer| answer.lines >= pins).await?;
    let joined = Joined {
        pins: lines,
        whole: lines >= pins,
        from_start: started.elapsed(),
        from_first: first.elapsed(),
        taken: daemon.processor_time()?.saturating_sub(taken[0]),
        taken_of_source: source.processor_time()?.saturating_sub(taken[1]),
    };
    daemon.stop().await?;
    Ok(joined)
}

/// Returns once an answer is as it should be, or the time is over, with the lines of the last one.
async fn wait(
    connection: &mut Connection,
    target: &str,
    started: Instant,
    is_there: impl Fn(&crate::http::Answer) -> bool,
) -> Result<u64> {
    loop {
        let answer = connection.request("GET", target, false).await?;
        if is_there(&answer) || started.elapsed() >= JOIN_TIMEOUT {
            return Ok(answer.lines);
        }
        tokio::time::sleep(POLL).await;
    }
}
