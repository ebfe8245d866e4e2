//! The end of a follower.

use ipfs_cluster::config::StorageEngine;

use super::world::*;

fn with_pins(name: &str, indexes: &[usize]) -> Home {
    let home = Home::following(name, "http://127.0.0.1:1/x");
    let pins: Vec<_> = indexes.iter().map(|index| pin(*index, "")).collect();
    home.store(name, StorageEngine::Fjall, &pins);
    home
}

fn left(home: &Home, name: &str) -> String {
    format!("Cluster \"{name}\" is no longer followed: {} was removed.\n", home.base.join(name).display())
}

fn leave(home: &Home, ipfs: &str, arguments: &[&str]) -> Ran {
    home.run_with(arguments, &[("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", ipfs)])
}

#[test]
fn without_a_terminal_it_must_be_said_what_becomes_of_the_pins() {
    let home = with_pins("mycl", &[0]);
    let ran = home.run(&["mycl", "leave"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains("--unpin removes them from IPFS, --keep-pins does not"), "{}", ran.stderr);
    assert!(home.path("mycl", "service.json").exists());
}

#[test]
fn with_its_pins_everything_goes_that_no_other_cluster_here_needs() {
    let ipfs = Ipfs::start();
    let home = with_pins("mycl", &[0, 1, 2]);
    home.init("other", "http://127.0.0.1:1/x");
    home.store("other", StorageEngine::Redb, &[pin(1, "")]);
    // One was never pinned, one is needed by the other.
    for index in [0, 1] {
        ipfs.pin(index);
    }
    let ran = leave(&home, &ipfs.address, &["mycl", "leave", "--unpin"]).ok();
    assert_eq!(
        ran,
        format!(
            "1 items were unpinned from IPFS. 1 stay pinned, because other clusters that are followed here have them \
             too.\n{}",
            left(&home, "mycl")
        )
    );
    assert!(!ipfs.has(0) && ipfs.has(1));
    assert!(!home.base.join("mycl").exists());
    assert_eq!(std::fs::read_dir(&home.base).unwrap().count(), 1);
    assert!(home.run(&["other", "list"]).ok().contains(CIDS[1]));
}

#[test]
fn a_cluster_that_runs_is_asked_what_it_needs() {
    let (theirs, ours) = (Ipfs::start(), Ipfs::start());
    let writer = Writer::start(&theirs.address, "neighbour");
    writer.ask("POST", 1, "");
    let server = Server::of(&writer.template);
    let home = with_pins("mycl", &[0, 1]);
    home.init("other", &server.service_json());
    ours.pin(0);
    let mut peer = home.start(&["other", "run"], &ours.address, &[]).ready();
    wait_until("the pin of the other", || ours.has(1));
    let ran = leave(&home, &ours.address, &["mycl", "remove", "--unpin"]).ok();
    assert!(ran.starts_with("1 items were unpinned from IPFS. 1 stay pinned"), "{ran}");
    assert!(!ours.has(0) && ours.has(1));
    assert_eq!(peer.stop(), 0);
}

#[test]
fn without_its_pins_ipfs_is_not_needed() {
    let ipfs = Ipfs::start();
    ipfs.pin(0);
    let home = with_pins("mycl", &[0]);
    assert_eq!(leave(&home, NOBODY, &["mycl", "leave", "--keep-pins"]).ok(), left(&home, "mycl"));
    assert!(ipfs.has(0) && !home.base.join("mycl").exists());
    let ran = home.run(&["mycl", "leave", "--keep-pins"]);
    assert_eq!((ran.code, ran.stdout.contains("has not been initialized")), (1, true));
}

#[test]
fn what_cannot_be_unpinned_keeps_the_folder_and_it_goes_on_later() {
    let ipfs = Ipfs::start();
    ipfs.pin(0);
    let home = with_pins("mycl", &[0]);
    let ran = leave(&home, NOBODY, &["mycl", "leave", "--unpin"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("the IPFS daemon is needed to unpin (--keep-pins leaves all pins alone)"),
        "{ran:?}"
    );
    assert!(home.run(&["mycl", "list"]).ok().contains(CIDS[0]));
    leave(&home, &ipfs.address, &["mycl", "leave", "--unpin"]).ok();
    assert!(!ipfs.has(0) && !home.base.join("mycl").exists());
}

#[test]
fn a_cluster_that_cannot_be_asked_is_no_reason_to_guess() {
    let ipfs = Ipfs::start();
    ipfs.pin(0);
    let home = with_pins("mycl", &[0]);
    home.init("go", "http://127.0.0.1:1/x");
    std::fs::create_dir(home.path("go", "leveldb")).unwrap();
    std::fs::write(home.path("go", "leveldb/CURRENT"), "x").unwrap();
    let ran = leave(&home, &ipfs.address, &["mycl", "leave", "--unpin"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("the cluster \"go\", which is followed here too, cannot be asked"),
        "{}",
        ran.stderr
    );
    assert!(ipfs.has(0) && home.path("mycl", "service.json").exists());
}

#[test]
fn what_an_interruption_left_is_removed_by_the_next_one() {
    let home = Home::following("mycl", "http://127.0.0.1:1/x");
    std::fs::rename(home.base.join("mycl"), home.base.join(".mycl.leaving")).unwrap();
    assert!(home.run(&[]).ok().contains("No clusters configured yet!"));
    assert_eq!(home.run(&["mycl", "leave", "--unpin"]).ok(), left(&home, "mycl"));
    assert_eq!(std::fs::read_dir(&home.base).unwrap().count(), 0);
}
