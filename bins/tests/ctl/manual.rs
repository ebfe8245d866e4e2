//! Completions and manual pages.

#[path = "../support/manual.rs"]
mod support;

use crate::{ctl, run};

#[test]
fn pages_and_completions_have_every_command_and_every_flag() {
    let some =
        ["", "id", "add", "pin", "pin-add", "pin-ls", "peers-rm", "health-graph", "ipfs-gc", "completion"];
    support::check(env!("CARGO_BIN_EXE_ipfs-cluster-ctl"), &some);
}

#[test]
fn bash_completes_commands_and_flags_behind_commands() {
    support::completes_in_bash(
        env!("CARGO_BIN_EXE_ipfs-cluster-ctl"),
        &[
            ("p", &["peers", "pin"]),
            ("pin ", &["add", "ls", "rm", "update"]),
            ("pin ls --na", &["--name", "--name-prefix"]),
            ("--enc json health ", &["graph", "metrics"]),
            ("completion z", &["zsh"]),
        ],
    );
    support::can_be_read_by_their_shells(env!("CARGO_BIN_EXE_ipfs-cluster-ctl"));
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
