//! One follower that runs.

use std::os::unix::fs::FileTypeExt as _;

use serde_json::json;

use super::world::*;

fn socket(home: &Home, name: &str) -> String {
    home.path(name, "api-socket").display().to_string()
}

/// A request over the socket of a follower, and all of the answer.
fn ask_socket(path: &str, method: &str, target: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_follower_pins_what_the_trusted_peer_pins_and_unpins_and_goes_on_after_a_kill() {
    let (theirs, ours) = (Ipfs::start(), Ipfs::start());
    let writer = Writer::start(&theirs.address, "kill");
    writer.ask("POST", 0, "?name=first");
    let mut template = writer.template.clone();
    // None of it is served by a follower.
    let port = free_port();
    template["api"] = json!({
        "restapi": {"http_listen_multiaddress": format!("/ip4/127.0.0.1/tcp/{port}")},
        "ipfsproxy": {}, "pinsvcapi": {},
    });
    template["cluster"]["follower_mode"] = json!(false);
    let server = Server::of(&template);
    let home = Home::following("mycl", &server.service_json());
    let mut peer = home.start(&["mycl", "run"], &ours.address, &[]).ready();
    wait_until("the first pin", || ours.has(0));
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(peer.said("ipfsproxy"), 0, "{:#?}", peer.seen);
    wait_until("a list with it", || {
        home.run(&["mycl", "list"]).ok() == format!("{:<20} {} first\n", "pinned", CIDS[0])
    });
    assert!(home.run(&["mycl", "info"]).ok().contains("Cluster Peer online: true\n"));
    let refused = ask_socket(&socket(&home, "mycl"), "POST", &format!("/pins/{}", CIDS[1]));
    assert!(
        refused.contains("this peer is configured to be in follower mode. Write operations are disabled"),
        "{refused}"
    );
    // Nobody else has this daemon collect its garbage, not even who is trusted.
    let both = || ask(writer.api, "GET", "/peers").matches("\"rpc_protocol_version\"").count() == 2;
    wait_until("the two knowing each other", both);
    let collected = ask(writer.api, "POST", "/ipfs/gc");
    assert_eq!(collected.matches("\"peer\":").count(), 1, "{collected}");
    // Who asks for lists is not told of in the log.
    assert_eq!(peer.said("restapilog"), 0, "{:#?}", peer.seen);

    peer.signal("KILL");
    peer.exit_code();
    assert!(std::fs::symlink_metadata(home.path("mycl", "api-socket")).unwrap().file_type().is_socket());
    // Without its API it lists what is on disk.
    assert_eq!(home.run(&["mycl", "list"]).ok(), format!("{:<20} {} first\n", "offline", CIDS[0]));
    writer.ask("POST", 1, "");
    writer.ask("DELETE", 0, "");
    let mut peer = home.start(&["mycl", "run"], &ours.address, &[]).ready();
    wait_until("the second pin instead of the first", || ours.has(1) && !ours.has(0));
    wait_until("a list with it", || {
        home.run(&["mycl", "list"]).ok() == format!("{:<20} {} \n", "pinned", CIDS[1])
    });
    assert_eq!(peer.stop(), 0);
    assert!(home.path("mycl", "peerstore").exists());
    assert!(!home.path("mycl", "api-socket").exists() && !home.path("mycl", "cluster.lock").exists());
}

#[test]
fn run_init_makes_the_follower_and_the_next_time_it_says_that_there_is_one() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::new();
    let mut peer = home.start(&["mycl", "run", "--init", &server.service_json()], &ipfs.address, &[]).ready();
    assert_eq!(peer.stop(), 0);
    assert_eq!(peer.said("Cluster \"mycl\" follower peer initialized."), 1);
    let mut peer = home.start(&["mycl", "run", "--init", "http://127.0.0.1:1/"], &ipfs.address, &[]).ready();
    assert_eq!(peer.stop(), 0);
    peer.wait_for("Configuration for this cluster already exists. Skipping initialization.");
    peer.wait_for(&format!(
        "If you wish to re-initialize, simply delete {}",
        home.base.join("mycl").display()
    ));
}

#[test]
fn each_signal_ends_a_follower_cleanly() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::following("mycl", &server.service_json());
    for signal in ["INT", "TERM", "HUP"] {
        let mut peer = home.start(&["run", "mycl"], &ipfs.address, &[]).ready();
        peer.signal(signal);
        assert_eq!(peer.exit_code(), 0, "{signal}: {:#?}", peer.seen);
        // As the reference's, without a name before the facility.
        let ready = peer.wait_for("** IPFS Cluster is READY **");
        assert!(ready.contains("\tINFO\tcluster\tcluster/"), "{ready}");
        assert_eq!(peer.said("\tWARN\t") + peer.said("\tERROR\t"), 0, "{:#?}", peer.seen);
    }
}

#[test]
fn a_folder_is_of_one_process() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::following("mycl", &server.service_json());
    let _peer = home.start(&["mycl", "run"], &ipfs.address, &[]).ready();
    let ran = home.run(&["mycl", "run"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains(
            "someone else has the lock. If no other ipfs-cluster-follow process is running, remove"
        ),
        "{}",
        ran.stderr
    );
    let ran = home.run(&["mycl", "leave", "--keep-pins"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("the follower peer of \"mycl\" is running: stop it first"),
        "{}",
        ran.stderr
    );
    assert!(home.path("mycl", "service.json").exists());
}

#[test]
fn the_api_can_be_moved_and_the_other_commands_follow_it() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::following("mycl", &server.service_json());
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let moved = [("CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS", address.as_str())];
    let _peer = home.start(&["mycl", "run"], &ipfs.address, &moved).ready();
    assert!(!home.path("mycl", "api-socket").exists());
    assert!(home.run_with(&["mycl", "info"], &moved).ok().contains("Cluster Peer online: true\n"));
    home.run_with(&["mycl", "list"], &moved).ok();
    let ran = home.run(&["mycl", "list"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.ends_with("the peer is running, and its API does not answer\n"), "{}", ran.stderr);
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_said_with_the_ways_out() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let name = "n".repeat(100);
    let home = Home::following(&name, &server.service_json());
    let ran = home.run_with(&[&name, "run"], &[("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", &ipfs.address)]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no socket can be at") && ran.stderr.contains("--config"), "{}", ran.stderr);
}

#[test]
fn data_of_a_go_follower_is_left_alone_and_said() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::following("mycl", &server.service_json());
    std::fs::create_dir(home.path("mycl", "pebble")).unwrap();
    std::fs::write(home.path("mycl", "pebble/CURRENT"), "x").unwrap();
    let ran = home.run(&["mycl", "list"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(
        ran.stderr.contains("holds the pinset of a Go peer (pebble), which this program does not read"),
        "{ran:?}"
    );
    let mut peer = home.start(&["mycl", "run"], &ipfs.address, &[]).ready();
    assert_eq!(peer.said("holds the pinset of a Go peer (pebble), which is left as it is"), 1);
    assert_eq!(peer.stop(), 0);
    home.run(&["mycl", "list"]).ok();
    assert_eq!(std::fs::read_to_string(home.path("mycl", "pebble/CURRENT")).unwrap(), "x");
}
