//! Command lines of the programs, as Go programs take them, so that scripts written for the reference keep working.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Command, Parser};

/// What `--version` prints after the program's name.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let (compatible, own) = (ipfs_cluster::COMPATIBLE_VERSION, env!("CARGO_PKG_VERSION"));
        format!("version {compatible} (ipfs-cluster for Rust {own})")
    });
    &VERSION
}

/// Reads the command line of this process. Says what is wrong with it, or what it only asks for.
///
/// # Errors
/// The code to exit with, which is success where help or the version was asked for.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    let arguments = from_go_style(std::env::args_os(), &C::command()).map_err(|error| refuse(&error))?;
    C::try_parse_from(arguments).map_err(|error| {
        let _ = error.print();
        // Help and version that were asked for are no failure.
        if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}

/// Says what [`from_go_style`] found wrong, and gives the code to exit with.
pub fn refuse(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Rewrites Go's spellings to the ones clap knows: one dash before a long name (`-loglevel debug`) and values
/// for switches (`--force=false`). Values, and everything after `--`, stay as they are.
///
/// # Errors
/// A text for the user, if a switch has a value that is neither true nor false.
pub fn from_go_style(
    arguments: impl IntoIterator<Item = OsString>,
    command: &Command,
) -> Result<Vec<OsString>, String> {
    let flags = Flags::of(command);
    let mut arguments = arguments.into_iter();
    // The program's name is no argument.
    let mut rewritten: Vec<OsString> = arguments.next().into_iter().collect();
    let mut is_value = false;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().filter(|_| !is_value).unwrap_or_default().to_owned();
        is_value = false;
        if text == "--" {
            rewritten.push(argument);
            rewritten.extend(arguments);
            break;
        }
        let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
            rewritten.push(argument);
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        match flags.long.get(name) {
            Some(true) => {
                is_value = value.is_none();
                rewritten.push(format!("--{flag}").into());
            }
            Some(false) => match value {
                None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => {
                    rewritten.push(format!("--{name}").into());
                }
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => {}
                Some(value) => return Err(format!("invalid boolean value {value:?} for --{name}")),
            },
            None => {
                let mut letters = flag.chars();
                let lone = letters.next().filter(|_| letters.next().is_none());
                is_value = lone.is_some_and(|letter| flags.short_with_value.contains(&letter));
                rewritten.push(argument);
            }
        }
    }
    Ok(rewritten)
}

/// What a command line may contain.
struct Flags {
    /// Long names and their aliases, and whether they take a value.
    long: HashMap<String, bool>,
    /// Letters that take a value, and never go without.
    short_with_value: HashSet<char>,
}

impl Flags {
    fn of(command: &Command) -> Self {
        let mut flags =
            Self { long: HashMap::from([("help".to_owned(), false)]), short_with_value: HashSet::new() };
        let mut short_without_value = HashSet::new();
        let mut commands = vec![command];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands());
            for argument in command.get_arguments().filter(|argument| !argument.is_positional()) {
                let takes_value = argument.get_action().takes_values();
                let aliases = argument.get_all_aliases().unwrap_or_default();
                for name in argument.get_long().into_iter().chain(aliases) {
                    flags.long.insert(name.to_owned(), takes_value);
                }
                let short = argument.get_short();
                if takes_value {
                    flags.short_with_value.extend(short);
                } else {
                    short_without_value.extend(short);
                }
            }
        }
        flags.short_with_value.retain(|letter| !short_without_value.contains(letter));
        flags
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};

    use super::*;

    fn command() -> Command {
        let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let option = |name: &'static str| Arg::new(name).long(name);
        Command::new("x")
            .arg(option("loglevel").short('l'))
            .arg(option("encoding").visible_alias("enc"))
            .arg(switch("force").short('f'))
            .subcommand(
                Command::new("sub")
                    .arg(option("replication-min").alias("rmin").short('r'))
                    .arg(option("name").short('n'))
                    .arg(switch("no-status").visible_alias("ns")),
            )
    }

    fn rewritten(line: &str) -> Result<String, String> {
        let arguments = std::iter::once("x").chain(line.split(' ')).map(OsString::from);
        let all = from_go_style(arguments, &command())?;
        Ok(all[1..].iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        for (given, expected) in [
            ("-loglevel debug -force", "--loglevel debug --force"),
            ("-loglevel=debug", "--loglevel=debug"),
            ("--loglevel=debug -l x -f", "--loglevel=debug -l x -f"),
            ("-enc=json sub", "--enc=json sub"),
            ("-f -enc json sub", "-f --enc json sub"),
            ("sub -rmin 1 --rmin=2", "sub --rmin 1 --rmin=2"),
            ("-help", "--help"),
            ("-unknown force - -- -force", "-unknown force - -- -force"),
            ("-unknown -l x - --", "-unknown -l x - --"),
        ] {
            assert_eq!(rewritten(given).unwrap(), expected);
        }
    }

    #[test]
    fn what_follows_a_flag_that_takes_a_value_is_that_value() {
        for (given, expected) in [
            ("sub -rmin -1 -replication-min=-1 -ns y", "sub --rmin -1 --replication-min=-1 --ns y"),
            ("sub -r -1 -n -ns y", "sub -r -1 -n -ns y"),
            ("sub --name -ns -ns y", "sub --name -ns --ns y"),
        ] {
            assert_eq!(rewritten(given).unwrap(), expected);
        }
    }

    #[test]
    fn a_switch_may_have_a_value() {
        assert_eq!(rewritten("--force=true -force=1").unwrap(), "--force --force");
        assert_eq!(rewritten("sub --force=false -ns=0 -force").unwrap(), "sub --force");
        assert_eq!(rewritten("--force=x").unwrap_err(), "invalid boolean value \"x\" for --force");
    }
}
