//! Sorting more keys and values than memory holds: sorted runs in one temporary file, merged while reading.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind as Io, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{self, AtomicU64};

use bytes::Bytes;

use crate::error::{Error, Result};

/// Bytes read at a time from each run, and written at a time.
const BUFFER_BYTES: usize = 64 * 1024;
/// In front of each entry in a file: length of the key, length of the value.
const HEADER_BYTES: usize = 8;
/// Names tried for a temporary file before giving up.
const FILE_NAME_TRIES: usize = 1000;

/// Takes keys that are not empty in any order and gives them back in ascending order; of equal keys the one pushed last.
#[derive(Debug)]
pub(crate) struct Sorter {
    /// Where runs go; none keeps everything in memory.
    folder: Option<PathBuf>,
    run_bytes_max: usize,
    /// Keys and values one after the other, and where each entry starts.
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    spool: Option<Spool>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    start: usize,
    key: u32,
    value: u32,
}

/// Runs on disk. The file goes with it.
#[derive(Debug)]
struct Spool {
    file: File,
    path: PathBuf,
    /// Where each run ends; it starts where the one before ends.
    ends: Vec<u64>,
}

impl Sorter {
    /// A sorter that holds at most about `run_bytes_max` in memory and puts the rest into a file in `folder`.
    pub(crate) fn on_disk(folder: &Path, run_bytes_max: usize) -> Self {
        Self::new(Some(folder.to_owned()), run_bytes_max)
    }

    /// A sorter that touches no disk and holds everything.
    pub(crate) fn in_memory() -> Self {
        Self::new(None, usize::MAX)
    }

    fn new(folder: Option<PathBuf>, run_bytes_max: usize) -> Self {
        Self { folder, run_bytes_max, bytes: Vec::new(), slots: Vec::new(), spool: None }
    }

    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let too_long =
            |_| Error::invalid_input("an entry of the pinset is longer than 4 GiB").component("state");
        let slot = Slot {
            start: self.bytes.len(),
            key: u32::try_from(key.len()).map_err(too_long)?,
            value: u32::try_from(value.len()).map_err(too_long)?,
        };
        self.slots.push(slot);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        let held = self.bytes.len() + self.slots.len() * size_of::<Slot>();
        if held >= self.run_bytes_max { self.spill() } else { Ok(()) }
    }

    /// The entries in order.
    pub(crate) fn into_sorted(mut self) -> Result<Sorted> {
        if self.spool.is_some() {
            self.spill()?;
        }
        let Some(spool) = self.spool.take() else {
            self.sort();
            return Ok(Sorted::Memory { bytes: Bytes::from(self.bytes), slots: self.slots, next: 0 });
        };
        self.bytes = Vec::new();
        self.slots = Vec::new();
        let mut merge = Merge { runs: Vec::new(), heap: BinaryHeap::new(), last: None, spool };
        let mut start = 0;
        for (number, end) in merge.spool.ends.clone().into_iter().enumerate() {
            merge.runs.push(Run { offset: start, end, buffer: Vec::new(), read: 0 });
            start = end;
            merge.refill(number)?;
        }
        Ok(Sorted::Disk(Box::new(merge)))
    }

    /// Sorts what is in memory and leaves the last of equal keys.
    fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |slot: &Slot| &bytes[slot.start..slot.start + slot.key as usize];
        // Of equal keys the later one comes first, because deduplication keeps the first.
        self.slots.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(b.start.cmp(&a.start)));
        self.slots.dedup_by(|later, kept| key(later) == key(kept));
    }

    fn spill(&mut self) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        if self.spool.is_none() {
            self.spool = Some(Spool::create(folder)?);
        }
        self.sort();
        if let Some(spool) = &mut self.spool {
            spool.append(&self.bytes, &self.slots)?;
        }
        self.bytes.clear();
        self.slots.clear();
        Ok(())
    }
}

impl Spool {
    fn create(folder: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        for _ in 0..FILE_NAME_TRIES {
            let number = NEXT.fetch_add(1, atomic::Ordering::Relaxed);
            let path = folder.join(format!("ipfs-cluster-sort-{}-{number}", std::process::id()));
            match options.open(&path) {
                Ok(file) => {
                    // Without a name nothing is left behind, whatever becomes of this process.
                    #[cfg(unix)]
                    std::fs::remove_file(&path).map_err(|source| failed("removing", &path, source))?;
                    return Ok(Self { file, path, ends: Vec::new() });
                }
                Err(source) if source.kind() == Io::AlreadyExists => {}
                Err(source) => return Err(failed("creating", &path, source)),
            }
        }
        let taken = std::io::Error::from(Io::AlreadyExists);
        Err(failed("creating a temporary file in", folder, taken))
    }

    fn append(&mut self, bytes: &[u8], slots: &[Slot]) -> Result<()> {
        let mut written = self.ends.last().copied().unwrap_or(0);
        let mut write = || -> std::io::Result<()> {
            self.file.seek(SeekFrom::Start(written))?;
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, &mut self.file);
            for slot in slots {
                let length = (slot.key + slot.value) as usize;
                out.write_all(&slot.key.to_le_bytes())?;
                out.write_all(&slot.value.to_le_bytes())?;
                out.write_all(&bytes[slot.start..slot.start + length])?;
                written += (HEADER_BYTES + length) as u64;
            }
            out.flush()
        };
        write().map_err(|source| failed("writing", &self.path, source))?;
        self.ends.push(written);
        Ok(())
    }
}

#[cfg(not(unix))]
impl Drop for Spool {
    fn drop(&mut self) {
        // It is a temporary file in a temporary folder; nobody misses a failure to remove it.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn failed(doing: &str, path: &Path, source: std::io::Error) -> Error {
    Error::io(format_args!("{doing} {}", path.display()), source).component("state")
}

/// Entries in ascending order of their keys, each key once. Ends after its first error.
#[derive(Debug)]
pub(crate) enum Sorted {
    Memory { bytes: Bytes, slots: Vec<Slot>, next: usize },
    Disk(Box<Merge>),
}

impl Iterator for Sorted {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Memory { bytes, slots, next } => {
                let slot = slots.get(*next)?;
                *next += 1;
                let middle = slot.start + slot.key as usize;
                Some(Ok((bytes.slice(slot.start..middle), bytes.slice(middle..middle + slot.value as usize))))
            }
            Self::Disk(merge) => merge.next(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Merge {
    spool: Spool,
    runs: Vec<Run>,
    heap: BinaryHeap<Candidate>,
    last: Option<Bytes>,
}

/// A run that is being read.
#[derive(Debug)]
struct Run {
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    read: usize,
}

/// The next entry of a run. The heap gives the greatest, so the order is turned round: smallest key first, and of
/// equal keys the one of the latest run.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    key: Bytes,
    run: usize,
    value: Bytes,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key).then(self.run.cmp(&other.run))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Merge {
    fn next(&mut self) -> Option<Result<(Bytes, Bytes)>> {
        loop {
            let Candidate { key, run, value } = self.heap.pop()?;
            if let Err(error) = self.refill(run) {
                self.heap.clear();
                return Some(Err(error));
            }
            if self.last.as_ref() != Some(&key) {
                self.last = Some(key.clone());
                return Some(Ok((key, value)));
            }
        }
    }

    /// Puts the next entry of a run into the heap.
    fn refill(&mut self, number: usize) -> Result<()> {
        let Self { spool, runs, heap, .. } = self;
        let Some(run) = runs.get_mut(number) else { return Ok(()) };
        match run.entry(&mut spool.file) {
            Ok(Some((key, value))) => heap.push(Candidate { key, run: number, value }),
            Ok(None) => {}
            Err(source) => return Err(failed("reading", &spool.path, source)),
        }
        Ok(())
    }
}

impl Run {
    fn entry(&mut self, file: &mut File) -> std::io::Result<Option<(Bytes, Bytes)>> {
        if !self.have(file, HEADER_BYTES)? {
            return Ok(None);
        }
        let length = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let header = &self.buffer[self.read..self.read + HEADER_BYTES];
        let (key, value) = (length(&header[..4]), length(&header[4..]));
        if !self.have(file, HEADER_BYTES + key + value)? {
            return Err(Io::UnexpectedEof.into());
        }
        let start = self.read + HEADER_BYTES;
        self.read = start + key + value;
        let bytes = Bytes::copy_from_slice(&self.buffer[start..self.read]);
        Ok(Some((bytes.slice(..key), bytes.slice(key..))))
    }

    /// Makes sure that so many bytes are in the buffer; false at the end of the run.
    fn have(&mut self, file: &mut File, wanted: usize) -> std::io::Result<bool> {
        let held = self.buffer.len() - self.read;
        if held >= wanted {
            return Ok(true);
        }
        self.buffer.drain(..self.read);
        self.read = 0;
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let more = wanted.max(BUFFER_BYTES).saturating_sub(held).min(left);
        if held + more < wanted {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        self.buffer.resize(held + more, 0);
        file.read_exact(&mut self.buffer[held..])?;
        self.offset += more as u64;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    fn sorted(mut sorter: Sorter, pairs: &[Pair]) -> Vec<Pair> {
        for (key, value) in pairs {
            sorter.push(key, value).unwrap();
        }
        let pair = |entry: Result<(Bytes, Bytes)>| entry.map(|(key, value)| (key.to_vec(), value.to_vec()));
        sorter.into_sorted().unwrap().map(pair).collect::<Result<_>>().unwrap()
    }

    proptest! {
        #[test]
        fn keys_come_in_order_and_the_last_value_of_each_wins(
            pairs in proptest::collection::vec(
                (proptest::collection::vec(0u8..3, 1..4), proptest::collection::vec(any::<u8>(), 0..4)), 0..200),
            run in 1usize..2000,
        ) {
            let expected: Vec<Pair> = pairs.iter().cloned().collect::<BTreeMap<_, _>>().into_iter().collect();
            let folder = tempfile::tempdir().unwrap();
            prop_assert_eq!(&sorted(Sorter::on_disk(folder.path(), run), &pairs), &expected);
            prop_assert_eq!(&sorted(Sorter::in_memory(), &pairs), &expected);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn entries_longer_than_the_buffer_survive() {
        let folder = tempfile::tempdir().unwrap();
        let pairs: Vec<Pair> =
            (0..20u8).rev().map(|key| (vec![key], vec![key; usize::from(key) * 20_000])).collect();
        let mut expected = pairs.clone();
        expected.reverse();
        assert_eq!(sorted(Sorter::on_disk(folder.path(), 1 << 20), &pairs), expected);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = Sorter::on_disk(&missing, 1).push(b"key", b"value").unwrap_err();
        assert!(error.to_string().contains(&missing.display().to_string()), "{error}");
    }
}
