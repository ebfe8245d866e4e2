//! Which sections there are, and the one whose component has no configuration folder.

use serde::{Deserialize, Serialize};

use super::{ConfigSection, check, number};
use crate::error::Result;

/// Sections that this version reads, each beside its component. Others are kept in the file, and named once.
pub const SERVED_SECTIONS: &[&str] = &[
    "cluster",
    "consensus.solo",
    #[cfg(feature = "consensus-crdt")]
    "consensus.crdt",
    #[cfg(feature = "consensus-etcd")]
    "consensus.etcd",
    #[cfg(feature = "consensus-raft")]
    "consensus.raft",
    "api.restapi",
    "ipfs_connector.ipfshttp",
    "pin_tracker.stateless",
    "monitor.pubsubmon",
    "allocator.balanced",
    "informer.disk",
    "informer.pinqueue",
    "informer.tags",
    "informer.numpin",
];

/// Which engine keeps the pinset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageEngine {
    /// A log-structured store.
    #[default]
    Fjall,
    /// A copy-on-write tree in one file.
    Redb,
}

impl StorageEngine {
    /// Its name, in the file, as a flag, and of its folder.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Redb => "redb",
        }
    }
}

/// `consensus.solo`: a cluster of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SoloSection {
    /// The engine.
    pub storage: StorageEngine,
    /// Its folder, relative to the configuration folder; empty = the engine's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Most operations that share one sync to disk; positive once validated.
    #[serde(deserialize_with = "number::positive")]
    pub max_batch_operations: usize,
}

impl Default for SoloSection {
    fn default() -> Self {
        Self { storage: StorageEngine::default(), folder: String::new(), max_batch_operations: 4096 }
    }
}

impl SoloSection {
    /// The folder, relative to the configuration folder.
    pub fn folder(&self) -> &str {
        if self.folder.is_empty() { self.storage.as_str() } else { &self.folder }
    }
}

impl ConfigSection for SoloSection {
    const PATH: &'static str = "consensus.solo";
    const ENV_PREFIX: &'static str = "CLUSTER_SOLO_";

    fn validate(&self) -> Result<()> {
        check(self.max_batch_operations > 0, "solo.max_batch_operations is invalid")
    }
}
