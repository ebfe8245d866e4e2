//! What the programs of IPFS Cluster share. Not a library for others: embedders use `ipfs_cluster`.

#![warn(missing_docs)]

pub mod args;
pub mod manual;
#[cfg(feature = "service")]
pub mod service;
