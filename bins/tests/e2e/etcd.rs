//! Daemons that agree through etcd, one of one member and one of three, with writers at work meanwhile.
//!
//! Needs an etcd in `IPFS_CLUSTER_TEST_ETCD`, which `cargo xtask test` builds and sets, or Go to build it with; without
//! either each test says that it was skipped.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Consensus, Shared, living, place_pairs, wait_until_placed};
use crate::crash::pinset as cids;
use crate::etcd_server::Server;
use crate::kubo::Kubo;
use crate::load::{Account, cid};
use crate::programs::{Answers as _, everywhere, pinset, wait_until_all_list_all, wait_until_equal};
use crate::raft::{all_but, apis, wait_until_nothing_is_missing};
use crate::wait::{wait_until, wait_until_seen};

/// Writes that are acknowledged before something happens, and after.
const WRITES: u64 = 100;
/// Longest that nobody may be acknowledged when a peer or a member of etcd was killed: far more than it takes on a machine
/// that has nothing else to do.
const GAP_MAX: Duration = Duration::from_secs(30);

/// What peers are told so that they agree through this etcd.
struct Through {
    endpoints: String,
}

impl Through {
    fn these(servers: &[Server]) -> Self {
        Self { endpoints: servers.iter().map(Server::url).collect::<Vec<_>>().join(",") }
    }

    fn environment(&self) -> [(&str, &str); 3] {
        [
            ("CLUSTER_ETCD_ENDPOINTS", &self.endpoints),
            // Gone is who says nothing for so long.
            ("CLUSTER_ETCD_LEASETTL", "15s"),
            ("CLUSTER_PEERWATCHINTERVAL", "1s"),
        ]
    }
}

/// Nobody is told of anybody: they find each other.
fn consensus<'a>(environment: &'a [(&'a str, &'a str)]) -> Consensus<'a> {
    Consensus { name: "etcd", environment, joins: false }
}

/// What a member of etcd says of itself.
fn status(server: &Server) -> Option<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = "POST /v3/maintenance/status HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// The place of the member that leads the others.
#[track_caller]
fn leader(servers: &[Server]) -> usize {
    wait_until_seen("a member of etcd leads", || {
        let said: Vec<_> = servers.iter().map(status).collect();
        let leads = |status: &Option<Value>| {
            status.as_ref().is_some_and(|status| status["leader"] == status["header"]["member_id"])
        };
        said.iter().position(leads).ok_or(said)
    })
}

#[test]
fn three_peers_find_each_other_and_their_daemons_pin() {
    let Some(servers) = Server::start_all::<1>(&[]) else { return };
    let Some(kubos) = (0..3).map(|_| Kubo::start()).collect::<Option<Vec<_>>>() else { return };
    let ipfs: Vec<_> = kubos.iter().map(Kubo::multiaddr).collect();
    let ipfs: Vec<_> = ipfs.iter().map(String::as_str).collect();
    let through = Through::these(&servers);
    let mut peers = consensus(&through.environment()).members(&ipfs, &[]);
    let mut pinned = Vec::new();
    for (number, peer) in peers.iter().enumerate() {
        for mode in ["recursive", "direct"] {
            let cid = everywhere(&kubos, &format!("{mode} by {number}"));
            peer.ctl(&["pin", "add", "--no-status", "--mode", mode, "--name", mode, &cid]).ok();
            // What was answered is there where it was asked for.
            assert_eq!(pinset(peer)[&cid]["name"], mode);
            pinned.push((cid, mode));
        }
    }
    wait_until_equal(&peers, pinned.len());
    for (cid, mode) in &pinned {
        for peer in &peers {
            wait_until_seen(&format!("{} says that all hold {cid}", peer.name()), || {
                let infos = peer.json(&["status", cid]);
                let map = infos[0]["peer_map"].as_object().cloned().unwrap_or_default();
                let held = map.values().filter(|at| at["status"] == "pinned").count();
                if held == 3 { Ok(()) } else { Err(infos) }
            });
        }
        assert!(kubos.iter().all(|kubo| kubo.has(cid, mode)), "{cid} {mode}");
    }

    // The only member of etcd is killed and comes back; nobody has to be told.
    servers[0].kill();
    assert_eq!(pinset(&peers[1]).len(), pinned.len());
    servers[0].run();
    // Who unpins is not who pinned.
    for (number, (cid, _)) in pinned.iter().enumerate() {
        let peer = &peers[(number / 2 + 1) % 3];
        wait_until("a pin is removed", || peer.ctl(&["pin", "rm", "--no-status", cid]).code == 0);
    }
    wait_until_equal(&peers, 0);
    wait_until("the daemons let go", || {
        kubos.iter().all(|kubo| pinned.iter().all(|(cid, mode)| !kubo.has(cid, mode)))
    });
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

#[test]
fn peers_and_members_of_etcd_are_killed_under_load_and_nothing_acknowledged_is_lost() {
    let Some(servers) = Server::start_all::<3>(&[]) else { return };
    let daemon = Shared::start();
    let through = Through::these(&servers);
    let environment = through.environment();
    let mut peers = daemon.members::<3>(consensus(&environment), &[]);
    let account = Account::new();
    for killed in 0..2 {
        account.while_writing(&apis(all_but(&peers, killed)), killed as u64, || {
            account.wait_for(WRITES);
            account.longest_gap();
            peers[killed].kill();
            account.wait_for(WRITES);
            peers[killed].resume();
            account.wait_for(WRITES);
            let gap = account.longest_gap();
            eprintln!("peer {killed} killed; longest time without an answer {gap:?}");
            assert!(gap < GAP_MAX, "nothing was acknowledged for {gap:?}");
        });
        wait_until_all_list_all(&peers);
        wait_until_nothing_is_missing(&peers, &account);
    }
    for round in 0..2 {
        let killed = leader(&servers);
        account.while_writing(&apis(&peers), 10 + round, || {
            account.wait_for(WRITES);
            account.longest_gap();
            servers[killed].kill();
            account.wait_for(WRITES);
            let gap = account.longest_gap();
            eprintln!("member {killed} of etcd killed, which led; longest time without an answer {gap:?}");
            assert!(gap < GAP_MAX, "nothing was acknowledged for {gap:?}");
            servers[killed].run();
            account.wait_for(WRITES);
        });
        wait_until_nothing_is_missing(&peers, &account);
    }
    let (refused, texts) = account.refused();
    let (known, open) = account.count();
    eprintln!("{known} pins and unpins checked, {open} were open, {refused} were refused: {texts:?}");
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

#[test]
fn peers_on_etcd_come_and_go_under_load_and_their_pins_move() {
    let Some(servers) = Server::start_all::<1>(&[]) else { return };
    let Some(kubos) = (0..4).map(|_| Kubo::start()).collect::<Option<Vec<_>>>() else { return };
    let ipfs: Vec<_> = kubos.iter().map(Kubo::multiaddr).collect();
    let ipfs: Vec<_> = ipfs.iter().map(String::as_str).collect();
    let through = Through::these(&servers);
    let environment = through.environment();
    let etcd = consensus(&environment);
    let mut peers = etcd.members(&ipfs[..3], &[]);
    let placed = place_pairs(&peers, &kubos);

    let account = Account::new();
    account.while_writing(&apis(&peers), 1, || {
        account.wait_for(WRITES);
        // One more, which has nothing yet.
        let mut fourth = etcd.member("peer-3", ipfs[3], None, &[]);
        fourth.resume();
        peers.push(fourth);
        wait_until_all_list_all(&peers);
        account.wait_for(WRITES);

        account.write_through(&apis(all_but(&peers, 1)));
        account.wait_for(WRITES);
        let id = &peers[1].id();
        peers[0].ctl(&["peers", "rm", id]).ok();
        assert_eq!(peers[1].ended(), 0, "{}", peers[1].log());
        let log = peers[1].log();
        assert!(log.contains("this peer is no longer a member"), "{log}");
        account.wait_for(WRITES);
        wait_until_all_list_all(living(&peers).collect::<Vec<_>>());
        for peer in living(&peers) {
            assert!(!peer.ctl(&["peers", "ls"]).ok().contains(id));
        }
        eprintln!("one added, one removed; longest time without an answer {:?}", account.longest_gap());
    });
    wait_until_nothing_is_missing(&peers, &account);
    wait_until_placed(&peers, &kubos, &placed);

    // It is not let in until it asks, and then has what it missed.
    let refused = peers[1].service(&["daemon"]);
    assert!(refused.code == 0 && refused.err.contains("was removed from the cluster"), "{refused:?}");
    peers[1].arguments = vec!["--bootstrap".to_owned(), peers[0].multiaddr()];
    peers[1].resume();
    wait_until_all_list_all(&peers);
    wait_until_nothing_is_missing(&peers, &account);
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

#[test]
fn an_etcd_without_a_quorum_is_named_in_time_and_reading_goes_on() {
    const DEADLINE: (&str, &str) = ("CLUSTER_ETCD_REQUESTTIMEOUT", "5s");
    const LATEST: Duration = Duration::from_secs(30);
    let Some(servers) = Server::start_all::<3>(&[]) else { return };
    let daemon = Shared::start();
    let through = Through::these(&servers);
    let environment = through.environment();
    let mut peers = daemon.members::<2>(consensus(&environment), &[DEADLINE]);
    let account = Account::new();
    account.while_writing(&apis(&peers), 2, || account.wait_for(2 * WRITES));
    let pins = wait_until_nothing_is_missing(&peers, &account);
    let leads = leader(&servers);
    servers[leads].kill();
    servers[(leads + 1) % 3].kill();

    let new = cid(0, u64::from(u32::MAX));
    for peer in &peers {
        for words in [
            &["pin", "add", "--no-status", &new][..],
            &["pin", "rm", "--no-status", pins.first().unwrap()],
            &["peers", "rm", &peers[1].id()],
        ] {
            let begun = Instant::now();
            let said = peer.ctl(words);
            assert!(said.code == 2 && begun.elapsed() < LATEST, "{words:?}: {said:?}");
            assert!(said.out.contains("no quorum"), "{words:?}: {said:?}");
        }
        // What it knows it still tells.
        assert_eq!(cids(peer), pins);
        wait_until_seen("all are members still, and answer", || {
            let listed = peer.ctl(&["peers", "ls"]).ok();
            if listed.matches("Sees 1 other").count() == 2 { Ok(()) } else { Err(listed) }
        });
    }
    // One that was away meanwhile has what it had, and starts.
    peers[1].kill();
    peers[1].resume();
    assert_eq!(cids(&peers[1]), pins);

    servers[leads].run();
    account.while_writing(&apis(&peers), 3, || account.wait_for(2 * WRITES));
    let now: BTreeSet<_> = wait_until_nothing_is_missing(&peers, &account);
    eprintln!("{} pins before, {} after", pins.len(), now.len());
    wait_until_all_list_all(&peers);
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}
