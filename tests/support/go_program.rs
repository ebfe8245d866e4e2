//! Programs in Go that tests need: named by a variable, or built once.

use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, fs};

/// The program that `variable` names, or `package` of the module in this folder of the repository, built. None where there
/// is no Go, which is said aloud and is a failure in CI.
pub(crate) fn find_or_build(variable: &str, module: &str, package: &str, name: &str) -> Option<PathBuf> {
    if let Some(built) = env::var_os(variable) {
        return Some(PathBuf::from(built));
    }
    let go_answers = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    if !go_answers {
        assert!(env::var_os("CI").is_none(), "no Go on PATH, and in CI nothing is skipped");
        // Past the test harness, which swallows what a passing test prints.
        let text = format!("skipped: no Go on PATH to build {module} with, and no {variable}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        return None;
    }
    // Tests of the programs lie one folder deeper.
    let package_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_root = |folder: &&Path| folder.join(module).is_dir();
    let root = package_folder.ancestors().take(2).find(is_root).unwrap();
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let partial = built.with_extension(process::id().to_string());
    let status = Command::new("go")
        .current_dir(root.join(module))
        .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"])
        .args([&partial, Path::new(package)])
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .status()
        .unwrap();
    assert!(status.success(), "{module} cannot be built");
    fs::rename(&partial, &built).unwrap();
    Some(built)
}
