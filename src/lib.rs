//! IPFS Cluster as an embeddable library.

#![warn(missing_docs)]

pub mod allocator;
#[cfg(feature = "api-rest")]
pub mod api;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod consensus;
pub mod error;
pub mod exchange;
pub mod informer;
pub mod ipfs_connector;
pub mod monitor;
pub mod state;
pub mod storage;
pub mod tracker;
pub mod transport;
pub mod types;

#[cfg(feature = "testing")]
pub mod testing;

pub use cluster::Cluster;
pub use error::{Error, ErrorKind, Result};

/// The version of the reference whose formats, texts and wire this crate follows. Clients compare it.
pub const COMPATIBLE_VERSION: &str = "1.1.6";
