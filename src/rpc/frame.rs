//! Objects on a stream, one after the other without lengths.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::msgpack::Scan;

/// Most that is read ahead of what arrived: a length that is only claimed takes no memory.
const READ_BYTES: usize = 64 * 1024;

/// Cuts a stream into msgpack objects.
#[derive(Debug)]
pub(super) struct ObjectReader<R> {
    stream: R,
    buffer: BytesMut,
    scan: Scan,
}

impl<R: AsyncRead + Unpin> ObjectReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::new(), scan: Scan::default() }
    }

    /// The bytes of the next object; none at a clean end. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidData` for what is no msgpack, is longer than `bytes_max` or says it will be, or nests too deep;
    /// `UnexpectedEof` for a part of an object; what the stream says.
    pub(super) async fn next(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(object) = self.next_arrived(bytes_max)? {
                return Ok(Some(object));
            }
            if self.read().await? == 0 {
                let clean = self.buffer.is_empty();
                return if clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next object, if all of it was read from the stream with the one before.
    ///
    /// # Errors
    /// `InvalidData`, as [`Self::next`].
    pub(super) fn next_arrived(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let Some(length) = self.scan.advance(&self.buffer, bytes_max).map_err(invalid)? else {
            return Ok(None);
        };
        self.scan = Scan::default();
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Reads and forgets until the stream ends or breaks, at most `bytes_max`.
    pub(super) async fn drain(&mut self, bytes_max: usize) -> io::Result<()> {
        let mut drained = 0;
        loop {
            self.buffer.clear();
            match self.read().await? {
                0 => return Ok(()),
                length => drained += length,
            }
            if drained > bytes_max {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the end of a call"));
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        // Small at first: most streams carry a few bytes.
        self.buffer.reserve(if self.buffer.is_empty() { 1024 } else { READ_BYTES });
        (&mut self.stream).take(READ_BYTES as u64).read_buf(&mut self.buffer).await
    }
}
