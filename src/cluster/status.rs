//! Where pins stand, on this peer and on all.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::{Cluster, Inner, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::state::StateQuery;
use crate::types::{Cid, GlobalPinInfo, PeerId, Pin, PinInfo, PinStatus, StatusFilter, TrackerStatus};

/// CIDs in one page of a status by list.
const STATUS_PAGE_ITEMS: usize = 64;

impl Cluster {
    /// Entries of the pinset, in pages of at most 1,024, in order of the binary CID or of the index the query selects.
    pub fn pins(&self, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>> {
        self.inner.state.list(query)
    }

    /// One entry of the pinset.
    ///
    /// # Errors
    /// `NotFound`; when the pinset cannot be read.
    pub async fn pin_get(&self, cid: &Cid) -> Result<Pin> {
        self.inner.state.get(cid).await?.ok_or_else(super::pin::not_pinned)
    }

    /// Where one CID stands. A peer that cannot be asked is an entry with its error; a CID that is not pinned is
    /// `unpinned`, not an error.
    ///
    /// # Errors
    /// When the pinset or the members cannot be read; `ShutDown`.
    pub async fn status(&self, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        self.inner.check_alive()?;
        match scope {
            Scope::Local => Ok(self.inner.tracker.status(cid).await?.into()),
            Scope::Global => self.inner.global(cid, self.inner.tracker.status(cid).await?).await,
        }
    }

    /// Where each of these CIDs stands, in the order given.
    pub fn status_many(
        &self,
        cids: Vec<Cid>,
        scope: Scope,
    ) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        let inner = Arc::clone(&self.inner);
        futures::stream::iter(cids)
            .map(move |cid| {
                let inner = Arc::clone(&inner);
                async move {
                    inner.check_alive()?;
                    let own = inner.tracker.status(&cid).await?;
                    match scope {
                        Scope::Local => Ok(own.into()),
                        Scope::Global => inner.global(&cid, own).await,
                    }
                }
            })
            .buffered(STATUS_PAGE_ITEMS)
            .map(|info: Result<GlobalPinInfo>| info.map(|info| vec![info]))
            .boxed()
    }

    /// Where everything stands, in pages of at most 1,024, in order of the binary CID. Memory does not depend on the
    /// number of pins.
    pub fn status_all(
        &self,
        filter: StatusFilter,
        scope: Scope,
    ) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        self.inner.globalize(self.inner.tracker.status_all(filter), scope)
    }
}

impl Inner {
    /// What all members say, from what this peer says.
    pub(super) async fn global(&self, cid: &Cid, own: PinInfo) -> Result<GlobalPinInfo> {
        let members = self.consensus.peers().await?;
        // With one member, its answer is the whole answer.
        if members == [self.peer] {
            return Ok(own.into());
        }
        let pin = self.state.get(cid).await?;
        let others = Others { members: &members, names: &self.names(), own: self.peer };
        Ok(others.complete(pin.as_ref(), own, self.clock.now()))
    }

    /// Turns this peer's pages into pages about all members.
    pub(super) fn globalize(
        self: &Arc<Self>,
        own: BoxStream<'static, Result<Vec<PinInfo>>>,
        scope: Scope,
    ) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        let inner = Arc::clone(self);
        let stream = async_stream::stream! {
            let members = match inner.check_alive() {
                Ok(()) if scope == Scope::Local => Ok(vec![inner.peer]),
                Ok(()) => inner.consensus.peers().await,
                Err(error) => Err(error),
            };
            let members = match members {
                Ok(members) => members,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            let alone = members == [inner.peer];
            let names = inner.names();
            for await page in own {
                yield page.map(|page| {
                    let now = inner.clock.now();
                    page.into_iter()
                        .map(|info| {
                            if alone {
                                return info.into();
                            }
                            let pin = pin_header(&info);
                            let others = Others { members: &members, names: &names, own: inner.peer };
                            others.complete(pin.as_ref(), info, now)
                        })
                        .collect()
                });
            }
        };
        stream.boxed()
    }
}

/// The parts of a pin that decide who is asked, from what a peer said of it.
fn pin_header(info: &PinInfo) -> Option<Pin> {
    info.created.map(|created| {
        let mut pin = Pin::new(info.cid, crate::types::PinOptions::default());
        pin.timestamp = Some(created);
        pin.allocations.clone_from(&info.allocations);
        // Everywhere pins have no allocations.
        let factor = if info.allocations.is_empty() { -1 } else { 1 };
        pin.options.replication_factor_min = factor;
        pin.options.replication_factor_max = factor;
        pin
    })
}

/// The members other than this one.
struct Others<'a> {
    members: &'a [PeerId],
    names: &'a BTreeMap<PeerId, String>,
    own: PeerId,
}

impl Others<'_> {
    /// Adds what is known of the other members without asking them: who need not hold the pin is `remote`, everybody
    /// is `unpinned` when there is no pin, and who should hold it cannot be asked yet.
    fn complete(&self, pin: Option<&Pin>, own: PinInfo, now: crate::types::Timestamp) -> GlobalPinInfo {
        let mut global = GlobalPinInfo::from(own);
        for peer in self.members.iter().filter(|peer| **peer != self.own) {
            let mut status = match pin {
                None => PinStatus::new(TrackerStatus::Unpinned, now),
                Some(pin) if pin.is_remote_for(peer) => PinStatus::new(TrackerStatus::Remote, now),
                Some(_) => PinStatus::cluster_error(
                    &Error::new(ErrorKind::Unavailable, format!("peer {peer} cannot be called from here")),
                    now,
                ),
            };
            status.peername = self.names.get(peer).cloned().unwrap_or_default();
            global.peer_map.insert(*peer, status);
        }
        global
    }
}
