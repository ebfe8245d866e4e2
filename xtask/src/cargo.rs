//! Calling cargo and other programs, and asking cargo what the workspace consists of.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::failures::Failures;

/// Tells cargo whether to print in colours, where it cannot see that there is a terminal.
const COLOR_VARIABLE: &str = "CARGO_TERM_COLOR";
/// How long what a program said may come after its end.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(10);

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
    forget_xtask(&mut command);
    Ok(command)
}

/// For whatever runs cargo in the end. `cargo run` describes *this* package in the environment, and build scripts that watch
/// these variables would run again, with all that is built on them, each time somebody changes between `cargo xtask` and a
/// plain cargo command.
pub(crate) fn forget_xtask(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
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

/// Runs tests as [`run`] does. What failed is said once more in the error, which is printed last: in the log of a long run
/// the beginning is far away, and often cut off.
pub(crate) fn run_tests(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    eprintln!("$ {line}");
    let cannot_start = || format!("`{line}` cannot be started");
    // One pipe for both outputs keeps their order.
    let (reader, writer) = std::io::pipe().with_context(cannot_start)?;
    command.stdout(writer.try_clone().with_context(cannot_start)?).stderr(writer);
    if std::io::stderr().is_terminal() && env::var_os(COLOR_VARIABLE).is_none() {
        command.env(COLOR_VARIABLE, "always");
    }
    let mut child = command.spawn().with_context(cannot_start)?;
    // The command keeps our side of the pipe open, which would have no end then.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let failures = Arc::new(Mutex::new(Failures::default()));
    let (tell, ended) = mpsc::channel();
    let seen = Arc::clone(&failures);
    thread::spawn(move || {
        let _ = tell.send(pass_on(BufReader::new(reader), &seen));
    });
    let status = child.wait().with_context(|| format!("`{line}` cannot be waited for"))?;
    // Processes that a test left behind may hold the pipe, and nobody waits for them.
    if let Ok(read) = ended.recv_timeout(LAST_WORDS_TIMEOUT) {
        read.with_context(|| format!("what `{line}` says cannot be passed on"))?;
    }
    if !status.success() {
        bail!("`{line}` failed ({status}){}", failures.lock().unwrap_or_else(PoisonError::into_inner));
    }
    Ok(())
}

/// Prints lines as they come, and has them looked at.
fn pass_on(mut lines: impl BufRead, failures: &Mutex<Failures>) -> std::io::Result<()> {
    let mut line = Vec::new();
    // Not by lines of text: tests print what they like.
    while lines.read_until(b'\n', &mut line)? > 0 {
        std::io::stderr().write_all(&line)?;
        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.see(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
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
