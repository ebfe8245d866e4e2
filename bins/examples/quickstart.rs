//! A cluster peer in one process, and both stages of pinning on screen.
//!
//! `cargo run --release --example quickstart` starts a peer on embedded defaults (a store on disk in a temporary
//! folder, an IPFS daemon in memory), loads sample content and walks through pinning as an operator meets it. With
//! `-- --serve` the peer stays up with its REST API on 127.0.0.1:9094 (or `--serve ADDRESS`), for `ipfs-cluster-ctl`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::cluster::{Cluster, Scope, Until, presets};
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, MemoryIpfs, MemoryIpfsConfig};
use ipfs_cluster::state::StateQuery;
use ipfs_cluster::storage::{FjallConfig, FjallStorage};
use ipfs_cluster::types::{Block, Cid, GlobalPinInfo, Pin, PinOptions, StatusFilter};

/// How long the daemon waits for missing blocks; two minutes in earnest, too long to watch.
const PIN_TIMEOUT: Duration = Duration::from_secs(2);
const SERVE_DEFAULT: &str = "/ip4/127.0.0.1/tcp/9094";

#[tokio::main]
async fn main() -> Result<()> {
    let mut serve = None;
    let mut arguments = std::env::args().skip(1).peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--serve" => serve = Some(arguments.next().unwrap_or_else(|| SERVE_DEFAULT.to_owned())),
            "--consensus" => match arguments.next().as_deref() {
                Some("solo") => {}
                other => bail!("--consensus {}: this version has solo", other.unwrap_or("")),
            },
            other => bail!("unknown argument {other:?}; known: --serve [MULTIADDRESS], --consensus solo"),
        }
    }

    // A peer: where it keeps the pinset, which IPFS daemon it sits beside, and sensible choices for the rest.
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let ipfs = MemoryIpfs::with_config(MemoryIpfsConfig { pin_timeout: PIN_TIMEOUT, ..Default::default() });
    let cluster = Cluster::builder()
        .preset(presets::Solo)
        .peername("quickstart")
        .storage(FjallStorage::open(folder.path().join("fjall"), FjallConfig::default())?)
        .ipfs(ipfs.clone())
        .start()
        .await?;
    cluster.ready().await?;
    println!("A peer is up: {} (quickstart), beside an IPFS daemon in memory.\n", cluster.peer_id());

    title(
        "Stage one: the pinset. `pin add` is done when every peer will remember it, even after a power cut.",
    );
    let photos = ipfs.add_sample("a sample of photos");
    let notes = ipfs.add_sample("a sample of notes");
    for (cid, name) in [(photos, "photos"), (notes, "notes")] {
        let options = PinOptions { name: name.to_owned(), ..PinOptions::default() };
        show_pin("pin add --no-status", &cluster.pin(cid, options).await?);
    }
    let mut pages = cluster.pins(StateQuery::default());
    while let Some(page) = pages.next().await {
        for pin in page? {
            show_pin("pin ls", &pin);
        }
    }

    title(
        "Stage two: the daemons. `status` asks them whether they have it; `pin add --wait` waits until they do.",
    );
    for cid in [photos, notes] {
        show_status("pin add --wait", &cluster.wait(cid).until(Until::PinnedEverywhere).await?);
    }

    title("A failure: content that nobody has.");
    let block = Block::raw("a block that is still elsewhere");
    let missing = block.cid;
    cluster.pin(missing, PinOptions { name: "missing".to_owned(), ..PinOptions::default() }).await?;
    show_status("status", &cluster.status(&missing, Scope::Global).await?);
    println!("  … the daemon gives up after {PIN_TIMEOUT:?} without progress …");
    match cluster.wait(missing).until(Until::PinnedEverywhere).await {
        Ok(_) => bail!("nobody has this block, and yet it was pinned"),
        Err(error) => println!("  pin add --wait fails: {error}"),
    }
    show_all("status --filter error", cluster.status_all(StatusFilter::ERROR, Scope::Global)).await?;
    ipfs.put(block)?;
    println!("  The block arrives. `recover` retries (a peer does so by itself every 12 minutes).");
    show_status("recover", &cluster.recover(&missing, Scope::Global).await?);
    show_status("status", &cluster.wait(missing).past_errors().await?);

    title("Behind our back: somebody unpins directly on the IPFS daemon.");
    ipfs.unpin(&photos).await?;
    show_status("status", &cluster.status(&photos, Scope::Global).await?);
    println!("  `sync` makes what is reported match the daemon, and lists what changed:");
    show_all("sync", cluster.sync_all(Scope::Global)).await?;
    println!("  `recover` pins it again:");
    show_all("recover", cluster.recover_all(Scope::Global)).await?;
    show_status("status", &cluster.wait(photos).past_errors().await?);

    title("Unpinning.");
    show_pin("pin rm", &cluster.unpin(&notes).await?);
    show_status("status", &cluster.wait(notes).until(Until::Gone).await?);

    println!("\nCIDs used: photos {photos}\n           notes  {notes}\n           missing {missing}");
    match serve {
        Some(address) => serve_until_interrupted(cluster, &address, photos).await,
        None => {
            cluster.shutdown().await;
            println!("\nNext: the same with a REST API for ipfs-cluster-ctl:");
            println!("  cargo run --release --example quickstart -- --serve");
            println!("Or a peer beside your own Kubo daemon:");
            println!("  cargo run --release --bin ipfs-cluster-service -- init");
            println!("  cargo run --release --bin ipfs-cluster-service -- daemon");
            Ok(())
        }
    }
}

async fn serve_until_interrupted(cluster: Cluster, address: &str, cid: Cid) -> Result<()> {
    let config = RestConfig::default().listen([address.parse()?]);
    let api = RestApi::bind(config, cluster.clone()).await?;
    let ctl = "cargo run --release --bin ipfs-cluster-ctl --";
    let host = if address == SERVE_DEFAULT { String::new() } else { format!(" --host {address}") };
    println!("\nServing the REST API on {address}. In another terminal:");
    for command in ["id", "pin ls", "status", &format!("pin rm {cid}"), &format!("pin add --wait {cid}")] {
        println!("  {ctl}{host} {command}");
    }
    println!("Ctrl-C ends it; everything is gone then.");
    tokio::signal::ctrl_c().await?;
    api.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn show_pin(command: &str, pin: &Pin) {
    println!("  {command:<22} {} | {}", pin.cid, pin.options.name);
}

fn show_status(command: &str, info: &GlobalPinInfo) {
    for status in info.peer_map.values() {
        let error = if status.error.is_empty() { String::new() } else { format!(": {}", status.error) };
        let what = status.status.as_str().to_uppercase();
        println!("  {command:<22} {} | {} > {what}{error}", info.cid, status.peername);
    }
}

async fn show_all(
    command: &str,
    mut pages: futures::stream::BoxStream<'static, ipfs_cluster::Result<Vec<GlobalPinInfo>>>,
) -> Result<()> {
    while let Some(page) = pages.next().await {
        for info in page? {
            show_status(command, &info);
        }
    }
    Ok(())
}
