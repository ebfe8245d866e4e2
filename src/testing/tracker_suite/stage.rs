//! The stage of a case: a tracker, and the pinset and the daemon that it stands between.

use super::*;

/// Virtual time in which whatever should happen has happened.
pub(super) const PATIENCE: Duration = Duration::from_secs(60 * 60);
/// How often a fact is looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The name of the peer under test.
pub const PEERNAME: &str = "here";

/// A tracker with all that it stands between.
pub struct Stage<G> {
    /// The tracker under test.
    pub tracker: Arc<dyn PinTracker>,
    /// Its daemon, as the tracker sees it.
    pub ipfs: FaultyIpfs,
    /// The daemon behind that, as a user of the machine sees it.
    pub daemon: MemoryIpfs,
    /// The pinset.
    pub state: Arc<StoreState>,
    /// The date, which moves with tokio's clock.
    pub clock: TokioClock,
    /// The fixture's guard.
    pub guard: G,
}

impl<G> fmt::Debug for Stage<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("tracker", &self.tracker).field("daemon", &self.daemon).finish()
    }
}

/// The peer under test.
pub fn here() -> PeerId {
    "QmSGCzHkz8gC9fNndMtaCZdf9RFtwtbTEEsGo4zkVfcykD".parse().expect("a peer id")
}

/// Another peer of the cluster.
pub fn elsewhere() -> PeerId {
    "QmdFBMf9HMDH3eCWrc1U11YCPenC3Uvy9mZQ2BedTyKTDf".parse().expect("a peer id")
}

/// Content that no daemon has.
pub fn missing_content(seed: u32) -> Cid {
    Block::raw(format!("nobody has {seed}")).cid
}

impl<G> Stage<G> {
    /// An empty pinset, an empty daemon, and a tracker between them.
    pub async fn new(fixture: &impl Fixture<Guard = G>) -> Self {
        let daemon = MemoryIpfs::new();
        let state = StoreState::open(Arc::new(MemoryStorage::new())).await.expect("a state in memory");
        Self::over(fixture, daemon, Arc::new(state)).await
    }

    /// A tracker between a pinset and a daemon that are there.
    pub async fn over(fixture: &impl Fixture<Guard = G>, daemon: MemoryIpfs, state: Arc<StoreState>) -> Self {
        Self::over_faulty(fixture, FaultyIpfs::new(daemon.clone()), daemon, state).await
    }

    /// The same, with faults set already.
    pub async fn over_faulty(
        fixture: &impl Fixture<Guard = G>,
        ipfs: FaultyIpfs,
        daemon: MemoryIpfs,
        state: Arc<StoreState>,
    ) -> Self {
        let clock = TokioClock::starting_at(Timestamp::from_unix_seconds(1_800_000_000));
        let cx =
            TrackerContext::new(here(), PEERNAME, Arc::new(ipfs.clone()), state.clone(), Arc::new(clock));
        let (guard, tracker) = fixture.tracker(cx).await;
        Self { tracker, ipfs, daemon, state, clock, guard }
    }

    /// Content that the daemon has.
    pub fn content(&self, seed: u32) -> Cid {
        self.daemon.add_sample(format!("content {seed}"))
    }

    /// A pin that every peer must hold.
    pub fn pin_of(&self, cid: Cid, mode: PinMode) -> Pin {
        let options = PinOptions {
            replication_factor_min: -1,
            replication_factor_max: -1,
            name: format!("name of {cid}"),
            mode,
            ..PinOptions::default()
        };
        Pin { timestamp: Some(self.clock.now().truncated_to_seconds()), ..Pin::new(cid, options) }
    }

    /// A pin that only another peer must hold.
    pub fn remote_pin_of(&self, cid: Cid) -> Pin {
        let mut pin = self.pin_of(cid, PinMode::Recursive);
        pin.options.replication_factor_min = 1;
        pin.options.replication_factor_max = 1;
        pin.allocations = vec![elsewhere()];
        pin
    }

    /// Writes a pin to the pinset, without a word to the tracker.
    pub async fn write(&self, pin: &Pin) {
        self.write_all(vec![pin.clone()]).await;
    }

    /// Writes many.
    pub async fn write_all(&self, pins: Vec<Pin>) {
        let operations = pins.into_iter().map(|pin| PinOperation::Pin(Arc::new(pin))).collect();
        self.state.apply(operations, Batch::new()).await.expect("writing the pinset");
    }

    /// Takes a pin out of the pinset, without a word to the tracker.
    pub async fn erase(&self, cid: &Cid) {
        self.state.apply(vec![PinOperation::Unpin(*cid)], Batch::new()).await.expect("writing the pinset");
    }

    /// As consensus does: a pin enters the pinset, then the tracker hears of it.
    pub async fn add(&self, pin: &Pin) {
        self.write(pin).await;
        self.tracker.track(pin.clone()).await.expect("tracking");
    }

    /// Pins content that the daemon has, on every peer, and waits until it holds it.
    pub async fn add_pinned(&self, seed: u32) -> Cid {
        let cid = self.content(seed);
        self.add(&self.pin_of(cid, PinMode::Recursive)).await;
        self.wait(&cid, TrackerStatus::Pinned).await;
        cid
    }

    /// As consensus does: a pin leaves the pinset, then the tracker hears of it.
    pub async fn remove(&self, cid: &Cid) {
        self.erase(cid).await;
        self.tracker.untrack(cid).await.expect("untracking");
    }

    /// The status of one.
    pub async fn status(&self, cid: &Cid) -> TrackerStatus {
        self.tracker.status(cid).await.expect("a status").status.status
    }

    /// Returns once a CID has this status, with the whole answer.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait(&self, cid: &Cid, status: TrackerStatus) -> PinInfo {
        let started = tokio::time::Instant::now();
        loop {
            let info = self.tracker.status(cid).await.expect("a status");
            if info.status.status == status {
                return info;
            }
            assert!(started.elapsed() < PATIENCE, "{cid} is {:?} instead of {status}", info.status);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns once the numbers satisfy a condition.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait_counts(&self, condition: impl Fn(TrackerCounts) -> bool) {
        let started = tokio::time::Instant::now();
        while !condition(self.tracker.counts()) {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.tracker.counts());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns once nothing waits and nothing runs.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait_idle(&self) {
        self.wait_counts(|counts| counts.queued() + counts.pinning + counts.unpinning == 0).await;
    }

    /// Returns once listings say what the daemon holds.
    ///
    /// # Panics
    /// When that does not happen within an hour of virtual time.
    pub async fn wait_listed(&self) {
        let pin = self.pin_of(self.content(u32::MAX), PinMode::Recursive);
        self.write(&pin).await;
        let started = tokio::time::Instant::now();
        loop {
            let all = self.list(TrackerStatus::ClusterError.into()).await;
            if all.is_empty() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{all:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.erase(&pin.cid).await;
    }

    /// A listing, which must come in order and in pages.
    pub async fn list(&self, filter: StatusFilter) -> Vec<PinInfo> {
        collect(self.tracker.status_all(filter)).await.expect("a listing")
    }

    /// What the listing of everything says of one CID.
    pub async fn listed_status(&self, cid: &Cid) -> Option<TrackerStatus> {
        let all = self.list(StatusFilter::ALL).await;
        all.iter().find(|info| info.cid == *cid).map(|info| info.status.status)
    }

    /// Whether the daemon holds it.
    pub async fn is_held(&self, cid: &Cid, mode: PinMode) -> bool {
        self.daemon.is_pinned(cid, mode).await.expect("an answer of the daemon in memory")
    }
}

/// Everything of a stream of pages; they must not be empty nor too long, and in ascending order without repetition.
///
/// # Errors
/// The stream's; it must end with it.
///
/// # Panics
/// When it is otherwise.
pub async fn collect(mut pages: BoxStream<'static, Result<Vec<PinInfo>>>) -> Result<Vec<PinInfo>> {
    let mut all: Vec<PinInfo> = Vec::new();
    while let Some(page) = pages.next().await {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                assert!(pages.next().await.is_none(), "a listing goes on after {error}");
                return Err(error);
            }
        };
        assert!((1..=PAGE_ITEMS_MAX).contains(&page.len()), "a page of {}", page.len());
        all.extend(page);
    }
    let in_order = all.windows(2).all(|pair| pair[0].cid.to_bytes() < pair[1].cid.to_bytes());
    assert!(in_order, "a listing out of order");
    Ok(all)
}
