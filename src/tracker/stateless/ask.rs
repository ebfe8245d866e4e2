//! Questions about one CID: status, sync and recover.
//!
//! The daemon takes its time to answer. What happens to the CID meanwhile is noticed, and then the answer is not
//! used, because it may be older than the operation that just ended.

use std::time::Duration;

use super::COMPONENT;
use super::inner::{Inner, Shared, failure_text};
use crate::error::{Error, ErrorKind, Result};
use crate::tracker::key::CidKey;
use crate::tracker::operation::{Holding, Kind, Phase, Wish};
use crate::tracker::queue::QUEUE_FULL;
use crate::tracker::table::{Requested, View};
use crate::types::{Cid, Pin, PinInfo, PinMode, PinStatus, TrackerStatus};

/// How long a question about one CID may take the daemon; below the 15 s that other peers wait for us.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a question is put again because something happened to its CID in between.
const QUESTIONS_MAX: usize = 3;

/// A question about one CID; notices what happens to the CID until it is dropped.
struct Question<'a> {
    inner: &'a Inner,
    key: &'a CidKey,
    changes: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut shared = self.inner.lock();
        if let Some(questions) = shared.questions.get_mut(self.key) {
            questions.askers -= 1;
            if questions.askers == 0 {
                shared.questions.remove(self.key);
            }
        }
    }
}

impl Question<'_> {
    /// Whether an operation was requested or ended since the question was put.
    fn is_outdated(&self, shared: &Shared) -> bool {
        shared.questions.get(self.key).is_none_or(|questions| questions.changes != self.changes)
    }
}

/// What the daemon said of the modes it was asked about.
struct Answers(Vec<(PinMode, bool)>);

impl Answers {
    fn holds(&self, mode: PinMode) -> bool {
        self.0.contains(&(mode, true))
    }
}

impl Inner {
    /// Puts a question about a CID and gives the operation on it.
    fn question<'a>(&'a self, key: &'a CidKey) -> (Question<'a>, Option<View>) {
        let mut shared = self.lock();
        let questions = shared.questions.entry(key.clone()).or_default();
        questions.askers += 1;
        let question = Question { inner: self, key, changes: questions.changes };
        let view = shared.table.get(key);
        (question, view)
    }

    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        tokio::time::timeout(QUESTION_TIMEOUT, self.ipfs.is_pinned(cid, mode)).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!("the IPFS daemon did not say within {QUESTION_TIMEOUT:?} whether {cid} is pinned"),
            )
            .component(COMPONENT))
        })
    }

    pub(super) async fn status(&self, cid: &Cid) -> Result<PinInfo> {
        let key = CidKey::from(cid);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (question, view) = self.question(&key);
            let pin = self.state.get(cid).await?;
            if let Some(view) = view {
                let status = self.operation_status(&self.lock().daemon, &view);
                return Ok(self.info(*cid, pin, status));
            }
            let wish = Wish::of(pin.as_ref(), &self.peer);
            let holding = match wish {
                Wish::Held(mode) => match self.is_pinned(cid, mode).await {
                    Ok(true) => Holding::Held,
                    Ok(false) => Holding::Missing,
                    Err(error) => Holding::Unknown(failure_text(&error)),
                },
                Wish::Remote | Wish::Sharded | Wish::Absent => Holding::Missing,
            };
            let status = {
                let shared = self.lock();
                if attempt < QUESTIONS_MAX && question.is_outdated(&shared) {
                    None
                } else {
                    Some(self.resting_status(&shared.daemon, pin.as_ref(), wish, &holding))
                }
            };
            if let Some(status) = status {
                return Ok(self.info(*cid, pin, status));
            }
        }
    }

    pub(super) async fn sync(&self, cid: &Cid) -> Result<PinInfo> {
        let key = CidKey::from(cid);
        for _ in 0..QUESTIONS_MAX {
            let (question, view) = self.question(&key);
            let pin = self.state.get(cid).await?;
            let wish = Wish::of(pin.as_ref(), &self.peer);
            let modes: &[PinMode] = match (wish, &view) {
                (_, Some(view)) if view.phase != Phase::Failed => &[],
                (Wish::Held(PinMode::Recursive), _) => &[PinMode::Recursive],
                (Wish::Held(PinMode::Direct), _) => &[PinMode::Direct],
                (_, Some(_)) => &[PinMode::Recursive, PinMode::Direct],
                (_, None) => &[],
            };
            let mut answers = Answers(Vec::with_capacity(modes.len()));
            for mode in modes {
                answers.0.push((*mode, self.is_pinned(cid, *mode).await?));
            }
            if let Some(status) = self.apply(&question, *cid, pin.as_ref(), wish, view.as_ref(), &answers) {
                return Ok(self.info(*cid, pin, status));
            }
        }
        self.status(cid).await
    }

    /// Uses what the daemon said and gives the status after it; none if the answers may be outdated.
    fn apply(
        &self,
        question: &Question<'_>,
        cid: Cid,
        pin: Option<&Pin>,
        wish: Wish,
        view: Option<&View>,
        answers: &Answers,
    ) -> Option<PinStatus> {
        let key = question.key;
        let mut shared = self.lock();
        if question.is_outdated(&shared) {
            return None;
        }
        let status_now = |shared: &Shared| match (shared.table.get(key), wish) {
            (Some(view), _) => self.operation_status(&shared.daemon, &view),
            (None, Wish::Held(mode)) => {
                let holding = match shared.holding(self.hasher.hash(key, mode)) {
                    Holding::Unknown(_) if answers.holds(mode) => Holding::Held,
                    Holding::Unknown(_) => Holding::Missing,
                    known => known,
                };
                self.resting_status(&shared.daemon, pin, wish, &holding)
            }
            (None, _) => self.resting_status(&shared.daemon, pin, wish, &Holding::Missing),
        };
        let before = status_now(&shared);
        for (mode, held) in &answers.0 {
            self.record(&mut shared, key, *mode, *held);
        }
        let is_satisfied =
            wish.is_satisfied(answers.holds(PinMode::Recursive), answers.holds(PinMode::Direct));
        if let Some(view) = view.filter(|_| is_satisfied && !answers.0.is_empty()) {
            shared.table.drop_failed(key, view.ticket);
        }
        let after = status_now(&shared);
        if before.status != after.status {
            self.announce(cid, pin, after.clone());
        }
        Some(after)
    }

    pub(super) async fn recover(&self, cid: &Cid) -> Result<PinInfo> {
        let key = CidKey::from(cid);
        self.probe_space_now();
        let info = self.status(cid).await?;
        let is_lost = info.status.status == TrackerStatus::UnexpectedlyUnpinned;
        let has_failed = self.lock().table.get(&key).is_some_and(|view| view.phase == Phase::Failed);
        if !is_lost && !has_failed {
            return Ok(info);
        }
        let Some((requested, info)) = self.retry(&key, *cid).await? else {
            return self.status(cid).await;
        };
        match requested {
            Requested::Full => Err(Error::new(ErrorKind::QueueFull, QUEUE_FULL).component(COMPONENT)),
            Requested::Changed | Requested::Kept | Requested::Backlog => Ok(info),
        }
    }

    /// Queues what is due for a CID that failed or got lost. None when the pinset wants nothing of it.
    pub(super) async fn retry(&self, key: &CidKey, cid: Cid) -> Result<Option<(Requested, PinInfo)>> {
        let pin = self.state.get(&cid).await?;
        let wish = Wish::of(pin.as_ref(), &self.peer);
        let retried = {
            let mut shared = self.lock();
            let existing = shared.table.get(key).map(|view| view.kind);
            match wish.operation().or(existing) {
                // What got lost and then left the pinset is untracked by whoever removed it.
                Some(kind) if existing.is_some() || kind == Kind::Pin => {
                    Some(self.request(&mut shared, key, cid, kind, pin.as_ref()))
                }
                _ => None,
            }
        };
        Ok(retried.map(|(requested, status)| (requested, self.info(cid, pin, status))))
    }
}
