//! What the operators of a Raft cluster of the reference do to move it, as the README says, and to go back.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kind::Kind;
use crate::peer::{Peer, go_programs};
use crate::programs::{
    Answers as _, documents, everywhere, pinset, wait_until_all_list_all, wait_until_equal,
};
use crate::wait::wait_until_seen;

/// The pins of an export, by CID.
fn exported(text: &str) -> BTreeMap<String, Value> {
    let pins = documents(text).into_iter();
    pins.map(|pin| (pin["cid"].as_str().unwrap_or_default().to_owned(), pin)).collect()
}

pub(crate) fn tell() {
    let Some(go) = go_programs() else { return };
    let mut peers: Vec<Peer> = Vec::new();
    for number in 0..3 {
        let Some(mut peer) = Peer::init_as("raft", Kind::Go, number, go.clone(), peers.first(), &[]) else {
            return;
        };
        peer.resume();
        peers.push(peer);
        wait_until_all_list_all(&peers);
    }
    let ids: Vec<String> = peers.iter().map(Peer::id).collect();

    eprintln!("--- pins of all kinds at peers of the reference");
    let kubos = || peers.iter().map(|peer| &peer.kubo);
    let two = format!("{},{}", ids[1], ids[2]);
    let mut cids = Vec::new();
    let kinds: [&[&str]; 7] = [
        &[],
        &["--name", "with a name"],
        &["--metadata", "a=b", "--metadata", "c=<d>"],
        &["--expire-in", "48h"],
        &["--mode", "direct"],
        &["--rmin", "1", "--rmax", "2"],
        &["--rmin", "2", "--rmax", "2", "--allocations", &two, "--name", "placed"],
    ];
    for (number, options) in kinds.iter().enumerate() {
        let peer = &peers[number % 3];
        let cid = everywhere(kubos(), &format!("pinned {options:?}"));
        wait_until_seen("it is pinned", || {
            // Where there is no metric yet there is nobody to hold it.
            let said = peer.ctl(Kind::Go, &[&["pin", "add", "--no-status"], *options, &[&cid]].concat());
            if said.code == 0 { Ok(()) } else { Err(said) }
        });
        cids.push(cid);
    }
    let newer = everywhere(kubos(), "the newer one");
    peers[0].ctl(Kind::Go, &["pin", "update", "--no-status", &cids[1], &newer]).ok();
    peers[1].ctl(Kind::Go, &["pin", "rm", "--no-status", &cids[1]]).ok();
    wait_until_equal(&peers, kinds.len());
    for peer in &mut peers {
        peer.stop();
    }

    eprintln!("--- the pinset is taken along by one peer");
    let file = peers[0].path().join("pins.json");
    let file = file.to_str().unwrap().to_owned();
    peers[0].service(&["state", "export", "-f", &file]).ok();
    let theirs = exported(&std::fs::read_to_string(&file).unwrap());
    assert_eq!(theirs.len(), kinds.len());
    for peer in &mut peers {
        peer.kind = Kind::Ours;
        peer.bootstrap(None);
        let refused = peer.service(&["daemon"]);
        assert!(
            refused.code == 1 && refused.err.contains("holds the pinset of a Go peer (raft)"),
            "{refused:?}"
        );
    }
    peers[0].service(&["state", "import", "-f", &file]).ok();
    assert_eq!(exported(&peers[0].service(&["state", "export"]).ok()), theirs);
    peers[0].resume();

    eprintln!("--- the others join it empty");
    let through = peers[0].address();
    for peer in &mut peers[1..] {
        std::fs::rename(peer.path().join("raft"), peer.path().join("raft.go")).unwrap();
        peer.bootstrap(Some(through.clone()));
        peer.resume();
    }
    wait_until_all_list_all(&peers);
    wait_until_equal(&peers, kinds.len());
    assert_eq!(peers.iter().map(Peer::id).collect::<Vec<_>>(), ids);
    for peer in &peers {
        assert_eq!(pinset(peer), theirs);
    }
    wait_until_seen("all that should be pinned is", || {
        let infos = peers[1].json(&["status"]);
        let is_well = |info: &Value| {
            let map = info["peer_map"].as_object().cloned().unwrap_or_default();
            map.len() == 3 && map.values().all(|at| at["status"] == "pinned" || at["status"] == "remote")
        };
        if infos.len() == kinds.len() && infos.iter().all(is_well) { Ok(()) } else { Err(infos) }
    });
    let another = everywhere(peers.iter().map(|peer| &peer.kubo), "pinned after the move");
    peers[2].ctl(Kind::Go, &["pin", "add", "--no-status", &another]).ok();
    wait_until_equal(&peers, kinds.len() + 1);
    for peer in &mut peers {
        peer.stop();
    }

    eprintln!("--- and back");
    let ours = peers[2].service(&["state", "export", "-f", &file]).ok();
    assert_eq!(ours, "");
    let ours = exported(&std::fs::read_to_string(&file).unwrap());
    peers[0].kind = Kind::Go;
    peers[0].service(&["state", "import", "-f", &file]).ok();
    assert_eq!(exported(&peers[0].service(&["state", "export"]).ok()), ours);
}
