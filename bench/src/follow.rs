//! A follower of a big pinset: how soon a restarted one answers, what it takes, and what it asks of its daemon.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::daemon::{Daemon, FakeKubo, Peer};
use crate::http::Connection;
use crate::report::Row;
use crate::scenarios::{Setup, write_export};

/// The listing that `ipfs-cluster-follow <name> list` asks for.
const LIST: &str = "/pins?local=true";
const SAMPLE: Duration = Duration::from_millis(50);
/// How long a daemon rests before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(20);
/// How long the pins may take that were not pinned yet.
const PINNED_TIMEOUT: Duration = Duration::from_secs(600);
/// Pins that the daemon lacks at first: a restarted follower finds them and has them pinned.
const MISSING_SHARE: u64 = 50;
/// How long the daemon takes for each of them.
const PIN_DELAY: Duration = Duration::from_millis(20);

/// A follower with a pinset that its daemon holds but for a fiftieth, restarted: the program for followers where there is
/// one, else the other in follower mode.
pub(crate) async fn follow(setup: &Setup<'_>, follower: Option<&Path>, pins: u64) -> Result<Vec<Row>> {
    let source = setup.folder.join("followed.ndjson");
    write_export(&source, pins)?;
    let held = setup.folder.join("held.ndjson");
    write_export(&held, pins - pins / MISSING_SHARE)?;
    let kubo = FakeKubo::start(setup.fake_kubo, PIN_DELAY, Some(&held)).await?;
    let peer = Peer::init_with(
        setup.subject,
        &setup.folder.join("followed").join("bench"),
        kubo.address,
        &[("CLUSTER_FOLLOWERMODE", "true")],
    )
    .await?;
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
    peer.run(&["state", "import", "--force", &path(&source)?]).await?;

    // The first start after an import pays for more than a restart.
    let (daemon, _) = peer.start("/id").await?;
    daemon.stop().await?;
    let (daemon, started) = peer.start_listing(follower, LIST).await?;
    let mut peak = daemon.resident_bytes()?;
    let until = Instant::now() + SETTLE;
    while Instant::now() < until {
        peak = peak.max(daemon.resident_bytes()?);
        tokio::time::sleep(SAMPLE).await;
    }
    peak = peak.max(until_pinned(&daemon).await?);
    tokio::time::sleep(SETTLE).await;
    let idle = daemon.resident_bytes()?;
    let listing = crate::scenarios::list(&daemon, LIST, pins).await?;
    daemon.stop().await?;
    let most = kubo.pins_running_max().await?;
    kubo.stop().await?;
    Ok(vec![
        Row::milliseconds(
            format!("follower of {pins} pins: restart until the first line of the list"),
            started,
        ),
        Row::mebibytes("the same, peak of resident memory while it pins what is missing", peak),
        Row::mebibytes("the same, resident when idle", idle),
        Row::mebibytes("the same, growth of resident memory by a whole list", listing.growth),
        Row::lower("most pins at a time at the daemon (10 are configured)", most as f64, "pins"),
    ])
}

/// Waits until nothing is queued, and gives the peak of resident memory meanwhile.
async fn until_pinned(daemon: &Daemon) -> Result<u64> {
    let started = Instant::now();
    let mut connection = Connection::open(daemon.api).await?;
    let mut peak = 0;
    loop {
        let answer = connection.request("GET", "/pins?local=true&filter=queued,pinning", false).await?;
        peak = peak.max(daemon.resident_bytes()?);
        if answer.status == 204 {
            return Ok(peak);
        }
        ensure!(started.elapsed() < PINNED_TIMEOUT, "pins were not pinned within {PINNED_TIMEOUT:?}");
        tokio::time::sleep(SAMPLE).await;
    }
}
