//! Pinning and unpinning: checks, allocation, then consensus. What the daemons do comes afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, instrument};

use super::rules::{self, DefaultFactors, NOT_PINNED, Prepared};
use super::{Cluster, Inner};
use crate::allocator::{Plan, PlanInput, TrustRule, plan};
use crate::error::{Error, Result};
use crate::types::{Cid, IpfsPath, Metric, PeerId, Pin, PinOperation, PinOptions, PinType};

/// Most shards a sharded pin may list; more is taken for damage.
const SHARDS_MAX: usize = crate::consensus::OPERATIONS_MAX - 2;

/// Usable metrics of all members.
pub(super) type Metrics = Vec<Metric>;

/// The error that says that a CID has no entry.
pub(super) fn not_pinned() -> Error {
    Error::not_found(NOT_PINNED)
}

impl Cluster {
    /// Pins a CID, or changes how it is pinned. Ok means that the entry is in the pinset and survives a crash; the
    /// daemons pin it afterwards ([`Cluster::wait`]). The answer is the pin as submitted, with its allocations.
    ///
    /// With `options.pin_update` naming another CID the pin continues that one: everything but the name and the
    /// expiry is taken over, and the old pin stays.
    ///
    /// # Errors
    /// `InvalidInput` and `Conflict` with the reference's texts, `NotEnoughPeers`, `ReadOnly` in follower mode,
    /// `NotFound` when the pin to continue is not there (looked for as [`Cluster::unpin`] does); as
    /// [`Consensus::log_pin`](crate::consensus::Consensus::log_pin).
    #[instrument(level = "debug", skip_all, fields(%cid))]
    pub async fn pin(&self, cid: Cid, options: PinOptions) -> Result<Pin> {
        let inner = &self.inner;
        inner.check_writable()?;
        if let Some(from) = options.pin_update.filter(|from| *from != cid) {
            return inner.update(from, cid, &options).await;
        }
        inner.submit(Pin::new(cid, options)).await
    }

    /// Pins what a path leads to: `/ipfs/<cid>` as it is, everything else as the daemon resolves it.
    ///
    /// # Errors
    /// `InvalidInput` when it is no path, what the daemon says when it cannot resolve it; as [`Cluster::pin`].
    pub async fn pin_path(&self, path: &IpfsPath, options: PinOptions) -> Result<Pin> {
        self.inner.check_writable()?;
        let cid = self.inner.resolve(path).await?;
        self.pin(cid, options).await
    }

    /// Unpins a CID and gives the pin as it was. Ok means that the entry is gone and stays gone after a crash; the
    /// daemons let go of it afterwards. With the root of sharded content go its shards. What another peer acknowledged is
    /// found also when it did not come here yet, where consensus has an order ([`Cluster::synchronize`]); what is not here may
    /// take as long as two writes.
    ///
    /// # Errors
    /// `NotFound` when it is not pinned, `Conflict` for a shard, `ReadOnly` in follower mode; as
    /// [`Consensus::log_unpin`](crate::consensus::Consensus::log_unpin), also when it is not here and nobody can say whether
    /// it is pinned.
    #[instrument(level = "debug", skip_all, fields(%cid))]
    pub async fn unpin(&self, cid: &Cid) -> Result<Pin> {
        let inner = &self.inner;
        inner.check_writable()?;
        let existing = inner.entry_to_change(cid).await?;
        rules::check_unpin(&existing)?;
        if existing.pin_type == PinType::Meta {
            inner.unpin_sharded(&existing).await?;
            return Ok(existing);
        }
        // Somebody else may have removed it meanwhile; then they were told, and we say that it is not there.
        inner.log_unpin(cid).await?.map(Arc::unwrap_or_clone).ok_or_else(not_pinned)
    }

    /// Unpins what a path leads to.
    ///
    /// # Errors
    /// As [`Cluster::pin_path`] and [`Cluster::unpin`].
    pub async fn unpin_path(&self, path: &IpfsPath) -> Result<Pin> {
        self.inner.check_writable()?;
        let cid = self.inner.resolve(path).await?;
        self.unpin(&cid).await
    }
}

impl Inner {
    async fn submit(&self, pin: Pin) -> Result<Pin> {
        let existing = self.state.get(&pin.cid).await?;
        let Prepared { mut pin, factor } = self.prepare(pin, existing.as_ref())?;
        if pin.pin_type != PinType::Meta && pin.allocations.is_empty() {
            let held = existing.map(|existing| existing.allocations).unwrap_or_default();
            pin.allocations =
                self.allocate(&pin, factor, &held, &[], &self.allocation_metrics().await?).await?;
        }
        self.log_pin(pin.clone()).await?;
        Ok(pin)
    }

    /// Checks what is to be pinned, and fills in what was left to this peer's configuration.
    pub(super) fn prepare(&self, pin: Pin, existing: Option<&Pin>) -> Result<Prepared> {
        let defaults = DefaultFactors {
            min: self.config.replication_factor_min,
            max: self.config.replication_factor_max,
        };
        rules::prepare(pin, existing, defaults, self.clock.now())
    }

    /// What the allocator decides by, as it is known now. A peer that died may have metrics that outlive its ping; a pin
    /// given to it after others looked after its pins would be nobody's.
    pub(super) async fn allocation_metrics(&self) -> Result<Metrics> {
        let members: BTreeSet<PeerId> = self.consensus.peers().await?.into_iter().collect();
        let metrics = self.allocator.metrics().iter().flat_map(|name| self.monitor.latest(name));
        Ok(metrics.filter(|metric| members.contains(&metric.peer)).collect())
    }

    /// Chooses the peers that hold a pin.
    pub(super) async fn allocate(
        &self,
        pin: &Pin,
        factor: crate::types::ReplicationFactor,
        held: &[PeerId],
        blacklist: &[PeerId],
        metrics: &Metrics,
    ) -> Result<Vec<PeerId>> {
        let names = self.allocator.metrics();
        let input = PlanInput {
            existing: held,
            factor,
            names,
            metrics: metrics.clone(),
            user_allocations: &pin.options.user_allocations,
            blacklist,
            trust: TrustRule::new(
                self.config.pin_only_on_trusted_peers,
                self.config.pin_only_on_untrusted_peers,
            )?,
        };
        match plan(input, |peer| self.consensus.is_trusted(peer))? {
            Plan::Keep(peers) | Plan::Shrink(peers) => Ok(peers),
            Plan::Need(need, candidates) => {
                let ordered = self.allocator.allocate(&pin.cid, candidates).await?;
                debug!(cid = %pin.cid, ?ordered, "allocator answered");
                need.fill(ordered)
            }
        }
    }

    /// The entry of a CID that a user wants changed. That it is not here says nothing while this peer is behind: who pinned it
    /// through another peer, and was answered, must not be told that it is not pinned.
    async fn entry_to_change(&self, cid: &Cid) -> Result<Pin> {
        if let Some(existing) = self.state.get(cid).await? {
            return Ok(existing);
        }
        self.consensus.synchronize().await?;
        self.state.get(cid).await?.ok_or_else(not_pinned)
    }

    async fn update(&self, from: Cid, to: Cid, options: &PinOptions) -> Result<Pin> {
        let existing = self.entry_to_change(&from).await?;
        let pin = rules::continue_from(&existing, to, options, self.clock.now())?;
        self.log_pin(pin.clone()).await?;
        Ok(pin)
    }

    async fn resolve(&self, path: &IpfsPath) -> Result<Cid> {
        match path.plain_cid() {
            Some(cid) => Ok(cid),
            None => self.ipfs.resolve(&path.to_string()).await,
        }
    }

    /// Removes sharded content as one batch: the shards that its cluster DAG lists, the DAG and the root.
    pub(super) async fn unpin_sharded(&self, meta: &Pin) -> Result<()> {
        let mut operations = Vec::new();
        if let Some(dag) = meta.reference {
            let block = self.ipfs.get_block(&dag).await.map_err(|error| {
                error.context(format!("reading the cluster DAG {dag} to find the shards of {}", meta.cid))
            })?;
            for shard in crate::ipfs_connector::dag::links(&block.cid, &block.data)? {
                if operations.len() == SHARDS_MAX {
                    return Err(Error::new(
                        crate::error::ErrorKind::Corrupt,
                        format!("the cluster DAG {dag} lists more than {SHARDS_MAX} shards"),
                    ));
                }
                operations.push(PinOperation::Unpin(shard.cid));
            }
            operations.push(PinOperation::Unpin(dag));
        }
        operations.push(PinOperation::Unpin(meta.cid));
        self.log_many(operations).await
    }
}
