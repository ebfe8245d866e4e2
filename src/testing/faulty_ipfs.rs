//! An IPFS connector that fails, stalls, is slow or goes down when a test says so, and counts what is asked of it.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::{Availability, IpfsConnector, IpfsPin, PinProgress, Reference};
use crate::types::{Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat};

/// A call of [`IpfsConnector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // Each is the method of its name.
pub enum IpfsCall {
    Ready,
    Id,
    Pin,
    Unpin,
    IsPinned,
    ListPins,
    RepoStat,
    RepoGc,
    Resolve,
    PutBlocks,
    Hold,
    Release,
    GetBlock,
    SwarmPeers,
    SwarmConnect,
}

impl IpfsCall {
    /// Every call.
    pub const ALL: [Self; 15] = [
        Self::Ready,
        Self::Id,
        Self::Pin,
        Self::Unpin,
        Self::IsPinned,
        Self::ListPins,
        Self::RepoStat,
        Self::RepoGc,
        Self::Resolve,
        Self::PutBlocks,
        Self::Hold,
        Self::Release,
        Self::GetBlock,
        Self::SwarmPeers,
        Self::SwarmConnect,
    ];
}

/// What was asked of a [`FaultyIpfs`] by one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCount {
    /// Calls begun.
    pub begun: u64,
    /// Calls that run now.
    pub running: u64,
    /// Most calls that ever ran at a time.
    pub running_max: u64,
    /// Calls that gave an answer (an error is one; a stream at its end).
    pub answered: u64,
    /// Calls that were dropped before their answer.
    pub dropped: u64,
}

/// A connector around another one. Clones share faults and counts.
///
/// Faults apply in this order: down, fail, stall, slow; then the call goes to the connector inside.
#[derive(Clone, Debug)]
pub struct FaultyIpfs {
    inner: Arc<dyn IpfsConnector>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    methods: Mutex<BTreeMap<IpfsCall, Method>>,
    pin_concurrency: Mutex<Option<Option<NonZeroUsize>>>,
    /// Wakes everybody who waits for a count or a fault to change.
    changed: watch::Sender<u64>,
    availability: watch::Sender<Availability>,
    shut_down: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Method {
    count: CallCount,
    failures: VecDeque<Error>,
    stalled: bool,
    latency: Duration,
    break_after: Option<(usize, Error)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyIpfs {
    /// Without faults yet.
    pub fn new(inner: impl IpfsConnector) -> Self {
        Self {
            inner: Arc::new(inner),
            shared: Arc::new(Shared {
                methods: Mutex::default(),
                pin_concurrency: Mutex::new(None),
                changed: watch::Sender::new(0),
                availability: watch::Sender::new(Availability::Up),
                shut_down: watch::Sender::new(false),
            }),
        }
    }

    /// The next `times` calls fail with the error, after those already set to fail.
    pub fn fail_next(&self, call: IpfsCall, times: usize, error: Error) {
        self.shared.update(call, |method| method.failures.extend((0..times).map(|_| error.clone())));
    }

    /// Drops the failures that are still to come.
    pub fn stop_failing(&self, call: IpfsCall) {
        self.shared.update(call, |method| method.failures.clear());
    }

    /// Calls get no answer until [`FaultyIpfs::unstall`].
    pub fn stall(&self, call: IpfsCall) {
        self.shared.update(call, |method| method.stalled = true);
    }

    /// Lets stalled calls go on.
    pub fn unstall(&self, call: IpfsCall) {
        self.shared.update(call, |method| method.stalled = false);
    }

    /// Each call takes so much longer; zero ends it.
    pub fn slow(&self, call: IpfsCall, latency: Duration) {
        self.shared.update(call, |method| method.latency = latency);
    }

    /// The next listing (of pins or of collected garbage) gives so many items and then the error.
    pub fn break_next(&self, call: IpfsCall, items: usize, error: Error) {
        self.shared.update(call, |method| method.break_after = Some((items, error)));
    }

    /// The daemon goes down: running and new calls fail with an `Unavailable` of this text, and the availability
    /// says so.
    pub fn down(&self, text: &str) {
        let error = Error::new(ErrorKind::Unavailable, text);
        self.shared.availability.send_replace(Availability::Down(error));
        self.shared.announce_change();
    }

    /// The daemon comes back.
    pub fn up(&self) {
        self.shared.availability.send_replace(Availability::Up);
        self.shared.announce_change();
    }

    /// Answers `pin_concurrency` in place of the connector inside.
    pub fn set_pin_concurrency(&self, concurrency: Option<NonZeroUsize>) {
        *lock(&self.shared.pin_concurrency) = Some(concurrency);
    }

    /// What was asked so far.
    pub fn count(&self, call: IpfsCall) -> CallCount {
        lock(&self.shared.methods).get(&call).map(|method| method.count).unwrap_or_default()
    }

    /// Returns once the counts of a method satisfy a condition.
    pub async fn wait_count(&self, call: IpfsCall, condition: impl Fn(CallCount) -> bool) -> CallCount {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let count = self.count(call);
            if condition(count) {
                return count;
            }
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    async fn call<T>(&self, call: IpfsCall, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let mut running = Running::begin(Arc::clone(&self.shared), call);
        let answer = self.shared.with_faults(call, answer).await;
        running.answered = true;
        answer
    }

    fn stream<T: Send + 'static>(
        &self,
        call: IpfsCall,
        mut items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let shared = Arc::clone(&self.shared);
        async_stream::stream! {
            let mut running = Running::begin(Arc::clone(&shared), call);
            if let Err(error) = shared.with_faults(call, async { Ok(()) }).await {
                running.answered = true;
                yield Err(error);
                return;
            }
            let (mut left, error) = match shared.take_break(call) {
                Some((items, error)) => (items, Some(error)),
                None => (0, None),
            };
            loop {
                if let Some(error) = error.as_ref().filter(|_| left == 0) {
                    running.answered = true;
                    yield Err(error.clone());
                    return;
                }
                left = left.saturating_sub(1);
                let next = tokio::select! {
                    biased;
                    error = shared.down_error() => Some(Err(error)),
                    item = items.next() => item,
                };
                let Some(item) = next else { break };
                if item.is_err() {
                    running.answered = true;
                    yield item;
                    return;
                }
                yield item;
            }
            running.answered = true;
        }
        .boxed()
    }
}

impl Shared {
    fn announce_change(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn update<T>(&self, call: IpfsCall, change: impl FnOnce(&mut Method) -> T) -> T {
        let result = change(lock(&self.methods).entry(call).or_default());
        self.announce_change();
        result
    }

    fn take_break(&self, call: IpfsCall) -> Option<(usize, Error)> {
        self.update(call, |method| method.break_after.take())
    }

    fn is_stalled(&self, call: IpfsCall) -> bool {
        lock(&self.methods).get(&call).is_some_and(|method| method.stalled)
    }

    /// Ends when the daemon is down or shut down, with what calls then give.
    async fn down_error(&self) -> Error {
        let mut availability = self.availability.subscribe();
        let mut shut_down = self.shut_down.subscribe();
        let down = async {
            loop {
                if let Availability::Down(error) = &*availability.borrow_and_update() {
                    return error.clone();
                }
                // The sender lives as long as `self`.
                let _ = availability.changed().await;
            }
        };
        tokio::select! {
            biased;
            _ = shut_down.wait_for(|stopped| *stopped) => Error::shut_down("faulty-ipfs"),
            error = down => error,
        }
    }

    async fn with_faults<T>(&self, call: IpfsCall, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let faulty = async {
            let (failure, latency) =
                self.update(call, |method| (method.failures.pop_front(), method.latency));
            if let Some(error) = failure {
                return Err(error);
            }
            let mut changed = self.changed.subscribe();
            while self.is_stalled(call) {
                let _ = changed.changed().await;
            }
            if latency > Duration::ZERO {
                tokio::time::sleep(latency).await;
            }
            answer.await
        };
        tokio::select! {
            biased;
            error = self.down_error() => Err(error),
            answer = faulty => answer,
        }
    }
}

/// Counts one call from its beginning until it is answered or dropped.
struct Running {
    shared: Arc<Shared>,
    call: IpfsCall,
    answered: bool,
}

impl Running {
    fn begin(shared: Arc<Shared>, call: IpfsCall) -> Self {
        shared.update(call, |method| {
            let count = &mut method.count;
            count.begun += 1;
            count.running += 1;
            count.running_max = count.running_max.max(count.running);
        });
        Self { shared, call, answered: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let answered = self.answered;
        self.shared.update(self.call, |method| {
            method.count.running -= 1;
            if answered {
                method.count.answered += 1;
            } else {
                method.count.dropped += 1;
            }
        });
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl IpfsConnector for FaultyIpfs {
    /// While down it waits, as a connector does, instead of failing.
    async fn ready(&self) -> Result<()> {
        let mut running = Running::begin(Arc::clone(&self.shared), IpfsCall::Ready);
        let answer = loop {
            match self.shared.with_faults(IpfsCall::Ready, self.inner.ready()).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    let mut availability = self.shared.availability.subscribe();
                    let mut shut_down = self.shared.shut_down.subscribe();
                    tokio::select! {
                        biased;
                        _ = shut_down.wait_for(|stopped| *stopped) => {}
                        _ = availability.wait_for(|now| matches!(now, Availability::Up)) => {}
                    }
                }
                answer => break answer,
            }
        };
        running.answered = true;
        answer
    }

    async fn id(&self) -> Result<IpfsId> {
        self.call(IpfsCall::Id, self.inner.id()).await
    }

    async fn pin(&self, pin: &Pin) -> Result<()> {
        self.call(IpfsCall::Pin, self.inner.pin(pin)).await
    }

    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.call(IpfsCall::Unpin, self.inner.unpin(cid)).await
    }

    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        self.call(IpfsCall::IsPinned, self.inner.is_pinned(cid, mode)).await
    }

    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        self.stream(IpfsCall::ListPins, self.inner.list_pins(mode))
    }

    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        let told = *lock(&self.shared.pin_concurrency);
        told.unwrap_or_else(|| self.inner.pin_concurrency())
    }

    fn pins_in_progress(&self) -> Vec<PinProgress> {
        self.inner.pins_in_progress()
    }

    async fn repo_stat(&self) -> Result<RepoStat> {
        self.call(IpfsCall::RepoStat, self.inner.repo_stat()).await
    }

    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        self.stream(IpfsCall::RepoGc, self.inner.repo_gc())
    }

    async fn resolve(&self, path: &str) -> Result<Cid> {
        self.call(IpfsCall::Resolve, self.inner.resolve(path)).await
    }

    async fn put_blocks(&self, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.call(IpfsCall::PutBlocks, self.inner.put_blocks(blocks)).await
    }

    async fn reference_root(&self) -> Result<Option<PathBuf>> {
        self.inner.reference_root().await
    }

    async fn put_reference(&self, file: &Reference, bytes: BoxStream<'static, Result<Bytes>>) -> Result<()> {
        // Content is stored, in another way.
        self.call(IpfsCall::PutBlocks, self.inner.put_reference(file, bytes)).await
    }

    async fn hold(&self, lease: Block) -> Result<()> {
        self.call(IpfsCall::Hold, self.inner.hold(lease)).await
    }

    async fn release(&self, leases: &[Cid]) -> Result<()> {
        self.call(IpfsCall::Release, self.inner.release(leases)).await
    }

    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        self.call(IpfsCall::GetBlock, self.inner.get_block(cid)).await
    }

    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        self.call(IpfsCall::SwarmPeers, self.inner.swarm_peers()).await
    }

    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        self.call(IpfsCall::SwarmConnect, self.inner.swarm_connect(address)).await
    }

    fn availability(&self) -> BoxStream<'static, Availability> {
        struct State {
            told: watch::Receiver<Availability>,
            shut_down: watch::Receiver<bool>,
            inner: BoxStream<'static, Availability>,
            inner_now: Option<Availability>,
            begun: bool,
        }
        let state = State {
            told: self.shared.availability.subscribe(),
            shut_down: self.shared.shut_down.subscribe(),
            inner: self.inner.availability(),
            inner_now: None,
            begun: false,
        };
        stream::unfold(state, |mut state| async move {
            if state.begun || state.inner_now.is_none() {
                let told_down = matches!(*state.told.borrow(), Availability::Down(_));
                if state.begun || !told_down {
                    tokio::select! {
                        biased;
                        _ = state.shut_down.wait_for(|stopped| *stopped) => return None,
                        changed = state.told.changed(), if state.begun => changed.ok()?,
                        inner = state.inner.next() => state.inner_now = Some(inner?),
                    }
                }
            }
            state.begun = true;
            let told = state.told.borrow_and_update().clone();
            let now = match told {
                Availability::Down(error) => Availability::Down(error),
                Availability::Up => state.inner_now.clone().unwrap_or(Availability::Up),
            };
            Some((now, state))
        })
        .boxed()
    }

    async fn shutdown(&self) -> Result<()> {
        self.shared.shut_down.send_replace(true);
        self.inner.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs_connector::MemoryIpfs;
    use crate::types::PinOptions;

    fn failure() -> Error {
        Error::new(ErrorKind::Remote, "made up")
    }

    #[tokio::test(start_paused = true)]
    async fn calls_fail_as_often_as_told() {
        let ipfs = FaultyIpfs::new(MemoryIpfs::new());
        ipfs.fail_next(IpfsCall::Id, 2, failure());
        for _ in 0..2 {
            assert_eq!(ipfs.id().await.unwrap_err().message(), "made up");
        }
        ipfs.id().await.unwrap();
        assert_eq!(ipfs.count(IpfsCall::Id).begun, 3);
        assert_eq!(ipfs.count(IpfsCall::Id).answered, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_call_waits_and_is_counted() {
        let memory = MemoryIpfs::new();
        let pin = Pin::new(memory.add_sample("x"), PinOptions::default());
        let ipfs = FaultyIpfs::new(memory);
        ipfs.stall(IpfsCall::Pin);
        ipfs.slow(IpfsCall::Pin, Duration::from_secs(5));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (ipfs, pin) = (ipfs.clone(), pin.clone());
                tokio::spawn(async move { ipfs.pin(&pin).await })
            })
            .collect();
        ipfs.wait_count(IpfsCall::Pin, |count| count.running == 3).await;
        tasks[0].abort();
        ipfs.wait_count(IpfsCall::Pin, |count| count.dropped == 1).await;
        let started = tokio::time::Instant::now();
        ipfs.unstall(IpfsCall::Pin);
        ipfs.wait_count(IpfsCall::Pin, |count| count.answered == 2).await;
        assert_eq!(started.elapsed().as_secs(), 5);
        assert_eq!(ipfs.count(IpfsCall::Pin).running_max, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_goes_down_takes_its_calls_with_it() {
        let memory = MemoryIpfs::new();
        let missing = Pin::new(Block::raw("missing").cid, PinOptions::default());
        let ipfs = FaultyIpfs::new(memory);
        let mut availability = ipfs.availability();
        assert!(matches!(availability.next().await, Some(Availability::Up)));
        let pinning = tokio::spawn({
            let ipfs = ipfs.clone();
            async move { ipfs.pin(&missing).await }
        });
        ipfs.wait_count(IpfsCall::Pin, |count| count.running == 1).await;
        ipfs.down("pulled the plug");
        assert!(
            matches!(availability.next().await, Some(Availability::Down(error)) if error.message() == "pulled the plug")
        );
        assert_eq!(pinning.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(ipfs.id().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(matches!(ipfs.availability().next().await, Some(Availability::Down(_))));
        let ready = tokio::spawn({
            let ipfs = ipfs.clone();
            async move { ipfs.ready().await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!ready.is_finished());
        ipfs.up();
        ready.await.unwrap().unwrap();
        assert!(matches!(availability.next().await, Some(Availability::Up)));
        ipfs.id().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_breaks_where_told() {
        let memory = MemoryIpfs::new();
        for number in 0..1_500u32 {
            let cid = memory.add_sample(number.to_string());
            memory.pin(&Pin::new(cid, PinOptions::default())).await.unwrap();
        }
        let ipfs = FaultyIpfs::new(memory);
        ipfs.break_next(IpfsCall::ListPins, 1, failure());
        let pages: Vec<_> = ipfs.list_pins(PinMode::Recursive).collect().await;
        assert_eq!(pages.len(), 2);
        assert_eq!(pages[0].as_ref().unwrap().len(), 1_024);
        assert!(pages[1].is_err());
        let pages: Vec<_> = ipfs.list_pins(PinMode::Recursive).collect().await;
        assert_eq!(pages.iter().map(|page| page.as_ref().unwrap().len()).sum::<usize>(), 1_500);
    }
}
