//! Listing what the daemon holds: when, and what becomes of the result.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{BoxStream, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::inner::{EVENTS_KEPT, Inner, cannot_list};
use super::work::panicked;
use super::{COMPONENT, walk};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::Availability;
use crate::tracker::held::{Difference, HeldSet, SHARDS};
use crate::tracker::key::CidKey;
use crate::tracker::operation::{Phase, Wish};
use crate::types::PinMode;

/// A listing that gives nothing for so long has failed.
const LISTING_SILENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// How long the daemon may take to say who it is.
const ID_TIMEOUT: Duration = Duration::from_secs(10);
/// When to try again after a listing failed: first, and at most, doubling in between.
const RETRY_FIRST: Duration = Duration::from_secs(15);
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);
/// The interval is stretched to so many times as long as the last listing took, so that listing never becomes
/// what the daemon is busy with.
const REST_FACTOR: u32 = 10;
/// Callers that may wait for one listing.
const WAITERS_MAX: usize = 1024;
/// Operations looked at before others may have the lock.
const OPERATIONS_STEP: usize = 1024;

/// What a listing changed.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Whether there was a set to differ from.
    pub(super) was_complete: bool,
    pub(super) difference: Difference,
    /// Operations that had failed, and whose wish the daemon fulfils meanwhile; in CID order.
    pub(super) fulfilled: Vec<CidKey>,
}

impl Inner {
    /// Waits for a listing that starts from now on.
    pub(super) async fn list_now(&self) -> Result<Arc<Outcome>> {
        let waiter = {
            let mut shared = self.lock();
            shared.waiters.retain(|waiter| !waiter.is_closed());
            if shared.waiters.len() >= WAITERS_MAX {
                return Err(Error::new(
                    ErrorKind::QueueFull,
                    format!("{WAITERS_MAX} callers wait for a listing of the daemon already, try later"),
                )
                .component(COMPONENT));
            }
            let (sender, receiver) = oneshot::channel();
            shared.waiters.push(sender);
            shared.is_listing_wanted = true;
            receiver
        };
        self.listing_wanted.notify_one();
        let answer = async { waiter.await.unwrap_or_else(|_| Err(Error::shut_down(COMPONENT))) };
        self.until_shut_down(answer).await
    }

    /// Returns when it is known what the daemon holds, or when an attempt to learn it failed. What was known of a
    /// daemon that went away counts for nothing, even if the news of its return is still on the way.
    pub(super) async fn wait_listed(&self) -> Result<()> {
        let mut ended = self.listings_ended.subscribe();
        {
            let mut shared = self.lock();
            if shared.unknown().is_none() && !shared.is_outdated {
                return Ok(());
            }
            if !shared.is_listing {
                shared.is_listing_wanted = true;
                self.listing_wanted.notify_one();
            }
        }
        self.until_shut_down(async {
            // The sender lives in `self`.
            let _ = ended.changed().await;
            Ok(())
        })
        .await
    }
}

/// Keeps the set of what the daemon holds until the tracker is shut down.
pub(super) async fn keep_listed(inner: Arc<Inner>, mut availability: BoxStream<'static, Availability>) {
    let mut watching = true;
    let mut due = Some(Instant::now());
    let mut retry = RETRY_FIRST;
    let mut ended = Instant::now();
    let mut took = Duration::ZERO;
    loop {
        let waits = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = inner.cancel.cancelled() => return,
            change = availability.next(), if watching => {
                watching = change.is_some();
                if change.is_some_and(|change| came_back(&inner, change)) {
                    // Not at once if it comes and goes all the time.
                    let soon = Instant::now().max(ended + took);
                    due = Some(due.map_or(soon, |due| due.min(soon)));
                }
                continue;
            }
            () = inner.listing_wanted.notified() => {
                if !inner.lock().is_listing_wanted {
                    continue; // The listing that just ended was for that one, too.
                }
            }
            () = waits => {}
        }
        let started = Instant::now();
        let waiters = {
            let mut shared = inner.lock();
            shared.is_listing = true;
            shared.is_listing_wanted = false;
            std::mem::take(&mut shared.waiters)
        };
        let mut again = false;
        let result = {
            let listing = AssertUnwindSafe(list(&inner)).catch_unwind();
            tokio::pin!(listing);
            loop {
                tokio::select! {
                    biased;
                    () = inner.cancel.cancelled() => return,
                    change = availability.next(), if watching => match change {
                        Some(change) => again |= came_back(&inner, change),
                        None => watching = false,
                    },
                    result = &mut listing => {
                        break result.unwrap_or_else(|panic| Err(panicked("listing pins", panic.as_ref())));
                    }
                }
            }
        };
        ended = Instant::now();
        took = ended - started;
        let result = result.map(Arc::new);
        if result.is_ok() && !again {
            inner.lock().is_outdated = false;
        }
        conclude(&inner, &result, took);
        due = match &result {
            Ok(_) => {
                retry = RETRY_FIRST;
                let interval = inner.config.ipfs_sync_interval;
                (!interval.is_zero()).then(|| ended + interval.max(took.saturating_mul(REST_FACTOR)))
            }
            Err(_) => {
                let wait = retry;
                retry = (retry * 2).min(RETRY_MAX);
                Some(ended + wait)
            }
        };
        if again {
            due = Some(due.map_or(ended + took, |due| due.min(ended + took)));
        }
        for waiter in waiters {
            // Who no longer waits does not care.
            let _ = waiter.send(result.clone());
        }
    }
}

/// Notes whether the daemon answers. Whether it does again after it did not.
fn came_back(inner: &Inner, change: Availability) -> bool {
    let mut shared = inner.lock();
    let was_down = shared.down.is_some();
    shared.down = match change {
        Availability::Up => None,
        Availability::Down(error) => Some(cannot_list(error.message())),
    };
    let is_down = shared.down.is_some();
    if was_down != is_down {
        // Every item the daemon has a say in has another status now.
        inner.announce_resync();
    }
    let came_back = was_down && !is_down;
    shared.is_outdated |= came_back;
    came_back
}

/// Writes down how a listing ended and tells of what it changed.
fn conclude(inner: &Arc<Inner>, result: &Result<Arc<Outcome>>, took: Duration) {
    {
        let mut shared = inner.lock();
        shared.is_listing = false;
        if let Err(error) = result {
            shared.held.listing_failed();
            shared.unlisted = cannot_list(error.message());
        }
    }
    inner.listings_ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    match result {
        Err(error) => tracing::warn!(%error, "could not list what the daemon holds"),
        Ok(outcome) => {
            let (lost, gained) = (outcome.difference.lost.len(), outcome.difference.gained.len());
            tracing::debug!(?took, lost, gained, "listed what the daemon holds");
            if !outcome.was_complete || outcome.difference.len() + outcome.fulfilled.len() > EVENTS_KEPT {
                inner.announce_resync();
            } else if inner.events.receiver_count() > 0 {
                inner.tasks.spawn(announce(Arc::clone(inner), Arc::clone(outcome)));
            }
        }
    }
}

/// Tells of each item that a listing changed.
async fn announce(inner: Arc<Inner>, outcome: Arc<Outcome>) {
    let mut pages = walk::changes(Arc::clone(&inner), outcome);
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => {
                for info in page {
                    inner.announce_info(info);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "could not tell what a listing changed");
                return inner.announce_resync();
            }
        }
    }
}

/// Lists the daemon and puts the result in the place of what was known. Changes nothing if it breaks off.
async fn list(inner: &Inner) -> Result<Outcome> {
    if let Ok(Ok(id)) = tokio::time::timeout(ID_TIMEOUT, inner.ipfs.id()).await {
        inner.set_daemon(id);
    }
    let newest_failure = {
        let mut shared = inner.lock();
        shared.held.listing_starts();
        shared.table.last_ticket()
    };
    let mut listed = HeldSet::new();
    for mode in [PinMode::Recursive, PinMode::Direct] {
        let mut pages = inner.ipfs.list_pins(mode);
        loop {
            let page = tokio::time::timeout(LISTING_SILENCE_MAX, pages.next()).await.map_err(|_| {
                Error::new(
                    ErrorKind::Timeout,
                    format!("the listing of {mode} pins gave nothing for {LISTING_SILENCE_MAX:?}"),
                )
                .component(COMPONENT)
            })?;
            let Some(page) = page else { break };
            for pin in page? {
                listed.append(inner.hasher.hash(&CidKey::from(&pin.cid), pin.mode));
            }
            tokio::task::yield_now().await;
        }
    }
    for index in 0..SHARDS {
        listed.shard_mut(index).settle();
        tokio::task::yield_now().await;
    }
    let was_complete = inner.lock().held.is_complete();
    let mut difference = Difference::new();
    for index in 0..SHARDS {
        let new = std::mem::take(listed.shard_mut(index));
        let old = inner.lock().held.replace_shard(index, new, &mut difference);
        drop(old); // Outside of the lock.
        tokio::task::yield_now().await;
    }
    inner.lock().held.listing_ends();
    let fulfilled = drop_fulfilled(inner, newest_failure).await?;
    Ok(Outcome { was_complete, difference, fulfilled })
}

/// Forgets operations that had failed before the listing began and whose wish the daemon fulfils by now.
async fn drop_fulfilled(inner: &Inner, newest: u64) -> Result<Vec<CidKey>> {
    let mut fulfilled = Vec::new();
    let mut after: Option<CidKey> = None;
    loop {
        let step = inner.lock().table.range(after.as_ref(), None, OPERATIONS_STEP);
        let Some((last, _)) = step.last() else { return Ok(fulfilled) };
        after = Some(last.clone());
        for (key, view) in step {
            if view.phase != Phase::Failed || view.ticket > newest {
                continue;
            }
            let pin = inner.state.get(&key.cid()?).await?;
            let wish = Wish::of(pin.as_ref(), &inner.peer);
            let entries = [PinMode::Recursive, PinMode::Direct].map(|mode| inner.hasher.hash(&key, mode));
            let mut shared = inner.lock();
            let [recursive, direct] = entries.map(|entry| shared.held.contains(entry));
            if wish.is_satisfied(recursive, direct) && shared.table.drop_failed(&key, view.ticket) {
                fulfilled.push(key);
            }
        }
        tokio::task::yield_now().await;
    }
}
