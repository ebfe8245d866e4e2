//! Prints the conformance suites that this crate runs and how many cases each has, one `suite count` a line, so that
//! `cargo xtask test` can tell whether all of them ran.
//!
//! `cargo run -p outside-parts --example conformance_cases`

use ipfs_cluster::testing::{allocator_suite, consensus_suite, ipfs_suite};

fn main() {
    for (suite, cases) in [
        ("allocator", allocator_suite::CASES),
        ("ipfs", ipfs_suite::CASES),
        ("consensus", consensus_suite::CASES),
    ] {
        println!("{suite} {}", cases.len());
    }
}
