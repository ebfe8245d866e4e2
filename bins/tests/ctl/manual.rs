//! Completions and manual pages.

use std::collections::BTreeMap;

use crate::{ctl, run};

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// Every command with the long flags that its help names, without aliases; what is hidden is not in there.
fn commands() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![Vec::<String>::new()];
    while let Some(path) = waiting.pop() {
        let help = run(ctl().args(&path).arg("--help")).stdout;
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

#[test]
fn pages_and_completions_have_every_command_and_every_flag() {
    let commands = commands();
    let some = ["", "id", "pin", "pin-add", "pin-ls", "peers-rm", "health-graph", "ipfs-gc", "completion"];
    assert!(some.iter().all(|command| commands.contains_key(*command)), "{commands:?}");
    assert!(commands["pin-add"].contains(&"--expire-in".to_owned()), "{commands:?}");

    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share").join("man1");
    let ran = run(ctl().arg("man").arg(&pages));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.exit_code), ("", "", Some(0)));
    for (command, flags) in &commands {
        let separator = if command.is_empty() { "" } else { "-" };
        let page = pages.join(format!("ipfs-cluster-ctl{separator}{command}.1"));
        let page = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        let page = page.replace("\\-", "-");
        for flag in flags {
            assert!(page.contains(flag), "{flag} is missing in\n{page}");
        }
    }

    for shell in SHELLS {
        let ran = run(ctl().args(["completion", shell]));
        assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(0)), "{shell}");
        for (command, flags) in &commands {
            let name = command.rsplit('-').next().unwrap();
            assert!(ran.stdout.contains(name), "{shell}: {command}");
            for flag in flags {
                // Fish writes them without the dashes.
                let flag = flag.trim_start_matches('-');
                assert!(ran.stdout.contains(flag), "{shell}: {command} --{flag}");
            }
        }
    }
}

#[test]
fn completions_need_no_server_no_credentials_and_a_shell_that_is_known() {
    let ran = run(ctl().env("CLUSTER_CREDENTIALS", "a:b").args(["completion", "bash"]));
    assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(0)));
    assert!(
        ran.stdout.contains("complete -F _ipfs") && ran.stdout.contains(" ipfs-cluster-ctl\n"),
        "{ran:?}"
    );
    let ran = run(ctl().args(["completion", "dos"]));
    assert_eq!((ran.stdout.as_str(), ran.exit_code), ("", Some(1)));
    assert!(ran.stderr.contains("bash, elvish, fish, powershell, zsh"), "{}", ran.stderr);
    let ran = run(ctl().args(["man", "/dev/null/pages"]));
    assert!(ran.stderr.starts_with("error writing manual pages: /dev/null/pages: "), "{}", ran.stderr);
    assert_eq!(ran.exit_code, Some(1));
}
