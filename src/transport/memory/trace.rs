//! A fingerprint of everything that travelled, by which two runs are compared.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Odd, with bits everywhere: the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Kinds of things that are noted.
pub(super) struct Noted;

impl Noted {
    pub(super) const JOIN: u64 = 1;
    pub(super) const LEAVE: u64 = 2;
    pub(super) const CONNECT: u64 = 3;
    pub(super) const CUT: u64 = 4;
    pub(super) const STREAM: u64 = 5;
    pub(super) const CHUNK: u64 = 6;
    pub(super) const GOSSIP: u64 = 7;
}

#[derive(Debug, Default)]
pub(super) struct Trace(Mutex<Sum>);

#[derive(Debug, Default)]
struct Sum {
    hash: u64,
    /// When the first thing happened; times count from there.
    start: Option<Instant>,
}

impl Trace {
    /// Notes that something happened now: which kind of thing, numbers that say more, and bytes.
    pub(super) fn note(&self, kind: u64, numbers: &[u64], bytes: &[u8]) {
        let now = Instant::now();
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = now.duration_since(*sum.start.get_or_insert(now)).as_nanos();
        sum.add(kind);
        // Simulations do not run for five hundred years.
        sum.add(time as u64);
        for number in numbers {
            sum.add(*number);
        }
        sum.add(bytes.len() as u64);
        for chunk in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            word[..chunk.len()].copy_from_slice(chunk);
            sum.add(u64::from_le_bytes(word));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hash
    }
}

impl Sum {
    fn add(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    }
}
