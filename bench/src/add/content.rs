//! What is added: bytes that nothing can make smaller.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use bytes::Bytes;

/// Bytes that are different everywhere and the same in each run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            // SplitMix64.
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            part.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..part.len()]);
        }
    }
}

/// Bytes of one piece.
pub(super) const PIECE_BYTES: usize = 1024 * 1024;
/// More than caches hold; after so many pieces the same come again.
const PIECES: u64 = 128;

/// So many MiB in pieces of one.
pub(super) fn pieces(mib: u64) -> Vec<Bytes> {
    let mut random = Random::new(1);
    let first: Vec<Bytes> = (0..mib.min(PIECES))
        .map(|_| {
            let mut piece = vec![0; PIECE_BYTES];
            random.fill(&mut piece);
            piece.into()
        })
        .collect();
    first.iter().cycle().take(usize::try_from(mib).unwrap_or(usize::MAX)).cloned().collect()
}

/// A file of so many MiB, which is in memory afterwards.
pub(super) fn write_large(path: &Path, mib: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut random = Random::new(2);
    let mut piece = vec![0; PIECE_BYTES];
    for _ in 0..mib {
        random.fill(&mut piece);
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

/// Bytes of a small file.
pub(super) const SMALL_BYTES: usize = 1024;
/// Small files of one folder.
const FILES_PER_FOLDER: u64 = 1_000;

/// So many small files, in folders.
pub(super) fn write_small(folder: &Path, files: u64) -> Result<()> {
    let mut random = Random::new(3);
    let mut bytes = vec![0; SMALL_BYTES];
    for number in 0..files {
        let below = folder.join(format!("{:04}", number / FILES_PER_FOLDER));
        if number.is_multiple_of(FILES_PER_FOLDER) {
            fs::create_dir_all(&below)?;
        }
        random.fill(&mut bytes);
        fs::write(below.join(format!("{:04}.bin", number % FILES_PER_FOLDER)), &bytes)?;
    }
    Ok(())
}
