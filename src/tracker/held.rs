//! What the daemon holds, in 16 bytes a pin: a set of 128-bit keyed hashes of (CID, mode).
//!
//! A set has 256 shards by the first byte of the hash; each is 1, 16 or 256 sorted arrays by the next bits, so
//! that an array stays near a thousand entries up to 64 million pins. Arrays grow by an eighth, so 80 million pins
//! take 1.3 to 1.45 GB. A rebuild replaces shard by shard, so nobody waits longer than one shard takes.

use std::fmt;

use multihash_codetable::{Code, MultihashDigest as _};

use super::key::CidKey;
use crate::types::{PeerId, PinMode, Timestamp};

/// Shards of a set.
pub(crate) const SHARDS: usize = 256;
/// Entries an array has on average before its shard spreads over more arrays.
const ARRAY_ENTRIES: usize = 1024;
/// How far from its expected place an entry is looked for first: within two cache lines.
const FIND_REACH: usize = 8;
/// Bits of the hash by which a shard spreads, at a time and at most.
const SPREAD_BITS: u32 = 4;
const SPREAD_BITS_MAX: u32 = 8;
/// Bytes of the longest CID with a 64-byte digest: version, codec, hash code, length, digest.
const CID_BYTES_MAX: usize = 1 + 10 + 10 + 1 + 64;
const KEY_BYTES: usize = 32;

/// Turns (CID, mode) into the entries of a set.
///
/// The key differs from tracker to tracker, so that nobody who chooses CIDs can choose hashes that fall into one
/// array or onto each other. It is derived from the peer and the nanosecond it started in: not a secret for
/// strong adversaries, but one that authors of pins neither see nor can probe.
#[derive(Clone)]
pub(crate) struct Hasher([u8; KEY_BYTES]);

impl Hasher {
    pub(crate) fn new(peer: &PeerId, started: Timestamp) -> Self {
        let mut seed = b"ipfs-cluster tracker held set".to_vec();
        seed.extend_from_slice(&peer.to_bytes());
        seed.extend_from_slice(&started.unix_nanoseconds().to_be_bytes());
        let mut key = [0; KEY_BYTES];
        key.copy_from_slice(&Code::Blake2b256.digest(&seed).digest()[..KEY_BYTES]);
        Self(key)
    }

    pub(crate) fn hash(&self, key: &CidKey, mode: PinMode) -> u128 {
        let cid = key.as_bytes();
        let mut input = [0; KEY_BYTES + 1 + CID_BYTES_MAX];
        let len = KEY_BYTES + 1 + cid.len().min(CID_BYTES_MAX);
        input[..KEY_BYTES].copy_from_slice(&self.0);
        input[KEY_BYTES] = mode as u8;
        input[KEY_BYTES + 1..len].copy_from_slice(&cid[..len - KEY_BYTES - 1]);
        let digest = Code::Blake2b256.digest(&input[..len]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.digest()[..16]);
        u128::from_be_bytes(bytes)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// Which shard an entry is in.
const fn shard_of(hash: u128) -> usize {
    (hash >> 120) as usize
}

/// Part of a set: the entries that share their first byte, in ascending order unless it is being filled.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    bits: u32,
    len: usize,
    arrays: Vec<Vec<u128>>,
}

impl Shard {
    fn index(&self, hash: u128) -> usize {
        ((hash << 8) >> 64 >> (64 - self.bits)) as usize
    }

    fn contains(&self, hash: u128) -> bool {
        self.arrays.get(self.index(hash)).is_some_and(|array| self.find(array, hash).is_ok())
    }

    /// Where an entry is in its array, or belongs. Hashes are spread evenly, so the entry is near where its value
    /// says: one look at memory instead of ten.
    fn find(&self, array: &[u128], hash: u128) -> Result<usize, usize> {
        let fraction = hash << (8 + self.bits) >> 64;
        let guess = ((fraction * array.len() as u128) >> 64) as usize;
        let (mut low, mut high, mut reach) = (guess, guess, FIND_REACH);
        while low > 0 && array[low] > hash {
            low = low.saturating_sub(reach);
            reach *= 2;
        }
        while high < array.len() && array[high] < hash {
            high = (high + reach).min(array.len());
            reach *= 2;
        }
        let end = (high + 1).min(array.len());
        array[low..end].binary_search(&hash).map(|place| low + place).map_err(|place| low + place)
    }

    pub(crate) fn insert(&mut self, hash: u128) -> bool {
        self.make_room();
        let index = self.index(hash);
        let found = self.find(&self.arrays[index], hash);
        let array = &mut self.arrays[index];
        match found {
            Ok(_) => false,
            Err(place) => {
                grow(array);
                array.insert(place, hash);
                self.len += 1;
                true
            }
        }
    }

    pub(crate) fn remove(&mut self, hash: u128) -> bool {
        let index = self.index(hash);
        let found = self.arrays.get(index).and_then(|array| self.find(array, hash).ok());
        let (Some(place), Some(array)) = (found, self.arrays.get_mut(index)) else { return false };
        array.remove(place);
        if array.len() * 2 < array.capacity() {
            array.shrink_to(array.len() + array.len() / 8);
        }
        self.len -= 1;
        true
    }

    /// Adds without keeping the order; [`Shard::settle`] must follow.
    fn append(&mut self, hash: u128) {
        self.make_room();
        let index = self.index(hash);
        let array = &mut self.arrays[index];
        grow(array);
        array.push(hash);
        self.len += 1;
    }

    /// Brings appended entries into order and drops those that came twice.
    pub(crate) fn settle(&mut self) {
        for array in &mut self.arrays {
            array.sort_unstable();
            array.dedup();
        }
        self.len = self.arrays.iter().map(Vec::len).sum();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u128> + '_ {
        self.arrays.iter().flatten().copied()
    }

    fn make_room(&mut self) {
        if self.arrays.is_empty() {
            self.arrays.push(Vec::new());
        }
        if self.bits >= SPREAD_BITS_MAX || self.len < ARRAY_ENTRIES << self.bits {
            return;
        }
        let old = std::mem::take(&mut self.arrays);
        self.bits += SPREAD_BITS;
        self.arrays.resize_with(1 << self.bits, Vec::new);
        for array in old {
            for hash in array {
                let index = self.index(hash);
                let array = &mut self.arrays[index];
                grow(array);
                array.push(hash);
            }
        }
    }
}

/// Makes room for one more without doubling.
fn grow(array: &mut Vec<u128>) {
    if array.len() == array.capacity() {
        array.reserve_exact((array.len() / 8).max(4));
    }
}

/// A set of entries.
pub(crate) struct HeldSet {
    shards: Vec<Shard>,
}

impl HeldSet {
    pub(crate) fn new() -> Self {
        let mut shards = Vec::new();
        shards.resize_with(SHARDS, Shard::default);
        Self { shards }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.len == 0)
    }

    pub(crate) fn contains(&self, hash: u128) -> bool {
        self.shards[shard_of(hash)].contains(hash)
    }

    pub(crate) fn insert(&mut self, hash: u128) -> bool {
        self.shards[shard_of(hash)].insert(hash)
    }

    pub(crate) fn remove(&mut self, hash: u128) -> bool {
        self.shards[shard_of(hash)].remove(hash)
    }

    /// Adds while the set is being filled: every shard must be settled before the set is asked.
    pub(crate) fn append(&mut self, hash: u128) {
        self.shards[shard_of(hash)].append(hash);
    }

    pub(crate) fn shard(&self, index: usize) -> &Shard {
        &self.shards[index]
    }

    pub(crate) fn shard_mut(&mut self, index: usize) -> &mut Shard {
        &mut self.shards[index]
    }
}

impl fmt::Debug for HeldSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldSet({})", self.len())
    }
}

/// What a listing found other than the set had it.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) lost: HeldSet,
    pub(crate) gained: HeldSet,
}

impl Difference {
    pub(crate) fn new() -> Self {
        Self { lost: HeldSet::new(), gained: HeldSet::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.lost.len() + self.gained.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.gained.is_empty()
    }

    pub(crate) fn contains(&self, hash: u128) -> bool {
        self.lost.contains(hash) || self.gained.contains(hash)
    }

    /// Notes how `new` differs from `old`, both settled, by walking them side by side.
    fn note(&mut self, old: &Shard, new: &Shard) {
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            match (old.peek().copied(), new.peek().copied()) {
                (None, None) => return,
                (Some(before), Some(now)) if before == now => {
                    old.next();
                    new.next();
                }
                (Some(before), now) if now.is_none_or(|now| before < now) => {
                    self.lost.insert(before);
                    old.next();
                }
                (_, Some(now)) => {
                    self.gained.insert(now);
                    new.next();
                }
                (Some(_), None) => return, // Taken by the guarded arm above.
            }
        }
    }
}

/// The set, and what is known about how complete it is.
#[derive(Debug)]
pub(crate) struct Held {
    set: HeldSet,
    /// Whether a listing has ever completed.
    is_complete: bool,
    /// What operations did while a listing runs: it may have passed their items before or after.
    journal: Option<Journal>,
}

/// What operations did; bounded by the number of operations that finish during one listing, 16 bytes each.
#[derive(Debug)]
struct Journal {
    pinned: HeldSet,
    unpinned: HeldSet,
}

impl Held {
    pub(crate) fn new() -> Self {
        Self { set: HeldSet::new(), is_complete: false, journal: None }
    }

    pub(crate) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(crate) fn contains(&self, hash: u128) -> bool {
        self.set.contains(hash)
    }

    /// Notes what an operation of ours, or a question about one item, found. Wins over a listing that runs.
    pub(crate) fn record(&mut self, hash: u128, held: bool) {
        if held {
            self.set.insert(hash);
        } else {
            self.set.remove(hash);
        }
        if let Some(journal) = &mut self.journal {
            let (to, from) = if held {
                (&mut journal.pinned, &mut journal.unpinned)
            } else {
                (&mut journal.unpinned, &mut journal.pinned)
            };
            to.insert(hash);
            from.remove(hash);
        }
    }

    /// A listing starts: from now on operations are kept apart as well.
    pub(crate) fn listing_starts(&mut self) {
        self.journal = Some(Journal { pinned: HeldSet::new(), unpinned: HeldSet::new() });
    }

    /// It broke off: the set stays as it was.
    pub(crate) fn listing_failed(&mut self) {
        self.journal = None;
    }

    /// Puts one settled shard of a listing in the place of ours and gives the old one, to be dropped where nobody
    /// waits for it. What operations did since [`Held::listing_starts`] is applied to it; differences are noted
    /// if there was a complete set to differ from.
    pub(crate) fn replace_shard(
        &mut self,
        index: usize,
        mut new: Shard,
        difference: &mut Difference,
    ) -> Shard {
        if let Some(journal) = &self.journal {
            for hash in journal.pinned.shard(index).iter() {
                new.insert(hash);
            }
            for hash in journal.unpinned.shard(index).iter() {
                new.remove(hash);
            }
        }
        let ours = self.set.shard_mut(index);
        if self.is_complete {
            difference.note(ours, &new);
        }
        std::mem::replace(ours, new)
    }

    /// Every shard was replaced.
    pub(crate) fn listing_ends(&mut self) {
        self.journal = None;
        self.is_complete = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::parse_cid;

    /// Numbers that look like hashes (SplitMix64, twice).
    fn hash(number: u64) -> u128 {
        let half = |seed: u64| {
            let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u128::from(mixed ^ (mixed >> 31))
        };
        half(number + 1) << 64 | half(number + (1 << 40))
    }

    fn replace(held: &mut Held, entries: impl IntoIterator<Item = u128>) -> Difference {
        let mut new = HeldSet::new();
        for entry in entries {
            new.append(entry);
        }
        let mut difference = Difference::new();
        for index in 0..SHARDS {
            let mut shard = std::mem::take(new.shard_mut(index));
            shard.settle();
            held.replace_shard(index, shard, &mut difference);
        }
        held.listing_ends();
        difference
    }

    #[test]
    fn modes_peers_and_starts_hash_differently() {
        let key = CidKey::from(&parse_cid("QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o").unwrap());
        let peer: PeerId = "QmSGCzHkz8gC9fNndMtaCZdf9RFtwtbTEEsGo4zkVfcykD".parse().unwrap();
        let started = Timestamp::from_unix_seconds(1);
        let hasher = Hasher::new(&peer, started);
        let recursive = hasher.hash(&key, PinMode::Recursive);
        assert_eq!(recursive, Hasher::new(&peer, started).hash(&key, PinMode::Recursive));
        assert_ne!(recursive, hasher.hash(&key, PinMode::Direct));
        let later = Timestamp::from_unix_nanoseconds(1_000_000_001);
        assert_ne!(recursive, Hasher::new(&peer, later).hash(&key, PinMode::Recursive));
    }

    #[test]
    fn a_large_set_spreads_and_stays_near_sixteen_bytes_an_entry() {
        // Enough for every shard to spread once.
        let entries = (SHARDS * ARRAY_ENTRIES * 3 / 2) as u64;
        let mut set = HeldSet::new();
        for number in 0..entries {
            set.append(hash(number));
        }
        for index in 0..SHARDS {
            set.shard_mut(index).settle();
            assert_eq!(set.shard(index).bits, SPREAD_BITS);
        }
        assert_eq!(set.len() as u64, entries);
        let room: usize =
            set.shards.iter().flat_map(|shard| &shard.arrays).map(|array| array.capacity() * 16 + 24).sum();
        let each = room as f64 / entries as f64;
        assert!(each < 19.0, "{each} bytes an entry");
        assert!((0..entries).step_by(997).all(|number| set.contains(hash(number))));
        assert!((entries..entries + 1000).all(|number| !set.contains(hash(number))));
        for index in 0..SHARDS {
            let listed: Vec<_> = set.shard(index).iter().collect();
            assert!(listed.is_sorted(), "shard {index} is out of order");
        }
    }

    #[test]
    fn operations_during_a_listing_win_over_it() {
        let mut held = Held::new();
        replace(&mut held, [hash(1), hash(2), hash(3)]);
        held.listing_starts();
        held.record(hash(1), false); // Listed before it was unpinned.
        held.record(hash(4), true); // Pinned after the listing passed its place.
        held.record(hash(5), true);
        held.record(hash(5), false);
        let difference = replace(&mut held, [hash(1), hash(3), hash(5), hash(6)]);
        let present: Vec<u64> = (0..10).filter(|number| held.contains(hash(*number))).collect();
        assert_eq!(present, [3, 4, 6]);
        // Our own operations are no news, what happened behind our back is.
        assert!(difference.lost.contains(hash(2)) && difference.gained.contains(hash(6)));
        assert_eq!(difference.len(), 2);
    }

    #[test]
    fn a_listing_that_failed_changes_nothing() {
        let mut held = Held::new();
        replace(&mut held, [hash(1)]);
        held.listing_starts();
        held.record(hash(2), true);
        held.listing_failed();
        assert!(held.contains(hash(1)) && held.contains(hash(2)) && held.is_complete());
    }

    #[test]
    fn the_first_listing_differs_from_nothing() {
        let mut held = Held::new();
        held.record(hash(9), true);
        held.listing_starts();
        assert!(replace(&mut held, [hash(1)]).is_empty());
    }

    proptest! {
        #[test]
        fn a_set_behaves_as_a_btree_set(
            steps in prop::collection::vec((0u64..2000, any::<bool>()), 0..500),
            size in 900u64..1100,
        ) {
            // All in one shard, around the size where it spreads.
            let entry_of = |number| hash(number) >> 8;
            let mut model: BTreeSet<u128> = (0..size).map(entry_of).collect();
            let mut set = HeldSet::new();
            for entry in &model {
                set.insert(*entry);
            }
            for (number, insert) in steps {
                let entry = entry_of(number);
                if insert {
                    prop_assert_eq!(set.insert(entry), model.insert(entry));
                } else {
                    prop_assert_eq!(set.remove(entry), model.remove(&entry));
                }
            }
            prop_assert_eq!(set.len(), model.len());
            let listed: Vec<_> = (0..SHARDS).flat_map(|index| set.shard(index).iter()).collect();
            prop_assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn differences_are_set_differences(
            old in prop::collection::btree_set(0u64..300, 0..200),
            new in prop::collection::btree_set(0u64..300, 0..200),
        ) {
            let mut held = Held::new();
            replace(&mut held, old.iter().map(|number| hash(*number)));
            let difference = replace(&mut held, new.iter().map(|number| hash(*number)));
            for number in 0..300 {
                prop_assert_eq!(difference.lost.contains(hash(number)), old.contains(&number) && !new.contains(&number));
                prop_assert_eq!(difference.gained.contains(hash(number)), !old.contains(&number) && new.contains(&number));
            }
        }
    }
}
