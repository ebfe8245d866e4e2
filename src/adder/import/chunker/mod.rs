//! Where files are cut.
//!
//! A scanner is a pure state machine over arriving bytes: it says where a chunk ends, whatever the pieces in which the
//! bytes arrive. [`Cutter`] keeps what has no end yet. A chunk that lies in one piece is a view of it, not a copy.

mod buzhash;
mod options;
mod pool;
mod rabin;

use std::sync::Arc;

use bytes::Bytes;

use self::buzhash::Buzhash;
pub(super) use self::options::Chunker;
use self::pool::Buffer;
pub(super) use self::pool::Pool;
use self::rabin::Rabin;
use super::object_too_large;
use crate::error::Result;

/// Largest block of the reference, in bytes: what bitswap carries.
pub(super) const BLOCK_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Kept free in a block for what is around a chunk, in bytes.
const AROUND_CHUNK_BYTES: usize = 256;
/// Largest chunk that may be asked for, in bytes. Kubo 0.39 stops at 1 MiB, the reference goes on to here.
pub(super) const CHUNK_BYTES_MAX: usize = BLOCK_BYTES_MAX - AROUND_CHUNK_BYTES;
/// A buffer for a chunk in pieces is made this many times larger than what is there, but never larger than the chunk.
const GROWTH: usize = 8;

/// Cuts one file.
#[derive(Debug)]
pub(super) struct Cutter {
    scanner: Scanner,
    held: Held,
    chunk_bytes: usize,
    pool: Arc<Pool>,
}

#[derive(Debug)]
enum Scanner {
    Size { size: usize, left: usize },
    Rabin(Box<Rabin>),
    Buzhash(Box<Buzhash>),
}

/// The beginning of a chunk.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Piece(Bytes),
    Pieces(Buffer),
}

impl Cutter {
    /// Ready for the first byte of a file. All that share a pool have the same chunker.
    pub(super) fn new(chunker: Chunker, pool: &Arc<Pool>) -> Self {
        let (scanner, chunk_bytes) = match chunker {
            Chunker::Size(size) => (Scanner::Size { size, left: size }, size),
            Chunker::Rabin { min, average, max } => (
                Scanner::Rabin(Box::new(Rabin::new(min, average, max))),
                usize::try_from(max).unwrap_or(usize::MAX),
            ),
            Chunker::Buzhash => (Scanner::Buzhash(Box::default()), buzhash::CHUNK_BYTES_MAX),
        };
        Self {
            scanner,
            held: Held::Nothing,
            chunk_bytes: chunk_bytes.min(BLOCK_BYTES_MAX),
            pool: Arc::clone(pool),
        }
    }

    /// Whether every byte is looked at, which is better done off the threads that serve others.
    pub(super) fn is_slow(&self) -> bool {
        !matches!(self.scanner, Scanner::Size { .. })
    }

    /// Takes more of the file, and adds the chunks that end in it to `chunks`.
    pub(super) fn feed(&mut self, mut piece: Bytes, chunks: &mut Vec<Bytes>) -> Result<()> {
        while !piece.is_empty() {
            let Some(end) = self.scanner.end(&piece) else {
                return self.hold(piece);
            };
            let last = piece.split_to(end);
            self.hold(last)?;
            chunks.extend(self.finish());
        }
        Ok(())
    }

    /// The last chunk, when the file does not end with the one before.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        match std::mem::take(&mut self.held) {
            Held::Nothing => None,
            Held::Piece(piece) => Some(piece),
            Held::Pieces(pieces) => Some(pieces.freeze()),
        }
    }

    fn hold(&mut self, piece: Bytes) -> Result<()> {
        self.held = match std::mem::take(&mut self.held) {
            Held::Nothing => Held::Piece(piece),
            Held::Piece(first) => {
                let mut pieces = self.buffer(first.len() + piece.len());
                pieces.bytes.extend_from_slice(&first);
                pieces.bytes.extend_from_slice(&piece);
                Held::Pieces(pieces)
            }
            Held::Pieces(mut pieces) => {
                let there = pieces.bytes.len() + piece.len();
                if pieces.bytes.capacity() < there {
                    let mut larger = self.buffer(there);
                    larger.bytes.extend_from_slice(&pieces.bytes);
                    pieces = larger;
                }
                pieces.bytes.extend_from_slice(&piece);
                Held::Pieces(pieces)
            }
        };
        // Small averages make Rabin's smallest chunk wrap around in the reference: such a file is one chunk.
        if self.held.len() > BLOCK_BYTES_MAX { Err(object_too_large()) } else { Ok(()) }
    }
}

impl Cutter {
    /// With room for a chunk that has so many bytes so far.
    fn buffer(&self, there: usize) -> Buffer {
        let wanted = self.chunk_bytes.min(there * GROWTH).max(there);
        if wanted == self.chunk_bytes { self.pool.take(wanted) } else { Buffer::new(wanted) }
    }
}

impl Held {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Piece(piece) => piece.len(),
            Self::Pieces(pieces) => pieces.bytes.len(),
        }
    }
}

impl Scanner {
    /// How many of these bytes end the current chunk; None when all of them belong to it and it goes on.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Size { size, left } if bytes.len() >= *left => Some(std::mem::replace(left, *size)),
            Self::Size { left, .. } => {
                *left -= bytes.len();
                None
            }
            Self::Rabin(rabin) => rabin.end(bytes),
            Self::Buzhash(buzhash) => buzhash.end(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
