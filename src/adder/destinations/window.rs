//! The blocks that are under way: one bounded window, from which each destination takes at its own pace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::error::{Error, ErrorKind, Result};
use crate::types::Block;

/// Bytes that destinations may lag behind each other, unless a single block has more.
pub const WINDOW_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Blocks that destinations may lag behind each other.
pub const WINDOW_BLOCKS_MAX: usize = 8192;
/// How long a destination may take none of the blocks that wait for it, and may think about the end of them, when
/// there are others that can go on without it.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The same when everything depends on it.
pub const LAST_STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// A destination's place in the window.
pub(super) type FeedId = u64;

/// As long as they fit, all blocks since the start stay, so that who takes the place of a destination that failed early
/// gets all of them. Afterwards a block goes as soon as everybody has it.
#[derive(Debug)]
pub(super) struct Window {
    state: Mutex<State>,
    /// There are more blocks, or the end.
    more: Notify,
    /// A block was taken.
    room: Notify,
    bytes_max: usize,
    blocks_max: usize,
}

#[derive(Debug, Default)]
struct State {
    blocks: VecDeque<Block>,
    bytes: usize,
    /// How many blocks went before those.
    gone: u64,
    end: End,
    feeds: BTreeMap<FeedId, Feed>,
    feeds_ever: FeedId,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// No more blocks come.
    Finished,
    /// The add was given up.
    Abandoned,
}

#[derive(Debug)]
struct Feed {
    /// The number of the next block.
    next: u64,
    /// Gets every block.
    whole: bool,
    /// Was told of the end.
    told: bool,
    /// Since when something waits for it that it does not take.
    waiting: Option<Instant>,
}

/// What a destination gets next.
enum Taken {
    Block(Block),
    Finished,
    Abandoned,
    NotYet,
}

impl State {
    fn count(&self) -> u64 {
        self.gone + self.blocks.len() as u64
    }

    fn drop_first(&mut self) {
        if let Some(block) = self.blocks.pop_front() {
            self.bytes -= block.data.len();
            self.gone += 1;
        }
    }

    /// Drops what everybody has.
    fn trim(&mut self) {
        let needed = self.feeds.values().map(|feed| feed.next).min().unwrap_or(self.gone);
        while self.gone < needed && !self.blocks.is_empty() {
            self.drop_first();
        }
    }
}

impl Window {
    pub(super) fn new() -> Arc<Self> {
        Self::with_bounds(WINDOW_BYTES_MAX, WINDOW_BLOCKS_MAX)
    }

    /// Of blocks before which there were others, which are gone.
    pub(super) fn of_rest() -> Arc<Self> {
        let window = Self::new();
        window.lock().gone = 1;
        window
    }

    fn with_bounds(bytes_max: usize, blocks_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            more: Notify::new(),
            room: Notify::new(),
            bytes_max,
            blocks_max,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all blocks since the start are at hand.
    pub(super) fn is_whole(&self) -> bool {
        self.lock().gone == 0
    }

    /// A place for a destination, from the first block that is at hand. It may have got those before that one already.
    pub(super) fn open(&self, has_beginning: bool) -> FeedId {
        let mut state = self.lock();
        state.feeds_ever += 1;
        let (id, next) = (state.feeds_ever, state.gone);
        let waits = !state.blocks.is_empty() || state.end != End::Open;
        let feed =
            Feed { next, whole: next == 0 || has_beginning, told: false, waiting: waits.then(Instant::now) };
        state.feeds.insert(id, feed);
        id
    }

    /// A destination that failed takes nothing more.
    pub(super) fn close(&self, id: FeedId) {
        self.lock().feeds.remove(&id);
        self.room.notify_waiters();
    }

    /// Puts a block, or gives it back when it has to wait for [`Self::room`].
    pub(super) fn push(&self, block: Block) -> Option<Block> {
        {
            let mut state = self.lock();
            let fits = |state: &State| {
                state.blocks.is_empty()
                    || (state.bytes + block.data.len() <= self.bytes_max
                        && state.blocks.len() < self.blocks_max)
            };
            if state.gone > 0 || !fits(&state) {
                state.trim();
            }
            if !fits(&state) {
                return Some(block);
            }
            let (count, now) = (state.count(), Instant::now());
            for feed in state.feeds.values_mut().filter(|feed| feed.next == count) {
                feed.waiting = Some(now);
            }
            state.bytes += block.data.len();
            state.blocks.push_back(block);
        }
        self.more.notify_waiters();
        None
    }

    /// Something was taken since this was called, or somebody left. Cancel-safe.
    pub(super) fn room(&self) -> tokio::sync::futures::Notified<'_> {
        self.room.notified()
    }

    /// No more blocks come.
    pub(super) fn finish(&self) {
        self.end(End::Finished);
    }

    /// The add is given up: the streams end with an error, so that who stores the blocks lets go of them.
    pub(super) fn abandon(&self) {
        self.end(End::Abandoned);
    }

    fn end(&self, end: End) {
        {
            let mut state = self.lock();
            state.end = end;
            let now = Instant::now();
            for feed in state.feeds.values_mut() {
                feed.waiting.get_or_insert(now);
            }
            if end == End::Abandoned {
                state.blocks.clear();
                state.bytes = 0;
            }
        }
        self.more.notify_waiters();
    }

    /// Returns when the add was given up. Cancel-safe.
    pub(super) async fn abandoned(&self) {
        loop {
            let more = self.more.notified();
            if self.lock().end == End::Abandoned {
                return;
            }
            more.await;
        }
    }

    fn take(&self, id: FeedId) -> Taken {
        let taken = {
            let mut state = self.lock();
            let (count, gone, end) = (state.count(), state.gone, state.end);
            let Some(feed) = state.feeds.get_mut(&id) else { return Taken::Abandoned };
            if end == End::Abandoned {
                return Taken::Abandoned;
            }
            if feed.next == count {
                if end == End::Open {
                    return Taken::NotYet;
                }
                feed.told = true;
                return Taken::Finished;
            }
            let index = usize::try_from(feed.next - gone).unwrap_or(usize::MAX);
            feed.next += 1;
            let waits = feed.next < count || end != End::Open;
            feed.waiting = waits.then(Instant::now);
            match state.blocks.get(index) {
                Some(block) => Taken::Block(block.clone()),
                None => return Taken::Abandoned,
            }
        };
        self.room.notify_waiters();
        taken
    }

    /// What one destination gets: the blocks, then nothing, or an error when the add is given up.
    pub(super) fn feed(self: &Arc<Self>, id: FeedId) -> BoxStream<'static, Result<Block>> {
        stream::unfold(Some(Arc::clone(self)), move |window| async move {
            let window = window?;
            loop {
                let more = window.more.notified();
                match window.take(id) {
                    Taken::Block(block) => {
                        drop(more);
                        return Some((Ok(block), Some(window)));
                    }
                    Taken::Finished => return None,
                    Taken::Abandoned => {
                        let text = "the add was given up";
                        return Some((Err(Error::new(ErrorKind::Cancelled, text).component("adder")), None));
                    }
                    Taken::NotYet => more.await,
                }
            }
        })
        // Connectors look for more after the end.
        .fuse()
        .boxed()
    }

    /// Whether a destination was given everything and told of the end.
    pub(super) fn took_all(&self, id: FeedId) -> bool {
        self.lock().feeds.get(&id).is_some_and(|feed| feed.told)
    }

    /// Returns when a destination has stalled, and says for how long. Cancel-safe.
    pub(super) async fn stalled(&self, id: FeedId) -> Duration {
        loop {
            let (waiting, patience) = {
                let state = self.lock();
                let Some(feed) = state.feeds.get(&id) else { return Duration::ZERO };
                let others = state.feeds.iter().any(|(other, feed)| *other != id && feed.whole);
                let patience = if others || state.gone == 0 { STALL_TIMEOUT } else { LAST_STALL_TIMEOUT };
                (feed.waiting, patience)
            };
            let now = Instant::now();
            let until = waiting.unwrap_or(now) + patience;
            if until <= now {
                return patience;
            }
            // Others may come and go meanwhile.
            sleep_until(until.min(now + STALL_TIMEOUT)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn block(number: u8) -> Block {
        Block::raw(vec![number; 10])
    }

    #[tokio::test(start_paused = true)]
    async fn destinations_lag_behind_each_other_up_to_the_window() {
        let window = Window::with_bounds(35, 100);
        let (quick, slow) = (window.open(false), window.open(false));
        let (mut ahead, mut behind) = (window.feed(quick), window.feed(slow));
        for number in 0..3 {
            assert!(window.push(block(number)).is_none());
            assert_eq!(ahead.next().await.unwrap().unwrap(), block(number));
        }
        assert!(window.is_whole());
        let back = window.push(block(3)).unwrap();
        assert_eq!(back, block(3), "the slow one has none yet");
        let room = window.room();
        assert_eq!(behind.next().await.unwrap().unwrap(), block(0));
        room.await;
        assert!(window.push(back).is_none());
        assert!(!window.is_whole());
        assert!(window.push(block(4)).is_some());
        window.close(slow);
        assert!(window.push(block(4)).is_none());
        assert_eq!(ahead.next().await.unwrap().unwrap(), block(3));
        assert_eq!(behind.next().await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(behind.next().await.is_none());

        // Who comes now gets what there is.
        let late = window.open(false);
        window.finish();
        let rest: Vec<_> = window.feed(late).map(|block| block.unwrap()).collect().await;
        assert_eq!(rest, [block(3), block(4)]);
        assert!(window.took_all(late) && !window.took_all(quick));
        assert_eq!(ahead.next().await.unwrap().unwrap(), block(4));
        assert!(ahead.next().await.is_none());
        assert!(ahead.next().await.is_none(), "as often as it is asked");
        assert!(window.took_all(quick));
    }

    #[tokio::test(start_paused = true)]
    async fn blocks_are_counted_too_and_one_may_be_larger_than_the_window() {
        let window = Window::with_bounds(35, 2);
        let one = window.open(false);
        let mut feed = window.feed(one);
        assert!(window.push(Block::raw(vec![1; 100])).is_none());
        assert!(window.push(block(1)).is_some());
        feed.next().await.unwrap().unwrap();
        assert!(window.push(block(1)).is_none());
        assert!(window.push(block(2)).is_none());
        assert!(window.push(block(3)).is_some(), "two blocks at most");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_noticed_and_a_source_without_blocks_is_none() {
        let window = Window::with_bounds(25, 100);
        let (one, other) = (window.open(false), window.open(false));
        let mut feed = window.feed(one);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), window.stalled(one)).await.is_err(),
            "it waits for us"
        );
        assert!(window.push(block(1)).is_none());
        let start = Instant::now();
        assert_eq!(window.stalled(one).await, STALL_TIMEOUT);
        assert_eq!(start.elapsed(), STALL_TIMEOUT);
        feed.next().await.unwrap().unwrap();
        assert!(window.stalled(one).now_or_never().is_none());

        // Nobody else, and the beginning is gone: there is no hurry.
        window.close(other);
        for number in 2..4 {
            assert!(window.push(block(number)).is_none());
        }
        let start = Instant::now();
        assert_eq!(window.stalled(one).await, LAST_STALL_TIMEOUT);
        assert_eq!(start.elapsed(), LAST_STALL_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_ends_every_stream_with_an_error() {
        let window = Window::with_bounds(1000, 100);
        let one = window.open(false);
        assert!(window.push(block(1)).is_none());
        let mut feed = window.feed(one);
        window.abandon();
        window.abandoned().await;
        assert_eq!(feed.next().await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(feed.next().await.is_none());
        assert!(feed.next().await.is_none(), "as often as it is asked");
        assert!(!window.took_all(one));
    }
}
