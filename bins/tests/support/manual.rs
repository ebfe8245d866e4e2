//! Completions and manual pages of a program, compared with its own help.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// Every command with the long flags that its help names, without aliases; what is hidden is not in there.
fn commands(program: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![Vec::<String>::new()];
    while let Some(path) = waiting.pop() {
        let help = printed(Command::new(program).args(&path).arg("--help"));
        let mut is_list_of_commands = false;
        let mut flags = Vec::new();
        for line in help.lines() {
            is_list_of_commands = (is_list_of_commands || line == "Commands:") && !line.is_empty();
            let first = line.trim_start().split([' ', '=']).next().unwrap_or_default();
            if is_list_of_commands && line.starts_with("  ") && !line.starts_with("   ") && first != "help" {
                waiting.push(path.iter().cloned().chain([first.to_owned()]).collect());
            }
            let words = line.trim_start();
            if words.starts_with('-') {
                let long = words.split([' ', '[', '.']).find(|word| word.starts_with("--"));
                flags.extend(long.map(str::to_owned));
            }
        }
        found.insert(path.join("-"), flags);
    }
    found
}

/// Panics unless the pages and the completions of `program` have every command (`some` must be among them) and every flag
/// that its help has.
pub(crate) fn check(program: &str, some: &[&str]) {
    let name = program.rsplit('/').next().unwrap();
    let commands = commands(program);
    assert!(some.iter().all(|command| commands.contains_key(*command)), "{commands:?}");
    assert!(commands.values().any(|flags| flags.len() > 1), "{commands:?}");

    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share").join("man1");
    assert_eq!(printed(Command::new(program).arg("man").arg(&pages)), "");
    for (command, flags) in &commands {
        let separator = if command.is_empty() { "" } else { "-" };
        let page = pages.join(format!("{name}{separator}{command}.1"));
        let page = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        let page = page.replace("\\-", "-");
        for flag in flags {
            assert!(page.contains(flag), "{flag} is missing in\n{page}");
        }
    }

    for shell in SHELLS {
        let script = printed(Command::new(program).args(["completion", shell]));
        for (command, flags) in &commands {
            let name = command.rsplit('-').next().unwrap();
            assert!(script.contains(name), "{shell}: {command}");
            for flag in flags {
                // Fish writes them without the dashes.
                let flag = flag.trim_start_matches('-');
                assert!(script.contains(flag), "{shell}: {command} --{flag}");
            }
        }
    }
}

/// Panics unless bash completes lines to words, those of a line among others.
pub(crate) fn completes_in_bash(program: &str, lines: &[(&str, &[&str])]) {
    let name = program.rsplit('/').next().unwrap();
    let script = printed(Command::new(program).args(["completion", "bash"]));
    // What bash does when somebody presses the key.
    let complete = r#"
        eval "$1"; shift
        line=("$@"); last=$((${#line[@]} - 1))
        function=$(complete -p "$1" | sed 's/.* -F \([^ ]*\) .*/\1/')
        COMP_WORDS=("${line[@]}"); COMP_CWORD=$last
        "$function" "$1" "${line[$last]}" "${line[$last - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    for (line, words) in lines {
        let mut bash = Command::new("/bin/bash");
        bash.args(["--norc", "-c", complete, "bash", &script, name]).args(line.split(' '));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let output = bash.env_clear().env("PATH", path).stdin(Stdio::null()).output().unwrap();
        let completed = String::from_utf8(output.stdout).unwrap();
        for word in *words {
            assert!(completed.lines().any(|found| found == *word), "{line:?} to {word}: {completed}");
        }
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && stderr.is_empty(), "{line:?}: {stderr}");
    }
}

/// Has those shells look at their scripts that are installed here, and says which are not.
pub(crate) fn can_be_read_by_their_shells(program: &str) {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "fish", "zsh"] {
        let script = printed(Command::new(program).args(["completion", shell]));
        let file = folder.path().join(shell);
        std::fs::write(&file, script).unwrap();
        match Command::new(shell).arg("-n").arg(&file).stdin(Stdio::null()).output() {
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success() && stderr.is_empty(), "{shell}: {stderr}");
            }
            Err(error) => eprintln!("skipped: no {shell} here: {error}"),
        }
    }
}

fn printed(command: &mut Command) -> String {
    let output = command.env_clear().env("HOME", "/").stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.is_empty(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
