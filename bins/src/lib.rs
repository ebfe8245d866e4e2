//! What the programs of IPFS Cluster share. Not a library for others: embedders use `ipfs_cluster`.

#![warn(missing_docs)]

pub mod args;
#[cfg(feature = "follow")]
pub mod follow;
pub mod manual;
pub mod process;
#[cfg(feature = "peer")]
pub mod service;
