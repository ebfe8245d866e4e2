//! The etcd that the tests of the consensus on etcd run against, built from `tools/etcd` through Go modules.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::cargo::{root, run};
use crate::kubo::{CACHE, find_go};

/// Tells the tests where the program is. Who sets it before has chosen one.
pub(crate) const PATH_VARIABLE: &str = "IPFS_CLUSTER_TEST_ETCD";

/// The Go module that pins etcd, below the workspace root.
const MODULE: &str = "tools/etcd";
const PACKAGE: &str = "go.etcd.io/etcd/server/v3";

/// The path of the program; none where there is no Go. Built every time: Go keeps what did not change.
pub(crate) fn ensure() -> Result<Option<PathBuf>> {
    if let Some(chosen) = env::var_os(PATH_VARIABLE) {
        return Ok(Some(PathBuf::from(chosen)));
    }
    let Some(go) = find_go(&env::var_os("PATH").unwrap_or_default()) else { return Ok(None) };
    let folder = root()?.join(CACHE);
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let built = folder.join(format!("etcd{}", env::consts::EXE_SUFFIX));
    let mut command = Command::new(go);
    command.current_dir(root()?.join(MODULE));
    command.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"]).arg(&built).arg(PACKAGE);
    // No C compiler is needed, and the module stands alone, whatever Go workspace this checkout may lie in.
    command.env("CGO_ENABLED", "0").env("GOWORK", "off");
    run(&mut command).context(
        "the pinned etcd cannot be built; this needs Go 1.26 or newer and a Go module proxy that answers, or else name \
         an etcd of your own in IPFS_CLUSTER_TEST_ETCD",
    )?;
    Ok(Some(built))
}
