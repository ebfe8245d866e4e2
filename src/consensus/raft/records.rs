//! Where things are in the store.
//!
//! | space | key | value |
//! |---|---|---|
//! | `raft-log` | index of the entry, number of the piece | see `log` |
//! | `raft-meta` | `format` | version of all of this |
//! | | `cleaning` | there while everything is being forgotten |
//! | | `cluster` | what tells this cluster from others: 16 bytes |
//! | | `session` | of the last start |
//! | | `ancestors` | those of the starts before it on this store (see `lineage`) |
//! | | `vote`, `purged`, `last` | of the log |
//! | | `committed` | up to where the log was known to be agreed on when an entry was last written |
//! | | `applied`, `members` | what the pinset is the result of |
//! | | `joined` | since which entry each member votes |
//! | | `known/`, peer | the last start of a member that was heard of (see `lineage`) |
//! | | `has-voted` | there once this peer was a member that votes |
//! | `raft-seen` | 0, peer | session and floor of its parts |
//! | | 1, peer, sequence | answers of a part that was applied |
//!
//! What says how far the pinset is (`applied`, `members` and `raft-seen`) is written with it, in one batch.
//!
//! After every value but those of `format` and `cleaning` there is a hash of key and value, because a vote or a mark that
//! was damaged a little still reads as one.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::COMPONENT;
use super::lineage::Last;
use super::types::{LogId, Node};
use super::wire::{Reader, corrupt, read, written};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Batch, Direction, Durability, KeyRange, Snapshot, Space, Storage};
use crate::types::PeerId;

pub(super) const LOG: Space = Space::new("raft-log");
pub(super) const META: Space = Space::new("raft-meta");
pub(super) const SEEN: Space = Space::new("raft-seen");

pub(super) const FORMAT_KEY: &[u8] = b"format";
pub(super) const CLEANING: &[u8] = b"cleaning";
pub(super) const CLUSTER: &[u8] = b"cluster";
pub(super) const SESSION: &[u8] = b"session";
pub(super) const ANCESTORS: &[u8] = b"ancestors";
pub(super) const VOTE: &[u8] = b"vote";
pub(super) const PURGED: &[u8] = b"purged";
pub(super) const LAST: &[u8] = b"last";
pub(super) const COMMITTED: &[u8] = b"committed";
pub(super) const APPLIED: &[u8] = b"applied";
pub(super) const MEMBERS: &[u8] = b"members";
pub(super) const JOINED: &[u8] = b"joined";
const KNOWN: &[u8] = b"known/";
pub(super) const HAS_VOTED: &[u8] = b"has-voted";

/// A change that older programs cannot read raises it.
pub(super) const FORMAT: u8 = 1;

/// Records of `raft-seen` read at a time.
const PAGE: usize = 1024;

/// What tells a cluster from others. Its peers alone know it.
pub(super) type ClusterId = [u8; 16];

/// Bytes of the hash after a value.
const HASH_BYTES: usize = 8;

/// What a record of ours that is damaged means, and the way out.
pub(super) fn damaged(what: impl std::fmt::Display) -> Error {
    corrupt(format!(
        "the stored raft of this peer is damaged: {what}; remove this peer from the cluster, clean its state, and let it \
         join again (a peer that is alone: clean its state and import an export)"
    ))
}

/// The hash of a record, which is written with it.
pub(super) fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.update(value);
    hash.digest()
}

/// A value with its hash.
fn seal(key: &[u8], value: &[u8]) -> Bytes {
    [value, &hash(key, value).to_be_bytes()].concat().into()
}

/// The value of a record with its hash; none where they do not belong together.
fn unseal(key: &[u8], sealed: Bytes) -> Option<Bytes> {
    let (value, sum) = sealed.split_last_chunk::<HASH_BYTES>()?;
    (*sum == hash(key, value).to_be_bytes()).then(|| sealed.slice(..value.len()))
}

/// Writes one of the records of `raft-meta`.
pub(super) fn put(batch: &mut Batch, key: &'static [u8], value: &[u8]) {
    batch.put(META, key, seal(key, value));
}

/// One of the records of `raft-meta`.
pub(super) fn get<T>(
    storage: &dyn Storage,
    key: &'static [u8],
    decode: impl FnOnce(&mut Reader) -> Result<T>,
) -> Result<Option<T>> {
    storage.get(META, key)?.map(|bytes| decoded(key, bytes, decode)).transpose()
}

/// The same of a frozen view.
pub(super) fn get_in<T>(
    snapshot: &dyn Snapshot,
    key: &'static [u8],
    decode: impl FnOnce(&mut Reader) -> Result<T>,
) -> Result<Option<T>> {
    snapshot.get(META, key)?.map(|bytes| decoded(key, bytes, decode)).transpose()
}

fn decoded<T>(key: &'static [u8], bytes: Bytes, decode: impl FnOnce(&mut Reader) -> Result<T>) -> Result<T> {
    let name = String::from_utf8_lossy(key);
    let value = unseal(key, bytes).ok_or_else(|| damaged(format!("{name:?} is not what was written")))?;
    read(value, decode).map_err(|error| damaged(format!("{name:?}: {error}")))
}

fn known_key(peer: &PeerId) -> Bytes {
    [KNOWN, &peer.to_bytes()].concat().into()
}

pub(super) fn put_known(batch: &mut Batch, peer: &PeerId, last: Last) {
    let key = known_key(peer);
    let value = seal(&key, &written(|writer| writer.last_start(last)));
    batch.put(META, key, value);
}

pub(super) fn delete_known(batch: &mut Batch, peer: &PeerId) {
    batch.delete(META, known_key(peer));
}

/// What is known of members.
pub(super) fn all_known(storage: &dyn Storage) -> Result<Vec<(PeerId, Last)>> {
    let mut all = Vec::new();
    for (key, value) in known_records(storage)? {
        let peer = key.strip_prefix(KNOWN).and_then(|bytes| PeerId::from_bytes(bytes).ok());
        let last = unseal(&key, value).and_then(|value| read(value, Reader::last_start).ok());
        // What is damaged is learned anew.
        all.extend(peer.zip(last));
    }
    Ok(all)
}

fn known_records(storage: &dyn Storage) -> Result<Vec<(Bytes, Bytes)>> {
    let (snapshot, mut all, mut range) = (storage.snapshot()?, Vec::new(), KeyRange::prefix(KNOWN));
    loop {
        let page = snapshot.scan(META, range.clone(), Direction::Forward, PAGE)?;
        let last = page.entries.last().map(|(key, _)| key.clone());
        all.extend(page.entries);
        match last {
            Some(last) if page.more => range = range.after(last),
            _ => return Ok(all),
        }
    }
}

/// Looks whether what is there belongs together.
///
/// # Errors
/// `Corrupt` where something is missing that must be there; `Io`.
pub(super) fn check(storage: &dyn Storage) -> Result<()> {
    let purged = get(storage, PURGED, Reader::log_id)?;
    let last = get(storage, LAST, Reader::log_id)?;
    let applied = get(storage, APPLIED, Reader::log_id)?;
    let members = get(storage, MEMBERS, Reader::stored_membership)?;
    let missing = |what: &str| Err(damaged(format!("{what} is missing")));
    // Who founds a cluster has its first entry before it votes.
    let index = last.max(purged).max(applied).map(|id| id.index);
    if index.is_some_and(|index| index > 0) && get(storage, VOTE, Reader::vote)?.is_none() {
        return missing("the vote");
    }
    if index.is_some() && cluster(storage)?.is_none() {
        return missing("which cluster it belongs to");
    }
    if applied.is_some() != members.is_some() {
        return missing("how far the pinset is");
    }
    if applied < purged {
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        let (begins, wanted) = (next(purged), next(applied));
        return Err(damaged(format!(
            "its log begins with entry {begins}, but the pinset needs entry {wanted} next"
        )));
    }
    Ok(())
}

/// Whether this store was never part of a cluster.
pub(super) fn is_pristine(storage: &dyn Storage) -> Result<bool> {
    Ok([VOTE, LAST, PURGED, APPLIED]
        .into_iter()
        .map(|key| storage.get(META, key))
        .collect::<Result<Vec<_>>>()?
        .iter()
        .all(Option::is_none))
}

/// Whether the store is one of ours; none when nothing says.
///
/// # Errors
/// `Unsupported` when a newer program wrote it; `Corrupt`.
pub(super) fn is_ours(storage: &dyn Storage) -> Result<bool> {
    match storage.get(META, FORMAT_KEY)?.as_deref() {
        None => Ok(false),
        Some(&[FORMAT]) => Ok(true),
        Some(&[format]) if format > FORMAT => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the stored raft has format {format}, this program reads up to {FORMAT}; run the newer one"
            ),
        )
        .component(COMPONENT)),
        Some(_) => Err(damaged("its format is unreadable")),
    }
}

pub(super) fn cluster(storage: &dyn Storage) -> Result<Option<ClusterId>> {
    get(storage, CLUSTER, |reader| {
        let bytes = reader.take(size_of::<ClusterId>())?;
        let mut id = ClusterId::default();
        id.copy_from_slice(&bytes);
        Ok(id)
    })
}

/// Forgets everything but that the store is ours. It is another one from then on (see `lineage`).
pub(super) fn forget(storage: &dyn Storage) -> Result<()> {
    storage.remove_space(LOG)?;
    storage.remove_space(SEEN)?;
    let mut batch = Batch::new();
    for key in [CLUSTER, VOTE, PURGED, LAST, COMMITTED, APPLIED, MEMBERS, JOINED, HAS_VOTED, ANCESTORS] {
        batch.delete(META, key);
    }
    let session = get(storage, SESSION, Reader::long)?.unwrap_or_default().saturating_add(1);
    put(&mut batch, SESSION, &written(|writer| writer.long(session)));
    known_records(storage)?.into_iter().for_each(|(key, _)| batch.delete(META, key));
    storage.write(batch, Durability::Synced)
}

/// What is remembered of the parts of one peer.
pub(super) fn seen_key(node: &Node) -> Bytes {
    written(|writer| {
        writer.byte(0);
        writer.node(node);
    })
}

pub(super) fn answers_key(node: &Node, sequence: u64) -> Bytes {
    written(|writer| {
        writer.byte(1);
        writer.node(node);
        writer.long(sequence);
    })
}

/// A record of `raft-seen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Session and floor of a peer.
    Peer(Node, u64, u64),
    /// A part of it that was applied, and its answers, encoded.
    Part(Node, u64, Bytes),
}

impl Seen {
    pub(super) fn decode(key: Bytes, value: Bytes) -> Result<Self> {
        let value = unseal(&key, value)
            .ok_or_else(|| damaged("a record of what was asked for is not what was written"))?;
        read(key, |reader| match reader.byte()? {
            0 => {
                let node = reader.node()?;
                read(value, |reader| Ok(Self::Peer(node, reader.long()?, reader.long()?)))
            }
            1 => Ok(Self::Part(reader.node()?, reader.long()?, value)),
            _ => Err(corrupt("a record of what was asked for is unreadable")),
        })
    }

    pub(super) fn put(&self, batch: &mut Batch) {
        match self {
            Self::Peer(node, session, floor) => {
                let value = written(|writer| {
                    writer.long(*session);
                    writer.long(*floor);
                });
                let key = seen_key(node);
                batch.put(SEEN, key.clone(), seal(&key, &value));
            }
            Self::Part(node, sequence, answers) => {
                let key = answers_key(node, *sequence);
                batch.put(SEEN, key.clone(), seal(&key, answers));
            }
        }
    }
}

/// All records of `raft-seen`: of each peer, at most as many as it may have under way at a time.
pub(super) fn all_seen(snapshot: &dyn Snapshot) -> Result<Vec<(Bytes, Bytes)>> {
    let (mut all, mut range) = (Vec::new(), KeyRange::all());
    loop {
        let page = snapshot.scan(SEEN, range.clone(), Direction::Forward, PAGE)?;
        let last = page.entries.last().map(|(key, _)| key.clone());
        all.extend(page.entries);
        match last {
            Some(last) if page.more => range = range.after(last),
            _ => return Ok(all),
        }
    }
}
