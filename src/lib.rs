//! IPFS Cluster as an embeddable library.

#![warn(missing_docs)]

pub mod allocator;
pub mod clock;
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

pub use error::{Error, ErrorKind, Result};
