//! IPFS Cluster as an embeddable library: peers that agree on a pinset, and keep their IPFS daemons in step with it.
//!
//! A *peer* runs beside one IPFS daemon. The *pinset* says which CIDs are kept, how many replicas of each, and by which
//! peers; every peer makes its daemon hold its share, reports what stands where, and retries what failed.
//!
//! ```
//! use ipfs_cluster::cluster::{Cluster, Until, presets};
//! use ipfs_cluster::ipfs_connector::MemoryIpfs;
//! use ipfs_cluster::types::PinOptions;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> ipfs_cluster::Result<()> {
//! let ipfs = MemoryIpfs::new(); // an embedded daemon; `KuboConnector` talks to a real one
//! let cid = ipfs.add_sample("something to keep");
//! let cluster = Cluster::builder().preset(presets::InMemory).ipfs(ipfs).start().await?;
//!
//! cluster.pin(cid, PinOptions::default()).await?; // stage one: in the pinset, for good
//! cluster.wait(cid).until(Until::PinnedEverywhere).await?; // stage two: on the daemons
//! cluster.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Assembling a peer
//!
//! [`Cluster::builder`] takes finished components (`x(…)`) and components that need their peer (`x_with(|cx| …)`), and
//! names what is missing. [`cluster::presets`] are values that make the usual choices. The [`Cluster`] it starts is a
//! handle: clone it freely; the peer stops when the last one is dropped.
//!
//! # Contracts
//!
//! Everything that can be replaced is a trait with its promises written down, in the module of its name:
//!
//! | contract | what it does | implementations here |
//! |---|---|---|
//! | [`consensus::Consensus`] | agrees on the pinset | [`consensus::Solo`], a Merkle-CRDT, Raft, etcd |
//! | [`state::State`], [`state::StateReader`] | keeps the pinset | [`state::StoreState`] over any storage |
//! | [`storage::Storage`] | ordered keys, atomic durable batches | memory, fjall, redb |
//! | [`tracker::PinTracker`] | makes the daemon hold what the pinset says | [`tracker::StatelessTracker`] |
//! | [`ipfs_connector::IpfsConnector`] | talks to one IPFS daemon | [`ipfs_connector::MemoryIpfs`], Kubo |
//! | [`allocator::PinAllocator`] | orders candidates for a pin | [`allocator::BalancedAllocator`] |
//! | [`informer::Informer`] | measures a peer | free space, pin queue, number of pins, tags |
//! | [`monitor::Monitor`] | shares metrics, notices those that stop | [`monitor::LocalMonitor`], [`monitor::PubSubMonitor`] |
//! | [`transport::PeerTransport`] | bytes between peers | [`transport::MemoryNetwork`], libp2p |
//! | [`exchange::BlockExchange`] | blocks between peers | [`exchange::Bitswap`], [`exchange::StreamExchange`] |
//!
//! An implementation of yours runs the conformance suite of its contract with one macro line (feature `testing`).
//!
//! # What is promised
//!
//! - [`Cluster::pin`] and [`Cluster::unpin`] return when the change survives a power cut of this machine.
//! - Memory does not depend on the number of pins, but for 16 bytes each in the tracker.
//! - Every error has a [kind](ErrorKind), names the thing and the way out; part of an answer that failed is data.
//!
//! # Features
//!
//! None are needed for types, contracts, [`Cluster`] and the in-memory parts. `storage-fjall`, `storage-redb`,
//! `consensus-crdt`, `consensus-raft`, `consensus-etcd`, `connector-kubo`, `transport-libp2p`, `add`, `api-rest`, `client` and
//! `testing` each switch on the module of their name; `tls` and `nat` add to the transport.

#![warn(missing_docs)]

#[cfg(feature = "add")]
pub mod adder;
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
mod random;
pub mod rpc;
pub mod state;
pub mod storage;
mod tasks;
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

/// The examples of the README, so that they are compiled.
#[cfg(all(doctest, feature = "connector-kubo", feature = "storage-fjall"))]
#[doc = include_str!("../README.md")]
#[allow(missing_debug_implementations)] // It only exists while examples are compiled.
pub struct ReadmeExamples;
