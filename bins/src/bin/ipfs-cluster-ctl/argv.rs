//! Command lines as the reference takes them: every long flag also with one dash, flags without a value also with
//! one. Pure.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;

use clap::Command;

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

/// Rewrites `-enc=json` to `--enc=json`, `--local=true` to `--local`, and drops `--local=false`. Values and all
/// that follows `--` stay as they are.
pub(crate) fn normalise(argv: impl IntoIterator<Item = OsString>, command: &Command) -> Vec<OsString> {
    let flags = Flags::of(command);
    let mut argv = argv.into_iter();
    let mut normal: Vec<OsString> = argv.next().into_iter().collect();
    let mut is_value = false;
    while let Some(argument) = argv.next() {
        let text = argument.to_str().filter(|_| !is_value).unwrap_or_default().to_owned();
        is_value = false;
        if text == "--" {
            normal.push(argument);
            normal.extend(argv);
            break;
        }
        let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
            normal.push(argument);
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        match flags.long.get(name) {
            Some(true) => {
                is_value = value.is_none();
                normal.push(format!("--{flag}").into());
            }
            Some(false) => match value {
                None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => {
                    normal.push(format!("--{name}").into())
                }
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => {}
                Some(_) => normal.push(format!("--{flag}").into()),
            },
            None => {
                let mut letters = flag.chars();
                let lone = letters.next().filter(|_| letters.next().is_none());
                is_value = lone.is_some_and(|letter| flags.short_with_value.contains(&letter));
                normal.push(argument);
            }
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::command;

    fn normal(line: &str) -> String {
        let argv = std::iter::once("ctl").chain(line.split(' ')).map(OsString::from);
        let words = normalise(argv, &command());
        words[1..].iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn long_flags_may_have_one_dash() {
        for (line, wanted) in [
            ("-enc=json id", "--enc=json id"),
            ("-enc json id", "--enc json id"),
            ("--enc=json id", "--enc=json id"),
            ("-f -enc=json id", "-f --enc=json id"),
            ("pin add -rmin -1 -rmax=-1 -ns x", "pin add --rmin -1 --rmax=-1 --ns x"),
            ("pin add -r -1 -n -ns x", "pin add -r -1 -n -ns x"),
            ("pin add --name -ns -ns x", "pin add --name -ns --ns x"),
            ("status --local=true -local=false", "status --local"),
            ("status --local=maybe", "status --local=maybe"),
            ("pin add -- -ns", "pin add -- -ns"),
            ("-help", "--help"),
            ("-bogus -l x - --", "-bogus -l x - --"),
        ] {
            assert_eq!(normal(line), wanted);
        }
    }
}
