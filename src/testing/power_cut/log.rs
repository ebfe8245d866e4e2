//! What the shim wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStringExt;

use crate::error::{Error, ErrorKind, Result};

/// `struct record` of the shim.
const RECORD_BYTES: usize = 48;
const RECORD_MAGIC: u32 = 0x5043_5554;

/// A change of a file that was not synced, and how to undo it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// Where in the log, to know which syncs came later.
    position: u64,
    /// Where in the file the old bytes belong.
    pub(super) offset: u64,
    /// How many bytes were written there.
    pub(super) extent: u64,
    /// How long the file was before.
    pub(super) size: u64,
    /// Where in the log the old bytes are, and how many.
    pub(super) data_at: u64,
    pub(super) data_length: u64,
    /// The old bytes were zeros, and are not in the log.
    pub(super) zeros: bool,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) inode: u64,
    pub(super) name: OsString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EntryKind {
    File,
    Folder,
}

/// The log, as far as it tells what is not on disk.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// By file, oldest first.
    pub(super) changes: BTreeMap<u64, Vec<Change>>,
    /// What each folder held when it was synced last.
    pub(super) folders: BTreeMap<u64, BTreeSet<Entry>>,
    pub(super) writes: u64,
    pub(super) syncs: u64,
}

impl Log {
    /// Reads the log of a program that is dead; half a record at the end is what it was about to do.
    pub(super) fn read(file: &File) -> Result<Self> {
        let length =
            file.metadata().map_err(|source| Error::io("cannot read the log of the shim", source))?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut log = Self::default();
        let mut listed_at = BTreeMap::<u64, u64>::new();
        let mut position = 0;
        while position + RECORD_BYTES as u64 <= length {
            let record = Record::read(&mut reader)?;
            let data_at = position + RECORD_BYTES as u64;
            if record.magic != RECORD_MAGIC {
                return Err(broken(position));
            }
            if data_at + record.data_length > length {
                break;
            }
            let change = |offset, zeros| Change {
                position,
                offset,
                extent: record.extent,
                size: record.size,
                data_at,
                data_length: record.data_length,
                zeros,
            };
            match record.kind {
                1..=3 => {
                    log.writes += 1;
                    log.changes
                        .entry(record.inode)
                        .or_default()
                        .push(change(record.offset, record.kind == 2));
                    skip(&mut reader, record.data_length)?;
                }
                4 => {
                    log.syncs += 1;
                    if let Some(changes) = log.changes.get_mut(&record.inode) {
                        changes.retain(|change| change.position >= record.offset);
                    }
                }
                5 => {
                    log.syncs += 1;
                    let mut data = vec![0; record.data_length as usize];
                    reader.read_exact(&mut data).map_err(unreadable)?;
                    // Of two syncs at the same time, the one that looked later knows more.
                    if listed_at.get(&record.inode).is_none_or(|earlier| *earlier <= record.offset) {
                        listed_at.insert(record.inode, record.offset);
                        log.folders.insert(record.inode, entries(&data).ok_or_else(|| broken(position))?);
                    }
                }
                _ => return Err(broken(position)),
            }
            position = data_at + record.data_length;
        }
        log.changes.retain(|_, changes| !changes.is_empty());
        Ok(log)
    }
}

struct Record {
    magic: u32,
    kind: u32,
    inode: u64,
    offset: u64,
    extent: u64,
    size: u64,
    data_length: u64,
}

impl Record {
    fn read(reader: &mut impl Read) -> Result<Self> {
        fn bytes<const N: usize>(reader: &mut impl Read) -> Result<[u8; N]> {
            let mut bytes = [0; N];
            reader.read_exact(&mut bytes).map_err(unreadable)?;
            Ok(bytes)
        }
        // The C compiler's order of bytes is ours: it runs on the same machine.
        Ok(Self {
            magic: u32::from_ne_bytes(bytes(reader)?),
            kind: u32::from_ne_bytes(bytes(reader)?),
            inode: u64::from_ne_bytes(bytes(reader)?),
            offset: u64::from_ne_bytes(bytes(reader)?),
            extent: u64::from_ne_bytes(bytes(reader)?),
            size: u64::from_ne_bytes(bytes(reader)?),
            data_length: u64::from_ne_bytes(bytes(reader)?),
        })
    }
}

fn entries(mut data: &[u8]) -> Option<BTreeSet<Entry>> {
    let mut entries = BTreeSet::new();
    while !data.is_empty() {
        let (kind, rest) = data.split_first()?;
        let (inode, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(u16::from_ne_bytes(*length).into())?;
        let kind = match kind {
            b'f' => EntryKind::File,
            b'd' => EntryKind::Folder,
            _ => return None,
        };
        entries.insert(Entry {
            kind,
            inode: u64::from_ne_bytes(*inode),
            name: OsString::from_vec(name.to_vec()),
        });
        data = rest;
    }
    Some(entries)
}

fn skip(reader: &mut BufReader<&File>, length: u64) -> Result<()> {
    let length = i64::try_from(length).map_err(|_| broken(0))?;
    reader.seek_relative(length).map_err(unreadable)
}

fn unreadable(source: io::Error) -> Error {
    Error::io("cannot read the log of the shim", source)
}

fn broken(position: u64) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the log of the shim is not readable at {position}"))
}
