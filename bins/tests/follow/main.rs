//! `ipfs-cluster-follow` as its users meet it, against what the reference prints, and as a peer of clusters of others.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod golden;
mod leave;
mod list;
#[path = "../support/manual.rs"]
mod manual;
mod run;
mod several;
mod source;
mod world;

#[test]
fn pages_and_completions_have_every_command_and_every_flag() {
    manual::check(
        env!("CARGO_BIN_EXE_ipfs-cluster-follow"),
        &["", "info", "init", "run", "list", "leave", "completion"],
    );
}
