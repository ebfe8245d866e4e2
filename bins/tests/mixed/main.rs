//! Clusters of our peers and the reference's, each beside a real Kubo, as their operators see them.
//!
//! Run by `cargo xtask mixed`, which makes a network namespace with one address a peer and says where the programs are. By
//! itself every test says that it was skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "../support/daemon.rs"]
mod daemon;
mod follow;
mod follower;
#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "../support/http.rs"]
mod http;
#[path = "../support/kind.rs"]
mod kind;
// Shared with the end-to-end tests, which use more of them.
#[allow(dead_code)]
#[path = "../e2e/kubo.rs"]
mod kubo;
mod peer;
#[path = "../support/ports.rs"]
mod ports;
#[allow(dead_code)] // See above.
#[path = "../e2e/programs.rs"]
mod programs;
mod raft;
mod story;
#[path = "../support/wait.rs"]
mod wait;

use kind::Kind::{self, Go, Ours};

#[test]
fn two_of_the_reference_and_one_of_ours() {
    story::tell(&[Go, Ours, Go]);
}

#[test]
fn one_of_the_reference_and_two_of_ours() {
    story::tell(&[Ours, Go, Ours]);
}

#[test]
fn three_of_the_reference_and_three_of_ours() {
    story::tell(&[Go, Ours, Go, Ours, Ours, Go]);
}

/// What the others are held against: if this fails, it is the story that is wrong.
#[test]
fn three_of_the_reference() {
    story::tell(&[Kind::Go; 3]);
}

#[test]
fn a_raft_cluster_of_the_reference_moves() {
    raft::tell();
}

#[test]
fn a_follower_of_ours_follows_two_of_the_reference() {
    follow::tell(Go, Ours);
}

#[test]
fn a_follower_of_the_reference_follows_two_of_ours() {
    follow::tell(Ours, Go);
}

#[test]
fn a_follower_of_ours_follows_two_of_ours() {
    follow::tell(Ours, Ours);
}
