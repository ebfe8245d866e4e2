//! Cuts off what a power cut left at the end of the engine's journal.
//!
//! A batch that was being written when the power went may be on disk in parts: its last block, but not one in the
//! middle. The engine copes with a journal that ends too early; a whole last batch with a hole in it, it takes for
//! damage and refuses to open. Nobody was told that such a batch is written, so it goes.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::Result;
use crate::storage::folder::Folder;

/// How much of a journal is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

// The engine's format: a start, the items, an end with the hash of the items.
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TRAILER: &[u8; 4] = b"FJL\x03";
/// Count of items (4 bytes) and sequence number.
const START_BYTES: usize = 12;
/// Kind, compression, keyspace (8 bytes), lengths of key (2 bytes), value (4) and stored value (4).
const ITEM_BYTES: usize = 20;
/// The keyspace.
const CLEAR_BYTES: usize = 8;

/// Cuts off the torn end of the last journal in a folder.
///
/// # Errors
/// `Corrupt` when an earlier journal is torn: those were synced as a whole. `Io`.
pub(super) fn mend(folder: &Folder) -> Result<()> {
    let failed = |source| folder.error("cannot read the journal", source);
    let mut journals = journals(folder.path()).map_err(failed)?;
    journals.sort();
    let last = journals.pop();
    for (_, path) in journals {
        let file = File::open(&path).map_err(failed)?;
        let extent = read(&file).map_err(failed)?;
        if extent.torn {
            return Err(folder.damaged(format!("{} is not readable at {}", path.display(), extent.whole)));
        }
    }
    if let Some((_, path)) = last {
        let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
        let extent = read(&file).map_err(failed)?;
        if extent.torn {
            tracing::warn!(
                journal = %path.display(),
                offset = extent.whole,
                "the last writes before a crash are not whole and were never acknowledged: they are dropped"
            );
            file.set_len(extent.whole).and_then(|()| file.sync_all()).map_err(failed)?;
        }
    }
    Ok(())
}

/// All journals, with the numbers by which they follow each other.
fn journals(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let (true, Some(number)) = (is_journal, number) {
            journals.push((number, path));
        }
    }
    Ok(journals)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    /// Where the last whole batch ends.
    whole: u64,
    /// Whether anything but the zeros of unused room comes after it.
    torn: bool,
}

fn read(file: &File) -> io::Result<Extent> {
    let length = file.metadata()?.len();
    let mut reader = Reader { inner: BufReader::with_capacity(READ_BYTES, file), position: 0, length };
    let mut whole = 0;
    while reader.batch()? {
        whole = reader.position;
    }
    // Mostly zeros: what a batch was read into stands somewhere behind the last whole one.
    let mut rest = reader.inner.into_inner();
    io::Seek::seek(&mut rest, io::SeekFrom::Start(whole))?;
    Ok(Extent { whole, torn: !is_zeros(rest)? })
}

fn is_zeros(mut file: &File) -> io::Result<bool> {
    let (mut buffer, zeros) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(true);
        }
        if buffer[..count] != zeros[..count] {
            return Ok(false);
        }
    }
}

struct Reader<R> {
    inner: R,
    position: u64,
    length: u64,
}

impl<R: Read> Reader<R> {
    /// Reads on to the end of a batch; false when there is no whole batch here.
    fn batch(&mut self) -> io::Result<bool> {
        let Some([TAG_START]) = self.bytes()? else { return Ok(false) };
        let Some(start) = self.bytes::<START_BYTES>()? else { return Ok(false) };
        let [count @ .., _, _, _, _, _, _, _, _] = start;
        let mut hash = Xxh3::new();
        let mut buffer = Vec::new();
        for _ in 0..u32::from_le_bytes(count) {
            if !self.item(&mut hash, &mut buffer)? {
                return Ok(false);
            }
        }
        let Some([TAG_END]) = self.bytes()? else { return Ok(false) };
        let (Some(expected), Some(trailer)) = (self.bytes()?, self.bytes::<4>()?) else { return Ok(false) };
        Ok(u64::from_le_bytes(expected) == hash.digest() && trailer == *TRAILER)
    }

    fn item(&mut self, hash: &mut Xxh3, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let Some([tag]) = self.bytes()? else { return Ok(false) };
        hash.update(&[tag]);
        match tag {
            TAG_ITEM => {
                let Some(head) = self.bytes::<ITEM_BYTES>()? else { return Ok(false) };
                hash.update(&head);
                let key = u16::from_le_bytes([head[10], head[11]]);
                let stored = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
                let wanted = u64::from(key) + u64::from(stored);
                // Before the memory is asked for: a torn length can be anything.
                if wanted > self.length - self.position {
                    return Ok(false);
                }
                buffer.resize(wanted as usize, 0);
                self.inner.read_exact(buffer)?;
                self.position += wanted;
                hash.update(buffer);
                Ok(true)
            }
            TAG_CLEAR => {
                let Some(keyspace) = self.bytes::<CLEAR_BYTES>()? else { return Ok(false) };
                hash.update(&keyspace);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The next few bytes; none at the end.
    fn bytes<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.length - self.position < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::ErrorKind;
    use crate::storage::{Batch, Durability, FjallConfig, FjallStorage, Space, Storage};

    const SPACE: Space = Space::new("pins");

    fn open(path: &Path) -> Result<FjallStorage> {
        FjallStorage::open(path, FjallConfig::default())
    }

    fn value(number: u8) -> Vec<u8> {
        // Several blocks, some of which the engine stores compressed.
        (0..10_000_u32).map(|index| number ^ (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn write(storage: &FjallStorage, number: u8) {
        let mut batch = Batch::new();
        batch.put(SPACE, vec![number], value(number));
        batch.put(SPACE, vec![number, 1], vec![7; 10_000]);
        batch.delete(SPACE, vec![number, 2]);
        storage.write(batch, Durability::Synced).unwrap();
    }

    fn has(storage: &FjallStorage, number: u8) -> bool {
        match (storage.get(SPACE, &[number]).unwrap(), storage.get(SPACE, &[number, 1]).unwrap()) {
            (Some(one), Some(two)) => {
                assert!(one == value(number) && two == vec![7; 10_000]);
                true
            }
            (None, None) => false,
            _ => panic!("half a batch"),
        }
    }

    /// A store with five batches, and where each but the last ends in the journal.
    fn five_batches(path: &Path) -> (PathBuf, [u64; 4]) {
        let storage = open(path).unwrap();
        let (_, journal) = journals(path).unwrap().pop().unwrap();
        let end = || read(&File::open(&journal).unwrap()).unwrap();
        let mut ends = [0; 4];
        write(&storage, 0);
        for (number, slot) in (1..).zip(&mut ends) {
            let extent = end();
            assert!(!extent.torn);
            *slot = extent.whole;
            write(&storage, number);
        }
        // Not closed, which would leave nothing in the journal that matters.
        drop(storage);
        (journal, ends)
    }

    #[test]
    fn a_journal_that_the_engine_wrote_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, ends) = five_batches(folder.path());
        assert!(ends.is_sorted() && ends[0] > 1_000, "{ends:?}");
        let extent = read(&File::open(&journal).unwrap()).unwrap();
        assert!(extent.whole > ends[3] && !extent.torn, "{extent:?}");
    }

    #[test]
    fn a_last_batch_with_a_hole_is_dropped_and_the_others_stay() {
        // Every kind of place: head, key, value, end.
        for hole in 0..16 {
            let folder = tempfile::tempdir().unwrap();
            let (journal, ends) = five_batches(folder.path());
            let file = File::options().read(true).write(true).open(&journal).unwrap();
            let length = read(&file).unwrap().whole - ends[3];
            file.write_all_at(&[0; 60], ends[3] + hole * (length - 60) / 15).unwrap();
            let storage = open(folder.path()).unwrap();
            assert!((0..4).all(|number| has(&storage, number)), "hole at {hole}");
            assert!(!has(&storage, 4), "hole at {hole}");
            write(&storage, 5);
            storage.close().unwrap();
            let storage = open(folder.path()).unwrap();
            assert!(has(&storage, 3) && !has(&storage, 4) && has(&storage, 5), "hole at {hole}");
        }
    }

    #[test]
    fn a_torn_journal_before_the_last_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, ends) = five_batches(folder.path());
        File::options().write(true).open(&journal).unwrap().write_all_at(&[9; 400], ends[1] + 20).unwrap();
        fs::write(folder.path().join("99.jnl"), [0; 100]).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("0.jnl"), "{error}");
    }

    #[test]
    fn lengths_from_nowhere_take_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.jnl");
        let mut content = vec![TAG_START, 1, 0, 0, 0];
        content.extend([0; 8]);
        content.push(TAG_ITEM);
        content.extend([0xff; ITEM_BYTES]);
        content.extend([1; 50]);
        fs::write(&path, content).unwrap();
        assert_eq!(read(&File::open(&path).unwrap()).unwrap(), Extent { whole: 0, torn: true });
    }
}
