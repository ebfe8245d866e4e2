//! Daemons that agree through etcd.

use super::etcd_server::Server;
use super::http::ask;
use super::ports::free_port;
use super::raft::Peer;
use super::run::{Ipfs, start};
use super::wait::wait_until;
use super::*;

const CID: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";
const OTHER_CID: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

/// A home that was made with this secret, for this etcd.
fn home(etcd: &str, secret: &str) -> Home {
    let home = Home::new();
    let variables = [
        ("CLUSTER_SECRET", secret),
        ("CLUSTER_ETCD_ENDPOINTS", etcd),
        // Gone is who is gone for so long, and nobody is that late on a busy machine.
        ("CLUSTER_ETCD_LEASETTL", "20s"),
        ("CLUSTER_ETCD_REQUESTTIMEOUT", "60s"),
    ];
    let ran = home.run_with(&["init", "--consensus", "etcd", "--cluster-name", "mine"], &variables, "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("{etcd}, below /ipfs-cluster/mine/")), "{}", ran.stderr);
    home
}

fn export_line(cid: &str) -> String {
    format!("{{\"cid\":\"{cid}\",\"name\":\"a\",\"type\":\"pin\",\"max_depth\":-1}}\n")
}

#[test]
fn init_writes_where_etcd_is_and_refuses_what_is_for_others() {
    let home = home("http://127.0.0.1:1", "");
    let section = home.service_json()["consensus"]["etcd"].clone();
    assert_eq!(section["endpoints"], json!(["http://127.0.0.1:1"]));
    assert_eq!((&section["cluster_name"], &section["lease_ttl"]), (&json!("mine"), &json!("20s")));
    assert_eq!(home.service_json()["consensus"].as_object().unwrap().len(), 1);
    for (arguments, variables, text) in [
        (&["--collaborative"][..], &[][..], "leave out --consensus etcd"),
        (&[], &[("CLUSTER_ETCD_ENDPOINTS", "127.0.0.1:2379")], "etcd.endpoints"),
        (&[], &[("CLUSTER_ETCD_PASSWORD", "x")], "etcd.username"),
    ] {
        let home = Home::new();
        let ran = home.run_with(&[&["init", "--consensus", "etcd"], arguments].concat(), variables, "");
        assert!(ran.code == 1 && ran.stderr.contains(text), "{}", ran.stderr);
        assert!(!home.path("service.json").exists());
    }
}

#[test]
fn peers_find_each_other_agree_and_one_that_is_removed_stays_out_until_it_asks() {
    let Some(server) = Server::start(&[]) else { return };
    let secret = "5".repeat(64);
    let ipfs = Ipfs::start();
    let homes = [home(&server.url(), &secret), home(&server.url(), &secret), home(&server.url(), &secret)];
    // Nobody is told of another one.
    let one = Peer::start(&homes[0], &ipfs, None).ready();
    assert!(one.pin(CID).contains("200 OK"));
    let two = Peer::start(&homes[1], &ipfs, None).ready();
    let mut three = Peer::start(&homes[2], &ipfs, None).ready();
    wait_until("three members everywhere", || [&one, &two, &three].iter().all(|peer| peer.members() == 3));
    assert!(two.has(CID) && three.has(CID));
    assert!(two.pin(OTHER_CID).contains("200 OK"));
    assert!(two.has(OTHER_CID), "what was acknowledged is shown where it was asked for");
    wait_until("the pin everywhere", || one.has(OTHER_CID) && three.has(OTHER_CID));
    // They reach each other, not only etcd.
    wait_until("all answer all", || {
        [&one, &two, &three].iter().all(|peer| {
            let peers = ask(peer.api, "GET", "/peers");
            peers.matches("\"version\"").count() == 3 && !peers.contains("\"error\":\"n")
        })
    });

    // One is removed, notices and stops. Its copy stays: who is a member is in etcd.
    let answer = ask(two.api, "DELETE", &format!("/peers/{}", three.id));
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(three.running.exit_code(), 0);
    assert!(homes[2].path("fjall").exists() && !homes[2].path("fjall.old.0").exists());
    wait_until("two members", || one.members() == 2 && two.members() == 2);
    let mut three = Peer::start(&homes[2], &ipfs, None);
    assert_eq!(three.running.exit_code(), 0);
    let said = three.running.seen.join("\n");
    assert!(
        said.contains("this peer was removed from the cluster") && said.contains("--bootstrap"),
        "{said}"
    );

    // It asks another one to let it in.
    let mut three = Peer::start(&homes[2], &ipfs, Some(&one.address)).ready();
    wait_until("three members again", || one.members() == 3 && three.members() == 3);
    assert!(three.pin(CID).contains("200 OK"));

    // One that stops is no member, and is one again when it is back.
    assert_eq!(three.running.stop(), 0);
    wait_until("two members are left", || one.members() == 2);
    let three = Peer::start(&homes[2], &ipfs, None).ready();
    wait_until("three members for the last time", || two.members() == 3 && three.members() == 3);
    for mut peer in [one, two, three] {
        assert_eq!(peer.running.stop(), 0);
    }
}

#[test]
fn who_has_another_secret_is_refused_and_told_what_to_do() {
    let Some(server) = Server::start(&[]) else { return };
    let ipfs = Ipfs::start();
    let homes = [home(&server.url(), &"5".repeat(64)), home(&server.url(), &"6".repeat(64))];
    let mut one = Peer::start(&homes[0], &ipfs, None).ready();
    let mut other = Peer::start(&homes[1], &ipfs, None);
    assert_eq!(other.running.exit_code(), 1);
    let said = other.running.seen.join("\n");
    assert!(said.contains("another secret") && said.contains("etcd.cluster_name"), "{said}");
    assert_eq!(one.members(), 1);
    assert_eq!(one.running.stop(), 0);
}

#[test]
fn an_etcd_that_does_not_answer_is_waited_for_and_named() {
    let ipfs = Ipfs::start();
    let (one_port, peer_port) = (free_port(), free_port());
    let url = format!("http://127.0.0.1:{one_port}");
    let home = home(&url, "");
    let mut running = start(&home, &ipfs.address, &[], &[("CLUSTER_ETCD_REQUESTTIMEOUT", "2s")]);
    let line = running.wait_for("could not say that this peer lives");
    assert!(line.contains(&format!("etcd at {url} does not answer")), "{line}");
    if let Some(server) = Server::start_at(one_port, peer_port) {
        running.wait_for("** IPFS Cluster is READY **");
        drop(server);
    }
    assert_eq!(running.stop(), 0);

    // Offline it is not waited for.
    let variables = [("CLUSTER_ETCD_REQUESTTIMEOUT", "100ms")];
    let ran = home.run_with(&["state", "import", "-f"], &variables, &export_line(CID));
    assert!(ran.code == 1 && ran.stderr.contains("does not answer"), "{}", ran.stderr);
    let other = self::home(&url, "");
    let ran = other.run(&["state", "export"]);
    assert!(ran.code == 1 && ran.stderr.contains("no copy of the pinset"), "{}", ran.stderr);
}

#[test]
fn the_pinset_of_all_is_imported_and_a_copy_of_it_exported_and_cleaned_away() {
    let Some(server) = Server::start(&[]) else { return };
    let homes = [home(&server.url(), ""), home(&server.url(), "")];
    let ipfs = Ipfs::start();
    let mut one = Peer::start(&homes[0], &ipfs, None).ready();
    let import = |lines: &str| {
        let ran = homes[1].run_with(&["state", "import", "-f"], &[], lines);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    };
    import(&export_line(CID));
    wait_until("a peer that runs follows", || one.has(CID));
    import(&export_line(OTHER_CID));
    wait_until("the pinset was replaced", || one.has(OTHER_CID) && !one.has(CID));
    let exported = homes[1].run(&["state", "export"]).stdout;
    assert!(exported.contains(OTHER_CID) && !exported.contains(CID), "{exported}");
    // What is wrong is found before anything is changed.
    let broken = format!("{}{{x", export_line(CID));
    let ran = homes[1].run_with(&["state", "import", "-f"], &[], &broken);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(one.has(OTHER_CID) && !one.has(CID));

    assert_eq!(one.running.stop(), 0);
    let ran = homes[0].run_with(&["state", "cleanup"], &[], "n\n");
    assert!(ran.stdout.contains("The pinset stays in etcd"), "{}", ran.stdout);
    let ran = homes[0].run(&["state", "cleanup", "-f"]);
    assert!(
        ran.code == 0 && ran.stdout.contains("etcdctl del --prefix /ipfs-cluster/mine/"),
        "{}",
        ran.stdout
    );
    assert!(homes[0].run(&["state", "export"]).stderr.contains("no copy of the pinset"));
    let mut one = Peer::start(&homes[0], &ipfs, None).ready();
    assert!(one.has(OTHER_CID));
    assert_eq!(one.running.stop(), 0);
    for words in [["state", "crdt", "info"], ["state", "raft", "info"]] {
        let said = homes[0].run(&words).stderr;
        assert!(said.contains("subcommands can only be run on peers initialized with"), "{said}");
    }
}
