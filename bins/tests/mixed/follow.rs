//! What somebody sees who follows a cluster of two publishers, while a third peer that nobody trusts writes too.

use serde_json::json;

use crate::follower::Follower;
use crate::http::Server;
use crate::kind::Kind;
use crate::peer::{Peer, SECRET, go_programs};
use crate::programs::{self, Answers as _, pinset, wait_until_all_list_all, wait_until_equal};
use crate::wait::wait_until;

/// Tells the story to publishers and a follower of these kinds.
pub(crate) fn tell(publishers: Kind, follower: Kind) {
    let Some(go) = go_programs() else { return };
    let Some(mut first) = Peer::init(publishers, 0, go.clone(), None, &[]) else { return };
    let Some(mut second) = Peer::init(publishers, 1, go.clone(), Some(&first), &[]) else { return };
    let trusted = [first.id(), second.id()];
    for peer in [&mut first, &mut second] {
        peer.trust(&trusted);
        peer.resume();
    }
    // It has the secret, and thinks that everybody believes what it says.
    let Some(stranger) = Peer::start(Kind::Go, 2, go.clone(), Some(&first), &[]) else { return };
    wait_until_all_list_all([&first, &second, &stranger]);

    let configuration = match publishers {
        Kind::Go => by_hand(&[&first, &second]),
        Kind::Ours => {
            let addresses = [first.address(), second.address()];
            let addresses = addresses.iter().flat_map(|address| ["--address", address]);
            let arguments: Vec<&str> = std::iter::once("follow-config").chain(addresses).collect();
            first.service(&arguments).ok()
        }
    };
    let url = Server::of(&configuration).service_json();
    let Some(mut follower) = Follower::init(follower, 3, &go, &url) else { return };
    let kubos = |follower: &Follower, content: &str| {
        programs::everywhere([&first.kubo, &second.kubo, &stranger.kubo, &follower.kubo], content)
    };

    eprintln!(
        "--- {publishers:?} publish, {follower_kind:?} follows: pins appear",
        follower_kind = follower.kind()
    );
    let old = kubos(&follower, "published before the follower came");
    first.ctl(first.kind, &["pin", "add", "--name", "old", &old]).ok();
    follower.resume();
    follower.wait_until_it_holds(&[&old]);
    let new = kubos(&follower, "published by the other");
    second.ctl(second.kind, &["pin", "add", "--name", "new", &new]).ok();
    follower.wait_until_it_holds(&[&old, &new]);

    eprintln!("--- a stranger writes");
    let foreign = kubos(&follower, "not wanted");
    stranger.ctl(stranger.kind, &["pin", "add", &foreign]).ok();
    stranger.ctl(stranger.kind, &["pin", "rm", &old]).ok();
    wait_until("the stranger believes itself", || {
        let listed = pinset(&stranger);
        listed.contains_key(&foreign) && !listed.contains_key(&old)
    });
    // What a publisher says after it has come, so what the stranger said would have, too.
    let after = kubos(&follower, "published after the stranger wrote");
    first.ctl(first.kind, &["pin", "add", &after]).ok();
    follower.wait_until_it_holds(&[&old, &new, &after]);
    wait_until_equal([&first, &second], 3);

    eprintln!("--- unpins, and restarts");
    second.ctl(second.kind, &["pin", "rm", &old]).ok();
    follower.wait_until_it_holds(&[&new, &after]);
    wait_until("its daemon lets go", || !follower.kubo.has(&old, "recursive"));
    follower.kill();
    let missed = kubos(&follower, "published while the follower was dead");
    first.ctl(first.kind, &["pin", "add", &missed]).ok();
    first.ctl(first.kind, &["pin", "rm", &new]).ok();
    follower.resume();
    follower.wait_until_it_holds(&[&after, &missed]);
    assert!(!follower.kubo.has(&new, "recursive") && !follower.kubo.has(&foreign, "recursive"));
    follower.stop();
    follower.resume();
    follower.wait_until_it_holds(&[&after, &missed]);
    follower.stop();
    if follower.kind() == Kind::Ours {
        // The reference looks into a store that it does not use.
        let offline = follower.list();
        assert_eq!(offline.len(), 2, "{offline:?}");
        assert!(offline.values().all(|status| status == "offline"), "{offline:?}");
    }
    assert!(first.json(&["peers", "ls"]).len() >= 3);
}

/// What publishers of the reference write by hand.
fn by_hand(publishers: &[&Peer]) -> String {
    let ids: Vec<String> = publishers.iter().map(|peer| peer.id()).collect();
    let addresses: Vec<String> = publishers.iter().map(|peer| peer.address()).collect();
    let configuration = json!({
        "cluster": {
            "secret": SECRET,
            "listen_multiaddress": ["/ip4/0.0.0.0/tcp/9096"],
            "peer_addresses": addresses,
            "replication_factor_min": -1,
            "replication_factor_max": -1,
        },
        "consensus": { "crdt": { "cluster_name": "ipfs-cluster", "trusted_peers": ids } },
        "ipfs_connector": { "ipfshttp": {} },
        "pin_tracker": { "stateless": {} },
        "monitor": { "pubsubmon": {} },
        "informer": { "disk": {} },
        "allocator": { "balanced": {} },
        "datastore": { "pebble": {} },
    });
    configuration.to_string()
}
