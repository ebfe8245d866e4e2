//! Presets: ways to assemble a peer, as values that can be read, replaced and composed.

#[cfg(feature = "consensus-crdt")]
use std::collections::BTreeSet;
use std::fmt;

use super::ClusterBuilder;
use crate::monitor::MonitorConfig;
#[cfg(feature = "consensus-crdt")]
use crate::{
    consensus::{Crdt, CrdtConfig, CrdtSection},
    error::{Error, Result},
    rpc::Method,
    types::PeerId,
};

/// A set of choices for a peer.
pub trait Preset: fmt::Debug {
    /// Makes the choices; what is chosen later, on the builder, wins.
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder;
}

/// A cluster of one, whole in memory: storage, daemon, network. For tests, examples and a first look; nothing
/// survives the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct InMemory;

impl Preset for InMemory {
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder {
        use crate::ipfs_connector::MemoryIpfs;
        use crate::storage::MemoryStorage;
        Solo.apply(builder).storage(MemoryStorage::new()).ipfs(MemoryIpfs::default())
    }
}

/// A peer of a cluster that others may join, on the storage, daemon and transport you give: CRDT consensus, metrics over
/// gossip, and otherwise the choices of [`Solo`].
///
/// `Default` takes the changes of everybody who has the secret. A cluster that is published, whose secret the world
/// knows, is made of peers that trust each other by name: [`Collaborative::trusting`].
#[cfg(feature = "consensus-crdt")]
#[derive(Clone, Debug, Default)]
pub struct Collaborative {
    /// None is everybody.
    trusted: Option<BTreeSet<PeerId>>,
    cluster_name: Option<String>,
}

#[cfg(feature = "consensus-crdt")]
impl Collaborative {
    /// Takes the changes of these peers and of the peer itself, which need not be among them, and of nobody else. Only
    /// they may call what is for trusted peers.
    #[must_use]
    pub fn trusting(peers: impl IntoIterator<Item = PeerId>) -> Self {
        Self { trusted: Some(peers.into_iter().collect()), ..Self::default() }
    }

    /// What tells this cluster from others; `ipfs-cluster` without this, as with the reference.
    #[must_use]
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = Some(name.into());
        self
    }
}

#[cfg(feature = "consensus-crdt")]
impl Preset for Collaborative {
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder {
        Solo.apply(builder)
            .crdt(crdt(self.trusted, self.cluster_name))
            .pubsub_monitor(MonitorConfig::default())
    }
}

/// A peer that follows somebody else's cluster, on the storage, daemon and transport you give: it pins what the trusted
/// peers pin, lets go of what they unpin, and changes nothing itself.
///
/// What that means, whatever [`ClusterConfig`](super::ClusterConfig) the builder is given before or after:
/// - every write is `ReadOnly`;
/// - status and recover are about this peer alone;
/// - nobody's changes are taken but those of the peers named here, and nobody else may call what is for trusted peers.
///   Peers that are not trusted carry messages and blocks, in any number, and decide nothing;
/// - nobody, trusted or not, has the daemon collect garbage (`Cluster.RepoGCLocal`);
/// - it starts only if it names at least one peer other than itself: else
///   [`ClusterBuilder::start`] is `InvalidInput`.
///
/// Secret and cluster name have to be the publisher's. Otherwise the choices of [`Collaborative`].
#[cfg(feature = "consensus-crdt")]
#[derive(Clone, Debug)]
pub struct Follower(CrdtConfig);

#[cfg(feature = "consensus-crdt")]
impl Follower {
    /// Follows these peers.
    #[must_use]
    pub fn of(trusted: impl IntoIterator<Item = PeerId>) -> Self {
        Self(crdt(Some(trusted.into_iter().collect()), None))
    }

    /// The name of the cluster; `ipfs-cluster` without this, as with the reference.
    #[must_use]
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.0.cluster_name = name.into();
        self
    }
}

/// Follows whom a published configuration says (`consensus.crdt`, as `ipfs-cluster-service follow-config` prints it).
///
/// # Errors
/// `InvalidInput` when it says `*`: everybody has the secret of a published cluster. Also for what is no peer.
#[cfg(feature = "consensus-crdt")]
impl TryFrom<&CrdtSection> for Follower {
    type Error = Error;

    fn try_from(section: &CrdtSection) -> Result<Self> {
        let config = CrdtConfig::try_from(section)?;
        if config.trust_all {
            return Err(Error::invalid_input(
                "consensus.crdt.trusted_peers is \"*\", but a follower trusts peers by name: everybody has the secret \
                 of a published cluster",
            )
            .component("cluster"));
        }
        Ok(Self(config))
    }
}

#[cfg(feature = "consensus-crdt")]
impl Preset for Follower {
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder {
        let Self(config) = self;
        Solo.apply(builder)
            .follower_mode()
            .refuse_calls([Method::RepoGcLocal])
            .consensus_with(move |cx| async move {
                if config.trusted_peers.iter().all(|peer| *peer == cx.peer) {
                    return Err(Error::invalid_input(
                        "a follower needs a peer to follow: name at least one trusted peer other than itself",
                    )
                    .component("cluster"));
                }
                Crdt::open(config, cx).await
            })
            .pubsub_monitor(MonitorConfig::default())
    }
}

#[cfg(feature = "consensus-crdt")]
fn crdt(trusted: Option<BTreeSet<PeerId>>, cluster_name: Option<String>) -> CrdtConfig {
    let default = CrdtConfig::default();
    CrdtConfig {
        cluster_name: cluster_name.unwrap_or(default.cluster_name),
        trust_all: trusted.is_none(),
        trusted_peers: trusted.unwrap_or_default(),
        ..default
    }
}

/// A cluster of one on the storage and daemon you give: solo consensus, the stateless tracker, the balanced allocator,
/// a local monitor and the usual informers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Preset for Solo {
    fn apply(self, builder: ClusterBuilder) -> ClusterBuilder {
        use crate::allocator::BalancedAllocator;
        use crate::consensus::SoloConfig;
        use crate::informer::{FreeSpace, FreeSpaceConfig, PinQueue, PinQueueConfig};
        use crate::tracker::StatelessConfig;
        builder
            .solo(SoloConfig::default())
            .stateless_tracker(StatelessConfig::default())
            .local_monitor(MonitorConfig::default())
            .allocator(BalancedAllocator::by(["freespace"]))
            .informer_with(|cx| FreeSpace::new(FreeSpaceConfig::default(), cx))
            .informer_with(|cx| PinQueue::new(PinQueueConfig::default(), cx))
    }
}
