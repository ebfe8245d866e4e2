//! The calls of the REST API, one method each.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

use super::{Bandwidth, Client, Request, Watch};
use crate::error::Result;
use crate::types::{
    Alert, Cid, ConnectGraph, Event, GlobalPinInfo, GlobalRepoGc, IpfsPath, Lease, Metric, PeerId, PeerInfo,
    Pin, PinOptions, PinTypeFilter, StatusFilter, Version,
};

/// The calls. Errors are those of the [module documentation](super).
impl Client {
    /// The peer that answers, and its IPFS daemon. A daemon that is down is not an error but a text in `ipfs.error`.
    pub async fn id(&self) -> Result<PeerInfo> {
        self.fetch(&Request::id()).await
    }

    /// The version of the peer that answers.
    pub async fn version(&self) -> Result<Version> {
        self.fetch(&Request::version()).await
    }

    /// Whether the API answers. Needs no credentials.
    pub async fn health(&self) -> Result<()> {
        self.call(&Request::health()).await
    }

    /// Every member of the cluster; one that cannot be asked is an item with a text in `error`.
    pub fn peers(&self) -> BoxStream<'static, Result<PeerInfo>> {
        self.stream([Request::peers()])
    }

    /// Takes a peer out of the cluster, where the consensus can do that.
    pub async fn peer_rm(&self, peer: &PeerId) -> Result<()> {
        self.call(&Request::peer_rm(peer)).await
    }

    /// Pins a CID or a path. Returns the new entry of the pinset once the cluster has taken it; the IPFS daemons
    /// work on it afterwards, see [`status`](Self::status).
    pub async fn pin(&self, what: impl Into<IpfsPath>, options: &PinOptions) -> Result<Pin> {
        self.fetch(&Request::pin(what, options)).await
    }

    /// Pins `to` with the options and allocations of the pin of `from`, which stays. Name and expiry in `options`
    /// replace those of `from`; the daemons fetch only what differs.
    pub async fn pin_update(&self, from: &Cid, to: impl Into<IpfsPath>, options: &PinOptions) -> Result<Pin> {
        let options = PinOptions { pin_update: Some(*from), ..options.clone() };
        self.fetch(&Request::pin(to, &options)).await
    }

    /// Unpins a CID or a path. Returns the entry as it was; `NotFound` when there is none.
    pub async fn unpin(&self, what: impl Into<IpfsPath>) -> Result<Pin> {
        self.fetch(&Request::unpin(what)).await
    }

    /// The pinset's entry of a CID; `NotFound` when there is none.
    pub async fn allocation(&self, cid: &Cid) -> Result<Pin> {
        self.fetch(&Request::allocation(cid)).await
    }

    /// The pinset.
    pub fn allocations(&self, filter: PinTypeFilter) -> BoxStream<'static, Result<Pin>> {
        self.stream([Request::allocations(filter)])
    }

    /// Where a CID stands on every peer, or with `local` on the peer that answers. One that is not in the pinset
    /// is `unpinned`, not an error.
    pub async fn status(&self, cid: &Cid, local: bool) -> Result<GlobalPinInfo> {
        self.fetch(&Request::status(cid, local)).await
    }

    /// Where some CIDs stand. As many as you like: they are asked for in portions that fit into a header.
    pub fn status_cids(&self, cids: &[Cid], local: bool) -> BoxStream<'static, Result<GlobalPinInfo>> {
        self.stream(Request::status_cids(cids, local))
    }

    /// Where all CIDs stand that have a status of the filter on any peer.
    pub fn status_all(&self, filter: StatusFilter, local: bool) -> BoxStream<'static, Result<GlobalPinInfo>> {
        self.stream([Request::status_all(filter, local)])
    }

    /// Retries a CID that failed to be pinned or unpinned.
    pub async fn recover(&self, cid: &Cid, local: bool) -> Result<GlobalPinInfo> {
        self.fetch(&Request::recover(cid, local)).await
    }

    /// Retries everything that failed; the items are those that were queued again.
    pub fn recover_all(&self, local: bool) -> BoxStream<'static, Result<GlobalPinInfo>> {
        self.stream([Request::recover_all(local)])
    }

    /// Makes what is reported of a CID match what the IPFS daemons hold, without pinning anything. Peers of the
    /// reference (1.1.6) do not know it: `NotFound`.
    pub async fn sync(&self, cid: &Cid, local: bool) -> Result<GlobalPinInfo> {
        self.fetch(&Request::sync(cid, local)).await
    }

    /// As [`sync`](Self::sync), for everything; the items are those whose status changed. Peers of the reference
    /// (1.1.6) do not know it: `InvalidInput`.
    pub fn sync_all(&self, local: bool) -> BoxStream<'static, Result<GlobalPinInfo>> {
        self.stream([Request::sync_all(local)])
    }

    /// Names of the metrics the peer has received.
    pub async fn metric_names(&self) -> Result<Vec<String>> {
        self.fetch::<Option<_>>(&Request::metric_names()).await.map(Option::unwrap_or_default)
    }

    /// The latest valid value of a metric of each peer; none for an unknown name.
    pub async fn metrics(&self, name: &str) -> Result<Vec<Metric>> {
        self.fetch::<Option<_>>(&Request::metrics(name)?).await.map(Option::unwrap_or_default)
    }

    /// Metrics that stopped coming, the newest first.
    pub async fn alerts(&self) -> Result<Vec<Alert>> {
        self.fetch::<Option<_>>(&Request::alerts()).await.map(Option::unwrap_or_default)
    }

    /// Who is connected to whom.
    pub async fn graph(&self) -> Result<ConnectGraph> {
        self.fetch(&Request::graph()).await
    }

    /// What each protocol has moved; the empty name is what belongs to none.
    pub async fn bandwidth(&self) -> Result<BTreeMap<String, Bandwidth>> {
        self.fetch::<Option<_>>(&Request::bandwidth()).await.map(Option::unwrap_or_default)
    }

    /// Collects garbage on the IPFS daemons of all peers, or with `local` of the one that answers. A daemon that
    /// fails is an error in the map. Returns when all are done, which can take long.
    pub async fn repo_gc(&self, local: bool) -> Result<GlobalRepoGc> {
        self.fetch(&Request::repo_gc(local)).await
    }

    /// Blocks that the daemon of the peer that answers keeps for adds whose content is not pinned yet. Peers of the reference
    /// (1.1.6) do not know it: `NotFound`.
    pub fn leases(&self) -> BoxStream<'static, Result<Lease>> {
        self.stream([Request::leases()])
    }

    /// Lets go of the blocks of a lease of the peer that answers. `NotFound` when there is none, `Conflict` while blocks come.
    pub async fn release_lease(&self, cid: &Cid) -> Result<()> {
        self.call(&Request::release_lease(cid)).await
    }

    /// What happens on the peer that answers, from now on or from behind a cursor. The first item comes when something
    /// happens; heartbeats are not shown.
    ///
    /// When the connection breaks, is silent for 45 s, or ends because the peer stops, the watch goes on behind the last
    /// event that came, with the first host that answers: nothing is lost and nothing comes twice, or
    /// [`Happening::Resync`](crate::types::Happening::Resync) says that something may be. It gives up with the last error
    /// when no host has answered for ten minutes, when it is refused, or when it could not even begin. Of the
    /// [timeout](super::ClientBuilder::timeout) only the beginning of an answer is its business. Peers of the reference
    /// (1.1.6) do not know it: `NotFound`.
    pub fn watch(&self, watch: &Watch) -> BoxStream<'static, Result<Event>> {
        self.watch_as(watch)
    }

    /// As [`watch`](Self::watch), with events read as any type: `Box<serde_json::value::RawValue>` gives the text as it
    /// came.
    pub fn watch_as<T>(&self, watch: &Watch) -> BoxStream<'static, Result<T>>
    where
        T: DeserializeOwned + Send + 'static,
    {
        super::watch::stream(Arc::clone(&self.transport), watch.clone())
    }

    /// A token that says the same as the credentials of this client, for [`bearer_token`](super::ClientBuilder::bearer_token).
    /// `Unauthorized` where nobody is asked who they are.
    pub async fn token(&self) -> Result<String> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: String,
        }
        self.fetch::<Answer>(&Request::token()).await.map(|answer| answer.token)
    }

    /// Ends the token that this client sends. `Unsupported` for tokens that cannot be ended: those of peers of the
    /// reference, and those of users whose password stands in the configuration as it is.
    pub async fn revoke_token(&self) -> Result<()> {
        self.call(&Request::revoke_token(false)).await
    }

    /// Ends every token of this client's user; see [`revoke_token`](Self::revoke_token).
    pub async fn revoke_all_tokens(&self) -> Result<()> {
        self.call(&Request::revoke_token(true)).await
    }
}
