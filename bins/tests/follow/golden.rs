//! What is printed, against the captured runs of the reference (`tests/data/follow-golden.txt`). A line `$ …` is a
//! command, and what stands below it is indented: `[exit n]` is its code, and what follows `[stderr]` went there. Left out are
//! stack traces and help, and what differs on purpose: an unknown command, the order of clusters, a gateway without a scheme.

use super::world::*;

const CAPTURED: &str = include_str!("../data/follow-golden.txt");

struct Case {
    command: Vec<String>,
    output: String,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for line in CAPTURED.lines() {
        match (line.strip_prefix("$ ipfs-cluster-follow"), line.strip_prefix("  "), cases.last_mut()) {
            (Some(command), ..) => cases.push(Case {
                command: command.split_whitespace().map(str::to_owned).collect(),
                output: String::new(),
            }),
            (None, Some(line), Some(Case { output, .. })) => output.push_str(&format!("{line}\n")),
            _ => panic!("{line:?}"),
        }
    }
    cases
}

#[test]
fn commands_print_what_the_reference_prints() {
    let server = Server::of(&template());
    server.put("/redir.json", &serde_json::json!({"source": "http://127.0.0.1:1/"}));
    let ipfs = Ipfs::start();
    let home = Home::new();
    let tmp = home.base.parent().unwrap().display().to_string();
    let cases = cases();
    assert!(cases.len() > 15, "{}", cases.len());
    for case in cases {
        let arguments: Vec<String> =
            case.command.iter().map(|word| word.replace("http://127.0.0.1:22900", &server.url)).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // The reference's daemon had gone by then.
        let is_there = words != ["other", "info"];
        if !is_there {
            // Whoever listens on the port of a gateway on this machine.
            let file = home.path("other", "service.json");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replace("127.0.0.1:8080", "127.0.0.1:1")).unwrap();
        }
        let variables =
            [("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", if is_there { ipfs.address.as_str() } else { NOBODY })];
        let ran = home.run_with(&words, &variables);
        let mut printed = ran.stdout;
        if !ran.stderr.is_empty() {
            printed += "[stderr]\n";
            printed += &ran.stderr;
        }
        printed += &format!("[exit {}]\n", ran.code);
        let printed = printed.replace(&tmp, "<TMP>").replace(&server.url, "http://127.0.0.1:22900");
        let printed = printed.replace("http://127.0.0.1:1/", "http://127.0.0.1:8080/");
        assert_eq!(printed, case.output, "{words:?}");
    }
}

#[test]
fn the_version_is_that_of_the_reference_and_ours() {
    let said = Home::new().run(&["--version"]).ok();
    assert!(said.starts_with("ipfs-cluster-follow version 1.1.6"), "{said}");
}

#[test]
fn the_short_flag_names_the_base_folder_too_and_so_does_the_variable() {
    let home = Home::following("mycl", "http://127.0.0.1:1/x");
    let base = home.base.display().to_string();
    let other = Home::new();
    // The last one counts.
    assert!(other.run(&["-c", &base]).ok().contains("\"mycl\""));
    assert!(other.run(&["-config", &base]).ok().contains("\"mycl\""));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-follow"));
    let output =
        command.env_clear().env("HOME", "/nowhere").env("IPFS_CLUSTER_PATH", &base).output().unwrap();
    assert!(text(output.stdout).contains("\"mycl\""));
}

#[test]
fn what_is_no_command_or_no_name_is_an_error() {
    let home = Home::following("mycl", "http://127.0.0.1:1/x");
    for (arguments, text) in [
        (&["mycl", "bogus"][..], "there is no command \"bogus\""),
        (&["mycl", "info", "more"], "unexpected argument 'more'"),
        (&["run"], "which cluster?"),
        (&["list"], "which cluster?"),
        (&["leave"], "which cluster?"),
        (&["../mycl"], "cannot be the name of a cluster: it is the name of a folder, and has no slash"),
        (&["..", "init", "http://x/"], "cannot be the name of a cluster: it is a way to another folder"),
        (&["", "run"], "cannot be the name of a cluster: it is empty"),
        (&["a\u{1b}[2Jb", "run"], "cannot be the name of a cluster: it has a control character"),
        (&["run", "mycl", "mycl"], "\"mycl\" is named twice"),
        (&["run", "a", "b", "--init", "http://x/"], "--init makes one follower"),
        (&["new", "init", "ftp://x/"], "\"ftp://x/\" is no place for a configuration"),
        (&["mycl", "leave", "--unpin", "--keep-pins"], "cannot be used with"),
    ] {
        let ran = home.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(ran.stderr.contains(text) && !ran.stderr.contains('\u{1b}'), "{arguments:?}: {}", ran.stderr);
    }
    assert!(!home.base.join("new").exists());
}

#[test]
fn an_interrupted_init_can_be_done_again_and_keeps_the_identity() {
    let home = Home::following("mycl", "http://127.0.0.1:1/x");
    let identity = std::fs::read(home.path("mycl", "identity.json")).unwrap();
    std::fs::remove_file(home.path("mycl", "service.json")).unwrap();
    home.init("mycl", "http://127.0.0.1:1/y");
    assert_eq!(std::fs::read(home.path("mycl", "identity.json")).unwrap(), identity);
}
