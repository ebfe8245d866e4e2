//! Daemons that agree by Raft.

use super::http::ask;
use super::ports::free_port;
use super::process::Running;
use super::run::{Ipfs, start};
use super::wait::wait_until;
use super::*;

const CID: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";
const OTHER_CID: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

/// A home that was made with the same secret.
fn home(secret: &str) -> Home {
    let home = Home::new();
    let ran = home.run_with(&["init", "--consensus", "raft"], &[("CLUSTER_SECRET", secret)], "");
    assert!(
        ran.stderr.contains("the first of a new cluster") && ran.stderr.contains("--bootstrap"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    home
}

/// A daemon, its API, and where others reach it.
pub(crate) struct Peer {
    pub(crate) running: Running,
    pub(crate) api: u16,
    pub(crate) id: String,
    pub(crate) address: String,
}

impl Peer {
    pub(crate) fn start(home: &Home, ipfs: &Ipfs, bootstrap: Option<&str>) -> Self {
        let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port());
        let bootstrap: Vec<&str> = bootstrap.iter().flat_map(|address| ["--bootstrap", address]).collect();
        let variables = [
            ("CLUSTER_LISTENMULTIADDRESS", listen.as_str()),
            ("CLUSTER_PEERWATCHINTERVAL", "1s"),
            ("CLUSTER_MONITORPINGINTERVAL", "2s"),
        ];
        let mut running = start(home, &ipfs.address, &bootstrap, &variables);
        let api = running.api_port();
        let id = home.run(&["id"]).stdout.trim().to_owned();
        let address = format!("{listen}/p2p/{id}");
        Self { running, api, id, address }
    }

    pub(crate) fn ready(mut self) -> Self {
        self.running.wait_for("** IPFS Cluster is READY **");
        self
    }

    pub(crate) fn members(&self) -> usize {
        let answer = ask(self.api, "GET", "/id");
        let id: Value =
            answer.find('{').and_then(|at| serde_json::from_str(&answer[at..]).ok()).unwrap_or_default();
        id["cluster_peers"].as_array().map_or(0, Vec::len)
    }

    pub(crate) fn has(&self, cid: &str) -> bool {
        ask(self.api, "GET", &format!("/allocations/{cid}")).contains("\"cid\"")
    }

    pub(crate) fn pin(&self, cid: &str) -> String {
        ask(self.api, "POST", &format!("/pins/{cid}"))
    }
}

#[test]
fn peers_join_agree_and_leave() {
    let secret = "5".repeat(64);
    let ipfs = Ipfs::start();
    let homes = [home(&secret), home(&secret), home(&secret)];
    let file = homes[0].service_json();
    assert_eq!(file["consensus"]["raft"]["wait_for_leader_timeout"], "15s");
    let one = Peer::start(&homes[0], &ipfs, None).ready();
    assert!(one.pin(CID).contains("200 OK"));
    let two = Peer::start(&homes[1], &ipfs, Some(&one.address)).ready();
    let mut three = Peer::start(&homes[2], &ipfs, Some(&one.address)).ready();
    wait_until("three members everywhere", || [&one, &two, &three].iter().all(|peer| peer.members() == 3));
    assert!(two.has(CID) && three.has(CID));
    assert!(two.pin(OTHER_CID).contains("200 OK"));
    assert!(two.has(OTHER_CID), "what was acknowledged is shown where it was asked for");
    wait_until("the pin everywhere", || one.has(OTHER_CID) && three.has(OTHER_CID));

    // One is removed, notices, stops, and puts its store aside.
    let answer = ask(two.api, "DELETE", &format!("/peers/{}", three.id));
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(three.running.exit_code(), 0);
    assert!(homes[2].path("fjall.old.0").exists() && !homes[2].path("fjall").exists());
    wait_until("two members", || one.members() == 2 && two.members() == 2);

    // It can join again.
    let three = Peer::start(&homes[2], &ipfs, Some(&two.address)).ready();
    wait_until("three members again", || three.members() == 3 && three.has(CID));

    // Two of three are lost for good: the third goes on alone once it was told to.
    for mut lost in [one, two] {
        lost.running.child.kill().unwrap();
        lost.running.child.wait().unwrap();
    }
    let mut three = three;
    assert_eq!(three.running.stop(), 0);
    let info = homes[2].run(&["state", "raft", "info"]);
    assert!(
        info.stdout.contains("Term: ")
            && info.stdout.contains(" of term ")
            && info.stdout.matches("12D3").count() == 3,
        "{}",
        info.stdout
    );
    let recovered = homes[2].run(&["state", "raft", "recover", "-f"]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    let mut three = Peer::start(&homes[2], &ipfs, None).ready();
    assert_eq!(three.members(), 1);
    assert!(three.has(CID) && three.has(OTHER_CID));
    assert!(ask(three.api, "DELETE", &format!("/peers/{}", three.id)).contains("1-peer cluster"));
    assert_eq!(three.running.stop(), 0);
}

#[test]
fn a_peer_with_the_identity_of_a_member_is_told() {
    let secret = "8".repeat(64);
    let ipfs = Ipfs::start();
    let homes = [home(&secret), home(&secret), home(&secret)];
    let mut one = Peer::start(&homes[0], &ipfs, None).ready();
    let mut two = Peer::start(&homes[1], &ipfs, Some(&one.address)).ready();
    std::fs::copy(homes[1].path("identity.json"), homes[2].path("identity.json")).unwrap();
    let mut again = Peer::start(&homes[2], &ipfs, Some(&one.address));
    again.running.wait_for("this peer is taken for a member already");
    assert_eq!(again.running.stop(), 0);
    assert_eq!((one.members(), two.members()), (2, 2));
    assert!(two.pin(CID).contains("200 OK"));
    assert_eq!((two.running.stop(), one.running.stop()), (0, 0));
}

#[test]
fn the_pinset_is_exported_imported_and_cleaned_away() {
    let home = home(&"6".repeat(64));
    let pin = format!("{{\"cid\":\"{CID}\",\"name\":\"a\",\"type\":\"pin\",\"max_depth\":-1}}\n");
    let ran = home.run_with(&["state", "import", "-f"], &[], &pin);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(home.run(&["state", "export"]).stdout.contains(CID));
    assert!(!home.path("fjall.old.0").exists(), "nothing was there before");
    let ran = home.run_with(&["state", "import", "-f"], &[], &pin.replace(CID, OTHER_CID));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // As in the reference, what it takes the place of is kept.
    assert!(home.path("fjall.old.0").exists() && ran.stderr.contains("fjall.old.0"), "{}", ran.stderr);
    let exported = home.run(&["state", "export"]).stdout;
    assert!(exported.contains(OTHER_CID) && !exported.contains(CID), "{exported}");
    // The peer starts on what was imported.
    let ipfs = Ipfs::start();
    let mut peer = Peer::start(&home, &ipfs, None).ready();
    assert!(peer.has(OTHER_CID));
    assert_eq!(peer.running.stop(), 0);
    for _ in 0..2 {
        let ran = home.run(&["state", "cleanup", "-f"]);
        assert!(ran.code == 0 && ran.stderr.contains("fjall.old.0"), "{}", ran.stderr);
        assert_eq!(home.run(&["state", "export"]).stdout, "");
    }
    assert!(home.path("fjall.old.0").exists() && home.path("fjall.old.1").exists());
    let ran = home.run(&["state", "crdt", "info"]);
    assert!(ran.stderr.contains("crdt subcommands can only be run on peers initialized with crdt consensus"));
    let ran = Home::initialized().run(&["state", "raft", "info"]);
    assert!(ran.stderr.contains("raft subcommands can only be run on peers initialized with raft consensus"));
}
