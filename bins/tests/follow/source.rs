//! Where configurations come from, and what is wrong with them.

use serde_json::{Value, json};

use super::world::*;

/// What `run` says of a configuration that it cannot go on with.
fn refusal(home: &Home) -> String {
    let ran = home.run(&["mycl", "run"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(!home.path("mycl", "service.cached.json").exists());
    ran.stderr
}

#[test]
fn a_bad_source_is_refused_with_what_is_wrong_and_no_stack_trace() {
    type Change = fn(&mut Value);
    let server = Server::start();
    let home = Home::following("mycl", &server.service_json());
    let reading = format!("reading the configurations in {}\n", home.base.join("mycl").display());
    for (status, body, text) in [
        (404, "not here\n", "unsuccessful request (404): not here\n"),
        (200, "<html>", "not valid JSON"),
        (200, "[]", "not a configuration"),
        (200, "{}", "it has no section cluster"),
        (
            200,
            "{\"source\": \"http://127.0.0.1:1/\"}",
            "a sourced configuration cannot point to another source",
        ),
        (CUT_OFF, "", "could not fetch configuration from source: http"),
    ] {
        server.answer("/service.json", status, body);
        let said = refusal(&home);
        assert!(said.contains(text) && said.ends_with(&reading), "{text}: {said}");
    }
    let table: [(Change, &str); 6] = [
        (|file| file["consensus"] = json!({"raft": {}}), "its peers agree by consensus.raft"),
        (|file| file["consensus"]["crdt"]["trusted_peers"] = json!([]), "trusted_peers names nobody"),
        (|file| file["consensus"]["crdt"]["trusted_peers"] = Value::Null, "trusted_peers names nobody"),
        (|file| file["cluster"]["connection_manager"] = json!({"high_water": "x"}), "high_water"),
        (|file| file["cluster"]["peerstore_file"] = json!("/etc/x"), "cluster.peerstore_file must be"),
        (|file| file["informer"] = json!({}), "no informers are passed"),
    ];
    let ipfs = Ipfs::start();
    for (change, text) in table {
        let mut file = template();
        change(&mut file);
        server.put("/service.json", &file);
        let ran = home.run_with(&["mycl", "run"], &[("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", &ipfs.address)]);
        assert_eq!(ran.code, 1, "{text}");
        assert!(ran.stderr.contains(text) && ran.stderr.ends_with(&reading), "{text}: {}", ran.stderr);
    }
}

#[test]
fn a_start_without_its_source_goes_on_with_what_was_fetched_last_and_says_so_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::following("mycl", &server.service_json());
    assert_eq!(home.start(&["mycl", "run"], &ipfs.address, &[]).ready().stop(), 0);
    let copy = home.path("mycl", "service.cached.json");
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(&copy).unwrap();
    let mut empty = template();
    empty["consensus"]["crdt"]["trusted_peers"] = json!([]);
    for (status, body, text) in [
        (CUT_OFF, String::new(), "could not fetch configuration from source"),
        (503, "later".to_owned(), "unsuccessful request (503): later"),
        (200, "<html>".to_owned(), "not valid JSON"),
        (200, empty.to_string(), "trusted_peers names nobody"),
    ] {
        server.answer("/service.json", status, &body);
        let mut peer = home.start(&["mycl", "run"], &ipfs.address, &[]).ready();
        assert_eq!(peer.stop(), 0);
        let said: Vec<&String> =
            peer.seen.iter().filter(|line| line.contains("the configuration of an earlier start")).collect();
        assert!(
            said.len() == 1 && said[0].contains("\tWARN\t") && said[0].contains(text),
            "{text}: {:#?}",
            peer.seen
        );
        assert_eq!(std::fs::read(&copy).unwrap(), before);
        let info = home.run(&["mycl", "info"]).ok();
        assert!(
            info.contains("Config source URL: failed retrieving configuration source (http://"),
            "{info}"
        );
        assert!(info.contains("The configuration of an earlier start is used ("), "{info}");
    }
    // Of another source nothing is known.
    let file = home.path("mycl", "service.json");
    std::fs::write(&file, "{\"source\": \"http://127.0.0.1:1/x\"}").unwrap();
    let ran = home.run(&["mycl", "run"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("could not fetch configuration from source: http://127.0.0.1:1/x\n"),
        "{ran:?}"
    );
}

#[test]
fn a_source_that_changes_under_us_is_followed_and_said_without_the_secret() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::following("mycl", &server.service_json());
    assert_eq!(home.start(&["mycl", "run"], &ipfs.address, &[]).ready().stop(), 0);
    let mut changed = template();
    changed["cluster"]["secret"] = json!("77".repeat(32));
    changed["consensus"]["crdt"]["trusted_peers"] = json!(["*"]);
    server.put("/service.json", &changed);
    let mut peer = home.start(&["mycl", "run"], &ipfs.address, &[]).ready();
    assert_eq!(peer.stop(), 0);
    for text in [
        "has changed: another secret, so another private network".to_owned(),
        "has changed: it trusts *".to_owned(),
        format!("has changed: it no longer trusts {STRANGER}"),
        "whoever has the secret of this cluster can make this peer pin and unpin anything".to_owned(),
    ] {
        assert_eq!(peer.said(&text), 1, "{text}: {:#?}", peer.seen);
    }
    assert_eq!(peer.said(&"77".repeat(32)), 0);
    // It is the copy now.
    server.answer("/service.json", 503, "");
    let mut peer = home.start(&["mycl", "run"], &ipfs.address, &[]).ready();
    assert_eq!((peer.stop(), peer.said("has changed")), (0, 0));
    assert_eq!(peer.said("can make this peer pin"), 1);
}

#[test]
fn a_name_goes_through_the_gateway_and_without_one_through_the_daemon_itself() {
    let gateway = Server::start();
    gateway.put("/ipns/cluster.example", &template());
    let named = format!("127.0.0.1:{}", gateway.port);
    let home = Home::new();
    home.run(&["mycl", "init", "cluster.example", "--gateway", &named]).ok();
    let file = std::fs::read_to_string(home.path("mycl", "service.json")).unwrap();
    assert_eq!(file, format!("{{\n  \"source\": \"http://{named}/ipns/cluster.example\"\n}}"));
    let info = home.run(&["mycl"]).ok();
    assert!(info.contains(&format!("Available (http://{named}/ipns/cluster.example)")), "{info}");

    // One that the reference wrote, without a scheme, and nobody there; the daemon's API is.
    let rpc = Server::start();
    rpc.answer("/api/v0/cat?arg=%2Fipns%2Fcluster.example", 200, &template().to_string());
    rpc.answer("/api/v0/id", 200, &json!({"ID": STRANGER, "Addresses": []}).to_string());
    std::fs::write(home.path("mycl", "service.json"), "{\"source\": \"127.0.0.1:1/ipns/cluster.example\"}")
        .unwrap();
    let variables = [("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", rpc.multiaddress())];
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let info = home.run_with(&["mycl"], &variables).ok();
    assert!(info.contains("Available (127.0.0.1:1/ipns/cluster.example)"), "{info}");
    assert!(info.contains("IPFS peer online: true"), "{info}");

    // More than a configuration can be.
    rpc.answer("/api/v0/cat?arg=%2Fipns%2Fcluster.example", 200, &" ".repeat(5 << 20));
    std::fs::remove_file(home.path("mycl", "service.cached.json")).unwrap();
    let info = home.run_with(&["mycl"], &variables).ok();
    assert!(
        info.contains("failed retrieving configuration source (127.0.0.1:1/ipns/cluster.example)"),
        "{info}"
    );
}

#[test]
fn an_old_daemon_is_refused_and_one_that_is_not_there_is_waited_for() {
    let server = Server::of(&template());
    let home = Home::following("mycl", &server.service_json());
    let rpc = Server::start();
    rpc.answer("/api/v0/id", 200, &json!({"ID": STRANGER, "Addresses": []}).to_string());
    rpc.answer("/api/v0/version", 200, &json!({"Version": "0.4.23"}).to_string());
    let address = rpc.multiaddress();
    let ran = home.run_with(&["mycl", "run"], &[("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", &address)]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stdout,
        format!(
            "Starting the IPFS Cluster follower peer for \"mycl\".\nCTRL-C to stop it.\nChecking if IPFS is online (will \
             wait for 2 minutes)...\nwaiting for IPFS to become available on {address}...\n"
        )
    );
    assert!(ran.stderr.contains("the IPFS daemon is version 0.4.23, which is too old"), "{}", ran.stderr);

    let mut peer = home.start(&["mycl", "run"], NOBODY, &[]);
    peer.wait_for(&format!("waiting for IPFS to become available on {NOBODY}..."));
    assert_eq!(peer.stop(), 0, "{:#?}", peer.seen);
    assert!(!home.path("mycl", "cluster.lock").exists());
}
