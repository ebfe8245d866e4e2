//! The consensus on etcd, against a real etcd server (`tools/etcd`) on loopback.
//!
//! Without Go to build one, and without `IPFS_CLUSTER_TEST_ETCD` to name one, every test says that it is skipped, and in
//! CI (`CI` is set) fails.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod batches;
mod behind;
mod cluster;
mod conformance;
mod disasters;
mod ensemble;
mod faults;
mod members;
mod peer;
mod proxy;
mod server;
mod values;

#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "../support/etcd.rs"]
mod etcd_server;
#[path = "../support/go_program.rs"]
mod go_program;
#[path = "../../bins/tests/support/ports.rs"]
mod ports;

/// The program, or the end of a test that says why.
macro_rules! server_or_skip {
    () => {
        match crate::server::Server::shared() {
            Some(server) => server,
            None => return,
        }
    };
    ($($own:tt)+) => {
        match crate::server::Server::start($($own)+) {
            Some(server) => server,
            None => return,
        }
    };
}
use server_or_skip;
