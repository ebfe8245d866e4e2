//! What the operators of one cluster do, and see on every peer alike.

use crate::kind::Kind;
use crate::peer::{Peer, go_programs};
use crate::programs::{self, Answers as _, pinset, wait_until_all_list_all, wait_until_equal};
use crate::wait::wait_until;

/// Tells the whole story to a cluster of these peers, each of which only knows the one before.
pub(crate) fn tell(kinds: &[Kind]) {
    let Some(go) = go_programs() else { return };
    let mut peers: Vec<Peer> = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        let more = [("CLUSTER_DISABLEREPINNING", "false")];
        let Some(peer) = Peer::start(*kind, number, go.clone(), peers.last(), &more) else { return };
        peers.push(peer);
    }
    eprintln!("--- {kinds:?}: all know all");
    all_know_all(&peers);
    eprintln!("--- {kinds:?}: what one pins all see");
    what_one_pins_all_see(&peers);
    eprintln!("--- {kinds:?}: changes");
    changes_appear_everywhere(&peers);
    eprintln!("--- {kinds:?}: status and recover");
    what_is_lost_is_seen_and_recovered_from_anywhere(&peers);
    eprintln!("--- {kinds:?}: graph");
    the_health_graph_shows_everybody(&peers);
    eprintln!("--- {kinds:?}: kill and restart each");
    each_may_die_and_come_back(&mut peers);
    for peer in &mut peers {
        peer.stop();
    }
}

/// Every peer lists every peer, although each was told of one: the others are found by peer routing.
fn all_know_all(peers: &[Peer]) {
    wait_until_all_list_all(peers);
    // Both kinds of ctl read both kinds of peer.
    for peer in peers {
        for whose in [Kind::Go, Kind::Ours] {
            let said = peer.ctl(whose, &["peers", "ls"]).ok();
            for other in peers {
                assert!(said.contains(&other.name), "{whose:?} ctl at {}: {said}", peer.name);
            }
        }
    }
}

/// The same content at every daemon, and its CID.
fn everywhere(peers: &[Peer], content: &str) -> String {
    programs::everywhere(peers.iter().map(|peer| &peer.kubo), content)
}

fn wait_until_pinned(peers: &[Peer], cid: &str) {
    for peer in peers {
        wait_until(&format!("{} says that {cid} is pinned by all", peer.name), || {
            let status = peer.json(&["status", cid]);
            let map = status[0]["peer_map"].as_object().cloned().unwrap_or_default();
            map.len() == peers.len() && map.values().all(|at| at["status"] == "pinned")
        });
    }
    for peer in peers {
        assert!(peer.kubo.has(cid, "recursive"), "the daemon of {}", peer.name);
    }
}

fn what_one_pins_all_see(peers: &[Peer]) {
    for (number, peer) in peers.iter().enumerate() {
        let cid = everywhere(peers, &format!("pinned by {}", peer.name));
        let name = format!("by {}", peer.name);
        let (a, b) = (format!("maker={}", peer.name), format!("number={number}"));
        peer.ctl(peer.kind, &["pin", "add", "--name", &name, "--metadata", &a, "--metadata", &b, &cid]).ok();
        wait_until_equal(peers, number + 1);
        wait_until_pinned(peers, &cid);
        let listed = pinset(&peers[0]);
        assert_eq!(listed[&cid]["name"], name.as_str());
        assert_eq!(listed[&cid]["metadata"]["maker"], peer.name.as_str());
    }
}

fn changes_appear_everywhere(peers: &[Peer]) {
    let before = pinset(&peers[0]).len();
    for peer in peers {
        let (old, new) = (
            everywhere(peers, &format!("old of {}", peer.name)),
            everywhere(peers, &format!("new of {}", peer.name)),
        );
        let short = everywhere(peers, &format!("short of {}", peer.name));
        peer.ctl(peer.kind, &["pin", "add", "--name", "old", &old]).ok();
        peer.ctl(peer.kind, &["pin", "add", "--expire-in", "8s", &short]).ok();
        wait_until_equal(peers, before + 2);
        let expiry = pinset(&peers[0])[&short]["expire_at"].clone();
        assert!(peers.iter().all(|other| pinset(other)[&short]["expire_at"] == expiry), "{expiry}");
        peer.ctl(peer.kind, &["pin", "update", &old, &new]).ok();
        wait_until_equal(peers, before + 3);
        wait_until_pinned(peers, &new);
        // Unpinned by another than the one that pinned it.
        let other = &peers[(peers.iter().position(|at| at.name == peer.name).unwrap() + 1) % peers.len()];
        for cid in [&old, &new] {
            other.ctl(other.kind, &["pin", "rm", cid]).ok();
        }
        // And the third one expires by itself.
        wait_until_equal(peers, before);
        for peer in peers {
            for cid in [&old, &new, &short] {
                wait_until(&format!("the daemon of {} let go of {cid}", peer.name), || {
                    !peer.kubo.has(cid, "recursive")
                });
            }
        }
    }
}

fn what_is_lost_is_seen_and_recovered_from_anywhere(peers: &[Peer]) {
    let cid = pinset(&peers[0]).into_keys().next().unwrap();
    for (number, peer) in peers.iter().enumerate() {
        peer.kubo.run(&["pin", "rm", &cid]);
        let other = &peers[(number + 1) % peers.len()];
        wait_until(&format!("{} sees what {} lost", other.name, peer.name), || {
            let status = other.json(&["status", &cid]);
            status[0]["peer_map"][peer.id()]["status"] == "unexpectedly_unpinned"
        });
        other.ctl(other.kind, &["recover", &cid]).ok();
        wait_until_pinned(peers, &cid);
    }
}

fn the_health_graph_shows_everybody(peers: &[Peer]) {
    for peer in peers {
        for whose in [Kind::Go, Kind::Ours] {
            wait_until(&format!("the graph of {} shows everybody", peer.name), || {
                let graph = peer.ctl(whose, &["health", "graph"]);
                graph.code == 0 && peers.iter().all(|other| graph.out.contains(&other.name))
            });
        }
        let metrics = peer.ctl(peer.kind, &["health", "metrics", "freespace"]).ok();
        assert!(peers.iter().all(|other| metrics.contains(&other.id())), "{metrics}");
    }
}

fn each_may_die_and_come_back(peers: &mut [Peer]) {
    for number in 0..peers.len() {
        let id = peers[number].id();
        peers[number].kill();
        let (before, after) = peers.split_at(number);
        let rest: Vec<&Peer> = before.iter().chain(&after[1..]).collect();
        for peer in &rest {
            wait_until(&format!("{} lists one peer less", peer.name), || {
                peer.json(&["peers", "ls"]).len() == rest.len()
            });
        }
        // The reference's alerts end with the first that ever comes; ours go on.
        for peer in rest.iter().filter(|peer| peer.kind == Kind::Ours) {
            wait_until(&format!("{} raises an alert", peer.name), || {
                peer.json(&["health", "alerts"]).iter().any(|alert| alert["peer"] == id.as_str())
            });
        }
        let writer = rest[0];
        let cid = everywhere(peers, &format!("while number {number} was dead"));
        writer.ctl(writer.kind, &["pin", "add", &cid]).ok();
        peers[number].resume();
        all_know_all(peers);
        let pins = pinset(&peers[(number + 1) % peers.len()]).len();
        wait_until_equal(&*peers, pins);
        wait_until_pinned(peers, &cid);
    }
}
