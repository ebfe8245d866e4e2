//! `cargo xtask test`: Kubo, the Go peer, etcd, the programs, all tests, and the count of the conformance tests that ran outside.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cargo::{Workspace, cargo, root, run as run_command, run_tests};
use crate::steps::Steps;
use crate::{conformance, etcd, gopeer, kubo};

/// Members that use the library as a stranger would, each with the features it asks for and no others.
const OUTSIDE: &str = "examples/outside";

/// Runs all tests, or with arguments for `cargo test` those that they choose.
pub(crate) fn run(steps: &mut Steps, args: &[String]) -> Result<()> {
    let kubo = steps.run("Kubo", kubo::ensure)?;
    eprintln!("{} is {}", kubo::PATH_VARIABLE, kubo.display());
    let gopeer = steps.run("Go peer", gopeer::ensure)?;
    if gopeer.is_none() {
        steps.skip("interoperability with Go peers", "there is no Go to build one with");
    }
    let etcd = steps.run("etcd", etcd::ensure)?;
    if etcd.is_none() {
        steps.skip("consensus on etcd", "there is no Go to build etcd with");
    }
    let test = |args: &[&str]| -> Result<Command> {
        let mut command = cargo(["test"])?;
        command.args(args).env(kubo::PATH_VARIABLE, &kubo);
        command.envs(gopeer.iter().map(|path| (gopeer::PATH_VARIABLE, path)));
        command.envs(etcd.iter().map(|path| (etcd::PATH_VARIABLE, path)));
        Ok(command)
    };

    if !args.is_empty() {
        // `--workspace` would make cargo overlook a package that was asked for.
        let scope: &[&str] =
            if names_a_package(args) { &["--all-features"] } else { &["--workspace", "--all-features"] };
        return steps.run("tests", || run_tests(test(scope)?.args(args)));
    }

    let outside = outside_members()?;
    let mut scope = vec!["--workspace", "--all-features"];
    for package in &outside {
        scope.extend(["--exclude", package]);
    }
    // Building the test programs also builds our own programs, with the same features, for the end-to-end tests. A
    // separate `cargo build` would compile half of the dependencies a second time, without the features for tests.
    steps.run("build the programs and their tests", || run_command(test(&scope)?.arg("--no-run")))?;
    steps.run("tests", || run_tests(&mut test(&scope)?))?;
    for package in &outside {
        steps.run(format!("tests of {package}"), || run_tests(&mut test(&["-p", package])?))?;
    }
    if outside.iter().any(|package| package == conformance::PACKAGE) {
        steps.run("conformance tests against cases", conformance::check)
    } else {
        steps.skip("conformance tests against cases", "examples/outside/parts is not there yet");
        Ok(())
    }
}

fn names_a_package(args: &[String]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg.starts_with("-p") || arg == "--package" || arg.starts_with("--package="))
}

/// The names of the packages in the folders below `examples/outside/`, in the order of the folders.
fn outside_members() -> Result<Vec<String>> {
    let outside = root()?.join(OUTSIDE);
    if !outside.exists() {
        return Ok(Vec::new());
    }
    let folders = fs::read_dir(&outside)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        })
        .with_context(|| format!("{} cannot be read", outside.display()))?;
    packages_in(folders, &Workspace::load()?)
}

fn packages_in(mut folders: Vec<impl AsRef<Path> + Ord>, workspace: &Workspace) -> Result<Vec<String>> {
    folders.sort();
    let folders = folders.iter().map(AsRef::as_ref).filter(|folder| folder.join("Cargo.toml").exists());
    folders.map(|folder| Ok(workspace.member_in(folder)?.name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_package_is_one_only_before_the_arguments_of_the_test_programs() {
        assert!(names_a_package(&args("-p xtask")));
        assert!(names_a_package(&args("-pxtask")));
        assert!(names_a_package(&args("a_name --package xtask")));
        assert!(names_a_package(&args("--package=xtask")));
        assert!(!names_a_package(&args("a_name")));
        assert!(!names_a_package(&args("a_name -- -p")));
    }
}
