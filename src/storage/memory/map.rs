//! An ordered map that is cheap to copy and cheap to change while copies are around.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::storage::{Direction, KeyRange, Page};

/// A chunk that grows beyond this is split in two.
const CHUNK_ENTRIES_MAX: usize = 256;

/// What one entry takes beside its key and value, in bytes: two handles.
const ENTRY_OVERHEAD_BYTES: u64 = 2 * size_of::<Bytes>() as u64;

type Chunk = Arc<Vec<(Bytes, Bytes)>>;

/// Keys in chunks of at most [`CHUNK_ENTRIES_MAX`], each chunk shared between copies until one of them changes it.
///
/// A copy costs nothing. The first change after a copy duplicates the list of chunks (one handle for each
/// ~200 entries) and the chunk it touches; every change thereafter only chunks that were not duplicated yet. So a
/// writer beside a long-lived reader pays once for each chunk, never for the whole map at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrderedMap {
    /// By a key that is not above any key of the chunk and above every key of the chunk before. The first is
    /// filed under the empty key, below which nothing is. No chunk is empty.
    chunks: Arc<BTreeMap<Bytes, Chunk>>,
    bytes: u64,
}

impl OrderedMap {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes that keys, values and their handles take.
    pub(crate) fn approximate_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let (_, chunk) = self.chunk_of(key)?;
        let index = find(chunk, key).ok()?;
        chunk.get(index).map(|(_, value)| value)
    }

    pub(crate) fn insert(&mut self, key: Bytes, value: Bytes) {
        let added = entry_bytes(&key, &value);
        let filed_under = self.chunk_of(&key).map(|(first, _)| first.clone());
        let chunks = Arc::make_mut(&mut self.chunks);
        // The chunk under the empty key is missing after its last entry was removed.
        let chunk = Arc::make_mut(chunks.entry(filed_under.unwrap_or_default()).or_default());
        match find(chunk, &key) {
            Ok(index) => {
                self.bytes -= entry_bytes(&chunk[index].0, &chunk[index].1);
                chunk[index] = (key, value);
            }
            Err(index) => chunk.insert(index, (key, value)),
        }
        self.bytes += added;
        if chunk.len() > CHUNK_ENTRIES_MAX {
            let upper = chunk.split_off(chunk.len() / 2);
            chunks.insert(upper[0].0.clone(), Arc::new(upper));
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        // Looked up first, so that removing what is not there duplicates nothing.
        let Some((first, chunk)) = self.chunk_of(key) else { return };
        let Ok(index) = find(chunk, key) else { return };
        let first = first.clone();
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(&first) else { return };
        let chunk = Arc::make_mut(chunk);
        let (key, value) = chunk.remove(index);
        self.bytes -= entry_bytes(&key, &value);
        if chunk.is_empty() {
            chunks.remove(&first);
        }
    }

    /// The chunk that holds `key` if any does, with the key it is filed under.
    fn chunk_of(&self, key: &[u8]) -> Option<(&Bytes, &Chunk)> {
        self.chunks.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
    }

    pub(crate) fn scan(&self, range: &KeyRange, direction: Direction, limit: usize) -> Page {
        // BTreeMap panics on such ranges.
        if range.is_empty() {
            return Page::default();
        }
        let mut page = Page::default();
        let mut take = |entry: &(Bytes, Bytes)| {
            page.more = page.entries.len() == limit;
            if !page.more {
                page.entries.push(entry.clone());
            }
            !page.more
        };
        match direction {
            Direction::Forward => {
                let first = match &range.start {
                    Bound::Included(key) | Bound::Excluded(key) => self
                        .chunk_of(key)
                        .map_or(Bound::Unbounded, |(first, _)| Bound::Included(first.clone())),
                    Bound::Unbounded => Bound::Unbounded,
                };
                'scan: for chunk in self.chunks.range((first, Bound::Unbounded)).map(|(_, chunk)| chunk) {
                    for entry in &chunk[start_index(chunk, &range.start)..] {
                        if is_after_end(&entry.0, &range.end) || !take(entry) {
                            break 'scan;
                        }
                    }
                }
            }
            Direction::Backward => {
                'scan: for chunk in
                    self.chunks.range((Bound::Unbounded, range.end.clone())).rev().map(|(_, chunk)| chunk)
                {
                    for entry in chunk[..end_index(chunk, &range.end)].iter().rev() {
                        if is_before_start(&entry.0, &range.start) || !take(entry) {
                            break 'scan;
                        }
                    }
                }
            }
        }
        page
    }
}

fn find(chunk: &[(Bytes, Bytes)], key: &[u8]) -> Result<usize, usize> {
    chunk.binary_search_by(|(candidate, _)| candidate.as_ref().cmp(key))
}

fn entry_bytes(key: &Bytes, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

/// Index of the first entry that is not before the start.
fn start_index(chunk: &[(Bytes, Bytes)], start: &Bound<Bytes>) -> usize {
    chunk.partition_point(|(key, _)| is_before_start(key, start))
}

/// Index of the first entry that is after the end.
fn end_index(chunk: &[(Bytes, Bytes)], end: &Bound<Bytes>) -> usize {
    chunk.partition_point(|(key, _)| !is_after_end(key, end))
}

fn is_before_start(key: &Bytes, start: &Bound<Bytes>) -> bool {
    match start {
        Bound::Included(start) => key < start,
        Bound::Excluded(start) => key <= start,
        Bound::Unbounded => false,
    }
}

fn is_after_end(key: &Bytes, end: &Bound<Bytes>) -> bool {
    match end {
        Bound::Included(end) => key > end,
        Bound::Excluded(end) => key >= end,
        Bound::Unbounded => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bound() -> impl Strategy<Value = Bound<Bytes>> {
        (0..3, key()).prop_map(|(kind, key)| match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(key),
            _ => Bound::Excluded(key),
        })
    }

    /// Few enough to collide, many enough to split chunks.
    fn key() -> impl Strategy<Value = Bytes> {
        (1_u16..2_000).prop_map(|n| Bytes::copy_from_slice(&n.to_be_bytes()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_does_what_a_btree_map_does(
            writes in prop::collection::vec((key(), any::<bool>()), 0..3_000),
            scans in prop::collection::vec((bound(), bound(), any::<bool>(), 0_usize..400), 16),
        ) {
            let mut map = OrderedMap::default();
            let mut model = BTreeMap::new();
            let mut copies = Vec::new();
            for (index, (key, put)) in writes.into_iter().enumerate() {
                if index % 500 == 0 {
                    copies.push((map.clone(), model.clone()));
                }
                let value = Bytes::from(index.to_string());
                // Three puts for each removal, so that the map grows.
                if put || index % 2 == 0 {
                    map.insert(key.clone(), value.clone());
                    model.insert(key, value);
                } else {
                    map.remove(&key);
                    model.remove(&key);
                }
            }
            copies.push((map, model));
            for (map, model) in &copies {
                prop_assert_eq!(
                    map.approximate_bytes(),
                    model.iter().map(|(key, value)| entry_bytes(key, value)).sum::<u64>()
                );
                prop_assert_eq!(map.is_empty(), model.is_empty());
                for (start, end, forward, limit) in &scans {
                    let range = KeyRange { start: start.clone(), end: end.clone() };
                    let mut expected: Vec<_> = if range.is_empty() {
                        Vec::new()
                    } else {
                        model.range((start.clone(), end.clone())).map(|(k, v)| (k.clone(), v.clone())).collect()
                    };
                    let direction = if *forward { Direction::Forward } else { Direction::Backward };
                    if !forward {
                        expected.reverse();
                    }
                    let page = map.scan(&range, direction, *limit);
                    prop_assert_eq!(page.more, expected.len() > *limit);
                    expected.truncate(*limit);
                    prop_assert_eq!(page.entries, expected);
                }
            }
        }
    }

    #[test]
    fn a_map_emptied_from_the_front_takes_small_keys_again() {
        let mut map = OrderedMap::default();
        let key = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 1..1_000 {
            map.insert(key(n), Bytes::new());
        }
        for n in 1..900 {
            map.remove(&key(n));
        }
        map.insert(key(5), Bytes::from_static(b"five"));
        assert_eq!(map.get(&key(5)).unwrap(), "five");
        let page = map.scan(&KeyRange::all(), Direction::Forward, 2);
        assert_eq!(page.entries.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [key(5), key(900)]);
    }
}
