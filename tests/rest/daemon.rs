//! An IPFS daemon that holds everything but what the reference's daemon lacked when its answers were recorded.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::ipfs_connector::{Availability, IpfsConnector, IpfsPin};
use ipfs_cluster::types::{Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat};
use ipfs_cluster::{Error, ErrorKind, Result};

/// The recorded daemon.
#[derive(Debug)]
pub(crate) struct RecordedIpfs {
    pub(crate) id: PeerId,
    pub(crate) absent: Vec<Cid>,
    pub(crate) pinned: Mutex<BTreeMap<Cid, PinMode>>,
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::Remote, text)
}

fn unused<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "no recorded request leads here"))
}

#[async_trait]
impl IpfsConnector for RecordedIpfs {
    async fn ready(&self) -> Result<()> {
        Ok(())
    }
    async fn id(&self) -> Result<IpfsId> {
        Ok(IpfsId { id: Some(self.id), addresses: Some(Vec::new()), error: String::new() })
    }
    async fn pin(&self, pin: &Pin) -> Result<()> {
        let cid = pin.cid;
        if self.absent.contains(&cid) {
            return Err(refused(format!(
                "IPFS error (pin/add?arg={cid}&recursive=true&progress=true). Code: 500. Message: pin: block was not \
                 found locally (offline): ipld: could not find {cid}"
            )));
        }
        self.pinned.lock().unwrap().insert(cid, pin.mode());
        Ok(())
    }
    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.pinned.lock().unwrap().remove(cid);
        Ok(())
    }
    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        Ok(self.pinned.lock().unwrap().get(cid) == Some(&mode))
    }
    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        let pinned = self.pinned.lock().unwrap();
        let of_mode = pinned.iter().filter(|(_, held)| **held == mode);
        let page: Vec<_> = of_mode.map(|(cid, mode)| IpfsPin { cid: *cid, mode: *mode }).collect();
        futures::stream::iter((!page.is_empty()).then_some(Ok(page))).boxed()
    }
    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        None
    }
    async fn repo_stat(&self) -> Result<RepoStat> {
        Ok(RepoStat { repo_size: 126_219, storage_max: 10_000_000_000 })
    }
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        futures::stream::empty().boxed()
    }
    async fn resolve(&self, path: &str) -> Result<Cid> {
        if path == "/ipfs/QmRK984TroGyy8se6GkgqAB6k9CxtAsrh7Q8FSHW3hx3Ce/sub/def.txt" {
            return Ok("QmR4waSammpkmN3xe9Vx34SRSa8L396ZFqrF2aTjXwsZUr".parse().unwrap());
        }
        let why = match path.strip_prefix("/ipns/") {
            Some(name) => format!("DNSLink lookup for \"{name}.\" failed"),
            None => {
                "no link named \"nope.txt\" under QmRK984TroGyy8se6GkgqAB6k9CxtAsrh7Q8FSHW3hx3Ce".to_owned()
            }
        };
        let argument = path.replace('/', "%2F");
        Err(refused(format!("IPFS error (resolve?arg={argument}). Code: 500. Message: {why}")))
    }
    async fn put_blocks(&self, _: BoxStream<'static, Result<Block>>) -> Result<()> {
        unused()
    }
    async fn get_block(&self, _: &Cid) -> Result<Block> {
        unused()
    }
    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        Ok(Vec::new())
    }
    async fn swarm_connect(&self, _: &Multiaddr) -> Result<()> {
        unused()
    }
    fn availability(&self) -> BoxStream<'static, Availability> {
        futures::stream::iter([Availability::Up]).chain(futures::stream::pending()).boxed()
    }
    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}
