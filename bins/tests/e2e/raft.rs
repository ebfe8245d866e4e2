//! Daemons that agree by Raft: a leader, a quorum, and members that come and go, with writers at work meanwhile.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::cluster::{RAFT, Shared, living};
use crate::crash::pinset as cids;
use crate::kubo::Kubo;
use crate::load::{Account, assert_nothing_lost};
use crate::programs::{Answers as _, Peer, everywhere, pinset, wait_until_all_list_all, wait_until_equal};
use crate::wait::{wait_until, wait_until_seen};

/// Longest that nobody may be acknowledged when the leader was killed: far more than an election takes, which is under two
/// seconds on a machine that has nothing else to do.
const GAP_MAX: Duration = Duration::from_secs(30);
/// Writes that are acknowledged before something happens, and after.
const WRITES: u64 = 100;

fn apis(peers: &[&Peer]) -> Vec<SocketAddr> {
    peers.iter().map(|peer| peer.api).collect()
}

/// The place of the leader among these, by what the others say in their logs.
#[track_caller]
fn leader(peers: &[Peer]) -> usize {
    wait_until_seen("all that live say who of them leads", || {
        let said: BTreeSet<_> = living(peers)
            .map(|peer| {
                let log = peer.log();
                let last =
                    log.lines().rfind(|line| line.contains("raft leader") || line.contains("Raft Leader"));
                last.and_then(|line| line.rsplit_once("Current Raft Leader: "))
                    .map(|(_, id)| id.trim().to_owned())
            })
            .collect();
        let leads = |peer: &Peer| peer.is_running() && said.len() == 1 && said.contains(&Some(peer.id()));
        peers.iter().position(leads).ok_or(said)
    })
}

/// Waits until all that live list the same pinset and nothing that was acknowledged is missing in it.
#[track_caller]
fn wait_until_nothing_is_missing(peers: &[Peer], account: &Account) -> BTreeSet<String> {
    let agreed = wait_until_seen("all that live list the same pinset", || {
        let mut listed: Vec<_> = living(peers).map(cids).collect();
        listed.dedup();
        let lengths: Vec<_> = listed.iter().map(BTreeSet::len).collect();
        if listed.len() == 1 { Ok(listed.remove(0)) } else { Err(lengths) }
    });
    assert_nothing_lost("what all list", account, &agreed);
    agreed
}

#[test]
fn three_peers_agree_and_their_daemons_pin() {
    let Some(kubos) = (0..3).map(|_| Kubo::start()).collect::<Option<Vec<_>>>() else { return };
    let ipfs: Vec<_> = kubos.iter().map(Kubo::multiaddr).collect();
    let ipfs: Vec<_> = ipfs.iter().map(String::as_str).collect();
    let mut peers = RAFT.members(&ipfs, &[]);
    let ids: BTreeSet<_> = peers.iter().map(Peer::id).collect();
    let mut pinned = Vec::new();
    for (number, peer) in peers.iter().enumerate() {
        for (mode, name) in [("recursive", "all of it"), ("direct", "the root")] {
            let cid = everywhere(&kubos, &format!("{name} by {number}"));
            let arguments =
                ["pin", "add", "--no-status", "--mode", mode, "--name", name, "--metadata", "k=v"];
            peer.ctl(&[&arguments[..], &[&cid]].concat()).ok();
            // What was answered is there where it was asked for.
            assert_eq!(pinset(peer)[&cid]["name"], name);
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
                if held == 3 && map.keys().all(|id| ids.contains(id)) { Ok(()) } else { Err(infos) }
            });
        }
        assert!(kubos.iter().all(|kubo| kubo.has(cid, mode)), "{cid} {mode}");
    }
    let statuses = |peer: &Peer| {
        let mut infos = peer.json(&["status"]);
        infos.sort_by_key(|info| info["cid"].to_string());
        infos
            .iter()
            .map(|info| (info["cid"].to_string(), info["peer_map"].as_object().unwrap().len()))
            .collect()
    };
    let seen: Vec<Vec<_>> = peers.iter().map(statuses).collect();
    assert!(seen.iter().all(|other| *other == seen[0]), "{seen:?}");

    // Who unpins is not who pinned.
    for (number, (cid, _)) in pinned.iter().enumerate() {
        peers[(number / 2 + 1) % 3].ctl(&["pin", "rm", "--no-status", cid]).ok();
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
fn each_peer_is_killed_under_load_the_leader_first_and_nothing_acknowledged_is_lost() {
    let daemon = Shared::start();
    let mut peers = daemon.members::<3>(RAFT, &[]);
    let account = Account::new();
    let first = leader(&peers);
    let order = [first, (first + 1) % 3, (first + 2) % 3];
    for (round, killed) in order.into_iter().enumerate() {
        let others: Vec<_> = peers.iter().enumerate().filter(|(number, _)| *number != killed).collect();
        let through = apis(&others.iter().map(|(_, peer)| *peer).collect::<Vec<_>>());
        let led = leader(&peers) == killed;
        account.while_writing(&through, round as u64, || {
            account.wait_for(WRITES);
            account.longest_gap();
            peers[killed].kill();
            account.wait_for(WRITES);
            let gap = account.longest_gap();
            eprintln!("peer {killed} killed, which led: {led}; longest time without an answer {gap:?}");
            assert!(gap < GAP_MAX, "nothing was acknowledged for {gap:?}");
            peers[killed].resume();
            account.wait_for(WRITES);
        });
        wait_until_all_list_all(&peers);
        wait_until_nothing_is_missing(&peers, &account);
    }
    let (refused, texts) = account.refused();
    let (known, open) = account.count();
    eprintln!("{known} pins and unpins checked, {open} were open, {refused} were refused: {texts:?}");
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}
