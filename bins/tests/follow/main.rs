//! `ipfs-cluster-follow` as its users meet it, against what the reference prints, and as a peer of clusters of others.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod golden;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../support/http.rs"]
mod http;
#[path = "../support/ipfs.rs"]
mod ipfs;
mod leave;
mod list;
#[path = "../support/manual.rs"]
mod manual;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/ran.rs"]
mod ran;
mod run;
mod several;
mod source;
#[path = "../support/wait.rs"]
mod wait;
mod world;

#[test]
fn pages_and_completions_have_every_command_and_every_flag() {
    let program = env!("CARGO_BIN_EXE_ipfs-cluster-follow");
    manual::check(program, &["", "info", "init", "run", "list", "leave", "completion"]);
    manual::completes_in_bash(program, &[("completion z", &["zsh"])]);
    manual::can_be_read_by_their_shells(program);
}
