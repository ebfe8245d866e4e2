//! Both stages of pinning, as the pinset management document tells them.

use crate::kubo::Kubo;
use crate::programs::Peer;
use crate::wait::wait_until;

/// Kubo and a peer beside it, or the end of the test where there is no Kubo.
macro_rules! kubo_and_peer {
    () => {{
        let Some(kubo) = Kubo::start() else { return };
        let peer = Peer::start(&kubo.multiaddr(), &[], &[]);
        (kubo, peer)
    }};
}

#[test]
fn pin_add_waits_a_second_and_shows_how_it_stands() {
    let (kubo, peer) = kubo_and_peer!();
    let cid = kubo.add("first");
    let said = peer.ctl(&["pin", "add", "--name", "first", &cid]).ok();
    assert!(said.starts_with(&format!("{cid} | first:\n    > under-test")), "{said}");
    // A second is long, but not on every machine.
    let stands = [": PINNED | ", ": PINNING | ", ": PIN_QUEUED | "];
    assert!(stands.iter().any(|status| said.contains(status)), "{said}");
    peer.wait_for_status(&cid, "pinned");
    assert!(kubo.has(&cid, "recursive"));
}

#[test]
fn pin_add_without_status_shows_the_pin_and_with_wait_returns_when_it_is_pinned() {
    let (kubo, peer) = kubo_and_peer!();
    let (quick, waited) = (kubo.add("quick"), kubo.add("waited"));
    let said = peer.ctl(&["pin", "add", "--no-status", "--metadata", "k=v", &quick]).ok();
    assert!(
        said.starts_with(&format!(
            "{quick} |  | PIN | Repl. Factor: -1 | Allocations: [everywhere] | Recursive | Metadata: yes | Exp: ∞ | Added: "
        )),
        "{said}"
    );
    let said = peer.ctl(&["pin", "add", "--wait", &waited]).ok();
    assert!(said.contains(": PINNED | "), "{said}");
    assert!(kubo.has(&waited, "recursive"));
}

#[test]
fn what_the_daemon_lacks_is_an_error_that_says_why_and_wait_fails_with_it() {
    let (_kubo, peer) = kubo_and_peer!();
    let missing = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    peer.ctl(&["pin", "add", missing]).ok();
    peer.wait_for_status(missing, "pin_error: ");
    peer.wait_for_said(missing, "not found locally");
    let said = peer.ctl(&["pin", "add", "--wait", missing]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("error has occurred while attempting to reach status: pinned"), "{said:?}");
}

#[test]
fn pin_ls_and_status_list_and_filter() {
    let Some(kubo) = Kubo::start() else { return };
    // What failed is not retried under our eyes.
    let peer = Peer::start(&kubo.multiaddr(), &[], &[("CLUSTER_PINRECOVERINTERVAL", "1h")]);
    let (good, bad) = (kubo.add("good"), "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy");
    peer.ctl(&["pin", "add", "--wait", &good]).ok();
    peer.ctl(&["pin", "add", bad]).ok();
    peer.wait_for_status(bad, "pin_error");
    let listed = peer.ctl(&["pin", "ls"]).ok();
    assert!(listed.lines().count() == 2 && listed.contains(&good) && listed.contains(bad), "{listed}");
    assert!(peer.ctl(&["pin", "ls", &good]).ok().contains(" | PIN | "));
    assert!(peer.ctl(&["pin", "ls", "--filter", "shard-pin"]).ok().is_empty());

    let all = peer.ctl(&["status"]).ok();
    assert!(all.contains(&good) && all.contains(bad), "{all}");
    let pinned = peer.ctl(&["status", "--filter", "pinned"]).ok();
    assert!(pinned.contains(&good) && !pinned.contains(bad), "{pinned}");
    let errors = peer.ctl(&["status", "--filter", "error"]).ok();
    assert!(errors.contains(bad) && !errors.contains(&good), "{errors}");
    assert!(peer.ctl(&["status", "--filter", "unpin_error"]).ok().is_empty());
    let json = peer.ctl(&["--enc", "json", "status", &good]).ok();
    assert!(json.contains("\"status\": \"pinned\""), "{json}");

    let unknown = peer.ctl(&["status", "--filter", "pined"]);
    assert!(unknown.code == 1 && unknown.err.contains("unexpectedly_unpinned"), "{unknown:?}");
}

#[test]
fn what_is_unpinned_behind_our_back_is_noticed_by_sync_and_mended_by_recover() {
    // Recover runs by itself; here a person does it.
    let Some(kubo) = Kubo::start() else { return };
    let peer = Peer::start(&kubo.multiaddr(), &[], &[("CLUSTER_PINRECOVERINTERVAL", "1h")]);
    let (lost, kept) = (kubo.add("lost"), kubo.add("kept"));
    for cid in [&lost, &kept] {
        peer.ctl(&["pin", "add", "--wait", cid]).ok();
    }
    kubo.run(&["pin", "rm", &lost]);
    let said = peer.status(&lost);
    assert!(said.contains("unexpectedly_unpinned: the item should be pinned but it is not"), "{said}");

    let changed = peer.ctl(&["sync"]).ok();
    assert!(changed.contains(&lost) && !changed.contains(&kept), "{changed}");
    let all = peer.ctl(&["status", "--filter", "unexpectedly_unpinned"]).ok();
    assert!(all.contains(&lost) && !all.contains(&kept), "{all}");
    assert!(!kubo.has(&lost, "recursive"), "sync pins nothing");
    assert!(peer.ctl(&["sync", &lost]).ok().contains("UNEXPECTEDLY_UNPINNED"));

    let again = peer.ctl(&["recover"]).ok();
    assert!(again.contains(&lost) && !again.contains(&kept), "{again}");
    peer.wait_for_status(&lost, "pinned");
    assert!(kubo.has(&lost, "recursive"));
    kubo.run(&["pin", "rm", &kept]);
    peer.ctl(&["recover", &kept]).ok();
    peer.wait_for_status(&kept, "pinned");
}

#[test]
fn pins_asked_for_while_the_daemon_is_down_are_pinned_by_themselves_when_it_is_back() {
    let Some(mut kubo) = Kubo::start() else { return };
    let peer = Peer::start(&kubo.multiaddr(), &[], &[]);
    let (before, during) = (kubo.add("before"), kubo.add("during"));
    peer.ctl(&["pin", "add", "--wait", &before]).ok();
    kubo.stop();
    peer.ctl(&["pin", "add", "--no-status", &during]).ok();
    peer.wait_for_status(&during, "pin_error");
    // What the daemon cannot be asked is an error with a reason, never an empty answer.
    assert!(peer.status(&before).contains("cluster_error: "), "{}", peer.status(&before));
    assert!(peer.ctl(&["id"]).ok().contains("> IPFS ERROR: "));
    kubo.resume();
    peer.wait_for_status(&during, "pinned");
    peer.wait_for_status(&before, "pinned");
    assert!(kubo.has(&during, "recursive"));
}

#[test]
fn pin_update_pins_the_new_and_keeps_the_old() {
    let (kubo, peer) = kubo_and_peer!();
    let (old, new) = (kubo.add_folder("old"), kubo.add_folder("new"));
    peer.ctl(&["pin", "add", "--wait", "--name", "thing", "--metadata", "k=v", &old]).ok();
    let said = peer.ctl(&["pin", "update", "--wait", &old, &new]).ok();
    assert!(said.contains(&new) && said.contains(": PINNED"), "{said}");
    assert!(kubo.has(&old, "recursive") && kubo.has(&new, "recursive"));
    let json = peer.ctl(&["--enc", "json", "pin", "ls", &new]).ok();
    assert!(json.contains(&format!("\"pin_update\": \"{old}\"")) && json.contains("\"k\": \"v\""), "{json}");
    let absent = kubo.add("absent");
    let said = peer.ctl(&["pin", "update", &absent, &new]);
    assert!(said.code == 2 && said.out.contains("Code: 404"), "{said:?}");
}

#[test]
fn direct_pins_hold_the_root_and_become_recursive_but_not_the_other_way() {
    let (kubo, peer) = kubo_and_peer!();
    let folder = kubo.add_folder("direct");
    peer.ctl(&["pin", "add", "--wait", "--mode", "direct", &folder]).ok();
    assert!(kubo.has(&folder, "direct") && !kubo.has(&folder, "recursive"));
    assert!(peer.ctl(&["pin", "ls", &folder]).ok().contains(" | PIN-DIRECT | "));
    // Listed as pinned too, not only when asked for by CID.
    peer.ctl(&["sync"]).ok();
    assert!(peer.ctl(&["status", "--filter", "pinned"]).ok().contains(&folder));
    peer.ctl(&["pin", "add", "--wait", &folder]).ok();
    wait_until("the daemon has all of it", || kubo.has(&folder, "recursive"));
    let said = peer.ctl(&["pin", "add", "--mode", "direct", &folder]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.out.contains("cannot repin a CID which is already pinned in recursive mode"), "{said:?}");
}

#[test]
fn an_expired_pin_leaves_the_pinset_and_the_daemon() {
    let (kubo, peer) = kubo_and_peer!();
    let cid = kubo.add("short-lived");
    peer.ctl(&["pin", "add", "--expire-in", "3s", "--no-status", &cid]).ok();
    let is_gone = || peer.ctl(&["pin", "ls", &cid]).code == 2;
    // Where all is slow, it is not seen pinned.
    wait_until("it is pinned, or expired", || kubo.has(&cid, "recursive") || is_gone());
    wait_until("it is out of the pinset", is_gone);
    wait_until("the daemon let go of it", || !kubo.has(&cid, "recursive"));
}

#[test]
fn pin_rm_lets_go_and_says_so_when_there_is_nothing() {
    let (kubo, peer) = kubo_and_peer!();
    let cid = kubo.add("removed");
    peer.ctl(&["pin", "add", "--wait", &cid]).ok();
    let said = peer.ctl(&["pin", "rm", &cid]).ok();
    let stands = [": UNPINNED | ", ": UNPINNING | ", ": UNPIN_QUEUED | "];
    assert!(stands.iter().any(|status| said.contains(status)), "{said}");
    wait_until("the daemon let go of it", || !kubo.has(&cid, "recursive"));
    let said = peer.ctl(&["pin", "rm", &cid]);
    assert_eq!(said.code, 2);
    assert_eq!(said.out, "An error occurred:\n  Code: 404\n  Message: pin is not part of the pinset\n");
}

#[test]
fn a_path_is_resolved_by_the_daemon() {
    let (kubo, peer) = kubo_and_peer!();
    let folder = kubo.add_folder("path");
    let inside = kubo.run(&["resolve", &format!("/ipfs/{folder}/a")]);
    let said = peer.ctl(&["pin", "add", "--no-status", &format!("/ipfs/{folder}/a")]).ok();
    assert!(said.starts_with(inside.trim_start_matches("/ipfs/")), "{said} {inside}");
    let said = peer.ctl(&["pin", "add", &format!("/ipfs/{folder}/nothing")]);
    assert!(said.code == 2 && said.out.contains("no link named"), "{said:?}");
}
