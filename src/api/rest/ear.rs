//! Listening while a listing without an end is sent.

use std::io;

use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

use super::lines::Lines;

/// Bytes that the other side of an endless listing may send into the void before we stop to listen.
const HEARD_BYTES_MAX: usize = 64 * 1024;

/// Notices what ends a listing that does not end by itself: the caller that goes away, and the end of the server.
pub(super) struct Ear<'a> {
    stop: &'a CancellationToken,
    heard: usize,
}

impl<'a> Ear<'a> {
    pub(super) fn new(stop: &'a CancellationToken) -> Self {
        Self { stop, heard: 0 }
    }
}

/// The next lines; none at the end, or when the server stops.
pub(super) async fn next<Io: AsyncRead + Unpin>(
    lines: &mut Lines,
    io: &mut Io,
    ear: &mut Option<Ear<'_>>,
) -> io::Result<Option<crate::Result<Vec<u8>>>> {
    let Some(ear) = ear else { return Ok(lines.next().await) };
    let mut unwanted = [0; 512];
    loop {
        tokio::select! {
            biased;
            () = ear.stop.cancelled() => return Ok(None),
            page = lines.next() => return Ok(page),
            read = io.read(&mut unwanted), if ear.heard < HEARD_BYTES_MAX => match read? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => ear.heard += length,
            },
        }
    }
}
