//! A new peer joins one whose log does not reach back to the beginning, so that it gets the whole pinset at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::SETTINGS;
use crate::daemon::{FakeKubo, Peer};
use crate::load::nth_cid;
use crate::many::{bootstrap, wait_for_lines, wait_until_equal};
use crate::report::Row;
use crate::scenarios::{Setup, write_export};

pub(crate) async fn snapshot(setup: &Setup<'_>, pins: u64) -> Result<Vec<Row>> {
    let source = setup.folder.join("raft-join.ndjson");
    write_export(&source, pins)?;
    let mut kubos = Vec::new();
    for _ in 0..2 {
        kubos.push(FakeKubo::start(setup.fake_kubo, Duration::ZERO, Some(&source)).await?);
    }
    let peer = async |number: usize| {
        let folder = setup.folder.join(format!("raft-join-{number}"));
        Peer::init_with(setup.subject, &folder, kubos[number].address, &SETTINGS).await
    };
    let (first, second) = (peer(0).await?, peer(1).await?);
    // What is imported is removed from the log with the defaults, and whoever joins gets it as a snapshot.
    let import = first.run(&["state", "import", "--force", &source.display().to_string()]).await?;
    let (first_daemon, _) = first.start(&format!("/allocations/{}", nth_cid(pins / 2)?)).await?;
    let addresses = [first.address().await?];
    let watched = first_daemon.watch_memory()?;
    let started = Instant::now();
    let (daemon, first_answer) = second.start_with(&bootstrap(&addresses), "/id").await?;
    wait_until_equal(setup, &[daemon.api, first_daemon.api], pins).await?;
    let joined = started.elapsed();
    wait_for_lines(&[daemon.api], "/allocations", pins).await?;
    let (growth, peak) = (watched.growth()?, daemon.peak_bytes()?);
    daemon.stop().await?;
    first_daemon.stop().await?;
    if !setup.subject.reference {
        let bytes: u64 = second
            .disk_by_space_of("raft")?
            .into_iter()
            .filter_map(|(name, bytes)| (name == "raft-log").then_some(bytes))
            .sum();
        // An entry takes more than a hundred bytes a pin.
        ensure!(bytes < pins * 10, "the pins came one after the other: {bytes} bytes of log");
    }
    for kubo in kubos {
        kubo.stop().await?;
    }
    let seconds = joined.as_secs_f64();
    Ok(vec![
        Row::rate(
            format!("Raft: state import of {pins} lines"),
            pins as f64 / import.as_secs_f64(),
            "lines/s",
        ),
        Row::rate(
            "Raft: a new peer gets a snapshot, from its start until it lists all",
            pins as f64 / seconds,
            "pins/s",
        ),
        Row::lower("the same, whole", seconds, "s"),
        Row::milliseconds("the same, first answer", first_answer),
        Row::mebibytes("the same, growth of resident memory, who sends", growth),
        Row::mebibytes("the same, peak of resident memory, who gets it", peak),
    ])
}
