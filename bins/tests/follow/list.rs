//! The list of a follower that does not run.

use std::fs;

use ipfs_cluster::config::StorageEngine;
use serde_json::json;

use super::world::*;

fn names(home: &Home) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(home.base.join("mycl"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn it_is_read_from_whichever_store_there_is() {
    for engine in [StorageEngine::Fjall, StorageEngine::Redb] {
        let home = Home::following("mycl", "http://127.0.0.1:1/x");
        home.store("mycl", engine, &[pin(0, "a name"), pin(1, "b\u{1b}[2J")]);
        let listed = home.run(&["mycl", "list"]).ok();
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                format!("{:<20} {} b\\u{{1b}}[2J", "offline", CIDS[1]),
                format!("{:<20} {} a name", "offline", CIDS[0])
            ]
        );
    }
}

#[test]
fn nothing_is_made_where_nothing_is() {
    let home = Home::following("mycl", "http://127.0.0.1:1/x");
    assert_eq!(home.run(&["mycl", "list"]).ok(), "");
    assert_eq!(names(&home), ["identity.json", "service.json"]);
}

#[test]
fn of_two_stores_the_copy_of_the_configuration_says_which_is_in_use() {
    let mut template = template();
    template["consensus"]["crdt"]["storage"] = json!("redb");
    let server = Server::of(&template);
    let home = Home::following("mycl", &server.service_json());
    home.store("mycl", StorageEngine::Fjall, &[pin(0, "old")]);
    home.store("mycl", StorageEngine::Redb, &[pin(1, "new")]);
    let ran = home.run(&["mycl", "list"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("found both ") && ran.stderr.contains("move the other away"),
        "{}",
        ran.stderr
    );
    home.run(&["mycl", "info"]).ok();
    assert!(home.run(&["mycl", "list"]).ok().ends_with("new\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::following("mycl", "http://127.0.0.1:1/x");
    home.store("mycl", StorageEngine::Fjall, &[pin(0, &"x".repeat(100_000)), pin(1, &"y".repeat(300_000))]);
    let mut command = home.command(&["mycl", "list"]);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(output.stderr)), (Some(0), String::new()));
}
