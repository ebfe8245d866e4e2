//! Catching up without the history.
//!
//! A walk gets what is missing block by block, so it takes as long as the history is. Between peers that run the same,
//! a peer gets what the history came to: the elements and tombstones of every pin, which blocks were merged, and the
//! heads. All of it is a union, so whatever is merged later gives what it would have given after a walk.
//!
//! 1. *Hello*: the heads of both. Who has all heads of the other is done; who lacks little leaves it to the walk.
//! 2. *Pins*: parts of 32 pins are compared by a sum of hashes, in the order of keys; of parts that differ the asking
//!    side sends a hash for each pin, and gets the pins whose hash is not among them. Once all is on disk:
//! 3. *Blocks*: the same for the names of merged blocks, without those that were merged there after the session began
//!    and may say more than the pins that were read, and without the tips of walks that are under way there: these walks
//!    are gone on with here, and make heads of their tips.
//! 4. The heads that the other had in the beginning are adopted, in one batch with their names.
//! 5. The blocks themselves follow (`blocks`), for peers that walk.
//!
//! What is given is on disk: nobody could get it again, were it lost in a power cut.
//!
//! A session that breaks anywhere before 4 leaves what it got; the next one finds those parts equal. Nothing here grows
//! with the pinset, on neither side.

pub(super) mod blocks;
pub(super) mod client;
pub(super) mod message;
#[cfg(any(test, feature = "testing"))]
pub(super) mod samples;
mod server;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tracing::{debug, warn};

use self::client::Outcome;
use super::announce::Inbox;
use super::key::Digest;
use super::store::StoreLedger;
use super::trust::Trust;
use super::walk::Request;
use crate::error::{Error, ErrorKind, Result};
use crate::exchange::BlockExchange;
use crate::state::State;
use crate::transport::{PeerTransport, Protocol, TransportEvent};
use crate::types::PeerId;

pub(super) use server::Server;

const COMPONENT: &str = "crdt catch-up";
pub(super) const PROTOCOL: &str = "/ipfs-cluster-rs/catchup/1";

/// Sessions that are served at a time.
const SESSIONS_MAX: usize = 4;
/// Those of one peer.
const SESSIONS_OF_PEER_MAX: usize = 2;
/// How long a session may take, on either side.
const SESSION_MAX: Duration = Duration::from_secs(2 * 3600);
/// How long the other side may say nothing, or take nothing.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a frozen view of the store is used.
const SNAPSHOT_LIFETIME: Duration = Duration::from_secs(few(0, 45) as u64);
/// Entries that are compared by one sum.
const CHUNK_ENTRIES: usize = few(2, 32);
/// Entries that are compared by one message.
const COMPARE_ENTRIES: usize = CHUNK_ENTRIES * few(3, 1024);
/// Parts that are asked for by one message.
const WANT_RANGES: usize = few(2, 1024);
/// About how many records are written at once, and about how many bytes of them.
const ABSORB_RECORDS: usize = few(3, 8192);
const ABSORB_BYTES: usize = 4 << 20;
/// Batches that are being written while the next one comes.
const ABSORBS_MAX: usize = 2;
/// A peer whose heads are at most this much higher is left to the walk.
const WALK_HEIGHTS: u64 = 256;
/// The same for one whose pinset is larger or smaller by as much.
const WALK_PINS: u64 = 50_000;
/// How long after a failure it is tried again: at first, and at most.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Peers that are remembered.
const PEERS_MAX: usize = 65_536;

/// Small enough in unit tests that a few pins fill it.
const fn few(in_tests: usize, elsewhere: usize) -> usize {
    if cfg!(test) { in_tests } else { elsewhere }
}

fn protocol() -> Protocol {
    Protocol::new(PROTOCOL)
}

/// What the task is made of.
#[derive(Clone, Debug)]
pub(super) struct CatchUpParts {
    pub(super) ledger: Arc<StoreLedger>,
    pub(super) state: Arc<dyn State>,
}

/// The task that asks others.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) ledger: Arc<StoreLedger>,
    pub(super) state: Arc<dyn State>,
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) exchange: Arc<dyn BlockExchange>,
    pub(super) trust: Arc<Trust>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) walker: mpsc::Sender<Request>,
    pub(super) interval: Duration,
    pub(super) seed: u64,
}

/// Whom to ask.
#[derive(Debug, Default)]
struct Peers {
    /// To be asked now.
    waiting: BTreeSet<PeerId>,
    /// They do not speak the protocol.
    plain: BTreeSet<PeerId>,
    /// Who was asked last because it was time.
    last: Option<PeerId>,
}

impl Peers {
    fn saw(&mut self, event: TransportEvent, connected: impl FnOnce() -> Vec<PeerId>) {
        match event {
            TransportEvent::Connected(peer) => {
                self.plain.remove(&peer);
                if self.waiting.len() < PEERS_MAX {
                    self.waiting.insert(peer);
                }
            }
            TransportEvent::Disconnected(peer) => {
                self.plain.remove(&peer);
                self.waiting.remove(&peer);
            }
            TransportEvent::Resync => self.waiting.extend(connected().into_iter().take(PEERS_MAX)),
            TransportEvent::AddressesChanged(_) => {}
        }
    }

    /// The next of these in turn.
    fn turn(&mut self, mut peers: Vec<PeerId>) {
        peers.retain(|peer| !self.plain.contains(peer));
        peers.sort_unstable();
        let next = peers.iter().find(|peer| self.last.is_none_or(|last| **peer > last)).or(peers.first());
        if let Some(peer) = next {
            self.last = Some(*peer);
            self.waiting.insert(*peer);
        }
    }
}

impl CatchUp {
    /// Asks everybody who connects and is trusted, and one peer at every interval, until the store is shut down.
    pub(super) async fn run(self, mut events: BoxStream<'static, TransportEvent>) {
        let mut peers = Peers { waiting: self.transport.peers().into_iter().collect(), ..Default::default() };
        // Not all at once, when they were started at once.
        let first = Instant::now() + self.interval + self.interval.mul_f64((self.seed % 100) as f64 / 400.0);
        let mut ticks = interval_at(first, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut left, mut retry, mut retry_at) = (BTreeSet::new(), RETRY, None);
        loop {
            while let Some(peer) = peers.waiting.pop_first() {
                if !self.trust.is_trusted(&peer) || peers.plain.contains(&peer) {
                    continue;
                }
                match self.ask(peer, &mut left).await {
                    Ok(()) => (retry, retry_at) = (RETRY, None),
                    Err(error) => match error.kind() {
                        ErrorKind::ShutDown => return,
                        ErrorKind::Unsupported => {
                            if peers.plain.len() < PEERS_MAX {
                                peers.plain.insert(peer);
                            }
                        }
                        ErrorKind::Unavailable => {
                            debug!(%peer, %error, "no catching up with a peer now");
                            retry_at = Some(Instant::now() + retry);
                        }
                        _ => {
                            warn!(%peer, %error, "catching up with a peer failed");
                            retry_at = Some(Instant::now() + retry);
                        }
                    },
                }
            }
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(event) => peers.saw(event, || self.transport.peers()),
                    None => return,
                },
                _ = ticks.tick() => peers.turn(self.trusted()),
                () = async {
                    match retry_at {
                        Some(at) => sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {
                    retry_at = None;
                    retry = (retry * 2).min(RETRY_MAX);
                    peers.turn(self.trusted());
                }
            }
        }
    }

    fn trusted(&self) -> Vec<PeerId> {
        self.transport.peers().into_iter().filter(|peer| self.trust.is_trusted(peer)).collect()
    }

    async fn ask(&self, peer: PeerId, left: &mut BTreeSet<Digest>) -> Result<()> {
        let too_long = || Error::new(ErrorKind::Timeout, "it took too long").component(COMPONENT);
        let outcome =
            timeout(SESSION_MAX, client::session(self, peer, left)).await.map_err(|_| too_long())??;
        debug!(%peer, ?outcome, "asked a peer for what is missing");
        *left = match outcome {
            Outcome::LeftToWalk(heads) => heads,
            Outcome::Equal | Outcome::CaughtUp => BTreeSet::new(),
        };
        timeout(SESSION_MAX, blocks::fetch(self, peer)).await.map_err(|_| too_long())?
    }
}
