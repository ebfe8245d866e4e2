//! A context over a daemon that only knows its disk use.

use futures::{StreamExt as _, stream};

use super::*;
use crate::clock::TokioClock;
use crate::error::Error;
use crate::ipfs_connector::{Availability, IpfsPin};
use crate::types::{Block, Cid, IpfsId, Multiaddr, Pin, PinMode, RepoGcKey, RepoStat, Timestamp};
use futures::stream::BoxStream;

pub(super) const EPOCH: Timestamp = Timestamp::UNIX_EPOCH;

pub(super) fn cx(stat: Result<RepoStat>) -> InformerContext {
    let peer = libp2p_identity::Keypair::ed25519_from_bytes([1; 32]).unwrap().public().to_peer_id();
    InformerContext::new(peer, Arc::new(OnlyRepoStat(stat)), Arc::new(TokioClock::starting_at(EPOCH)))
}

pub(super) fn cx_without_daemon() -> InformerContext {
    cx(Err(unsupported()))
}

fn unsupported() -> Error {
    Error::internal("an informer asked for more than it may")
}

#[derive(Debug)]
struct OnlyRepoStat(Result<RepoStat>);

#[async_trait]
impl IpfsConnector for OnlyRepoStat {
    async fn repo_stat(&self) -> Result<RepoStat> {
        self.0.clone()
    }

    async fn ready(&self) -> Result<()> {
        Err(unsupported())
    }
    async fn id(&self) -> Result<IpfsId> {
        Err(unsupported())
    }
    async fn pin(&self, _: &Pin) -> Result<()> {
        Err(unsupported())
    }
    async fn unpin(&self, _: &Cid) -> Result<()> {
        Err(unsupported())
    }
    async fn is_pinned(&self, _: &Cid, _: PinMode) -> Result<bool> {
        Err(unsupported())
    }
    fn list_pins(&self, _: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        stream::empty().boxed()
    }
    fn pin_concurrency(&self) -> Option<std::num::NonZeroUsize> {
        None
    }
    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        stream::empty().boxed()
    }
    async fn resolve(&self, _: &str) -> Result<Cid> {
        Err(unsupported())
    }
    async fn put_blocks(&self, _: BoxStream<'static, Result<Block>>) -> Result<()> {
        Err(unsupported())
    }
    async fn hold(&self, _: Block) -> Result<()> {
        Err(unsupported())
    }
    async fn release(&self, _: &[Cid]) -> Result<()> {
        Err(unsupported())
    }
    async fn get_block(&self, _: &Cid) -> Result<Block> {
        Err(unsupported())
    }
    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        Err(unsupported())
    }
    async fn swarm_connect(&self, _: &Multiaddr) -> Result<()> {
        Err(unsupported())
    }
    fn availability(&self) -> BoxStream<'static, Availability> {
        stream::empty().boxed()
    }
    async fn shutdown(&self) -> Result<()> {
        Err(unsupported())
    }
}
