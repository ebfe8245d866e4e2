//! The pinset of a peer that does not run, and one of a Go peer beside it.

use super::*;

const PIN: &str = r#"{"replication_factor_min":-1,"replication_factor_max":-1,"name":"updated","mode":"recursive","shard_size":0,"user_allocations":null,"expire_at":"0001-01-01T00:00:00Z","metadata":{"kind":"text","owner":"me"},"pin_update":null,"origins":[],"cid":"QmTrpWDXvSjfKhz9Vx34SRSa8L396ZFqrF2aTjXwsZUr","type":"pin","allocations":[],"max_depth":-1,"reference":null,"timestamp":"2026-11-20T23:16:36Z"}"#;

/// A line of an export of the reference.
fn pin() -> String {
    PIN.replace(
        "QmTrpWDXvSjfKhz9Vx34SRSa8L396ZFqrF2aTjXwsZUr",
        "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
    )
}

fn with_one_pin() -> Home {
    let home = Home::initialized();
    let ran = home.run_with(&["-l", "error", "state", "import", "-f"], &[], &pin());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(ran.stdout, "reading from stdin, Ctrl-D to finish\n");
    home
}

#[test]
fn an_export_of_the_reference_comes_out_as_it_went_in() {
    let home = with_one_pin();
    let ran = home.run(&["state", "export"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("{}\n", pin())));
    let file = home.display("export.json");
    let ran = home.run(&["state", "export", "-f", &file]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    let ran = home.run(&["state", "import", "-f", "--rmin", "1", "--rmax", "2", &file]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.stderr.ends_with("\tstate successfully imported.  Make sure all peers have consistent states\n"),
        "{}",
        ran.stderr
    );
    let changed = pin().replace(
        "\"replication_factor_min\":-1,\"replication_factor_max\":-1",
        "\"replication_factor_min\":1,\"replication_factor_max\":2",
    );
    assert_eq!(home.run(&["state", "export"]).stdout, format!("{changed}\n"));
    let ran = home.run(&["state", "cleanup", "-f"]);
    assert!(ran.code == 0 && ran.stderr.ends_with("\tdata correctly cleaned up\n"), "{}", ran.stderr);
    assert_eq!(home.run(&["state", "export"]).stdout, "");
}

#[test]
fn what_the_peers_agreed_on_is_shown_as_in_the_reference() {
    let home = with_one_pin();
    let info = |home: &Home| {
        let ran = home.run(&["state", "crdt", "info"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        ran.stdout
    };
    let text = info(&home);
    let head = text
        .strip_prefix("Number of heads: 1. Current max-height: 1. Dirty: false\nHeads: [")
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or_else(|| panic!("{text:?}"))
        .to_owned();
    let ran = home.run(&["state", "crdt", "dot"]);
    let short = &head[head.len() - 4..];
    assert_eq!(
        ran.stdout,
        format!(
            "digraph CRDTDAG {{\nsubgraph heads {{\n{head}\n}}\n{head} [label=\"1 | {short}: +1 -0\"]\n{head} -> {{}}\n\
             subgraph sg_{head} {{\n}}\n}}\n"
        )
    );
    let file = home.display("dag.dot");
    assert_eq!(home.run(&["state", "crdt", "dot", "--file", &file]).stdout, "");
    assert_eq!(home.read("dag.dot"), ran.stdout);

    assert_eq!(home.run(&["state", "crdt", "mark-dirty"]).stdout, "Datastore marked 'dirty'\n");
    assert!(info(&home).contains("Dirty: true"));
    assert_eq!(home.run(&["state", "crdt", "mark-clean"]).stdout, "Datastore marked 'clean'\n");
    assert!(info(&home).contains("Dirty: false"));

    home.run(&["state", "cleanup", "-f"]);
    assert_eq!(info(&home), "Number of heads: 0. Current max-height: 0. Dirty: false\nHeads: []");
}

#[test]
fn what_is_no_crdt_has_the_text_of_the_reference() {
    let text = "error : crdt subcommands can only be run on peers initialized with crdt consensus\n";
    let home = Home::new();
    home.run(&["init", "--consensus", "solo"]);
    let raft = Home::initialized();
    fs::write(raft.path("service.json"), include_str!("../data/service/go-raft.json")).unwrap();
    for home in [home, raft] {
        for command in ["info", "dot", "mark-dirty", "mark-clean"] {
            let ran = home.run(&["state", "crdt", command]);
            assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (1, "", text));
        }
    }
    let ran = Home::new().run(&["state", "crdt", "info"]);
    assert!(ran.code == 1 && ran.stderr.starts_with("error loading configurations: open "), "{}", ran.stderr);
}

#[test]
fn the_pinset_of_a_go_peer_is_left_alone_and_the_way_out_is_said() {
    for kind in ["pebble", "badger", "badger3", "leveldb", "raft"] {
        let home = Home::initialized();
        fs::create_dir(home.path(kind)).unwrap();
        assert_eq!(home.run(&["state", "export"]).code, 0, "an empty folder is nobody's");
        home.run(&["state", "cleanup", "-f"]);
        fs::write(home.path(kind).join("CURRENT"), "MANIFEST-000001").unwrap();
        for (command, doing) in [
            // First what ends in any case.
            (vec!["state", "export"], "exporting state"),
            (vec!["daemon"], "creating datastore"),
            (vec!["state", "crdt", "info"], "reading the crdt store"),
        ] {
            let ran = home.run(&command);
            assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{command:?}");
            let said =
                format!("error {doing}: {} holds the pinset of a Go peer ({kind})", home.display(kind));
            let last = ran.stderr.lines().last().unwrap();
            assert!(last.starts_with(&said), "{}", ran.stderr);
            assert!(last.contains("state export -f pins.json") && last.contains("state import pins.json"));
        }
        let ran = home.run_with(&["state", "import", "-f"], &[], &pin());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(home.run(&["state", "export"]).stdout.lines().count(), 1);
        assert_eq!(home.read(&format!("{kind}/CURRENT")), "MANIFEST-000001");
    }
}
