//! Adds that can go on where they broke off.
//!
//! Such an add that ends early, however it does, does not break its streams of blocks off: it ends them, as if it had come
//! to its end, so that the destinations keep what they got ([`leases`](crate::cluster::leases)) also where they are peers of
//! the reference. Then it is noted where that was. Ending takes its time, which whoever drops an add does not have; so
//! a task of the peer does it, also when the peer stops. A peer that is killed notes nothing: its destinations let go of the
//! blocks, and the add begins anew.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use multihash_codetable::{Code, MultihashDigest as _};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tracing::{debug, info, warn};

use super::interrupted::{Interrupted, Record, Running};
use super::{ADDS_MAX, COMPONENT, Host};
use crate::adder::destinations::Destinations;
use crate::adder::{Car, CarPlace, Content, Lines, import_rest_of_car};
use crate::cluster::lifecycle::Task;
use crate::cluster::{Cluster, Inner};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::types::{AddFormat, AddOptions, InterruptedAdd, Pin, Resume, ResumeKey};

/// How long adds may take to end when the peer stops; less than its tasks may take for that.
const STOP_GRACE: Duration = Duration::from_secs(6);
/// How often it is looked for records that are too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Where adds that break off are handed over.
#[derive(Debug)]
pub(super) struct Resumable {
    pub(super) interrupted: Arc<Interrupted>,
    /// Has room for every add that can run.
    broken: mpsc::Sender<Broken>,
}

/// Adds that broke off, on their way to the task that ends them.
#[derive(Debug)]
pub(in crate::cluster) struct BrokenAdds(mpsc::Receiver<Broken>);

impl Resumable {
    pub(super) async fn open(storage: Arc<dyn Storage>) -> Result<(Self, BrokenAdds)> {
        let (broken, adds) = mpsc::channel(ADDS_MAX);
        Ok((Self { interrupted: Interrupted::open(storage).await?, broken }, BrokenAdds(adds)))
    }
}

/// An add that can go on, in whole or when it broke off.
#[derive(Debug)]
struct Broken {
    inner: Arc<Inner>,
    running: Running,
    sink: Destinations,
    car: Car,
    /// What it went on from.
    before: Option<Record>,
    options: String,
    _turn: OwnedSemaphorePermit,
    /// Who waits for the end.
    ended: Option<oneshot::Sender<()>>,
}

/// An add that runs, and is handed over when it is dropped.
struct Guard(Option<Broken>);

impl Guard {
    fn hand_over(&mut self, ended: Option<oneshot::Sender<()>>) {
        let Some(mut add) = self.0.take() else { return };
        add.ended = ended;
        let inner = Arc::clone(&add.inner);
        // Where nobody ends it any more, it is given up as others are.
        if inner.adds.resumable.broken.try_send(add).is_err() {
            debug!("an add broke off too late to go on later");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.hand_over(None);
    }
}

impl Cluster {
    /// An add that broke off on this peer and can go on, with [`AddOptions::resume`] and the rest of its CAR. Of an add that
    /// broke off before the first block, or more than [`INTERRUPTED_ADD_TTL`](super::INTERRUPTED_ADD_TTL) ago, nothing is
    /// known.
    ///
    /// # Errors
    /// `Conflict` while it runs, or is being ended.
    pub fn interrupted_add(&self, key: &ResumeKey) -> Result<Option<InterruptedAdd>> {
        self.inner.adds.resumable.interrupted.find(key, self.inner.clock.now())
    }

    /// Whether an add with these options would be refused because of what they say of going on.
    #[cfg_attr(not(feature = "api-rest"), allow(dead_code))]
    pub(crate) fn check_resume(&self, options: &AddOptions) -> Result<()> {
        let Some(resume) = &options.resume else { return Ok(()) };
        check_options(options)?;
        let known = &self.inner.adds.resumable.interrupted;
        known.check(resume, &digest(options), self.inner.clock.now()).map(drop)
    }
}

/// Only blocks that are there already can be told from those that are missing.
fn check_options(options: &AddOptions) -> Result<()> {
    let wrong = match options {
        AddOptions { format: AddFormat::UnixFs, .. } => "only a CAR (format=car) can",
        AddOptions { shard: true, .. } => "what is sharded cannot",
        _ => return Ok(()),
    };
    let text = format!("an add that goes on where it broke off: {wrong}");
    Err(Error::invalid_input(text).component(COMPONENT))
}

/// Of what decides where blocks go. All else may be different when an add goes on.
fn digest(options: &AddOptions) -> String {
    let AddOptions { pin, local, .. } = options;
    let text = format!(
        "{} {} {:?} {local}",
        pin.replication_factor_min, pin.replication_factor_max, pin.user_allocations
    );
    hex::encode(Code::Sha2_256.digest(text.as_bytes()).digest())
}

impl Inner {
    /// Adds a CAR, or the rest of one.
    pub(super) async fn add_resumable(
        self: &Arc<Self>,
        mut content: Box<dyn Content>,
        options: AddOptions,
        resume: Resume,
        lines: Lines,
        turn: OwnedSemaphorePermit,
    ) -> Result<Vec<Pin>> {
        check_options(&options)?;
        let host = Arc::new(Host::new(self, &options)?);
        let options_digest = digest(&options);
        let known = &self.adds.resumable.interrupted;
        let (running, before) = known.begin(&resume, &options_digest, self.clock.now())?;
        let placement = Arc::clone(&host);
        let (sink, place) = match &before {
            None => (Destinations::new(placement), CarPlace::default()),
            Some(before) => (Destinations::of_rest(placement, before.placed.clone()), before.place),
        };
        let mut guard = Guard(Some(Broken {
            inner: Arc::clone(self),
            running,
            sink,
            car: Car::from_place(place),
            before,
            options: options_digest,
            _turn: turn,
            ended: None,
        }));
        let ended = match &mut guard.0 {
            None => Err(Error::internal("an add got lost").component(COMPONENT)),
            Some(Broken { sink, car, .. }) => {
                let added = async {
                    let roots = import_rest_of_car(&mut *content, &options, sink, &lines, car).await?;
                    let allocations = sink.finish().await?;
                    if options.no_pin {
                        return Ok(Vec::new());
                    }
                    self.pin_roots(&roots, &host.pin, &allocations).await
                };
                added.await
            }
        };
        if ended.is_err() {
            // Whoever hears of the error can go on at once.
            let (tell, told) = oneshot::channel();
            guard.hand_over(Some(tell));
            let _ = told.await;
            return ended;
        }
        if let Err(error) = known.remove(&resume.key).await {
            warn!(%error, "could not forget where an add broke off that is complete now");
        }
        guard.0 = None;
        ended
    }
}

impl Broken {
    /// Ends the streams and notes where that was.
    async fn end(self) {
        let Self { inner, running, mut sink, car, before, options, ended, .. } = self;
        let known = Arc::clone(&inner.adds.resumable.interrupted);
        let (since, offset) =
            before.as_ref().map_or((None, 0), |before| (Some(before.since), before.place.offset));
        let place = car.taken().filter(|place| place.blocks > 0 && place.offset > offset);
        let record = match (place, sink.has_failed()) {
            // Nothing came that is worth keeping, and what there was before is as good as it was.
            (None, false) => None,
            (None, true) => Some(before.and_then(Record::after_failure)),
            (Some(place), _) => match sink.finish().await {
                Ok(_) => sink.placed().map(|placed| {
                    let since = since.unwrap_or_else(|| inner.clock.now());
                    Some(Record { place, placed, options, since, failures: 0 })
                }),
                Err(error) => {
                    debug!(key = %running.key, %error, "an add that broke off cannot go on later");
                    Some(before.and_then(Record::after_failure))
                }
            },
        };
        let noted = match record {
            None => Ok(()),
            Some(None) => known.remove(&running.key).await,
            Some(Some(record)) => {
                let CarPlace { offset, blocks, .. } = record.place;
                info!(key = %running.key, offset, blocks, "an add broke off and can go on later");
                known.put(&running.key, record).await
            }
        };
        if let Err(error) = noted {
            warn!(key = %running.key, %error, "could not note where an add broke off");
        }
        drop((sink, running));
        if let Some(ended) = ended {
            // Whoever waited may be gone.
            let _ = ended.send(());
        }
    }
}

/// The task that ends adds. It goes on for a while when the peer stops, because that is when many end.
pub(in crate::cluster) fn task(inner: &Arc<Inner>, adds: BrokenAdds) -> Task {
    Task { name: "interrupted_adds", run: Box::pin(run(Arc::clone(inner), adds)) }
}

async fn run(inner: Arc<Inner>, BrokenAdds(mut broken): BrokenAdds) {
    let known = &inner.adds.resumable.interrupted;
    let cancel = inner.life.cancel.clone();
    let mut ending = FuturesUnordered::new();
    let mut ticks = interval(EXPIRY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(add) = broken.recv() => ending.push(add.end()),
            Some(()) = ending.next(), if !ending.is_empty() => inner.life.board.ran("interrupted_adds", &Ok(())),
            _ = ticks.tick() => {
                let outcome = known.remove_expired(inner.clock.now()).await;
                if let Err(error) = &outcome {
                    warn!(%error, "could not forget adds that broke off long ago");
                }
                inner.life.board.ran("interrupted_adds", &outcome);
            }
        }
    }
    // Those that run notice by themselves that the peer stops, and break off.
    let deadline = Instant::now() + STOP_GRACE;
    let all_ended = async {
        loop {
            let ended = known.ended();
            if known.is_idle() {
                return;
            }
            tokio::select! {
                biased;
                Some(add) = broken.recv() => ending.push(add.end()),
                Some(()) = ending.next(), if !ending.is_empty() => {}
                () = ended => {}
            }
        }
    };
    if timeout_at(deadline, all_ended).await.is_err() {
        warn!("adds that break off with the peer did not end in time, and have to begin anew");
    }
}

#[cfg(all(test, feature = "testing", feature = "consensus-crdt"))]
mod tests;
