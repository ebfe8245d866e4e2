//! Content into blocks, in this process, beside hashing and nothing else.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use ipfs_cluster::adder::{BlockSink, Content, DagBlock, Entry, Lines, import};
use ipfs_cluster::types::{AddOptions, Block, PeerId};

use super::content::pieces;
use super::megabytes_per_second;
use crate::daemon::Watched;
use crate::report::Row;

/// Each is measured so often, by turns; the middle one counts.
const ROUNDS: usize = 5;
/// Bytes of a block, as the default chunker makes them.
const BLOCK_BYTES: usize = 256 * 1024;

/// SHA-256 alone on all cores, and all of an import with CIDv1 and raw leaves.
pub(super) fn in_process(mib: u64) -> Result<Vec<Row>> {
    let pieces = pieces(mib);
    let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut hashed, mut imported, mut growth) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        hashed.push(hash(&pieces)?);
        let watched = Watched::begin(std::process::id())?;
        imported.push(runtime.block_on(import_all(&pieces))?);
        growth = growth.max(watched.growth()?);
    }
    let (hashed, imported) = (middle(hashed), middle(imported));
    let rate = |elapsed| megabytes_per_second(bytes, elapsed);
    Ok(vec![
        Row::rate("SHA-256 alone, all cores", rate(hashed), "MB/s"),
        Row::rate(format!("adder::import of {mib} MiB, CIDv1, raw leaves"), rate(imported), "MB/s"),
        Row::rate("the same, share of SHA-256 alone", rate(imported) / rate(hashed) * 100.0, "%"),
        Row::mebibytes("the same, growth of resident memory", growth),
    ])
}

pub(super) fn middle(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// On each core a share of the blocks.
fn hash(pieces: &[Bytes]) -> Result<Duration> {
    let cores = std::thread::available_parallelism()?.get();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for core in 0..cores {
            scope.spawn(move || {
                for piece in pieces.iter().skip(core).step_by(cores) {
                    for at in (0..piece.len()).step_by(BLOCK_BYTES) {
                        let block = piece.slice(at..piece.len().min(at + BLOCK_BYTES));
                        std::hint::black_box(Block::raw(block));
                    }
                }
            });
        }
    });
    Ok(started.elapsed())
}

async fn import_all(pieces: &[Bytes]) -> Result<Duration> {
    let mut content = OneFile { begun: false, pieces: pieces.iter().cloned().collect() };
    let options = AddOptions { cid_version: 1, raw_leaves: Some(true), ..AddOptions::default() };
    let (lines, mut told) = Lines::new(16);
    let started = Instant::now();
    let listening = tokio::spawn(async move { while told.recv().await.is_some() {} });
    // On a thread of the runtime, as in a peer.
    let importing =
        tokio::spawn(async move { import(&mut content, &options, &mut Nowhere, &lines).await.map(drop) });
    importing.await??;
    listening.await?;
    Ok(started.elapsed())
}

/// A file in memory.
struct OneFile {
    begun: bool,
    pieces: VecDeque<Bytes>,
}

#[async_trait]
impl Content for OneFile {
    async fn next(&mut self) -> ipfs_cluster::Result<Option<Entry>> {
        let entry = Entry { path: "file".to_owned(), ..Entry::default() };
        Ok((!std::mem::replace(&mut self.begun, true)).then_some(entry))
    }

    async fn read(&mut self) -> ipfs_cluster::Result<Option<Bytes>> {
        Ok(self.pieces.pop_front())
    }
}

/// Drops blocks.
struct Nowhere;

#[async_trait]
impl BlockSink for Nowhere {
    async fn put(&mut self, block: DagBlock) -> ipfs_cluster::Result<()> {
        std::hint::black_box(block);
        Ok(())
    }

    fn allocations(&self) -> Vec<PeerId> {
        Vec::new()
    }
}
