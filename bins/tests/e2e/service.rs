//! The daemon's life: restarts, state commands, locks.

use crate::kubo::Kubo;
use crate::programs::Peer;
use crate::wait::wait_until;

/// Nothing listens here, which is a daemon that is down.
const NO_DAEMON: &str = "/ip4/127.0.0.1/tcp/1";
const CIDS: [&str; 3] = [
    "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
    "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
    "bafybeiehe5yxqu4ixnsomtoinlugvreling26pht2h57q7rzaumjnsf56u",
];

#[test]
fn pins_survive_a_clean_stop_and_a_kill_on_both_engines() {
    for engine in ["fjall", "redb"] {
        let mut peer = Peer::start(NO_DAEMON, &["--storage", engine], &[]);
        for cid in CIDS {
            peer.ctl(&["pin", "add", "--no-status", cid]).ok();
        }
        peer.ctl(&["pin", "rm", "--no-status", CIDS[0]]).ok();
        assert_eq!(peer.stop(), 0);
        assert!(!peer.path().join("cluster.lock").exists());
        peer.resume();
        assert_eq!(peer.ctl(&["pin", "ls"]).ok().lines().count(), 2, "{engine}");
        peer.ctl(&["pin", "add", "--no-status", CIDS[0]]).ok();
        peer.kill();
        peer.resume();
        assert_eq!(peer.ctl(&["pin", "ls"]).ok().lines().count(), 3, "{engine}");
    }
}

#[test]
fn what_was_running_when_the_daemon_died_is_pinned_after_the_next_start() {
    let Some(kubo) = Kubo::start() else { return };
    let mut peer = Peer::start(&kubo.multiaddr(), &[], &[("CLUSTER_PINRECOVERINTERVAL", "1h")]);
    let cid = kubo.add("interrupted");
    peer.ctl(&["pin", "add", "--wait", &cid]).ok();
    peer.kill();
    kubo.run(&["pin", "rm", &cid]);
    peer.resume();
    peer.wait_for_status(&cid, "pinned");
    assert!(kubo.has(&cid, "recursive"));
}

#[test]
fn exported_state_imports_into_another_peer_and_replaces_what_was_there() {
    let mut source = Peer::start(NO_DAEMON, &[], &[]);
    for cid in &CIDS[..2] {
        source.ctl(&["pin", "add", "--no-status", "--name", "moved", "--metadata", "k=v", cid]).ok();
    }
    let running = source.service(&["state", "export"]);
    assert!(running.code == 1 && running.err.contains("someone else has the lock"), "{running:?}");
    source.stop();
    let exported = source.service(&["state", "export"]).ok();
    assert_eq!(exported.lines().count(), 2);

    let mut target = Peer::start(NO_DAEMON, &["--storage", "redb"], &[]);
    target.ctl(&["pin", "add", "--no-status", CIDS[2]]).ok();
    target.stop();
    let file = target.path().join("export.ndjson");
    std::fs::write(&file, &exported).unwrap();
    target.service(&["state", "import", "--force", file.to_str().unwrap()]).ok();
    assert_eq!(target.service(&["state", "export"]).ok(), exported);

    // A bad file changes nothing.
    std::fs::write(&file, format!("{exported}{{\"cid\":\"nonsense\"}}\n")).unwrap();
    let refused = target.service(&["state", "import", "--force", file.to_str().unwrap()]);
    assert!(refused.code == 1 && refused.err.contains("3"), "{refused:?}");
    assert_eq!(target.service(&["state", "export"]).ok(), exported);

    target.service(&["state", "cleanup", "--force"]).ok();
    assert_eq!(target.service(&["state", "export"]).ok(), "");
    target.resume();
    wait_until("the peer answers", || target.ctl(&["pin", "ls"]).code == 0);
}

#[test]
fn a_second_daemon_on_the_same_folder_says_who_has_it() {
    let peer = Peer::start(NO_DAEMON, &[], &[]);
    let second = peer.service(&["daemon"]);
    assert_eq!(second.code, 1);
    assert!(second.err.contains("someone else has the lock"), "{}", second.err);
}

#[test]
fn a_folder_of_another_engine_or_a_damaged_one_is_named_and_left_alone() {
    let mut peer = Peer::start(NO_DAEMON, &[], &[]);
    peer.ctl(&["pin", "add", "--no-status", CIDS[0]]).ok();
    peer.stop();
    let folder = peer.path().join("fjall");
    let marker = std::fs::read_dir(&folder).unwrap().next().is_some();
    assert!(marker, "the engine's folder is there");
    std::fs::write(folder.join("FORMAT"), "something else\n").unwrap();
    let refused = peer.service(&["daemon"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("fjall"), "{}", refused.err);
}
