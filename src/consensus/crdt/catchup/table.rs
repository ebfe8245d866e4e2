//! What both sides compare: the entries of a table in the order of their keys, each with a hash that says what it means
//! and not how this store keeps it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest as _};
use tokio::time::Instant;

use super::super::absorb::PinRecord;
use super::super::key::{self, Digest};
use super::super::node::Node;
use super::super::records::{self, BLOCKS, BlockId, IDS, NUMBERS, SET, VALUES};
use super::super::set::{Elements, Number};
use super::super::wire::corrupt;
use super::message::{Chunk, RECORD_NAMES_MAX, Table, Wanted};
use super::{CHUNK_ENTRIES, SNAPSHOT_LIFETIME, few};
use crate::error::Result;
use crate::state::State;
use crate::storage::{Direction, KeyRange, Snapshot, Storage};

/// Names of blocks that are kept, so that they are not read again for every pin.
const NAMES_MAX: usize = 65_536;
/// Entries that are read at once.
pub(super) const PAGE_ENTRIES: usize = few(4, 4096);

/// An entry, as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Bytes,
    pub(super) hash: u64,
}

/// A frozen view of the store, renewed before it is too old. What is read of it in order may be of several moments.
#[derive(Debug)]
pub(super) struct View {
    storage: Arc<dyn Storage>,
    snapshot: Arc<dyn Snapshot>,
    since: Instant,
    names: HashMap<Number, Digest>,
    /// Blocks that are left out.
    except: BTreeSet<Digest>,
}

impl View {
    pub(super) fn new(storage: Arc<dyn Storage>) -> Result<Self> {
        let snapshot = storage.snapshot()?;
        Ok(Self::of(storage, snapshot))
    }

    /// One that begins with a snapshot of the store.
    pub(super) fn of(storage: Arc<dyn Storage>, snapshot: Arc<dyn Snapshot>) -> Self {
        let (names, except) = (HashMap::new(), BTreeSet::new());
        Self { storage, snapshot, since: Instant::now(), names, except }
    }

    pub(super) fn snapshot(&self) -> &dyn Snapshot {
        &*self.snapshot
    }

    /// Leaves these blocks out.
    pub(super) fn leave_out(&mut self, blocks: BTreeSet<Digest>) {
        self.except = blocks;
    }

    /// Whether it should not be used any more.
    pub(super) fn is_old(&self) -> bool {
        self.since.elapsed() >= SNAPSHOT_LIFETIME
    }

    /// Sees the store as it is now, if this view is old.
    pub(super) fn renew(&mut self) -> Result<()> {
        if self.is_old() {
            self.renew_with(self.storage.snapshot()?);
        }
        Ok(())
    }

    /// Sees this snapshot.
    pub(super) fn renew_with(&mut self, snapshot: Arc<dyn Snapshot>) {
        self.snapshot = snapshot;
        self.since = Instant::now();
    }

    fn name(&mut self, number: Number) -> Result<Digest> {
        if let Some(name) = self.names.get(&number) {
            return Ok(*name);
        }
        let name = self.snapshot.get(NUMBERS, &records::number_key(number)?)?;
        let name = name.ok_or_else(|| corrupt("an element belongs to a block that nobody knows"))?;
        let name = records::digest_of(&name)?;
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(number, name);
        Ok(name)
    }

    /// The entries after a key up to another (empty = to the end), at most about `limit`, and whether there are more.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(super) fn entries(
        &mut self,
        table: Table,
        after: &Bytes,
        to: &Bytes,
        limit: usize,
    ) -> Result<(Vec<Entry>, bool)> {
        match table {
            Table::Pins => {
                let page = self.snapshot.scan(SET, between(after, to), Direction::Forward, limit)?;
                let mut entries = Vec::with_capacity(page.entries.len());
                for (key, record) in page.entries {
                    let hash = self.hash(&key, &Elements::decode(&record)?)?;
                    entries.push(Entry { key, hash });
                }
                Ok((entries, page.more))
            }
            Table::Blocks => {
                let (blocks, more) = self.blocks(after, to, limit)?;
                let entry = |(digest, height): (Digest, u64)| Entry {
                    hash: digest
                        .iter()
                        .take(8)
                        .fold(height.wrapping_mul(0x9e37_79b9_7f4a_7c15), |hash, byte| {
                            hash.rotate_left(8) ^ u64::from(*byte)
                        }),
                    key: Bytes::copy_from_slice(&digest),
                };
                Ok((blocks.into_iter().map(entry).collect(), more))
            }
        }
    }

    /// Merged blocks after a key up to another, out of about `limit` entries at least one if there is one, and whether
    /// there may be more.
    pub(super) fn blocks(
        &self,
        after: &Bytes,
        to: &Bytes,
        limit: usize,
    ) -> Result<(Vec<(Digest, u64)>, bool)> {
        let mut range = between(after, to);
        loop {
            let page = self.snapshot.scan(IDS, range.clone(), Direction::Forward, limit)?;
            let mut blocks = Vec::with_capacity(page.entries.len());
            for (key, record) in &page.entries {
                let (digest, id) = (records::digest_of(key)?, BlockId::decode(record)?);
                if id.is_processed && !self.except.contains(&digest) {
                    blocks.push((digest, id.height));
                }
            }
            match page.entries.last() {
                Some((last, _)) if page.more && blocks.is_empty() => range = range.after(last.clone()),
                _ => return Ok((blocks, page.more)),
            }
        }
    }

    /// The first 64 bits of the SHA-256 of what is known of a pin.
    fn hash(&mut self, key: &[u8], elements: &Elements) -> Result<u64> {
        let mut live = Vec::with_capacity(elements.live().len());
        for element in elements.live() {
            live.push((self.name(element.number)?, element.priority));
        }
        live.sort_unstable();
        let mut tombstones = Vec::with_capacity(elements.tombstones().len());
        for number in elements.tombstones() {
            tombstones.push(self.name(*number)?);
        }
        tombstones.sort_unstable();
        let mut text = Vec::with_capacity(8 + key.len() + live.len() * 40 + tombstones.len() * 32);
        text.extend_from_slice(&(live.len() as u64).to_be_bytes());
        for (block, priority) in live {
            text.extend_from_slice(&block);
            text.extend_from_slice(&priority.to_be_bytes());
        }
        tombstones.iter().for_each(|block| text.extend_from_slice(block));
        text.extend_from_slice(key);
        let hash = Code::Sha2_256.digest(&text);
        Ok(hash.digest().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte)))
    }

    /// Which of these parts of a table differ here. Stops counting in a part that has more here by far.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, also for parts that are not in order.
    pub(super) fn differing(&mut self, table: Table, after: &Bytes, chunks: &[Chunk]) -> Result<Vec<u64>> {
        let mut differing = Vec::new();
        let (mut from, mut before) = (after.clone(), after);
        let Some(end) = chunks.last().map(|chunk| chunk.to.clone()) else { return Ok(differing) };
        let (mut entries, mut more) = (Vec::new().into_iter().peekable(), true);
        for (place, chunk) in chunks.iter().enumerate() {
            let is_last = place + 1 == chunks.len();
            if (chunk.to.is_empty() && !is_last) || (!chunk.to.is_empty() && chunk.to <= *before) {
                return Err(corrupt("parts of a table that are not in order"));
            }
            before = &chunk.to;
            let (mut count, mut sum) = (0u64, 0u64);
            loop {
                match entries.peek() {
                    None if more => {
                        let (page, has_more) = self.entries(table, &from, &end, PAGE_ENTRIES)?;
                        more = has_more;
                        if let Some(last) = page.last() {
                            from = last.key.clone();
                        }
                        entries = page.into_iter().peekable();
                    }
                    Some(Entry { key, hash }) if chunk.to.is_empty() || *key <= chunk.to => {
                        count += 1;
                        sum = sum.wrapping_add(*hash);
                        entries.next();
                        // The rest of it is not worth reading.
                        if count > chunk.count + PAGE_ENTRIES as u64 || chunk.count == 0 {
                            entries = Vec::new().into_iter().peekable();
                            more = !chunk.to.is_empty();
                            from = chunk.to.clone();
                            break;
                        }
                    }
                    _ => break,
                }
            }
            if (count, sum) != (chunk.count, chunk.sum) {
                differing.push(place as u64);
            }
        }
        Ok(differing)
    }

    /// What is known of pins after a key up to another beyond what these hashes stand for, out of the next entries, and
    /// where to go on.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(super) fn records(
        &mut self,
        state: &dyn State,
        wanted: &Wanted,
        has: &BTreeSet<u64>,
    ) -> Result<(Vec<PinRecord>, Option<Bytes>)> {
        let range = between(&wanted.after, &wanted.to);
        let page = self.snapshot.scan(SET, range.clone(), Direction::Forward, PAGE_ENTRIES)?;
        let Some((last, _)) = page.entries.last() else { return Ok((Vec::new(), None)) };
        let (last, next) = (last.clone(), page.more.then(|| last.clone()));
        let mut pins = Vec::with_capacity(page.entries.len());
        for (key, record) in page.entries {
            let elements = Elements::decode(&record)?;
            if has.is_empty() || !has.contains(&self.hash(&key, &elements)?) {
                pins.push((key, elements));
            }
        }
        let mut values = if pins.iter().any(|(_, elements)| elements.exact().is_some()) {
            let first = pins.first().map_or_else(|| last.clone(), |(key, _)| key.clone());
            let last = pins.last().map_or(last, |(key, _)| key.clone());
            self.pinned(state, first, last, &pins)?
        } else {
            HashMap::new()
        };
        let mut records = Vec::with_capacity(pins.len());
        // Elements of one block are read together.
        let mut elsewhere: BTreeMap<Number, Vec<(usize, usize)>> = BTreeMap::new();
        for (key, elements) in pins {
            let pin = key::pin_of_bytes(&key).ok_or_else(|| corrupt("the key of a pin is unreadable"))?;
            let exact = elements.exact().and_then(|number| Some((number, values.remove(&key)?)));
            // What makes a pin goes before what takes it away, so that it is never gone in between.
            for part in elements.live().chunks(RECORD_NAMES_MAX) {
                let mut record = PinRecord { pin, elements: Vec::new(), tombstones: Vec::new() };
                for live in part {
                    let value = match &exact {
                        Some((number, value)) if *number == live.number => value.clone(),
                        _ => {
                            let place = (records.len(), record.elements.len());
                            elsewhere.entry(live.number).or_default().push(place);
                            Bytes::new()
                        }
                    };
                    record.elements.push((self.name(live.number)?, live.priority, value));
                }
                records.push(record);
            }
            for part in elements.tombstones().chunks(RECORD_NAMES_MAX) {
                let tombstones = part.iter().map(|number| self.name(*number)).collect::<Result<_>>()?;
                match records.last_mut() {
                    Some(record) if record.pin == pin && record.tombstones.is_empty() => {
                        record.tombstones = tombstones;
                    }
                    _ => records.push(PinRecord { pin, elements: Vec::new(), tombstones }),
                }
            }
        }
        for (number, places) in elsewhere {
            self.read_values(number, &places, &mut records)?;
        }
        Ok((records, next))
    }

    /// Values that the pinset has, between two pins.
    fn pinned(
        &self,
        state: &dyn State,
        first: Bytes,
        last: Bytes,
        pins: &[(Bytes, Elements)],
    ) -> Result<HashMap<Bytes, Bytes>> {
        let mut values = HashMap::with_capacity(pins.len());
        let mut wanted = pins.iter().filter(|(_, elements)| elements.exact().is_some()).peekable();
        let mut range = KeyRange { start: Bound::Included(first), end: Bound::Included(last) };
        loop {
            let page = state.values(&*self.snapshot, range.clone(), PAGE_ENTRIES)?;
            let end = page.entries.last().map(|(key, _)| key.clone());
            for (key, value) in page.entries {
                while wanted.next_if(|(wanted, _)| *wanted < key).is_some() {}
                if wanted.next_if(|(wanted, _)| *wanted == key).is_some() {
                    values.insert(key, value);
                }
            }
            match end {
                Some(end) if page.more && wanted.peek().is_some() => range = range.after(end),
                _ => return Ok(values),
            }
        }
    }

    /// Values of elements that one block added.
    fn read_values(
        &mut self,
        number: Number,
        places: &[(usize, usize)],
        records: &mut [PinRecord],
    ) -> Result<()> {
        let digest = self.name(number)?;
        let mut values: HashMap<_, Bytes> = HashMap::new();
        if let Some(block) = self.snapshot.get(BLOCKS, &digest)? {
            for element in Node::parse(key::block_cid(&digest), block)?.delta.elements {
                let greatest = values.entry(element.pin).or_default();
                if element.value > *greatest {
                    *greatest = element.value;
                }
            }
        }
        for (record, element) in places {
            let Some(record) = records.get_mut(*record) else { continue };
            let value = match values.get(&record.pin) {
                Some(value) => value.clone(),
                None => self.snapshot.get(VALUES, &records::value_key(&record.pin, number)?)?.ok_or_else(
                    || corrupt(format!("the value of an element of {} is missing", record.pin)),
                )?,
            };
            if let Some(element) = record.elements.get_mut(*element) {
                element.2 = value;
            }
        }
        Ok(())
    }
}

/// The keys after one up to another; empty is the end.
fn between(after: &Bytes, to: &Bytes) -> KeyRange {
    let start = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after.clone()) };
    let end = if to.is_empty() { Bound::Unbounded } else { Bound::Included(to.clone()) };
    if !after.is_empty() && !to.is_empty() && after >= to {
        // Some engines refuse to be asked.
        let nothing = Bytes::from_static(&[0]);
        return KeyRange { start: Bound::Included(nothing.clone()), end: Bound::Excluded(nothing) };
    }
    KeyRange { start, end }
}

/// The parts of a run of entries. The last ends with the last entry.
pub(super) fn chunks(entries: &[Entry]) -> Vec<Chunk> {
    let chunk = |entries: &[Entry]| Chunk {
        to: entries.last().map(|entry| entry.key.clone()).unwrap_or_default(),
        count: entries.len() as u64,
        sum: entries.iter().fold(0, |sum, entry| sum.wrapping_add(entry.hash)),
    };
    entries.chunks(CHUNK_ENTRIES).map(chunk).collect()
}
