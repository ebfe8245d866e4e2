//! Flags as Go programs take them, so that scripts written for the reference keep working.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{ArgAction, Command};

/// Rewrites Go's spellings to the ones clap knows: one dash before a long name (`-loglevel debug`) and values
/// for switches (`--force=false`). Everything after `--` stays as it is.
///
/// # Errors
/// A text for the user, if a switch has a value that is neither true nor false.
pub fn from_go_style(
    arguments: impl IntoIterator<Item = OsString>,
    command: &Command,
) -> Result<Vec<OsString>, String> {
    let mut switches = BTreeMap::new();
    collect_long_names(command, &mut switches);
    let mut rewritten = Vec::new();
    let mut arguments = arguments.into_iter();
    // The program's name is no argument.
    rewritten.extend(arguments.next());
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            rewritten.push(argument);
            rewritten.extend(arguments);
            break;
        }
        match argument.to_str().map(|text| rewrite(text, &switches)).transpose()? {
            Some(Rewritten::Kept) | None => rewritten.push(argument),
            Some(Rewritten::As(text)) => rewritten.push(text.into()),
            Some(Rewritten::Dropped) => {}
        }
    }
    Ok(rewritten)
}

enum Rewritten {
    Kept,
    As(String),
    Dropped,
}

/// `switches`: every long name, and whether it is a switch, which takes no value.
fn rewrite(text: &str, switches: &BTreeMap<String, bool>) -> Result<Rewritten, String> {
    let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
        return Ok(Rewritten::Kept);
    };
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag, None),
    };
    match (switches.get(name), value) {
        (None, _) => Ok(Rewritten::Kept),
        (Some(false), _) | (Some(true), None) => Ok(Rewritten::As(format!("--{flag}"))),
        (Some(true), Some(value)) => match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Rewritten::As(format!("--{name}"))),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Rewritten::Dropped),
            _ => Err(format!("invalid boolean value {value:?} for --{name}")),
        },
    }
}

fn collect_long_names(command: &Command, switches: &mut BTreeMap<String, bool>) {
    for argument in command.get_arguments() {
        let is_switch = !matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        for name in argument.get_long_and_visible_aliases().into_iter().flatten() {
            switches.insert(name.to_owned(), is_switch);
        }
        for name in argument.get_all_aliases().into_iter().flatten() {
            switches.insert(name.to_owned(), is_switch);
        }
    }
    command.get_subcommands().for_each(|inner| collect_long_names(inner, switches));
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        Command::new("x")
            .arg(Arg::new("loglevel").long("loglevel").short('l'))
            .arg(switch("force").short('f'))
            .subcommand(Command::new("sub").arg(Arg::new("rmin").long("replication-min").alias("rmin")))
    }

    fn rewritten(arguments: &[&str]) -> Result<Vec<String>, String> {
        let arguments = std::iter::once("x").chain(arguments.iter().copied()).map(OsString::from);
        let all = from_go_style(arguments, &command())?;
        Ok(all.into_iter().skip(1).map(|argument| argument.into_string().unwrap()).collect())
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        for (given, expected) in [
            (vec!["-loglevel", "debug", "-force"], vec!["--loglevel", "debug", "--force"]),
            (vec!["-loglevel=debug"], vec!["--loglevel=debug"]),
            (vec!["--loglevel=debug", "-l", "x", "-f"], vec!["--loglevel=debug", "-l", "x", "-f"]),
            (vec!["sub", "-rmin", "1", "--rmin=2"], vec!["sub", "--rmin", "1", "--rmin=2"]),
            (vec!["-unknown", "force", "-", "--", "-force"], vec!["-unknown", "force", "-", "--", "-force"]),
        ] {
            assert_eq!(rewritten(&given).unwrap(), expected);
        }
    }

    #[test]
    fn a_switch_may_have_a_value() {
        assert_eq!(rewritten(&["--force=true", "-force=1"]).unwrap(), ["--force", "--force"]);
        assert!(rewritten(&["--force=false", "-force=0"]).unwrap().is_empty());
        assert_eq!(rewritten(&["--force=x"]).unwrap_err(), "invalid boolean value \"x\" for --force");
    }
}
