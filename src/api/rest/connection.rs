//! One connection, from its first byte to its last.
//!
//! hyper reads the requests and writes the ordinary answers. For a listing the connection is taken from hyper after
//! the request was read, the listing is written to it, and hyper gets it back for the next request.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::activity::{Activity, Busy, Phase, Takeover, TimeLimits, Watched};
use super::answer::Answer;
use super::caller::Caller;
use super::drain::{LINGER, LINGER_BYTES, drain};
use super::handlers::Api;
use super::io::Io;
use super::lines::Flow;
use super::listing;
use super::outlet::Outlet;
use super::room::Place;

/// How long what is left of an upload is read where it was not read to its end: many send all of it before they look for an
/// answer.
const UPLOAD_LINGER: Duration = Duration::from_secs(5);
const UPLOAD_LINGER_BYTES: u64 = 256 << 20;

/// What the reference answers to a head that is too large.
const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
    Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n431 Request Header Fields Too Large";
const HEAD_TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n408 Request Timeout";

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) time: TimeLimits,
    /// Most bytes of a request's head.
    pub(super) head_bytes: usize,
}

type Socket = Watched<Io>;

/// How hyper's part of a connection ended.
enum End {
    /// The connection is done; the error is for the log.
    Done(hyper::Result<()>),
    /// A request wants a listing.
    Takeover(Takeover),
    /// Something took too long.
    Expired(Phase),
    /// An upload was answered, or could not be.
    Uploaded(io::Result<()>),
}

/// Serves one connection until it ends, or until the request in hand is answered after its place is to be left.
pub(super) async fn serve(io: Io, caller: Caller, api: Arc<Api>, limits: Limits, place: &Place) {
    let (activity, stop) = (place.activity.clone(), place.stop.clone());
    // A handshake has a time of its own.
    activity.begin();
    let mut socket = Watched::new(io, activity.clone(), limits.head_bytes);
    loop {
        let (end, after) = read_requests(socket, caller, &api, &activity, &limits, &stop).await;
        socket = after;
        let takeover = match end {
            End::Takeover(takeover) => takeover,
            End::Done(result) => {
                if let Err(error) = result {
                    debug!(%error, "a connection ended");
                }
                if activity.head_too_large() {
                    let _ = socket.write_all(HEAD_TOO_LARGE).await;
                }
                return close(socket, &activity, (LINGER, LINGER_BYTES)).await;
            }
            End::Uploaded(Ok(())) => {
                return close(socket, &activity, (UPLOAD_LINGER, UPLOAD_LINGER_BYTES)).await;
            }
            End::Uploaded(Err(error)) => {
                debug!(%error, "an answer to an upload broke off");
                socket.get_ref().break_off();
                return;
            }
            End::Expired(phase) => {
                debug!(?phase, "a connection was too slow");
                if phase != Phase::Busy && activity.has_part_of_head() {
                    let _ = socket.write_all(HEAD_TOO_SLOW).await;
                    return close(socket, &activity, (LINGER, LINGER_BYTES)).await;
                }
                return;
            }
        };
        let is_endless = takeover.listing.flow == Flow::Endless;
        if is_endless {
            socket.get_ref().keep_alive();
        }
        let keep_alive = takeover.keep_alive && !is_endless && !stop.is_cancelled();
        let busy = activity.busy();
        let written =
            listing::write(&mut socket, takeover, keep_alive, api.now(), limits.time.stall, &stop).await;
        drop(busy);
        match written {
            Ok(()) if keep_alive => {}
            Ok(()) => return close(socket, &activity, (LINGER, LINGER_BYTES)).await,
            Err(error) => {
                debug!(%error, "a listing broke off");
                socket.get_ref().break_off();
                return;
            }
        }
    }
}

/// Lets hyper read requests until there is something for us to do.
async fn read_requests(
    socket: Socket,
    caller: Caller,
    api: &Arc<Api>,
    activity: &Activity,
    limits: &Limits,
    stop: &CancellationToken,
) -> (End, Socket) {
    let service = service_fn(|request: Request<Incoming>| {
        Box::pin(respond(Arc::clone(api), caller, activity.clone(), request))
    });
    let mut connection = http1::Builder::new()
        // The socket gives no more than what is allowed, so these are never reached.
        .max_header_size(limits.head_bytes + 1)
        .max_buf_size(limits.head_bytes.max(BUFFER_BYTES) + 1)
        .title_case_headers(true)
        // Answers are small: copied behind their head they go out in one piece.
        .writev(false)
        .serve_connection(TokioIo::new(socket), service);
    let mut stopping = pin!(stop.cancelled());
    let mut stopped = false;
    let mut timer: Option<Pin<Box<tokio::time::Sleep>>> = None;
    let mut upload: Option<Uploading> = None;
    let end = poll_fn(|cx| {
        if !stopped && stopping.as_mut().poll(cx).is_ready() {
            stopped = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        loop {
            if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
                return Poll::Ready(End::Done(result));
            }
            match activity.take_over() {
                Some(takeover) if takeover.listing.flow == Flow::Upload => {
                    upload = Some(Uploading::new(takeover, activity, api.now(), limits.time.stall, stop));
                }
                Some(takeover) => return Poll::Ready(End::Takeover(takeover)),
                None => {}
            }
            let Some(upload) = &mut upload else { break };
            let waited = activity.has_outgoing();
            let ended = upload.poll(cx);
            match (activity.has_outgoing(), ended) {
                (false, Some(result)) => return Poll::Ready(End::Uploaded(result)),
                // What is new goes out when hyper flushes, which it does when it is polled; what was there has been
                // tried just now.
                (true, _) if !waited => {}
                _ => break,
            }
        }
        poll_deadline(&mut timer, activity, &limits.time, cx).map(End::Expired)
    })
    .await;
    let parts = connection.into_parts();
    let mut socket = parts.io.into_inner();
    socket.unread(parts.read_buf);
    (end, socket)
}

/// An answer that is written while the body of its request is read.
struct Uploading {
    written: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    ended: Option<io::Result<()>>,
}

impl Uploading {
    fn new(
        takeover: Takeover,
        activity: &Activity,
        now: crate::types::Timestamp,
        stall: Duration,
        stop: &CancellationToken,
    ) -> Self {
        let (mut outlet, stop) = (Outlet(activity.clone()), stop.clone());
        let written = async move { listing::write(&mut outlet, takeover, false, now, stall, &stop).await };
        Self { written: Box::pin(written), ended: None }
    }

    /// How it ended, once everything was handed over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<io::Result<()>> {
        if self.ended.is_none()
            && let Poll::Ready(result) = self.written.as_mut().poll(cx)
        {
            self.ended = Some(result);
        }
        match &self.ended {
            Some(Ok(())) => Some(Ok(())),
            Some(Err(error)) => Some(Err(error.kind().into())),
            None => None,
        }
    }
}

/// What hyper's buffers may grow to while much is sent; uploads come in pieces of this size at most.
const BUFFER_BYTES: usize = 128 * 1024;

/// Ready when the connection has to be given up. Deadlines move with every request, so the timer is only set again when
/// it fires, or when a deadline is nearer than it.
fn poll_deadline(
    timer: &mut Option<Pin<Box<tokio::time::Sleep>>>,
    activity: &Activity,
    limits: &TimeLimits,
    cx: &mut Context<'_>,
) -> Poll<Phase> {
    let Some(mut deadline) = activity.deadline(limits) else { return Poll::Pending };
    let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    if sleep.deadline() > deadline {
        sleep.as_mut().reset(deadline);
    }
    while sleep.as_mut().poll(cx).is_ready() {
        if deadline <= tokio::time::Instant::now() {
            return Poll::Ready(activity.phase());
        }
        sleep.as_mut().reset(deadline);
        match activity.deadline(limits) {
            Some(later) => deadline = later,
            None => return Poll::Pending,
        }
    }
    Poll::Pending
}

/// Answers one request, or hands a listing over and waits to be dropped.
async fn respond(
    api: Arc<Api>,
    caller: Caller,
    activity: Activity,
    request: Request<Incoming>,
) -> Result<Response<WholeBody>, Infallible> {
    let busy = activity.busy();
    let chunked = request.version() == Version::HTTP_11;
    let keep_alive = chunked && !wants_close(request.headers());
    match api.answer(request, &caller).await {
        Answer::Whole(response) | Answer::Bare(response) => {
            Ok(response.map(|data| WholeBody { data, _busy: busy }))
        }
        Answer::Listing(listing) => {
            activity.hand_over(Takeover { listing, chunked, keep_alive });
            let answer = pending().await;
            drop(busy);
            answer
        }
    }
}

fn wants_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")))
    })
}

/// Closes our side, and waits a little for the caller to close its own.
async fn close(mut socket: Socket, activity: &Activity, (linger, bytes): (Duration, u64)) {
    if socket.shutdown().await.is_err() || activity.caller_closed() {
        return;
    }
    // From now on nothing counts as a head.
    let _busy = activity.busy();
    drain(socket, linger, bytes).await;
}

/// A body that is known whole; the request is in hand until it was taken.
struct WholeBody {
    data: Bytes,
    _busy: Busy,
}

impl Body for WholeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = std::mem::take(&mut self.get_mut().data);
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}
