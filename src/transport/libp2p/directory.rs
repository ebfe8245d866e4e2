//! Who has what: the records that others leave with us. The rest of Kademlia is libp2p's.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::iter::Empty;
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{Behaviour, Config, K_VALUE, Mode, ProviderRecord, Record, RecordKey, StoreInserts};
use libp2p::swarm::StreamProtocol;

use crate::types::{Multiaddr, PeerId};

/// The directory among peers with private addresses.
pub(super) const LAN: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");
/// The directory among peers with public addresses.
pub(super) const WAN: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

/// How long one question to the whole directory may take.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one peer may take to answer its part of it.
const PART_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the word of a provider is kept.
const PROVIDER_RECORD_TTL: Duration = Duration::from_secs(48 * 60 * 60);
/// Keys that others provide; the oldest are forgotten.
const KEYS_MAX: usize = 16 * 1024;
/// Providers of one key.
const PROVIDERS_PER_KEY_MAX: usize = 8;
/// Longest key that is kept, in bytes; a multihash of 64 bytes of digest is below.
const KEY_BYTES_MAX: usize = 80;
/// Addresses of a peer in the directory.
const ADDRESSES_MAX: usize = 16;

/// A directory's part of the swarm.
pub(super) type Directory = Behaviour<Providers>;

pub(super) fn behaviour(peer: PeerId, name: StreamProtocol) -> Directory {
    let is_lan = name == LAN;
    let mut config = Config::new(name);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_substreams_timeout(PART_TIMEOUT)
        .set_parallelism(NonZeroUsize::new(10).unwrap_or(K_VALUE))
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_provider_record_ttl(Some(PROVIDER_RECORD_TTL))
        // Whoever keeps content says so again by itself.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        // Done by the task, which knows whether there is anybody to ask.
        .set_periodic_bootstrap_interval(None)
        .set_kbucket_inserts(libp2p::kad::BucketInserts::Manual);
    let mut behaviour = Behaviour::with_config(peer, Providers::new(peer), config);
    behaviour.set_mode(Some(if is_lan { Mode::Server } else { Mode::Client }));
    behaviour
}

/// Enters a peer, unless it has too many addresses already.
pub(super) fn enter(directory: &mut Directory, peer: &PeerId, address: Multiaddr) {
    let entered = directory.kbucket(*peer).and_then(|bucket| {
        bucket.iter().find(|entry| entry.node.key.preimage() == peer).map(|entry| entry.node.value.len())
    });
    if entered.unwrap_or_default() < ADDRESSES_MAX {
        directory.add_address(peer, address);
    }
}

/// Whether the directory knows anybody who could be asked.
pub(super) fn is_empty(directory: &mut Directory) -> bool {
    directory.kbuckets().next().is_none()
}

/// Who said that they have what. Values are not kept: nobody in a cluster needs any.
#[derive(Debug)]
pub(super) struct Providers {
    own: PeerId,
    keys: BTreeMap<Vec<u8>, VecDeque<ProviderRecord>>,
    /// By age, oldest first.
    order: VecDeque<Vec<u8>>,
}

impl Providers {
    fn new(own: PeerId) -> Self {
        Self { own, keys: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl RecordStore for Providers {
    type RecordsIter<'a> = Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, mut record: ProviderRecord) -> Result<()> {
        // What we have ourselves is asked of us directly; the word is for others to keep.
        if record.provider == self.own {
            return Ok(());
        }
        let key = record.key.to_vec();
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::ValueTooLarge);
        }
        // They are taken from the directory's own entries, which are bounded.
        record.addresses = Vec::new();
        if !self.keys.contains_key(&key) {
            if self.keys.len() >= KEYS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.keys.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        let providers = self.keys.entry(key).or_default();
        providers.retain(|known| known.provider != record.provider);
        if providers.len() >= PROVIDERS_PER_KEY_MAX {
            providers.pop_front();
        }
        providers.push_back(record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.keys.get(key.as_ref()).map(|providers| providers.iter().cloned().collect()).unwrap_or_default()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(providers) = self.keys.get_mut(key.as_ref()) {
            providers.retain(|known| known.provider != *provider);
            // An empty list keeps its place in the order until its time comes.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes(&[0, 1, number]).unwrap()
    }

    fn key(number: usize) -> RecordKey {
        RecordKey::new(&number.to_be_bytes())
    }

    #[test]
    fn what_others_leave_with_us_is_bounded_and_our_own_takes_no_place() {
        let mut store = Providers::new(peer(0));
        store.add_provider(ProviderRecord::new(key(1), peer(0), Vec::new())).unwrap();
        assert!(store.keys.is_empty());
        let addresses = vec!["/ip4/1.1.1.1/tcp/1".parse().unwrap(); 100];
        for number in 0..100 {
            store.add_provider(ProviderRecord::new(key(1), peer(number + 1), addresses.clone())).unwrap();
        }
        let providers = store.providers(&key(1));
        assert_eq!(providers.len(), PROVIDERS_PER_KEY_MAX);
        assert!(providers.iter().all(|record| record.addresses.is_empty()));
        assert_eq!(providers.last().unwrap().provider, peer(100));
        for number in 2..2 * KEYS_MAX {
            store.add_provider(ProviderRecord::new(key(number), peer(1), Vec::new())).unwrap();
        }
        assert_eq!((store.keys.len(), store.order.len()), (KEYS_MAX, KEYS_MAX));
        assert!(store.providers(&key(1)).is_empty());
        let long = RecordKey::new(&[0; 200]);
        assert!(store.add_provider(ProviderRecord::new(long, peer(1), Vec::new())).is_err());
    }
}
