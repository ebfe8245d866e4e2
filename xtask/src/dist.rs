//! `cargo xtask dist FOLDER`: what a package holds, laid out as it is installed below `/usr`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{cargo, output, root, run as run_command};
use crate::steps::Steps;

const PROGRAMS: [&str; 3] = ["ipfs-cluster-service", "ipfs-cluster-ctl", "ipfs-cluster-follow"];
const MAN: &str = "share/man/man1";
const SYSTEMD: &str = "lib/systemd/system";
const SYSUSERS: &str = "lib/sysusers.d";

/// The shells that programs are completed in, and where each looks for the script of a program.
fn completions(program: &str) -> [(&'static str, String); 3] {
    [
        ("bash", format!("share/bash-completion/completions/{program}")),
        ("zsh", format!("share/zsh/site-functions/_{program}")),
        ("fish", format!("share/fish/vendor_completions.d/{program}.fish")),
    ]
}

/// Builds the release programs, unless `programs` is a folder that has them, and fills `folder`, which must be empty or
/// not there.
pub(crate) fn run(steps: &mut Steps, folder: &Path, programs: Option<&Path>) -> Result<()> {
    let folder = &std::path::absolute(folder)?;
    let is_empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    ensure!(is_empty, "{} is not empty: name a new folder", folder.display());
    let built = match programs {
        Some(programs) => programs.to_path_buf(),
        None => {
            steps.run("build the programs", || {
                run_command(cargo(["build", "--release", "--package", "ipfs-cluster-bins"])?.arg("--bins"))
            })?;
            root()?.join("target/release")
        }
    };
    steps.run("lay out", || {
        for program in PROGRAMS {
            let installed = copy(&built.join(program), folder, &format!("bin/{program}"))?;
            run_command(Command::new(&installed).arg("man").arg(folder.join(MAN)))?;
            for (shell, place) in completions(program) {
                let script = output(Command::new(&installed).args(["completion", shell]))?;
                let place = made(folder, &place)?;
                fs::write(&place, script).with_context(|| format!("writing {}", place.display()))?;
            }
        }
        let examples = root()?.join("dist/systemd");
        copy(&examples.join("ipfs-cluster.service"), folder, &format!("{SYSTEMD}/ipfs-cluster.service"))?;
        copy(&examples.join("ipfs-cluster.sysusers"), folder, &format!("{SYSUSERS}/ipfs-cluster.conf"))?;
        for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
            copy(&root()?.join(license), folder, &format!("share/licenses/ipfs-cluster/{license}"))?;
        }
        Ok(())
    })?;
    println!("{}", folder.display());
    Ok(())
}

/// A place in the folder, whose own folder is there.
fn made(folder: &Path, place: &str) -> Result<PathBuf> {
    let place = folder.join(place);
    if let Some(above) = place.parent() {
        fs::create_dir_all(above).with_context(|| format!("making {}", above.display()))?;
    }
    Ok(place)
}

fn copy(from: &Path, folder: &Path, place: &str) -> Result<PathBuf> {
    let place = made(folder, place)?;
    fs::copy(from, &place).with_context(|| format!("copying {} to {}", from.display(), place.display()))?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "").unwrap();
        let error = run(&mut Steps::start(), folder.path(), Some(Path::new("/nowhere"))).unwrap_err();
        assert!(error.to_string().ends_with("is not empty: name a new folder"), "{error}");
    }
}
