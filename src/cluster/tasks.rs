//! The background tasks of a peer.
//!
//! | task | woken by | does |
//! |---|---|---|
//! | `ready` | once | waits for consensus and daemon, retries what failed before the start |
//! | `state_events` | changes of the pinset, writes that wait for theirs | tracks and untracks; on `Resync` compares state and daemon |
//! | `state_sync` | `state_sync_interval` | removes expired pins that are this peer's to look after |
//! | `pin_recover` | ready, then `pin_recover_interval`, joining, and the daemon coming back | retries pins in error |
//! | `ping` | ready, then `monitor_ping_interval` | says that this peer lives |
//! | one informer each | half its time to live, and blocks that were stored | measures and publishes |
//! | `alerts` | metrics that expire | remembers alerts, wakes `repin` |
//! | `repin` | a peer's ping that expired, and `state_sync_interval` after it; while pins are left, `monitor_ping_interval` and longer | pins elsewhere what dead peers held |
//! | `swarms` | `connect_swarms_delay` after ready, `monitor_ping_interval` after joining | connects the daemons of all peers |
//! | `watch_peers` | `peer_watch_interval`, where members are added and removed | stops a peer that was removed |
//! | `summary` | who asks for a summary and finds it old | counts where the pins stand, asks the daemon about its disk |
//! | `leases` | a stream of blocks that ended, then when it is to be looked at again | releases blocks that are pinned by now, or that nobody will pin |
//! | `interrupted_adds` (feature `add`) | an add that can go on and broke off | ends its streams, notes where that was; also while the peer stops |
//! | `watch` | the first watcher, then whatever happens until nobody watched for ten minutes | notes events for watchers |
//!
//! The daemon is compared with what the tracker believes (`ipfs_sync_interval`) by the tracker itself, which knows how
//! long the last comparison took. Every task ends when the peer's token is cancelled, wherever it waits; `interrupted_adds` a
//! little later.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::Inner;
use super::hand_over::Turns;
use super::lifecycle::{Readiness, StopReason, Task};
use crate::consensus::{NoLongerMember, StateEvent};
use crate::error::{Error, Result};
use crate::informer::Informer;
use crate::ipfs_connector::Availability;
use crate::monitor::MonitorEvent;
use crate::state::StateQuery;
use crate::types::{Metric, PinOperation, PinType, Revision};

/// Shortest time between two runs of anything periodic, so that a metric's tiny time to live cannot spin.
pub(super) const PERIOD_MIN: Duration = Duration::from_millis(100);
/// Expired pins removed as one batch.
const EXPIRED_BATCH: usize = 1024;

/// Shortest time between two measurements of an informer that is woken.
const MEASURE_PERIOD_MIN: Duration = Duration::from_secs(1);

/// What wakes tasks, besides time.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    /// This peer joined a cluster.
    pub(super) joined: Notify,
    /// Something was stored on the daemon, or somebody came who does not know how we are.
    pub(super) metrics: Notify,
    /// A peer may be dead.
    pub(super) repin: Notify,
    /// Somebody wants to know how we are, and what is known is old.
    pub(super) summary: Notify,
    /// A stream of blocks ended.
    pub(super) leases: Notify,
}

/// What the tasks read, subscribed to before anything runs: a pin logged right after the start must not be missed.
pub(super) struct Subscriptions {
    pub(super) state: BoxStream<'static, StateEvent>,
    pub(super) turns: Turns,
    pub(super) monitor: BoxStream<'static, MonitorEvent>,
    #[cfg(feature = "add")]
    pub(super) broken_adds: super::add::BrokenAdds,
}

/// Makes every task of a peer.
pub(super) fn all(inner: &Arc<Inner>, subscriptions: Subscriptions) -> Vec<Task> {
    let mut tasks = vec![
        task("ready", inner, ready(Arc::clone(inner))),
        task(
            "state_events",
            inner,
            state_events(Arc::clone(inner), subscriptions.state, subscriptions.turns),
        ),
        task("state_sync", inner, state_sync(Arc::clone(inner))),
        task("pin_recover", inner, pin_recover(Arc::clone(inner))),
        task("ping", inner, ping(Arc::clone(inner))),
        task("alerts", inner, alerts(Arc::clone(inner), subscriptions.monitor)),
        task("repin", inner, repin(Arc::clone(inner))),
        task("swarms", inner, swarms(Arc::clone(inner))),
        task("watch_peers", inner, watch_peers(Arc::clone(inner))),
        task("summary", inner, summary(Arc::clone(inner))),
        task("leases", inner, leases(Arc::clone(inner))),
        task("watch", inner, watch(Arc::clone(inner))),
    ];
    #[cfg(feature = "add")]
    tasks.push(super::add::task(inner, subscriptions.broken_adds));
    let informers = inner.informers.iter();
    tasks.extend(
        informers.map(|informer| task("informer", inner, inform(Arc::clone(inner), Arc::clone(informer)))),
    );
    tasks
}

/// A task that ends, at the latest, where it waits when the peer is cancelled.
fn task(name: &'static str, inner: &Inner, run: impl Future<Output = ()> + Send + 'static) -> Task {
    let cancel = inner.life.cancel.clone();
    Task {
        name,
        run: Box::pin(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = run => {}
            }
        }),
    }
}

/// Nothing more to do, but ending would look like a failure.
async fn rest() {
    std::future::pending::<()>().await;
}

async fn ready(inner: Arc<Inner>) {
    // One after the other: the daemon may come late, and somebody who will never agree with anybody need not wait for it.
    let mut outcome = inner.consensus.ready().await;
    if let Err(error) = &outcome
        && error.downcast_source::<NoLongerMember>().is_some()
    {
        // It was removed while it was away, and is told so now.
        info!(%error, "this peer is no longer a member");
        inner.life.stop(StopReason::Removed);
        return;
    }
    if outcome.is_ok() {
        outcome = inner.ipfs.ready().await;
    }
    if let Err(error) = outcome {
        inner.life.stop(StopReason::NotReady(error));
        return;
    }
    info!(peer = %inner.peer, "** IPFS Cluster is READY **");
    inner.life.readiness.send_replace(Readiness::Ready);
    rest().await;
}

async fn until_ready(inner: &Inner) {
    // An error means that the peer stops; the task is cancelled then.
    if inner.life.ready().await.is_err() {
        rest().await;
    }
}

async fn state_events(inner: Arc<Inner>, mut events: BoxStream<'static, StateEvent>, mut turns: Turns) {
    while let Some(event) = turns.next(&mut events).await {
        let outcome = match event {
            StateEvent::Pinned(pin) => {
                let cid = pin.cid;
                inner.tracker.track(Arc::unwrap_or_clone(pin)).await.map_err(|error| error.context(cid))
            }
            StateEvent::Unpinned(pin) => {
                inner.tracker.untrack(&pin.cid).await.map_err(|error| error.context(pin.cid))
            }
            StateEvent::Resync => {
                // A peer that was away gets the pinset as a whole, so it is no fault.
                info!(
                    "the pinset changed in a way that is not known pin by pin; comparing it with the daemon"
                );
                recover_everything(&inner).await.map(|_| ())
            }
        };
        if let Err(error) = &outcome {
            warn!(%error, "could not hand a change of the pinset to the tracker; recover retries it");
        }
        inner.life.board.ran("state_events", &outcome);
    }
    // Consensus ended by itself: a peer that no longer hears of changes must not look alive.
}

async fn recover_everything(inner: &Inner) -> Result<u64> {
    let mut queued = 0;
    let mut pages = inner.tracker.recover_all();
    while let Some(page) = pages.next().await {
        queued += page?.len() as u64;
    }
    Ok(queued)
}

async fn pin_recover(inner: Arc<Inner>) {
    let mut availability = inner.ipfs.availability();
    until_ready(&inner).await;
    loop {
        let joined = inner.wakes.joined.notified();
        let outcome = recover_everything(&inner).await;
        match &outcome {
            Ok(0) => debug!("nothing to recover"),
            Ok(queued) => info!(queued, "queued pins again that had failed or got lost"),
            Err(error) => warn!(%error, "could not look for pins to recover"),
        }
        inner.life.board.ran("pin_recover", &outcome);
        tokio::select! {
            biased;
            () = tokio::time::sleep(inner.config.pin_recover_interval.max(PERIOD_MIN)) => {}
            () = joined => info!("joined a cluster; pinning what is missing here"),
            () = came_back(&mut availability) => info!("the IPFS daemon is back; retrying what failed meanwhile"),
        }
    }
}

/// Returns when the daemon answers after it did not.
async fn came_back(availability: &mut BoxStream<'static, Availability>) {
    let mut was_down = false;
    while let Some(now) = availability.next().await {
        match now {
            Availability::Down(_) => was_down = true,
            Availability::Up if was_down => return,
            Availability::Up => {}
        }
    }
    rest().await;
}

async fn state_sync(inner: Arc<Inner>) {
    until_ready(&inner).await;
    loop {
        tokio::time::sleep(inner.config.state_sync_interval.max(PERIOD_MIN)).await;
        if inner.config.follower_mode {
            continue;
        }
        let outcome = unpin_expired(&inner).await;
        match &outcome {
            Ok(0) => {}
            Ok(removed) => info!(removed, "removed expired pins"),
            Err(error) => warn!(%error, "could not remove expired pins"),
        }
        inner.life.board.ran("state_sync", &outcome);
    }
}

/// Removes the expired pins that this peer looks after. One peer is enough for each; others would do no harm.
async fn unpin_expired(inner: &Inner) -> Result<u64> {
    let now = inner.clock.now();
    let closest = inner.closest().await?;
    let mut removed = 0;
    let mut pages = inner.state.list(StateQuery::default());
    let mut expired = Vec::new();
    while let Some(page) = pages.next().await {
        for listed in page? {
            if !listed.is_expired(now) || !closest.is_own(&listed.cid) {
                continue;
            }
            // It may have been given more time since the page was read.
            let Some(pin) = inner.state.get(&listed.cid).await?.filter(|pin| pin.is_expired(now)) else {
                continue;
            };
            match pin.pin_type {
                // Not if it is given more time until then.
                PinType::Data => expired.push(PinOperation::Revise(Revision::remove(pin))),
                PinType::Meta => match inner.unpin_sharded(&pin).await {
                    Ok(()) => removed += 1,
                    // One whose shards cannot be found must not keep the others.
                    Err(error) => warn!(cid = %pin.cid, %error, "could not remove expired sharded content"),
                },
                // They go with their root.
                PinType::Shard | PinType::ClusterDag => {}
            }
        }
        if expired.len() >= EXPIRED_BATCH {
            removed += expired.len() as u64;
            inner.log_many(std::mem::take(&mut expired)).await?;
        }
    }
    if !expired.is_empty() {
        removed += expired.len() as u64;
        inner.log_many(expired).await?;
    }
    Ok(removed)
}

async fn ping(inner: Arc<Inner>) {
    let interval = inner.config.monitor_ping_interval.max(PERIOD_MIN);
    loop {
        let outcome = inner.publish_ping().await;
        if let Err(error) = &outcome {
            warn!(%error, "could not publish our ping");
        }
        inner.life.board.ran("ping", &outcome);
        tokio::time::sleep(interval).await;
    }
}

async fn inform(inner: Arc<Inner>, informer: Arc<dyn Informer>) {
    loop {
        // From before the measurement on, so that nothing stored during it is missed.
        let stored = inner.wakes.metrics.notified();
        let outcome = inner.measure(&*informer).await;
        if let Err(error) = &outcome {
            debug!(informer = informer.name(), %error, "could not measure");
        }
        inner.life.board.ran("informer", &outcome);
        // Half of its life after a measurement, a quarter after a failure, as in the reference.
        let wait = (informer.ttl() / if outcome.is_ok() { 2 } else { 4 }).max(PERIOD_MIN);
        let rest = wait.min(MEASURE_PERIOD_MIN);
        tokio::time::sleep(rest).await;
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait - rest) => {}
            () = stored => {}
        }
    }
}

impl Inner {
    /// Measures and publishes.
    pub(super) async fn measure(&self, informer: &dyn Informer) -> Result<()> {
        for metric in informer.metrics().await? {
            self.monitor.publish(metric).await.map_err(|error: Error| error.context(informer.name()))?;
        }
        Ok(())
    }
}

async fn alerts(inner: Arc<Inner>, mut events: BoxStream<'static, MonitorEvent>) {
    while let Some(event) = events.next().await {
        let MonitorEvent::Alert(alert) = event else {
            // Some of those who died may be unknown; the walk looks for all that are dead.
            if !inner.config.follower_mode && !inner.config.disable_repinning {
                inner.wakes.repin.notify_one();
            }
            continue;
        };
        let Metric { name, peer, .. } = &alert.metric;
        if name == "ping" {
            warn!(%peer, "no ping for too long: this peer is down, or not connected with us");
        } else {
            info!(metric = name, %peer, "a metric stopped coming");
        }
        if !inner.config.follower_mode {
            let dead = (alert.metric.name == "ping").then_some(alert.metric.peer);
            inner.alerts.push(alert);
            if let Some(dead) = dead.filter(|_| !inner.config.disable_repinning) {
                if let Err(error) = inner.saw_die(dead).await {
                    debug!(%error, "could not look who saw it");
                }
                inner.wakes.repin.notify_one();
            }
        }
        inner.life.board.ran("alerts", &Ok(()));
    }
}

async fn repin(inner: Arc<Inner>) {
    let mut is_all_done = true;
    // What is missing is often only the word of a peer that came lately. If not, walking all pins often helps nobody.
    let longest = inner.config.state_sync_interval.max(PERIOD_MIN);
    let shortest = inner.config.monitor_ping_interval.clamp(PERIOD_MIN, longest);
    let mut wait = shortest;
    loop {
        let is_first = tokio::select! {
            biased;
            () = inner.wakes.repin.notified() => {
                wait = shortest;
                true
            }
            () = tokio::time::sleep(wait), if !is_all_done => {
                wait = (wait * 2).min(longest);
                false
            }
        };
        let outcome = inner.repin_from_dead().await;
        if let Err(error) = &outcome {
            warn!(%error, "could not pin elsewhere what dead peers held; trying again later");
        }
        let none_left = outcome.as_ref().is_ok_and(|repinned| repinned.left + repinned.changed == 0);
        if is_first && none_left {
            // Others may have given the dead peer pins before they knew, which come after the first look.
            wait = longest;
        }
        is_all_done = !is_first && none_left;
        inner.life.board.ran("repin", &outcome);
    }
}

async fn swarms(inner: Arc<Inner>) {
    until_ready(&inner).await;
    tokio::time::sleep(inner.config.connect_swarms_delay).await;
    loop {
        let joined = inner.wakes.joined.notified();
        let outcome = inner.connect_swarms().await;
        if let Err(error) = &outcome {
            debug!(%error, "could not connect the daemons");
        }
        inner.life.board.ran("swarms", &outcome);
        joined.await;
        // By then those that were there have told us of themselves.
        tokio::time::sleep(inner.config.monitor_ping_interval.max(PERIOD_MIN)).await;
    }
}

async fn watch_peers(inner: Arc<Inner>) {
    if !inner.consensus.capabilities().membership_changes {
        return rest().await;
    }
    let mut was_member = false;
    loop {
        // First at once: a peer that is removed soon after its start was a member, too. So was one that is ready, even if
        // it came and went since it was looked last.
        was_member |= inner.life.is_ready();
        let members = inner.consensus.peers().await;
        match &members {
            Ok(members) if members.contains(&inner.peer) => was_member = true,
            // One that is not a member yet is about to join.
            Ok(_) if was_member => {
                info!("this peer is no longer a member");
                inner.life.stop(StopReason::Removed);
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "could not look who the members are"),
        }
        inner.life.board.ran("watch_peers", &members);
        tokio::time::sleep(inner.config.peer_watch_interval.max(PERIOD_MIN)).await;
    }
}

async fn summary(inner: Arc<Inner>) {
    loop {
        inner.wakes.summary.notified().await;
        let outcome = inner.look_for_summary().await;
        if let Err(error) = &outcome {
            debug!(%error, "cannot say everything about how this peer is");
        }
        inner.life.board.ran("summary", &outcome);
    }
}

async fn leases(inner: Arc<Inner>) {
    until_ready(&inner).await;
    loop {
        let (next, outcome) = inner.release_leases().await;
        inner.life.board.ran("leases", &outcome);
        let wait = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => rest().await,
            }
        };
        tokio::select! {
            biased;
            () = inner.wakes.leases.notified() => {}
            () = wait => {}
        }
    }
}

async fn watch(inner: Arc<Inner>) {
    inner.watch.run(&*inner.monitor).await;
}
