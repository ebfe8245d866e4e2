//! The Go peer that the interoperability tests command, built from `tests/interop/gopeer` through Go modules.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::cargo::{root, run};
use crate::kubo::{CACHE, find_go};

/// Tells the tests where the program is. Who sets it before has chosen one.
pub(crate) const PATH_VARIABLE: &str = "IPFS_CLUSTER_TEST_GOPEER";

const MODULE: &str = "tests/interop/gopeer";

/// The path of the program; none where there is no Go. Built every time: Go keeps what did not change.
pub(crate) fn ensure() -> Result<Option<PathBuf>> {
    if let Some(chosen) = env::var_os(PATH_VARIABLE) {
        return Ok(Some(PathBuf::from(chosen)));
    }
    let Some(go) = find_go(&env::var_os("PATH").unwrap_or_default()) else { return Ok(None) };
    let module = root()?.join(MODULE);
    let folder = root()?.join(CACHE);
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let built = folder.join(format!("gopeer{}", env::consts::EXE_SUFFIX));
    let go = |args: &[&str]| {
        let mut command = Command::new(&go);
        // No C compiler is needed, and the module stands alone, whatever Go workspace this checkout may lie in.
        command.current_dir(&module).args(args).env("CGO_ENABLED", "0").env("GOWORK", "off");
        command
    };
    run(go(&["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"]).arg(&built).arg(".")).context(
        "the Go peer of the interoperability tests cannot be built; this needs Go 1.26 or newer and a Go module proxy \
         that answers",
    )?;
    run(&mut go(&["vet", "."]))?;
    Ok(Some(built))
}
