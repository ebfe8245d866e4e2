//! Daemons that agree by Raft: a leader, a quorum, and members that come and go, with writers at work meanwhile.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{CRDT, RAFT, SECRET, Shared, living, place_pairs, wait_until_placed};
use crate::crash::pinset as cids;
use crate::kubo::Kubo;
use crate::load::{Account, assert_nothing_lost, cid};
use crate::programs::{
    Answers as _, Peer, documents, everywhere, pinset, wait_until_all_list_all, wait_until_equal,
};
use crate::wait::{wait_until, wait_until_seen};

/// Longest that nobody may be acknowledged when the leader was killed: far more than an election takes, which is under two
/// seconds on a machine that has nothing else to do.
const GAP_MAX: Duration = Duration::from_secs(30);
/// Writes that are acknowledged before something happens, and after.
const WRITES: u64 = 100;

pub(crate) fn apis<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> Vec<SocketAddr> {
    peers.into_iter().map(|peer| peer.api).collect()
}

/// The place of the leader among these, by what the others say in their logs.
#[track_caller]
pub(crate) fn leader(peers: &[Peer]) -> usize {
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

/// Waits until all that live list the same pinset, with everything that was done before in it, and looks whether
/// anything that was acknowledged is missing.
#[track_caller]
pub(crate) fn wait_until_nothing_is_missing(peers: &[Peer], account: &Account) -> BTreeSet<String> {
    // What is acknowledged now comes after all that is left in anybody's log.
    static MARKS: AtomicU64 = AtomicU64::new(0);
    let mark = cid(u64::MAX, MARKS.fetch_add(1, Ordering::Relaxed));
    let writer = living(peers).next().unwrap();
    wait_until_seen("a write is acknowledged", || {
        let said = writer.ctl(&["pin", "add", "--no-status", &mark]);
        if said.code == 0 { Ok(()) } else { Err(said) }
    });
    let agreed = wait_until_seen("all that live list the same pinset", || {
        let mut listed: Vec<_> = living(peers).map(cids).collect();
        listed.dedup();
        let lengths: Vec<_> = listed.iter().map(BTreeSet::len).collect();
        if listed.len() == 1 && listed[0].contains(&mark) { Ok(listed.remove(0)) } else { Err(lengths) }
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
        let others = peers.iter().enumerate().filter(|(number, _)| *number != killed);
        let through = apis(others.map(|(_, peer)| peer));
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

/// Those that run but one.
pub(crate) fn all_but(peers: &[Peer], number: usize) -> impl Iterator<Item = &Peer> + Clone {
    let id = peers[number].id();
    living(peers).filter(move |peer| peer.id() != id)
}

#[test]
fn peers_come_and_go_under_load_and_their_pins_move() {
    let Some(kubos) = (0..4).map(|_| Kubo::start()).collect::<Option<Vec<_>>>() else { return };
    let ipfs: Vec<_> = kubos.iter().map(Kubo::multiaddr).collect();
    let ipfs: Vec<_> = ipfs.iter().map(String::as_str).collect();
    let mut peers = RAFT.members(&ipfs[..3], &[]);
    let placed = place_pairs(&peers, &kubos);

    let account = Account::new();
    account.while_writing(&apis(&peers), 1, || {
        account.wait_for(WRITES);
        // One more, which has nothing yet.
        let mut fourth = RAFT.member("peer-3", ipfs[3], Some(&peers[1]), &[]);
        fourth.resume();
        peers.push(fourth);
        wait_until_all_list_all(&peers);
        account.wait_for(WRITES);

        // One that follows and is dead, and then the leader, asked of itself.
        for is_leader in [false, true] {
            let leads = leader(&peers);
            let goes = if is_leader { leads } else { (0..3).find(|number| *number != leads).unwrap() };
            let asked = if is_leader { leads } else { 3 - goes };
            account.write_through(&apis(all_but(&peers, goes)));
            account.wait_for(WRITES);
            let id = peers[goes].id();
            let log = if is_leader {
                peers[asked].ctl(&["peers", "rm", &id]).ok();
                assert_eq!(peers[goes].ended(), 0, "{}", peers[goes].log());
                peers[goes].log()
            } else {
                peers[goes].kill();
                account.wait_for(WRITES);
                peers[asked].ctl(&["peers", "rm", &id]).ok();
                // It is told when it comes back.
                let said = peers[goes].service(&["daemon"]);
                assert_eq!(said.code, 0, "{}", said.err);
                said.err
            };
            assert!(log.contains("this peer is no longer a member"), "{log}");
            assert!(log.contains("the state of this peer was put aside"), "{log}");
            assert!(peers[goes].path().join("fjall.old.0").exists());
            account.wait_for(WRITES);
            wait_until_all_list_all(living(&peers).collect::<Vec<_>>());
            for peer in living(&peers) {
                assert!(!peer.ctl(&["peers", "ls"]).ok().contains(&id));
            }
            eprintln!(
                "peer {goes} removed, which led: {is_leader}; longest time without an answer {:?}",
                account.longest_gap()
            );
        }
    });
    wait_until_nothing_is_missing(&peers, &account);
    wait_until_placed(&peers, &kubos, &placed);
    let (refused, texts) = account.refused();
    let (known, open) = account.count();
    eprintln!("{known} pins and unpins checked, {open} were open, {refused} were refused: {texts:?}");

    // One more leaves by itself when it is stopped.
    let rest: Vec<_> = (0..peers.len()).filter(|number| peers[*number].is_running()).collect();
    let (stays, leaves) = (rest[0], rest[1]);
    peers[leaves].stop();
    peers[leaves].arguments = vec!["--leave".to_owned()];
    peers[leaves].resume();
    wait_until_all_list_all(living(&peers).collect::<Vec<_>>());
    assert_eq!(peers[leaves].stop(), 0);
    assert!(
        peers[leaves].path().join("fjall.old.0").exists() && !peers[leaves].path().join("fjall").exists()
    );
    wait_until("one is left", || peers[stays].json(&["peers", "ls"]).len() == 1);
    account.while_writing(&apis(living(&peers)), 2, || account.wait_for(WRITES));

    // All come back, as new members.
    let through = living(&peers).next().unwrap().multiaddr();
    for peer in peers.iter_mut().filter(|peer| !peer.is_running()) {
        peer.arguments = vec!["--bootstrap".to_owned(), through.clone()];
        peer.resume();
    }
    wait_until_all_list_all(&peers);
    wait_until_nothing_is_missing(&peers, &account);
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

#[test]
fn a_cluster_that_lost_its_quorum_says_so_and_goes_on_when_it_was_recovered() {
    // Shorter than usual, and so are the waits here.
    const DEADLINE: (&str, &str) = ("CLUSTER_RAFT_WAITFORLEADERTIMEOUT", "5s");
    const LATEST: Duration = Duration::from_secs(30);
    let daemon = Shared::start();
    let mut peers = daemon.members::<3>(RAFT, &[DEADLINE]);
    let account = Account::new();
    account.while_writing(&apis(&peers), 2, || account.wait_for(2 * WRITES));
    let pins = wait_until_nothing_is_missing(&peers, &account);
    let leads = leader(&peers);
    let (left, other) = ((leads + 1) % 3, (leads + 2) % 3);
    peers[leads].kill();
    peers[other].kill();

    let one = &peers[left];
    let new = cid(0, u64::from(u32::MAX));
    for words in [
        &["pin", "add", "--no-status", &new][..],
        &["pin", "rm", "--no-status", pins.first().unwrap()],
        &["peers", "rm", &peers[other].id()],
    ] {
        let begun = Instant::now();
        let said = one.ctl(words);
        eprintln!("{words:?} after {:?}: {said:?}", begun.elapsed());
        assert!(said.code == 2 && begun.elapsed() < LATEST, "{words:?}: {said:?}");
        assert!(said.out.contains("there is no leader"), "{words:?}: {said:?}");
    }
    // What it knows it still tells.
    assert_eq!(cids(one), pins);
    let listed = one.ctl(&["peers", "ls"]).ok();
    assert_eq!(listed.matches("ERROR").count(), 2, "{listed}");
    one.ctl(&["id"]).ok();
    wait_until("it says so in its log", || one.log().contains("there is no raft leader"));

    // As documented.
    let running = one.service(&["state", "raft", "recover", "--force"]);
    assert!(running.code == 1 && running.err.contains("someone else has the lock"), "{running:?}");
    assert_eq!(peers[left].stop(), 0);
    let info = peers[left].service(&["state", "raft", "info"]).ok();
    assert!(peers.iter().all(|peer| info.contains(&peer.id())), "{info}");
    peers[left].service(&["state", "raft", "recover", "--force"]).ok();
    peers[left].arguments.clear();
    peers[left].resume();
    wait_until_all_list_all([&peers[left]]);
    wait_until_nothing_is_missing(&peers, &account);

    // One that was lost comes back and has to be cleaned; others are new.
    let through = peers[left].multiaddr();
    peers[other].arguments = vec!["--bootstrap".to_owned(), through];
    peers[other].resume();
    wait_until_seen("who was lost says that it cannot join", || {
        let log = peers[other].log();
        if log.contains("another raft cluster") { Ok(()) } else { Err(log) }
    });
    assert_eq!(peers[left].json(&["peers", "ls"]).len(), 1);
    peers[other].stop();
    peers[other].service(&["state", "cleanup", "--force"]).ok();
    peers[other].resume();
    let mut new = daemon.member(RAFT, "new", Some(&peers[left]), &[DEADLINE]);
    new.resume();
    peers.push(new);
    wait_until_all_list_all(living(&peers).collect::<Vec<_>>());
    account.while_writing(&apis(living(&peers)), 3, || account.wait_for(WRITES));
    wait_until_nothing_is_missing(&peers, &account);
    for peer in peers.iter_mut().filter(|peer| peer.is_running()) {
        assert_eq!(peer.stop(), 0);
    }
}

#[test]
fn the_pinset_is_saved_and_brought_back() {
    let daemon = Shared::start();
    let mut peers = daemon.members::<3>(RAFT, &[]);
    let account = Account::new();
    account.while_writing(&apis(&peers), 4, || account.wait_for(WRITES));
    let pins = wait_until_nothing_is_missing(&peers, &account);
    let exported = |peer: &Peer| -> BTreeSet<String> {
        let lines = peer.service(&["state", "export"]).ok();
        documents(&lines).iter().filter_map(|pin| Some(pin["cid"].as_str()?.to_owned())).collect()
    };

    // One stops to be asked; the others go on, and it has what it missed soon after.
    for words in [&["state", "export"][..], &["state", "import", "--force"], &["state", "cleanup", "--force"]]
    {
        let said = peers[2].service(words);
        assert!(said.code == 1 && said.err.contains("someone else has the lock"), "{words:?}: {said:?}");
    }
    assert_eq!(peers[2].stop(), 0);
    assert_eq!(exported(&peers[2]), pins);
    account.while_writing(&apis(living(&peers)), 5, || account.wait_for(WRITES));
    peers[2].resume();
    let pins = wait_until_nothing_is_missing(&peers, &account);

    // All begin anew with what one of them had.
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
    let file = peers[0].path().join("pins.json");
    let file = file.to_str().unwrap();
    peers[0].service(&["state", "export", "--file", file]).ok();
    for peer in &peers {
        peer.service(&["state", "cleanup", "--force"]).ok();
        assert_eq!(exported(peer), BTreeSet::new());
    }
    peers[0].service(&["state", "import", "--force", file]).ok();
    assert_eq!(exported(&peers[0]), pins);
    let through = peers[0].multiaddr();
    for peer in &mut peers {
        // Who imported is the first member; it has nobody to join.
        peer.arguments = match peer.multiaddr() == through {
            true => Vec::new(),
            false => vec!["--bootstrap".to_owned(), through.clone()],
        };
        peer.resume();
    }
    wait_until_all_list_all(&peers);
    let now = wait_until_nothing_is_missing(&peers, &account);
    assert!(now.is_superset(&pins));

    // What was cleaned away is kept, and can be put back.
    assert_eq!(peers[1].stop(), 0);
    let (kept, current) = (peers[1].path().join("fjall.old.0"), peers[1].path().join("fjall"));
    peers[1].service(&["state", "cleanup", "--force"]).ok();
    assert!(!current.exists() && peers[1].path().join("fjall.old.1").exists());
    std::fs::rename(kept, current).unwrap();
    assert_eq!(exported(&peers[1]), now);
}

#[test]
fn who_cannot_be_a_member_is_refused_and_told_why() {
    const DEADLINE: (&str, &str) = ("CLUSTER_RAFT_WAITFORLEADERTIMEOUT", "2s");
    const REFUSED: &str = "cannot be members of one raft cluster";
    let daemon = Shared::start();
    let members = daemon.members::<2>(RAFT, &[]);

    // One that agrees in another way, and one that would be a member together with it.
    let mut stranger = daemon.member(CRDT, "stranger", Some(&members[0]), &[]);
    stranger.resume();
    wait_until("a peer with another consensus is told", || stranger.log().contains(REFUSED));
    let mut lost = daemon.member(RAFT, "lost", Some(&stranger), &[DEADLINE]);
    lost.resume();
    wait_until("a peer that asks one with another consensus is told", || lost.log().contains(REFUSED));
    assert!(!lost.log().contains("joined a cluster"));
    let said = lost.ctl(&["pin", "add", "--no-status", &cid(0, 0)]);
    assert!(
        said.code == 2 && said.out.contains("belongs to no raft cluster yet: start it with --bootstrap"),
        "{said:?}"
    );
    lost.stop();
    // One with another secret.
    let other = SECRET.replace('6', "7");
    let mut outside = daemon.member(RAFT, "outside", Some(&members[0]), &[("CLUSTER_SECRET", &other)]);
    outside.resume();
    wait_until("a peer with another secret is told", || {
        outside.log().lines().any(|line| line.contains("bootstrap to ") && line.contains("secret"))
    });

    // Nobody was disturbed.
    for peer in &members {
        assert_eq!(peer.json(&["peers", "ls"]).len(), 2);
        peer.ctl(&["pin", "add", "--no-status", &cid(0, 1)]).ok();
    }

    // Who was told to join itself has nobody to wait for.
    let own = lost.multiaddr();
    lost.arguments = vec!["--bootstrap".to_owned(), own];
    let said = lost.service(&["daemon", "--bootstrap", &lost.multiaddr()]);
    assert!(said.code == 1 && said.err.contains("names other peers"), "{said:?}");
    std::fs::remove_file(lost.path().join("peerstore")).unwrap();
    lost.resume();
    wait_until_all_list_all([&lost]);
    wait_until("it is a cluster of its own", || {
        lost.ctl(&["pin", "add", "--no-status", &cid(0, 0)]).code == 0
    });
    // And is not another one's because of that.
    lost.stop();
    lost.bootstrap(&members[0]);
    lost.resume();
    wait_until("who belongs to another cluster is told", || {
        lost.log().contains("belongs to another raft cluster")
    });
    assert_eq!(members[0].json(&["peers", "ls"]).len(), 2);
}
