//! A person at a shell: the real programs against a real Kubo.
//!
//! Needs Kubo in `IPFS_CLUSTER_TEST_KUBO`, which `cargo xtask test` sets; without it each test says that it was
//! skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod cluster;
mod crash;
#[path = "../support/daemon.rs"]
mod daemon;
mod etcd;
#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "../../../tests/support/etcd.rs"]
mod etcd_server;
#[path = "../../../tests/support/go_program.rs"]
mod go_program;
mod kubo;
mod load;
mod many;
mod pinning;
#[path = "../support/ports.rs"]
mod ports;
mod programs;
mod raft;
mod raft_faults;
mod raft_kills;
mod service;
#[path = "../support/wait.rs"]
mod wait;
