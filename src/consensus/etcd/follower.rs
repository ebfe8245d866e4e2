//! Keeping the copy of this peer in step with etcd.
//!
//! A watch says what changed since the revision that the copy is at; both go to disk in one batch. Where etcd's history
//! does not reach back so far, or etcd is another one, the copy is replaced by what etcd has, page by page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::COMPONENT;
use super::batch;
use super::gateway::{Failure, Lines, Reason, refused};
use super::keys::{Key, Keys, decode_pin};
use super::mark::Mark;
use super::meet;
use super::pending::Pending;
use super::shared::{Applied, ROSTER_PEERS_MAX, Roster, Shared};
use super::wire::{Int, KeyValue, Op, OpAnswer, RangeAsked, Txn, WatchAnswer, WatchAsked, WatchCreate};
use crate::consensus::StateEvent;
use crate::consensus::events::EventSender;
use crate::consensus::group::{Retry, until};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{PAGE_ITEMS_MAX, State};
use crate::types::{Multiaddr, PeerId, Pin, PinOperation};

/// Operations that are applied in one batch, about.
const GATHERED_OPERATIONS_MAX: usize = 8192;
/// The place is written down after so long, although nothing changed here.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Between two attempts to follow.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Who wants the copy made anew, and waits for it.
pub(super) type Reload = oneshot::Sender<Result<()>>;

#[derive(Debug)]
pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<dyn State>,
    pub(super) events: EventSender,
    pub(super) mark: Mark,
    pub(super) reloads: mpsc::Receiver<Reload>,
    /// After a write failed it has to be looked what became of it.
    pub(super) retry: Retry,
    /// When the place was written down.
    pub(super) saved: Instant,
    pub(super) stop: CancellationToken,
}

/// Why following ended.
enum End {
    Stopped,
    /// It is begun again, from the copy's place.
    Again(Error),
    /// It is begun again with a new copy.
    Anew(&'static str),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure.reason {
            Reason::Compacted => Self::Anew("etcd's history does not reach back to it"),
            _ => Self::Again(failure.error),
        }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Again(error)
    }
}

impl Follower {
    /// Follows until it is stopped.
    pub(super) async fn run(mut self) {
        let mut is_down = false;
        loop {
            match self.follow(&mut is_down).await {
                End::Stopped => return,
                End::Anew(why) => {
                    info!(component = COMPONENT, "copying the pinset of etcd: {why}");
                    self.mark.revision = 0;
                    continue;
                }
                End::Again(error) if is_down => {
                    debug!(component = COMPONENT, %error, "still not following etcd")
                }
                End::Again(error) => {
                    is_down = true;
                    warn!(component = COMPONENT, %error, "not following etcd; trying again");
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(RETRY_PAUSE) => {}
            }
        }
    }

    /// Follows as long as that goes well.
    async fn follow(&mut self, is_down: &mut bool) -> End {
        match self.try_follow(is_down).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(&mut self, is_down: &mut bool) -> Result<std::convert::Infallible, End> {
        self.settle().await?;
        let shared = Arc::clone(&self.shared);
        let (roster, cluster) = self.or_stopped(read_roster(&shared)).await?;
        let revision = roster.revision;
        shared.roster.send_replace(Some(roster));
        if self.mark.revision > 0 && (self.mark.cluster != cluster || self.mark.revision > revision) {
            return Err(End::Anew("this is another etcd, or one that was restored"));
        }
        if self.mark.revision > 0 && !self.or_stopped(is_same_history(&shared, &self.mark)).await? {
            return Err(End::Anew("etcd was restored to what it was before"));
        }
        if self.mark.revision == 0 {
            self.load(cluster).await?;
        }
        let range = shared.keys.all();
        let asked = WatchAsked {
            create_request: WatchCreate {
                key: range.start.into(),
                range_end: range.end.into(),
                start_revision: Int(self.mark.revision + 1),
                progress_notify: true,
                fragment: true,
            },
        };
        let mut lines =
            self.or_stopped(shared.gateway.stream("/v3/watch", &asked, shared.deadline())).await?;
        let endpoint = shared.gateway.endpoint();
        if std::mem::take(is_down) {
            info!(component = COMPONENT, revision = self.mark.revision, "following etcd again");
        }
        let mut pending = Pending::after(self.mark.revision).seen(self.mark.witness.clone());
        loop {
            let answer = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Stopped),
                Some(reload) = self.reloads.recv() => {
                    let loaded = self.load(cluster).await;
                    let told = match &loaded {
                        Ok(()) => Ok(()),
                        Err(End::Again(error)) => Err(error.clone()),
                        Err(End::Stopped | End::Anew(_)) => Err(Error::shut_down(COMPONENT)),
                    };
                    // Who does not wait any more does not want to know.
                    let _ = reload.send(told);
                    loaded?;
                    return Err(End::Again(Error::new(ErrorKind::Cancelled, "the copy was made anew")));
                }
                () = shared.stalled.notified() => {
                    shared.gateway.pass_over(endpoint);
                    let text = "the watch does not show what was written";
                    return Err(End::Again(Error::new(ErrorKind::Timeout, text)));
                }
                answer = lines.next::<WatchAnswer>() => answer?,
            };
            self.take(&mut pending, answer)?;
            while pending.len() < GATHERED_OPERATIONS_MAX {
                match next_now(&mut lines) {
                    Some(answer) => self.take(&mut pending, answer?)?,
                    None => break,
                }
            }
            self.flush(&mut pending).await?;
        }
    }

    /// What a future gives, unless this is stopped before.
    async fn or_stopped<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T, End>
    where
        End: From<E>,
    {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Stopped),
            result = future => Ok(result?),
        }
    }

    /// Puts what a watch says to what is to be applied, and changes the roster at once.
    fn take(&self, pending: &mut Pending, answer: WatchAnswer) -> Result<(), End> {
        if answer.canceled {
            if answer.compact_revision.0 > 0 {
                return Err(End::Anew("etcd's history does not reach back to it"));
            }
            let text = format!("etcd ended the watch: {}", answer.cancel_reason);
            return Err(End::Again(Error::new(ErrorKind::Unavailable, text)));
        }
        if answer.created {
            return Ok(());
        }
        let skipped = pending.take(&self.shared.keys, answer, |key, value, revision| {
            self.shared.roster.send_if_modified(|roster| {
                roster.as_mut().is_some_and(|roster| change(roster, key, value, revision))
            });
        });
        if let Some((count, error)) = skipped {
            warn!(component = COMPONENT, count, %error, "passing over what is in etcd and cannot be read");
        }
        if pending.is_too_much() {
            return Err(End::Anew("very much changed at once"));
        }
        Ok(())
    }

    /// Applies what is complete, with its place, and tells of it.
    async fn flush(&mut self, pending: &mut Pending) -> Result<(), End> {
        let Some((operations, revision)) = pending.complete() else { return Ok(()) };
        let mark = Mark { revision, witness: pending.witness(), ..self.mark };
        if !operations.is_empty() || self.saved.elapsed() >= SAVE_INTERVAL {
            self.apply(operations, &mark).await?;
            self.saved = Instant::now();
        }
        self.mark = mark;
        self.shared.applied.send_replace(Applied { revision, error: None });
        Ok(())
    }

    async fn apply(&mut self, operations: Vec<PinOperation>, mark: &Mark) -> Result<()> {
        match self.try_apply(operations.clone(), mark).await {
            // What the state does not take, somebody else has put there: we look before we write.
            Err(error) if error.kind() == ErrorKind::InvalidInput && operations.len() > 1 => {
                for operation in operations {
                    // The place stays behind until all are applied; doing one twice is harmless.
                    let mark = self.mark.clone();
                    self.apply_one(operation, &mark).await?;
                }
                self.try_apply(Vec::new(), mark).await
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                warn!(component = COMPONENT, %error, "passing over an entry in etcd that cannot be stored");
                self.try_apply(Vec::new(), mark).await
            }
            applied => applied,
        }
    }

    async fn apply_one(&mut self, operation: PinOperation, mark: &Mark) -> Result<()> {
        match self.try_apply(vec![operation], mark).await {
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                warn!(component = COMPONENT, %error, "passing over an entry in etcd that cannot be stored");
                Ok(())
            }
            applied => applied,
        }
    }

    async fn try_apply(&mut self, operations: Vec<PinOperation>, mark: &Mark) -> Result<()> {
        match self.state.apply(operations, mark.record(&self.shared.keys)).await {
            Ok(changes) => {
                self.events.tell_changes(&changes);
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Everybody who waits for the copy is told.
    fn failed(&mut self, error: Error) -> Error {
        if error.kind() != ErrorKind::InvalidInput {
            self.retry.failed();
            let error = error.clone();
            self.shared.applied.send_modify(|applied| applied.error = Some(error));
        }
        error
    }

    /// Waits until it is time, and finds out what became of a write that failed.
    async fn settle(&mut self) -> Result<(), End> {
        while self.retry.at().is_some() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Stopped),
                () = until(self.retry.at()) => {}
            }
            match self.state.settle().await {
                Ok(changes) => {
                    self.retry.worked();
                    self.events.tell_changes(&changes);
                    self.shared.applied.send_modify(|applied| applied.error = None);
                }
                Err(error) => {
                    debug!(component = COMPONENT, %error, "the store still does not work");
                    drop(self.failed(error));
                }
            }
        }
        Ok(())
    }

    /// Replaces the copy by what etcd has.
    async fn load(&mut self, cluster: i64) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        // A copy of half a batch would never be what anybody logged.
        let revision = loop {
            let deadline = shared.deadline();
            let (batch, revision) = self.or_stopped(read_batch(&shared)).await?;
            if batch.is_none() {
                break revision;
            }
            self.or_stopped(batch::finish(&shared, deadline)).await?;
        };
        // Interrupted from here on, it is done again.
        let mark = Mark { cluster, ..Mark::default() };
        self.try_apply(Vec::new(), &mark).await?;
        self.mark = mark;
        let before = self.state.counts();
        let pages = pages(Arc::clone(&shared), revision, self.stop.clone());
        let replaced = self.state.replace(pages, Arc::new(|_| {})).await;
        let pins = match replaced {
            Ok(pins) => pins,
            Err(_) if self.stop.is_cancelled() => return Err(End::Stopped),
            // Etcd did not answer: the old copy stays until it does.
            Err(error) if error.component_name() == Some(COMPONENT) => return Err(End::Again(error)),
            Err(error) => return Err(End::Again(self.failed(error))),
        };
        if self.state.counts() != before {
            self.events.tell(StateEvent::Resync);
        }
        let mark = Mark { cluster, revision, witness: None };
        self.try_apply(Vec::new(), &mark).await?;
        self.mark = mark;
        shared.applied.send_replace(Applied { revision, error: None });
        info!(component = COMPONENT, pins, revision, "copied the pinset of etcd");
        Ok(())
    }
}

/// The next answer if it is here already.
fn next_now(lines: &mut Lines) -> Option<Result<WatchAnswer, Failure>> {
    lines.next().now_or_never()
}

/// Who is there, and which etcd says so.
async fn read_roster(shared: &Shared) -> Result<(Roster, i64), Failure> {
    let keys = &shared.keys;
    let success = vec![
        Op::entries(keys.peers(), ROSTER_PEERS_MAX),
        Op::names(keys.members(), ROSTER_PEERS_MAX),
        Op::names(keys.removals(), ROSTER_PEERS_MAX),
    ];
    let answer = shared.gateway.txn(&Txn { success, ..Txn::default() }, shared.deadline()).await?;
    let mut roster = Roster { revision: answer.header.revision.0, ..Roster::default() };
    for found in answer.responses.iter().flat_map(OpAnswer::kvs) {
        enter(&mut roster, &keys.parse(&found.key.0), Some(&found.value.0));
    }
    Ok((roster, answer.header.cluster_id.0))
}

/// The batch that is being written, if there is one, and the revision at which that is so.
async fn read_batch(shared: &Shared) -> Result<(Option<Bytes>, i64), Failure> {
    let asked = RangeAsked { key: shared.keys.batch().into(), ..RangeAsked::default() };
    let answer = shared.gateway.range(&asked, shared.deadline()).await?;
    Ok((answer.kvs.into_iter().next().map(|found| found.value.0), answer.header.revision.0))
}

/// Whether what the copy saw last is in etcd's history.
async fn is_same_history(shared: &Shared, mark: &Mark) -> Result<bool, Failure> {
    let Some(witness) = &mark.witness else { return Ok(true) };
    let asked =
        RangeAsked { key: witness.key.clone().into(), revision: Int(mark.revision), ..RangeAsked::default() };
    let answer = shared.gateway.range(&asked, shared.deadline()).await?;
    Ok(answer.kvs.first().is_some_and(|found| witness.is(found)))
}

/// Follows a change, if it came after the roster was read.
fn change(roster: &mut Roster, key: &Key, value: Option<&[u8]>, revision: i64) -> bool {
    revision > roster.revision && enter(roster, key, value)
}

fn enter(roster: &mut Roster, key: &Key, value: Option<&[u8]>) -> bool {
    let (list, peer) = match key {
        Key::Peer(peer) => return enter_living(&mut roster.peers, peer, value),
        Key::Member(peer) => (&mut roster.members, peer),
        Key::Removed(peer) => (&mut roster.removed, peer),
        Key::Pin(_) | Key::Batch | Key::Internal | Key::Unknown => return false,
    };
    match value {
        Some(_) if list.len() >= ROSTER_PEERS_MAX => false,
        Some(_) => list.insert(*peer),
        None => list.remove(peer),
    }
}

fn enter_living(living: &mut BTreeMap<PeerId, Vec<Multiaddr>>, peer: &PeerId, value: Option<&[u8]>) -> bool {
    let Some(value) = value else { return living.remove(peer).is_some() };
    if living.len() >= ROSTER_PEERS_MAX && !living.contains_key(peer) {
        return false;
    }
    let addresses = meet::decode(value);
    living.insert(*peer, addresses.clone()) != Some(addresses)
}

/// The pins that etcd had at a revision.
fn pages(
    shared: Arc<Shared>,
    revision: i64,
    stop: CancellationToken,
) -> BoxStream<'static, Result<Vec<Pin>>> {
    struct Place {
        shared: Arc<Shared>,
        stop: CancellationToken,
        next: Option<Vec<u8>>,
        limit: usize,
    }
    let next = Some(shared.keys.pins().start);
    let place = Place { shared, stop, next, limit: PAGE_ITEMS_MAX };
    stream::try_unfold(place, move |mut place| async move {
        let Some(start) = place.next.take() else { return Ok(None) };
        let shared = Arc::clone(&place.shared);
        let answer = loop {
            let asked = RangeAsked {
                key: start.clone().into(),
                range_end: shared.keys.pins().end.into(),
                limit: Int(place.limit.try_into().unwrap_or(1)),
                revision: Int(revision),
                keys_only: false,
            };
            let answer = tokio::select! {
                biased;
                () = place.stop.cancelled() => return Err(Error::shut_down(COMPONENT)),
                answer = shared.gateway.range(&asked, shared.deadline()) => answer,
            };
            match answer {
                Ok(answer) => break answer,
                // Fewer large entries at a time, also where a line is too slow for many.
                Err(failure)
                    if matches!(failure.reason, Reason::TooLong | Reason::Down) && place.limit > 1 =>
                {
                    place.limit = (place.limit / 4).max(1);
                }
                Err(failure) => return Err(failure.error),
            }
        };
        place.limit = (place.limit * 2).min(PAGE_ITEMS_MAX);
        if answer.more {
            let mut next = answer.kvs.last().map(|last| last.key.0.to_vec()).ok_or_else(|| {
                refused(Error::new(ErrorKind::Remote, "etcd says that there is more, but gives nothing"))
                    .error
            })?;
            // The first key after it.
            next.push(0);
            place.next = Some(next);
        }
        let mut skipped: Option<(usize, Error)> = None;
        let pins = answer
            .kvs
            .into_iter()
            .filter_map(|found| {
                read_pin(&shared.keys, &found)
                    .map_err(|error| {
                        let first = skipped.take();
                        skipped = Some(first.map_or((1, error), |(count, first)| (count + 1, first)));
                    })
                    .ok()
            })
            .collect();
        if let Some((count, error)) = skipped {
            warn!(component = COMPONENT, count, %error, "passing over what is in etcd and cannot be read");
        }
        Ok(Some((pins, place)))
    })
    .boxed()
}

/// The pin of a key and its value.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_pin(keys: &Keys, found: &KeyValue) -> Result<Pin> {
    match keys.parse(&found.key.0) {
        Key::Pin(cid) => decode_pin(&cid, &found.value.0)
            .map_err(|error| error.context(format_args!("the value of {cid}"))),
        _ => Err(unreadable(&found.key.0)),
    }
}

/// A key that is not ours.
pub(super) fn unreadable(key: &[u8]) -> Error {
    const SHOWN_BYTES_MAX: usize = 128;
    let shown = String::from_utf8_lossy(key.get(..SHOWN_BYTES_MAX).unwrap_or(key)).into_owned();
    Error::new(ErrorKind::Corrupt, format!("{shown:?} is no key of a pinset"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_follows_what_came_after_it_was_read() {
        let peer = crate::types::PeerId::random();
        let mut roster = Roster { revision: 10, ..Roster::default() };
        assert!(!change(&mut roster, &Key::Peer(peer), Some(b""), 10));
        assert!(change(&mut roster, &Key::Peer(peer), Some(b""), 11) && roster.peers.contains_key(&peer));
        // A sign of life that says nothing new is no change.
        assert!(!change(&mut roster, &Key::Peer(peer), Some(b""), 12));
        let address = br#"["/ip4/127.0.0.1/tcp/1"]"#;
        assert!(change(&mut roster, &Key::Peer(peer), Some(address), 12) && roster.peers[&peer].len() == 1);
        assert!(change(&mut roster, &Key::Removed(peer), Some(b""), 12) && roster.removed.contains(&peer));
        assert!(change(&mut roster, &Key::Peer(peer), None, 13) && roster.peers.is_empty());
        assert!(!change(&mut roster, &Key::Batch, Some(b""), 14));
        for _ in 0..2 * ROSTER_PEERS_MAX {
            change(&mut roster, &Key::Member(crate::types::PeerId::random()), Some(b""), 15);
        }
        assert_eq!(roster.members.len(), ROSTER_PEERS_MAX);
    }
}
