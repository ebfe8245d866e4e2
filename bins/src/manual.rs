//! What helps to write a command line, made from its definition: completions for shells, and manual pages.

use std::io;
use std::path::Path;

use clap::Command;
pub use clap_complete::Shell;

/// The script that completes command lines in a shell.
pub fn completion(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    match shell {
        Shell::Bash => with_its_labels(&name, &script),
        _ => script,
    }
}

/// The script for bash, whose generator (clap_complete 4.6.11) looks for the commands of a program with a hyphen in its name
/// under another label than it gives them, so that nothing is completed behind a command
/// (<https://github.com/clap-rs/clap/issues/6421>).
fn with_its_labels(name: &str, script: &[u8]) -> Vec<u8> {
    const BEFORE_COMMAND: &str = "__subcmd__";
    let given = format!("{}{BEFORE_COMMAND}", name.replace('-', "__"));
    let looked_for = format!("{}{BEFORE_COMMAND}", name.replace('-', BEFORE_COMMAND));
    String::from_utf8_lossy(script).replace(&looked_for, &given).into_bytes()
}

/// Writes a page of section 1 for the program and for each of its commands (`program-command.1`) into a folder, which
/// is made if it is not there.
///
/// # Errors
/// Of the folder and its files, naming the folder.
pub fn write_pages(command: Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command.version(env!("CARGO_PKG_VERSION")), folder))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
}
