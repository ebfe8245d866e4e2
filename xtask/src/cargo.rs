//! Calling cargo and other programs, and asking cargo what the workspace consists of.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The folder of the workspace's Cargo.toml.
pub(crate) fn root() -> Result<PathBuf> {
    // Asked at run time: a copied target folder may hold an xtask that was compiled elsewhere.
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = manifest_dir.parent().context("xtask has no folder above it")?;
    Ok(root.to_path_buf())
}

/// Cargo in the workspace root, with the arguments given.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?).args(args);
    // `cargo run` describes *this* package in the environment. Build scripts that watch these variables would run
    // again each time somebody changes between `cargo xtask` and a plain cargo command.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs a program whose output goes to the terminal; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("`{line}` cannot be started"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs a program and returns what it wrote to standard output; an error unless it succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    eprintln!("$ {line}");
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("`{line}` cannot be started"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})\n{}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` did not write UTF-8"))
}

fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// The members of the workspace, as `cargo metadata` tells them.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) features: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    pub(crate) fn load() -> Result<Self> {
        let text = output(&mut cargo(["metadata", "--no-deps", "--format-version", "1"])?)?;
        serde_json::from_str(&text).context("the answer of `cargo metadata` cannot be read")
    }

    pub(crate) fn package(&self, name: &str) -> Result<&Package> {
        let found = self.packages.iter().find(|package| package.name == name);
        found.with_context(|| format!("the workspace has no package {name}"))
    }

    /// The member that lives in a folder.
    pub(crate) fn member_in(&self, folder: &Path) -> Result<&Package> {
        let manifest = folder.join("Cargo.toml");
        let wanted =
            manifest.canonicalize().with_context(|| format!("{} cannot be read", manifest.display()))?;
        let found = self.packages.iter().find(|package| {
            package.manifest_path.canonicalize().is_ok_and(|manifest_path| manifest_path == wanted)
        });
        found.with_context(|| {
            format!(
                "{} is not a member of the workspace; add it to `members` in Cargo.toml",
                folder.display()
            )
        })
    }
}
