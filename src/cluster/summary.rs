//! How a peer is, in numbers that cost nothing to ask for.
//!
//! What state and tracker count with every change is read. What only a walk of the pinset shows, and what the daemon has
//! to say, is looked at in the background while somebody asks, and comes with its age.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::{Cluster, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::state::StateCounts;
use crate::tracker::TrackerCounts;
use crate::types::{Cid, RepoStat, StatusFilter, TrackerStatus};

/// Pins in progress that a summary names.
pub const SUMMARY_PINS_MAX: usize = 16;
/// Shortest time between two walks of the pinset; longer by what a walk takes, so that walking is never what a peer is
/// busy with.
const COUNT_REST: Duration = Duration::from_secs(5);
/// A walk is followed by so many times what it took.
const COUNT_REST_FACTOR: u32 = 20;
/// The same when nothing seems to have changed: what the daemon lost shows in no counter.
const COUNT_REST_UNCHANGED: Duration = Duration::from_secs(5 * 60);
/// Time between two questions about the daemon's disk.
const REPO_REST: Duration = Duration::from_secs(10);
/// How long the daemon may take to answer one.
const REPO_TIMEOUT: Duration = Duration::from_secs(30);

/// How a peer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Members known, this peer among them.
    pub peers: u64,
    /// Entries of the pinset, as of now.
    pub pins: u64,
    /// What waits, runs or failed on this peer, as of now.
    pub operations: TrackerCounts,
    /// Where the pins stand on this peer; none until they were counted for the first time.
    pub here: Option<PinsHere>,
    /// What the daemon is working on, at most [`SUMMARY_PINS_MAX`], in the order of their CIDs. Empty as well where a
    /// connector does not know.
    pub in_progress: Vec<PinInProgress>,
    /// The daemon's disk; none until it was asked for the first time.
    pub repo: Option<RepoSummary>,
    /// Why `here` or `repo` is missing or old; empty otherwise.
    pub error: String,
}

/// Where the pins stand on this peer.
///
/// Counted `counted_ago` and brought up to now by what state and tracker count: pins that came since are taken as to be
/// held here, and what neither waits, runs nor failed as held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinsHere {
    /// Those this peer must hold.
    pub allocated: u64,
    /// Those of them that its daemon holds.
    pub pinned: u64,
    /// Those of them that its daemon lost, and that nothing is done about yet.
    pub unexpectedly_unpinned: u64,
    /// Those that only other peers must hold.
    pub remote: u64,
    /// Those that stand for their shards.
    pub sharded: u64,
    /// How long ago the pinset was walked.
    pub counted_ago: Duration,
}

/// A pin that the daemon is working on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinInProgress {
    /// What.
    pub cid: Cid,
    /// Its name; empty when it has none.
    pub name: String,
    /// Blocks the daemon has of it by now.
    pub blocks: u64,
}

impl PinInProgress {
    /// A pin of which the daemon has so many blocks.
    pub fn new(cid: Cid, name: impl Into<String>, blocks: u64) -> Self {
        Self { cid, name: name.into(), blocks }
    }
}

/// The daemon's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepoSummary {
    /// What the daemon said; [`RepoStat::free_bytes`] is what is left.
    pub stat: RepoStat,
    /// How long ago.
    pub asked_ago: Duration,
}

/// What a walk of the pinset found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    remote: u64,
    sharded: u64,
    lost: u64,
    /// Pins that waited, ran or had failed when it began: what it found to be lost may be queued before it ends.
    working: u64,
    at: Instant,
    took: Duration,
    /// What was the case before.
    mark: Mark,
}

/// What changes when a pin or an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    state: StateCounts,
    operations: TrackerCounts,
}

const fn working(operations: &TrackerCounts) -> u64 {
    operations.pin_queued + operations.pinning + operations.pin_error
}

impl Counted {
    /// Where pins stand by now.
    fn here(&self, pins: u64, operations: &TrackerCounts, now: Instant) -> PinsHere {
        let (remote, sharded) = (self.remote.min(pins), self.sharded.min(pins));
        let allocated = pins.saturating_sub(remote).saturating_sub(sharded);
        let working = working(operations);
        // What was lost is queued first of all.
        let lost = self.lost.saturating_sub(working.saturating_sub(self.working)).min(allocated);
        PinsHere {
            allocated,
            pinned: allocated.saturating_sub(working).saturating_sub(lost),
            unexpectedly_unpinned: lost,
            remote,
            sharded,
            counted_ago: now.saturating_duration_since(self.at),
        }
    }

    fn is_due(&self, mark: &Mark, now: Instant) -> bool {
        let rest = COUNT_REST.max(self.took.saturating_mul(COUNT_REST_FACTOR));
        let rest = if self.mark == *mark { rest.max(COUNT_REST_UNCHANGED) } else { rest };
        now.saturating_duration_since(self.at) >= rest
    }
}

/// What was looked at in the background.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    counted: Option<Counted>,
    /// Why the last walk did not end well, and when.
    uncounted: Option<(Error, Instant)>,
    repo: Option<(RepoStat, Instant)>,
    unasked: Option<(Error, Instant)>,
}

impl Looked {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn count_is_due(&self, mark: &Mark, now: Instant) -> bool {
        match (&self.uncounted, &self.counted) {
            (Some((_, at)), _) => now.saturating_duration_since(*at) >= COUNT_REST,
            (None, Some(counted)) => counted.is_due(mark, now),
            (None, None) => true,
        }
    }

    fn repo_is_due(&self, now: Instant) -> bool {
        let asked = self.unasked.as_ref().map(|(_, at)| *at).or(self.repo.map(|(_, at)| at));
        asked.is_none_or(|at| now.saturating_duration_since(at) >= REPO_REST)
    }
}

impl Cluster {
    /// How this peer is, cheaply enough to be asked every second, however many pins there are: counters are read, and
    /// nobody is asked. Where the pins stand and what the daemon's disk is like is looked at in the background, begun by
    /// a call that finds it old: the disk every 10 s at most; the pins, of which a walk takes a while, after 5 s at
    /// the soonest and 20 times as long as the last walk took. A peer of which nobody asks a summary does neither.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the members are not known or the pinset cannot be read; `ShutDown`.
    pub async fn summary(&self) -> Result<Summary> {
        let inner = &self.inner;
        inner.check_alive()?;
        let peers = inner.consensus.peers().await?.len() as u64;
        let mut in_progress = Vec::new();
        let mut running = inner.ipfs.pins_in_progress();
        running.sort_by_key(|pin| pin.cid);
        for pin in running.into_iter().take(SUMMARY_PINS_MAX) {
            let name = inner.state.get(&pin.cid).await?.map_or_else(String::new, |pin| pin.options.name);
            in_progress.push(PinInProgress::new(pin.cid, name, pin.blocks));
        }
        let mark = inner.mark();
        let now = Instant::now();
        let seen = inner.looked.lock();
        if seen.repo_is_due(now) || seen.count_is_due(&mark, now) {
            inner.wakes.summary.notify_one();
        }
        let errors = [&seen.uncounted, &seen.unasked];
        let error = errors.into_iter().flatten().next().map(|(error, _)| error.to_string());
        Ok(Summary {
            peers,
            pins: mark.state.pins,
            operations: mark.operations,
            here: seen.counted.map(|counted| counted.here(mark.state.pins, &mark.operations, now)),
            in_progress,
            repo: seen
                .repo
                .map(|(stat, at)| RepoSummary { stat, asked_ago: now.saturating_duration_since(at) }),
            error: error.unwrap_or_default(),
        })
    }
}

impl Inner {
    fn mark(&self) -> Mark {
        Mark { state: self.state.counts(), operations: self.tracker.counts() }
    }

    /// Looks at what is due.
    pub(super) async fn look_for_summary(&self) -> Result<()> {
        let mark = self.mark();
        let now = Instant::now();
        let (ask, count) = {
            let seen = self.looked.lock();
            (seen.repo_is_due(now), seen.count_is_due(&mark, now))
        };
        let repo = async {
            if !ask {
                return Ok(());
            }
            let answer = timeout(REPO_TIMEOUT, self.ipfs.repo_stat()).await.unwrap_or_else(|_| {
                let text = format!("the IPFS daemon did not say within {REPO_TIMEOUT:?} how large it is");
                Err(Error::new(ErrorKind::Timeout, text).component("cluster"))
            });
            let mut seen = self.looked.lock();
            seen.unasked = answer.as_ref().err().map(|error| (error.clone(), Instant::now()));
            seen.repo = answer.as_ref().ok().map(|stat| (*stat, Instant::now())).or(seen.repo);
            answer.map(|_| ())
        };
        let pins = async {
            if !count {
                return Ok(());
            }
            let counted = self.count_pins(mark).await;
            let mut seen = self.looked.lock();
            seen.uncounted = counted.as_ref().err().map(|error| (error.clone(), Instant::now()));
            seen.counted = counted.as_ref().ok().copied().or(seen.counted);
            counted.map(|_| ())
        };
        let (repo, pins) = tokio::join!(repo, pins);
        repo.and(pins)
    }

    /// Walks the pinset. What the daemon holds is most of it and is not listed, but what is left.
    async fn count_pins(&self, mark: Mark) -> Result<Counted> {
        use TrackerStatus::{ClusterError, Remote, Sharded, UnexpectedlyUnpinned};
        let started = Instant::now();
        let (mut remote, mut sharded, mut lost) = (0, 0, 0);
        let filter = [ClusterError, Sharded, UnexpectedlyUnpinned]
            .into_iter()
            .fold(StatusFilter::from(Remote), |filter, status| filter | status.into());
        let mut pages = self.tracker.status_all(filter);
        while let Some(page) = pages.next().await {
            for info in page? {
                match info.status.status {
                    Remote => remote += 1,
                    Sharded => sharded += 1,
                    UnexpectedlyUnpinned => lost += 1,
                    // It is not known what the daemon holds, of no pin.
                    ClusterError => {
                        return Err(
                            Error::new(ErrorKind::Unavailable, info.status.error).component("cluster")
                        );
                    }
                    _ => {}
                }
            }
        }
        let working = working(&mark.operations);
        let at = Instant::now();
        Ok(Counted { remote, sharded, lost, working, at, took: at - started, mark })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(pin_queued: u64, pinning: u64, pin_error: u64) -> TrackerCounts {
        TrackerCounts {
            pin_queued,
            pinning,
            pin_error,
            unpin_queued: 9,
            unpin_error: 9,
            ..Default::default()
        }
    }

    fn mark(pins: u64) -> Mark {
        Mark { state: StateCounts { pins, ..Default::default() }, operations: TrackerCounts::default() }
    }

    fn counted(remote: u64, sharded: u64, lost: u64, working: u64) -> Counted {
        let (at, took) = (Instant::now(), Duration::ZERO);
        Counted { remote, sharded, lost, working, at, took, mark: mark(0) }
    }

    #[tokio::test(start_paused = true)]
    async fn counters_bring_what_was_counted_up_to_now() {
        for (counted, pins, operations, allocated, pinned, lost) in [
            (counted(0, 0, 0, 0), 100, operations(0, 0, 0), 100, 100, 0),
            (counted(0, 0, 0, 0), 100, operations(30, 2, 3), 100, 65, 0),
            // Remote pins and those that stand for their shards are not to be held.
            (counted(60, 5, 0, 0), 100, operations(0, 0, 0), 35, 35, 0),
            // Pins came, and are queued.
            (counted(60, 0, 0, 0), 150, operations(50, 0, 0), 90, 40, 0),
            // What was lost by then is being pinned.
            (counted(0, 0, 100, 0), 100, operations(0, 0, 0), 100, 0, 100),
            (counted(0, 0, 100, 0), 100, operations(70, 10, 0), 100, 0, 20),
            (counted(0, 0, 100, 0), 100, operations(0, 0, 5), 100, 0, 95),
            (counted(0, 0, 10, 5), 100, operations(5, 0, 0), 100, 85, 10),
            // Everything was unpinned since; operations of what is not in the pinset any more never make it negative.
            (counted(60, 5, 10, 0), 0, operations(1, 0, 0), 0, 0, 0),
            (counted(0, 0, 0, 0), 1, operations(5, 0, 0), 1, 0, 0),
        ] {
            let here = counted.here(pins, &operations, Instant::now());
            assert_eq!(
                (here.allocated, here.pinned, here.unexpectedly_unpinned),
                (allocated, pinned, lost),
                "{counted:?} {pins} {operations:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_is_followed_by_a_rest_that_is_longer_the_longer_it_took() {
        for (took, changed, due_after) in [(0, true, 5), (3, true, 60), (0, false, 300), (60, false, 1200)] {
            let counted = Counted { took: Duration::from_secs(took), ..counted(0, 0, 0, 0) };
            let now = mark(u64::from(changed));
            let due = counted.at + Duration::from_secs(due_after);
            assert!(!counted.is_due(&now, due - Duration::from_secs(1)), "{took} {changed}");
            assert!(counted.is_due(&now, due), "{took} {changed}");
        }
    }
}
