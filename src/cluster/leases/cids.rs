//! Many CIDs in little memory.

use std::collections::HashMap;

use ::cid::multihash::Multihash;

use crate::types::Cid;

/// Bytes of the digests that most CIDs have.
const USUAL_DIGEST_BYTES: usize = 32;
/// Bytes of a digest that are a [`Key`].
const KEY_BYTES: usize = 16;
/// Kinds of CIDs that are kept small.
const KINDS_MAX: usize = 16;

/// The beginning of a digest: enough to tell blocks apart, whatever the version and codec of their CID.
pub(super) type Key = u128;

/// The key of a CID.
pub(super) fn key(cid: &Cid) -> Key {
    let mut bytes = [0; KEY_BYTES];
    let digest = cid.hash().digest();
    let length = digest.len().min(bytes.len());
    bytes[..length].copy_from_slice(&digest[..length]);
    Key::from_be_bytes(bytes)
}

/// A set of CIDs, one for a key. A [`Cid`] has room for the longest digest there is and takes 96 bytes; what most of them say
/// beyond their key fits into 17.
#[derive(Debug, Default)]
pub(super) struct Cids {
    usual: HashMap<[u8; KEY_BYTES], Rest>,
    others: HashMap<[u8; KEY_BYTES], Cid>,
    kinds: Vec<Kind>,
}

/// What differs between CIDs of digests of one length.
type Kind = (::cid::Version, u64, u64);

/// What is not in the key.
#[derive(Debug)]
struct Rest {
    kind: u8,
    digest: [u8; USUAL_DIGEST_BYTES - KEY_BYTES],
}

impl Cids {
    pub(super) fn len(&self) -> usize {
        self.usual.len() + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&mut self, cid: &Cid) {
        let key = key(cid).to_be_bytes();
        self.remove(Key::from_be_bytes(key));
        match self.rest(cid) {
            Some(rest) => drop(self.usual.insert(key, rest)),
            None => drop(self.others.insert(key, *cid)),
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let key = key.to_be_bytes();
        self.usual.remove(&key).is_some() || self.others.remove(&key).is_some()
    }

    /// The first ones in the order of their keys.
    pub(super) fn first(&self, count: usize) -> Vec<Cid> {
        let mut keys: Vec<_> = self.usual.keys().chain(self.others.keys()).collect();
        keys.sort_unstable();
        keys.into_iter().take(count).filter_map(|key| self.get(key)).collect()
    }

    fn get(&self, key: &[u8; KEY_BYTES]) -> Option<Cid> {
        let Some(rest) = self.usual.get(key) else { return self.others.get(key).copied() };
        let (version, codec, code) = *self.kinds.get(usize::from(rest.kind))?;
        let mut digest = [0; USUAL_DIGEST_BYTES];
        digest[..KEY_BYTES].copy_from_slice(key);
        digest[KEY_BYTES..].copy_from_slice(&rest.digest);
        Cid::new(version, codec, Multihash::wrap(code, &digest).ok()?).ok()
    }

    fn rest(&mut self, cid: &Cid) -> Option<Rest> {
        let digest: &[u8; USUAL_DIGEST_BYTES] = cid.hash().digest().try_into().ok()?;
        let kind = (cid.version(), cid.codec(), cid.hash().code());
        let place = self.kinds.iter().position(|known| *known == kind).or_else(|| {
            (self.kinds.len() < KINDS_MAX).then(|| {
                self.kinds.push(kind);
                self.kinds.len() - 1
            })
        })?;
        Some(Rest { kind: u8::try_from(place).ok()?, digest: digest[KEY_BYTES..].try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::hash;

    fn cids() -> Vec<Cid> {
        let of = |codec, code, data: &[u8]| Cid::new_v1(codec, hash::multihash(code, data).unwrap());
        let mut cids = vec![
            of(0x55, hash::IDENTITY, b"short"),
            of(0x55, hash::IDENTITY, &[7; 64]),
            of(0x71, 0x13, b"sha2-512"),
            Cid::new_v0(hash::multihash(0x12, b"v0").unwrap()).unwrap(),
        ];
        // More kinds than are kept small.
        cids.extend((0..40).map(|codec| of(codec, 0x12, &codec.to_be_bytes())));
        cids
    }

    #[test]
    fn every_cid_comes_back_as_it_was() {
        let (mut set, mut all) = (Cids::default(), cids());
        all.iter().for_each(|cid| set.insert(cid));
        all.sort_unstable_by_key(key);
        assert_eq!(set.len(), all.len());
        assert_eq!(set.first(usize::MAX), all);
        assert_eq!(set.first(3), all[..3]);
        for cid in &all {
            assert!(set.remove(key(cid)) && !set.remove(key(cid)), "{cid}");
        }
        assert!(set.is_empty());
    }

    #[test]
    fn the_last_cid_of_a_key_counts() {
        let digest = hash::multihash(0x12, b"block").unwrap();
        let (old, new) = (Cid::new_v0(digest).unwrap(), Cid::new_v1(0x70, digest));
        let mut set = Cids::default();
        set.insert(&old);
        set.insert(&new);
        assert_eq!(set.first(2), [new]);
    }

    #[test]
    fn a_usual_cid_takes_little_room() {
        assert!(size_of::<([u8; KEY_BYTES], Rest)>() <= 33);
    }
}
