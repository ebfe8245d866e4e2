//! An IPFS daemon that holds everything but what the reference's daemon lacked when its answers were recorded.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ipfs_cluster::ipfs_connector::{Availability, IpfsConnector, IpfsPin, KuboConnector};
use ipfs_cluster::types::{Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat};
use ipfs_cluster::{Error, ErrorKind, Result};
use tokio::sync::watch;

/// The recorded daemon. Clones are the same daemon.
#[derive(Clone, Debug)]
pub(crate) struct RecordedIpfs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: PeerId,
    absent: Vec<Cid>,
    up: watch::Sender<bool>,
    /// What the peer is told while the daemon is down: a real connector, and nobody listens at the other end.
    nobody: KuboConnector,
    pinned: Mutex<BTreeMap<Cid, PinMode>>,
    blocks: Mutex<BTreeMap<Cid, Block>>,
    /// What the next collection of garbage removes.
    garbage: Mutex<Vec<Cid>>,
    /// What is said to the next path that is to be resolved.
    unresolved: Mutex<Option<String>>,
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::Remote, text)
}

impl RecordedIpfs {
    pub(crate) fn new(id: &str, absent: &[&str]) -> Self {
        let shared = Shared {
            id: id.parse().unwrap(),
            absent: absent.iter().map(|cid| cid.parse().unwrap()).collect(),
            up: watch::Sender::new(true),
            nobody: KuboConnector::new(format!("/ip4/127.0.0.1/tcp/{}", closed_port()).as_str()).unwrap(),
            pinned: Mutex::default(),
            blocks: Mutex::default(),
            garbage: Mutex::default(),
            unresolved: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.shared.up.send_replace(up);
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.shared.up.borrow()
    }

    pub(crate) fn pinned(&self) -> Vec<Cid> {
        self.shared.pinned.lock().unwrap().keys().copied().collect()
    }

    pub(crate) fn hold(&self, block: Block) {
        self.shared.blocks.lock().unwrap().insert(block.cid, block);
    }

    pub(crate) fn set_garbage(&self, keys: Vec<Cid>) {
        *self.shared.garbage.lock().unwrap() = keys;
    }

    pub(crate) fn fail_to_resolve(&self, error: &str) {
        *self.shared.unresolved.lock().unwrap() = Some(error.to_owned());
    }

    fn nobody(&self) -> Option<&KuboConnector> {
        (!*self.shared.up.borrow()).then_some(&self.shared.nobody)
    }
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[async_trait]
impl IpfsConnector for RecordedIpfs {
    async fn ready(&self) -> Result<()> {
        Ok(())
    }
    async fn id(&self) -> Result<IpfsId> {
        match self.nobody() {
            Some(nobody) => nobody.id().await,
            None => {
                Ok(IpfsId { id: Some(self.shared.id), addresses: Some(Vec::new()), error: String::new() })
            }
        }
    }
    async fn pin(&self, pin: &Pin) -> Result<()> {
        if let Some(nobody) = self.nobody() {
            return nobody.pin(pin).await;
        }
        let cid = pin.cid;
        if self.shared.absent.contains(&cid) {
            return Err(refused(format!(
                "IPFS error (pin/add?arg={cid}&recursive=true&progress=true). Code: 500. Message: pin: block was not \
                 found locally (offline): ipld: could not find {cid}"
            )));
        }
        self.shared.pinned.lock().unwrap().insert(cid, pin.mode());
        Ok(())
    }
    async fn unpin(&self, cid: &Cid) -> Result<()> {
        if let Some(nobody) = self.nobody() {
            return nobody.unpin(cid).await;
        }
        self.shared.pinned.lock().unwrap().remove(cid);
        Ok(())
    }
    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        match self.nobody() {
            Some(nobody) => nobody.is_pinned(cid, mode).await,
            None => Ok(self.shared.pinned.lock().unwrap().get(cid) == Some(&mode)),
        }
    }
    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        if let Some(nobody) = self.nobody() {
            return nobody.list_pins(mode);
        }
        let pinned = self.shared.pinned.lock().unwrap();
        let of_mode = pinned.iter().filter(|(_, held)| **held == mode);
        let page: Vec<_> = of_mode.map(|(cid, mode)| IpfsPin { cid: *cid, mode: *mode }).collect();
        futures::stream::iter((!page.is_empty()).then_some(Ok(page))).boxed()
    }
    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        None
    }
    async fn repo_stat(&self) -> Result<RepoStat> {
        // Also when it is down: the reference's metrics of before were still good, and ours end sooner.
        Ok(RepoStat { repo_size: 126_219, storage_max: 10_000_000_000 })
    }
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        if let Some(nobody) = self.nobody() {
            return nobody.repo_gc();
        }
        let keys = std::mem::take(&mut *self.shared.garbage.lock().unwrap());
        futures::stream::iter(keys).map(|key| Ok(RepoGcKey { key: Some(key), error: String::new() })).boxed()
    }
    async fn resolve(&self, path: &str) -> Result<Cid> {
        if let Some(nobody) = self.nobody() {
            return nobody.resolve(path).await;
        }
        if let Some(error) = self.shared.unresolved.lock().unwrap().take() {
            return Err(refused(error));
        }
        if path == "/ipfs/QmRK984TroGyy8se6GkgqAB6k9CxtAsrh7Q8FSHW3hx3Ce/sub/def.txt" {
            return Ok("QmR4waSammpkmN3xe9Vx34SRSa8L396ZFqrF2aTjXwsZUr".parse().unwrap());
        }
        let why = match path.strip_prefix("/ipns/") {
            Some(name) => format!(
                "DNSLink lookup for \"{name}.\" failed: lookup _dnslink.{name}. on 10.255.255.53:53: dial udp \
                 10.255.255.53:53: connect: network is unreachable"
            ),
            None => {
                "no link named \"nope.txt\" under QmRK984TroGyy8se6GkgqAB6k9CxtAsrh7Q8FSHW3hx3Ce".to_owned()
            }
        };
        let argument = path.replace('/', "%2F");
        Err(refused(format!("IPFS error (resolve?arg={argument}). Code: 500. Message: {why}")))
    }
    async fn put_blocks(&self, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        if let Some(nobody) = self.nobody() {
            return nobody.put_blocks(blocks).await;
        }
        while let Some(block) = blocks.next().await {
            self.hold(block?);
        }
        Ok(())
    }
    async fn hold(&self, lease: Block) -> Result<()> {
        match self.nobody() {
            Some(nobody) => nobody.hold(lease).await,
            // Nothing collects garbage here.
            None => Ok(()),
        }
    }
    async fn release(&self, leases: &[Cid]) -> Result<()> {
        match self.nobody() {
            Some(nobody) => nobody.release(leases).await,
            None => Ok(()),
        }
    }
    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        let held = self.shared.blocks.lock().unwrap().get(cid).cloned();
        held.ok_or_else(|| refused(format!("{cid} is not here")))
    }
    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        match self.nobody() {
            Some(nobody) => nobody.swarm_peers().await,
            None => Ok(Vec::new()),
        }
    }
    async fn swarm_connect(&self, _: &Multiaddr) -> Result<()> {
        Ok(())
    }
    fn availability(&self) -> BoxStream<'static, Availability> {
        let up = values_of(self.shared.up.subscribe());
        up.map(|up| if up { Availability::Up } else { Availability::Down(refused("it is down".into())) })
            .boxed()
    }
    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

/// The value and its changes.
fn values_of(values: watch::Receiver<bool>) -> impl futures::Stream<Item = bool> + Send {
    futures::stream::unfold((values, true), |(mut values, first)| async move {
        if !first {
            values.changed().await.ok()?;
        }
        let value = *values.borrow_and_update();
        Some((value, (values, false)))
    })
}
