//! `cargo xtask fuzz`: the decoders of bytes from outside under libFuzzer, where there is what that needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::cargo::{output, root, run as run_command};
use crate::steps::Steps;

/// Which decoder the target feeds.
const DECODER_VARIABLE: &str = "IPFS_CLUSTER_DECODER";
const TARGET: &str = "decoders";
/// How long each runs, unless the arguments say so.
const SECONDS: &str = "-max_total_time=60";
/// Longest input, unless the arguments say so.
const LENGTH: &str = "-max_len=65536";

/// Runs the fuzzer on one decoder, or on all of them in turn. `args` begin with the name of the decoder, if one is meant;
/// then come those of `cargo fuzz run` and, after `--`, of libFuzzer.
pub(crate) fn run(steps: &mut Steps, args: &[String]) -> Result<()> {
    const NAME: &str = "fuzzing of the decoders";
    if !answers(Command::new("cargo").args(["+nightly", "--version"])) {
        steps.skip(NAME, "there is no nightly toolchain (rustup toolchain install nightly)");
        return Ok(());
    }
    if !answers(Command::new("cargo").args(["+nightly", "fuzz", "--version"])) {
        steps.skip(NAME, "there is no cargo-fuzz (cargo install cargo-fuzz)");
        return Ok(());
    }
    let folder = root()?.join("fuzz");
    let corpus = folder.join("corpus");
    let (chosen, options) = split(args);
    // The first that are not libFuzzer's go to cargo, for both programs: features.
    let (building, fuzzing) = split_options(&options);
    let names = steps.run("what the decoders begin with", || {
        let mut command = nightly(&folder, &["run", "--bin", "corpus"]);
        output(command.args(&building).arg("--").arg(&corpus))
    })?;
    let names: Vec<&str> = names.lines().collect();
    let chosen = match chosen {
        None => names,
        Some(name) if names.contains(&name) => vec![name],
        Some(name) => bail!("there is no decoder {name}; there are {}", names.join(", ")),
    };
    for name in chosen {
        steps.run(format!("fuzzing of {name}"), || {
            run_command(&mut fuzzer(&folder, name, &corpus.join(name), &building, &fuzzing)?)
        })?;
    }
    Ok(())
}

fn answers(command: &mut Command) -> bool {
    // The variables of the toolchain that runs us would win over `+nightly`.
    let command = command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn nightly(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly").args(args).current_dir(folder);
    command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn fuzzer(folder: &Path, name: &str, corpus: &Path, building: &[&str], fuzzing: &[&str]) -> Result<Command> {
    let artifacts: PathBuf = folder.join("artifacts").join(name);
    std::fs::create_dir_all(&artifacts)?;
    let mut command = nightly(folder, &["fuzz", "run"]);
    command.args(building).arg(TARGET).arg(corpus).arg("--");
    // Of two the last counts.
    command.args([SECONDS, LENGTH, &format!("-artifact_prefix={}/", artifacts.display())]);
    command.args(fuzzing).env(DECODER_VARIABLE, name);
    Ok(command)
}

/// The name of a decoder, and the rest.
fn split(args: &[String]) -> (Option<&str>, Vec<&str>) {
    let mut args = args.iter().map(String::as_str).peekable();
    let name = args.next_if(|arg| !arg.starts_with('-'));
    (name, args.collect())
}

/// Those before `--`, and those after it.
fn split_options<'a>(options: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let mut parts = options.splitn(2, |option| *option == "--");
    let mut part = || parts.next().unwrap_or_default().to_vec();
    (part(), part())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_first_then_what_cargo_takes_then_what_the_fuzzer_takes() {
        for (line, name, building, fuzzing) in [
            ("", None, "", ""),
            ("metric", Some("metric"), "", ""),
            ("-- -runs=1", None, "", "-runs=1"),
            ("metric --no-default-features -- -runs=1", Some("metric"), "--no-default-features", "-runs=1"),
        ] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let (chosen, options) = split(&args);
            let (first, second) = split_options(&options);
            assert_eq!(
                (chosen, first.join(" ").as_str(), second.join(" ").as_str()),
                (name, building, fuzzing)
            );
        }
    }
}
