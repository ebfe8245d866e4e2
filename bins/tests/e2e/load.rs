//! Clients that pin and unpin, and keep account of every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ipfs_cluster::testing::random::Random;
use ipfs_cluster::types::Cid;

use crate::wait::{PATIENCE, wait_until};

/// Clients at a time.
pub(crate) const CLIENTS: u64 = 16;
/// CIDs of which each client pins and unpins one after the other; few, so that unpins find something.
const CIDS_PER_CLIENT: u64 = 200;
/// How long a client waits before it looks for a daemon again that is gone.
const AGAIN: Duration = Duration::from_millis(20);
/// Refusals whose text is kept.
const REFUSALS_SHOWN: usize = 3;

/// What a client knows of a CID after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Pinned,
    Unpinned,
    /// A request was not answered, or was but with an error: both outcomes are right, and may still come.
    Either,
}

/// Content that is its own hash, so that every daemon has it.
pub(crate) fn cid(client: u64, n: u64) -> String {
    let content = format!("load {client} {n}");
    // Version 1, raw, the identity of so many bytes.
    let head = [0x01, 0x55, 0x00, u8::try_from(content.len()).unwrap()];
    Cid::try_from([&head[..], content.as_bytes()].concat()).unwrap().to_string()
}

/// What was answered. Shared by all clients.
#[derive(Debug)]
pub(crate) struct Account {
    known: Mutex<BTreeMap<String, Known>>,
    acknowledged: AtomicU64,
    refused: Mutex<Refused>,
    gap: Mutex<Gap>,
    stop: AtomicBool,
    /// Where clients go, one after the other when one does not answer.
    through: Mutex<Vec<SocketAddr>>,
}

#[derive(Debug, Default)]
struct Refused {
    count: u64,
    texts: BTreeSet<String>,
}

/// When somebody was acknowledged last, and the longest time that nobody was.
#[derive(Debug)]
struct Gap {
    last: Instant,
    longest: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Account {
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            refused: Mutex::default(),
            gap: Mutex::new(Gap { last: Instant::now(), longest: Duration::ZERO }),
            stop: AtomicBool::new(false),
            through: Mutex::default(),
        }
    }

    /// Has clients write through these while something is done; all of them have ended when this returns. They go on by
    /// themselves when a daemon is killed and comes back.
    pub(crate) fn while_writing<T>(&self, through: &[SocketAddr], seed: u64, work: impl FnOnce() -> T) -> T {
        /// Also when the work panics, or nobody would ever end.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        self.write_through(through);
        self.stop.store(false, Ordering::Relaxed);
        *lock(&self.gap) = Gap { last: Instant::now(), longest: Duration::ZERO };
        std::thread::scope(|scope| {
            let _stop = Stop(&self.stop);
            for number in 0..CLIENTS {
                scope.spawn(move || self.client(number, seed));
            }
            work()
        })
    }

    /// Has the clients that write go through these from now on.
    pub(crate) fn write_through(&self, through: &[SocketAddr]) {
        *lock(&self.through) = through.to_vec();
    }

    /// How many were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more were acknowledged.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: u64) {
        let goal = self.acknowledged() + more;
        wait_until(&format!("{more} more writes are acknowledged"), || self.acknowledged() >= goal);
    }

    /// The longest time that nobody was acknowledged since this was asked last, or writing began.
    pub(crate) fn longest_gap(&self) -> Duration {
        let mut gap = lock(&self.gap);
        let longest = gap.longest.max(gap.last.elapsed());
        gap.longest = Duration::ZERO;
        longest
    }

    /// How many were answered with an error since this was asked last, and some of the errors.
    pub(crate) fn refused(&self) -> (u64, BTreeSet<String>) {
        let refused = std::mem::take(&mut *lock(&self.refused));
        (refused.count, refused.texts)
    }

    /// What is acknowledged and not so in this pinset: a pin that is gone, an unpin that is back.
    pub(crate) fn lost(&self, pinset: &BTreeSet<String>) -> Vec<String> {
        let known = lock(&self.known);
        let lost = known.iter().filter_map(|(cid, known)| match (known, pinset.contains(cid)) {
            (Known::Pinned, false) => Some(format!("the pin of {cid} was acknowledged and is gone")),
            (Known::Unpinned, true) => Some(format!("{cid} was unpinned and is back")),
            _ => None,
        });
        lost.collect()
    }

    /// What has become of requests without an answer, where that is for good: nobody is left who would still do them. Gives
    /// how many are known, and how many of these were open.
    pub(crate) fn settle(&self, pinset: &BTreeSet<String>) -> (usize, usize) {
        let mut known = lock(&self.known);
        let mut open = 0;
        for (cid, known) in known.iter_mut().filter(|(_, known)| **known == Known::Either) {
            open += 1;
            *known = if pinset.contains(cid) { Known::Pinned } else { Known::Unpinned };
        }
        (known.len(), open)
    }

    /// How many CIDs are known of, and of how many of these nobody can say what became.
    pub(crate) fn count(&self) -> (usize, usize) {
        let known = lock(&self.known);
        (known.len(), known.values().filter(|known| **known == Known::Either).count())
    }

    /// Pins and unpins until it is told to stop.
    fn client(&self, number: u64, seed: u64) {
        let mut random = Random::new(seed ^ (number << 32));
        let (mut connection, mut turn) = (None, number as usize);
        // With every CID that is open another one comes in, so that there is always one to choose.
        let mut first = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let at = {
                let through = lock(&self.through);
                through.get(turn % through.len().max(1)).copied()
            };
            if connection.as_ref().is_none_or(|(opened, _)| Some(*opened) != at) {
                connection = at.and_then(|at| Some((at, Connection::open(at).ok()?)));
            }
            let Some((_, open)) = &mut connection else {
                turn += 1;
                std::thread::sleep(AGAIN);
                continue;
            };
            let cid = cid(number, first + random.number() % CIDS_PER_CLIENT);
            let pins = random.below(3) > 0;
            // Before the request is sent nobody may rely on either outcome.
            if lock(&self.known).insert(cid.clone(), Known::Either) == Some(Known::Either) {
                first += 1;
                continue;
            }
            let (method, query) = if pins { ("POST", "?name=load") } else { ("DELETE", "") };
            let outcome = match open.request(method, &format!("/pins/{cid}{query}")) {
                Ok((200, _)) if pins => Known::Pinned,
                Ok((200 | 404, _)) if !pins => Known::Unpinned,
                Ok((status, body)) => {
                    self.refuse(format!("{method}: {status} {}", String::from_utf8_lossy(&body)), &cid);
                    first += 1;
                    turn += 1;
                    continue;
                }
                Err(_) => {
                    first += 1;
                    turn += 1;
                    connection = None;
                    continue;
                }
            };
            lock(&self.known).insert(cid, outcome);
            self.acknowledge();
        }
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut gap = lock(&self.gap);
        gap.longest = gap.longest.max(gap.last.elapsed());
        gap.last = Instant::now();
    }

    fn refuse(&self, text: String, cid: &str) {
        let mut refused = lock(&self.refused);
        refused.count += 1;
        if refused.texts.len() < REFUSALS_SHOWN {
            refused.texts.insert(text.replace(cid, "<cid>"));
        }
    }
}

/// Panics with what is lost.
#[track_caller]
pub(crate) fn assert_nothing_lost(what: impl Debug, account: &Account, pinset: &BTreeSet<String>) {
    let lost = account.lost(pinset);
    assert!(lost.is_empty(), "{what:?}: {} lost, {:?}", lost.len(), &lost[..lost.len().min(5)]);
}

/// One keep-alive connection.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(api: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(api)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The status of the answer, and its body.
    fn request(&mut self, method: &str, target: &str) -> std::io::Result<(u16, Vec<u8>)> {
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
        Ok((status, body))
    }
}
