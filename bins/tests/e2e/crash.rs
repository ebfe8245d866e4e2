//! `kill -9` of the daemon under load, and power cuts: what was acknowledged is there after the restart.
//!
//! A killed process keeps its page cache; a power cut also takes whatever was not synced. A few rounds of each for each
//! kind of peer on each engine in every run; `IPFS_CLUSTER_TEST_LONG=1` makes it two hundred kills and fifty cuts each, and
//! another number so many kills and a quarter as many cuts.

use std::collections::BTreeSet;
use std::time::Duration;

use ipfs_cluster::testing::power_cut::{Loss, PowerCut};
use ipfs_cluster::testing::random::Random;

use crate::load::{Account, assert_nothing_lost};
use crate::programs::Peer;

/// Kinds of peers, with rounds on each engine: kills, and power cuts.
const KINDS: [(Kind, u64, u64); 4] =
    [(Kind::Solo, 6, 1), (Kind::Crdt, 7, 2), (Kind::CrdtInBatches, 7, 2), (Kind::Raft, 4, 1)];
/// Where the number of kills in the long run is, if it is not the usual one.
const LONG_VARIABLE: &str = "IPFS_CLUSTER_TEST_LONG";
const LONG_KILLS: u64 = 200;
/// Kills for each power cut in the long run: these take longer.
pub(crate) const LONG_KILLS_A_CUT: u64 = 4;
/// Answers before a daemon ends, so that a round is about something on a slow machine as well.
const ANSWERED_MIN: u64 = 50;

/// The CIDs that a peer lists.
pub(crate) fn pinset(peer: &Peer) -> BTreeSet<String> {
    let listed = peer.ctl(&["pin", "ls"]).ok();
    listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    PowerCut,
}

/// What pins are agreed on by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Solo,
    Crdt,
    /// Deltas of many operations, which are acknowledged before there is a delta.
    CrdtInBatches,
    /// A cluster of one, which agrees on everything by itself.
    Raft,
}

impl Kind {
    fn start(self, engine: &str) -> Peer {
        let (consensus, environment) = match self {
            Self::Solo => ("solo", [].as_slice()),
            Self::Crdt => ("crdt", [].as_slice()),
            Self::CrdtInBatches => (
                "crdt",
                [("CLUSTER_CRDT_BATCHING_MAXBATCHSIZE", "500"), ("CLUSTER_CRDT_BATCHING_MAXBATCHAGE", "1s")]
                    .as_slice(),
            ),
            Self::Raft => ("raft", [].as_slice()),
        };
        // Nothing listens there: this is about the pinset, not about the daemon.
        Peer::start("/ip4/127.0.0.1/tcp/1", &["--consensus", consensus, "--storage", engine], environment)
    }
}

/// The number of the long run, if this is one.
pub(crate) fn long_kills() -> Option<u64> {
    let text = std::env::var(LONG_VARIABLE).ok()?;
    Some(text.parse().ok().filter(|kills| *kills > 1).unwrap_or(LONG_KILLS))
}

fn nothing_acknowledged_is_lost_by_any_kind(engine: &str, end: End) {
    for (kind, kills, cuts) in KINDS {
        let rounds = match (end, long_kills()) {
            (End::Kill, None) => kills,
            (End::PowerCut, None) => cuts,
            (End::Kill, Some(kills)) => kills,
            (End::PowerCut, Some(kills)) => kills.div_ceil(LONG_KILLS_A_CUT),
        };
        nothing_acknowledged_is_lost(kind, engine, end, rounds);
    }
}

fn nothing_acknowledged_is_lost(kind: Kind, engine: &str, end: End, rounds: u64) {
    let mut peer = kind.start(engine);
    if end == End::PowerCut {
        peer.stop();
        match PowerCut::new(&peer.path().join(engine)) {
            Ok(power_cut) => peer.power_cut = Some(power_cut),
            Err(error) if error.kind() == ipfs_cluster::ErrorKind::Unsupported => {
                eprintln!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error:?}"),
        }
        peer.resume();
    }
    let account = Account::new();
    let (mut known, mut open) = (0, 0);
    for round in 0..rounds {
        let seed = 0xC0FFEE + round;
        let kill_after = Duration::from_millis(20 + Random::new(seed).number() % 400);
        account.while_writing(&[peer.api], seed, || {
            std::thread::sleep(kill_after);
            account.wait_for(ANSWERED_MIN);
            match end {
                End::Kill => peer.kill(),
                // Every other time some of what was not synced is there all the same, as on a real disk.
                End::PowerCut if round % 2 == 0 => peer.cut_power(Loss::Everything),
                End::PowerCut => peer.cut_power(Loss::Some(seed)),
            }
        });
        let (refused, texts) = account.refused();
        assert_eq!(refused, 0, "{kind:?} on {engine}, round {round}: {texts:?}");
        peer.resume();
        let there = pinset(&peer);
        assert_nothing_lost(format!("{kind:?} on {engine}, round {round}"), &account, &there);
        let (of, unanswered) = account.settle(&there);
        known += of - unanswered;
        open += unanswered;
    }
    eprintln!(
        "{kind:?} on {engine}: {rounds} times {end:?}, {known} acknowledged operations checked, {open} were open, none lost"
    );
    assert_eq!(peer.stop(), 0);
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_on_fjall() {
    nothing_acknowledged_is_lost_by_any_kind("fjall", End::Kill);
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_on_redb() {
    nothing_acknowledged_is_lost_by_any_kind("redb", End::Kill);
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_on_fjall() {
    nothing_acknowledged_is_lost_by_any_kind("fjall", End::PowerCut);
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_on_redb() {
    nothing_acknowledged_is_lost_by_any_kind("redb", End::PowerCut);
}
