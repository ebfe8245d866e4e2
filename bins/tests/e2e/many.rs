//! Several daemons as one cluster: who knows whom, who holds what, and what happens when one is gone.

use crate::cluster::{CRDT, SECRET, Shared, allocations, living};
use crate::kubo::Kubo;
use crate::programs::{Answers as _, Peer, everywhere, pinset, wait_until_all_list_all, wait_until_equal};
use crate::wait::{wait_until, wait_until_seen};

const CIDS: [&str; 3] = [
    "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
    "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
    "bafybeiehe5yxqu4ixnsomtoinlugvreling26pht2h57q7rzaumjnsf56u",
];

/// Waits until every living peer says of every pin that two of those that live hold it, and the daemons of just these
/// have it; those of dead peers are not looked at.
#[track_caller]
fn wait_until_two_hold_each(peers: &[Peer], kubos: &[Kubo]) {
    for peer in living(peers) {
        wait_until(&format!("{} says that two living peers hold each pin", peer.name()), || {
            pinset(peer).values().all(|pin| {
                let holders = allocations(pin);
                let alive = living(peers).filter(|peer| holders.contains(&peer.id()));
                holders.len() == 2 && alive.count() == 2
            })
        });
    }
    let asked = living(peers).next().unwrap();
    wait_until("the daemons of these have them, and no others", || {
        let pins = pinset(asked);
        peers.iter().zip(kubos).filter(|(peer, _)| peer.is_running()).all(|(peer, kubo)| {
            let (held, id) = (kubo.pins(), peer.id());
            pins.iter().all(|(cid, pin)| held.contains(cid) == allocations(pin).contains(&id))
        })
    });
    wait_until("the status is pinned at these", || {
        asked.json(&["status"]).iter().all(|info| {
            let map = info["peer_map"].as_object().cloned().unwrap_or_default();
            map.values().filter(|at| at["status"] == "pinned").count() == 2
        })
    });
}

fn held_by(peer: &Peer, asked: &Peer) -> usize {
    let id = peer.id();
    pinset(asked).values().filter(|pin| allocations(pin).contains(&id)).count()
}

#[test]
fn pins_of_a_dead_peer_move_to_one_that_lives_and_it_takes_part_again_when_it_is_back() {
    let Some(kubos) = (0..3).map(|_| Kubo::start()).collect::<Option<Vec<_>>>() else { return };
    let ipfs: Vec<_> = kubos.iter().map(Kubo::multiaddr).collect();
    let ipfs: Vec<_> = ipfs.iter().map(String::as_str).collect();
    let mut peers = CRDT.members(&ipfs, &[]);
    let ids: Vec<_> = peers.iter().map(Peer::id).collect();
    for peer in &peers {
        wait_until(&format!("{} knows how much room all have", peer.name()), || {
            let room = peer.ctl(&["health", "metrics", "freespace"]).ok();
            ids.iter().all(|id| room.contains(id))
        });
    }

    // Each of them holds something: one for each pair, and some for whom the allocator likes best.
    let mut pins = 0;
    for preferred in [Some([0, 1]), Some([1, 2]), Some([2, 0]), None, None, None] {
        let cid = everywhere(&kubos, &format!("content {pins}"));
        let mut arguments = vec!["pin", "add", "--no-status", "--rmin", "2", "--rmax", "2", &cid];
        let preferred = preferred.map(|pair| pair.map(|number| ids[number].as_str()).join(","));
        if let Some(preferred) = &preferred {
            arguments.extend(["--allocations", preferred]);
        }
        peers[pins % 3].ctl(&arguments).ok();
        pins += 1;
    }
    wait_until_equal(&peers, pins);
    wait_until_two_hold_each(&peers, &kubos);

    // First the one through which all others joined, then one of those.
    for dead in [0, 1] {
        assert!(held_by(&peers[dead], &peers[2]) > 0);
        peers[dead].kill();
        for peer in living(&peers) {
            wait_until(&format!("{} lists one peer less", peer.name()), || {
                peer.json(&["peers", "ls"]).len() == 2
            });
            wait_until(&format!("{} raises an alert", peer.name()), || {
                let alerts = peer.json(&["health", "alerts"]);
                alerts.iter().any(|alert| alert["peer"] == ids[dead].as_str() && alert["name"] == "ping")
            });
        }
        wait_until_two_hold_each(&peers, &kubos);
        let cid = everywhere(&kubos, &format!("while peer {dead} was away"));
        peers[2].ctl(&["pin", "add", "--no-status", "--rmin", "2", "--rmax", "2", &cid]).ok();
        pins += 1;
        wait_until_equal(living(&peers), pins);

        peers[dead].resume();
        wait_until_all_list_all(&peers);
        wait_until_equal(&peers, pins);
        // What it holds no longer is unpinned there, and nothing is moved back.
        wait_until_two_hold_each(&peers, &kubos);
    }

    // Two at once: what both held has nobody else to go to but the one that is left, which is too few.
    let log = peers[2].log().len();
    peers[0].kill();
    peers[1].kill();
    wait_until("the last one says that there are too few", || {
        peers[2].log()[log..].contains("too few peers")
    });
    peers[0].resume();
    peers[1].resume();
    wait_until_all_list_all(&peers);
    wait_until_equal(&peers, pins);
    wait_until_two_hold_each(&peers, &kubos);
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

#[test]
fn a_dead_peer_that_is_still_a_member_is_an_error_with_a_reason() {
    let daemon = Shared::start();
    // Long-lived pings: it will be a member for a minute.
    let mut peers = daemon.members::<2>(CRDT, &[("CLUSTER_MONITORPINGINTERVAL", "30s")]);
    peers[0].ctl(&["pin", "add", "--no-status", CIDS[0]]).ok();
    wait_until_equal(&peers, 1);
    let id = peers[1].id();
    peers[1].kill();
    let listed = peers[0].ctl(&["peers", "ls"]).ok();
    assert!(listed.contains(&format!("{id} | ERROR: ")), "{listed}");
    for all in [vec!["status", CIDS[0]], vec!["status"]] {
        // That the connection is gone may be noticed later than by this.
        wait_until_seen("nobody answers where it was", || {
            let infos = peers[0].json(&all);
            let at = &infos[0]["peer_map"][&id];
            let reason = at["error"].as_str().unwrap_or_default();
            let is_said = at["status"] == "cluster_error" && at["peername"] == "peer-1";
            if is_said && reason.contains(&id) && reason.contains("refused") { Ok(()) } else { Err(infos) }
        });
    }
    let graph = peers[0].ctl(&["health", "graph"]).ok();
    assert!(graph.contains("peer-0"), "{graph}");
}

#[test]
fn a_peer_with_another_secret_stays_outside_and_says_why() {
    let daemon = Shared::start();
    // Nobody is taken for dead, which would be in the log.
    let peers = daemon.members::<2>(CRDT, &[("CLUSTER_MONITORPINGINTERVAL", "30s")]);
    peers[0].ctl(&["pin", "add", "--no-status", CIDS[0]]).ok();
    let before = peers[0].log().len();
    let other = SECRET.replace('6', "7");
    let mut stranger = daemon.member(CRDT, "stranger", Some(&peers[0]), &[("CLUSTER_SECRET", &other)]);
    stranger.resume();
    wait_until("it says that it cannot join, and why", || {
        stranger.log().lines().any(|line| line.contains("bootstrap to ") && line.contains("secret"))
    });
    assert_eq!(stranger.json(&["peers", "ls"]).len(), 1);
    assert!(pinset(&stranger).is_empty());
    // Nobody else is disturbed.
    wait_until_equal(&peers, 1);
    wait_until_all_list_all(&peers);
    let log = &peers[0].log()[before..];
    assert!(!log.contains("ERROR") && log.matches("WARN").count() <= 1, "{log}");
}

#[test]
fn a_damaged_peerstore_does_not_stop_a_peer() {
    let daemon = Shared::start();
    let mut peers = daemon.members::<2>(CRDT, &[]);
    peers[1].arguments.clear();
    peers[1].stop();
    let peerstore = peers[1].path().join("peerstore");
    let saved = std::fs::read_to_string(&peerstore).unwrap();
    assert!(saved.contains(&peers[0].id()), "{saved}");
    // What can be read of it is used.
    std::fs::write(&peerstore, format!("nonsense\n{saved}\n/ip4/1.2.3\n")).unwrap();
    peers[1].resume();
    wait_until_all_list_all(&peers);
    assert!(peers[1].log().contains("ignoring an address of the peerstore"), "{}", peers[1].log());
    peers[1].stop();
    // And without it a peer waits to be found.
    std::fs::write(&peerstore, [0xFF, 0x00, 0xFE, b'\n']).unwrap();
    peers[1].resume();
    peers[1].ctl(&["pin", "add", "--no-status", CIDS[1]]).ok();
    wait_until_all_list_all(&peers);
    wait_until_equal(&peers, 1);
}

#[test]
fn a_follower_gets_the_pinset_and_refuses_to_change_it() {
    let daemon = Shared::start();
    let peers = daemon.members::<1>(CRDT, &[]);
    for cid in CIDS {
        peers[0].ctl(&["pin", "add", "--no-status", "--metadata", "k=v", cid]).ok();
    }
    let mut follower = daemon.member(CRDT, "follower", peers.first(), &[("CLUSTER_FOLLOWERMODE", "true")]);
    follower.resume();
    wait_until_equal([&peers[0], &follower], 3);
    for refused in
        [&["pin", "add", CIDS[0]][..], &["pin", "rm", CIDS[0]], &["pin", "update", CIDS[0], CIDS[1]]]
    {
        let said = follower.ctl(refused);
        assert!(said.code == 2 && said.out.contains("follower mode"), "{refused:?}: {said:?}");
    }
    peers[0].ctl(&["pin", "rm", "--no-status", CIDS[2]]).ok();
    wait_until_equal([&peers[0], &follower], 2);
}

#[test]
fn a_peer_that_cannot_reach_whom_it_should_join_goes_on_alone_and_says_so() {
    let daemon = Shared::start();
    let mut gone = daemon.member(CRDT, "gone", None, &[]);
    let mut peer = daemon.member(CRDT, "alone", Some(&gone), &[]);
    peer.resume();
    let said = format!("bootstrap to {} failed: ", gone.multiaddr());
    wait_until("it says so", || peer.log().contains(&said));
    peer.ctl(&["pin", "add", "--no-status", CIDS[0]]).ok();
    wait_until_equal([&peer], 1);
    assert_eq!(peer.json(&["peers", "ls"]).len(), 1);
    // It does not give up.
    gone.resume();
    wait_until_all_list_all([&peer, &gone]);
    wait_until_equal([&peer, &gone], 1);
    assert_eq!(peer.stop(), 0);
}

#[test]
fn leaving_takes_nothing_from_the_disk() {
    let daemon = Shared::start();
    let mut peers = daemon.members::<2>(CRDT, &[]);
    for cid in CIDS {
        peers[0].ctl(&["pin", "add", "--no-status", cid]).ok();
    }
    wait_until_equal(&peers, 3);
    for leaves in [true, false] {
        assert_eq!(peers[1].stop(), 0);
        assert_eq!(peers[1].service(&["state", "export"]).ok().lines().count(), 3);
        peers[1].arguments = if leaves { vec!["--leave".to_owned()] } else { Vec::new() };
        peers[1].resume();
        wait_until_all_list_all(&peers);
        wait_until_equal(&peers, 3);
    }
}

#[test]
fn all_peers_stop_and_start_in_any_order_and_agree_again() {
    let daemon = Shared::start();
    let mut peers = daemon.members::<3>(CRDT, &[]);
    // From here on they know of each other what they remember.
    peers.iter_mut().for_each(|peer| peer.arguments.clear());
    let mut pins = 0;
    for (stops, starts) in [([0, 1, 2], [0, 1, 2]), ([2, 0, 1], [1, 2, 0]), ([1, 2, 0], [2, 0, 1])] {
        for number in stops {
            // Those that stopped before do not hear of it.
            peers[number].ctl(&["pin", "add", "--no-status", &cid(pins)]).ok();
            pins += 1;
            assert_eq!(peers[number].stop(), 0);
        }
        for number in starts {
            peers[number].resume();
            peers[number].ctl(&["pin", "add", "--no-status", &cid(pins)]).ok();
            pins += 1;
        }
        wait_until_all_list_all(&peers);
        wait_until_equal(&peers, pins);
    }
}

fn cid(number: usize) -> String {
    use ipfs_cluster::types::Block;
    Block::raw(format!("many {number}").into_bytes()).cid.to_string()
}

#[test]
fn the_pinset_of_a_cluster_of_one_moves_to_a_cluster_of_many() {
    let daemon = Shared::start();
    let mut solo = Peer::start(&daemon.kubo.multiaddress(), &["--consensus", "solo"], &[]);
    for cid in CIDS {
        solo.ctl(&["pin", "add", "--no-status", "--name", "moved", "--metadata", "k=v", cid]).ok();
    }
    let pins = pinset(&solo);
    assert_eq!(solo.stop(), 0);
    let mut first = daemon.member(CRDT, "first", None, &[]);
    let file = first.path().join("export.ndjson");
    solo.service(&["state", "export", "--file", file.to_str().unwrap()]).ok();
    first.service(&["state", "import", "--force", file.to_str().unwrap()]).ok();
    first.resume();
    assert_eq!(pinset(&first), pins);
    let mut second = daemon.member(CRDT, "second", Some(&first), &[]);
    second.resume();
    wait_until_equal([&first, &second], pins.len());
    assert_eq!(pinset(&second), pins);
}
