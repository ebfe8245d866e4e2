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

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "testing")]
pub mod testing;

pub use cluster::Cluster;
pub use error::{Error, ErrorKind, Result};

/// The version of the reference that this crate speaks like on the wire, in its REST API and in its files.
///
/// Clients and peers of the reference compare it, so it is what they are told. The version of the crate itself
/// is `CARGO_PKG_VERSION`.
pub const COMPATIBLE_VERSION: &str = "1.1.6";
