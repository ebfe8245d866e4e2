//! A daemon whose network has everything, which remembers nothing but what is pinned.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::{Availability, IpfsConnector, IpfsPin};
use crate::types::{Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat};

/// Pins of one page of a listing.
const PAGE_PINS: usize = 1_024;
/// Bytes that a pinned CID counts for in `repo_stat`.
const BYTES_PER_PIN: u64 = 1_000;
const STORAGE_MAX_BYTES: u64 = 1 << 50;
const DIGEST_BYTES: usize = 32;

/// An IPFS daemon for measurements: every CID can be pinned at once, and a pin costs about 40 bytes. Clones are the same
/// daemon. It stores no blocks: put blocks are forgotten, read ones not found.
#[derive(Clone, Debug, Default)]
pub struct LeanIpfs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pins: Mutex<Pins>,
    stopped: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Pins {
    recursive: CidSet,
    direct: CidSet,
}

/// What stands before the digest in a CID (version, codec, hash function), as an index, and the digest.
type Key = [u8; 1 + DIGEST_BYTES];

/// A set of CIDs of which nearly all have digests of 32 bytes and one of few kinds.
#[derive(Debug, Default)]
struct CidSet {
    kinds: Vec<Cid>,
    keys: BTreeSet<Key>,
    others: BTreeSet<Cid>,
}

impl CidSet {
    fn key(&mut self, cid: &Cid) -> Option<Key> {
        let digest: [u8; DIGEST_BYTES] = cid.hash().digest().try_into().ok()?;
        let index = match self.kinds.iter().position(|kind| same_kind(kind, cid)) {
            Some(index) => index,
            None if self.kinds.len() <= usize::from(u8::MAX) => {
                self.kinds.push(*cid);
                self.kinds.len() - 1
            }
            None => return None,
        };
        let mut key = [0; 1 + DIGEST_BYTES];
        key[0] = u8::try_from(index).ok()?;
        key[1..].copy_from_slice(&digest);
        Some(key)
    }

    fn cid(&self, key: &Key) -> Option<Cid> {
        let kind = self.kinds.get(usize::from(key[0]))?;
        let hash = ::cid::multihash::Multihash::wrap(kind.hash().code(), &key[1..]).ok()?;
        Cid::new(kind.version(), kind.codec(), hash).ok()
    }

    fn insert(&mut self, cid: &Cid) {
        match self.key(cid) {
            Some(key) => self.keys.insert(key),
            None => self.others.insert(*cid),
        };
    }

    fn remove(&mut self, cid: &Cid) {
        match self.key(cid) {
            Some(key) => self.keys.remove(&key),
            None => self.others.remove(cid),
        };
    }

    fn contains(&mut self, cid: &Cid) -> bool {
        match self.key(cid) {
            Some(key) => self.keys.contains(&key),
            None => self.others.contains(cid),
        }
    }

    fn len(&self) -> usize {
        self.keys.len() + self.others.len()
    }

    fn page(&self, after: &After) -> (Vec<Cid>, After) {
        if let After::Start | After::Key(_) = after {
            let from = match after {
                After::Key(key) => Bound::Excluded(*key),
                _ => Bound::Unbounded,
            };
            let keys: Vec<Key> = self.keys.range((from, Bound::Unbounded)).take(PAGE_PINS).copied().collect();
            if let Some(last) = keys.last() {
                return (keys.iter().filter_map(|key| self.cid(key)).collect(), After::Key(*last));
            }
        }
        let from = match after {
            After::Other(cid) => Bound::Excluded(*cid),
            _ => Bound::Unbounded,
        };
        let cids: Vec<Cid> = self.others.range((from, Bound::Unbounded)).take(PAGE_PINS).copied().collect();
        let next = cids.last().map_or(After::End, |last| After::Other(*last));
        (cids, next)
    }
}

/// Where a listing goes on.
enum After {
    Start,
    Key(Key),
    Other(Cid),
    End,
}

fn same_kind(a: &Cid, b: &Cid) -> bool {
    a.version() == b.version() && a.codec() == b.codec() && a.hash().code() == b.hash().code()
}

impl Pins {
    fn set(&mut self, mode: PinMode) -> &mut CidSet {
        match mode {
            PinMode::Recursive => &mut self.recursive,
            PinMode::Direct => &mut self.direct,
        }
    }
}

impl LeanIpfs {
    /// A daemon that holds pins already. Sorted input is stored densest.
    pub fn with_pins(pins: impl IntoIterator<Item = IpfsPin>) -> Self {
        let daemon = Self::default();
        for pin in pins {
            daemon.pins().set(pin.mode).insert(&pin.cid);
        }
        daemon
    }

    /// How many pins it holds.
    pub fn pin_count(&self) -> usize {
        let pins = self.pins();
        pins.recursive.len() + pins.direct.len()
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.0.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<()> {
        if *self.0.stopped.borrow() { Err(Error::shut_down("lean-ipfs")) } else { Ok(()) }
    }
}

#[async_trait]
impl IpfsConnector for LeanIpfs {
    async fn ready(&self) -> Result<()> {
        self.check_open()
    }

    async fn id(&self) -> Result<IpfsId> {
        self.check_open()?;
        let id = super::super::peer(u64::MAX);
        Ok(IpfsId { id: Some(id), addresses: Some(Vec::new()), error: String::new() })
    }

    async fn pin(&self, pin: &Pin) -> Result<()> {
        self.check_open()?;
        let mut pins = self.pins();
        match pin.mode() {
            PinMode::Recursive => {
                pins.direct.remove(&pin.cid);
                pins.recursive.insert(&pin.cid);
            }
            PinMode::Direct if pins.recursive.contains(&pin.cid) => {
                let text = format!("pin: {} already pinned recursively", pin.cid);
                return Err(Error::new(ErrorKind::Remote, text));
            }
            PinMode::Direct => pins.direct.insert(&pin.cid),
        }
        Ok(())
    }

    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.check_open()?;
        let mut pins = self.pins();
        pins.recursive.remove(cid);
        pins.direct.remove(cid);
        Ok(())
    }

    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        self.check_open()?;
        Ok(self.pins().set(mode).contains(cid))
    }

    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        let daemon = self.clone();
        stream::unfold((daemon, After::Start), move |(daemon, mut after)| async move {
            if let After::End = after {
                return None;
            }
            if let Err(error) = daemon.check_open() {
                return Some((Err(error), (daemon, After::End)));
            }
            let (cids, next) = daemon.pins().set(mode).page(&after);
            after = next;
            if cids.is_empty() {
                return None;
            }
            Some((Ok(cids.into_iter().map(|cid| IpfsPin { cid, mode }).collect()), (daemon, after)))
        })
        .boxed()
    }

    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        None
    }

    async fn repo_stat(&self) -> Result<RepoStat> {
        self.check_open()?;
        Ok(RepoStat { repo_size: self.pin_count() as u64 * BYTES_PER_PIN, storage_max: STORAGE_MAX_BYTES })
    }

    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        stream::iter(self.check_open().err().map(Err)).boxed()
    }

    async fn resolve(&self, path: &str) -> Result<Cid> {
        self.check_open()?;
        crate::types::parse_cid(path.strip_prefix("/ipfs/").unwrap_or(path))
    }

    async fn put_blocks(&self, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.check_open()?;
        while let Some(block) = blocks.next().await {
            block?;
        }
        Ok(())
    }

    async fn hold(&self, lease: Block) -> Result<()> {
        self.pin(&Pin::new(lease.cid, crate::types::PinOptions::default())).await
    }

    async fn release(&self, leases: &[Cid]) -> Result<()> {
        for lease in leases {
            self.unpin(lease).await?;
        }
        Ok(())
    }

    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        self.check_open()?;
        let text = format!("block was not found locally (offline): ipld: could not find {cid}");
        Err(Error::new(ErrorKind::Remote, text))
    }

    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        self.check_open()?;
        Ok(Vec::new())
    }

    async fn swarm_connect(&self, _: &Multiaddr) -> Result<()> {
        self.check_open()
    }

    fn availability(&self) -> BoxStream<'static, Availability> {
        let mut stopped = self.0.stopped.subscribe();
        let end = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        stream::iter([Availability::Up]).chain(stream::pending()).take_until(end).boxed()
    }

    async fn shutdown(&self) -> Result<()> {
        self.0.stopped.send_replace(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use multihash_codetable::{Code, MultihashDigest as _};

    use super::*;
    use crate::types::PinOptions;

    #[tokio::test]
    async fn cids_of_every_kind_are_listed_as_they_were_pinned() {
        let mut cids: Vec<Cid> = (0..3_000u32).map(|number| Block::raw(number.to_string()).cid).collect();
        cids.push(Cid::new_v0(*cids[0].hash()).unwrap());
        cids.push(Cid::new_v1(0x71, Code::Blake2b256.digest(b"x")));
        cids.extend((0..1_500u32).map(|n| Cid::new_v1(0x55, Code::Sha2_512.digest(&n.to_be_bytes()))));
        let ipfs = LeanIpfs::default();
        for cid in &cids {
            ipfs.pin(&Pin::new(*cid, PinOptions::default())).await.unwrap();
        }
        let listed: Vec<Cid> = ipfs
            .list_pins(PinMode::Recursive)
            .flat_map(|page| stream::iter(page.unwrap()))
            .map(|pin| pin.cid)
            .collect()
            .await;
        assert_eq!(listed.len(), cids.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), cids.iter().copied().collect());
        for cid in &cids {
            assert!(ipfs.is_pinned(cid, PinMode::Recursive).await.unwrap());
            ipfs.unpin(cid).await.unwrap();
        }
        assert_eq!(ipfs.pin_count(), 0);
    }
}
