//! The pinset of a peer that does not run: export, import, cleanup. Whoever calls holds the folder's lock.

use std::io::{Read, Write};

use ipfs_cluster::types::PeerId;
use ipfs_cluster::{Error, ErrorKind, Result};

use super::config::PeerConfig;

/// What an import changes in every pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Replaces `replication_factor_min` if positive.
    pub replication_min: i32,
    /// Replaces `replication_factor_max` if positive.
    pub replication_max: i32,
    /// Replaces the allocations unless empty.
    pub allocations: Vec<PeerId>,
}

/// Writes every pin as one line of JSON, and says how many. Flushing is up to the caller.
///
/// # Errors
/// Of the storage or the writer.
pub async fn export(_config: &PeerConfig, _to: &mut (dyn Write + Send)) -> Result<u64> {
    Err(not_available("state export"))
}

/// Replaces the pinset by the pins of a stream of JSON documents, and says how many. Returns once they are on
/// disk.
///
/// # Errors
/// Of the storage or the reader; `InvalidInput` naming the document that is wrong.
pub async fn import(
    _config: &PeerConfig,
    _from: &mut (dyn Read + Send),
    _options: &ImportOptions,
) -> Result<u64> {
    Err(not_available("state import"))
}

/// Removes what the consensus component has on disk, the pinset included.
///
/// # Errors
/// Of the storage.
pub async fn cleanup(_config: &PeerConfig) -> Result<()> {
    Err(not_available("state cleanup"))
}

fn not_available(command: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{command} is not available in this version"))
}
