//! `cargo xtask`: sets up what the tests need, runs them, and holds the steps of continuous integration.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::steps::Steps;

mod bench;
mod cargo;
mod ci;
mod compare;
mod conformance;
mod dist;
mod etcd;
mod failures;
mod fuzz;
mod gopeer;
mod kubo;
mod mixed;
mod schemathesis;
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
    /// Build the release programs and measure them; arguments go to the measuring program (`--help` lists them)
    ///
    /// `IPFS_CLUSTER_BENCH_GO` names a Go `ipfs-cluster-service` that is measured in the same run.
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Feed the decoders of bytes from outside with libFuzzer, a minute each
    ///
    /// Needs a nightly toolchain and `cargo-fuzz`, and says so where they are missing. NAME chooses one decoder; what
    /// follows goes to `cargo fuzz run`, and after `--` to libFuzzer. What it finds is in `fuzz/artifacts/NAME`.
    Fuzz {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "[NAME] ARGS")]
        args: Vec<String>,
    },
    /// Run clusters of our peers and the reference's, with real Kubos, in a network namespace
    ///
    /// Needs `unshare` and `ip`. The folder holds the reference's `ipfs-cluster-service` and `ipfs-cluster-ctl`;
    /// further arguments choose tests by name.
    Mixed {
        /// Folder of the Go programs
        go: std::path::PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Run every command of our `ipfs-cluster-ctl` and the reference's against our daemon and the reference's, beside real
    /// Kubos, and compare what is printed
    ///
    /// The folder is as for `mixed`.
    Compare {
        /// Folder of the Go programs
        go: std::path::PathBuf,
    },
    /// Test the REST API of a running peer with properties made from its OpenAPI document, with and without users
    ///
    /// Needs Python and its package index, for schemathesis, and says so where they are missing. Arguments go to
    /// `schemathesis run`: `--max-examples 1000`, `--seed 7`, `--include-path /pins`.
    Schemathesis {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Build the release programs and lay out what a package holds: programs, manual pages, completions, systemd unit
    Dist {
        /// A new folder, which stands for `/usr`
        folder: std::path::PathBuf,
        /// Take the programs from this folder instead of building them
        #[arg(long, value_name = "FOLDER")]
        programs: Option<std::path::PathBuf>,
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
        Task::Test { args } => {
            let args = with_separator(args, std::env::args().skip(2));
            with_summary(|steps| test::run(steps, &args))
        }
        Task::Bench { args } => with_summary(|steps| bench::run(steps, &args)),
        Task::Fuzz { args } => {
            let args = with_separator(args, std::env::args().skip(2));
            with_summary(|steps| fuzz::run(steps, &args))
        }
        Task::Mixed { go, args } => with_summary(|steps| mixed::run(steps, &go, &args)),
        Task::Compare { go } => with_summary(|steps| compare::run(steps, &go)),
        Task::Schemathesis { args } => with_summary(|steps| schemathesis::run(steps, &args)),
        Task::Dist { folder, programs } => {
            with_summary(|steps| dist::run(steps, &folder, programs.as_deref()))
        }
        Task::Ci => with_summary(ci::run),
    }
}

/// Clap swallows a `--` that comes first, and `cargo test` needs it.
fn with_separator(mut args: Vec<String>, mut raw: impl Iterator<Item = String>) -> Vec<String> {
    if raw.next().as_deref() == Some("--") && args.first().is_none_or(|arg| arg != "--") {
        args.insert(0, "--".to_owned());
    }
    args
}

/// The summary comes last whether the work succeeded or not: after a failure it says how far it came.
fn with_summary(work: impl FnOnce(&mut Steps) -> Result<()>) -> Result<()> {
    let mut steps = Steps::start();
    let result = work(&mut steps);
    eprint!("{}", steps.summary(result.is_ok()));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_test_reach_cargo_as_they_were_written() {
        for line in
            ["", "a_name", "-- --nocapture", "a_name -- --nocapture", "-p xtask --lib -- --list --ignored"]
        {
            let raw: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let words = ["xtask", "test"].into_iter().map(str::to_owned).chain(raw.iter().cloned());
            let Task::Test { args } = Options::try_parse_from(words).unwrap().task else {
                panic!("{line:?} is not for `test`")
            };
            assert_eq!(with_separator(args, raw.iter().cloned()), raw, "{line:?}");
        }
    }
}
