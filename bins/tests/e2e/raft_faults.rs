//! Daemons that agree by Raft and what befalls one of them: a disk that was lost, a copy beside it, a disk that is full.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::cluster::{RAFT, Shared};
use crate::load::{Account, cid};
use crate::programs::{Peer, wait_until_all_list_all};
use crate::raft::{all_but, apis, leader, wait_until_nothing_is_missing};
use crate::wait::{wait_until, wait_until_seen};

/// Writes that are acknowledged before something happens, and after.
const WRITES: u64 = 100;

/// Three members that wrote, of which the last one and the others know each other.
fn members_that_met(daemon: &Shared, account: &Account) -> Vec<Peer> {
    let peers = daemon.members::<3>(RAFT, &[]);
    account.while_writing(&apis(&peers), 1, || account.wait_for(WRITES));
    wait_until_nothing_is_missing(&peers, account);
    wait_until("it knows the others", || {
        peers[..2].iter().all(|other| peers[2].remembers(other) && other.remembers(&peers[2]))
    });
    peers
}

#[test]
fn a_member_that_lost_its_disk_is_refused_until_it_joins_anew() {
    let daemon = Shared::start();
    let account = Account::new();
    let mut peers = members_that_met(&daemon, &account);
    let (id, through) = (peers[2].id(), peers[0].multiaddr());
    account.while_writing(&apis(all_but(&peers, 2)), 2, || {
        account.wait_for(WRITES);
        peers[2].kill();
        std::fs::remove_dir_all(peers[2].path().join("fjall")).unwrap();
        // It must not begin anything of its own, whether it was told to join or not, and once more.
        for _ in 0..2 {
            let said = peers[2].service(&["daemon"]);
            assert!(said.code == 1 && said.err.contains("names other peers"), "{said:?}");
            let said = peers[2].service(&["daemon", "--bootstrap", &through]);
            assert!(
                said.code == 1 && said.err.contains("the members know this peer with a newer state"),
                "{said:?}"
            );
            account.wait_for(WRITES);
        }
        // As both of them say.
        peers[0].ctl(&["peers", "rm", &id]).ok();
        peers[2].service(&["state", "cleanup", "--force"]).ok();
        peers[2].arguments = vec!["--bootstrap".to_owned(), through];
        peers[2].resume();
        wait_until_all_list_all(&peers);
        account.wait_for(WRITES);
    });
    wait_until_nothing_is_missing(&peers, &account);
    let (refused, texts) = account.refused();
    assert_eq!(refused, 0, "{texts:?}");
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

#[test]
fn of_a_peer_and_a_copy_of_it_the_one_that_was_started_last_is_a_member() {
    let daemon = Shared::start();
    let account = Account::new();
    let mut peers = members_that_met(&daemon, &account);
    // A copy of a peer that runs, beside it.
    let mut copy = peers[2].copy("copy");
    copy.resume();
    assert_eq!(peers[2].ended(), 1);
    let said = peers[2].log();
    assert!(
        said.contains("running cluster") && said.contains("was started after it: stop one of them"),
        "{said}"
    );
    let original = std::mem::replace(&mut peers[2], copy);
    wait_until_all_list_all(&peers);
    account.while_writing(&apis(&peers), 2, || {
        account.wait_for(WRITES);
        // It is not let in again, and nobody is disturbed.
        let said = original.service(&["daemon"]);
        assert!(said.code == 1 && said.err.contains("know this peer with a newer state"), "{said:?}");
        account.wait_for(WRITES);
    });
    wait_until_nothing_is_missing(&peers, &account);
    let (refused, texts) = account.refused();
    eprintln!("{refused} refused: {texts:?}");
    let warned = peers[0].log().matches("a member is not the one that it was").count();
    assert!(warned <= 3, "said {warned} times");
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

/// A disk of its own for a store.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// More than a store keeps free, and some room.
    const BYTES: u64 = (128 + 48) << 20;
    const FILLER: u64 = 64 << 20;

    /// None where it cannot be had, after saying so.
    fn mount() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let size = format!("size={}", Self::BYTES);
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                eprintln!("skipped: no small disk can be mounted here: {other:?}");
                None
            }
        }
    }

    /// Has a peer that never ran keep its store here.
    fn give_to(&self, peer: &Peer) {
        let store = self.0.path().join("fjall");
        std::fs::create_dir(&store).unwrap();
        std::os::unix::fs::symlink(store, peer.path().join("fjall")).unwrap();
    }

    fn fill(&self) {
        let bytes = usize::try_from(Self::FILLER).unwrap();
        std::fs::write(self.0.path().join("filler"), vec![1; bytes]).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has something open there loses it with its process.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn peers_whose_disks_are_full_say_so_and_go_on_when_there_is_room() {
    const DEADLINE: (&str, &str) = ("CLUSTER_RAFT_WAITFORLEADERTIMEOUT", "5s");
    const FULL: &str = "raft waits until there is space on this peer's disk";
    let Some(disks) = (0..3).map(|_| SmallDisk::mount()).collect::<Option<Vec<_>>>() else { return };
    let daemon = Shared::start();
    let mut peers: Vec<Peer> = Vec::new();
    for (number, disk) in disks.iter().enumerate() {
        let mut peer = daemon.member(RAFT, &format!("peer-{number}"), peers.first(), &[DEADLINE]);
        disk.give_to(&peer);
        peer.resume();
        peers.push(peer);
    }
    wait_until_all_list_all(&peers);
    let account = Account::new();
    let one = cid(u64::MAX, 0);
    account.while_writing(&apis(&peers), 1, || {
        account.wait_for(WRITES);
        // Of the one that leads: another one does then, and whoever asks this one is told.
        let full = leader(&peers);
        disks[full].fill();
        wait_until_seen("who asks a peer with a full disk is told", || {
            let said = peers[full].ctl(&["pin", "add", "--no-status", &one]);
            if said.code == 2 && said.out.contains(FULL) { Ok(()) } else { Err(said) }
        });
        account.wait_for(WRITES);
        peers[full].ctl(&["pin", "ls"]).ok();
        disks[full].make_room();
        wait_until_seen("it goes on by itself", || {
            let said = peers[full].ctl(&["pin", "add", "--no-status", &one]);
            if said.code == 0 { Ok(()) } else { Err(said) }
        });
        account.wait_for(WRITES);
    });
    wait_until_nothing_is_missing(&peers, &account);
    // Of all: nobody can write, and everybody says why.
    account.while_writing(&apis(&peers), 2, || {
        account.wait_for(WRITES);
        disks.iter().for_each(SmallDisk::fill);
        wait_until_seen("nothing can be written, and it is said why", || {
            let said: Vec<_> =
                peers.iter().map(|peer| peer.ctl(&["pin", "add", "--no-status", &one])).collect();
            // Who wrote nothing since knows only that the others do not lead.
            let full = said.iter().filter(|said| said.out.contains(FULL)).count();
            let no_leader = said.iter().filter(|said| said.out.contains("there is no leader")).count();
            if full >= 2 && full + no_leader == peers.len() { Ok(()) } else { Err(said) }
        });
        peers.iter().for_each(|peer| drop(peer.ctl(&["pin", "ls"]).ok()));
        disks.iter().for_each(SmallDisk::make_room);
        account.wait_for(WRITES);
    });
    let (refused, texts) = account.refused();
    eprintln!("{refused} refused: {texts:?}");
    wait_until_nothing_is_missing(&peers, &account);
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}
