//! Cuts the power under both engines while they write, and looks for everything they had acknowledged.
//!
//! Five rounds for each test; fifty with `IPFS_CLUSTER_TEST_LONG=1`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // A test has nothing better to do with a failure than to panic.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use ipfs_cluster::ErrorKind;
use ipfs_cluster::storage::{
    Direction, FjallConfig, FjallStorage, KeyRange, RedbConfig, RedbStorage, Snapshot, Space, Storage,
};
use ipfs_cluster::testing::power_cut::{Damage, Loss, PowerCut};
use tempfile::TempDir;

mod workload;
use workload::{
    BULK, BatchId, CURRENT, CURRENT_KEY, DONE, Numbers, PINS, bulk_entries, bulk_entry, expected_pins,
};

/// A writer that prints nothing for so long hangs.
const WRITER_SILENCE_MAX: Duration = Duration::from_secs(60);
/// Threads of the writer that write batches.
const WRITERS: u32 = 4;

#[derive(Clone, Copy, Debug)]
enum Engine {
    Fjall,
    Redb,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Redb => "redb",
        }
    }

    fn open(self, path: &Path) -> Arc<dyn Storage> {
        match self {
            Self::Fjall => Arc::new(FjallStorage::open(path, FjallConfig::default()).unwrap()),
            Self::Redb => Arc::new(RedbStorage::open(path, RedbConfig::default()).unwrap()),
        }
    }
}

fn rounds() -> u64 {
    if std::env::var("IPFS_CLUSTER_TEST_LONG").is_ok_and(|long| long == "1") { 50 } else { 5 }
}

/// The example is built with the tests; it stands beside the folder that this program is in.
fn writer() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/powercut_writer");
    assert!(
        path.exists(),
        "{} is not built: run cargo build --examples with the same features",
        path.display()
    );
    path
}

/// A folder under which the power can be cut; none, and a word about it, where there is no C compiler.
fn power_cut(folder: &TempDir) -> Option<PowerCut> {
    match PowerCut::new(&folder.path().join("disk")) {
        Ok(power_cut) => Some(power_cut),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// What the writer was promised.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    opened: bool,
    /// By writer, the number after the last acknowledged batch.
    batches: BTreeMap<u32, u32>,
    generation: Option<u32>,
    removed: Option<u32>,
    lines: u64,
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse::<u32>().unwrap();
        match &words[..] {
            ["open"] => self.opened = true,
            ["batch", writer, batch] => {
                self.batches.insert(number(writer), number(batch) + 1);
            }
            ["generation", generation] => self.generation = Some(number(generation)),
            ["removed", generation] => self.removed = Some(number(generation)),
            other => panic!("the writer said {other:?}"),
        }
        self.lines += 1;
    }
}

/// Lets the writer write until `lines` were printed and a moment longer, then kills it.
fn write_and_kill(
    engine: Engine,
    durability: &str,
    power_cut: &PowerCut,
    lines: u64,
    longer: Duration,
) -> Acknowledged {
    let mut command = Command::new(writer());
    command.arg(engine.name()).arg(power_cut.root().join("store")).arg(durability);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    power_cut.env(&mut command);
    let mut child = command.spawn().unwrap();
    let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = BufReader::new(errors).read_to_string(&mut text);
        text
    });
    // Bounded, so that the writer waits for us and not the other way round.
    let (sender, receiver) = mpsc::sync_channel(1_024);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            // Half a line at the end was not printed.
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    let mut acknowledged = Acknowledged::default();
    while acknowledged.lines < lines {
        match receiver.recv_timeout(WRITER_SILENCE_MAX) {
            Ok(line) => acknowledged.take(&line),
            Err(error) => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!(
                    "{engine:?} stopped after {} acknowledgements: {error}\n{}",
                    acknowledged.lines,
                    errors.join().unwrap()
                );
            }
        }
    }
    let end = std::time::Instant::now() + longer;
    while let Ok(line) = receiver.recv_timeout(end.saturating_duration_since(std::time::Instant::now())) {
        acknowledged.take(&line);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while let Ok(line) = receiver.recv() {
        acknowledged.take(&line);
    }
    reader.join().unwrap();
    let errors = errors.join().unwrap();
    assert!(errors.is_empty(), "{engine:?}: {errors}");
    acknowledged
}

fn everything(snapshot: &dyn Snapshot, space: Space) -> BTreeMap<Bytes, Bytes> {
    let page = snapshot.scan(space, KeyRange::all(), Direction::Forward, usize::MAX).unwrap();
    assert!(!page.more);
    page.entries.into_iter().collect()
}

/// What is missing or too much after a power cut, in words.
fn find_losses(storage: &dyn Storage, acknowledged: &Acknowledged) -> Vec<String> {
    let mut losses = Vec::new();
    let snapshot = storage.snapshot().unwrap();
    let mut pins = everything(&*snapshot, PINS);
    let mut written = BTreeMap::<u32, u32>::new();
    for key in everything(&*snapshot, DONE).keys() {
        let id = BatchId::parse(key).unwrap();
        let count = written.entry(id.writer).or_default();
        if *count != id.number {
            losses.push(format!("batches {count} to {} of writer {} are missing", id.number, id.writer));
        }
        *count = id.number + 1;
    }
    for writer in 0..WRITERS {
        let (there, promised) = (
            written.get(&writer).copied().unwrap_or(0),
            acknowledged.batches.get(&writer).copied().unwrap_or(0),
        );
        if there < promised {
            losses.push(format!("writer {writer} lost {} of {promised} batches", promised - there));
        }
        // Whole batches: exactly what those that are there wrote and removed.
        for (key, value) in expected_pins(writer, there) {
            match pins.remove(&key) {
                Some(found) if found == value => {}
                Some(_) => losses.push(format!("a value of writer {writer} is wrong")),
                None => {
                    losses.push(format!("a key of writer {writer} is missing from a batch that is there"))
                }
            }
        }
    }
    if !pins.is_empty() {
        losses.push(format!("{} keys belong to no batch, or were removed", pins.len()));
    }
    let current = snapshot.get(CURRENT, CURRENT_KEY).unwrap();
    let current = current.map(|bytes| u32::from_be_bytes(bytes.as_ref().try_into().unwrap()));
    if current < acknowledged.generation {
        losses.push(format!("generation {:?} was in use, now it is {current:?}", acknowledged.generation));
    }
    if let Some(current) = current {
        let expected: BTreeMap<_, _> =
            (0..bulk_entries(current)).map(|index| bulk_entry(current, index)).collect();
        if everything(&*snapshot, BULK.generation(current)) != expected {
            losses.push(format!("generation {current} is in use and not whole"));
        }
    }
    for removed in 0..acknowledged.removed.map_or(0, |removed| removed + 1) {
        if !everything(&*snapshot, BULK.generation(removed)).is_empty() {
            losses.push(format!("removed generation {removed} is back"));
        }
    }
    losses
}

/// How many lines to wait for, and how long after that.
fn moment(numbers: &mut Numbers) -> (u64, Duration) {
    let lines = match numbers.next() % 5 {
        // While the store is being made, and right after.
        0 => numbers.next() % 3,
        _ => 20 + numbers.next() % 1_500,
    };
    (lines, Duration::from_micros(numbers.next() % 20_000))
}

fn nothing_acknowledged_is_lost(engine: Engine, loss: fn(u64) -> Loss) {
    let folder = TempDir::new().unwrap();
    let Some(power_cut) = power_cut(&folder) else { return };
    let mut total = Damage::default();
    let mut lines = 0;
    // A store lives through several cuts, then a new one begins.
    let mut promised = Acknowledged::default();
    for round in 0..rounds() {
        if round % 7 == 0 {
            std::fs::remove_dir_all(power_cut.root()).unwrap();
            std::fs::create_dir(power_cut.root()).unwrap();
            promised = Acknowledged::default();
        }
        let mut numbers = Numbers(round);
        let (wanted, longer) = moment(&mut numbers);
        let acknowledged = write_and_kill(engine, "synced", &power_cut, wanted, longer);
        let damage = power_cut.restore(loss(round)).unwrap();
        lines += acknowledged.lines;
        promised.batches.extend(acknowledged.batches);
        promised.generation = acknowledged.generation.or(promised.generation);
        promised.removed = acknowledged.removed.or(promised.removed);
        println!("{engine:?} round {round}: {} acknowledgements, {damage:?}", acknowledged.lines);
        let storage = engine.open(&power_cut.root().join("store"));
        let losses = find_losses(&*storage, &promised);
        assert!(losses.is_empty(), "{engine:?} round {round}: {losses:#?}");
        storage.close().unwrap();
        total.writes += damage.writes;
        total.syncs += damage.syncs;
        total.unsynced_writes += damage.unsynced_writes;
        total.blocks_kept += damage.blocks_kept;
        total.names_undone += damage.names_undone;
    }
    println!("{engine:?}: {} power cuts, {lines} acknowledgements, nothing lost; {total:?}", rounds());
    assert!(total.unsynced_writes > 0, "the power cuts took nothing, so they showed nothing");
}

#[test]
fn fjall_loses_nothing_acknowledged_when_all_unsynced_is_gone() {
    nothing_acknowledged_is_lost(Engine::Fjall, |_| Loss::Everything);
}

#[test]
fn redb_loses_nothing_acknowledged_when_all_unsynced_is_gone() {
    nothing_acknowledged_is_lost(Engine::Redb, |_| Loss::Everything);
}

#[test]
fn fjall_loses_nothing_acknowledged_when_some_of_the_unsynced_is_gone() {
    nothing_acknowledged_is_lost(Engine::Fjall, Loss::Some);
}

#[test]
fn redb_loses_nothing_acknowledged_when_some_of_the_unsynced_is_gone() {
    nothing_acknowledged_is_lost(Engine::Redb, Loss::Some);
}

/// The test of the test: without the sync it must fail.
fn a_missing_sync_is_found(engine: Engine) {
    let folder = TempDir::new().unwrap();
    let Some(power_cut) = power_cut(&folder) else { return };
    let mut found = 0;
    for round in 0..rounds() {
        std::fs::remove_dir_all(power_cut.root()).unwrap();
        std::fs::create_dir(power_cut.root()).unwrap();
        let acknowledged = write_and_kill(engine, "buffered", &power_cut, 200 + 100 * round, Duration::ZERO);
        power_cut.restore(Loss::Everything).unwrap();
        let storage = engine.open(&power_cut.root().join("store"));
        let losses = find_losses(&*storage, &acknowledged);
        println!("{engine:?} round {round}: {losses:?}");
        found += u64::from(!losses.is_empty());
        storage.close().unwrap();
    }
    println!("{engine:?} without sync: losses in {found} of {} power cuts", rounds());
    assert_eq!(found, rounds());
}

#[test]
fn fjall_without_sync_is_found_to_lose() {
    a_missing_sync_is_found(Engine::Fjall);
}

#[test]
fn redb_without_sync_is_found_to_lose() {
    a_missing_sync_is_found(Engine::Redb);
}
