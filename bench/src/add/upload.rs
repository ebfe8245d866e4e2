//! `POST /add` of what is in memory, beside daemons that drop what they get.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::process::{Child, Command};

use super::content::pieces;
use super::hashing::middle;
use super::{Adding, megabytes_per_second};
use crate::daemon::{Daemon, FakeKubo, Peer, free_address};
use crate::http::Connection;
use crate::many::{SECRET, bootstrap, wait_for_lines, wait_for_metrics};
use crate::report::Row;

/// Each is measured so often, by turns; the middle one counts.
const ROUNDS: usize = 3;
const PEERS: usize = 3;
/// What each of three daemons takes, in bytes a second.
const THROTTLE: u64 = 200_000_000;
const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

const CONTENT_TYPE: &str = "multipart/form-data; boundary=between-the-parts";
const HEAD: &str = "--between-the-parts\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
                    Content-Type: application/octet-stream\r\n\r\n";
const END: &str = "\r\n--between-the-parts--\r\n";
/// Answered when all is done.
const TARGET: &str = "/add?cid-version=1&raw-leaves=true&stream-channels=false";

/// Posts a form with one file, and gives how long that took.
async fn post(api: SocketAddr, target: &str, content: &[Bytes]) -> Result<Duration> {
    let length = content.iter().map(Bytes::len).sum::<usize>() + HEAD.len() + END.len();
    let body = [Bytes::from(HEAD)].into_iter().chain(content.iter().cloned()).chain([Bytes::from(END)]);
    let started = Instant::now();
    let mut connection = Connection::open(api).await?;
    let answer = connection.upload(target, CONTENT_TYPE, length as u64, body).await?;
    ensure!(
        answer.status == 200,
        "{target} was answered {}: {}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    );
    Ok(started.elapsed())
}

/// One peer, beside a server that only hands on.
pub(super) async fn one(adding: &Adding<'_>) -> Result<Vec<Row>> {
    let content = pieces(adding.mib);
    let bytes = content.iter().map(|piece| piece.len() as u64).sum();
    let kubo = FakeKubo::start_sink(adding.fake_kubo, 0).await?;
    let peer = Peer::init(adding.ours, &adding.folder.join("add-one"), kubo.address).await?;
    let (daemon, _) = peer.start("/id").await?;
    let (_forward, forward) = start_forward(adding, kubo.address).await?;
    // Warm up: the first requests pay for files and pages.
    post(daemon.api, TARGET, &content[..content.len() / 8]).await?;
    post(forward, "/", &content[..content.len() / 8]).await?;
    let (mut added, mut forwarded, mut growth) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        forwarded.push(post(forward, "/", &content).await?);
        let watched = daemon.watch_memory()?;
        added.push(post(daemon.api, TARGET, &content).await?);
        growth = growth.max(watched.growth()?);
    }
    daemon.stop().await?;
    kubo.stop().await?;
    let rate = |elapsed| megabytes_per_second(bytes, elapsed);
    let (added, forwarded) = (rate(middle(added)), rate(middle(forwarded)));
    Ok(vec![
        Row::rate("the same stack hands a body on, nothing hashed", forwarded, "MB/s"),
        Row::rate(format!("POST /add of {} MiB, daemon drops blocks", adding.mib), added, "MB/s"),
        Row::rate("the same, share of what is handed on", added / forwarded * 100.0, "%"),
        Row::mebibytes("the same, growth of resident memory", growth),
    ])
}

async fn start_forward(adding: &Adding<'_>, to: SocketAddr) -> Result<(Child, SocketAddr)> {
    let listen = free_address()?;
    let mut command = Command::new(adding.forward);
    command.arg(listen.to_string()).arg(format!("http://{to}/fake/sink"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("starting {}", adding.forward.display()))?;
    let started = Instant::now();
    while Connection::open(listen).await.is_err() {
        ensure!(started.elapsed() < START_TIMEOUT, "the server that hands on did not start");
        tokio::time::sleep(POLL).await;
    }
    Ok((child, listen))
}

/// Three peers, each with a daemon that takes so much: to one, and to all.
pub(super) async fn three(adding: &Adding<'_>) -> Result<Vec<Row>> {
    const SETTINGS: [(&str, &str); 4] = [
        ("CLUSTER_SECRET", SECRET),
        ("CLUSTER_CRDT_TRUSTEDPEERS", "*"),
        ("CLUSTER_DISK_METRICTTL", "10s"),
        ("CLUSTER_TAGS_METRICTTL", "10s"),
    ];
    let together = crate::daemon::Subject { init: &["init"], ..adding.ours.clone() };
    let content = pieces(adding.mib);
    let bytes = content.iter().map(|piece| piece.len() as u64).sum();
    let (mut kubos, mut peers, mut daemons): (Vec<_>, Vec<Peer>, Vec<Daemon>) = Default::default();
    for number in 0..PEERS {
        let kubo = FakeKubo::start_sink(adding.fake_kubo, THROTTLE).await?;
        let folder = adding.folder.join(format!("add-three-{number}"));
        let peer = Peer::init_with(&together, &folder, kubo.address, &SETTINGS).await?;
        let mut addresses = Vec::new();
        for peer in &peers {
            addresses.push(peer.address().await?);
        }
        let (daemon, _) = peer.start_with(&bootstrap(&addresses), "/id").await?;
        kubos.push(kubo);
        peers.push(peer);
        daemons.push(daemon);
    }
    let apis: Vec<SocketAddr> = daemons.iter().map(|daemon| daemon.api).collect();
    wait_for_lines(&apis, "/peers", PEERS as u64).await?;
    wait_for_metrics(apis[0], PEERS).await?;

    // To the daemon beside it; the reference's way to say so.
    let me = peers[0].address().await?;
    let me = me.rsplit('/').next().unwrap_or_default();
    let to_one = format!("{TARGET}&replication-min=1&replication-max=1&user-allocations={me}");
    let to_all = format!("{TARGET}&replication-min=-1&replication-max=-1");
    let (mut one, mut all, mut growth) = (Vec::new(), Vec::new(), [0; PEERS]);
    for _ in 0..ROUNDS {
        one.push(post(apis[0], &to_one, &content).await?);
        let watched = daemons.iter().map(Daemon::watch_memory).collect::<Result<Vec<_>>>()?;
        all.push(post(apis[0], &to_all, &content).await?);
        for (most, watched) in growth.iter_mut().zip(watched) {
            *most = watched.growth()?.max(*most);
        }
    }
    for daemon in daemons {
        daemon.stop().await?;
    }
    for kubo in kubos {
        kubo.stop().await?;
    }
    let (one, all) = (middle(one), middle(all));
    Ok(vec![
        Row::rate("POST /add, daemon takes 200 MB/s", megabytes_per_second(bytes, one), "MB/s"),
        Row::rate("the same to three peers", megabytes_per_second(bytes, all), "MB/s"),
        Row::lower("the same, times as long as one", all.as_secs_f64() / one.as_secs_f64(), "times"),
        Row::mebibytes("the same, growth of resident memory, who is asked", growth[0]),
        Row::mebibytes("the same, growth of resident memory, others", growth[1].max(growth[2])),
    ])
}
