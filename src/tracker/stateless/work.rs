//! Working on operations: the dispatcher and what one worker does.

use std::any::Any;
use std::error::Error as StdError;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::inner::{Inner, cut_text, failure_text};
use super::{COMPONENT, walk};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "testing")]
use crate::testing::planted::{Planted, is_planted};
use crate::tracker::operation::{Holding, Kind, Step, Wish, follow_up, step};
use crate::tracker::space::{Permit, Verdict};
use crate::tracker::table::{Ending, Lane, Started};
use crate::types::{Cid, Pin, PinMode};

/// How often the daemon's capacity is asked again while operations wait for it and none of ours ends.
const CAPACITY_ASKED_EVERY: Duration = Duration::from_secs(5);
/// How long an unpin that was overtaken by a pin may finish before it is given up. Given up at once, the daemon
/// might still carry it out after the pin.
const UNPIN_GRACE: Duration = Duration::from_secs(10);
/// How long what the daemon said of its space is good for starting pins.
const FREE_SPACE_AGE_MAX: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const FREE_SPACE_TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest time between two looks for the pins that wait without being remembered.
const REFILL_REST: Duration = Duration::from_secs(1);

/// Starts operations until the tracker is shut down, then waits for those that run.
pub(super) async fn dispatch(inner: Arc<Inner>) {
    let mut pins = JoinSet::new();
    let mut unpins = JoinSet::new();
    let mut refills = JoinSet::new();
    let mut refill_at = Instant::now();
    loop {
        start(&inner, Lane::Pin, &mut pins, pins_max(&inner));
        start(&inner, Lane::Unpin, &mut unpins, inner.config.concurrent_unpins);
        let wants_refill = refills.is_empty() && inner.lock().table.wants_refill();
        if wants_refill && refill_at <= Instant::now() {
            refills.spawn(refill(Arc::clone(&inner)));
        }
        let look_again = look_again(&inner);
        tokio::select! {
            biased;
            () = inner.cancel.cancelled() => break,
            Some(ended) = pins.join_next() => report(ended),
            Some(ended) = unpins.join_next() => report(ended),
            Some(ended) = refills.join_next() => {
                report(ended);
                refill_at = Instant::now() + REFILL_REST;
            }
            () = inner.work.notified() => {}
            () = tokio::time::sleep_until(refill_at), if wants_refill && refills.is_empty() => {}
            () = tokio::time::sleep_until(look_again.unwrap_or_else(Instant::now)), if look_again.is_some() => {}
        }
    }
    while let Some(ended) = pins.join_next().await {
        report(ended);
    }
    while let Some(ended) = unpins.join_next().await {
        report(ended);
    }
}

/// Finds pins again that wait without being remembered.
async fn refill(inner: Arc<Inner>) {
    let cancel = inner.cancel.clone();
    let looked = AssertUnwindSafe(walk::refill(inner)).catch_unwind();
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        looked = looked => match looked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "could not look for the pins that wait"),
            Err(panic) => tracing::error!(error = %panicked("looking for the pins that wait", panic.as_ref()), "ignored"),
        },
    }
}

/// When pins that wait may find that they need not, if nothing else happens.
fn look_again(inner: &Inner) -> Option<Instant> {
    let shared = inner.lock();
    if !shared.table.has_waiting(Lane::Pin) {
        return None;
    }
    let capacity = Instant::now() + CAPACITY_ASKED_EVERY;
    Some(match shared.space.next_probe() {
        // One that is due already waits for capacity.
        Some(probe) if probe > Instant::now() => probe,
        _ => capacity,
    })
}

fn start(inner: &Arc<Inner>, lane: Lane, running: &mut JoinSet<()>, running_max: usize) {
    while running.len() < running_max && !inner.cancel.is_cancelled() {
        let Some(started) = start_next(inner, lane) else { return };
        running.spawn(work(Arc::clone(inner), started));
    }
}

fn start_next(inner: &Inner, lane: Lane) -> Option<Started> {
    let mut shared = inner.lock();
    let now = Instant::now();
    let permit = match lane {
        Lane::Pin => shared.space.permit(now),
        Lane::Unpin => Permit::All,
    };
    if permit == Permit::None {
        return None;
    }
    let started = shared.table.start_next(lane, inner.clock.now(), &inner.cancel)?;
    if permit == Permit::Probe {
        shared.space.probe_starts(started.ticket, now);
    }
    Some(started)
}

/// How many pins may run now.
fn pins_max(inner: &Inner) -> usize {
    let capacity = std::panic::catch_unwind(AssertUnwindSafe(|| inner.ipfs.pin_concurrency()));
    let capacity = capacity.unwrap_or_else(|panic| {
        tracing::error!(error = %panicked("asking for the daemon's capacity", panic.as_ref()), "ignored");
        None
    });
    capacity.map_or(inner.config.concurrent_pins, |capacity| capacity.get().min(inner.config.concurrent_pins))
}

/// Workers catch what goes wrong themselves; this is the net below.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a worker of the tracker ended unexpectedly");
    }
}

/// A panic as an error, with what was being done.
pub(super) fn panicked(doing: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::internal(format!("{doing} panicked: {text}")).component(COMPONENT)
}

/// What came of an operation.
#[derive(Debug)]
enum Done {
    /// The daemon holds it; what the pinset wants by now comes next.
    Pinned { pin: Arc<Pin>, next: Option<Kind> },
    /// The daemon does not hold it, in no mode.
    Unpinned,
    /// The pinset wants something else by now, or nothing.
    Overtaken { next: Option<Kind> },
}

/// One operation, from its start until it is forgotten, in error, or stopped.
async fn work(inner: Arc<Inner>, started: Started) {
    let cid = match started.key.cid() {
        Ok(cid) => cid,
        Err(error) => return settle(&inner, &started, None, None, Some(Err(error))),
    };
    let mut pin = None;
    let ended = {
        let body = AssertUnwindSafe(perform(&inner, &started, cid, &mut pin)).catch_unwind();
        let ended = until_cancelled(&inner, &started, body).await;
        ended.map(|ended| {
            ended.unwrap_or_else(|panic| Err(panicked(&format!("working on {cid}"), panic.as_ref())))
        })
    };
    settle(&inner, &started, Some(cid), pin, ended);
}

/// Runs an operation until it ends or is told to stop; none when it was stopped. Dropping it drops the request to
/// the daemon.
async fn until_cancelled<T>(inner: &Inner, started: &Started, body: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(body);
    tokio::select! {
        biased;
        ended = &mut body => return Some(ended),
        () = started.cancel.cancelled() => {}
    }
    if !started.kind.unpins() {
        return None;
    }
    tokio::select! {
        biased;
        () = inner.cancel.cancelled() => None,
        ended = tokio::time::timeout(UNPIN_GRACE, body) => ended.ok(),
    }
}

/// Reads the pinset and does what it says, as far as that is this operation's kind. Leaves the entry in `found`.
async fn perform(inner: &Inner, started: &Started, cid: Cid, found: &mut Option<Arc<Pin>>) -> Result<Done> {
    let read = |pin: Option<Pin>| (Wish::of(pin.as_ref(), &inner.peer), pin.map(Arc::new));
    let (wish, pin) = read(inner.state.get(&cid).await?);
    found.clone_from(&pin);
    {
        let mut shared = inner.lock();
        if let Some(pin) = &pin {
            shared.table.set_running_pin(&started.key, started.ticket, Arc::clone(pin));
        }
        if let Some(view) = shared.table.get(&started.key).filter(|view| view.ticket == started.ticket) {
            let status = inner.operation_status(&shared.daemon, &view);
            inner.announce(cid, pin.as_deref(), status);
        }
    }
    let step = step(started.kind, wish);
    #[cfg(feature = "testing")]
    let step =
        if is_planted(Planted::LateRemovalUntracks) && started.kind.unpins() { Step::Unpin } else { step };
    match (step, pin) {
        (Step::Pin, Some(pin)) => {
            if started.unpin_first && pin.mode() == PinMode::Direct {
                // The daemon keeps a recursive pin, which an unpin was to remove, in preference to a direct one.
                inner.ipfs.unpin(&cid).await?;
            }
            require_free_space(inner).await?;
            inner.ipfs.pin(&pin).await?;
            // A change whose event got lost, or is still to come, is noticed here.
            let next = match inner.state.get(&cid).await {
                Ok(now) => follow_up(pin.mode(), read(now).0),
                Err(_) => None,
            };
            Ok(Done::Pinned { pin, next })
        }
        (Step::Unpin, _) => {
            inner.ipfs.unpin(&cid).await?;
            Ok(Done::Unpinned)
        }
        (Step::Become(next), _) => Ok(Done::Overtaken { next: Some(next) }),
        (Step::Nothing, _) | (Step::Pin, None) => Ok(Done::Overtaken { next: None }),
    }
}

/// Refuses when the daemon has less space left than the configuration wants. Not to know is no reason to wait.
async fn require_free_space(inner: &Inner) -> Result<()> {
    let least = inner.config.free_space_min;
    if least == 0 {
        return Ok(());
    }
    let known = {
        let shared = inner.lock();
        let is_good = |at: &Instant| at.elapsed() < FREE_SPACE_AGE_MAX && !shared.space.is_full();
        shared.free_space.filter(|(_, at)| is_good(at)).map(|(free, _)| free)
    };
    let free = match known {
        Some(free) => free,
        None => match tokio::time::timeout(FREE_SPACE_TIMEOUT, inner.ipfs.repo_stat()).await {
            Ok(Ok(stat)) => {
                let free = stat.free_bytes();
                inner.lock().free_space = Some((free, Instant::now()));
                free
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the daemon does not say how much space is left; pinning all the same");
                return Ok(());
            }
            Err(_) => return Ok(()),
        },
    };
    if free >= least {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::StorageFull,
        format!("{free} bytes are left of its StorageMax, statelesstracker.free_space_min is {least}"),
    )
    .component(COMPONENT))
}

/// What the end of a pin says of the daemon's space; `ended` as for [`settle`].
fn verdict(ended: Option<&Result<Done>>) -> Verdict {
    match ended {
        Some(Err(error)) if error.kind() == ErrorKind::StorageFull => Verdict::Full(no_space_text(error)),
        Some(Ok(Done::Pinned { .. })) => Verdict::Room,
        // Nothing came that there might have been no space for; waiting for space will not bring it.
        Some(Err(error)) if error.kind() == ErrorKind::Timeout => Verdict::Room,
        Some(Ok(_) | Err(_)) | None => Verdict::Nothing,
    }
}

/// The daemon's own words: the error names the pin that found out, and the text is shown with all that wait.
fn no_space_text(error: &Error) -> Arc<str> {
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cut_text(&cause.to_string())
}

/// Writes down how an operation ended, tells of it, and asks for what comes next.
fn settle(
    inner: &Inner,
    started: &Started,
    cid: Option<Cid>,
    pin: Option<Arc<Pin>>,
    ended: Option<Result<Done>>,
) {
    let key = &started.key;
    if ended.is_none() && inner.cancel.is_cancelled() {
        return; // Nobody asks any more.
    }
    let mut shared = inner.lock();
    let mut next = None;
    let mut ending = Ending::Done;
    if started.kind == Kind::Pin {
        inner.note_space(&mut shared, started.ticket, verdict(ended.as_ref()));
    }
    match &ended {
        None => {}
        Some(Ok(Done::Pinned { pin, next: then })) => {
            next = *then;
            let mode = pin.mode();
            inner.record(&mut shared, key, mode, true);
            if mode == PinMode::Recursive || started.unpin_first {
                // One pin for each CID: the daemon lets go of the other mode.
                let other = if mode == PinMode::Recursive { PinMode::Direct } else { PinMode::Recursive };
                inner.record(&mut shared, key, other, false);
            }
        }
        Some(Ok(Done::Unpinned)) => {
            inner.record(&mut shared, key, PinMode::Recursive, false);
            inner.record(&mut shared, key, PinMode::Direct, false);
            shared.space.freed(Instant::now());
        }
        Some(Ok(Done::Overtaken { next: then })) => next = *then,
        Some(Err(error)) if started.kind == Kind::Pin && error.kind() == ErrorKind::StorageFull => {
            tracing::debug!(cid = ?key, %error, "waits for space");
            ending = Ending::Waits;
        }
        Some(Err(error)) => {
            tracing::warn!(cid = ?key, kind = ?started.kind, %error, "operation failed");
            ending = Ending::Failed(failure_text(error));
        }
    }
    let failed = matches!(ending, Ending::Failed(_));
    let is_current = inner.finish(&mut shared, key, started.ticket, ending);
    let Some(cid) = cid.filter(|_| is_current) else { return };
    if let Some(next) = next {
        inner.request(&mut shared, key, cid, next, pin.as_deref());
        return;
    }
    let status = match shared.table.get(key) {
        Some(view) => inner.operation_status(&shared.daemon, &view),
        None => {
            // A failure for which there was no room shows as what it leaves behind.
            let holding = if failed { Holding::Missing } else { Holding::Held };
            inner.resting_status(
                &shared.daemon,
                pin.as_deref(),
                Wish::of(pin.as_deref(), &inner.peer),
                &holding,
            )
        }
    };
    inner.announce(cid, pin.as_deref(), status);
}
