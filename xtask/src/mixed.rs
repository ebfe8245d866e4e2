//! `cargo xtask mixed`: clusters of our peers and the reference's, in a network namespace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{cargo, forget_xtask, root, run as run_command};
use crate::kubo;
use crate::steps::Steps;

/// Peers of the largest cluster; each has an address of its own.
const PEERS: usize = 6;
const GO_VARIABLE: &str = "IPFS_CLUSTER_MIXED_GO";
const PACKAGE: [&str; 5] = ["--package", "ipfs-cluster-bins", "--all-features", "--test", "mixed"];

/// Runs the stories with the reference's `ipfs-cluster-service` and `ipfs-cluster-ctl` in `go`. The peers have private
/// addresses that are not loopback, because the reference's directory of peers ignores loopback.
pub(crate) fn run(steps: &mut Steps, go: &Path, args: &[String]) -> Result<()> {
    let go = go.canonicalize().with_context(|| format!("{} cannot be read", go.display()))?;
    for program in ["ipfs-cluster-service", "ipfs-cluster-ctl", "ipfs-cluster-follow"] {
        ensure!(go.join(program).is_file(), "there is no {program} in {}", go.display());
    }
    let kubo = steps.run("Kubo", kubo::ensure)?;
    steps.run("build the programs and the stories", || {
        run_command(cargo(["test"])?.args(PACKAGE).arg("--no-run"))
    })?;
    steps.run("stories", || {
        let mut command = Command::new("unshare");
        command.args(["--net", "--map-root-user", "sh", "-c", &script(), "sh"]);
        command.arg(PathBuf::from(cargo([])?.get_program())).args(["test", "--offline"]).args(PACKAGE);
        command.args(["--", "--nocapture", "--test-threads=1"]).args(args);
        command.current_dir(root()?).env(GO_VARIABLE, &go).env(kubo::PATH_VARIABLE, &kubo);
        forget_xtask(&mut command);
        run_command(&mut command)
    })
}

/// Gives the namespace its addresses, then becomes the command that follows.
fn script() -> String {
    let addresses: Vec<String> =
        (1..=PEERS).map(|number| format!("ip addr add 10.77.0.{number}/24 dev lo")).collect();
    format!("ip link set lo up && {} && exec \"$@\"", addresses.join(" && "))
}
