//! The victim: writes to a store as fast as it can and prints what the store acknowledged, until it is killed.
//!
//! It is this very test program, started again with other arguments, so it is never older than the test.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipfs_cluster::error::{Error, Result};
use ipfs_cluster::storage::{
    Batch, Direction, Durability, FjallConfig, FjallStorage, KeyRange, RedbConfig, RedbStorage, Storage,
};

use crate::workload::{BULK, BatchId, CURRENT, CURRENT_KEY, DONE, bulk_entries, bulk_entry};

/// Threads that sync each of their batches.
const SYNCING_WRITERS: u32 = 3;
/// All threads that write batches.
pub(crate) const WRITERS: u32 = SYNCING_WRITERS + 1;
/// Batches that the last writer writes before it syncs them all with an empty batch.
const UNSYNCED_RUN: u32 = 7;
/// Comes before each line of ours, among those of the test program.
pub(crate) const LINE_MARK: &str = "@ ";
/// What the writer has to do: engine, folder and task, see [`run`].
const TASK: &str = "POWERCUT_WRITER";

/// The writer, not started yet.
pub(crate) fn command(engine: &str, folder: &Path, task: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writer::is_no_test", "--nocapture"]);
    command.env(TASK, format!("{engine}\n{}\n{task}", folder.display()));
    command
}

#[test]
fn is_no_test() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<&str> = task.split('\n').collect();
    let [engine, folder, task] = words[..] else { panic!("{TASK} is {task:?}") };
    if let Err(error) = run(engine, folder, task) {
        eprintln!("writer: {error:?}");
        std::process::exit(1);
    }
    // Dead at once, as after a kill: nothing is closed.
    std::process::exit(0);
}

/// Tasks: `synced`, `buffered` (the same, but takes what is not synced for acknowledged), and a number: so many
/// synced batches one after the other, and no more.
///
/// Lines on standard output: `open`, `batch WRITER NUMBER`, `generation N`, `removed N`.
fn run(engine: &str, folder: &str, task: &str) -> Result<()> {
    let counting = task.parse::<u32>();
    // Small, so that files are written and merged all the time; but not where syncs are counted.
    let storage = open(engine, folder, counting.is_err())?;
    print(format_args!("open"));
    let durability = match (task, counting) {
        ("synced", _) => Durability::Synced,
        ("buffered", _) => Durability::Buffered,
        (_, Ok(count)) => {
            for number in 0..count {
                storage.write(BatchId { writer: 0, number }.batch(), Durability::Synced)?;
            }
            return Ok(());
        }
        _ => return Err(Error::invalid_input(format!("unknown task {task:?}"))),
    };
    let failed = AtomicBool::new(false);
    let report = |result: Result<()>| {
        if let Err(error) = result {
            eprintln!("writer: {error:?}");
            failed.store(true, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..SYNCING_WRITERS {
            let (storage, failed) = (&storage, &failed);
            scope.spawn(move || report(write_synced(&**storage, writer, durability, failed)));
        }
        scope.spawn(|| report(write_in_runs(&*storage, SYNCING_WRITERS, durability, &failed)));
        // It syncs whatever it is told, and others' writes with its own.
        if durability == Durability::Synced {
            scope.spawn(|| report(load_generations(&*storage, &failed)));
        }
    });
    Err(Error::internal("a thread failed"))
}

fn open(engine: &str, folder: &str, small: bool) -> Result<Arc<dyn Storage>> {
    match engine {
        "fjall" => {
            let mut config = FjallConfig::default();
            if small {
                config.memtable_bytes = 256 << 10;
                config.journal_bytes_max = 64 << 20;
            }
            Ok(Arc::new(FjallStorage::open(folder, config)?))
        }
        "redb" => Ok(Arc::new(RedbStorage::open(folder, RedbConfig::default())?)),
        other => Err(Error::invalid_input(format!("unknown engine {other:?}"))),
    }
}

/// One line that the test can rely on when it has read it.
fn print(line: std::fmt::Arguments<'_>) {
    let mut output = std::io::stdout().lock();
    // The reader is gone when the test is over.
    if writeln!(output, "{LINE_MARK}{line}").and_then(|()| output.flush()).is_err() {
        std::process::exit(0);
    }
}

/// The number after the last batch that a writer wrote in an earlier life.
fn next_number(storage: &dyn Storage, writer: u32) -> Result<u32> {
    let range = KeyRange::prefix(writer.to_be_bytes().to_vec());
    let page = storage.snapshot()?.scan(DONE, range, Direction::Backward, 1)?;
    let last = page.entries.first().and_then(|(key, _)| BatchId::parse(key));
    Ok(last.map_or(0, |last| last.number + 1))
}

fn write_synced(
    storage: &dyn Storage,
    writer: u32,
    durability: Durability,
    failed: &AtomicBool,
) -> Result<()> {
    let mut number = next_number(storage, writer)?;
    while !failed.load(Ordering::Relaxed) {
        storage.write(BatchId { writer, number }.batch(), durability)?;
        print(format_args!("batch {writer} {number}"));
        number += 1;
    }
    Ok(())
}

fn write_in_runs(
    storage: &dyn Storage,
    writer: u32,
    durability: Durability,
    failed: &AtomicBool,
) -> Result<()> {
    let mut number = next_number(storage, writer)?;
    while !failed.load(Ordering::Relaxed) {
        for number in number..number + UNSYNCED_RUN {
            storage.write(BatchId { writer, number }.batch(), Durability::Buffered)?;
        }
        storage.write(Batch::new(), durability)?;
        number += UNSYNCED_RUN;
        print(format_args!("batch {writer} {}", number - 1));
    }
    Ok(())
}

fn load_generations(storage: &dyn Storage, failed: &AtomicBool) -> Result<()> {
    let current = storage.get(CURRENT, CURRENT_KEY)?;
    let current = current.and_then(|bytes| Some(u32::from_be_bytes(bytes.as_ref().try_into().ok()?)));
    let mut generation = current.map_or(0, |current| current + 1);
    while !failed.load(Ordering::Relaxed) {
        // What an earlier life left half-loaded.
        storage.remove_space(BULK.generation(generation))?;
        let mut entries = (0..bulk_entries(generation)).map(|index| Ok(bulk_entry(generation, index)));
        storage.bulk_load(BULK.generation(generation), &mut entries)?;
        let mut batch = Batch::new();
        batch.put(CURRENT, CURRENT_KEY, generation.to_be_bytes().to_vec());
        storage.write(batch, Durability::Synced)?;
        print(format_args!("generation {generation}"));
        if let Some(before) = generation.checked_sub(1) {
            storage.remove_space(BULK.generation(before))?;
            print(format_args!("removed {before}"));
        }
        generation += 1;
    }
    Ok(())
}
