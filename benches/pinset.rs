//! What the pinset costs: acknowledged pins, listing, export, import, room on disk.
//!
//! `cargo bench --features testing,storage-redb --bench pinset -- [pins] [fjall|redb|memory] [part]`; without
//! `--bench`, as tests run it, everything is tiny.

// A measurement prints what it found, and fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod shared;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use ipfs_cluster::clock::SystemClock;
use ipfs_cluster::consensus::{Consensus, ConsensusContext, Solo, SoloConfig};
use ipfs_cluster::state::lines::{ImportOptions, export_lines, import_lines, parse_lines, write_pin_json};
use ipfs_cluster::state::{State, StateQuery, StateReader, StoreState};
use ipfs_cluster::storage::{
    Batch, FjallConfig, FjallStorage, MemoryStorage, RedbConfig, RedbStorage, Storage,
};
use ipfs_cluster::testing::peer;
use ipfs_cluster::transport::MemoryNetwork;
use ipfs_cluster::types::{Pin, PinOperation};

const CALLERS: u64 = 64;
const BATCH: u64 = 1_000;

fn pin(number: u64) -> Pin {
    shared::pin(number, "item")
}

fn open(engine: &str, folder: &Path) -> Arc<dyn Storage> {
    let folder = folder.join(engine);
    match engine {
        "fjall" => Arc::new(FjallStorage::open(folder, FjallConfig::default()).unwrap()),
        "redb" => Arc::new(RedbStorage::open(folder, RedbConfig::default()).unwrap()),
        "memory" => Arc::new(MemoryStorage::new()),
        other => panic!("no engine {other}, expected fjall, redb or memory"),
    }
}

/// Bytes that the files of a folder take on disk.
fn disk_bytes(folder: &Path) -> u64 {
    std::fs::read_dir(folder).map_or(0, |entries| {
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
                #[cfg(unix)]
                Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
                #[cfg(not(unix))]
                Ok(data) => data.len(),
                Err(_) => 0,
            })
            .sum()
    })
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn report(what: &str, count: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    let rate = count as f64 / seconds;
    println!("{what:<44} {rate:>12.0}/s  ({count} in {seconds:.2} s, resident {} MiB)", resident_mib());
}

async fn solo(storage: Arc<dyn Storage>, callers: u64, count: u64) {
    let transport = Arc::new(MemoryNetwork::new(0).join(peer(1)).unwrap());
    let state = Arc::new(StoreState::open(Arc::clone(&storage)).await.unwrap());
    let cx = ConsensusContext::new(peer(1), storage, state, transport, Arc::new(SystemClock));
    let solo = Arc::new(Solo::open(SoloConfig::default(), cx).await.unwrap());
    let next = Arc::new(AtomicU64::new(0));
    let since = Instant::now();
    let callers_running: Vec<_> = (0..callers)
        .map(|_| {
            let (solo, next) = (solo.clone(), next.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return waits;
                    }
                    let begun = Instant::now();
                    solo.log_pin(pin(number)).await.unwrap();
                    waits.push(begun.elapsed());
                }
            })
        })
        .collect();
    let mut waits: Vec<Duration> = Vec::new();
    for caller in callers_running {
        waits.extend(caller.await.unwrap());
    }
    report(&format!("log_pin, {callers} callers"), count, since);
    waits.sort_unstable();
    let at = |part: usize| waits[(waits.len() * part / 1000).min(waits.len() - 1)];
    println!("    wait p50 {:?}, p99 {:?}, max {:?}", at(500), at(990), at(1000));
    assert_eq!(solo.state().counts().pins, count);
    solo.shutdown().await.unwrap();
}

async fn apply(state: &StoreState, count: u64) {
    let since = Instant::now();
    for first in (0..count).step_by(BATCH as usize) {
        let operations =
            (first..(first + BATCH).min(count)).map(|number| PinOperation::Pin(Arc::new(pin(number))));
        state.apply(operations.collect(), Batch::new()).await.unwrap();
    }
    report(&format!("apply, {BATCH} a batch"), count, since);
}

async fn list(state: &StoreState, count: u64) {
    let since = Instant::now();
    let mut pages = state.list(StateQuery::default());
    let mut seen = 0;
    while let Some(page) = pages.try_next().await.unwrap() {
        seen += page.len() as u64;
    }
    assert_eq!(seen, count);
    report("list", count, since);
}

async fn export(state: &StoreState, count: u64) {
    let since = Instant::now();
    let mut chunks = export_lines(state, StateQuery::default());
    let mut bytes = 0;
    while let Some(chunk) = chunks.try_next().await.unwrap() {
        bytes += chunk.len();
    }
    report(&format!("export, {} bytes a line", bytes as u64 / count), count, since);
}

async fn import(state: &StoreState, text: bytes::Bytes, count: u64) {
    let since = Instant::now();
    let pages = parse_lines(std::io::Cursor::new(text.clone()), ImportOptions::default());
    let parsed: u64 = pages.try_fold(0, async |sum, page| Ok(sum + page.len() as u64)).await.unwrap();
    report("parsing alone", parsed, since);
    let since = Instant::now();
    let input = std::io::Cursor::new(text);
    let done = import_lines(state, input, ImportOptions::default(), Arc::new(|_| {})).await.unwrap();
    assert_eq!(done, count);
    report("import", count, since);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let real = arguments.iter().any(|argument| argument == "--bench");
    let mut words = arguments.iter().filter(|argument| !argument.starts_with("--"));
    let count: u64 = words.next().map_or(if real { 200_000 } else { 3_000 }, |word| word.parse().unwrap());
    let engines: Vec<&str> = words.next().map_or(vec!["fjall", "redb"], |word| vec![word]);
    let part = words.next().map_or("all", String::as_str);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for engine in engines {
        println!("\n{engine}, {count} pins, {} cores", std::thread::available_parallelism().unwrap());
        let wanted = |name: &str| part == "all" || part == name;
        runtime.block_on(async {
            if wanted("solo") {
                for (callers, count) in [(1, count / 50), (CALLERS, count)] {
                    let folder = tempfile::tempdir().unwrap();
                    solo(open(engine, folder.path()), callers, count).await;
                }
            }
            if wanted("state") {
                let folder = tempfile::tempdir().unwrap();
                let storage = open(engine, folder.path());
                let state = StoreState::open(storage.clone()).await.unwrap();
                apply(&state, count).await;
                list(&state, count).await;
                export(&state, count).await;
                drop(state);
                storage.close().unwrap();
                let per_pin = disk_bytes(folder.path()) / count;
                println!("    {per_pin} bytes a pin on disk after single batches");
            }
            if wanted("import") {
                let mut text = Vec::new();
                // Not in the order of the keys.
                for number in 0..count {
                    write_pin_json(&pin(number), &mut text);
                    text.push(b'\n');
                }
                let folder = tempfile::tempdir().unwrap();
                let storage = open(engine, folder.path());
                let state = StoreState::open(storage.clone()).await.unwrap();
                import(&state, text.into(), count).await;
                list(&state, count).await;
                export(&state, count).await;
                drop(state);
                storage.close().unwrap();
                let per_pin = disk_bytes(folder.path()) / count;
                println!("    {per_pin} bytes a pin on disk after an import");
            }
        });
    }
}
