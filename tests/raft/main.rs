//! Consensus by Raft: the conformance suite, and clusters of several peers in one process.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agreement;
mod behind;
mod conformance;
mod damage;
mod disks;
mod durability;
mod identity;
mod linearizable;
mod log_size;
mod members;
mod removed;
mod shutdown;
mod snapshots;
mod store;
mod world;
