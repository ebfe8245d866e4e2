//! `cargo xtask`: sets up what the tests need, runs them, and holds the steps of continuous integration.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::steps::Steps;

mod cargo;
mod ci;
mod conformance;
mod kubo;
mod steps;
mod test;
mod tree;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this workspace")]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find Kubo (`ipfs` on PATH) or build the pinned one once, and print its path
    Kubo,
    /// Set up what the tests need and run them all
    ///
    /// Arguments go to `cargo test` as they are: a name to filter by, `-p PACKAGE`, and after `--` what the test
    /// programs take. With arguments, the tests of the outside members run as part of the workspace, and their
    /// conformance tests are not counted.
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Everything that has to be green before a change goes in
    Ci,
}

fn main() -> ExitCode {
    let task = Options::parse().task;
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Kubo => {
            println!("{}", kubo::ensure()?.display());
            Ok(())
        }
        Task::Test { args } => with_summary(|steps| test::run(steps, &args)),
        Task::Ci => with_summary(ci::run),
    }
}

/// The summary comes last whether the work succeeded or not: after a failure it says how far it came.
fn with_summary(work: impl FnOnce(&mut Steps) -> Result<()>) -> Result<()> {
    let mut steps = Steps::start();
    let result = work(&mut steps);
    eprint!("{}", steps.summary());
    result
}
