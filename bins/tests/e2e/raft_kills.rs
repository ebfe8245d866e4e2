//! Daemons that agree by Raft and are killed in the middle of the load, one, most or all at once, also by a power cut: what
//! was acknowledged is there afterwards, at every one of them.
//!
//! A few rounds in every run; with `IPFS_CLUSTER_TEST_LONG` as many kills and a quarter as many cuts as for single peers.

use std::time::Duration;

use ipfs_cluster::testing::power_cut::{Loss, PowerCut};
use ipfs_cluster::testing::random::Random;

use crate::cluster::{RAFT, Shared};
use crate::crash::{LONG_KILLS_A_CUT, long_kills};
use crate::load::Account;
use crate::programs::{Answers as _, Peer};
use crate::raft::{apis, wait_until_nothing_is_missing};
use crate::wait::wait_until;

/// Writes that are acknowledged before daemons end, and after.
const WRITES: u64 = 50;
const PEERS: usize = 3;

/// Who ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    One,
    /// More than the others can do without.
    Two,
    All,
}

impl Who {
    const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::All => PEERS,
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// Rounds in which one, two and all ended.
    rounds: [u64; PEERS],
    /// The longest time that nobody was acknowledged, until something was again.
    longest: [Duration; PEERS],
    refused: u64,
}

/// Those of a short run, or as many as the variable says.
fn rounds(short: &[Who], kills_a_round: u64) -> Vec<Who> {
    let Some(kills) = long_kills() else { return short.to_vec() };
    let mut random = Random::new(0x5EED);
    let all = std::iter::repeat_with(|| *random.one_of(&[Who::One, Who::One, Who::Two, Who::All]));
    let mut left = kills.div_ceil(kills_a_round);
    all.take_while(|who| {
        let goes_on = left > 0;
        left = left.saturating_sub(who.count() as u64);
        goes_on
    })
    .collect()
}

fn nothing_acknowledged_is_lost(engine: &str, cuts_power: bool, rounds: &[Who]) {
    let daemon = Shared::start();
    let mut peers = daemon.members::<PEERS>(RAFT, &[("CLUSTER_RAFT_STORAGE", engine)]);
    // From here on they know of each other what they remember, which is soon written down.
    for (number, peer) in peers.iter().enumerate() {
        for other in peers.iter().skip(number + 1) {
            let both = || peer.remembers(other) && other.remembers(peer);
            wait_until(&format!("{} and {} remember each other", peer.name(), other.name()), both);
        }
    }
    peers.iter_mut().for_each(|peer| peer.arguments.clear());
    if cuts_power && !may_lose_power(&mut peers, engine) {
        return;
    }
    let account = Account::new();
    let mut seen = Seen::default();
    for (round, who) in rounds.iter().enumerate() {
        let seed = 0xC0FFEE + round as u64;
        let mut random = Random::new(seed);
        let mut order: Vec<usize> = (0..PEERS).collect();
        shuffle(&mut order, &mut random);
        let goes = &order[..who.count()];
        account.while_writing(&apis(&peers), seed, || {
            account.wait_for(WRITES);
            std::thread::sleep(random.time(Duration::from_millis(20), Duration::from_millis(400)));
            account.longest_gap();
            goes.iter().for_each(|number| peers[*number].kill());
            if cuts_power {
                // Every other time some of what was not synced is there all the same, as on a real disk.
                let loss = if round % 2 == 0 { Loss::Everything } else { Loss::Some(seed) };
                goes.iter().for_each(|number| peers[*number].restore(loss));
            }
            let mut returns = goes.to_vec();
            shuffle(&mut returns, &mut random);
            if *who == Who::One {
                account.wait_for(WRITES);
            }
            returns.iter().for_each(|number| peers[*number].resume());
            account.wait_for(WRITES);
        });
        let longest = &mut seen.longest[who.count() - 1];
        *longest = account.longest_gap().max(*longest);
        seen.rounds[who.count() - 1] += 1;
        let (refused, texts) = account.refused();
        seen.refused += refused;
        if refused > 0 {
            eprintln!("round {round}: {refused} refused: {texts:?}");
        }
        wait_until_nothing_is_missing(&peers, &account);
    }
    let (known, open) = account.count();
    eprintln!(
        "Raft on {engine}, {}: {known} pins and unpins checked, {open} were open, none lost; {seen:?}",
        if cuts_power { "power cuts" } else { "kills" },
    );
    for peer in &mut peers {
        assert_eq!(peer.stop(), 0);
    }
}

/// Has every peer run on a disk that loses what was not synced; not where there is no way to do that, after saying so.
fn may_lose_power(peers: &mut [Peer], engine: &str) -> bool {
    for peer in peers.iter_mut() {
        peer.stop();
    }
    for peer in peers.iter_mut() {
        match PowerCut::new(&peer.path().join(engine)) {
            Ok(power_cut) => peer.power_cut = Some(power_cut),
            Err(error) if error.kind() == ipfs_cluster::ErrorKind::Unsupported => {
                eprintln!("skipped: {error}");
                return false;
            }
            Err(error) => panic!("{error:?}"),
        }
        peer.resume();
    }
    true
}

fn shuffle(numbers: &mut [usize], random: &mut Random) {
    for last in (1..numbers.len()).rev() {
        numbers.swap(last, random.below(last + 1));
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_of_raft_peers_on_fjall() {
    nothing_acknowledged_is_lost("fjall", false, &rounds(&[Who::All, Who::Two], 1));
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_of_raft_peers_on_redb() {
    nothing_acknowledged_is_lost("redb", false, &rounds(&[Who::All], 1));
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_of_raft_peers_on_fjall() {
    nothing_acknowledged_is_lost("fjall", true, &rounds(&[Who::All, Who::All], LONG_KILLS_A_CUT));
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_of_raft_peers_on_redb() {
    nothing_acknowledged_is_lost("redb", true, &rounds(&[Who::All], LONG_KILLS_A_CUT));
}
