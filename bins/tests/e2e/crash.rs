//! `kill -9` of the daemon under load, and power cuts: what was acknowledged is there after the restart.
//!
//! A killed process keeps its page cache; a power cut also takes whatever was not synced. A few rounds of each for each
//! kind of peer on each engine in every run; `IPFS_CLUSTER_TEST_LONG=1` makes it two hundred kills and fifty cuts each, and
//! another number so many kills and a quarter as many cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ipfs_cluster::testing::power_cut::{Loss, PowerCut};
use ipfs_cluster::testing::random::Random;

use crate::programs::Peer;
use crate::wait::wait_until;

/// Kinds of peers, with rounds on each engine: kills, and power cuts.
const KINDS: [(Kind, u64, u64); 3] = [(Kind::Solo, 6, 1), (Kind::Crdt, 7, 2), (Kind::CrdtInBatches, 7, 2)];
/// Where the number of kills in the long run is, if it is not the usual one.
const LONG_VARIABLE: &str = "IPFS_CLUSTER_TEST_LONG";
const LONG_KILLS: u64 = 200;
/// Kills for each power cut in the long run: these take longer.
const LONG_KILLS_A_CUT: u64 = 4;
const CLIENTS: u64 = 16;
/// Answers before a daemon ends, so that a round is about something on a slow machine as well.
const ANSWERED_MIN: u64 = 50;
/// CIDs each client pins and unpins; few, so that unpins find something.
const CIDS_PER_CLIENT: u64 = 200;

/// What a client knows of a CID after its last answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Pinned,
    Unpinned,
    /// A request was on its way when the daemon died: both outcomes are right.
    Either,
}

fn cid(client: u64, n: u64) -> String {
    use ipfs_cluster::types::Block;
    Block::raw(format!("crash {client} {n}").into_bytes()).cid.to_string()
}

/// One keep-alive connection that reads the status of an answer and skips its body.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(api: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(api)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn request(&mut self, method: &str, target: &str) -> std::io::Result<u16> {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let mut length = 0;
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(status)
    }
}

/// Pins and unpins until the daemon is gone, keeping account of every answer.
fn client(
    api: SocketAddr,
    number: u64,
    seed: u64,
    known: &Mutex<BTreeMap<String, Known>>,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut random = Random::new(seed ^ (number << 32));
    let Ok(mut connection) = Connection::open(api) else { return };
    while !stop.load(Ordering::Relaxed) {
        let cid = cid(number, random.number() % CIDS_PER_CLIENT);
        let pins = random.below(3) > 0;
        // Before the request is sent nobody may rely on either outcome.
        known.lock().unwrap().insert(cid.clone(), Known::Either);
        let answer = if pins {
            connection.request("POST", &format!("/pins/{cid}?name=crash"))
        } else {
            connection.request("DELETE", &format!("/pins/{cid}"))
        };
        let outcome = match answer {
            Ok(200) if pins => Known::Pinned,
            Ok(200 | 404) if !pins => Known::Unpinned,
            Ok(status) => panic!("unexpected answer {status} to a {}", if pins { "pin" } else { "unpin" }),
            Err(_) => return,
        };
        known.lock().unwrap().insert(cid, outcome);
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

fn pinset(peer: &Peer) -> BTreeSet<String> {
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
        };
        // Nothing listens there: this is about the pinset, not about the daemon.
        Peer::start("/ip4/127.0.0.1/tcp/1", &["--consensus", consensus, "--storage", engine], environment)
    }
}

/// The number of the long run, if this is one.
fn long_kills() -> Option<u64> {
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
    let known = Mutex::new(BTreeMap::new());
    let (mut acknowledged, mut open) = (0, 0);
    for round in 0..rounds {
        let seed = 0xC0FFEE + round;
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let kill_after = Duration::from_millis(20 + Random::new(seed).number() % 400);
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (known, answered, stop, api) = (&known, &answered, &stop, peer.api);
                scope.spawn(move || client(api, number, seed, known, answered, stop));
            }
            std::thread::sleep(kill_after);
            let enough = || answered.load(Ordering::Relaxed) >= ANSWERED_MIN;
            wait_until("enough was acknowledged", enough);
            match end {
                End::Kill => peer.kill(),
                // Every other time some of what was not synced is there all the same, as on a real disk.
                End::PowerCut if round % 2 == 0 => peer.cut_power(Loss::Everything),
                End::PowerCut => peer.cut_power(Loss::Some(seed)),
            }
            stop.store(true, Ordering::Relaxed);
        });
        peer.resume();
        let there = pinset(&peer);
        let mut known = known.lock().unwrap();
        for (cid, known) in known.iter_mut() {
            let is_there = there.contains(cid);
            match known {
                Known::Pinned => assert!(
                    is_there,
                    "{kind:?} on {engine}, round {round}: the pin of {cid} was acknowledged and is gone"
                ),
                Known::Unpinned => {
                    assert!(!is_there, "{kind:?} on {engine}, round {round}: {cid} was unpinned and is back")
                }
                Known::Either => {
                    open += 1;
                    *known = if is_there { Known::Pinned } else { Known::Unpinned };
                    continue;
                }
            }
            acknowledged += 1;
        }
    }
    eprintln!(
        "{kind:?} on {engine}: {rounds} times {end:?}, {acknowledged} acknowledged operations checked, {open} were open, none lost"
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
