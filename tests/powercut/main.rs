//! Cuts the power under both engines while they write, and looks for everything they had acknowledged.
//!
//! Five rounds for each test; fifty with `IPFS_CLUSTER_TEST_LONG=1`. `IPFS_CLUSTER_TEST_SEED` chooses other moments.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // A test has nothing better to do with a failure than to panic.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipfs_cluster::ErrorKind;
use ipfs_cluster::storage::{
    Direction, FjallConfig, FjallStorage, KeyRange, RedbConfig, RedbStorage, Snapshot, Space, Storage,
};
use ipfs_cluster::testing::power_cut::{Damage, Loss, PowerCut};
use ipfs_cluster::testing::random::Random;
use tempfile::TempDir;

mod workload;
mod writer;
use workload::{BULK, BatchId, CURRENT, CURRENT_KEY, DONE, PINS, bulk_entries, bulk_entry, expected_pins};
use writer::{LINE_MARK, WRITERS};

/// A writer that prints nothing for so long hangs.
const WRITER_SILENCE_MAX: Duration = Duration::from_secs(60);
/// A store lives through so many power cuts, then a new one begins.
const ROUNDS_OF_A_STORE: u64 = 4;

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

/// The number of the first round, from which its moment and its luck follow.
fn first_round() -> u64 {
    std::env::var("IPFS_CLUSTER_TEST_SEED").map_or(0, |seed| seed.parse().unwrap())
}

fn rounds() -> u64 {
    if std::env::var("IPFS_CLUSTER_TEST_LONG").is_ok_and(|long| long == "1") { 50 } else { 5 }
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
    removed: BTreeSet<u32>,
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
            ["removed", generation] => {
                self.removed.insert(number(generation));
            }
            other => panic!("the writer said {other:?}"),
        }
        self.lines += 1;
    }
}

/// A writer at work.
struct Writer {
    engine: Engine,
    child: Child,
    lines: mpsc::Receiver<String>,
    reader: JoinHandle<()>,
    errors: JoinHandle<String>,
    acknowledged: Acknowledged,
}

impl Writer {
    fn start(engine: Engine, task: &str, power_cut: &PowerCut) -> Self {
        let mut command = writer::command(engine.name(), &power_cut.root().join("store"), task);
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
        let (sender, lines) = mpsc::sync_channel(1_024);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                // What the test program says goes before or between.
                let Some((_, line)) = line.as_deref().unwrap().split_once(LINE_MARK) else { continue };
                if sender.send(line.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { engine, child, lines, reader, errors, acknowledged: Acknowledged::default() }
    }

    /// Waits for acknowledgements.
    fn wait_for(&mut self, lines: u64) {
        while self.acknowledged.lines < lines {
            match self.lines.recv_timeout(WRITER_SILENCE_MAX) {
                Ok(line) => self.acknowledged.take(&line),
                Err(error) => {
                    // The end of the program is the end of its errors.
                    self.child.kill().unwrap();
                    while !self.errors.is_finished() {
                        std::thread::yield_now();
                    }
                    let errors = std::mem::replace(&mut self.errors, std::thread::spawn(String::new));
                    panic!(
                        "{:?} stopped after {} acknowledgements: {error}\n{}",
                        self.engine,
                        self.acknowledged.lines,
                        errors.join().unwrap()
                    );
                }
            }
        }
    }

    /// Takes acknowledgements for a while.
    fn take_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.acknowledged.take(&line);
        }
    }

    fn kill(mut self) -> Acknowledged {
        self.child.kill().unwrap();
        let engine = self.engine;
        let (acknowledged, errors) = self.wait_for_end();
        assert!(errors.is_empty(), "{engine:?}: {errors}");
        acknowledged
    }

    /// Waits until it ends by itself or by a kill; what it was promised, and its errors.
    fn wait_for_end(mut self) -> (Acknowledged, String) {
        loop {
            match self.lines.recv_timeout(WRITER_SILENCE_MAX) {
                Ok(line) => self.acknowledged.take(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.child.kill().unwrap();
                    panic!("{:?} hangs", self.engine);
                }
            }
        }
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        (self.acknowledged, self.errors.join().unwrap())
    }
}

/// Lets the writer write until `lines` were printed and a moment longer, then kills it.
fn write_and_kill(
    engine: Engine,
    task: &str,
    power_cut: &PowerCut,
    lines: u64,
    longer: Duration,
) -> Acknowledged {
    let mut writer = Writer::start(engine, task, power_cut);
    writer.wait_for(lines);
    writer.take_for(longer);
    writer.kill()
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
    for removed in &acknowledged.removed {
        if !everything(&*snapshot, BULK.generation(*removed)).is_empty() {
            losses.push(format!("removed generation {removed} is back"));
        }
    }
    losses
}

/// How many lines to wait for, and how long after that.
fn moment(numbers: &mut Random) -> (u64, Duration) {
    let lines = match numbers.number() % 5 {
        // While the store is being made, and right after.
        0 => numbers.number() % 8,
        1..4 => 20 + numbers.number() % 300,
        _ => 500 + numbers.number() % 1_000,
    };
    (lines, Duration::from_micros(numbers.number() % 20_000))
}

/// Cuts that are added while none took anything.
const MORE_ROUNDS_MAX: u64 = 45;

fn nothing_acknowledged_is_lost(engine: Engine, loss: fn(u64) -> Loss) {
    let folder = TempDir::new().unwrap();
    let Some(power_cut) = power_cut(&folder) else { return };
    let mut total = Damage::default();
    let mut lines = 0;
    let mut promised = Acknowledged::default();
    // A few cuts may all fall between two writes: more of them, until one took something that was not synced.
    for round in first_round()..first_round() + rounds() + MORE_ROUNDS_MAX {
        if round >= first_round() + rounds() && total.unsynced_writes > 0 {
            break;
        }
        if (round - first_round()).is_multiple_of(ROUNDS_OF_A_STORE) {
            std::fs::remove_dir_all(power_cut.root()).unwrap();
            std::fs::create_dir(power_cut.root()).unwrap();
            promised = Acknowledged::default();
        }
        let mut numbers = Random::new(round);
        let (wanted, longer) = moment(&mut numbers);
        let acknowledged = write_and_kill(engine, "synced", &power_cut, wanted, longer);
        let damage = power_cut.restore(loss(round)).unwrap();
        lines += acknowledged.lines;
        promised.batches.extend(acknowledged.batches);
        promised.generation = acknowledged.generation.or(promised.generation);
        promised.removed.extend(acknowledged.removed);
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
        let acknowledged =
            write_and_kill(engine, "buffered", &power_cut, 50 + 40 * (round % 5), Duration::ZERO);
        power_cut.restore(Loss::Everything).unwrap();
        let storage = engine.open(&power_cut.root().join("store"));
        let losses = find_losses(&*storage, &acknowledged);
        println!("{engine:?} round {round}: {losses:?}");
        found += u64::from(!losses.is_empty());
        // What is there is there as a whole, and so is what was written before it: Raft's pinset depends on it.
        let halves = find_losses(&*storage, &Acknowledged::default());
        assert!(halves.is_empty(), "{engine:?} round {round}: {halves:#?}");
        storage.close().unwrap();
    }
    println!("{engine:?} without sync: losses in {found} of {} power cuts", rounds());
    // Not in each: the engines sync by themselves now and then, and the cut may come right after that.
    assert!(2 * found > rounds());
}

#[test]
fn fjall_without_sync_is_found_to_lose() {
    a_missing_sync_is_found(Engine::Fjall);
}

#[test]
fn redb_without_sync_is_found_to_lose() {
    a_missing_sync_is_found(Engine::Redb);
}

/// What the engine says when the disk is full is an error of that kind, not silence; and it lost nothing.
fn a_full_disk_is_an_error_and_loses_nothing(engine: Engine) {
    let folder = TempDir::new().unwrap();
    let Some(power_cut) = power_cut(&folder) else { return };
    for lines in [1, 30, 200] {
        std::fs::remove_dir_all(power_cut.root()).unwrap();
        std::fs::create_dir(power_cut.root()).unwrap();
        let mut writer = Writer::start(engine, "synced", &power_cut);
        writer.wait_for(lines);
        power_cut.set_disk_full(true).unwrap();
        let (acknowledged, errors) = writer.wait_for_end();
        assert!(errors.contains("writer: storage_full"), "{engine:?}: {errors}");
        power_cut.restore(Loss::Everything).unwrap();
        let storage = engine.open(&power_cut.root().join("store"));
        let losses = find_losses(&*storage, &acknowledged);
        assert!(losses.is_empty(), "{engine:?}: {losses:#?}");
        storage.close().unwrap();
    }
}

#[test]
fn fjall_on_a_full_disk_says_so_and_loses_nothing() {
    a_full_disk_is_an_error_and_loses_nothing(Engine::Fjall);
}

#[test]
fn redb_on_a_full_disk_says_so_and_loses_nothing() {
    a_full_disk_is_an_error_and_loses_nothing(Engine::Redb);
}

/// How many syncs a synced write is.
fn syncs_per_write(engine: Engine) -> Option<u64> {
    let folder = TempDir::new().unwrap();
    let power_cut = power_cut(&folder)?;
    let [few, many] = [50, 150].map(|count: u64| {
        std::fs::remove_dir_all(power_cut.root()).unwrap();
        std::fs::create_dir(power_cut.root()).unwrap();
        let writer = Writer::start(engine, &count.to_string(), &power_cut);
        let (_, errors) = writer.wait_for_end();
        assert!(errors.is_empty(), "{errors}");
        power_cut.restore(Loss::Everything).unwrap().syncs
    });
    // Rounded: now and then a file grows.
    Some((many - few) / 100)
}

#[test]
fn a_synced_write_of_fjall_is_one_sync() {
    assert_eq!(syncs_per_write(Engine::Fjall).unwrap_or(1), 1);
}

/// The price of opening at once after a crash: first the data, then the word that they are there.
#[test]
fn a_synced_write_of_redb_is_two_syncs() {
    assert_eq!(syncs_per_write(Engine::Redb).unwrap_or(2), 2);
}
