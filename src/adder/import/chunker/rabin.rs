//! Cutting where Rabin's fingerprint of the last bytes ends in zeroes.
//!
//! The fingerprint is that of the bytes of a window as a polynomial over GF(2), modulo one polynomial that never changes.
//! It starts anew with each chunk.

use std::sync::LazyLock;

/// Bytes that the fingerprint is of.
const WINDOW_BYTES: usize = 16;
/// The polynomial of everybody in IPFS. It is irreducible.
const POLYNOMIAL: u64 = 17_437_180_132_763_653;
const DEGREE: u32 = POLYNOMIAL.ilog2();
/// How far the byte is that does not fit any more.
const TOP_BYTE: u32 = DEGREE - 8;

/// For each byte, what takes it out of the fingerprint when it leaves the window, and what reduces the fingerprint
/// after the byte has grown over its top.
struct Tables {
    out: [u64; 256],
    reduce: [u64; 256],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables { out: [0; 256], reduce: [0; 256] };
    for byte in 0..=255_u8 {
        let mut fingerprint = remainder(u64::from(byte));
        for _ in 1..WINDOW_BYTES {
            fingerprint = remainder(fingerprint << 8);
        }
        tables.out[usize::from(byte)] = fingerprint;
        let over = u64::from(byte) << DEGREE;
        tables.reduce[usize::from(byte)] = remainder(over) | over;
    }
    tables
});

/// What is left of a polynomial modulo ours.
fn remainder(mut polynomial: u64) -> u64 {
    while let Some(top) = polynomial.checked_ilog2().filter(|top| *top >= DEGREE) {
        polynomial ^= POLYNOMIAL << (top - DEGREE);
    }
    polynomial
}

/// The state within a chunk.
pub(super) struct Rabin {
    tables: &'static Tables,
    min: u64,
    max: u64,
    mask: u64,
    /// Bytes that are not even looked at.
    skip: u64,
    /// Bytes of this chunk.
    count: u64,
    fingerprint: u64,
    window: [u8; WINDOW_BYTES],
    at: usize,
}

impl std::fmt::Debug for Rabin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rabin({} to {}, mask {:#x}, at {})", self.min, self.max, self.mask, self.count)
    }
}

impl Rabin {
    /// Chunks of `min` to `max` bytes. The average is taken down to a power of two.
    pub(super) fn new(min: u64, average: u64, max: u64) -> Self {
        let mut rabin = Self {
            tables: &TABLES,
            min,
            max,
            mask: average.checked_ilog2().map_or(u64::MAX, |power| (1 << power) - 1),
            skip: 0,
            count: 0,
            fingerprint: 0,
            window: [0; WINDOW_BYTES],
            at: 0,
        };
        rabin.restart();
        rabin
    }

    fn restart(&mut self) {
        self.window = [0; WINDOW_BYTES];
        self.fingerprint = 0;
        self.at = 0;
        self.slide(1);
        self.count = 0;
        // Wraps around below the window, and then nothing is ever cut: the reference's arithmetic, which CIDs depend on.
        self.skip = self.min.wrapping_sub(WINDOW_BYTES as u64);
    }

    #[inline]
    fn slide(&mut self, byte: u8) {
        let leaving = std::mem::replace(&mut self.window[self.at], byte);
        self.at = (self.at + 1) % WINDOW_BYTES;
        self.fingerprint ^= self.tables.out[usize::from(leaving)];
        let top = (self.fingerprint >> TOP_BYTE) as u8;
        self.fingerprint = (self.fingerprint << 8 | u64::from(byte)) ^ self.tables.reduce[usize::from(top)];
    }

    /// How many of these bytes end the chunk.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        self.count += skipped as u64;
        for (index, byte) in bytes.iter().enumerate().skip(skipped) {
            self.slide(*byte);
            self.count += 1;
            if self.count >= self.min && (self.fingerprint & self.mask == 0 || self.count >= self.max) {
                self.restart();
                return Some(index + 1);
            }
        }
        None
    }
}
