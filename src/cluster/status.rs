//! Where pins stand, on this peer and on all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::merge::{Member, merge};
use super::spool::Spools;
use super::{Cluster, Inner, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::rpc::{STATUS_OF_CIDS_MAX, fan_out};
use crate::state::StateQuery;
use crate::tracker::key::CidKey;
use crate::types::{
    Cid, GlobalPinInfo, PeerId, Pin, PinInfo, PinStatus, StatusFilter, Timestamp, TrackerStatus,
};

/// CIDs in one page of a status by list.
const STATUS_PAGE_ITEMS: usize = 64;

/// What is asked about one CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Status,
    Recover,
    Sync,
}

/// What is asked about everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskAll {
    Status(StatusFilter),
    Recover,
    Sync,
}

type Infos = BoxStream<'static, Result<Vec<PinInfo>>>;

impl Cluster {
    /// Entries of the pinset, in pages of at most 1,024, in the order of the query. [`Cluster::pins_page`] gives them with a
    /// cursor, to go on later.
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

    /// Where one CID stands. Only the peers that must hold it are asked, all at the same time; the others are `remote`.
    /// A peer that cannot be asked is an entry with its error, one that does not trust us is left out; a CID that is
    /// not pinned is `unpinned`, not an error. In follower mode only this peer is asked.
    ///
    /// # Errors
    /// When the pinset or the members cannot be read; `ShutDown`.
    pub async fn status(&self, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        self.inner.status(cid, scope).await
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
                async move { inner.status(&cid, scope).await }
            })
            .buffered(STATUS_PAGE_ITEMS)
            .map(|info: Result<GlobalPinInfo>| info.map(|info| vec![info]))
            .boxed()
    }

    /// Where everything stands, in pages of at most 1,024, in order of the binary CID. Memory does not depend on the
    /// number of pins. A peer that cannot be asked is an entry with its error on every line, one that breaks off or is
    /// silent on those that follow.
    pub fn status_all(
        &self,
        filter: StatusFilter,
        scope: Scope,
    ) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        self.inner.all(AskAll::Status(filter), scope)
    }
}

impl Inner {
    async fn status(&self, cid: &Cid, scope: Scope) -> Result<GlobalPinInfo> {
        self.check_alive()?;
        match scope {
            Scope::Local => Ok(self.own(Ask::Status, cid).await?.into()),
            Scope::Global => self.one(Ask::Status, cid).await,
        }
    }

    /// Whom a question goes to: every member, and in follower mode this peer alone.
    pub(super) async fn asked(&self) -> Result<Vec<PeerId>> {
        if self.config.follower_mode { Ok(vec![self.peer]) } else { self.consensus.peers().await }
    }

    /// What this peer answers about one CID.
    pub(super) async fn own(&self, ask: Ask, cid: &Cid) -> Result<PinInfo> {
        match ask {
            Ask::Status => self.tracker.status(cid).await,
            Ask::Recover => self.tracker.recover(cid).await,
            Ask::Sync => self.tracker.sync(cid).await,
        }
    }

    /// What another peer answers about one CID.
    async fn other(&self, ask: Ask, peer: PeerId, cid: &Cid) -> Result<PinStatus> {
        let answer = match ask {
            Ask::Status => self.client.status(&peer, cid).await,
            Ask::Recover => self.client.recover(&peer, cid).await,
            Ask::Sync => self.client.sync(&peer, cid).await.map_err(|error| cannot_sync(&peer, error)),
        };
        let info = answer?;
        if info.cid != *cid {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{peer} was asked about {cid} and answered about {}", info.cid),
            )
            .component("cluster"));
        }
        Ok(info.status)
    }

    /// What all members answer about one CID.
    pub(super) async fn one(&self, ask: Ask, cid: &Cid) -> Result<GlobalPinInfo> {
        let members = self.asked().await?;
        let pin = self.state.get(cid).await?;
        let asked = self.others_asked(pin.as_ref(), &members);
        let others = fan_out(asked.iter().copied(), |peer| self.other(ask, peer, cid));
        let (own, answers) = tokio::join!(self.own(ask, cid), others.collect::<Vec<_>>());
        let now = self.clock.now();
        let own = match own {
            Ok(own) => own,
            Err(error) if asked.is_empty() => return Err(error),
            Err(error) => {
                let status = self.failed_status(&self.peer, &error, now);
                match &pin {
                    Some(pin) => PinInfo::of_pin(pin, self.peer, status),
                    None => PinInfo::of_cid(*cid, self.peer, status),
                }
            }
        };
        Ok(self.together(pin.as_ref(), own, answers, &asked, &members))
    }

    /// The other peers that are asked about a pin.
    fn others_asked(&self, pin: Option<&Pin>, members: &[PeerId]) -> BTreeSet<PeerId> {
        if self.config.follower_mode {
            return BTreeSet::new();
        }
        let mut asked = whom_to_ask(pin, members);
        asked.remove(&self.peer);
        asked
    }

    /// What this peer answers about the status of many CIDs, in their order. What one of them fails with is its answer.
    pub(super) async fn own_of(&self, cids: Vec<Cid>) -> Result<Vec<PinInfo>> {
        let (mut pins, mut others) = (Vec::with_capacity(cids.len()), BTreeMap::new());
        for (place, cid) in cids.iter().enumerate() {
            if let Ok(Some(pin)) = self.state.get(cid).await {
                pins.push(pin);
                continue;
            }
            let info = self.own(Ask::Status, cid).await.unwrap_or_else(|error| {
                PinInfo::of_cid(*cid, self.peer, self.failed_status(&self.peer, &error, self.clock.now()))
            });
            others.insert(place, info);
        }
        let mut of_pins = self.tracker.statuses(pins).await?.into_iter();
        Ok((0..cids.len()).filter_map(|place| others.remove(&place).or_else(|| of_pins.next())).collect())
    }

    /// What all members answer about the status of entries of the pinset of which this peer's own answers are known.
    pub(super) async fn others_too(
        &self,
        known: Vec<(Pin, PinInfo)>,
        members: &[PeerId],
    ) -> Vec<GlobalPinInfo> {
        let asked: Vec<_> = known.iter().map(|(pin, _)| self.others_asked(Some(pin), members)).collect();
        let mut questions: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
        for (place, peers) in asked.iter().enumerate() {
            peers.iter().for_each(|peer| questions.entry(*peer).or_default().push(place));
        }
        let others = fan_out(questions.keys().copied(), |peer| {
            let places = questions.get(&peer).map(Vec::as_slice).unwrap_or_default();
            self.other_of(peer, places.iter().map(|place| known[*place].0.cid).collect())
        });
        let others: Vec<_> = others.collect().await;
        let mut answers: Vec<Vec<_>> = vec![Vec::new(); known.len()];
        for (peer, statuses) in others {
            for (place, status) in questions[&peer].iter().zip(statuses) {
                answers[*place].push((peer, status));
            }
        }
        let lines = known.into_iter().zip(answers).zip(&asked);
        lines
            .map(|(((pin, own), answers), asked)| self.together(Some(&pin), own, answers, asked, members))
            .collect()
    }

    /// What another peer answers about the status of many CIDs, in their order: in few calls where it knows how, in one
    /// call each where it does not, as Go peers.
    async fn other_of(&self, peer: PeerId, cids: Vec<Cid>) -> Vec<Result<PinStatus>> {
        let mut statuses = Vec::with_capacity(cids.len());
        // One is one call in any case, and all peers know that one.
        if cids.len() > 1 {
            match self.other_in_parts(peer, &cids, &mut statuses).await {
                Err(error) if error.kind() == ErrorKind::Unsupported && statuses.is_empty() => {}
                Ok(()) => return statuses,
                Err(error) => {
                    statuses.resize_with(cids.len(), || Err(error.clone()));
                    return statuses;
                }
            }
        }
        let calls = stream::iter(cids).map(|cid| async move { self.other(Ask::Status, peer, &cid).await });
        calls.buffered(STATUS_PAGE_ITEMS).collect().await
    }

    async fn other_in_parts(
        &self,
        peer: PeerId,
        cids: &[Cid],
        statuses: &mut Vec<Result<PinStatus>>,
    ) -> Result<()> {
        for part in cids.chunks(STATUS_OF_CIDS_MAX) {
            let mut pages = self.client.status_of(&peer, part.to_vec());
            while let Some(page) = pages.next().await {
                statuses.extend(page?.into_iter().map(|info| Ok(info.status)));
            }
        }
        Ok(())
    }

    /// One line of what this peer and others said.
    fn together(
        &self,
        pin: Option<&Pin>,
        own: PinInfo,
        answers: Vec<(PeerId, Result<PinStatus>)>,
        asked: &BTreeSet<PeerId>,
        members: &[PeerId],
    ) -> GlobalPinInfo {
        let now = self.clock.now();
        // What the pin is, this peer knows as well as others.
        let mut global = GlobalPinInfo::from(own);
        if let Some(own) = global.peer_map.get_mut(&self.peer)
            && own.status == TrackerStatus::Remote
        {
            // As of the others that need not be asked.
            own.timestamp = Some(now);
        }
        for (peer, answer) in answers {
            let status = match answer {
                Ok(status) => status,
                Err(error) if error.kind() == ErrorKind::Unauthorized => continue,
                Err(error) => self.failed_status(&peer, &error, now),
            };
            global.peer_map.insert(peer, status);
        }
        let status = if pin.is_some() { TrackerStatus::Remote } else { TrackerStatus::Unpinned };
        for peer in members.iter().filter(|peer| **peer != self.peer && !asked.contains(peer)) {
            global.peer_map.insert(*peer, self.known_status(peer, status, now));
        }
        global
    }

    /// What all members answer about everything.
    pub(super) fn all(
        self: &Arc<Self>,
        ask: AskAll,
        scope: Scope,
    ) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        let inner = Arc::clone(self);
        let stream = async_stream::stream! {
            let members = match inner.check_alive() {
                Ok(()) if scope == Scope::Local => Ok(vec![inner.peer]),
                Ok(()) => inner.asked().await,
                Err(error) => Err(error),
            };
            let mut lines = match members {
                Err(error) => stream::once(async { Err(error) }).boxed(),
                Ok(members) if members == [inner.peer] => {
                    let own = inner.own_all(ask);
                    own.map(|page| page.map(|page| page.into_iter().map(Into::into).collect())).boxed()
                }
                Ok(members) => inner.merged(ask, &members),
            };
            // The stream keeps nothing of this peer but what it needs to go on.
            drop(inner);
            while let Some(page) = lines.next().await {
                yield page;
            }
        };
        stream.boxed()
    }

    fn own_all(&self, ask: AskAll) -> Infos {
        match ask {
            AskAll::Status(filter) => self.tracker.status_all(filter),
            AskAll::Recover => self.tracker.recover_all(),
            AskAll::Sync => self.tracker.sync_all(),
        }
    }

    fn merged(
        self: &Arc<Self>,
        ask: AskAll,
        members: &[PeerId],
    ) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
        let spools = self.spools.listing();
        let pages_of = |peer: PeerId| match ask {
            AskAll::Status(filter) if peer == self.peer => self.tracker.status_all(filter),
            AskAll::Status(filter) => self.sorted_status(peer, filter, &spools),
            // These are short, and in no promised order.
            AskAll::Recover | AskAll::Sync if peer == self.peer => spools.sorted(peer, self.own_all(ask)),
            AskAll::Recover => spools.sorted(peer, self.client.recover_all_local(&peer)),
            AskAll::Sync => {
                let pages = self.client.sync_all(&peer);
                let pages = pages.map(move |page| page.map_err(|error| cannot_sync(&peer, error)));
                spools.sorted(peer, pages.boxed())
            }
        };
        let members = members.iter().map(|peer| Member { peer: *peer, pages: pages_of(*peer) }).collect();
        let inner = Arc::clone(self);
        merge(members, move |peer, error| inner.failed_status(peer, error, inner.clock.now()))
    }

    /// Everything on another peer, in order: as it comes from peers like us, put in order here from others.
    fn sorted_status(&self, peer: PeerId, filter: StatusFilter, spools: &Arc<Spools>) -> Infos {
        let (client, spools) = (self.client.clone(), Arc::clone(spools));
        let stream = async_stream::stream! {
            let mut pages = client.status_all_sorted(&peer, filter, None);
            let mut first = pages.next().await;
            if let Some(Err(error)) = &first && error.kind() == ErrorKind::Unsupported {
                pages = spools.sorted(peer, client.status_all(&peer, filter));
                first = pages.next().await;
            }
            while let Some(page) = first {
                yield page;
                first = pages.next().await;
            }
        };
        stream.boxed()
    }

    /// What is shown of a peer that was not asked.
    fn known_status(&self, peer: &PeerId, status: TrackerStatus, now: Timestamp) -> PinStatus {
        let ping = self.ping_of(peer);
        PinStatus {
            peername: ping.peername,
            ipfs_peer_id: ping.ipfs_id,
            ipfs_peer_addresses: ping.ipfs_addresses,
            ..PinStatus::new(status, now)
        }
    }

    /// What is shown of a peer that could not be asked.
    fn failed_status(&self, peer: &PeerId, error: &Error, now: Timestamp) -> PinStatus {
        PinStatus { error: error.to_string(), ..self.known_status(peer, TrackerStatus::ClusterError, now) }
    }
}

/// The peers that must hold a pin: allocated ones also when they left the cluster. Nobody for what is not pinned.
fn whom_to_ask(pin: Option<&Pin>, members: &[PeerId]) -> BTreeSet<PeerId> {
    match pin {
        None => BTreeSet::new(),
        Some(pin) if pin.is_everywhere() => members.iter().copied().collect(),
        Some(pin) => pin.allocations.iter().copied().collect(),
    }
}

fn cannot_sync(peer: &PeerId, error: Error) -> Error {
    if error.kind() != ErrorKind::Unsupported {
        return error;
    }
    Error::new(ErrorKind::Unsupported, format!("{peer} cannot sync: its program does not know this call"))
        .component("cluster")
        .with_source(error)
}

/// What comes after a CID in a list that is in order.
pub(super) fn after(pages: Infos, last: &Cid) -> Infos {
    let last = CidKey::from(last);
    pages
        .map(move |page| {
            page.map(|mut page| {
                if page.first().is_some_and(|first| CidKey::from(&first.cid) <= last) {
                    let known = page.partition_point(|info| CidKey::from(&info.cid) <= last);
                    page.drain(..known);
                }
                page
            })
        })
        .filter(|page| std::future::ready(!matches!(page, Ok(page) if page.is_empty())))
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Block, PinOptions};

    #[test]
    fn allocated_peers_are_asked_and_all_members_for_a_pin_everywhere() {
        let members = [PeerId::random(), PeerId::random()];
        let gone = PeerId::random();
        let mut pin = Pin::new(Block::raw("x").cid, PinOptions::default());
        assert!(whom_to_ask(None, &members).is_empty());
        pin.options.replication_factor_min = 1;
        pin.options.replication_factor_max = 2;
        pin.allocations = vec![members[0], gone];
        assert_eq!(whom_to_ask(Some(&pin), &members), BTreeSet::from([members[0], gone]));
        pin.options.replication_factor_min = -1;
        pin.options.replication_factor_max = -1;
        assert_eq!(whom_to_ask(Some(&pin), &members), BTreeSet::from(members));
    }

    #[tokio::test]
    async fn what_comes_after_a_cid_is_without_it_and_without_empty_pages() {
        let peer = PeerId::random();
        let mut cids: Vec<_> = (0..100u8).map(|number| Block::raw(vec![number]).cid).collect();
        cids.sort_by_key(|cid| CidKey::from(cid));
        let info = |cid: &Cid| {
            PinInfo::of_cid(*cid, peer, PinStatus::new(TrackerStatus::Pinned, Timestamp::UNIX_EPOCH))
        };
        for last in [0, 9, 10, 55, 99] {
            let pages: Vec<Result<Vec<_>>> =
                cids.chunks(10).map(|page| Ok(page.iter().map(info).collect())).collect();
            let rest: Vec<_> = after(stream::iter(pages).boxed(), &cids[last])
                .map(|page| page.unwrap())
                .inspect(|page| assert!(!page.is_empty()))
                .concat()
                .await;
            assert_eq!(rest.iter().map(|info| info.cid).collect::<Vec<_>>(), cids[last + 1..]);
        }
    }
}
