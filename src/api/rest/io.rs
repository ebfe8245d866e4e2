//! What carries a connection's bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::tls::Encrypted;
use crate::transport::PeerStream;

/// A connection of any kind. One type, so that everything that serves connections exists once.
pub(super) enum Io {
    Tcp(TcpStream),
    Tls(Box<Encrypted>),
    #[cfg(unix)]
    Unix(UnixStream),
    Peer(PeerStream),
}

impl Io {
    /// Makes the other side notice that what it got is not whole, once this is dropped. Over TCP that is a reset, also
    /// below TLS, whose farewell is not sent then; a stream of a peer is always reset when it is dropped. A Unix socket
    /// can only be closed: there an answer without a length, as HTTP/1.0 has it, looks whole.
    pub(super) fn break_off(&self) {
        if let Some(socket) = self.tcp() {
            // If that fails the connection is broken already.
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Has the system find out when the other side is gone without a word, where that is possible: the other side of a
    /// Unix socket is this machine, and the connection of a peer is kept alive by libp2p.
    pub(super) fn keep_alive(&self) {
        /// Silence after which the system asks.
        const ASK_AFTER: Duration = Duration::from_secs(60);
        if let Some(socket) = self.tcp() {
            // Without it only the next line finds out.
            let _ = socket2::SockRef::from(socket)
                .set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(ASK_AFTER));
        }
    }

    /// The TCP connection below it.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0.get_ref()),
            #[cfg(unix)]
            Self::Unix(_) => None,
            Self::Peer(_) => None,
        }
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Tls(_) => "Tls",
            #[cfg(unix)]
            Self::Unix(_) => "Unix",
            Self::Peer(_) => "Peer",
        })
    }
}

macro_rules! each {
    ($io:expr, $stream:ident => $do:expr) => {
        match $io.get_mut() {
            Io::Tcp($stream) => $do,
            Io::Tls($stream) => $do,
            #[cfg(unix)]
            Io::Unix($stream) => $do,
            Io::Peer($stream) => $do,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Peer(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }
}
