//! Watching a peer: its events in order, with a place to go on from after an interruption.
//!
//! The last events are kept in one bounded ring. Watchers read it at their own pace and are told when they missed
//! something; nothing waits for them. Events are noted only while somebody watches, and for [`LINGER`] after the last
//! watcher left, so that a broken connection finds its place again: a peer that nobody watches pays nothing, not even
//! for a subscription. Whoever comes back later than that gets a resync, as after a restart.

mod ring;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use self::ring::{Filter, Found, Limits, Noted, Ring};
use super::peers::Ping;
use super::{Cluster, Inner};
use crate::clock::WallClock;
use crate::consensus::StateEvent;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{Monitor, MonitorEvent};
use crate::tracker::TrackerEvent;
use crate::types::{Cid, Event, EventCursor, EventKind, EventKinds, Happening, PeerId};

/// Watchers at the same time.
pub const WATCHERS_MAX: usize = 256;
/// CIDs that one watcher may ask for.
pub const WATCH_CIDS_MAX: usize = 1024;
/// Events that are kept; fewer when they take more than 32 MiB.
pub const WATCH_EVENTS_MAX: usize = 65_536;
/// Memory that they may take, roughly.
const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long events are noted after the last watcher left.
const LINGER: Duration = Duration::from_secs(600);
/// How often is looked who lives.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Events that a watcher looks at at a time, which is how long the others wait for it.
const READ_MAX: usize = 256;
/// Shortest time between heartbeats.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

const BEHIND: &str = "the reader was too slow, or came back too late, for the events that are kept";
const ELSEWHERE: &str = "the cursor is of another peer, or of this one before it was started again";
const STATE_BEHIND: &str = "the pinset changed faster than it could be told";
const ALERTS_BEHIND: &str = "metrics of many peers stopped coming at once";
const TRACKER_BEHIND: &str = "many statuses changed at once, as when the IPFS daemon goes or comes back";

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchQuery {
    /// Behind which event to begin; with none, what happens from now on.
    pub after: Option<EventCursor>,
    /// Which events.
    pub kinds: EventKinds,
    /// Of events about a CID only those about one of these, at most [`WATCH_CIDS_MAX`]; all when there are none.
    pub cids: Vec<Cid>,
    /// How long there may be silence before [`Happening::Heartbeat`] says how far the watch is; one also comes at the
    /// beginning when there is nothing else to tell. None without.
    pub heartbeat: Option<Duration>,
}

impl Cluster {
    /// Watches this peer: its pinset, statuses on it, other peers that come and go, and alerts, in the order in which it
    /// noticed them, each with the cursor to go on from. Subscribed when it returns. The stream ends when the peer stops.
    ///
    /// With a cursor nothing is lost and nothing comes twice, or [`Happening::Resync`] comes first: when the peer was
    /// started again or is another one, when more happened than is kept, when nobody watched for ten minutes. It also
    /// comes later to a reader that falls behind. Nobody waits for a reader.
    ///
    /// # Errors
    /// `InvalidInput` for a cursor of what has not happened yet and for too many CIDs; `QueueFull` when
    /// [`WATCHERS_MAX`] watch already; `ShutDown`.
    pub fn watch(&self, query: WatchQuery) -> Result<BoxStream<'static, Event>> {
        self.inner.check_alive()?;
        let cancelled = self.inner.life.cancel.clone().cancelled_owned();
        let watcher = self.inner.watch.enter(query, || Sources::subscribe(&self.inner))?;
        let events = stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await;
            Some((event, watcher))
        });
        Ok(events.take_until(cancelled).boxed())
    }
}

/// Everything that is told, and who lives to begin with.
struct Sources {
    state: BoxStream<'static, StateEvent>,
    tracker: BoxStream<'static, TrackerEvent>,
    monitor: BoxStream<'static, MonitorEvent>,
    living: BTreeMap<PeerId, String>,
}

impl Sources {
    fn subscribe(inner: &Inner) -> Self {
        Self {
            state: inner.consensus.events(),
            tracker: inner.tracker.events(),
            monitor: inner.monitor.events(),
            living: living(&*inner.monitor, &inner.peer, &BTreeMap::new()),
        }
    }
}

/// The other peers that live, with their names; names that are known are not read again.
fn living(monitor: &dyn Monitor, own: &PeerId, known: &BTreeMap<PeerId, String>) -> BTreeMap<PeerId, String> {
    let pings = monitor.latest("ping").into_iter().filter(|ping| ping.peer != *own);
    pings
        .map(|ping| {
            let name = known.get(&ping.peer).cloned();
            (ping.peer, name.unwrap_or_else(|| Ping::read(&ping.value).peername))
        })
        .collect()
}

/// Who came and who went, in order of their ids.
fn differences(before: &BTreeMap<PeerId, String>, now: &BTreeMap<PeerId, String>) -> Vec<Happening> {
    let those_without = |these: &BTreeMap<PeerId, String>, others: &BTreeMap<PeerId, String>, is_alive| {
        let lone = these.iter().filter(|(peer, _)| !others.contains_key(peer));
        lone.map(|(peer, name)| Happening::Peer { subject: *peer, peername: name.clone(), is_alive })
            .collect::<Vec<_>>()
    };
    let mut all = those_without(before, now, false);
    all.extend(those_without(now, before, true));
    all
}

/// What the watchers and the task that notes events share.
pub(super) struct Hub {
    /// Which start of which peer this is.
    epoch: u64,
    peer: PeerId,
    clock: Arc<dyn WallClock>,
    state: Mutex<HubState>,
    /// The number of the last event.
    news: watch::Sender<u64>,
    /// There are sources to be read.
    wanted: Notify,
}

struct HubState {
    ring: Ring,
    watchers: usize,
    /// When the last watcher left.
    idle_since: Instant,
    is_noting: bool,
    /// Subscribed to, for the task.
    sources: Option<Sources>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Hub {
    /// Before anything happened. The seed need not be another one for each start: the time is.
    pub(super) fn new(peer: PeerId, seed: u64, clock: Arc<dyn WallClock>) -> Self {
        let now = clock.now().unix_nanoseconds();
        let state = HubState {
            ring: Ring::new(Limits { events: WATCH_EVENTS_MAX, bytes: RING_BYTES_MAX }),
            watchers: 0,
            idle_since: Instant::now(),
            is_noting: false,
            sources: None,
        };
        Self {
            epoch: crate::state::salt(&format!("{peer} {seed} {now}")),
            peer,
            clock,
            state: Mutex::new(state),
            news: watch::Sender::new(0),
            wanted: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HubState> {
        // Nothing panics half way through a change of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One watcher more.
    fn enter(self: &Arc<Self>, query: WatchQuery, subscribe: impl FnOnce() -> Sources) -> Result<Watcher> {
        let WatchQuery { after, kinds, cids, heartbeat } = query;
        if cids.len() > WATCH_CIDS_MAX {
            let text =
                format!("{} cids to watch were given, at most {WATCH_CIDS_MAX} are possible", cids.len());
            return Err(Error::invalid_input(text).component("cluster"));
        }
        let mut state = self.lock();
        if state.watchers >= WATCHERS_MAX {
            let text = format!("{WATCHERS_MAX} watch this peer already; try later, or another peer");
            return Err(Error::new(ErrorKind::QueueFull, text).component("cluster"));
        }
        let last = state.ring.last();
        let (position, resync) = match after {
            None => (last, None),
            Some(cursor) if cursor.epoch() != self.epoch => (last, Some(ELSEWHERE)),
            Some(cursor) if cursor.number() > last => {
                let text = format!("the cursor {cursor} is of an event that has not happened yet");
                return Err(Error::invalid_input(text).component("cluster"));
            }
            Some(cursor) => (cursor.number(), None),
        };
        if !state.is_noting {
            state.sources = Some(subscribe());
            state.is_noting = true;
            self.wanted.notify_one();
        }
        state.watchers += 1;
        let now = Instant::now();
        let heartbeat = heartbeat.map(|every| every.max(HEARTBEAT_MIN));
        Ok(Watcher {
            place: Place(Arc::clone(self)),
            news: self.news.subscribe(),
            filter: Filter { kinds, cids: cids.into_iter().collect() },
            position,
            resync,
            read: VecDeque::new(),
            beat: heartbeat.map(|every| (every, now)),
        })
    }

    fn event(&self, number: u64, noted: Noted) -> Event {
        let cursor = EventCursor::new(self.epoch, number);
        Event { cursor, time: noted.time, peer: self.peer, what: noted.what }
    }

    fn note(&self, kinds: EventKinds, what: Happening) {
        let noted = Noted { time: self.clock.now(), kinds, what };
        let last = {
            let mut state = self.lock();
            state.ring.push(noted);
            state.ring.last()
        };
        self.news.send_replace(last);
    }

    /// Stops noting when nobody has watched for long.
    fn rest(&self) -> bool {
        let mut state = self.lock();
        let is_over = state.watchers == 0 && state.idle_since.elapsed() >= LINGER;
        if is_over {
            state.is_noting = false;
            state.ring.interrupt();
        }
        is_over
    }

    /// Notes events whenever somebody watches. Runs for ever.
    pub(super) async fn run(&self, monitor: &dyn Monitor) {
        loop {
            self.wanted.notified().await;
            let sources = self.lock().sources.take();
            if let Some(sources) = sources {
                self.note_all(sources, monitor).await;
            }
        }
    }

    fn note_pinset(&self, event: StateEvent) {
        match event {
            StateEvent::Pinned(pin) => self.note(EventKind::Pinned.into(), Happening::Pinned(pin)),
            StateEvent::Unpinned(pin) => self.note(EventKind::Unpinned.into(), Happening::Unpinned(pin)),
            StateEvent::Resync => {
                let of_pinset = EventKinds::from(EventKind::Pinned) | EventKind::Unpinned.into();
                self.note(of_pinset, Happening::Resync(STATE_BEHIND.into()));
            }
        }
    }

    async fn note_all(&self, sources: Sources, monitor: &dyn Monitor) {
        let Sources { mut state, mut tracker, monitor: mut alerts, living: mut before } = sources;
        let mut looks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The pinset comes first: an entry is there before it has a status.
            tokio::select! {
                biased;
                _ = looks.tick() => {
                    let now = living(monitor, &self.peer, &before);
                    for what in differences(&before, &now) {
                        self.note(EventKind::Peer.into(), what);
                    }
                    before = now;
                    if self.rest() {
                        return;
                    }
                }
                Some(event) = state.next() => self.note_pinset(event),
                Some(event) = tracker.next() => {
                    // Both may have come since the pinset was looked at just now, on another thread.
                    while let Some(Some(earlier)) = state.next().now_or_never() {
                        self.note_pinset(earlier);
                    }
                    match event {
                        TrackerEvent::StatusChanged(info) => {
                            self.note(EventKind::Status.into(), Happening::Status(info));
                        }
                        TrackerEvent::Resync => {
                            self.note(EventKind::Status.into(), Happening::Resync(TRACKER_BEHIND.into()));
                        }
                    }
                }
                Some(event) = alerts.next() => match event {
                    MonitorEvent::Alert(alert) => {
                        self.note(EventKind::Alert.into(), Happening::Alert(Arc::new(alert)));
                    }
                    MonitorEvent::Resync => {
                        self.note(EventKind::Alert.into(), Happening::Resync(ALERTS_BEHIND.into()));
                    }
                },
            }
        }
    }
}

/// A watcher's place, given back when it is dropped.
struct Place(Arc<Hub>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.watchers -= 1;
        state.idle_since = Instant::now();
    }
}

struct Watcher {
    place: Place,
    news: watch::Receiver<u64>,
    filter: Filter,
    /// How far everything was read.
    position: u64,
    /// Why it must be told to list again.
    resync: Option<&'static str>,
    /// Read and not given yet.
    read: VecDeque<Event>,
    /// How long there may be silence, and until when there may be now.
    beat: Option<(Duration, Instant)>,
}

impl Watcher {
    async fn next(&mut self) -> Event {
        let event = self.find().await;
        if let Some((every, due)) = &mut self.beat {
            *due = Instant::now() + *every;
        }
        event
    }

    async fn find(&mut self) -> Event {
        let hub = Arc::clone(&self.place.0);
        loop {
            if let Some(event) = self.read.pop_front() {
                return event;
            }
            // Before reading, so that what comes meanwhile wakes us.
            self.news.borrow_and_update();
            if let Some(reason) = self.resync.take() {
                // What is listed from now on knows of everything up to here.
                self.position = hub.lock().ring.last();
                return self.own(Happening::Resync(reason.into()));
            }
            let (found, last) = {
                let state = hub.lock();
                (state.ring.read(self.position, &self.filter, READ_MAX), state.ring.last())
            };
            match found {
                Found::Missed => {
                    self.resync = Some(BEHIND);
                    continue;
                }
                Found::Events(events, position) => {
                    self.read.extend(events.into_iter().map(|(number, noted)| hub.event(number, noted)));
                    self.position = position;
                    if !self.read.is_empty() {
                        continue;
                    }
                }
            }
            if self.position < last {
                // Others read too.
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.beat.map(|(_, due)| due);
            tokio::select! {
                biased;
                // First, because there may always be news that this one does not want.
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    return self.own(Happening::Heartbeat);
                }
                // The sender lives in the hub that we hold, so this cannot fail.
                _ = self.news.changed() => {}
            }
        }
    }

    /// What only this watcher is told.
    fn own(&self, what: Happening) -> Event {
        let hub = &self.place.0;
        hub.event(self.position, Noted { time: hub.clock.now(), kinds: EventKinds::ALL, what })
    }
}
