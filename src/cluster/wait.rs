//! Waiting until a pin is where it should be.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt as _;

use super::{Cluster, ClusterEvent, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, GlobalPinInfo, TrackerStatus};

/// How often the status is asked for when no event says that it changed: other peers do not tell us.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// Every peer that must hold the CID does.
    #[default]
    PinnedEverywhere,
    /// At least so many peers hold it (all that must, if those are fewer).
    PinnedBy(usize),
    /// It is neither in the pinset nor pinned anywhere.
    Gone,
    /// Some peer reports exactly this status.
    Status(TrackerStatus),
}

/// Where a wait stands.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Reached,
    NotYet,
    Failed(String),
}

impl Until {
    /// Decides from one answer.
    fn progress(self, info: &GlobalPinInfo) -> Progress {
        use TrackerStatus::{ClusterError, PinError, Pinned, Remote, Sharded, UnpinError, Unpinned};
        let statuses = || info.peer_map.values().map(|status| status.status);
        let failed = |kinds: &[TrackerStatus]| {
            info.peer_map.iter().find(|(_, status)| kinds.contains(&status.status)).map(|(peer, status)| {
                Progress::Failed(format!("{} on {peer}: {}", status.status, status.error))
            })
        };
        let reached = |yes: bool| if yes { Progress::Reached } else { Progress::NotYet };
        match self {
            Self::Status(wanted) => reached(statuses().any(|status| status == wanted)),
            Self::Gone => failed(&[ClusterError, UnpinError])
                .unwrap_or_else(|| reached(statuses().all(|status| matches!(status, Unpinned | Remote)))),
            Self::PinnedEverywhere | Self::PinnedBy(_) => {
                let must = statuses().filter(|status| *status != Remote).count();
                let wanted = if let Self::PinnedBy(copies) = self { copies.min(must) } else { must };
                let have = statuses().filter(|status| matches!(status, Pinned | Sharded)).count();
                if must > 0 && have >= wanted {
                    return Progress::Reached;
                }
                failed(&[ClusterError, PinError, UnpinError]).unwrap_or(Progress::NotYet)
            }
        }
    }
}

/// A wait being set up; `.await` it.
#[derive(Debug)]
#[must_use = "a wait does nothing until it is awaited"]
pub struct Wait {
    cluster: Cluster,
    cid: Cid,
    until: Until,
    timeout: Option<Duration>,
    scope: Scope,
    past_errors: bool,
}

impl Cluster {
    /// Waits for a CID: `cluster.wait(cid).until(Until::PinnedEverywhere).timeout(limit).await`.
    ///
    /// Ends with the status that fulfils the wait. Cancel-safe.
    ///
    /// # Errors
    /// `Timeout` with the last status in its text; `Remote` as soon as a peer reports an error, unless
    /// [`Wait::past_errors`]; `ShutDown`.
    pub fn wait(&self, cid: Cid) -> Wait {
        Wait {
            cluster: self.clone(),
            cid,
            until: Until::default(),
            timeout: None,
            scope: Scope::Global,
            past_errors: false,
        }
    }
}

impl Wait {
    /// What to wait for.
    pub fn until(mut self, until: Until) -> Self {
        self.until = until;
        self
    }

    /// How long at most; without it, as long as it takes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Which peers count.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Goes on waiting while peers report errors, for instance because something recovers them.
    pub fn past_errors(mut self) -> Self {
        self.past_errors = true;
        self
    }

    async fn run(self) -> Result<GlobalPinInfo> {
        // Subscribe before the first look, so that no change falls in between.
        let mut events = self.cluster.events();
        let deadline = self.timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        loop {
            let info = self.cluster.status(&self.cid, self.scope).await?;
            match self.until.progress(&info) {
                Progress::Reached => return Ok(info),
                Progress::Failed(what) if !self.past_errors => {
                    return Err(Error::new(ErrorKind::Remote, format!("waiting for {}: {what}", self.cid)));
                }
                Progress::Failed(_) | Progress::NotYet => {}
            }
            let poll = tokio::time::Instant::now() + POLL_INTERVAL;
            let wake = deadline.map_or(poll, |deadline| deadline.min(poll));
            loop {
                tokio::select! {
                    biased;
                    event = events.next() => match event {
                        Some(event) if concerns(&event, &self.cid) => break,
                        Some(_) => {}
                        None => return Err(Error::shut_down("cluster")),
                    },
                    () = tokio::time::sleep_until(wake) => break,
                }
            }
            if deadline.is_some_and(|deadline| tokio::time::Instant::now() >= deadline) {
                let info = self.cluster.status(&self.cid, self.scope).await?;
                if self.until.progress(&info) == Progress::Reached {
                    return Ok(info);
                }
                let statuses: Vec<_> = info.peer_map.values().map(|status| status.status.as_str()).collect();
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{} did not get there in time; it is {} now", self.cid, statuses.join(", ")),
                ));
            }
        }
    }
}

fn concerns(event: &ClusterEvent, cid: &Cid) -> bool {
    match event {
        ClusterEvent::Pinned(pin) | ClusterEvent::Unpinned(pin) => pin.cid == *cid,
        ClusterEvent::StatusChanged(info) => info.cid == *cid,
        ClusterEvent::Resync => true,
        ClusterEvent::Alert(_) => false,
    }
}

impl IntoFuture for Wait {
    type Output = Result<GlobalPinInfo>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Block, PeerId, PinStatus, Timestamp};

    fn answer(statuses: &[TrackerStatus]) -> GlobalPinInfo {
        let mut info = GlobalPinInfo::new(Block::raw("x").cid);
        for status in statuses {
            info.peer_map.insert(PeerId::random(), PinStatus::new(*status, Timestamp::UNIX_EPOCH));
        }
        info
    }

    #[test]
    fn a_wait_ends_when_enough_peers_have_what_they_must() {
        use TrackerStatus::{PinError, Pinned, Pinning, Remote, Unpinned, Unpinning};
        for (until, statuses, expected) in [
            (Until::PinnedEverywhere, vec![Pinned, Remote], Progress::Reached),
            (Until::PinnedEverywhere, vec![Pinned, Pinning], Progress::NotYet),
            (Until::PinnedBy(1), vec![Pinned, Pinning], Progress::Reached),
            (Until::PinnedBy(1), vec![Pinned, PinError], Progress::Reached),
            (Until::PinnedBy(5), vec![Pinned, Pinned], Progress::Reached),
            (Until::PinnedEverywhere, vec![Unpinned], Progress::NotYet),
            (Until::PinnedEverywhere, vec![], Progress::NotYet),
            (Until::Gone, vec![Unpinned, Unpinned], Progress::Reached),
            (Until::Gone, vec![Unpinning], Progress::NotYet),
            (Until::Status(Pinning), vec![Pinned, Pinning], Progress::Reached),
        ] {
            assert_eq!(until.progress(&answer(&statuses)), expected, "{until:?} {statuses:?}");
        }
        assert!(matches!(
            Until::PinnedEverywhere.progress(&answer(&[Pinned, PinError])),
            Progress::Failed(_)
        ));
    }
}
