//! What the tasks and the callers of a tracker share, and what is asked about one CID.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use multiaddr::Protocol;
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listing::Outcome;
use super::{COMPONENT, StatelessConfig};
use crate::clock::WallClock;
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::IpfsConnector;
use crate::state::StateReader;
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::tracker::held::{Hasher, Held};
use crate::tracker::key::CidKey;
use crate::tracker::operation::{Holding, Kind, Phase, Wish, resting_status};
use crate::tracker::queue::{PriorityRule, QUEUE_FULL};
use crate::tracker::space::{Change, Space, Verdict};
use crate::tracker::table::{Ending, Requested, Table, View};
use crate::tracker::{TrackerContext, TrackerCounts, TrackerEvent};
use crate::types::{
    Cid, IpfsId, Multiaddr, PeerId, Pin, PinInfo, PinMode, PinStatus, Timestamp, TrackerStatus,
};

/// Events kept for a slow reader before it gets `Resync`.
pub(super) const EVENTS_KEPT: usize = 1024;
/// Longest text of a failure that is remembered, in bytes.
const FAILURE_BYTES_MAX: usize = 1024;

pub(super) struct Inner {
    pub(super) config: StatelessConfig,
    pub(super) peer: PeerId,
    peername: String,
    pub(super) ipfs: Arc<dyn IpfsConnector>,
    pub(super) state: Arc<dyn StateReader>,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) hasher: Hasher,
    shared: Mutex<Shared>,
    pub(super) events: broadcast::Sender<TrackerEvent>,
    /// Something was queued.
    pub(super) work: Notify,
    /// Somebody wants a listing.
    pub(super) listing_wanted: Notify,
    /// Listings that ended, well or not.
    pub(super) listings_ended: watch::Sender<u64>,
    pub(super) cancel: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Everything that changes. Held for short computations only, never across a wait.
pub(super) struct Shared {
    pub(super) table: Table,
    pub(super) held: Held,
    pub(super) space: Space,
    /// What the daemon said was left in it, in bytes, and when.
    pub(super) free_space: Option<(u64, Instant)>,
    /// Why the daemon cannot be listed now, if it is down.
    pub(super) down: Option<Arc<str>>,
    /// Why it has not been listed yet.
    pub(super) unlisted: Arc<str>,
    /// Whether the daemon came back and has not been listed since: it may be another one.
    pub(super) is_outdated: bool,
    pub(super) is_listing: bool,
    /// Whether somebody wants a listing that starts after they asked.
    pub(super) is_listing_wanted: bool,
    /// Who of them waits for it.
    pub(super) waiters: Vec<oneshot::Sender<Result<Arc<Outcome>>>>,
    /// CIDs that the daemon is being asked about.
    pub(super) questions: BTreeMap<CidKey, Questions>,
    /// What statuses say of the daemon.
    pub(super) daemon: Arc<Daemon>,
}

/// Who asks about a CID, and how often something happened to it meanwhile.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) askers: usize,
    pub(super) changes: u64,
}

/// What statuses say of the daemon.
#[derive(Debug, Default)]
pub(super) struct Daemon {
    id: Option<PeerId>,
    addresses: Vec<Multiaddr>,
    /// What pins wait for, if it is space.
    full: Option<Arc<str>>,
    /// Whether pins that the daemon lacks may wait without an operation.
    has_backlog: bool,
}

impl Shared {
    /// Notes that the operation on a CID, or what is known to be held of it, changed.
    fn touch(&mut self, key: &CidKey) {
        if let Some(questions) = self.questions.get_mut(key) {
            questions.changes += 1;
        }
    }

    /// Why nothing can be said about what the daemon holds.
    pub(super) fn unknown(&self) -> Option<&Arc<str>> {
        match &self.down {
            Some(reason) => Some(reason),
            None if self.held.is_complete() => None,
            None => Some(&self.unlisted),
        }
    }

    /// Whether the daemon holds the item of this entry.
    pub(super) fn holding(&self, entry: u128) -> Holding {
        match (&self.down, self.held.contains(entry)) {
            (Some(reason), _) => Holding::Unknown(Arc::clone(reason)),
            (None, true) => Holding::Held,
            (None, false) if self.held.is_complete() => Holding::Missing,
            (None, false) => Holding::Unknown(Arc::clone(&self.unlisted)),
        }
    }
}

/// The text for items that depend on a listing that is not to be had.
pub(super) fn cannot_list(reason: &str) -> Arc<str> {
    format!("could not get pinset from IPFS: {reason}").into()
}

/// The text for pins that wait for space.
fn waits_for_space(reason: &str) -> Arc<str> {
    format!("waiting for space on the IPFS daemon: {reason}").into()
}

/// The text of a failure, as it is remembered.
pub(super) fn failure_text(error: &Error) -> Arc<str> {
    cut_text(&error.to_string())
}

/// A text of others, cut where it is too long to be remembered.
pub(super) fn cut_text(text: &str) -> Arc<str> {
    text[..text.floor_char_boundary(FAILURE_BYTES_MAX)].into()
}

/// Addresses that make sense to other peers, as in the reference: DNS names and global unicast.
fn public_addresses(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let is_public = |address: &Multiaddr| {
        address.iter().any(|part| match part {
            Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_) => true,
            Protocol::Ip4(ip) => {
                !(ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_multicast()
                    || ip.is_link_local()
                    || ip.is_broadcast())
            }
            Protocol::Ip6(ip) => {
                !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local())
            }
            _ => false,
        })
    };
    addresses.into_iter().filter(is_public).collect()
}

impl Inner {
    pub(super) fn new(config: StatelessConfig, cx: TrackerContext) -> Self {
        let rule = PriorityRule {
            age_max: config.priority_pin_max_age,
            attempts_max: u32::try_from(config.priority_pin_max_retries).unwrap_or(u32::MAX),
        };
        let shared = Shared {
            table: Table::new(config.max_pin_queue_size, config.queued_pins_remembered, rule),
            held: Held::new(),
            space: Space::new(),
            free_space: None,
            down: None,
            unlisted: cannot_list("the first listing has not ended yet"),
            is_outdated: false,
            is_listing: false,
            is_listing_wanted: false,
            waiters: Vec::new(),
            questions: BTreeMap::new(),
            daemon: Arc::default(),
        };
        Self {
            config,
            hasher: Hasher::new(&cx.peer, cx.clock.now()),
            peer: cx.peer,
            peername: cx.peername,
            ipfs: cx.ipfs,
            state: cx.state,
            clock: cx.clock,
            shared: Mutex::new(shared),
            events: broadcast::Sender::new(EVENTS_KEPT),
            work: Notify::new(),
            listing_wanted: Notify::new(),
            listings_ended: watch::Sender::new(0),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Nothing under the lock calls foreign code but the clock, so a poisoned lock still guards sound data.
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::shut_down(COMPONENT)) } else { Ok(()) }
    }

    /// Runs a call until it ends or the tracker stops.
    pub(super) async fn until_shut_down<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::shut_down(COMPONENT)),
            answer = call => answer,
        }
    }

    pub(super) fn set_daemon(&self, id: IpfsId) {
        let addresses = public_addresses(id.addresses.unwrap_or_default());
        let mut shared = self.lock();
        let Daemon { full, has_backlog, .. } = &*shared.daemon;
        shared.daemon =
            Arc::new(Daemon { id: id.id, addresses, full: full.clone(), has_backlog: *has_backlog });
    }

    /// Has statuses say what pins wait for, and that those without an operation may wait as well.
    pub(super) fn refresh_statuses(&self, shared: &mut Shared) {
        let full = shared.space.reason().map(|reason| waits_for_space(reason));
        let has_backlog = shared.table.has_backlog();
        if full != shared.daemon.full || has_backlog != shared.daemon.has_backlog {
            let Daemon { id, addresses, .. } = &*shared.daemon;
            shared.daemon = Arc::new(Daemon { id: *id, addresses: addresses.clone(), full, has_backlog });
        }
    }

    pub(super) fn counts(&self) -> TrackerCounts {
        let shared = self.lock();
        let counts = shared.table.counts();
        let waiting_for_space = if shared.space.is_full() { counts.pin_queued } else { 0 };
        TrackerCounts { waiting_for_space, ..counts }
    }

    /// Notes what the end of a pin says of the daemon's space.
    pub(super) fn note_space(&self, shared: &mut Shared, ticket: u64, verdict: Verdict) {
        let change = shared.space.pin_ended(ticket, verdict, Instant::now());
        self.refresh_statuses(shared);
        match (change, shared.space.reason()) {
            (Change::Began, Some(reason)) => tracing::warn!(
                %reason,
                "the IPFS daemon has no space left: pins wait until it has, and go on by themselves"
            ),
            (Change::Over(lasted), _) => {
                tracing::info!(?lasted, "the IPFS daemon has space again: pins go on");
            }
            (Change::Began | Change::None, _) => {}
        }
    }

    /// Tries a pin now, if pins wait for space.
    pub(super) fn probe_space_now(&self) {
        if self.lock().space.probe_now(Instant::now()) {
            self.work.notify_one();
        }
    }

    /// Tries a pin soon, if pins wait for space.
    pub(super) fn space_freed(&self) {
        if self.lock().space.freed(Instant::now()) {
            self.work.notify_one();
        }
    }

    fn bare_status(&self, daemon: &Daemon, status: TrackerStatus, timestamp: Option<Timestamp>) -> PinStatus {
        PinStatus {
            peername: self.peername.clone(),
            ipfs_peer_id: daemon.id,
            ipfs_peer_addresses: daemon.addresses.clone(),
            status,
            timestamp,
            error: String::new(),
            attempt_count: 0,
            priority_pin: false,
        }
    }

    /// The status of an operation.
    pub(super) fn operation_status(&self, daemon: &Daemon, view: &View) -> PinStatus {
        let waits = daemon.full.as_deref().filter(|_| (view.kind, view.phase) == (Kind::Pin, Phase::Queued));
        PinStatus {
            error: view.failure.as_deref().or(waits).unwrap_or_default().to_owned(),
            attempt_count: view.attempts,
            priority_pin: view.priority,
            ..self.bare_status(daemon, view.status(), Some(view.since))
        }
    }

    /// The status of an item no operation works on.
    pub(super) fn resting_status(
        &self,
        daemon: &Daemon,
        pin: Option<&Pin>,
        wish: Wish,
        holding: &Holding,
    ) -> PinStatus {
        let (status, error) = match (wish, holding) {
            (Wish::Held(_), Holding::Missing) if daemon.has_backlog => {
                (TrackerStatus::PinQueued, daemon.full.as_deref().unwrap_or_default().to_owned())
            }
            _ => resting_status(wish, holding),
        };
        let timestamp = pin.map_or_else(|| Some(self.clock.now()), |pin| pin.timestamp);
        PinStatus { error, ..self.bare_status(daemon, status, timestamp) }
    }

    /// The answer about a CID, with what the pinset says of it.
    pub(super) fn info(&self, cid: Cid, pin: Option<Pin>, status: PinStatus) -> PinInfo {
        let Some(pin) = pin else { return PinInfo::of_cid(cid, self.peer, status) };
        PinInfo {
            cid,
            name: pin.options.name,
            allocations: pin.allocations,
            origins: pin.options.origins,
            created: pin.timestamp,
            metadata: pin.options.metadata,
            peer: self.peer,
            status,
        }
    }

    /// Tells whoever listens that an item has this status now. Called under the lock, so that events come in order.
    pub(super) fn announce(&self, cid: Cid, pin: Option<&Pin>, status: PinStatus) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let info = match pin {
            Some(pin) => PinInfo::of_pin(pin, self.peer, status),
            None => PinInfo::of_cid(cid, self.peer, status),
        };
        // Nobody listening any more is no error.
        let _ = self.events.send(TrackerEvent::StatusChanged(Arc::new(info)));
    }

    /// The same, with an answer that was made already.
    pub(super) fn announce_info(&self, info: PinInfo) {
        let _ = self.events.send(TrackerEvent::StatusChanged(Arc::new(info)));
    }

    pub(super) fn announce_resync(&self) {
        let _ = self.events.send(TrackerEvent::Resync);
    }

    /// Asks for an operation, tells of it, and gives the status it has then.
    pub(super) fn request(
        &self,
        shared: &mut Shared,
        key: &CidKey,
        cid: Cid,
        kind: Kind,
        pin: Option<&Pin>,
    ) -> (Requested, PinStatus) {
        let now = self.clock.now();
        let requested = shared.table.request(key, kind, pin, now);
        if requested == Requested::Backlog {
            self.refresh_statuses(shared);
        }
        let status = match shared.table.get(key) {
            Some(view) => self.operation_status(&shared.daemon, &view),
            None if requested == Requested::Backlog => {
                self.resting_status(&shared.daemon, pin, Wish::of(pin, &self.peer), &Holding::Missing)
            }
            // Too many failed: this one is not remembered, but told.
            None => PinStatus {
                error: QUEUE_FULL.to_owned(),
                ..self.bare_status(&shared.daemon, TrackerStatus::PinError, Some(now))
            },
        };
        if requested != Requested::Kept {
            shared.touch(key);
            self.announce(cid, pin, status.clone());
        }
        if requested == Requested::Changed {
            self.work.notify_one();
        }
        (requested, status)
    }

    /// Notes the end of an operation. Whether it was still the one on its CID.
    pub(super) fn finish(&self, shared: &mut Shared, key: &CidKey, ticket: u64, ending: Ending) -> bool {
        shared.touch(key);
        // What stood aside for it may be queued now.
        self.work.notify_one();
        shared.table.finish(key, ticket, ending, self.clock.now())
    }

    /// Notes what the daemon holds of a CID now.
    pub(super) fn record(&self, shared: &mut Shared, key: &CidKey, mode: PinMode, held: bool) {
        shared.held.record(self.hasher.hash(key, mode), held);
        shared.touch(key);
    }

    /// Brings the daemon where the pinset wants it, unless it is known to be there.
    fn request_wish(&self, key: &CidKey, cid: Cid, wish: Wish, pin: Option<&Pin>) -> Result<()> {
        let Some(kind) = wish.operation() else { return Ok(()) };
        let entries = [PinMode::Recursive, PinMode::Direct].map(|mode| self.hasher.hash(key, mode));
        let mut shared = self.lock();
        // Most of a large pinset is remote: what was never here needs no round trip.
        let is_gone = || {
            let [recursive, direct] = entries.map(|entry| shared.held.contains(entry));
            shared.unknown().is_none() && wish.is_satisfied(recursive, direct)
        };
        if kind == Kind::Remote
            && shared.table.get(key).is_none()
            && !shared.table.is_running(key)
            && is_gone()
        {
            return Ok(());
        }
        match self.request(&mut shared, key, cid, kind, pin).0 {
            Requested::Full => Err(Error::new(ErrorKind::QueueFull, QUEUE_FULL).component(COMPONENT)),
            Requested::Changed | Requested::Kept | Requested::Backlog => Ok(()),
        }
    }

    pub(super) fn track(&self, pin: &Pin) -> Result<()> {
        let key = CidKey::from(&pin.cid);
        self.request_wish(&key, pin.cid, Wish::of(Some(pin), &self.peer), Some(pin))
    }

    pub(super) async fn untrack(&self, cid: &Cid) -> Result<()> {
        let key = CidKey::from(cid);
        let pin = self.until_shut_down(self.state.get(cid)).await?;
        match Wish::of(pin.as_ref(), &self.peer) {
            #[cfg(feature = "testing")]
            Wish::Held(_) if is_planted(Planted::LateRemovalUntracks) => {
                self.request_wish(&key, *cid, Wish::Absent, pin.as_ref())
            }
            // It is in the pinset (again): the removal came late.
            Wish::Held(_) => Ok(()),
            wish => self.request_wish(&key, *cid, wish, pin.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peers_are_told_only_addresses_they_can_use() {
        let addresses = [
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/10.1.2.3/tcp/4001",
            "/ip4/203.0.113.9/udp/4001/quic-v1",
            "/ip4/169.254.1.1/tcp/4001",
            "/ip6/::1/tcp/4001",
            "/ip6/fe80::1/tcp/4001",
            "/ip6/2001:db8::1/tcp/4001",
            "/dns4/example.com/tcp/4001",
            "/unix/socket",
        ];
        let parsed = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let public: Vec<_> = public_addresses(parsed).iter().map(ToString::to_string).collect();
        assert_eq!(public, [addresses[1], addresses[2], addresses[6], addresses[7]]);
    }

    #[test]
    fn long_failures_are_cut_between_characters() {
        let text = failure_text(&Error::internal("ä".repeat(1000)));
        assert!(text.len() <= FAILURE_BYTES_MAX && text.len() > FAILURE_BYTES_MAX - 2);
    }
}
