//! `cargo xtask bench`: builds the release programs and measures them.

use std::path::PathBuf;

use anyhow::Result;

use crate::cargo::{cargo, root, run as run_command};
use crate::steps::Steps;

/// Names a reference `ipfs-cluster-service` to measure beside ours, and the `ipfs-cluster-ctl` in the same folder.
const GO_VARIABLE: &str = "IPFS_CLUSTER_BENCH_GO";

/// Builds what is measured without the features that only tests need, then measures. Arguments go to the
/// measuring program.
pub(crate) fn run(steps: &mut Steps, args: &[String]) -> Result<()> {
    steps.run("build the programs", || {
        run_command(cargo(["build", "--release", "--package", "ipfs-cluster-bins"])?.args(["--bins"]))
    })?;
    // In a target folder of its own, because its features would otherwise rebuild the programs.
    let tools = root()?.join("target").join("bench-tools");
    steps.run("build the tools", || {
        let features = "testing,api-rest";
        run_command(
            cargo([
                "build",
                "--release",
                "--package",
                "ipfs-cluster",
                "--example",
                "fake_kubo",
                "--features",
                features,
            ])?
            .arg("--target-dir")
            .arg(&tools),
        )?;
        run_command(
            cargo(["build", "--release", "--package", "ipfs-cluster-bench"])?.arg("--target-dir").arg(&tools),
        )
    })?;
    let release = |folder: PathBuf, path: &str| folder.join("release").join(path);
    steps.run("measure", || {
        let mut command = std::process::Command::new(release(tools.clone(), "cluster-bench"));
        command.arg("--service").arg(release(root()?.join("target"), "ipfs-cluster-service"));
        command.arg("--ctl").arg(release(root()?.join("target"), "ipfs-cluster-ctl"));
        command.arg("--follow").arg(release(root()?.join("target"), "ipfs-cluster-follow"));
        command.arg("--fake-kubo").arg(release(tools.clone(), "examples/fake_kubo"));
        if let Some(kubo) = std::env::var_os(crate::kubo::PATH_VARIABLE) {
            command.arg("--kubo").arg(kubo);
        }
        match std::env::var_os(GO_VARIABLE) {
            Some(program) => {
                let ctl = PathBuf::from(&program).with_file_name("ipfs-cluster-ctl");
                if ctl.exists() {
                    command.arg("--go-ctl").arg(ctl);
                }
                command.arg("--go-service").arg(program);
            }
            None => eprintln!(
                "no reference beside ours: set {GO_VARIABLE} to a Go ipfs-cluster-service to compare"
            ),
        }
        run_command(command.args(args))
    })
}
