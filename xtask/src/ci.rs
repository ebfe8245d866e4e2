//! `cargo xtask ci`: the cheapest checks first, the tests last, and the first failure ends the run.

use std::env;
use std::time::Duration;

use anyhow::Result;

use crate::cargo::{Workspace, cargo, run as run_command};
use crate::steps::{Steps, clock};
use crate::{test, tree};

/// What the whole run may take on two cores with empty caches. A run that takes longer says so, but does not fail
/// for it: the machine may have been busy.
const TIME_MAX: Duration = Duration::from_secs(75 * 60);

const LIBRARY: &str = "ipfs-cluster";
const PROGRAMS: &str = "ipfs-cluster-bins";

pub(crate) fn run(steps: &mut Steps) -> Result<()> {
    steps.run("format", || run_command(&mut cargo(["fmt", "--all", "--check"])?))?;
    steps.run("clippy", || {
        run_command(&mut cargo("clippy --workspace --all-features --all-targets -- -D warnings".split(' '))?)
    })?;
    steps.run("documentation", || {
        let mut command = cargo("doc --workspace --all-features --no-deps".split(' '))?;
        run_command(command.env("RUSTDOCFLAGS", doc_flags(env::var("RUSTDOCFLAGS").ok())))
    })?;
    steps.run("the library without features and with each alone", check_features)?;
    steps.run("each program alone", check_programs)?;
    steps.run("crates that the library needs", tree::check)?;
    test::run(steps, &[])?;
    if steps.elapsed() > TIME_MAX {
        eprintln!("\nwarning: took {}, more than {}", clock(steps.elapsed()), clock(TIME_MAX));
    }
    Ok(())
}

fn doc_flags(existing: Option<String>) -> String {
    existing.map_or_else(|| "-D warnings".to_owned(), |flags| format!("{flags} -D warnings"))
}

/// Built together with the programs, the library has every feature on; a missing `cfg` shows only when it is alone.
/// Clippy takes `-D warnings` for our package only, so what was compiled of the dependencies stays valid.
fn check_features() -> Result<()> {
    let workspace = Workspace::load()?;
    let features = workspace.package(LIBRARY)?.features.keys().map(String::as_str);
    for feature in std::iter::once(None).chain(features.map(Some)) {
        let mut command = cargo(["clippy", "-p", LIBRARY, "--no-default-features"])?;
        if let Some(feature) = feature {
            command.args(["--features", feature]);
        }
        run_command(command.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Somebody who builds only one of the programs must not need what the other one needs; tests and examples that do say
/// so in the manifest.
fn check_programs() -> Result<()> {
    let workspace = Workspace::load()?;
    for feature in workspace.package(PROGRAMS)?.features.keys().filter(|feature| *feature != "default") {
        let mut command = cargo(["clippy", "-p", PROGRAMS, "--no-default-features", "--features", feature])?;
        run_command(command.args(["--all-targets", "--", "-D", "warnings"]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_for_rustdoc_from_outside_are_kept() {
        assert_eq!(doc_flags(None), "-D warnings");
        assert_eq!(doc_flags(Some("--cfg docsrs".to_owned())), "--cfg docsrs -D warnings");
    }
}
