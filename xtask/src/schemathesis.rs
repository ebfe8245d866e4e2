//! `cargo xtask schemathesis`: a property-based tester against the OpenAPI document of a running peer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::cargo::{cargo, root, run as run_command};
use crate::steps::Steps;

/// Builds the programs, installs schemathesis in a folder of its own, and runs it; arguments go to `schemathesis run`.
pub(crate) fn run(steps: &mut Steps, args: &[String]) -> Result<()> {
    let scripts = root()?.join("xtask").join("schemathesis");
    let target = root()?.join("target");
    let name = "schemathesis";
    if !works(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        steps.skip(name, "there is no python3 with venv");
        return Ok(());
    }
    let Some(python) = install(&target.join("schemathesis"), &scripts.join("requirements.txt")) else {
        steps.skip(name, "schemathesis cannot be installed; is the Python package index within reach?");
        return Ok(());
    };
    steps.run("build the programs", || {
        run_command(&mut cargo([
            "build",
            "--package",
            "ipfs-cluster-bins",
            "--bin",
            "ipfs-cluster-service",
        ])?)?;
        let features = ["--features", "testing,api-rest"];
        run_command(cargo(["build", "--package", "ipfs-cluster", "--example", "fake_kubo"])?.args(features))
    })?;
    steps.run(name, || {
        let built = target.join("debug");
        let mut command = Command::new(python);
        command.arg(scripts.join("run.py")).arg(built.join("ipfs-cluster-service"));
        run_command(command.arg(built.join("examples").join("fake_kubo")).args(args))
    })
}

/// The Python that has what is required; none where it cannot be had.
fn install(folder: &Path, requirements: &Path) -> Option<PathBuf> {
    let python = folder.join("bin").join("python");
    let has_venv = python.exists() || works(Command::new("python3").args(["-m", "venv"]).arg(folder));
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(requirements);
    (has_venv && works(&mut pip)).then_some(python)
}

fn works(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}
