//! Our peers with the reference's: the same network, the same calls, the same metrics, the same pinset.
//!
//! The other side is `gopeer/`, the reference's own code as a program that a test commands; `go` builds it. Without Go
//! every test says that it is skipped, and in CI (`CI` is set) fails.
//!
//! The tests are real in everything but the IPFS daemons: sockets on loopback, and time as it passes. They wait for
//! facts, each with one generous deadline.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test has nothing better to do with a failure than to panic.

mod adding;
mod blocks;
mod cluster;
mod crdt;
#[path = "../support/go_program.rs"]
mod go_program;
mod gopeer;
mod hosts;
mod metrics;
mod ours;
mod reference;
mod rpc;

/// The program, or the end of the test.
macro_rules! program {
    () => {
        match $crate::gopeer::program() {
            Some(program) => program,
            None => return,
        }
    };
}
pub(crate) use program;
