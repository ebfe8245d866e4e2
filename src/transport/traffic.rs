//! Counting what travels, by protocol.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::types::Bandwidth;

/// What a rate is an average of: bytes count for less and less, and after this time for about a third.
const RATE_SPAN: Duration = Duration::from_secs(5);
/// Below this many bytes each second nothing is moving.
const RATE_MIN: f64 = 0.01;
/// Most protocols that are told apart; what comes after them is counted under no name, as is what belongs to none.
const PROTOCOLS_MAX: usize = 256;

/// What every protocol has moved.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    protocols: Mutex<BTreeMap<String, Arc<Counter>>>,
}

impl Traffic {
    /// The counter of a protocol.
    pub(super) fn of(&self, protocol: &str) -> Arc<Counter> {
        let mut protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = protocols.get(protocol) {
            return Arc::clone(counter);
        }
        let name = if protocols.len() < PROTOCOLS_MAX { protocol } else { "" };
        Arc::clone(protocols.entry(name.to_owned()).or_default())
    }

    /// What was moved until now; protocols that moved nothing are left out.
    pub(super) fn report(&self) -> BTreeMap<String, Bandwidth> {
        let protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = protocols.iter().map(|(name, counter)| (name.clone(), counter.report()));
        moved.filter(|(_, moved)| moved.total_in > 0 || moved.total_out > 0).collect()
    }
}

/// What one protocol has moved.
#[derive(Debug, Default)]
pub(super) struct Counter {
    received: Mutex<Flow>,
    sent: Mutex<Flow>,
}

impl Counter {
    /// Counts bytes that came in.
    pub(super) fn received(&self, bytes: usize) {
        count(&self.received, bytes);
    }

    /// Counts bytes that went out.
    pub(super) fn sent(&self, bytes: usize) {
        count(&self.sent, bytes);
    }

    fn report(&self) -> Bandwidth {
        let now = Instant::now();
        let read = |flow: &Mutex<Flow>| {
            let flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
            (i64::try_from(flow.total).unwrap_or(i64::MAX), flow.rate_at(now))
        };
        let ((total_in, rate_in), (total_out, rate_out)) = (read(&self.received), read(&self.sent));
        Bandwidth { total_in, total_out, rate_in, rate_out }
    }
}

fn count(flow: &Mutex<Flow>, bytes: usize) {
    if bytes > 0 {
        flow.lock().unwrap_or_else(PoisonError::into_inner).add(bytes, Instant::now());
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    total: u64,
    rate: f64,
    /// When the rate was as it says.
    at: Option<Instant>,
}

impl Flow {
    fn add(&mut self, bytes: usize, now: Instant) {
        self.rate = self.faded(now) + bytes as f64 / RATE_SPAN.as_secs_f64();
        self.at = Some(now);
        self.total = self.total.saturating_add(bytes as u64);
    }

    fn faded(&self, now: Instant) -> f64 {
        match self.at {
            None => 0.0,
            Some(at) => {
                let passed = now.saturating_duration_since(at);
                self.rate * (-passed.as_secs_f64() / RATE_SPAN.as_secs_f64()).exp()
            }
        }
    }

    fn rate_at(&self, now: Instant) -> f64 {
        let rate = self.faded(now);
        if rate < RATE_MIN { 0.0 } else { rate }
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    counter: Arc<Counter>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, counter: Arc<Counter>) -> Self {
        Self { stream, counter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.counter.received(buf.filled().len().saturating_sub(before));
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data));
        self.counter.sent(*written.as_ref().unwrap_or(&0));
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, data));
        self.counter.sent(*written.as_ref().unwrap_or(&0));
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_follows_what_moves_and_fades_to_nothing_while_totals_stay() {
        let traffic = Traffic::default();
        let counter = traffic.of("/a");
        for _ in 0..300 {
            counter.received(100);
            advance(Duration::from_millis(100)).await;
        }
        let moved = traffic.report()["/a"];
        assert_eq!((moved.total_in, moved.total_out, moved.rate_out), (30_000, 0, 0.0));
        assert!((950.0..1050.0).contains(&moved.rate_in), "{moved:?}");
        advance(RATE_SPAN * 30).await;
        assert_eq!(traffic.report()["/a"], Bandwidth { total_in: 30_000, ..Bandwidth::default() });
    }

    #[tokio::test]
    async fn protocols_are_told_apart_up_to_a_bound_and_silent_ones_are_left_out() {
        let traffic = Traffic::default();
        traffic.of("silent");
        for number in 0..2 * PROTOCOLS_MAX {
            traffic.of(&number.to_string()).sent(1);
        }
        let report = traffic.report();
        assert_eq!(report.len(), PROTOCOLS_MAX);
        assert_eq!(report.values().map(|moved| moved.total_out).sum::<i64>(), 2 * PROTOCOLS_MAX as i64);
        assert!(report[""].total_out > 1 && !report.contains_key("silent"));
    }
}
