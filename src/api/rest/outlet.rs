//! A way to write to a connection that hyper holds, because it reads a body from it.
//!
//! ```text
//! caller -> socket -> hyper -> body of the request
//! caller <- socket <- outlet <- lines
//! ```
//!
//! What is written waits in the notes about the connection; the [socket](super::activity::Watched) takes it from there when
//! hyper flushes, which hyper does each time it is polled and after everything of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;

/// Most bytes that wait for the caller to take them. Some callers read nothing before they have sent everything: with this
/// many, lines of some ten thousand files have room beside what the system keeps.
pub(super) const BYTES_MAX: usize = 4 << 20;

/// Takes what is written; gives nothing to read.
#[derive(Debug)]
pub(super) struct Outlet(pub(super) Activity);

impl AsyncWrite for Outlet {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.put(cx, bytes, BYTES_MAX).map(Ok)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Outlet {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}
