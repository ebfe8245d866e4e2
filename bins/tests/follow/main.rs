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
    let program = env!("CARGO_BIN_EXE_ipfs-cluster-follow");
    manual::check(program, &["", "info", "init", "run", "list", "leave", "completion"]);
    manual::completes_in_bash(program, &[("completion z", &["zsh"])]);
    manual::can_be_read_by_their_shells(program);
}
