//! Writes to a store as fast as it can and prints what the store acknowledged, until it is killed: the victim of the
//! power-cut test (`tests/powercut`), of no use by itself.
//!
//! `powercut_writer ENGINE FOLDER DURABILITY`, with `fjall` or `redb`, and `synced` or `buffered`. Lines on standard
//! output: `open`, `batch WRITER NUMBER`, `generation N`, `removed N`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipfs_cluster::error::{Error, Result};
use ipfs_cluster::storage::{
    Batch, Direction, Durability, FjallConfig, FjallStorage, KeyRange, RedbConfig, RedbStorage, Storage,
};

#[path = "../tests/powercut/workload.rs"]
mod workload;
use workload::{BULK, BatchId, CURRENT, CURRENT_KEY, DONE, bulk_entries, bulk_entry};

/// Threads that sync each of their batches.
const SYNCING_WRITERS: u32 = 3;
/// Batches that the other writer writes before it syncs them all with an empty batch.
const UNSYNCED_RUN: u32 = 7;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [engine, folder, durability] => run(engine, folder, durability),
        _ => Err(Error::invalid_input("usage: powercut_writer fjall|redb FOLDER synced|buffered")),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powercut_writer: {error:?}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(engine: &str, folder: &str, durability: &str) -> Result<()> {
    let storage = open(engine, folder)?;
    let durability = match durability {
        "synced" => Durability::Synced,
        "buffered" => Durability::Buffered,
        other => return Err(Error::invalid_input(format!("unknown durability {other:?}"))),
    };
    print(format_args!("open"));
    let failed = AtomicBool::new(false);
    let report = |result: Result<()>| {
        if let Err(error) = result {
            eprintln!("powercut_writer: {error:?}");
            failed.store(true, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..SYNCING_WRITERS {
            let (storage, failed) = (&storage, &failed);
            scope.spawn(move || report(write_synced(&**storage, writer, durability, failed)));
        }
        scope.spawn(|| report(write_in_runs(&*storage, SYNCING_WRITERS, durability, &failed)));
        scope.spawn(|| report(load_generations(&*storage, durability, &failed)));
    });
    Err(Error::internal("a writer failed"))
}

fn open(engine: &str, folder: &str) -> Result<Arc<dyn Storage>> {
    match engine {
        "fjall" => {
            let mut config = FjallConfig::default();
            // Small, so that files are written and merged all the time.
            config.memtable_bytes = 256 << 10;
            config.journal_bytes_max = 64 << 20;
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
    if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
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

fn load_generations(storage: &dyn Storage, durability: Durability, failed: &AtomicBool) -> Result<()> {
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
        storage.write(batch, durability)?;
        print(format_args!("generation {generation}"));
        if let Some(before) = generation.checked_sub(1) {
            storage.remove_space(BULK.generation(before))?;
            print(format_args!("removed {before}"));
        }
        generation += 1;
    }
    Ok(())
}
