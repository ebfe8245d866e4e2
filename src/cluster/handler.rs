//! What other peers ask of this one. Who may ask what was decided before a call comes here.

use std::fmt;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::{Inner, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::rpc::{Authorizer, Page, Reply, Request, RequestHandler};
use crate::types::{Block, PeerId, Version};

/// Answers the calls of other peers by what this one does for its own callers.
///
/// It does not keep the peer alive: the transport has it, and the peer has the transport.
pub(super) struct Handler(Weak<Inner>);

impl Handler {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(inner))
    }

    fn inner(&self) -> Result<Arc<Inner>> {
        let inner = self.0.upgrade().ok_or_else(|| Error::shut_down("cluster"))?;
        inner.check_alive()?;
        Ok(inner)
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

impl Authorizer for Handler {
    fn is_trusted(&self, peer: &PeerId) -> bool {
        self.0.upgrade().is_some_and(|inner| inner.consensus.is_trusted(peer))
    }
}

/// A request that came in the other shape.
fn misplaced(request: &Request) -> Error {
    Error::internal(format!("{:?} came as a call of another shape", request.method())).component("cluster")
}

#[async_trait]
impl RequestHandler for Handler {
    async fn call(&self, from: PeerId, request: Request) -> Result<Reply> {
        let inner = self.inner()?;
        let pin = |info| Reply::Pin(Box::new(info));
        Ok(match request {
            Request::Id => Reply::Peer(Box::new(inner.id().await)),
            Request::PeerAdd(peer) => {
                // Anybody may call this, so it must not make us call whomever they name.
                if peer != from && !inner.consensus.is_trusted(&from) {
                    return Err(Error::new(
                        ErrorKind::Unauthorized,
                        format!("{from} may add itself, and not {peer}"),
                    )
                    .component("cluster"));
                }
                let info = inner.add_peer(&peer).await?;
                // Who joins can allocate pins to us once it knows how much room we have.
                inner.wakes.metrics.notify_waiters();
                Reply::Peer(Box::new(info))
            }
            Request::Version => Reply::Version(Version { version: crate::COMPATIBLE_VERSION.to_owned() }),
            Request::PeerRemove(peer) => {
                inner.remove_peer(&peer).await?;
                Reply::Empty
            }
            Request::RecoverLocal(cid) | Request::Recover(cid) => pin(inner.tracker.recover(&cid).await?),
            Request::Status(cid) => pin(inner.tracker.status(&cid).await?),
            Request::Sync(cid) => pin(inner.tracker.sync(&cid).await?),
            Request::RepoGcLocal => Reply::RepoGc(inner.repo_gc_local(Scope::Local).await?),
            Request::RepoStat => Reply::RepoStat(inner.ipfs.repo_stat().await?),
            Request::SwarmPeers => Reply::Peers(inner.ipfs.swarm_peers().await?),
            Request::LogPin(pin) => {
                inner.check_writable()?;
                inner.log_pin(*pin).await?;
                Reply::Empty
            }
            Request::LogUnpin(cid) => {
                inner.check_writable()?;
                inner.log_unpin(&cid).await?;
                Reply::Empty
            }
            Request::AddPeer(peer) => {
                inner.consensus.add_peer(&peer).await?;
                Reply::Empty
            }
            Request::RmPeer(peer) => {
                inner.consensus.remove_peer(&peer).await?;
                Reply::Empty
            }
            Request::PinsetDigest => Reply::Digest(inner.pinset_digest()),
            Request::IdStream
            | Request::Peers
            | Request::RecoverAllLocal
            | Request::StatusAll(_)
            | Request::SyncAll
            | Request::StatusAllSorted { .. }
            | Request::StatusOf(_)
            | Request::BlockStream => return Err(misplaced(&request)),
        })
    }

    async fn stream(&self, _from: PeerId, request: Request) -> Result<BoxStream<'static, Result<Page>>> {
        let inner = self.inner()?;
        let once = |page| stream::once(async { Ok(page) }).boxed();
        let pins = |pages: BoxStream<'static, Result<Vec<_>>>| pages.map(|page| page.map(Page::Pins)).boxed();
        Ok(match request {
            Request::IdStream => once(Page::Peers(vec![inner.id().await])),
            Request::Peers => once(Page::Peers(inner.peers().await?)),
            Request::RecoverAllLocal => pins(inner.tracker.recover_all()),
            Request::SyncAll => pins(inner.tracker.sync_all()),
            Request::StatusAll(filter) => pins(inner.tracker.status_all(filter)),
            Request::StatusOf(cids) => once(Page::Pins(inner.own_of(cids).await?)),
            Request::StatusAllSorted { filter, after } => {
                let all = inner.tracker.status_all(filter);
                pins(match after {
                    None => all,
                    Some(after) => super::status::after(all, &after),
                })
            }
            Request::Id
            | Request::PeerAdd(_)
            | Request::Version
            | Request::PeerRemove(_)
            | Request::RecoverLocal(_)
            | Request::RepoGcLocal
            | Request::Status(_)
            | Request::Recover(_)
            | Request::BlockStream
            | Request::RepoStat
            | Request::SwarmPeers
            | Request::LogPin(_)
            | Request::LogUnpin(_)
            | Request::AddPeer(_)
            | Request::RmPeer(_)
            | Request::Sync(_)
            | Request::PinsetDigest => return Err(misplaced(&request)),
        })
    }

    async fn put_blocks(&self, _from: PeerId, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.inner()?.store_blocks(blocks).await
    }
}
