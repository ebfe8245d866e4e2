//! `cargo xtask compare`: our programs and the reference's side by side.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{cargo, run as run_command};
use crate::kubo;
use crate::steps::Steps;

const GO_VARIABLE: &str = "IPFS_CLUSTER_COMPARE_GO";

/// Compares what is printed, with the reference's `ipfs-cluster-service` and `ipfs-cluster-ctl` in `go`. Everything is on
/// loopback.
pub(crate) fn run(steps: &mut Steps, go: &Path) -> Result<()> {
    let go = go.canonicalize().with_context(|| format!("{} cannot be read", go.display()))?;
    for program in ["ipfs-cluster-service", "ipfs-cluster-ctl"] {
        ensure!(go.join(program).is_file(), "there is no {program} in {}", go.display());
    }
    let kubo = steps.run("Kubo", kubo::ensure)?;
    steps.run("compare", || {
        run_command(
            cargo(["test", "--package", "ipfs-cluster-bins", "--all-features", "--test", "compare"])?
                .args(["--", "--nocapture"])
                .env(GO_VARIABLE, &go)
                .env(kubo::PATH_VARIABLE, &kubo),
        )
    })
}
