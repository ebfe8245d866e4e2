//! What a connection is doing, so that somebody can watch the time.
//!
//! hyper owns the socket while it reads requests, and tells nobody whether it waits for one, is in the middle of one,
//! or has one in hand. Its own limit for heads would also end connections that are merely idle. So the socket is
//! wrapped, and the wrapper and the requests note down what happens.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::answer::Listing;

/// How long things may take on a connection; zero is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimits {
    /// For the head of a request, from its first byte; on a new connection from the start.
    pub(super) head: Duration,
    /// Between requests.
    pub(super) idle: Duration,
    /// For the caller to take anything of what we send.
    pub(super) stall: Duration,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The head of the first request.
    New,
    /// The first byte of the next request.
    Idle,
    /// The rest of a head.
    Head,
    /// Ourselves, or the caller to take the answer.
    Busy,
}

/// A listing that shall be written to the connection.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) listing: Listing,
    /// Whether the caller understands chunks and trailers (HTTP/1.1).
    pub(super) chunked: bool,
    /// Whether the caller wants to go on with the connection.
    pub(super) keep_alive: bool,
}

#[derive(Debug)]
struct Notes {
    phase: Phase,
    since: Instant,
    /// Bytes read in this head.
    head_bytes: usize,
    /// Since when the caller takes nothing.
    blocked_since: Option<Instant>,
    head_too_large: bool,
    caller_closed: bool,
    takeover: Option<Takeover>,
    /// What waits to be written besides what hyper writes.
    outgoing: BytesMut,
    /// Who waits for room there.
    wants_room: Option<Waker>,
}

/// The notes about one connection, shared by its socket and its requests, which live in one task.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    notes: Arc<Mutex<Notes>>,
}

impl Activity {
    /// A connection that was just made.
    pub(super) fn new() -> Self {
        Self {
            notes: Arc::new(Mutex::new(Notes {
                phase: Phase::New,
                since: Instant::now(),
                head_bytes: 0,
                blocked_since: None,
                head_too_large: false,
                caller_closed: false,
                takeover: None,
                outgoing: BytesMut::new(),
                wants_room: None,
            })),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut notes = self.notes();
        notes.phase = phase;
        notes.since = Instant::now();
        notes.head_bytes = 0;
    }

    /// The time for the first request runs from now on.
    pub(super) fn begin(&self) {
        self.enter(Phase::New);
    }

    /// A request is in hand until the guard is dropped, which is when its answer was handed over.
    pub(super) fn busy(&self) -> Busy {
        self.enter(Phase::Busy);
        Busy(self.clone())
    }

    pub(super) fn phase(&self) -> Phase {
        self.notes().phase
    }

    /// When the connection has to be given up as things are.
    pub(super) fn deadline(&self, limits: &TimeLimits) -> Option<Instant> {
        let after = |since: Instant, limit: Duration| (!limit.is_zero()).then(|| since + limit);
        let notes = self.notes();
        let phase = match notes.phase {
            Phase::New | Phase::Head => after(notes.since, limits.head),
            Phase::Idle => after(notes.since, limits.idle),
            Phase::Busy => None,
        };
        let stall = notes.blocked_since.and_then(|since| after(since, limits.stall));
        [phase, stall].into_iter().flatten().min()
    }

    /// Since when nothing but the caller is waited for, with no byte of a request there.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let notes = self.notes();
        match notes.phase {
            Phase::Idle => Some(notes.since),
            Phase::New if notes.head_bytes == 0 => Some(notes.since),
            Phase::New | Phase::Head | Phase::Busy => None,
        }
    }

    /// Hands a listing to whoever drives the connection.
    pub(super) fn hand_over(&self, takeover: Takeover) {
        self.notes().takeover = Some(takeover);
    }

    /// The listing to be written, once everything before it has been sent.
    pub(super) fn take_over(&self) -> Option<Takeover> {
        let mut notes = self.notes();
        if notes.blocked_since.is_some() { None } else { notes.takeover.take() }
    }

    /// Takes bytes that shall be written, up to so many at a time.
    pub(super) fn put(&self, cx: &mut Context<'_>, bytes: &[u8], most: usize) -> Poll<usize> {
        let mut notes = self.notes();
        let taken = bytes.len().min(most.saturating_sub(notes.outgoing.len()));
        if taken == 0 && !bytes.is_empty() {
            notes.wants_room = Some(cx.waker().clone());
            return Poll::Pending;
        }
        notes.outgoing.extend_from_slice(&bytes[..taken]);
        Poll::Ready(taken)
    }

    /// Whether something waits to be written besides what hyper writes.
    pub(super) fn has_outgoing(&self) -> bool {
        !self.notes().outgoing.is_empty()
    }

    /// Whether the head of a request was longer than allowed.
    pub(super) fn head_too_large(&self) -> bool {
        self.notes().head_too_large
    }

    /// Whether part of a head has come.
    pub(super) fn has_part_of_head(&self) -> bool {
        self.notes().head_bytes > 0
    }

    /// Whether the caller closed its side, so that there is nothing to wait for when we close ours.
    pub(super) fn caller_closed(&self) -> bool {
        self.notes().caller_closed
    }
}

/// A request in hand.
#[derive(Debug)]
pub(super) struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The socket, taking notes.
#[derive(Debug)]
pub(super) struct Watched<Io> {
    io: Io,
    activity: Activity,
    head_bytes_max: usize,
    /// Read from the socket before, to be read again.
    unread: Bytes,
}

impl<Io> Watched<Io> {
    pub(super) fn new(io: Io, activity: Activity, head_bytes_max: usize) -> Self {
        Self { io, activity, head_bytes_max, unread: Bytes::new() }
    }

    /// Gives back what was read but belongs to the next request.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.unread.is_empty() || bytes.is_empty());
        if !bytes.is_empty() {
            self.unread = bytes;
        }
    }

    pub(super) fn get_ref(&self) -> &Io {
        &self.io
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let most = {
            let mut notes = this.activity.notes();
            match notes.phase {
                Phase::Busy => usize::MAX,
                Phase::Idle => this.head_bytes_max,
                Phase::New | Phase::Head if notes.head_bytes < this.head_bytes_max => {
                    this.head_bytes_max - notes.head_bytes
                }
                Phase::New | Phase::Head => {
                    notes.head_too_large = true;
                    return Poll::Ready(Err(io::Error::other("the request's head is too large")));
                }
            }
        };
        let room = buf.remaining().min(most);
        let read = if !this.unread.is_empty() {
            let length = this.unread.len().min(room);
            buf.put_slice(&this.unread[..length]);
            this.unread.advance(length);
            length
        } else if room == buf.remaining() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            buf.filled().len() - before
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
            read
        };
        let mut notes = this.activity.notes();
        match notes.phase {
            _ if read == 0 => notes.caller_closed = true,
            Phase::Idle => {
                notes.phase = Phase::Head;
                notes.since = Instant::now();
                notes.head_bytes = read;
            }
            Phase::New | Phase::Head => notes.head_bytes += read,
            Phase::Busy => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io> Watched<Io> {
    fn noting(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut notes = self.activity.notes();
        match &written {
            Poll::Pending => {
                notes.blocked_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => notes.blocked_since = None,
        }
        written
    }
}

impl<Io: AsyncWrite + Unpin> Watched<Io> {
    /// Writes what waits besides what hyper writes.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outgoing = {
            let mut notes = self.activity.notes();
            if notes.outgoing.is_empty() {
                return Poll::Ready(Ok(()));
            }
            // Nobody adds to it meanwhile: this is the task that does.
            std::mem::take(&mut notes.outgoing)
        };
        let written = loop {
            if outgoing.is_empty() {
                break Poll::Ready(Ok(()));
            }
            let written = Pin::new(&mut self.io).poll_write(cx, &outgoing);
            match self.noting(written) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(length)) => outgoing.advance(length),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        let mut notes = self.activity.notes();
        notes.outgoing = outgoing;
        if let Some(waker) = notes.wants_room.take() {
            waker.wake();
        }
        written
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.noting(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.noting(written)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: TimeLimits = TimeLimits {
        head: Duration::from_secs(5),
        idle: Duration::from_secs(120),
        stall: Duration::from_secs(60),
    };

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_deadline() {
        let (mut caller, server) = tokio::io::duplex(8);
        let activity = Activity::new();
        let mut io = Watched::new(server, activity.clone(), 100);
        let after = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
        assert_eq!((activity.phase(), activity.deadline(&LIMITS)), (Phase::New, after(5)));

        let busy = activity.busy();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!((activity.phase(), activity.deadline(&LIMITS)), (Phase::Busy, None));
        drop(busy);
        assert_eq!((activity.phase(), activity.deadline(&LIMITS)), (Phase::Idle, after(120)));

        tokio::time::advance(Duration::from_secs(60)).await;
        caller.write_all(b"GET").await.unwrap();
        assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 3);
        assert_eq!((activity.phase(), activity.deadline(&LIMITS)), (Phase::Head, after(5)));
        assert!(activity.has_part_of_head());

        let busy = activity.busy();
        io.write_all(&[0; 8]).await.unwrap();
        assert_eq!(activity.deadline(&LIMITS), None);
        assert!(futures::poll!(std::pin::pin!(io.write(&[0]))).is_pending());
        assert_eq!(activity.deadline(&LIMITS), after(60));
        caller.read_exact(&mut [0; 8]).await.unwrap();
        io.write_all(&[0]).await.unwrap();
        assert_eq!(activity.deadline(&LIMITS), None);
        drop(busy);

        let none = TimeLimits { head: Duration::ZERO, idle: Duration::ZERO, stall: Duration::ZERO };
        assert_eq!(activity.deadline(&none), None);
    }

    #[tokio::test]
    async fn a_head_may_have_so_many_bytes_and_no_more() {
        let (mut caller, server) = tokio::io::duplex(64);
        let activity = Activity::new();
        let mut io = Watched::new(server, activity.clone(), 10);
        caller.write_all(&[b'a'; 30]).await.unwrap();
        assert_eq!(io.read(&mut [0; 9]).await.unwrap(), 9);
        assert_eq!(io.read(&mut [0; 9]).await.unwrap(), 1);
        assert!(!activity.head_too_large());
        assert!(io.read(&mut [0; 9]).await.is_err());
        assert!(activity.head_too_large());
    }

    #[tokio::test]
    async fn what_was_unread_is_read_again_first() {
        let (mut caller, server) = tokio::io::duplex(64);
        let mut io = Watched::new(server, Activity::new(), 100);
        io.unread(Bytes::from_static(b"ab"));
        caller.write_all(b"cd").await.unwrap();
        let mut read = [0; 4];
        io.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcd");
    }
}
