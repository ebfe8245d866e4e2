//! Streams: two pipes of bytes that arrive after a delay, with a bound on what is under way.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::trace::{Noted, Trace};

/// Most bytes under way or unread in one direction; then the writer waits (as in yamux).
const PIPE_BYTES_MAX: usize = 256 * 1024;
/// Most bytes that are taken from a writer at once.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// How long a byte travels, changeable while streams are open, and where it is noted that it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Delay {
    nanoseconds: Arc<AtomicU64>,
    trace: Arc<Trace>,
}

impl Delay {
    pub(super) fn new(delay: Duration, trace: &Arc<Trace>) -> Self {
        let new = Self { nanoseconds: Arc::default(), trace: Arc::clone(trace) };
        new.set(delay);
        new
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, delay: Duration) {
        let nanoseconds = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.store(nanoseconds, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// The writer said that this is all.
    Finished,
    /// The writer went away without saying so.
    Reset,
}

#[derive(Debug)]
struct Pipe {
    delay: Delay,
    state: Mutex<PipeState>,
}

#[derive(Debug, Default)]
struct PipeState {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    end: Option<(Instant, End)>,
    reader_gone: bool,
    /// When the last thing sent arrives: what is sent later never overtakes it.
    last_arrival: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl PipeState {
    fn arrival(&mut self, delay: &Delay) -> Instant {
        let arrival = Instant::now() + delay.get();
        let arrival = self.last_arrival.map_or(arrival, |last| last.max(arrival));
        self.last_arrival = Some(arrival);
        arrival
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

impl Pipe {
    fn new(delay: Delay) -> Arc<Self> {
        Arc::new(Self { delay, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        let mut state = self.state();
        if state.end.is_none() {
            let arrival = state.arrival(&self.delay);
            state.end = Some((arrival, end));
            state.wake_reader();
        }
    }

    fn reader_gone(&self) {
        let mut state = self.state();
        state.reader_gone = true;
        state.chunks.clear();
        state.bytes = 0;
        state.wake_writer();
    }
}

/// One end of a stream.
#[derive(Debug)]
pub(super) struct MemoryStream {
    read: Arc<Pipe>,
    write: Arc<Pipe>,
    finished: bool,
    arrival: Option<Pin<Box<Sleep>>>,
    link: CancellationToken,
    // One for each half, because the two may be polled by different tasks.
    cut_for_reader: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_for_writer: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl MemoryStream {
    /// The two ends of a stream over a link, which is cut when `link` is cancelled.
    pub(super) fn pair(delay: &Delay, link: &CancellationToken) -> (Self, Self) {
        let (there, back) = (Pipe::new(delay.clone()), Pipe::new(delay.clone()));
        (Self::new(back.clone(), there.clone(), link.clone()), Self::new(there, back, link.clone()))
    }

    fn new(read: Arc<Pipe>, write: Arc<Pipe>, link: CancellationToken) -> Self {
        Self {
            read,
            write,
            finished: false,
            arrival: None,
            cut_for_reader: Box::pin(link.clone().cancelled_owned()),
            cut_for_writer: Box::pin(link.clone().cancelled_owned()),
            link,
        }
    }

    /// What can be read now; pending with the reader's waker where it must be woken.
    fn poll_arrived(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = self.read.state();
            let state = &mut *guard;
            let now = Instant::now();
            let arrival = match (state.chunks.front_mut(), state.end) {
                (Some((arrival, chunk)), _) if *arrival <= now => {
                    let length = chunk.len().min(buf.remaining());
                    buf.put_slice(&chunk[..length]);
                    chunk.advance(length);
                    if chunk.is_empty() {
                        state.chunks.pop_front();
                    }
                    state.bytes -= length;
                    state.wake_writer();
                    return Poll::Ready(Ok(()));
                }
                (None, Some((arrival, end))) if arrival <= now => {
                    return Poll::Ready(match end {
                        End::Finished => Ok(()),
                        End::Reset => Err(cut()),
                    });
                }
                (Some((arrival, _)), _) => *arrival,
                (None, Some((arrival, _))) => arrival,
                (None, None) => {
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            };
            drop(guard);
            let sleep = self.arrival.get_or_insert_with(|| Box::pin(sleep_until(arrival)));
            if sleep.deadline() != arrival {
                sleep.as_mut().reset(arrival);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.write.state();
        if self.finished || state.reader_gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = data.len().min(PIPE_BYTES_MAX - state.bytes).min(CHUNK_BYTES_MAX);
        if length == 0 && !data.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if length > 0 {
            self.write.delay.trace.note(Noted::CHUNK, &[], &data[..length]);
            let arrival = state.arrival(&self.write.delay);
            state.chunks.push_back((arrival, Bytes::copy_from_slice(&data[..length])));
            state.bytes += length;
            state.wake_reader();
        }
        Poll::Ready(Ok(length))
    }
}

fn cut() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for MemoryStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.link.is_cancelled() {
            return Poll::Ready(Err(cut()));
        }
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(result) = this.poll_arrived(cx, buf) {
            return Poll::Ready(result);
        }
        ready!(this.cut_for_reader.as_mut().poll(cx));
        Poll::Ready(Err(cut()))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.link.is_cancelled() {
            return Poll::Ready(Err(cut()));
        }
        if let Poll::Ready(result) = this.poll_send(cx, data) {
            return Poll::Ready(result);
        }
        ready!(this.cut_for_writer.as_mut().poll(cx));
        Poll::Ready(Err(cut()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(if self.link.is_cancelled() { Err(cut()) } else { Ok(()) })
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.link.is_cancelled() {
            return Poll::Ready(Err(cut()));
        }
        this.finished = true;
        this.write.end(End::Finished);
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.write.end(End::Reset);
        self.read.reader_gone();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What never comes fails a test instead of stopping it.
    async fn soon<T>(waiting: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("this to happen")
    }

    fn pair(delay: Duration) -> (MemoryStream, MemoryStream, Delay, CancellationToken) {
        let (shared, link) = (Delay::default(), CancellationToken::new());
        shared.set(delay);
        let (one, other) = MemoryStream::pair(&shared, &link);
        (one, other, shared, link)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_after_the_delay_and_in_order_though_it_shrinks() {
        let (mut one, mut other, delay, _) = pair(Duration::from_secs(2));
        let start = Instant::now();
        one.write_all(b"slow").await.unwrap();
        delay.set(Duration::ZERO);
        one.write_all(b"fast").await.unwrap();
        one.shutdown().await.unwrap();
        let mut all = Vec::new();
        other.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"slowfast");
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_for_a_reader_that_does_not_read() {
        let (mut one, mut other, _, _) = pair(Duration::ZERO);
        let data = vec![7; PIPE_BYTES_MAX];
        one.write_all(&data).await.unwrap();
        let blocked = tokio::time::timeout(Duration::from_secs(60), one.write_all(b"x")).await;
        assert!(blocked.is_err());
        let mut read = vec![0; PIPE_BYTES_MAX];
        let (written, read) = tokio::join!(one.write_all(b"y"), other.read_exact(&mut read));
        written.unwrap();
        read.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_end_is_a_reset_after_what_it_sent_and_a_finished_one_is_not() {
        let (mut one, mut other, _, _) = pair(Duration::from_millis(5));
        one.write_all(b"half").await.unwrap();
        drop(one);
        let mut all = Vec::new();
        assert_eq!(
            soon(other.read_to_end(&mut all)).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert_eq!(all, b"half");
        assert_eq!(other.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);

        let (mut one, mut other, _, _) = pair(Duration::from_millis(5));
        one.write_all(b"all").await.unwrap();
        one.shutdown().await.unwrap();
        assert_eq!(one.write_all(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        drop(one);
        let mut all = Vec::new();
        other.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_wakes_readers_and_writers_also_in_different_tasks() {
        let (one, other, _, link) = pair(Duration::ZERO);
        let (mut read, mut write) = tokio::io::split(one);
        let reading = tokio::spawn(async move { read.read_u8().await });
        let writing = tokio::spawn(async move { write.write_all(&vec![0; 2 * PIPE_BYTES_MAX]).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        link.cancel();
        assert_eq!(soon(reading).await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(soon(writing).await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(other);
    }
}
